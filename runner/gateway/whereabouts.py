"""Asks a session where it is: on which server, in which database; what that means is in `engine/place.py`."""

from __future__ import annotations

from collections.abc import Sequence

from runner.engine.events import Place
from runner.errors import ConnectionFailedError
from runner.gateway.conninfo import pinned
from runner.gateway.replies import Reply
from runner.gateway.session import Session, Statement

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
