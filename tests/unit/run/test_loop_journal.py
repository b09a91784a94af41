"""What a run does for its journal, and without it: an order is durable before it is carried out, or not carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.state import RunState, StepState
from runner.errors import JournalLostError, RecordError
from runner.plan.model import OnFailure, RetryPolicy
from tests.builders import Recorder, execute, new_run, plan, step
from tests.fake_gateway import FakeGateway, Script

FULL = JournalLostError("the journal x cannot be written any more: No space left on device")
NAP = Script(seconds=0.05)


@dataclass
class Fragile:
    """A sink that breaks when `breaks` says so of an event, or of a flush (None); it notes what was asked of it."""

    breaks: Callable[[ev.Event | None], bool] = lambda _: False
    error: RecordError = FULL
    seen: list[ev.Event | None] = field(default_factory=list)
    ticks_break: bool = False

    def _take(self, what: ev.Event | None) -> None:
        if self.breaks(what):
            raise self.error
        self.seen.append(what)

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Take an event."""
        self._take(event)

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Take a flush."""
        self._take(None)
        return None

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Break if reported to."""
        if self.ticks_break:
            raise self.error

    def close(self) -> None:
        """Do nothing."""


def launching(key: str) -> Callable[[ev.Event | None], bool]:
    """Break at a step's launch."""
    return lambda what: isinstance(what, ev.AttemptLaunching) and what.step == key


class FlushAfter:
    """Break at the first flush after a step's launch was taken."""

    def __init__(self, key: str) -> None:
        self._launching = launching(key)
        self._armed = False

    def __call__(self, what: ev.Event | None) -> bool:
        """Say whether to break now."""
        if what is None:
            return self._armed
        self._armed = self._armed or self._launching(what)
        return False


async def test_all_launches_of_one_decision_are_made_durable_at_once_and_before_any_of_them() -> None:
    gateway = FakeGateway()
    launched: list[int] = []
    sink = Fragile()

    def note(what: ev.Event | None) -> bool:
        if what is None:
            launched.append(len(gateway.launched))
        return False

    sink.breaks = note
    await execute(plan(step("a", "select 1"), step("b", "select 1"), step("c", "select 1"), slots=3), gateway, sink)
    first = [type(what) for what in sink.seen if what is None or isinstance(what, ev.AttemptLaunching)][:4]
    assert first == [ev.AttemptLaunching] * 3 + [type(None)]
    assert launched[0] == 0
    assert sink.seen[-1] is None


async def test_nothing_is_flushed_while_nothing_is_ordered() -> None:
    result, record = await execute(plan(step("a", "select 1"), step("b", "select 1", needs=["a"])), FakeGateway())
    assert result.exit_code == 0
    assert record.flushes == 2 + 2  # two launches, and around the end


@pytest.mark.parametrize("breaks", [launching("b"), FlushAfter("b")], ids=["while writing", "while flushing"])
async def test_without_its_journal_a_run_launches_nothing_more_and_looks_after_what_runs(
    breaks: Callable[[ev.Event | None], bool],
) -> None:
    gateway = FakeGateway(scripts={"nap": NAP})
    steps = (
        step("long", "nap"),
        step("a", "select 1"),
        step("b", "select 1", needs=["a"]),
        step("c", "select 1", needs=["a"]),
        step("d", "select 1", needs=["long"]),
    )
    of = plan(*steps, finally_=(step("last", "select 1"),))
    result, record = await execute(of, gateway, Fragile(breaks))
    assert sorted(request.application_name.rpartition(":")[2] for request in gateway.launched) == ["a", "long"]
    assert record.outcomes() == {"long": ev.Outcome.SUCCEEDED, "a": ev.Outcome.SUCCEEDED}
    assert [event.step for event in record.of(ev.AttemptDeferred)] == ["b", "c"]
    skipped = {event.step: (event.reason, event.because) for event in record.of(ev.StepSkipped)}
    assert skipped == dict.fromkeys(("b", "c", "d", "last"), (ev.SkipReason.DRAINED, "the journal is lost"))
    assert [event.message for event in record.of(ev.RecordLost)] == [FULL.message]
    assert not record.of(ev.CapacityShort)
    assert result.record_errors == [FULL]
    assert result.exit_code == 1
    assert record.of(ev.RunFinished)[0].exit_code == 1


async def test_a_journal_lost_while_nothing_happens_is_noticed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.run.loop.TICK", 0.01)
    gateway = FakeGateway(scripts={"nap": NAP})
    run, record = new_run(
        plan(step("a", "nap"), step("b", "select 1", needs=["a"])), gateway, Fragile(ticks_break=True)
    )
    result = await run.execute()
    assert record.of(ev.RecordLost)
    assert record.outcomes() == {"a": ev.Outcome.SUCCEEDED}
    assert result.exit_code == 1


async def test_a_retry_that_cannot_be_announced_keeps_the_last_failure() -> None:
    of = plan(step("a", "select 1/0", retry=RetryPolicy(max_attempts=3)))
    sink = Fragile(lambda what: isinstance(what, ev.AttemptLaunching) and what.attempt == 2)
    result, record = await execute(of, FakeGateway(), sink)
    assert len(record.ends("a")) == 1
    assert result.state.records["a"].state is StepState.FAILED


async def test_a_lost_journal_is_no_failure_that_stops_what_runs_but_a_failure_still_is() -> None:
    gateway = FakeGateway(scripts={"nap": NAP, "forever": Script(seconds=None)})
    steps = (step("nap", "nap"), step("a", "select 1"), step("b", "select 1", needs=["a"]))
    _, record = await execute(plan(*steps, on_failure=OnFailure.CANCEL), gateway, Fragile(launching("b")))
    assert record.outcomes() == {"nap": ev.Outcome.SUCCEEDED, "a": ev.Outcome.SUCCEEDED}
    more = (
        step("forever", "forever"),
        step("fails", "pg_sleep(0.05) 1/0"),
        step("a", "select 1"),
        step("b", "select 1", needs=["a"]),
    )
    _, record = await execute(plan(*more, on_failure=OnFailure.CANCEL), gateway, Fragile(launching("b")))
    assert record.outcomes()["forever"] is ev.Outcome.CANCELLED
    kinds = [type(event) for event in record.events]
    assert kinds.index(ev.RecordLost) < kinds.index(ev.RunDraining)


async def test_a_last_line_that_is_lost_is_remembered_and_nothing_follows_the_end() -> None:
    result, record = await execute(
        plan(step("a", "select 1")), FakeGateway(), Fragile(lambda what: isinstance(what, ev.RunFinished))
    )
    assert result.record_errors == [FULL]
    assert isinstance(record.events[-1], ev.RunFinished)
    assert not record.of(ev.RecordLost)


async def test_a_lost_report_changes_nothing_for_the_run() -> None:
    broken = Fragile(lambda what: what is None, RecordError("the report is lost"))
    result, record = await execute(plan(step("a", "select 1")), FakeGateway(), broken)
    assert result.exit_code == 0
    assert not record.of(ev.RecordLost)
    assert len(result.record_errors) == 1


async def test_a_journal_that_cannot_be_closed_after_a_refusal_says_so_to_no_session() -> None:
    class Unclosable(Recorder):
        def close(self) -> None:
            raise FULL

    gateway = FakeGateway(refuses=RecordError("refused"))
    run, record = new_run(plan(step("a", "select 1")), gateway, Unclosable())
    with pytest.raises(RecordError, match="refused"):
        await run.execute()
    assert record.events == []


# --- a disk that takes its time ---------------------------------------------------------------------------------------


class SlowDisk(Fragile):
    """A sink whose flushes after the launch of `key` was announced wait until `free` is set, and may fail then."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.waiting = asyncio.Event()
        self.fails = False
        self.ticks = 0
        self._slow = launching(key)

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Wait for the disk if it is slow now."""
        return self._wait() if any(self._slow(what) for what in self.seen) else None

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Count."""
        self.ticks += 1

    async def _wait(self) -> None:
        self.waiting.set()
        await self.free.wait()
        if self.fails:
            raise self.error


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - the run sets no event
            await asyncio.sleep(0.002)


def _launched(gateway: FakeGateway) -> list[str]:
    return [request.application_name.rpartition(":")[2] for request in gateway.launched]


async def test_while_the_disk_is_slow_ends_and_ticks_are_handled_and_the_launch_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.run.loop.TICK", 0.01)
    gateway = FakeGateway(scripts={"nap": NAP})
    disk = SlowDisk("b")
    of = plan(step("long", "nap"), step("a", "select 1"), step("b", "select 1", needs=["a"]))
    run, record = new_run(of, gateway, disk)
    execution = asyncio.create_task(run.execute())
    await disk.waiting.wait()
    await _until(lambda: "long" in record.outcomes() and disk.ticks > 0)
    assert sorted(_launched(gateway)) == ["a", "long"]
    disk.free.set()
    result = await execution
    assert result.exit_code == 0
    assert _launched(gateway)[2:] == ["b"]


async def test_launches_that_come_while_the_disk_is_slow_share_the_next_flush() -> None:
    gateway = FakeGateway(scripts={"nap": NAP})
    disk = SlowDisk("b")
    of = plan(
        step("a", "select 1"),
        step("n1", "nap"),
        step("n2", "nap"),
        step("b", "select 1", needs=["a"]),
        step("c", "select 1", needs=["n1"]),
        step("d", "select 1", needs=["n2"]),
    )
    run, record = new_run(of, gateway, disk)
    execution = asyncio.create_task(run.execute())
    await _until(lambda: {"c", "d"} <= {event.step for event in record.of(ev.AttemptLaunching)})
    assert sorted(_launched(gateway)) == ["a", "n1", "n2"]
    before = record.flushes
    disk.free.set()
    assert (await execution).exit_code == 0
    assert sorted(_launched(gateway)[3:]) == ["b", "c", "d"]
    assert record.flushes == before + 1 + 2  # one for c and d, and around the end


async def test_a_slow_flush_that_fails_launches_nothing_of_what_waits() -> None:
    gateway = FakeGateway(scripts={"nap": NAP})
    disk = SlowDisk("b")
    disk.fails = True
    of = plan(
        step("a", "select 1"),
        step("n", "nap"),
        step("b", "select 1", needs=["a"]),
        step("c", "select 1", needs=["n"]),
        finally_=(step("last", "select 1"),),
    )
    run, record = new_run(of, gateway, disk)
    execution = asyncio.create_task(run.execute())
    await _until(lambda: "c" in {event.step for event in record.of(ev.AttemptLaunching)})
    disk.free.set()
    result = await execution
    assert sorted(_launched(gateway)) == ["a", "n"]
    assert [event.step for event in record.of(ev.AttemptDeferred)] == ["b", "c"]
    assert [event.message for event in record.of(ev.RecordLost)] == [FULL.message]
    assert (result.record_errors, result.exit_code) == ([FULL], 1)


async def test_a_signal_while_the_disk_is_slow_cancels_what_runs_and_then_what_was_to_be_launched() -> None:
    gateway = FakeGateway(scripts={"forever": Script(seconds=None)})
    disk = SlowDisk("b")
    of = plan(step("a", "select 1"), step("b", "forever", needs=["a"]), step("c", "select 1", needs=["b"]))
    run, record = new_run(of, gateway, disk)
    execution = asyncio.create_task(run.execute())
    await disk.waiting.wait()
    run.interrupt(2)
    await _until(lambda: bool(record.of(ev.AttemptCancelRequested, "b")))
    assert _launched(gateway) == ["a"]
    disk.free.set()
    result = await execution
    assert _launched(gateway) == ["a", "b"]
    assert record.outcomes()["b"] is ev.Outcome.CANCELLED
    assert result.exit_code == 130


async def test_a_cancel_of_a_launch_that_a_lost_journal_prevents_is_dropped() -> None:
    gateway = FakeGateway(scripts={"forever": Script(seconds=None)})
    disk = SlowDisk("b")
    disk.fails = True
    run, record = new_run(plan(step("a", "select 1"), step("b", "forever", needs=["a"])), gateway, disk)
    execution = asyncio.create_task(run.execute())
    await disk.waiting.wait()
    run.interrupt(15)
    await _until(lambda: bool(record.of(ev.AttemptCancelRequested, "b")))
    disk.free.set()
    result = await execution
    assert _launched(gateway) == ["a"]
    assert [event.step for event in record.of(ev.AttemptDeferred)] == ["b"]
    assert result.exit_code == 143


async def test_after_a_second_signal_what_waits_for_the_disk_is_not_launched() -> None:
    gateway = FakeGateway()
    disk = SlowDisk("b")
    run, record = new_run(plan(step("a", "select 1"), step("b", "select 1", needs=["a"])), gateway, disk)
    execution = asyncio.create_task(run.execute())
    await disk.waiting.wait()
    run.interrupt(2)
    run.interrupt(2)
    disk.free.set()
    result = await execution
    assert _launched(gateway) == ["a"]
    assert [(event.step, event.message) for event in record.of(ev.AttemptDeferred)] == [
        ("b", "the runner was interrupted")
    ]
    assert result.exit_code == 130


async def test_a_run_that_is_cut_short_waits_for_its_flush_and_launches_nothing() -> None:
    gateway = FakeGateway()
    disk = SlowDisk("b")
    run, record = new_run(plan(step("a", "select 1"), step("b", "select 1", needs=["a"])), gateway, disk)
    execution = asyncio.create_task(run.execute())
    await disk.waiting.wait()
    execution.cancel()
    asyncio.get_running_loop().call_soon(disk.free.set)
    with pytest.raises(asyncio.CancelledError):
        await execution
    assert record.closed
    assert _launched(gateway) == ["a"]
