"""One session to the server, driven through libpq directly: connection, pipeline, replies.

psycopg connects; afterwards its libpq wrapper is used without the cursor layer, because a run makes a few round trips
for each step and their cost limits its throughput (docs/decisions/0001). Every statement is a separate transaction: in
pipeline mode each one is followed by a Sync, so that no snapshot outlives it. A statement is prepared before its first
execution, in a transaction of its own; the error of a failed preparation replaces the statement's reply (`replies`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import psycopg
from psycopg import pq

from runner.engine.events import WARNING, ErrorDetails, Notice
from runner.errors import ConnectionFailedError, GatewayError, ServerLostError
from runner.gateway.connecting import connection_failed
from runner.gateway.replies import (
    Reply,
    columns_of,
    error_details,
    first_error,
    last_or_error,
    one_line,
    position_of,
    rows_of,
)
from runner.structs import Struct

_TUPLES = pq.ExecStatus.TUPLES_OK
_SYNC = pq.ExecStatus.PIPELINE_SYNC
#: A lock on the ledger's tables also delays the parsing of statements on them: the ledger's limits apply to parsing,
#: too.
_LEDGER = "ledger_"
_LIMITS = "ledger_limits"
_ERRORS = frozenset({pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED})


class _Expected(Struct):
    """A Sync that is still expected, and what precedes it: the preparation of a statement, or executions."""

    names: tuple[str, ...]
    preparation: bool = False
    columns: bool = False


class Pipeline:
    """See the module's docstring. `queries` returns the text of a named block; errors are psycopg's."""

    def __init__(self, libpq: pq.abc.PGconn, queries: Callable[[str], bytes]) -> None:
        self._libpq = libpq
        self._queries = queries
        self._prepared: set[str] = set()
        self._expected: deque[_Expected] = deque()
        self._replies: list[Reply] = []
        self._unprepared: ErrorDetails | None = None
        #: Whether the session was ended before any of the sent statements was executed.
        self.nothing_executed = False
        libpq.nonblocking = 1
        libpq.enter_pipeline_mode()

    def prepare(self, name: str) -> None:
        """Prepare a named statement if it is not prepared yet; before a transaction, because it ends with a Sync."""
        if name not in self._prepared:
            if name.startswith(_LEDGER) and name != _LIMITS:
                self.prepare(_LIMITS)
                self.execute(_LIMITS, ())
            self._libpq.send_prepare(name.encode(), self._queries(name))
            self._libpq.pipeline_sync()
            self._prepared.add(name)
            self._expected.append(_Expected((name,), preparation=True))

    def execute(self, name: str, parameters: Sequence[str]) -> None:
        """Execute a named statement that was prepared."""
        self._libpq.send_query_prepared(name.encode(), [value.encode() for value in parameters])

    def query(self, sql: str) -> None:
        """Execute a statement of the plan."""
        self._libpq.send_query_params(sql.encode(), None)

    def describe(self, sql: str) -> None:
        """Parse a statement of the plan and describe its columns: two replies."""
        self._libpq.send_prepare(b"", sql.encode())
        self._libpq.send_describe_prepared(b"")

    def sync(self, *names: str, columns: bool = False) -> None:
        """End a transaction; `names` are the statements in it that had to be prepared."""
        self._libpq.pipeline_sync()
        self._expected.append(_Expected(names, columns=columns))

    def take(self) -> list[Reply] | None:
        """Read the received results; return the replies once every statement has one, else None."""
        while self._expected:
            if self._libpq.is_busy():
                return None
            result = self._libpq.get_result()
            if result is not None:
                self._take(result)
            elif self._libpq.status == pq.ConnStatus.BAD:
                return None
        replies, self._replies = self._replies, []
        return replies

    def _take(self, result: pq.abc.PGresult) -> None:
        status = result.status
        expected = self._expected[0]
        if status == _SYNC:
            self._expected.popleft()
        elif status in _ERRORS:
            self._take_error(expected, result)
        elif not expected.preparation:
            columns = columns_of(result) if expected.columns else ()
            rows = rows_of(result) if status == _TUPLES else ()
            self._replies.append(Reply(rows=rows, columns=columns))

    def _take_error(self, expected: _Expected, result: pq.abc.PGresult) -> None:
        if not self._replies and result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"FATAL":
            self.nothing_executed = True
        error = error_details(result)
        if expected.preparation:
            self._prepared.difference_update(expected.names)
            self._unprepared = error
        else:
            unprepared = not self._prepared.issuperset(expected.names)
            reported = self._unprepared if unprepared and self._unprepared else error
            self._replies.append(Reply(error=reported, position=position_of(result)))


#: Checks a new connection before any statement is executed on it, and raises to refuse it.
ConnectionCheck = Callable[[psycopg.AsyncConnection[tuple[object, ...]]], Awaitable[None]]
#: The name of a block of queries.sql, and its parameters as text.
Statement = tuple[str, Sequence[str]]

#: Seconds without a byte from the server after which a session counts as lost. The server answers the run's own
#: statements within milliseconds. Without this limit, a network that acknowledges packets but delivers none would block
#: the run forever, together with its timeouts, signals and cancel requests.
ANSWER_WITHIN = 30.0
#: The same for statements of the plan and of reports, which have a statement_timeout of up to 30 seconds each.
LONG_ANSWER_WITHIN = 120.0
#: Notifications, and the seconds without an answer in which they arrive, after which a session counts as lost: the
#: server sends all notifications before it reads the next statement, and a flood of them need not end.
FLOOD = 1000
FLOODED_AFTER = 5.0

#: Precedes a statement that is explained; positions in its errors include it.
EXPLAIN = "EXPLAIN (FORMAT JSON) "


#: Seconds for which a lost server is awaited, and between two attempts to reach it.
RECONNECT_FOR = 60.0
RECONNECT_EVERY = 1.0


class Reconnecting:
    """The pauses between the attempts to reach a lost server, and their end.

    `since` is the time of the event loop at which the server was lost, None before the first failure.
    """

    __slots__ = ("since",)

    def __init__(self, since: float | None = None) -> None:
        self.since = since

    @property
    def over(self) -> bool:
        """Whether the server was lost for `RECONNECT_FOR` seconds."""
        now = asyncio.get_running_loop().time()
        self.since = self.since or now
        return now >= self.since + RECONNECT_FOR

    async def pause(self, error: GatewayError | ConnectionFailedError) -> None:
        """Wait before the next attempt. ServerLostError if it took too long; `error` is that of the last attempt."""
        if self.over:
            raise ServerLostError(f"the server cannot be reached: {error.message}") from error
        await asyncio.sleep(RECONNECT_EVERY)


class NothingExecutedError(ServerLostError):
    """The session was ended before it executed any of the sent statements: they may be sent on another one."""


class Session:
    """A connection that runs prepared statements by name, several in one round trip."""

    def __init__(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], queries: Callable[[str], bytes]
    ) -> None:
        self._connection = connection
        self._answer_within = ANSWER_WITHIN
        self._alarm: asyncio.TimerHandle | None = None
        self._arrived_at = 0.0
        self._libpq = connection.pgconn
        self._pipeline = Pipeline(self._libpq, queries)
        self._waiting: asyncio.Future[list[Reply]] | None = None
        self._loop = asyncio.get_running_loop()
        self._lost: str | None = None
        self.on_notice: Callable[[Notice], None] | None = None
        #: Called with a notification's channel, its payload, and the pid of the backend that sent it.
        self.on_notification: Callable[[str, str, int], None] | None = None
        #: The notifications since the last statement was sent, and whether a flood of them made the session useless.
        self._notified = 0
        self.flooded = False
        #: The search_path of the login role or the database; the session's own search_path is pinned
        #: (docs/pg_background.md#helper-functions-use-search-path).
        self.search_path = ""
        self.role = "none"
        #: The pid of the backend of this session, from pg_backend_pid().
        self.process = 0
        #: The number of workers that it has launched, as far as known.
        self.launched = 0
        #: The start time of the server process.
        self.server_started = ""
        connection.add_notice_handler(self._notice)
        self._socket = self._libpq.socket
        self._loop.add_reader(self._socket, self._read)

    @classmethod
    async def connect(
        cls,
        conninfo: str,
        *,
        application_name: str,
        queries: Callable[[str], bytes],
        check: ConnectionCheck | None = None,
        answer_within: float | None = None,
    ) -> Session:
        """Open a session; `check` may refuse the connection before anything else runs on it.

        `answer_within` is the number of seconds in which the server must answer (default `ANSWER_WITHIN`).
        ConnectionFailedError, with the server's message, if the session cannot be opened.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(
                conninfo,
                autocommit=True,
                application_name=application_name,
                client_encoding="UTF8",
            )
            async with contextlib.AsyncExitStack() as refused:
                refused.push_async_callback(connection.close)
                if check is not None:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        await check(connection)
                refused.pop_all()
        except psycopg.Error as error:
            raise connection_failed(error, conninfo) from error
        except TimeoutError as error:
            raise ConnectionFailedError(_silent(ANSWER_WITHIN)) from error
        session = cls(connection, queries)
        session._answer_within = ANSWER_WITHIN if answer_within is None else answer_within
        return session

    @property
    def lost(self) -> bool:
        """Whether the connection is lost."""
        return self._lost is not None

    @property
    def target(self) -> dict[str, str]:
        """The session's host, port, user and database."""
        libpq = self._libpq
        found = {"host": libpq.host, "port": libpq.port, "user": libpq.user, "database": libpq.db}
        return {name: value.decode() for name, value in found.items()}

    @property
    def address(self) -> str:
        """The network address of the server; empty for a Unix socket."""
        return self._libpq.hostaddr.decode() if self._libpq.hostaddr else ""

    @property
    def backend_pid(self) -> int:
        """The backend pid as the connection reports it; behind a pooler it is not a backend of the server."""
        return self._libpq.backend_pid

    @property
    def server_version(self) -> int:
        """The server's version as a number: 160004."""
        return self._libpq.server_version

    def notice_loss(self) -> None:
        """Check whether the server has closed the connection, and set `lost`."""
        if self._lost is None:
            self._read()

    async def run(self, *statements: Statement, answer_within: float | None = None) -> list[Reply]:
        """Execute named statements, each with its parameters as text, in one round trip; one reply for each.

        An error in one statement does not prevent the next. ServerLostError if the connection breaks, or if the server
        does not answer within `answer_within` seconds (infinity is allowed); the default is the session's.
        """

        def send() -> None:
            for name, parameters in statements:
                self._pipeline.prepare(name)
                self._pipeline.execute(name, parameters)
                self._pipeline.sync(name)

        return await self._exchange(send, answer_within)

    async def run_together(self, *statements: Statement, answer_within: float | None = None) -> list[Reply]:
        """Execute named statements like `run`, but as one transaction: an error in one prevents the next.

        Statements between `begin` and `commit` are a transaction of their own. All replies arrive together.
        """

        def send() -> None:
            for name, _ in statements:
                self._pipeline.prepare(name)
            for name, parameters in statements:
                self._pipeline.execute(name, parameters)
            self._pipeline.sync(*(name for name, _ in statements))

        return await self._exchange(send, answer_within)

    async def transact(self, *statements: Statement, answer_within: float | None = None) -> list[Reply]:
        """Execute a transaction, from `begin` to `commit`, like `run_together`; after an error it is rolled back."""
        replies = await self.run_together(*statements, answer_within=answer_within)
        if first_error(replies) is not None:
            await self.run(("rollback", ()))
        return replies

    async def describe(self, setup: Statement, sql: str) -> Reply:
        """Return the columns of a statement of the plan, without executing it; `setup` comes before it."""

        def send() -> None:
            self._pipeline.prepare(setup[0])
            self._pipeline.execute(*setup)
            self._pipeline.describe(sql)
            self._pipeline.sync(setup[0], columns=True)

        return last_or_error(await self._exchange(send, LONG_ANSWER_WITHIN))

    async def probe(self, settings: str, sql: str, *, explain: bool) -> list[Reply]:
        """Parse and describe one statement without executing it; everything is rolled back.

        The replies: the settings, Parse, Describe, EXPLAIN if `explain`, a setting, and the locks that were taken. The
        transaction is READ ONLY; the extended protocol accepts one statement only, so nothing in `sql` can end it.
        """

        def send() -> None:
            self._pipeline.describe(sql)
            if explain:
                self._pipeline.query(EXPLAIN + sql)

        return (await self._exchange_read_only(settings, send, "repin", "locks_taken"))[1:]

    async def read(self, settings: str, sql: str) -> Reply:
        """Execute a read-only statement of the plan, in a READ ONLY transaction that is rolled back."""
        return last_or_error(await self._exchange_read_only(settings, lambda: self._pipeline.query(sql)))

    async def _exchange_read_only(self, settings: str, send_sql: Callable[[], None], *then: str) -> list[Reply]:
        """Send the SQL, then these named statements, in a READ ONLY transaction that is rolled back."""
        names = ("look", "settings", *then)

        def send() -> None:
            for name in (*names, "rollback"):
                self._pipeline.prepare(name)
            self._pipeline.execute("look", ())
            self._pipeline.execute("settings", (settings,))
            send_sql()
            for name in then:
                self._pipeline.execute(name, ())
            self._pipeline.sync(*names, columns=True)
            self._pipeline.execute("rollback", ())
            self._pipeline.sync("rollback")

        return (await self._exchange(send, LONG_ANSWER_WITHIN))[:-1]

    async def _exchange(self, send: Callable[[], None], answer_within: float | None = None) -> list[Reply]:
        """Send statements and wait for all replies."""
        if self._lost is not None:
            raise NothingExecutedError(self._lost)
        if self._waiting is not None:
            raise RuntimeError("a session executes one exchange at a time")
        self._waiting = self._loop.create_future()
        self._arrived_at = self._loop.time()
        self._notified = 0
        self._expect_answer(self._answer_within if answer_within is None else answer_within)
        try:
            send()
            self._flush()
            return await self._waiting
        except asyncio.CancelledError:
            self._break("the wait for the server was cancelled")
            raise
        except psycopg.Error as error:
            self._waiting.cancel()
            self._read()  # messages that the server sent before it closed the connection
            self._break(str(error))
            raise self._loss() from error
        finally:
            self._waiting = None
            if self._alarm is not None:
                self._alarm.cancel()

    def _expect_answer(self, seconds: float) -> None:
        if seconds < math.inf:
            self._alarm = self._loop.call_at(self._arrived_at + seconds, self._overdue, seconds)

    def _overdue(self, seconds: float) -> None:
        """Treat the connection as lost, unless the server has sent something in the meantime.

        After this process was paused (a suspended machine), the answer may have arrived without being read yet.
        """
        socket = select.poll()
        socket.register(self._socket, select.POLLIN)
        if socket.poll(0):
            self._read()
        if self._waiting is None or self._waiting.done():
            return
        if self._loop.time() < self._arrived_at + seconds:
            self._expect_answer(seconds)
        else:
            self._break(_silent(seconds))

    async def cancel(self) -> None:
        """Cancel the statement that the session is executing; no error if the cancel cannot be sent."""
        with contextlib.suppress(psycopg.Error):
            await self._connection.cancel_safe()

    def discard(self) -> None:
        """Close the connection without waiting; a worker that it launched continues
        (docs/pg_background.md#workers-outlive-their-launcher).
        """
        self._break("the session was closed")
        self._libpq.finish()

    def _flush(self) -> None:
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._write)

    def _write(self) -> None:
        try:
            done = not self._libpq.flush()
        except psycopg.Error as error:
            self._break(str(error))
            return
        if done:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        notified = self._notified
        try:
            try:
                self._libpq.consume_input()
            finally:
                self._take_replies()  # the server's last messages precede the end of the connection
                self._take_notifications()
        except psycopg.Error as error:
            self._break(str(error))
            return
        if self._libpq.status == pq.ConnStatus.BAD:
            self._break("the server closed the connection")
        elif self._notified == notified:
            self._arrived_at = self._loop.time()
        elif self._waiting is not None and not self._waiting.done() and self._is_flooded():
            self.flooded = True
            self._break("a flood of notifications delays the answers of the server")

    def _is_flooded(self) -> bool:
        return self._notified >= FLOOD and self._loop.time() >= self._arrived_at + FLOODED_AFTER

    def _take_replies(self) -> None:
        replies = self._pipeline.take()
        if replies is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(replies)

    def _take_notifications(self) -> None:
        while self.on_notification is not None and (notify := self._libpq.notifies()) is not None:
            self._notified += 1
            channel, payload = notify.relname.decode("utf-8", "replace"), notify.extra.decode("utf-8", "replace")
            self.on_notification(channel, payload, notify.be_pid)

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if self.on_notice is not None:
            severity = diagnostic.severity_nonlocalized or diagnostic.severity or "NOTICE"
            self.on_notice(
                Notice(
                    severity=severity,
                    message=diagnostic.message_primary or "",
                    sqlstate=_error_code(diagnostic.sqlstate),
                    detail=diagnostic.message_detail,
                    hint=diagnostic.message_hint,
                    routine=diagnostic.source_function if severity == WARNING else None,
                )
            )

    def _break(self, why: str) -> None:
        if self._lost is None:
            self._lost = one_line(why) or "the connection to the server is lost"
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._loss())

    def _loss(self) -> ServerLostError:
        return (NothingExecutedError if self._pipeline.nothing_executed else ServerLostError)(self._lost or "")


def _silent(seconds: float) -> str:
    return f"the server has not answered for {seconds:g} seconds"


def _error_code(sqlstate: str | None) -> str | None:
    """Return a message's SQLSTATE; None for 00000, which most messages have."""
    return None if sqlstate == "00000" else sqlstate


class SessionUser:
    """Works on one session, and closes it at the end of its `async with` block."""

    _session: Session

    async def close(self) -> None:
        """Close the session."""
        self._session.discard()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        await self.close()
