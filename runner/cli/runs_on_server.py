"""Finds the run on a server for `status`, `cancel` and `attach`, and its records.

Records are the journal, if it is on this machine, and the ledger, if this role can read it. If both exist, the one with
the later event counts.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from runner.cli.options import journal_argument
from runner.engine.events import RunResumed, RunStarted
from runner.engine.run_location import WrongServerError, on_another_server
from runner.engine.state import FINAL, HOLDING, RunState
from runner.engine.window import window_status
from runner.errors import RecordError, UsageError
from runner.reports.messages import loop_lines
from runner.reports.run_end import failures_of, is_resumable, recorded_places
from runner.reports.status_report import RecordSummary
from runner.reports.step_counts import counts_words, fan_outs, run_counts
from runner.reports.waits import hold_words

if TYPE_CHECKING:
    from runner.engine.events import Place
    from runner.engine.server_activity import Activity, LiveRun
    from runner.gateway.ledger.reader import LedgerRecord
    from runner.gateway.observer import Observer
    from runner.records.record import Record


def find_live_run(activity: Activity, wanted: str, journal: Path, where: str) -> LiveRun:
    """Return the run on the server with an id or the beginning of one. UsageError, with what to do, if there is none.

    `last` is the latest run that is recorded on this machine. `where` are the options with which a command reaches the
    server.
    """
    from runner.engine.server_activity import ON_A_STANDBY, find_run
    from runner.records import record

    if wanted == "last":
        with contextlib.suppress(RecordError):  # nothing is recorded here: it can only be the beginning of an id
            wanted = record.find_run(journal, wanted)
    if activity.standby:
        return find_run(activity.runs, wanted, otherwise=ON_A_STANDBY)
    try:
        return find_run(activity.runs, wanted)
    except UsageError as error:
        if any(run.run.startswith(wanted) for run in activity.runs):
            raise
        words = [_record_words(journal, wanted, where), error.hint or ""]
        raise UsageError(error.message, hint=" ".join(word for word in words if word)) from error


def _record_words(journal: Path, wanted: str, where: str) -> str:
    """Return where the run's record is, or that the records cannot be read; else an empty text."""
    from runner.records.record import find_run

    try:
        run = find_run(journal, wanted)
    except RecordError as error:
        return f"{error.message} Give the run's server with --dsn." if isinstance(error.__cause__, OSError) else ""
    named = shlex.quote(run) + journal_argument(journal)
    more = f", and jobplan resume {named}{where} finishes the run" if _is_left_to_do(journal, run) else ""
    return f"Its record is in {journal / run}: jobplan show {named} prints it{more}."


def _is_left_to_do(journal: Path, run: str) -> bool:
    """Return whether a resume would run something, also if the record cannot be read."""
    from runner.records.record import read_record
    from runner.reports.run_end import is_resumable

    try:
        return is_resumable(read_record(journal, run).state)
    except RecordError:
        return True


async def recorded_runs(observer: Observer, activity: Activity, journal: Path, ledger: str) -> dict[str, RecordSummary]:
    """Return the records of the observed runs; `ledger` is the schema of the ledger that `observer` reads.

    A journal with the same run id of a run on another server is left out.
    """
    there = [run.run for run in activity.runs if run.database in ("", activity.database)]
    in_ledger = {run: _of_ledger(run, found, ledger) for run, found in (await observer.recorded(there)).items()}
    in_journal = {
        run.run: found
        for run in activity.runs
        if not on_another_server(_recorded_place(journal, run.run), observer.place)
        and (found := _of_journal(journal, run.run)) is not None
    }
    return {
        run: max(_both(in_journal.get(run), in_ledger.get(run)), key=lambda found: found.at)
        for run in in_journal | in_ledger
    }


async def recall_workers(observer: Observer, activity: Activity, journal: Path, wanted: str | None) -> Activity:
    """Pass the workers that records know by their pid to `observer`, and return the activity with them.

    This reads the records of the observed runs and of `wanted`, a run's id or the beginning of one. Without `wanted` it
    reads those of all runs in `journal` that did not end, if there are workers that name no run.
    """
    from runner.engine.server_activity import KnownWorkers
    from runner.records.ledger_restore import state_after

    known = KnownWorkers()
    for run, recorded in (await observer.recorded([run.run for run in activity.runs])).items():
        with contextlib.suppress(RecordError):
            state, _ = state_after(recorded.plans, recorded.events)
            roles = [str(event["user"]) for event in recorded.events if event.get("user")]
            known |= KnownWorkers.of(run, state, roles)
    for run in _runs_to_recall(activity, journal, wanted):
        record = _recorded(journal, run)
        if record is not None and not on_another_server(record.place, observer.place):
            roles = [event.user for event in record.events if isinstance(event, RunStarted | RunResumed)]
            known |= KnownWorkers.of(run, record.state, roles)
    observer.known = known
    return observer.last_look()


@contextlib.asynccontextmanager
async def observing(
    dsn: str,
    wanted: str,
    journal: Path,
    find: Callable[[Activity], LiveRun],
    *,
    ledger: str,
    trusted_roles: Sequence[str] = (),
) -> AsyncIterator[tuple[Observer, Activity, LiveRun]]:
    """Yield an observer in the database of a run, its first observation there, and the run in it.

    WrongServerError if the journal's run with this id is on another server; `find` raises UsageError without a run.
    """
    from runner.gateway.observer import Observer

    observer = await Observer.connect(dsn, ledger=ledger, trusted_roles=trusted_roles)
    try:
        activity = await recall_workers(observer, await observer.look(), journal, wanted)
        run = find(activity)
        _check_cluster(observer, journal, run.run)
        if run.database and run.database != activity.database:
            there = await Observer.connect(
                dsn, database=run.database, ledger=ledger, trusted_roles=trusted_roles, beside=observer
            )
            await observer.close()
            observer = there
            activity = await recall_workers(observer, await observer.look(), journal, wanted)
            run = next((one for one in activity.runs if one.run == run.run), run)
        yield observer, activity, run
    finally:
        await observer.close()


def _check_cluster(observer: Observer, journal: Path, run: str) -> None:
    """WrongServerError if the journal's run with this id is on another server than `observer`."""
    problem = on_another_server(_recorded_place(journal, run), observer.place)
    if problem:
        raise WrongServerError(
            f"run {run} of the journal {journal / run} is on another server: {problem}.",
            hint="Give the connection of the run's server with --dsn, or give another journal with --journal.",
        )


def _recorded(journal: Path, run: str) -> Record | None:
    """Return the record of a run in the journal; None if there is none, or if it cannot be read."""
    from runner.records.record import read_record
    from runner.records.run_folders import has_journal

    with contextlib.suppress(RecordError):
        return read_record(journal, run, notices=False) if has_journal(journal / run) else None
    return None


def _recorded_place(journal: Path, run: str) -> Place | None:
    """Return the last known server of a run in the journal; None if it is unknown."""
    record = _recorded(journal, run)
    return None if record is None else record.place


def _runs_to_recall(activity: Activity, journal: Path, wanted: str | None) -> set[str]:
    from runner.records.record import find_run
    from runner.records.run_folders import has_journal
    from runner.records.summaries import Standing, list_records

    runs = {run.run for run in activity.runs if has_journal(journal / run.run)}
    with contextlib.suppress(RecordError):
        if wanted is not None:
            runs.add(find_run(journal, wanted))
        elif activity.others:
            open_ = (Standing.RUNNING, Standing.ENDED_EARLY)
            runs.update(record.run_id for record in list_records(journal) if record.standing in open_)
    return runs


def _both(*found: RecordSummary | None) -> list[RecordSummary]:
    return [one for one in found if one is not None]


def _of_journal(journal: Path, run: str) -> RecordSummary | None:
    from runner.records.record import read_record
    from runner.records.run_folders import has_journal

    folder = journal / run
    if not has_journal(folder):
        return None
    try:
        record = read_record(journal, run)
    except RecordError as error:
        return RecordSummary(plan="", steps=f"its record cannot be read: {error.message}", where=str(folder))
    at = record.events[-1].at if record.events else 0.0
    return _summed_up(
        run, record.state, places=recorded_places(record.events), at=at, where=str(folder), source="journal"
    )


def _of_ledger(run: str, recorded: LedgerRecord, schema: str) -> RecordSummary:
    from runner.records.ledger_restore import state_after

    where = f"ledger in schema {schema}"
    try:
        state, at = state_after(recorded.plans, recorded.events)
    except RecordError as error:
        return RecordSummary(plan="", steps=f"its record cannot be read: {error.message}", where=where, source="ledger")
    return _summed_up(run, state, at=at, where=where, source="ledger", commits=recorded.commits)


def _summed_up(
    run: str,
    state: RunState,
    *,
    at: float,
    where: str,
    source: str,
    commits: frozenset[tuple[str, int]] = frozenset(),
    places: Mapping[str, str] = MappingProxyType({}),
) -> RecordSummary:
    counts = state.counts()
    open_ = (record for record in state.records.values() if record.state in HOLDING)
    return RecordSummary(
        plan=state.plan.name,
        steps=counts_words(run_counts(state)),
        where=where,
        source=source,
        at=at,
        finished=state.finished is not None,
        ends={key: str(step.state) for key, step in state.records.items() if step.state in FINAL},
        counts=Counter({str(name): number for name, number in counts.items()}),
        folded=tuple(
            f"{key}: {found.words()}" for key, found in fan_outs(state).items() if not state.records[key].final
        ),
        window=window_status(state, None),
        failures=tuple(failures_of(state, run, places)),
        resumable=is_resumable(state),
        committed=frozenset(record.key for record in open_ if (record.key, record.attempt) in commits),
        holds=tuple(hold_words(state, time.time())),
        loops=tuple(loop_lines(state, time.time())),
    )
