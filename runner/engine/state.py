"""The state of a run: one record a step, and the indices that make a decision cheap (who is ready, what is in use).

Only `fold.apply` changes it. `validate` recomputes the indices the slow way, for tests.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.engine import events as ev
from runner.plan.model import NeedOn, Plan, Step

#: The resource that every step takes; pools are `pool:<name>`.
SLOTS = "slots"


class StepState(enum.StrEnum):
    """Where a step is on its way; the last nine are final."""

    PENDING = "pending"
    READY = "ready"
    QUEUED = "queued"
    LAUNCHING = "launching"
    RUNNING = "running"
    SETTLING = "settling"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DETACHED = "detached"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    FAILED_ALLOWED = "failed_allowed"


FINAL = frozenset(
    {
        StepState.SUCCEEDED,
        StepState.FAILED,
        StepState.TIMED_OUT,
        StepState.CANCELLED,
        StepState.DETACHED,
        StepState.UNKNOWN,
        StepState.SKIPPED,
        StepState.FAILED_ALLOWED,
    }
)
#: Final states that count against the run.
BAD = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})
#: States in which the step holds its slots and pools.
HOLDING = frozenset({StepState.LAUNCHING, StepState.RUNNING})

#: Priority, remaining path, plan order (negated): the greatest goes first.
Rank = tuple[int, int, int]


@dataclass(slots=True, kw_only=True)
class StepRecord:
    """All that is known of one step of this run. Times are seconds since the epoch."""

    step: Step
    rank: Rank
    needs: Mapping[str, int]
    unmet: int
    state: StepState = StepState.PENDING
    attempt: int = 0
    since: float = 0.0
    ready_at: float | None = None
    launched_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    timeout: float | None = None
    retry_at: float | None = None
    overtaken: int = 0
    worker: ev.Worker | None = None
    cancel_reason: ev.CancelReason | None = None
    detaching: bool = False
    lost: bool = False
    last: ev.AttemptFinished | None = None
    skip: ev.StepSkipped | None = None
    queued_because: str = ""
    queue_timed_out: bool = False

    @property
    def key(self) -> str:
        """The step's id, which is also its name in events."""
        return self.step.id

    @property
    def final(self) -> bool:
        """Say whether nothing more will happen to the step."""
        return self.state in FINAL


@dataclass(slots=True, kw_only=True)
class RunState:
    """The whole run. Build it with `initial_state`, change it with `fold.apply`."""

    plan: Plan
    records: dict[str, StepRecord]
    dependents: dict[str, list[tuple[str, NeedOn]]]
    capacity: dict[str, int]
    used: Counter[str] = field(default_factory=Counter)
    #: Ready steps by what they need, each list with the best rank last.
    ready: dict[frozenset[tuple[str, int]], list[tuple[Rank, str]]] = field(default_factory=dict)
    #: Ready steps that nothing has been said about yet, and those with a queue_timeout.
    fresh: dict[str, None] = field(default_factory=dict)
    queue_timed: dict[str, None] = field(default_factory=dict)
    #: Pending steps that are now certain to start or never to start, in the order in which that became so.
    released: dict[str, None] = field(default_factory=dict)
    settling: dict[str, None] = field(default_factory=dict)
    active: dict[str, None] = field(default_factory=dict)
    retrying: dict[str, None] = field(default_factory=dict)
    unfinished: int = 0
    started_at: float | None = None
    finished: ev.RunFinished | None = None
    interrupted: int | None = None
    timed_out: bool = False
    drained_by: str | None = None
    first_bad: str | None = None
    #: How many workers the server gave when it last refused one; None while it gives all that is asked for.
    ceiling: int | None = None
    probe_at: float = 0.0
    short_message: str | None = None
    short_told: bool = False

    @property
    def stopping(self) -> bool:
        """Say whether nothing more will be launched."""
        return self.timed_out or self.interrupted is not None or self.drained_by is not None

    @property
    def deadline(self) -> float | None:
        """The moment at which run_timeout ends the run."""
        if self.plan.run_timeout is None or self.started_at is None:
            return None
        return self.started_at + self.plan.run_timeout

    def counts(self) -> Counter[StepState]:
        """Count the steps by state."""
        return Counter(record.state for record in self.records.values())


def initial_state(plan: Plan) -> RunState:
    """Return the state before anything has happened."""
    length = _remaining_path(plan)
    state = RunState(
        plan=plan,
        records={},
        dependents={step.id: [] for step in plan.steps},
        capacity={SLOTS: plan.budget.slots, **{f"pool:{name}": limit for name, limit in plan.budget.pools.items()}},
    )
    for order, step in enumerate(plan.steps):
        record = StepRecord(
            step=step,
            rank=(step.priority, length[step.id], -order),
            needs={SLOTS: step.slots, **{f"pool:{name}": weight for name, weight in step.pools.items()}},
            unmet=len(step.needs),
        )
        state.records[step.id] = record
        for need in step.needs:
            state.dependents[need.step].append((step.id, need.on))
        if not step.needs:
            state.released[step.id] = None
    state.unfinished = len(state.records)
    return state


def _remaining_path(plan: Plan) -> dict[str, int]:
    """Count, for each step, the steps on the longest way from it to the end, itself included."""
    open_dependents = Counter(need.step for step in plan.steps for need in step.needs)
    by_id = {step.id: step for step in plan.steps}
    length = dict.fromkeys(by_id, 1)
    leaves = [step for step in plan.steps if not open_dependents[step.id]]
    while leaves:
        step = leaves.pop()
        for need in step.needs:
            length[need.step] = max(length[need.step], length[step.id] + 1)
            open_dependents[need.step] -= 1
            if not open_dependents[need.step]:
                leaves.append(by_id[need.step])
    return length


def validate(state: RunState) -> None:
    """Recompute every index from the records; AssertionError with a sentence if one is wrong. For tests."""
    used: Counter[str] = Counter()
    for record in state.records.values():
        if record.state in HOLDING:
            used.update(record.needs)
    _expect(+used == +state.used, f"in use {+state.used}, but the holders take {+used}")
    for resource, amount in used.items():
        _expect(amount <= state.capacity[resource], f"{resource}: {amount} of {state.capacity[resource]}")
    holders = {record.key for record in state.records.values() if record.state in HOLDING}
    _expect(holders == set(state.active), f"active {set(state.active)}, but {holders} hold slots")
    waiting = {r.key for r in state.records.values() if r.state in (StepState.READY, StepState.QUEUED)}
    listed = {key for group in state.ready.values() for _, key in group}
    _expect(waiting == listed, f"ready lists hold {listed}, but {waiting} wait")
    _expect(all(group == sorted(group) for group in state.ready.values()), "a ready list is out of order")
    unfinished = sum(not record.final for record in state.records.values())
    _expect(unfinished == state.unfinished, f"{state.unfinished} unfinished, but {unfinished} are not final")


def _expect(holds: bool, message: str) -> None:  # noqa: FBT001 - an assertion that python -O keeps
    if not holds:
        raise AssertionError(message)
