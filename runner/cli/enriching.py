"""What records know of runs that live on a server, for `jobplan status` and `jobplan attach`.

The journal, if it is on this machine, and the ledger, if there is one that this role may read. Where both are, that one
counts that has heard of the run last.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from runner.engine.state import FINAL, HOLDING, RunState
from runner.errors import RecordError
from runner.reports.status import RecordSummary

if TYPE_CHECKING:
    from runner.engine.activity import Activity
    from runner.gateway.activity import Observer
    from runner.gateway.recorded import Recorded


async def recorded_runs(observer: Observer, activity: Activity, journal: Path, ledger: str) -> dict[str, RecordSummary]:
    """Return what is recorded of the runs that were seen; `ledger` is the schema of the one that `observer` asks."""
    there = [run.run for run in activity.runs if run.database in ("", activity.database)]
    told = {run: _of_ledger(found, ledger) for run, found in (await observer.recorded(there)).items()}
    kept = {run.run: found for run in activity.runs if (found := _of_journal(journal, run.run)) is not None}
    return {run: max(_both(kept.get(run), told.get(run)), key=lambda found: found.at) for run in kept | told}


def _both(*found: RecordSummary | None) -> list[RecordSummary]:
    return [one for one in found if one is not None]


def _of_journal(journal: Path, run: str) -> RecordSummary | None:
    from runner.records.folder import has_journal
    from runner.records.record import read_record

    folder = journal / run
    if not has_journal(folder):
        return None
    try:
        record = read_record(journal, run)
    except RecordError as error:
        return RecordSummary(plan="", steps=f"its record cannot be read: {error.message}", where=str(folder))
    at = record.events[-1].at if record.events else 0.0
    return _summed_up(record.state, at=at, where=str(folder), source="journal")


def _of_ledger(recorded: Recorded, schema: str) -> RecordSummary:
    from runner.records.told import state_told

    where = f"ledger in schema {schema}"
    try:
        state, at = state_told(recorded.plans, recorded.events)
    except RecordError as error:
        return RecordSummary(plan="", steps=f"its record cannot be read: {error.message}", where=where, source="ledger")
    return _summed_up(state, at=at, where=where, source="ledger", commits=recorded.commits)


def _summed_up(
    state: RunState, *, at: float, where: str, source: str, commits: frozenset[tuple[str, int]] = frozenset()
) -> RecordSummary:
    counts = state.counts()
    open_ = (record for record in state.records.values() if record.state in HOLDING)
    return RecordSummary(
        plan=state.plan.name,
        steps=", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in counts),
        where=where,
        source=source,
        at=at,
        finished=state.finished is not None,
        ends={key: str(step.state) for key, step in state.records.items() if step.state in FINAL},
        counts=Counter({str(name): number for name, number in counts.items()}),
        committed=frozenset(record.key for record in open_ if (record.key, record.attempt) in commits),
    )
