"""Removal of the records of old runs, except those that may still be needed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from runner.clock import rfc3339
from runner.engine.state import FINAL, HOLDING, RunState, StepState
from runner.errors import RecordError
from runner.records.record import read_record
from runner.records.run_folders import EVENTS, locked
from runner.records.summaries import Standing, Summary, list_records
from runner.structs import Struct


class Kept(Struct, frozen=True, kw_only=True):
    """A run that matched and was not removed, and why."""

    run: Summary
    why: str


class Pruned(Struct, frozen=True, kw_only=True):
    """The removed runs, and the old runs that were kept."""

    removed: tuple[Summary, ...]
    kept: tuple[Kept, ...]


def prune(root: Path, *, now: float, older_than: float = 0.0, keep: int = 0, force: bool = False) -> Pruned:
    """Remove runs that ended more than `older_than` seconds before `now`, except the `keep` latest ones.

    A run is kept while a runner writes it or its workers may be running. Only `force` removes a run that has no end or
    cannot be read, or that detached a worker without a timeout.
    """
    removed, kept = [], []
    for run in list_records(root)[keep:]:
        if now - _last_sign(run) < older_than:
            continue
        why = _why_kept(run, now, force=force) or _remove(run)
        if why:
            kept.append(Kept(run=run, why=why))
        else:
            removed.append(run)
    return Pruned(removed=tuple(removed), kept=tuple(kept))


def _last_sign(run: Summary) -> float:
    if run.ended_at is not None:
        return run.ended_at
    try:
        return (run.folder / EVENTS).stat().st_mtime
    except OSError:
        return math.inf


def _why_kept(run: Summary, now: float, *, force: bool) -> str:
    """Return why a run must be kept; empty if it may be removed."""
    if run.standing is Standing.RUNNING:
        return "it is running"
    if run.standing is not Standing.FINISHED and not force:
        return f"it has no end ({run.problem or run.standing.replace('_', ' ')}); --force removes it"
    if run.standing is Standing.FINISHED and run.steps.keys() <= FINAL - {StepState.DETACHED}:
        return ""
    try:
        lives_until = _workers_end(read_record(run.folder.parent, run.run_id).state)
    except RecordError as error:
        return "" if force else f"{error.message} --force removes it"
    if lives_until == math.inf:
        return "" if force else "it detached a worker without a timeout; --force removes it"
    return f"its workers may run until {rfc3339(lives_until)}" if lives_until > now else ""


def _workers_end(state: RunState) -> float:
    """Return when the server has ended the last worker of the run; infinity if a worker has no timeout."""
    ends = [0.0]
    for record in state.records.values():
        if record.state is StepState.DETACHED and record.last is not None:
            ends.append(math.inf if record.last.deadline is None else record.last.deadline)
        elif record.state in HOLDING and record.launched_at is not None:
            ends.append(math.inf if record.timeout is None else record.launched_at + record.timeout)
    return max(ends)


def _remove(run: Summary) -> str:
    """Remove a run's folder, after renaming it; return why that fails, if it does."""
    try:
        with locked(run.folder):
            away = run.folder.with_name(f".{run.run_id}.removed")
            run.folder.rename(away)
            shutil.rmtree(away)
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"
    except RecordError as error:
        return error.message
    return ""
