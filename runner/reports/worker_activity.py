"""What the live terminal shows of a step's worker: progress and waits, and the estimate for the whole run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from runner.durations import format_duration
from runner.engine.server_activity import LiveWorker, Other, Progress
from runner.engine.state import HOLDING, SLOTS, RunState, StepRecord
from runner.identity import step_of
from runner.plan.graph import longest_path

_QUEUE_FULL = "IPC: MessageQueuePutMessage"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
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


def sights(run_id: str, workers: Iterable[LiveWorker], steps: Iterable[str]) -> dict[str, WorkerView]:
    """Return a sight for each of the steps that has a worker."""
    there = tuple(workers)
    found = ((step, next((worker for worker in there if worker.is_worker_of(run_id, step)), None)) for step in steps)
    return {step: sight(worker) for step, worker in found if worker is not None}


def sight(worker: LiveWorker) -> WorkerView:
    """Say what a worker does and what it waits for."""
    waits = _waits(worker)
    words = [*_told(worker), *([worker.wait] if worker.wait and not waits else [])]
    return WorkerView(
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


def sight_words(sight: WorkerView) -> str:
    """Say on one line all that was seen."""
    part = f"{int(sight.share * 100)}%" if sight.share is not None else ""
    return ", ".join(word for word in (sight.waits, sight.doing, part, sight.more) if word)


def share(progress: Progress) -> float | None:
    """Return how much of its phase is done, from 0 to 1; None if the server tells no total of it."""
    if progress.total <= 0 or "sorting" in progress.phase:
        return None
    return min(1.0, progress.done / progress.total)


def forwards(before: Mapping[str, WorkerView], now: Mapping[str, WorkerView]) -> dict[str, WorkerView]:
    """Return what is seen now, so that no share goes backwards in a phase of the same worker.

    PostgreSQL names a new phase before it sets its counters, so that for a moment those of the old one are seen.
    """
    return {step: _after(before.get(step, WorkerView()), seen) for step, seen in now.items()}


def _after(before: WorkerView, now: WorkerView) -> WorkerView:
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


#: Seconds that a step takes, by its name; None if that is not known.
Durations = Callable[[str], float | None]


def estimate(state: RunState, now: float, durations: Durations) -> float | None:
    """Return the seconds that are left: those of the longest chain, or of all work on all slots, whichever is more.

    None if less than half of the steps that are left are known; the others are taken to be as long as those on average.
    """
    left = [record for record in state.records.values() if not record.final and record.instances is None]
    known = {record.key: seconds for record in left if (seconds := durations(record.key)) is not None}
    if not left or 2 * len(known) < len(left):
        return None
    average = sum(known.values()) / len(known)
    rest = {record.key: _rest(record, known.get(record.key, average), now) for record in left}
    work = sum(seconds * state.records[key].step.slots for key, seconds in rest.items())
    needs = {key: [need.step for need in state.records[key].step.needs] for key in rest}
    return max(longest_path(needs, rest)[0], work / state.capacity[SLOTS])


def _rest(record: StepRecord, seconds: float, now: float) -> float:
    """Take off what has passed of a step that runs; one that takes longer than ever is about to end."""
    if record.state not in HOLDING or record.launched_at is None:
        return seconds
    return max(0.0, seconds - (now - record.launched_at))
