"""Watches a simulated run and keeps books of its own: an independent word on every rule of the scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeGuard

from runner.engine import events as ev
from runner.engine.fold import PROBE_INTERVAL
from runner.engine.outcomes import UNKNOWN_ATTEMPTS
from runner.engine.ports import Command, Evaluate, Launch
from runner.engine.scheduler import Decision
from runner.engine.state import WINDOW, RunState, StepRecord, StepState
from runner.plan.model import Need, NeedOn, Plan, Step
from tests.invariants import validate
from tests.unit.random_runs import NAMES


class Inspector:
    """Checks each event and each decision, from the events and the plan alone where that is possible."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.main = {step.id for step in plan.steps}
        self.open_main = len(plan.steps)
        self.held: dict[str, StepRecord] = {}
        self.preparing: set[str] = set()
        self.checking: set[str] = set()
        self.to_cancel: set[str] = set()
        self.before: dict[str, ev.Verdict] = {}
        self.refused: Counter[str] = Counter()
        self.launched: Counter[str] = Counter()
        self.iterations: Counter[str] = Counter()
        self.overtaken: Counter[str] = Counter()
        self.stopped = {True: False, False: False}
        self.begun: set[str] = set()
        self.reported_short = False
        self.last_probe = -1e9
        #: Since when each hold is on; when each step was ready, and its seconds and start of being held since then.
        self.on: dict[str, float] = {}
        self.ready_at: dict[str, float] = {}
        self.held_for: dict[str, float] = {}
        self.held_at: dict[str, float] = {}

    def __call__(self, state: RunState, what: ev.Event | Decision) -> None:
        """Check what has just happened."""
        if isinstance(what, ev.Event):
            if isinstance(what, ev.StepCancelRequested):
                self.to_cancel.add(what.step)
            self.holds(state, what)
            self.event(state, what)
            validate(state)
        elif what.commands:
            asked = [c for c in what.commands if isinstance(c, Launch) or is_before(c)]
            starts = [command for command in asked if not state.records[command.step].holds]
            self.overtaking(state, starts)
            self.ceiling(state, len(starts))
        elif not what.events:
            self.rest(state)

    @property
    def stopping(self) -> bool:
        """Say whether nothing may start any more in the part of the plan that runs now."""
        return self.stopped[self.open_main > 0]

    def event(self, state: RunState, event: ev.Event) -> None:
        """Keep the books of what is held, and check each launch against the plan."""
        match event:
            case ev.AttemptPreparing() | ev.AttemptLaunching():
                self.launching(state, event)
            case ev.AttemptDeferred() | ev.AttemptFinished() | ev.StepQueued():
                self.preparing.discard(event.step)
                self.launched[event.step] -= isinstance(event, ev.AttemptDeferred)
                self.held.pop(event.step, None)
                self.before.pop(event.step, None)
            case ev.StepChecking():
                self.holding(state, event)
            case ev.StepChecked():
                self.checked(event)
            case ev.StepExpanded() | ev.StepSplit():
                self.expanded(state, event)
            case ev.StepRepeating():
                self.repeating(state, event)
            case ev.StepFinished() | ev.StepSkipped():
                self.ended(state, event)
            case ev.RunInterrupted() | ev.RunCancelled() | ev.RunTimedOut() | ev.RunDraining():
                self.stopped[self.open_main > 0] = True
                by_another_session = isinstance(event, ev.RunInterrupted | ev.RunCancelled)
                assert self.open_main or by_another_session, f"{event} in finally"
            case ev.StepReady():
                self.overtaken[event.step] = 0
            case ev.CapacityShort() | ev.CapacityRestored():
                assert self.reported_short is isinstance(event, ev.CapacityRestored), "reported twice"
                self.reported_short = not self.reported_short
            case _:
                pass

    def holds(self, state: RunState, event: ev.Event) -> None:
        """Keep books of holds: none ends that did not begin, and held time does not count as queueing."""
        match event:
            case ev.HoldBegan():
                assert event.hold not in self.on
                self.on[event.hold] = event.since
            case ev.HoldEnded():
                assert abs(self.on.pop(event.hold) - (event.at - event.seconds)) < 1e-6
            case ev.StepReady():
                self.ready_at[event.step] = event.at
                self.held_for[event.step] = 0.0
                self.held_at.pop(event.step, None)
            case ev.StepQueueTimedOut():
                limit = state.records[event.step].step.queue_timeout
                queued = event.at - self.ready_at[event.step] - self.held_for[event.step]
                assert limit is not None
                assert queued >= limit - 1e-6, f"{event.step} was held, and that counted as queueing"
                assert event.step not in self.held_at
            case ev.StepHoldTimedOut():
                limit = next(hold.at_most for hold in self.plan.holds if hold.name == event.hold)
                assert limit is not None
                assert event.at - self.on[event.hold] >= limit - 1e-6
            case _:
                pass
        for record in state.records.values():
            waits = record.state in (StepState.READY, StepState.QUEUED) and not self.on.keys().isdisjoint(
                record.step.holds
            )
            if waits:
                self.held_at.setdefault(record.key, event.at)
            elif record.key in self.held_at:
                self.held_for[record.key] += event.at - self.held_at.pop(record.key)

    def checked(self, event: ev.StepChecked) -> None:
        """What was asked is answered once; a step that may not start gives its slots back."""
        self.checking.remove(event.step)
        if event.phase is ev.CheckPhase.BEFORE:
            self.before[event.step] = event.verdict
            if event.verdict is not ev.Verdict.PROCEED:
                self.held.pop(event.step, None)
                self.refused[event.step] += event.verdict is not ev.Verdict.SKIP

    def expanded(self, state: RunState, event: ev.StepExpanded | ev.StepSplit) -> None:
        """Items are fixed once, and each has a key of its own; a chunk is split into its own items."""
        self.checking.discard(event.step)
        keys = {item.key for item in event.items}
        assert len(keys) == len(event.items)
        root = event.step.partition("[")[0]
        assert isinstance(event, ev.StepExpanded) or event.items == state.records[event.step].chunk
        assert all(key.startswith(f"{root}[") and key.isprintable() for key in keys)
        assert all(state.records[key].parent == event.step for key in keys)

    def repeating(self, state: RunState, event: ev.StepRepeating) -> None:
        """An iteration follows another one that had the attempts it may have, and there are not too many."""
        self.iterations[event.step] += 1
        self.launched[event.step] = self.refused[event.step] = 0
        repeat = state.records[event.step].step.repeat
        assert repeat is not None
        assert event.next_iteration == self.iterations[event.step] + 1 <= repeat.max_iterations

    def ended(self, state: RunState, event: ev.StepFinished | ev.StepSkipped) -> None:
        """A step ends after its instances; no step ends twice, and none ends while its worker is running."""
        held = self.held.pop(event.step, None)
        waits = self.before.pop(event.step, None) is ev.Verdict.PROCEED
        assert held is None or waits or isinstance(event, ev.StepSkipped), f"{event.step} ended, but its worker has not"
        assert event.step not in self.checking
        record = state.records[event.step]
        assert all(state.records[key].final for key in record.instances or ())
        self.open_main -= event.step in self.main
        if isinstance(event, ev.StepSkipped) and event.reason is ev.SkipReason.DRAINED:
            assert self.stopped[not record.in_finally], f"{event.step} drained in a run that continues"

    def launching(self, state: RunState, event: ev.AttemptPreparing | ev.AttemptLaunching) -> None:
        """A launch is within every budget, its needs are met, and the run is not stopping."""
        record = state.records[event.step]
        if event.step in self.preparing:
            self.preparing.remove(event.step)
            self.may_start(state, record)
            self.limits(record, event)
            return
        step = record.step
        conditional = step.if_ is not None or bool(step.preconditions)
        said = self.before.pop(step.id, None)
        assert said is (ev.Verdict.PROCEED if conditional else None), f"{step.id} was not let start"
        parent = self.may_start(state, record)
        self.launched[event.step] += 1
        most = max(step.retry.max_attempts, UNKNOWN_ATTEMPTS if step.idempotent else 1)
        assert self.launched[event.step] + self.refused[event.step] <= most, f"{step.id} is tried too often"
        self.held[event.step] = record
        self.note_begun(state, record)
        self.budgets(state, parent)
        self.limits(record, event)
        if isinstance(event, ev.AttemptPreparing):
            self.preparing.add(event.step)
            assert step.on_retry is not None
            assert record.tried, f"{step.id} is prepared before its first attempt"
        else:
            assert step.on_retry is None or not record.tried, f"{step.id} is tried again without on_retry"

    def limits(self, record: StepRecord, event: ev.AttemptPreparing | ev.AttemptLaunching) -> None:
        """A worker has the timeout of its step, or what the run has left."""
        step = record.step
        if self.plan.run_timeout is not None and step.waits and not record.in_finally:
            assert event.timeout is not None
            assert event.at + event.timeout <= self.plan.run_timeout + 0.01
        elif step.timeout is None or record.in_finally or not step.waits:
            assert event.timeout == step.timeout
        if step.timeout is not None:
            assert event.timeout is not None
            assert event.timeout <= step.timeout

    def holding(self, state: RunState, event: ev.StepChecking) -> None:
        """Conditions before a launch are evaluated with the slots in hand, when nothing else keeps the step from it."""
        assert event.step not in self.checking, f"{event.step} is asked for twice"
        self.checking.add(event.step)
        if event.phase is not ev.CheckPhase.BEFORE:
            return
        record = state.records[event.step]
        assert record.step.if_ is not None or record.step.preconditions
        parent = self.may_start(state, record)
        self.held[event.step] = record
        self.note_begun(state, record)
        self.budgets(state, parent)

    def note_begun(self, state: RunState, record: StepRecord) -> None:
        """Note that the item of a step of a chain is under way."""
        if record.parent is not None and state.records[record.parent].step.steps:
            self.begun.add(record.key)

    def may_start(self, state: RunState, record: StepRecord) -> Step:
        """The step's needs are met, and neither the run is stopping nor is the step to be stopped.

        The needs of a step of a chain are those in its chain, and those of its group.
        """
        step = record.step
        above = [step.id]
        while (parent_key := state.records[above[-1]].parent) is not None:
            above.append(parent_key)
        parent = state.records[above[-1]].step
        assert record.in_finally is (self.open_main == 0), f"{step.id} started in the wrong part of the run"
        assert not self.stopping, f"{step.id} started in a run that stops"
        assert self.to_cancel.isdisjoint(above), f"{step.id} started although its cancel was requested"
        assert self.on.keys().isdisjoint(step.holds), f"{step.id} started although it is held"
        for need in (need for key in above for need in state.records[key].step.needs):
            assert met(need, state.records[need.step]), f"{step.id} started although {need} is not met"
        return parent

    def budgets(self, state: RunState, parent: Step) -> None:
        """No budget is exceeded by those who hold slots now."""
        steps = [held.step for held in self.held.values()]
        assert sum(step.slots for step in steps) <= self.plan.budget.slots
        for pool, limit in self.plan.budget.pools.items():
            assert sum(step.pools.get(pool, 0) for step in steps) <= limit
        for name in NAMES:
            assert sum(name in step.exclusive for step in steps) <= 1
        if parent.for_each is not None and parent.for_each.max_parallel is not None:
            above = [held.parent for held in self.held.values() if held.parent is not None]
            siblings = sum(parent.id in (key, state.records[key].parent) for key in above)
            items = {state.records[key].parent for key in self.begun if self.item(state, key).open_instances}
            under_way = sum(state.records[item or ""].parent == parent.id for item in items)
            assert (under_way if parent.steps else siblings) <= parent.for_each.max_parallel

    @staticmethod
    def item(state: RunState, key: str) -> StepRecord:
        """Return the record of a step's item."""
        return state.records[state.records[key].parent or ""]

    def overtaking(self, state: RunState, launches: list[Launch | Evaluate]) -> None:
        """No session who is the best of its kind is overtaken for what it lacks more often than its patience allows."""
        used = dict(state.used)
        gone: set[str] = set()
        for launch in launches:
            record = state.records[launch.step]
            if launch.step in state.cleared:
                assert isinstance(launch, Launch)
                assert not launch.overtook
                assert not lacking(state, record, used), f"{launch.step} is launched beyond a budget"
                used.update({name: used.get(name, 0) + amount for name, amount in record.needs.items()})
                continue
            expected = set()
            for head in heads(state, gone, self.on):
                lacks = waits_for(state, head, used)
                if lacks & record.needs.keys() and state.place(head) < state.place(record):
                    expected.add(head.key)
                elif head.items_of and not record.items_of and not shut_out(state, head) | lacking(state, head, used):
                    same = head.rank[0] == record.rank[0]
                    expected.update({head.key} if same and head.rank < record.rank else ())
            assert set(launch.overtook) == expected
            self.overtaken.update(expected)
            for key in expected:
                assert self.overtaken[key] <= state.overtake_limit + self.plan.budget.slots, f"{key} starves"
            gone.add(launch.step)
            for name, amount in record.needs.items():
                used[name] = used.get(name, 0) + amount

    def ceiling(self, state: RunState, launches: int) -> None:
        """A server that has refused is asked for no more than it gave, but for one probe a second."""
        if state.ceiling is None or not launches or state.requested_workers + launches <= state.ceiling:
            return
        now = state.probe_at
        assert launches == 1
        assert now - self.last_probe >= PROBE_INTERVAL - 1e-9
        self.last_probe = now

    def rest(self, state: RunState) -> None:
        """Nothing that fits is left waiting, except behind a reservation, for the window or the server's capacity."""
        shut = state.window is not None and not state.window.open
        assert not [key for key in state.released if not (shut and WINDOW in state.records[key].needs)]
        assert not state.settling
        if self.stopping or state.ceiling is not None:
            return
        waiting = [
            r
            for r in state.records.values()
            if r.state in (StepState.READY, StepState.QUEUED) and self.on.keys().isdisjoint(r.step.holds)
        ]
        reservers = [r for r in waiting if r.overtaken >= state.overtake_limit]
        for record in waiting:
            if shut and WINDOW in record.needs:
                continue
            if lacking(state, record, state.used):
                continue
            behind = [
                r
                for r in reservers
                if state.place(r) < state.place(record) and waits_for(state, r, state.used) & record.needs.keys()
            ]
            assert behind, f"{record.key} fits and waits for nothing"


def is_before(command: Command) -> TypeGuard[Evaluate]:
    """Say whether it has conditions evaluated before a launch, for which the step takes its slots."""
    return isinstance(command, Evaluate) and command.phase is ev.CheckPhase.BEFORE


def met(need: Need, record: StepRecord) -> bool:
    """Say whether a need is met, in the design's words."""
    good = {StepState.SUCCEEDED, StepState.FAILED_ALLOWED}
    bad = {StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN}
    nothing_to_do = record.skip is not None and record.skip.reason in {
        ev.SkipReason.CONDITION,
        ev.SkipReason.NOT_SELECTED,
    }
    match need.on:
        case NeedOn.SUCCESS:
            return record.state in good or nothing_to_do
        case NeedOn.FAILURE:
            return record.state in bad
        case NeedOn.DONE:
            return record.final


def heads(state: RunState, gone: set[str], on: Mapping[str, float]) -> list[StepRecord]:
    """Return the best-placed waiting step of each kind, without those that are just being launched or are held."""
    best: dict[frozenset[tuple[str, int]], StepRecord] = {}
    for record in state.records.values():
        held = not on.keys().isdisjoint(record.step.holds)
        if record.state in (StepState.READY, StepState.QUEUED) and record.key not in gone and not held:
            other = best.get(record.kind)
            if other is None or state.place(record) < state.place(other):
                best[record.kind] = record
    return list(best.values())


def shut_out(state: RunState, record: StepRecord) -> set[str]:
    """Return the window if the step waits for it to open."""
    return {WINDOW} if WINDOW in record.needs and state.window is not None and not state.window.open else set()


def lacking(state: RunState, record: StepRecord, used: dict[str, int]) -> set[str]:
    """Return the resources that the step needs more of than is free."""
    return {name for name, n in record.needs.items() if used.get(name, 0) + n > state.capacity[name]}


def waits_for(state: RunState, record: StepRecord, used: dict[str, int]) -> set[str]:
    """Return what the step lacks; a step that waits for the end of another item waits for nothing else."""
    lacks = lacking(state, record, used)
    return {name for name in lacks if name.startswith("for_each:")} or lacks
