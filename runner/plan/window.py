"""The window of a plan: how it is read and checked, and when it is open.

It opens at the first moment at which the local clock shows the window's day and `from`, or a later time, and closes at
the first moment at which the clock shows `to`, or a later time. So a time that a change of the clock skips means the
moment of the change, and a time that occurs twice means the first of both. Openings without a gap between them are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from typing import Final

from runner.durations import format_duration
from runner.errors import Cause
from runner.plan.model import AtEnd, Day, Fit, Outside, StepWindow, Window
from runner.plan.steps import Draft
from runner.plan.yaml_nodes import Fields
from runner.structs import Struct

_DAY: Final = 86_400
_DAYS: Final = tuple(Day)
#: Openings that began so many days ago can still be open: seven days of 24 hours without a gap are not allowed.
_DAYS_BACK: Final = 8
#: A day on which the window opens comes within a week, unless changes of the clock skip its opening, again and again.
_DAYS_AHEAD: Final = 800


class Opening(Struct, frozen=True, kw_only=True):
    """One opening of a window, from `opens` to before `closes`, in seconds since the epoch."""

    opens: float
    closes: float

    def contains(self, moment: float) -> bool:
        """Return whether the window is open at this moment."""
        return self.opens <= moment < self.closes


def opening_at(window: Window, moment: float) -> Opening:
    """Return the opening that is in progress at this moment (seconds since the epoch), else the next one."""
    zone = _zone_of(window.timezone)
    first = datetime.fromtimestamp(moment, zone).date() - timedelta(days=_DAYS_BACK)
    opens: float | None = None
    closes = 0.0
    for found in _openings(window, zone, first):
        if opens is not None and found.opens <= closes:
            closes = max(closes, found.closes)
            continue
        if opens is not None and moment < closes:
            break
        opens, closes = found.opens, found.closes
    if opens is None or moment >= closes:
        raise ValueError(f"the window does not open within {_DAYS_AHEAD} days")
    return Opening(opens=opens, closes=closes)


def _openings(window: Window, zone: tzinfo, first: date) -> Iterator[Opening]:
    """Yield the openings by day, from the first day on; those that a change of the clock skips are left out."""
    length = _opening_length(window)
    for number in range(_DAYS_AHEAD):
        day = first + timedelta(days=number)
        if window.days and _DAYS[day.weekday()] not in window.days:
            continue
        opens, closes = (_first_moment(zone, day, seconds) for seconds in (window.from_, window.from_ + length))
        if closes > opens:
            yield Opening(opens=opens, closes=closes)


def _first_moment(zone: tzinfo, day: date, seconds: int) -> float:
    """Return the first moment at which the clock shows this time, `seconds` after the midnight of the day, or later."""
    shown = datetime(day.year, day.month, day.day) + timedelta(seconds=seconds)  # noqa: DTZ001 - what a clock shows
    moment = shown.replace(tzinfo=zone).timestamp()  # of two moments, the first one
    if _shown(zone, moment) == shown:
        return moment
    before, after = int(shown.replace(tzinfo=zone, fold=1).timestamp()), int(moment)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if _shown(zone, middle) >= shown else (middle, after)
    return float(after)


def _shown(zone: tzinfo, moment: float) -> datetime:
    """Return what a clock in this zone shows."""
    return datetime.fromtimestamp(moment, zone).replace(tzinfo=None, fold=0)


@cache
def _zone_of(name: str) -> tzinfo:
    """Return a time zone. ValueError if there is none with this name."""
    import zoneinfo  # only plans with a window need it

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def _opening_length(window: Window) -> int:
    """Return how long the window is open on one day, in seconds on a clock that does not change."""
    return (window.to - window.from_) % _DAY or _DAY


def longest_opening(window: Window) -> float:
    """Return how long the window is open at most, in seconds, apart from changes of the clock."""
    length = _opening_length(window)
    if length < _DAY or not window.days:
        return length
    week = [day in window.days for day in (*_DAYS, *_DAYS)]
    longest = running = 0
    for is_open in week:
        running = running + 1 if is_open else 0
        longest = max(longest, running)
    return min(longest, len(_DAYS)) * _DAY


def time_of_day(seconds: int) -> str:
    """Return a time of day as a plan has it: `22:00`, or `22:00:15`."""
    hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


def window_words(window: Window) -> str:
    """Return when the window is open: `sat, sun 22:00 to 05:00 (Europe/Berlin)`."""
    days = f"{', '.join(window.days)} " if window.days else ""
    return f"{days}{time_of_day(window.from_)} to {time_of_day(window.to)} ({window.timezone})"


def local_words(window: Window, moment: float, *, seen_at: float | None = None) -> str:
    """Return a moment in the window's time zone: `Sat 2026-01-03 22:00 CET`; without the date if it is `seen_at` that
    day."""
    try:
        zone = _zone_of(window.timezone)
    except ValueError:  # a record of another machine, which knows this zone
        zone = UTC
    shown = datetime.fromtimestamp(moment, zone)
    same_day = seen_at is not None and datetime.fromtimestamp(seen_at, zone).date() == shown.date()
    clock = "%H:%M:%S %Z" if shown.second else "%H:%M %Z"
    return shown.strftime(clock if same_day else f"%a %Y-%m-%d {clock}")


# --- reading and checking ---


def read_window(fields: Fields) -> Window | None:
    """Return the window of a plan, None without one or if it has an error."""
    written = fields.mapping("window")
    if written is None:
        return None
    timezone, begin, end = (written.scalar(key) for key in ("timezone", "from", "to"))
    if timezone is None or begin is None or end is None:
        return None
    window = Window(
        timezone=timezone.text,
        from_=_seconds(begin.text),
        to=_seconds(end.text),
        days=tuple(day for day in _DAYS if day in written.texts("days")),
        outside=written.choice("outside", Outside.REFUSE),
        at_end=written.choice("at_end", AtEnd.DRAIN),
        fit=written.choice("fit", Fit.OFF),
        position=written.position,
    )
    if not _known_zone(written, window.timezone):
        return None
    if longest_opening(window) >= _DAY and (not window.days or len(window.days) == len(_DAYS)):
        message = f"the window opens every day at {time_of_day(window.from_)} for 24 hours, so it never closes"
        written.add(end, "JP243", message, hint="name the `days` on which it opens, or remove `window`")
        return None
    return window


def _seconds(text: str) -> int:
    hour, minute, second = (int(part) for part in (*text.split(":"), "0")[:3])
    return (hour * 60 + minute) * 60 + second


def _known_zone(fields: Fields, name: str) -> bool:
    try:
        _zone_of(name)
    except ValueError as error:
        import zoneinfo

        known = zoneinfo.available_timezones()
        hint = _nearest_zone(fields, name, known)
        fields.add(fields.scalar("timezone") or fields, "JP242", str(error), hint=hint)
        return False
    return True


def _nearest_zone(fields: Fields, name: str, known: set[str]) -> str | None:
    if not known:
        return "this machine has no time zones: install tzdata, as a package of the system or with pip"
    by_lower = {zone.lower(): zone for zone in known}
    cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(known, reverse=True)}
    wanted = name.strip().replace(" ", "_").lower()
    exact = by_lower.get(wanted) or cities.get(wanted.rpartition("/")[2])
    return f"did you mean `{exact}`?" if exact else fields.report.guesses.did_you_mean(name, sorted(known))


def check_window(drafts: Sequence[Draft], window: Window | None, *, has_window: bool) -> None:
    """Report steps that the window of the plan does not fit; `has_window`: it has one, perhaps with an error."""
    for draft in (one for outer in drafts for one in outer.inner or (outer,)):
        ignores = draft.step.window is StepWindow.IGNORE
        if ignores and not has_window:
            message = "`window: ignore` has no effect: the plan has no `window`"
            draft.fields.add(draft.place("window"), "JP245", message, hint="remove it")
        if window is not None and not ignores and not draft.finally_:
            _check_timeout(draft, window)


def _check_timeout(draft: Draft, window: Window) -> None:
    timeout, longest = draft.step.timeout, longest_opening(window)
    if timeout is None or timeout <= longest:
        return
    written = draft.fields.text("timeout")
    draft.fields.add(
        draft.place("timeout"),
        "JP244",
        f"`timeout` is {written}, and the window is open for at most {format_duration(longest)}",
        hint="shorten `timeout`, or write `window: ignore` if the step may run while the window is closed",
        cause=Cause(key=written, part=draft.part),
    )
