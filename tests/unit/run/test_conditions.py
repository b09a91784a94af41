"""What a step's SQL conditions say, on a server that answers from a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.for_each_items import MAX_ITEMS
from runner.engine.ports import Query, QueryResult
from runner.engine.state import StepRecord, new_record
from runner.errors import Position, ServerLostError
from runner.plan.model import Check, Expect, ForEach, Repeat, Sql, Value
from runner.run.conditions import Conditions
from tests.fake_gateway import FakeGateway
from tests.unit.simulated_runs import step

BEFORE, AFTER, ITEMS = ev.CheckPhase.BEFORE, ev.CheckPhase.AFTER, ev.CheckPhase.ITEMS
V = ev.Verdict
YES, NO, NULL = (QueryResult(columns=("b",), rows=((said,),), boolean=True) for said in ("t", "f", None))
NO_ROW = QueryResult(columns=("b",), boolean=True)
TWO_ROWS = QueryResult(columns=("b",), rows=(("t",), ("t",)), boolean=True)
NUMBER = QueryResult(columns=("n", "m"), rows=(("1", "2"),))
NOTHING = QueryResult()
DENIED = QueryResult(error=ev.ErrorDetails(message="permission denied", sqlstate="42501", hint="ask"))


class Scripted(FakeGateway):
    """A server that knows what to say to each query."""

    def __init__(self, answers: Mapping[str, QueryResult]) -> None:
        super().__init__(answers=answers)
        self.asked: list[Query] = []

    async def query(self, query: Query) -> QueryResult:
        self.asked.append(query)
        if query.sql == "lost":
            raise ServerLostError("the server has gone")
        return await super().query(query)


def sql(text: str) -> Sql:
    return Sql(text=text, start=Position(file="", line=1, column=1))


def record(outcome: ev.Outcome | None = None, **keys: Any) -> StepRecord:
    found = new_record(step("a", **keys), (0, 0, 0, 0))
    if outcome is not None:
        found.last = ev.AttemptFinished(at=0.0, step="a", attempt=1, outcome=outcome)
    return found


async def ask(
    of: StepRecord,
    phase: ev.CheckPhase,
    answers: Mapping[str, QueryResult],
    values: Mapping[str, Value | None] | None = None,
) -> tuple[Any, list[str]]:
    """Return the event and what was asked."""
    server = Scripted(answers)
    event = await Conditions(server, of, values or {}).evaluate(phase, 7.0)
    assert (event.at, event.step) == (7.0, "a")
    return event, [query.sql for query in server.asked]


CHECKS = (Check(sql=sql("one"), message="first"), Check(sql=sql("two"), message="second"))
UNTIL = Repeat(max_iterations=9, until_sql=sql("done"))
LATE: Mapping[str, Any] = {"repeat": UNTIL, "expect": Expect(sql=sql("fine")), "verify": sql("there")}


@pytest.mark.parametrize(
    ("keys", "answers", "verdict", "message", "asked"),
    [
        ({"if_": sql("if")}, {"if": YES}, V.PROCEED, None, ["if"]),
        ({"if_": sql("if")}, {"if": NO}, V.SKIP, None, ["if"]),
        ({"if_": sql("if")}, {"if": NULL}, V.SKIP, None, ["if"]),
        ({"if_": sql("if")}, {"if": NO_ROW}, V.SKIP, None, ["if"]),
        ({"if_": sql("if")}, {"if": TWO_ROWS}, V.ERROR, "if must return one row, but returns 2", ["if"]),
        ({"if_": sql("if")}, {"if": NUMBER}, V.ERROR, "if must return one boolean, but returns n, m", ["if"]),
        ({"if_": sql("if")}, {"if": NOTHING}, V.ERROR, "if must return one boolean, but returns no columns", ["if"]),
        ({"if_": sql("if")}, {"if": DENIED}, V.ERROR, "if: permission denied", ["if"]),
        ({"if_": sql("lost")}, {}, V.ERROR, "the server has gone", ["lost"]),
        ({"preconditions": CHECKS}, {"one": YES, "two": YES}, V.PROCEED, None, ["one", "two"]),
        ({"preconditions": CHECKS}, {"one": YES, "two": NO}, V.FAIL, "second", ["one", "two"]),
        ({"preconditions": CHECKS}, {"one": NULL}, V.FAIL, "first", ["one"]),
        ({"preconditions": CHECKS}, {"one": DENIED}, V.ERROR, "preconditions: permission denied", ["one"]),
        ({"if_": sql("if"), "preconditions": CHECKS}, {"if": NO}, V.SKIP, None, ["if"]),
        ({"if_": sql("if"), "preconditions": CHECKS}, {"if": YES, "one": NO}, V.FAIL, "first", ["if", "one"]),
    ],
)
async def test_before(
    keys: dict[str, Any],
    answers: dict[str, QueryResult],
    verdict: ev.Verdict,
    message: str | None,
    asked: list[str],
) -> None:
    event, were_asked = await ask(record(**keys), BEFORE, answers)
    assert (event.verdict, event.error and event.error.message, were_asked) == (verdict, message, asked)


@pytest.mark.parametrize(
    ("outcome", "answers", "verdict", "message", "asked"),
    [
        (ev.Outcome.SUCCEEDED, {"done": NO}, V.AGAIN, None, ["done"]),
        (ev.Outcome.SUCCEEDED, {"done": DENIED}, V.ERROR, "repeat.until: permission denied", ["done"]),
        (ev.Outcome.SUCCEEDED, {"done": YES, "fine": NO}, V.FAIL, "expect.sql is false: fine", ["done", "fine"]),
        (
            ev.Outcome.SUCCEEDED,
            {"done": YES, "fine": YES, "there": NO},
            V.FAIL,
            "verify is false: there",
            ["done", "fine", "there"],
        ),
        (
            ev.Outcome.SUCCEEDED,
            {"done": YES, "fine": YES, "there": YES},
            V.PROCEED,
            None,
            ["done", "fine", "there"],
        ),
        (ev.Outcome.UNKNOWN, {"there": YES}, V.PROCEED, None, ["there"]),
        (ev.Outcome.UNKNOWN, {"there": NO}, V.FAIL, "verify is false: there", ["there"]),
    ],
)
async def test_after(
    outcome: ev.Outcome,
    answers: dict[str, QueryResult],
    verdict: ev.Verdict,
    message: str | None,
    asked: list[str],
) -> None:
    event, were_asked = await ask(record(outcome, **LATE), AFTER, answers)
    assert (event.verdict, event.error and event.error.message, were_asked) == (verdict, message, asked)


async def test_an_error_keeps_what_the_server_said() -> None:
    event, _ = await ask(record(if_=sql("if")), BEFORE, {"if": DENIED})
    assert (event.error.sqlstate, event.error.hint) == ("42501", "ask")


async def test_a_false_condition_is_shown_on_one_short_line() -> None:
    long = "select\n" + "x" * 500
    event, _ = await ask(record(ev.Outcome.SUCCEEDED, verify=sql(long)), AFTER, {long: NO})
    assert event.error.message == f"verify is false: select {'x' * 192}…"


async def test_a_condition_names_the_item_and_is_asked_as_the_step_would_run() -> None:
    of = record(if_=sql("select :'t'"), role="auditor", search_path="app")
    server = Scripted({"select 'x'": YES})
    await Conditions(server, of, {"t": "x"}).evaluate(BEFORE, 7.0)
    assert server.asked == [Query(sql="select 'x'", role="auditor", search_path="app", before_launch=True)]


async def test_a_value_that_a_condition_cannot_have_is_an_error_of_the_condition() -> None:
    event, asked = await ask(record(if_=sql('select :"t"')), BEFORE, {}, {"t": None})
    assert (event.verdict, asked) == (V.ERROR, [])
    assert event.error.message.startswith("if: ")


# --- items ------------------------------------------------------------------------------------------------------------

EACH: Mapping[str, Any] = {"for_each": ForEach(as_="t", sql=sql("q"))}


async def test_items_of_a_query() -> None:
    answer = QueryResult(columns=("c", "d"), rows=(("x", "1"), ("y", None)))
    event, _ = await ask(record(**EACH), ITEMS, {"q": answer})
    assert [(item.key, dict(item.values)) for item in event.items] == [
        ("a[x,1]", {"t.c": "x", "t.d": "1"}),
        ("a[y,NULL]", {"t.c": "y", "t.d": None}),
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (DENIED, "for_each: permission denied"),
        (NOTHING, "for_each: the query returns no columns, so it has no items"),
        (QueryResult(rows=((), ())), "for_each: the query returns no columns, so it has no items"),
        (QueryResult(columns=("?column?",)), "for_each: its columns need unique names, and one has no name"),
        (QueryResult(columns=("c", "c")), "for_each: its columns need unique names, and c is the name of several"),
        (
            QueryResult(columns=("c",), rows=(("x",),) * (MAX_ITEMS + 1)),
            "for_each: the query returns 10,001 items; the limit is 10,000",
        ),
    ],
)
async def test_items_that_cannot_be_had(answer: QueryResult, message: str) -> None:
    event, _ = await ask(record(**EACH), ITEMS, {"q": answer})
    assert (event.phase, event.verdict, event.error.message) == (ITEMS, V.ERROR, message)


async def test_as_many_items_as_there_may_be() -> None:
    answer = QueryResult(columns=("c",), rows=(("x",),) * MAX_ITEMS)
    event, _ = await ask(record(**EACH), ITEMS, {"q": answer})
    assert len({item.key for item in event.items}) == MAX_ITEMS


async def test_a_query_of_items_may_give_none() -> None:
    event, _ = await ask(record(**EACH), ITEMS, {"q": QueryResult(columns=("c",))})
    assert event.items == ()
