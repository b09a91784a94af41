"""Decides what a run does next: a pure function of the run's state and the time.

`decide` reads the indices of the state, so its cost depends on what changes, not on the plan's size. It returns events
that follow from the state (a step is ready, skipped, finished), commands to perform, and the time at which it must be
called again even without an event.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from runner.engine import events as ev
from runner.engine.batches import adapted, halved
from runner.engine.for_each_items import literal_items
from runner.engine.outcomes import cancelled_before_start, final_event, settle
from runner.engine.ports import Cancel, Command, Detach, Evaluate
from runner.engine.slot_queue import HOLD_FOR, launches, must_queue_again, slot_release_due, why_queued
from runner.engine.state import (
    BAD,
    HOLDING,
    SLOTS,
    WINDOW,
    RunState,
    StepRecord,
    StepState,
    need_met,
)
from runner.engine.state_indices import waiting_for_hold
from runner.engine.window import (
    cancels,
    is_cancelled_by_window,
    is_shut,
    is_unfinished,
    left_over,
    must_wait_for_window,
    skip_left_over,
    skip_upstream,
    window_turn,
    window_wake_at,
)
from runner.exit_codes import ExitCode, for_signal
from runner.plan.groups import is_group
from runner.plan.model import OnFailure, OnRunnerExit
from runner.plan.selection import is_left_out
from runner.structs import Struct

#: States of a step that starts as soon as a slot is free or its time has come.
_WAITING = frozenset({StepState.READY, StepState.QUEUED, StepState.RETRYING})
#: Seconds that a worker gets beyond its server-side timeout before the runner cancels it.
GRACE = 5.0


class Decision(Struct, frozen=True, kw_only=True):
    """Events to record first, then commands; `wake_at` is in seconds since the epoch, None if only an event can
    matter."""

    events: tuple[ev.Event, ...] = ()
    commands: tuple[Command, ...] = ()
    wake_at: float | None = None
    over: bool = False


def decide(state: RunState, now: float) -> Decision:
    """Return the decision for `state` at `now`.

    A decision has either events or commands: the caller applies the events, or performs the commands (each of which
    emits an event at once), and calls again until it gets neither. Only then is `wake_at` set.
    """
    events = tuple(_consequences(state, now))
    if events:
        return Decision(events=events)
    commands = (*_stops(state, now), *_evaluations(state, now), *launches(state, now))
    if commands:
        return Decision(commands=commands)
    if state.fresh:
        return Decision(events=tuple(_queued(state, state.records[key], now) for key in state.fresh))
    return Decision(wake_at=_wake_at(state, now), over=state.unfinished == 0 or state.stuck)


# --- events that follow from the state --------------------------------------------------------------------------------


def _consequences(state: RunState, now: float) -> Iterator[ev.Event]:
    first = tuple(_first_consequences(state, now))
    if first:
        yield from first
        return
    if state.short_message is not None and not state.shortage_reported:
        yield ev.CapacityShort(at=now, message=_shortage(state))
    elif state.shortage_reported and state.ceiling is None and now >= state.probe_at:
        yield ev.CapacityRestored(at=now)
    for key in state.released:
        released = _release(state, state.records[key], now)
        if released is not None:
            yield released
    if state.stopping:
        yield from _drain(state, now)
        return
    stays = tuple(left_over(state, now))
    if stays:
        yield from stays
        return
    yield from _release_slow_steps(state, now)
    for _, key in _due(state.retrying, now):
        yield ev.StepReady(at=now, step=key)
    yield from _queue_timeouts(state, now)
    if state.holds:
        yield from _held_too_long(state, now)
    for record in map(state.records.__getitem__, state.eased):
        smaller = halved(record, state.plan.values, ev.AdaptReason.HOLD, now)
        if smaller is not None:
            yield smaller


def _first_consequences(state: RunState, now: float) -> Iterator[ev.Event]:
    """Yield the events that must be applied before any other one: those of the first cause that has some."""
    deadline = state.deadline
    if deadline is not None and now >= deadline and not state.timed_out and state.unfinished:
        yield ev.RunTimedOut(at=now)
        return
    ended = [event for key in state.settling for event in _settled(state, state.records[key], now)]
    if ended:
        # These may have been the last unfinished steps: then there is nothing to drain, and nothing to stop.
        yield from ended
        return
    to_cancel = [
        record
        for record in map(state.records.__getitem__, state.to_cancel)
        if record.state in _WAITING or record.key in state.cleared
    ]
    if to_cancel:
        yield from (cancelled_before_start(record, now) for record in to_cancel)
        return
    window = window_turn(state, now)
    if window is not None:
        yield window
        return
    draining = state.plan.on_failure is not OnFailure.CONTINUE and state.main_unfinished
    if state.first_bad is not None and draining and not state.ending:
        yield ev.RunDraining(at=now, step=state.first_bad)


def _held_too_long(state: RunState, now: float) -> Iterator[ev.StepHoldTimedOut]:
    """Fail the steps that wait for a hold which is on for longer than its at_most, or whose server is given up."""
    timed_out = {key for _, key in _due(state.queue_timed, now)}
    for name, end in _hold_ends(state):
        for key in waiting_for_hold(state, name) if now >= end else ():
            if key not in timed_out and not must_wait_for_window(state, state.records[key], now):
                timed_out.add(key)
                since = state.records[key].held_since
                yield ev.StepHoldTimedOut(at=now, step=key, hold=name, waited=0.0 if since is None else now - since)


def _hold_ends(state: RunState) -> Iterator[tuple[str, float]]:
    """Yield the holds that are on and have a limit, and when it is reached."""
    for hold in state.plan.holds if state.holds else ():
        began = state.holds.get(hold.name)
        if began is not None and began.server_lost:
            yield hold.name, began.at
        elif began is not None and hold.at_most is not None:
            yield hold.name, began.since + hold.at_most


def _settled(state: RunState, record: StepRecord, now: float) -> Iterator[ev.Event]:
    """Yield what follows from the end of an attempt: another value of an adapted parameter comes first."""
    settled = settle(state, record, now)
    if settled is not None:
        change = adapted(record, state.plan.values, settled, now)
        if change is not None:
            yield change
        yield settled


def _due(moments: list[tuple[float, str]], now: float) -> Iterator[tuple[float, str]]:
    return itertools.takewhile(lambda entry: entry[0] <= now, moments)


def _shortage(state: RunState) -> str:
    given = state.ceiling if state.ceiling is not None else len(state.active)
    return (
        f"the server gives {given} of the {state.capacity[SLOTS]} workers of the budget: {state.short_message}; "
        "steps wait for their turn"
    )


def _release(state: RunState, record: StepRecord, now: float) -> ev.Event | None:
    """Return that a pending step is ready, if all its needs are met, or skipped, as soon as one of them cannot be met.

    None if its items must be queried first. An instance that was not selected is skipped at once.
    """
    if record.parent is not None and is_left_out(state.left_out, record.key):
        return _skip(record, ev.SkipReason.NOT_SELECTED, "", now)
    unmet = _skipped_upstream(state, record, now)
    if unmet is not None:
        return unmet
    if record.cancelled_by is not None:
        return cancelled_before_start(record, now)
    if state.stopping or state.is_left_over(record):
        drained = _skip(record, ev.SkipReason.DRAINED, _why_stopping(state), now)
        return drained if state.stopping else skip_left_over(state, record, now)
    return _next_of_released(record, now)


def _next_of_released(record: StepRecord, now: float) -> ev.Event | None:
    for_each = record.step.for_each
    if for_each is None:
        one_chain = is_group(record.step)
        return ev.StepExpanded(at=now, step=record.key) if one_chain else ev.StepReady(at=now, step=record.key)
    if for_each.sql is None:
        return ev.StepExpanded(at=now, step=record.key, items=literal_items(record.step))
    return None


def _skipped_upstream(state: RunState, record: StepRecord, now: float) -> ev.StepSkipped | None:
    """Return that the step cannot run because of one that it needs; None if each of these can still end as needed."""
    for need in record.step.needs:
        needed = state.records[need.step]
        if not needed.final:
            continue
        if is_unfinished(state, needed) and not state.stopping:
            return skip_upstream(record, needed, now)
        if not need_met(need.on, needed.state, needed.skip):
            return _skip(record, ev.SkipReason.UPSTREAM, f"{need.step} {needed.state}", now)
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
    """Skip everything that waits for a slot or for its launch; a step that waits for a retry keeps its last failure."""
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
    return final_event(record, record.last, now)


def _release_slow_steps(state: RunState, now: float) -> Iterator[ev.StepQueued]:
    """Queue the steps whose conditions are slow, so that other steps can use their slots."""
    moment = slot_release_due(state)
    if moment is not None and now >= moment:
        for record in map(state.records.__getitem__, state.checking):
            if not record.slots_released and now >= record.since + HOLD_FOR:
                yield ev.StepQueued(at=now, step=record.key, reason="its conditions are still being evaluated")
    for record in map(state.records.__getitem__, state.cleared):
        if must_queue_again(state, record, now):
            yield _queued(state, record, now)


def _queue_timeouts(state: RunState, now: float) -> Iterator[ev.Event]:
    shut = is_shut(state, now)
    for _, key in _due(state.queue_timed, now):
        if shut and WINDOW in state.records[key].needs:
            continue
        ready_at = state.records[key].ready_at
        yield ev.StepQueueTimedOut(at=now, step=key, waited=0.0 if ready_at is None else now - ready_at)


def _queued(state: RunState, record: StepRecord, now: float) -> ev.StepQueued:
    return ev.StepQueued(at=now, step=record.key, reason=why_queued(state, record))


# --- commands ---------------------------------------------------------------------------------------------------------


def _evaluations(state: RunState, now: float) -> Iterator[Evaluate]:
    """Request the evaluations that released steps and ended attempts wait for."""
    shut = is_shut(state, now)
    for key in state.released:  # only steps whose items come from a query are left here
        if shut and WINDOW in state.records[key].needs:
            continue
        yield Evaluate(step=key, attempt=state.records[key].attempt, phase=ev.CheckPhase.ITEMS)
    for key in state.settling:
        yield Evaluate(step=key, attempt=state.records[key].attempt, phase=ev.CheckPhase.AFTER)


def _stops(state: RunState, now: float) -> Iterator[Command]:
    by_policy = state.draining and state.plan.on_failure is OnFailure.CANCEL
    rest_is_over = _only_detachable(state)
    for record in map(state.records.__getitem__, state.to_cancel):
        if record.state in HOLDING and _may_be_stopped(record):
            yield _cancel(record, ev.CancelReason.CANCEL)
    if state.ending_at_once or by_policy or rest_is_over:
        for record in map(state.records.__getitem__, state.active):
            if _may_be_stopped(record) and record.cancelled_by is None:
                command = _stop(state, record, now, rest_is_over=rest_is_over)
                if command is not None:
                    yield command
    else:
        stopped = {record.key: ev.CancelReason.WINDOW for record in _cancelled_by_window(state)}
        for _, key in _due(state.server_ends, now - GRACE):
            stopped.setdefault(key, ev.CancelReason.TIMEOUT)
        for key in state.to_yield:
            stopped.setdefault(key, ev.CancelReason.YIELDED)
        for key, reason in stopped.items():
            if key not in state.to_cancel and _may_be_stopped(state.records[key]):
                yield _cancel(state.records[key], reason)


def _cancelled_by_window(state: RunState) -> Iterator[StepRecord]:
    if state.window is not None and state.window.closed:
        yield from (record for record in map(state.records.__getitem__, state.active) if cancels(state, record))


def _may_be_stopped(record: StepRecord) -> bool:
    """Return whether the worker was neither requested to stop nor detached."""
    return record.cancel_reason is None and not record.detaching


def _stop(state: RunState, record: StepRecord, now: float, *, rest_is_over: bool) -> Command | None:
    """Return the command for one worker when the whole run is being ended."""
    detach = Detach(step=record.key, attempt=record.attempt)
    stays = record.step.on_runner_exit is OnRunnerExit.DETACH
    if state.cancelling and record.step.waits:
        return _cancel(record, ev.CancelReason.CANCEL)
    if state.interrupting:
        return detach if stays else _cancel(record, ev.CancelReason.INTERRUPT)
    if state.timing_out:
        return _cancel(record, ev.CancelReason.RUN_TIMEOUT) if record.step.waits else detach
    reason: ev.CancelReason | None = None
    if state.draining and state.plan.on_failure is OnFailure.CANCEL and not stays:
        reason = ev.CancelReason.ON_FAILURE
    elif cancels(state, record):
        reason = ev.CancelReason.WINDOW
    elif record.server_end is not None and record.server_end <= now - GRACE:
        reason = ev.CancelReason.TIMEOUT
    if reason is not None:
        return _cancel(record, reason)
    return detach if rest_is_over else None


def _cancel(record: StepRecord, reason: ev.CancelReason) -> Cancel:
    return Cancel(step=record.key, attempt=record.attempt, reason=reason)


def _only_detachable(state: RunState) -> bool:
    """Return whether only workers of detach steps are unfinished: before `finally`, or at the end."""
    left = (state.unfinished if state.finalizing else state.main_unfinished) - state.expanded
    return len(state.active) == left and all(not state.records[key].step.waits for key in state.active)


def _wake_at(state: RunState, now: float) -> float | None:
    """Return the next time at which a decision follows from the time alone; it is always in the future."""
    moments: list[float | None] = [state.deadline] if not state.timing_out else []
    moments += [moment for moment, _ in state.retrying[:1]]
    moments += [next((moment for moment, _ in state.queue_timed if moment > now), None)]
    moments += window_wake_at(state, now)
    moments += [end + GRACE for end, _ in state.server_ends[:1]]
    moments += [end for _, end in _hold_ends(state)]
    moments.append(slot_release_due(state))
    if (state.ceiling is not None and state.ready) or (state.ceiling is None and state.shortage_reported):
        moments.append(state.probe_at)
    # A test of the server's capacity that is due but was not made would not help: no waiting step fits. Only an event
    # can change that.
    return min((moment for moment in moments if moment is not None and moment > now), default=None)


# --- the end ----------------------------------------------------------------------------------------------------------


def run_status(state: RunState) -> str:
    """Return the value of `run.status` in `finally`.

    It is interrupted, timed_out, cancelled, failed, window_closed or succeeded.
    """
    if state.interrupted is not None:
        return "interrupted"
    if state.timed_out:
        return "timed_out"
    if state.cancelled_by is not None:
        return "cancelled"
    if state.group_lost or state.first_bad is not None:
        return "failed"
    return "window_closed" if state.window is not None and state.window.leftover else "succeeded"


def exit_code(state: RunState) -> int:
    """Return the exit code of a run that has ended, or that ends now."""
    records = [record for record in state.records.values() if not is_cancelled_by_window(state, record)]
    states = {record.state for record in records}
    if state.unstoppable:
        return ExitCode.UNKNOWN
    if state.interrupted is not None:
        return for_signal(state.interrupted)
    if state.timed_out:
        return ExitCode.RUN_TIMEOUT
    if StepState.UNKNOWN in states or any(not record.final for record in records):
        return ExitCode.UNKNOWN
    if states & BAD or state.record_lost or state.cancelled_by is not None:
        return ExitCode.FAILED
    return _exit_code_without_failure(state)


def _exit_code_without_failure(state: RunState) -> ExitCode:
    if state.group_lost and any(record.skip_reason is ev.SkipReason.DRAINED for record in state.records.values()):
        return ExitCode.GROUP_HELD
    return ExitCode.WINDOW_CLOSED if state.window is not None and state.window.leftover else ExitCode.SUCCESS
