"""Rows that a plan wants to see: read from the worker with exact types, however many it sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.engine.events import Rows
from runner.engine.ports import WorkerEnd
from tests.integration.gateway_setups import RealSetup, ask, run_one, value


async def captured(dsn: str, sql: str, rows: int = 5, **keys: Any) -> WorkerEnd:
    """Run one statement whose rows are wanted."""
    async with RealSetup(dsn, "rows") as setup:
        return await run_one(setup, sql, rows=rows, **keys)


@pytest.mark.parametrize(
    ("sql", "columns", "row"),
    [
        ("SELECT 1", ("?column?",), ("1",)),
        ("SELECT NULL::text AS nothing, '' AS empty", ("nothing", "empty"), (None, "")),
        ("SELECT relname, oid FROM pg_class WHERE relname = 'pg_class'", ("relname", "oid"), ("pg_class", "1259")),
        (
            "SELECT 1.50::numeric(10, 2) AS n, 'x'::varchar(3) AS v, 'y'::char(3) AS c",
            ("n", "v", "c"),
            ("1.50", "x", "y  "),
        ),
        ("SELECT '{1,2}'::int[] AS a, '\\xdead'::bytea AS b", ("a", "b"), ("{1,2}", "\\xdead")),
        ("SELECT '{\"k\": 1}'::jsonb AS j, int4range(1, 3) AS r", ("j", "r"), ('{"k": 1}', "[1,3)")),
        ("SELECT timestamptz '2026-01-02 03:04:05+00' AT TIME ZONE 'UTC' AS t", ("t",), ("2026-01-02 03:04:05",)),
        ("SELECT 'happy'::mood AS m, ROW(1, 'a')::pair AS p", ("m", "p"), ("happy", "(1,a)")),
        ("SELECT B'1010'::bit(4) AS b, B'11'::varbit AS v", ("b", "v"), ("1010", "11")),
        ("SELECT 'abc'::char(5) AS c, '\"'::\"char\" AS d", ("c", "d"), ("abc  ", '"')),
        ("SELECT interval '1 day 2 hours' AS i, time(0) '03:04:05' AS t", ("i", "t"), ("1 day 02:00:00", "03:04:05")),
        ("VALUES (1, 'a')", ("column1", "column2"), ("1", "a")),
        ("INSERT INTO t VALUES (7) RETURNING i AS added", ("added",), ("7",)),
        ("SELECT 1; SELECT 'last' AS which", ("which",), ("last",)),
        ("CREATE TABLE fresh (f int); INSERT INTO fresh VALUES (3); TABLE fresh", ("f",), ("3",)),
        ("SHOW server_encoding", ("server_encoding",), ("UTF8",)),
        ("CALL gives(NULL, 'in')", ("a", "b"), ("1", "in")),
        ("SELECT 'größe 日本' AS s", ("s",), ("größe 日本",)),
        ("SELECT quiet()", ("quiet",), ("",)),
    ],
)
async def test_a_row_is_read_as_postgresql_writes_it(
    database: str, sql: str, columns: tuple[str, ...], row: tuple[str | None, ...]
) -> None:
    ask(
        database,
        "CREATE TYPE mood AS ENUM ('happy'); CREATE TYPE pair AS (a int, b text); CREATE TABLE t (i int); "
        "CREATE PROCEDURE gives(OUT a int, INOUT b name) LANGUAGE sql AS $$ SELECT 1, b $$; "
        "CREATE FUNCTION quiet() RETURNS void LANGUAGE sql AS ''",
    )
    end = await captured(database, sql)
    assert end.confirmed
    assert end.result == Rows(columns=columns, rows=(row,))


async def test_no_more_rows_than_wanted_are_kept_and_all_are_counted(dsn: str) -> None:
    end = await captured(dsn, "SELECT i FROM generate_series(1, 1000) AS i", rows=3)
    assert end.confirmed
    assert end.row_count == 1000
    assert end.result is not None
    assert end.result.rows == (("1",), ("2",), ("3",))


async def test_no_row_is_a_result_too(dsn: str) -> None:
    end = await captured(dsn, "SELECT 1 AS one WHERE false")
    assert end.confirmed
    assert end.row_count == 0
    assert end.result is not None
    assert end.result.rows == ()
    assert end.result.problem is None


async def test_a_statement_without_rows_has_none(database: str) -> None:
    end = await captured(database, "CREATE TABLE t (i int)")
    assert end.confirmed
    assert end.result is not None
    assert end.result.rows == ()


async def test_an_error_leaves_no_rows(dsn: str) -> None:
    end = await captured(dsn, "SELECT 1 / (3 - i) FROM generate_series(1, 5) AS i")
    assert not end.confirmed
    assert end.error is not None
    assert end.error.sqlstate == "22012"


async def test_rows_that_cannot_be_read_say_why_and_take_no_outcome_with_them(database: str) -> None:
    ask(database, "CREATE FUNCTION quiet() RETURNS void LANGUAGE sql AS ''; CREATE TABLE t (i int)")
    end = await captured(database, "INSERT INTO t VALUES (1); SELECT *, quiet() FROM (SELECT 1 AS one) AS s")
    assert end.confirmed
    assert end.result is not None
    assert "void" in (end.result.problem or "")
    assert value(database, "SELECT count(*) FROM t") == 1


async def test_a_type_that_no_worker_can_send_is_named(dsn: str) -> None:
    end = await captured(dsn, "SELECT 'postgres=r/postgres'::aclitem")
    assert end.error is not None
    assert "aclitem" in end.error.message
    assert (await captured(dsn, "SELECT 'postgres=r/postgres'::aclitem", rows=0)).confirmed


async def test_a_flood_of_wanted_rows_is_read(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.monitor.LOOK_EVERY", 0.2)
    end = await captured(dsn, "SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) AS i", rows=2)
    assert end.confirmed
    assert end.row_count == 20_000
    assert end.result is not None
    assert [row[0] for row in end.result.rows] == ["1", "2"]


async def test_a_flood_from_a_table_that_the_worker_has_locked_is_read(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To describe the rows takes a lock that the worker excludes, and the worker waits for its output to be read."""
    monkeypatch.setattr("runner.gateway.monitor.LOOK_EVERY", 0.2)
    ask(database, "CREATE TABLE t AS SELECT i, repeat('x', 1000) AS x FROM generate_series(1, 1000) AS i")
    end = await captured(database, "LOCK TABLE t; SELECT * FROM t ORDER BY i", rows=1)
    assert end.confirmed
    assert end.row_count == 1000
    assert end.result is not None
    assert end.result.rows[0][0] == "1"


@pytest.mark.pg(">= 16", reason="GRANT … WITH INHERIT")
async def test_rows_of_a_role_whose_rights_are_not_inherited_are_read(
    database: str, new_role: Callable[..., str]
) -> None:
    login, owner = new_role(), new_role(grant=False)
    names = [value(dsn, "SELECT current_user") for dsn in (login, owner)]
    ask(database, f"GRANT {names[1]} TO {names[0]} WITH INHERIT FALSE, SET TRUE")
    end = await captured(login, "SELECT current_user::text AS me", role=names[1])
    assert end.confirmed
    assert end.result == Rows(columns=("me",), rows=((names[1],),))
