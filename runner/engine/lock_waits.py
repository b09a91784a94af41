"""From looks at a run's workers to the events that record which of them waited for a lock.

Pure: `look` takes what one look has found and returns events. A worker that takes thousands of locks one after the
other must not fill the journal, so a wait is recorded only once it has lasted `FIRST` seconds, and each further wait of
the same attempt only once it has lasted twice as long as the one before, up to `LONGEST`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.engine import events as ev
from runner.engine.state import RunState

#: Seconds after which the first wait of an attempt is recorded, and the most that later ones must last.
FIRST = 1.0
LONGEST = 64.0
#: Seconds by which the start of one and the same wait may seem to differ between two looks.
_TOLERANCE = 1.0


@dataclass(slots=True, kw_only=True)
class _Watched:
    """What is known of one attempt: the wait that is recorded and not over, and how long the next one must last."""

    attempt: int
    open: ev.AttemptBlocked | None = None
    threshold: float = FIRST
    told_at: float = 0.0


class LockWaits:
    """Remembers, for each step with a worker, what is recorded of its waits."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._watched: dict[str, _Watched] = {}

    def look(self, waits: Mapping[ev.Identity, ev.LockWait], now: float) -> list[ev.AttemptEvent]:
        """Return what one look at the workers is worth: `waits` has those that wait for a lock."""
        if not waits and not self._watched:
            return []
        events: list[ev.AttemptEvent] = []
        for key in self._state.active:
            record = self._state.records[key]
            if record.worker is None:
                continue
            wait = waits.get((record.worker.pid, record.worker.backend_start))
            watched = self._watched.get(key)
            if watched is None or watched.attempt != record.attempt:
                if wait is None:
                    continue
                watched = self._watched[key] = _Watched(attempt=record.attempt)
            events += _changes(key, watched, wait, now)
        return events

    def end(self, finished: ev.AttemptFinished) -> list[ev.AttemptEvent]:
        """Return the end of a wait that ends because its worker has; a detached worker may go on waiting."""
        watched = self._watched.pop(finished.step, None)
        if watched is None or watched.open is None or watched.attempt != finished.attempt:
            return []
        return [] if finished.outcome is ev.Outcome.DETACHED else [_over(watched, finished.at, ended=finished.at)]


def _changes(key: str, watched: _Watched, wait: ev.LockWait | None, now: float) -> list[ev.AttemptEvent]:
    events: list[ev.AttemptEvent] = []
    if watched.open is not None and (wait is None or not _is_same(watched.open, wait, now)):
        events.append(_over(watched, now, ended=now if wait is None else now - wait.seconds))
    if wait is None:
        return events
    if watched.open is not None:
        others = {one.pid for one in watched.open.by} != {one.pid for one in wait.by}
        due = others and now - watched.told_at >= watched.threshold
    else:
        due = wait.seconds >= watched.threshold
    if due:
        watched.open = ev.AttemptBlocked(
            at=now,
            step=key,
            attempt=watched.attempt,
            mode=wait.mode,
            lock=wait.lock,
            relation=wait.relation,
            by=wait.by,
            waiting_since=now - wait.seconds if watched.open is None else watched.open.waiting_since,
            seconds=_ms(wait.seconds),
        )
        watched.told_at = now
        watched.threshold = min(LONGEST, 2 * watched.threshold)
        events.append(watched.open)
    return events


def _is_same(blocked: ev.AttemptBlocked, wait: ev.LockWait, now: float) -> bool:
    began = now - wait.seconds
    lock = (blocked.mode, blocked.lock, blocked.relation) == (wait.mode, wait.lock, wait.relation)
    return lock and began <= blocked.waiting_since + _TOLERANCE


def _over(watched: _Watched, now: float, *, ended: float) -> ev.AttemptUnblocked:
    blocked, watched.open = watched.open, None
    if blocked is None:
        raise ValueError("no wait is open")
    return ev.AttemptUnblocked(
        at=now,
        step=blocked.step,
        attempt=blocked.attempt,
        mode=blocked.mode,
        lock=blocked.lock,
        relation=blocked.relation,
        by=blocked.by,
        seconds=_ms(max(blocked.seconds, ended - blocked.waiting_since)),
    )


def _ms(seconds: float) -> float:
    return round(seconds, 3)
