"""The run's monitor session: finds workers by identity, signals them, and sees who is stopped by a full queue.

It survives the loss of its connection: the next use connects again, for up to a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from runner.engine.events import Worker
from runner.errors import ConnectionFailedError, GatewayError, ServerLostError
from runner.gateway.session import Reply, Session

#: Seconds between two looks at the run's workers.
LOOK_EVERY = 1.0
#: Seconds for which a lost server is tried again, and between two tries.
RECONNECT_FOR = 60.0
RECONNECT_EVERY = 1.0


class MonitorSession:
    """See the module's docstring. `connect` opens a session that has the extension loaded."""

    def __init__(self, *, connect: Callable[[], Awaitable[Session]], run_id: str) -> None:
        self._connect = connect
        self._pattern = f"jobplan:{run_id}:%"
        self._session: Session | None = None
        self._lock = asyncio.Lock()
        self._blocked: frozenset[tuple[str, str]] = frozenset()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Say whether the session is there."""
        return self._session is not None and not self._session.lost

    async def open(self) -> None:
        """Connect and begin to look. ConnectionFailedError if the server cannot be reached."""
        self._session = await self._connect()
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop looking and close the session."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            await self._session.close()

    def is_blocked(self, worker: Worker) -> bool:
        """Say whether the worker was last seen stopped by its full output queue."""
        return (str(worker.pid), worker.backend_start) in self._blocked

    async def identify(self, application_name: str, pid: int) -> Worker | None:
        """Find the worker; `pid` only decides between two of the same name."""
        reply = await self._run("identify", (application_name, str(pid)))
        if not reply.rows:
            return None
        found, backend_start, name = reply.rows[0]
        return Worker(pid=int(found or 0), backend_start=backend_start or "", application_name=name or "")

    async def lives(self, application_name: str) -> bool:
        """Say whether a worker of this name is there."""
        return await self.identify(application_name, 0) is not None

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if pid, backend_start and application_name are seen together."""
        await self._run("cancel", (str(worker.pid), worker.backend_start, worker.application_name))

    async def free_workers(self) -> int:
        """Return how many of max_worker_processes are free, as far as this role can see."""
        reply = await self._run("free_workers", ())
        return int(reply.rows[0][0] or 0)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(GatewayError):
                reply = await self._run("workers", (self._pattern,))
                self._blocked = frozenset((row[0] or "", row[1] or "") for row in reply.rows if row[3] == "t")

    async def _run(self, name: str, parameters: Sequence[str]) -> Reply:
        async with self._lock:
            deadline = asyncio.get_running_loop().time() + RECONNECT_FOR
            while True:
                try:
                    return await self._run_once(name, parameters)
                except (ServerLostError, ConnectionFailedError) as error:
                    if asyncio.get_running_loop().time() >= deadline:
                        raise ServerLostError(f"the server is gone: {error.message}") from error
                await asyncio.sleep(RECONNECT_EVERY)

    async def _run_once(self, name: str, parameters: Sequence[str]) -> Reply:
        if self._session is None or self._session.lost:
            if self._session is not None:
                await self._session.close()
            self._session = await self._connect()
        (reply,) = await self._session.run((name, parameters))
        if reply.error is not None:
            raise GatewayError(f"the server refuses to tell about the run's workers: {reply.error.message}")
        return reply
