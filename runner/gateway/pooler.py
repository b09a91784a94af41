"""Refuses a pooler that gives each transaction another session: there nothing of a run's sessions would hold.

A launcher session tracks its worker, the monitor session holds locks, and every session has settings of its own; behind
such a pooler the next transaction would be somebody else's session, and ours would be changed under others. A pooler
that keeps a session for a connection until its end (PgBouncer's pool_mode = session) does no harm.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from runner.errors import PreflightError
from runner.gateway.connecting import hide_secrets

#: Seconds that the pooler gets to serve a second connection.
PATIENCE = 10.0
#: Who is asked for its process, one after the other; the pattern has no period that a pool could be in step with.
_TURNS = (0, 0, 1, 0, 1, 1, 0, 1)
SHARED = "a connection pooler stands before the server and gives each transaction another session"
_HINT = "Connect to PostgreSQL itself (its own host and port in --dsn), or to a pool that keeps sessions."


async def refuse_shared_sessions(connection: psycopg.AsyncConnection[Any], conninfo: str) -> None:
    """Return if the connection has a session for itself; `conninfo` makes a second one to compare it with.

    A pooler makes a key of its own for a connection, and then the process that the connection was told is not the one
    that serves it. Only then a second one is opened: one process that serves both, or one connection that two serve,
    is the proof. Nothing is set, so that nothing is left in a session of other people's. PreflightError with what to
    do.
    """
    if await _process(connection) == connection.pgconn.backend_pid:
        return
    try:
        async with asyncio.timeout(PATIENCE):
            second = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
            async with second:
                processes = [await _process((connection, second)[turn]) for turn in _TURNS]
    except (TimeoutError, psycopg.Error) as error:
        why = hide_secrets(" ".join(str(error).split()), conninfo) or f"it did not answer within {PATIENCE:g} s"
        raise PreflightError(
            f"a connection pooler stands before the server and gives no second session: {why}.", hint=_HINT
        ) from error
    served = [{process for who, process in zip(_TURNS, processes, strict=True) if who == turn} for turn in (0, 1)]
    if served[0] & served[1] or max(map(len, served)) > 1:
        raise PreflightError(
            f"{SHARED} (pool_mode is transaction or statement); a run needs sessions of its own.", hint=_HINT
        )


async def _process(connection: psycopg.AsyncConnection[Any]) -> int:
    """Return the process that serves this transaction; never as a prepared statement, which not every pool can take."""
    cursor = await connection.execute("SELECT pg_catalog.pg_backend_pid()", prepare=False)
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0
