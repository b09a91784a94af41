"""Follow a worker by its identity, its pid and backend_start: find it, signal it if it has to stop, see its end.

Nothing else can be done for a worker whose launcher session is lost, or was another runner's. Until a worker has been
seen it is searched for by what is known of its launch (`Sought`); then its name means nothing any more. A launch that
the server refused has an end from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runner.engine.events import ErrorDetails, Worker
from runner.engine.ports import OnUnstoppable, WorkerEnd, keep_waiting
from runner.errors import GatewayError

#: Seconds between two looks at a worker that nobody else can tell about.
LOOK = 0.25
#: Looks that find nothing before a worker that was never seen counts as gone. Between the launch and the row in
#: pg_stat_activity lies the postmaster's fork, and no view shows a worker that is asked for and not yet there.
LOOKS_IN_VAIN = 12
#: Seconds after which a worker that was asked to stop and still runs is asked again, and how often it is asked before
#: it is reported as one that cannot be stopped: 30 seconds after the first time.
SIGNAL_AGAIN = 5.0
SIGNALS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What is known of a worker that nobody has seen yet: what finds it among all workers.

    `name` is its application_name and `label` the comment in front of its text, both only claims; `pid` is what the
    launch returned, 0 if it did not, and `since` the server's time of the launch, as the server writes backend_start.
    """

    name: str
    label: str = ""
    pid: int = 0
    since: str = ""


class Monitor(Protocol):
    """What a worker needs from the run's monitor session. GatewayError if nobody can look now."""

    async def identify(self, sought: Sought) -> tuple[Worker, float] | None:
        """Find the worker in pg_stat_activity, and for how many seconds it has lived by the server's clock."""
        ...

    async def lives(self, sought: Sought, worker: Worker | None) -> bool:
        """Say whether the worker is there, or one that may be it. ServerLostError if the server cannot be reached."""
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

    async def cancelled_by(self, step: str) -> str | None:
        """Return the role that has requested, through the server, the end of this step's worker."""
        ...


class Follower:
    """See the module's docstring. `worker` is its identity, once it has been seen on the server."""

    def __init__(self, sought: Sought, monitor: Monitor, *, worker: Worker | None = None) -> None:
        self.sought = sought
        self.worker = worker
        #: For how many seconds the worker had lived, by the server's clock, when it was first seen.
        self.age: float | None = None
        self.detaching = False
        self._monitor = monitor
        self._cancelling = False
        #: When the worker is to be signalled next, by the clock of the event loop.
        self._signal_at = 0.0
        self._signals = 0
        self.unstoppable: OnUnstoppable = keep_waiting

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._cancelling = True

    def detach(self) -> None:
        """Detach the worker as soon as it has been seen."""
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
                found = await self._monitor.identify(self.sought)
                if found is not None:
                    self.worker, self.age = found
                    seen(self.worker)
            if self._cancelling and self.worker is not None:
                now = asyncio.get_running_loop().time()
                if now >= self._signal_at:
                    await self._monitor.cancel(self.worker)
                    self._signal_at = now + SIGNAL_AGAIN
                    self._signals += 1
                    if self._signals == SIGNALS:
                        self.unstoppable(self.worker, (SIGNALS - 1) * SIGNAL_AGAIN)

    async def gone(self, seen: Callable[[Worker], None]) -> bool:
        """Wait until the worker has ended; false if it was detached before.

        One that was never seen may still be starting: a launch that was interrupted may have requested it a moment ago.
        After `LOOKS_IN_VAIN` looks this returns all the same, with `worker` still None: not seen is not proof of an
        end. ServerLostError if the server cannot be reached again.
        """
        in_vain = 0
        while (there := await self._monitor.lives(self.sought, self.worker)) or self.worker is None:
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
    """The worker of a runner that has ended; see `ports.WorkerHandle`. Only that runner could read its result
    (pg_background.md#handles-are-session-local).

    Unless it is `awaited`, it counts as detached when it has ended. `step` is the step that it works for.
    """

    def __init__(self, worker: Worker, monitor: Monitor, *, step: str, awaited: bool = True) -> None:
        self._awaited = awaited
        self._step = step
        self._follower = Follower(Sought(name=worker.application_name), monitor, worker=worker)
        self._monitor = monitor

    @property
    def worker(self) -> Worker | None:
        """Its identity."""
        return self._follower.worker

    @property
    def age(self) -> float | None:
        """For how many seconds it had lived, by the server's clock, when it was first seen."""
        return self._follower.age

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._follower.cancel()

    def detach(self) -> None:
        """Detach the worker."""
        self._follower.detach()

    async def ended(
        self,
        *,
        seen: Callable[[Worker], None],
        lost: Callable[[str], None],  # noqa: ARG002 - it is known to be lost
        unstoppable: OnUnstoppable = keep_waiting,
    ) -> WorkerEnd:
        """Wait until the worker has ended or was detached."""
        self._follower.unstoppable = unstoppable
        if not await self._follower.gone(seen) or not self._awaited:
            return WorkerEnd(worker=self.worker, detached=True)
        by = await self._monitor.cancelled_by(self._step)
        return WorkerEnd(worker=self.worker, lost=True, reason=_ORPHANED, cancelled_by=by)


class RefusedWorker:
    """The handle of a worker that never was; see `ports.WorkerHandle`."""

    worker: Worker | None = None
    age: float | None = None

    def __init__(self, error: ErrorDetails) -> None:
        self._error = error

    def cancel(self) -> None:
        """Do nothing: there is nothing to stop."""

    def detach(self) -> None:
        """Do nothing: there is nothing to let go of."""

    async def ended(self, **_: object) -> WorkerEnd:
        """Return the refusal."""
        return WorkerEnd(error=self._error)
