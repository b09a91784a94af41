"""When a session looks whether its worker has ended.

A session that waits inside the server holds a snapshot. VACUUM cannot remove what that snapshot may still see, and
CREATE INDEX and REINDEX CONCURRENTLY wait in several of their phases until it is released: the worker's own command,
another step's, and every other client's. So a session waits in the server only during the first moments of a worker, in
slices of `SLICE`, and not at all while a step of the run waits for snapshots itself. After that the runner sleeps, and
each look at the worker is a statement that waits for nothing. docs/decisions/0016-waiting-holds-no-snapshot.md has the
measurements.
"""

from __future__ import annotations

import asyncio
import math

#: Milliseconds that one statement waits in the server at most. The launch and its first slice are one statement, and
#: the launch itself takes some milliseconds.
SLICE = 10
#: Milliseconds of the slice that travels with a launch while snapshots matter. 0 would mean: without end.
LEAST_SLICE = 1
#: Seconds since the launch for which a session waits in the server. A worker that ends by then is seen at once.
IN_SERVER = 0.06
#: Seconds between two looks from then on: at least; for each square root of a second since the launch; and from `LONG`
#: seconds since the launch on. A look costs a fifth of a millisecond, so the best interval grows with the square root.
_LEAST_PAUSE = 0.003
_PAUSE = 0.025
_LONG = 5.0
_LONG_PAUSE = 0.25
#: Seconds since the launch after which the worker is looked up in pg_stat_activity.
IDENTIFY_AFTER = 0.04


def pause_after(elapsed: float) -> float:
    """Return the seconds until the next look at a worker that was launched `elapsed` seconds ago."""
    if elapsed >= _LONG:
        return _LONG_PAUSE
    return max(_LEAST_PAUSE, _PAUSE * math.sqrt(max(elapsed, 0.0)))


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
