"""The live terminal: running and waiting steps, redrawn below the lines that stay.

Lines about failures stay; the rest is redrawn. It needs a terminal that can move its cursor; other terminals get
`Plain`. However the run ends, the drawing is removed and the cursor restored. The drawing is a pure function of state,
time, size and observations. Control characters in texts from the server are escaped, so that a message cannot move the
cursor.
"""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live as Drawing
from rich.text import Text

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.scheduler import why_queued
from runner.engine.state import BAD, FINAL, GATE, HOLDING, SLOTS, RunState, StepRecord, StepState
from runner.engine.window import window_status
from runner.reports.messages import Verbosity, event_lines, hold_words, is_item_of_group, iteration_words
from runner.reports.terminal_text import visible
from runner.reports.worker_activity import WorkerView
from runner.structs import Struct

#: The smallest terminal that a frame is made for; a smaller one shows its upper left part.
NARROWEST, LOWEST = 40, 8

_STYLES: Mapping[StepState, str] = {
    StepState.SUCCEEDED: "green",
    StepState.FAILED: "bold red",
    StepState.TIMED_OUT: "bold red",
    StepState.CANCELLED: "red",
    StepState.UNKNOWN: "bold magenta",
    StepState.DETACHED: "blue",
    StepState.FAILED_ALLOWED: "yellow",
    StepState.SKIPPED: "dim",
}


class View(Struct, frozen=True, kw_only=True):
    """The input of a frame besides the size: `estimate` is how many seconds are left, None if unknown."""

    state: RunState
    run_id: str
    now: float
    workers: Mapping[str, WorkerView]
    estimate: float | None = None


def printable(text: str) -> str:
    """Return text on one line in which nothing controls the terminal."""
    return visible(" ".join(text.split()))


def frame(view: View, width: int, height: int) -> list[Text]:
    """Return the lines of a frame, none wider than `width`, and fewer than `height` of them."""
    width, height = max(width, NARROWEST), max(height, LOWEST)
    lines = [_headline(view, width), _bar(view.state, width, view.estimate), *_holds(view, width)]
    running = [record for key in view.state.active if (record := view.state.records[key]).state in HOLDING]
    running.sort(key=lambda record: (not _waits(view, record), record.launched_at or 0.0))
    others = _others(view.state)
    room = height - 1 - len(lines)
    rest = min(len(others), max(2, room // 3))
    name = _name_width(running[:room], width)
    shown = [_running(view, record, width, name) for record in running[:room]]
    lines += _some(shown, len(running), room - rest, width)
    waiting = [[Text(_fit(_other(view.state, one, view.now), width), style="dim")] for one in others[:height]]
    lines += _some(waiting, len(others), height - 1 - len(lines), width)
    return lines


def _some(blocks: Sequence[list[Text]], total: int, room: int, width: int) -> list[Text]:
    """Return as many blocks as there is room for, and how many of all of them are left out."""
    if len(blocks) == total and sum(map(len, blocks)) <= room:
        return [line for block in blocks for line in block]
    lines: list[Text] = []
    shown = 0
    for block in blocks:
        if len(lines) + len(block) > room - 1:
            break
        lines += block
        shown += 1
    return [*lines, Text(_fit(f"  and {total - shown} more", width), style="dim")][: max(0, room)]


def _headline(view: View, width: int) -> Text:
    state = view.state
    started = state.started_at if state.started_at is not None else view.now
    parts = [f"slots {state.used[SLOTS]}/{state.capacity[SLOTS]}"]
    parts += [
        f"{name.removeprefix('pool:')} {state.used[name]}/{limit}"
        for name, limit in state.capacity.items()
        if name.startswith("pool:")
    ]
    line = Text(no_wrap=True)
    line.append(state.plan.name, style="bold")
    line.append(f"  run {view.run_id}  {format_duration(view.now - started)}  {'  '.join(parts)}")
    if state.stopping:
        line.append("  stopping", style="bold yellow")
    elif window := window_status(state, view.now):
        line.append(f"  {window}", style="yellow")
    return _cut(line, width)


def _bar(state: RunState, width: int, estimate: float | None) -> Text:
    counts = state.counts()
    total = sum(counts.values())
    done = sum(counts[name] for name in FINAL)
    bad = sum(counts[name] for name in BAD)
    wide = max(10, min(40, width // 3))
    full = round(wide * done / total) if total else wide
    red = min(full, max(1, round(wide * bad / total))) if bad else 0
    line = Text(no_wrap=True)
    line.append("━" * (full - red), style="green")
    line.append("━" * red, style="bold red")
    line.append("━" * (wide - full), style="dim")
    line.append(f" {done}/{total}")
    for name in StepState:
        if name in FINAL and counts[name]:
            line.append(f"  {counts[name]} {name.replace('_', ' ')}", style=_STYLES[name])
    if estimate is not None and done < total:
        line.append(f"  about {format_duration(estimate)} left")
    return _cut(line, width)


#: Holds that are shown.
_MOST_HOLDS = 3


def _holds(view: View, width: int) -> list[Text]:
    """Return a line for each hold that is on."""
    words = list(hold_words(view.state, view.now))
    more = [f"{len(words) - _MOST_HOLDS} more holds"] if len(words) > _MOST_HOLDS else []
    shown = (f"  held by {printable(text)}" for text in (*words[:_MOST_HOLDS], *more))
    return [Text(_fit(text, width), style="bold yellow", no_wrap=True) for text in shown]


def _name_width(records: Sequence[StepRecord], width: int) -> int:
    """Return the columns for names: no more than needed, in steps of 8 so that the rest of the lines stays in place."""
    longest = max((cell_len(printable(record.key)) for record in records), default=0)
    return min(max(16, -(-longest // 8) * 8), max(20, width * 2 // 5), 60)


def _running(view: View, record: StepRecord, width: int, name: int) -> list[Text]:
    """Return a line for the step, and lines for what it waits for."""
    worker = view.workers.get(record.key, WorkerView())
    elapsed = format_duration(view.now - (record.launched_at if record.launched_at is not None else view.now))
    limit = f"/{format_duration(record.timeout)}" if record.timeout is not None else ""
    share = f"{int(worker.share * 100):3d}%" if worker.share is not None else "    "
    words = [word for word in (_again(record, view.now), worker.doing, worker.more) if word]
    if record.assisted:
        words.insert(0, "on_retry" if record.preparing else "removing what it left behind")
    if record.cancel_reason is not None:
        words.insert(0, "stopping")
    line = Text(no_wrap=True)
    line.append("▶ " if record.state is StepState.RUNNING else "▷ ", style="cyan")
    line.append(set_cell_size(_fit(printable(record.key), name), name))
    line.append(f" {elapsed + limit:>14} {share} ", style="cyan")
    line.append(printable(", ".join(words)), style="dim")
    lines = [_cut(line, width)]
    if worker.waits:
        lines += (
            Text(_fit(part, width), style="yellow", no_wrap=True) for part in _wrapped(printable(worker.waits), width)
        )
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap a text to two lines at most: the session that holds a lock stands at its end, and must not be cut off."""
    first, *more = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False) or [""]
    rest = [f"      {text[len(first) :].strip()}"] if more else []
    return [f"    {first}", *rest]


def _waits(view: View, record: StepRecord) -> bool:
    return record.key in view.workers and bool(view.workers[record.key].waits)


def _again(record: StepRecord, now: float) -> str:
    words = []
    if record.step.repeat is not None:
        words.append(iteration_words(record, now))
    if record.tries > 1:
        words.append(f"attempt {record.tries}")
    return ", ".join(words)


def _others(state: RunState) -> list[StepRecord]:
    """Return the steps that have no worker yet: those with items, retries or conditions first, then queued ones.

    The items of a group are in its line.
    """
    records = [record for record in state.records.values() if not is_item_of_group(record)]
    under_way = [record for record in records if record.state in _UNDER_WAY]
    queued = [record for record in records if record.state is StepState.QUEUED]
    return under_way + [record for record in queued if not _waits_for_its_item(state, record)]


def _waits_for_its_item(state: RunState, record: StepRecord) -> bool:
    """Return whether the step's item has not begun, because of `max_parallel`: the line of its group counts it."""
    item = state.records.get(record.parent or "")
    return item is not None and is_item_of_group(item) and any(name.startswith(GATE) for name in record.needs)


_UNDER_WAY = (StepState.EXPANDED, StepState.RETRYING, StepState.CHECKING)


def _other(state: RunState, record: StepRecord, now: float) -> str:
    """Return what the step waits for."""
    if record.state is StepState.EXPANDED:
        instances = [state.records[key] for key in record.instances or ()]
        total = sum(len(one.chunk) or 1 for one in instances)
        done = sum(len(one.chunk) or 1 for one in instances if one.final)
        things = "items" if record.step.for_each is not None or record.chunk else "steps"
        words = f"{done} of {total} {things}"
        items = [one for one in instances if is_item_of_group(one)]
        under_way = sum(1 for item in items if not item.final and _has_begun(state, item))
        words += f", {under_way} under way" if items else ""
    elif record.state is StepState.RETRYING:
        words = f"next attempt in {format_duration(max(0.0, (record.retry_at or now) - now))}"
    elif record.state is StepState.CHECKING:
        words = "its conditions are being evaluated"
    else:
        words = f"queued, {why_queued(state, record).replace(':', ' ', 1)}"
    return f"  {printable(f'{record.key}: {words}')}"


def _has_begun(state: RunState, item: StepRecord) -> bool:
    return item.holds or any(state.records[key].launched_at is not None for key in item.instances or ())


def _fit(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


#: Seconds between two drawings, however much happens.
REDRAW = 1.0
#: How many lines that stay are printed again after the terminal was resized and cleared.
_KEPT = 200


class Live:
    """A sink that draws the run on a terminal.

    `look` returns the last observation of each step's worker; `estimate` how many seconds are left, None if unknown. If
    the terminal is closed, the drawing ends and the run continues.
    """

    def __init__(
        self,
        stream: TextIO,
        run_id: str,
        *,
        color: bool,
        look: Callable[[], Mapping[str, WorkerView]] = dict,
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
        self._closed = False

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Print the lines that stay, and draw if a drawing is due."""
        lines = [
            Text(f"{rfc3339(event.at)[11:19]}Z {printable(line)}", style=_style(event))
            for line in self._staying(event, state)
        ]
        self._safely(lambda: self._take(event, state, lines))

    def flush(self) -> None:
        """Do nothing: the drawing is not a record."""

    def tick(self, now: float, state: RunState) -> None:
        """Redraw with the current time."""
        self._safely(lambda: self._draw(now, state))

    def close(self) -> None:
        """Remove the drawing and show the cursor."""
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
        """Return the lines that stay: about the run as a whole, and about steps that do not go as planned."""
        warns = isinstance(event, ev.AttemptNotice) and event.notice.severity == ev.WARNING
        usual = isinstance(event, ev.StepEvent) and not isinstance(event, _NOTED) and not warns
        fine = isinstance(event, ev.StepFinished) and event.state not in (*BAD, StepState.FAILED_ALLOWED)
        if fine and isinstance(event, ev.StepFinished):
            last = state.records[event.step].last
            fine = last is None or not last.leftovers
        return [] if usual or fine else list(event_lines(event, state, Verbosity.NORMAL, self._run_id))

    def _draw(self, now: float, state: RunState) -> None:
        if self._drawing is None:
            return
        self._drawn_at = time.monotonic()
        self._clear_if_resized()
        size = self._size
        view = View(
            state=state, run_id=self._run_id, now=now, workers=self._look(), estimate=self._estimate(state, now)
        )
        failures = min(len(self._stayed), size.height // 3)  # lines that stay visible above the drawing
        lines = frame(view, size.width, size.height - failures)
        self._drawing.update(Group(*(_clipped(line, size.width) for line in lines[: size.height - 1])), refresh=True)

    def _clear_if_resized(self) -> None:
        """Clear the screen after a resize: how the terminal has wrapped the old drawing is unknown."""
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
        if self._closed:
            return
        try:
            act()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._closed = True


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


def _style(event: ev.Event) -> str:
    if isinstance(event, ev.StepFinished):
        return "red" if event.state in BAD else "yellow"
    return "yellow" if isinstance(event, ev.StepEvent) else ""


def _clipped(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.overflow = "crop"
    line.truncate(width)
    return line
