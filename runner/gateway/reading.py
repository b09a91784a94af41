"""The session on which conditions and lists of items are read: never that of a worker, never the monitor's.

A condition may take seconds, and while it does no worker may go unwatched. The session is opened when first needed.
What is evaluated before a launch has the idle launcher session of that launch instead (docs/decisions/0018).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runner.gateway.base import Query, QueryResult
from runner.gateway.session import Session
from runner.gateway.settings import query_settings

#: The OID of pg_catalog.bool.
_BOOLEAN = 16


async def read(session: Session, query: Query) -> QueryResult:
    """Run a query read-only on this session and leave nothing in it. ServerLostError if the session is lost."""
    reply = await session.read(query_settings(query, session.search_path), query.sql)
    return QueryResult(
        columns=tuple(column.name for column in reply.columns),
        rows=reply.rows,
        boolean=len(reply.columns) == 1 and reply.columns[0].type == _BOOLEAN,
        error=reply.error,
    )


class ReadingSession:
    """Runs one query at a time; a lost connection is opened anew by the next one."""

    def __init__(self, connect: Callable[[], Awaitable[Session]]) -> None:
        self._connect = connect
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    async def query(self, query: Query) -> QueryResult:
        """Run a query read-only. ServerLostError if the session is lost, ConnectionFailedError if there is none."""
        async with self._lock:
            return await read(await self._live_session(), query)

    async def close(self) -> None:
        """Close the session if there is one."""
        if self._session is not None:
            await self._session.close()

    async def release(self) -> bool:
        """Close the session if it is idle, because there are too few; false if there was none to close."""
        if self._session is None or self._lock.locked():
            return False
        await self.close()
        self._session = None
        return True

    async def _live_session(self) -> Session:
        if self._session is not None and not self._session.lost:
            return self._session
        await self.close()
        self._session = await self._connect()
        return self._session
