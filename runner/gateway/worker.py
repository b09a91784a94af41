"""One worker from launch to end, on a launcher session that tracks no other (extension note 2).

The outcome is read before anything is consumed; only then are the notices fetched, which also frees the handle. When
the session is lost the worker is followed by its identity, and what it did stays unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from runner.engine.events import ErrorDetails, Worker
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.base import LaunchRequest, WorkerEnd
from runner.gateway.output import NoticeCollector, statement_tag, with_marker
from runner.gateway.session import Reply, Row, Session
from runner.gateway.settings import worker_settings

#: Milliseconds of the first wait, which travels with the launch: a fast step needs no second round trip for it.
FIRST_WAIT = 25
#: Milliseconds of every further wait. A waiting session holds a snapshot, which CREATE INDEX CONCURRENTLY waits for
#: and which stops VACUUM from cleaning, so no wait is longer (extension note 3).
WAIT = 250


#: Waits after which a worker that was asked to stop and still runs is asked again.
SIGNAL_AGAIN = 20
#: "No worker to give now" (extension note 9), and "no connection to give now", which a launcher session needs.
CAPACITY_SQLSTATES = frozenset({"53000", "53400", "53300"})


class Monitor(Protocol):
    """What a worker needs from the run's monitor session. ServerLostError if the server cannot be reached again."""

    async def identify(self, application_name: str, pid: int) -> Worker | None:
        """Find the worker in pg_stat_activity."""
        ...

    async def lives(self, application_name: str) -> bool:
        """Say whether a worker of this name is there."""
        ...

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if it is seen there and then."""
        ...

    def is_blocked(self, worker: Worker) -> bool:
        """Say whether the worker was last seen stopped by its full output queue."""
        ...


class LaunchRefusedError(GatewayError):
    """The server refused the launch itself: a setting, a role, a privilege."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details.message)
        self.details = details


class LaunchedWorker:
    """A handle of the extension; see `base.WorkerHandle`."""

    def __init__(
        self, request: LaunchRequest, session: Session, monitor: Monitor, release: Callable[[Session], None]
    ) -> None:
        self._request = request
        self._name = request.application_name
        self._session = session
        self._monitor = monitor
        self._release = release
        self._pid = 0
        self._row: Row | None = None
        self._worker: Worker | None = None
        self._cancel = False
        self._signals_in = 0
        self._detach = False
        self._notices = NoticeCollector()

    @property
    def worker(self) -> Worker | None:
        """Who it is, once it has been seen on the server."""
        return self._worker

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._cancel = True

    def detach(self) -> None:
        """Let go of the worker as soon as it has been seen."""
        self._detach = True

    async def launch(self) -> None:
        """Ask for the worker and wait a moment for it.

        CapacityError if the server has none; LaunchRefusedError if it refuses for another reason. A session that is
        lost meanwhile is no error here: the worker may well run, and `ended` looks for it.
        """
        request = self._request
        parameters = (with_marker(request.sql), str(request.output_buffer), worker_settings(request))
        try:
            launched, waited = await self._session.run(("launch", parameters), ("wait", (str(FIRST_WAIT),)))
        except ServerLostError:
            return
        if launched.error is not None:
            if launched.error.sqlstate in CAPACITY_SQLSTATES:
                raise CapacityError(launched.error.message)
            raise LaunchRefusedError(launched.error)
        self._pid = int(launched.rows[0][0] or 0)
        self._row = waited.rows[0] if waited.rows else None

    async def ended(self, *, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        """Follow the worker to its end."""
        try:
            while self._row is None or self._row[2] != "t":
                await self._look_after(seen)
                if self._worker is not None and (self._detach or (self._blocked and self._request.detachable)):
                    return await self._let_go()
                if self._blocked:
                    return await self._drain_running(seen)
                self._row = await self._wait()
            return await self._collect(self._row)
        except ServerLostError as error:
            return await self._follow_lost(str(error), seen, lost)

    @property
    def _blocked(self) -> bool:
        return self._worker is not None and self._monitor.is_blocked(self._worker)

    async def _look_after(self, seen: Callable[[Worker], None]) -> None:
        """Find out who the worker is, and signal it if it is to be cancelled; again after a while if it stays."""
        if self._worker is None:
            self._worker = await self._monitor.identify(self._name, self._pid)
            if self._worker is not None:
                seen(self._worker)
        if self._cancel and self._worker is not None:
            if self._signals_in == 0:
                await self._monitor.cancel(self._worker)
                self._signals_in = SIGNAL_AGAIN
            self._signals_in -= 1

    async def _wait(self) -> Row:
        (reply,) = await self._session.run(("wait", (str(FIRST_WAIT if self._worker is None else WAIT),)))
        if reply.error is not None or not reply.rows:
            raise ServerLostError(reply.error.message if reply.error else "the extension has forgotten the worker")
        return reply.rows[0]

    async def _collect(self, row: Row) -> WorkerEnd:
        """Read the outcome, then fetch the notices; losing those loses nothing else."""
        handle = (row[0] or "", row[1] or "")
        _, _, _, row_count, tag, has_error, started, finished = row
        error = await self._error(handle) if has_error == "t" else None
        drained = await self._drain(handle)
        if drained.error is not None and error is None:
            await self._session.run(("detach", handle))
        if not drained.error and drained.rows:
            tag, row_count = statement_tag(self._request.sql, drained.rows, tag, row_count)
        self._release(self._session)
        return self._end(
            proven=error is None and finished is not None and bool(tag),
            error=error,
            command_tag=tag or "",
            row_count=None if row_count is None else int(row_count),
            started_at=None if started is None else float(started),
            finished_at=None if finished is None else float(finished),
        )

    async def _error(self, handle: tuple[str, str]) -> ErrorDetails:
        (reply,) = await self._session.run(("error", handle))
        if reply.error is not None or not reply.rows:
            return reply.error or ErrorDetails(message="the worker failed, and the server has forgotten how")
        sqlstate, message, *rest = reply.rows[0]
        names = ("detail", "hint", "context", "schema", "table", "column", "constraint")
        return ErrorDetails(message=message or "", sqlstate=sqlstate, **dict(zip(names, rest, strict=True)))

    async def _drain(self, handle: tuple[str, str]) -> Reply:
        """Consume the result: notices arrive, command tags come back. It frees the handle, whatever happens."""
        self._session.on_notice = self._notices
        try:
            (reply,) = await self._session.run(("drain", handle))
        finally:
            self._session.on_notice = None
        return reply

    async def _let_go(self) -> WorkerEnd:
        """Detach: the worker keeps its locks and its timeout, and commits (extension note 8)."""
        handle = (self._row[0] or "", self._row[1] or "") if self._row else ("", "")
        await self._session.run(("detach", handle))
        self._release(self._session)
        return self._end(detached=True)

    async def _drain_running(self, seen: Callable[[Worker], None]) -> WorkerEnd:
        """Read on until the worker has gone, because its full queue keeps it from ending (extension note 4).

        The one statement of ours that may hold a snapshot for long. It is younger than the snapshot of the worker's own
        statement, and rows are not what fills the queue: those stay in the worker (`output.with_marker`).
        """
        row = self._row
        if row is None:
            raise ServerLostError("the extension has forgotten the worker")
        drain = asyncio.ensure_future(self._drain((row[0] or "", row[1] or "")))
        while not (await asyncio.wait({drain}, timeout=WAIT / 1000))[0]:
            await self._look_after(seen)
            if self._detach and self._worker is not None:
                await self._session.cancel()
                await drain
                self._release(self._session)
                return self._end(detached=True)
        reply = drain.result()
        self._release(self._session)
        return self._end_of_drain(reply, started=row[6])

    def _end_of_drain(self, reply: Reply, *, started: str | None) -> WorkerEnd:
        if reply.error is not None:
            own = "background worker, pid" in (reply.error.context or "")
            return self._end(error=reply.error) if own else self._end(lost=True)
        tag, row_count = statement_tag(self._request.sql, reply.rows, None, None)
        return self._end(
            proven=bool(tag),
            command_tag=tag or "",
            row_count=None if row_count is None else int(row_count),
            started_at=None if started is None else float(started),
        )

    async def _follow_lost(self, why: str, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        """The launcher session is gone. The worker is not (extension note 8): follow it by name."""
        self._release(self._session)
        lost(why)
        while await self._monitor.lives(self._name):
            await self._look_after(seen)
            if self._detach and self._worker is not None:
                return self._end(detached=True)
            await asyncio.sleep(WAIT / 1000)
        return self._end(lost=True)

    def _end(self, **facts: Any) -> WorkerEnd:  # noqa: ANN401 - the fields of WorkerEnd, checked by its constructor
        return WorkerEnd(
            worker=self._worker, notices=tuple(self._notices.kept), notices_dropped=self._notices.dropped, **facts
        )
