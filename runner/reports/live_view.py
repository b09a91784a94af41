"""What the terminal shows while a run goes on, as lines that fit it. Pure in state, time, size and what was seen.

Of texts from the server the control characters are written out: a message must not be able to move the cursor.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from runner.durations import format_duration
from runner.engine.queueing import why_queued
from runner.engine.state import BAD, FINAL, HOLDING, SLOTS, RunState, StepRecord, StepState
from runner.reports.sights import Sight
from runner.reports.visible import visible

#: The smallest terminal that a frame is made for; a smaller one sees its upper left part.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a frame is made of, besides the size: `estimate` is how many seconds are left, if anybody knows."""

    state: RunState
    run_id: str
    now: float
    sights: Mapping[str, Sight]
    estimate: float | None = None


def printable(text: str) -> str:
    """Return text on one line in which nothing controls the terminal."""
    return visible(" ".join(text.split()))


def frame(view: View, width: int, height: int) -> list[Text]:
    """Return the lines of a frame, none wider than `width`, and fewer than `height` of them."""
    width, height = max(width, NARROWEST), max(height, LOWEST)
    lines = [_headline(view, width), _bar(view.state, width, view.estimate)]
    running = [record for key in view.state.active if (record := view.state.records[key]).state in HOLDING]
    running.sort(key=lambda record: (not _waits(view, record), record.launched_at or 0.0))
    others = _others(view.state)
    room = height - 1 - len(lines)
    rest = min(len(others), max(2, room // 3))
    name = _name_width(running[:room], width)
    told = [_running(view, record, width, name) for record in running[:room]]
    lines += _some(told, len(running), room - rest, width)
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


def _name_width(records: Sequence[StepRecord], width: int) -> int:
    """Return the columns for names: no more than they need, in steps of 8 lest the rest of the lines jump about."""
    longest = max((cell_len(printable(record.key)) for record in records), default=0)
    return min(max(16, -(-longest // 8) * 8), max(20, width * 2 // 5), 60)


def _running(view: View, record: StepRecord, width: int, name: int) -> list[Text]:
    """Return a line for the step, and more for what it waits for."""
    sight = view.sights.get(record.key, Sight())
    elapsed = format_duration(view.now - (record.launched_at if record.launched_at is not None else view.now))
    limit = f"/{format_duration(record.timeout)}" if record.timeout is not None else ""
    share = f"{int(sight.share * 100):3d}%" if sight.share is not None else "    "
    words = [word for word in (_again(record), sight.doing, sight.more) if word]
    if record.cancel_reason is not None:
        words.insert(0, "stopping")
    line = Text(no_wrap=True)
    line.append("▶ " if record.state is StepState.RUNNING else "▷ ", style="cyan")
    line.append(set_cell_size(_fit(printable(record.key), name), name))
    line.append(f" {elapsed + limit:>14} {share} ", style="cyan")
    line.append(printable(", ".join(words)), style="dim")
    lines = [_cut(line, width)]
    if sight.waits:
        lines += (
            Text(_fit(part, width), style="yellow", no_wrap=True) for part in _wrapped(printable(sight.waits), width)
        )
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into two lines at most: who holds a lock stands at its end, and must not be cut off."""
    first, *more = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False) or [""]
    rest = [f"      {text[len(first) :].strip()}"] if more else []
    return [f"    {first}", *rest]


def _waits(view: View, record: StepRecord) -> bool:
    return record.key in view.sights and bool(view.sights[record.key].waits)


def _again(record: StepRecord) -> str:
    words = []
    if record.step.repeat is not None:
        words.append(f"iteration {record.iteration} of at most {record.step.repeat.max_iterations}")
    if record.tries > 1:
        words.append(f"attempt {record.tries}")
    return ", ".join(words)


def _others(state: RunState) -> list[StepRecord]:
    """Return what does not run but is on its way: items, retries, conditions, and then who is queued."""
    records = state.records.values()
    under_way = [record for record in records if record.state in _UNDER_WAY]
    return under_way + [record for record in records if record.state is StepState.QUEUED]


_UNDER_WAY = (StepState.EXPANDED, StepState.RETRYING, StepState.CHECKING)


def _other(state: RunState, record: StepRecord, now: float) -> str:
    """Say what the step waits for."""
    if record.state is StepState.EXPANDED:
        total = len(record.instances or ())
        words = f"{total - record.open_instances} of {total} items"
    elif record.state is StepState.RETRYING:
        words = f"again in {format_duration(max(0.0, (record.retry_at or now) - now))}"
    elif record.state is StepState.CHECKING:
        words = "its conditions are being looked at"
    else:
        words = f"queued, {why_queued(state, record).replace(':', ' ', 1)}"
    return f"  {printable(f'{record.key}: {words}')}"


def _fit(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
