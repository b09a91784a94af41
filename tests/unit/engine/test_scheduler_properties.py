"""What holds for every plan, whatever happens to it: thousands of small random runs on a virtual clock.

A failure names the seed; `PLANS` times `BLOCKS` seeds are drawn with a plain generator, because that is fast, and a few
hundred with hypothesis, because that one shrinks.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.for_each_items import parts_of
from runner.engine.scheduler import run_status
from runner.engine.simulation import Simulation
from runner.engine.state import BAD, StepRecord, StepState, initial_state
from tests.unit.inspector import Inspector
from tests.unit.random_runs import World, random_plan

BLOCKS, PLANS = 10, 1000
#: The first block is enough to find most mistakes; the others are for CI.
ALL = [pytest.param(block, marks=[pytest.mark.slow] if block else []) for block in range(BLOCKS)]


def check_run(random: Random) -> Simulation:
    """Draw a plan and a world, run the plan in it, and check everything that must hold."""
    plan = random_plan(random)
    world = World(random, plan)
    run = world.run(plan, watch=Inspector(plan))
    assert all(record.final for record in run.state.records.values())
    assert [*run.state.active, *run.state.checking, *run.state.cleared, *run.state.used] == []
    assert all(earlier.at <= later.at for earlier, later in zip(run.events, run.events[1:], strict=False))
    again = initial_state(plan)
    for event in run.events:
        apply(again, event)
    assert again == run.state
    for record in run.state.records.values():
        check_end(run, record)
    check_exit_code(run)
    check_items(run)
    return run


def check_items(run: Simulation) -> None:
    """No item of a for_each is lost, and none is done twice: not in two chunks, and not in its chunk and by itself."""
    records = run.state.records
    done: Counter[str] = Counter()
    for event in run.events:
        if isinstance(event, ev.AttemptFinished) and event.outcome is ev.Outcome.SUCCEEDED:
            record = records[event.step]
            if record.parent is not None and record.step.repeat is None:
                done.update(item.key for item in record.chunk or (ev.Item(key=record.key, values={}),))
    assert not [key for key, times in done.items() if times > 1]
    for record in records.values():
        if record.instances is not None and record.chunk:
            assert record.instances == tuple(item.key for item in record.chunk)
    for event in run.events:
        if isinstance(event, ev.StepExpanded):
            for_each = records[event.step].step.for_each
            size = (for_each.chunk if for_each is not None else None) or 1
            assert all(len(parts_of(item)) == size for item in event.items[:-1])
            keys = [one.key for item in event.items for one in parts_of(item)]
            assert len(set(keys)) == len(keys)
            check_chains(run, records[event.step], keys)


def check_chains(run: Simulation, record: StepRecord, keys: list[str]) -> None:
    """Each item of a group has all steps of the chain; a group without for_each is one such item."""
    records, group = run.state.records, record.step
    if not group.steps or group.for_each is not None:
        assert record.instances is not None
        assert [one.key for key in record.instances for one in records[key].chunk or (records[key],)] == keys
    for owner in [] if not group.steps else keys if group.for_each is not None else [record.key]:
        assert records[owner].instances == tuple(f"{owner}.{inner.id}" for inner in group.steps)


def check_end(run: Simulation, record: StepRecord) -> None:
    """A step's last state has evidence; nothing but an interrupt of its own keeps a finally step from its turn."""
    records, last = run.state.records, record.last
    if record.instances is not None:
        states = {records[key].state for key in record.instances}
        assert (record.state in BAD) is bool(states & BAD)
        assert (record.skip is not None) is (
            not states & BAD and any(was_drained(records[k]) for k in record.instances)
        )
    elif record.state is StepState.SUCCEEDED:
        assert last is not None
        confirmed = last.outcome is ev.Outcome.SUCCEEDED
        verified = last.outcome is ev.Outcome.UNKNOWN and record.verdict is ev.Verdict.PROCEED
        assert confirmed or verified
    elif record.state in (StepState.UNKNOWN, StepState.TIMED_OUT, StepState.DETACHED):
        assert last is not None
    elif record.state is StepState.FAILED and (last is None or last.outcome is not ev.Outcome.FAILED):
        finish = next(e for e in reversed(run.events) if isinstance(e, ev.StepFinished) and e.step == record.key)
        assert finish.error is not None, f"{record.key} failed without a word"
    if record.in_finally and was_drained(record):
        assert run.state.finally_interrupted or run.state.finally_cancelled


def was_drained(record: StepRecord) -> bool:
    return record.skip is not None and record.skip.reason is ev.SkipReason.DRAINED


def check_exit_code(run: Simulation) -> None:
    """The exit code and run.status follow from what the events report."""
    last = run.events[-1]
    assert isinstance(last, ev.RunFinished)
    states = set(last.steps.values())
    interrupted = any(isinstance(event, ev.RunInterrupted) for event in run.events)
    cancelled = any(isinstance(event, ev.RunCancelled) for event in run.events)
    timed_out = any(isinstance(event, ev.RunTimedOut) for event in run.events)
    bad_main = any(record.state in BAD and not record.in_finally for record in run.state.records.values())
    if interrupted:
        expected = (130, "interrupted")
    elif timed_out:
        expected = (5, "timed_out")
    elif cancelled:
        expected = (7 if "unknown" in states else 1, "cancelled")
    else:
        code = 7 if "unknown" in states else int(bool(states & {str(state) for state in BAD}))
        expected = (code, "failed" if bad_main else "succeeded")
    assert (last.exit_code, run_status(run.state)) == expected


@functools.cache
def checked_block(block: int) -> Counter[str]:
    """Check the runs of a block, and count what happened in them."""
    seen: Counter[str] = Counter()
    for seed in range(block * PLANS, (block + 1) * PLANS):
        try:
            seen.update(what_happened(check_run(Random(seed))))  # noqa: S311 - a reproducible generator is wanted
        except (AssertionError, LookupError, RuntimeError) as error:
            pytest.fail(f"check_run(Random({seed})): {error!r}")
    return seen


@pytest.mark.parametrize("block", ALL)
def test_every_run_keeps_the_rules(block: int) -> None:
    assert checked_block(block)["run_finished"] == PLANS


@settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_every_run_keeps_the_rules_and_shrinks(random: Random) -> None:
    run = check_run(random)
    assert isinstance(run.events[-1], ev.RunFinished)


def test_the_random_runs_meet_every_rule() -> None:
    """The generator is worth its time only if everything that can happen does happen in it."""
    wanted = {
        *("step_queued", "step_queue_timed_out", "step_retrying", "attempt_deferred", "attempt_detach_requested"),
        *("run_timed_out", "run_draining", "run_interrupted", "capacity_short", "capacity_restored", "patience over"),
        *("succeeded", "failed", "timed_out", "cancelled", "detached", "unknown", "skipped", "failed_allowed"),
        *("condition", "upstream", "drained", "not_selected", "exit 0", "exit 1", "exit 5", "exit 7", "exit 130"),
        *("cancel interrupt", "cancel on_failure", "cancel run_timeout", "cancel timeout"),
        *("before proceed", "before skip", "before fail", "before error", "items error"),
        *("gave way", "conditions evaluated again", "stopped by its condition"),
        *("after proceed", "after fail", "after error", "after again", "step_repeating", "no items", "4 items"),
        *("finally after interrupted", "finally after timed_out", "finally after failed", "finally interrupted"),
        *("run_cancelled", "step_cancel_requested", "cancel cancel", "finally after cancelled", "finally cancelled"),
        *("asked before it was begun", "asked before another attempt", "asked while it ran"),
        *("attempt_preparing", "step_split", "a chunk succeeded", "a chunk failed", "an item of a chunk succeeded"),
        *("an instance detached", "an instance drained", "an instance skipped by condition"),
        *("hold_began", "hold_ended", "step_hold_timed_out", "attempt_blocking", "cancel yielded", "reason held"),
        *("reason yielded", "attempt yielded", "queued by a hold", "committed in spite of a yield"),
        *("a step of an item skipped by upstream", "a step of an item succeeded", "an item failed", "an item drained"),
        "a step of a group without items succeeded",
    }
    assert wanted <= checked_block(0).keys()


def what_happened(run: Simulation) -> Iterator[str]:
    yield from _evaluations(run)
    yield from _holds_and_yields(run)
    for event in run.events:
        yield event.name
        match event:
            case ev.AttemptCancelRequested():
                yield f"cancel {event.reason}"
            case ev.StepChecked():
                yield f"{event.phase} {event.verdict}"
            case ev.StepExpanded():
                yield f"{len(event.items) or 'no'} items"
            case ev.RunFinished():
                yield f"exit {event.exit_code}"
            case _:
                pass
    for record in run.state.records.values():
        yield str(record.state)
        yield str(record.skip.reason) if record.skip else "not skipped"
        if record.parent is not None:
            yield f"an instance {f'skipped by {record.skip.reason}' if record.skip else record.state}"
            yield "an instance drained" if was_drained(record) else "an instance not drained"
            yield from _of_chain(run, record)
        if record.overtaken >= run.state.overtake_limit:
            yield "patience over"
        if record.in_finally and record.attempt:
            yield f"finally after {run_status(run.state)}"
        yield _asked(record)
        if record.chunk:
            yield f"a chunk {record.state}"
        if record.parent is not None and run.state.records[record.parent].chunk:
            yield f"an item of a chunk {record.state}"
    yield f"finally {'interrupted' if run.state.finally_interrupted else 'not interrupted'}"
    yield f"finally {'cancelled' if run.state.finally_cancelled else 'not cancelled'}"


def _holds_and_yields(run: Simulation) -> Iterator[str]:
    for record in run.state.records.values():
        if record.blocking is not None and record.state is StepState.SUCCEEDED:
            yield "committed in spite of a yield"
    for event in run.events:
        match event:
            case ev.StepFinished() if event.reason is not None:
                yield f"reason {event.reason}"
            case ev.AttemptFinished() if event.reason is not None:
                yield f"attempt {event.reason}"
            case ev.StepQueued() if event.reason.startswith("hold "):
                yield "queued by a hold"
            case _:
                pass


def _evaluations(run: Simulation) -> Iterator[str]:
    evaluated = [e.step for e in run.events if isinstance(e, ev.StepChecking) and e.phase is ev.CheckPhase.BEFORE]
    if len(evaluated) > len(set(evaluated)):
        yield "conditions evaluated again"
    for event in run.events:
        match event:
            case ev.StepQueued(reason="its conditions are still being evaluated"):
                yield "gave way"
            case ev.StepFinished() if event.because:
                yield "stopped by its condition"
            case _:
                pass


def _of_chain(run: Simulation, record: StepRecord) -> Iterator[str]:
    how = f"skipped by {record.skip.reason}" if record.skip else str(record.state)
    if record.instances is not None:
        yield f"an item {'drained' if was_drained(record) else how}"
    elif record.parent is not None and run.state.records[record.parent].parent is not None:
        yield f"a step of an item {how}"
    elif record.parent is not None and run.state.records[record.parent].step.steps:
        yield f"a step of a group without items {how}"


def _asked(record: StepRecord) -> str:
    if record.cancelled_by is None or record.instances is not None:
        return "not asked"
    if record.cancel_reason is not None:
        return "asked while it ran"
    return "asked before it was begun" if record.last is None else "asked before another attempt"
