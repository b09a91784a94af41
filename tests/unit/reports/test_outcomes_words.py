"""What is said of a step beside its state: also from old journals, after a resumption, and at most so often."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.leftovers import UnfinishedObject
from runner.engine.state import RunState, initial_state
from runner.plan.model import Expect, Plan, Repeat, RetryPolicy, Step
from runner.reports.github import annotated
from runner.reports.live import Live
from runner.reports.messages import Verbosity, event_lines, sum_words
from runner.reports.run_end import NextCommands, run_end
from runner.run.takeover import Takeover
from tests.builders import execute, plan, step
from tests.fake_gateway import FakeGateway, Script

FAILS = Script(error=ev.ErrorDetails(message="lock timeout", sqlstate="55P03"))


def _lines(of: Step, events: Iterator[ev.Event], verbosity: Verbosity = Verbosity.NORMAL) -> list[str]:
    state = initial_state(plan(of))
    lines: list[str] = []
    for event in events:
        apply(state, event)
        lines += event_lines(event, state, verbosity, "r")
    return lines


def _iterations(seconds: float, number: int) -> Iterator[ev.Event]:
    for iteration in range(1, number + 1):
        at = iteration * seconds
        yield ev.StepReady(at=at, step="a")
        yield ev.AttemptLaunching(at=at, step="a", attempt=iteration, application_name="", timeout=60.0)
        worker = ev.Worker(pid=1, backend_start="", application_name="")
        yield ev.AttemptRunning(at=at, step="a", attempt=iteration, worker=worker)
        yield ev.AttemptFinished(
            at=at, step="a", attempt=iteration, outcome=ev.Outcome.SUCCEEDED, command_tag="DELETE", row_count=300
        )
        if iteration < number:
            yield ev.StepRepeating(at=at, step="a", next_iteration=iteration + 1, until=at)
    yield ev.StepFinished(at=number * seconds, step="a", state="succeeded")


@pytest.mark.parametrize("verbosity", [Verbosity.NORMAL, Verbosity.VERBOSE])
def test_iterations_are_announced_at_most_every_five_seconds(verbosity: Verbosity) -> None:
    repeating = step("a", "delete", repeat=Repeat(max_iterations=1000))
    lines = _lines(repeating, _iterations(0.1, 200), verbosity)
    started = [line for line in lines if ": started" in line]
    assert len(started) == 4
    assert (
        started[1]
        == "a: started, iteration 51 (timeout 1m00s; 50 iterations, DELETE 15,000 in total, 3,000 rows/s so far)"
    )
    assert len(lines) <= 5 + (12 if verbosity is Verbosity.VERBOSE else 0)
    assert lines[-1] == "a: succeeded in 19.9s (200 iterations, DELETE 60,000 in total, 3,015 rows/s)"
    slow = _lines(repeating, _iterations(6.0, 4))
    assert len([line for line in slow if ": started" in line]) == 4


@pytest.mark.parametrize(
    ("tag", "rows", "iterations", "words"),
    [
        ("DELETE", 57_840, 7, "7 iterations, DELETE 57,840 in total"),
        ("UPDATE", 0, 1, "1 iteration, UPDATE 0 in total"),
        ("DO", 0, 3, "3 iterations, DO"),
        ("", 0, 0, ""),
    ],
)
def test_a_sum(tag: str, rows: int, iterations: int, words: str) -> None:
    assert sum_words(tag, rows, iterations) == words


async def test_a_failed_repeat_says_what_it_has_done() -> None:
    p = plan(step("a", "delete", repeat=Repeat(max_iterations=3)))
    gateway = FakeGateway(scripts={"delete": Script(command_tag="DELETE", row_count=5)})
    _, record = await execute(p, gateway)
    state = _state(p, record.events)
    assert not state.records["a"].committed
    assert (state.records["a"].rows, state.records["a"].iterations) == (15, 3)


def _state(of: Plan, events: list[ev.Event]) -> RunState:
    state = initial_state(of)
    for event in events:
        apply(state, event)
    return state


async def test_committed_is_derived_from_an_old_journal_without_that_field() -> None:
    p = plan(step("a", "insert", expect=Expect(rows_min=1)), step("b", "fails"))
    gateway = FakeGateway(scripts={"insert": Script(command_tag="INSERT", row_count=0), "fails": FAILS})
    _, record = await execute(p, gateway)
    old = [
        ev.StepFinished(at=event.at, step=event.step, state=event.state, error=event.error)
        if isinstance(event, ev.StepFinished)
        else event
        for event in record.events
    ]
    for events in (record.events, old):
        state = _state(p, events)
        assert state.records["a"].committed
        assert not state.records["b"].committed


async def test_what_a_step_has_left_is_still_its_own_after_a_resumption() -> None:
    build = "CREATE INDEX CONCURRENTLY i ON t (a)"
    broken = UnfinishedObject(
        oid=5, kind="index", shown="public.i", parent="public.t", schema="public", name="i", table_schema="public",
        table="t",
    )  # fmt: skip

    class Leaving(FakeGateway):
        """Leaves an INVALID index behind from the first launch on."""

        async def unfinished_objects(self, *, in_progress: bool = False) -> tuple[UnfinishedObject, ...]:
            return (broken,) if self.launched and not in_progress else ()

    p = plan(step("a", build, retry=RetryPolicy(max_attempts=2)))
    gateway = Leaving(scripts={build: FAILS})
    _, record = await execute(p, gateway, run_id="260101-abcdef")
    assert [len(end.leftovers) for end in record.ends("a")] == [1, 1]
    lines = [
        line for event in record.events for line in event_lines(event, _state(p, record.events), Verbosity.NORMAL, "r")
    ]
    assert any("left behind so far: index public.i of public.t is INVALID" in line for line in lines)
    state = _state(p, record.events)
    _, again = await execute(p, gateway, run_id="260101-abcdef", previous_state=state, takeover=Takeover(by="ann"))
    assert [len(end.leftovers) for end in again.ends("a")] == [1, 1]


async def test_what_was_half_done_before_the_run_is_none_of_its_doing() -> None:
    build = "CREATE INDEX CONCURRENTLY i ON t (a)"
    gateway = FakeGateway(scripts={build: FAILS})
    gateway.left_unfinished = [
        UnfinishedObject(
            oid=5, kind="index", shown="i", parent="t", schema="public", name="i", table_schema="public", table="t"
        )
    ]
    _, record = await execute(plan(step("a", build)), gateway)
    assert record.end("a").leftovers == ()


async def test_warnings_stay_on_the_terminal_and_are_counted() -> None:
    warns = Script(notices=tuple(ev.Notice(severity="WARNING", message=f"gap {number}") for number in range(20)))
    p = plan(step("a", "warns"))
    _, record = await execute(p, FakeGateway(scripts={"warns": warns}))
    stream = io.StringIO()
    live, state = Live(stream, "r", color=False), initial_state(p)
    for event in record.events:
        apply(state, event)
        live.handle(event, state)
    live.close()
    assert "a: WARNING: gap 0" in stream.getvalue()
    assert "gap 19" not in stream.getvalue()
    assert state.records["a"].warnings == 20
    end = run_end(state, run_id="r", exit_code=0, seconds=1.0, commands=NextCommands())
    assert "; 20 warnings from the server" in end.summary


def test_github_says_that_the_work_is_committed() -> None:
    state = initial_state(plan(step("a", "insert")))
    error = ev.ErrorDetails(message="expected 42, got 41")
    event = ev.StepFinished(at=1.0, step="a", state="failed", error=error, committed=True)
    apply(state, ev.StepReady(at=0.0, step="a"))
    apply(state, event)
    (line,) = annotated(event, state, "r")
    assert line.endswith("::committed, but its check failed: expected 42, got 41")
