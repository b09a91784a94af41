"""Carries out a fleet run in one event loop: decisions of `rollout`, members as tasks, and the record.

A member is recorded as started before it begins, so a process that is killed leaves a record from which each member can
be found and finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from runner.clock import Clock
from runner.engine.ports import Sink
from runner.errors import JobplanError, RecordError
from runner.exit_codes import ExitCode
from runner.fleet import events as ev
from runner.fleet.budget import ClusterBudget
from runner.fleet.events import MemberState
from runner.fleet.live_members import is_for_the_fleet
from runner.fleet.member import MemberOptions, of_error, run_member
from runner.fleet.records import FleetCancelRequest, FleetJournal
from runner.fleet.rollout import FleetState, Member, apply, decide, exit_code
from runner.fleet.targets import Target, Targets, parse_selectors, select
from runner.plan.model import Plan
from runner.run.loop import Run
from runner.structs import replace

#: Seconds between two calls of `tick` without events, and between two looks for a request to cancel.
TICK = 1.0
#: Seconds that members get to end after the fleet run was requested to stop a second time.
_ABANDON = 10.0


class FleetSink(Protocol):
    """Receives the events of a fleet run: progress, messages and a trace. A subclass needs `handle` only."""

    def handle(self, event: ev.FleetEvent, state: FleetState) -> None:
        """Process one event; `state` is the state after it."""
        ...

    def tick(self, now: float, state: FleetState, runs: Mapping[str, Run]) -> None:  # noqa: ARG002 - others use them
        """Do periodic work, about once a second; `runs` are the members that run, by target."""
        return


#: Returns the plan for a target, and the steps that were not selected. Raises what `read_plan` raises.
PlanOf = Callable[[Target], tuple[Plan, frozenset[str]]]


class FleetRun:
    """One fleet run, or the rest of one. Use it once."""

    def __init__(
        self,
        state: FleetState,
        targets: Targets,
        plan_of: PlanOf,
        journal: FleetJournal,
        options: MemberOptions,
        *,
        clock: Clock,
        sinks: Sequence[FleetSink] = (),
        cancel_wanted: Callable[[], FleetCancelRequest | None] = lambda: None,
        sinks_of: Callable[[Member], Sequence[Sink]] = lambda _: (),
    ) -> None:
        self.state = state
        self._targets = targets
        self._plan_of = plan_of
        self._journal = journal
        self._options = options
        self._clock = clock
        self._sinks = sinks
        self._cancel_wanted = cancel_wanted
        #: Returns the sinks for the run of a member, besides its journal.
        self._sinks_of = sinks_of
        self._budgets = {name: ClusterBudget(cluster.slots) for name, cluster in targets.clusters.items()}
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake_up = asyncio.Event()
        self._signals: list[int] = []
        self._crash: BaseException | None = None
        #: Whether the record cannot be written any more.
        self._lost = False
        self._cancelled = False
        self._cancelled_by: str | None = None
        #: Targets that a user has cancelled by themselves, and the user.
        self._cancelled_parts: dict[str, str] = {}

    def interrupt(self, signal: int) -> None:
        """Handle a signal as a run does: the first one ends the fleet run in order, the second one does not wait."""
        self._signals.append(signal)
        for run in list(self._runs.values()):
            run.interrupt(signal)
        self._wake_up.set()

    async def execute(self, first: ev.FleetEvent) -> int:
        """Work on the fleet run to its end, and return its exit code; `first` says that it begins, or is resumed.

        RecordError if `first` cannot be recorded. If the record is lost later, no further member starts, those that run
        end in order, because each has a journal of its own, and the exit code is not 0.
        """
        _raise_open_files()
        try:
            first = _as_recorded(first)
            self._journal.write(first)
            self._show(first)
            await self._until_over()
            code = exit_code(self.state)
            counts = {str(state): number for state, number in self.state.counts().items()}
            self._emit(ev.FleetFinished(at=self._clock.now(), exit_code=code, counts=counts))
        finally:
            await self._end_tasks()
        return exit_code(self.state)

    async def _until_over(self) -> None:
        while True:
            if self._crash is not None:
                raise self._crash
            now = self._clock.now()
            self._stop_if_asked(now)
            decision = decide(self.state, now)
            for event in decision.events:
                self._emit(event)
                if isinstance(event, ev.FleetStopping) and event.cancel:
                    self._cancel_members(event.reason)
            for member in decision.start:
                self._start(member)
            if decision.over:
                return
            if not decision.events and not decision.start:
                await self._sleep(decision.wake_at)
                for sink in self._sinks:
                    sink.tick(self._clock.now(), self.state, self._runs)

    def _stop_if_asked(self, now: float) -> None:
        if self._signals and (self.state.stopping is None or self.state.stopping.signal is None):
            self._emit(ev.FleetStopping(at=now, reason="interrupted", signal=self._signals[0]))
        request = self._cancel_wanted()
        if request is not None and request.where:
            self._cancel_part(request, now)
            request = None
        by = None if self._cancelled else self._cancelled_by or (request.by if request is not None else None)
        if by is not None:
            self._cancelled = True
            self._emit(ev.FleetStopping(at=now, reason=f"cancelled by {by}", cancel=True))
            self._cancel_members(by)

    def _cancel_part(self, request: FleetCancelRequest, now: float) -> None:
        """Cancel the selected targets: those that run end, and those that have not begun do not begin."""
        everyone = [member.target for member in self.state.members.values()]
        for target in select(everyone, parse_selectors(request.where)):
            if self.state.members[target.name].state is MemberState.RUNNING:
                self._cancelled_parts[target.name] = request.by
                if target.name in self._runs:
                    self._runs[target.name].cancel(request.by)
            elif self.state.members[target.name].state is MemberState.PENDING:
                self._emit(_never_begun(target, request.by, now))

    def _cancel_members(self, by: str) -> None:
        for run in list(self._runs.values()):
            run.cancel(by)

    def _start(self, member: Member) -> None:
        now = self._clock.now()
        started = _as_recorded(ev.MemberStarted(at=now, target=member.target.name, run=member.run, wave=member.wave))
        if not self._recorded(started):
            return
        self._show(started)
        task = asyncio.create_task(self._work(member))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _work(self, member: Member) -> None:
        """Run one member to its end, and record that."""
        name = member.target.name
        began = self._clock.now()
        slots = self._budgets[member.target.cluster].share()

        def on_run(run: Run) -> None:
            self._runs[name] = run
            for number in self._signals:
                run.interrupt(number)
            if name in self._cancelled_parts:
                run.cancel(self._cancelled_parts[name])

        try:
            try:
                plan, left_out = self._plan_of(member.target)
            except JobplanError as error:
                finished = of_error(name, error, self._clock.now(), began)
            else:
                finished = await run_member(
                    member,
                    plan,
                    left_out,
                    self._targets.clusters[member.target.cluster],
                    self._options,
                    clock=self._clock,
                    slots=slots,
                    on_run=on_run,
                    sinks=self._sinks_of(member),
                )
        finally:
            run = self._runs.pop(name, None)
            if run is not None and is_for_the_fleet(run.state.cancelled_by):
                self._cancelled_by = run.state.cancelled_by
            slots.wait(waiting=False)
            slots.use(0)
        self._emit(finished)
        self._wake_up.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crash = error
            self._wake_up.set()

    async def _sleep(self, wake_at: float | None) -> None:
        """Wait for the end of a member, a signal, `wake_at` or the next tick."""
        wait = TICK if wake_at is None else min(TICK, max(0.0, wake_at - self._clock.now()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake_up.wait()
        self._wake_up.clear()

    async def _end_tasks(self) -> None:
        """Cancel what is left after an error; workers go on, and a resume finds them."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_ABANDON)

    def _emit(self, event: ev.FleetEvent) -> None:
        event = _as_recorded(event)
        self._recorded(event)
        self._show(event)

    def _recorded(self, event: ev.FleetEvent) -> bool:
        """Record the event, and return whether it is recorded; the first failure stops the fleet run."""
        if self._lost:
            return False
        try:
            self._journal.write(event)
        except RecordError as error:
            self._lost = True
            self._show(ev.FleetStopping(at=event.at, reason=error.message.rstrip(".")))
            return False
        return True

    def _show(self, event: ev.FleetEvent) -> None:
        apply(self.state, event)
        for sink in self._sinks:
            sink.handle(event, self.state)


def _never_begun(target: Target, by: str, now: float) -> ev.MemberFinished:
    """Return the end of a member that a user has cancelled before it began."""
    why = ev.Failure(message=f"cancelled by {by} before it began")
    state, code = MemberState.INTERRUPTED, ExitCode.FAILED
    return ev.MemberFinished(at=now, target=target.name, state=state, exit_code=code, seconds=0.0, failures=(why,))


_Event = TypeVar("_Event", bound=ev.FleetEvent)


def _as_recorded(event: _Event) -> _Event:
    """Return the event with its moment as the record has it: what is shown now is what `show` reads."""
    return replace(event, at=round(event.at, 3))


def _raise_open_files() -> None:
    """Allow as many open files as the system lets this process have: each member needs some connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
