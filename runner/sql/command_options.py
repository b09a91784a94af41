"""The options of a command, and the words that change how it works: CONCURRENTLY, IF EXISTS, CASCADE, NOWAIT, ONLY.

Options are those in parentheses or as bare words: `VACUUM (FULL)`, `REINDEX … CONCURRENTLY`.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import label, option_value, subcommands, unwrap

_K = StatementKind
_FALSE = frozenset({"false", "off", "0"})
#: The field of the tree that has a command's options.
_FIELDS: Mapping[StatementKind, str] = {
    **dict.fromkeys((_K.VACUUM, _K.ANALYZE, _K.EXPLAIN, _K.COPY_FROM, _K.COPY_TO), "options"),
    **dict.fromkeys((_K.CREATE_SUBSCRIPTION, _K.ALTER_SUBSCRIPTION, _K.ALTER_DATABASE), "options"),
    **dict.fromkeys((_K.CLUSTER, _K.REINDEX), "params"),
}


def options(statement: Statement) -> Mapping[str, str | None]:
    """Return the options of a command with the text of their values, None where there is none: `{"full": None}`.

    Commands that have no such list have no options here.
    """
    given = getattr(statement.node, _FIELDS.get(statement.kind, ""), ())
    return {option.defname: option_value(option) for option in map(unwrap, given)}


def enabled(statement: Statement, option: str, *, default: bool = False) -> bool:
    """Return whether a boolean option is on; an option without a value is, one that is not given is `default`."""
    given = options(statement)
    return (given[option] or "true").lower() not in _FALSE if option in given else default


def is_concurrent(statement: Statement) -> bool:
    """Return whether the command has CONCURRENTLY, in any of its forms."""
    match statement.kind:
        case _K.REINDEX:
            return enabled(statement, "concurrently")
        case _K.ALTER_TABLE:
            return any(getattr(definition, "concurrent", False) for _, _, definition in subcommands(statement.node))
    return bool(getattr(statement.node, "concurrent", False))


def is_guarded(statement: Statement) -> bool:
    """Return whether it has IF EXISTS, IF NOT EXISTS or OR REPLACE, so that running it again does not fail."""
    return any(bool(getattr(statement.node, name, False)) for name in ("missing_ok", "if_not_exists", "replace"))


def is_cascading(statement: Statement) -> bool:
    """Return whether it has CASCADE, also in a subcommand of ALTER TABLE."""
    nodes = (statement.node, *(command for _, command, _ in subcommands(statement.node)))
    return any(
        "behavior" in node.DESCRIPTOR.fields_by_name and label(node, "behavior") == "DROP_CASCADE" for node in nodes
    )


def is_partitioned(statement: Statement) -> bool:
    """Return whether it is CREATE TABLE … PARTITION BY."""
    return statement.kind is _K.CREATE_TABLE and bool(statement.node.HasField("partspec"))


def leaves_out_partitions(statement: Statement) -> bool:
    """Return whether it is `CREATE INDEX … ON ONLY`, which on a partitioned table builds nothing."""
    return statement.kind is _K.CREATE_INDEX and not statement.node.relation.inh


def leaves_out_children(statement: Statement) -> bool:
    """Return whether it is `ALTER TABLE ONLY`, which does not change the children of the table."""
    return statement.node.DESCRIPTOR.name == "AlterTableStmt" and not statement.node.relation.inh


def has_check_option(statement: Statement) -> bool:
    """Return whether it is `CREATE VIEW … WITH CHECK OPTION`, or WITH (check_option = …)."""
    if statement.kind is not _K.CREATE_VIEW:
        return False
    named = any(unwrap(option).defname.lower() == "check_option" for option in statement.node.options)
    return named or label(statement.node, "with_check_option") != "NO_CHECK_OPTION"


def has_elements(statement: Statement) -> bool:
    """Return whether it is a CREATE SCHEMA that also creates objects in the schema."""
    return statement.kind is _K.CREATE_SCHEMA and bool(statement.node.schema_elts)


def leaves_out_data(statement: Statement) -> bool:
    """Return whether a query is only stored or described: REFRESH or CREATE … AS … WITH NO DATA."""
    if statement.kind in {_K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW}:
        return bool(statement.node.into.skip_data)
    return statement.kind is _K.REFRESH_MATERIALIZED_VIEW and bool(statement.node.skip_data)


def never_waits(statement: Statement) -> bool:
    """Return whether it is `LOCK … NOWAIT`."""
    return statement.kind is _K.LOCK and bool(statement.node.nowait)


def role_for_file(statement: Statement) -> str | None:
    """Return PostgreSQL's role that may use the file or program of a COPY, None without one."""
    if statement.kind not in {_K.COPY_FROM, _K.COPY_TO} or not statement.node.filename:
        return None
    if statement.node.is_program:
        return "pg_execute_server_program"
    return "pg_read_server_files" if statement.kind is _K.COPY_FROM else "pg_write_server_files"
