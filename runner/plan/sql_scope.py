"""The names that a SQL text of the plan may use, and the keys in which a parameter would be plain text.

Names are parameters, `run.…` names and for_each items, each with the forms that it has. The few other keys that take
parameters are listed; every other key is checked, so that a new key cannot be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from types import MappingProxyType
from typing import Final

from runner.errors import Cause
from runner.plan.model import ForEach, Param, ParamType, Repeat, Sql, Value
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Fields, Node, Scalar, Sequence
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.sql.placeholders import Form, Reference, TemplateError, in_brackets, references
from runner.sql.session_settings import SettingPlace, named_in
from runner.structs import Struct, field, replace

#: Names that are built in everywhere, and in finally steps only.
RUN_NAMES = ("run.id", "run.name")
RUN_STATUS = "run.status"
#: How many wrong references of one text are reported: the position of each is searched from the text's start.
MAX_WRONG: Final = 100
#: The number of references for which the text is scanned again to detect array slices.
_MAX_SLICES: Final = 5
_SLICE_HINT: Final = "if an array slice is meant, write a space after the colon"

_BARE_TYPES = frozenset({ParamType.INTEGER, ParamType.NUMBER, ParamType.BOOLEAN})
_IDENTIFIER_TYPES = frozenset({ParamType.STRING, ParamType.IDENTIFIER, ParamType.RELATION})


class Name(Struct, frozen=True, kw_only=True):
    """What is known about a name: whether it may be bare (a number or boolean), and whether it may be an identifier.

    A `relation` is one with its schema, and cannot stand where one name does. `several` are the items of a chunk.
    """

    what: str
    bare: bool = False
    identifier: bool = True
    relation: bool = False
    several: bool = False


_NO_NAMES: Mapping[str, Name] = MappingProxyType({})


class Scope(Struct, frozen=True, kw_only=True):
    """The known names; those of a step's items are kept separately.

    `open_prefix` allows any name that begins with it: the columns of a query's rows, or of items that cannot be read.
    """

    names: Mapping[str, Name]
    items: Mapping[str, Name] = field(default_factory=lambda: _NO_NAMES)
    open_prefix: str | None = None

    def find(self, name: str) -> Name | None:
        """Return what is known about a name, None if it is unknown."""
        found = self.items.get(name) or self.names.get(name)
        if found is None and self.open_prefix is not None and name.startswith(self.open_prefix):
            return _UNKNOWN_COLUMN
        return found

    def is_item(self, name: str) -> bool:
        """Return whether the name is that of an item or of one of its columns."""
        return name in self.items or (self.open_prefix is not None and name.startswith(self.open_prefix))

    @property
    def all_names(self) -> frozenset[str]:
        """All known names; columns of a query's rows are not known."""
        return frozenset({*self.names, *self.items})

    def with_items(self, for_each: ForEach | None) -> Scope:
        """Return the scope within a step's instances."""
        if for_each is None:
            return self
        unread = for_each.sql is None and not for_each.items  # the items are reported, and so are not their names
        prefix = f"{for_each.as_}." if for_each.sql or unread else None
        items = _item_names(for_each)
        if for_each.chunk is not None:
            items = {name: replace(known, several=True) for name, known in items.items()}
        return Scope(names=self.names, items=items, open_prefix=prefix)

    def with_carry(self, repeat: Repeat | None) -> Scope:
        """Return the scope within the iterations of a step."""
        if repeat is None or not repeat.carry:
            return self
        carried = {name: _typed_name(value.type, "a carried value of type ") for name, value in repeat.carry.items()}
        return replace(self, names={**self.names, **carried})


_RUN_NAME = Name(what="a text")
_RELATION = Name(what="a relation", relation=True)
_UNREAD = Name(what="an item that cannot be read", bare=True)
_UNKNOWN_COLUMN = Name(what="a column of a query, whose type is not known yet")


def plan_scope(params: Mapping[str, Param], *, status: bool) -> Scope:
    """Return the names for every SQL text of the plan; `status` adds those of finally steps."""
    names = dict.fromkeys((*RUN_NAMES, *([RUN_STATUS] if status else [])), _RUN_NAME)
    return Scope(names={**names, **param_names(params)})


def param_names(params: Mapping[str, Param]) -> dict[str, Name]:
    """Return what is known about the names of parameters."""
    names = {}
    for name, param in params.items():
        article = "an" if param.type in (ParamType.INTEGER, ParamType.IDENTIFIER) else "a"
        names[name] = _typed_name(param.type, f"{article} ")
    return names


def _typed_name(kind: ParamType, before: str) -> Name:
    return Name(
        what=f"{before}{kind}",
        bare=kind in _BARE_TYPES,
        identifier=kind in _IDENTIFIER_TYPES,
        relation=kind is ParamType.RELATION,
    )


def check_references(sql: Sql, scope: Scope, fields: Fields) -> None:
    """Report every parameter that a SQL text, which is one of these fields, uses wrongly."""
    try:
        found = references(sql.text)
    except TemplateError as error:
        fields.add(sql.position(error.offset), "JP222", error.message, hint=error.hint)
        return
    _report_wrong(sql, found, scope, fields)


def check_names(sql: Sql, place: SettingPlace, scope: Scope, fields: Fields) -> None:
    """Report every parameter that a role, a setting or a list of names uses wrongly."""
    try:
        found = named_in(sql.text, place, lambda name: scope.find(name) is not None)
    except TemplateError as error:
        fields.add(sql.position(error.offset), "JP240", error.message, hint=error.hint)
        return
    if place is not SettingPlace.TOUCHES:
        for reference in found:
            name = scope.find(reference.name)
            if name is not None and name.several:
                message = f"`{reference}` is a list of the items of a chunk, and {place.value[1]} takes one value"
                hint = "leave out `chunk`: then each instance has one item"
                fields.add(sql.position(reference.start), "JP264", message, hint=hint)
            elif name is not None and name.relation and place in _ONE_NAME:
                message = f"`{reference}` is a relation, and {place.value[1]} cannot have a name with a schema"
                hint = "declare a parameter of type identifier for it"
                fields.add(sql.position(reference.start), "JP221", message, hint=hint)
    _report_wrong(sql, found, scope, fields)


#: Where a relation's name is not allowed.
_ONE_NAME: Final = frozenset({SettingPlace.ROLE, SettingPlace.SEARCH_PATH, SettingPlace.LIST_SETTING})


def _report_wrong(sql: Sql, found: Iterable[Reference], scope: Scope, fields: Fields) -> None:
    wrong = (problem for reference in found if (problem := _wrong(reference, scope, fields.report)))
    for number, (reference, code, message, guess) in enumerate(islice(wrong, MAX_WRONG)):
        looked_at = number < _MAX_SLICES and code == "JP220" and reference.form is Form.BARE
        hint = _SLICE_HINT if looked_at and in_brackets(sql.text, reference) else guess
        place = sql.position(reference.start)
        unknown = code == "JP220" and hint != _SLICE_HINT  # a name that is forgotten once may be used everywhere
        cause = Cause(key=reference.name, part=f"line {place.line}", hint=hint) if unknown else None
        fields.add(place, code, message, hint=hint, cause=cause)


def _wrong(reference: Reference, scope: Scope, report: Report) -> tuple[Reference, str, str, str | None] | None:
    """Return the problem of a reference: code, message and hint."""
    name = scope.find(reference.name)
    if name is not None:
        found = _wrong_form(reference, name)
        return (reference, "JP221", *found) if found else None
    if reference.name == RUN_STATUS:
        return reference, "JP220", f"`{reference}`: only finally steps can use the status of the run", None
    if report.unread_any or reference.name in report.unread:  # its declaration is reported
        return None
    hint = report.guesses.did_you_mean(reference.name, [*scope.items, *scope.names])
    return reference, "JP220", f"`{reference}`: there is no parameter `{reference.name}`", hint


def _wrong_form(reference: Reference, name: Name) -> tuple[str, str] | None:
    if reference.form is Form.BARE and not name.bare:
        message = f"`{reference}` is {name.what}; only integers, numbers and booleans can be written bare"
        return message, f"write :'{reference.name}' for a quoted text, or :\"{reference.name}\" for an identifier"
    if reference.form is Form.IDENTIFIER and not name.identifier:
        message = f"`{reference}` is {name.what}, which cannot be an identifier"
        return message, f"write :'{reference.name}', or declare it as `type: identifier`"
    return None


def _item_names(for_each: ForEach) -> dict[str, Name]:
    is_relation = for_each.type is ParamType.RELATION
    if for_each.sql is None and not for_each.items:
        return {for_each.as_: _UNREAD}
    if for_each.sql is not None:
        return {for_each.as_: _RELATION if is_relation else _UNKNOWN_COLUMN}
    mappings = [item for item in for_each.items if isinstance(item, Mapping)]
    scalars = [item for item in for_each.items if not isinstance(item, Mapping)]
    if scalars:
        return {for_each.as_: _RELATION if is_relation else _item_name(scalars)}
    # All items have the keys of the first, or the plan is invalid.
    columns = {key: [item[key] for item in mappings if key in item] for key in next(iter(mappings), {})}
    names = {
        f"{for_each.as_}.{key}": _RELATION if is_relation else _item_name(values) for key, values in columns.items()
    }
    if len(columns) == 1:
        names[for_each.as_] = next(iter(names.values()))
    return names


def _item_name(values: list[Value]) -> Name:
    texts = [isinstance(value, str) for value in values]
    return Name(what="an item", bare=not any(texts), identifier=all(texts))


#: Keys whose texts may contain parameters; other modules read them. `params` declares parameters.
_TAKE_PARAMETERS: Final = frozenset(
    {"sql", "on_retry", "if", "verify", "until", "role", "search_path", "settings", "touches", "params", "with"}
)
#: The same outside the steps.
_TAKE_ELSEWHERE: Final = MappingProxyType({"requires": frozenset({"sql"}), "holds": frozenset({"while"})})
#: Keys whose texts are only displayed.
_SHOWN: Final = frozenset({"description", "owner", "tags", "message"})
#: A word after a colon that does not follow a letter: `at 10:days` is a text, `of :days` is not.
_REFERENCE: Final = re.compile(
    r"""(?<![:\w]):(?:'(?P<literal>[\w.]+)'|"(?P<identifier>[\w.]+)"|(?P<bare>[A-Za-z_]\w*)(?!\w))"""
)


def check_plain_texts(file: Fields, params: Collection[str]) -> None:
    """Report each parameter in a text that takes none: an error, or a warning if the text is only displayed."""
    known = {*params, *RUN_NAMES, RUN_STATUS}
    for key, node in file.pairs():
        if key in ("steps", "finally") and isinstance(node, Sequence):
            for step in node.items:
                _check(key, step, known | _items_of(step), file.report, step=_id_of(step))
        elif key != "params" and not key.startswith("x-"):
            _check(key, node, known, file.report, step=None)


def _check(key: str, node: Node, known: AbstractSet[str], report: Report, *, step: str | None) -> None:
    take = _TAKE_ELSEWHERE.get(key, _TAKE_PARAMETERS)
    for name, scalar in _texts(key, node, take):
        for found in _REFERENCE.finditer(scalar.text):
            reference = found["literal"] or found["identifier"] or found["bare"]
            if known.isdisjoint({reference, reference.partition(".")[0]}) or report.has_at(scalar.position):
                continue
            if name in _SHOWN:
                message = f"`{name}` takes no parameters: `{found.group()}` would be displayed as text"
                hint = "leave out the colon"
                report.add(scalar, "JP241", message, hint=hint, step=step)
            else:
                message = f"`{name}` takes no parameters: `{found.group()}` would be used as text"
                report.add(scalar, "JP240", message, hint="write the value itself", step=step)
            break


def _texts(key: str, node: Node, take: AbstractSet[str]) -> Iterator[tuple[str, Scalar]]:
    """Yield each scalar that may not contain parameters, with its key; the keys in `take` are left out."""
    if isinstance(node, Scalar):
        if ":" in node.text:
            yield key, node
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _texts(key, item, take)
    elif isinstance(node, MappingNode):
        for name, value in node.values.items():
            if name not in take and not name.startswith("x-"):
                yield from _texts(name, value, take)


def _items_of(step: Node) -> set[str]:
    """Return the name of a step's item; its columns follow a dot and are not part of the name."""
    for_each = step.values.get("for_each") if isinstance(step, MappingNode) else None
    as_ = for_each.values.get("as") if isinstance(for_each, MappingNode) else None
    return {as_.text} if isinstance(as_, Scalar) else {"item"} if for_each is not None else set()


def _id_of(step: Node) -> str | None:
    id_ = step.values.get("id") if isinstance(step, MappingNode) else None
    return id_.text if isinstance(id_, Scalar) else None
