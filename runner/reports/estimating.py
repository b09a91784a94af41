"""How long a run will still take, from how long its steps took before. Pure."""

from __future__ import annotations

from collections.abc import Callable

from runner.engine.state import HOLDING, SLOTS, RunState, StepRecord
from runner.plan.graph import longest_path

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
