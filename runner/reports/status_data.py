"""What lives on a server, for programs: one look as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.clock import rfc3339
from runner.engine.activity import Activity, LiveRun, LiveWorker, Other
from runner.reports.status import RecordSummary, worst_first, worst_runs_first


def status_data(activity: Activity, *, records: Mapping[str, RecordSummary] | None = None) -> dict[str, Any]:
    """Return one look as JSON values; times are RFC 3339, what is not known is null."""
    return {
        "at": rfc3339(activity.at),
        "server": activity.version,
        "database": activity.database,
        "user": activity.user,
        "sees_all": activity.sees_all,
        "standby": activity.standby,
        "runs": [_run_data(run, activity.at, (records or {}).get(run.run)) for run in worst_runs_first(activity)],
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
                    "heard": _time(session.heard_at),
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
        },
    }


def worker_data(worker: LiveWorker, now: float) -> dict[str, Any]:
    """Return a worker as JSON values."""
    label, progress = worker.label, worker.progress
    return {
        "step": worker.step,
        "attempt": None if label is None else label.attempt,
        "on_finish": None if label is None else label.on_finish,
        "pid": worker.worker.pid,
        "backend_start": worker.worker.backend_start or None,
        "application_name": worker.worker.application_name,
        "database": worker.database,
        "user": worker.user,
        "visible": worker.visible,
        "foreign": worker.foreign,
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
            "command": progress.command,
            "phase": progress.phase,
            "relation": progress.relation or None,
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
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
