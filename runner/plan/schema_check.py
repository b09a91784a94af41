"""Check a plan's nodes against `schemas/plan-v1.schema.json`, the file that editors use.

The file is interpreted: each part of the schema becomes a function that checks one node. The jsonschema library takes
at least a quarter of a millisecond for each step (several seconds for a large plan) and 100 ms to import, and it
reports violations as dumps of the schema; tests compare the results of both. The subset of draft-07 that the plan's
schema uses is supported. An unknown keyword is an error when the schema is compiled, so that no part of the schema is
ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

from runner.plan import schema_messages
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Mapping, Node, Scalar, Sequence, UnusableNodes, is_long_integer

JsonSchema: TypeAlias = dict[str, Any]

_NOTES: Final = frozenset({"$schema", "$id", "title", "description", "definitions"})
_KEYWORDS: Final = {
    "string": frozenset({"pattern", "minLength", "maxLength"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
    "array": frozenset({"items", "minItems", "uniqueItems"}),
    "object": frozenset(
        {
            "properties",
            "patternProperties",
            "additionalProperties",
            "propertyNames",
            "required",
            "minProperties",
            "oneOf",
        }
    ),
}
_KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class Walk:
    """The state of one pass over a document: the report, the unusable nodes, and the current step."""

    __slots__ = ("report", "step", "unusable")

    def __init__(self, report: Report) -> None:
        self.report = report
        self.unusable = UnusableNodes()
        self.step: str | None = None

    def add(self, node: Node, code: str, wording: schema_messages.Wording, *, bad: bool = True) -> None:
        """Report a problem; with `bad` the node's value must not be used."""
        self.report.add(node, code, wording.message, hint=wording.hint, step=self.step)
        if bad:
            self.unusable.add(node)


#: Checks one node; the text is its key (or name) in the document.
Check: TypeAlias = Callable[[Node, str, Walk], None]


def compile_check(root: JsonSchema, part: JsonSchema) -> Check:
    """Return the check for `part` of the schema `root`; ValueError if it uses an unknown keyword."""
    return _Compiler(root).compile(part, item=False)


def kind_of(node: Node) -> str:
    """Return the JSON type of a node; as in draft-07, a whole number written as `2.0` is an integer."""
    if isinstance(node, Scalar):
        if type(node.value) is float and node.value.is_integer():
            return "integer"
        return _KINDS[type(node.value)]
    return "object" if isinstance(node, Mapping) else "array"


def _is_huge(node: Scalar) -> bool:
    """Return whether a plain scalar is a whole number with so many digits that it is read as text."""
    return not node.style and isinstance(node.value, str) and is_long_integer(node.text)


class _Compiler:
    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._made: dict[tuple[int, bool], Check] = {}

    def compile(self, part: JsonSchema, *, item: bool) -> Check:
        part, step = self._resolve(part)
        made = self._made.get((id(part), item))
        if made is None:
            self._made[id(part), item] = self._of_ancestor(id(part), item=item)
            made = self._made[id(part), item] = self._compile(part, item=item)
        return _for_step(made) if step else made

    def _of_ancestor(self, part: int, *, item: bool) -> Check:
        """Return the check for a part that contains itself, as a step contains steps: it is looked up when it runs."""

        def check_ancestor(node: Node, label: str, walk: Walk) -> None:
            self._made[part, item](node, label, walk)

        return check_ancestor

    def _resolve(self, part: JsonSchema) -> tuple[JsonSchema, bool]:
        step = False
        while "$ref" in part:
            _known(part, {"$ref"})
            pointer = part["$ref"]
            step = step or pointer == "#/definitions/step"
            part = self._root
            for name in pointer.removeprefix("#/").split("/"):
                part = part[name]
        return part, step

    def _compile(self, part: JsonSchema, *, item: bool) -> Check:
        about = schema_messages.About(title=part.get("title"), item=item)
        if "anyOf" in part:
            _known(part, {"anyOf"})
            return self._any_of(part["anyOf"], about)
        if "enum" in part or "const" in part:
            _known(part, {"enum", "const"})
            return _one_of(part["enum"] if "enum" in part else [part["const"]], about)
        if "type" not in part:
            _known(part, set())
            return _anything
        types = part["type"] if isinstance(part["type"], list) else [part["type"]]
        _known(part, {"type"}.union(*(_KEYWORDS[name] for name in types)))
        if types == ["object"]:
            return self._object(part, about)
        if types == ["array"]:
            return self._array(part, about)
        return _text(part, about) if types == ["string"] else _scalar(part, types, about)

    def _any_of(self, parts: list[JsonSchema], about: schema_messages.About) -> Check:
        """Return a check that chooses the part by the node's type; the parts' types must differ."""
        by_kind: dict[str, Check] = {}
        titles = []
        for part in parts:
            resolved, _ = self._resolve(part)
            types = resolved["type"] if isinstance(resolved["type"], list) else [resolved["type"]]
            title = resolved.get("title") or schema_messages.type_words(types)
            titles.append(title.partition(":")[0])  # without the details of a form
            check = self.compile(part, item=about.item)
            for kind in [*types, *(["integer"] if "number" in types else [])]:
                if kind in by_kind:
                    raise ValueError(f"two parts of anyOf are of type {kind}")
                by_kind[kind] = check
        expected = " or ".join(titles)

        def check_any(node: Node, label: str, walk: Walk) -> None:
            check = by_kind.get(kind_of(node))
            if check is None and "integer" in by_kind and isinstance(node, Scalar) and _is_huge(node):
                walk.add(node, "JP105", schema_messages.huge(about, label, node))
            elif check is None:
                walk.add(node, "JP103", schema_messages.wrong_type(about, label, node, expected, by_kind.keys()))
            else:
                check(node, label, walk)

        return check_any

    def _array(self, part: JsonSchema, about: schema_messages.About) -> Check:
        check_item = self.compile(part["items"], item=True)
        at_least = part.get("minItems", 0)
        unique = part.get("uniqueItems", False)

        def check_array(node: Node, label: str, walk: Walk) -> None:
            if not isinstance(node, Sequence):
                walk.add(node, "JP103", schema_messages.wrong_type(about, label, node, "a list", ("array",)))
                return
            for item in node.items:
                check_item(item, label, walk)
            if len(node.items) < at_least:
                walk.add(node, "JP107", schema_messages.empty(about, label), bad=False)
            if unique and len(node.items) > 1:
                _check_unique(node, label, walk)

        return check_array

    def _object(self, part: JsonSchema, about: schema_messages.About) -> Check:
        properties = {key: self.compile(value, item=False) for key, value in part.get("properties", {}).items()}
        ignored = _prefix(part.get("patternProperties", {}))
        additional = part.get("additionalProperties", False)
        check_other = self.compile(additional, item=False) if additional else None
        check_name = self.compile(part["propertyNames"], item=False) if "propertyNames" in part else None
        check_missing = _missing(part, about)
        at_least = part.get("minProperties", 0)

        def unknown_key(node: Mapping, key: str, label: str, walk: Walk) -> None:
            wording = schema_messages.unknown_key(about, label, key, properties, walk.report.guesses)
            walk.add(node.keys[key], "JP101", wording)
            if wording.meant is not None:
                walk.report.meant.setdefault(id(node), set()).add(wording.meant)
                walk.report.meant_in.setdefault(label, set()).add(wording.meant)

        def check_object(node: Node, label: str, walk: Walk) -> None:
            if not isinstance(node, Mapping):
                walk.add(node, "JP103", schema_messages.wrong_type(about, label, node, "a mapping", ("object",)))
                return
            for key, value in node.values.items():
                check = properties.get(key, check_other)
                if check is not None:
                    check(value, key, walk)
                elif not ignored or not key.startswith(ignored):
                    unknown_key(node, key, label, walk)
                if check_name is not None:
                    check_name(node.keys[key], key, walk)
            if len(node.values) < at_least:
                walk.add(node, "JP107", schema_messages.empty(about, label), bad=False)
            check_missing(node, label, walk)

        return check_object


def _missing(part: JsonSchema, about: schema_messages.About) -> Callable[[Mapping, str, Walk], None]:
    """Return a check of required keys. A key that an unknown one probably means is not missing besides."""
    required = part.get("required", ())
    either = [choice["required"][0] for choice in part.get("oneOf", ())]

    def check_missing(node: Mapping, label: str, walk: Walk) -> None:
        meant = walk.report.meant.get(id(node), set())
        for key in required:
            if key not in node.values and key not in meant:
                walk.add(node, "JP102", schema_messages.missing(about, label, key), bad=False)
        if either and sum(key in node.values or key in meant for key in either) != 1:
            walk.add(node, "JP109", schema_messages.not_one(about, label, either, node), bad=False)

    return check_missing


def _anything(node: Node, label: str, walk: Walk) -> None:
    """Check nothing."""


def _for_step(check: Check) -> Check:
    """Return the same check that also sets the step of the problems that it finds."""

    def check_step(node: Node, label: str, walk: Walk) -> None:
        group = walk.step
        step = node.values.get("id") if isinstance(node, Mapping) else None
        own = step.text if isinstance(step, Scalar) else None
        walk.step = own if group is None else f"{group}.{own}" if own else group
        check(node, label, walk)
        walk.step = group

    return check_step


def _one_of(allowed: list[Any], about: schema_messages.About) -> Check:
    def check_enum(node: Node, label: str, walk: Walk) -> None:
        if not (isinstance(node, Scalar) and type(node.value) is not bool and node.value in allowed):
            walk.add(node, "JP104", schema_messages.not_in(about, label, node, allowed, walk.report.guesses))

    return check_enum


def _text(part: JsonSchema, about: schema_messages.About) -> Check:
    # `$` would also match before a line break at the end; JSON Schema's (ECMAScript's) does not.
    search = re.compile(re.sub(r"\$$", r"\\Z", part["pattern"])).search if "pattern" in part else None
    at_least, at_most = part.get("minLength", 0), part.get("maxLength")

    def check_text(node: Node, label: str, walk: Walk) -> None:
        if not isinstance(node, Scalar) or type(node.value) is not str:
            walk.add(node, "JP103", schema_messages.wrong_type(about, label, node, about.title or "text", ("string",)))
            return
        too_long = at_most is not None and len(node.value) > at_most
        if not too_long and len(node.value) >= at_least and (search is None or search(node.value)):
            return
        bound = schema_messages.exceeded(about, node.value)
        if bound is not None:
            walk.add(node, "JP105", schema_messages.out_of_range(about, label, node, bound))
        elif at_most is not None and too_long:
            walk.add(node, "JP107", schema_messages.too_long(about, label, at_most))
        elif len(node.value) < at_least:
            walk.add(node, "JP107", schema_messages.empty(about, label))
        else:
            walk.add(node, "JP106", schema_messages.wrong_form(about, label, node))

    return check_text


def _scalar(part: JsonSchema, types: list[str], about: schema_messages.About) -> Check:
    kinds = frozenset(types) | ({"integer"} if "number" in types else set())
    low, high = part.get("minimum"), part.get("maximum")
    expected = part.get("title") or schema_messages.type_words(types)

    def check_scalar(node: Node, label: str, walk: Walk) -> None:
        if isinstance(node, Scalar) and "integer" in kinds and _is_huge(node):
            walk.add(node, "JP105", schema_messages.huge(about, label, node))
        elif not isinstance(node, Scalar) or kind_of(node) not in kinds:
            walk.add(node, "JP103", schema_messages.wrong_type(about, label, node, expected, kinds))
        elif isinstance(node.value, int | float) and not isinstance(node.value, bool):
            if low is not None and node.value < low:
                walk.add(node, "JP105", schema_messages.out_of_range(about, label, node, f"at least {low}"))
            elif high is not None and node.value > high:
                walk.add(node, "JP105", schema_messages.out_of_range(about, label, node, f"at most {high}"))

    return check_scalar


def _check_unique(node: Sequence, label: str, walk: Walk) -> None:
    seen = set()
    for item in node.items:
        key = _plain(item)
        if key in seen:
            walk.add(item, "JP108", schema_messages.twice(label, item), bad=False)
        seen.add(key)


def _plain(node: Node) -> object:
    """Return a hashable value that is equal for equal nodes; true is not 1."""
    if isinstance(node, Scalar):
        return (isinstance(node.value, bool), node.value)
    if isinstance(node, Sequence):
        return tuple(_plain(item) for item in node.items)
    return frozenset((key, _plain(value)) for key, value in node.values.items())


def _prefix(patterns: JsonSchema) -> str:
    """Return the prefix of the keys that are ignored; the schema has no other patternProperties."""
    prefixes = [pattern.removeprefix("^") for pattern in patterns]
    if len(prefixes) > 1 or any(re.escape(prefix) != prefix.replace("-", r"\-") for prefix in prefixes):
        raise ValueError(f"patternProperties can only be one plain prefix: {sorted(patterns)}")
    return prefixes[0] if prefixes else ""


def _known(part: JsonSchema, keywords: set[str]) -> None:
    if unknown := part.keys() - keywords - _NOTES:
        raise ValueError(f"the schema uses keywords that are not known here: {sorted(unknown)}")


#: The file whose schema is meant unless another one is named.
PLAN: Final = "plan-v1"


def schema_text(name: str = PLAN) -> str:
    """Return the JSON Schema of plans, as `jobplan schema` prints it, or that of another file that users write."""
    file = f"{name}.schema.json"
    packaged = resources.files("runner") / "schemas" / file
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    # A wheel has the schemas inside the package; a checkout has them at the top, where users and editors find them.
    return (Path(__file__).resolve().parents[2] / "schemas" / file).read_text(encoding="utf-8")


@lru_cache(maxsize=2)
def schema(name: str = PLAN) -> dict[str, Any]:
    """Return a JSON Schema, parsed. Treat it as read-only."""
    parsed: dict[str, Any] = json.loads(schema_text(name))
    return parsed


@lru_cache(maxsize=4)
def _check(name: str, definition: str | None) -> Check:
    root = schema(name)
    return compile_check(root, root if definition is None else root["definitions"][definition])


def check_shape(root: Node, report: Report, *, definition: str | None = None, name: str = PLAN) -> UnusableNodes:
    """Report what the schema forbids, and return the nodes with values that must not be used.

    `definition` names the part of the schema that the file must follow; None means the whole schema. `name` is the
    schema's.
    """
    walk = Walk(report)
    whole = "the plan" if name == PLAN and definition is None else "the file"
    _check(name, definition)(root, whole, walk)
    return walk.unusable
