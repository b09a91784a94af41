"""What a step sends does not fill the journal: texts of errors and captured rows have limits, and the rest is said."""

from __future__ import annotations

from runner.engine import events as ev
from runner.engine.event_json import to_line
from runner.engine.size_limits import ROWS_BYTES, TEXT_BYTES, VALUE_BYTES, limited_rows, limited_text
from tests.builders import plan, step
from tests.integration.gateway_setups import run_plan

BIG = "repeat('x', 30000000)"
FAILS = f"""
    DO $$ BEGIN RAISE EXCEPTION '%', {BIG} USING DETAIL = {BIG}, HINT = {BIG}; END $$
"""


async def test_errors_and_captured_rows_of_megabytes_are_cut_and_say_so(dsn: str) -> None:
    steps = [
        step("fails", FAILS),
        step("wide", f"SELECT {BIG} AS a, n, NULL AS b FROM generate_series(1, 3) AS n", capture_rows=3),
        step("verified", "SELECT 1"),
    ]
    _, record = await run_plan(dsn, plan(*steps))
    ends = {event.step: event for event in record.of(ev.AttemptFinished)}
    error = ends["fails"].error
    assert error is not None
    for text in (error.message, error.detail, error.hint):
        assert text is not None
        assert len(text) < TEXT_BYTES + 100
        assert text.endswith("more bytes were left out)")
    result = ends["wide"].result
    assert result is not None
    assert [row[1:] for row in result.rows] == [("1", None), ("2", None), ("3", None)]
    assert {len(row[0] or "") for row in result.rows} == {VALUE_BYTES}
    assert result.cut == 3 * (30_000_000 - VALUE_BYTES)
    assert sum(len(to_line(event, "r")) for event in record.events) < 1_000_000


async def test_small_rows_are_captured_as_postgresql_writes_them(dsn: str) -> None:
    sql = "SELECT true AS a, 1.50 AS b, ROW(NULL, NULL) AS c, '{1,NULL}'::int[] AS d, ''::text, NULL::text, 'ä'"
    _, record = await run_plan(dsn, plan(step("a", sql, capture_rows=1)))
    (end,) = record.of(ev.AttemptFinished)
    assert end.result is not None
    assert end.result.rows == (("t", "1.50", "(,)", "{1,NULL}", "", None, "ä"),)
    assert end.result.cut is None


def test_a_text_is_cut_between_characters() -> None:
    text = "ä" * 10
    assert limited_text(text, 20) == text
    assert limited_text(text, 7) == "äää… (14 more bytes were left out)"


def test_rows_share_a_limit() -> None:
    value = "x" * VALUE_BYTES
    rows = limited_rows(ev.Rows(columns=("a",), rows=((value,),) * 20))
    assert sum(len(row[0] or "") for row in rows.rows) == ROWS_BYTES
    assert rows.cut == 4 * VALUE_BYTES
