"""The options that a command is given in parentheses or as bare words: `VACUUM (FULL)`, `REINDEX … CONCURRENTLY`."""

from __future__ import annotations

from collections.abc import Mapping

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, strings, unwrap
from runner.sql.parse import Statement

_FALSE = frozenset({"false", "off", "0"})

_LISTS = {
    StatementKind.VACUUM: "options",
    StatementKind.ANALYZE: "options",
    StatementKind.EXPLAIN: "options",
    StatementKind.COPY_FROM: "options",
    StatementKind.COPY_TO: "options",
    StatementKind.CREATE_SUBSCRIPTION: "options",
    StatementKind.ALTER_SUBSCRIPTION: "options",
    StatementKind.ALTER_DATABASE: "options",
    StatementKind.CLUSTER: "params",
    StatementKind.REINDEX: "params",
}


def options(statement: Statement) -> Mapping[str, str | None]:
    """Return the options of a command with the text of their values, None where there is none: `{"full": None}`.

    Commands that have no such list have no options here.
    """
    given = getattr(statement.node, _LISTS.get(statement.kind, ""), ())
    return {option.defname: _text(option) for option in map(unwrap, given)}


def enabled(statement: Statement, option: str, *, default: bool = False) -> bool:
    """Return whether a boolean option is on; an option without a value is, one that is not given is `default`."""
    given = options(statement)
    if option not in given:
        return default
    return (given[option] or "true").lower() not in _FALSE


def is_concurrent(statement: Statement) -> bool:
    """Return whether the command says CONCURRENTLY, in any of its spellings."""
    if statement.kind is StatementKind.REINDEX:
        return enabled(statement, "concurrently")
    if statement.kind is StatementKind.ALTER_TABLE:
        commands = (getattr(unwrap(command), "def") for command in statement.node.cmds)
        return any(bool(getattr(unwrap(command), "concurrent", False)) for command in commands)
    return bool(getattr(statement.node, "concurrent", False))


def _text(option: Tree) -> str | None:
    if not option.HasField("arg"):
        return None
    value = unwrap(option.arg)
    if value.DESCRIPTOR.name == "Boolean":
        return "true" if value.boolval else "false"
    if value.DESCRIPTOR.name == "TypeName":  # an unquoted word in some of the lists
        return strings(value.names)[-1]
    field = {"String": "sval", "Integer": "ival", "Float": "fval"}.get(value.DESCRIPTOR.name)
    return str(getattr(value, field)) if field else ""
