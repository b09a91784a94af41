"""The only part of a run that acts: it asks the scheduler, performs its orders, and waits for what happens.

gateway → event → apply → sinks → decide → perform. It knows protocols only, so the same loop runs on the real server,
on the fake gateway, and under any clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runner.clock import Clock
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import Cancel, Command, Detach, Evaluate, Gateway, Launch, ServerInfo, Sink
from runner.engine.requirements import check_requirements
from runner.engine.resume_state import expansions
from runner.engine.scheduler import decide, exit_code
from runner.engine.server_activity import LiveWorker, LockWaits
from runner.engine.state import RunState, concerned, initial_state
from runner.engine.step_sql import with_facts
from runner.errors import GroupHeldError, JournalLostError, RecordError
from runner.plan.model import OnConflict, Plan, Value
from runner.run.performer import Order, Performer, WriteAhead, builtin_values, launching, values_for
from runner.run.start import RunContext, hold_run, resumed, started, taken_up
from runner.run.takeover import Takeover, look_into

#: Seconds between two ticks of the sinks while nothing happens.
TICK = 1.0


@dataclass(slots=True)
class RunResult:
    """How a run ended; `record_errors` are sinks that could not keep what they should."""

    state: RunState = field(repr=False)  # asyncio writes a task's result into messages that nobody reads
    exit_code: int
    record_errors: list[RecordError] = field(default_factory=list)
    #: What the ledger lacks, if that came to light only at the end.
    ledger_problem: str | None = field(default=None, repr=False)


class Run:
    """One run of a plan, or the rest of one. Use it once. The steps `left_out` were not selected.

    To go on with a run, `earlier` is its state as its record has it, and `takeover` how it is to be taken up.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        gateway: Gateway,
        clock: Clock,
        sinks: Sequence[Sink],
        context: RunContext,
        left_out: frozenset[str] = frozenset(),
        earlier: RunState | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        self.state = initial_state(plan) if earlier is None else earlier
        self._plan = plan
        self._gateway = gateway
        self._clock = clock
        self._sinks = list(sinks)
        self._context = context
        self._left_out = left_out
        self._takeover = takeover
        self._under_way = False
        self._inbox: deque[ev.Event] = deque()
        self._news = asyncio.Event()
        self._ticked = clock.now()
        self._abandoned = False
        self._crash: BaseException | None = None
        self._interrupts = 0
        self._record_errors: list[RecordError] = []
        self._ledger_problem: str | None = None
        self._lock_waits = LockWaits(self.state)
        gateway.watch_locks(self._note_lock_waits)
        self._performer = Performer(
            self.state, gateway, clock, context.run_id, post=self._post, crashed=self._notice_crash
        )
        self._write_ahead = WriteAhead(self._flush, crashed=self._notice_crash)

    async def execute(self) -> RunResult:
        """Run the plan to its end and return how it ended.

        PreflightError (ConnectionFailedError with it) if nothing was started.
        """
        async with contextlib.AsyncExitStack() as ending:
            ending.callback(self._close_sinks)
            ending.push_async_callback(self._gateway.close)
            ending.push_async_callback(self._performer.give_up)
            ending.push_async_callback(self._write_ahead.close)
            values = builtin_values(self._plan, self._context.run_id)
            info = await self._gateway.open(lambda found: check_requirements(self._plan, found, self._gateway, values))
            if self._takeover is not None:
                self._takeover.check_server(info)
            # an ignored ledger is reported by an event of its own, also where the run is resumed
            self._ledger_problem = None if self._gateway.ledger_ignored else self._gateway.ledger_problem
            await hold_run(self._gateway, self._context.run_id)
            await self._hold_group()
            if self._takeover is None:
                self._emit(
                    started(
                        self._plan,
                        self._context,
                        info,
                        left_out=self._left_out,
                        ledger_problem=self._ledger_problem,
                        at=self._clock.now(),
                    )
                )
            else:
                await self._take_up(self._takeover, values, info)
            self._leave_out()
            self._under_way = True
            await self._until_over()
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
            ledger_problem=None if problem == self._ledger_problem else problem,
        )

    @property
    def under_way(self) -> bool:
        """Say whether there is anything to look after: it has begun, or gone on."""
        return self._under_way

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return what the run's workers do now, for who watches it. GatewayError if nobody can look now."""
        return await self._gateway.look()

    def interrupt(self, signal: int) -> None:
        """Take a signal: the first begins an orderly end, the second stops waiting for it."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._post(ev.RunInterrupted(at=self._clock.now(), signal=signal))
        else:
            self._abandoned = True
            self._news.set()

    async def _take_up(self, takeover: Takeover, values: Mapping[str, Value], info: ServerInfo) -> None:
        """Go on with the run: find out what became of its workers, and follow those that live."""
        found = await look_into(
            self.state,
            self._gateway,
            takeover,
            plan=self._plan,
            run_id=self._context.run_id,
            values=lambda record: values_for(self.state, record, values),
            clock=self._clock,
        )
        items = expansions(self.state, self._plan)
        self.state.plan = self._plan
        self._emit(resumed(self._plan, self._context, found, items=items, info=info, at=self._clock.now()))
        for adopted in found.adopted:
            self._performer.adopt(adopted)

    async def _hold_group(self) -> None:
        """Be the only run of the concurrency group. GroupHeldError if another one is, unless this one may wait."""
        concurrency = self._plan.concurrency
        told = None
        while concurrency is not None and not self._interrupts:
            holder = await self._gateway.hold_group(concurrency.group)
            if holder is None:
                return
            message = f"run {holder.run} holds the concurrency group {concurrency.group!r}, {holder}"
            if concurrency.on_conflict is OnConflict.FAIL:
                raise GroupHeldError(message + ".", hint="Wait for its end, or say on_conflict: wait.")
            asked = self._gateway.take_cancel()
            if asked is not None:
                self._gateway.answer(asked, steps=self._open_steps())
                raise GroupHeldError(f"cancelled by {asked.by} while {message}.")
            if holder != told:
                self._emit(ev.GroupWaiting(at=self._clock.now(), message=message))
                told = holder
            await self._sleep(None)

    def _leave_out(self) -> None:
        """Skip what was not selected; whoever selects says that it is done, so dependents run."""
        for step in self._plan.steps:
            if step.id in self._left_out and not self.state.records[step.id].final:
                self._emit(ev.StepSkipped(at=self._clock.now(), step=step.id, reason=ev.SkipReason.NOT_SELECTED))

    async def _until_over(self) -> None:
        while not self._abandoned:
            if self._crash is not None:
                raise self._crash
            if self._gateway.taken_up is not None:
                raise taken_up(self._context.run_id, self._gateway.taken_up)
            self._hear_cancel()
            self._read_inbox()
            if self._gateway.group_lost and not self.state.stopping and not self.state.finalizing:
                self._emit(ev.GroupLost(at=self._clock.now()))
            self._look_at_ledger()
            decision = decide(self.state, self._clock.now())
            for event in decision.events:
                self._emit(event)
            self._carry_out(decision.commands)
            if decision.over:
                return
            if not decision.events and not decision.commands:
                await self._sleep(decision.wake_at)
        self._read_inbox()  # what is known is recorded, although nobody waits for the rest

    def _hear_cancel(self) -> None:
        """Take what is asked for through the server. It comes before the ends of the workers that it explains."""
        stop = self._gateway.take_cancel()
        if stop is not None:
            self._emit(ev.RunCancelled(at=self._clock.now(), by=stop.by))
            self._gateway.answer(stop, steps=self._open_steps())
        while (asked := self._gateway.take_step_cancel()) is not None:
            known = asked.step in self.state.records
            wanted = concerned(self.state, asked.step)
            for key in wanted:
                self._emit(ev.StepCancelRequested(at=self._clock.now(), step=key, by=asked.by))
            self._gateway.answer(asked, steps=len(wanted) if known else None)

    def _open_steps(self) -> int:
        return sum(not record.final for record in self.state.records.values())

    def _look_at_ledger(self) -> None:
        problem = self._gateway.ledger_problem
        if problem is not None and problem != self._ledger_problem:
            self._ledger_problem = problem
            self._emit(ev.LedgerLost(at=self._clock.now(), message=problem))

    def _read_inbox(self) -> None:
        while self._inbox:
            self._emit(self._inbox.popleft())

    def _tick(self) -> None:
        """Give the sinks the time, about once in `TICK` seconds, however much happens meanwhile."""
        now = self._clock.now()
        if now - self._ticked >= TICK:
            self._ticked = now
            self._each_sink(lambda sink: sink.tick(now, self.state))
            self._write_ahead.carry_out()

    async def _sleep(self, wake_at: float | None) -> None:
        """Wait for news, but not beyond `wake_at` or the next tick."""
        next_tick = self._ticked + TICK
        until = next_tick if wake_at is None else min(next_tick, wake_at)
        alarm = asyncio.get_running_loop().call_later(max(0.0, until - self._clock.now()), self._news.set)
        try:
            await self._news.wait()
        finally:
            alarm.cancel()
        self._news.clear()
        self._tick()

    def _finished(self, steps: Mapping[str, str]) -> ev.RunFinished:
        now = self._clock.now()
        begun = now if self.state.started_at is None else self.state.started_at
        resumed_after = self.state.took_before  # else it is the time since run_started
        took = round(resumed_after + max(0.0, now - begun), 3) if resumed_after else None
        return ev.RunFinished(at=now, exit_code=exit_code(self.state), steps=steps, duration=took)

    def _emit(self, event: ev.Event) -> None:
        if isinstance(event, ev.StepFinished):
            event = with_facts(event, self.state.records[event.step], self.state, self._context.run_id)
        apply(self.state, event)
        self._each_sink(lambda sink: sink.handle(event, self.state))

    def _each_sink(self, call: Callable[[Sink], None]) -> None:
        """Have every sink do something; who fails is given nothing more, and a lost journal is told to the others."""
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
        """Have every sink make durable what it was given; what is returned waits for those that need time for it."""
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
                    self._news.set()

    async def _make_durable(self) -> None:
        wait = self._flush()
        if wait is not None:
            await wait

    def _close_sinks(self) -> None:
        self._record_errors += self._ask_sinks(lambda sink: sink.close())

    def _note_lock_waits(self, waits: Mapping[ev.Identity, ev.LockWait]) -> None:
        for event in self._lock_waits.look(waits, self._clock.now()):
            self._post(event)

    def _post(self, event: ev.Event) -> None:
        if isinstance(event, ev.AttemptFinished):
            self._inbox.extend(self._lock_waits.end(event))
        self._inbox.append(event)
        self._news.set()

    def _carry_out(self, commands: Sequence[Command]) -> None:
        """Record what is about to be done, and have it done once that is durable: one flush for all of it."""
        orders = []
        for command in commands:
            order = self._announce(command)
            if isinstance(command, Evaluate):  # it only reads
                order()
            else:
                orders.append(partial(self._perform, command, order))
        if orders:
            self._write_ahead.carry_out(orders)

    def _perform(self, command: Command, order: Order) -> None:
        """Do what was recorded. Nothing is launched without a journal, or after a second signal."""
        if isinstance(command, Launch) and (self.state.record_lost or self._abandoned):
            message = "the journal is lost" if self.state.record_lost else "the runner was interrupted"
            self._emit(
                ev.AttemptDeferred(at=self._clock.now(), step=command.step, attempt=command.attempt, message=message)
            )
            self._news.set()
        elif self.state.records[command.step].attempt == command.attempt:  # else its launch was deferred meanwhile
            order()

    def _announce(self, command: Command) -> Order:
        """Record what is about to be done, and return what does it."""
        now = self._clock.now()
        step, attempt = command.step, command.attempt
        match command:
            case Launch():
                event = launching(command, self._context.run_id, now)
                self._emit(event)
                return partial(self._performer.launch, command, event.application_name)
            case Cancel():
                self._emit(ev.AttemptCancelRequested(at=now, step=step, attempt=attempt, reason=command.reason))
                return partial(self._performer.cancel, step)
            case Detach():
                self._emit(ev.AttemptDetachRequested(at=now, step=step, attempt=attempt))
                return partial(self._performer.detach, step)
            case Evaluate():
                self._emit(ev.StepChecking(at=now, step=step, phase=command.phase, overtook=command.overtook))
                return partial(self._performer.evaluate, command)
        raise TypeError(f"{command!r} is no order")

    def _notice_crash(self, error: BaseException) -> None:
        """A task never raises; if one does all the same, the run must not wait for it for ever."""
        self._crash = error
        self._news.set()
