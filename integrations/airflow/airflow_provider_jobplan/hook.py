"""Airflow's Postgres connections as what jobplan and libpq read: a connection string, and a password file.

A password is never an argument, and never a variable of the environment. It is in a file of libpq's, with mode 0600, in
a folder of mode 0700. jobplan opens sessions during the whole run, and outlives a task that is killed, so the file must
stay as long as jobplan runs and not longer. jobplan inherits a lock on it; the next task here removes files that no
process has locked any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from airflow.providers.common.compat.sdk import BaseHook

from runner.errors import UsageError

#: Keys of a connection's extra that libpq knows, and that are no secrets.
_EXTRA: Final = frozenset(
    {
        "application_name", "channel_binding", "connect_timeout", "gssencmode", "hostaddr", "keepalives",
        "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "options", "passfile", "service",
        "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslrootcert", "target_session_attrs",
        "tcp_user_timeout",
    }
)  # fmt: skip
_SUFFIX: Final = ".pgpass"


class JobplanHook(BaseHook):
    """Reads Airflow connections of the type Postgres for jobplan."""

    conn_name_attr = "postgres_conn_id"
    default_conn_name = "postgres_default"
    hook_name = "jobplan"

    def __init__(self, postgres_conn_id: str = default_conn_name, database: str | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - those of BaseHook
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self.database = database

    def get_conn(self) -> str:
        """Return the connection string, without a password."""
        return conninfo(self.get_connection(self.postgres_conn_id), self.database)

    def password_line(self, *, any_host: bool) -> str | None:
        """Return the line of a password file, None if the connection has no password."""
        return password_line(self.get_connection(self.postgres_conn_id), any_host=any_host)


def conninfo(connection: Any, database: str | None = None) -> str:  # noqa: ANN401 - the class differs between versions
    """Return a connection string of libpq without a password. UsageError for a connection of another type."""
    if connection.conn_type not in ("postgres", "postgresql"):
        raise UsageError(f"the connection {connection.conn_id} is of type {connection.conn_type}, not postgres.")
    values: dict[str, object] = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "dbname": database or connection.schema,
    }
    extra: Mapping[str, object] = connection.extra_dejson
    values |= {key: extra[key] for key in sorted(_EXTRA & extra.keys())}
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items() if value not in (None, ""))


def _quoted(value: str) -> str:
    if "\0" in value:
        raise UsageError("a value of the connection has a NUL character.")
    return "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"


def password_line(connection: Any, *, any_host: bool) -> str | None:  # noqa: ANN401 - the class differs between versions
    """Return the line of a password file for a connection, None if it has no password.

    With `any_host` the line is for every server: the file is for one connection. UsageError for a password that such a
    file cannot have.
    """
    password = connection.password
    if not password:
        return None
    if any(one in password for one in "\n\r\0"):
        raise UsageError(f"the password of {connection.conn_id} has a line break: no password file can have it.")
    if any_host:
        fields: list[object] = ["*", "*", "*", "*"]
    else:
        fields = [connection.host or "localhost", connection.port or "*", "*", connection.login or "*"]
    return ":".join([*(str(one) if one == "*" else _escaped(str(one)) for one in fields), _escaped(password)])


def _escaped(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")


class PasswordFile:
    """A password file for one child process. `remove` it when the child has ended."""

    def __init__(self, folder: Path, lines: Iterable[str]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):  # a new file has no lock for a moment
            remove_unused(folder)
            descriptor, name = tempfile.mkstemp(suffix=_SUFFIX, dir=folder)  # mode 0600
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        self.path = Path(name)
        #: The child inherits it, and with it the lock.
        self.descriptor = descriptor
        with self.path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def close(self) -> None:
        """Leave the file to the child."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        self.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_unused(folder: Path) -> None:
    """Remove the password files whose processes have all ended."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError, PermissionError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
