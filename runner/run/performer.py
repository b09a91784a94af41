"""Performs the scheduler's commands on the gateway, and posts the results as events.

Each attempt and each evaluation is a separate task. No task raises: every result is posted as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from runner.clock import Clock, parse_rfc3339
from runner.engine import events as ev
from runner.engine.batches import Batch, CarriedError, batch_values, carries, read_batch, stored_batch
from runner.engine.leftovers import left_by
from runner.engine.outcomes import classify, has_yielded, rows_wanted, skipped
from runner.engine.ports import Evaluate, Gateway, Launch, LaunchRequest, WorkerEnd, WorkerHandle
from runner.engine.size_limits import limited_rows
from runner.engine.slot_queue import launch_timeout
from runner.engine.state import RunState, StepRecord
from runner.engine.state_indices import held_by
from runner.engine.step_sql import named_values, values_for, with_values
from runner.engine.window import launch_times, must_wait_for_window
from runner.engine.yielding import yield_error
from runner.errors import CapacityError, GatewayError, OutsideLaunchTimeError
from runner.identity import WorkerLabel, worker_name
from runner.plan.model import ItemValues, OnFinish, OnLeftovers, Step
from runner.run.conditions import Conditions, estimated_rows
from runner.run.retry_workers import (
    ON_RETRY,
    Removed,
    drops,
    failed_preparation,
    left_before,
    remove,
    to_remove,
)
from runner.run.tasks import Tasks
from runner.sql.carried_rows import carry_form
from runner.sql.placeholders import TemplateError, render
from runner.sql.text_traits import builds_of, nature_of
from runner.structs import Struct, replace

#: Outcomes that a user's cancel request explains; failures and timeouts have other causes.
_MAYBE_CANCELLED = frozenset({ev.Outcome.CANCELLED, ev.Outcome.UNKNOWN})


class LostBatchError(GatewayError):
    """An iteration has committed, and what it returned is not known."""


class _Attempt(Struct):
    """One running attempt. Requests that come before the launch has returned are kept until then."""

    handle: WorkerHandle | None = None
    cancel: bool = False
    detach: bool = False
    #: The present worker is not the step's own: it is never detached.
    assisted: bool = False

    def apply_requests(self) -> None:
        if self.handle is not None and self.cancel:
            self.handle.cancel()
        if self.handle is not None and self.detach and not self.assisted:
            self.handle.detach()


class Performer:
    """Launches, cancels, detaches and evaluates for one run.

    `post` receives an event; `announce` records one before a further worker of an attempt is requested, and returns
    whether it may be; `crashed` receives the exception of a task, which is a bug in jobplan.
    """

    def __init__(
        self,
        state: RunState,
        gateway: Gateway,
        clock: Clock,
        run_id: str,
        *,
        post: Callable[[ev.Event], None],
        announce: Callable[[ev.Event], Awaitable[bool]],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._announce = announce
        self._state = state
        self._gateway = gateway
        self._clock = clock
        self._run_id = run_id
        self._post = post
        self._tasks = Tasks(crashed)
        self._values = named_values(state.plan, run_id)
        self._attempts: dict[str, _Attempt] = {}
        #: OIDs of the unfinished objects in the database before the first step that can leave one behind; None if
        #: unknown.
        self._unfinished_before: frozenset[int] | None = None
        self._unfinished_lock = asyncio.Lock()

    def launch(self, command: Launch, application_name: str) -> None:
        """Launch a worker and follow it to its end, in a task."""
        self._attempts[command.step] = _Attempt()
        self._tasks.begin(self._follow(self._state.records[command.step], command, application_name))

    def adopt(self, adopted: ev.Adopted) -> None:
        """Follow a worker of a previous runner to its end, in a task."""
        record = self._state.records[adopted.step]
        handle = self._gateway.adopt(adopted.worker, step=adopted.step, awaited=record.step.waits)
        self._attempts[adopted.step] = _Attempt()
        command = Launch(step=adopted.step, attempt=adopted.attempt, timeout=record.timeout)
        self._tasks.begin(self._follow_adopted(record, command, handle))

    def evaluate(self, command: Evaluate) -> None:
        """Evaluate a step's conditions, in a task."""
        self._tasks.begin(self._evaluate(self._state.records[command.step], command))

    def cancel(self, step: str) -> None:
        """Request a step's worker to stop, now or as soon as it was launched."""
        self._attempts[step].cancel = True
        self._attempts[step].apply_requests()

    def detach(self, step: str) -> None:
        """Detach a step's worker, now or as soon as it was launched.

        A worker that only prepares the attempt is cancelled instead if the run is being ended.
        """
        attempt = self._attempts[step]
        attempt.detach = True
        attempt.cancel = attempt.cancel or (attempt.assisted and self._state.ending)
        attempt.apply_requests()

    async def cancel_tasks(self) -> None:
        """Cancel the remaining tasks; their workers continue."""
        await self._tasks.cancel()

    def _values_for(self, record: StepRecord) -> ItemValues:
        return values_for(self._state, record, self._values)

    async def _evaluate(self, record: StepRecord, command: Evaluate) -> None:
        conditions = Conditions(self._gateway, record, self._values_for(record))
        event = await conditions.evaluate(command.phase, self._clock.now())
        self._post(replace(event, at=self._clock.now()))

    async def _follow(self, record: StepRecord, command: Launch, application_name: str) -> None:
        try:
            if record.preparing and not await self._is_prepared(record, command):
                return
            command = replace(command, timeout=record.timeout)  # a prepared attempt has less of run_timeout left
            request = self._request(record, command, application_name)
            if not await self._note_unfinished_objects(record, command, request.sql):
                self._defer(command, "nothing more is launched")
                return
            await self._estimate_rows(record, request)
            handle = await self._gateway.launch(request)
        except CapacityError as error:
            self._defer(command, error.message, outside_window=isinstance(error, OutsideLaunchTimeError))
            return
        except (TemplateError, GatewayError) as error:
            await self._finished(record, command, WorkerEnd(error=ev.ErrorDetails(message=error.message)))
            return
        await self._await_end(record, command, handle)

    async def _estimate_rows(self, record: StepRecord, request: LaunchRequest) -> None:
        """Record about how many rows a repeat can change, before its first iteration."""
        if record.step.repeat is not None and record.table_rows is None and record.attempt == 1:
            found = await estimated_rows(self._gateway, request)
            if found is not None:
                table, rows = found
                self._post(ev.StepRowsEstimated(at=self._clock.now(), step=record.key, table=table, rows=rows))

    async def _follow_adopted(self, record: StepRecord, command: Launch, handle: WorkerHandle) -> None:
        """Follow a worker of a previous runner; the object that it is building does not count as unfinished before."""
        with contextlib.suppress(TemplateError):
            await self._note_unfinished_in_run(self._rendered(record))
        await self._await_end(record, command, handle, orphan=True)

    async def _await_end(
        self, record: StepRecord, command: Launch, handle: WorkerHandle, *, orphan: bool = False
    ) -> None:
        key, attempt = command.step, command.attempt

        def lost(message: str) -> None:
            self._post(ev.AttemptLost(**self._of(command), message=message))

        self._attempts[key].handle = handle
        self._attempts[key].apply_requests()
        seen, unstoppable = partial(self._seen, command), partial(self._unstoppable, command)
        try:
            end = await handle.wait_until_ended(on_seen=seen, on_lost=lost, on_unstoppable=unstoppable)
            if orphan and end.lost:
                end = _with_ledger_evidence(end, committed=await self._gateway.committed(key, attempt))
        except GatewayError as error:
            lost(error.message)
            end = WorkerEnd(lost=True, unobserved=True, reason=error.message)
        await self._finished(record, command, end)

    def _seen(self, command: Launch, worker: ev.Worker) -> None:
        handle = self._attempts[command.step].handle
        self._post(ev.AttemptRunning(**self._of(command), worker=worker, age=None if handle is None else handle.age))

    def _unstoppable(self, command: Launch, worker: ev.Worker, seconds: float) -> None:
        self._post(ev.AttemptUnstoppable(**self._of(command), worker=worker, seconds=seconds))

    def _defer(self, command: Launch, message: str, *, outside_window: bool = False) -> None:
        self._post(ev.AttemptDeferred(**self._of(command), message=message, outside_window=outside_window))

    def _of(self, command: Launch) -> dict[str, Any]:
        """Return what each event of an attempt has."""
        return command.facts(self._clock.now())

    # --- workers besides the step's own -------------------------------------------------------------------------------

    async def _is_prepared(self, record: StepRecord, command: Launch) -> bool:
        """Prepare an attempt, and announce the step's own worker; False if it must not be requested any more.

        CapacityError if the server has no worker free now.
        """
        own = self._attempts[command.step]
        own.assisted = True
        try:
            ended = await self._prepare(record, command)
        finally:
            own.assisted, own.handle = False, None
        if ended is None and own.cancel:
            ended = ev.Outcome.CANCELLED, ev.ErrorDetails(message="cancelled before its own worker was requested")
        if ended is not None:
            self._post_end(record, command, *ended)
            return False
        now = self._clock.now()
        if must_wait_for_window(self._state, record, now):
            self._defer(command, "the window is closed", outside_window=True)
            return False
        hold = held_by(self._state, record)
        if hold is not None:
            self._defer(command, f"hold {hold}")
            return False
        timeout = launch_timeout(self._state, record, now)
        again = launching(replace(command, timeout=timeout, overtook=()), self._run_id, now, record=record)
        if self._state.stopping or not await self._announce(again):
            self._defer(command, "nothing more is launched")
            return False
        return True

    async def _prepare(self, record: StepRecord, command: Launch) -> tuple[ev.Outcome, ev.ErrorDetails | None] | None:
        """Remove what previous attempts left behind, and execute `on_retry`; return the attempt's end if that is it."""
        execute = partial(self._execute, record, command)
        if record.step.leftovers is OnLeftovers.DROP:
            builds = drops(record, self._rendered(record))
            with contextlib.suppress(GatewayError):
                wanted = left_before(record, builds, await self._gateway.unfinished_objects())
                if (await remove(wanted, self._gateway.unfinished_objects, execute)).completed:
                    return ev.Outcome.SUCCEEDED, None
        if record.step.on_retry is None or not record.tried or self._attempts[command.step].cancel:
            return None
        try:
            end = await execute(render(record.step.on_retry.text, self._values_for(record)), ON_RETRY)
        except CapacityError:
            raise
        except (TemplateError, GatewayError) as error:
            end = WorkerEnd(error=ev.ErrorDetails(message=error.message))
        return failed_preparation(end, timeout=command.timeout, cancelled=record.cancel_reason)

    async def _execute(self, record: StepRecord, command: Launch, sql: str, purpose: str) -> WorkerEnd:
        """Execute SQL in a worker besides the step's own, and return its end."""
        own = self._attempts[command.step]

        def seen(worker: ev.Worker) -> None:
            if record.preparing:
                self._seen(command, worker)

        request = self._request(record, command, worker_name(self._run_id, command.step))
        label = None if request.label is None else replace(request.label, purpose=purpose)
        own.handle = await self._gateway.launch(replace(request, sql=sql, rows=0, detachable=False, label=label))
        own.apply_requests()
        unstoppable = partial(self._unstoppable, command)
        return await own.handle.wait_until_ended(on_seen=seen, on_lost=lambda _: None, on_unstoppable=unstoppable)

    async def _remove_leftovers(
        self, record: StepRecord, command: Launch, outcome: ev.Outcome, error: ev.ErrorDetails | None, *, ended: bool
    ) -> Removed:
        """Remove what the ended attempt left behind, unless the whole run is being ended: then a resume does it."""
        if record.step.leftovers is not OnLeftovers.DROP or self._state.ending_at_once or self._state.record_lost:
            return Removed()
        own = self._attempts[command.step]
        with contextlib.suppress(TemplateError, GatewayError):
            builds = drops(record, self._rendered(record))
            now = await self._gateway.unfinished_objects() if builds else ()
            wanted = to_remove(record, builds, now, outcome, error, ended=ended)
            if not wanted:
                return Removed()
            known = tuple(dict.fromkeys((*record.leftovers, *(one.left for one in wanted))))
            removing = ev.AttemptRemoving(**self._of(command), outcome=outcome, error=error, leftovers=known)
            own.assisted, own.handle, own.cancel = True, None, False
            if await self._announce(removing):
                return await remove(wanted, self._gateway.unfinished_objects, partial(self._execute, record, command))
        return Removed()

    def _rendered(self, record: StepRecord) -> str:
        return render(record.step.sql.text, self._values_for(record))

    async def _note_unfinished_objects(self, record: StepRecord, command: Launch, sql: str) -> bool:
        """Record what is unfinished already, before a CONCURRENTLY command; False if nothing more may be launched.

        Without `leftovers: drop` that is done once for the run, and not recorded: it is only for a report.
        """
        await self._note_unfinished_in_run(sql)
        if not drops(record, sql):
            return True
        with contextlib.suppress(GatewayError):
            found = await self._gateway.unfinished_objects(in_progress=True)
            marks = tuple(sorted(one.mark for one in found))
            return await self._announce(ev.UnfinishedNoted(**self._of(command), unfinished=marks))
        return True

    async def _note_unfinished_in_run(self, sql: str) -> None:
        if not builds_of(sql):
            return
        async with self._unfinished_lock:
            if self._unfinished_before is None:
                with contextlib.suppress(GatewayError):
                    self._unfinished_before = frozenset(one.oid for one in await self._gateway.unfinished_objects())

    async def _leftovers(self, record: StepRecord, outcome: ev.Outcome) -> tuple[ev.Leftover, ...]:
        """Return the unfinished objects that the failed attempts of the step left behind, including this attempt."""
        before, known = self._unfinished_before, record.leftovers
        if before is None or (outcome is ev.Outcome.SUCCEEDED and not known) or outcome is ev.Outcome.DETACHED:
            return ()
        try:
            builds = builds_of(self._rendered(record))
            return left_by(builds, await self._gateway.unfinished_objects(), before, known=known) if builds else ()
        except (TemplateError, GatewayError):
            return ()

    def _request(self, record: StepRecord, command: Launch, application_name: str) -> LaunchRequest:
        values = self._values_for(record)
        step = with_values(record.step, values)
        sql = render(step.sql.text, values)
        return LaunchRequest(
            sql=sql,
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
            launch_between=launch_times(self._state, record),
            carry=carry_form(sql, tuple(step.repeat.carry)) if step.repeat is not None and step.repeat.carry else None,
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

    def _post_end(
        self, record: StepRecord, command: Launch, outcome: ev.Outcome, error: ev.ErrorDetails | None
    ) -> None:
        """Post the end of an attempt whose own worker was not requested."""
        left = () if outcome is ev.Outcome.SUCCEEDED else record.leftovers
        self._post(ev.AttemptFinished(**self._of(command), outcome=outcome, error=error, leftovers=left))

    async def _finished(self, record: StepRecord, command: Launch, end: WorkerEnd) -> None:
        outcome, error = classify(end, timeout=command.timeout, cancelled=record.cancel_reason)
        reason = ev.FailureReason.YIELDED if has_yielded(end, record.cancel_reason) else None
        if reason is not None:
            error = yield_error(record.blocking)
        left_out = None
        if outcome is ev.Outcome.SUCCEEDED and end.warnings and not _judges_warnings(record.step):
            nature = nature_of(record.step.sql.text)
            left_out = skipped(end.notices, nature)
            if left_out is not None and nature.idempotent:  # it may run again, so this is a normal failure
                outcome, error, left_out = ev.Outcome.FAILED, left_out, None
        batch = uncarried = None
        if outcome is ev.Outcome.SUCCEEDED and carries(record.step):
            try:
                batch = await self._batch(record, command, end)
            except CarriedError as problem:
                uncarried = ev.ErrorDetails(message=str(problem))
            except GatewayError as problem:
                outcome, error = ev.Outcome.UNKNOWN, ev.ErrorDetails(message=problem.message)
        ended = end.worker is not None and not end.unobserved
        done = await self._remove_leftovers(record, command, outcome, error, ended=ended)
        if done.completed:
            outcome, error = ev.Outcome.SUCCEEDED, None
        left = await self._leftovers(record, outcome)
        leftovers = tuple(one for one in left if one not in done.removed)
        attempt = self._of(command)
        for notice in end.notices:
            self._post(ev.AttemptNotice(**attempt, notice=notice))
        ends_by = _ends_by(end.worker, record, command.timeout) if end.detached else None
        self._post(
            ev.AttemptFinished(
                **attempt,
                outcome=outcome,
                error=error,
                command_tag=end.command_tag,
                row_count=end.row_count if batch is None else batch.rows,
                started_at=end.started_at,
                finished_at=end.finished_at,
                worker=end.worker,
                deadline=ends_by,
                notices_dropped=end.notices_dropped,
                result=None if end.result is None or carries(record.step) else limited_rows(end.result),
                cancelled_by=end.cancelled_by if outcome in _MAYBE_CANCELLED else None,
                unobserved=end.unobserved,
                warnings=end.warnings or None,
                skipped=left_out,
                leftovers=leftovers,
                removed=done.removed,
                reason=reason,
                carried=None if batch is None else batch.carried,
                uncarried=uncarried,
            )
        )

    async def _batch(self, record: StepRecord, command: Launch, end: WorkerEnd) -> Batch:
        """Return what a committed iteration returned, from its result, or from what its transaction has stored.

        CarriedError if the values cannot be used; LostBatchError if they are lost.
        """
        result = end.result
        if result is not None and result.problem is None:
            return read_batch(record.step, result, end.row_count)
        stored = await self._gateway.stored_batch(record.key, command.attempt)
        if stored is None:
            why = f": {result.problem}" if result is not None else " with its session"
            raise LostBatchError(f"the iteration has committed, and the values that it carries were lost{why}")
        return stored_batch(record.step, stored.values, rows=stored.rows)


def _judges_warnings(step: Step) -> bool:
    """Return whether the plan itself limits the WARNINGs of the step."""
    return step.expect is not None and step.expect.judges_warnings


def _ends_by(worker: ev.Worker | None, record: StepRecord, timeout: float | None) -> float | None:
    """Return when the server ends a detached worker, by the server's clock if backend_start is known."""
    if timeout is None:
        return None
    with contextlib.suppress(ValueError):
        if worker is not None:
            return parse_rfc3339(worker.backend_start) + timeout
    return None if record.launched_at is None else record.launched_at + timeout


def _with_ledger_evidence(end: WorkerEnd, *, committed: bool | None) -> WorkerEnd:
    """Return the end of a previous runner's worker with the evidence of the ledger."""
    if committed is None:
        return end
    return replace(end, lost=False, confirmed=committed, rolled_back=not committed)


def preparing(command: Launch, run_id: str, now: float) -> ev.AttemptPreparing:
    """Return the event that is recorded before a worker is requested that prepares the attempt."""
    return ev.AttemptPreparing(**_of_launch(command, run_id, now))


def launching(command: Launch, run_id: str, now: float, *, record: StepRecord) -> ev.AttemptLaunching:
    """Return the event that is recorded before a worker is requested."""
    return ev.AttemptLaunching(**_of_launch(command, run_id, now), values=batch_values(record) or None)


def _of_launch(command: Launch, run_id: str, now: float) -> dict[str, Any]:
    name = worker_name(run_id, command.step)
    return dict(application_name=name, timeout=command.timeout, overtook=command.overtook, **command.facts(now))
