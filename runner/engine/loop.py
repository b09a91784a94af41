"""The only part of a run that acts: it asks the scheduler, performs its orders, and waits for what happens.

gateway → event → apply → sinks → decide → perform. It knows protocols only, so the same loop runs on the real server,
on the fake gateway, and under any clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.clock import Clock
from runner.engine import events as ev
from runner.engine.commands import Cancel, Command, Detach, Launch
from runner.engine.fold import apply
from runner.engine.outcome import classify
from runner.engine.scheduler import decide, exit_code
from runner.engine.sink import Sink
from runner.engine.state import RunState, initial_state
from runner.errors import CapacityError, GatewayError, RecordError
from runner.gateway.base import Gateway, LaunchRequest, ServerInfo, WorkerEnd, WorkerHandle
from runner.identity import worker_name
from runner.plan.model import OnFinish, Plan, Step, Value
from runner.sql.params import TemplateError, render

#: Seconds between two ticks of the sinks while nothing happens.
TICK = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run is told about itself."""

    run_id: str
    jobplan: str
    host: str
    os_pid: int
    sha256: str


@dataclass(slots=True)
class _Attempt:
    """One attempt under way. What is asked of it before the launch has returned is kept until then."""

    task: asyncio.Task[None]
    handle: WorkerHandle | None = None
    cancel: bool = False
    detach: bool = False

    def pass_on(self) -> None:
        if self.handle is not None and self.cancel:
            self.handle.cancel()
        if self.handle is not None and self.detach:
            self.handle.detach()


@dataclass(slots=True)
class RunResult:
    """How a run ended; `record_errors` are sinks that could not keep what they should."""

    state: RunState
    exit_code: int
    record_errors: list[RecordError] = field(default_factory=list)


class Run:
    """One run of a plan. Use it once."""

    def __init__(
        self, plan: Plan, *, gateway: Gateway, clock: Clock, sinks: Sequence[Sink], context: RunContext
    ) -> None:
        self.state = initial_state(plan)
        self._plan = plan
        self._gateway = gateway
        self._clock = clock
        self._sinks = list(sinks)
        self._context = context
        self._values: Mapping[str, Value] = {**plan.values, "run.id": context.run_id, "run.name": plan.name}
        self._attempts: dict[str, _Attempt] = {}
        self._inbox: deque[ev.Event] = deque()
        self._news = asyncio.Event()
        self._abandoned = False
        self._crash: BaseException | None = None
        self._record_errors: list[RecordError] = []

    async def execute(self) -> RunResult:
        """Run the plan to its end and return how it ended.

        PreflightError (ConnectionFailedError with it) if nothing was started.
        """
        info = await self._gateway.open()
        try:
            self._emit(self._started(info))
            await self._until_over()
            code = exit_code(self.state)
            steps = {key: str(record.state) for key, record in self.state.records.items()}
            self._emit(ev.RunFinished(at=self._clock.now(), exit_code=code, steps=steps))
        finally:
            await self._stop_following()
            await self._gateway.close()
            self._close_sinks()
        return RunResult(state=self.state, exit_code=code, record_errors=self._record_errors)

    def interrupt(self, signal: int) -> None:
        """Take Ctrl-C or SIGTERM: the first begins an orderly end, the second stops waiting for it."""
        if self.state.interrupted is None:
            self._post(ev.RunInterrupted(at=self._clock.now(), signal=signal))
        else:
            self._abandoned = True
            self._news.set()

    def _started(self, info: ServerInfo) -> ev.RunStarted:
        return ev.RunStarted(
            at=self._clock.now(),
            jobplan=self._context.jobplan,
            plan=self._plan.name,
            file=self._plan.file,
            sha256=self._context.sha256,
            host=self._context.host,
            os_pid=self._context.os_pid,
            server=info.version,
            extension=info.extension_version,
            database=info.database,
            user=info.user,
            slots=self._plan.budget.slots,
            steps=len(self._plan.steps),
        )

    async def _until_over(self) -> None:
        while not self._abandoned:
            if self._crash is not None:
                raise self._crash
            while self._inbox:
                self._emit(self._inbox.popleft())
            decision = decide(self.state, self._clock.now())
            for event in decision.events:
                self._emit(event)
            for command in decision.commands:
                self._perform(command)
            if decision.over:
                return
            if not decision.events and not decision.commands:
                await self._sleep(decision.wake_at)

    async def _sleep(self, wake_at: float | None) -> None:
        """Wait for news, but not beyond `wake_at` or the next tick."""
        now = self._clock.now()
        seconds = TICK if wake_at is None else min(TICK, max(0.0, wake_at - now))
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            self._each_sink(lambda sink: sink.tick(self._clock.now(), self.state))
        self._news.clear()

    def _emit(self, event: ev.Event) -> None:
        apply(self.state, event)
        self._each_sink(lambda sink: sink.handle(event, self.state))

    def _each_sink(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except RecordError as error:
                self._sinks.remove(sink)
                self._record_errors.append(error)

    def _close_sinks(self) -> None:
        self._each_sink(lambda sink: sink.close())

    def _post(self, event: ev.Event) -> None:
        self._inbox.append(event)
        self._news.set()

    # --- orders -------------------------------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        match command:
            case Launch():
                self._launch(command)
            case Cancel():
                self._emit(
                    ev.AttemptCancelRequested(
                        at=self._clock.now(), step=command.step, attempt=command.attempt, reason=command.reason
                    )
                )
                self._attempts[command.step].cancel = True
                self._attempts[command.step].pass_on()
            case Detach():
                self._emit(ev.AttemptDetachRequested(at=self._clock.now(), step=command.step, attempt=command.attempt))
                self._attempts[command.step].detach = True
                self._attempts[command.step].pass_on()

    def _launch(self, command: Launch) -> None:
        name = worker_name(self._context.run_id, command.step)
        self._emit(
            ev.AttemptLaunching(
                at=self._clock.now(),
                step=command.step,
                attempt=command.attempt,
                application_name=name,
                timeout=command.timeout,
                overtook=command.overtook,
            )
        )
        step = self.state.records[command.step].step
        task = asyncio.create_task(self._attempt(step, command, name))
        task.add_done_callback(self._notice_crash)
        self._attempts[command.step] = _Attempt(task)

    def _notice_crash(self, task: asyncio.Task[None]) -> None:
        """An attempt never raises; if it does all the same, the run must not wait for it for ever."""
        if not task.cancelled() and task.exception() is not None:
            self._crash = task.exception()
            self._news.set()

    def _request(self, step: Step, timeout: float | None, name: str) -> LaunchRequest:
        return LaunchRequest(
            sql=render(step.sql.text, self._values),
            application_name=name,
            timeout=timeout,
            lock_timeout=step.lock_timeout,
            settings=step.settings,
            role=step.role,
            search_path=step.search_path,
            output_buffer=step.output_buffer,
            reserve=self._plan.budget.reserve,
            detachable=step.on_finish is OnFinish.DETACH,
        )

    async def _attempt(self, step: Step, command: Launch, name: str) -> None:
        """Follow one worker from launch to end and post what happens."""
        attempt = command.attempt

        def seen(worker: ev.Worker) -> None:
            self._post(ev.AttemptRunning(at=self._clock.now(), step=step.id, attempt=attempt, worker=worker))

        def lost(message: str) -> None:
            self._post(ev.AttemptLost(at=self._clock.now(), step=step.id, attempt=attempt, message=message))

        try:
            handle = await self._gateway.launch(self._request(step, command.timeout, name))
            under_way = self._attempts[step.id]
            under_way.handle = handle
            under_way.pass_on()
            end = await handle.ended(seen=seen, lost=lost)
        except CapacityError as error:
            message = error.message
            self._post(ev.AttemptDeferred(at=self._clock.now(), step=step.id, attempt=attempt, message=message))
            return
        except TemplateError as error:
            end = WorkerEnd(error=ev.ErrorDetails(message=error.message))
        except GatewayError as error:
            lost(error.message)
            end = WorkerEnd(lost=True)
        self._finished(step, command, end)

    def _finished(self, step: Step, command: Launch, end: WorkerEnd) -> None:
        now = self._clock.now()
        record = self.state.records[step.id]
        outcome, error = classify(end, timeout=command.timeout, cancelled=record.cancel_reason)
        for notice in end.notices:
            self._post(ev.AttemptNotice(at=now, step=step.id, attempt=command.attempt, notice=notice))
        deadline = None
        if end.detached and command.timeout is not None and record.launched_at is not None:
            deadline = record.launched_at + command.timeout
        self._post(
            ev.AttemptFinished(
                at=now,
                step=step.id,
                attempt=command.attempt,
                outcome=outcome,
                error=error,
                command_tag=end.command_tag,
                row_count=end.row_count,
                started_at=end.started_at,
                finished_at=end.finished_at,
                worker=end.worker,
                deadline=deadline,
                notices_dropped=end.notices_dropped,
            )
        )

    async def _stop_following(self) -> None:
        """Give up the tasks that are left after a second interrupt; their workers live on."""
        tasks = [attempt.task for attempt in self._attempts.values() if not attempt.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
