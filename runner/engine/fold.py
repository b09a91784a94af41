"""How each event changes the state of a run.

`apply` is the only thing that changes a `RunState`, and it reads nothing but the event, so that the same events give
the same state in a live run, from a journal, and in a simulated schedule. What becomes of one step is a table,
`transitions`; what the whole run is at, and what is kept of it when it is taken up, is said here.
"""

from __future__ import annotations

from dataclasses import fields, replace

from runner.engine import events as ev
from runner.engine.open_questions import left_unproven
from runner.engine.resumed import carried_over, keep_facts
from runner.engine.state import RunState, initial_state
from runner.engine.transitions import TRANSITIONS


def apply(state: RunState, event: ev.Event) -> None:
    """Change `state` by what the event says. Events that only inform change nothing."""
    match event:
        case ev.StepEvent():
            change = TRANSITIONS.get(type(event))
            if change is not None:
                change(state, state.records[event.step], event)
        case ev.RunStarted():
            state.started_at = event.at
        case ev.RunResumed():
            _run_resumed(state, event)
        case _:
            _turn(state, event)


def _turn(state: RunState, event: ev.Event) -> None:
    """Note what concerns the whole run from now on."""
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
            state.short_told = True
        case ev.CapacityRestored():
            state.short_told = False
            state.short_message = None
        case ev.RunFinished():
            state.finished = event


def _run_resumed(state: RunState, event: ev.RunResumed) -> None:
    """Begin anew with what is kept. `state.plan` is the plan of this event already, should it have been changed."""
    old = replace(state, expansions={found.step: found.items for found in event.expansions})
    fresh = initial_state(state.plan)
    for field in fields(RunState):
        setattr(state, field.name, getattr(fresh, field.name))
    state.started_at = event.at
    if old.started_at is not None:
        last = [record.since for record in old.records.values()] + ([old.finished.at] if old.finished else [])
        state.took_before = old.took_before + max(0.0, max(last) - old.started_at)
    state.attempts_made = {**old.attempts_made, **{key: record.attempt for key, record in old.records.items()}}
    for change in carried_over(old, event, state.records):
        apply(state, change)
    for key in old.records.keys() & state.records.keys():
        keep_facts(old.records[key], state.records[key])
    for key in left_unproven(old, event):
        if key in state.records:
            state.records[key].unproven = True
