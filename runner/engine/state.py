"""The state of a run: one record a step, and the indices that make a decision cheap (what is ready, what is in use).

Only `fold.apply` changes it. Each index follows from the records (`invariants.validate` checks it, for tests); they
exist so that a decision need not look at all of them. A record leaves the indices of its present state before it gets
another one. A state of events with holes is read and never decided on, so its records may be missing from the indices.
"""

from __future__ import annotations

import bisect
import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.engine import events as ev
from runner.plan.model import NeedOn, Plan, Step, Value

#: The resource that every step takes; the others are `pool:<name>` and `exclusive:<name>`, of which there is one.
SLOTS = "slots"
_EXCLUSIVE = "exclusive:"


class StepState(enum.StrEnum):
    """Where a step is on its way; the last eight are final."""

    PENDING = "pending"
    CHECKING = "checking"
    EXPANDED = "expanded"
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

#: A step that has been overtaken this often, for each slot of the budget, goes first and reserves what it lacks.
OVERTAKES_PER_SLOT = 4

#: Priority (negated), remaining path (negated), plan order, number of the item: the least goes first.
Rank = tuple[int, int, int, int]
#: Amounts of resources.
Kind = frozenset[tuple[str, int]]
#: A rank in which those overtaken too often come before the rest of their priority.
Place = tuple[int, bool, int, int, int]


@dataclass(slots=True, kw_only=True)
class StepRecord:
    """All that is known of one step of this run. Times are seconds since the epoch."""

    step: Step
    rank: Rank
    needs: Mapping[str, int]
    #: `needs` as a key: steps that need the same fit or do not fit together. And the same without exclusive names.
    kind: Kind
    shared: Kind
    unmet: int
    #: The values of this instance's item, the step that it is an instance of, and the instances still open.
    values: Mapping[str, Value | None] = field(default_factory=dict)
    parent: str | None = None
    instances: tuple[str, ...] | None = None
    open_instances: int = 0
    in_finally: bool = False
    state: StepState = StepState.PENDING
    attempt: int = 0
    #: The iteration of a repeat, from 1, and the attempts made before it.
    iteration: int = 1
    attempts_before: int = 0
    #: What the query for items or the conditions after the last attempt said.
    verdict: ev.Verdict | None = None
    check_error: ev.ErrorDetails | None = None
    #: What is evaluated, or was the last time.
    phase: ev.CheckPhase | None = None
    #: What `if` and the preconditions said before the next launch; None if they are still to be evaluated. `refused`
    #: counts the launches of this iteration that an unmet precondition, or one that failed, has prevented.
    gate: ev.Verdict | None = None
    gate_error: ev.ErrorDetails | None = None
    refused: int = 0
    #: Whether the step holds its slots while its conditions are evaluated, and whether a slow one has cost it them.
    holds: bool = False
    gave_way: bool = False
    since: float = 0.0
    ready_at: float | None = None
    launched_at: float | None = None
    #: When the worker began, by its age on the server's clock; None as long as that is not known.
    begun_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    #: Seconds that the step took under earlier runners of this run.
    took_before: float = 0.0
    timeout: float | None = None
    retry_at: float | None = None
    overtaken: int = 0
    worker: ev.Worker | None = None
    cancel_reason: ev.CancelReason | None = None
    detaching: bool = False
    lost: bool = False
    #: When the run was taken up, the last attempt was open, and this record does not say what was found out about it:
    #: a ledger need not have the end of what was recorded, and whoever took the run up had the journal.
    unproven: bool = False
    #: The worker that was let go of did not live any more when the run was taken up.
    gone: bool = False
    last: ev.AttemptFinished | None = None
    #: Why the step, which is over, did not succeed; an attempt's own error is in `last`.
    error: ev.ErrorDetails | None = None
    #: Its work is committed, and it failed because a check of it was not met.
    committed: bool = False
    #: What its attempts have left half done, as of the last one that ended.
    leftovers: tuple[ev.Leftover, ...] = ()
    #: WARNINGs of its workers, in all attempts; and those of the present attempt so far.
    warnings: int = 0
    warned: int = 0
    #: Iterations of a repeat that have committed, and the rows that they were about, in all.
    iterations: int = 0
    rows: int = 0
    #: The command tag of the last attempt that committed.
    tag: str = ""
    #: Whether the present attempt is announced: of the iterations of a repeat, only one every few seconds is.
    announced: bool = True
    announced_at: float = 0.0
    skip: ev.StepSkipped | None = None
    queued_because: str = ""
    #: Who has asked for the step to be stopped, apart from the rest of the run.
    cancelled_by: str | None = None
    queue_timed_out: bool = False

    @property
    def key(self) -> str:
        """The step's id, which is also its name in events."""
        return self.step.id

    @property
    def queue_deadline(self) -> float | None:
        """The moment at which the step has waited too long for a slot; None if it may wait for ever."""
        if self.ready_at is None or self.step.queue_timeout is None:
            return None
        return self.ready_at + self.step.queue_timeout

    @property
    def server_end(self) -> float | None:
        """The moment at which the server ends the worker; None if it does not, or if it was asked for before."""
        begun = self.launched_at if self.begun_at is None else self.begun_at
        if self.timeout is None or begun is None or self.cancel_reason is not None or self.detaching:
            return None
        return begun + self.timeout

    @property
    def took(self) -> float | None:
        """How long it took, for each runner from its first launch to the end of its last attempt; None: it has no end.

        The time between two runners is not in it, nor an attempt whose end nobody has recorded.
        """
        ended = self.ended_at is not None and self.started_at is not None and self.ended_at >= self.started_at
        if not ended:
            return self.took_before or None
        return self.took_before + (self.ended_at or 0.0) - (self.started_at or 0.0)

    @property
    def final(self) -> bool:
        """Say whether nothing more will happen to the step."""
        return self.state in FINAL

    @property
    def tries(self) -> int:
        """How many attempts there were in this iteration."""
        return self.attempt - self.attempts_before

    @property
    def conditional(self) -> bool:
        """Say whether conditions are evaluated before each launch; those of a for_each concern its instances."""
        return self.step.for_each is None and (self.step.if_ is not None or bool(self.step.preconditions))


@dataclass(slots=True, kw_only=True)
class RunState:
    """The whole run. Build it with `initial_state`, change it with `fold.apply`."""

    plan: Plan
    records: dict[str, StepRecord]
    dependents: dict[str, list[tuple[str, NeedOn]]]
    capacity: dict[str, int]
    used: Counter[str] = field(default_factory=Counter)
    #: Ready steps by what they need, best place first; and the first ones of these lists by what of it is shared.
    ready: dict[Kind, list[tuple[Place, str]]] = field(default_factory=dict)
    heads: dict[Kind, list[tuple[Place, str]]] = field(default_factory=dict)
    #: Ready steps that nothing has been said about yet.
    fresh: dict[str, None] = field(default_factory=dict)
    #: When ready steps reach their queue_timeout, and when retries are due, the earliest first.
    queue_timed: list[tuple[float, str]] = field(default_factory=list)
    retrying: list[tuple[float, str]] = field(default_factory=list)
    #: When the server ends workers that nobody has asked to stop or let go of, the earliest first.
    server_ends: list[tuple[float, str]] = field(default_factory=list)
    #: Pending steps that are now certain to start or never to start, in the order in which that became so.
    released: dict[str, None] = field(default_factory=dict)
    settling: dict[str, None] = field(default_factory=dict)
    #: Steps that hold their slots while their conditions are evaluated, and steps to be launched next.
    checking: dict[str, None] = field(default_factory=dict)
    cleared: dict[str, None] = field(default_factory=dict)
    #: Steps that somebody has asked to stop, and that are not over.
    unwanted: dict[str, None] = field(default_factory=dict)
    active: dict[str, None] = field(default_factory=dict)
    unfinished: int = 0
    #: Of these, the steps outside `finally`, and the steps that only wait for their instances.
    main_unfinished: int = 0
    expanded: int = 0
    #: What is known of `finally`: it has begun, and it was interrupted or cancelled itself.
    finalizing: bool = False
    finally_interrupted: bool = False
    finally_cancelled: bool = False
    #: The items with which steps go on, as the event of the resumption has them; None: it is still to be decided.
    expansions: Mapping[str, tuple[ev.Item, ...]] | None = None
    #: How many attempts steps have had before the run was taken up that may come again as instances.
    attempts_made: Mapping[str, int] = field(default_factory=dict)
    started_at: float | None = None
    #: How many seconds earlier runners worked on the run.
    took_before: float = 0.0
    finished: ev.RunFinished | None = None
    interrupted: int | None = None
    cancelled_by: str | None = None
    timed_out: bool = False
    #: Steps whose workers are still running although they were asked to stop for long: they are not waited for.
    unstoppable: dict[str, None] = field(default_factory=dict)
    drained_by: str | None = None
    #: Another run has taken the concurrency group.
    group_lost: bool = False
    #: The journal is lost: what is launched now could never be accounted for.
    record_lost: bool = False
    first_bad: str | None = None
    #: How many workers the server gave when it last refused one; None while it gives all that is asked for.
    ceiling: int | None = None
    #: The step whose launch tries whether the server gives more than that, and when the next one may try.
    probe: str | None = None
    probe_at: float = 0.0
    short_message: str | None = None
    short_told: bool = False

    @property
    def stopping(self) -> bool:
        """Say whether nothing more will be launched. `finally` runs however the rest ended, if there is a journal."""
        return self.ending or self.record_lost

    @property
    def ending(self) -> bool:
        """Say whether the run is being brought to its end, which may also concern what runs."""
        return self.interrupting or self.cancelling or self.timing_out or self.draining

    @property
    def interrupting(self) -> bool:
        """Say whether a signal ends what runs now."""
        return self.finally_interrupted if self.finalizing else self.interrupted is not None

    @property
    def cancelling(self) -> bool:
        """Say whether somebody's request through the server ends what runs now."""
        return self.finally_cancelled if self.finalizing else self.cancelled_by is not None

    @property
    def timing_out(self) -> bool:
        """Say whether run_timeout ends what runs now."""
        return self.timed_out and not self.finalizing

    @property
    def draining(self) -> bool:
        """Say whether a failure keeps other steps from starting now."""
        return self.drained_by is not None and not self.finalizing

    @property
    def stuck(self) -> bool:
        """Say whether nothing can happen any more but the end of workers that cannot be stopped."""
        waiting = (self.settling, self.checking, self.cleared, self.released, self.ready, self.retrying)
        return bool(self.unstoppable) and self.active.keys() == self.unstoppable.keys() and not any(waiting)

    @property
    def deadline(self) -> float | None:
        """The moment at which run_timeout ends the run; `finally` has only its own timeouts."""
        if self.plan.run_timeout is None or self.started_at is None or self.finalizing:
            return None
        return self.started_at + self.plan.run_timeout

    @property
    def patience(self) -> int:
        """How often a step may be overtaken before it goes first and reserves what it lacks."""
        return OVERTAKES_PER_SLOT * self.capacity[SLOTS]

    @property
    def asked_for(self) -> int:
        """How many workers there are or are about to be: those of steps that hold their slots."""
        return len(self.active) + len(self.checking) + sum(self.records[key].holds for key in self.cleared)

    def place(self, record: StepRecord) -> Place:
        """Return where the step stands among those that wait for a slot."""
        priority, path, order, item = record.rank
        return (priority, record.overtaken < self.patience, path, order, item)

    def counts(self) -> Counter[StepState]:
        """Count the steps by state; a step with instances is counted as these."""
        return Counter(record.state for record in self.records.values() if not record.instances)


def concerned(state: RunState, step: str) -> tuple[str, ...]:
    """Return who is meant by a request about `step`: it, or its instances, as far as they are not over or asked yet."""
    record = state.records.get(step)
    found = () if record is None else (step,) if record.instances is None else record.instances
    records = [state.records[key] for key in found]
    return tuple(record.key for record in records if not record.final and record.cancelled_by is None)


def initial_state(plan: Plan) -> RunState:
    """Return the state before anything has happened."""
    steps = (*plan.steps, *plan.finally_)
    length = _remaining_path(steps)
    state = RunState(
        plan=plan,
        records={},
        dependents={step.id: [] for step in steps},
        capacity=_capacity(plan),
    )
    for order, step in enumerate(steps):
        rank = (-step.priority, -length[step.id], order, 0)
        state.records[step.id] = new_record(step, rank, unmet=len(step.needs))
        for need in step.needs:
            state.dependents[need.step].append((step.id, need.on))
    for step in plan.finally_:
        state.records[step.id].in_finally = True
    state.released.update((step.id, None) for step in plan.steps if not step.needs)
    state.unfinished = len(state.records)
    state.main_unfinished = len(plan.steps)
    return state


def new_record(step: Step, rank: Rank, *, unmet: int = 0) -> StepRecord:
    """Return the record of a step, or of an instance of one, before anything has happened to it."""
    needs = _needs(step)
    kind = frozenset(needs.items())
    shared = frozenset(need for need in kind if not need[0].startswith(_EXCLUSIVE)) if step.exclusive else kind
    return StepRecord(step=step, rank=rank, needs=needs, kind=kind, shared=shared, unmet=unmet)


def _capacity(plan: Plan) -> dict[str, int]:
    capacity = {SLOTS: plan.budget.slots}
    capacity.update({f"pool:{name}": limit for name, limit in plan.budget.pools.items()})
    steps = (*plan.steps, *plan.finally_)
    capacity.update({_EXCLUSIVE + name: 1 for step in steps for name in step.exclusive})
    for step in steps:
        if step.for_each is not None and step.for_each.max_parallel is not None:
            capacity[f"for_each:{step.id}"] = step.for_each.max_parallel
    return capacity


def _needs(step: Step) -> dict[str, int]:
    needs = {SLOTS: step.slots}
    needs.update({f"pool:{name}": weight for name, weight in step.pools.items()})
    needs.update({_EXCLUSIVE + name: 1 for name in sorted(step.exclusive)})
    if step.for_each is not None and step.for_each.max_parallel is not None:
        needs[f"for_each:{step.id}"] = 1
    return needs


def _remaining_path(steps: Sequence[Step]) -> dict[str, int]:
    """Count, for each step, the steps on the longest way from it to the end, itself included."""
    open_dependents = Counter(need.step for step in steps for need in step.needs)
    by_id = {step.id: step for step in steps}
    length = dict.fromkeys(by_id, 1)
    leaves = [step for step in steps if not open_dependents[step.id]]
    while leaves:
        step = leaves.pop()
        for need in step.needs:
            length[need.step] = max(length[need.step], length[step.id] + 1)
            open_dependents[need.step] -= 1
            if not open_dependents[need.step]:
                leaves.append(by_id[need.step])
    return length


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


def need_met(on: NeedOn, state: StepState, skip: ev.StepSkipped | None) -> bool:
    """Say whether a step that ended in `state` lets a dependent start that needs it `on`.

    A step skipped by its own condition counts as a success: there was nothing to do. So does one that was not selected:
    whoever selects says that it is done.
    """
    if on is NeedOn.DONE:
        return True
    if on is NeedOn.FAILURE:
        return state in BAD
    if state is StepState.SKIPPED:
        return skip is not None and skip.reason in (ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED)
    return state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)
