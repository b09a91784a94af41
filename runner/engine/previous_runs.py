"""Previous runs of a plan, as data, from whichever record they were read: how long their steps took, how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.structs import Struct, field


class PreviousRun(Struct, frozen=True, kw_only=True):
    """A previous run of the plan: for each step that was launched, its seconds and its last state.

    `started_at` is in seconds since the epoch. The seconds are computed by `StepTimes`.
    """

    run: str
    started_at: float
    steps: Mapping[str, tuple[float, str]]


class PastRun(Struct, frozen=True, kw_only=True):
    """A run in short, from its journal or from the ledger; times are seconds since the epoch.

    `standing` is `finished`, `running`, `broken_off`, `not_started` or `unreadable`, with the reason in `problem`.
    `target` is the name of its database in a fleet, else empty. `steps` are those of `PreviousRun`; `failures` are the
    steps that went wrong in the end, each with its state and message.
    """

    run: str
    standing: str
    plan: str = ""
    target: str = ""
    database: str = ""
    host: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    seconds: float | None = None
    steps: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    failures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    problem: str = ""


#: The number of previous runs that are kept: the latest ones.
MOST_PREVIOUS_RUNS = 20


class PreviousRuns:
    """The latest finished runs of a plan, the oldest first; `before` is when the present run began.

    The journals of this machine are their first source. A gateway with a ledger adds those of the ledger when it
    connects; `added` then says that there are more than the journals have.
    """

    __slots__ = ("added", "before", "plan", "runs")

    def __init__(self, plan: str, *, before: float, runs: Sequence[PreviousRun] = ()) -> None:
        self.plan = plan
        self.before = before
        self.runs = tuple(runs)
        self.added = False

    def add(self, runs: Sequence[PreviousRun]) -> None:
        """Add runs that are not known yet."""
        known = {run.run for run in self.runs}
        others = [run for run in runs if run.run not in known and run.started_at < self.before]
        if others:
            self.runs = tuple(sorted((*others, *self.runs), key=lambda run: run.started_at)[-MOST_PREVIOUS_RUNS:])
            self.added = True


class StepTimes:
    """Computes how long steps took, from the lines of a journal in order; for a run's state see `StepRecord.took`.

    A step's time is the sum over all runners of the run: from the runner's first launch to its last recorded end of an
    attempt. The time between two runners and attempts without a recorded end do not count. If one runner launched an
    attempt and another recorded its end, the attempt counts for the first.
    """

    def __init__(self) -> None:
        self._runner = 0
        #: The running attempt of each step: the number of the runner that launched it, and the time.
        self._launched: dict[str, tuple[int, float]] = {}
        #: For each step and runner: its first launch and its last end.
        self._began: dict[tuple[str, int], float] = {}
        self._ended: dict[str, dict[int, float]] = {}

    def take(self, event: str, step: str, at: float) -> float | None:
        """Process a line; if it ends an attempt, return that attempt's seconds."""
        if event == "run_resumed":
            self._runner += 1
        elif event in ("attempt_preparing", "attempt_launching"):
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
        """Return a step's seconds; None if no attempt of it has ended.

        `until` is when the step itself ended, after its checks, if the runner of the last attempt recorded that.
        """
        ended = self._ended.get(step)
        if ended is None:
            return None
        lasts = ((runner, max(at, until) if runner == self._runner else at) for runner, at in ended.items())
        return sum(max(0.0, last - self._began.get((step, runner), last)) for runner, last in lasts)
