"""Options of VACUUM, ANALYZE and EXPLAIN that exclude each other, and values that they do not take.

Sources: ExecVacuum of vacuum.c and ParseExplainOptionList of explain_state.c in PostgreSQL 18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.command_objects import vacuumed
from runner.sql.command_options import enabled, options
from runner.sql.statements import Statement, StatementKind

_K = StatementKind
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


def refused_options(statement: Statement) -> Iterator[str]:
    """Yield why the server refuses the options of a statement, none if it does not by their text."""
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
        yield "EXPLAIN takes one of ANALYZE and GENERIC_PLAN"


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
