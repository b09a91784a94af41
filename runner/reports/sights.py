"""From what the server tells of a run's workers to what the live terminal shows of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from runner.durations import format_duration
from runner.engine.activity import LiveWorker, Other, Progress
from runner.identity import step_of, worker_name

_QUEUE_FULL = "IPC: MessageQueuePutMessage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the server was seen to do for a step: a share from 0 to 1 if it tells one, doing what, waiting for what."""

    share: float | None = None
    doing: str = ""
    waits: str = ""


def sights(run_id: str, workers: Iterable[LiveWorker], steps: Iterable[str]) -> dict[str, Sight]:
    """Return a sight for each of the steps that has a worker: found by its name, which a long step id is cut in."""
    by_name = {worker.worker.application_name: worker for worker in workers}
    found = ((step, by_name.get(worker_name(run_id, step))) for step in steps)
    return {step: sight(worker) for step, worker in found if worker is not None}


def sight(worker: LiveWorker) -> Sight:
    """Say what a worker does and what it waits for."""
    progress = worker.progress
    doing = "" if progress is None else _doing(progress)
    if not doing and worker.wait and not worker.blocked_by:
        doing = worker.wait
    return Sight(share=None if progress is None else share(progress), doing=doing, waits=_waits(worker))


def share(progress: Progress) -> float | None:
    """Return how much of its phase is done, from 0 to 1; None if the server tells no total of it."""
    if progress.total <= 0 or "sorting" in progress.phase:
        return None
    return min(1.0, progress.done / progress.total)


def forwards(before: Mapping[str, Sight], now: Mapping[str, Sight]) -> dict[str, Sight]:
    """Return what is seen now, so that no share goes backwards in a phase.

    PostgreSQL names a new phase before it sets its counters, so that for a moment those of the old one are seen.
    """
    return {step: _after(before.get(step, Sight()), seen) for step, seen in now.items()}


def _after(before: Sight, now: Sight) -> Sight:
    if now.share is None or before.share is None:
        return now
    if now.doing == before.doing:
        return replace(now, share=max(now.share, before.share))
    return replace(now, share=None) if now.share == before.share else now


def _doing(progress: Progress) -> str:
    of = f" {progress.relation}" if progress.relation else ""
    return f"{progress.command}{of}: {progress.phase}"


def _waits(worker: LiveWorker) -> str:
    if worker.wait == _QUEUE_FULL:
        return "stopped by its full output queue"
    if not worker.blocked_by:
        return ""
    first, more = worker.blocked_by[0], len(worker.blocked_by) - 1
    also = f", and by {more} more" if more else ""
    lock = f" for {first.lock}" if first.lock else ""
    return f"waits{lock}, held by {_holder(first)}{also}"


def _holder(other: Other) -> str:
    if other.pid == 0:
        return "a prepared transaction"
    step = step_of(other.name)
    who = f" step {step}" if step else f" app '{other.name}'" if other.name else ""
    since = f" for {format_duration(max(0.0, other.seconds))}" if other.seconds is not None else ""
    return f"pid {other.pid}{who}{since}"
