"""The queue for slots: which waiting steps start next, and what the others wait for.

Waiting steps compete for free slots, pools and exclusive names. The best position in the queue is served first; a step
that fits may overtake one that does not, up to a limit. Of the same priority, steps of the plan precede items of a
`for_each`, up to the same limit: a plan's other steps need not wait for the last item. Waiting steps are kept in lists
by their needs, so the cost of a choice depends on the launches and at most on the number of such lists, not on the
number of waiting steps.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from runner.engine.events import CheckPhase
from runner.engine.fold import CLUSTER_SLOTS, SERVER_CAPACITY, THE_WINDOW
from runner.engine.ports import Evaluate, Launch
from runner.engine.state import GATE, SLOTS, UNLIMITED, WINDOW, Kind, RunState, StepRecord
from runner.engine.state_indices import held_by, is_held_kind
from runner.engine.window import is_shut

#: Seconds for which a step holds its slots during the evaluation of its conditions while other steps could use them.
HOLD_FOR = 1.0


def launches(state: RunState, now: float) -> Iterator[Launch | Evaluate]:
    """Launch the steps whose conditions are met, then give out free slots, best position first.

    A step that does not fit may be overtaken, up to a limit. The `if` and the preconditions of a step are evaluated
    while it holds its slots, so that it can be launched as soon as they are met. A step that a hold concerns is left
    out while the hold is on: it neither starts nor counts as overtaken.
    """
    if state.stopping:
        return
    used = dict(state.used)
    allowance = _allowance(state, now)
    shut = is_shut(state, now)
    if shut:
        used[WINDOW] = UNLIMITED
    for key in state.cleared:
        record = state.records[key]
        if held_by(state, record) is not None or (shut and WINDOW in record.needs):
            continue
        if not record.holds:
            if allowance <= 0 or _lacking(state, record, used):
                continue
            allowance -= 1
            for name, amount in record.needs.items():
                used[name] = used.get(name, 0) + amount
        yield Launch(step=key, attempt=record.attempt + 1, timeout=launch_timeout(state, record, now))
    if not state.ready:
        return
    passed: list[StepRecord] = []
    launched: set[str] = set()
    for record in itertools.islice(_fitting(state, used, passed), max(allowance, 0)):
        wanted = record.needs.keys()
        overtook = [other.key for other in passed if not wanted.isdisjoint(_waits_for(state, other, used))]
        overtook += (key for key in _items_that_wait(state, record, used, launched) if key not in overtook)
        launched.add(record.key)
        for name, amount in record.needs.items():
            used[name] = used.get(name, 0) + amount
        if record.conditional:
            yield Evaluate(step=record.key, attempt=record.attempt, phase=CheckPhase.BEFORE, overtook=tuple(overtook))
        else:
            timeout = launch_timeout(state, record, now)
            yield Launch(step=record.key, attempt=record.attempt + 1, timeout=timeout, overtook=tuple(overtook))


def _items_that_wait(
    state: RunState, record: StepRecord, used: Mapping[str, int], launched: AbstractSet[str]
) -> Iterator[str]:
    """Yield the items that a step of the plan goes before: of each kind the first, if it precedes the step in rank.

    They could start instead. That they are overtaken is counted, so that items do not wait for all other steps.
    """
    if record.items_of:
        return
    for shared, heads in state.heads.items():
        first = state.records[heads[0][1]]
        if not first.items_of or is_held_kind(state, shared):
            continue
        for _, head in heads:
            group = state.ready[state.records[head].kind]
            key = next((key for _, key in group if key not in launched), None)
            if key is None:
                continue
            item = state.records[key]
            if item.rank[0] == record.rank[0] and item.rank < record.rank and not _lacking(state, item, used):
                yield key


def _fitting(state: RunState, used: dict[str, int], passed: list[StepRecord]) -> Iterator[StepRecord]:
    """Yield the ready steps that fit, best first; the caller adds what it takes to `used` before the next one.

    Steps that do not fit are added to `passed`, and so are steps that need what a step at its overtake limit has
    reserved.
    """
    reserved: set[str] = set()
    for record, kind_fits in _by_place(state, used):
        if used.get(SLOTS, 0) >= state.capacity[SLOTS]:
            return
        lacking = _lacking(state, record, used)
        if not lacking and reserved.isdisjoint(record.needs):
            kind_fits.append(True)
            yield record
            continue
        passed.append(record)
        if record.overtaken >= state.overtake_limit:
            reserved.update(_waits_for(state, record, used))


def _waits_for(state: RunState, record: StepRecord, used: Mapping[str, int]) -> list[str]:
    """Return what a step lacks; if `max_parallel` is among that, nothing else.

    Until another item has ended it could not use the rest, and that item may need the rest for its end.
    """
    lacking = _lacking(state, record, used)
    return [name for name in lacking if name.startswith(GATE)] or lacking


def _lacking(state: RunState, record: StepRecord, used: Mapping[str, int]) -> list[str]:
    return [name for name, amount in record.needs.items() if used.get(name, 0) + amount > state.capacity[name]]


def _by_place(state: RunState, used: Mapping[str, int]) -> Iterator[tuple[StepRecord, list[bool]]]:
    """Yield the ready steps, best position first, except steps that cannot fit and cannot be overtaken.

    Steps of one kind fit or do not fit together, so the next step of a kind is only yielded if the caller has appended
    to the list that came with the previous one.
    """
    #: Position and step, its index in the list of its kind, its shared needs, its index among the first of such lists.
    queue = [(*heads[0], 0, shared, 0) for shared, heads in state.heads.items()]
    heapq.heapify(queue)
    while queue:
        _, key, index, shared, number = heapq.heappop(queue)
        if _hopeless(state, shared, used):
            continue
        heads = state.heads[shared]
        if index == 0 and number + 1 < len(heads):
            heapq.heappush(queue, (*heads[number + 1], 0, shared, number + 1))
        record = state.records[key]
        kind_fits: list[bool] = []
        yield record, kind_fits
        group = state.ready[record.kind]
        if kind_fits and index + 1 < len(group):
            heapq.heappush(queue, (*group[index + 1], index + 1, shared, number))


def _hopeless(state: RunState, shared: Kind, used: Mapping[str, int]) -> bool:
    """Return whether no step with these shared needs can fit or be overtaken now.

    A launch takes nothing of a resource that is used up; of the others, one unit is enough for each of these steps.
    Steps that are held cannot start, and reserve nothing.
    """
    if is_held_kind(state, shared):
        return True
    full = [used.get(name, 0) >= state.capacity[name] for name, _ in shared]
    return any(full) and all(none_left or amount == 1 for none_left, (_, amount) in zip(full, shared, strict=True))


def _allowance(state: RunState, now: float) -> int:
    """Return how many workers may be requested: as many as the server last gave, and one more as a test at times.

    A limit that several runs share allows fewer.
    """
    shared = state.capacity[SLOTS] if state.shared_left is None else state.shared_left
    if state.ceiling is None:
        return min(state.capacity[SLOTS], shared)
    below = state.ceiling - state.requested_workers
    if below <= 0 and now >= state.probe_at:
        return min(1, shared)
    return min(below, shared)


def slot_release_due(state: RunState) -> float | None:
    """Return when the next step with slow conditions must release its slots; None without one.

    A step releases them once; the next time it holds them until the result, or it might never start.
    """
    began = [r.since for r in map(state.records.__getitem__, state.checking) if not r.slots_released]
    return min(began) + HOLD_FOR if began else None


def must_queue_again(state: RunState, record: StepRecord, now: float) -> bool:
    """Return whether the step's conditions are met but it cannot start, so that it must queue again.

    Other steps use its slots, or it is held.
    """
    if held_by(state, record) is not None:
        return True
    return not record.holds and (_allowance(state, now) <= 0 or bool(_lacking(state, record, state.used)))


def launch_timeout(state: RunState, record: StepRecord, now: float) -> float | None:
    """Return the seconds for a worker that is launched now: its step's `timeout`, or what `run_timeout` leaves."""
    deadline = state.deadline
    if deadline is None or not record.step.waits:
        return record.step.timeout
    left = max(deadline - now, 0.001)
    return left if record.step.timeout is None else min(record.step.timeout, left)


def why_queued(state: RunState, record: StepRecord) -> str:
    """Return what a ready step waits for: `slots 4/4`, `pool:heavy_io 1/1`, `cluster slots`, `its turn` and so on."""
    if WINDOW in record.needs and state.window is not None and not state.window.open:
        return THE_WINDOW
    hold = held_by(state, record)
    if hold is not None:
        began = state.holds.get(hold)
        return f"hold {hold}: {began.value}" if began is not None else f"hold {hold}: not measured yet"
    for name in _lacking(state, record, state.used):
        return f"{name} {state.used[name]}/{state.capacity[name]}"
    if state.shared_left is not None and state.shared_left <= 0:
        return CLUSTER_SLOTS
    return SERVER_CAPACITY if state.ceiling is not None else "its turn"
