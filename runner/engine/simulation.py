"""The scheduler on a virtual clock: what a plan would do, given the duration and the outcome of each attempt.

The dry run's schedule and the property tests use it. A script defines what the simulated server does. It also documents
the contract between the scheduler and a loop:

1. `decide` is called again after each event, and no later than `wake_at`.
2. Its events are applied in order, its commands are performed in order; then it is called again, at the same time,
   until it returns neither.
3. A command emits its event at once: Launch an AttemptLaunching (or instead a StepSkipped: condition), or an
   AttemptPreparing if a worker must prepare the attempt; Cancel an AttemptCancelRequested, Detach an
   AttemptDetachRequested, Evaluate a StepChecking. Nothing is decided between two commands of one decision.
4. Every AttemptLaunching is followed by exactly one of AttemptDeferred, AttemptFinished and StepSkipped, in all cases:
   if a cancel or a detach comes too late, the attempt ends as it would without it. Every AttemptPreparing is followed
   by one of AttemptLaunching, AttemptDeferred and AttemptFinished.
5. Every StepChecking is followed by exactly one StepChecked or StepExpanded, in all cases.
6. Events never go back in time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.for_each_items import queried_items
from runner.engine.ports import Cancel, Command, Detach, Evaluate, Launch
from runner.engine.scheduler import Decision, decide, exit_code
from runner.engine.slot_queue import launch_timeout
from runner.engine.state import RunState, StepRecord, initial_state, steps_to_cancel
from runner.engine.state_indices import held_by
from runner.engine.window import must_wait_for_window
from runner.engine.yielding import yield_error
from runner.plan.model import Plan, Step
from runner.structs import Struct, field


class AttemptScript(Struct, frozen=True, kw_only=True):
    """The scripted behaviour of one attempt. Times are in seconds.

    After `launch` the server gives a worker or refuses one. The worker then runs for `duration`, unless its timeout or
    a cancel ends it; it reacts to a cancel after `cancel_latency`. With `seen` false it ends before it was observed.
    With `skip` the step's condition is false instead. A success returns `row_count` rows, of which `result` has some.
    Before a further attempt, `on_retry` runs for `prepares` seconds, and `prepared` says whether it succeeds.
    """

    duration: float
    outcome: ev.Outcome = ev.Outcome.SUCCEEDED
    sqlstate: str | None = None
    launch: float = 0.0
    cancel_latency: float = 0.0
    seen: bool = True
    skip: bool = False
    stops_on_timeout: bool = True
    row_count: int | None = 0
    #: Seconds after which it has blocked other sessions for its yield_after; None: it blocks none.
    yields_at: float | None = None
    result: ev.Rows | None = None
    prepares: float = 0.0
    prepared: bool = True


class CheckScript(Struct, frozen=True, kw_only=True):
    """The scripted result of the conditions of one phase, `duration` seconds after the request.

    Items are the `rows` of a query, unless the verdict is ERROR.
    """

    duration: float = 0.0
    verdict: ev.Verdict = ev.Verdict.PROCEED
    rows: ev.Rows = field(default_factory=ev.Rows)


class HoldScript(Struct, frozen=True, kw_only=True):
    """A scripted change of a hold: from `at` on it is on, or not on. Until its first change a hold is not on."""

    at: float
    hold: str
    on: bool


#: Returns the script of an attempt, by step and number; for an instance the step has the instance's id.
Attempts = Callable[[Step, int], AttemptScript]
#: Returns the script of the evaluation of a phase after a number of attempts, 0 before the first.
Checks = Callable[[Step, ev.CheckPhase, int], CheckScript]


def _all_hold(_: Step, __: ev.CheckPhase, ___: int) -> CheckScript:
    """Return that conditions are met and that queries return no items: there is no server to query."""
    return CheckScript()


def checked(record: StepRecord, phase: ev.CheckPhase, script: CheckScript, at: float) -> ev.StepEvent:
    """Return the event at the end of an evaluation."""
    if phase is ev.CheckPhase.ITEMS and script.verdict is not ev.Verdict.ERROR:
        items = queried_items(record.step, script.rows.columns, script.rows.rows)
        return ev.StepExpanded(at=at, step=record.key, items=items)
    wrong = script.verdict in (ev.Verdict.FAIL, ev.Verdict.ERROR)
    error = ev.ErrorDetails(message=f"scripted {phase} {script.verdict}") if wrong else None
    return ev.StepChecked(at=at, step=record.key, phase=phase, verdict=script.verdict, error=error)


def finished(record: StepRecord, outcome: ev.Outcome, script: AttemptScript, at: float) -> ev.AttemptFinished:
    """Return the event at the end of an attempt."""
    if outcome is ev.Outcome.CANCELLED and record.cancel_reason is ev.CancelReason.YIELDED:
        return ev.AttemptFinished(
            at=at,
            step=record.key,
            attempt=record.attempt,
            outcome=ev.Outcome.FAILED,
            error=yield_error(record.blocking),
            reason=ev.FailureReason.YIELDED,
        )
    failed, succeeded = outcome is ev.Outcome.FAILED, outcome is ev.Outcome.SUCCEEDED
    return ev.AttemptFinished(
        at=at,
        step=record.key,
        attempt=record.attempt,
        outcome=outcome,
        error=ev.ErrorDetails(message="scripted", sqlstate=script.sqlstate) if failed else None,
        row_count=script.row_count if succeeded else None,
        result=script.result if succeeded else None,
    )


def run_started(plan: Plan, at: float, left_out: Collection[str] = ()) -> ev.RunStarted:
    """Return the first event of a simulated run; the steps and instances `left_out` were not selected."""
    return ev.RunStarted(
        at=at,
        jobplan="",
        plan=plan.name,
        file=plan.file,
        sha256="",
        host="",
        os_pid=0,
        server="",
        extension="",
        database="",
        user="",
        slots=plan.budget.slots,
        steps=len(plan.all_steps),
        left_out=tuple(left_out),
    )


class Simulation(Struct, frozen=True, kw_only=True):
    """A finished simulation: its events in order, its last state, and its duration in seconds."""

    events: tuple[ev.Event, ...]
    state: RunState
    makespan: float


_SIMULATED_USER = "user@simulated"

#: Called after each applied event and after each decision, with the state at that time.
Watcher = Callable[[RunState, ev.Event | Decision], None]


def simulate(
    plan: Plan,
    *,
    durations: Attempts,
    checks: Checks = _all_hold,
    capacity: Callable[[float], int] | None = None,
    start: float = 0.0,
    interrupts: Sequence[float] = (),
    cancels: Sequence[tuple[float, str | None]] = (),
    not_selected: Collection[str] = (),
    history: Sequence[ev.Event] = (),
    holds: Sequence[HoldScript] = (),
    clock: Sequence[tuple[float, float]] = (),
    usual: Mapping[str, float] | None = None,
    watch: Watcher | None = None,
) -> Simulation:
    """Run the plan on a virtual clock that begins at `start` seconds.

    `durations` scripts each attempt of each step, `checks` the results of its conditions; `capacity` returns how many
    workers the server has for this run at a time (None: always enough). `interrupts` are the times of Ctrl-C; `cancels`
    the times of cancel requests for a step, or for the run (None). Steps that are `not_selected` are skipped at once.
    `history` are the events of the run so far, if it is resumed: the last one is a RunResumed, at whose time the
    simulation starts. `holds` are the changes of holds, in order. `clock` says from which time on the server's clock is
    how many seconds ahead, and `usual` are the durations for `fit`: a plan's window needs `start` in seconds since the
    epoch. RuntimeError if the scheduler does not come to an end.
    """
    simulator = _Simulator(plan, durations=durations, checks=checks, capacity=capacity, start=start, watch=watch)
    simulator.begin(history, holds, not_selected)
    if usual is not None:
        simulator.emit(ev.UsualDurations(at=simulator.now, seconds=usual))
    for moment, ahead in clock:
        simulator.at(moment, partial(simulator.set_clock, ahead))
    for moment in interrupts:
        simulator.at(moment, simulator.interrupt)
    for moment, step in cancels:
        simulator.at(moment, partial(simulator.request_cancel, step))
    return simulator.run(not_selected)


class _Simulator:
    def __init__(
        self,
        plan: Plan,
        *,
        durations: Attempts,
        checks: Checks,
        capacity: Callable[[float], int] | None,
        start: float,
        watch: Watcher | None,
    ) -> None:
        self._plan = plan
        self._durations = durations
        self._checks = checks
        self._capacity = capacity
        self._start = start
        self.now = start
        self._watch = watch
        self._state = initial_state(plan)
        self._events: list[ev.Event] = []
        #: Scheduled actions: time, a number that orders equal times, and the action.
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._scripts: dict[tuple[str, int], AttemptScript] = {}
        #: Evaluated conditions: step, attempts, phase, prevented launches, whether slots were released. Each is
        #: evaluated once, unless the launch that followed was deferred, or its slots were given to another step.
        self._evaluated: set[tuple[str, int, ev.CheckPhase, int, bool]] = set()
        #: Attempts with a running worker, and its end: including detached ones.
        self._workers: dict[tuple[str, int], float] = {}

    def begin(self, history: Sequence[ev.Event], holds: Sequence[HoldScript], not_selected: Collection[str]) -> None:
        """Begin the run, or resume it after its `history`."""
        if history:
            self._replay(history)
        else:
            self.emit(run_started(self._plan, self._start, not_selected))
        self._schedule_holds(holds)

    def run(self, not_selected: Collection[str]) -> Simulation:
        """Run to the end. Instances that were not selected are skipped when their step is expanded."""
        for key in not_selected:
            if key in self._state.records:
                self.emit(ev.StepSkipped(at=self.now, step=key, reason=ev.SkipReason.NOT_SELECTED))
        while not (decision := self._settle()).over:
            self._wait(decision.wake_at)
        states = {key: str(record.state) for key, record in self._state.records.items()}
        self.emit(ev.RunFinished(at=self.now, exit_code=exit_code(self._state), steps=states))
        return Simulation(events=tuple(self._events), state=self._state, makespan=self.now - self._start)

    def _schedule_holds(self, scripts: Sequence[HoldScript]) -> None:
        """Measure every hold at the start, and schedule its changes."""
        for hold in self._plan.holds:
            self.emit(ev.HoldMeasured(at=self.now, hold=hold.name, value="scripted"))
        for script in scripts:
            if script.at <= self.now:
                self._change_hold(script)
            else:
                self.at(script.at, partial(self._change_hold, script))

    def _change_hold(self, script: HoldScript) -> None:
        began = self._state.holds.get(script.hold)
        if script.on and began is None:
            self.emit(ev.HoldBegan(at=self.now, hold=script.hold, value="scripted", since=self.now))
            # what was evaluated for a step that queues again is evaluated once more before its launch
            self._evaluated = {asked for asked in self._evaluated if asked[2] is not ev.CheckPhase.BEFORE}
        elif not script.on and began is not None:
            self.emit(ev.HoldEnded(at=self.now, hold=script.hold, value="scripted", seconds=self.now - began.since))

    def _block_others(self, step: str, attempt: int) -> None:
        record = self._state.records[step]
        if record.attempt == attempt and step in self._state.active:
            seconds = record.step.yield_after or 0.0
            self.emit(
                ev.AttemptBlocking(
                    at=self.now,
                    step=step,
                    attempt=attempt,
                    others=(ev.Blocked(pid=1, seconds=seconds),),
                    since=self.now - seconds,
                    seconds=seconds,
                )
            )

    def set_clock(self, ahead: float) -> None:
        """Set by how many seconds the server's clock is ahead."""
        self.emit(ev.ServerClock(at=self.now, ahead=ahead))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.emit(ev.RunInterrupted(at=self.now, signal=2))

    def request_cancel(self, step: str | None) -> None:
        """Cancel a step, or the run."""
        if step is None:
            self.emit(ev.RunCancelled(at=self.now, by=_SIMULATED_USER))
        for key in steps_to_cancel(self._state, step) if step is not None else ():
            self.emit(ev.StepCancelRequested(at=self.now, step=key, by=_SIMULATED_USER))

    def _replay(self, history: Sequence[ev.Event]) -> None:
        for event in history:
            apply(self._state, event)
        self._start = self.now = history[-1].at
        for record in map(self._state.records.__getitem__, self._state.active):
            self._scripts[record.key, record.attempt] = self._durations(record.step, record.attempt)
            self._start_worker(record, self._scripts[record.key, record.attempt])

    def _settle(self) -> Decision:
        """Call `decide` until nothing more follows at this time."""
        for _ in range(20 + 10 * len(self._state.records)):
            decision = decide(self._state, self.now)
            if self._watch is not None:
                self._watch(self._state, decision)
            for event in decision.events:
                self.emit(event)
            for command in decision.commands:
                self._perform(command)
            if not decision.events and not decision.commands:
                return decision
        raise RuntimeError(f"the scheduler does not settle at {self.now}")

    def _wait(self, wake_at: float | None) -> None:
        if wake_at is not None and wake_at <= self.now:
            raise RuntimeError(f"the scheduler asks to be called at {wake_at}, which is not after {self.now}")
        if self._agenda and (wake_at is None or self._agenda[0][0] <= wake_at):
            moment, _, happen = heapq.heappop(self._agenda)
            self.now = max(self.now, moment)
            happen()
        elif wake_at is not None:
            self.now = wake_at
        else:
            raise RuntimeError(f"the run is not finished at {self.now}, and no event is scheduled")

    def emit(self, event: ev.Event) -> None:
        """Apply an event."""
        self._events.append(event)
        apply(self._state, event)
        if self._watch is not None:
            self._watch(self._state, event)

    def at(self, moment: float, happen: Callable[[], None]) -> None:
        """Schedule an action."""
        self._number += 1
        heapq.heappush(self._agenda, (moment, self._number, happen))

    # --- commands -----------------------------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        match command:
            case Launch():
                self._launch(command)
            case Evaluate():
                self._evaluate(command)
            case Cancel():
                self.emit(ev.AttemptCancelRequested(**command.facts(self.now), reason=command.reason))
                self._cancel(command.step, command.attempt)
            case Detach():
                self.emit(ev.AttemptDetachRequested(**command.facts(self.now)))
                if (command.step, command.attempt) in self._workers:
                    self.at(self.now, lambda: self._end(command.step, command.attempt, ev.Outcome.DETACHED))

    def _evaluate(self, command: Evaluate) -> None:
        record = self._state.records[command.step]
        asked = (command.step, command.attempt, command.phase, record.refused, record.slots_released)
        if asked in self._evaluated:
            raise RuntimeError(
                f"the scheduler does not settle: at {self.now} it requests a second evaluation of {command.step} "
                f"({command.phase}, after {command.attempt} attempts)"
            )
        self._evaluated.add(asked)
        script = self._checks(record.step, command.phase, command.attempt)
        self.emit(ev.StepChecking(at=self.now, step=command.step, phase=command.phase, overtook=command.overtook))
        self.at(self.now + script.duration, lambda: self.emit(checked(record, command.phase, script, self.now)))

    def _launch(self, command: Launch) -> None:
        step, attempt = command.step, command.attempt
        script = self._durations(self._state.records[step].step, attempt)
        self._scripts[step, attempt] = script
        prepares = self._state.records[step].to_prepare
        announced = ev.AttemptPreparing if prepares else ev.AttemptLaunching
        name = f"jobplan:simulated:{step}"
        facts = command.facts(self.now)
        self.emit(announced(**facts, application_name=name, timeout=command.timeout, overtook=command.overtook))
        after = self._prepared if prepares else self._launched
        self.at(self.now + script.launch + (script.prepares if prepares else 0.0), lambda: after(step, attempt))

    def _prepared(self, step: str, attempt: int) -> None:
        """End the worker that prepares an attempt: the step's own follows, unless it failed or the run is ending."""
        record, script = self._state.records[step], self._scripts[step, attempt]
        if record.cancel_reason is not None:
            self.emit(finished(record, ev.Outcome.CANCELLED, script, self.now))
        elif not script.prepared:
            self.emit(finished(record, ev.Outcome.FAILED, script, self.now))
        elif (
            self._state.stopping
            or (shut := must_wait_for_window(self._state, record, self.now))
            or held_by(self._state, record) is not None
        ):
            self._defer(record, "nothing is launched", outside_window=not self._state.stopping and shut)
        else:
            self.emit(
                ev.AttemptLaunching(
                    at=self.now,
                    step=step,
                    attempt=attempt,
                    application_name=f"jobplan:simulated:{step}",
                    timeout=launch_timeout(self._state, record, self.now),
                )
            )
            self.at(self.now + script.launch, lambda: self._launched(step, attempt))

    def _launched(self, step: str, attempt: int) -> None:
        record, script = self._state.records[step], self._scripts[step, attempt]
        if script.skip:
            self.emit(ev.StepSkipped(at=self.now, step=step, reason=ev.SkipReason.CONDITION))
        elif not self._has_room():
            self._defer(record, "no worker is free")
        elif record.cancel_reason is not None:
            self.emit(finished(record, ev.Outcome.CANCELLED, script, self.now))
        else:
            self._start_worker(record, script)

    def _defer(self, record: StepRecord, message: str, *, outside_window: bool = False) -> None:
        step, attempt, refused, released = record.key, record.attempt, record.refused, record.slots_released
        self.emit(
            ev.AttemptDeferred(at=self.now, step=step, attempt=attempt, message=message, outside_window=outside_window)
        )
        self._evaluated.discard((step, attempt - 1, ev.CheckPhase.BEFORE, refused, released))

    def _has_room(self) -> bool:
        self._workers = {attempt: until for attempt, until in self._workers.items() if until > self.now}
        return self._capacity is None or len(self._workers) < self._capacity(self.now)

    def _start_worker(self, record: StepRecord, script: AttemptScript) -> None:
        step, attempt = record.key, record.attempt
        duration, outcome = script.duration, script.outcome
        if script.stops_on_timeout and record.timeout is not None and duration > record.timeout:
            duration, outcome = record.timeout, ev.Outcome.TIMED_OUT
        self._workers[step, attempt] = self.now + duration
        if script.seen or record.detaching:
            worker = ev.Worker(pid=len(self._events), backend_start="", application_name=f"jobplan:simulated:{step}")
            self.emit(ev.AttemptRunning(at=self.now, step=step, attempt=attempt, worker=worker))
        if script.yields_at is not None and record.step.yield_after is not None:
            self.at(self.now + script.yields_at, lambda: self._block_others(step, attempt))
        if record.detaching:
            self._end(step, attempt, ev.Outcome.DETACHED)
        else:
            self.at(self.now + duration, lambda: self._end(step, attempt, outcome))

    def _cancel(self, step: str, attempt: int) -> None:
        script = self._scripts[step, attempt]
        if (step, attempt) in self._workers:
            moment = self.now + script.cancel_latency
            self._workers[step, attempt] = moment
            self.at(moment, lambda: self._end(step, attempt, ev.Outcome.CANCELLED))

    def _end(self, step: str, attempt: int, outcome: ev.Outcome) -> None:
        """Finish the attempt, unless it has already ended."""
        record = self._state.records[step]
        if record.attempt != attempt or step not in self._state.active:
            return
        if outcome is not ev.Outcome.DETACHED:
            self._workers.pop((step, attempt), None)
        self.emit(finished(record, outcome, self._scripts[step, attempt], self.now))
