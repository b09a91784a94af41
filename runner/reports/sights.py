"""From what the server tells of a run's workers to what the live terminal shows of each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from runner.durations import format_duration
from runner.engine.activity import LiveWorker, Other, Progress
from runner.identity import step_of

_QUEUE_FULL = "IPC: MessageQueuePutMessage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen of a step's worker: a share from 0 to 1 if somebody tells one, doing what, waiting for whom.

    `doing` names the phase that the share is of; `more` is what else there is to say of it. `own`: the step itself
    tells the share, and may begin anew as often as it likes.
    """

    share: float | None = None
    doing: str = ""
    more: str = ""
    waits: str = ""
    own: bool = False
    pid: int = 0


def sights(run_id: str, workers: Iterable[LiveWorker], steps: Iterable[str]) -> dict[str, Sight]:
    """Return a sight for each of the steps that has a worker."""
    there = tuple(workers)
    found = ((step, next((worker for worker in there if worker.is_worker_of(run_id, step)), None)) for step in steps)
    return {step: sight(worker) for step, worker in found if worker is not None}


def sight(worker: LiveWorker) -> Sight:
    """Say what a worker does and what it waits for."""
    waits = _waits(worker)
    words = [*_told(worker), *([worker.wait] if worker.wait and not waits else [])]
    return Sight(
        share=_share(worker),
        doing=words[0] if words else "",
        more=", ".join(words[1:]),
        waits=waits,
        own=worker.reported is not None,
        pid=worker.worker.pid,
    )


def _told(worker: LiveWorker) -> Iterator[str]:
    """Yield what the step says of itself, then what the server says of its command."""
    if worker.reported is not None:
        yield worker.reported.message or "by its own report"
    progress = worker.progress
    if progress is None:
        return
    yield _doing(progress)
    if progress.done and share(progress) is None:
        yield f"{progress.done:,} {progress.unit}"


def _share(worker: LiveWorker) -> float | None:
    """Return how far the step says that it is, else how far the server says that its phase is."""
    if worker.reported is not None:
        return min(1.0, max(0.0, worker.reported.percent / 100))
    return None if worker.progress is None else share(worker.progress)


def sight_words(sight: Sight) -> str:
    """Say on one line all that was seen."""
    part = f"{int(sight.share * 100)}%" if sight.share is not None else ""
    return ", ".join(word for word in (sight.waits, sight.doing, part, sight.more) if word)


def share(progress: Progress) -> float | None:
    """Return how much of its phase is done, from 0 to 1; None if the server tells no total of it."""
    if progress.total <= 0 or "sorting" in progress.phase:
        return None
    return min(1.0, progress.done / progress.total)


def forwards(before: Mapping[str, Sight], now: Mapping[str, Sight]) -> dict[str, Sight]:
    """Return what is seen now, so that no share goes backwards in a phase of the same worker.

    PostgreSQL names a new phase before it sets its counters, so that for a moment those of the old one are seen.
    """
    return {step: _after(before.get(step, Sight()), seen) for step, seen in now.items()}


def _after(before: Sight, now: Sight) -> Sight:
    if now.share is None or before.share is None or now.pid != before.pid or now.own:
        return now
    if now.doing == before.doing:
        return replace(now, share=max(now.share, before.share))
    return replace(now, share=None) if now.share == before.share else now


def _doing(progress: Progress) -> str:
    of = f" {_relation(progress.relation)}" if progress.relation else ""
    return f"{progress.command}{of}: {progress.phase}"


def _waits(worker: LiveWorker) -> str:
    if worker.wait == _QUEUE_FULL:
        return "stopped by its full output queue"
    if not worker.blocked_by:
        return ""
    first, more = worker.blocked_by[0], len(worker.blocked_by) - 1
    also = f", and by {more} more" if more else ""
    mode, on, relation = first.lock.partition(" on ")
    lock = f" for {mode}{on}{_relation(relation)}" if mode else ""
    return f"waits{lock}, held by {_holder(first)}{also}"


def _relation(name: str) -> str:
    """Leave out the schema that a reader takes for granted: there is little room."""
    return name.removeprefix("public.")


def _holder(other: Other) -> str:
    if other.pid == 0:
        return "a prepared transaction"
    step = step_of(other.name)
    who = f" step {step}" if step else f" app '{other.name}'" if other.name else ""
    since = f" for {format_duration(max(0.0, other.seconds))}" if other.seconds is not None else ""
    return f"pid {other.pid}{who}{since}"
