"""Connection strings, and why a connection failed, as libpq and the server report it, with the remedy.

libpq gives no SQLSTATE for a connection that failed, so the kind is found in the text; a server whose messages are not
in English gets the general remedy. No message holds a part of a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from psycopg import OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.errors import ConnectionFailedError

#: Where to say what is wrong; every remedy that needs a better connection string ends with it.
_WITH = "--dsn, JOBPLAN_DSN or libpq's own environment"
WHERE = "Say where the server is, and who you are, with --dsn, JOBPLAN_DSN or libpq's PGHOST and so on."
FULL = (
    "The server has no connection left for this role: end a session, or come as a role that has reserved ones (a "
    "superuser, or from PostgreSQL 16 on a member of pg_use_reserved_connections)."
)

#: What a message has in it, and the remedy: the first that fits counts. Later entries are more general.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"connection slots are reserved|too many clients already|too many connections for|sorry, too many clients",
        FULL,
    ),
    (
        r"invalid port number|bad value for|invalid integer value|invalid \"?\w+\"? value|could not match \d+",
        f"An option of the connection has a value that it cannot have: correct it in {_WITH}.",
    ),
    (
        r"GSSAPI encryption required|GSSAPI support",
        f"Encryption by GSSAPI needs a Kerberos ticket (kinit): get one, or check gssencmode in {_WITH}.",
    ),
    (
        r"invalid response|expected authentication request|unsupported frontend protocol",
        f"What listens there is not PostgreSQL: check host= and port= in {_WITH}.",
    ),
    (
        r"no pg_hba\.conf entry .*no encryption|SSL connection is required|no pg_hba\.conf entry .*SSL off",
        (
            f"The server takes this connection with TLS only, or from elsewhere: sslmode=require in "
            f"{_WITH}, or a line "
            "for it in the server's pg_hba.conf."
        ),
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        (
            "The server's pg_hba.conf does not let this role come from this host to this database: "
            "add a line there and "
            f"reload the server, or name another role, database or host with {_WITH}."
        ),
    ),
    (
        (
            r"server does not support SSL|SSL error|certificate verify failed|root certificate|server certificate"
            r"|SSL SYSCALL|negotiated|sslmode|certificate file|private key file|SSL negotiation"
        ),
        (
            f"TLS could not be set up: check sslmode, sslrootcert and the host's name in {_WITH}; "
            f"sslmode=prefer does "
            "without."
        ),
    ),
    (
        r"no password supplied|password authentication failed.*no password",
        (
            "The server wants a password: put it into a password file (~/.pgpass, or PGPASSFILE names one) or into "
            "PGPASSWORD; --dsn is visible to other users of this machine."
        ),
    ),
    (
        r"[Pp]eer authentication failed|[Ii]dent authentication failed",
        (
            "The server compares the user of this machine with the role: run this as that user, name "
            "the role with user=, "
            "or connect with a password over TCP (host=localhost) in --dsn."
        ),
    ),
    (
        r"authentication failed|authentication method|SCRAM|no user name specified|GSSAPI",
        (
            "Check the role and its password: user= in --dsn, and ~/.pgpass, PGPASSFILE or "
            "PGPASSWORD; the server's log "
            "says why it refused."
        ),
    ),
    (
        r'role "[^"]*" does not exist|role .* is not permitted to log in',
        f"Name a role that exists and may log in: user= in {_WITH} (without it, it is the user of this machine).",
    ),
    (
        r'database "[^"]*" does not exist|not currently accepting connections|permission denied for database',
        f"Name a database that exists and that this role may connect to: dbname= in {_WITH}; psql -l lists them.",
    ),
    (
        r"definition of service|service file",
        f"Name a service that pg_service.conf has (PGSERVICEFILE says where it is), or use host= in {_WITH}.",
    ),
    (
        (
            r"translate host name|resolve host|Name or service not known|name resolution|nodename nor servname"
            r"|No address associated"
        ),
        (
            f"No such host is known: check host= in {_WITH}, and the DNS of this machine. A @ in a "
            f"password of a URI is "
            "written %40."
        ),
    ),
    (
        r"Connection refused",
        (
            f"Nothing listens there: start the server, or check host= and port= in {_WITH}; a server "
            f"listens on TCP only "
            "where its listen_addresses says so."
        ),
    ),
    (
        r"on socket .*No such file or directory|No such file or directory",
        f"There is no socket there: start the server, or say where it is with host= and port= in {_WITH}.",
    ),
    (
        r"on socket .*Permission denied",
        f"This user may not use the socket (unix_socket_permissions): connect over TCP with host=localhost in {_WITH}.",
    ),
    (
        r"timeout expired|timed out|No route to host|[Nn]etwork is unreachable|Host is unreachable|within \d+ s",
        (
            "The host does not answer: check the network, a firewall, and host= and port= in --dsn; "
            "connect_timeout= there "
            "says how long to wait."
        ),
    ),
    (
        r"the database system is|not yet accepting connections|recovery mode",
        (
            "The server is starting, stopping or recovering: try again in a moment; its log says how "
            "far it is. --dsn can "
            "name another one."
        ),
    ),
    (
        r"session is read-only|session is not read-only|hot standby mode|server is not in",
        "The server is not of the kind that target_session_attrs asks for: name the right one with host= in --dsn.",
    ),
    (
        r"closed the connection unexpectedly|Connection reset",
        "The server, or a proxy before it, closed the connection: its log says why. Check host= and port= in --dsn.",
    ),
    (
        r"no connection string",
        (
            "Write host=… dbname=… user=…, or postgresql://user@host/dbname, in --dsn or "
            "JOBPLAN_DSN; in a URI, @ : / and % "
            "of a name or a password are written %40 %3A %2F and %25. Keep the password out of it: "
            "~/.pgpass or PGPASSFILE."
        ),
    ),
)


def remedy_for(message: str) -> str:
    """Say what to do about a connection that failed with this message."""
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, message)), WHERE)


def connection_failed(error: BaseException, conninfo: str) -> ConnectionFailedError:
    """Return the error for a connection that could not be made, without a part of a password, and with its remedy."""
    message = hide_secrets(_on_one_line(str(error)), conninfo)
    failed = ConnectionFailedError(message, hint=remedy_for(message))
    failed.unnamed = _is_unnamed(conninfo)
    return failed


def _on_one_line(text: str) -> str:
    """Join the lines of a message; libpq puts a question of its own on a line without ending the one before."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    joined = ""
    for line in filter(None, lines):
        ends = not joined or joined[-1] in ".?!:;,"
        joined += line if not joined else f" {line}" if ends or not line[0].isupper() else f". {line}"
    return joined


def _is_unnamed(conninfo: str) -> bool:
    """Say whether neither the connection string nor the environment names a server."""
    try:
        parts = conninfo_to_dict(conninfo)
    except ProgrammingError:
        return False
    names = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "service": "PGSERVICE", "port": "PGPORT"}
    return not any(parts.get(name) or os.environ.get(variable) for name, variable in names.items())


def not_a_connection_string(error: BaseException) -> ConnectionFailedError:
    """Return the error for what is no connection string.

    libpq quotes the words that it does not understand, and such a word may be the end of a password: none is repeated,
    but for the name of an option.
    """
    text = " ".join(str(error).split())
    option = re.search(r'invalid (?:URI query parameter|connection option)[^"]*"(\w{1,40})"', text)
    if option is not None:
        told = f"this is no connection string: it has no option {option.group(1)!r}"
    else:
        told = f"this is no connection string: {_QUOTED.sub('…', text)}"
    return ConnectionFailedError(told, hint=remedy_for("no connection string"))


_QUOTED = re.compile(r"""(["']).*\1""")


def hide_secrets(text: str, conninfo: str) -> str:
    """Return the text without what may be a part of a password in the connection string."""
    for secret in sorted(_secrets(conninfo), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _secrets(conninfo: str) -> set[str]:
    """Return what libpq took for a password, and what it may have taken for something else because of a bad URI."""
    found: set[str] = set()
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value}
        found |= {
            parts[option.keyword.decode()]
            for option in pq.Conninfo.get_defaults()
            if option.dispchar == b"*" and option.keyword.decode() in parts
        }
    except Exception:  # noqa: BLE001 - what libpq cannot read is looked at as text below
        parts = {}
    if "://" in conninfo:
        found |= set(_of_uri(conninfo.partition("://")[2]))
    odd = (parts.get(name, "") for name in ("host", "dbname", "user", "port"))
    found |= {value for value in odd if "://" in value or "@" in value}
    return {secret for secret in found if len(secret) > 1}


def _of_uri(rest: str) -> Iterable[str]:
    """Yield what lies between the first colon and the last @ of a URI, as a whole and in the parts "
    "that it may have."""
    before, at, _ = rest.rpartition("@")
    _, colon, password = before.partition(":")
    if not at or not colon:
        return
    for piece in (password, *re.split(r"[@/:?#]", password)):
        yield piece
        yield unquote(piece)
    if "@" in password or "/" in password:
        yield rest.rpartition("@")[0].partition("@")[2] + "@" + rest.rpartition("@")[2].split("/")[0]


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
