"""The loop on a gateway without a server: interrupts, sinks that fail, tasks that crash, and no event lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from runner.clock import MonotonicClock
from runner.engine import events as ev
from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.state import RunState, StepState
from runner.errors import ConnectionFailedError, RecordError, ServerLostError
from runner.plan.model import OnFailure, OnRunnerExit
from tests.builders import Recorder, execute, new_run, plan, step
from tests.fake_gateway import FakeGateway, FakeWorker, Script

FOREVER = Script(seconds=None)
STUBBORN = Script(seconds=None, stops_on_cancel=False)


def world(**keys: Script | int) -> FakeGateway:
    """Return a gateway; each key but `capacity` is a SQL text of one word and what it does."""
    capacity = keys.pop("capacity", 64)
    assert isinstance(capacity, int)
    return FakeGateway(capacity=capacity, scripts={name: s for name, s in keys.items() if isinstance(s, Script)})


@dataclass
class Trap:
    """A sink that calls something when an event of one kind has been seen."""

    kind: type[ev.Event]
    spring: Callable[[], None]
    key: str | None = None
    sprung: bool = False

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Spring once."""
        if not self.sprung and isinstance(event, self.kind) and self.key in (None, getattr(event, "step", None)):
            self.sprung = True
            self.spring()

    def flush(self) -> None:
        """Do nothing."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass
class Failing:
    """A sink that cannot keep an event of one kind."""

    kind: type[ev.Event]
    error: Exception
    seen: list[ev.Event] = field(default_factory=list)
    fails_to_close: bool = False

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Fail at the kind."""
        if isinstance(event, self.kind):
            raise self.error
        self.seen.append(event)

    def flush(self) -> None:
        """Do nothing."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Fail if reported to."""
        if self.fails_to_close:
            raise self.error


# --- the ordinary way -------------------------------------------------------------------------------------------------


async def test_a_plan_runs_in_the_order_of_its_needs() -> None:
    gateway = FakeGateway()
    result, record = await execute(plan(step("a", "select 1"), step("b", "select 2", needs=["a"])), gateway)
    assert result.exit_code == 0
    assert [request.sql for request in gateway.launched] == ["select 1", "select 2"]
    assert record.outcomes() == {"a": ev.Outcome.SUCCEEDED, "b": ev.Outcome.SUCCEEDED}
    assert isinstance(record.events[0], ev.RunStarted)
    assert isinstance(record.events[-1], ev.RunFinished)
    assert record.closed
    assert gateway.closed


async def test_a_launch_is_recorded_before_it_is_done() -> None:
    gateway = FakeGateway()
    launched_before: list[int] = []
    trap = Trap(ev.AttemptLaunching, lambda: launched_before.append(len(gateway.launched)))
    await execute(plan(step("a", "select 1")), gateway, trap)
    assert launched_before == [0]


async def test_notices_come_in_order_and_before_the_end() -> None:
    text = "do $$ raise notice 'one'; raise warning 'two'; raise info 'three' $$"
    _, record = await execute(plan(step("a", text)), FakeGateway())
    assert [(notice.severity, notice.message) for notice in record.notices("a")] == [
        ("NOTICE", "one"),
        ("WARNING", "two"),
        ("INFO", "three"),
    ]
    kinds = [type(event) for event in record.events if isinstance(event, ev.AttemptEvent)]
    assert kinds[-4:] == [ev.AttemptNotice] * 3 + [ev.AttemptFinished]


async def test_a_thousand_steps_never_take_more_than_the_slots() -> None:
    gateway = FakeGateway()
    steps = [step(f"s{number}", "select 1") for number in range(1000)]
    result, record = await execute(plan(*steps, slots=7), gateway)
    assert result.exit_code == 0
    assert len(record.of(ev.StepFinished)) == 1000
    assert gateway.most_alive <= 7


async def test_an_unknown_parameter_fails_its_step_only() -> None:
    gateway = FakeGateway()
    result, record = await execute(plan(step("a", "select :nothing"), step("b", "select 1")), gateway)
    assert result.exit_code == 1
    error = record.end("a").error
    assert error is not None
    assert "nothing" in error.message
    assert record.outcomes()["b"] is ev.Outcome.SUCCEEDED


async def test_the_run_ends_while_a_detached_worker_continues() -> None:
    gateway = world(forever=FOREVER)
    result, record = await execute(plan(step("long", "forever", detach=True), step("a", "select 1")), gateway)
    assert result.exit_code == 0
    assert record.outcomes() == {"a": ev.Outcome.SUCCEEDED, "long": ev.Outcome.DETACHED}
    assert len(gateway.alive) == 1
    assert record.end("long").deadline is not None


async def test_run_timeout_cancels_what_waits_and_detaches_what_does_not() -> None:
    gateway = world(forever=FOREVER)
    steps = (step("a", "forever", timeout=None), step("d", "forever", detach=True))
    result, record = await execute(plan(*steps, run_timeout=0.05), gateway)
    assert result.exit_code == 5
    assert record.outcomes() == {"a": ev.Outcome.TIMED_OUT, "d": ev.Outcome.DETACHED}


async def test_on_failure_cancel_stops_what_runs() -> None:
    gateway = world(forever=FOREVER)
    steps = (step("long", "forever"), step("bad", "select 1/0"), step("later", "select 1", needs=["long"]))
    result, record = await execute(plan(*steps, on_failure=OnFailure.CANCEL), gateway)
    assert result.exit_code == 1
    assert record.outcomes() == {"long": ev.Outcome.CANCELLED, "bad": ev.Outcome.FAILED}


# --- a server that has nothing to give, or is not there ---------------------------------------------------------------


async def test_a_server_without_workers_is_said_once_and_every_step_runs() -> None:
    gateway = FakeGateway(capacity=2)
    steps = [step(f"s{number}", "select pg_sleep(0.01)") for number in range(12)]
    result, record = await execute(plan(*steps, slots=6), gateway)
    assert result.exit_code == 0
    assert len(record.of(ev.CapacityShort)) == 1
    assert gateway.most_alive == 2


async def test_a_step_that_never_gets_a_worker_fails_by_its_queue_timeout() -> None:
    result, record = await execute(plan(step("a", "select 1", queue_timeout=0.05)), FakeGateway(capacity=0))
    assert result.exit_code == 1
    assert record.of(ev.StepQueueTimedOut)
    assert not record.ends("a")


async def test_nothing_happens_if_the_server_refuses() -> None:
    gateway = FakeGateway(refuses=ConnectionFailedError("connection refused"))
    run, record = new_run(plan(step("a", "select 1")), gateway)
    with pytest.raises(ConnectionFailedError, match="refused"):
        await run.execute()
    assert not record.events
    assert record.closed


async def test_a_launch_that_was_never_sent_is_a_failure_and_not_unknown() -> None:
    class Gone(FakeGateway):
        async def launch(self, request: LaunchRequest) -> FakeWorker:
            raise ServerLostError(f"no server for {request.application_name}")

    result, record = await execute(plan(step("a", "select 1")), Gone())
    assert result.exit_code == 1
    assert record.outcomes() == {"a": ev.Outcome.FAILED}


async def test_a_lost_session_makes_the_outcome_unknown() -> None:
    gateway = world(lost=Script(seconds=0.01, loses_session=True))
    result, record = await execute(plan(step("a", "lost"), step("b", "select 1", needs=["a"])), gateway)
    assert result.exit_code == 7
    assert record.outcomes() == {"a": ev.Outcome.UNKNOWN}
    assert record.of(ev.AttemptLost, "a")
    error = record.end("a").error
    assert error is not None
    assert "launcher session is lost" in error.message


# --- workers that cannot be stopped -----------------------------------------------------------------------------------

STUBBORN = Script(seconds=None, stops_on_cancel=False, unstoppable=True)


async def test_a_worker_that_cannot_be_stopped_ends_the_run_with_7_and_nothing_more_starts() -> None:
    gateway = world(stubborn=STUBBORN)
    steps = (
        step("a", "stubborn"),
        step("later", "select 1", needs=["a"]),
        step("retried", "stubborn", exclusive=frozenset({"x"})),
        step("excluded", "select 1", exclusive=frozenset({"x"}), needs=["retried"]),
    )
    stop = Trap(ev.AttemptRunning, lambda: run.interrupt(int(signal.SIGTERM)), key="retried")
    run, record = new_run(plan(*steps), gateway, stop)
    result = await run.execute()
    assert result.exit_code == 7
    assert record.outcomes() == {}
    assert {event.step for event in record.events if isinstance(event, ev.AttemptUnstoppable)} == {"a", "retried"}
    assert not record.of(ev.AttemptLaunching, "later")
    assert result.state.records["a"].state is StepState.RUNNING


async def test_other_workers_are_waited_for_beside_one_that_cannot_be_stopped() -> None:
    gateway = world(stubborn=STUBBORN, slow=Script(seconds=0.5))
    steps = (step("a", "stubborn"), step("b", "slow"), step("c", "select 1", needs=["b"]))
    stop = Trap(ev.AttemptRunning, lambda: run.interrupt(int(signal.SIGTERM)), key="a")
    run, record = new_run(plan(*steps), gateway, stop)
    result = await run.execute()
    assert result.exit_code == 7
    assert record.outcomes() == {"b": ev.Outcome.CANCELLED}


# --- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_first_interrupt_applies_on_runner_exit_and_waits(number: signal.Signals, code: int) -> None:
    gateway = world(forever=FOREVER)
    steps = (
        step("stop", "forever"),
        step("leave", "forever", on_runner_exit=OnRunnerExit.DETACH),
        step("later", "select 1", needs=["stop"]),
    )
    stop = Trap(ev.AttemptRunning, lambda: run.interrupt(int(number)), key="leave")
    run, record = new_run(plan(*steps), gateway, stop)
    result = await run.execute()
    assert result.exit_code == code
    assert record.outcomes() == {"stop": ev.Outcome.CANCELLED, "leave": ev.Outcome.DETACHED}
    assert run.state.records["later"].state is StepState.SKIPPED
    assert [worker.worker is not None for worker in gateway.alive.values()] == [True]


async def test_the_second_interrupt_stops_waiting() -> None:
    gateway = world(stubborn=STUBBORN)
    first = Trap(ev.AttemptRunning, lambda: run.interrupt(2))
    second = Trap(ev.AttemptCancelRequested, lambda: run.interrupt(2))
    run, record = new_run(plan(step("a", "stubborn")), gateway, first, second)
    result = await run.execute()
    assert result.exit_code == 130
    (finished,) = record.of(ev.RunFinished)
    assert finished.steps == {"a": "running"}
    assert gateway.alive
    assert gateway.closed


async def test_an_interrupt_before_the_connection_launches_nothing() -> None:
    gateway = FakeGateway()
    run, record = new_run(plan(step("a", "select 1")), gateway)
    run.interrupt(2)
    result = await run.execute()
    assert result.exit_code == 130
    assert not gateway.launched
    assert record.of(ev.StepSkipped, "a")


async def test_a_worker_that_is_being_asked_for_is_cancelled_once_it_is_there() -> None:
    class Slow(FakeGateway):
        def __init__(self) -> None:
            super().__init__(scripts={"forever": FOREVER})
            self.asked = asyncio.Event()
            self.gate = asyncio.Event()

        async def launch(self, request: LaunchRequest) -> FakeWorker:
            self.asked.set()
            await self.gate.wait()
            return await super().launch(request)

    gateway = Slow()
    run, record = new_run(plan(step("a", "forever")), gateway, Trap(ev.AttemptCancelRequested, gateway.gate.set))
    task = asyncio.create_task(run.execute())
    await gateway.asked.wait()
    run.interrupt(2)
    assert (await task).exit_code == 130
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED}
    assert not gateway.alive


async def test_what_is_known_when_the_second_interrupt_comes_is_recorded() -> None:
    class Ending(FakeWorker):
        async def wait_until_ended(self, **_: object) -> WorkerEnd:
            # The signal arrives after the end is known and before the loop has had its turn.
            asyncio.get_running_loop().call_soon(run.interrupt, 2)
            return WorkerEnd(confirmed=True, command_tag="SELECT")

    class Gateway(FakeGateway):
        async def launch(self, request: LaunchRequest) -> FakeWorker:
            return Ending(self, request, Script(), pid=1, refusal=None)

    stop = Trap(ev.AttemptLaunching, lambda: run.interrupt(2))
    run, record = new_run(plan(step("a", "select 1")), Gateway(), stop)
    await run.execute()
    assert record.outcomes() == {"a": ev.Outcome.SUCCEEDED}


# --- sinks that fail, tasks that crash --------------------------------------------------------------------------------


async def test_a_sink_that_fails_is_left_out_and_remembered() -> None:
    failing = Failing(ev.AttemptLaunching, RecordError("the disk is full"))
    result, record = await execute(plan(step("a", "select 1")), FakeGateway(), failing)
    assert [error.message for error in result.record_errors] == ["the disk is full"]
    assert not any(isinstance(event, ev.RunFinished) for event in failing.seen)
    assert record.of(ev.RunFinished)


async def test_a_sink_that_fails_to_close_is_remembered_and_the_others_are_closed() -> None:
    failing = Failing(ev.RunTimedOut, RecordError("cannot close"), fails_to_close=True)
    after = Recorder()
    result, record = await execute(plan(step("a", "select 1")), FakeGateway(), failing, after)
    assert [error.message for error in result.record_errors] == ["cannot close"]
    assert record.closed
    assert after.closed


async def test_a_crash_while_a_worker_is_followed_ends_the_run_as_the_bug_that_it_is() -> None:
    gateway = world(crash=Script(crash=KeyError("bug")), forever=FOREVER)
    run, record = new_run(plan(step("a", "crash"), step("b", "forever")), gateway)
    with pytest.raises(KeyError, match="bug"):
        await run.execute()
    assert gateway.closed
    assert record.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_sink_with_a_bug_ends_the_run_and_everything_is_closed() -> None:
    gateway = world(forever=FOREVER)
    failing, after = Failing(ev.AttemptRunning, ZeroDivisionError("bug")), Recorder()
    run, record = new_run(plan(step("a", "forever")), gateway, failing, after)
    with pytest.raises(ZeroDivisionError):
        await run.execute()
    assert gateway.closed
    assert record.closed
    assert after.closed


async def test_a_gateway_that_cannot_be_closed_does_not_keep_the_sinks_open() -> None:
    class Leaky(FakeGateway):
        async def close(self) -> None:
            raise ServerLostError("cannot close")

    run, record = new_run(plan(step("a", "select 1")), Leaky())
    with pytest.raises(ServerLostError):
        await run.execute()
    assert record.closed


async def test_a_run_that_is_cancelled_leaves_no_task_behind() -> None:
    gateway = world(forever=FOREVER)
    running = asyncio.Event()
    run, record = new_run(plan(step("a", "forever")), gateway, Trap(ev.AttemptRunning, running.set))
    task = asyncio.create_task(run.execute())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gateway.closed
    assert record.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- ticks ------------------------------------------------------------------------------------------------------------


async def test_sinks_are_given_the_time_however_much_happens() -> None:
    class Hurrying(MonotonicClock):
        """A clock on which every look takes a third of a second."""

        def __init__(self) -> None:
            super().__init__()
            self.time = 0.0

        def now(self) -> float:
            self.time += 1 / 3
            return self.time

    steps = [step(f"s{number}", "select 1", timeout=None) for number in range(50)]
    run, record = new_run(plan(*steps), FakeGateway(), clock=Hurrying())
    await run.execute()
    assert record.ticks > 10
