"""Progress for logs and pipes: one line for each change of state, and a heartbeat.

Rendering is pure: `lines_for` and `heartbeat` turn an event and the state into text; the sink only writes it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TextIO

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.state import HOLDING, RunState, StepRecord, StepState
from runner.engine.step_sql import place_in_plan
from runner.reports.messages import (
    SHOWN_WARNINGS,
    LongWaits,
    blocked_line,
    counted,
    failure_words,
    leftover_lines,
    leftover_words,
    sum_of,
    tag_words,
    unblocked_line,
    warning_texts,
)
from runner.reports.terminal_text import visible
from runner.reports.worker_activity import WorkerView, sight_words
from runner.sql.text_traits import nature_of

#: Seconds between two heartbeat lines.
HEARTBEAT = 60.0


class Verbosity(enum.IntEnum):
    """How much is said: only failures and the last line, changes of state, or notices and queueing too."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Plain:
    """A sink that writes progress lines to a stream, with the time in UTC.

    `look` gives what was last seen on the server, by step.

    A reader that has gone away ends the lines, not the run, and changes nothing about how the run ends.
    """

    def __init__(
        self,
        stream: TextIO,
        run_id: str,
        verbosity: Verbosity = Verbosity.NORMAL,
        look: Callable[[], Mapping[str, WorkerView]] = dict,
    ) -> None:
        self._stream = stream
        self._run_id = run_id
        self._verbosity = verbosity
        self._look = look
        self._long_waits = LongWaits()
        self._last_line = 0.0
        self._unread = False

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Write what the event means to a person."""
        for line in lines_for(event, state, self._verbosity, self._run_id):
            self._write(event.at, line)
        long = self._long_waits.take(event)
        if long and isinstance(event, ev.AttemptUnblocked) and self._verbosity is Verbosity.NORMAL:
            self._write(event.at, unblocked_line(event))

    def flush(self) -> None:
        """Do nothing: each line is written at once."""

    def tick(self, now: float, state: RunState) -> None:
        """Write a line for each wait for a lock that has become long, and a heartbeat after a while of silence."""
        for wait in self._long_waits.due(now):
            if self._verbosity > Verbosity.QUIET:
                self._write(now, blocked_line(wait, now))
        if self._verbosity > Verbosity.QUIET and now - self._last_line >= HEARTBEAT:
            self._write(now, heartbeat(state, now, self._look()))

    def close(self) -> None:
        """Leave the stream to its owner."""

    def _write(self, at: float, line: str) -> None:
        self._last_line = at
        if self._unread:
            return
        try:
            self._stream.write(f"{rfc3339(at)[11:19]}Z {visible(line)}\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._unread = True


def lines_for(event: ev.Event, state: RunState, verbosity: Verbosity, run_id: str) -> Iterator[str]:
    """Yield the lines that `event` is worth, without the time."""
    if verbosity >= Verbosity.NORMAL:
        yield from _progress(event, state, run_id)
    elif isinstance(event, ev.StepFinished) and event.state in _ALARMING:
        yield from _finished_lines(event, state, run_id)
    if verbosity >= Verbosity.VERBOSE:
        yield from _detail(event, state)


_ALARMING = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})


def _progress(event: ev.Event, state: RunState, run_id: str) -> Iterator[str]:
    if isinstance(event, ev.StepEvent):
        yield from _step_progress(event, state, run_id)
        return
    match event:
        case ev.RunStarted():
            yield (
                f"run {run_id} of {event.plan}: {counted(event.steps, 'step')}, {counted(event.slots, 'slot')}, on "
                f"{event.database} (PostgreSQL {event.server.partition(' ')[0]}, pg_background {event.extension})"
            )
        case ev.RunResumed():
            yield f"run {run_id} goes on: {_taken_up(event, state)}"
            yield from (f"{found.step}: {_settled(found, state.records.get(found.step))}" for found in event.settled)
            yield from (f"left alone: {one}" for one in event.foreign)
        case _:
            yield from _of_the_server(event)
            yield from _no_more(event, state)


def _no_more(event: ev.Event, state: RunState) -> Iterator[str]:
    """Say why nothing more is started."""
    match event:
        case ev.RunInterrupted():
            yield "interrupted: nothing more is started; what runs is being looked after (again to stop waiting)"
        case ev.RunCancelled():
            yield f"cancelled by {event.by}: nothing more is started, and what runs is stopped"
        case ev.RunTimedOut():
            yield "run_timeout is over: nothing more is started, and what runs is stopped"
        case ev.RecordLost():
            yield f"{event.message}: nothing more is started, and what runs is looked after"
        case ev.RunDraining():
            yield f"{event.step} did not succeed: nothing more is started (on_failure: {state.plan.on_failure})"
        case _:
            pass


def _of_the_server(event: ev.Event) -> Iterator[str]:
    match event:
        case ev.GroupWaiting():
            yield f"waiting: {event.message}"
        case ev.GroupLost():
            yield "the connection was lost and another run took the concurrency group: nothing more is started"
        case ev.LedgerLost():
            yield f"{event.message}; the run goes on"
        case ev.CapacityShort():
            yield f"slower than planned: {event.message}"
        case ev.CapacityRestored():
            yield "the server gives all the workers again that are asked for"
        case _:
            pass


def _taken_up(event: ev.RunResumed, state: RunState) -> str:
    done = sum(1 for record in state.records.values() if record.final and record.instances is None)
    rest = len(state.records) - sum(1 for record in state.records.values() if record.instances is not None) - done
    text = f"{counted(done, 'step')} done, {rest - len(event.adopted)} to run"
    return f"{text}; still running: {_some([found.step for found in event.adopted])}" if event.adopted else text


def _settled(found: ev.Settled, record: StepRecord | None) -> str:
    """Say what was found out of a worker that nobody had seen the end of, and if that changes nothing."""
    if found.by == "repeat":
        return "its last worker has committed an iteration (says ledger); it goes on from the first"
    if found.outcome is ev.Outcome.UNKNOWN:
        return "nothing proves what its last worker did; it is idempotent and runs again"
    done = "has done its work" if found.outcome is ev.Outcome.SUCCEEDED else "has not done its work; it runs again"
    moot = found.outcome is ev.Outcome.SUCCEEDED and record is not None and not record.final
    again = "; it runs again all the same: finally comes once more after the steps that do" if moot else ""
    return f"its last worker {done} (says {found.by}){again}"


def _step_progress(event: ev.StepEvent, state: RunState, run_id: str) -> Iterator[str]:
    match event:
        case ev.AttemptRunning():
            record = state.records[event.step]
            so_far = f"; {sum_of(record)} so far" if record.iteration > 1 else ""
            yield from _started(record, so_far)
        case ev.AttemptFinished() if _unseen(state.records[event.step]) and _had_worker(event):
            yield from _started(state.records[event.step])  # it ended before it was seen on the server
        case ev.AttemptNotice() if event.notice.severity == ev.WARNING:
            yield from _warning(event, state.records[event.step])
        case ev.AttemptCancelRequested():
            goes_on = nature_of(state.records[event.step].step.sql.text).catches_cancel
            may_not = "; its SQL catches query_canceled in a loop, so it may not" if goes_on else ""
            yield f"{event.step}: asked to stop ({event.reason.replace('_', ' ')}){may_not}"
        case ev.StepCancelRequested():
            yield f"{event.step}: {event.by} asks for it to be stopped, and it is not begun any more"
        case ev.AttemptLost():
            yield f"{event.step}: its session was lost ({event.message}); following the worker by its pid"
        case ev.AttemptUnstoppable():
            yield (
                f"{event.step}: cannot be stopped: its worker (pid {event.worker.pid}) is still running after "
                f"{format_duration(event.seconds)} of requests to stop; the run does not wait for it"
            )
        case ev.StepRetrying():
            yield _retrying(event, state)
        case ev.StepSkipped() if event.reason is not ev.SkipReason.NOT_SELECTED:
            why = f": {event.because}" if event.because else ""
            yield f"{event.step}: skipped ({event.reason.replace('_', ' ')}{why})"
        case ev.StepExpanded():
            yield f"{event.step}: {counted(len(event.items), 'item')}"
        case ev.StepFinished():
            yield from _finished_lines(event, state, run_id)
        case _:
            pass


def _started(record: StepRecord, so_far: str = "") -> Iterator[str]:
    """Say that there is a worker: it was seen, or it has ended. A launch that is only requested may be refused."""
    limit = "no timeout" if record.timeout is None else f"timeout {format_duration(record.timeout)}"
    if record.announced:
        yield f"{record.key}: started{_again(record)} ({limit}{so_far})"


def _unseen(record: StepRecord) -> bool:
    """Say whether nothing has shown yet that there is a worker: neither the server's list nor a WARNING."""
    return record.worker is None and not record.warned


def _had_worker(event: ev.AttemptFinished) -> bool:
    return event.started_at is not None or event.outcome is ev.Outcome.SUCCEEDED


def _warning(event: ev.AttemptNotice, record: StepRecord) -> Iterator[str]:
    if record.worker is None and record.warned == 1:  # it ended before it was seen on the server
        yield from _started(record)
    if record.warned <= SHOWN_WARNINGS:
        yield from (f"{event.step}: WARNING: {text}" for text in warning_texts([event.notice]))
    elif record.warned == SHOWN_WARNINGS + 1:
        yield f"{event.step}: WARNING: … and more, which its record has"


def _detail(event: ev.Event, state: RunState) -> Iterator[str]:
    if isinstance(event, ev.AttemptRunning) and not state.records[event.step].announced:
        return
    match event:
        case ev.RunStarted() if event.ledger_problem is not None:
            yield f"no ledger: {event.ledger_problem}"
        case ev.RunStarted() if event.ledger is not None:
            yield f"ledger: schema {event.ledger}"
        case ev.StepQueued():
            yield f"{event.step}: queued ({event.reason})"
        case ev.StepRepeating() if state.records[event.step].announced:
            yield f"{event.step}: iteration {event.next_iteration} follows"
        case ev.AttemptRunning():
            yield f"{event.step}: running (pid {event.worker.pid})"
        case ev.AttemptBlocked():
            yield blocked_line(event, event.at)
        case ev.AttemptUnblocked():
            yield unblocked_line(event)
        case ev.AttemptNotice() if event.notice.severity != ev.WARNING:
            yield from (f"{event.step}: {event.notice.severity}: {line}" for line in event.notice.message.splitlines())
        case ev.AttemptFinished() if event.notices_dropped:
            yield f"{event.step}: {event.notices_dropped} more notices were dropped"
        case _:
            pass


def _again(record: StepRecord) -> str:
    """Say which iteration and which attempt in it this is, unless it is the first and only one."""
    iteration = f", iteration {record.iteration}" if record.iteration > 1 else ""
    return iteration + (f", attempt {record.tries}" if record.tries > 1 else "")


def _retrying(event: ev.StepRetrying, state: RunState) -> str:
    delay = format_duration(max(0.0, event.until - event.at))
    if event.error is not None:
        return f"{event.step}: not launched ({error_text(event.error)}); its conditions are evaluated again in {delay}"
    last = state.records[event.step].last
    words = f"{event.step}: another attempt in {delay} after: {error_text(last.error if last else None)}"
    left = leftover_words(last.leftovers) if last is not None else ""
    return f"{words}; left behind so far: {left}" if left else words


def _by_whom(record: StepRecord, state: RunState) -> str | None:
    """Return who asked through the server for a step's end: for one with instances, for that of any of them."""
    if record.instances is None:
        return record.last.cancelled_by if record.last is not None else None
    names = dict.fromkeys(
        one.cancelled_by or _by_whom(one, state)
        for one in (state.records[key] for key in record.instances)
        if one.state is StepState.CANCELLED
    )
    return ", ".join(name for name in names if name is not None) or None


def _is_by_somebody_else(record: StepRecord, state: RunState) -> bool:
    if record.instances is None:
        return record.cancel_reason is None
    ended = (state.records[key] for key in record.instances)
    return any(one.state is StepState.CANCELLED and one.cancel_reason is None for one in ended)


def _finished_lines(event: ev.StepFinished, state: RunState, run_id: str) -> Iterator[str]:
    yield _finished(event, state, run_id)
    last = state.records[event.step].last
    if last is not None:
        yield from (f"{event.step}: {line}" for line in leftover_lines(last.leftovers))


def _finished(event: ev.StepFinished, state: RunState, run_id: str) -> str:
    record = state.records[event.step]
    summed = sum_of(record)
    words = f"{event.step}: {event.state.replace('_', ' ')}"
    if record.took is not None:
        word = "after" if event.state == StepState.DETACHED else "in"
        again = "" if summed else _again(record)
        words += f" {word} {format_duration(record.took)}{again}"
        words += f" ({summed})" if summed else ""
    last_stopped = record.last is not None and record.last.outcome in (ev.Outcome.CANCELLED, ev.Outcome.UNKNOWN)
    if event.state == StepState.CANCELLED and record.cancelled_by is not None and not last_stopped:
        return f"{words}: {error_text(event.error)}"
    by = _by_whom(record, state)
    if by is not None:
        words += f" by {by}" if event.state == StepState.CANCELLED else f", {by} having asked for its end"
    elif event.state == StepState.CANCELLED and _is_by_somebody_else(record, state):
        words += " by somebody else on the server"
    if event.error is not None:
        place = place_in_plan(event.error, record, state, run_id)
        why = failure_words(error_text(event.error), committed=record.committed)
        return f"{words}: {why}{f' at {place}' if place is not None and place.file else ''}"
    last = record.last
    if last is not None and last.outcome is ev.Outcome.SUCCEEDED and last.command_tag and not summed:
        words += f" ({tag_words(last.command_tag, last.row_count)})"
    if last is not None and last.result is not None and last.result.problem is not None:
        words += f"; its rows cannot be read: {last.result.problem}"
    if last is not None and last.result is not None and last.result.cut:
        words += f"; {last.result.cut:,} bytes of its rows were left out"
    if last is not None and last.outcome is ev.Outcome.DETACHED and last.worker is not None:
        since = f"{last.worker.backend_start.partition('.')[0].rstrip('Z')}Z"  # microseconds are in the events
        limit = f", ends by {rfc3339(last.deadline)[:19]}Z" if last.deadline is not None else ""
        words += f" (pid {last.worker.pid} since {since}{limit})"
    return f"{words}: {event.because}" if event.because else words


def error_text(error: ev.ErrorDetails | None) -> str:
    """Write an error on one line: message, SQLSTATE, detail and hint."""
    if error is None:
        return "no error is known"
    parts = [error.message if error.sqlstate is None else f"{error.message} (SQLSTATE {error.sqlstate})"]
    parts += [part for part in (error.detail, error.hint) if part]
    return " ".join(" ".join(parts).split())


def heartbeat(state: RunState, now: float, seen: Mapping[str, WorkerView] = MappingProxyType({})) -> str:
    """Say what runs, for how long and how far, and what waits for what."""
    running = [
        f"{record.key} for {format_duration(now - (record.launched_at or now))}{_seen(seen.get(record.key))}"
        for record in state.records.values()
        if record.state in HOLDING
    ]
    waiting = [
        f"{record.key} ({record.queued_because})"
        for record in state.records.values()
        if record.state is StepState.QUEUED
    ]
    return f"running: {_some(running)}; queued: {_some(waiting)}"


def _seen(sight: WorkerView | None) -> str:
    told = sight_words(sight) if sight is not None else ""
    return f" ({told})" if told else ""


def _some(items: list[str], limit: int = 8) -> str:
    if not items:
        return "nothing"
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
