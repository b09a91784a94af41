"""How the sessions of a run wait for its workers: in the server for some milliseconds, and then in the runner.

A session that waits inside the server holds a snapshot. VACUUM cannot remove what that snapshot may still see, and
CREATE INDEX and REINDEX CONCURRENTLY wait in several of their phases until it is released: the worker's own command,
another step's, and every other client's. So a session waits in the server only during the first moments of a worker, in
slices of some milliseconds with a snapshot each, and not at all while a step of the run waits for snapshots itself.
After that the runner sleeps, and each look at the worker is a statement that waits for nothing. The measurements behind
the numbers are in docs/decisions/0016-waiting-holds-no-snapshot.md.
"""

from __future__ import annotations

import asyncio
import math

from runner.engine.ports import LaunchRequest

#: Milliseconds that one statement waits in the server at most.
SLICE = 15
#: Milliseconds of the slice that is part of a launch: at most, and less by one for each other worker, because the
#: launch itself takes the longer the more there are. At least, and while snapshots matter; 0 would mean: without end.
FIRST_SLICE = 12
LEAST_SLICE = 1
#: Slices that follow a launch in its round trip at most.
MOST_SLICES = 12
#: Seconds since the launch for which a session waits in the server, and how long the steps of a run usually take at
#: most for that to be worth it.
IN_SERVER = 0.2
_SHORT = 0.2
#: Slices are sent with a launch once steps need so many on average; then so many times as many, because a slice that is
#: not needed costs less than a round trip.
_RARE, _SPARE = 0.2, 1.5
#: How much the latest step counts in what is usual, and the seconds from which on a step counts no more.
_WEIGHT = 0.15
_LONGEST = 2.0
#: Seconds between two looks: at least; for each square root of a second since the launch; and from `_LONG` seconds
#: since the launch on. A look costs a fifth of a millisecond, so the best interval grows with the root of the time.
_LEAST_PAUSE = 0.003
_PAUSE = 0.025
_LONG = 5.0
_LONG_PAUSE = 0.25
#: Seconds since the launch after which the worker is looked up in pg_stat_activity.
IDENTIFY_AFTER = 0.1


def pause_after(elapsed: float) -> float:
    """Return the seconds until the next look at a worker that was launched `elapsed` seconds ago."""
    if elapsed >= _LONG:
        return _LONG_PAUSE
    return max(_LEAST_PAUSE, _PAUSE * math.sqrt(max(elapsed, 0.0)))


class Rhythm:
    """What the sessions of one run share: which workers there are, and how long the run's steps usually take."""

    def __init__(self) -> None:
        self._workers: set[int] = set()
        self._for_snapshots: set[int] = set()
        #: Seconds that a step takes, and slices after the one of its launch, as the latest steps have it.
        self._seconds = 0.0
        self._slices = 0.0

    def begin(self, request: LaunchRequest, *, for_snapshots: bool) -> None:
        """Take a worker; `for_snapshots`: its statement waits until older snapshots are released."""
        self._workers.add(id(request))
        if for_snapshots:
            self._for_snapshots.add(id(request))

    def end(self, request: LaunchRequest) -> None:
        """Forget a worker."""
        self._workers.discard(id(request))
        self._for_snapshots.discard(id(request))

    @property
    def snapshots_matter(self) -> bool:
        """Say whether a worker of the run waits for snapshots, so that no session of it waits in the server."""
        return bool(self._for_snapshots)

    def first_slices(self) -> tuple[int, int]:
        """Return the milliseconds of the slice that is part of a launch, and how many further ones follow it."""
        if self.snapshots_matter:
            return LEAST_SLICE, 0
        others = max(0, len(self._workers) - 1)
        slices = math.ceil(_SPARE * self._slices) + 1 if self._slices >= _RARE else 0
        return max(LEAST_SLICE, FIRST_SLICE - others), min(MOST_SLICES, slices)

    def waits_in_server(self, elapsed: float) -> bool:
        """Say whether a session may wait in the server for a worker that was launched `elapsed` seconds ago."""
        return elapsed < IN_SERVER and self._seconds < _SHORT and not self.snapshots_matter

    def learn(self, seconds: float, slices: int) -> None:
        """Take how long a step has taken, and how many slices it needed after the one of its launch."""
        self._seconds += (min(seconds, _LONGEST) - self._seconds) * _WEIGHT
        needed = slices if self._seconds < _SHORT else 0
        self._slices += (needed - self._slices) * _WEIGHT


class Pauses:
    """The pauses between the looks at one worker."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._sleeping: asyncio.Future[None] | None = None
        self._interrupted = False

    def begin(self) -> None:
        """Count from now: the worker is launched."""
        self._start = self._loop.time()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the launch."""
        return self._loop.time() - self._start

    def interrupt(self) -> None:
        """End the current or the next pause at once: there is something to do about the worker."""
        self._interrupted = True
        self._wake()

    async def pause(self) -> bool:
        """Sleep until the next look is due; false if the pause was interrupted."""
        if not self._interrupted:
            self._sleeping = self._loop.create_future()
            alarm = self._loop.call_later(pause_after(self.elapsed), self._wake)
            try:
                await self._sleeping
            finally:
                alarm.cancel()
                self._sleeping = None
        undisturbed, self._interrupted = not self._interrupted, False
        return undisturbed

    def _wake(self) -> None:
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)
