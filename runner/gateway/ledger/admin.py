"""Administration of the ledger as a whole: install, upgrade, inspect, purge, remove."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from runner.engine.previous_runs import PastRun
from runner.engine.state import BAD
from runner.errors import RecordError, UsageError
from runner.gateway.connecting import connection_failed, with_keepalives
from runner.gateway.ledger.storage import (
    OLDEST,
    OPTION,
    VERSION,
    distrust_statement,
    distrusted,
    ignored,
    read,
    read_event,
    remedy,
)
from runner.gateway.queries import query
from runner.gateway.session import ANSWER_WITHIN, LONG_ANSWER_WITHIN
from runner.plan.sqlstates import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE
from runner.sql.placeholders import TemplateError, quote_identifier
from runner.structs import Struct

#: The blocks that upgrade a ledger from the previous version to each of these.
STEPS: Mapping[int, str] = {1: "ledger_version_1", 2: "ledger_version_2", 3: "ledger_version_3"}
#: The limit of each wait for a lock: a running step holds one on the commit rows.
LOCK_TIMEOUT = "5s"
#: Seconds that no run is older than (200 years): PostgreSQL cannot subtract any number from a timestamp.
_LONGEST_AGE = 200 * 365 * 86400.0
#: The limit in seconds for operations that change all rows: it ends them if the server's answer is lost.
_MAINTENANCE_WITHIN = 3600.0
_NAME = "jobplan:ledger"
_DEPENDED_ON = "2BP01"
_NEEDED_PRIVILEGES = (
    "To create a ledger, a role needs CREATE on the database, or on an empty schema of that name. Only its owner can"
    " change or remove it; the owner grants its use to others with jobplan ledger install --grant ROLE."
)
#: Creating a ledger does not bring back a record: the connection may lead to another server than the run's.
_OTHER_LOCATION = "If the run used another server or schema, pass --dsn, or set JOBPLAN_LEDGER_SCHEMA."


class LedgerStatus(Struct, frozen=True, kw_only=True):
    """The state of a ledger; times are in UTC, in the server's format.

    `version` is None if there is no ledger, or if this role may not read it (`readable`). A `standby` is read-only.
    """

    schema: str
    version: int | None = None
    writable: bool = False
    standby: bool = False
    readable: bool = True
    runs: int = 0
    unfinished: int = 0
    events: int = 0
    bytes: int = 0
    first: str | None = None
    last: str | None = None

    @property
    def remedy(self) -> str | None:
        """The command that makes it usable by this jobplan; None if it is usable."""
        if not self.readable:
            return "jobplan ledger install --grant ROLE"
        if self.version is None:
            return "jobplan ledger install"
        if self.version < VERSION:
            return "jobplan ledger upgrade"
        return "a newer jobplan" if self.version > VERSION else None


class LedgerRun(Struct, frozen=True, kw_only=True):
    """The ledger's record of a run: its plans as JSON by their SHA-256, and its events, as far as recorded."""

    run_id: str
    plans: Mapping[str, str]
    events: tuple[Mapping[str, Any], ...]


class _Deadline:
    """Closes a connection that is used for longer than `seconds`; then TimeoutError at the end of the block."""

    def __init__(self, connection: psycopg.Connection[Any], seconds: float) -> None:
        self._descriptor = connection.fileno()
        self._seconds = seconds
        self._over = False
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._over:
            raise TimeoutError(f"the server has not answered for {self._seconds:g} seconds") from error

    def _give_up(self) -> None:
        self._over = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as shared:
            shared.shutdown(socket.SHUT_RDWR)  # a thread that waits for the connection then gets an error


class LedgerAdmin:
    """Performs each operation on a separate connection, in one transaction. RecordError if it fails."""

    def __init__(self, conninfo: str, schema: str, trusted_roles: Sequence[str] = ()) -> None:
        self._conninfo = with_keepalives(conninfo)
        self._trusted_roles = tuple(trusted_roles)
        self._schema = schema
        try:
            self._quoted = quote_identifier(schema)
        except TemplateError as error:
            raise UsageError(f"--schema {schema!r}: {error.message}") from error

    def install(self, jobplan: str, grants: Sequence[str] = ()) -> bool:
        """Create the ledger if it does not exist, and grant its use to the roles; return False if it existed.

        A ledger of an older version is upgraded, as by `upgrade`.
        """
        with self._connected(_MAINTENANCE_WITHIN) as connection:
            version = self._version(connection)
            if version is None:
                if not self._schema_exists(connection):
                    self._do(connection, f"CREATE SCHEMA {self._quoted}")
                self._bring_up(connection, 0, jobplan)
            elif version < VERSION:
                self._bring_up(connection, version, jobplan)
            else:
                self._require(version)
            for role in grants:
                self._do(connection, self._block("ledger_grant").replace("{role}", _quoted_role(role)))
            self._require_trust(connection)  # again: existing objects may have become parts of the ledger
        return version is None

    def upgrade(self, jobplan: str) -> tuple[int, int]:
        """Upgrade the ledger, and its views, to this jobplan's version; return the previous and the present version."""
        with self._connected(_MAINTENANCE_WITHIN) as connection:
            version = self._installed_version(connection, "Create it: jobplan ledger install")
            if version > VERSION:
                raise self._too_new(version)
            if version < VERSION:
                self._bring_up(connection, version, jobplan)
            else:
                self._do(connection, self._block("ledger_views"))
        return version, VERSION

    def status(self) -> LedgerStatus:
        """Return the state of the ledger."""
        try:
            return self._look()
        except RecordError as error:
            if isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
                return LedgerStatus(schema=self._schema, readable=False)
            raise

    def _look(self) -> LedgerStatus:
        with self._connected() as connection:
            version = self._version(connection)
            if version is None:
                return LedgerStatus(schema=self._schema)
            (found,) = connection.execute(query("ledger_found"), [self._schema]).fetchall()
            (row,) = connection.execute(self._block("ledger_status").encode(), [self._schema]).fetchall()
            runs, unfinished, events, size, first, last = row
        return LedgerStatus(
            schema=self._schema,
            version=version,
            writable=found[2] is False and found[3] is True,
            standby=found[2] is True,
            runs=runs,
            unfinished=unfinished,
            events=events,
            bytes=size,
            first=first,
            last=last,
        )

    def purge(self, older_than: float) -> int:
        """Delete runs that ended more than `older_than` seconds ago, except active ones; return their number.

        A run without an end, because its runner was killed, has the age of its last event.
        """
        with self._connected(_MAINTENANCE_WITHIN) as connection:
            self._require(self._installed_version(connection))
            oldest = min(older_than, _LONGEST_AGE)
            (row,) = connection.execute(self._block("ledger_purge").encode(), [oldest]).fetchall()
        return int(row[0])

    def remove(self) -> bool:
        """Drop the ledger, and its schema if nothing else is in it; return whether the schema was dropped."""
        with self._connected() as connection:
            self._installed_version(connection)
            self._do(connection, self._block("ledger_remove"))
            others = connection.execute(self._block("ledger_others").encode(), [self._schema]).fetchall()
            if others[0][0]:
                return False
            self._do(connection, f"DROP SCHEMA {self._quoted}")
        return True

    def read(self, name: str) -> LedgerRun:
        """Return the record of a run, by its id, its beginning, or `last`. RecordError if none or several match."""
        with self._connected() as connection:
            self._require(self._installed_version(connection, _OTHER_LOCATION), oldest=OLDEST)
            listed = connection.execute(self._block("ledger_find").encode(), [name]).fetchall()
            found = [run for run, trusted, _ in listed if trusted]
            if listed and not found:
                raise untrusted_record(listed[0][0], listed[0][2])
            if not found:
                raise RecordError(
                    f"there is no run {name!r} in the ledger in schema {self._schema} of {_place(connection)}.",
                    hint=_OTHER_LOCATION,
                )
            if len(found) > 1 and name not in ("last", found[0]):
                raise RecordError(
                    f"{name!r} matches more than one run: {', '.join(found)}, and possibly others.",
                    hint="Write more characters of its id.",
                )
            writer_rows = connection.execute(self._block("ledger_writers").encode(), [found[0]]).fetchall()
            asked = [found[0], json.dumps([writer for writer, trusted in writer_rows if trusted])]
            plans = connection.execute(self._block("ledger_plans").encode(), asked).fetchall()
            events = connection.execute(self._block("ledger_history").encode(), asked).fetchall()
        return LedgerRun(
            run_id=found[0],
            plans=dict(plans),
            events=tuple(read_event(json.loads(event)) for (event,) in events),
        )

    def recorded_runs(self, most: int) -> tuple[PastRun, ...]:
        """Return the latest runs, the last one first: for display only, because any role with a grant writes rows."""
        with self._connected(_MAINTENANCE_WITHIN) as connection:
            self._require(self._installed_version(connection, _OTHER_LOCATION), oldest=OLDEST)
            runs = connection.execute(self._block("ledger_recorded_runs").encode(), [most]).fetchall()
            steps = self._block("ledger_recorded_steps").encode()
            return tuple(_recorded_run(row, connection.execute(steps, [row[0], row[-1]]).fetchall()) for row in runs)

    # --- internals ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connected(self, limit: float | None = None) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Open a connection and a transaction with a short lock_timeout, exclusive among ledger commands.

        The connection is closed if the caller uses it for longer than `limit` seconds: otherwise a network that
        delivers nothing would block the caller forever.
        """
        try:
            connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                application_name=_NAME,
                client_encoding="UTF8",
                cursor_factory=psycopg.RawCursor,
            )
        except psycopg.Error as error:
            raise connection_failed(error, self._conninfo) from error
        with connection:
            try:
                with contextlib.ExitStack() as transaction:
                    with _Deadline(connection, ANSWER_WITHIN):
                        connection.execute(query("pin"))
                        connection.execute(query("ledger_session"), [LOCK_TIMEOUT])
                        transaction.enter_context(connection.transaction())
                        connection.execute(query("ledger_alone"))
                        self._require_trust(connection)
                    with _Deadline(connection, LONG_ANSWER_WITHIN if limit is None else limit):
                        yield connection
            except psycopg.Error as error:
                raise self._with_requester(error) from error
            except TimeoutError as error:
                raise RecordError(f"the ledger in schema {self._schema}: {error}.") from error

    def _require_trust(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Refuse a ledger, or a schema for one, with an object that an untrusted role owns."""
        block, parameters = distrust_statement(self._schema, self._trusted_roles)
        found = distrusted(connection.execute(query(block), parameters).fetchall())
        if found is not None:
            raise RecordError(f"{ignored(self._schema, found)}.", hint=remedy(found))

    def _with_requester(self, error: psycopg.Error) -> RecordError:
        message = error.diag.message_primary or " ".join(str(error).split())
        hint = None
        if error.sqlstate == LOCK_NOT_AVAILABLE:
            hint = "Another session uses it, possibly a running step. Try again when that has ended."
        elif error.sqlstate == INSUFFICIENT_PRIVILEGE:
            hint = _NEEDED_PRIVILEGES
        elif error.sqlstate == _DEPENDED_ON:
            detail = " ".join((error.diag.message_detail or "").split())
            hint = f"{detail}. Drop those objects first, or keep the ledger."
        return RecordError(f"the ledger in schema {self._schema}: {message}.", hint=hint)

    def _block(self, name: str) -> str:
        return query(name, ledger=self._quoted, trusted=self._trusted_roles).decode()

    def _do(self, connection: psycopg.Connection[tuple[Any, ...]], statements: str) -> None:
        connection.execute(statements.encode())

    def _schema_exists(self, connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = $1", [self._schema])
        return bool(found.fetchall())

    def _version(self, connection: psycopg.Connection[tuple[Any, ...]]) -> int | None:
        """Return the version of the existing ledger; None without one."""
        (row,) = connection.execute(query("ledger_found"), [self._schema]).fetchall()
        if not row[1]:
            return None
        (version,) = connection.execute(self._block("ledger_version").encode()).fetchall()[0]
        if version is None:
            raise RecordError(
                f"the ledger in schema {self._schema} has no version: its table meta is empty.",
                hint="It is damaged. Drop it with DROP SCHEMA, or write its version into meta again.",
            )
        return int(version)

    def _installed_version(self, connection: psycopg.Connection[tuple[Any, ...]], hint: str | None = None) -> int:
        version = self._version(connection)
        if version is None:
            raise no_ledger(self._schema, _place(connection), hint)
        return version

    def _require(self, version: int, *, oldest: int | None = None) -> None:
        if version > VERSION:
            raise self._too_new(version)
        if version < (VERSION if oldest is None else oldest):
            hint = "Upgrade it: jobplan ledger upgrade"
            raise RecordError(f"the ledger in schema {self._schema} is of version {version}.", hint=hint)

    def _too_new(self, version: int) -> RecordError:
        message = f"the ledger in schema {self._schema} is of version {version}, and this jobplan supports {VERSION}."
        return RecordError(message, hint="Use a newer jobplan.")

    def _bring_up(self, connection: psycopg.Connection[tuple[Any, ...]], version: int, jobplan: str) -> None:
        for to in range(version + 1, VERSION + 1):
            self._do(connection, self._block(STEPS[to]))
            connection.execute(self._block("ledger_mark").encode(), [to, jobplan])
        self._do(connection, self._block("ledger_views"))
        for (role,) in connection.execute(query("ledger_grantees"), [self._schema]).fetchall() if version else ():
            self._do(connection, self._block("ledger_grant").replace("{role}", role))


def _recorded_run(row: Sequence[Any], steps: Sequence[Sequence[Any]]) -> PastRun:
    run, plan, host, started_at, finished_at, exit_code, target, database, seconds, _ = row
    took = finished_at - started_at if seconds is None and finished_at is not None else seconds
    return PastRun(
        run=run,
        standing="broken_off" if finished_at is None else "finished",
        plan=read(plan),
        target=read(target or ""),
        database=read(database or ""),
        host=read(host),
        started_at=started_at,
        ended_at=finished_at,
        exit_code=exit_code,
        seconds=None if finished_at is None else took,
        steps={read(step): (took, state) for step, took, state, *_ in steps if took is not None},
        failures={read(step): (state, read(text)) for step, _, state, text, latest in steps if latest and state in BAD},
    )


def untrusted_record(run: str, writer: str) -> RecordError:
    """Return the error for a run whose record an untrusted role has written: a resume would execute its SQL."""
    if not writer:
        return RecordError(
            f"run {run} was recorded before version 2 of the ledger, in which rows have no writer.",
            hint="It cannot be restored from the ledger: resume it where its journal is.",
        )
    return RecordError(
        f"run {run} was recorded by role {writer}, which is neither this session's role nor a superuser.",
        hint=f"Restore and resume it as {writer}, or, if you trust that role with your privileges: {OPTION} {writer}.",
    )


def no_ledger(schema: str, place: str, hint: str | None) -> RecordError:
    """Return the error for a missing ledger."""
    return RecordError(f"there is no ledger in schema {schema} of {place}.", hint=hint)


def _place(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
    return f"the database {connection.info.dbname} on {connection.info.host or 'this machine'}"


def _quoted_role(role: str) -> str:
    try:
        return quote_identifier(role)
    except TemplateError as error:
        raise UsageError(f"--grant {role!r}: {error.message}") from error
