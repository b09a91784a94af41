"""Who of the waiting steps is launched next, and what the others wait for.

All else that the scheduler says follows from one step or from the whole run; here steps compete for what is free. The
best place goes first, and who fits may overtake who does not, but not for ever. Steps wait in lists by what they need,
so that a choice costs what is launched and, at most, how many such lists there are, not how many steps wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping

from runner.engine.commands import Evaluate, Launch
from runner.engine.events import CheckPhase
from runner.engine.state import SLOTS, Kind, RunState, StepRecord
from runner.engine.transitions import SERVER_CAPACITY

#: Seconds for which a step holds its slots while its conditions are evaluated, although others could have them.
HOLD_FOR = 1.0


def launches(state: RunState, now: float) -> Iterator[Launch | Evaluate]:
    """Launch the steps whose conditions hold, then hand out what is free, best place first.

    A step that does not fit may be overtaken, but not for ever. A step with `if` or preconditions has them evaluated
    with its slots in hand, so that between the answer and the launch nothing can come.
    """
    if state.stopping:
        return
    used = dict(state.used)
    allowance = _allowance(state, now)
    for key in state.cleared:
        record = state.records[key]
        if not record.holds:
            if allowance <= 0 or _lacking(state, record, used):
                continue
            allowance -= 1
            for name, amount in record.needs.items():
                used[name] = used.get(name, 0) + amount
        yield Launch(step=key, attempt=record.attempt + 1, timeout=_timeout(state, record, now))
    if not state.ready:
        return
    passed: list[StepRecord] = []
    for record in itertools.islice(_fitting(state, used, passed), max(allowance, 0)):
        wanted = record.needs.keys()
        overtook = tuple(other.key for other in passed if not wanted.isdisjoint(_lacking(state, other, used)))
        for name, amount in record.needs.items():
            used[name] = used.get(name, 0) + amount
        if record.conditional:
            yield Evaluate(step=record.key, attempt=record.attempt, phase=CheckPhase.BEFORE, overtook=overtook)
        else:
            timeout = _timeout(state, record, now)
            yield Launch(step=record.key, attempt=record.attempt + 1, timeout=timeout, overtook=overtook)


def _fitting(state: RunState, used: dict[str, int], passed: list[StepRecord]) -> Iterator[StepRecord]:
    """Yield the ready steps that fit, best first; the caller adds what it takes to `used` before it asks for the next.

    Who does not fit goes into `passed`, and so does who would take what somebody has reserved whose patience is over.
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
        if record.overtaken >= state.patience:
            reserved.update(lacking)


def _lacking(state: RunState, record: StepRecord, used: Mapping[str, int]) -> list[str]:
    return [name for name, amount in record.needs.items() if used.get(name, 0) + amount > state.capacity[name]]


def _by_place(state: RunState, used: Mapping[str, int]) -> Iterator[tuple[StepRecord, list[bool]]]:
    """Yield the ready steps, best place first, without those of which none can fit or be overtaken.

    Steps of one kind fit or do not fit together, so the next one of a kind only comes up if the caller has put
    something into the list that came with the one before.
    """
    #: Place and step, its index in the list of its kind, what it shares, and its index among the first of such lists.
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
    """Say whether steps that share this lack something of which nothing is left, and are overtaken by nobody.

    Whoever is launched takes nothing of what is used up; and of what is not, one is enough for each of these steps.
    """
    full = [used.get(name, 0) >= state.capacity[name] for name, _ in shared]
    return any(full) and all(none_left or amount == 1 for none_left, (_, amount) in zip(full, shared, strict=True))


def _allowance(state: RunState, now: float) -> int:
    """Return how many workers may be asked for: as many as the server last gave, and a probe now and then."""
    if state.ceiling is None:
        return state.capacity[SLOTS]
    below = state.ceiling - state.asked_for
    if below <= 0 and now >= state.probe_at:
        return 1
    return below


def gives_way_at(state: RunState) -> float | None:
    """Return when the next step whose conditions take long gives its slots to others; None if no step is to.

    It does so once: the next time it holds them until the answer is there, or it might never start.
    """
    began = [r.since for r in map(state.records.__getitem__, state.checking) if not r.gave_way]
    return min(began) + HOLD_FOR if began else None


def waits_again(state: RunState, record: StepRecord, now: float) -> bool:
    """Say whether the conditions of the step hold, but others have its slots: what they say is of no use by then."""
    return not record.holds and (_allowance(state, now) <= 0 or bool(_lacking(state, record, state.used)))


def _timeout(state: RunState, record: StepRecord, now: float) -> float | None:
    deadline = state.deadline
    if deadline is None or not record.step.waits:
        return record.step.timeout
    left = max(deadline - now, 0.001)
    return left if record.step.timeout is None else min(record.step.timeout, left)


def why_queued(state: RunState, record: StepRecord) -> str:
    """Say what a ready step waits for: `slots 4/4`, `pool:heavy_io 1/1`, `server capacity`, `its turn`."""
    for name in _lacking(state, record, state.used):
        return f"{name} {state.used[name]}/{state.capacity[name]}"
    return SERVER_CAPACITY if state.ceiling is not None else "its turn"
