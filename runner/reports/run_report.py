"""The content of a report: one frozen value that junit, markdown, html and prometheus render.

Times are seconds since the epoch on the runner's clock, rounded down to milliseconds as in the journal, so that `run`
and `show` write the same report. `server_…` are times of the server's clock.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from runner.engine.events import (
    Blocked,
    Blocker,
    CancelReason,
    ErrorDetails,
    FailureReason,
    Leftover,
    Notice,
    Outcome,
    Rows,
    RunStarted,
    SkipReason,
    Worker,
)
from runner.engine.previous_runs import PreviousRun
from runner.engine.state import BAD, StepState
from runner.plan.model import Need
from runner.reports.step_counts import FanOut, RunCounts
from runner.structs import Struct, field


class Waiting(enum.StrEnum):
    """What a step does with its time while it has no worker."""

    QUEUED = "queued"
    HELD = "held"
    CHECKING = "checking"
    RETRYING = "retrying"
    PAUSING = "pausing"


class Wait(Struct, frozen=True, kw_only=True):
    """A span of time in which a step waited; `why` is what for, or after which error."""

    kind: Waiting
    since: float
    until: float
    why: str = ""


class LockWaitReport(Struct, frozen=True, kw_only=True):
    """A span of time in which a worker waited for a lock; the other fields are those of `AttemptBlocked`."""

    since: float
    until: float
    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = ()

    @property
    def seconds(self) -> float:
        """How long the worker waited."""
        return round(self.until - self.since, 3)


class AttemptReport(Struct, frozen=True, kw_only=True):
    """One worker of a step. Without an `outcome` it was still running when the events ended.

    `lanes` are the slots that it used, numbered from 0: they are for the diagram, the server does not have them.
    """

    number: int
    iteration: int
    launched_at: float
    ended_at: float
    timeout: float | None = None
    lanes: tuple[int, ...] = ()
    outcome: Outcome | None = None
    error: ErrorDetails | None = None
    command_tag: str = ""
    row_count: int | None = None
    server_started_at: float | None = None
    server_finished_at: float | None = None
    worker: Worker | None = None
    deadline: float | None = None
    cancel_reason: CancelReason | None = None
    lost: str | None = None
    lock_waits: tuple[LockWaitReport, ...] = ()
    #: The sessions outside the run that it blocked when it had to yield; `reason` is why it failed without an error.
    blocked: tuple[Blocked, ...] = ()
    reason: FailureReason | None = None
    notices: tuple[Notice, ...] = ()
    notices_dropped: int = 0
    warnings: int = 0
    leftovers: tuple[Leftover, ...] = ()
    #: A worker prepares it: the step's own was not requested yet.
    preparing: bool = False
    #: What was left behind and removed.
    removed: tuple[Leftover, ...] = ()
    result: Rows | None = None

    @property
    def seconds(self) -> float:
        """How long the worker existed for the runner: from the request to launch it until its end."""
        return round(self.ended_at - self.launched_at, 3)


class StepReport(Struct, frozen=True, kw_only=True):
    """One step, or one instance of a for_each. `parent` is what it is an instance of; for a step of a chain, its item.

    `sql` is the text that the server executed, with its parameters if they were known. A step with `instances` uses no
    slot itself. `seconds` are those from its first launch to the end of its last attempt, including the waits between
    them, as a sum over all runners of the run; 0 without an attempt. `committed`: a check of its work failed, and the
    work is committed. `iterations`, `rows` and `tag` sum up a repeat.
    """

    key: str
    state: StepState
    sql: str
    description: str = ""
    tags: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    parent: str | None = None
    instances: int = 0
    in_finally: bool = False
    detaches: bool = False
    slots: int = 1
    pools: tuple[str, ...] = ()
    timeout: float | None = None
    ready_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    seconds: float = 0.0
    skip_reason: SkipReason | None = None
    because: str = ""
    error: ErrorDetails | None = None
    reason: FailureReason | None = None
    #: The place of the error in the plan's files, else that of the step, as it was recorded.
    file: str = ""
    line: int | None = None
    committed: bool = False
    iterations: int = 0
    rows: int = 0
    tag: str = ""
    attempts: tuple[AttemptReport, ...] = ()
    waits: tuple[Wait, ...] = ()

    @property
    def waited(self) -> float:
        """How long it waited for its slots and pools."""
        return round(self._waited(Waiting.QUEUED), 3)

    @property
    def held(self) -> float:
        """How long it waited because a hold was on."""
        return round(self._waited(Waiting.HELD), 3)

    def _waited(self, kind: Waiting) -> float:
        return sum(wait.until - wait.since for wait in self.waits if wait.kind is kind)

    @property
    def blocked(self) -> float:
        """How long its workers waited for locks, in recorded waits."""
        return round(sum(wait.seconds for attempt in self.attempts for wait in attempt.lock_waits), 3)

    @property
    def retries(self) -> int:
        """How many attempts followed an attempt that did not succeed."""
        return len(self.attempts) - len({attempt.iteration for attempt in self.attempts})

    @property
    def time_split(self) -> TimeSplit:
        """What its time was spent on."""
        repeated = {id(one) for one, after in pairwise(self.attempts) if one.iteration == after.iteration}
        counted = [one for one in self.attempts if id(one) not in repeated]
        pauses = self._waited(Waiting.RETRYING)
        lock_wait = sum(min(one.seconds, sum(wait.seconds for wait in one.lock_waits)) for one in counted)
        return TimeSplit(
            queue=round(self.waited + self.held, 3),
            run=round(sum(one.seconds for one in counted) - lock_wait, 3),
            lock_wait=round(lock_wait, 3),
            retry=round(pauses + sum(one.seconds for one in self.attempts if id(one) in repeated), 3),
        )

    @property
    def warnings(self) -> int:
        """How many WARNINGs the server sent, in all attempts."""
        return sum(attempt.warnings for attempt in self.attempts)

    @property
    def leftovers(self) -> tuple[Leftover, ...]:
        """What the last attempt of the step has left half done."""
        return self.attempts[-1].leftovers if self.attempts else ()

    @property
    def removed(self) -> tuple[Leftover, ...]:
        """What its attempts have left half done, and what was removed."""
        return tuple(one for attempt in self.attempts for one in attempt.removed)

    @property
    def left_over(self) -> bool:
        """Return whether the end of the plan's window is why the step has not run."""
        cancelled = self.state is StepState.CANCELLED and bool(self.attempts)
        return self.skip_reason is SkipReason.WINDOW or (
            cancelled and self.attempts[-1].cancel_reason is CancelReason.WINDOW
        )

    @property
    def bad(self) -> bool:
        """Return whether the step makes the run fail."""
        return self.state in BAD


class Message(Struct, frozen=True, kw_only=True):
    """A message about the run as a whole."""

    at: float
    text: str


class TimeSplit(Struct, frozen=True, kw_only=True):
    """What the time of a step, or of several steps, was spent on, in seconds; no second is counted twice.

    `retry` is what attempts cost that were followed by another attempt: their own time and the pause after them.
    """

    #: Waited for slots, pools or a hold.
    queue: float = 0.0
    #: A worker ran, and did not wait for a lock.
    run: float = 0.0
    #: A worker waited for a lock.
    lock_wait: float = 0.0
    retry: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the four."""
        return round(self.queue + self.run + self.lock_wait + self.retry, 3)

    @classmethod
    def of(cls, steps: Iterable[StepReport]) -> TimeSplit:
        """Add up the time of steps."""
        parts = [step.time_split for step in steps]
        return cls(**{name: round(sum(getattr(one, name) for one in parts), 3) for name in cls.__struct_fields__})


class HoldReport(Struct, frozen=True, kw_only=True):
    """A span of time in which a hold was on, with the value that was measured at its start or later.

    `until` is None if it was on when the events ended. With `failed` its query failed.
    """

    name: str
    since: float
    value: str
    until: float | None = None
    failed: bool = False


class RunReport(Struct, frozen=True, kw_only=True):
    """The whole run. Without an `exit_code` it has not ended: its runner was killed, or it still runs.

    `slots_used` is the highest number of slots in use at the same time. `spans` has, for each step of the plan, the
    seconds from its first launch to its last end, which for a for_each are those of all its instances. `critical` are
    the steps on the longest chain of needs, by these seconds. `history` are earlier runs of the plan, the oldest first.
    """

    run: str
    plan: str
    description: str
    owner: str
    #: The event that began the run, with the runner and the plan's file of the last resume.
    started: RunStarted
    slots: int
    slots_used: int
    parameters: Mapping[str, str]
    started_at: float
    finished_at: float
    exit_code: int | None
    #: How the run ended, in a few words.
    end: str
    steps: tuple[StepReport, ...]
    spans: Mapping[str, float]
    critical: tuple[str, ...]
    messages: tuple[Message, ...]
    history: tuple[PreviousRun, ...] = ()
    holds: tuple[HoldReport, ...] = ()
    took: float | None = None
    #: When the plan's window is open, in words; empty without one.
    window: str = ""
    #: The steps that went wrong with their messages, the first failure first, as the end of a run lists them.
    failures: Mapping[str, str] = field(default_factory=dict)
    #: The times between the end of one runner and the start of the next one.
    gaps: tuple[tuple[float, float], ...] = ()
    #: Whether a resume would run something, and the command for it; empty if the command is not known.
    resumable: bool = False
    resume: str = ""
    #: The steps with instances, folded, by id; and the steps of the plan and their items, counted by state.
    fan_outs: Mapping[str, FanOut] = field(default_factory=dict)
    tally: RunCounts = RunCounts()

    @property
    def seconds(self) -> float:
        """How long the run took; if it was resumed, without the time between its runners."""
        if self.took is not None:
            return self.took
        return round(self.finished_at - self.started_at, 3)

    @property
    def leaves(self) -> tuple[StepReport, ...]:
        """The steps that are counted: the instances of a step, not the step itself."""
        return tuple(step for step in self.steps if not step.instances)

    @property
    def warnings(self) -> int:
        """How many WARNINGs the server sent."""
        return sum(step.warnings for step in self.leaves)

    @property
    def held(self) -> float:
        """How long holds were on, each counted on its own."""
        ends = ((hold.since, self.finished_at if hold.until is None else hold.until) for hold in self.holds)
        return round(sum(max(0.0, until - since) for since, until in ends), 3)

    @property
    def left_over(self) -> int:
        """How many steps the end of the window left over: they did not start, or were cancelled."""
        return sum(step.left_over for step in self.leaves)

    def counts(self) -> Counter[StepState]:
        """Count the steps by state, as the last line of a run does."""
        return Counter(step.state for step in self.leaves)
