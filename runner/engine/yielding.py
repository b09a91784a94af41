"""Decides when a worker has blocked sessions outside the run for its step's `yield_after`.

Pure, like `LockWaits`: `look` takes the result of one poll and returns events. A worker blocks others continuously as
long as each poll finds a session that waits for it, although these may be different sessions: clients with a short
lock_timeout try again and again, and none of them waits for long. `pause` is how soon the next poll is needed, so that
a worker is cancelled shortly after its limit and not a whole poll later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.state import RunState
from runner.phrases import some
from runner.structs import Struct

#: Seconds between two polls: at most; at least; and when no worker must be watched, without a statement.
POLL, SHORTEST, IDLE = 0.5, 0.05, 0.25
#: Blocked sessions that an error names.
_NAMED = 3


class WatchedWorkers(Struct, frozen=True, kw_only=True):
    """The workers of one poll: those that must yield, and the pids of all workers of the run."""

    yielding: tuple[ev.Worker, ...] = ()
    own: tuple[int, ...] = ()


class _Period(Struct, kw_only=True):
    """How long the worker of one attempt has blocked others without a break."""

    attempt: int
    #: When the worker last blocked none; before that it had not begun.
    clear_at: float
    since: float | None = None
    recorded: bool = False


def blocked_sessions(others: Sequence[ev.Blocked]) -> str:
    """Return which sessions were blocked, for how long, and what they waited for; empty without any."""
    return some(list(map(_blocked_words, others)), _NAMED) if others else ""


def _blocked_words(one: ev.Blocked) -> str:
    name = f" app '{one.name}'" if one.name else ""
    user = f" user {one.user}" if one.user else ""
    word = f" ({one.query})" if one.query else ""
    waited = format_duration(one.seconds)
    return f"pid {one.pid}{name}{user} waited {waited} for {one.mode} on {one.relation or one.lock}{word}"


def yield_error(blocking: ev.AttemptBlocking | None) -> ev.ErrorDetails:
    """Return the error of an attempt that yielded: for how long it blocked which sessions."""
    words = ""
    if blocking is not None:
        words = f" for {format_duration(blocking.seconds)}: {blocked_sessions(blocking.others)}"
    return ev.ErrorDetails(message=f"cancelled because it blocked other sessions{words}")


class BlockedSessions:
    """See the module's docstring. It reads the state of the run, and never changes it."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._periods: dict[str, _Period] = {}
        #: Seconds until the next poll.
        self.pause = IDLE

    def workers(self) -> WatchedWorkers:
        """Return the workers that the next poll concerns."""
        records = [self._state.records[key] for key in self._state.active]
        seen = [record.worker for record in records if record.worker is not None]
        watched = (one.worker for one in records if one.step.yield_after is not None and one.cancel_reason is None)
        return WatchedWorkers(
            yielding=tuple(worker for worker in watched if worker is not None),
            own=tuple(worker.pid for worker in seen),
        )

    def look(self, blocked: Mapping[ev.Identity, Sequence[ev.Blocked]], now: float) -> Iterator[ev.AttemptBlocking]:
        """Yield the events of one poll: `blocked` has the sessions outside the run that wait for a worker."""
        self.pause = POLL
        for key in self._state.active:
            record = self._state.records[key]
            limit, worker = record.step.yield_after, record.worker
            if limit is None or worker is None:
                continue
            self.pause = min(self.pause, max(SHORTEST, limit / 2))
            period = self._periods.get(key)
            if period is None or period.attempt != record.attempt:
                began = record.launched_at if record.begun_at is None else record.begun_at
                period = _Period(attempt=record.attempt, clear_at=now if began is None else began)
                self._periods[key] = period
            others = blocked.get((worker.pid, worker.backend_start), ())
            if not others:
                period.since, period.clear_at = None, now
                continue
            if period.since is None:
                period.since = min(now, max(period.clear_at, now - max(other.seconds for other in others)))
            seconds = now - period.since
            if seconds < limit:
                self.pause = min(self.pause, max(SHORTEST, limit - seconds))
            elif not period.recorded:
                period.recorded = True
                yield ev.AttemptBlocking(
                    at=now,
                    step=key,
                    attempt=record.attempt,
                    others=tuple(others),
                    since=period.since,
                    seconds=round(seconds, 3),
                )
