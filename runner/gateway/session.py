"""One session to the server, driven through libpq directly.

psycopg connects; from then on its libpq wrapper is used without the cursor layer, because a run makes a few round trips
for each step and the cost of each is what bounds its throughput (docs/decisions/0001). Every statement is a
transaction of its own: in pipeline mode each one is followed by a Sync, so that no snapshot outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from psycopg import pq

from runner.engine.events import WARNING, Notice
from runner.errors import ConnectionFailedError, ServerLostError
from runner.gateway.connecting import connection_failed
from runner.gateway.pipeline import Pipeline
from runner.gateway.replies import Reply, last_or_error, one_line

#: Looks at a connection that nothing has been run on yet, and raises what speaks against it.
ConnectionCheck = Callable[[psycopg.AsyncConnection[tuple[object, ...]]], Awaitable[None]]
#: The name of a block of queries.sql, and its parameters as text.
Statement = tuple[str, Sequence[str]]

#: Seconds without a byte from the server after which a session counts as lost. What the server does for a run by itself
#: takes milliseconds; a network that still acknowledges packets, but delivers none, would otherwise be waited for for
#: ever, and with it timeouts, signals and cancel requests.
ANSWER_WITHIN = 30.0
#: As much for statements of the plan and of reports, which have a statement_timeout of up to 30 seconds each.
LONG_ANSWER_WITHIN = 120.0

#: What stands before a statement that is explained; positions in its errors count it.
EXPLAIN = "EXPLAIN (FORMAT JSON) "


class TurnedAwayError(ServerLostError):
    """The session was ended before it ran anything of what was sent: it may be sent again on another one."""


class Session:
    """A connection that runs prepared statements by name, several in one round trip."""

    def __init__(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], queries: Callable[[str], bytes]
    ) -> None:
        self._connection = connection
        self._patience = ANSWER_WITHIN
        self._alarm: asyncio.TimerHandle | None = None
        self._arrived_at = 0.0
        self._libpq = connection.pgconn
        self._pipeline = Pipeline(self._libpq, queries)
        self._waiting: asyncio.Future[list[Reply]] | None = None
        self._loop = asyncio.get_running_loop()
        self._lost: str | None = None
        self.on_notice: Callable[[Notice], None] | None = None
        #: Takes a notification: its channel, its payload, and the backend that sent it.
        self.on_notification: Callable[[str, str, int], None] | None = None
        #: What the login role or the database gives; the session's own search_path is pinned
        #: (pg_background.md#helper-functions-use-search-path).
        self.search_path = ""
        self.role = "none"
        #: The process that serves this session, by its own word.
        self.process = 0
        #: How many workers it has launched, as far as is known here.
        self.launched = 0
        #: When the server process began that it is on.
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
        patience: float | None = None,
    ) -> Session:
        """Open a session; `check` may refuse the connection before anything else runs on it.

        `patience` is how many seconds the server may be silent while it has something to answer (`ANSWER_WITHIN`).
        ConnectionFailedError, with the server's own words, if it cannot be opened.
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
        session._patience = ANSWER_WITHIN if patience is None else patience
        return session

    @property
    def lost(self) -> bool:
        """Say whether the connection is gone."""
        return self._lost is not None

    @property
    def target(self) -> dict[str, str]:
        """Where this session leads: host, port, user and database."""
        libpq = self._libpq
        found = {"host": libpq.host, "port": libpq.port, "user": libpq.user, "database": libpq.db}
        return {name: value.decode() for name, value in found.items()}

    @property
    def address(self) -> str:
        """The network address of the server; empty if it was reached through a socket."""
        return self._libpq.hostaddr.decode() if self._libpq.hostaddr else ""

    @property
    def backend_pid(self) -> int:
        """The process that the connection was told; behind a pooler it is none of the server's."""
        return self._libpq.backend_pid

    @property
    def server_version(self) -> int:
        """The server's version as a number: 160004."""
        return self._libpq.server_version

    def notice_loss(self) -> None:
        """Look whether the server has closed the connection meanwhile; `lost` tells."""
        if self._lost is None:
            self._read()

    async def run(self, *statements: Statement, patience: float | None = None) -> list[Reply]:
        """Run named statements, each with its parameters as text, in one round trip; one reply for each.

        An error of one does not keep the next from running. ServerLostError if the connection breaks, or the server is
        silent for `patience` seconds (infinity is allowed); the default is the session's.
        """

        def send() -> None:
            for name, parameters in statements:
                self._pipeline.prepare(name)
                self._pipeline.execute(name, parameters)
                self._pipeline.sync(name)

        return await self._exchange(send, patience)

    async def run_together(self, *statements: Statement, patience: float | None = None) -> list[Reply]:
        """Run named statements as `run` does, but as one transaction: an error of one keeps the next from running.

        What `begin` and `commit` enclose is a transaction of its own. Both sides are woken once, not for each reply.
        """

        def send() -> None:
            for name, _ in statements:
                self._pipeline.prepare(name)
            for name, parameters in statements:
                self._pipeline.execute(name, parameters)
            self._pipeline.sync(*(name for name, _ in statements))

        return await self._exchange(send, patience)

    async def describe(self, setup: Statement, sql: str) -> Reply:
        """Say which columns one statement of the plan's would give, without running it; `setup` comes before it."""

        def send() -> None:
            self._pipeline.prepare(setup[0])
            self._pipeline.execute(*setup)
            self._pipeline.describe(sql)
            self._pipeline.sync(setup[0], columns=True)

        return last_or_error(await self._exchange(send, LONG_ANSWER_WITHIN))

    async def probe(self, settings: str, sql: str, *, explain: bool) -> list[Reply]:
        """Have the server look at one statement without running it; everything is rolled back.

        The replies: the settings, Parse, Describe, with `explain` EXPLAIN, a setting, and the locks that all this took.
        The transaction is READ ONLY; the extended protocol takes one statement only, so nothing in `sql` can end it.
        """

        def send() -> None:
            for name in ("look", "settings", "repin", "locks_taken", "rollback"):
                self._pipeline.prepare(name)
            self._pipeline.execute("look", ())
            self._pipeline.execute("settings", (settings,))
            self._pipeline.describe(sql)
            if explain:
                self._pipeline.query(EXPLAIN + sql)
            self._pipeline.execute("repin", ())
            self._pipeline.execute("locks_taken", ())
            self._pipeline.sync("look", "settings", "repin", "locks_taken", columns=True)
            self._pipeline.execute("rollback", ())
            self._pipeline.sync("rollback")

        return (await self._exchange(send, LONG_ANSWER_WITHIN))[1:-1]

    async def read(self, settings: str, sql: str) -> Reply:
        """Run one statement of the plan's that only reads, in a READ ONLY transaction that is rolled back."""

        def send() -> None:
            for name in ("look", "settings", "rollback"):
                self._pipeline.prepare(name)
            self._pipeline.execute("look", ())
            self._pipeline.execute("settings", (settings,))
            self._pipeline.query(sql)
            self._pipeline.sync("look", "settings", columns=True)
            self._pipeline.execute("rollback", ())
            self._pipeline.sync("rollback")

        return last_or_error((await self._exchange(send, LONG_ANSWER_WITHIN))[:-1])

    async def _exchange(self, send: Callable[[], None], patience: float | None = None) -> list[Reply]:
        """Send, and wait for one reply to everything that was sent."""
        if self._lost is not None:
            raise TurnedAwayError(self._lost)
        if self._waiting is not None:
            raise RuntimeError("a session runs one thing at a time")
        self._waiting = self._loop.create_future()
        self._arrived_at = self._loop.time()
        self._expect_answer(self._patience if patience is None else patience)
        try:
            send()
            self._flush()
            return await self._waiting
        except asyncio.CancelledError:
            self._break("the wait for the server was given up")
            raise
        except psycopg.Error as error:
            self._waiting.cancel()
            self._read()  # what the server said before it closed the connection
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
        """Give the connection up, unless the server has sent something in the meantime.

        After a pause of this process (a suspended machine) the answer may be there, and was not read yet.
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
        """Have the server break off the statement that runs on this session now; without a connection for that, not."""
        with contextlib.suppress(psycopg.Error):
            await self._connection.cancel_safe()

    async def close(self) -> None:
        """Close the connection; a worker that it launched goes on (pg_background.md#workers-outlive-their-launcher)."""
        self.discard()

    def discard(self) -> None:
        """Close the connection where nobody can wait for it."""
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
        self._arrived_at = self._loop.time()
        try:
            try:
                self._libpq.consume_input()
            finally:
                self._take_replies()  # the server's last words come before the end of the connection
                self._take_notifications()
        except psycopg.Error as error:
            self._break(str(error))
            return
        if self._libpq.status == pq.ConnStatus.BAD:
            self._break("the server closed the connection")

    def _take_replies(self) -> None:
        replies = self._pipeline.take()
        if replies is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(replies)

    def _take_notifications(self) -> None:
        while self.on_notification is not None and (heard := self._libpq.notifies()) is not None:
            channel, payload = heard.relname.decode("utf-8", "replace"), heard.extra.decode("utf-8", "replace")
            self.on_notification(channel, payload, heard.be_pid)

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if self.on_notice is not None:
            severity = diagnostic.severity_nonlocalized or diagnostic.severity or "NOTICE"
            self.on_notice(
                Notice(
                    severity=severity,
                    message=diagnostic.message_primary or "",
                    sqlstate=_told(diagnostic.sqlstate),
                    detail=diagnostic.message_detail,
                    hint=diagnostic.message_hint,
                    routine=diagnostic.source_function if severity == WARNING else None,
                )
            )

    def _break(self, why: str) -> None:
        if self._lost is None:
            self._lost = one_line(why) or "the connection to the server is gone"
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._loss())

    def _loss(self) -> ServerLostError:
        return (TurnedAwayError if self._pipeline.turned_away else ServerLostError)(self._lost or "")


def _silent(seconds: float) -> str:
    return f"the server has not answered for {seconds:g} seconds"


def _told(sqlstate: str | None) -> str | None:
    """Return a message's SQLSTATE, None for that of success, which most messages have."""
    return None if sqlstate == "00000" else sqlstate
