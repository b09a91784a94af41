"""The live terminal: what runs and what waits, drawn anew below the lines that stay.

Lines about what went wrong stay; all else is drawn over. It needs a terminal that can move its cursor; others get
`Plain`. However the run ends, the drawing is taken away and the cursor is there again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live as Drawing
from rich.text import Text

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.state import BAD, RunState, StepState
from runner.reports.live_view import View, frame, printable
from runner.reports.plain import Verbosity, lines_for
from runner.reports.sights import Sight

#: Seconds between two drawings, however much happens.
REDRAW = 1.0
#: Lines that stay which are written again when the terminal gets another size and is cleared.
_KEPT = 200


class Live:
    """A sink that draws the run on a terminal.

    `look` gives what was last seen on the server, by step; `estimate` how many seconds are left, if anybody knows. A
    terminal that has gone away ends the drawing, not the run.
    """

    def __init__(
        self,
        stream: TextIO,
        run_id: str,
        *,
        color: bool,
        look: Callable[[], Mapping[str, Sight]] = dict,
        estimate: Callable[[RunState, float], float | None] = lambda _, __: None,
    ) -> None:
        self._console = Console(
            file=stream,
            force_terminal=True,
            force_interactive=True,
            color_system="standard" if color else None,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._run_id = run_id
        self._look = look
        self._estimate = estimate
        self._drawing: Drawing | None = None
        self._size = self._console.size
        self._drawn_at = 0.0
        self._stayed: deque[Text] = deque(maxlen=_KEPT)
        self._gone = False

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Write what stays at once, and draw if that is due."""
        lines = [
            Text(f"{rfc3339(event.at)[11:19]}Z {printable(line)}", style=_style(event))
            for line in self._staying(event, state)
        ]
        self._safely(lambda: self._take(event, state, lines))

    def flush(self) -> None:
        """Do nothing: what is drawn is kept elsewhere."""

    def tick(self, now: float, state: RunState) -> None:
        """Draw the time that has passed."""
        self._safely(lambda: self._draw(now, state))

    def close(self) -> None:
        """Take the drawing away and show the cursor."""
        self._safely(self._stop)

    def _take(self, event: ev.Event, state: RunState, lines: list[Text]) -> None:
        if self._drawing is None and state.started_at is not None:
            self._drawing = Drawing(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._drawing.start()
        self._clear_if_resized()
        for line in lines:
            self._stayed.append(line)
            self._console.print(line, soft_wrap=True)
        if time.monotonic() - self._drawn_at >= REDRAW:
            self._draw(event.at, state)

    def _staying(self, event: ev.Event, state: RunState) -> list[str]:
        """Return the lines that stay: of the run as a whole, and of what does not go as it should."""
        warns = isinstance(event, ev.AttemptNotice) and event.notice.severity == ev.WARNING
        usual = isinstance(event, ev.StepEvent) and not isinstance(event, _NOTED) and not warns
        fine = isinstance(event, ev.StepFinished) and event.state not in (*BAD, StepState.FAILED_ALLOWED)
        if fine and isinstance(event, ev.StepFinished):
            last = state.records[event.step].last
            fine = last is None or not last.leftovers
        return [] if usual or fine else list(lines_for(event, state, Verbosity.NORMAL, self._run_id))

    def _draw(self, now: float, state: RunState) -> None:
        if self._drawing is None:
            return
        self._drawn_at = time.monotonic()
        self._clear_if_resized()
        size = self._size
        view = View(state=state, run_id=self._run_id, now=now, sights=self._look(), estimate=self._estimate(state, now))
        failures = min(len(self._stayed), size.height // 3)  # lines above the drawing that stay in sight
        lines = frame(view, size.width, size.height - failures)
        self._drawing.update(Group(*(_clipped(line, size.width) for line in lines[: size.height - 1])), refresh=True)

    def _clear_if_resized(self) -> None:
        """Begin with an empty screen: what the terminal has made of the old drawing, nobody knows."""
        if self._drawing is None or self._console.size == self._size:
            return
        self._size = self._console.size
        self._console.clear()
        self._drawing.update(Group(), refresh=True)
        for line in list(self._stayed)[-self._size.height :]:
            self._console.print(line, soft_wrap=True)

    def _stop(self) -> None:
        if self._drawing is not None:
            self._drawing.update(Group(), refresh=True)
            self._drawing.stop()
            self._drawing = None

    def _safely(self, act: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            act()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._gone = True


_NOTED = (
    ev.StepFinished,
    ev.StepRetrying,
    ev.AttemptCancelRequested,
    ev.AttemptUnstoppable,
    ev.AttemptLost,
    ev.StepQueueTimedOut,
)


def _style(event: ev.Event) -> str:
    if isinstance(event, ev.StepFinished):
        return "red" if event.state in BAD else "yellow"
    return "yellow" if isinstance(event, ev.StepEvent) else ""


def _clipped(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.overflow = "crop"
    line.truncate(width)
    return line
