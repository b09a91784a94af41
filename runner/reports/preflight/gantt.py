"""A schedule as text: a bar for each step, the critical path, and what other numbers of slots would change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from runner.durations import format_duration
from runner.preflight.schedule import Bar, Schedule
from runner.reports.problems import Style
from runner.reports.visible import visible

#: Columns of the chart at most and at least, and the bars that it has at most: nobody reads a thousand.
_WIDEST, _NARROWEST = 60, 20
_MAX_BARS = 40
_MAX_NAME = 28
#: Columns for a duration beside a bar.
_DURATION = 12
#: Steps of the critical path that are named.
_MAX_PATH = 20
_KNOWN, _UNKNOWN, _WAITING = "█", "▒", "·"


def schedule_lines(schedule: Schedule, style: Style, *, width: int = 100) -> Iterator[str]:
    """Yield the chart, for so many columns, and what is to be read from it; nothing for a plan without steps."""
    if not schedule.bars:
        return
    yield style.bold("Schedule")
    shown = _shown(schedule)
    column = max(len(_name(bar)) for bar in shown)
    chart = min(max(width - column - _DURATION - 6, _NARROWEST), _WIDEST)
    scale = max(schedule.makespan, 0.001)
    critical = set(schedule.critical)
    for bar in shown:
        name = _name(bar).ljust(column)
        told = f"{format_duration(bar.seconds)}{'' if bar.known else ' ?'}" if not schedule.nothing_known else "?"
        told = "goes on" if bar.detached else told
        row = _row(bar, scale, chart)
        yield f"  {style.bold(name) if bar.step in critical else name}  {row}  {told}"
    if len(shown) < len(schedule.bars):
        yield f"  and {len(schedule.bars) - len(shown)} shorter ones"
    yield ""
    for line in map(visible, _told(schedule)):
        yield from textwrap.wrap(
            line, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    yield from _tried(schedule)


def _shown(schedule: Schedule) -> tuple[Bar, ...]:
    """Return the bars of the critical path and the longest others, in order."""
    if len(schedule.bars) <= _MAX_BARS:
        return schedule.bars
    critical = set(schedule.critical)
    ranked = sorted(schedule.bars, key=lambda bar: (bar.step not in critical, -bar.seconds))
    kept = {bar.step for bar in ranked[:_MAX_BARS]}
    return tuple(bar for bar in schedule.bars if bar.step in kept)


def _name(bar: Bar) -> str:
    name = visible(bar.step)
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _row(bar: Bar, scale: float, width: int) -> str:
    ready, start, end = (round(moment / scale * width) for moment in (bar.ready, bar.start, bar.end))
    end = min(max(end, start + 1), width) if start < width else width
    start = min(start, width - 1)
    fill = (_KNOWN if bar.known else _UNKNOWN) * (end - start)
    return f"{' ' * min(ready, start)}{_WAITING * (start - min(ready, start))}{fill}".ljust(width)


def _told(schedule: Schedule) -> Iterator[str]:
    path = " → ".join(schedule.critical[:_MAX_PATH])
    more = len(schedule.critical) - _MAX_PATH
    path += f" → and {more} more" if more > 0 else ""
    if schedule.nothing_known:
        yield "No durations are known: the bars show the order alone. --assume STEP=DURATION gives some."
        yield f"Longest chain: {path}"
        return
    usual, late, least = map(format_duration, (schedule.makespan, schedule.makespan_p95, schedule.lower_bound))
    at_worst = f", {late} at the 95th percentiles" if late != usual else ""
    yield f"Makespan: {usual}{at_worst}; no number of slots makes it less than {least}."
    yield f"Critical path: {path}"
    if schedule.unknown:
        count = len(schedule.unknown)
        names = ", ".join(schedule.unknown[:5]) + (", …" if count > 5 else "")
        yield f"{_UNKNOWN} {count} of unknown duration, drawn with the median of the others: {names}"


def _tried(schedule: Schedule) -> Iterator[str]:
    if not schedule.tried:
        return
    longest = max(one.makespan for one in schedule.tried) or 1.0
    yield ""
    yield "  Slots  makespan"
    for one in schedule.tried:
        told = "?" if schedule.nothing_known else format_duration(one.makespan)
        yield f"  {one.slots:>5}  {told:>8}  {_KNOWN * max(round(one.makespan / longest * 40), 1)}"
    if schedule.enough is not None:
        yield f"  More than {schedule.enough} slots do not help."
    else:
        yield f"  Even {schedule.tried[-1].slots} slots are not the end of it: more may help."
