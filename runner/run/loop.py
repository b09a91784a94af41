"""The run loop: it calls the scheduler, performs its commands, and waits for events.

gateway → event → apply → sinks → decide → perform. It uses protocols only, so the same loop runs with the real server,
with the fake gateway, and with any clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runner.clock import Clock
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.lock_waits import LockWaits
from runner.engine.ports import Cancel, Command, Detach, Evaluate, Gateway, Launch, ServerInfo, SharedSlots, Sink
from runner.engine.requirements import check_requirements
from runner.engine.resume_state import expansions
from runner.engine.scheduler import decide, exit_code
from runner.engine.server_activity import LiveWorker
from runner.engine.state import RunState, initial_state, steps_to_cancel
from runner.engine.state_indices import held_by, is_held_kind
from runner.engine.step_sql import named_values, values_for, with_facts
from runner.engine.window import check_window, clock_changed, must_wait_for_window
from runner.engine.yielding import BlockedSessions
from runner.errors import GroupHeldError, JournalLostError, RecordError
from runner.plan.groups import written_steps
from runner.plan.model import OnConflict, Value
from runner.plan.window import Opening
from runner.run.hold_sampler import HoldSampler
from runner.run.performer import Performer, launching, preparing
from runner.run.start import Ready, RunContext, check_ledger, check_unused, hold_run, resumed, run_taken_over, started
from runner.run.takeover import Examination, Takeover
from runner.run.tasks import Order, WriteAhead

#: Seconds between two ticks of the sinks without events.
TICK = 1.0


class RunOrigin(enum.StrEnum):
    """Whether the call began the run, resumed it, or found that nothing of it was left to do."""

    BEGUN = "begun"
    RESUMED = "resumed"
    DONE = "done"


@dataclass(slots=True)
class RunResult:
    """The end of a run; `record_errors` are the errors of sinks that could not record everything."""

    state: RunState = field(repr=False)  # asyncio formats a task's result for debug messages, which would be slow
    exit_code: int
    record_errors: list[RecordError] = field(default_factory=list)
    #: What the ledger lacks, if that was only found at the end.
    ledger_problem: str | None = field(default=None, repr=False)
    #: Whether the run has a record in a ledger.
    in_ledger: bool = field(default=False, repr=False)
    run_id: str = field(default="", repr=False)
    origin: RunOrigin = field(default=RunOrigin.BEGUN, repr=False)


class Run:
    """One run of a plan, or the rest of one. Use it once.

    `require_ledger`: nothing begins without a ledger. `shared_slots` is a limit that other runs share. `usual` are the
    usual durations of steps, for `fit`.
    """

    def __init__(
        self,
        ready: Ready,
        *,
        gateway: Gateway,
        clock: Clock,
        sinks: Sequence[Sink],
        context: RunContext,
        require_ledger: bool = False,
        shared_slots: SharedSlots | None = None,
        usual: Mapping[str, float] | None = None,
    ) -> None:
        plan = ready.plan
        self.state = initial_state(plan) if ready.previous_state is None else ready.previous_state
        self._ready = ready
        self._plan = plan
        self._gateway = gateway
        self._clock = clock
        self._sinks = list(sinks)
        self._context = context
        self._takeover = ready.takeover
        self._require_ledger = require_ledger
        self._usual = usual or {}
        #: The opening of the plan's window in which the run begins.
        self._opening: Opening | None = None
        self._under_way = False
        self._inbox: deque[ev.Event] = deque()
        self._wake_up = asyncio.Event()
        self._ticked = clock.now()
        self._abandoned = False
        self._crash: BaseException | None = None
        self._interrupts = 0
        self._record_errors: list[RecordError] = []
        self._ledger_problem: str | None = None
        self._shared_slots = shared_slots
        if shared_slots is not None:
            shared_slots.on_turn(self._wake_up.set)
        self._lock_waits = LockWaits(self.state)
        gateway.watch_locks(self._post_lock_waits)
        self._blocked = BlockedSessions(self.state)
        if any(step.yield_after is not None for step in written_steps(plan)):
            gateway.watch_blocking(self._blocked.workers, self._post_blocked)
        self._performer = Performer(
            self.state,
            gateway,
            clock,
            context.run_id,
            post=self._post,
            announce=self._announce_further,
            crashed=self._notice_crash,
        )
        self._write_ahead = WriteAhead(self._flush, crashed=self._notice_crash)

    async def execute(self) -> RunResult:
        """Run the plan to its end and return the result.

        PreflightError (ConnectionFailedError with it) if nothing was started.
        """
        async with contextlib.AsyncExitStack() as ending:
            ending.callback(self._close_sinks)
            ending.callback(self._release_shared_slots)
            ending.push_async_callback(self._gateway.close)
            ending.push_async_callback(self._performer.cancel_tasks)
            ending.push_async_callback(self._write_ahead.close)
            values = named_values(self._plan, self._context.run_id)
            info = await self._gateway.open(lambda found: check_requirements(self._plan, found, self._gateway, values))
            if self._takeover is not None:
                self._takeover.check_server(info)
            if self._require_ledger:
                check_ledger(info, self._gateway.ledger_problem)
            # an ignored ledger is reported by its own event, also when the run is resumed
            self._ledger_problem = None if self._gateway.ledger_ignored else self._gateway.ledger_problem
            await hold_run(self._gateway, self._context.run_id)
            if self._ready.chosen and self._takeover is None:
                await check_unused(self._gateway, self._context.run_id, self._clock)
            await self._check_window()
            await self._hold_group()
            await self._check_window()  # the wait for the group may have been long
            if self._takeover is None:
                now, problem = self._clock.now(), self._ledger_problem
                self._emit(started(self._ready, self._context, info, ledger_problem=problem, at=now))
            else:
                await self._resume(self._takeover, values, info)
            self._note_window()
            self._skip_left_out()
            if self._plan.holds:
                sampler = HoldSampler(
                    self.state, self._gateway, self._clock, values, post=self._post, crashed=self._notice_crash
                )
                ending.push_async_callback(sampler.close)
                sampler.start()
            self._under_way = True
            if self._context.ledger_first:
                await self._gateway.write_ledger()
            await self._run_until_over()
            await self._write_ahead.settle()
            steps = {key: str(record.state) for key, record in self.state.records.items()}
            await self._make_durable()
            self._emit(self._finished(steps))
            await self._make_durable()
        problem = self._gateway.ledger_problem
        return RunResult(
            state=self.state,
            exit_code=exit_code(self.state),
            record_errors=self._record_errors,
            run_id=self._context.run_id,
            in_ledger=info.ledger is not None,
            origin=RunOrigin.BEGUN if self._takeover is None else RunOrigin.RESUMED,
            ledger_problem=None if problem == self._ledger_problem else problem,
        )

    @property
    def under_way(self) -> bool:
        """Whether the run has begun or was resumed, so that there are workers to report."""
        return self._under_way

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return the present activity of the run's workers. GatewayError if the server cannot be queried now."""
        return await self._gateway.look()

    def interrupt(self, signal: int) -> None:
        """Handle a signal: the first one ends the run in order, the second one does not wait for that."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._post(ev.RunInterrupted(at=self._clock.now(), signal=signal))
        else:
            self._abandoned = True
            self._wake_up.set()

    def cancel(self, by: str) -> None:
        """Cancel the run for this user or process, as a cancel request through the server does."""
        self._post(ev.RunCancelled(at=self._clock.now(), by=by))

    async def _resume(self, takeover: Takeover, values: Mapping[str, Value], info: ServerInfo) -> None:
        """Resume the run: determine the outcomes of its workers, and follow those that are running."""
        examination = Examination(
            self.state,
            self._gateway,
            takeover,
            plan=self._plan,
            run_id=self._context.run_id,
            values=lambda record: values_for(self.state, record, values),
            clock=self._clock,
        )
        found = await examination.findings()
        items = expansions(self.state, self._plan)
        self.state.plan = self._plan
        self._emit(resumed(self._plan, self._context, found, items=items, info=info, at=self._clock.now()))
        for adopted in found.adopted:
            self._performer.adopt(adopted)

    async def _check_window(self) -> None:
        """OutsideWindowError if the plan's window is closed by the server's clock, and the run may not wait for it."""
        if self._plan.window is not None:
            ahead = await self._gateway.measure_clock(self._clock.now)
            self._opening = check_window(self._plan, self._clock.now() + ahead)

    def _note_window(self) -> None:
        """Record what decides about the window: the server's clock, and the usual durations of steps."""
        if self._plan.window is not None:
            self._note_clock(self._gateway.clock_ahead or 0.0)
            if self._usual:
                self._emit(ev.UsualDurations(at=self._clock.now(), seconds=self._usual))
            if self._opening is not None:  # it may be over by now: the run has begun in it nevertheless
                opens, closes = self._opening.opens, self._opening.closes
                self._emit(ev.WindowOpened(at=self._clock.now(), opens_at=opens, closes_at=closes))

    def _note_clock(self, ahead: float) -> None:
        self._emit(ev.ServerClock(at=self._clock.now(), ahead=round(ahead, 6)))

    async def _hold_group(self) -> None:
        """Lock the concurrency group. GroupHeldError if another run holds it, unless this run may wait."""
        concurrency = self._plan.concurrency
        reported = None
        while concurrency is not None and not self._interrupts:
            holder = await self._gateway.hold_group(concurrency.group)
            if holder is None:
                return
            message = f"run {holder.run} holds the concurrency group {concurrency.group!r}, {holder}"
            if concurrency.on_conflict is OnConflict.FAIL:
                raise GroupHeldError(message + ".", hint="Wait until that run ends, or set on_conflict: wait.")
            asked = self._gateway.take_cancel(of_run=True)
            if asked is not None:
                self._gateway.answer(asked, steps=self._open_steps())
                raise GroupHeldError(f"cancelled by {asked.by} while {message}.")
            if holder != reported:
                self._emit(ev.GroupWaiting(at=self._clock.now(), message=message))
                reported = holder
            await self._sleep(None)

    def _skip_left_out(self) -> None:
        """Skip the steps that were not selected; the user states that they are done, so their dependents run."""
        for step in self._plan.steps:
            if step.id in self._ready.left_out and not self.state.records[step.id].final:
                self._emit(ev.StepSkipped(at=self._clock.now(), step=step.id, reason=ev.SkipReason.NOT_SELECTED))

    async def _run_until_over(self) -> None:
        while not self._abandoned:
            if self._crash is not None:
                raise self._crash
            if self._gateway.taken_over_by is not None:
                raise run_taken_over(self._context.run_id, self._gateway.taken_over_by)
            self._handle_cancel_requests()
            self._read_inbox()
            if self._gateway.group_lost and not self.state.stopping and not self.state.finalizing:
                self._emit(ev.GroupLost(at=self._clock.now()))
            self._check_ledger()
            if clock_changed(self.state, self._gateway.clock_ahead):
                self._note_clock(self._gateway.clock_ahead or 0.0)
            self._use_shared_slots()
            decision = decide(self.state, self._clock.now())
            for event in decision.events:
                self._emit(event)
            self._carry_out(decision.commands)
            if not decision.events:
                self._wait_for_shared_slots()
            if decision.over:
                return
            if not decision.events and not decision.commands:
                await self._sleep(decision.wake_at)
        self._read_inbox()  # record the known events although the run no longer waits for others

    def _use_shared_slots(self) -> None:
        """Note the workers that the run has of those that it shares, and how many more it may request."""
        if self._shared_slots is not None:
            self._shared_slots.use(self.state.requested_workers)
            self.state.shared_left = self._shared_slots.left()

    def _wait_for_shared_slots(self) -> None:
        """Note whether a step that is ready waits for a shared slot, and for nothing else as far as can be seen."""
        if self._shared_slots is not None:
            self._use_shared_slots()
            ready = bool(self.state.cleared) or any(not is_held_kind(self.state, kind) for kind in self.state.ready)
            self._shared_slots.wait(waiting=ready and not self.state.shared_left)

    def _release_shared_slots(self) -> None:
        if self._shared_slots is not None:
            self._shared_slots.wait(waiting=False)
            self._shared_slots.use(0)

    def _handle_cancel_requests(self) -> None:
        """Handle cancel requests from the server, before the ends of the workers that they explain."""
        stop = self._gateway.take_cancel(of_run=True)
        if stop is not None:
            self._emit(ev.RunCancelled(at=self._clock.now(), by=stop.by))
            self._gateway.answer(stop, steps=self._open_steps())
        while (asked := self._gateway.take_cancel(of_run=False)) is not None:
            step = asked.step or ""
            wanted = steps_to_cancel(self.state, step)
            known = bool(wanted) or step in self.state.records
            for key in wanted:
                self._emit(ev.StepCancelRequested(at=self._clock.now(), step=key, by=asked.by))
            self._gateway.answer(asked, steps=len(wanted) if known else None)

    def _open_steps(self) -> int:
        return sum(not record.final for record in self.state.records.values())

    def _check_ledger(self) -> None:
        problem = self._gateway.ledger_problem
        if problem is not None and problem != self._ledger_problem:
            self._ledger_problem = problem
            self._emit(ev.LedgerLost(at=self._clock.now(), message=problem))
            self._write_ahead.carry_out([self._gateway.launch_without_ledger])

    def _read_inbox(self) -> None:
        while self._inbox:
            self._emit(self._inbox.popleft())

    def _tick(self) -> None:
        """Call `tick` of the sinks, about once in `TICK` seconds, however many events there are."""
        now = self._clock.now()
        if now - self._ticked >= TICK:
            self._ticked = now
            self._each_sink(lambda sink: sink.tick(now, self.state))
            self._write_ahead.carry_out()

    async def _sleep(self, wake_at: float | None) -> None:
        """Wait for an event, but not beyond `wake_at` or the next tick."""
        next_tick = self._ticked + TICK
        until = next_tick if wake_at is None else min(next_tick, wake_at)
        alarm = asyncio.get_running_loop().call_later(max(0.0, until - self._clock.now()), self._wake_up.set)
        try:
            await self._wake_up.wait()
        finally:
            alarm.cancel()
        self._wake_up.clear()
        self._tick()

    def _finished(self, steps: Mapping[str, str]) -> ev.RunFinished:
        now = self._clock.now()
        begun = now if self.state.started_at is None else self.state.started_at
        resumed_after = self.state.took_before  # else it is the time since run_started
        took = round(resumed_after + max(0.0, now - begun), 3) if resumed_after else None
        split = tuple(key for key, one in self.state.records.items() if one.chunk and one.instances is not None)
        return ev.RunFinished(at=now, exit_code=exit_code(self.state), steps=steps, duration=took, split=split)

    def _emit(self, event: ev.Event) -> None:
        if isinstance(event, ev.StepFinished):
            event = with_facts(event, self.state.records[event.step], self.state, self._context.run_id)
        apply(self.state, event)
        self._each_sink(lambda sink: sink.handle(event, self.state))

    def _each_sink(self, call: Callable[[Sink], None]) -> None:
        """Call every sink; a sink that fails receives nothing more, and the others receive the loss of the journal."""
        self._lost_records(self._ask_sinks(call))

    def _ask_sinks(self, call: Callable[[Sink], None]) -> list[RecordError]:
        errors = []
        for sink in list(self._sinks):
            try:
                call(sink)
            except RecordError as error:
                self._sinks.remove(sink)
                errors.append(error)
        return errors

    def _lost_records(self, errors: Sequence[RecordError]) -> None:
        self._record_errors += errors
        for error in errors:
            if isinstance(error, JournalLostError) and self.state.finished is None:
                self._emit(ev.RecordLost(at=self._clock.now(), message=error.message))

    def _flush(self) -> Coroutine[Any, Any, None] | None:
        """Make every sink's events durable; the returned coroutine waits for the sinks that need time."""
        waits: list[tuple[Sink, Coroutine[Any, Any, None]]] = []

        def flush(sink: Sink) -> None:
            wait = sink.flush()
            if wait is not None:
                waits.append((sink, wait))

        self._each_sink(flush)
        return self._flushed(waits) if waits else None

    async def _flushed(self, waits: Sequence[tuple[Sink, Coroutine[Any, Any, None]]]) -> None:
        for sink, wait in waits:
            try:
                await wait
            except RecordError as error:
                if sink in self._sinks:
                    self._sinks.remove(sink)
                    self._lost_records([error])
                    self._wake_up.set()

    async def _make_durable(self) -> None:
        wait = self._flush()
        if wait is not None:
            await wait

    def _close_sinks(self) -> None:
        self._record_errors += self._ask_sinks(lambda sink: sink.close())

    def _post_lock_waits(self, waits: Mapping[ev.Identity, ev.LockWait]) -> None:
        for event in self._lock_waits.look(waits, self._clock.now()):
            self._post(event)

    def _post_blocked(self, blocked: Mapping[ev.Identity, Sequence[ev.Blocked]]) -> float:
        """Post the workers that must yield; return the seconds until the next poll."""
        for event in self._blocked.look(blocked, self._clock.now()):
            self._post(event)
        return self._blocked.pause

    def _post(self, event: ev.Event) -> None:
        if isinstance(event, ev.AttemptFinished):
            self._inbox.extend(self._lock_waits.end(event))
        self._inbox.append(event)
        self._wake_up.set()

    def _carry_out(self, commands: Sequence[Command]) -> None:
        """Record the commands, and perform them once that is durable: one flush for all of them."""
        orders = []
        for command in commands:
            if self._is_too_late(command):
                continue  # the next decision is about the closed window
            order = self._announce(command)
            if isinstance(command, Evaluate):  # it is read-only
                order()
            else:
                orders.append(partial(self._perform, command, order))
        if orders:
            self._write_ahead.carry_out(orders)

    def _is_too_late(self, command: Command) -> bool:
        """Return whether the window has closed since the decision to start something: no such event may follow it."""
        starts = isinstance(command, Launch) or (
            isinstance(command, Evaluate) and command.phase is not ev.CheckPhase.AFTER
        )
        return starts and must_wait_for_window(self.state, self.state.records[command.step], self._clock.now())

    def _perform(self, command: Command, order: Order) -> None:
        """Perform a recorded command. Nothing is launched without a journal, or after a second signal."""
        if isinstance(command, Launch) and (self.state.record_lost or self._abandoned):
            message = "the journal is lost" if self.state.record_lost else "the runner was interrupted"
            self._emit(ev.AttemptDeferred(**command.facts(self._clock.now()), message=message))
            self._wake_up.set()
        elif self.state.records[command.step].attempt == command.attempt:  # else its launch was deferred meanwhile
            order()

    def _announce(self, command: Command) -> Order:
        """Record a command, and return the function that performs it."""
        now, step = self._clock.now(), command.step
        match command:
            case Launch():
                record = self.state.records[step]
                make = preparing if record.to_prepare else partial(launching, record=record)
                event = make(command, self._context.run_id, now)
                self._emit(event)
                return partial(self._performer.launch, command, event.application_name)
            case Cancel():
                self._emit(ev.AttemptCancelRequested(**command.facts(now), reason=command.reason))
                return partial(self._performer.cancel, step)
            case Detach():
                self._emit(ev.AttemptDetachRequested(**command.facts(now)))
                return partial(self._performer.detach, step)
            case Evaluate():
                self._emit(ev.StepChecking(at=now, step=step, phase=command.phase, overtook=command.overtook))
                return partial(self._performer.evaluate, command)
        raise TypeError(f"{command!r} is not a command")

    async def _announce_further(self, event: ev.Event) -> bool:
        """Record an event of a running attempt before a further worker of it is requested; False if none may be.

        A prepared attempt is not launched if a hold began meanwhile.
        """
        self._read_inbox()
        if isinstance(event, ev.AttemptLaunching) and held_by(self.state, self.state.records[event.step]) is not None:
            return False
        self._emit(event)
        durable = asyncio.get_running_loop().create_future()
        self._write_ahead.carry_out([partial(durable.set_result, None)])
        self._wake_up.set()
        await durable
        return not (self.state.record_lost or self._abandoned)

    def _notice_crash(self, error: BaseException) -> None:
        """End the run if a task raised, which is a bug: it would wait for that task forever."""
        self._crash = error
        self._wake_up.set()
