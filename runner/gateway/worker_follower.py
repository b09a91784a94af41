"""Observe a worker by its identity (pid and backend_start): find it, signal it if it must stop, wait for its end.

This is all that can be done for a worker whose launcher session is lost, or was another runner's. Until a worker is
seen, it is searched by the facts of its launch (`WorkerSearch`); afterwards its name is not used any more. A launch
that the server refused has an end at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from runner.engine.events import ErrorDetails, Worker
from runner.engine.ports import OnUnstoppable, WorkerEnd
from runner.errors import GatewayError
from runner.structs import Struct

#: Seconds between two polls of a worker whose session is lost.
POLL_INTERVAL = 0.25
#: The number of polls without a result after which a worker that was never seen counts as ended. Between a launch and
#: the row in pg_stat_activity the postmaster forks a process, and no view shows a requested worker before that.
MAX_EMPTY_POLLS = 12
#: Seconds between two requests to stop that a running worker receives, and the number of requests after which it is
#: reported as unstoppable: 30 seconds after the first one.
SIGNAL_AGAIN = 5.0
SIGNALS = 7


class WorkerSearch(Struct, frozen=True, kw_only=True):
    """The facts that identify a worker that was not seen yet among all workers.

    `name` is its application_name and `label` the comment in front of its text, both only claims. `pid` is the result
    of the launch, 0 without one; `since` is the server's time of the launch, in the format of backend_start.
    """

    name: str
    label: str = ""
    pid: int = 0
    since: str = ""


class Monitor(Protocol):
    """The functions of the run's monitor session for a worker. GatewayError if the server cannot be queried now."""

    async def identify(self, search: WorkerSearch) -> tuple[Worker, float] | None:
        """Find the worker in pg_stat_activity, and its age in seconds by the server's clock."""
        ...

    async def is_running(self, search: WorkerSearch, worker: Worker | None) -> bool:
        """Return whether the worker, or one that may be it, is running. ServerLostError if the server is lost."""
        ...

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:
        """Return whether the worker waits for the session's snapshot."""
        ...

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if its pid and backend_start match."""
        ...

    def is_blocked(self, worker: Worker) -> bool:
        """Return whether the last poll found the worker waiting because of its full output queue."""
        ...

    async def reconnected(self) -> None:
        """Wait until the server answers. ServerLostError if it does not within a minute."""
        ...

    async def cancelled_by(self, step: str) -> str | None:
        """Return the user who has requested, through the server, to cancel this step's worker."""
        ...


class Follower:
    """See the module's docstring. `worker` is its identity, as soon as it was seen on the server."""

    def __init__(self, search: WorkerSearch, monitor: Monitor, *, worker: Worker | None = None) -> None:
        self.search = search
        self.worker = worker
        #: The worker's age in seconds, by the server's clock, when it was first seen.
        self.age: float | None = None
        self.detaching = False
        self._monitor = monitor
        self._cancelling = False
        #: The time of the next signal to the worker, by the clock of the event loop.
        self._signal_at = 0.0
        self._signals = 0
        #: Called when the worker was seen, and once when it does not stop.
        self.on_seen: Callable[[Worker], None] = lambda _: None
        self.on_unstoppable: OnUnstoppable = lambda _, __: None

    def cancel(self) -> None:
        """Request the worker to stop."""
        self._cancelling = True

    def detach(self) -> None:
        """Detach the worker as soon as it was seen."""
        self.detaching = True

    @property
    def has_requests(self) -> bool:
        """Whether the worker must be cancelled or detached."""
        return self._cancelling or self.detaching

    async def identify_and_signal(self) -> None:
        """Identify the worker, and signal it if it must be cancelled; again after a while if it does not stop.

        While the monitor session is lost, this is postponed.
        """
        with contextlib.suppress(GatewayError):
            if self.worker is None:
                found = await self._monitor.identify(self.search)
                if found is not None:
                    self.worker, self.age = found
                    self.on_seen(self.worker)
            if self._cancelling and self.worker is not None:
                now = asyncio.get_running_loop().time()
                if now >= self._signal_at:
                    await self._monitor.cancel(self.worker)
                    self._signal_at = now + SIGNAL_AGAIN
                    self._signals += 1
                    if self._signals == SIGNALS:
                        self.on_unstoppable(self.worker, (SIGNALS - 1) * SIGNAL_AGAIN)

    async def wait_until_ended(self) -> bool:
        """Wait until the worker has ended; return False if it was detached before.

        A worker that was never seen may be starting: an interrupted launch may just have requested it. After
        `MAX_EMPTY_POLLS` polls this returns with `worker` still None: that is no evidence of an end. ServerLostError if
        the server cannot be reached again.
        """
        misses = 0
        while (there := await self._monitor.is_running(self.search, self.worker)) or self.worker is None:
            misses = 0 if there else misses + 1
            if misses > MAX_EMPTY_POLLS:
                break
            await self.identify_and_signal()
            if self.detaching and self.worker is not None:
                return False
            await asyncio.sleep(POLL_INTERVAL)
        return True


_ORPHANED = "the runner that launched it has ended"


class AdoptedWorker:
    """The worker of a runner that has ended; see `ports.WorkerHandle`.

    Only that runner could read its result (docs/pg_background.md#handles-are-session-local). If it is not `awaited`, it
    counts as detached when it has ended. `step` is the step that it works for.
    """

    def __init__(self, worker: Worker, monitor: Monitor, *, step: str, awaited: bool = True) -> None:
        self._awaited = awaited
        self._step = step
        self._follower = Follower(WorkerSearch(name=worker.application_name), monitor, worker=worker)
        self._monitor = monitor

    @property
    def worker(self) -> Worker | None:
        """The worker's identity."""
        return self._follower.worker

    @property
    def age(self) -> float | None:
        """The worker's age in seconds, by the server's clock, when it was first seen."""
        return self._follower.age

    def cancel(self) -> None:
        """Request the worker to stop."""
        self._follower.cancel()

    def detach(self) -> None:
        """Detach the worker."""
        self._follower.detach()

    async def wait_until_ended(
        self,
        *,
        on_seen: Callable[[Worker], None],
        on_lost: Callable[[str], None],  # noqa: ARG002 - it is lost from the start
        on_unstoppable: OnUnstoppable,
    ) -> WorkerEnd:
        """Wait until the worker has ended or was detached."""
        self._follower.on_seen, self._follower.on_unstoppable = on_seen, on_unstoppable
        if not await self._follower.wait_until_ended() or not self._awaited:
            return WorkerEnd(worker=self.worker, detached=True)
        by = await self._monitor.cancelled_by(self._step)
        return WorkerEnd(worker=self.worker, lost=True, reason=_ORPHANED, cancelled_by=by)


class RefusedWorker:
    """The handle of a worker that the server refused; see `ports.WorkerHandle`."""

    worker: Worker | None = None
    age: float | None = None

    def __init__(self, error: ErrorDetails) -> None:
        self._error = error

    def cancel(self) -> None:
        """Do nothing: there is nothing to stop."""

    def detach(self) -> None:
        """Do nothing: there is nothing to detach."""

    async def wait_until_ended(self, **_: object) -> WorkerEnd:
        """Return the refusal."""
        return WorkerEnd(error=self._error)
