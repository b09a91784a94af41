"""Connection strings, and the errors of failed connections, as libpq and the server report them, with hints.

libpq gives no SQLSTATE for a failed connection, so the kind of error is found in its text; for a server with messages
in another language the general hint is used. No message contains a part of a password.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from psycopg import OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.errors import ConnectionFailedError

#: The ways to specify a connection; hints that need a better connection string end with it.
_WITH = "--dsn, JOBPLAN_DSN or libpq's own environment"
WHERE = "Specify the server and the role with --dsn, JOBPLAN_DSN or libpq's environment variables (PGHOST, …)."
FULL = (
    "The server has no connection left for this role: end a session, or connect as a role with reserved connections (a "
    "superuser, or from PostgreSQL 16 on a member of pg_use_reserved_connections)."
)

#: A pattern of the message, and the hint: the first match is used. Later entries are more general.
_REMEDIES: Mapping[str, str] = {
    (
        r"connection slots are reserved|too many clients already|too many connections for|"
        r"sorry, too many clients"
    ): FULL,
    r'invalid port number|bad value for|invalid integer value|invalid "?\w+"? value|could not match \d+': (
        f"An option of the connection has an invalid value: correct it in {_WITH}."
    ),
    r"GSSAPI encryption required|GSSAPI support": (
        f"Encryption by GSSAPI needs a Kerberos ticket (kinit): get one, or check gssencmode in {_WITH}."
    ),
    r"invalid response|expected authentication request|unsupported frontend protocol": (
        f"The program at this address is not PostgreSQL: check host= and port= in {_WITH}."
    ),
    r"no pg_hba\.conf entry .*no encryption|SSL connection is required|no pg_hba\.conf entry .*SSL off": (
        "The server accepts this connection with TLS only, or from other hosts only: set sslmode=require in "
        f"{_WITH}, or add a line to the server's pg_hba.conf."
    ),
    r"no pg_hba\.conf entry|pg_hba\.conf rejects": (
        "The server's pg_hba.conf does not allow this role, host and database: add a line there and reload the "
        f"server, or specify another role, database or host with {_WITH}."
    ),
    (
        r"server does not support SSL|SSL error|certificate verify failed|root certificate|server certificate|"
        r"SSL SYSCALL|negotiated|sslmode|certificate file|private key file|SSL negotiation"
    ): (
        f"TLS could not be set up: check sslmode, sslrootcert and the host's name in {_WITH}; sslmode=prefer "
        "connects without TLS if necessary."
    ),
    r"no password supplied|password authentication failed.*no password": (
        "The server requires a password: write it into a password file (~/.pgpass, or the one that PGPASSFILE "
        "names) or PGPASSWORD; --dsn is visible to other users of this machine."
    ),
    r"[Pp]eer authentication failed|[Ii]dent authentication failed": (
        "The server compares the operating system user with the role: run jobplan as that user, specify the role "
        "with user=, or connect with a password over TCP (host=localhost) in --dsn."
    ),
    r"authentication failed|authentication method|SCRAM|no user name specified|GSSAPI": (
        "Check the role and its password: user= in --dsn, and ~/.pgpass, PGPASSFILE or PGPASSWORD; the server's log "
        "has the reason."
    ),
    r'role "[^"]*" does not exist|role .* is not permitted to log in': (
        f"Specify a role that exists and may log in: user= in {_WITH} (the default is the operating system user)."
    ),
    r'database "[^"]*" does not exist|not currently accepting connections|permission denied for database': (
        f"Specify a database that exists and allows this role: dbname= in {_WITH}; psql -l lists databases."
    ),
    r"definition of service|service file": (
        f"Specify a service that is in pg_service.conf (or the file in PGSERVICEFILE), or use host= in {_WITH}."
    ),
    (
        r"translate host name|resolve host|Name or service not known|name resolution|nodename nor servname|"
        r"No address associated"
    ): (
        f"The host name is unknown: check host= in {_WITH}, and the DNS of this machine. In a URI, write @ in a "
        "password as %40."
    ),
    r"Connection refused": (
        f"No server listens there: start the server, or check host= and port= in {_WITH}; a server listens on TCP "
        "only on the addresses in its listen_addresses."
    ),
    r"on socket .*No such file or directory|No such file or directory": (
        f"No socket exists there: start the server, or specify its host= and port= in {_WITH}."
    ),
    r"on socket .*Permission denied": (
        f"This user may not use the socket (unix_socket_permissions): connect over TCP with host=localhost in {_WITH}."
    ),
    (
        r"timeout expired|timed out|No route to host|[Nn]etwork is unreachable|Host is unreachable|"
        r"within \d+ s"
    ): (
        "The host does not answer: check the network, a firewall, and host= and port= in --dsn; connect_timeout= "
        "limits the wait."
    ),
    r"the database system is|not yet accepting connections|recovery mode": (
        "The server is starting, stopping or recovering: try again in a moment; its log shows the progress. --dsn "
        "can specify another server."
    ),
    r"session is read-only|session is not read-only|hot standby mode|server is not in": (
        "The server does not match target_session_attrs: specify another one with host= in --dsn."
    ),
    r"closed the connection unexpectedly|Connection reset": (
        "The server, or a proxy in front of it, closed the connection: see its log. Check host= and port= in --dsn."
    ),
    r"no connection string": (
        "Write host=… dbname=… user=…, or postgresql://user@host/dbname, in --dsn or JOBPLAN_DSN; in the names and "
        "the password of a URI, write @ : / and % as %40 %3A %2F and %25. Better, keep the password in ~/.pgpass or "
        "PGPASSFILE."
    ),
}


def remedy_for(message: str) -> str:
    """Return the hint for a failed connection with this message."""
    return next((remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, message)), WHERE)


def connection_failed(error: BaseException, conninfo: str) -> ConnectionFailedError:
    """Return the error for a failed connection, without any part of a password, and with its hint."""
    message = hide_secrets(_on_one_line(str(error)), conninfo)
    failed = ConnectionFailedError(message, hint=remedy_for(message))
    failed.unnamed = _is_unnamed(conninfo)
    return failed


def _on_one_line(text: str) -> str:
    """Join the lines of a message; libpq starts its hints on a new line without ending the previous sentence."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    joined = ""
    for line in filter(None, lines):
        ends = not joined or joined[-1] in ".?!:;,"
        joined += line if not joined else f" {line}" if ends or not line[0].isupper() else f". {line}"
    return joined


def _is_unnamed(conninfo: str) -> bool:
    """Return whether neither the connection string nor the environment specifies a server."""
    try:
        parts = conninfo_to_dict(conninfo)
    except ProgrammingError:
        return False
    names = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "service": "PGSERVICE", "port": "PGPORT"}
    return not any(parts.get(name) or os.environ.get(variable) for name, variable in names.items())


def _not_a_connection_string(error: BaseException) -> ConnectionFailedError:
    """Return the error for an invalid connection string.

    libpq quotes the words that it cannot parse, and such a word may be the end of a password: none is repeated, except
    the name of an option.
    """
    text = " ".join(str(error).split())
    option = re.search(r'invalid (?:URI query parameter|connection option)[^"]*"(\w{1,40})"', text)
    if option is not None:
        message = f"this is not a connection string: it has no option {option.group(1)!r}"
    else:
        message = f"this is not a connection string: {_QUOTED.sub('…', text)}"
    return ConnectionFailedError(message, hint=remedy_for("no connection string"))


_QUOTED = re.compile(r"""(["']).*\1""")


def hide_secrets(text: str, conninfo: str) -> str:
    """Return the text without anything that may be part of a password in the connection string."""
    for secret in sorted(_secrets(conninfo), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _secrets(conninfo: str) -> set[str]:
    """Return what libpq parsed as a password, and what may be one that a bad URI put into another option."""
    parts: dict[str, str] = {}
    found: set[str] = set()
    with contextlib.suppress(Exception):  # what libpq cannot parse is examined as text below
        options = pq.Conninfo.parse(conninfo.encode())
        parts = {option.keyword.decode(): option.val.decode() for option in options if option.val}
        found |= {parts[option.keyword.decode()] for option in options if option.val and option.dispchar == _HIDDEN}
    if "://" in conninfo:
        found |= set(_of_uri(conninfo.partition("://")[2]))
    odd = (parts.get(name, "") for name in ("host", "dbname", "user", "port"))
    found |= {value for value in odd if "://" in value or "@" in value}
    return {secret for secret in found if len(secret) > 1}


def _of_uri(rest: str) -> Iterable[str]:
    """Yield the text between the first colon and the last @ of a URI, as a whole and split into its possible parts."""
    before, at, _ = rest.rpartition("@")
    _, colon, password = before.partition(":")
    if not at or not colon:
        return
    for piece in (password, *re.split(r"[@/:?#]", password)):
        yield piece
        yield unquote(piece)
    if "@" in password or "/" in password:
        yield rest.rpartition("@")[0].partition("@")[2] + "@" + rest.rpartition("@")[2].split("/")[0]


#: Limits for a network that drops packets: a run must not wait for hours for a dead connection.
_KEEPALIVES = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def with_keepalives(conninfo: str) -> str:
    """Return the connection string with limits for a dead network, unless it sets them itself.

    ConnectionFailedError if it is not a connection string.
    """
    try:
        parts = _parts(conninfo)
        if "://" in parts.get("dbname", ""):
            raise ConnectionFailedError(
                "this is not a connection string: dbname is a URI.",
                hint="Pass the URI itself, without dbname= in front.",
            )
        return make_conninfo(conninfo, **{**_KEEPALIVES, **parts})
    except ProgrammingError as error:
        raise _not_a_connection_string(error) from None  # the cause would repeat what was hidden


def _parts(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value}


def pinned(conninfo: str, *, host: str, address: str, port: str) -> str:
    """Return the connection string with only the host of a session.

    `address` is empty for a Unix socket. The result is empty if the string already leads only there.
    """
    parts = _parts(conninfo)
    here = {"host": host, "hostaddr": address, "port": port}
    if not host or "service" in parts or all(parts.get(name, "") == value for name, value in here.items() if value):
        return ""
    rest = {name: value for name, value in parts.items() if name not in {*here, "load_balance_hosts"}}
    return make_conninfo("", **{**rest, **{name: value for name, value in here.items() if value}})


#: libpq's mark for values that must not be displayed: passwords, keys and secrets, also those of later versions.
_HIDDEN = b"*"


def without_password(conninfo: str) -> str:
    """Return the connection string without its passwords, in keyword form; empty if it contains nothing else."""
    parts = _open_parts(conninfo)
    return make_conninfo(**parts) if parts else ""


def recorded(conninfo: str, *, host: str, port: str, user: str, database: str) -> str:
    """Return a connection string for the same server that works in another environment, without a password.

    `conninfo` is the given string; host, port, user and database are those of the session, for what it lacks.
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
        raise _not_a_connection_string(error) from None
    return {
        option.keyword.decode(): option.val.decode() for option in options if option.val and option.dispchar != _HIDDEN
    }


def is_within(general: str, conninfo: str) -> bool:
    """Return whether a connection string has everything that a more general one says, apart from passwords."""
    wanted, parts = _open_parts(general), _open_parts(conninfo)
    return bool(wanted) and all(parts.get(key) == value for key, value in wanted.items())


def conninfo_of(keywords: Mapping[str, str]) -> str:
    """Return the connection string with these keywords, each value quoted as libpq needs it."""
    return make_conninfo("", **keywords)
