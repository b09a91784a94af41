"""Which waits for locks of a run's workers are recorded.

Pure: `LockWaits.look` takes the result of one poll and returns events. A worker that takes thousands of locks must not
fill the journal, so a wait is recorded only after `FIRST` seconds, and each further wait of the same attempt only after
twice the seconds of the previous one, up to `LONGEST`.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.engine import events as ev
from runner.engine.state import RunState
from runner.structs import Struct

#: Seconds after which the first wait of an attempt is recorded, and the upper limit for later ones.
FIRST = 1.0
LONGEST = 64.0
#: Seconds by which the start of the same wait may differ between two polls.
_TOLERANCE = 1.0


class _Watched(Struct, kw_only=True):
    """The waits of one attempt: the recorded wait that is not over, and how long the next one must last."""

    attempt: int
    open: ev.AttemptBlocked | None = None
    threshold: float = FIRST
    recorded_at: float = 0.0


class LockWaits:
    """Decides which lock waits of a run's workers are recorded."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._watched: dict[str, _Watched] = {}

    def look(self, waits: Mapping[ev.Identity, ev.LockWait], now: float) -> list[ev.AttemptEvent]:
        """Return the events of one poll of the workers: `waits` has the workers that wait for a lock."""
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
        """Return the end of a wait that ends with its worker; a detached worker may continue to wait."""
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
        due = others and now - watched.recorded_at >= watched.threshold
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
        watched.recorded_at = now
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
