"""A failed connection is reported with a remedy of its own, and never with a part of a password."""

from __future__ import annotations

import pytest

from runner.errors import ConnectionFailedError
from runner.gateway.connecting import (
    FULL,
    WHERE,
    connection_failed,
    recorded,
    remedy_for,
    with_keepalives,
    without_password,
)

#: What libpq, psycopg or the server says, and a word of the remedy.
MESSAGES = [
    (
        'connection to server failed: FATAL:  password authentication failed for user "a"',
        "PGPASSFILE",
    ),
    ('connection to server at "127.0.0.1", port 5432 failed: fe_sendauth: no password supplied', "password file"),
    (
        'connection to server failed: FATAL:  Peer authentication failed for user "a"',
        "host=localhost",
    ),
    ('FATAL:  Ident authentication failed for user "a"', "host=localhost"),
    ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "d", no encryption', "sslmode=require"),
    ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "d", SSL encryption', "pg_hba.conf"),
    ('FATAL:  pg_hba.conf rejects connection for host "10.0.0.1"', "pg_hba.conf"),
    ('FATAL:  role "a" does not exist', "user="),
    ('FATAL:  role "a" is not permitted to log in', "user="),
    ('FATAL:  database "d" does not exist', "dbname="),
    ('FATAL:  database "d" is not currently accepting connections', "dbname="),
    ('FATAL:  permission denied for database "d"', "dbname="),
    ('could not translate host name "nowhere.invalid" to address: Name or service not known', "DNS"),
    ("failed to resolve host 'nowhere.invalid': [Errno -2] Name or service not known", "DNS"),
    ("[Errno -3] Temporary failure in name resolution", "DNS"),
    ('connection to server at "127.0.0.1", port 1 failed: Connection refused', "listens"),
    ('connection to server on socket "/nowhere/.s.PGSQL.5432" failed: No such file or directory', "socket"),
    ('connection to server on socket "/x/.s.PGSQL.5432" failed: Permission denied', "unix_socket_permissions"),
    ('connection to server at "10.255.255.1", port 5432 failed: timeout expired', "connect_timeout"),
    ("connection timeout expired", "connect_timeout"),
    ('connection to server at "10.0.0.9" failed: No route to host', "firewall"),
    ('connection is bad: invalid port number: "99999"', "an invalid value"),
    ("bad value for connect_timeout: 'abc'", "an invalid value"),
    ('invalid integer value "x" for connection option "keepalives"', "an invalid value"),
    ('connection is bad: invalid sslmode value: "foo"', "an invalid value"),
    ('invalid "ssl_min_protocol_version" value: "x"', "an invalid value"),
    ("could not match 3 port numbers to 2 hosts", "an invalid value"),
    ("connection is bad: GSSAPI encryption required but no credential cache", "kinit"),
    ("server does not support SSL, but SSL was required", "sslmode=prefer"),
    ("SSL error: certificate verify failed", "sslrootcert"),
    ('root certificate file "/root/.postgresql/root.crt" does not exist', "sslrootcert"),
    ('server certificate for "a" does not match host name "b"', "sslrootcert"),
    ("FATAL:  sorry, too many clients already", FULL),
    ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", FULL),
    ('FATAL:  too many connections for role "a"', FULL),
    ('FATAL:  too many connections for database "d"', FULL),
    ("FATAL:  the database system is starting up", "moment"),
    ("FATAL:  the database system is shutting down", "moment"),
    ("FATAL:  the database system is not yet accepting connections", "moment"),
    ("session is read-only", "target_session_attrs"),
    ("server is in hot standby mode", "target_session_attrs"),
    ('definition of service "s" not found', "pg_service.conf"),
    ("received invalid response to SSL negotiation: H", "not PostgreSQL"),
    ("server closed the connection unexpectedly", "proxy"),
    ("etwas ganz anderes", WHERE),
]


@pytest.mark.parametrize(("message", "remedy"), MESSAGES)
def test_each_kind_of_failure_has_its_own_remedy(message: str, remedy: str) -> None:
    found = remedy_for(message)
    assert remedy in found
    assert found.endswith(".")


def test_the_remedies_differ() -> None:
    kinds = {remedy_for(message) for message, _ in MESSAGES}
    assert len(kinds) >= 17


#: Connection strings with a password in them that is badly written, and its parts.
BAD = [
    ("password=my S3cr3t", ["S3cr3t"]),
    ("host=h password=my S3cr3t user=a", ["S3cr3t"]),
    ("host=h password='my S3cr3t", ["S3cr3t"]),
    ("host=h password=S3cr3t wort", ["S3cr3t", "wort"]),
    ("postgresql://a:S3%zzcr3t@h/d", ["S3", "cr3t"]),
    ("postgresql://a:S3%@h/d", ["S3"]),
    ("a:S3cr3t@h/d", ["S3cr3t"]),
    ("a:S3cr3t@h:5432/d?sslmode=require", ["S3cr3t"]),
    ("postgresql://a:S3cr3t@[h/d", ["S3cr3t"]),
    ("postgresql://a:S3cr3t@h/d?S3cr3t", ["S3cr3t"]),
    ("dbname=postgresql://a:S3cr3t@h/d", ["S3cr3t"]),
    ("host=h dbname=postgres://a:S3cr3t@h/d", ["S3cr3t"]),
    ("PASSWORD=S3cr3t", ["S3cr3t"]),
]


@pytest.mark.parametrize(("conninfo", "parts"), BAD)
def test_what_is_no_connection_string_is_not_repeated(conninfo: str, parts: list[str]) -> None:
    with pytest.raises(ConnectionFailedError) as refused:
        with_keepalives(conninfo)
    said = f"{refused.value} {refused.value.__cause__}"
    assert "connection string" in said
    assert not [part for part in parts if part in said], said


@pytest.mark.parametrize("conninfo", ["password=my S3cr3t", "a:S3cr3t@h/d", "postgresql://a:S3%zzcr3t@h/d"])
def test_nor_is_it_where_a_command_or_a_record_would_name_the_server(conninfo: str) -> None:
    for call in (without_password, lambda text: recorded(text, host="", port="", user="", database="")):
        with pytest.raises(ConnectionFailedError) as refused:
            call(conninfo)
        assert "cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    ("conninfo", "message"),
    [
        ("postgresql://a:my@S3cr3t@h/d", "failed to resolve host 'S3cr3t@h': [Errno -2] Name or service not known"),
        ("postgresql://a:S3cr3t@h/d", 'failed: FATAL: password "S3cr3t" is wrong'),
        ("host=h password=S3cr3t", "the word S3cr3t"),
        ("host=h sslpassword=S3cr3t", "the word S3cr3t"),
        ("postgresql://a:my/S3cr3t@h/d", 'invalid port number "my" or database "S3cr3t@h/d"'),
        ("postgresql://a:S3cr%40et@h/d", "the password S3cr@et, which is written S3cr%40et"),
    ],
)
def test_no_message_of_the_server_or_of_libpq_shows_a_password(conninfo: str, message: str) -> None:
    error = connection_failed(OSError(message), conninfo)
    assert "S3cr" not in str(error)
    assert error.hint


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConnectionFailedError, match="no option 'hots'"):
        with_keepalives("hots=here")


def test_lines_of_libpq_are_joined_as_sentences() -> None:
    error = OSError("connection failed: Connection refused\n\tIs the server running on that host?\nfailed:\n - one")
    message = connection_failed(error, "host=x").message
    assert message == "connection failed: Connection refused. Is the server running on that host? failed: - one"
