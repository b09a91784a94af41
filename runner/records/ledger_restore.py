"""Creates a journal from the ledger's record of a run, so that it can be shown and resumed without its journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.engine import events as ev
from runner.engine.event_json import from_json
from runner.engine.fold import apply
from runner.engine.state import RunState, initial_state
from runner.errors import RecordError
from runner.plan.plan_json import plan_from_json
from runner.records.journal import Journal
from runner.records.record import read_record
from runner.records.run_folders import has_journal, refused, set_aside


def state_after(plans: Mapping[str, str], recorded: Sequence[Mapping[str, Any]]) -> tuple[RunState, float]:
    """Return the state after these events, and the time of the last one. Plans are JSON, by SHA-256.

    RecordError if events are missing, or cannot be read by this version.
    """
    events = [from_json(event) for event in recorded]
    started = ev.beginning(events)
    if started is None:
        raise RecordError("it lacks the run's beginning.")
    known = {sha256: plan_from_json(text) for sha256, text in plans.items()}
    try:
        state = initial_state(known[started.sha256])
        for event in events:
            if isinstance(event, ev.RunResumed):
                state.plan = known[event.sha256]
            apply(state, event)
    except (LookupError, ValueError) as error:
        raise RecordError("it lacks events on which others depend.") from error
    return state, events[-1].at


def restore_journal(
    root: Path,
    run_id: str,
    plans: Mapping[str, str],
    events: Sequence[Mapping[str, Any]],
    *,
    instead: str,
    notify: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write a run's journal from its events and its plans, by their SHA-256, both as JSON; return its folder.

    An existing journal is continued if the ledger's events begin with its own: it was restored before, and the run was
    refused then. If the ledger has all of its events and others between them, because the journal could not be written
    to its end (a full disk), it is kept under another name, and `notify` is called. RecordError if only the journal has
    an event (the hint has the command `instead`), if it cannot be written, or if this version cannot read it.
    """
    known = {digest: plan_from_json(text) for digest, text in plans.items()}
    history = [from_json(event) for event in events]
    started = ev.beginning(history)
    if started is None or started.sha256 not in known:
        raise RecordError(f"the ledger lacks the beginning of run {run_id}.", hint="It cannot be restored.")
    try:
        state_after(plans, events)
    except RecordError as error:
        raise RecordError(
            f"the ledger's record of run {run_id} cannot be used: {error.message}",
            hint="Resume it with its journal: that completes the ledger, too.",
        ) from error
    begun = known[started.sha256]
    there = has_journal(root / run_id)
    lacking = _lacking(root, run_id, history, instead) if there else history
    if lacking is None:
        kept = _keep_aside(root, run_id)
        notify(
            f"run {run_id}: its journal was not written to its end. It is restored from the ledger, and kept as {kept}."
        )
        there, lacking = False, history
    if lacking or not there:
        journal = Journal.reopen(root, run_id, begun) if there else Journal.create(root, run_id, begun)
        with contextlib.closing(journal):
            state = initial_state(begun)
            for event in lacking:
                journal.handle(event, state)
    for digest, plan in known.items():
        if digest != started.sha256:
            Journal.reopen(root, run_id, plan).close()
    return root / run_id


def _lacking(root: Path, run_id: str, history: Sequence[ev.Event], instead: str) -> Sequence[ev.Event] | None:
    """Return the events that continue the journal; None if the ledger has others between those of the journal.

    RecordError if only the journal has an event. A wait for the concurrency group is recorded in the journal only, and
    is ignored.
    """
    kept = [event for event in read_record(root, run_id, whole=False).events if not isinstance(event, ev.GroupWaiting)]
    in_ledger = [event for event in history if not isinstance(event, ev.GroupWaiting)]
    if in_ledger[: len(kept)] == kept:
        return in_ledger[len(kept) :]
    rest = iter(in_ledger)
    if all(event in rest for event in kept):  # in the same order
        return None
    raise RecordError(
        f"there is a run {run_id} in {root} already, and its journal has events that the ledger lacks: it is not "
        "overwritten.",
        hint=f"Resume it from that journal: {instead}",
    )


def _keep_aside(root: Path, run_id: str) -> Path:
    try:
        return set_aside(root, run_id)
    except OSError as error:
        raise refused(root / run_id, error) from error
