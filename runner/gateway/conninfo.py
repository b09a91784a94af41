"""libpq connection strings, as far as jobplan has to look into one."""

from __future__ import annotations

from psycopg import OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.errors import ConnectionFailedError
from runner.gateway.connecting import not_a_connection_string

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
        parts = _parts(conninfo)
        if "://" in parts.get("dbname", ""):
            raise ConnectionFailedError(
                "this is no connection string: dbname is a URI.", hint="Give the URI itself, without dbname= before it."
            )
        return make_conninfo(conninfo, **{**_KEEPALIVES, **parts})
    except ProgrammingError as error:
        raise not_a_connection_string(error) from None  # the cause would repeat what is hidden here


def _parts(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value}


def pinned(conninfo: str, *, host: str, address: str, port: str) -> str:
    """Return the connection string with only this host, where a session has led: the same server, as long as it is
    there.

    `address` is empty for a socket. Empty: it leads nowhere else anyway.
    """
    parts = _parts(conninfo)
    here = {"host": host, "hostaddr": address, "port": port}
    if not host or "service" in parts or all(parts.get(name, "") == value for name, value in here.items() if value):
        return ""
    rest = {name: value for name, value in parts.items() if name not in {*here, "load_balance_hosts"}}
    return make_conninfo("", **{**rest, **{name: value for name, value in here.items() if value}})


#: How libpq marks what must not be shown: passwords, keys and secrets, also those that later versions bring.
_HIDDEN = b"*"


def without_password(conninfo: str) -> str:
    """Return the connection string without its passwords, in keyword form; empty if nothing else is in it."""
    parts = _open_parts(conninfo)
    return make_conninfo(**parts) if parts else ""


def recorded(conninfo: str, *, host: str, port: str, user: str, database: str) -> str:
    """Return what leads to the same server again, from another environment, but for a password.

    `conninfo` is what was asked for; host, port, user and database are where that led, for what it leaves out.
    """
    parts = _open_parts(conninfo)
    found = {"host": host, "port": port, "user": user, "dbname": database}
    if "service" in parts or "hostaddr" in parts:
        del found["host"], found["port"]
    return make_conninfo(**{**{name: value for name, value in found.items() if value}, **parts})


def _open_parts(conninfo: str) -> dict[str, str]:
    try:
        options = pq.Conninfo.parse(conninfo.encode())
    except OperationalError as error:
        raise not_a_connection_string(error) from None
    return {
        option.keyword.decode(): option.val.decode() for option in options if option.val and option.dispchar != _HIDDEN
    }
