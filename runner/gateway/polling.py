"""How the sessions of a run wait for its workers: some milliseconds inside the server, afterwards in the runner.

A session that waits inside the server holds a snapshot. VACUUM cannot remove rows that this snapshot may see, and
CREATE INDEX and REINDEX CONCURRENTLY wait for its release in several phases: those of the worker, of other steps, and
of all other clients (docs/pg_background.md#waiting-holds-a-snapshot). So a session waits in the server only at the
beginning of a worker, in slices of some milliseconds with a snapshot each, and not at all while a step of the run waits
for snapshots itself. Afterwards the runner sleeps between polls, and each poll is a statement that does not wait. Work
that was done before in this run, such as the previous batch of a loop, is expected to take about as long again: polls
are rarer before that time, and more frequent around it. The measurements are in
docs/decisions/0016-waiting-holds-no-snapshot.md and docs/decisions/0049-a-backfill-by-night.md.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from runner.engine.ports import LaunchRequest

#: The limit of one wait inside the server, in milliseconds.
SLICE = 15
#: Milliseconds of the slice that is part of a launch: the maximum, less one for each other worker, because a launch is
#: slower with more workers; and the minimum, also used while snapshots matter. 0 would mean: without limit.
FIRST_SLICE = 12
LEAST_SLICE = 1
#: The limit of slices that are sent with a launch.
MOST_SLICES = 12
#: Seconds since the launch for which a session waits in the server, and the limit for the usual time of a step: for
#: longer steps it is not worthwhile.
IN_SERVER = 0.2
_SHORT = 0.2
#: Slices are sent with a launch if steps need this many on average; the number is multiplied by `_SPARE`, because an
#: unused slice costs less than a round trip.
_RARE, _SPARE = 0.2, 1.5
#: The weight of the latest step in the moving averages, and the limit in seconds that one step contributes.
_WEIGHT = 0.15
_LONGEST = 2.0
#: Seconds between two polls: the minimum; per square root of a second since the launch; and, from `_LONG` seconds since
#: the launch, a fixed value. A poll costs a fifth of a millisecond, so the best interval grows with the root of the
#: time.
_LEAST_PAUSE = 0.003
_PAUSE = 0.025
_LONG = 5.0
_LONG_PAUSE = 0.25
#: The part of the expected time after which, and before which, the end is expected; the seconds between two polls then,
#: for each expected second. Before that a pause is this many times as long as without an expectation.
_FROM, _TO = 0.8, 1.25
_NEAR = 0.004
_EARLY = 2.0
#: Seconds since the launch after which the worker is looked up in pg_stat_activity.
IDENTIFY_AFTER = 0.1


def pause_after(elapsed: float, expected: float | None = None, workers: int = 1) -> float:
    """Return the seconds until the next poll of a worker that was launched `elapsed` seconds ago.

    `expected` is the time that it is expected to take, None if it is unknown; `workers` run at the same time. With more
    of them there are more polls, and a slot that is free a moment later matters less.
    """
    many = math.sqrt(workers)
    pause = _LONG_PAUSE if elapsed >= _LONG else max(_LEAST_PAUSE, many * _PAUSE * math.sqrt(max(elapsed, 0.0)))
    pause = min(pause, _LONG_PAUSE)
    if expected is None or expected < IN_SERVER or elapsed >= _TO * expected:
        return pause
    if elapsed >= _FROM * expected:
        return max(_LEAST_PAUSE, min(pause, many * _NEAR * expected))
    return max(_LEAST_PAUSE, min(_EARLY * pause, _LONG_PAUSE, _FROM * expected - elapsed))


class Rhythm:
    """The state that the sessions of one run share: the running workers, and the usual time of its steps."""

    def __init__(self) -> None:
        self._workers: set[int] = set()
        self._for_snapshots: set[int] = set()
        #: Moving averages: the seconds of a step, and the slices after that of its launch.
        self._seconds = 0.0
        self._slices = 0.0
        #: What the last worker with each piece of work took, in seconds.
        self._last: dict[str, float] = {}

    def begin(self, request: LaunchRequest, *, for_snapshots: bool) -> None:
        """Add a worker; `for_snapshots`: its statement waits until older snapshots are released."""
        self._workers.add(id(request))
        if for_snapshots:
            self._for_snapshots.add(id(request))

    def end(self, request: LaunchRequest) -> None:
        """Remove a worker."""
        self._workers.discard(id(request))
        self._for_snapshots.discard(id(request))

    @property
    def snapshots_matter(self) -> bool:
        """Whether a worker of the run waits for snapshots, so that no session of the run may wait in the server."""
        return bool(self._for_snapshots)

    def first_slices(self) -> tuple[int, int]:
        """Return the milliseconds of the slice that is part of a launch, and the number of further ones."""
        if self.snapshots_matter:
            return LEAST_SLICE, 0
        others = max(0, len(self._workers) - 1)
        slices = math.ceil(_SPARE * self._slices) + 1 if self._slices >= _RARE else 0
        return max(LEAST_SLICE, FIRST_SLICE - others), min(MOST_SLICES, slices)

    def waits_in_server(self, elapsed: float) -> bool:
        """Return whether a session may wait in the server for a worker that was launched `elapsed` seconds ago."""
        return elapsed < IN_SERVER and self._seconds < _SHORT and not self.snapshots_matter

    def workers(self) -> int:
        """Return how many workers run, at least one."""
        return max(1, len(self._workers))

    def expected(self, work: str) -> float | None:
        """Return the seconds that the last worker with this work took; None if it is the first one."""
        return self._last.get(work)

    def remember(self, work: str, seconds: float) -> None:
        """Record what a worker with this work took."""
        self._last[work] = seconds

    def learn(self, seconds: float, slices: int) -> None:
        """Record the seconds of a step, and the number of slices that it needed after that of its launch."""
        self._seconds += (min(seconds, _LONGEST) - self._seconds) * _WEIGHT
        needed = slices if self._seconds < _SHORT else 0
        self._slices += (needed - self._slices) * _WEIGHT


class Pauses:
    """The pauses between the polls of one worker, which is expected to take `expected` seconds, if that is known.

    `workers` returns how many run at the same time.
    """

    def __init__(self, expected: float | None = None, workers: Callable[[], int] = lambda: 1) -> None:
        self._expected = expected
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._sleeping: asyncio.Future[None] | None = None
        self._interrupted = False

    def begin(self) -> None:
        """Set the launch time to now."""
        self._start = self._loop.time()

    @property
    def elapsed(self) -> float:
        """The seconds since the launch."""
        return self._loop.time() - self._start

    def interrupt(self) -> None:
        """End the current or the next pause at once, because the worker needs an action."""
        self._interrupted = True
        self._wake()

    async def pause(self) -> bool:
        """Sleep until the next poll is due; return False if the pause was interrupted."""
        if not self._interrupted:
            self._sleeping = self._loop.create_future()
            alarm = self._loop.call_later(pause_after(self.elapsed, self._expected, self._workers()), self._wake)
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
