"""How much a loop has left: rows of its table by the statistics, at the speed so far."""

from __future__ import annotations

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import Query, QueryResult
from runner.engine.state import RunState, initial_state
from runner.plan.model import Carried, ParamType, Repeat
from runner.reports.messages import iteration_words, loop_lines
from runner.reports.worker_activity import estimate
from runner.sql.carried_rows import changed_table
from tests.builders import execute, plan, step
from tests.fake_gateway import FakeGateway

LOOP = step("fill", "UPDATE t SET v = 1", repeat=Repeat(max_iterations=1000))


def after(iterations: int, *, table_rows: int | None, rows: int = 1000) -> RunState:
    """Return the state after so many iterations of ten seconds, in the middle of the next one."""
    state = initial_state(plan(LOOP))
    apply(state, ev.StepReady(at=0.0, step="fill"))
    for number in range(1, iterations + 2):
        at = (number - 1) * 10.0
        apply(state, ev.AttemptLaunching(at=at, step="fill", attempt=number, application_name="", timeout=60.0))
        if number == 1 and table_rows is not None:
            apply(state, ev.StepRowsEstimated(at=at, step="fill", table="t", rows=table_rows))
        if number <= iterations:
            ended = ev.AttemptFinished(
                at=at + 10,
                step="fill",
                attempt=number,
                outcome=ev.Outcome.SUCCEEDED,
                command_tag="UPDATE",
                row_count=rows,
            )
            apply(state, ended)
            apply(state, ev.StepRepeating(at=at + 10, step="fill", next_iteration=number + 1, until=at + 10))
    return state


def test_the_rest_of_a_loop_is_what_its_table_has_left_at_its_speed() -> None:
    state = after(3, table_rows=9_000)
    words = iteration_words(state.records["fill"], 30.0)
    assert words == "iteration 4 of at most 1000, at most 1m00s left, UPDATE 3,000 of about 9,000, 100 rows/s"
    assert list(loop_lines(state, 30.0)) == [f"fill: {words}"]


def test_nothing_is_estimated_without_statistics_without_a_speed_or_beyond_the_table() -> None:
    for state, now in ((after(3, table_rows=None), 30.0), (after(0, table_rows=9_000), 5.0)):
        assert "left" not in iteration_words(state.records["fill"], now)
    beyond = iteration_words(after(3, table_rows=2_000).records["fill"], 30.0)
    assert beyond == "iteration 4 of at most 1000, UPDATE 3,000, 100 rows/s"


def test_the_usual_duration_of_a_loop_counts_from_its_first_iteration() -> None:
    assert estimate(after(3, table_rows=9_000), 35.0, lambda _: 100.0) == pytest.approx(65.0)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("UPDATE t SET v = 1", "t"),
        ('DELETE FROM "A b".t WHERE id < 5', '"A b".t'),
        ("WITH batch AS (UPDATE s.t SET v = 1 WHERE id > 5 RETURNING id) SELECT max(id) FROM batch", "s.t"),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", "t"),
        ("SELECT pg_sleep(1); UPDATE t SET v = 1", "t"),
        ("UPDATE t SET v = 1; SELECT 1", "t"),
        ("INSERT INTO t SELECT * FROM u LIMIT 5", None),
        ("SELECT 1", None),
        ("CALL p()", None),
        ("no SQL", None),
    ],
)
def test_the_table_whose_rows_are_changed(text: str, table: str | None) -> None:
    found = changed_table(text)
    assert (None if found is None else found.replace('"t"', "t").replace('"s"', "s")) == table


async def test_the_statistics_are_asked_once_before_the_first_iteration() -> None:
    asked: list[str] = []

    class Gateway(FakeGateway):
        async def query(self, query: Query) -> QueryResult:
            if "reltuples" in query.sql:
                asked.append(query.sql)
                return QueryResult(columns=("t", "rows"), rows=(("public.t", "500"),))
            return await super().query(query)

    carry = {"last_id": Carried(type=ParamType.INTEGER, start=0)}
    for repeat in (Repeat(max_iterations=3), Repeat(max_iterations=3, carry=carry)):
        asked.clear()
        loop = step("fill", "UPDATE t SET v = 1 RETURNING 1 AS last_id", repeat=repeat)
        _, recorder = await execute(plan(loop, step("once", "UPDATE t SET v = 1")), Gateway())
        assert len(asked) == 1
        (event,) = recorder.of(ev.StepRowsEstimated)
        assert (event.step, event.table, event.rows) == ("fill", "public.t", 500)
