"""Perform the scheduler's commands on the gateway, and post what comes of them as events.

Each attempt and each evaluation is a task of its own. None of them raises: whatever happens becomes an event.

A command waits in `WriteAhead` until its announcement is durable: a launch is on the disk before its worker is
requested. A disk may take long to make something durable; the event loop does not wait for it. Ends, signals and ticks
are handled meanwhile, and commands that come meanwhile share the next flush. There is one flush at a time, and
commands are carried out in the sequence in which they were announced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.clock import Clock, parse_rfc3339
from runner.engine import events as ev
from runner.engine.leftovers import left_by
from runner.engine.outcomes import classify, rows_wanted, skipped
from runner.engine.ports import Evaluate, Gateway, Launch, LaunchRequest, WorkerEnd, WorkerHandle
from runner.engine.scheduler import run_status
from runner.engine.size_limits import limited_rows
from runner.engine.state import RunState, StepRecord
from runner.engine.step_sql import with_values
from runner.errors import CapacityError, GatewayError
from runner.identity import WorkerLabel, worker_name
from runner.plan.model import OnFinish, Plan, Step, Value
from runner.run.conditions import Conditions
from runner.sql.placeholders import TemplateError, render
from runner.sql.text_traits import builds_of, nature_of

#: Outcomes that somebody's cancel explains; what failed or timed out did so by itself.
_MAYBE_CANCELLED = frozenset({ev.Outcome.CANCELLED, ev.Outcome.UNKNOWN})


@dataclass(slots=True)
class _Attempt:
    """One attempt under way. What is asked of it before the launch has returned is kept until then."""

    handle: WorkerHandle | None = None
    cancel: bool = False
    detach: bool = False

    def pass_on(self) -> None:
        if self.handle is not None and self.cancel:
            self.handle.cancel()
        if self.handle is not None and self.detach:
            self.handle.detach()


class Performer:
    """Launches, cancels, detaches and evaluates for one run.

    `post` takes an event; `crashed` the exception of a task, which is a bug in jobplan.
    """

    def __init__(
        self,
        state: RunState,
        gateway: Gateway,
        clock: Clock,
        run_id: str,
        *,
        post: Callable[[ev.Event], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._state = state
        self._gateway = gateway
        self._clock = clock
        self._run_id = run_id
        self._post = post
        self._crashed = crashed
        self._values = builtin_values(state.plan, run_id)
        self._attempts: dict[str, _Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: What was half done in the database before the first step that may leave something so: None if not known.
        self._half_done_before: frozenset[int] | None = None
        self._looks_first = asyncio.Lock()

    def launch(self, command: Launch, application_name: str) -> None:
        """Begin to follow a worker from launch to end."""
        self._attempts[command.step] = _Attempt()
        self._begin(self._follow(self._state.records[command.step], command, application_name))

    def adopt(self, adopted: ev.Adopted) -> None:
        """Begin to follow a worker that an earlier runner has left."""
        record = self._state.records[adopted.step]
        handle = self._gateway.adopt(adopted.worker, step=adopted.step, awaited=record.step.waits)
        self._attempts[adopted.step] = _Attempt()
        command = Launch(step=adopted.step, attempt=adopted.attempt, timeout=record.timeout)
        self._begin(self._follow_adopted(record, command, handle))

    def evaluate(self, command: Evaluate) -> None:
        """Begin to evaluate a step's conditions."""
        self._begin(self._evaluate(self._state.records[command.step], command))

    def cancel(self, step: str) -> None:
        """Have a step's worker asked to stop, now or as soon as there is one."""
        self._attempts[step].cancel = True
        self._attempts[step].pass_on()

    def detach(self, step: str) -> None:
        """Let go of a step's worker, now or as soon as there is one."""
        self._attempts[step].detach = True
        self._attempts[step].pass_on()

    async def give_up(self) -> None:
        """End the tasks that are left; their workers live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crashed(error)

    def _values_for(self, record: StepRecord) -> Mapping[str, Value | None]:
        return values_for(self._state, record, self._values)

    async def _evaluate(self, record: StepRecord, command: Evaluate) -> None:
        conditions = Conditions(self._gateway, record, self._values_for(record))
        event = await conditions.evaluate(command.phase, self._clock.now())
        self._post(replace(event, at=self._clock.now()))

    async def _follow(self, record: StepRecord, command: Launch, application_name: str) -> None:
        key, attempt = command.step, command.attempt
        try:
            request = self._request(record, command, application_name)
            await self._look_first(request.sql)
            handle = await self._gateway.launch(request)
        except CapacityError as error:
            message = error.message
            self._post(ev.AttemptDeferred(at=self._clock.now(), step=key, attempt=attempt, message=message))
            return
        except (TemplateError, GatewayError) as error:
            await self._finished(record, command, WorkerEnd(error=ev.ErrorDetails(message=error.message)))
            return
        await self._await_end(record, command, handle)

    async def _follow_adopted(self, record: StepRecord, command: Launch, handle: WorkerHandle) -> None:
        """Follow a worker of an earlier runner; what it is at work on does not count as half done before."""
        with contextlib.suppress(TemplateError):
            await self._look_first(render(record.step.sql.text, self._values_for(record)))
        await self._await_end(record, command, handle, orphan=True)

    async def _await_end(
        self, record: StepRecord, command: Launch, handle: WorkerHandle, *, orphan: bool = False
    ) -> None:
        key, attempt = command.step, command.attempt

        def seen(worker: ev.Worker) -> None:
            now = self._clock.now()
            self._post(ev.AttemptRunning(at=now, step=key, attempt=attempt, worker=worker, age=handle.age))

        def lost(message: str) -> None:
            self._post(ev.AttemptLost(at=self._clock.now(), step=key, attempt=attempt, message=message))

        def unstoppable(worker: ev.Worker, seconds: float) -> None:
            now = self._clock.now()
            self._post(ev.AttemptUnstoppable(at=now, step=key, attempt=attempt, worker=worker, seconds=seconds))

        self._attempts[key].handle = handle
        self._attempts[key].pass_on()
        try:
            end = await handle.ended(seen=seen, lost=lost, unstoppable=unstoppable)
            if orphan and end.lost:
                end = _proven(end, committed=await self._gateway.committed(key, attempt))
        except GatewayError as error:
            lost(error.message)
            end = WorkerEnd(lost=True, reason=error.message)
        await self._finished(record, command, end)

    async def _look_first(self, sql: str) -> None:
        """Note what is half done in the database already, once, before the first CONCURRENTLY command of the run."""
        if not builds_of(sql):
            return
        async with self._looks_first:
            if self._half_done_before is None:
                with contextlib.suppress(GatewayError):
                    self._half_done_before = frozenset(one.oid for one in await self._gateway.half_done())

    async def _leftovers(self, record: StepRecord, outcome: ev.Outcome) -> tuple[ev.Leftover, ...]:
        """Return what the step's attempts have left half done: all that have failed, and this one if it has."""
        before, known = self._half_done_before, record.leftovers
        if before is None or (outcome is ev.Outcome.SUCCEEDED and not known) or outcome is ev.Outcome.DETACHED:
            return ()
        try:
            builds = builds_of(render(record.step.sql.text, self._values_for(record)))
            return left_by(builds, await self._gateway.half_done(), before, known=known) if builds else ()
        except (TemplateError, GatewayError):
            return ()

    def _request(self, record: StepRecord, command: Launch, application_name: str) -> LaunchRequest:
        values = self._values_for(record)
        step = with_values(record.step, values)
        return LaunchRequest(
            sql=render(step.sql.text, values),
            application_name=application_name,
            timeout=command.timeout,
            lock_timeout=step.lock_timeout,
            settings=step.settings,
            role=step.role,
            search_path=step.search_path,
            output_buffer=step.output_buffer,
            reserve=self._state.plan.budget.reserve,
            detachable=step.on_finish is OnFinish.DETACH,
            rows=rows_wanted(step),
            label=WorkerLabel(
                run=self._run_id,
                plan=self._state.plan.name,
                step=record.key,
                attempt=command.attempt,
                on_finish=step.on_finish,
                timeout=command.timeout,
                in_finally=record.in_finally,
            ),
        )

    async def _finished(self, record: StepRecord, command: Launch, end: WorkerEnd) -> None:
        outcome, error = classify(end, timeout=command.timeout, cancelled=record.cancel_reason)
        left_out = None
        if outcome is ev.Outcome.SUCCEEDED and end.warnings and not _judges_warnings(record.step):
            nature = nature_of(record.step.sql.text)
            left_out = skipped(end.notices, nature)
            if left_out is not None and nature.idempotent:  # it may run again, so it is a failure like any other
                outcome, error, left_out = ev.Outcome.FAILED, left_out, None
        leftovers = await self._leftovers(record, outcome)
        now = self._clock.now()
        for notice in end.notices:
            self._post(ev.AttemptNotice(at=now, step=record.key, attempt=command.attempt, notice=notice))
        ends_by = _ends_by(end.worker, record, command.timeout) if end.detached else None
        self._post(
            ev.AttemptFinished(
                at=now,
                step=record.key,
                attempt=command.attempt,
                outcome=outcome,
                error=error,
                command_tag=end.command_tag,
                row_count=end.row_count,
                started_at=end.started_at,
                finished_at=end.finished_at,
                worker=end.worker,
                deadline=ends_by,
                notices_dropped=end.notices_dropped,
                result=None if end.result is None else limited_rows(end.result),
                cancelled_by=end.cancelled_by if outcome in _MAYBE_CANCELLED else None,
                warnings=end.warnings or None,
                skipped=left_out,
                leftovers=leftovers,
            )
        )


def _judges_warnings(step: Step) -> bool:
    """Say whether the plan itself says how many WARNINGs the step may have."""
    return step.expect is not None and step.expect.judges_warnings


def _ends_by(worker: ev.Worker | None, record: StepRecord, timeout: float | None) -> float | None:
    """Return when the server ends a detached worker: by its own clock, if it has said when the worker began."""
    if timeout is None:
        return None
    with contextlib.suppress(ValueError):
        if worker is not None:
            return parse_rfc3339(worker.backend_start) + timeout
    return None if record.launched_at is None else record.launched_at + timeout


def _proven(end: WorkerEnd, *, committed: bool | None) -> WorkerEnd:
    """Return the end of an earlier runner's worker as the ledger has it."""
    if committed is None:
        return end
    return replace(end, lost=False, proven=committed, rolled_back=not committed)


def builtin_values(plan: Plan, run_id: str) -> Mapping[str, Value]:
    """Return what SQL may name everywhere in a plan: its parameters, and the run's own id and name."""
    return {**plan.values, "run.id": run_id, "run.name": plan.name}


def values_for(state: RunState, record: StepRecord, builtin: Mapping[str, Value]) -> Mapping[str, Value | None]:
    """Return what the SQL of one step or instance may name: `builtin`, its item, and in `finally` the run's status."""
    if not record.in_finally and not record.values:
        return builtin
    status = {"run.status": run_status(state)} if record.in_finally else {}
    return {**builtin, **status, **record.values}


def launching(command: Launch, run_id: str, now: float) -> ev.AttemptLaunching:
    """Return the event that is recorded before a worker is asked for."""
    return ev.AttemptLaunching(
        at=now,
        step=command.step,
        attempt=command.attempt,
        application_name=worker_name(run_id, command.step),
        timeout=command.timeout,
        overtook=command.overtook,
    )


#: Carries out one order.
Order = Callable[[], None]
#: Begins to make durable what was announced; what is returned must be awaited, None if it is durable.
Flush = Callable[[], Coroutine[Any, Any, None] | None]


class WriteAhead:
    """Carries out orders after a flush. `crashed` takes the exception of a flush or an order, which is a bug."""

    def __init__(self, flush: Flush, *, crashed: Callable[[BaseException], None]) -> None:
        self._flush = flush
        self._crashed = crashed
        self._waiting: list[Order] = []
        self._due = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def carry_out(self, orders: Sequence[Order] = ()) -> None:
        """Flush, then carry out the orders: before this returns, if no flush has to be waited for."""
        self._waiting += orders
        self._due = True
        if self._task is None:
            self._next()

    async def settle(self) -> None:
        """Wait until all orders are carried out."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Drop the orders that wait, and wait for the flush that was begun."""
        self._closed = True
        await self.settle()

    def _next(self) -> None:
        orders, self._waiting = self._waiting, []
        self._due = False
        durable = self._flush()
        if durable is None:
            self._release(orders)
            return
        self._task = asyncio.create_task(self._after(durable, orders))
        self._task.add_done_callback(self._ended)

    async def _after(self, durable: Coroutine[Any, Any, None], orders: Sequence[Order]) -> None:
        await durable
        self._release(orders)

    def _release(self, orders: Sequence[Order]) -> None:
        for order in orders:
            if not self._closed:
                order()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crashed(error)
        elif self._due and not self._closed:
            self._next()
