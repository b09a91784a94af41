"""What is known of an earlier run of a plan, wherever it was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An earlier run of the plan: for each step that was launched, its seconds and its last state.

    `started_at` is in seconds since the epoch. The seconds are those that `StepTimes` gives.
    """

    run: str
    started_at: float
    steps: Mapping[str, tuple[float, str]]


class StepTimes:
    """How long steps took, from the lines of a journal in their order; in a run's state that is `StepRecord.took`.

    For each runner of a run, a step takes from its first launch to the end of its last attempt; these are summed up.
    The time between two runners does not count, nor an attempt without a recorded end. An attempt that one runner has
    launched and another one has seen end counts for the first one.
    """

    def __init__(self) -> None:
        self._runner = 0
        #: The attempt under way of each step: which runner launched it, and when.
        self._launched: dict[str, tuple[int, float]] = {}
        #: The first launch, and the last end, for each step and runner.
        self._began: dict[tuple[str, int], float] = {}
        self._ended: dict[str, dict[int, float]] = {}

    def take(self, event: str, step: str, at: float) -> float | None:
        """Take a line; if it ends an attempt, return how long that took."""
        if event == "run_resumed":
            self._runner += 1
        elif event == "attempt_launching":
            self._launched[step] = (self._runner, at)
            self._began.setdefault((step, self._runner), at)
        elif event == "attempt_deferred" and self._runner not in self._ended.get(step, {}):
            self._began.pop((step, self._runner), None)
        elif event == "attempt_finished" and step in self._launched:
            runner, launched = self._launched[step]
            self._ended.setdefault(step, {})[runner] = at
            return max(0.0, at - launched)
        return None

    def seconds(self, step: str, until: float = 0.0) -> float | None:
        """Return how long a step took; None: no attempt of it has ended.

        `until` is when the step itself ended, after its checks, if the runner of its last attempt has seen that.
        """
        ended = self._ended.get(step)
        if ended is None:
            return None
        lasts = ((runner, max(at, until) if runner == self._runner else at) for runner, at in ended.items())
        return sum(max(0.0, last - self._began.get((step, runner), last)) for runner, last in lasts)
