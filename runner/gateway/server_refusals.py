"""The requirements for a server: its description, the refusal of standbys and poolers, and a session's location.

A launcher session tracks its worker, the monitor session holds locks, and every session has its own settings; behind a
pooler that assigns each transaction to another session, none of that works. A pooler that keeps the session of a
connection until its end (PgBouncer's pool_mode = session) is harmless. `run_location` in the engine compares locations.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from runner.engine.events import Place
from runner.engine.ports import ServerInfo
from runner.errors import ConnectionFailedError, PreflightError, ServerLostError
from runner.gateway.connecting import hide_secrets, pinned
from runner.gateway.replies import Reply, Row, first_error, read_row
from runner.gateway.session import Session, Statement
from runner.sql.placeholders import quote_identifier

_OLDEST_SERVER = 140_000
ON_STANDBY = "the server is a standby, on which pg_background cannot start a worker."


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


@contextlib.asynccontextmanager
async def discarded_on_failure(session: Session) -> AsyncIterator[None]:
    """Close the session if it cannot be prepared. ConnectionFailedError if it is lost meanwhile."""
    try:
        yield
    except BaseException as error:
        session.discard()
        if isinstance(error, ServerLostError):
            raise ConnectionFailedError(error.message) from error
        raise


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
        raise kind(f"the server refuses a statement that jobplan needs: {error.message}")


def refuse_standby(info: ServerInfo) -> None:
    """PreflightError if the server is a standby."""
    if info.standby:
        raise PreflightError(
            ON_STANDBY,
            hint="Connect to the primary (target_session_attrs=primary in --dsn).",
        )


def describe_server(row: Row, standby: Reply) -> ServerInfo:
    """Parse the replies to `server` and `standby`, without checks."""
    return read_row(ServerInfo, row[:7], standby=bool(standby.rows) and standby.rows[0][0] == "t")


def check_server(row: Row) -> None:
    """Check the row of `server`. PreflightError, with a hint, if plans cannot run there."""
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


#: Seconds in which the pooler must serve a second connection.
PATIENCE = 10.0
#: The order in which the two connections are asked for their backend; without a period that a pool could match.
_TURNS = (0, 0, 1, 0, 1, 1, 0, 1)
SHARED = "a connection pooler in front of the server assigns each transaction to another session"
_HINT = "Connect to PostgreSQL directly (its own host and port in --dsn), or to a pool with pool_mode = session."


async def refuse_shared_sessions(connection: psycopg.AsyncConnection[Any], conninfo: str) -> None:
    """Return if the connection has a dedicated session; `conninfo` opens a second connection for comparison.

    A pooler invents the pid that it announces to a connection, so it differs from that of the serving backend. Only
    then a second connection is opened: one backend that serves both, or one connection that two backends serve, is the
    evidence. Nothing is set, because the session may belong to other clients. PreflightError with a hint.
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
            f"a connection pooler in front of the server gives no second session: {why}.", hint=_HINT
        ) from error
    served = [{process for who, process in zip(_TURNS, processes, strict=True) if who == turn} for turn in (0, 1)]
    if served[0] & served[1] or max(map(len, served)) > 1:
        raise PreflightError(
            f"{SHARED} (pool_mode is transaction or statement); a run needs dedicated sessions.", hint=_HINT
        )


async def _process(connection: psycopg.AsyncConnection[Any]) -> int:
    """Return the pid that serves this transaction; not as a prepared statement, which some pools cannot handle."""
    cursor = await connection.execute("SELECT pg_catalog.pg_backend_pid()", prepare=False)
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


#: The statements that determine a session's location, in one round trip, before anything else.
WHERE: Sequence[Statement] = (("place", ()), ("system", ()))


def read_place(place: Reply, system: Reply) -> Place:
    """Parse the replies to `WHERE`. ConnectionFailedError if the server refuses them.

    A role that may not execute pg_control_system() gets an error there, and no system identifier.
    """
    if place.error is not None or not place.rows:
        why = "no answer" if place.error is None else place.error.message
        raise ConnectionFailedError(f"the identity of the server cannot be read: {why}")
    *where, timeline, flushed = place.rows[0]
    return read_row(
        Place,
        (*where, flushed),
        timeline=None if timeline is None else int(timeline, 16),
        system_identifier=system.rows[0][0] if system.error is None and system.rows else None,
    )


def address_of(session: Session) -> tuple[str, str]:
    """Return the host, as the connection string has it, and the port of the session."""
    target = session.target
    return target["host"], target["port"]


def leads_back(conninfo: str, session: Session) -> str:
    """Return the connection string with only the host of the session; empty if it leads there anyway."""
    host, port = address_of(session)
    return pinned(conninfo, host=host, address=session.address, port=port)
