"""Generate `docs/rules.md` from the table of codes, and `docs/plan-reference.md` from the schema.

Each page begins with the text of the file of the same name here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from runner.codes import CODES
from runner.plan.schema_check import schema

_Schema = dict[str, Any]

_GROUPS: Final = (
    ("JP0", "The file"),
    ("JP1", "The schema"),
    ("JP2", "The plan as a whole"),
    ("JP3", "SQL and how it runs"),
    ("JP4", "Steps that conflict"),
    ("JP5", "The server"),
    ("JP6", "Statements on a server"),
    ("JP7", "Locks that are held now"),
    ("JP8", "The schedule"),
    ("JP9", "Comments"),
)
_KINDS: Final = {"string": "text", "object": "mapping"}


def rules_markdown() -> str:
    """Return docs/rules.md."""
    return "\n".join(_rules())


def plan_reference_markdown() -> str:
    """Return docs/plan-reference.md."""
    return "\n".join(_reference())


def _head(page: str) -> str:
    """Return the text with which a page begins."""
    return files("runner.reference").joinpath(f"{page}.md").read_text(encoding="utf-8")


def write(folder: Path) -> None:
    """Write both files into a folder."""
    (folder / "rules.md").write_text(rules_markdown(), encoding="utf-8")
    (folder / "plan-reference.md").write_text(plan_reference_markdown(), encoding="utf-8")


def _rules() -> Iterator[str]:
    yield _head("rules")
    for prefix, title in _GROUPS:
        yield f"\n## {title}\n\n| code | slug | severity | title |\n|---|---|---|---|"
        for entry in (entry for code, entry in CODES.items() if code.startswith(prefix)):
            link = f'<a id="{entry.code.lower()}"></a>[{entry.code}](rules/{entry.code}.md)'
            yield f"| {link} | `{entry.slug}` | {entry.severity} | {_cell(entry.title)} |"
    yield ""


def _reference() -> Iterator[str]:
    root = schema()
    yield _head("plan-reference")
    yield "## Values\n"
    yield "| value | form |\n|---|---|"
    for name, definition in root["definitions"].items():
        if _is_named(definition):
            yield f"| {_words(name)} | {_cell(definition['title'])} |"
    yield from _section("The plan", root, level=2)
    yield from _section("A step", root["definitions"]["step"], level=2)
    yield from _section("An included file", root["definitions"]["fragment"], level=2)
    yield ""


def _section(title: str, node: _Schema, *, level: int, path: str = "") -> Iterator[str]:
    """Yield a heading, the table of a mapping's keys, and a section for each key that holds a mapping itself."""
    yield f"\n{'#' * level} {title}\n"
    if "description" in node:
        yield f"{node['description']}\n"
    required = node.get("required", ())
    yield "| key | value | meaning |\n|---|---|---|"
    for key, value in node["properties"].items():
        shown = f"**`{key}`**" if key in required else f"`{key}`"
        yield f"| {shown} | {_cell(_type(value))} | {_cell(value.get('description', ''))} |"
    for key, value in node["properties"].items():
        inner = _mapping_in(value)
        if inner is not None and not _has_own_section(key):
            full = f"{path}{key}"
            name = f"{full}.<name>" if _resolved(value).get("additionalProperties") else full
            yield from _section(f"`{name}`", inner, level=3, path=f"{full}.")


def _has_own_section(key: str) -> bool:
    return key in {"steps", "finally", "defaults"}


def _mapping_in(node: _Schema) -> _Schema | None:
    """Return the mapping with its own keys that a value, or each of its items, is; None if there is none."""
    node = _resolved(node)
    if "properties" in node:
        return node
    inner = [node[key] for key in ("items", "additionalProperties") if isinstance(node.get(key), dict)]
    found = (_mapping_in(part) for part in (*node.get("anyOf", ()), *inner))
    return next((part for part in found if part is not None), None)


def _type(node: _Schema) -> str:
    reference = node.get("$ref", "").removeprefix("#/definitions/")
    node = _resolved(node)
    if reference == "steps":
        return "list of [steps](#a-step)"
    if reference and _is_named(node):
        return f"[{_words(reference)}](#values)"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if "anyOf" in node:
        return ", or ".join(_type(part) for part in node["anyOf"])
    return _plain_type(node)


def _plain_type(node: _Schema) -> str:
    kind = node.get("type", "any value")
    if isinstance(kind, list):
        words = [str(_KINDS.get(word, word)) for word in kind]
        return ", ".join(words[:-1]) + f" or {words[-1]}"
    if kind == "array":
        return f"list of {_several(_type(node['items']))}"
    more = node.get("additionalProperties")
    if kind == "object" and isinstance(more, dict) and "properties" not in node:
        return f"mapping of {_several(_type(more))}"
    if "minimum" in node:
        upper = f" to {node['maximum']:,}" if "maximum" in node else " or more"
        return f"{kind}, {node['minimum']:,}{upper}"
    return _KINDS.get(kind, str(kind))


def _several(kind: str) -> str:
    return f"{kind}s" if kind in _KINDS.values() else kind


def _is_named(definition: _Schema) -> bool:
    return "title" in definition and "properties" not in definition


def _resolved(node: _Schema) -> _Schema:
    while "$ref" in node:
        target: _Schema = schema()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
