"""Rows that only the worker's own session can describe are read, as PostgreSQL writes them."""

from __future__ import annotations

import pytest

from runner.engine.events import Rows
from runner.engine.ports import LaunchRequest
from runner.engine.worker_text import launched_text, plan_position, plan_text
from tests.integration.gateway_setups import RealSetup, ask, run_one

_TEMP = "CREATE TEMP TABLE w (id int, at date, note text); INSERT INTO w VALUES (1, '2026-01-02', NULL)"


@pytest.mark.parametrize(
    ("sql", "columns", "row"),
    [
        (f"{_TEMP}; SELECT count(*) FROM w", ("count",), ("1",)),
        (f"{_TEMP}; SELECT id, at AS d, note, id = 1, at::text FROM w", ("id", "d", "note", "?column?", "at"),
         ("1", "2026-01-02", None, "t", "2026-01-02")),
        (f"{_TEMP}; SELECT id FROM w UNION ALL SELECT 2 ORDER BY 1 DESC LIMIT 1", ("id",), ("2",)),
        (f"{_TEMP}; WITH x AS (SELECT id FROM w) SELECT max(id), array_agg(id) FROM x -- a comment",
         ("max", "array_agg"), ("1", "{1}")),
        (f"{_TEMP}; INSERT INTO w VALUES (7) RETURNING id, note", ("id", "note"), ("7", None)),
        (f"{_TEMP}; SELECT nullif(1, 2), xmlelement(name x), json_object('a': 1), extract(day FROM at) FROM w",
         ("nullif", "xmlelement", "json_object", "extract"), ("1", "<x/>", '{"a" : 1}', "2")),
        (f"{_TEMP}; VALUES (1, 'a')", ("column1", "column2"), ("1", "a")),
        (f"{_TEMP}; SELECT (SELECT id FROM w), EXISTS (SELECT 1), CASE WHEN true THEN 1 END, inet '10.0.0.1'",
         ("id", "exists", "case", "inet"), ("1", "t", "1", "10.0.0.1")),
        (f"{_TEMP}; SELECT 'a'::char(3), true FROM w", ("bpchar", "?column?"), ("a  ", "t")),
        (f"{_TEMP}; SELECT coalesce(note, 'x'), greatest(1, 2), ARRAY[1], ROW(1, NULL), quiet() FROM w FOR UPDATE",
         ("coalesce", "greatest", "array", "row", "quiet"), ("x", "2", "{1}", "(1,)", "")),
        ("SET LOCAL search_path TO other; SELECT x FROM t", ("x",), ("of other",)),
        ("SELECT set_config('search_path', 'other', true); SELECT x FROM t", ("x",), ("of other",)),
        ("SET LOCAL search_path TO other; SELECT * FROM t", ("x",), ("of other",)),
        ("SET search_path TO nowhere, 'other'; TABLE t", ("x",), ("of other",)),
        ("SELECT set_config('search_path', 'other', true); SELECT t.* FROM t", ("x",), ("of other",)),
        ("DO $$ BEGIN CREATE TEMP TABLE made AS SELECT 5 AS five; END $$; SELECT five FROM made", ("five",), ("5",)),
        ("ALTER TABLE t RENAME TO u; SELECT x FROM u", ("x",), ("1",)),
        ("ALTER TABLE t ALTER x TYPE text USING x || '!'; SELECT x FROM t", ("x",), ("1!",)),
        ("ALTER TABLE t RENAME x TO y; ALTER TABLE t RENAME TO v; SELECT y FROM v", ("y",), ("1",)),
        ("CREATE TABLE gone (g int); INSERT INTO gone VALUES (3); SELECT drops() FROM gone", ("drops",), ("1",)),
    ],
)  # fmt: skip
async def test_rows_are_read_whatever_the_text_has_changed_before(
    database: str, sql: str, columns: tuple[str, ...], row: tuple[str | None, ...]
) -> None:
    ask(
        database,
        "CREATE TABLE t (x int); INSERT INTO t VALUES (1); CREATE SCHEMA other; CREATE TABLE other.t (x text); "
        "INSERT INTO other.t VALUES ('of other'); CREATE FUNCTION quiet() RETURNS void LANGUAGE plpgsql AS "
        "'BEGIN END'; CREATE FUNCTION drops() RETURNS int LANGUAGE plpgsql AS "
        "'BEGIN DROP FUNCTION drops(); RETURN 1; END'",
    )
    async with RealSetup(database, "text") as setup:
        end = await run_one(setup, sql, rows=5)
    assert end.confirmed, end
    assert end.result == Rows(columns=columns, rows=(row,))
    assert end.command_tag == ("INSERT" if "RETURNING" in sql else "SELECT")
    assert end.row_count == 1


async def test_all_rows_are_counted_and_only_those_that_are_wanted_are_kept(database: str) -> None:
    async with RealSetup(database, "text") as setup:
        sql = f"{_TEMP}; SELECT i, NULL FROM w, generate_series(1, 20000) AS i ORDER BY i DESC"
        end = await run_one(setup, sql, rows=2, output_buffer=2_048)
    assert end.result is not None
    assert end.result.rows == (("20000", None), ("19999", None))
    assert end.row_count in (20_000, None)


async def test_an_error_in_such_a_statement_has_its_place_in_the_plan(database: str) -> None:
    sql = "CREATE TEMP TABLE w (id int); SELECT id, nope FROM w"
    async with RealSetup(database, "text") as setup:
        end = await run_one(setup, sql, rows=1)
    assert end.error is not None
    assert end.error.sqlstate == "42703"
    assert end.error.position == sql.index("nope") + 1


def test_what_the_server_shows_is_the_plans_own_text() -> None:
    sql = "CREATE TEMP TABLE w (id int); INSERT INTO w VALUES (1); SELECT id, 2 FROM w"
    request = LaunchRequest(sql=sql, application_name="a", rows=1, as_text=True)
    launched = launched_text(request)
    assert launched != sql
    assert plan_text(launched) == sql
    assert plan_text(launched[: launched.index("FROM w") + 6]) == sql
    place = launched.index("id, 2")
    assert plan_position(request, "", place + 1) == sql.index("id, 2") + 1
    assert plan_position(request, "", launched.index("jobplan_rows") + 1) is None
