"""Functions that a statement calls, and what acts on the whole server."""

from __future__ import annotations

import pytest

from runner.sql.function_calls import FunctionCall, functions_called, parameter_symbols, server_wide
from runner.sql.statements import Statement, parse_statements


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


def test_parameter_symbols_are_found_but_not_where_they_are_meant() -> None:
    assert list(parameter_symbols(_parse("SELECT 'é', $1 + $22"))) == [(1, 12), (22, 17)]
    assert list(parameter_symbols(_parse("PREPARE q AS SELECT $1"))) == []
    assert list(parameter_symbols(_parse("SELECT '$1', $$ $1 $$"))) == []


def test_functions_are_found_with_their_schema() -> None:
    assert functions_called(_parse("SELECT 'é', s.f(g(1))")) == (
        FunctionCall(schema="s", name="f", offset=12),
        FunctionCall(schema=None, name="g", offset=16),
    )
    assert [call.name for call in functions_called(_parse("CALL p()"))] == ["p"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER SYSTEM SET work_mem = 1", "ALTER SYSTEM"),
        ("CREATE USER x", "CREATE ROLE"),
        ("DROP DATABASE d", "DROP DATABASE"),
        ("CHECKPOINT", "CHECKPOINT"),
        ("GRANT r TO x", "GRANT ROLE"),
        ("GRANT CONNECT ON DATABASE d TO x", "GRANT"),
        ("ALTER DATABASE d RENAME TO e", "ALTER … RENAME"),
        ("ALTER DATABASE d OWNER TO x", "ALTER … OWNER TO"),
        ("COMMENT ON ROLE x IS 'y'", "COMMENT"),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "pg_terminate_backend()"),
        ("GRANT SELECT ON t TO x", None),
        ("ALTER TABLE t RENAME TO u", None),
        ("VACUUM", None),
    ],
)
def test_what_reaches_beyond_the_database(sql: str, expected: str | None) -> None:
    assert server_wide(_parse(sql)) == expected
