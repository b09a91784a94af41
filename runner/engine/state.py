"""The state of a run: one record a step, and the indices that make a decision cheap (what is ready, what is in use).

Only `fold.apply` changes it. Each index is derived from the records (`invariants.validate` checks it in tests), so that
a decision need not read all of them; `state_indices` keeps them. A state that was folded from incomplete events is only
read, never used for decisions: its records may be missing from the indices.
"""

from __future__ import annotations

import enum
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from runner.engine import events as ev
from runner.identity import written_key
from runner.plan.model import ItemValues, NeedOn, OnLeftovers, Plan, Step, StepWindow, Value
from runner.sql.text_traits import nature_of
from runner.structs import Struct, field

#: The resource that every step takes; the others are `pool:<name>`, `exclusive:<name>`, of which there is one, and
#: `for_each:<step>`, which `max_parallel` limits.
SLOTS = "slots"
#: What each step takes that may only start while the plan's window is open; there is no limit to it then.
WINDOW = "window"
UNLIMITED = sys.maxsize
_EXCLUSIVE = "exclusive:"
#: A hold that concerns a step is part of the step's kind: while it is on, no step of that kind can start.
_HOLD = "hold:"
#: The items of a step are of a kind of their own, so that a decision finds the first waiting one of each step.
_ITEMS = "items:"
GATE = "for_each:"


class StepState(enum.StrEnum):
    """A step's state; the last eight are final."""

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


#: Final states that count against the run.
BAD = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})
FINAL = BAD | {StepState.SUCCEEDED, StepState.DETACHED, StepState.SKIPPED, StepState.FAILED_ALLOWED}
#: States in which the step holds its slots and pools.
HOLDING = frozenset({StepState.LAUNCHING, StepState.RUNNING})

#: A step that was overtaken this often, for each slot of the budget, is served next and reserves what it lacks.
OVERTAKES_PER_SLOT = 4

#: Priority (negated), remaining path (negated), plan order, number of the item: the lowest is served first.
Rank = tuple[int, int, int, int]
#: Amounts of resources.
Kind = frozenset[tuple[str, int]]
#: A rank in which steps that were overtaken too often precede the others of their priority, and items follow them.
Place = tuple[int, bool, bool, int, int, int]


class StepRecord(Struct, kw_only=True):
    """The state of one step of this run. Times are seconds since the epoch."""

    step: Step
    rank: Rank
    needs: Mapping[str, int]
    #: `needs` as a key: steps with the same needs fit, or do not fit, together; `shared` leaves out exclusive names.
    kind: Kind
    shared: Kind
    unmet: int
    #: The step with `for_each` whose item this is, or belongs to; empty for another step. Items start after steps.
    items_of: str = ""
    #: The values of this instance's item, the step that it is an instance of, and the number of unfinished instances.
    values: ItemValues = field(default_factory=dict)
    parent: str | None = None
    #: The items of this instance, if it is a chunk.
    chunk: tuple[ev.Item, ...] = ()
    instances: tuple[str, ...] | None = None
    open_instances: int = 0
    in_finally: bool = False
    state: StepState = StepState.PENDING
    attempt: int = 0
    #: The iteration of a repeat, from 1, and the attempts made before it.
    iteration: int = 1
    attempts_before: int = 0
    #: The result of the query for items, or of the conditions after the last attempt.
    verdict: ev.Verdict | None = None
    check_error: ev.ErrorDetails | None = None
    #: The phase that is being evaluated, or was evaluated last.
    phase: ev.CheckPhase | None = None
    #: The result of `if` and the preconditions before the next launch; None before they are evaluated. `refused` counts
    #: the launches of this iteration that an unmet precondition, or one with an error, has prevented.
    gate: ev.Verdict | None = None
    gate_error: ev.ErrorDetails | None = None
    refused: int = 0
    #: Whether the step holds its slots during the evaluation of its conditions, and whether it lost them by a slow one.
    holds: bool = False
    slots_released: bool = False
    since: float = 0.0
    ready_at: float | None = None
    launched_at: float | None = None
    #: When the worker began, by its age on the server's clock; None while unknown.
    begun_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    #: The step's seconds under previous runners of this run.
    took_before: float = 0.0
    timeout: float | None = None
    retry_at: float | None = None
    overtaken: int = 0
    worker: ev.Worker | None = None
    cancel_reason: ev.CancelReason | None = None
    detaching: bool = False
    lost: bool = False
    #: The last attempt whose worker was never seen after its launch was lost: that worker may still begin.
    unseen: int | None = None
    #: An attempt of this iteration did not succeed: `on_retry` precedes the next one.
    tried: bool = False
    #: The present worker only prepares the attempt; or the attempt has ended, and a worker removes what it left behind.
    preparing: bool = False
    removing: bool = False
    #: What was unfinished in the database before the attempt; None: not noted, or not needed any more.
    unfinished: tuple[str, ...] | None = None
    #: The run was taken over, the last attempt was open, and no record has its outcome: a ledger can lack the end of an
    #: attempt, and the runner that took the run over read the journal.
    without_evidence: bool = False
    #: The detached worker had ended when the run was taken over.
    worker_ended: bool = False
    last: ev.AttemptFinished | None = None
    #: Why the finished step did not succeed; an attempt's own error is in `last`.
    error: ev.ErrorDetails | None = None
    #: Its work is committed, and it failed because one of its checks was not met.
    committed: bool = False
    #: What its attempts have left behind, as of the last one that ended.
    leftovers: tuple[ev.Leftover, ...] = ()
    #: WARNINGs of its workers, in all attempts; and those of the present attempt so far.
    warnings: int = 0
    warned: int = 0
    #: Committed iterations of a repeat, and the total of their rows.
    iterations: int = 0
    rows: int = 0
    #: The table that a repeat changes, and about how many rows it had before; empty and None if unknown.
    table: str = ""
    table_rows: int | None = None
    #: The command tag of the last attempt that committed.
    tag: str = ""
    #: The values that the next iteration begins with, and the adapted parameter with its value; see `batches`.
    carried: Mapping[str, Value | None] = field(default_factory=dict)
    adapted: tuple[str, int] | None = None
    #: How often it was changed by time in the direction of the last change (negative: down), and that change's largest
    #: factor.
    adapt_direction: int = 0
    adapt_limit: float = 2.0
    #: Whether the present attempt is reported: of the iterations of a repeat, only one every few seconds is.
    announced: bool = True
    announced_at: float = 0.0
    skip: ev.StepSkipped | None = None
    queued_because: str = ""
    #: Since when a hold is on for the waiting step, the seconds of previous holds since it is ready, and the hold that
    #: was on for longer than its at_most.
    held_since: float | None = None
    held_for: float = 0.0
    held_out: str | None = None
    #: The sessions that the present worker has blocked for yield_after.
    blocking: ev.AttemptBlocking | None = None
    #: The user who requested to cancel this step, apart from the rest of the run.
    cancelled_by: str | None = None
    queue_timed_out: bool = False

    @property
    def key(self) -> str:
        """The step's id, which is also its name in events."""
        return self.step.id

    @property
    def queue_deadline(self) -> float | None:
        """The time at which the step has waited too long for a slot; None without a limit, or while it is held."""
        if self.ready_at is None or self.step.queue_timeout is None or self.held_since is not None:
            return None
        return self.ready_at + self.step.queue_timeout + self.held_for

    @property
    def server_end(self) -> float | None:
        """The time at which the server ends the worker; None without a timeout, and after a cancel or a detach."""
        begun = self.launched_at if self.begun_at is None else self.begun_at
        if self.timeout is None or begun is None or self.cancel_reason is not None or self.detaching or self.removing:
            return None
        return begun + self.timeout

    @property
    def took(self) -> float | None:
        """The step's seconds; None before an end.

        They are the sum over all runners, each from its first launch to the end of its last attempt. The time between
        two runners does not count, nor does an attempt without a recorded end.
        """
        ended = self.ended_at is not None and self.started_at is not None and self.ended_at >= self.started_at
        if not ended:
            return self.took_before or None
        return self.took_before + (self.ended_at or 0.0) - (self.started_at or 0.0)

    @property
    def to_prepare(self) -> bool:
        """Whether a worker must prepare the next attempt: by `on_retry`, or by removing what one left behind."""
        if self.step.on_retry is not None and self.tried:
            return True
        drops = self.step.leftovers is OnLeftovers.DROP
        return drops and (self.unfinished is not None or bool(self.leftovers))

    @property
    def skip_reason(self) -> ev.SkipReason | None:
        """Why the step was skipped; None if it was not."""
        return None if self.skip is None else self.skip.reason

    @property
    def final(self) -> bool:
        """Whether the step's state cannot change any more."""
        return self.state in FINAL

    @property
    def tries(self) -> int:
        """The number of attempts in this iteration."""
        return self.attempt - self.attempts_before

    @property
    def assisted(self) -> bool:
        """Whether its worker is not the step's own: the step's SQL was not requested yet, or has ended."""
        return self.preparing or self.removing

    @property
    def may_run_again(self) -> bool:
        """Whether the step may run again, regardless of what its last worker did.

        It may if the plan marks it as idempotent, or if its SQL only reads or maintains tables and indexes (VACUUM).
        """
        return self.step.idempotent or nature_of(self.step.sql.text).idempotent

    @property
    def conditional(self) -> bool:
        """Whether conditions are evaluated before each launch; those of a for_each belong to its instances."""
        return self.step.for_each is None and (self.step.if_ is not None or bool(self.step.preconditions))


class WindowState(Struct, kw_only=True):
    """The plan's window in this run (`engine.window`). `opens` and `closes` are by the server's clock."""

    #: Seconds by which the server's clock is ahead of the run's clock.
    ahead: float = 0.0
    #: The present opening, or the next one; None before it is known. `known_at` is when it was found, by both clocks.
    opens: float | None = None
    closes: float | None = None
    known_at: float = 0.0
    open: bool = False
    #: It has closed: what did not start is left over.
    closed: bool = False
    #: Nothing is launched before this time of the run's clock: the server has refused a launch outside the window.
    shut_until: float = 0.0
    #: The usual durations that must fit into the rest of the window, by step or instance.
    usual: Mapping[str, float] = field(default_factory=dict)
    #: When ready steps of known duration must have started, by the server's clock, earliest first.
    latest_starts: list[tuple[float, str]] = field(default_factory=list)
    #: Whether a step is left over.
    leftover: bool = False

    def local(self, moment: float) -> float:
        """Return a time of the server's clock as one of the run's clock."""
        return moment - self.ahead


class RunState(Struct, kw_only=True):
    """The whole run. Build it with `initial_state`, change it with `fold.apply`."""

    plan: Plan
    records: dict[str, StepRecord]
    dependents: dict[str, list[tuple[str, NeedOn]]]
    capacity: dict[str, int]
    used: Counter[str] = field(default_factory=Counter)
    #: Ready steps by their needs, best position first; and the first entries of these lists by their shared needs.
    ready: dict[Kind, list[tuple[Place, str]]] = field(default_factory=dict)
    heads: dict[Kind, list[tuple[Place, str]]] = field(default_factory=dict)
    #: Ready steps for which no reason to wait was reported yet.
    fresh: dict[str, None] = field(default_factory=dict)
    #: When ready steps reach their queue_timeout, and when retries are due, earliest first.
    queue_timed: list[tuple[float, str]] = field(default_factory=list)
    retrying: list[tuple[float, str]] = field(default_factory=list)
    #: When the server ends workers that were neither requested to stop nor detached, earliest first.
    server_ends: list[tuple[float, str]] = field(default_factory=list)
    #: Pending steps that can now start or can never start, in the order in which that was decided.
    released: dict[str, None] = field(default_factory=dict)
    settling: dict[str, None] = field(default_factory=dict)
    #: Steps that hold their slots during the evaluation of their conditions, and steps to launch next.
    checking: dict[str, None] = field(default_factory=dict)
    cleared: dict[str, None] = field(default_factory=dict)
    #: Unfinished steps that a user has requested to cancel.
    to_cancel: dict[str, None] = field(default_factory=dict)
    active: dict[str, None] = field(default_factory=dict)
    #: Steps whose workers have blocked other sessions for too long.
    to_yield: dict[str, None] = field(default_factory=dict)
    #: The holds that are on, and those that prevent starts: these, and those that were not measured yet.
    holds: dict[str, ev.HoldBegan] = field(default_factory=dict)
    holding: frozenset[tuple[str, int]] = frozenset()
    #: Waiting steps that were held between two batches, and whose next batch is to be smaller (`adapt`).
    eased: dict[str, None] = field(default_factory=dict)
    #: Instances that were not selected, as the event RunStarted has them.
    left_out: tuple[str, ...] = ()
    unfinished: int = 0
    #: Of these, the unfinished steps outside `finally`, and the steps that only wait for their instances.
    main_unfinished: int = 0
    expanded: int = 0
    #: `finally` has begun; it was interrupted itself; it was cancelled itself.
    finalizing: bool = False
    finally_interrupted: bool = False
    finally_cancelled: bool = False
    #: The items of steps after a resume, as the event RunResumed lists them; None: not decided yet.
    expansions: Mapping[str, tuple[ev.Item, ...]] | None = None
    #: The number of attempts, before the run was taken over, of steps that can reappear as instances.
    attempts_made: Mapping[str, int] = field(default_factory=dict)
    started_at: float | None = None
    #: The seconds that previous runners worked on the run.
    took_before: float = 0.0
    finished: ev.RunFinished | None = None
    interrupted: int | None = None
    cancelled_by: str | None = None
    timed_out: bool = False
    #: Steps whose workers are still running long after they were requested to stop: the run does not wait for them.
    unstoppable: dict[str, None] = field(default_factory=dict)
    drained_by: str | None = None
    #: Another run has locked the concurrency group.
    group_lost: bool = False
    #: None without a window in the plan.
    window: WindowState | None = None
    #: The journal is lost, so a launch could not be recorded.
    record_lost: bool = False
    first_bad: str | None = None
    #: The number of workers that the server gave when it last refused one; None while it refuses none.
    ceiling: int | None = None
    #: The step whose launch tests whether the server gives more, and the time of the next test.
    probe: str | None = None
    probe_at: float = 0.0
    short_message: str | None = None
    shortage_reported: bool = False
    #: How many further workers a limit that several runs share allows now; None without such a limit.
    shared_left: int | None = None

    @property
    def stopping(self) -> bool:
        """Whether no further step is launched. `finally` still runs, however the rest ended, if there is a journal."""
        return self.ending or self.record_lost

    @property
    def ending(self) -> bool:
        """Whether the run is being ended, which can include running workers."""
        return self.ending_at_once or self.draining

    @property
    def ending_at_once(self) -> bool:
        """Whether a signal, a cancel request or run_timeout ends the running workers."""
        return self.interrupting or self.cancelling or self.timing_out

    @property
    def interrupting(self) -> bool:
        """Whether a signal ends the running workers."""
        return self.finally_interrupted if self.finalizing else self.interrupted is not None

    @property
    def cancelling(self) -> bool:
        """Whether a cancel request through the server ends the running workers."""
        return self.finally_cancelled if self.finalizing else self.cancelled_by is not None

    @property
    def timing_out(self) -> bool:
        """Whether run_timeout ends the running workers."""
        return self.timed_out and not self.finalizing

    @property
    def draining(self) -> bool:
        """Whether a failure prevents other steps from starting."""
        return self.drained_by is not None and not self.finalizing

    def is_left_over(self, record: StepRecord) -> bool:
        """Return whether the window has closed before the step could start, or start again."""
        return self.window is not None and self.window.closed and WINDOW in record.needs

    @property
    def stuck(self) -> bool:
        """Whether only workers that cannot be stopped are left."""
        waiting = (self.settling, self.checking, self.cleared, self.released, self.ready, self.retrying)
        return bool(self.unstoppable) and self.active.keys() == self.unstoppable.keys() and not any(waiting)

    @property
    def deadline(self) -> float | None:
        """The time at which run_timeout ends the run; `finally` only has its steps' timeouts."""
        if self.plan.run_timeout is None or self.started_at is None or self.finalizing:
            return None
        return self.started_at + self.plan.run_timeout

    @property
    def overtake_limit(self) -> int:
        """How often a step may be overtaken before it is served next and reserves what it lacks."""
        return OVERTAKES_PER_SLOT * self.capacity[SLOTS]

    @property
    def requested_workers(self) -> int:
        """The number of workers that run or are about to be launched: those of steps that hold their slots."""
        return len(self.active) + len(self.checking) + sum(self.records[key].holds for key in self.cleared)

    def place(self, record: StepRecord) -> Place:
        """Return the step's position among the steps that wait for a slot."""
        priority, path, order, item = record.rank
        return (priority, record.overtaken < self.overtake_limit, bool(record.items_of), path, order, item)

    def counts(self) -> Counter[StepState]:
        """Count the steps by state; for a step with instances, its instances are counted."""
        return Counter(record.state for record in self.records.values() if not record.instances)


def steps_to_cancel(state: RunState, step: str) -> tuple[str, ...]:
    """Return the steps that a cancel request for `step` concerns, unfinished and not yet requested.

    Those are the step itself, its instances, the steps of its chains, or one step of the chains of all items.
    """
    record = state.records.get(step)
    if record is None:  # a step of a chain, of all items
        found: Iterable[StepRecord] = (one for key, one in state.records.items() if written_key(key) == step)
    else:
        found = leaves(state, record)
    return tuple(record.key for record in found if not record.final and record.cancelled_by is None)


def leaves(state: RunState, record: StepRecord) -> Iterator[StepRecord]:
    """Yield the step itself, or its instances: of a chunk that was split, its items; of a group, the steps of all
    items."""
    if record.instances is None:
        yield record
    for key in record.instances or ():
        yield from leaves(state, state.records[key])


def initial_state(plan: Plan) -> RunState:
    """Return the state at the beginning of a run."""
    steps = plan.all_steps
    length = remaining_path(steps)
    state = RunState(
        plan=plan,
        records={},
        dependents={step.id: [] for step in steps},
        capacity=_capacity(plan),
        holding=frozenset(hold_mark(hold.name) for hold in plan.holds),
        window=None if plan.window is None else WindowState(),
    )
    for order, step in enumerate(steps):
        rank = (-step.priority, -length[step.id], order, 0)
        in_window = order < len(plan.steps) and obeys_window(plan, step)
        state.records[step.id] = new_record(step, rank, unmet=len(step.needs), in_window=in_window)
        for need in step.needs:
            state.dependents[need.step].append((step.id, need.on))
    for step in plan.finally_:
        state.records[step.id].in_finally = True
    state.released.update((step.id, None) for step in plan.steps if not step.needs)
    state.unfinished = len(state.records)
    state.main_unfinished = len(plan.steps)
    return state


def new_record(step: Step, rank: Rank, *, unmet: int = 0, in_window: bool = False) -> StepRecord:
    """Return the record of a step, or of an instance, at the beginning; `in_window`: it needs an open window."""
    needs = _needs(step)
    if in_window:
        needs[WINDOW] = 1
    kind, shared = _kinds(step, needs)
    return StepRecord(step=step, rank=rank, needs=needs, kind=kind, shared=shared, unmet=unmet)


def obeys_window(plan: Plan, step: Step) -> bool:
    """Return whether a step outside `finally` starts only in the window; a group does if one of its steps does."""
    return plan.window is not None and any(one.window is not StepWindow.IGNORE for one in step.steps or (step,))


def change_needs(record: StepRecord, needs: Mapping[str, int]) -> None:
    """Replace the needs of a step that neither holds them nor waits in a list by them."""
    record.needs = needs
    record.kind, record.shared = _kinds(record.step, needs, record.items_of)


def become_item(record: StepRecord, of: str, needs: Mapping[str, int]) -> None:
    """Let a record be an item of a step, or belong to one, with these needs."""
    record.items_of = of
    change_needs(record, needs)


def _kinds(step: Step, needs: Mapping[str, int], items_of: str = "") -> tuple[Kind, Kind]:
    marks = [(_ITEMS + items_of, 1)] if items_of else []
    kind = frozenset((*needs.items(), *map(hold_mark, step.holds), *marks))
    shared = frozenset(need for need in kind if not need[0].startswith(_EXCLUSIVE)) if step.exclusive else kind
    return kind, shared


def hold_mark(hold: str) -> tuple[str, int]:
    """Return what is part of the kind of each step that the hold concerns."""
    return _HOLD + hold, 1


def _capacity(plan: Plan) -> dict[str, int]:
    capacity = {SLOTS: plan.budget.slots}
    if plan.window is not None:
        capacity[WINDOW] = UNLIMITED
    capacity.update({f"pool:{name}": limit for name, limit in plan.budget.pools.items()})
    capacity.update({_HOLD + hold.name: 1 for hold in plan.holds})
    steps = plan.all_steps
    capacity.update({_EXCLUSIVE + name: 1 for step in steps for each in (step, *step.steps) for name in each.exclusive})
    for step in steps:
        if step.for_each is not None:
            capacity[_ITEMS + step.id] = UNLIMITED
            if step.for_each.max_parallel is not None:
                capacity[gate(step.id)] = step.for_each.max_parallel
    return capacity


def _needs(step: Step) -> dict[str, int]:
    needs = {SLOTS: step.slots}
    needs.update({f"pool:{name}": weight for name, weight in step.pools.items()})
    needs.update({_EXCLUSIVE + name: 1 for name in sorted(step.exclusive)})
    if step.for_each is not None and step.for_each.max_parallel is not None:
        needs[gate(step.id)] = 1
    return needs


def gate(step: str) -> str:
    """Return the name of the resource that `max_parallel` limits: of the instances of a step, or of a group's items."""
    return GATE + step


def remaining_path(steps: Sequence[Step]) -> dict[str, int]:
    """Count, for each step, the steps on the longest path from it to the end, including itself; a group is one step."""
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


def need_met(on: NeedOn, state: StepState, skip: ev.StepSkipped | None) -> bool:
    """Return whether a dependent that needs the step `on` can start when the step ended in `state`.

    A step that its own condition skipped counts as a success: there was nothing to do. So does a step that the user did
    not select: the selection states that it is done.
    """
    if skip is not None and skip.reason is ev.SkipReason.WINDOW:
        return False
    if on is NeedOn.DONE:
        return True
    if on is NeedOn.FAILURE:
        return state in BAD
    if state is StepState.SKIPPED:
        return skip is not None and skip.reason in (ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED)
    return state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)
