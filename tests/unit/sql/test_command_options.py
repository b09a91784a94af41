"""Options of a command, and the words that change how it works."""

from __future__ import annotations

import pytest

from runner.sql.command_options import enabled, is_cascading, is_concurrent, is_guarded, options
from runner.sql.statements import Statement, parse_statements


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "guarded", "cascading", "concurrent"),
    [
        ("DROP TABLE IF EXISTS t CASCADE", True, True, False),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", True, False, True),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", True, False, True),
        ("CREATE INDEX i ON t (a)", False, False, False),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", True, False, False),
        ("ALTER TABLE IF EXISTS t DROP COLUMN c CASCADE", True, True, False),
        ("TRUNCATE t CASCADE", False, True, False),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", False, False, True),
        ("REINDEX (VERBOSE, CONCURRENTLY off) TABLE t", False, False, False),
        ("REINDEX TABLE CONCURRENTLY t", False, False, True),
        ("ALTER TABLE p DETACH PARTITION c CONCURRENTLY", False, False, True),
        ("SELECT 1", False, False, False),
    ],
)
def test_guards_and_manners(sql: str, guarded: bool, cascading: bool, concurrent: bool) -> None:
    statement = _parse(sql)
    assert (is_guarded(statement), is_cascading(statement), is_concurrent(statement)) == (
        guarded,
        cascading,
        concurrent,
    )


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("VACUUM (FULL, VERBOSE false, PARALLEL 4) t", {"full": None, "verbose": "false", "parallel": "4"}),
        ("VACUUM FULL VERBOSE t", {"full": None, "verbose": None}),
        ("REINDEX (VERBOSE, TABLESPACE fast) INDEX i", {"verbose": None, "tablespace": "fast"}),
        ("REINDEX INDEX CONCURRENTLY i", {"concurrently": None}),
        ("EXPLAIN (ANALYZE on, COSTS 0) SELECT 1", {"analyze": "on", "costs": "0"}),
        ("SELECT 1", {}),
        ("ALTER DATABASE d SET work_mem = 1", {}),
    ],
)
def test_options(sql: str, expected: dict[str, str | None]) -> None:
    assert dict(options(_parse(sql))) == expected


def test_an_option_is_on_unless_it_says_no() -> None:
    statement = _parse("VACUUM (FULL, VERBOSE OFF, ANALYZE 0, FREEZE 1) t")
    assert [enabled(statement, name) for name in ("full", "verbose", "analyze", "freeze", "truncate")] == [
        *(True, False, False, True, False)
    ]
    assert enabled(statement, "truncate", default=True) is True
