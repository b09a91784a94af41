"""Generate `docs/rules.md` and `docs/plan-reference.md` from the rules, the registries of codes and the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from runner.plan.schema_check import schema
from runner.reference.explanations import Explanation, explanations

_Schema = dict[str, Any]

_MADE = "<!-- Made by `make docs`; change the table of rules or the schema instead. -->"
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
#: The start of an example that is part of a plan.
_YAML: Final = re.compile(r"[-\[{#%&*!?\"']|[\w.$-]+:(\s|$)")
_KINDS: Final = {"string": "text", "object": "mapping"}
_RULES_HEAD: Final = f"""\
{_MADE}

# Rules

`jobplan validate` finds JP0xx to JP4xx and JP9xx without a server; so does `jobplan run` before it starts anything.
Errors make a plan invalid (exit code 3), warnings only with `validate --strict`. JP5xx to JP8xx are about a plan on a
server: `jobplan dry-run` finds them ([how](dry-run.md)), and `jobplan doctor` those of the server alone.
`jobplan validate --explain CODE` prints one of them.

A comment silences a rule of JP3xx and JP4xx: for a step if it is in the step's lines or directly above them, otherwise
for the plan as a whole. Give the reason after the code:

```yaml
- id: rebuild  # jobplan: ignore=JP341 no application uses the database on Sundays
```

A rule can be named by its code or its slug: `ignore=JP341` is `ignore=index-blocks-writes`. A rule that is described as
optional is only checked if a comment anywhere in the plan enables it: `# jobplan: enable=rename-breaks-clients`.

A code is never reused for another rule.
"""
_REFERENCE_HEAD: Final = f"""\
{_MADE}

# Plan reference

Every key of a plan, made from the JSON Schema that `jobplan schema` prints. An editor with a YAML language server
completes and explains them when the plan's first line names the schema, as `jobplan init` writes it:

```yaml
# yaml-language-server: $schema=plan-v1.schema.json
```

A file that plans `include` is not a plan. Its first line names the part of the schema that it follows:

```yaml
# yaml-language-server: $schema=plan-v1.schema.json#/definitions/fragment
```

The schema's `$id` is `urn:jobplan:schema:plan-v1`; other tools refer to an included file as
`urn:jobplan:schema:plan-v1#/definitions/fragment`.

Keys in **bold** are required. Keys that begin with `x-` are a team's own, and ignored. Rules that the schema cannot
express, such as no cycles of `needs`, are in the [rules](rules.md). `plans/quickstart.yaml` is a plan to read first.
"""


def rules_markdown() -> str:
    """Return docs/rules.md."""
    return "\n".join(_rules())


def plan_reference_markdown() -> str:
    """Return docs/plan-reference.md."""
    return "\n".join(_reference())


def write(folder: Path) -> None:
    """Write both files into a folder."""
    (folder / "rules.md").write_text(rules_markdown(), encoding="utf-8")
    (folder / "plan-reference.md").write_text(plan_reference_markdown(), encoding="utf-8")


def _rules() -> Iterator[str]:
    yield _RULES_HEAD
    entries = explanations().values()
    for prefix, title in _GROUPS:
        group = [entry for entry in entries if entry.code.startswith(prefix)]
        if group:
            yield f"\n**{title}**\n\n| code | slug | | |\n|---|---|---|---|"
            for entry in group:
                link = f"[{entry.code}](#{entry.code.lower()})"
                yield f"| {link} | `{entry.slug}` | {entry.severity} | {_cell(entry.title)} |"
    for prefix, title in _GROUPS:
        group = [entry for entry in entries if entry.code.startswith(prefix)]
        if group:
            yield f"\n## {title}"
        for entry in group:
            yield from _rule(entry)
    yield ""


def _rule(entry: Explanation) -> Iterator[str]:
    yield f'\n<a id="{entry.code.lower()}"></a>\n'
    yield f"### {entry.code}: {entry.title}\n"
    yield f"`{entry.slug}`\n"
    yield f"*{entry.severity.capitalize()}.* {entry.why}\n"
    yield f"Wrong:\n\n{_fenced(entry.wrong)}\n"
    yield f"Right:\n\n{_fenced(entry.right)}"


def _fenced(example: str) -> str:
    language = "yaml"
    if example.startswith("jobplan "):
        language = "sh"
    elif example.endswith(";"):
        language = "sql"
    elif not _YAML.match(example):
        language = "text"
    return f"```{language}\n{example.rstrip()}\n```"


def _reference() -> Iterator[str]:
    root = schema()
    yield _REFERENCE_HEAD
    yield "## Values\n"
    yield "| what | is |\n|---|---|"
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
