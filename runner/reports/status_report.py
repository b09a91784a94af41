"""What runs on a server, for users and for programs. Pure: the same observation gives the same text.

Worst first: runs with orphaned workers, then those whose runner is silent, then blocked workers, then the oldest.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.server_activity import (
    ON_A_STANDBY,
    Activity,
    LiveRun,
    LiveWorker,
    Other,
    Progress,
    RunnerSession,
    end_sessions,
)
from runner.identity import run_of, step_of
from runner.phrases import counted
from runner.reports.run_end import StepFailure, failures_as_lines, next_line
from runner.reports.terminal_text import visible
from runner.reports.waits import QUEUE_FULL, wait_words
from runner.sql.placeholders import quote_identifier
from runner.structs import Struct, field, picked

#: The role whose members can see the activity of all roles.
_SEES_ALL = "pg_read_all_stats"
_NARROWEST = 40
_ENDLESS = 1_000_000
#: Lines that one fact may take.
_MOST_LINES = 4
#: Characters of a step's id on a line.
_LONGEST_STEP = 72


class RecordSummary(Struct, frozen=True, kw_only=True):
    """What a run's record adds to the server's view: counts of states, in words; where it is; and how steps ended.

    `source` is journal or ledger, `at` the time of the last event. `committed` are steps whose last worker committed
    although its end was not observed.
    """

    plan: str
    steps: str
    where: str
    finished: bool = False
    ends: Mapping[str, str] = field(default_factory=dict)
    source: str = "journal"
    at: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    committed: frozenset[str] = frozenset()
    #: The holds that are on, in words.
    holds: tuple[str, ...] = ()
    #: The unfinished steps with instances, with their counts.
    folded: tuple[str, ...] = ()
    #: What went wrong, the first failure first.
    failures: tuple[StepFailure, ...] = ()
    #: Whether a resume would run something.
    resumable: bool = False
    #: When the plan's window opens or closes, in words; empty without one.
    window: str = ""
    #: What the steps that repeat have done so far, and about how much is left, in words.
    loops: tuple[str, ...] = ()


def status_lines(
    activity: Activity,
    *,
    width: int | None = 80,
    records: Mapping[str, RecordSummary] | None = None,
    run: str | None = None,
    where: str = "",
) -> Iterator[str]:
    """Yield the lines for one observation; none is longer than `width`, except commands to copy. None: no limit.

    `run` is the id that was asked for, None for all runs; `where` are the options with which a command reaches the same
    server.
    """
    width = _ENDLESS if width is None else max(width, _NARROWEST)
    runs, workers = len(activity.runs), sum(len(one.workers) for one in activity.runs)
    nothing = "no jobplan sessions" if run is None else f"no more sessions of run {run}"
    server = f"PostgreSQL {activity.version.partition(' ')[0]}, {activity.database}"
    counts = f"{counted(runs, 'run')}, {counted(workers, 'worker')}" if runs else nothing
    yield from _wrap(f"{rfc3339(activity.at)[11:19]}Z {server}: {counts}", width)
    if activity.standby:
        yield from _wrap(ON_A_STANDBY, width)
    for one in _worst_runs_first(activity):
        yield ""
        yield from _run_lines(one, activity.at, width, (records or {}).get(one.run))
        if one.workers:
            named = shlex.quote(one.run)  # any role can give its session any name
            detached = " --detached" if all(worker.detached for worker in one.workers) else ""
            yield f"  follow: jobplan attach {named}{where}   stop: jobplan cancel {named}{where}{detached}"
        found = (records or {}).get(one.run)
        if found is not None and found.resumable and not one.alive:
            yield f"  {next_line('Resume', f'jobplan resume {shlex.quote(one.run)}{where}')}"
    if any(not worker.visible for one in activity.runs for worker in one.workers):
        yield ""
        yield "Some workers belong to roles whose activity this role cannot see. A superuser can grant the privilege:"
        yield f"  GRANT {_SEES_ALL} TO {quote_identifier(activity.user)};"


def _worst_runs_first(activity: Activity) -> list[LiveRun]:
    """Return the runs, those that need attention first."""
    return sorted(activity.runs, key=lambda run: _badness(run, activity.at))


def _badness(run: LiveRun, now: float) -> tuple[bool, bool, bool, str]:
    blocked = any(worker.blocked_by for worker in run.workers)
    return (not run.orphans, run.silence(now) is None, not blocked, run.run)


def worst_first(run: LiveRun) -> list[LiveWorker]:
    """Return the workers of a run: blocked ones first, then those that block others, then the oldest."""
    return sorted(run.workers, key=lambda w: (not w.blocked_by, not w.blocks, w.started_at or 0.0, w.step))


def _run_lines(run: LiveRun, now: float, width: int, record: RecordSummary | None) -> Iterator[str]:
    plan = run.plan or (record.plan if record is not None else "")
    where = f" (database {run.database})" if run.database else ""
    yield from _wrap(f"run {run.run}{f' of {plan}' if plan else ''}: {_runner_words(run, now, record)}{where}", width)
    for line in () if record is None else _record_lines(run, record):
        yield from _wrap(f"  {line}", width)
    for worker in worst_first(run):
        yield from _worker_lines(worker, now, width)
    if run.silence(now) is not None:
        yield f"  if its machine is lost: {end_sessions(run.run)}"


def _record_lines(run: LiveRun, record: RecordSummary) -> Iterator[str]:
    """Yield what the run's record has of it."""
    yield f"{record.steps} ({record.where})"
    yield from record.folded
    yield from failures_as_lines(record.failures)
    if record.holds and run.alive:
        yield f"held by {', '.join(record.holds)}"
    if record.window and not record.finished:
        yield record.window
    if run.alive:
        yield from record.loops
    there = {worker.step for worker in run.workers}
    yield from (f"{step}: committed (evidence: its row in the ledger)" for step in sorted(record.committed - there))


def _runner_words(run: LiveRun, now: float, record: RecordSummary | None) -> str:
    if run.alive:
        first = run.runner[0]
        words = f"runner {silent_words(run, now) or _alive_words(first, now)}"
        return words if run.workers else f"{words}, no worker now"
    orphans = len(run.orphans)
    if orphans:
        hidden = any(not worker.visible for worker in run.orphans)
        perhaps = "; some may be detached, which this role cannot see" if hidden else ""
        return f"RUNNER LOST, {counted(orphans, 'orphaned worker')}{perhaps}"
    ended = "finished" if record is not None and record.finished else "runner ended"
    return f"{ended}, {counted(len(run.workers), 'detached worker')}"


def _alive_words(session: RunnerSession, now: float) -> str:
    since = "" if session.started_at is None else f" for {format_duration(now - session.started_at)}"
    return f"alive{f' on {session.host}' if session.host else ''}{since}"


def silent_words(run: LiveRun, now: float) -> str:
    """Return for how long the runner's sessions have been silent; empty if they are not or are not visible."""
    silence = run.silence(now)
    host = run.runner[0].host if run.runner else ""
    return (
        "" if silence is None else f"connected{f' from {host}' if host else ''}, silent for {format_duration(silence)}"
    )


def _worker_lines(worker: LiveWorker, now: float, width: int) -> Iterator[str]:
    yield from _wrap(f"  {_short(worker.step)}{_label_words(worker)}: {worker_words(worker, now)}", width)
    for words in blocked_words(worker):
        yield from _wrap(f"    {words}", width)
    for other in worker.blocks:
        yield from _wrap(f"    blocks {_other_words(other, worker.run)}", width)
    if worker.progress is not None:
        yield from _wrap(f"    {progress_words(worker.progress)}", width)
    elif worker.query:
        yield _fit(f"    {_one_line(worker.query)}", width)


def blocked_words(worker: LiveWorker) -> Iterator[str]:
    """Yield what a blocked worker waits for, and which sessions block it."""
    for other in worker.blocked_by:
        lock = f"waits for {other.lock}" if other.lock else "waits"
        yield f"{lock}, blocked by {_other_words(other, worker.run)}"


def _label_words(worker: LiveWorker) -> str:
    label = worker.label
    if label is None:
        return ""
    words = [f"attempt {label.attempt}"] if label.attempt > 1 else []
    words += [label.purpose] if label.purpose else []
    words += ["detach"] if worker.detached else []
    words += ["finally"] if label.in_finally else []
    return f" ({', '.join(words)})" if words else ""


def worker_words(worker: LiveWorker, now: float) -> str:
    """Return a worker's identity, for how long it has run, when the server ends it, and what it does."""
    if not worker.visible:
        return f"pid {worker.worker.pid}, its activity is not visible to this role"
    words = [_alarm_words(worker), f"pid {worker.worker.pid}"]
    if worker.foreign:
        words.append(f"of role {worker.user}, which is not a role of this run: its name is no evidence")
    elif run_of(worker.worker.application_name) != worker.run:
        words.append(f"with application_name {worker.worker.application_name!r}")
    if worker.started_at is not None:
        words.append(f"for {format_duration(max(0.0, now - worker.started_at))}")
    words.append(_limit_words(worker, now))
    words.append(_state_words(worker))
    return ", ".join(word for word in words if word)


#: Of a worker whose SQL catches the error that a cancel and a timeout raise.
UNSTOPPABLE = "its SQL catches query_canceled: its timeout and a cancel may have no effect"


def _limit_words(worker: LiveWorker, now: float) -> str:
    if worker.label is None:
        return ""
    if worker.catches_cancel:
        return UNSTOPPABLE
    if worker.deadline is None:
        return "no timeout"
    left = worker.deadline - now
    return f"ends within {format_duration(left)}" if left >= 0 else f"OVERDUE by {format_duration(-left)}"


def _alarm_words(worker: LiveWorker) -> str:
    if worker.blocked_by:
        return "BLOCKED"
    return "STALLED: its output queue is full" if worker.wait == QUEUE_FULL else ""


def _state_words(worker: LiveWorker) -> str:
    if _alarm_words(worker):
        return ""
    return wait_words(worker.wait) if worker.wait else worker.state


def _other_words(other: Other, run: str) -> str:
    if other.pid == 0:
        return "a prepared transaction (pg_prepared_xacts)"
    step = step_of(other.name)
    if step:
        of = "" if run_of(other.name) == run else f" of run {run_of(other.name)}"
        return f"step {_short(step)}{of} (pid {other.pid})"
    session = ", ".join(part for part in (other.user, other.name, other.state) if part)
    since = f" for {format_duration(max(0.0, other.seconds))}" if other.seconds is not None else ""
    text = f": {_one_line(other.query)}" if other.query else ""
    return f"pid {other.pid}{f' ({session}{since})' if session else ''}{text}"


def progress_words(progress: Progress) -> str:
    """Return the progress of a maintenance command, as the server reports it."""
    of = f" of {progress.relation}" if progress.relation else ""
    words = f"{progress.command}{of}: {progress.phase}"
    if progress.done > progress.total > 0:
        return words  # the server does not reset its counter for another pass, or finds more than it expected
    if progress.total:
        share = 100 * progress.done // progress.total
        return f"{words}, {share}% ({progress.done:,} of {progress.total:,} {progress.unit})"
    return f"{words}, {progress.done:,} {progress.unit}" if progress.done else words


def _short(step: str) -> str:
    return step if len(step) <= _LONGEST_STEP else f"{step[: _LONGEST_STEP - 8]}…{step[-7:]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fit(line: str, width: int) -> str:
    shown = visible(line)
    return shown if len(shown) <= width else shown[: width - 1].rstrip() + "…"


def _wrap(line: str, width: int) -> list[str]:
    """Wrap a line; what exceeds the allowed number of lines is cut, which happens with SQL only."""
    shown = visible(line)
    indent = " " * (len(shown) - len(shown.lstrip()))
    return textwrap.wrap(
        shown.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        max_lines=_MOST_LINES,
        placeholder=" …",
        break_on_hyphens=False,
    )


def status_data(activity: Activity, *, records: Mapping[str, RecordSummary] | None = None) -> dict[str, Any]:
    """Return one observation as JSON values; times are RFC 3339, what is unknown is null."""
    return {
        "at": rfc3339(activity.at),
        "server": activity.version,
        **picked(activity, "database", "user", "sees_all", "standby"),
        "runs": [_run_data(run, activity.at, (records or {}).get(run.run)) for run in _worst_runs_first(activity)],
    }


def _run_data(run: LiveRun, now: float, record: RecordSummary | None) -> dict[str, Any]:
    return {
        "run": run.run,
        "plan": run.plan or (record.plan if record is not None else None),
        "database": run.database,
        "runner": {
            "alive": run.alive,
            "sessions": [
                {
                    "pid": session.pid,
                    "host": session.host or None,
                    "since": _time(session.started_at),
                    "heard": _time(session.last_active_at),
                }
                for session in run.runner
            ],
            "silent_seconds": None if (silence := run.silence(now)) is None else round(silence, 3),
        },
        "workers": [worker_data(worker, now) for worker in worst_first(run)],
        "record": None
        if record is None
        else {
            "source": record.source,
            "where": record.where,
            "at": _time(record.at) if record.at else None,
            "finished": record.finished,
            "counts": dict(record.counts),
            "steps": record.ends,
            "committed": sorted(record.committed),
            "holds": list(record.holds),
            **({"loops": list(record.loops)} if record.loops else {}),
            **({"window": record.window} if record.window else {}),
        },
    }


def worker_data(worker: LiveWorker, now: float) -> dict[str, Any]:
    """Return a worker as JSON values."""
    label, progress = worker.label, worker.progress
    return {
        "step": worker.step,
        **picked(label, "attempt", "on_finish"),
        "pid": worker.worker.pid,
        "backend_start": worker.worker.backend_start or None,
        "application_name": worker.worker.application_name,
        **picked(worker, "database", "user", "visible", "foreign"),
        "state": worker.state or None,
        "wait": worker.wait or None,
        "query": worker.query or None,
        "age_seconds": None if worker.started_at is None else round(max(0.0, now - worker.started_at), 3),
        "deadline": _time(worker.deadline),
        "catches_cancel": worker.catches_cancel,
        "blocked_by": [_other_data(other) for other in worker.blocked_by],
        "blocks": [_other_data(other) for other in worker.blocks],
        "progress": None
        if progress is None
        else {
            **picked(progress, "command", "phase"),
            "relation": progress.relation or None,
            **picked(progress, "done", "total", "unit"),
        },
    }


def _other_data(other: Other) -> dict[str, Any]:
    return {
        "pid": other.pid,
        "application_name": other.name or None,
        "user": other.user or None,
        "state": other.state or None,
        "query": other.query or None,
        "lock": other.lock or None,
        "transaction_seconds": None if other.seconds is None else round(max(0.0, other.seconds), 3),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)
