"""What to do next: a pure function of the plan's state and the time.

`decide` looks at the indices that the state keeps, so its cost is that of what changes, not of the plan's size. It
returns facts that follow by themselves (a step is ready, skipped, finished), orders to perform, and the next moment at
which it wants to be asked even if nothing happens. Who of those that wait gets what is free, `queueing` says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from runner.engine import events as ev
from runner.engine.commands import Cancel, Command, Detach, Evaluate
from runner.engine.items import literal_items
from runner.engine.needs import need_met
from runner.engine.queueing import HOLD_FOR, gives_way_at, launches, waits_again, why_queued
from runner.engine.settling import last_word, not_begun, settle
from runner.engine.state import BAD, HOLDING, SLOTS, RunState, StepRecord, StepState
from runner.plan.model import OnFailure, OnRunnerExit

#: States of a step that may start as soon as there is room, or as its time has come.
_WAITING = frozenset({StepState.READY, StepState.QUEUED, StepState.RETRYING})
#: Seconds that a worker gets beyond its server-side timeout before the runner cancels it.
GRACE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Facts to record first, then orders; `wake_at` is in seconds since the epoch, None if only an event can matter."""

    events: tuple[ev.Event, ...] = ()
    commands: tuple[Command, ...] = ()
    wake_at: float | None = None
    over: bool = False


def decide(state: RunState, now: float) -> Decision:
    """Return what follows from `state` at `now`.

    Events come alone, and so do commands: the caller applies the events, or performs the commands (each of which
    gives an event at once), and asks again until neither is left. Only then is `wake_at` given.
    """
    events = tuple(_consequences(state, now))
    if events:
        return Decision(events=events)
    commands = (*_stops(state, now), *_evaluations(state), *launches(state, now))
    if commands:
        return Decision(commands=commands)
    if state.fresh:
        return Decision(events=tuple(_queued(state, state.records[key], now) for key in state.fresh))
    return Decision(wake_at=_wake_at(state, now), over=state.unfinished == 0 or state.stuck)


# --- facts that follow ------------------------------------------------------------------------------------------------


def _consequences(state: RunState, now: float) -> Iterator[ev.Event]:
    deadline = state.deadline
    if deadline is not None and now >= deadline and not state.timed_out and state.unfinished:
        yield ev.RunTimedOut(at=now)
        return
    ended = [settled for key in state.settling if (settled := settle(state, state.records[key], now)) is not None]
    if ended:
        # What they end may be all that was left: then there is nothing to drain, and nothing to stop.
        yield from ended
        return
    unwanted = [
        record
        for record in map(state.records.__getitem__, state.unwanted)
        if record.state in _WAITING or record.key in state.cleared
    ]
    if unwanted:
        yield from (not_begun(record, now) for record in unwanted)
        return
    draining = state.plan.on_failure is not OnFailure.CONTINUE and state.main_unfinished
    if state.first_bad is not None and draining and not state.ending:
        yield ev.RunDraining(at=now, step=state.first_bad)
        return
    if state.short_message is not None and not state.short_told:
        yield ev.CapacityShort(at=now, message=_shortage(state))
    elif state.short_told and state.ceiling is None and now >= state.probe_at:
        yield ev.CapacityRestored(at=now)
    for key in state.released:
        released = _release(state, state.records[key], now)
        if released is not None:
            yield released
    if state.stopping:
        yield from _drain(state, now)
        return
    yield from _give_way(state, now)
    for _, key in _due(state.retrying, now):
        yield ev.StepReady(at=now, step=key)
    yield from _queue_timeouts(state, now)


def _due(moments: list[tuple[float, str]], now: float) -> Iterator[tuple[float, str]]:
    return itertools.takewhile(lambda entry: entry[0] <= now, moments)


def _shortage(state: RunState) -> str:
    given = state.ceiling if state.ceiling is not None else len(state.active)
    return (
        f"the server gives {given} of the {state.capacity[SLOTS]} workers of the budget: {state.short_message}; "
        "steps wait for their turn"
    )


def _release(state: RunState, record: StepRecord, now: float) -> ev.Event | None:
    """A pending step is ready if all its needs are met, and skipped as soon as one of them never can be.

    None if its items have to be queried first.
    """
    for need in record.step.needs:
        needed = state.records[need.step]
        if needed.final and not need_met(need.on, needed.state, needed.skip):
            return _skip(record, ev.SkipReason.UPSTREAM, f"{need.step} {needed.state}", now)
    if record.cancelled_by is not None:
        return not_begun(record, now)
    if state.stopping:
        return _skip(record, ev.SkipReason.DRAINED, _why_stopping(state), now)
    if record.step.for_each is None:
        return ev.StepReady(at=now, step=record.key)
    if record.step.for_each.sql is None:
        return ev.StepExpanded(at=now, step=record.key, items=literal_items(record.step))
    return None


def _skip(record: StepRecord, reason: ev.SkipReason, because: str, now: float) -> ev.StepSkipped:
    return ev.StepSkipped(at=now, step=record.key, reason=reason, because=because)


def _why_stopping(state: RunState) -> str:
    if state.timing_out:
        return "run_timeout"
    if state.interrupting:
        return "interrupted"
    if state.cancelling:
        return f"cancelled by {state.cancelled_by}"
    return state.drained_by or "the journal is lost"


def _drain(state: RunState, now: float) -> Iterator[ev.Event]:
    """Nothing more starts: what waits for a slot, or for its launch, is skipped; a retry keeps its last failure."""
    for key in state.cleared:
        yield _end_waiting(state, state.records[key], now)
    for group in state.ready.values():
        for _, key in group:
            yield _end_waiting(state, state.records[key], now)
    for _, key in state.retrying:
        yield _end_waiting(state, state.records[key], now)


def _end_waiting(state: RunState, record: StepRecord, now: float) -> ev.Event:
    if record.last is None:
        return _skip(record, ev.SkipReason.DRAINED, _why_stopping(state), now)
    return last_word(record, record.last, now)


def _give_way(state: RunState, now: float) -> Iterator[ev.StepQueued]:
    """A condition that takes long keeps no slot from the other steps."""
    moment = gives_way_at(state)
    if moment is not None and now >= moment:
        for record in map(state.records.__getitem__, state.checking):
            if not record.gave_way and now >= record.since + HOLD_FOR:
                yield ev.StepQueued(at=now, step=record.key, reason="its conditions are still being evaluated")
    for record in map(state.records.__getitem__, state.cleared):
        if waits_again(state, record, now):
            yield _queued(state, record, now)


def _queue_timeouts(state: RunState, now: float) -> Iterator[ev.Event]:
    for _, key in _due(state.queue_timed, now):
        ready_at = state.records[key].ready_at
        yield ev.StepQueueTimedOut(at=now, step=key, waited=0.0 if ready_at is None else now - ready_at)


def _queued(state: RunState, record: StepRecord, now: float) -> ev.StepQueued:
    return ev.StepQueued(at=now, step=record.key, reason=why_queued(state, record))


# --- orders -----------------------------------------------------------------------------------------------------------


def _evaluations(state: RunState) -> Iterator[Evaluate]:
    """Have evaluated what keeps released steps from starting and ended attempts from being settled."""
    for key in state.released:  # only those whose items come from a query are still there
        yield Evaluate(step=key, attempt=state.records[key].attempt, phase=ev.CheckPhase.ITEMS)
    for key in state.settling:
        yield Evaluate(step=key, attempt=state.records[key].attempt, phase=ev.CheckPhase.AFTER)


def _stops(state: RunState, now: float) -> Iterator[Command]:
    by_policy = state.draining and state.plan.on_failure is OnFailure.CANCEL
    rest_is_over = _only_detachable(state)
    for record in map(state.records.__getitem__, state.unwanted):
        if record.state in HOLDING and _may_be_stopped(record):
            yield _cancel(record, ev.CancelReason.CANCEL)
    if state.interrupting or state.cancelling or state.timing_out or by_policy or rest_is_over:
        for record in map(state.records.__getitem__, state.active):
            if _may_be_stopped(record) and record.cancelled_by is None:
                command = _stop(state, record, now, rest_is_over=rest_is_over)
                if command is not None:
                    yield command
    else:
        for _, key in _due(state.server_ends, now - GRACE):
            if key not in state.unwanted:
                yield _cancel(state.records[key], ev.CancelReason.TIMEOUT)


def _may_be_stopped(record: StepRecord) -> bool:
    """Say whether the worker has neither been asked to stop nor been let go of."""
    return record.cancel_reason is None and not record.detaching


def _stop(state: RunState, record: StepRecord, now: float, *, rest_is_over: bool) -> Command | None:
    """Say what a reason that concerns the whole run means for one worker."""
    detach = Detach(step=record.key, attempt=record.attempt)
    stays = record.step.on_runner_exit is OnRunnerExit.DETACH
    if state.cancelling and record.step.waits:
        return _cancel(record, ev.CancelReason.CANCEL)
    if state.interrupting:
        return detach if stays else _cancel(record, ev.CancelReason.INTERRUPT)
    if state.timing_out:
        return _cancel(record, ev.CancelReason.RUN_TIMEOUT) if record.step.waits else detach
    if state.draining and state.plan.on_failure is OnFailure.CANCEL and not stays:
        return _cancel(record, ev.CancelReason.ON_FAILURE)
    if record.server_end is not None and record.server_end <= now - GRACE:
        return _cancel(record, ev.CancelReason.TIMEOUT)
    return detach if rest_is_over else None


def _cancel(record: StepRecord, reason: ev.CancelReason) -> Cancel:
    return Cancel(step=record.key, attempt=record.attempt, reason=reason)


def _only_detachable(state: RunState) -> bool:
    """Say whether the rest is over and only workers of detach steps are left: before `finally`, or at the end."""
    left = (state.unfinished if state.finalizing else state.main_unfinished) - state.expanded
    return len(state.active) == left and all(not state.records[key].step.waits for key in state.active)


def _wake_at(state: RunState, now: float) -> float | None:
    """Return the next moment at which something follows from the time alone; it is always in the future."""
    moments: list[float | None] = [state.deadline] if not state.timing_out else []
    moments += [moment for moment, _ in (*state.retrying[:1], *state.queue_timed[:1])]
    moments += [end + GRACE for end, _ in state.server_ends[:1]]
    moments.append(gives_way_at(state))
    if (state.ceiling is not None and state.ready) or (state.ceiling is None and state.short_told):
        moments.append(state.probe_at)
    # A probe that is due but was not ordered would not help: nobody who waits fits. Only an event can change that.
    return min((moment for moment in moments if moment is not None and moment > now), default=None)


# --- the end ----------------------------------------------------------------------------------------------------------


def run_status(state: RunState) -> str:
    """Return what `run.status` says to `finally`: interrupted, timed_out, cancelled, failed or succeeded."""
    if state.interrupted is not None:
        return "interrupted"
    if state.timed_out:
        return "timed_out"
    if state.cancelled_by is not None:
        return "cancelled"
    if state.group_lost:
        return "failed"
    return "succeeded" if state.first_bad is None else "failed"


def exit_code(state: RunState) -> int:
    """Return the exit code that the run's end deserves (design: interrupted, run_timeout, unknown, failed, success)."""
    if state.unstoppable:
        return 7
    if state.interrupted is not None:
        return 128 + state.interrupted
    if state.timed_out:
        return 5
    states = {record.state for record in state.records.values()}
    if StepState.UNKNOWN in states or any(not record.final for record in state.records.values()):
        return 7
    if states & BAD or state.record_lost or state.cancelled_by is not None:
        return 1
    return 6 if state.group_lost and any(_was_drained(record) for record in state.records.values()) else 0


def _was_drained(record: StepRecord) -> bool:
    return record.skip is not None and record.skip.reason is ev.SkipReason.DRAINED
