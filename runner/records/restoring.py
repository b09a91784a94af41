"""A journal made from what the ledger has of a run, so that it can be shown, and gone on with, where no journal is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.engine import events as ev
from runner.engine.decoding import from_json
from runner.engine.state import initial_state
from runner.errors import RecordError
from runner.plan.resolved import plan_from_json
from runner.records.journal import Journal
from runner.records.told import state_told


def restore_journal(root: Path, run_id: str, plans: Mapping[str, str], events: Sequence[Mapping[str, Any]]) -> Path:
    """Write a run's journal from its events and its plans, by their SHA-256, both as JSON; return its folder.

    RecordError if there is one already, if it cannot be written, or if this version cannot read what is there.
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
    with contextlib.closing(Journal.create(root, run_id, known[started.sha256])) as journal:
        state = initial_state(known[started.sha256])
        for event in history:
            journal.handle(event, state)
    for digest, plan in known.items():
        if digest != started.sha256:
            Journal.reopen(root, run_id, plan).close()
    return root / run_id
