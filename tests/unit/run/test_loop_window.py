"""The loop under a window, on a gateway whose clock a test sets."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from runner.clock import MonotonicClock
from runner.engine import events as ev
from runner.errors import OutsideWindowError
from runner.plan.model import AtEnd, Fit, Outside, Window
from runner.run.loop import Run
from tests.builders import Recorder, execute, new_run, plan, step
from tests.fake_gateway import FakeGateway, Script
from tests.unit.run.test_loop import Trap

DAY, HOUR = 86_400, 3_600
FOREVER = Script(seconds=None)


def around_now(opens: int, closes: int, **keys: object) -> Window:
    """Return a window that opens and closes so many seconds from now, every day."""
    seconds = int((datetime.now(UTC) - datetime.now(UTC).replace(hour=0, minute=0, second=0)).total_seconds())
    return Window(timezone="UTC", from_=(seconds + opens) % DAY, to=(seconds + closes) % DAY, **keys)  # type: ignore[arg-type]  # any key


async def test_a_run_outside_is_refused_before_anything_is_recorded() -> None:
    gateway = FakeGateway()
    run, record = new_run(plan(step("a", "select 1"), window=around_now(HOUR, 2 * HOUR)), gateway)
    with pytest.raises(OutsideWindowError, match="nothing was started"):
        await run.execute()
    assert record.events == []
    assert gateway.launched == []
    assert gateway.closed


async def test_the_clock_of_the_server_and_the_durations_are_recorded_first() -> None:
    gateway = FakeGateway()
    gateway.ahead = 5 * HOUR
    window = around_now(4 * HOUR, 6 * HOUR, fit=Fit.P50)
    result, record = await execute(plan(step("a", "select 1"), window=window), gateway, usual={"a": 2.0})
    assert result.exit_code == 0
    kinds = [type(event) for event in record.events[:4]]
    assert kinds == [ev.RunStarted, ev.ServerClock, ev.UsualDurations, ev.WindowOpened]
    assert record.of(ev.ServerClock)[0].ahead == 5 * HOUR
    request = gateway.launched[0]
    assert request.launch_between is not None
    opens, closes = request.launch_between
    assert opens <= time.time() + 5 * HOUR < closes


@pytest.mark.parametrize("at_end", AtEnd)
async def test_a_clock_that_jumps_over_the_end_closes_the_window(at_end: AtEnd) -> None:
    gateway = FakeGateway(scripts={"long": FOREVER if at_end is AtEnd.CANCEL else Script(seconds=0.2)})

    def jump() -> None:
        gateway.ahead = gateway.clock_ahead = 3.0 * HOUR

    trap = Trap(ev.AttemptRunning, jump)
    steps = (step("a", "long"), step("b", "select 2", needs=["a"]))
    of = plan(*steps, window=around_now(-HOUR, HOUR, at_end=at_end), finally_=(step("z", "select 3"),))
    result, record = await execute(of, gateway, trap)
    assert result.exit_code == 8
    assert len(record.of(ev.ServerClock)) == 2
    assert len(record.of(ev.WindowClosed)) == 1
    assert [request.sql for request in gateway.launched] == ["long", "select 3"]
    assert [cancel.reason for cancel in record.of(ev.AttemptCancelRequested)] == (
        [ev.CancelReason.WINDOW] if at_end is AtEnd.CANCEL else []
    )
    (skipped,) = record.of(ev.StepSkipped)
    assert (skipped.step, skipped.reason) == ("b", ev.SkipReason.WINDOW)


async def test_a_launch_that_the_server_s_clock_refuses_is_no_shortage_of_workers() -> None:
    gateway = FakeGateway()

    def jump() -> None:
        gateway.ahead = 3.0 * HOUR  # the loop has not measured it yet

    def measured() -> None:
        gateway.clock_ahead = 3.0 * HOUR

    traps = (Trap(ev.WindowOpened, jump), Trap(ev.AttemptDeferred, measured))
    result, record = await execute(plan(step("a", "select 1"), window=around_now(-HOUR, HOUR)), gateway, *traps)
    assert result.exit_code == 8
    assert gateway.launched == []
    (deferred,) = record.of(ev.AttemptDeferred)
    assert deferred.outside_window
    assert record.of(ev.CapacityShort) == []
    assert [type(event) for event in record.events[-3:]] == [ev.WindowClosed, ev.StepSkipped, ev.RunFinished]


async def test_a_window_that_closes_before_the_run_has_begun_is_not_waited_for_until_tomorrow() -> None:
    gateway = FakeGateway()

    def take_long() -> None:
        gateway.ahead = gateway.clock_ahead = 2.0 * HOUR

    of = plan(step("a", "select 1"), window=around_now(-HOUR, HOUR))
    run, record = new_run(of, gateway, Trap(ev.RunStarted, take_long))
    result = await run.execute()
    assert result.exit_code == 8
    assert gateway.launched == []
    assert [type(event) for event in record.events if not isinstance(event, ev.StepEvent)][-3:] == [
        ev.WindowOpened,
        ev.WindowClosed,
        ev.RunFinished,
    ]


async def test_nothing_is_announced_if_the_window_closes_after_the_decision() -> None:
    class Late(MonotonicClock):
        """A clock on which two hours pass between a decision to launch and its announcement."""

        armed = calls = 0

        def now(self) -> float:
            self.calls += self.armed
            return super().now() + (2 * HOUR if self.calls > 1 else 0)

    clock, gateway = Late(), FakeGateway()

    def arm() -> None:
        clock.armed = 1

    of = plan(step("a", "select 1"), window=around_now(-HOUR, HOUR))
    run, record = new_run(of, gateway, Trap(ev.StepReady, arm), clock=clock)
    result = await run.execute()
    assert result.exit_code == 8
    assert gateway.launched == []
    assert record.of(ev.AttemptLaunching) == []


async def test_a_wait_for_the_opening_ends_with_the_run_timeout() -> None:
    window = around_now(HOUR, 2 * HOUR, outside=Outside.WAIT)
    result, record = await execute(plan(step("a", "select 1"), window=window, run_timeout=0.2), FakeGateway())
    assert result.exit_code == 5
    assert isinstance(record, Recorder)
    assert len(record.of(ev.WindowWaiting)) == 1


async def test_a_wait_for_the_opening_can_be_interrupted() -> None:
    window = around_now(HOUR, 2 * HOUR, outside=Outside.WAIT)
    runs: list[Run] = []
    trap = Trap(ev.StepQueued, lambda: runs[0].interrupt(2))
    run, record = new_run(plan(step("a", "x"), window=window), FakeGateway(), trap)
    runs.append(run)
    result = await run.execute()
    assert result.exit_code == 130
    assert record.of(ev.AttemptLaunching) == []
