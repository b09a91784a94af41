"""The output of `jobplan attach`: progress of a run's workers, and what is known after they have ended. Pure.

Only the session that launched a worker can see how it ended. Other sessions see when it ended, whether that was when
its timeout expired, and what it left half done.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from runner.durations import format_duration
from runner.engine.events import Leftover, Worker
from runner.engine.server_activity import Activity, LiveRun, LiveWorker, end_sessions
from runner.reports.messages import leftover_lines, leftovers_data
from runner.reports.status_report import (
    RecordSummary,
    blocked_words,
    progress_words,
    silent_words,
    worker_data,
    worker_words,
)
from runner.structs import Struct, field

#: Seconds between two lines about the running workers while nothing changes.
HEARTBEAT = 60.0
#: A worker that ended this many seconds before its deadline may have been ended by it: polls are a second apart.
_DEADLINE_SLACK = 1.5


class EndedWorker(Struct, frozen=True, kw_only=True):
    """A worker that was followed to its end; `seconds` is how long it was observed."""

    worker: LiveWorker
    seconds: float | None
    at_deadline: bool


class AttachedRun(Struct):
    """Keeps the last observation of one run, and returns what has changed."""

    run: LiveRun
    ended: list[EndedWorker] = field(default_factory=list)
    _there: dict[Worker, LiveWorker] = field(default_factory=dict)
    _runner_alive: bool | None = None
    _runner_silent: bool = False
    _reported_at: float = 0.0

    def follow(self, activity: Activity) -> tuple[list[str], bool]:
        """Take one observation; return its lines, and whether anything is left to follow."""
        run = next((run for run in activity.runs if run.run == self.run.run), None)
        lines = list(self._lines(run, activity.at))
        if not lines and self._there and activity.at - self._reported_at >= HEARTBEAT:
            lines = [f"{worker.step}: {worker_words(worker, activity.at)}" for worker in self._there.values()]
        if lines:
            self._reported_at = activity.at
        return lines, run is not None

    def _lines(self, run: LiveRun | None, now: float) -> Iterator[str]:
        there = {worker.worker: worker for worker in run.workers} if run is not None else {}
        for key, worker in self._there.items():
            if key not in there:
                yield self._note_end(worker, now)
        for key, worker in there.items():
            yield from _news(self._there.get(key), worker, now)
        silent = silent_words(run, now) if run is not None else ""
        if run is not None and silent and not self._runner_silent:
            yield f"its runner is {silent}; if its machine is lost: {end_sessions(run.run)}"
        self._runner_silent = bool(silent)
        alive = run is not None and run.alive
        if alive != self._runner_alive and (run is not None or self._runner_alive):
            yield "its runner is alive and reports the outcome" if alive else "its runner has ended"
        self._runner_alive = alive
        self._there = there

    def _note_end(self, worker: LiveWorker, now: float) -> str:
        seconds = None if worker.started_at is None else max(0.0, now - worker.started_at)
        at_deadline = worker.deadline is not None and now >= worker.deadline - _DEADLINE_SLACK
        self.ended.append(one := EndedWorker(worker=worker, seconds=seconds, at_deadline=at_deadline))
        return _end_words(one)


def _news(before: LiveWorker | None, worker: LiveWorker, now: float) -> Iterator[str]:
    if before is None:
        yield f"{worker.step}: {worker_words(worker, now)}"
    if worker.blocked_by and (before is None or not before.blocked_by):
        yield from (f"{worker.step}: {words}" for words in blocked_words(worker))
    if before is not None and before.blocked_by and not worker.blocked_by:
        yield f"{worker.step}: no longer blocked"
    phase = worker.progress.phase if worker.progress is not None else None
    if worker.progress is not None and (before is None or before.progress is None or before.progress.phase != phase):
        yield f"{worker.step}: {progress_words(worker.progress)}"


def _end_words(ended: EndedWorker) -> str:
    """Return that a worker has ended, and what is known about its end."""
    after = "" if ended.seconds is None else f" after {format_duration(ended.seconds)}"
    why = "; its timeout had expired, so the server probably cancelled it" if ended.at_deadline else ""
    return f"{ended.worker.step} (pid {ended.worker.worker.pid}): ended{after}{why}"


def attach_lines(
    run: LiveRun,
    ended: Sequence[EndedWorker],
    leftovers: Sequence[Leftover],
    record: RecordSummary | None = None,
    *,
    where: str = "",
) -> Iterator[str]:
    """Yield the summary; `where` are the options with which a command reaches the same server."""
    for one in ended:
        yield _end_words(one) + _recorded_words(one.worker.step, record)
    yield f"run {run.run}: it has no more sessions on the server"
    if record is not None:
        yield f"its record: {record.steps} ({record.where})"
        yield from _open_words(run, ended, record, where)
    elif ended:
        yield "the server does not keep how a worker ended: only its runner and the run's record know it"
    yield from leftover_lines(leftovers)


def _open_words(run: LiveRun, ended: Sequence[EndedWorker], record: RecordSummary, where: str) -> Iterator[str]:
    known = record.committed | frozenset(record.ends)
    if record.counts and not record.finished and any(one.worker.step not in known for one in ended):
        how = " --from-ledger" if record.source == "ledger" else ""
        command = f"jobplan resume {shlex.quote(run.run)}{how}{where}"
        yield f"the record does not have the outcome of every worker; {command} determines it and finishes the run"


def _recorded_words(step: str, record: RecordSummary | None) -> str:
    if record is None:
        return ""
    if step in record.ends:
        return f"; recorded as {record.ends[step].replace('_', ' ')}"
    return "; committed (evidence: its row in the ledger)" if step in record.committed else ""


def attach_data(
    run: LiveRun,
    ended: Sequence[EndedWorker],
    leftovers: Sequence[Leftover],
    record: RecordSummary | None = None,
    *,
    now: float,
) -> dict[str, Any]:
    """Return the summary as JSON values; `recorded` is the step's state in the run's record."""
    ends = record.ends if record is not None else {}
    return {
        "run": run.run,
        "gone": [
            {
                **worker_data(one.worker, now),
                "gone_after_seconds": None if one.seconds is None else round(one.seconds, 3),
                "at_deadline": one.at_deadline,
                "recorded": ends.get(one.worker.step),
                "committed": True if record is not None and one.worker.step in record.committed else None,
            }
            for one in ended
        ],
        "leftovers": leftovers_data(leftovers),
    }
