"""A run that a user cancels through the server: nothing more is launched, and it reports the user."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.outcomes import settle
from runner.engine.ports import CancelRequest, GroupHolder
from runner.engine.scheduler import run_status
from runner.engine.state import StepState, initial_state
from runner.errors import GroupHeldError
from runner.plan.model import Concurrency, ForEach, Need, NeedOn, OnConflict, OnRunnerExit, Plan, RetryPolicy, Step
from runner.reports.messages import Verbosity, event_lines
from runner.reports.progress import Plain
from runner.run.loop import Run
from tests.builders import Recorder, new_run, plan, step
from tests.fake_gateway import FakeGateway, Script

BY = "alice@laptop (role dba)"
LONG = Script(seconds=None)


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the loop look for requests every few milliseconds: the fake gateway does not wake it."""
    monkeypatch.setattr("runner.run.loop.TICK", 0.01)


async def cancelled(
    run: Run, recorder: Recorder, gateway: FakeGateway, *, when: Callable[[], bool]
) -> tuple[int, dict[str, str]]:
    """Cancel the run as soon as `when` holds; return its exit code and the last states."""
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while not when():  # noqa: ASYNC110 - the run sets no event
            await asyncio.sleep(0)
        gateway.cancel_request = BY
        result = await task
    (end,) = recorder.of(ev.RunFinished)
    return result.exit_code, dict(end.steps)


async def test_a_cancelled_run_stops_wait_steps_and_detaches_detach_steps() -> None:
    gateway = FakeGateway(scripts={"long": LONG})
    steps = [
        step("a", "long"),
        step("stays", "long", on_runner_exit=OnRunnerExit.DETACH),
        step("away", "long", detach=True),
        step("later", "SELECT 1", needs=["a"]),
    ]
    run, recorder = new_run(plan(*steps), gateway)
    code, states = await cancelled(run, recorder, gateway, when=lambda: len(recorder.of(ev.AttemptRunning)) == 3)
    assert code == 1
    assert states == {"a": "cancelled", "stays": "cancelled", "away": "detached", "later": "skipped"}
    assert [event.by for event in recorder.of(ev.RunCancelled)] == [BY]
    assert gateway.answers == [(None, 4)]
    reasons = {event.step: event.reason for event in recorder.of(ev.AttemptCancelRequested)}
    assert reasons == {"a": ev.CancelReason.CANCEL, "stays": ev.CancelReason.CANCEL}
    (skipped,) = recorder.of(ev.StepSkipped)
    assert (skipped.reason, skipped.because) in [
        (ev.SkipReason.UPSTREAM, "a cancelled"),
        (ev.SkipReason.DRAINED, f"cancelled by {BY}"),
    ]


async def test_finally_runs_and_is_reported() -> None:
    gateway = FakeGateway(scripts={"long": LONG})
    of = plan(step("a", "long"), finally_=(step("note", "SELECT :'run.status'"),))
    run, recorder = new_run(of, gateway)
    code, states = await cancelled(run, recorder, gateway, when=lambda: bool(recorder.of(ev.AttemptRunning)))
    assert (code, states) == (1, {"a": "cancelled", "note": "succeeded"})
    assert gateway.launched[-1].sql == "SELECT 'cancelled'"
    assert run_status(run.state) == "cancelled"


async def test_finally_is_stopped_by_a_cancel_of_its_own() -> None:
    gateway = FakeGateway(scripts={"long": LONG})
    of = plan(step("a", "SELECT 1"), finally_=(step("note", "long"),))
    run, recorder = new_run(of, gateway)
    code, states = await cancelled(run, recorder, gateway, when=lambda: bool(recorder.of(ev.AttemptRunning, "note")))
    assert (code, states) == (1, {"a": "succeeded", "note": "cancelled"})


async def test_what_waits_for_a_retry_keeps_its_failure() -> None:
    gateway = FakeGateway()
    run, recorder = new_run(plan(step("a", "SELECT 1/0", retry=RetryPolicy(max_attempts=2, delay=3600.0))), gateway)
    code, states = await cancelled(run, recorder, gateway, when=lambda: bool(recorder.of(ev.StepRetrying)))
    assert (code, states) == (1, {"a": "failed"})


async def test_a_cancel_when_nothing_runs_is_no_success() -> None:
    gateway = FakeGateway(capacity=0)
    run, recorder = new_run(plan(step("a", "SELECT 1")), gateway)
    code, states = await cancelled(run, recorder, gateway, when=lambda: bool(recorder.of(ev.CapacityShort)))
    assert (code, states) == (1, {"a": "skipped"})


async def test_a_run_that_waits_for_its_group_can_be_cancelled() -> None:
    gateway = FakeGateway(held_by=GroupHolder(run="other", host="h", since="s"))
    gateway.cancel_request = BY
    of = plan(step("a", "SELECT 1"), concurrency=Concurrency(group="g", on_conflict=OnConflict.WAIT))
    run, recorder = new_run(of, gateway)
    with pytest.raises(GroupHeldError, match=r"cancelled by alice@laptop \(role dba\) while run other holds"):
        await run.execute()
    assert recorder.events == []
    assert gateway.answers == [(None, 1)]


@pytest.mark.parametrize("outcome", [ev.Outcome.CANCELLED, ev.Outcome.UNKNOWN])
def test_a_step_that_another_session_cancelled_does_not_run_again(outcome: ev.Outcome) -> None:
    run, _ = new_run(plan(step("a", "x", idempotent=True, retry=RetryPolicy(max_attempts=5))), FakeGateway())
    record = run.state.records["a"]
    record.attempt = 1
    record.last = ev.AttemptFinished(at=1.0, step="a", attempt=1, outcome=outcome, cancelled_by=BY)
    settled = settle(run.state, record, 2.0)
    assert isinstance(settled, ev.StepFinished)
    assert settled.state == StepState(outcome.value)


async def without(of: Plan, gateway: FakeGateway, key: str, *, when: type[ev.Event]) -> tuple[int, Recorder]:
    """Have a step stopped when an event of this kind has been recorded; return the exit code and what was recorded."""
    run, recorder = new_run(of, gateway)
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while not recorder.of(when):  # noqa: ASYNC110 - the run sets no event
            await asyncio.sleep(0)
        gateway.step_cancels.append(CancelRequest(run="", step=key, by=BY, key="1"))
        return (await task).exit_code, recorder


FAILS = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))


@pytest.mark.parametrize(
    ("steps", "when", "message"),
    [
        (
            [step("a", "fails", retry=RetryPolicy(max_attempts=2, delay=3600.0))],
            ev.StepRetrying,
            "before attempt 2 (attempt 1: no)",
        ),
        ([step("b", "0.5", priority=1), step("a", "select 1")], ev.StepQueued, "before it started"),
        ([step("b", "0.5"), step("a", "select 1", needs=["b"])], ev.AttemptRunning, "before it started"),
    ],
    ids=["between attempts", "queued", "pending"],
)
async def test_a_step_without_a_worker_can_be_cancelled(steps: list[Step], when: type[ev.Event], message: str) -> None:
    gateway = FakeGateway(scripts={"fails": FAILS, "0.5": Script(seconds=0.5)})
    last = step("after", "select 2", needs=[Need(step="a", on=NeedOn.DONE)])
    code, recorder = await without(plan(*steps, last, slots=1), gateway, "a", when=when)
    assert code == 1
    (asked,) = recorder.of(ev.StepCancelRequested)
    assert (asked.step, asked.by) == ("a", BY)
    (end,) = recorder.of(ev.StepFinished, "a")
    assert end.state == "cancelled"
    assert end.error is not None
    assert end.error.message == f"{BY} cancelled the step {message}"
    assert [launched.sql for launched in gateway.launched if launched.sql in ("select 1", "fails")] in ([], ["fails"])
    assert recorder.of(ev.StepFinished, "after")[0].state == "succeeded"
    assert gateway.answers == [("a", 1)]


async def test_a_step_that_runs_is_stopped_by_its_runner_too() -> None:
    gateway = FakeGateway(scripts={"long": LONG})
    code, recorder = await without(plan(step("a", "long"), step("b", "select 1")), gateway, "a", when=ev.AttemptRunning)
    assert code == 1
    assert [event.reason for event in recorder.of(ev.AttemptCancelRequested)] == [ev.CancelReason.CANCEL]
    assert recorder.outcomes() == {"a": ev.Outcome.CANCELLED, "b": ev.Outcome.SUCCEEDED}


async def test_a_request_for_a_step_means_its_instances() -> None:
    each = step("a", "long", for_each=ForEach(as_="t", items=("x", "y", "z")))
    gateway = FakeGateway(scripts={"long": LONG})
    code, recorder = await without(plan(each, slots=1), gateway, "a", when=ev.AttemptRunning)
    assert code == 1
    assert [event.step for event in recorder.of(ev.StepCancelRequested)] == ["a[x]", "a[y]", "a[z]"]
    assert len(gateway.launched) == 1
    assert gateway.answers == [("a", 3)]
    state, reported = initial_state(plan(each, slots=1)), io.StringIO()
    sink = Plain(reported, "260101-abcdef", Verbosity.NORMAL)
    for event in recorder.events:
        apply(state, event)
        sink.handle(event, state)
    (line,) = (line for line in reported.getvalue().splitlines() if "Z a: " in line and "cancelled" in line)
    assert f" by {BY}" in line
    assert "another session" not in line


async def test_a_step_whose_instances_ctrl_c_has_stopped_blames_no_session() -> None:
    each = step("a", "long", for_each=ForEach(as_="t", items=("x", "y")))
    run, recorder = new_run(plan(each), FakeGateway(scripts={"long": LONG}))
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while len(recorder.of(ev.AttemptRunning)) < 2:  # noqa: ASYNC110 - the run sets no event
            await asyncio.sleep(0)
        run.interrupt(2)
        state = (await task).state
    (end,) = recorder.of(ev.StepFinished, "a")
    assert "by " not in "".join(event_lines(end, state, Verbosity.NORMAL, "260101-abcdef"))


async def test_a_request_for_what_is_not_there_or_over_is_answered() -> None:
    gateway = FakeGateway(scripts={"long": Script(seconds=0.3)})
    gateway.step_cancels = [CancelRequest(run="", step="typo", by=BY, key="1")]
    code, recorder = await without(plan(step("a", "select 1"), step("b", "long")), gateway, "a", when=ev.StepFinished)
    assert code == 0
    assert not recorder.of(ev.StepCancelRequested)
    assert gateway.answers == [("typo", None), ("a", 0)]
