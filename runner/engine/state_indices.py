"""The indices of a run's state: the steps that wait for a slot, what is in use, and the times that are due.

A record leaves the indices of its state before its state changes (`leave`), and enters those of the next one.
"""

from __future__ import annotations

import bisect
from typing import Any

from runner.engine import events as ev
from runner.engine.state import (
    WINDOW,
    Kind,
    RunState,
    StepRecord,
    StepState,
    WindowState,
    change_needs,
    gate,
    hold_mark,
)
from runner.identity import written_key


def leave(state: RunState, record: StepRecord) -> None:
    """Remove the step from the index of its present state."""
    match record.state:
        case StepState.PENDING:
            _forget(state.released, record.key)
        case StepState.READY | StepState.QUEUED:
            _dequeue(state, record)
            _forget(state.fresh, record.key)
            state.eased.pop(record.key, None)
        case StepState.LAUNCHING | StepState.RUNNING:
            _release(state, record)
            _forget(state.active, record.key)
            state.unstoppable.pop(record.key, None)
            state.to_yield.pop(record.key, None)
            forget_server_end(state, record)
        case StepState.CHECKING:
            release_slots(state, record)
            _forget(state.cleared, record.key)
        case StepState.SETTLING:
            _forget(state.settling, record.key)
        case StepState.EXPANDED:
            state.expanded -= 1
            _close(state, record)
        case StepState.RETRYING:
            _remove(state.retrying, (record.retry_at, record.key))
        case _:
            pass


def enqueue(state: RunState, record: StepRecord, at: float) -> None:
    """Add the step to those that wait for a slot."""
    record.held_since = at if held_by(state, record) is not None else None
    _insert(state, record)


def _insert(state: RunState, record: StepRecord) -> None:
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
    start_by = latest_start(state, record)
    if start_by is not None and state.window is not None:
        bisect.insort(state.window.latest_starts, (start_by, record.key))


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
    start_by = latest_start(state, record)
    if start_by is not None and state.window is not None:
        _remove(state.window.latest_starts, (start_by, record.key))


def latest_start(state: RunState, record: StepRecord) -> float | None:
    """Return when the step must start to fit into the window, by the server's clock; None if that is not limited."""
    window = state.window
    if window is None or window.closes is None or not window.usual or WINDOW not in record.needs:
        return None
    keys = (record.key, written_key(record.key), record.parent or "")
    usual = next((window.usual[key] for key in keys if key in window.usual), None)
    return None if usual is None else window.closes - usual


def queue_again(state: RunState, *, with_window: WindowState) -> None:
    """Replace what is known of the window, and move the ready steps to their places under it."""
    waiting = [state.records[key] for group in state.ready.values() for _, key in group]
    waiting = [record for record in waiting if WINDOW in record.needs]
    for record in waiting:
        _dequeue(state, record)
    opened = with_window.open and state.window is not None and not state.window.open
    state.window = with_window
    for record in waiting:
        if opened:  # the wait for the window does not count for queue_timeout
            record.ready_at = with_window.local(with_window.known_at)
            record.held_for = 0.0
            record.held_since = None if record.held_since is None else record.ready_at
        _insert(state, record)


def held_by(state: RunState, record: StepRecord) -> str | None:
    """Return the first hold that keeps the step from starting; None if none does."""
    if not state.holding:
        return None
    return next((name for name in record.step.holds if hold_mark(name) in state.holding), None)


def is_held_kind(state: RunState, kind: Kind) -> bool:
    """Return whether a hold keeps all steps of this kind from starting."""
    return bool(state.holding) and not state.holding.isdisjoint(kind)


def set_hold(state: RunState, began: ev.HoldBegan) -> None:
    """Note that a hold is on; from now on the time of the steps that wait for it does not count as queueing."""
    state.holds[began.hold] = began
    state.holding |= {hold_mark(began.hold)}
    _count_held_time(state, began.hold, began.at)


def release_hold(state: RunState, name: str, at: float) -> None:
    """Note that a hold is not on."""
    state.holds.pop(name, None)
    state.holding -= {hold_mark(name)}
    _count_held_time(state, name, at)


def waiting_for_hold(state: RunState, name: str) -> list[str]:
    """Return the steps that wait for a slot and that the hold concerns."""
    mark = hold_mark(name)
    return [key for kind, group in state.ready.items() if mark in kind for _, key in group]


def _count_held_time(state: RunState, name: str, at: float) -> None:
    for key in waiting_for_hold(state, name):
        record = state.records[key]
        held = held_by(state, record) is not None
        if held == (record.held_since is not None):
            continue
        if record.queue_deadline is not None:
            _remove(state.queue_timed, (record.queue_deadline, key))
        if held:
            record.held_since = at
        else:
            since = record.held_since if record.held_since is not None else at
            record.held_for += max(0.0, at - since)
            record.held_since = None
            if record.attempt and record.step.repeat is not None and record.step.repeat.adapt is not None:
                state.eased[key] = None
        if record.queue_deadline is not None:
            bisect.insort(state.queue_timed, (record.queue_deadline, key))


def overtake(state: RunState, record: StepRecord) -> None:
    """Count that the step was overtaken; at the limit it moves up."""
    if record.overtaken + 1 == state.overtake_limit:
        _dequeue(state, record)
        record.overtaken += 1
        _insert(state, record)
    else:
        record.overtaken += 1


def mark_reported(state: RunState, record: StepRecord) -> None:
    """Note that the reason why the step waits was reported."""
    _forget(state.fresh, record.key)


def wait_until(state: RunState, record: StepRecord, moment: float) -> None:
    """Schedule another attempt or iteration of the step at `moment`."""
    record.retry_at = moment
    bisect.insort(state.retrying, (moment, record.key))


def expect_server_end(state: RunState, record: StepRecord) -> None:
    """Add the worker to those that the server ends, if it has a timeout."""
    if record.server_end is not None:
        bisect.insort(state.server_ends, (record.server_end, record.key))


def forget_server_end(state: RunState, record: StepRecord) -> None:
    """Remove the worker from `server_ends`: call it before the worker is requested to stop or detached."""
    if record.server_end is not None:
        _remove(state.server_ends, (record.server_end, record.key))


def hold(state: RunState, record: StepRecord) -> None:
    """Take the step's needs: its slots, its pools, its exclusive names."""
    for name, amount in record.needs.items():
        state.used[name] += amount


def admit(state: RunState, record: StepRecord) -> None:
    """Let the item of a step of a chain take its place among those under way: one of its steps is about to start.

    The place is the item's from here on, so its steps need it no more.
    """
    item = state.records.get(record.parent or "")
    if item is None or item.holds or item.parent is None or not item.step.steps:  # a chunk that was split is no item
        return
    name = gate(item.parent)
    if name not in record.needs:
        return
    item.holds = True
    state.used[name] += 1
    for key in item.instances or ():
        step = state.records[key]
        waits = step.state in _WAITS
        if waits and step is not record:
            _dequeue(state, step)
        change_needs(step, {need: amount for need, amount in step.needs.items() if need != name})
        if waits and step is not record:
            _insert(state, step)


#: States in which a step is in the lists of those that wait for a slot.
_WAITS = frozenset({StepState.READY, StepState.QUEUED})


def _close(state: RunState, item: StepRecord) -> None:
    """Release the place of an item among those under way."""
    if item.holds and item.parent is not None:
        item.holds = False
        _give_back(state, gate(item.parent), 1)


def release_slots(state: RunState, record: StepRecord) -> None:
    """Release what the step holds during the evaluation of its conditions."""
    if record.holds:
        record.holds = False
        _release(state, record)
    _forget(state.checking, record.key)


def _release(state: RunState, record: StepRecord) -> None:
    """Release what was held. Unused names have no entry, so that each decision copies only names in use."""
    for name, amount in record.needs.items():
        _give_back(state, name, amount)


def _give_back(state: RunState, name: str, amount: int) -> None:
    state.used[name] -= amount
    if not state.used[name]:
        del state.used[name]


def _forget(index: dict[str, None], key: str) -> None:
    """Remove a step from an index. A dict that was large is slow to iterate even when empty, until it is cleared."""
    index.pop(key, None)
    if not index:
        index.clear()


def _has(ordered: list[Any], entry: object) -> bool:
    place = bisect.bisect_left(ordered, entry)
    return place < len(ordered) and bool(ordered[place] == entry)


def _remove(ordered: list[Any], entry: object) -> None:
    if _has(ordered, entry):
        del ordered[bisect.bisect_left(ordered, entry)]
