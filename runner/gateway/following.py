"""Follows a worker by its identity: finds it, signals it if it is to stop, and sees when it has gone.

That is all that can be done for a worker whose launcher session is lost, or was another runner's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from runner.engine.events import Worker
from runner.errors import GatewayError
from runner.gateway.base import WorkerEnd

#: Seconds between two looks at a worker that nobody else can tell about.
LOOK = 0.25
#: Looks that find nothing before a worker that was never seen counts as gone. Between the launch and the row in
#: pg_stat_activity lies the postmaster's fork, and no view shows a worker that is asked for and not yet there.
LOOKS_IN_VAIN = 12
#: Looks after which a worker that was asked to stop and still runs is asked again.
SIGNAL_AGAIN = 20


class Monitor(Protocol):
    """What a worker needs from the run's monitor session. GatewayError if nobody can look now."""

    async def identify(self, application_name: str, pid: int) -> Worker | None:
        """Find the worker in pg_stat_activity."""
        ...

    async def lives(self, application_name: str, worker: Worker | None) -> bool:
        """Say whether the worker is there. ServerLostError if the server cannot be reached again."""
        ...

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:
        """Say whether the worker waits for the session's snapshot."""
        ...

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if it is seen there and then."""
        ...

    def is_blocked(self, worker: Worker) -> bool:
        """Say whether the worker was last seen stopped by its full output queue."""
        ...

    async def reconnected(self) -> None:
        """Wait until the server answers. ServerLostError if it has not answered for a minute."""
        ...

    async def cancelled_by(self, application_name: str) -> str | None:
        """Return who has asked through the server for the worker's end."""
        ...


class Follower:
    """See the module's docstring. `worker` is who it is, once it has been seen on the server."""

    def __init__(self, name: str, monitor: Monitor, *, worker: Worker | None = None) -> None:
        self.name = name
        self.worker = worker
        self.pid = 0
        self.detaching = False
        self._monitor = monitor
        self._cancelling = False
        self._signals_in = 0

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._cancelling = True

    def detach(self) -> None:
        """Let go of the worker as soon as it has been seen."""
        self.detaching = True

    @property
    def has_orders(self) -> bool:
        """Say whether the worker is to be cancelled or detached."""
        return self._cancelling or self.detaching

    async def look_after(self, seen: Callable[[Worker], None]) -> None:
        """Find out who the worker is, and signal it if it is to be cancelled; again after a while if it stays.

        While the monitor is away that has to wait; the worker is followed all the same.
        """
        with contextlib.suppress(GatewayError):
            if self.worker is None:
                self.worker = await self._monitor.identify(self.name, self.pid)
                if self.worker is not None:
                    seen(self.worker)
            if self._cancelling and self.worker is not None:
                if self._signals_in == 0:
                    await self._monitor.cancel(self.worker)
                    self._signals_in = SIGNAL_AGAIN
                self._signals_in -= 1

    async def gone(self, seen: Callable[[Worker], None]) -> bool:
        """Wait until the worker has gone; false if it was let go of before.

        One that was never seen may be on its way: a launch that was broken off may have asked for it a moment ago.
        ServerLostError if the server cannot be reached again.
        """
        in_vain = 0
        while (there := await self._monitor.lives(self.name, self.worker)) or self.worker is None:
            in_vain = 0 if there else in_vain + 1
            if in_vain > LOOKS_IN_VAIN:
                break
            await self.look_after(seen)
            if self.detaching and self.worker is not None:
                return False
            await asyncio.sleep(LOOK)
        return True


_ORPHANED = "the runner that had launched it is gone"


class AdoptedWorker:
    """The worker of a runner that is gone; see `base.WorkerHandle`. Nobody hears from it any longer (trap 1).

    Unless it is `awaited`, it counts as let go of when it has gone.
    """

    def __init__(self, worker: Worker, monitor: Monitor, *, awaited: bool = True) -> None:
        self._awaited = awaited
        self._follower = Follower(worker.application_name, monitor, worker=worker)
        self._monitor = monitor

    @property
    def worker(self) -> Worker | None:
        """Who it is."""
        return self._follower.worker

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._follower.cancel()

    def detach(self) -> None:
        """Let go of the worker."""
        self._follower.detach()

    async def ended(self, *, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:  # noqa: ARG002 - everybody knows
        """Wait until the worker has gone or was let go of."""
        if not await self._follower.gone(seen) or not self._awaited:
            return WorkerEnd(worker=self.worker, detached=True)
        by = await self._monitor.cancelled_by(self._follower.name)
        return WorkerEnd(worker=self.worker, lost=True, reason=_ORPHANED, cancelled_by=by)
