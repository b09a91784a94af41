"""A run as JSON Lines: its events (`--report jsonl`), and progress for programs (`--format json`).

`schemas/events-v1.schema.json` describes the events. A progress line has the event's fields and the text of the plain
log; `at`, `level`, `message`, `event` and `run` are in every line. All names are stable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.event_json import to_json, to_line
from runner.engine.events import Event
from runner.engine.ports import Sink
from runner.engine.state import BAD, RunState, StepState
from runner.errors import RecordError
from runner.exit_codes import ExitCode
from runner.reports.destinations import Destination
from runner.reports.messages import Verbosity, event_lines
from runner.reports.progress import HEARTBEAT, Plain, heartbeat
from runner.reports.terminal_text import visible_json
from runner.reports.waits import blocked_line, unblocked_line
from runner.structs import replace


class JsonLines(Sink):
    """A sink that writes each event when it happens. `broken`: the report lacks events.

    It is never flushed: no run is resumed from a report, so the operating system may write it later.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self.broken = False
        self._run_id = run_id
        try:
            self._place = Destination.of(path, unblocked=True)
            self._place.try_to_open()
        except OSError as error:
            raise self._refused(error) from error

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the event has everything
        """Write one line."""
        try:
            self._place.stream(to_line(event, self._run_id))
        except OSError as error:
            self.close()
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._place.close()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> RecordError:
        self.broken = True
        return RecordError(f"the report {self.path} cannot be written: {error.strerror}")


class JsonLog(Plain):
    """A sink that writes what `Plain` writes, as JSON; with the highest verbosity every event."""

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Write the event if the verbosity has a line for it."""
        lines = list(event_lines(event, state, self._verbosity, self._run_id))
        if self._long_waits.take(event) and isinstance(event, ev.AttemptUnblocked) and not lines:
            lines = [unblocked_line(event)] if self._verbosity > Verbosity.QUIET else []
        if lines or self._verbosity is Verbosity.VERBOSE:
            message = "\n".join(lines) or event.name.replace("_", " ")
            self._send_json(event.at, to_json(event, self._run_id) | {"level": level(event), "message": message})

    def tick(self, now: float, state: RunState) -> None:
        """Write a line for each long lock wait, and a heartbeat after `HEARTBEAT` seconds without a line."""
        for wait in self._long_waits.due(now):
            if self._verbosity > Verbosity.QUIET:
                event = replace(wait, at=now, seconds=round(now - wait.waiting_since, 3))
                message = blocked_line(wait, now)
                self._send_json(now, to_json(event, self._run_id) | {"level": level(wait), "message": message})
        if self._verbosity > Verbosity.QUIET and now - self._last_line >= HEARTBEAT:
            self._send_json(
                now, log_line(now, "info", "heartbeat", heartbeat(state, now, self._look()), run=self._run_id)
            )

    def _send_json(self, at: float, line: dict[str, Any]) -> None:
        self._send(at, json_line(line))


def level(event: ev.Event) -> str:
    """Return the log level of an event: error, warning, info or debug."""
    if isinstance(event, ev.StepFinished):
        allowed = event.state == StepState.FAILED_ALLOWED
        return "error" if event.state in BAD else "warning" if allowed else "info"
    if isinstance(event, ev.AttemptNotice) and event.notice.severity == ev.WARNING:
        return "warning"
    if isinstance(event, ev.RunFinished):
        return "info" if event.exit_code == 0 else "warning" if event.exit_code == ExitCode.WINDOW_CLOSED else "error"
    return _LEVELS.get(type(event), "info")


_LEVELS: dict[type[ev.Event], str] = {
    ev.GroupLost: "error",
    ev.RunTimedOut: "error",
    ev.StepRetrying: "warning",
    ev.AttemptUnstoppable: "error",
    ev.AttemptLost: "warning",
    ev.AttemptBlocked: "warning",
    ev.AttemptCancelRequested: "warning",
    ev.CapacityShort: "warning",
    ev.WindowClosed: "warning",
    ev.ServerClock: "debug",
    ev.UsualDurations: "debug",
    ev.HoldBegan: "warning",
    ev.AttemptBlocking: "warning",
    ev.StepHoldTimedOut: "warning",
    ev.RunInterrupted: "warning",
    ev.RunDraining: "warning",
    ev.AttemptNotice: "debug",
    ev.HoldMeasured: "debug",
    ev.StepReady: "debug",
    ev.StepChecking: "debug",
    ev.StepChecked: "debug",
}


def log_line(at: float, level: str, event: str, message: str, /, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a line that is not an event of the run: a heartbeat, the summary, or why the run did not start."""
    return {"event": event, "at": rfc3339(at), **fields, "level": level, "message": message}


def json_line(line: dict[str, Any]) -> str:
    """Return a line as JSON, with time, level, message and event first."""
    first = {name: line[name] for name in ("at", "level", "message", "event") if name in line}
    return visible_json(json.dumps(first | line, ensure_ascii=False)) + "\n"
