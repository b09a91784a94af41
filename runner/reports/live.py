"""The live terminal: running and waiting steps, redrawn below the lines that stay.

Lines about failures stay; the rest is redrawn. It needs a terminal that can move its cursor; other terminals get
`Plain`. However the run ends, the drawing is removed and the cursor restored. The drawing is a pure function of state,
time, size and observations. Control characters in texts from the server are escaped, so that a message cannot move the
cursor.
"""

from __future__ import annotations

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
from runner.engine.ports import Sink
from runner.engine.slot_queue import why_queued
from runner.engine.state import BAD, FINAL, GATE, HOLDING, SLOTS, RunState, StepRecord, StepState, leaves
from runner.engine.window import window_status
from runner.reports.messages import Verbosity, error_of, error_text, event_lines, iteration_words
from runner.reports.progress import goes_as_planned
from runner.reports.step_counts import FanOut, fan_outs, run_counts, step_of_plan
from runner.reports.terminal_text import at_words, columns, cut_at_words, flowing, some_lines, visible
from runner.reports.waits import hold_words
from runner.reports.worker_activity import WorkerView, about
from runner.structs import Struct

#: The smallest terminal that a frame is made for; a smaller one shows its upper left part.
NARROWEST, LOWEST = 40, 8
#: The height from which a frame has a line about Ctrl-C.
_WITH_HINT = 12
#: Failures of a folded step that are listed below it.
_FAILURES = 3
#: Lines for one failure of these.
_FAILURE_LINES = 2
#: The width from which names may take half of a line.
_WIDE = 120
#: Columns of the time of a step and its timeout, and of its progress.
_TIME, _SHARE = 14, 4

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


#: The lines of one step.
_Block = list[Text]


def frame(view: View, width: int, height: int) -> list[Text]:
    """Return the lines of a frame, none wider than `width`, and fewer than `height` of them."""
    width, height = max(width, NARROWEST), max(height, LOWEST)
    hint = [Text(cut_at_words(_hint(view.state), width), style="dim")] if height >= _WITH_HINT else []
    lines = [*_headline(view, width), *_bar(view, width), *_holds(view, width)][: height - 4]
    others = _others(view.state)
    room = height - 1 - len(lines) - len(hint)
    rest = min(len(others) + 1, max(3, room // 3)) if others else 0
    lines += _under_way(view, width, room - rest)
    if others:
        waiting = [_waiting(view, one, width) for one in others[:height]]
        shown = _some(waiting, len(others), height - 2 - len(lines) - len(hint), width)
        lines += [Text("Waiting", style="bold dim"), *shown] if shown else []
    return [*lines, *hint]


def _hint(state: RunState) -> str:
    if state.interrupted is not None:
        return "Ctrl-C again: do not wait for the workers that still run"
    return "Ctrl-C: start no further steps; running ones end as on_runner_exit specifies"


def _some(blocks: Sequence[_Block], total: int, room: int, width: int, indent: str = "  ") -> _Block:
    """Return as many blocks as there is room for, and how many of all of them are left out."""
    if len(blocks) == total and sum(map(len, blocks)) <= room:
        return [line for block in blocks for line in block]
    lines: _Block = []
    shown = 0
    for block in blocks:
        if len(lines) + len(block) > room - 1:
            break
        lines += block
        shown += 1
    return [*lines, Text(_fit(f"{indent}and {total - shown:,} more", width), style="dim")][: max(0, room)]


def _headline(view: View, width: int) -> _Block:
    state = view.state
    started = state.started_at if state.started_at is not None else view.now
    parts = [(printable(state.plan.name), "bold"), (f"run {view.run_id}", "")]
    parts += [(format_duration(view.now - started), ""), (f"slots {state.used[SLOTS]}/{state.capacity[SLOTS]}", "")]
    parts += [
        (f"{name.removeprefix('pool:')} {state.used[name]}/{limit}", "")
        for name, limit in state.capacity.items()
        if name.startswith("pool:")
    ]
    if state.stopping:
        parts.append(("stopping", "bold yellow"))
    elif window := window_status(state, view.now):
        parts.append((window, "yellow"))
    return _flow(parts, width)


def _flow(parts: Sequence[tuple[str, str]], width: int) -> _Block:
    """Return texts with their styles in lines, none of them broken; only one that is wider than a line is cut."""
    styles = iter([style for _, style in parts])
    lines: _Block = []
    for texts in flowing([cut_at_words(text, width - 2) for text, _ in parts], width):
        line = Text("  " if lines else "", no_wrap=True)
        for number, text in enumerate(texts):
            line.append("  " if number else "").append(text, style=next(styles))
        lines.append(line)
    return lines


def _bar(view: View, width: int) -> _Block:
    """Return the bar and the counts: of the plan's steps, and apart from them of items."""
    state, counts, folded = view.state, run_counts(view.state), fan_outs(view.state)
    total = counts.all_steps
    ended, bad = 0.0, 0.0
    for record in state.records.values():
        if record.parent is None:
            found = folded.get(record.key)
            ended += 1 if record.final else found.finished / found.total if found is not None else 0
            bad += record.state in BAD
    wide = max(10, min(40, width // 3))
    full = round(wide * ended / total) if total else wide
    red = min(full, max(1, round(wide * bad / total))) if bad else 0
    parts = [("━" * (full - red), "green"), ("━" * red, "bold red"), ("━" * (wide - full), "dim")]
    line = Text.assemble(*parts, no_wrap=True)
    words = [_done_words(counts.steps, "steps")]
    words += [_done_words(counts.items, "items")] if counts.all_items else []
    if view.estimate is not None and counts.steps_ended < total:
        words.append([(f"{about(view.estimate)} left", "")])
    first, *more = flowing([" " * wide, *("".join(text for text, _ in one) for one in words)], width, gap=" ")
    lines = [line]
    for number, texts in enumerate((first[1:], *more)):
        lines += [Text("  ", no_wrap=True)] if number else []
        for place, _ in enumerate(texts):
            lines[-1].append("  " if place else "" if number else " ")
            for text, style in words.pop(0):
                lines[-1].append(text, style=style)
    return [_cut(one, width) for one in lines]


def _done_words(counts: Mapping[StepState, int], things: str) -> list[tuple[str, str]]:
    """Return how many are done, and how many ended otherwise, with styles: `12/25 steps done, 1 failed`."""
    words = [(f"{counts.get(StepState.SUCCEEDED, 0):,}/{sum(counts.values()):,} {things} done", "")]
    for name in StepState:
        if name in FINAL and name is not StepState.SUCCEEDED and counts.get(name):
            words += [(", ", ""), (f"{counts[name]:,} {name.replace('_', ' ')}", _STYLES[name])]
    return words


#: Holds that are shown.
_MOST_HOLDS = 3


def _holds(view: View, width: int) -> _Block:
    """Return a line for each hold that is on."""
    words = list(hold_words(view.state, view.now))
    more = [f"{len(words) - _MOST_HOLDS:,} more holds"] if len(words) > _MOST_HOLDS else []
    shown = (f"  held by {printable(text)}" for text in (*words[:_MOST_HOLDS], *more))
    return [Text(cut_at_words(text, width), style="bold yellow", no_wrap=True) for text in shown]


# --- steps that are under way -----------------------------------------------------------------------------------------


def _under_way(view: View, width: int, room: int) -> _Block:
    """Return the running steps: blocked ones, then single steps, then folded steps with their running instances."""
    state = view.state
    running = [record for key in state.active if (record := state.records[key]).state in HOLDING]
    running.sort(key=lambda record: (not _waits(view, record), record.launched_at or 0.0))
    folded = [found for key, found in fan_outs(state).items() if state.records[key].state is StepState.EXPANDED]
    inside = _by_folded_step(state, [record for record in running if not _waits(view, record)])
    alone = [record for record in running if record.parent is None or _waits(view, record)]
    if not running and not folded:
        return []
    shown_items = [record for records in inside.values() for record in records[:room]]
    keys = (*(one.key for one in alone[:room]), *(found.key for found in folded))
    name = _name_width([*(f"  {key}" for key in keys), *map(_inner_name, shown_items)], width)
    title = Text("Running".ljust(name) + "time/timeout".rjust(_TIME + 1), style="bold dim", no_wrap=True)
    rows = [_folded_step(view, found, width, name) for found in folded]
    room -= 1
    kept = min(sum(map(len, rows)), max(room // 2, room - len(alone)))
    lines = _some([_running(view, one, width, name) for one in alone[:room]], len(alone), room - kept, width)
    room -= len(lines)
    if sum(map(len, rows)) > room:
        return [title, *lines, *_some(rows, len(rows), room, width)]
    spare = room - sum(map(len, rows))
    for number, (found, row) in enumerate(zip(folded, rows, strict=True)):
        records = inside.get(found.key, [])
        blocks = [_running(view, one, width, name) for one in records[:room]]
        items = _some(blocks, len(records), spare // (len(folded) - number), width, "    ") if spare > 1 else []
        spare -= len(items)
        lines += [*row, *items]
    return [title, *lines]


def _by_folded_step(state: RunState, records: Sequence[StepRecord]) -> dict[str, list[StepRecord]]:
    """Return the running instances by the step of the plan that they belong to."""
    found: dict[str, list[StepRecord]] = {}
    for record in records:
        if record.parent is not None:
            found.setdefault(step_of_plan(state, record).key, []).append(record)
    return found


def _inner_name(record: StepRecord) -> str:
    """Return the name of an instance below its step: without the step's id, which begins it."""
    key = record.key
    place = key.find("[")
    return f"    {key[place:] if place > 0 else key.rpartition('.')[2]}"


def _name_width(names: Sequence[str], width: int) -> int:
    """Return the columns for names: no more than needed, in steps of 8 so that the rest of the lines stays in place."""
    longest = max((columns(_shown_name(name)) + 1 for name in names), default=0)
    most = width * 2 // 5 if width < _WIDE else width // 2
    return min(max(16, -(-longest // 8) * 8), max(20, most))


def _shown_name(name: str) -> str:
    return name[: len(name) - len(name.lstrip(" "))] + printable(name)


def _row(name: str, facts: Text, width: int, column: int) -> _Block:
    """Return a name with facts beside it, or below it if the name is wider than its column."""
    name = _shown_name(name)
    facts.no_wrap = True
    if columns(name) < column:
        return [_cut(Text(set_cell_size(name, column), no_wrap=True).append_text(facts), width)]
    return [
        Text(cut_at_words(name, width), no_wrap=True),
        _cut(Text(" " * column, no_wrap=True).append_text(facts), width),
    ]


def _folded_step(view: View, found: FanOut, width: int, column: int) -> _Block:
    """Return the line of a folded step, with its counts, and lines for what failed of it."""
    first, *more = at_words(found.words(), width - column - 1, rest="")
    lines = _row(f"  {found.key}", Text(f" {first}", style="cyan"), width, column)
    lines += [Text(f"{' ' * column} {text}", style="cyan", no_wrap=True) for text in more]
    why = _why_none_runs(view.state, found)
    lines += [Text(cut_at_words(f"    {why}", width), style="dim", no_wrap=True)] if why else []
    bad = [record for key in found.unfolded if (record := view.state.records[key]).state in BAD]
    for record in bad[:_FAILURES]:
        words = f"{_inner_name(record)} {record.state.replace('_', ' ')}: {printable(error_text(error_of(record)))}"
        parts = some_lines(words, width, _FAILURE_LINES, rest=" " * 6)
        lines += (Text(part, style="red", no_wrap=True) for part in parts)
    lines += [Text(f"    and {len(bad) - _FAILURES:,} more failed", style="red")] if len(bad) > _FAILURES else []
    return lines


def _why_none_runs(state: RunState, found: FanOut) -> str:
    """Return what the instances wait for if none of them runs."""
    if found.running or not found.queued:
        return ""
    waiting = (one for one in leaves(state, state.records[found.key]) if one.state is StepState.QUEUED)
    first = next(waiting, None)
    return "" if first is None else _queue_words(why_queued(state, first))


def _running(view: View, record: StepRecord, width: int, column: int) -> _Block:
    """Return a line for the step, and lines for what it waits for."""
    worker = view.workers.get(record.key, WorkerView())
    elapsed = format_duration(view.now - (record.launched_at if record.launched_at is not None else view.now))
    limit = f"/{format_duration(record.timeout)}" if record.timeout is not None else ""
    share = f"{int(worker.share * 100):3d}%" if worker.share is not None else ""
    words = [word for word in (_again(record, view.now), worker.doing, worker.more) if word]
    if record.state is not StepState.RUNNING:
        words.insert(0, "starting")
    if record.assisted:
        words.insert(0, "on_retry" if record.preparing else "removing what it left behind")
    if record.cancel_reason is not None:
        words.insert(0, "stopping")
    facts = Text(f" {elapsed + limit:>{_TIME}} {share:>{_SHARE}} ", style="cyan")
    facts.append(cut_at_words(printable(", ".join(words)), max(width - column - facts.cell_len, 8)), style="dim")
    inside = record.parent is not None and not worker.waits
    lines = _row(_inner_name(record) if inside else f"  {record.key}", facts, width, column)
    if worker.waits:
        waits = some_lines(f"    {printable(worker.waits)}", width, _MOST_LINES, rest=" " * 6)
        lines += (Text(part, style="yellow", no_wrap=True) for part in waits)
    return lines


#: Lines for what a worker waits for: the session that holds the lock stands at the end, and must not be cut off.
_MOST_LINES = 3


def _waits(view: View, record: StepRecord) -> bool:
    return record.key in view.workers and bool(view.workers[record.key].waits)


def _again(record: StepRecord, now: float) -> str:
    words = []
    if record.step.repeat is not None:
        words.append(iteration_words(record, now))
    if record.tries > 1:
        words.append(f"attempt {record.tries}")
    return ", ".join(words)


# --- steps that wait --------------------------------------------------------------------------------------------------


def _others(state: RunState) -> list[StepRecord]:
    """Return the steps that wait: those with retries or conditions first, then queued ones.

    Instances are in the line of their step.
    """
    records = [record for record in state.records.values() if record.parent is None]
    under_way = [record for record in records if record.state in (StepState.RETRYING, StepState.CHECKING)]
    return under_way + [record for record in records if record.state is StepState.QUEUED]


def _waiting(view: View, record: StepRecord, width: int) -> _Block:
    """Return a line that says what the step waits for."""
    if record.state is StepState.RETRYING:
        words = f"next attempt in {format_duration(max(0.0, (record.retry_at or view.now) - view.now))}"
    elif record.state is StepState.CHECKING:
        words = "its conditions are being evaluated"
    else:
        words = _queue_words(why_queued(view.state, record))
    lines = at_words(f"  {printable(f'{record.key}: {words}')}", width, rest="    ")
    return [Text(cut_at_words(line, width), style="dim", no_wrap=True) for line in lines]


def _queue_words(reason: str) -> str:
    """Return in words what a step waits for: `slots 3/3` is `waits for a slot (3/3 in use)`."""
    name, _, used = reason.rpartition(" ")
    kind, _, thing = name.partition(":")
    if name == SLOTS:
        return f"waits for a slot ({used} in use)"
    if kind == "pool" and thing:
        return f"waits for the pool {thing} ({used} in use)"
    if kind == "exclusive" and thing:
        return f"waits for {thing}, which another step has for itself"
    if f"{kind}:" == GATE and thing:
        return f"waits for max_parallel of {thing} ({used} under way)"
    return f"waits for {reason}"


def _fit(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


#: Columns of the time that begins a line, with the space after it.
_AFTER_TIME = 10
#: Seconds between two drawings, however much happens.
REDRAW = 1.0
#: How many lines that stay are printed again after the terminal was resized and cleared.
_KEPT = 200


class Live(Sink):
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
            self._print(line)
        if time.monotonic() - self._drawn_at >= REDRAW:
            self._draw(event.at, state)

    def _staying(self, event: ev.Event, state: RunState) -> list[str]:
        """Return the lines that stay: about the run as a whole, and about steps that do not go as planned."""
        usual = isinstance(event, ev.StepEvent) and goes_as_planned(event, state)
        return [] if usual else list(event_lines(event, state, Verbosity.NORMAL, self._run_id))

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
            self._print(line)

    def _print(self, line: Text) -> None:
        """Print a line that stays, broken between words; a word wider than the terminal is left to it."""
        for part in at_words(line.plain, self._size.width, rest=" " * _AFTER_TIME):
            self._console.print(Text(part, style=line.style), soft_wrap=True)

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


def _style(event: ev.Event) -> str:
    if isinstance(event, ev.StepFinished):
        return "red" if event.state in BAD else "yellow"
    return "yellow" if isinstance(event, ev.StepEvent) else ""


def _clipped(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.overflow = "crop"
    line.truncate(width)
    return line
