"""How each event changes the state of a run.

`apply` is the only thing that changes a `RunState`, and it reads nothing but the event, so that the same events give
the same state in a live run, from a journal, and in a simulated schedule.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from typing import Any

from runner.engine import events as ev
from runner.engine.state import BAD, RunState, StepRecord, StepState
from runner.plan.model import NeedOn

#: Seconds between two attempts to get more workers from a server that has just refused one.
PROBE_INTERVAL = 1.0


def apply(state: RunState, event: ev.Event) -> None:
    """Change `state` by what the event says. Events that only inform change nothing."""
    match event:
        case ev.StepEvent():
            change = _APPLY_TO_STEP.get(type(event))
            if change is not None:
                change(state, state.records[event.step], event)
        case ev.RunStarted():
            state.started_at = event.at
        case ev.RunInterrupted():
            state.interrupted = event.signal
        case ev.RunTimedOut():
            state.timed_out = True
        case ev.RunDraining():
            state.drained_by = event.step
        case ev.CapacityShort():
            state.short_told = True
        case ev.CapacityRestored():
            state.short_told = False
            state.short_message = None
        case ev.RunFinished():
            state.finished = event
        case _:
            pass


def _step_ready(state: RunState, record: StepRecord, event: ev.StepReady) -> None:
    state.released.pop(record.key, None)
    state.retrying.pop(record.key, None)
    record.ready_at = event.at
    record.overtaken = 0
    _make_ready(state, record, event.at)


def _step_queued(state: RunState, record: StepRecord, event: ev.StepQueued) -> None:
    state.fresh.pop(record.key, None)
    _move(record, StepState.QUEUED, event.at)
    record.queued_because = event.reason


def _step_skipped(state: RunState, record: StepRecord, event: ev.StepSkipped) -> None:
    record.skip = event
    _finish(state, record, StepState.SKIPPED, event.at)


def _step_queue_timed_out(state: RunState, record: StepRecord, event: ev.StepQueueTimedOut) -> None:
    _unready(state, record)
    record.queue_timed_out = True
    _settle(state, record, event.at)


def _step_retrying(state: RunState, record: StepRecord, event: ev.StepRetrying) -> None:
    state.settling.pop(record.key, None)
    state.retrying[record.key] = None
    record.retry_at = event.until
    _move(record, StepState.RETRYING, event.at)


def _step_finished(state: RunState, record: StepRecord, event: ev.StepFinished) -> None:
    _finish(state, record, StepState(event.state), event.at)


def _attempt_launching(state: RunState, record: StepRecord, event: ev.AttemptLaunching) -> None:
    _unready(state, record)
    state.used.update(record.needs)
    state.active[record.key] = None
    record.attempt = event.attempt
    record.launched_at = event.at
    record.started_at = event.at if record.started_at is None else record.started_at
    record.timeout = event.timeout
    record.worker = None
    record.cancel_reason = None
    record.detaching = False
    record.lost = False
    for key in event.overtook:
        state.records[key].overtaken += 1
    _move(record, StepState.LAUNCHING, event.at)


def _attempt_deferred(state: RunState, record: StepRecord, event: ev.AttemptDeferred) -> None:
    """Back into the queue; the attempt did not happen, so its number is free again."""
    _release(state, record)
    record.attempt -= 1
    state.ceiling = len(state.active)
    state.probe_at = event.at + PROBE_INTERVAL
    state.short_message = event.message
    _make_ready(state, record, event.at)


def _attempt_running(state: RunState, record: StepRecord, event: ev.AttemptRunning) -> None:
    record.worker = event.worker
    _move(record, StepState.RUNNING, event.at)
    _capacity_grew(state)


def _attempt_cancel_requested(_: RunState, record: StepRecord, event: ev.AttemptCancelRequested) -> None:
    record.cancel_reason = event.reason


def _attempt_detach_requested(_: RunState, record: StepRecord, __: ev.AttemptDetachRequested) -> None:
    record.detaching = True


def _attempt_lost(_: RunState, record: StepRecord, __: ev.AttemptLost) -> None:
    record.lost = True


def _attempt_finished(state: RunState, record: StepRecord, event: ev.AttemptFinished) -> None:
    _capacity_grew(state)
    _release(state, record)
    record.last = event
    record.worker = event.worker or record.worker
    record.ended_at = event.at
    _settle(state, record, event.at)


#: What each event does to the record of its step; an event that is not here only informs.
_APPLY_TO_STEP: Mapping[type[ev.StepEvent], Callable[[RunState, StepRecord, Any], None]] = {
    ev.StepReady: _step_ready,
    ev.StepQueued: _step_queued,
    ev.StepSkipped: _step_skipped,
    ev.StepQueueTimedOut: _step_queue_timed_out,
    ev.StepRetrying: _step_retrying,
    ev.StepFinished: _step_finished,
    ev.AttemptLaunching: _attempt_launching,
    ev.AttemptDeferred: _attempt_deferred,
    ev.AttemptRunning: _attempt_running,
    ev.AttemptCancelRequested: _attempt_cancel_requested,
    ev.AttemptDetachRequested: _attempt_detach_requested,
    ev.AttemptLost: _attempt_lost,
    ev.AttemptFinished: _attempt_finished,
}


def _move(record: StepRecord, to: StepState, at: float) -> None:
    record.state = to
    record.since = at


def _make_ready(state: RunState, record: StepRecord, at: float) -> None:
    _move(record, StepState.READY, at)
    group = state.ready.setdefault(frozenset(record.needs.items()), [])
    bisect.insort(group, (record.rank, record.key))
    state.fresh[record.key] = None
    if record.step.queue_timeout is not None:
        state.queue_timed[record.key] = None


def _unready(state: RunState, record: StepRecord) -> None:
    state.fresh.pop(record.key, None)
    state.queue_timed.pop(record.key, None)
    signature = frozenset(record.needs.items())
    group = state.ready.get(signature, [])
    place = bisect.bisect_left(group, (record.rank, record.key))
    if place < len(group) and group[place][1] == record.key:
        del group[place]
        if not group:
            del state.ready[signature]


def _release(state: RunState, record: StepRecord) -> None:
    state.used.subtract(record.needs)
    state.active.pop(record.key, None)


def _capacity_grew(state: RunState) -> None:
    """A worker exists beyond what the server last gave: the shortage is over."""
    if state.ceiling is not None and len(state.active) > state.ceiling:
        state.ceiling = None


def _settle(state: RunState, record: StepRecord, at: float) -> None:
    _move(record, StepState.SETTLING, at)
    state.settling[record.key] = None


def _finish(state: RunState, record: StepRecord, to: StepState, at: float) -> None:
    _unready(state, record)
    for index in (state.released, state.settling, state.retrying):
        index.pop(record.key, None)
    _move(record, to, at)
    state.unfinished -= 1
    if to in BAD and state.first_bad is None:
        state.first_bad = record.key
    for key, on in state.dependents[record.key]:
        dependent = state.records[key]
        dependent.unmet -= 1
        certain = dependent.unmet == 0 or not need_met(on, to, record.skip)
        if certain and dependent.state is StepState.PENDING:
            state.released[key] = None


def need_met(on: NeedOn, state: StepState, skip: ev.StepSkipped | None) -> bool:
    """Say whether a step that ended in `state` lets a dependent start that needs it `on`.

    A step skipped by its own condition counts as a success: there was nothing to do.
    """
    if on is NeedOn.DONE:
        return True
    if on is NeedOn.FAILURE:
        return state in BAD
    if state is StepState.SKIPPED:
        return skip is not None and skip.reason is ev.SkipReason.CONDITION
    return state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)
