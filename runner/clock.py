"""Clocks: code that needs the time receives a Clock as a parameter, so that tests need not wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of the time in seconds since the Unix epoch; it never goes backwards."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01 00:00 UTC."""
        ...


class MonotonicClock:
    """The wall clock at its creation, advanced by the monotonic clock.

    Corrections of the wall clock, by NTP or after a suspend, can therefore not make a timeout fire early or an event
    precede its cause.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch, never less than before."""
        return self._offset + time.monotonic()


def rfc3339(seconds: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC with milliseconds: `2026-01-02T03:04:05.678Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Return the seconds since the epoch from the text of `rfc3339`. ValueError or TypeError if it is another text."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.timestamp()
