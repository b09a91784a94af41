"""The real gateway: PostgreSQL with pg_background.

A run has one monitor session, and one launcher session for each worker that runs at the same time, opened when first
needed and used again: `slots` + 1 connections at most, and one more if the plan has conditions in SQL.
"""

from __future__ import annotations

import asyncio
from functools import partial

from runner.errors import CapacityError, ConnectionFailedError, PreflightError, ServerLostError
from runner.gateway.base import LaunchRequest, Query, QueryResult, ServerInfo, WorkerHandle
from runner.gateway.monitor import MonitorSession
from runner.gateway.queries import query
from runner.gateway.reading import ReadingSession
from runner.gateway.refused import RefusedWorker
from runner.gateway.session import Row, Session
from runner.gateway.worker import LaunchedWorker, LaunchRefusedError
from runner.identity import runner_name
from runner.sql.params import quote_identifier

_OLDEST_SERVER = 140_000


class PgGateway:
    """Runs steps on a server; see `base.Gateway`.

    `conninfo` is libpq's (keywords or URI; what it leaves out comes from libpq's environment), `run_id` goes into the
    names of all sessions.
    """

    def __init__(self, conninfo: str, run_id: str) -> None:
        self._conninfo = conninfo
        self._run_id = run_id
        self._extension_schema = ""
        self._idle: list[Session] = []
        self._sessions: set[Session] = set()
        self._one_launch = asyncio.Lock()
        self._monitor = MonitorSession(connect=self._connect, run_id=run_id)
        self._reading = ReadingSession(self._connect)

    async def open(self) -> ServerInfo:
        """Connect and check the server."""
        session = await self._connect(load=False)
        try:
            (reply,) = await session.run(("server", ()))
        finally:
            await session.close()
        if reply.error is not None:
            raise PreflightError(f"the server cannot be examined: {reply.error.message}")
        info = check_server(reply.rows[0])
        self._extension_schema = quote_identifier(info.extension_schema)
        await self._monitor.open()
        return info

    async def launch(self, request: LaunchRequest) -> WorkerHandle:
        """Ask for a worker on a session that tracks no other."""
        session = await self._session()
        worker = LaunchedWorker(request, session, self._monitor, self._release)
        try:
            if request.reserve:
                async with self._one_launch:
                    await self._keep_reserve(request.reserve)
                    await worker.launch()
            else:
                await worker.launch()
        except CapacityError:
            self._release(session)
            raise
        except LaunchRefusedError as error:
            self._release(session)
            return RefusedWorker(error.details)
        return worker

    async def query(self, query: Query) -> QueryResult:
        """Run a statement of the plan's that only reads."""
        return await self._reading.query(query)

    async def close(self) -> None:
        """Close every session; workers go on."""
        await self._reading.close()
        await self._monitor.close()
        for session in list(self._sessions):
            await session.close()
        self._sessions.clear()
        self._idle.clear()

    async def _keep_reserve(self, reserve: int) -> None:
        free = await self._monitor.free_workers()
        if free <= reserve:
            raise CapacityError(f"{free} of max_worker_processes are free, and budget.reserve keeps {reserve}")

    async def _session(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if not session.lost:
                return session
            self._sessions.discard(session)
        try:
            session = await self._connect(load=True)
        except ConnectionFailedError as error:
            if self._monitor.connected:
                raise CapacityError(f"no connection for another worker: {error.message}") from error
            raise ServerLostError(error.message) from error
        self._sessions.add(session)
        return session

    async def _connect(self, *, load: bool = True) -> Session:
        session = await Session.connect(
            self._conninfo,
            application_name=runner_name(self._run_id),
            queries=partial(query, extension_schema=self._extension_schema),
        )
        if load:
            (reply,) = await session.run(("load", ()))
            if reply.error is not None:
                await session.close()
                raise ConnectionFailedError(reply.error.message)
        return session

    def _release(self, session: Session) -> None:
        """Take a session back once its worker has gone and its handle is free."""
        if session.lost:
            self._sessions.discard(session)
        else:
            self._idle.append(session)


def check_server(row: Row) -> ServerInfo:
    """Read the `server` query's row. PreflightError, with what to do, if plans cannot run there."""
    version, number, extension, schema, database, user, workers, allowed, available = row
    if int(number or 0) < _OLDEST_SERVER:
        raise PreflightError(f"PostgreSQL {version} is too old: jobplan needs 14 or later.")
    if extension is None or schema is None:
        hint = (
            f"A superuser can create it: CREATE EXTENSION pg_background; in database {database}."
            if available == "t"
            else "Install the package (Debian: postgresql-NN-pg-background), then CREATE EXTENSION pg_background."
        )
        raise PreflightError(f'the extension pg_background is not in database "{database}".', hint=hint)
    if int(extension.partition(".")[0]) < 2:
        raise PreflightError(
            f"pg_background {extension} is too old: jobplan needs 2.0 or later.",
            hint="Install a newer package, then ALTER EXTENSION pg_background UPDATE.",
        )
    if allowed != "t":
        raise PreflightError(
            f'the role "{user}" may not use pg_background.',
            hint=f"GRANT pgbackground_role TO {quote_identifier(user or '')};",
        )
    return ServerInfo(
        version=version or "",
        version_number=int(number or 0),
        extension_version=extension,
        extension_schema=schema,
        database=database or "",
        user=user or "",
        max_worker_processes=int(workers or 0),
    )
