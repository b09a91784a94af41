"""How each event changes the state of a run.

`apply` is the only function that changes a `RunState`, and it reads only the event. So the same events give the same
state in a live run, from a journal, and in a simulation. A table has the transition for each event of a step or an
attempt. A transition removes the step from the indices of its state, then adds it to those of the next state, so that
the indices agree with the records after every event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.engine import events as ev
from runner.engine.batches import note_change
from runner.engine.for_each_items import of_place, parts_of, values_of
from runner.engine.group_records import add_chain, add_items, add_record
from runner.engine.resume_state import carried_over, copy_facts, steps_without_evidence
from runner.engine.state import BAD, RunState, StepRecord, StepState, become_item, initial_state, need_met, new_record
from runner.engine.state_indices import (
    admit,
    enqueue,
    expect_server_end,
    forget_server_end,
    held_by,
    hold,
    leave,
    mark_reported,
    overtake,
    release_hold,
    release_slots,
    set_hold,
    wait_until,
)
from runner.engine.window import is_cancelled_by_window, is_unfinished, shut_after_refusal, window_changed
from runner.plan.groups import is_group
from runner.sql.text_traits import nature_of
from runner.structs import replace

#: Seconds before the next attempt to get more workers from a server that has refused one.
PROBE_INTERVAL = 1.0
#: Seconds between two reported iterations of a repeat.
ANNOUNCE_EVERY = 5.0
#: The reason for which a step waits when the server had no worker for it.
SERVER_CAPACITY = "server capacity"
#: The reason for which a step waits when other runs have the slots that they share with this one.
CLUSTER_SLOTS = "cluster slots"
#: The reason for which a step waits while the plan's window is closed.
THE_WINDOW = "the window"


def _step_ready(state: RunState, record: StepRecord, event: ev.StepReady) -> None:
    leave(state, record)
    record.gate = record.gate_error = None
    record.slots_released = False
    record.ready_at = event.at
    record.overtaken = 0
    record.held_for = 0.0
    enqueue(state, record, event.at)
    state.fresh[record.key] = None
    _move(record, StepState.READY, event.at)


def _step_queued(state: RunState, record: StepRecord, event: ev.StepQueued) -> None:
    """Release the slots of a step with slow conditions; a step whose slots are in use afterwards queues again."""
    if record.key in state.checking:
        release_slots(state, record)
        record.slots_released = True
        return
    if record.key in state.cleared:
        leave(state, record)
        enqueue(state, record, event.at)
    mark_reported(state, record)
    _move(record, StepState.QUEUED, event.at)
    record.queued_because = event.reason


def _step_skipped(state: RunState, record: StepRecord, event: ev.StepSkipped) -> None:
    record.skip = event
    _finish(state, record, StepState.SKIPPED, event.at)


def _step_queue_timed_out(state: RunState, record: StepRecord, event: ev.StepQueueTimedOut) -> None:
    record.queue_timed_out = True
    _settle(state, record, event.at)


def _step_hold_timed_out(state: RunState, record: StepRecord, event: ev.StepHoldTimedOut) -> None:
    record.held_out = event.hold
    _settle(state, record, event.at)


def _step_cancel_requested(state: RunState, record: StepRecord, event: ev.StepCancelRequested) -> None:
    """The step's state decides how it ends; a pending step is examined at once."""
    _cancelled(state, record, event.by)
    if record.state is StepState.PENDING:
        state.released[record.key] = None


def _cancelled(state: RunState, record: StepRecord, by: str | None) -> None:
    record.cancelled_by = by
    if by is not None:
        state.to_cancel[record.key] = None


def _step_checking(state: RunState, record: StepRecord, event: ev.StepChecking) -> None:
    """Hold the step's slots during the evaluation of its conditions before a launch, so that no other step takes
    them."""
    leave(state, record)
    record.phase = event.phase
    if event.phase is ev.CheckPhase.BEFORE:
        admit(state, record)
        record.gate = record.gate_error = None
        record.holds = True
        hold(state, record)
        state.checking[record.key] = None
        for key in event.overtook:
            overtake(state, state.records[key])
        if _beyond_ceiling(state):
            state.probe_at = event.at + PROBE_INTERVAL
    _move(record, StepState.CHECKING, event.at)


def _step_checked(state: RunState, record: StepRecord, event: ev.StepChecked) -> None:
    """Record the result; the scheduler then launches the step with the slots that it holds, or settles it without
    them."""
    if event.phase is ev.CheckPhase.BEFORE:
        _gate_evaluated(state, record, event)
    else:
        record.verdict, record.check_error = event.verdict, event.error
        _settle(state, record, event.at)


def _gate_evaluated(state: RunState, record: StepRecord, event: ev.StepChecked) -> None:
    record.gate, record.gate_error = event.verdict, event.error
    if event.verdict is not ev.Verdict.PROCEED:
        record.refused += event.verdict is not ev.Verdict.SKIP
        _settle(state, record, event.at)
    elif record.state is StepState.CHECKING:
        state.checking.pop(record.key, None)
        state.cleared[record.key] = None


def _beyond_ceiling(state: RunState) -> bool:
    """Return whether more workers are requested than the server last gave."""
    return state.ceiling is not None and state.requested_workers > state.ceiling


def _step_expanded(state: RunState, record: StepRecord, event: ev.StepExpanded) -> None:
    """Add a record for each item; the step itself waits for them, or has nothing to do."""
    has_one_chain = is_group(record.step) and record.step.for_each is None
    _wait_for_items(state, record, event, has_one_chain=has_one_chain)
    if has_one_chain:
        add_chain(state, record, record.step)
        return
    if is_group(record.step):
        add_items(state, record, event.items, event.at)
        return
    number = 1
    for item in event.items:
        instance = _new_instance(state, record, item.key, number)
        instance.values, instance.chunk = values_of(record.step.for_each, item), item.items
        instance.attempt = instance.attempts_before = state.attempts_made.get(item.key, 0)
        state.released[item.key] = None
        number += len(parts_of(item))  # so that the items of a chunk keep their places if it is split


def _wait_for_items(
    state: RunState, record: StepRecord, event: ev.StepExpanded | ev.StepSplit, *, has_one_chain: bool = False
) -> None:
    """Let a step or a chunk wait for the end of its items; without any it is settled."""
    leave(state, record)
    record.instances = tuple(item.key for item in event.items)
    record.open_instances = len(event.items)
    state.to_cancel.pop(record.key, None)
    if not event.items and not has_one_chain:
        _settle(state, record, event.at)
        return
    state.expanded += 1
    _move(record, StepState.EXPANDED, event.at)


def _new_instance(state: RunState, parent: StepRecord, key: str, number: int) -> StepRecord:
    """Add the record of an instance, or of an item of a chunk, which is `number` among those of its step."""
    step = replace(parent.step, id=key, needs=(), for_each=None)
    instance = new_record(step, (*parent.rank[:3], number))
    become_item(instance, parent.items_of or parent.key, parent.needs)
    instance.parent, instance.in_finally = parent.key, parent.in_finally
    _cancelled(state, instance, parent.cancelled_by)
    add_record(state, instance)
    return instance


def _step_split(state: RunState, record: StepRecord, event: ev.StepSplit) -> None:
    """Add a record for each item of a chunk, which continues its attempt numbers; the chunk waits for them."""
    _wait_for_items(state, record, event)
    places = {item.key: place for place, item in enumerate(record.chunk)}
    for item in event.items:
        part = _new_instance(state, record, item.key, record.rank[3] + places[item.key])
        part.values = of_place(record.values, places[item.key])
        part.attempt = max(record.attempt, state.attempts_made.get(item.key, 0))
        part.attempts_before = part.attempt - record.tries
        part.tried, part.unseen = True, record.unseen
        if record.last is not None:
            part.last = replace(record.last, step=item.key, attempt=part.attempt)
        wait_until(state, part, event.until)
        _move(part, StepState.RETRYING, event.at)


def _step_repeating(state: RunState, record: StepRecord, event: ev.StepRepeating) -> None:
    leave(state, record)
    wait_until(state, record, event.until)
    record.iteration = event.next_iteration
    record.attempts_before = record.attempt
    record.refused = 0
    record.tried = False
    _move(record, StepState.RETRYING, event.at)


def _step_adapted(state: RunState, record: StepRecord, event: ev.StepAdapted) -> None:
    note_change(record, event)
    state.eased.pop(record.key, None)


def _step_rows_estimated(_: RunState, record: StepRecord, event: ev.StepRowsEstimated) -> None:
    record.table, record.table_rows = event.table, event.rows


def _step_retrying(state: RunState, record: StepRecord, event: ev.StepRetrying) -> None:
    leave(state, record)
    record.gate = record.gate_error = None
    wait_until(state, record, event.until)
    _move(record, StepState.RETRYING, event.at)


def _step_finished(state: RunState, record: StepRecord, event: ev.StepFinished) -> None:
    record.error = event.error
    record.committed = bool(event.committed) or _failed_after_commit(record, event)
    _finish(state, record, StepState(event.state), event.at)


def _failed_after_commit(record: StepRecord, event: ev.StepFinished) -> bool:
    """Derive `committed` for a journal of a version without that field.

    A repeat is excluded: it also fails if `max_iterations` committed iterations were not enough.
    """
    last = record.last
    succeeded = last is not None and last.attempt == record.attempt and last.outcome is ev.Outcome.SUCCEEDED
    if event.state != StepState.FAILED or not succeeded or record.step.repeat is not None:
        return False
    return not nature_of(record.step.sql.text).only_reads


def _attempt_preparing(state: RunState, record: StepRecord, event: ev.AttemptPreparing) -> None:
    """Begin the attempt with a worker that prepares it: it holds the slots, and the step's own worker follows."""
    _attempt_launching(state, record, event)
    record.preparing = True


def _attempt_launching(state: RunState, record: StepRecord, event: ev.AttemptLaunching | ev.AttemptPreparing) -> None:
    first = not record.preparing
    leave(state, record)
    admit(state, record)
    hold(state, record)
    state.active[record.key] = None
    record.gate = record.gate_error = None
    record.attempt = event.attempt
    record.launched_at = event.at
    record.started_at = event.at if record.started_at is None else record.started_at
    record.timeout = event.timeout
    record.worker = None
    record.begun_at = None
    if first:
        record.cancel_reason = None
        record.detaching = False
    record.preparing = record.removing = False
    record.lost = False
    record.without_evidence = False
    record.warned = 0
    record.blocking = None
    _announce(record, event.at)
    expect_server_end(state, record)
    for key in event.overtook:
        overtake(state, state.records[key])
    if _beyond_ceiling(state):
        state.probe = record.key
        state.probe_at = event.at + PROBE_INTERVAL
    _move(record, StepState.LAUNCHING, event.at)


def _announce(record: StepRecord, at: float) -> None:
    record.announced = record.iteration == 1 or record.tries > 1 or at - record.announced_at >= ANNOUNCE_EVERY
    if record.announced:
        record.announced_at = at


def _attempt_deferred(state: RunState, record: StepRecord, event: ev.AttemptDeferred) -> None:
    """Put the step back into the queue; the attempt did not happen, so its number is free again.

    No StepQueued follows: CapacityShort reports the reason once for all steps. Without a journal the server was not
    asked.
    """
    leave(state, record)
    record.attempt = event.attempt - 1
    record.started_at = record.started_at if record.attempt else None
    record.launched_at = None
    record.cancel_reason = None
    record.detaching = False
    record.preparing = False
    hold = held_by(state, record)
    if event.outside_window:
        shut_after_refusal(state, event.at)
    elif not state.stopping and hold is None:
        _run_short(state, event)
    record.queued_because = THE_WINDOW if event.outside_window else f"hold {hold}" if hold else SERVER_CAPACITY
    enqueue(state, record, event.at)
    _move(record, StepState.QUEUED, event.at)


def _run_short(state: RunState, event: ev.AttemptDeferred) -> None:
    state.ceiling = len(state.active)
    state.probe = None
    state.probe_at = event.at + PROBE_INTERVAL
    state.short_message = event.message


def _attempt_running(state: RunState, record: StepRecord, event: ev.AttemptRunning) -> None:
    record.worker = event.worker
    if event.age is not None:
        forget_server_end(state, record)
        record.begun_at = event.at - event.age
        expect_server_end(state, record)
    _move(record, StepState.RUNNING, event.at)
    _got_worker(state, record, event.at)


def _attempt_blocking(state: RunState, record: StepRecord, event: ev.AttemptBlocking) -> None:
    """Note that the worker is to be cancelled; the event can arrive after the end of the worker."""
    if record.key in state.active and record.attempt == event.attempt:
        record.blocking = event
        state.to_yield[record.key] = None


def _attempt_cancel_requested(state: RunState, record: StepRecord, event: ev.AttemptCancelRequested) -> None:
    forget_server_end(state, record)
    record.cancel_reason = event.reason


def _attempt_detach_requested(state: RunState, record: StepRecord, _: ev.AttemptDetachRequested) -> None:
    forget_server_end(state, record)
    record.detaching = True


def _attempt_unstoppable(state: RunState, record: StepRecord, event: ev.AttemptUnstoppable) -> None:
    state.unstoppable[record.key] = None
    state.drained_by = state.drained_by or f"the worker of {record.key} cannot be stopped (pid {event.worker.pid})"


def _unfinished_noted(_: RunState, record: StepRecord, event: ev.UnfinishedNoted) -> None:
    record.unfinished = event.unfinished


def _attempt_removing(state: RunState, record: StepRecord, event: ev.AttemptRemoving) -> None:
    """The step's own worker has ended; the step holds its slots for the workers that follow."""
    forget_server_end(state, record)
    record.removing = True
    record.leftovers = event.leftovers


def _attempt_lost(_: RunState, record: StepRecord, __: ev.AttemptLost) -> None:
    record.lost = True


def _attempt_notice(_: RunState, record: StepRecord, event: ev.AttemptNotice) -> None:
    if event.notice.severity == ev.WARNING:
        record.warned += 1


def _attempt_finished(state: RunState, record: StepRecord, event: ev.AttemptFinished) -> None:
    _got_worker(state, record, event.at)
    record.last = event
    record.verdict = None
    record.check_error = None
    record.worker = event.worker or record.worker
    if event.outcome is ev.Outcome.UNKNOWN and record.lost and record.worker is None:
        record.unseen = event.attempt
    record.ended_at = event.at
    record.warnings += event.warnings or 0
    record.leftovers = event.leftovers
    record.tried = event.outcome is not ev.Outcome.SUCCEEDED
    record.preparing = record.removing = False
    if event.outcome is not ev.Outcome.UNKNOWN:
        record.unfinished = None
    if event.outcome is ev.Outcome.SUCCEEDED:
        record.tag = event.command_tag or (record.tag if record.step.repeat is not None else "")
        if record.step.repeat is not None:
            record.iterations += 1
            record.rows += event.row_count or 0
            record.carried = record.carried if event.carried is None else event.carried
    _settle(state, record, event.at)


#: The transition of each event of a step; an event without one changes nothing.
TRANSITIONS: Mapping[type[ev.StepEvent], Callable[[RunState, StepRecord, Any], None]] = {
    ev.StepReady: _step_ready,
    ev.StepQueued: _step_queued,
    ev.StepSkipped: _step_skipped,
    ev.StepQueueTimedOut: _step_queue_timed_out,
    ev.StepHoldTimedOut: _step_hold_timed_out,
    ev.StepCancelRequested: _step_cancel_requested,
    ev.StepChecking: _step_checking,
    ev.StepChecked: _step_checked,
    ev.StepExpanded: _step_expanded,
    ev.StepSplit: _step_split,
    ev.StepRepeating: _step_repeating,
    ev.StepAdapted: _step_adapted,
    ev.StepRowsEstimated: _step_rows_estimated,
    ev.StepRetrying: _step_retrying,
    ev.StepFinished: _step_finished,
    ev.AttemptPreparing: _attempt_preparing,
    ev.AttemptLaunching: _attempt_launching,
    ev.UnfinishedNoted: _unfinished_noted,
    ev.AttemptRemoving: _attempt_removing,
    ev.AttemptDeferred: _attempt_deferred,
    ev.AttemptRunning: _attempt_running,
    ev.AttemptBlocking: _attempt_blocking,
    ev.AttemptCancelRequested: _attempt_cancel_requested,
    ev.AttemptDetachRequested: _attempt_detach_requested,
    ev.AttemptUnstoppable: _attempt_unstoppable,
    ev.AttemptLost: _attempt_lost,
    ev.AttemptNotice: _attempt_notice,
    ev.AttemptFinished: _attempt_finished,
}


def _move(record: StepRecord, to: StepState, at: float) -> None:
    record.state = to
    record.since = at


def _got_worker(state: RunState, record: StepRecord, at: float) -> None:
    """End the capacity shortage if this was the attempt that tested for more workers.

    Other workers are no evidence: they are among those that the server gave. If the end is premature, the next refusal
    corrects it; `probe_at` delays CapacityRestored until then.
    """
    if state.probe == record.key:
        state.ceiling = None
        state.probe = None
        state.probe_at = at + PROBE_INTERVAL


def _settle(state: RunState, record: StepRecord, at: float) -> None:
    leave(state, record)
    state.settling[record.key] = None
    _move(record, StepState.SETTLING, at)


def _finish(state: RunState, record: StepRecord, to: StepState, at: float) -> None:
    leave(state, record)
    state.to_cancel.pop(record.key, None)
    _move(record, to, at)
    state.unfinished -= 1
    if not record.in_finally:
        state.main_unfinished -= 1
    if record.parent is not None:
        _instance_finished(state, state.records[record.parent], at)
    if state.window is not None and is_unfinished(state, record):
        state.window.leftover = True
    fails = to in BAD and not is_cancelled_by_window(state, record)
    if fails and state.first_bad is None and not record.in_finally:
        state.first_bad = record.key
    for key, on in state.dependents[record.key]:
        dependent = state.records[key]
        dependent.unmet -= 1
        its_turn = dependent.unmet == 0 and (state.finalizing or not dependent.in_finally)
        certain = its_turn or not need_met(on, to, record.skip)
        if certain and dependent.state is StepState.PENDING:
            state.released[key] = None
    if state.main_unfinished == 0 and not state.finalizing and state.plan.finally_:
        _begin_finally(state)


def _instance_finished(state: RunState, parent: StepRecord, at: float) -> None:
    parent.open_instances -= 1
    if parent.open_instances == 0:
        _settle(state, parent, at)


def _begin_finally(state: RunState) -> None:
    state.finalizing = True
    for step in state.plan.finally_:
        record = state.records[step.id]
        if not record.unmet and record.state is StepState.PENDING:
            state.released[step.id] = None


def apply(state: RunState, event: ev.Event) -> None:
    """Change `state` by one event. Events without a transition change nothing."""
    match event:
        case ev.StepEvent():
            change = TRANSITIONS.get(type(event))
            if change is not None:
                change(state, state.records[event.step], event)
        case ev.RunStarted():
            state.started_at = event.at
            state.left_out = event.left_out
        case ev.RunResumed():
            _run_resumed(state, event)
        case ev.ServerClock() | ev.UsualDurations() | ev.WindowWaiting() | ev.WindowOpened() | ev.WindowClosed():
            window_changed(state, event)
        case _:
            _turn(state, event)


def _iteration_found(record: StepRecord, found: ev.Settled) -> None:
    """Count an iteration that is known to have committed although no runner observed its end."""
    record.carried = record.carried if found.carried is None else found.carried
    if found.rows is not None:
        record.iterations += 1
        record.rows += found.rows
        record.iteration = record.iterations + 1


def _turn(state: RunState, event: ev.Event) -> None:
    """Record an event that concerns the whole run."""
    match event:
        case ev.RunInterrupted():
            state.interrupted = event.signal
            state.finally_interrupted = state.finalizing
        case ev.RunCancelled():
            state.cancelled_by = event.by
            state.finally_cancelled = state.finalizing
        case ev.RunTimedOut():
            state.timed_out = True
        case ev.RunDraining():
            state.drained_by = f"{event.step} did not succeed"
        case ev.RecordLost():
            state.record_lost = True
        case ev.GroupLost():
            state.group_lost = True
            state.drained_by = "another run took the concurrency group"
        case ev.CapacityShort():
            state.shortage_reported = True
        case ev.CapacityRestored():
            state.shortage_reported = False
            state.short_message = None
        case ev.HoldBegan():
            set_hold(state, event)
        case ev.HoldMeasured() | ev.HoldEnded():
            release_hold(state, event.hold, event.at)
        case ev.RunFinished():
            state.finished = event


def _run_resumed(state: RunState, event: ev.RunResumed) -> None:
    """Begin again with the kept facts. `state.plan` is already the plan of this event, in case it was changed."""
    old = replace(state, expansions={found.step: found.items for found in event.expansions})
    fresh = initial_state(state.plan)
    for name in RunState.__struct_fields__:
        setattr(state, name, getattr(fresh, name))
    state.started_at = event.at
    state.left_out = old.left_out
    if old.started_at is not None:
        last = [record.since for record in old.records.values()] + ([old.finished.at] if old.finished else [])
        state.took_before = old.took_before + max(0.0, max(last) - old.started_at)
    state.attempts_made = {**old.attempts_made, **{key: record.attempt for key, record in old.records.items()}}
    for change in carried_over(old, event, state.records):
        apply(state, change)
    for key in old.records.keys() & state.records.keys():
        copy_facts(old.records[key], state.records[key])
    for found in event.settled:
        if found.by == "repeat" and found.step in state.records:  # the next iteration is a new one
            state.records[found.step].tried = False
            _iteration_found(state.records[found.step], found)
    for key in steps_without_evidence(old, event):
        if key in state.records:
            state.records[key].without_evidence = True
