"""libpq connection strings, as far as jobplan has to look into one."""

from __future__ import annotations

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.errors import ConnectionFailedError

#: How soon a network that swallows everything is noticed: a run must not wait for hours on a session that is dead.
_KEEPALIVES = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def with_keepalives(conninfo: str) -> str:
    """Return the connection string with limits for a dead network, where it has none of its own.

    ConnectionFailedError if it is not a connection string.
    """
    try:
        return make_conninfo(conninfo, **{**_KEEPALIVES, **_parts(conninfo)})
    except ProgrammingError as error:
        raise ConnectionFailedError(f"this is no connection string: {' '.join(str(error).split())}") from error


def _parts(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value}


def without_password(conninfo: str) -> str:
    """Return the connection string without its password, in keyword form; empty if nothing else is in it."""
    parts = {name: value for name, value in _parts(conninfo).items() if name != "password"}
    return make_conninfo(**parts) if parts else ""
