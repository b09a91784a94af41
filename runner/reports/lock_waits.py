"""A worker's wait for a lock in words, and which waits are long enough for a log.

The live terminal shows a wait at once (`sights`). A log is read later, so it gets a line only for a wait of `LONG`
seconds, and another one when that wait is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.durations import format_duration
from runner.engine import events as ev
from runner.identity import step_of

#: Seconds after which a log has a line for a wait.
LONG = 10.0
#: Sessions that are named.
_NAMED = 3
#: What is locked, for lock types that pg_locks gives no relation for.
_OBJECTS = {
    "transactionid": "a row that another transaction has changed",
    "virtualxid": "an older transaction",
    "advisory": "an advisory lock",
}


def lock_words(mode: str, lock: str, relation: str | None) -> str:
    """Say what a worker waits for: `AccessExclusiveLock on public.orders`."""
    if relation is None:
        return f"{mode} on {_OBJECTS.get(lock, lock)}"
    return f"{mode} on {'' if lock == 'relation' else 'a row of ' if lock in _ROWS else f'{lock} of '}{relation}"


#: Lock types with which a worker waits for a row.
_ROWS = frozenset({"transactionid", "tuple"})


def holder_words(by: Sequence[ev.Blocker]) -> str:
    """Name the sessions that a worker waits for; empty if none was seen."""
    more = f" and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
    return ", ".join(_holder(one) for one in by[:_NAMED]) + more


def _holder(one: ev.Blocker) -> str:
    if one.pid == 0:
        return "a prepared transaction"
    step = step_of(one.name)
    name = f" step {step}" if step else f" app '{one.name}'" if one.name else ""
    user = f" user {one.user}" if one.user and not step else ""
    since = f" in a transaction of {format_duration(one.seconds)}" if one.seconds is not None else ""
    return f"pid {one.pid}{name}{user}{since}"


def blocked_line(event: ev.AttemptBlocked, now: float) -> str:
    """Say that a worker waits, and since when."""
    holder = holder_words(event.by)
    waited = format_duration(max(0.0, now - event.waiting_since))
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: has waited {waited} for {lock}{f', held by {holder}' if holder else ''}"


def unblocked_line(event: ev.AttemptUnblocked) -> str:
    """Say that a wait is over, and how long it was."""
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: no longer waits for {lock}, after {format_duration(event.seconds)}"


class LongWaits:
    """The waits of a run that are not over; each is due once, when it has lasted `LONG` seconds."""

    def __init__(self) -> None:
        self._open: dict[str, ev.AttemptBlocked] = {}
        self._told: set[str] = set()

    def take(self, event: ev.Event) -> bool:
        """Note what the event says; True if it ends a wait that was due."""
        if isinstance(event, ev.AttemptBlocked):
            self._open[event.step] = event
            return False
        if isinstance(event, ev.AttemptUnblocked | ev.AttemptFinished | ev.AttemptLaunching):
            self._open.pop(event.step, None)
            told = event.step in self._told
            self._told.discard(event.step)
            return told and isinstance(event, ev.AttemptUnblocked)
        return False

    def due(self, now: float) -> Iterator[ev.AttemptBlocked]:
        """Yield the waits that have become long since the last call."""
        for step, event in self._open.items():
            if step not in self._told and now - event.waiting_since >= LONG:
                self._told.add(step)
                yield event
