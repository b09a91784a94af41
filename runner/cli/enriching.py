"""What the records on this machine know of runs that live on a server, for `jobplan status` and `jobplan attach`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runner.engine.state import FINAL, RunState
from runner.errors import RecordError
from runner.reports.status import RecordSummary

if TYPE_CHECKING:
    from runner.engine.activity import LiveRun


def recorded_runs(journal: Path, runs: Iterable[LiveRun]) -> dict[str, RecordSummary]:
    """Return what is recorded of these runs; a run that was started elsewhere has no record here."""
    found = ((run.run, _recorded(journal, run.run)) for run in runs)
    return {run: summary for run, summary in found if summary is not None}


def _recorded(journal: Path, run: str) -> RecordSummary | None:
    from runner.records.folder import EVENTS
    from runner.records.record import read_record

    folder = journal / run
    if not (folder / EVENTS).exists():
        return None
    try:
        record = read_record(journal, run)
    except RecordError as error:
        return RecordSummary(plan="", steps=f"its record cannot be read: {error.message}", where=str(folder))
    return RecordSummary(
        plan=record.plan.name,
        steps=_tally(record.state),
        where=str(folder),
        finished=record.state.finished is not None,
        ends={key: str(step.state) for key, step in record.state.records.items() if step.state in FINAL},
    )


def _tally(state: RunState) -> str:
    counts = state.counts()
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in counts)
