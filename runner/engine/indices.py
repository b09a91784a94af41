"""The indices of a run's state: what is in use, who waits in which order, and who is left to be looked at.

Each of them follows from the records (`invariants` says how); they exist so that a decision need not look at all of
them. A record is taken out of the indices of its present state before it gets another one. Whose events have holes may
not be in them: such a state is read and never decided on, but it must be there to be read.
"""

from __future__ import annotations

import bisect
from typing import Any

from runner.engine.state import RunState, StepRecord, StepState


def leave(state: RunState, record: StepRecord) -> None:
    """Take the step out of the index that its present state put it into."""
    match record.state:
        case StepState.PENDING:
            _forget(state.released, record.key)
        case StepState.READY | StepState.QUEUED:
            _dequeue(state, record)
            _forget(state.fresh, record.key)
        case StepState.LAUNCHING | StepState.RUNNING:
            _release(state, record)
            _forget(state.active, record.key)
            state.unstoppable.pop(record.key, None)
            forget_server_end(state, record)
        case StepState.CHECKING:
            give_way(state, record)
            _forget(state.cleared, record.key)
        case StepState.SETTLING:
            _forget(state.settling, record.key)
        case StepState.EXPANDED:
            state.expanded -= 1
        case StepState.RETRYING:
            _remove(state.retrying, (record.retry_at, record.key))
        case _:
            pass


def enqueue(state: RunState, record: StepRecord) -> None:
    """Put the step among those that wait for a slot."""
    entry = (state.place(record), record.key)
    group = state.ready.setdefault(record.kind, [])
    if not group or entry < group[0]:
        heads = state.heads.setdefault(record.shared, [])
        if group:
            _remove(heads, group[0])
        bisect.insort(heads, entry)
    bisect.insort(group, entry)
    deadline = record.queue_deadline
    if deadline is not None:
        bisect.insort(state.queue_timed, (deadline, record.key))


def _dequeue(state: RunState, record: StepRecord) -> None:
    entry = (state.place(record), record.key)
    group = state.ready.get(record.kind, [])
    if not _has(group, entry):
        return
    if entry == group[0]:
        heads = state.heads[record.shared]
        _remove(heads, entry)
        if len(group) > 1:
            bisect.insort(heads, group[1])
        if not heads:
            del state.heads[record.shared]
    _remove(group, entry)
    if not group:
        del state.ready[record.kind]
    if record.queue_deadline is not None:
        _remove(state.queue_timed, (record.queue_deadline, record.key))


def overtake(state: RunState, record: StepRecord) -> None:
    """Count it; at the end of its patience the step moves up."""
    if record.overtaken + 1 == state.patience:
        _dequeue(state, record)
        record.overtaken += 1
        enqueue(state, record)
    else:
        record.overtaken += 1


def told_of(state: RunState, record: StepRecord) -> None:
    """Note that something was said about why the step waits."""
    _forget(state.fresh, record.key)


def wait_until(state: RunState, record: StepRecord, moment: float) -> None:
    """Put the step among those that have another attempt or iteration, which is due at `moment`."""
    record.retry_at = moment
    bisect.insort(state.retrying, (moment, record.key))


def expect_server_end(state: RunState, record: StepRecord) -> None:
    """Put the worker among those that the server ends, if it does."""
    if record.server_end is not None:
        bisect.insort(state.server_ends, (record.server_end, record.key))


def forget_server_end(state: RunState, record: StepRecord) -> None:
    """Take the worker out of these: call it before it is asked to stop or let go of."""
    if record.server_end is not None:
        _remove(state.server_ends, (record.server_end, record.key))


def hold(state: RunState, record: StepRecord) -> None:
    """Take what the step needs: its slots, its pools, its exclusive names."""
    for name, amount in record.needs.items():
        state.used[name] += amount


def give_way(state: RunState, record: StepRecord) -> None:
    """Free what the step holds while its conditions are evaluated."""
    if record.holds:
        record.holds = False
        _release(state, record)
    _forget(state.checking, record.key)


def _release(state: RunState, record: StepRecord) -> None:
    """Free what was held; what is not in use has no entry, so that each decision copies only what is."""
    for name, amount in record.needs.items():
        state.used[name] -= amount
        if not state.used[name]:
            del state.used[name]


def _forget(index: dict[str, None], key: str) -> None:
    """Take a step out of an index. A dict that was large is slow to walk even when it is empty, until it is cleared."""
    index.pop(key, None)
    if not index:
        index.clear()


def _has(ordered: list[Any], entry: object) -> bool:
    place = bisect.bisect_left(ordered, entry)
    return place < len(ordered) and bool(ordered[place] == entry)


def _remove(ordered: list[Any], entry: object) -> None:
    if _has(ordered, entry):
        del ordered[bisect.bisect_left(ordered, entry)]
