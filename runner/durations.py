"""Durations as written in a plan: `500ms`, `30s`, `10m`, `2h`, `1d`, and sums such as `1h30m`."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
#: The form of a duration whose numbers have any length.
_LONG = re.compile(r"(?:\d+(?:\.\d{1,3})?(?:ms|s|m|h|d))+", re.ASCII)

#: The longest duration that PostgreSQL's millisecond settings can hold (2**31 - 1 ms, almost 25 days).
MAX_SECONDS = 2_147_483.647


def parse_duration(text: str, *, for_server: bool = True) -> float:
    """Return the seconds of the duration `text`.

    ValueError, with a sentence about what is expected, if it is not a duration, if its units are not in
    descending order, or if it is `for_server` and longer than PostgreSQL can count in milliseconds.
    """
    if not _WHOLE.fullmatch(text) and _LONG.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is out of range; no number in a duration has more than 9 digits")
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write it like 500ms, 30s, 10m, 2h, 1d or 1h30m")
    parts = _PART.findall(text)
    units = [_UNITS[unit] for _, unit in parts]
    if units != sorted(set(units), reverse=True):
        raise ValueError(f"{text!r} is not a duration; name each unit once, the longest first, like 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if for_server and seconds > MAX_SECONDS:
        raise ValueError(f"{text!r} is longer than PostgreSQL can count in milliseconds (24d20h at most)")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds in a readable form: `3ms`, `1.25s`, `2m05s`, `3h04m`, `2d03h`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, below in ((86400, ("d", 3600, "h")), (3600, ("h", 60, "m")), (60, ("m", 1, "s"))):
        if whole >= unit:
            name, divisor, rest_name = below
            return f"{whole // unit}{name}{whole % unit // divisor:02d}{rest_name}"
    return f"{whole}s"


def to_milliseconds(seconds: float) -> int:
    """Return whole milliseconds for a PostgreSQL setting: at least 1, because 0 would mean "no limit" there."""
    return max(1, round(seconds * 1000))
