"""The options of a command, and the words that change how it works: CONCURRENTLY, IF EXISTS, CASCADE, NOWAIT, ONLY.

Options are those in parentheses or as bare words: `VACUUM (FULL)`, `REINDEX … CONCURRENTLY`. Those of VACUUM, ANALYZE
and EXPLAIN can exclude each other, and do not take every value. Sources: ExecVacuum of vacuum.c and
ParseExplainOptionList of explain_state.c in PostgreSQL 18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.command_objects import ReindexTarget, reindex_target, vacuumed
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
#: Kilobytes that BUFFER_USAGE_LIMIT accepts, besides 0.
_BUFFERS = (128, 16_777_216)
_UNITS = {"b": 1 / 1024, "kb": 1, "mb": 1024, "gb": 1024**2, "tb": 1024**3, "": 1}
#: Values of an option that is on or off.
_BOOLEANS = frozenset({"on", "off", "true", "false", "1", "0"})
#: Options of VACUUM and ANALYZE that are on or off.
_OF_VACUUM = frozenset(
    {
        *("full", "freeze", "verbose", "analyze", "disable_page_skipping", "skip_locked", "process_main"),
        *("process_toast", "truncate", "skip_database_stats", "only_database_stats"),
    }
)
#: The words that options of EXPLAIN take.
_OF_EXPLAIN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("analyze", "verbose", "costs", "settings", "generic_plan"), _BOOLEANS),
    **dict.fromkeys(("buffers", "wal", "timing", "summary", "memory"), _BOOLEANS),
    "format": frozenset({"text", "xml", "json", "yaml"}),
    "serialize": frozenset({"none", "off", "text", "binary"}),
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


def rebuilds_many(statement: Statement) -> bool:
    """Return whether it is REINDEX SCHEMA or DATABASE CONCURRENTLY, which skips what it cannot rebuild."""
    many = {ReindexTarget.SCHEMA, ReindexTarget.DATABASE}
    return reindex_target(statement) in many and is_concurrent(statement)


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


def refused_options(statement: Statement) -> Iterator[str]:
    """Yield each reason why the server refuses the options of a statement, as far as their text shows it."""
    if statement.kind in {_K.VACUUM, _K.ANALYZE}:
        yield from _of_vacuum(statement)
    elif statement.kind is _K.EXPLAIN:
        yield from _of_explain(statement)


def _of_vacuum(statement: Statement) -> Iterator[str]:
    given, tables = options(statement), vacuumed(statement)
    full, only_stats = enabled(statement, "full"), enabled(statement, "only_database_stats")
    analyze = statement.kind is _K.ANALYZE or enabled(statement, "analyze")
    limited, workers = "buffer_usage_limit" in given, _number(given.get("parallel"))
    more = given.keys() - {"only_database_stats", "verbose"}
    columns = any(one.columns for one in tables)
    clashes = (
        (full and workers > 0, "VACUUM FULL cannot work in parallel"),
        (full and enabled(statement, "disable_page_skipping"), "FULL and DISABLE_PAGE_SKIPPING exclude each other"),
        (full and limited and not analyze, "BUFFER_USAGE_LIMIT has no effect on VACUUM FULL, and is refused"),
        ("parallel" in given and given["parallel"] is None, "PARALLEL needs a number"),
        (not 0 <= workers <= 1_024, "PARALLEL takes 0 to 1024 workers"),
        (columns and not analyze, "columns can be named for ANALYZE only: VACUUM (ANALYZE) t (column)"),
        (only_stats and bool(tables), "ONLY_DATABASE_STATS takes no table"),
        (only_stats and bool(more), "ONLY_DATABASE_STATS excludes other options"),
        (full and not enabled(statement, "process_toast", default=True), "FULL needs PROCESS_TOAST"),
        (not _is_cleanup(given.get("index_cleanup", "auto")), "INDEX_CLEANUP takes AUTO, ON or OFF"),
        (not _is_limit(given.get("buffer_usage_limit", "0")), "BUFFER_USAGE_LIMIT takes 0, or 128 kB to 16 GB"),
    )
    yield from (message for clash, message in clashes if clash)
    for name, value in given.items():
        if name in _OF_VACUUM and value is not None and value.lower() not in _BOOLEANS:
            yield f"{name.upper()} takes a boolean, not {value}"


def _of_explain(statement: Statement) -> Iterator[str]:
    given, analyzes = options(statement), enabled(statement, "analyze")
    for name, value in given.items():
        if name in _OF_EXPLAIN and value is not None and value.lower() not in _OF_EXPLAIN[name]:
            yield f"the option {name.upper()} of EXPLAIN does not take {value}"
    serializes = "serialize" in given and (given["serialize"] or "text").lower() not in {"none", "off"}
    for name, on in (
        ("timing", enabled(statement, "timing")),
        ("wal", enabled(statement, "wal")),
        ("serialize", serializes),
    ):
        if on and not analyzes:
            yield f"the option {name.upper()} of EXPLAIN requires ANALYZE"
    if analyzes and enabled(statement, "generic_plan"):
        yield "the options ANALYZE and GENERIC_PLAN of EXPLAIN exclude each other"


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError:
        return -1


def _is_cleanup(text: str | None) -> bool:
    return text is None or text.lower() in {"auto", *_BOOLEANS}


def _is_limit(text: str | None) -> bool:
    written = (text or "").strip()
    digits = written.rstrip("BkKMGTmgtb ")
    unit = written[len(digits) :].strip().lower()
    if not digits.isdigit() or unit not in _UNITS:
        return False
    size = int(digits) * _UNITS[unit]
    return size == 0 or _BUFFERS[0] <= size <= _BUFFERS[1]
