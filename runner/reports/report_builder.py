"""Builds the report of a run from its plan and its events.

A pure fold: it applies the events to a state of its own, and keeps what that state does not: every attempt before the
last one, and every wait. The scheduler only counts slots; a diagram needs a lane for each slot, so each attempt gets
the lowest free lanes, adjacent ones if possible.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.slot_queue import why_queued
from runner.engine.state import SLOTS, RunState, StepRecord, initial_state
from runner.engine.step_sql import launched_sql, named_values
from runner.plan.graph import longest_path
from runner.plan.model import OnFinish, Plan, Value
from runner.plan.window import window_words
from runner.reports.messages import Verbosity, error_text, event_lines
from runner.reports.run_end import failures_of, is_resumable, words_of_end
from runner.reports.run_report import (
    AttemptReport,
    HoldReport,
    LockWaitReport,
    Message,
    RunReport,
    StepReport,
    Wait,
    Waiting,
)
from runner.reports.step_counts import fan_outs, run_counts, with_instances
from runner.sql.placeholders import plain_text
from runner.structs import Struct, field, replace

_K = TypeVar("_K", bound=Hashable)


def assign_lanes(spans: Iterable[tuple[float, float, int, _K]]) -> dict[_K, tuple[int, ...]]:
    """Return the lanes, from 0, of each span (begin, end, how many lanes, key); a span frees its lanes at its end."""
    taken: set[int] = set()
    ends: list[tuple[float, tuple[int, ...]]] = []
    lanes: dict[_K, tuple[int, ...]] = {}
    for begin, end, width, key in sorted(spans, key=lambda span: span[0]):
        while ends and ends[0][0] <= begin:
            taken.difference_update(heapq.heappop(ends)[1])
        lanes[key] = _free(taken, width)
        taken.update(lanes[key])
        heapq.heappush(ends, (end, lanes[key]))
    return lanes


def _free(taken: set[int], width: int) -> tuple[int, ...]:
    """Return adjacent lanes below the highest lane in use if there are any, else the lowest free lanes."""
    ceiling = max(taken, default=-1) + 1
    free = [lane for lane in range(ceiling + width) if lane not in taken]
    for first in range(len(free) - width + 1):
        if free[first + width - 1] - free[first] == width - 1 and free[first + width - 1] < ceiling:
            return tuple(free[first : first + width])
    return tuple(free[:width])


def run_report(plan: Plan, run_id: str, events: Iterable[ev.Event]) -> RunReport:
    """Return the report, for the latest version of the plan. ValueError if the first event is not the run's start.

    The plan can have changed when the run was resumed: events of steps that it no longer has are left out.
    """
    state = initial_state(plan)
    builder = _Builder(state=state, run_id=run_id)
    for event in events:
        if isinstance(event, ev.StepEvent) and event.step not in state.records:
            continue
        known = _of_known_steps(event, state)
        apply(state, known)
        builder.take(known)
    return builder.report()


def _of_known_steps(event: ev.Event, state: RunState) -> ev.Event:
    if not isinstance(event, ev.AttemptLaunching | ev.AttemptPreparing) or state.records.keys() >= set(event.overtook):
        return event
    return replace(event, overtook=tuple(key for key in event.overtook if key in state.records))


class _Step(Struct):
    """What is known so far about one step."""

    attempts: list[AttemptReport] = field(default_factory=list)
    notices: list[ev.Notice] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    open: Wait | None = None
    #: The lock wait that has not ended.
    blocked: LockWaitReport | None = None
    error: ev.ErrorDetails | None = None
    reason: ev.FailureReason | None = None
    file: str = ""
    line: int | None = None


class _Builder(Struct):
    state: RunState
    run_id: str
    started: ev.RunStarted | None = None
    last_at: float = 0.0
    slots_used: int = 0
    steps: dict[str, _Step] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    #: Spans of holds, and those of them that have not ended, by name.
    holds: list[HoldReport] = field(default_factory=list)
    open_holds: dict[str, int] = field(default_factory=dict)

    def take(self, event: ev.Event) -> None:
        if isinstance(event, ev.RunResumed) and event.at > self.last_at:
            self.gaps.append((_ms(self.last_at), _ms(event.at)))
        self.last_at = max(self.last_at, event.at)
        self.slots_used = max(self.slots_used, self.state.used[SLOTS])
        if isinstance(event, ev.StepEvent):
            step = self.steps.setdefault(event.step, _Step())
            _keep_attempt(step, self.state.records[event.step], event)
            _keep_wait(step, self.state.records[event.step], event)
            if isinstance(event, ev.StepFinished):
                step.error, step.file, step.line = event.error, event.file or "", event.line
                step.reason = event.reason
        elif isinstance(event, ev.RunStarted):
            self.started = event
        else:
            if isinstance(event, ev.RunResumed):
                self._resume(event)
            if isinstance(event, ev.HoldEvent):
                self._take_hold(event)
            lines = event_lines(event, self.state, Verbosity.NORMAL, self.run_id)
            self.messages += (Message(at=_ms(event.at), text=line) for line in lines)

    def _take_hold(self, event: ev.HoldEvent) -> None:
        """Keep the span of a hold, and what the waiting steps wait for from now on."""
        number = self.open_holds.get(event.hold)
        if isinstance(event, ev.HoldBegan):
            span = HoldReport(
                name=event.hold, since=_ms(event.since), value=event.value, failed=event.error is not None
            )
            if number is None:
                self.open_holds[event.hold] = len(self.holds)
                self.holds.append(span)
            else:
                self.holds[number] = span
        elif number is not None:
            self.holds[self.open_holds.pop(event.hold)] = replace(self.holds[number], until=_ms(event.at))
        for key, step in self.steps.items():
            if step.open is not None and step.open.kind in (Waiting.QUEUED, Waiting.HELD):
                record = self.state.records.get(key)
                held = record is not None and record.held_since is not None
                kind = Waiting.HELD if held else Waiting.QUEUED
                if kind is not step.open.kind:
                    why = why_queued(self.state, record) if record is not None else ""
                    at = _ms(event.at)
                    _wait_now(step, Wait(kind=kind, since=at, until=at, why=why), at)

    def _resume(self, event: ev.RunResumed) -> None:
        """End what the previous runner left open, except running workers; drop errors of steps that run again."""
        self.holds = [replace(one, until=_ms(event.at)) if one.until is None else one for one in self.holds]
        self.open_holds.clear()
        adopted = {found.step for found in event.adopted}
        outcomes = {found.step: found.outcome for found in event.settled}
        for key, step in self.steps.items():
            record = self.state.records.get(key)
            step.open = None
            if record is None or not record.final:
                step.error = step.reason = None
            last = step.attempts[-1] if step.attempts else None
            if key not in adopted:
                _end_lock_wait(step, event.at)
                last = step.attempts[-1] if step.attempts else None
            if last is not None and key not in adopted and (last.outcome is None or key in outcomes):
                outcome = outcomes.get(key, ev.Outcome.CANCELLED if last.preparing else ev.Outcome.UNKNOWN)
                ended = last.ended_at if last.outcome is not None else _ms(event.at)
                step.attempts[-1] = replace(last, outcome=outcome, ended_at=ended, notices=tuple(step.notices))
        if self.started is not None:
            self.started = replace(
                self.started, jobplan=event.jobplan, file=event.file, sha256=event.sha256, host=event.host
            )

    def report(self) -> RunReport:
        started = self.started
        if started is None:
            raise ValueError("the events of a run begin with run_started")
        plan, finished = self.state.plan, self.state.finished
        exit_code = None if finished is None else finished.exit_code
        values = named_values(plan, self.run_id)
        roots = (self.state.records[step.id] for step in plan.all_steps)
        in_order = (record for root in roots for record in with_instances(self.state, root))
        steps = self._in_lanes(tuple(self._step(record, values) for record in in_order))
        spans = _spans(steps)
        return RunReport(
            run=self.run_id,
            plan=plan.name,
            description=plan.description,
            owner=plan.owner,
            started=replace(started, at=_ms(started.at)),
            slots=plan.budget.slots,
            slots_used=self.slots_used,
            parameters={name: plain_text(value) for name, value in plan.values.items()},
            started_at=_ms(started.at),
            finished_at=_ms(self.last_at),
            exit_code=exit_code,
            end=words_of_end(self.state, exit_code),
            took=None if finished is None else finished.duration,
            window="" if plan.window is None else window_words(plan.window),
            steps=steps,
            spans=spans,
            critical=_critical(plan, spans),
            messages=tuple(self.messages),
            holds=tuple(self.holds),
            failures={one.step: one.message for one in failures_of(self.state, self.run_id)},
            gaps=tuple(self.gaps),
            resumable=is_resumable(self.state),
            fan_outs=fan_outs(self.state),
            tally=run_counts(self.state),
        )

    def _step(self, record: StepRecord, values: Mapping[str, Value]) -> StepReport:
        found, step = self.steps.get(record.key, _Step()), record.step
        _end_lock_wait(found, self.last_at)
        attempts = tuple(self._ended(attempt, found) for attempt in found.attempts)
        waits = found.waits if found.open is None else [*found.waits, replace(found.open, until=_ms(self.last_at))]
        return StepReport(
            key=record.key,
            state=record.state,
            sql=launched_sql(self.state, record, values).text,
            description=step.description,
            tags=tuple(sorted(step.tags)),
            needs=step.needs,
            parent=record.parent,
            instances=len(record.instances or ()),
            in_finally=record.in_finally,
            detaches=step.on_finish is OnFinish.DETACH,
            slots=step.slots,
            pools=tuple(step.pools),
            timeout=step.timeout,
            ready_at=_ms(record.ready_at),
            started_at=_ms(record.started_at),
            ended_at=_ms(record.ended_at),
            seconds=_took(record),
            skip_reason=record.skip_reason,
            because=record.skip.because if record.skip else "",
            error=found.error,
            reason=found.reason,
            file=found.file,
            line=found.line,
            committed=record.committed,
            iterations=record.iterations,
            rows=record.rows,
            tag=record.tag,
            attempts=attempts,
            waits=tuple(waits),
        )

    def _ended(self, attempt: AttemptReport, step: _Step) -> AttemptReport:
        if attempt.outcome is not None:
            return attempt
        return replace(attempt, ended_at=_ms(self.last_at), notices=tuple(step.notices))

    def _in_lanes(self, steps: tuple[StepReport, ...]) -> tuple[StepReport, ...]:
        spans = [
            (one.launched_at, one.ended_at, step.slots, (step.key, one.number))
            for step in steps
            for one in step.attempts
        ]
        lanes = assign_lanes(spans)
        return tuple(
            replace(step, attempts=tuple(replace(one, lanes=lanes[step.key, one.number]) for one in step.attempts))
            if step.attempts
            else step
            for step in steps
        )


def _keep_attempt(step: _Step, record: StepRecord, event: ev.StepEvent) -> None:
    match event:
        case ev.AttemptPreparing() | ev.AttemptLaunching():
            _keep_launch(step, record, event)
        case ev.AttemptDeferred():
            step.attempts.pop()
        case ev.StepSkipped() if step.attempts and step.attempts[-1].outcome is None:
            step.attempts.pop()
        case ev.AttemptNotice():
            step.notices.append(event.notice)
        case ev.AttemptRunning() | ev.AttemptUnstoppable():
            step.attempts[-1] = replace(step.attempts[-1], worker=event.worker)
        case ev.AttemptCancelRequested():
            step.attempts[-1] = replace(step.attempts[-1], cancel_reason=event.reason)
        case ev.AttemptBlocking() if step.attempts:
            step.attempts[-1] = replace(step.attempts[-1], blocked=event.others)
        case ev.AttemptLost():
            step.attempts[-1] = replace(step.attempts[-1], lost=event.message)
        case ev.AttemptBlocked() | ev.AttemptUnblocked():
            _keep_lock_wait(step, event)
        case ev.AttemptRemoving():
            step.attempts[-1] = replace(step.attempts[-1], outcome=event.outcome, error=event.error)
        case ev.AttemptFinished():
            _end_lock_wait(step, event.at)
            step.attempts[-1] = _finished(step.attempts[-1], event, step.notices)
        case _:
            pass


def _keep_launch(step: _Step, record: StepRecord, event: ev.AttemptPreparing | ev.AttemptLaunching) -> None:
    if step.attempts and isinstance(event, ev.AttemptLaunching) and _is_prepared(step.attempts[-1], event):
        step.attempts[-1] = replace(step.attempts[-1], timeout=event.timeout, worker=None, preparing=False)
        return
    at = _ms(event.at)
    step.notices = []
    step.attempts.append(
        AttemptReport(
            number=event.attempt,
            iteration=record.iteration,
            launched_at=at,
            ended_at=at,
            timeout=event.timeout,
            preparing=isinstance(event, ev.AttemptPreparing),
        )
    )


def _keep_lock_wait(step: _Step, event: ev.AttemptBlocked | ev.AttemptUnblocked) -> None:
    if isinstance(event, ev.AttemptUnblocked):
        if step.blocked is not None:
            _end_lock_wait(step, step.blocked.since + event.seconds)
        return
    since = _ms(event.waiting_since if step.blocked is None else step.blocked.since)
    step.blocked = LockWaitReport(
        since=since,
        until=since,
        mode=event.mode,
        lock=event.lock,
        relation=event.relation,
        by=event.by,
    )


def _is_prepared(attempt: AttemptReport, event: ev.AttemptLaunching) -> bool:
    """Return whether the attempt began with a worker that prepared it."""
    return attempt.number == event.attempt and attempt.outcome is None


def _end_lock_wait(step: _Step, at: float) -> None:
    if step.blocked is not None and step.attempts:
        wait = replace(step.blocked, until=max(step.blocked.since, _ms(at)))
        step.attempts[-1] = replace(step.attempts[-1], lock_waits=(*step.attempts[-1].lock_waits, wait))
    step.blocked = None


def _finished(attempt: AttemptReport, event: ev.AttemptFinished, notices: list[ev.Notice]) -> AttemptReport:
    return replace(
        attempt,
        ended_at=_ms(event.at),
        outcome=event.outcome,
        error=event.error,
        command_tag=event.command_tag,
        row_count=event.row_count,
        server_started_at=_ms(event.started_at),
        server_finished_at=_ms(event.finished_at),
        worker=event.worker or attempt.worker,
        deadline=_ms(event.deadline),
        notices=tuple(notices),
        notices_dropped=event.notices_dropped,
        warnings=event.warnings or 0,
        leftovers=event.leftovers,
        removed=event.removed,
        preparing=False,
        result=event.result,
        reason=event.reason,
    )


#: Events that do not end a wait of the step; any other event of the step does.
_INFORM = (
    ev.AttemptNotice,
    ev.AttemptRunning,
    ev.UnfinishedNoted,
    ev.AttemptRemoving,
    ev.AttemptBlocked,
    ev.AttemptUnblocked,
    ev.AttemptBlocking,
    ev.AttemptCancelRequested,
    ev.AttemptDetachRequested,
    ev.AttemptUnstoppable,
    ev.AttemptLost,
)


def _keep_wait(step: _Step, record: StepRecord, event: ev.StepEvent) -> None:
    if isinstance(event, _INFORM):
        return
    at = _ms(event.at)
    if isinstance(event, ev.StepQueued) and step.open is not None and step.open.kind in (Waiting.QUEUED, Waiting.HELD):
        step.open = replace(step.open, why=event.reason)
        return
    _wait_now(step, _wait_after(event, record, at), at)


def _wait_now(step: _Step, wait: Wait | None, at: float) -> None:
    """End the open wait of a step, and begin another one, if any."""
    if step.open is not None and at > step.open.since:
        step.waits.append(replace(step.open, until=at))
    step.open = wait


def _wait_after(event: ev.StepEvent, record: StepRecord, at: float) -> Wait | None:
    kind, why = None, ""
    queued = Waiting.QUEUED if record.held_since is None else Waiting.HELD
    match event:
        case ev.StepReady():
            kind = queued
        case ev.StepQueued():
            kind, why = queued, event.reason
        case ev.AttemptDeferred():
            kind, why = queued, event.message
        case ev.StepChecking():
            kind, why = Waiting.CHECKING, str(event.phase)
        case ev.StepRetrying():
            kind, why = Waiting.RETRYING, error_text(event.error or (record.last.error if record.last else None))
        case ev.StepRepeating():
            kind = Waiting.PAUSING
        case _:
            pass
    return None if kind is None else Wait(kind=kind, since=at, until=at, why=why)


def _spans(steps: tuple[StepReport, ...]) -> dict[str, float]:
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    roots: dict[str, str] = {}
    for step in steps:
        roots[step.key] = roots[step.parent] if step.parent is not None else step.key
    for step in steps:
        key = roots[step.key]
        if step.started_at is not None:
            starts[key] = min(starts.get(key, step.started_at), step.started_at)
        if step.ended_at is not None:
            ends[key] = max(ends.get(key, step.ended_at), step.ended_at)
    return {step.key: _span(step, starts, ends) for step in steps if step.parent is None}


def _span(step: StepReport, starts: Mapping[str, float], ends: Mapping[str, float]) -> float:
    if not step.instances:
        return step.seconds
    return round(ends[step.key] - starts[step.key], 3) if step.key in starts and step.key in ends else 0.0


def _critical(plan: Plan, spans: Mapping[str, float]) -> tuple[str, ...]:
    return longest_path({step.id: tuple(need.step for need in step.needs) for step in plan.steps}, spans)[1]


def _took(record: StepRecord) -> float:
    """Return how long the step took, from times in milliseconds as in the journal: `show` and `run` report the same."""
    started, ended = record.started_at, record.ended_at
    if record.took is None or started is None or ended is None or ended < started:
        return round(record.took or 0.0, 3)
    return round(record.took_before + float(_ms(ended)) - float(_ms(started)), 3)


def _ms(seconds: Any) -> Any:  # noqa: ANN401 - float to float and None to None
    """Round down to whole milliseconds, as `rfc3339` does."""
    return None if seconds is None else math.floor(round(seconds * 1e6) / 1000) / 1000
