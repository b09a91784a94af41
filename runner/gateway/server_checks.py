"""What a server must be for a run: its description, the refusal of standbys and poolers, and the place of a session.

A launcher session tracks its worker, the monitor session holds locks, and every session has settings of its own;
behind a pooler that gives each transaction another session, none of that holds. A pooler that keeps a session for a
connection until its end (PgBouncer's pool_mode = session) does no harm. `run_location` in the engine says what the
place of a session means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg

from runner.engine.events import Place
from runner.engine.ports import ServerInfo
from runner.errors import ConnectionFailedError, PreflightError
from runner.gateway.connecting import hide_secrets, pinned
from runner.gateway.session import Reply, Row, Session, Statement, first_error
from runner.sql.placeholders import quote_identifier

_OLDEST_SERVER = 140_000
ON_STANDBY = "the server is a standby, and pg_background can start no worker on one."


#: How often the first statements of a session are tried: a limit that the role or the database sets can interrupt them.
_TRIES = 5


async def prepare_session(session: Session, *then: Statement) -> tuple[Row, list[Reply]]:
    """Pin the names of a new session and lift its limits; return the row of `path`, and the replies to `then`.

    Nothing else is sent before `path` and `pin` have succeeded: until then, the names in jobplan's statements mean what
    the owner of the database decides with search_path. ConnectionFailedError if the server refuses these statements.
    """
    path, _ = await _tried(session, ("path", ()), ("pin", ()), checked=2)
    _, *replies = await _tried(session, ("unlimit", ()), *then, checked=1)
    return path.rows[0], replies


async def _tried(session: Session, *statements: Statement, checked: int) -> list[Reply]:
    """Run statements until the first `checked` of them succeed. ConnectionFailedError if they fail each time."""
    for _ in range(_TRIES - 1):
        replies = await session.run(*statements)
        if first_error(replies[:checked]) is None:
            return replies
    replies = await session.run(*statements)
    raise_refusal(replies[:checked], ConnectionFailedError)
    return replies


def raise_refusal(replies: Sequence[Reply], kind: type[PreflightError]) -> None:
    """Raise an error of `kind` if the server has refused one of our statements."""
    error = first_error(replies)
    if error is not None:
        raise kind(f"the server refuses to be used by jobplan: {error.message}")


def refuse_standby(info: ServerInfo) -> None:
    """PreflightError if the server is a standby."""
    if info.standby:
        raise PreflightError(
            ON_STANDBY,
            hint="Connect to the primary (target_session_attrs=primary in --dsn).",
        )


def describe_server(row: Row, standby: Reply) -> ServerInfo:
    """Read the replies to `server` and `standby`, without a judgement."""
    version, number, extension, schema, database, user, workers, _, _ = row
    return ServerInfo(
        version=version or "",
        version_number=int(number or 0),
        extension_version=extension or "",
        extension_schema=schema or "",
        database=database or "",
        user=user or "",
        max_worker_processes=int(workers or 0),
        standby=bool(standby.rows) and standby.rows[0][0] == "t",
    )


def check_server(row: Row) -> None:
    """Read the `server` query's row. PreflightError, with what to do, if plans cannot run there."""
    version, number, extension, schema, database, user, _, allowed, available = row
    if int(number or 0) < _OLDEST_SERVER:
        raise PreflightError(f"PostgreSQL {version} is too old: jobplan needs 14 or later.")
    if extension is None or schema is None:
        hint = (
            f"A superuser can create it: CREATE EXTENSION pg_background; in database {database}."
            if available == "t"
            else "Install pg_background on the server's machine (Debian has a package for PostgreSQL 18; for other "
            "versions build it from source), then CREATE EXTENSION pg_background."
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


#: What a session is asked for, in one round trip, before anything else.
WHERE: Sequence[Statement] = (("place", ()), ("system", ()))


def read_place(place: Reply, system: Reply) -> Place:
    """Read the replies to `WHERE`. ConnectionFailedError if the server refuses to tell.

    A role that may not execute pg_control_system() gets an error there, and no system identifier.
    """
    if place.error is not None or not place.rows:
        why = "it gave no answer" if place.error is None else place.error.message
        raise ConnectionFailedError(f"the server does not say which one it is: {why}")
    database, oid, started, seen, standby, timeline, flushed = place.rows[0]
    return Place(
        database=database or "",
        database_oid=int(oid or 0),
        started=started or "",
        seen=seen or "",
        standby=standby == "t",
        timeline=None if timeline is None else int(timeline, 16),
        flushed=None if flushed is None else int(flushed),
        system_identifier=system.rows[0][0] if system.error is None and system.rows else None,
    )


def address_of(session: Session) -> tuple[str, str]:
    """Return the host, as the connection string names it, and the port that the session was reached through."""
    target = session.target
    return target["host"], target["port"]


def leads_back(conninfo: str, session: Session) -> str:
    """Return the connection string with only the host that the session is on; empty if it leads nowhere else anyway."""
    host, port = address_of(session)
    return pinned(conninfo, host=host, address=session.address, port=port)
