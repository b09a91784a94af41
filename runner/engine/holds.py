"""Holds at run time: what a measurement means, and which changes of a hold are recorded.

A gateway measures a hold; its result is rows of text. `read_measurement` compares them with the plan's limit.
`HoldWatch` is pure like `LockWaits`: it takes one measurement after the other and returns events. A hold begins with
the first measurement that is on, and ends with the first one after the condition was false for `release_after`. A
measurement that fails counts as on, because the state of the server is then unknown.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.ports import QueryResult
from runner.phrases import counted
from runner.plan.model import Hold
from runner.plan.sqlstates import INSUFFICIENT_PRIVILEGE
from runner.structs import Struct

#: Seconds after which a changed value of a hold is recorded again, at first and at most.
FIRST, LONGEST = 10.0, 300.0
#: Seconds that a measurement may take: at least, and at most.
_SHORTEST_LIMIT, _LONGEST_LIMIT = 1.0, 10.0
#: Why a role cannot measure a hold.
NEEDS_MONITOR = "this role cannot see other sessions: GRANT pg_monitor to it"
_UNITS = ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


class Measurement(Struct, frozen=True, kw_only=True):
    """Whether the condition of a hold is true, and the measured value in words. With `error` it is unknown."""

    on: bool
    value: str
    error: ev.ErrorDetails | None = None
    #: The server could not be reached for so long that no step can start on it.
    server_lost: bool = False

    @property
    def lacks_privilege(self) -> bool:
        """Whether the role may not measure it."""
        return self.error is not None and self.error.sqlstate == INSUFFICIENT_PRIVILEGE


def limit_of(hold: Hold) -> float:
    """Return the seconds that one measurement of the hold may take."""
    return min(max(hold.every, _SHORTEST_LIMIT), _LONGEST_LIMIT)


def failed_measurement(error: ev.ErrorDetails, *, server_lost: bool = False) -> Measurement:
    """Return what a failed measurement means: the hold counts as on."""
    text = error.message if error.sqlstate is None else f"{error.message} (SQLSTATE {error.sqlstate})"
    return Measurement(on=True, value=f"it cannot be measured: {text}", error=error, server_lost=server_lost)


def read_measurement(hold: Hold, result: QueryResult) -> Measurement:
    """Return what the result of a measurement means; see `gateway/holds.sql` for the columns."""
    if result.error is not None:
        return failed_measurement(result.error)
    if hold.while_ is not None:
        return _of_condition(result)
    row = result.rows[0] if result.rows else (None, None, None)
    measured, name, hidden = row
    if hidden == "t":
        return failed_measurement(ev.ErrorDetails(message=NEEDS_MONITOR, sqlstate=INSUFFICIENT_PRIVILEGE))
    return _compared(hold, 0.0 if measured is None else float(measured), name or "")


def _compared(hold: Hold, number: float, name: str) -> Measurement:
    """Compare a number with the hold's limit; a missing lag is 0."""
    if hold.replication_lag is not None:
        value = f"replay lag of {name} {format_duration(number)}" if name else "no standby lags behind"
        return Measurement(on=number > hold.replication_lag, value=value)
    if hold.wal_to_archive is not None:
        return Measurement(on=number > hold.wal_to_archive, value=f"{_size(number)} of WAL to archive")
    if hold.active_sessions is not None:
        return Measurement(on=number > hold.active_sessions, value=counted(round(number), "active session"))
    value = f"autovacuum works on {name}" if name else "autovacuum works on none of the tables"
    return Measurement(on=bool(name), value=value)


def _of_condition(result: QueryResult) -> Measurement:
    on = result.truth("while")
    if isinstance(on, str):
        return failed_measurement(ev.ErrorDetails(message=on))
    return Measurement(on=on, value="while is true" if on else "while is not true")


def _size(number: float) -> str:
    for factor, unit in _UNITS:
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return f"{number:.0f}B"


class HoldWatch:
    """Decides which changes of one hold are recorded, from its measurements in order. Times are seconds."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._measured = False
        self._on: ev.HoldBegan | None = None
        self._recorded_at = 0.0
        self._pause = FIRST
        #: Since when the condition of a hold that is on has been false.
        self._false_since: float | None = None

    def take(self, measurement: Measurement, now: float) -> Iterator[ev.HoldEvent]:
        """Yield the events of one measurement."""
        first, self._measured = not self._measured, True
        if self._on is None:
            if measurement.on:
                self._pause = FIRST
                yield self._began(measurement, since=now, now=now)
            elif first:
                yield ev.HoldMeasured(at=now, hold=self._hold.name, value=measurement.value)
            return
        if measurement.on:
            self._false_since = None
            if self._differs(measurement, now):
                yield self._began(measurement, since=self._on.since, now=now)
            return
        self._false_since = now if self._false_since is None else self._false_since
        if now - self._false_since >= self._hold.release_after:
            seconds = round(now - self._on.since, 3)
            self._on = self._false_since = None
            yield ev.HoldEnded(at=now, hold=self._hold.name, value=measurement.value, seconds=seconds)

    def _began(self, measurement: Measurement, *, since: float, now: float) -> ev.HoldBegan:
        self._on = ev.HoldBegan(
            at=now,
            hold=self._hold.name,
            value=measurement.value,
            since=since,
            error=measurement.error,
            server_lost=measurement.server_lost,
        )
        self._recorded_at = now
        return self._on

    def _differs(self, measurement: Measurement, now: float) -> bool:
        """Return whether to record the value again: after a pause, or at once if its query fails or no longer fails.

        Whether the server is given up is recorded at once, too.
        """
        if self._on is not None and measurement.server_lost != self._on.server_lost:
            return True
        if self._on is None or measurement.value == self._on.value:
            return False
        if (measurement.error is None) != (self._on.error is None):
            return True
        due = now - self._recorded_at >= self._pause
        if due:
            self._pause = min(LONGEST, 2 * self._pause)
        return due
