"""Progress and waits of a step's worker for the live terminal and the heartbeat, and the estimate of a run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from runner.durations import format_duration
from runner.engine.server_activity import LiveWorker, Other, Progress
from runner.engine.state import SLOTS, RunState, StepRecord
from runner.identity import step_of
from runner.plan.graph import longest_path
from runner.reports.waits import QUEUE_FULL, wait_words
from runner.structs import Struct, replace


class WorkerView(Struct, frozen=True, kw_only=True):
    """The last observation of a step's worker: its progress from 0 to 1 if known, its phase, and what it waits for.

    `share` is the progress in the phase `doing`; `more` are further facts. `own`: the step itself reports its progress,
    which can start again from 0 at any time.
    """

    share: float | None = None
    doing: str = ""
    more: str = ""
    waits: str = ""
    own: bool = False
    pid: int = 0


def worker_views(run_id: str, workers: Iterable[LiveWorker], steps: Iterable[str]) -> dict[str, WorkerView]:
    """Return a view for each of the steps that has a worker."""
    there = tuple(workers)
    found = ((step, next((worker for worker in there if worker.is_worker_of(run_id, step)), None)) for step in steps)
    return {step: worker_view(worker) for step, worker in found if worker is not None}


def worker_view(worker: LiveWorker) -> WorkerView:
    """Return what a worker does and what it waits for."""
    waits = _waits(worker)
    words = [*_phases(worker), *([wait_words(worker.wait)] if worker.wait and not waits else [])]
    return WorkerView(
        share=_share(worker),
        doing=words[0] if words else "",
        more=", ".join(words[1:]),
        waits=waits,
        own=worker.reported is not None,
        pid=worker.worker.pid,
    )


def _phases(worker: LiveWorker) -> Iterator[str]:
    """Yield the progress that the step reports, then that of its command as the server reports it."""
    if worker.reported is not None:
        yield worker.reported.message or "as the step reports"
    progress = worker.progress
    if progress is None:
        return
    yield _doing(progress)
    if progress.done and share(progress) is None:
        yield f"{progress.done:,} {progress.unit}"


def _share(worker: LiveWorker) -> float | None:
    """Return the progress that the step reports, else that of its command's phase."""
    if worker.reported is not None:
        return min(1.0, max(0.0, worker.reported.percent / 100))
    return None if worker.progress is None else share(worker.progress)


def view_words(view: WorkerView) -> str:
    """Return the whole observation on one line."""
    part = f"{int(view.share * 100)}%" if view.share is not None else ""
    return ", ".join(word for word in (view.waits, view.doing, part, view.more) if word)


def share(progress: Progress) -> float | None:
    """Return how much of the phase is done, from 0 to 1; None if the server reports no total."""
    if progress.total <= 0 or "sorting" in progress.phase:
        return None
    return min(1.0, progress.done / progress.total)


def forwards(before: Mapping[str, WorkerView], now: Mapping[str, WorkerView]) -> dict[str, WorkerView]:
    """Return the new observations, corrected so that the share of a phase of one worker never decreases.

    PostgreSQL sets a new phase before it resets the counters, so that those of the old phase are visible for a moment.
    """
    return {step: _after(before.get(step, WorkerView()), view) for step, view in now.items()}


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
    if worker.wait == QUEUE_FULL:
        return "stalled: its output queue is full"
    if not worker.blocked_by:
        return ""
    first, more = worker.blocked_by[0], len(worker.blocked_by) - 1
    also = f", and by {more:,} more" if more else ""
    mode, on, relation = first.lock.partition(" on ")
    lock = f" for {mode}{on}{_relation(relation)}" if mode else ""
    return f"waits{lock}, held by {_holder(first)}{also}"


def _relation(name: str) -> str:
    """Omit the schema `public`: there is little room."""
    return name.removeprefix("public.")


def _holder(other: Other) -> str:
    if other.pid == 0:
        return "a prepared transaction"
    step = step_of(other.name)
    name = f" step {step}" if step else f" app '{other.name}'" if other.name else ""
    since = f" for {format_duration(max(0.0, other.seconds))}" if other.seconds is not None else ""
    return f"pid {other.pid}{name}{since}"


#: Seconds after which a loop has a speed.
_SHORTEST = 1.0
#: Seconds that a step takes, by its name; None if that is not known.
Durations = Callable[[str], float | None]


def estimate(state: RunState, now: float, durations: Durations) -> float | None:
    """Return the seconds that are left: those of the longest chain, or of all work on all slots, whichever is more.

    None if the durations of less than half of the remaining steps are known; the others count with the average of
    these.
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


#: Below so many seconds an estimate is rounded to so many seconds.
_ROUNDING = ((57.5, 5), (150, 30), (570, 60), (3450, 300), (86_100, 600))


def about(seconds: float) -> str:
    """Return an estimate in words, rounded to a plausible precision: `about 30 s`, `about 1 h 40 min`."""
    if seconds < 7.5:
        return "a few seconds"
    unit = next((unit for below, unit in _ROUNDING if seconds < below), 3600)
    whole = round(seconds / unit) * unit
    for size, name, rest, rest_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            more = whole % size // rest
            return f"about {whole // size} {name}{f' {more} {rest_name}' if more else ''}"
    return f"about {whole / 60:g} min" if whole >= 60 else f"about {whole} s"


def _rest(record: StepRecord, seconds: float, now: float) -> float:
    """Subtract the time that a step has already taken, with all of its iterations; 0 if it takes longer than usual."""
    if record.started_at is None:
        return max(0.0, seconds - record.took_before)
    return max(0.0, seconds - record.took_before - (now - record.started_at))


def rest_of_loop(record: StepRecord, now: float) -> float | None:
    """Return the seconds that a loop still takes at most, at its speed so far, if it changes every row of its table.

    None if the number of the table's rows or the speed is unknown.
    """
    if record.table_rows is None or not record.rows or record.started_at is None or record.final:
        return None
    took = record.took_before + max(0.0, now - record.started_at)
    return max(0, record.table_rows - record.rows) * took / record.rows if took >= _SHORTEST else None
