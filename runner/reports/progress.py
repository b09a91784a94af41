"""Progress for logs and pipes: one line for each change of state, and a heartbeat.

Of a step with many instances only those have lines that do not go as planned; the others are counted, in a line at most
every `FOLDED_EVERY` seconds.

The words come from `runner.reports.messages`; this sink adds the time and writes them. `heartbeat` is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TextIO

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.ports import Sink
from runner.engine.slot_queue import why_queued
from runner.engine.state import BAD, HOLDING, RunState, StepRecord, StepState
from runner.engine.window import window_status
from runner.phrases import some
from runner.reports.messages import Verbosity, event_lines, iteration_words
from runner.reports.step_counts import fan_out, fan_outs, is_folded, step_of_plan
from runner.reports.terminal_text import visible
from runner.reports.waits import LongWaits, blocked_line, hold_words, unblocked_line
from runner.reports.worker_activity import WorkerView, view_words

#: Seconds between two heartbeat lines.
HEARTBEAT = 60.0
#: Seconds between two lines with the counts of a folded step.
FOLDED_EVERY = 10.0


class Plain(Sink):
    """A sink that writes progress lines to a stream, which it leaves open, with the time in UTC.

    `look` returns the last observation of each step's worker. If the reader of the stream has closed it, the lines end
    and the run continues.
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
        self._closed = False
        #: When the counts of each folded step were written last, and the steps whose counts have changed since.
        self._folded_at: dict[str, float] = {}
        self._changed: set[str] = set()

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Write the lines of the event."""
        if self._verbosity is Verbosity.NORMAL and isinstance(event, ev.StepEvent):
            folded = _folded_step(event, state)
            if folded is not None:
                self._fold(event.at, folded, state)
                return
        for line in event_lines(event, state, self._verbosity, self._run_id):
            self._write(event.at, line)
        long = self._long_waits.take(event)
        if long and isinstance(event, ev.AttemptUnblocked) and self._verbosity is Verbosity.NORMAL:
            self._write(event.at, unblocked_line(event))

    def _fold(self, at: float, step: str, state: RunState) -> None:
        """Write the counts of a folded step, but not more often than every `FOLDED_EVERY` seconds."""
        self._changed.add(step)
        if at - self._folded_at.setdefault(step, at) >= FOLDED_EVERY:
            self._write_counts(at, step, state)

    def _write_counts(self, at: float, step: str, state: RunState) -> None:
        self._folded_at[step] = at
        self._changed.discard(step)
        record = state.records[step]
        if record.instances and not record.final:  # the line about its end has the counts
            self._write(at, f"{step}: {fan_out(state, record).words()}")

    def tick(self, now: float, state: RunState) -> None:
        """Write a line for each long lock wait, and a heartbeat after `HEARTBEAT` seconds without a line."""
        for wait in self._long_waits.due(now):
            if self._verbosity > Verbosity.QUIET:
                self._write(now, blocked_line(wait, now))
        for step in [one for one in self._changed if now - self._folded_at[one] >= FOLDED_EVERY]:
            self._write_counts(now, step, state)
        if self._verbosity > Verbosity.QUIET and now - self._last_line >= HEARTBEAT:
            self._write(now, heartbeat(state, now, self._look()))

    def _write(self, at: float, line: str) -> None:
        self._send(at, f"{rfc3339(at)[11:19]}Z {visible(line)}\n")

    def _send(self, at: float, text: str) -> None:
        self._last_line = at
        if self._closed:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._closed = True


#: Events of a step that does not go as planned, and its end.
_NOTED = (
    ev.StepFinished,
    ev.StepRetrying,
    ev.StepSplit,
    ev.AttemptRemoving,
    ev.AttemptCancelRequested,
    ev.AttemptUnstoppable,
    ev.AttemptLost,
    ev.StepQueueTimedOut,
)


def goes_as_planned(event: ev.StepEvent, state: RunState) -> bool:
    """Return whether nothing about the step is unusual: no failure, no further attempt, no WARNING."""
    if isinstance(event, ev.AttemptNotice):
        return event.notice.severity != ev.WARNING
    if isinstance(event, ev.StepFinished) and event.state not in (*BAD, StepState.FAILED_ALLOWED):
        last = state.records[event.step].last
        return last is None or not last.leftovers
    return not isinstance(event, _NOTED)


def _is_listed(record: StepRecord, state: RunState) -> bool:
    """Return whether lines name the record: a step of the plan, or an instance of a step with few of them."""
    return record.parent is None or not is_folded(step_of_plan(state, record))


def heartbeat(state: RunState, now: float, seen: Mapping[str, WorkerView] = MappingProxyType({})) -> str:
    """Return which steps run, for how long and with what progress, and which are queued for what."""
    running = [
        f"{record.key} for {format_duration(now - (record.launched_at or now))}"
        f"{_observed(record, now, seen.get(record.key))}"
        for record in state.records.values()
        if record.state in HOLDING
    ]
    waiting = [
        f"{record.key} ({record.queued_because if record.held_since is None else why_queued(state, record)})"
        for record in state.records.values()
        if record.state is StepState.QUEUED and _is_listed(record, state)
    ]
    folded = [
        f"; {found.key} {found.words()}"
        for found in fan_outs(state).values()
        if found.folded and not state.records[found.key].final
    ]
    held = list(hold_words(state, now))
    on = f"; held by {some(held)}" if held else ""
    window = window_status(state, now)
    return f"running: {some(running)}; queued: {some(waiting)}{''.join(folded)}{on}{f'; {window}' if window else ''}"


def _folded_step(event: ev.StepEvent, state: RunState) -> str | None:
    """Return the folded step that an event belongs to; None if the event has lines of its own."""
    record = state.records.get(event.step)
    if record is None or _is_listed(record, state) or not goes_as_planned(event, state):
        return None
    return step_of_plan(state, record).key


def _observed(record: StepRecord, now: float, view: WorkerView | None) -> str:
    parts = (iteration_words(record, now), view_words(view) if view is not None else "")
    words = "; ".join(part for part in parts if part)
    return f" ({words})" if words else ""
