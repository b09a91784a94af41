"""Make a journal from what the ledger has of a run, so that the run can be shown and resumed where its journal is
missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.engine import events as ev
from runner.engine.decoding import from_json
from runner.engine.fold import apply
from runner.engine.state import RunState, initial_state
from runner.errors import RecordError
from runner.plan.resolved import plan_from_json
from runner.records.journal import Journal
from runner.records.record import read_record
from runner.records.run_folders import has_journal


def state_told(plans: Mapping[str, str], told: Sequence[Mapping[str, Any]]) -> tuple[RunState, float]:
    """Return the state that follows from these events, and the moment of the last one. Plans are JSON, by SHA-256.

    RecordError if something is missing, or not to be read by this version.
    """
    events = [from_json(event) for event in told]
    started = next((event for event in events if isinstance(event, ev.RunStarted)), None)
    if started is None:
        raise RecordError("it does not have the run's beginning.")
    known = {sha256: plan_from_json(text) for sha256, text in plans.items()}
    try:
        state = initial_state(known[started.sha256])
        for event in events:
            if isinstance(event, ev.RunResumed):
                state.plan = known[event.sha256]
            apply(state, event)
    except (LookupError, ValueError) as error:
        raise RecordError("it lacks events from which others follow.") from error
    return state, events[-1].at


def restore_journal(
    root: Path, run_id: str, plans: Mapping[str, str], events: Sequence[Mapping[str, Any]], *, instead: str
) -> Path:
    """Write a run's journal from its events and its plans, by their SHA-256, both as JSON; return its folder.

    A journal that is there is gone on with if the ledger has all of its events: somebody restored it before, and the
    run was refused then. RecordError if it has others, which names the command to go on by it `instead`; if it cannot
    be written; or if this version cannot read what is there.
    """
    known = {digest: plan_from_json(text) for digest, text in plans.items()}
    history = [from_json(event) for event in events]
    started = next((event for event in history if isinstance(event, ev.RunStarted)), None)
    if started is None or started.sha256 not in known:
        raise RecordError(f"the ledger does not have the beginning of run {run_id}.", hint="It cannot be restored.")
    try:
        state_told(plans, events)
    except RecordError as error:
        raise RecordError(
            f"the record that the ledger has of run {run_id} cannot be used: {error.message}",
            hint="Resume it where its journal is: that completes the ledger, too.",
        ) from error
    begun = known[started.sha256]
    there = has_journal(root / run_id)
    if not there or _lacking(root, run_id, history, instead):
        journal = Journal.reopen(root, run_id, begun) if there else Journal.create(root, run_id, begun)
        with contextlib.closing(journal):
            state = initial_state(begun)
            for event in _lacking(root, run_id, history, instead) if there else history:
                journal.handle(event, state)
    for digest, plan in known.items():
        if digest != started.sha256:
            Journal.reopen(root, run_id, plan).close()
    return root / run_id


def _lacking(root: Path, run_id: str, history: Sequence[ev.Event], instead: str) -> Sequence[ev.Event]:
    """Return the events that the ledger has and the journal lacks. RecordError unless they continue it.

    That somebody waits to go on with a run is told to its journal alone, and is of no consequence.
    """
    kept = [event for event in read_record(root, run_id, whole=False).events if not isinstance(event, ev.GroupWaiting)]
    told = [event for event in history if not isinstance(event, ev.GroupWaiting)]
    if told[: len(kept)] != kept:
        raise RecordError(
            f"there is a run {run_id} in {root} already, and its journal has what the ledger does not have: it is not "
            "overwritten.",
            hint=f"Go on by it: {instead}",
        )
    return told[len(kept) :]
