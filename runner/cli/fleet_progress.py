"""The progress of a fleet run on standard error: lines, or a terminal that is redrawn, with a line for each cluster."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from runner.cli.console import print_lines
from runner.durations import format_duration
from runner.exit_codes import ExitCode
from runner.fleet.events import (
    ACTIVE,
    FAILURES,
    FleetEvent,
    FleetFinished,
    FleetStopping,
    MemberFinished,
    MemberState,
    event_values,
)
from runner.fleet.messages import event_line, heartbeat_line
from runner.fleet.rollout import FleetState
from runner.phrases import counted
from runner.reports.json_lines import json_line, log_line
from runner.reports.terminal_text import broken, cut_at_words, visible

if TYPE_CHECKING:
    from rich.live import Live as Drawing

    from runner.run.loop import Run

#: Seconds between two progress lines without events.
_HEARTBEAT = 15.0


def progress(*, json: bool = False) -> FleetProgress:
    """Return the progress for standard error: JSON lines, a live view in a terminal, otherwise lines of text."""
    if json:
        return JsonProgress()
    drawable = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return LiveProgress() if drawable else FleetProgress()


class FleetProgress:
    """Prints one line for each event that matters, and one every few seconds. Leave it as a context manager."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish."""

    def handle(self, event: FleetEvent, state: FleetState) -> None:
        """Print the event."""
        line = event_line(event, state)
        if line is not None:
            self._print(line)

    def tick(self, now: float, state: FleetState, runs: Mapping[str, Run]) -> None:
        """Print the state of the fleet run if nothing was printed for a while."""
        if time.monotonic() - self._printed >= _HEARTBEAT:
            self._print_where(now, state, runs)

    def _print_where(self, now: float, state: FleetState, runs: Mapping[str, Run]) -> None:  # noqa: ARG002 - for JSON
        self._print(heartbeat_line(state, _workers(runs)))

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        with contextlib.suppress(OSError):
            print_lines([f"{time.strftime('%H:%M:%S')}  {line}"], err=True)


class JsonProgress(FleetProgress):
    """Prints each event, and regularly the state of the fleet run, as a JSON object on one line."""

    def handle(self, event: FleetEvent, state: FleetState) -> None:
        """Print the event, with the text of its line."""
        message = event_line(event, state) or event.name.replace("_", " ")
        self._print_json(event_values(event, state.fleet) | {"level": level(event), "message": message})

    def _print_where(self, now: float, state: FleetState, runs: Mapping[str, Run]) -> None:
        line = heartbeat_line(state, _workers(runs))
        self._print_json(log_line(now, "info", "heartbeat", line, fleet=state.fleet))

    def _print_json(self, line: dict[str, Any]) -> None:
        self._printed = time.monotonic()
        with contextlib.suppress(OSError):
            sys.stderr.write(json_line(line))
            sys.stderr.flush()


def level(event: FleetEvent) -> str:
    """Return the log level of an event: error, warning or info."""
    match event:
        case MemberFinished() if event.state in (MemberState.UNMET, MemberState.UNFINISHED):
            return "warning"
        case MemberFinished() if event.state is not MemberState.SUCCEEDED:
            return "error"
        case FleetStopping():
            return "warning"
        case FleetFinished() if event.exit_code:
            return "warning" if event.exit_code == ExitCode.WINDOW_CLOSED else "error"
        case _:
            return "info"


class LiveProgress(FleetProgress):
    """Draws where the fleet run and each cluster stand, below the lines about failures and waves, which stay."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live as Drawing

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._drawing: Drawing = Drawing(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the drawing."""
        self._drawing.stop()

    def tick(self, now: float, state: FleetState, runs: Mapping[str, Run]) -> None:
        """Draw again."""
        from rich.text import Text

        with contextlib.suppress(OSError):
            lines = live_lines(state, runs, now, self._console.width)
            self._drawing.update(Text("\n".join(lines)), refresh=True)

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(f"{time.strftime('%H:%M:%S')}  {visible(line)}")


def live_lines(state: FleetState, runs: Mapping[str, Run], now: float, width: int) -> list[str]:
    """Return the lines of the live view, `width` columns wide: the fleet run, then each cluster and what runs there.

    Counts are never cut.
    """
    took = "" if state.started_at is None else f"  {format_duration(max(0.0, now - state.started_at))}"
    head = f"{state.started.plan if state.started else ''}  fleet run {state.fleet}{took}"
    lines = [*broken(head, width), *broken(heartbeat_line(state, _workers(runs)), width)]
    names = [name for name in state.clusters if any(one.target.cluster == name for one in state.members.values())]
    longest = max(map(len, names), default=0)
    for cluster in names:
        members = [member for member in state.members.values() if member.target.cluster == cluster]
        running = [member.target.name for member in members if member.state is MemberState.RUNNING]
        ended = sum(member.state not in ACTIVE for member in members)
        failed = sum(member.state in FAILURES for member in members)
        workers = sum(len(run.state.active) for name, run in runs.items() if name in running)
        words = f"{ended:,}/{len(members):,} ended" + (f", {failed:,} failed" if failed else "")
        now_on = f"  {counted(workers, 'worker')} on {', '.join(running)}" if running else ""
        lines.append(cut_at_words(visible(f"  {cluster:<{longest}}  {words}{now_on}"), width))
    return lines


def _workers(runs: Mapping[str, Run]) -> int:
    return sum(len(run.state.active) for run in runs.values())
