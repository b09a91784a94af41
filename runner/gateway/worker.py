"""One worker from launch to end, on a launcher session that tracks no other worker.

The launch is a few statements in one transaction; if the server refuses it, the error is classified. The outcome is
read before anything is consumed; afterwards the notices are fetched, which also frees the handle (`worker_output`). For
a worker that sends no rows, both need one round trip. If the session is lost, the worker is observed by its identity,
and its outcome stays unknown. See docs/pg_background.md#one-worker-per-session.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

from runner.engine.events import ErrorDetails, Worker
from runner.engine.ports import LaunchRequest, OnUnstoppable, WorkerEnd
from runner.engine.server_activity import ReportedProgress
from runner.engine.worker_text import can_be_text, cannot_send_rows, launched_text, must_be_text, sends_no_rows
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.ledger.writer import LOCKED_LEDGER, NOT_IN_LEDGER, Ledger
from runner.gateway.polling import IDENTIFY_AFTER, SLICE, Pauses, Rhythm
from runner.gateway.replies import Reply, Row, first_error
from runner.gateway.session import NothingExecutedError, Session, Statement
from runner.gateway.transaction_settings import (
    COMMIT_ROW_LOCK_TIMEOUT,
    plain_settings,
    with_lock_timeout,
    worker_settings,
)
from runner.gateway.worker_follower import Follower, Monitor, WorkerSearch
from runner.gateway.worker_output import (
    NoticeCollector,
    RowColumns,
    describe_rows,
    drain,
    end_by_output,
    handles,
    is_free,
    is_workers_own,
    read_end,
)
from runner.identity import step_of
from runner.plan.sqlstates import QUERY_CANCELED, STOPPED
from runner.structs import replace

#: Errors that mean "no worker is free" (docs/pg_background.md#capacity-errors) or "no connection is free", which a
#: launcher session needs.
_CAPACITY_SQLSTATES = {
    "53000": "max_worker_processes is used up",
    "53400": "pg_background.max_workers is used up",
    "53300": "there are too many connections",
}
#: The statement that waits again for a worker that `launch_at_once` launched.
WAIT_AT_ONCE = "wait_at_once"


#: The columns with the time of the launch, in the rows of `launch` and `launch_at_once`.
_MOMENT = 2
_MOMENT_AT_ONCE = 9


class LaunchRefusedError(GatewayError):
    """The server refused the launch itself: a setting, a role, a privilege."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details.message)
        self.details = details


def refusal(error: ErrorDetails) -> CapacityError | LaunchRefusedError:
    """Classify an error that came before the worker was requested: a capacity shortage, or an error of the step."""
    if error.sqlstate in _CAPACITY_SQLSTATES:
        return CapacityError(f"{_CAPACITY_SQLSTATES[error.sqlstate]} ({error.message})")
    return LaunchRefusedError(error)


class LaunchStatements:
    """The statements that launch one worker on a session of `role` and `search_path`.

    `first_wait` is the number of milliseconds that the launching statement waits for the worker's end. If one statement
    launches and waits, `slices` further waits follow in the same round trip.
    """

    def __init__(self, request: LaunchRequest, *, role: str, search_path: str, first_wait: int, slices: int) -> None:
        self._request = request
        self._search_path = search_path
        #: The role of the worker; "none" is the login role.
        self.role = role if request.role is None else request.role
        # In the transaction of `wait` the role is set already, and it may lack the privileges of the role that set it.
        own_role = request.role is None
        #: Reads the output of a worker that has succeeded; sent together with `wait`.
        drain_ended = (("drain_ended", (self.role,)),) if own_role and sends_no_rows(request) else ()
        #: Whether one statement launches, waits and reads the output. An unreadable output would then fail together
        #: with the outcome. The plan's settings would apply to this statement, too (client_encoding, statement
        #: timeouts).
        self.at_once = own_role and not request.settings and cannot_send_rows(request)
        self._first_wait = str(first_wait)
        self._first = (("wait", (self._first_wait, self.role)), *drain_ended)
        #: Waits in the server for the worker again, with a new snapshot, and reads its output.
        self.slice: tuple[Statement, ...] = (("wait", (str(SLICE), self.role)), *drain_ended)
        if self.at_once:
            self.slice = ((WAIT_AT_ONCE, (str(SLICE),)),)
        self._slices = slices if self.at_once else 0

    @property
    def in_block(self) -> bool:
        """Whether the launch is in a transaction block, which an error leaves open."""
        return not self.at_once or self._slices > 0

    def moment_of(self, launched: Reply) -> str | None:
        """Return the server's time before the launch, from the launch's reply; backend_start is not earlier."""
        return launched.rows[0][_MOMENT_AT_ONCE if self.at_once else _MOMENT]

    def slices_in(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Return the replies of the slices among those that follow the launch's reply."""
        return replies[1::2]

    def statements(self, first: str) -> tuple[Statement, ...]:
        """Return the statements that request the worker and wait for it; `first` writes its commit row."""
        request, path = self._request, self._search_path
        text, size = launched_text(request, first), str(request.output_buffer)
        if first:
            request = with_lock_timeout(request, COMMIT_ROW_LOCK_TIMEOUT)
        if self.at_once:
            at_once = ("launch_at_once", (text, size, *plain_settings(request, path), self._first_wait))
            if not self._slices:
                return ("nothing", ()), at_once
            return ("begin", ()), at_once, *(("chain", ()), *self.slice) * self._slices, ("commit", ())
        launch = ("launch", (text, size, worker_settings(request, path)))
        return ("begin", ()), launch, ("commit", ()), *self._first


#: Failed waits, for other reasons than a cancel, after which the session counts as lost.
FAILING_WAITS = 5
#: The factor by which the time since the launch must grow before an unseen worker is looked up again.
_IDENTIFY_AGAIN = 1.5
#: Seconds between two checks whether a worker waits for the session that reads its output.
POLL_WHILE_READING = 0.25


class LaunchedWorker:
    """A handle of the extension; see `ports.WorkerHandle`.

    `over` is called once, when the worker has ended or was detached, or when it is not followed any more. The session
    may be used again if `session_free`. `rhythm` is shared by the workers of the run.
    """

    def __init__(
        self,
        request: LaunchRequest,
        session: Session,
        monitor: Monitor,
        over: Callable[[LaunchedWorker], None],
        *,
        rhythm: Rhythm,
    ) -> None:
        self.session = session
        self.session_free = False
        #: The statements before the plan's own text, and whether they write a commit row.
        self._first = ""
        self.writes_commit_row = False
        #: The original request, and the one that is launched: some rows must be sent as text.
        self.asked = self.request = request
        self._rhythm = rhythm
        self._pauses = Pauses(rhythm.expected(self._work), rhythm.workers)
        if request.rows and request.carry is None and must_be_text(request.sql):
            self.request = replace(request, as_text=True)
        self._identify_after = IDENTIFY_AFTER
        #: The number of waits in the server after the one that was part of the launch.
        self._slices = 0
        self._first_slices = rhythm.first_slices()
        self._launching = self._prepared()
        self._role = self._launching.role
        self._drained: Reply | None = None
        self._columns = RowColumns()
        self._monitor = monitor
        self._over = over
        label = "" if request.label is None else request.label.to_comment()
        self._follower = Follower(WorkerSearch(name=request.application_name, label=label), monitor)
        self._row: Row | None = None
        self._failures = 0
        self._lost: str | None = None
        self._on_lost: Callable[[str], None] = lambda _: None
        #: The progress that the worker reported.
        self.reported: ReportedProgress | None = None
        self._notices = NoticeCollector()

    @property
    def pid(self) -> int:
        """The worker's pid as far as known, else 0."""
        return self._follower.search.pid if self.worker is None else self.worker.pid

    @property
    def ended_at_once(self) -> bool:
        """Whether the worker had ended when the launch was answered."""
        return self._row is not None and self._row[2] == "t"

    @property
    def _step(self) -> str:
        label = self.request.label
        return step_of(self.request.application_name) if label is None else label.step

    @property
    def _work(self) -> str:
        """What the worker does: its step, or what is done for it before an attempt."""
        purpose = "" if self.request.label is None else self.request.label.purpose
        return f"{purpose}:{self._step}"

    @property
    def worker(self) -> Worker | None:
        """The worker's identity, as soon as it was seen on the server."""
        return self._follower.worker

    @property
    def age(self) -> float | None:
        """The worker's age in seconds, by the server's clock, when it was first seen."""
        return self._follower.age

    def cancel(self) -> None:
        """Request the worker to stop."""
        self._follower.cancel()
        self._pauses.interrupt()

    def detach(self) -> None:
        """Detach the worker as soon as it was seen."""
        self._follower.detach()
        self._pauses.interrupt()

    async def launch(self, first: str = "", ledger: Ledger | None = None) -> None:
        """Request the worker and wait briefly for its end; `first` are the statements that write its commit row.

        Pending ledger rows are sent with it and written before. If they cannot be written, the worker is launched
        without them and without a commit row. CapacityError if the server has no worker free; LaunchRefusedError if it
        refuses for another reason; NothingExecutedError if the session had ended before (`begin` or `nothing` is the
        first statement). A later loss of the session is no error here: the worker may be running, and
        `wait_until_ended` looks for it.
        """
        self.session.on_notice = self._notices
        await self._describe_early()
        try:
            _, launched, *more = await self._request_worker(first, ledger)
        except NothingExecutedError:
            raise
        except ServerLostError as error:
            self._lost = str(error)
            return
        if launched.error is not None:
            await self._refused(launched.error)
            return
        self.session.launched += 1
        if not self._launching.at_once:
            self._row = self._note(more[1], more[2:])
        else:
            self._row = self._note_at_once(launched, *self._launching.slices_in(more))
            if first_error(more) is not None:
                await self._roll_back()
        self._follower.search = replace(
            self._follower.search, pid=int(launched.rows[0][0] or 0), since=self._launching.moment_of(launched) or ""
        )

    async def _roll_back(self) -> None:
        """End the transaction block that an error has left open. A lost session is noticed at the next poll."""
        with contextlib.suppress(ServerLostError):
            await self.session.run(("rollback", ()))

    def _note_at_once(self, *replies: Reply) -> Row | None:
        """Return the last row in the replies to a launch and the slices after it."""
        row: Row | None = None
        for number, reply in enumerate(replies):
            if row is None or row[2] != "t":
                self._slices += number > 0
                row = reply.rows[0] if reply.rows else row
                if row is not None and row[2] == "t" and row[8] == "t":
                    self._drained = Reply(rows=tuple(tag[-1:] for tag in reply.rows))
        return row

    async def _request_worker(self, first: str, ledger: Ledger | None) -> list[Reply]:
        """Return the replies to the launch. If the preceding ledger statements fail, no worker was requested."""
        label, batch = self.request.label, None
        if ledger is not None and label is not None:
            await ledger.before_launch()
            batch = ledger.ahead(label.step, label.attempt, commit_row=bool(first))
            if not ledger.may_launch(label.step, label.attempt, batch):
                if batch is not None:
                    batch.failed(None)
                raise CapacityError(NOT_IN_LEDGER)
        before = batch.statements if batch is not None else ()
        self.writes_commit_row, self._first = bool(first), first
        error: ErrorDetails | None = None
        known = False
        self._pauses.begin()
        try:
            replies = await self.session.run_together(*before, *self._launching.statements(first))
            error, known = first_error(replies[: len(before)]), True
        finally:
            if batch is not None and known and error is None:
                batch.written()
            elif batch is not None:
                batch.failed(error)
        if error is None:
            return replies[len(before) :]
        self.writes_commit_row = False
        claimed = (
            ledger is not None
            and label is not None
            and not label.purpose  # such a worker has no commit row
            and not ledger.withdraw(label.step, label.attempt)
        )
        try:
            await self.session.run(("rollback", ()))
        except ServerLostError as lost:
            raise NothingExecutedError(lost.message) from lost
        if claimed:
            raise CapacityError(LOCKED_LEDGER)
        if ledger is not None and label is not None and not ledger.may_launch(label.step, label.attempt, None):
            raise CapacityError(NOT_IN_LEDGER)
        return await self._request_worker("", None)

    def _prepared(self) -> LaunchStatements:
        session = self.session
        first_wait, slices = self._first_slices
        return LaunchStatements(
            self.request, role=session.role, search_path=session.search_path, first_wait=first_wait, slices=slices
        )

    async def _describe_early(self) -> None:
        """Describe the wanted rows before the worker can hold locks that this needs.

        If that fails, the last statement is rewritten so that its rows are text.
        """
        if not self.request.rows:
            return
        try:
            self._columns = await describe_rows(self.session, self.request)
        except ServerLostError as error:
            raise NothingExecutedError(error.message) from error
        if self._columns.problem is not None and can_be_text(self.request.sql):
            self.request = replace(self.request, as_text=True)
            self._launching = self._prepared()
            self._columns = await describe_rows(self.session, self.request)

    async def _refused(self, error: ErrorDetails) -> None:
        """Raise the launch's error, unless the worker was requested before it."""
        active = 0
        launched: int | None = None
        with contextlib.suppress(ServerLostError):
            if self._launching.in_block:
                await self.session.run(("rollback", ()))
            active, launched = await handles(self.session)
        if active and launched is not None:
            self.session.launched = launched
            return
        before = not self._launching.at_once if launched is None else launched == self.session.launched
        if error.sqlstate in STOPPED or not before:  # after a cancelled statement that is unknown
            self._lost = error.message
            return
        self.session_free = not self.session.lost
        raise refusal(error)

    async def wait_until_ended(
        self,
        *,
        on_seen: Callable[[Worker], None],
        on_lost: Callable[[str], None],
        on_unstoppable: OnUnstoppable,
    ) -> WorkerEnd:
        """Follow the worker to its end."""
        self._follower.on_seen, self._follower.on_unstoppable, self._on_lost = on_seen, on_unstoppable, on_lost
        try:
            return await self._with_requester(await self._follow_to_end())
        finally:
            self._over(self)

    async def _follow_to_end(self) -> WorkerEnd:
        try:
            return await (self._follow() if self._lost is None else self._follow_lost(self._lost))
        except ServerLostError as error:
            return await self._follow_lost(str(error))

    async def _with_requester(self, end: WorkerEnd) -> WorkerEnd:
        """Add the user who requested the end, if a request may have caused it."""
        if end.confirmed or end.detached or (end.error is not None and end.error.sqlstate not in STOPPED):
            return end
        return replace(end, cancelled_by=await self._monitor.cancelled_by(self._step))

    async def _follow(self) -> WorkerEnd:
        while self._row is None or self._row[2] != "t":
            if self._follower.has_requests or self._pauses.elapsed >= self._identify_after:
                self._identify_after = max(IDENTIFY_AFTER, _IDENTIFY_AGAIN * self._pauses.elapsed)
                await self._follower.identify_and_signal()
            if self._must_detach:
                self._row = await self._row_of(("detach_worker", (self._role,)))
                if self._row is not None and self._row[2] != "t":
                    self.session_free = True
                    return self._complete(WorkerEnd(detached=True))
            elif self._blocked and self._row is not None:
                return await self._drain_running(self._row)
            else:
                await self._look()
        self._rhythm.learn(self._pauses.elapsed, self._slices)
        self._rhythm.remember(self._work, self._pauses.elapsed)
        end, self.session_free = await read_end(
            self.session,
            self.request,
            self._row,
            self._drained,
            role=self._role,
            first=self._first,
            described=self._columns,
        )
        return self._complete(end)

    async def _look(self) -> None:
        """Check whether the worker has ended: at first after a wait in the server, later after a pause here."""
        if self._rhythm.waits_in_server(self._pauses.elapsed):
            self._slices += 1
            self._row = await self._row_of(*self._launching.slice)
        elif await self._pauses.pause():
            # without `drain_ended`, so that polling a long-running worker costs the server little
            self._row = await self._row_of(("follow", (self._role,)))
            self._read_progress(self._row)

    def _read_progress(self, row: Row | None) -> None:
        if row is not None and row[2] != "t" and row[8] is not None:
            self.reported = ReportedProgress(percent=int(row[8]), message=row[9] or "")

    @property
    def _blocked(self) -> bool:
        return self.worker is not None and self._monitor.is_blocked(self.worker)

    @property
    def _must_detach(self) -> bool:
        """Whether to detach the worker now: on request, or because a detach step's output queue is full."""
        return self.worker is not None and (self._follower.detaching or (self._blocked and self.request.detachable))

    async def _row_of(self, *statements: tuple[str, Sequence[str]]) -> Row | None:
        """Query the worker's state; None if the statement was cancelled, which says nothing about the worker."""
        reply, *drained = await self.session.run(*statements)
        row = self._note_at_once(reply) if statements[0][0] == WAIT_AT_ONCE else self._note(reply, drained)
        if row is None and reply.error is None:
            raise ServerLostError("the extension no longer knows the worker")
        if reply.error is not None and reply.error.sqlstate != QUERY_CANCELED:
            self._failures += 1
            if self._failures == FAILING_WAITS:
                raise ServerLostError(reply.error.message)
        return row

    def _note(self, waited: Reply, drained: list[Reply]) -> Row | None:
        """Return the row of a wait, or the one that came with the output that was read right after it."""
        row = waited.rows[0] if waited.rows else None
        for reply in drained:
            if reply.rows:
                row = reply.rows[0]
                self._drained = Reply(rows=tuple(tag[-1:] for tag in reply.rows))
            elif reply.error is not None and row is not None and row[2] == "t":
                self._drained = reply
        return row

    async def _drain_running(self, row: Row) -> WorkerEnd:
        """Read the output until the worker has ended, because its full queue keeps it from ending.

        See docs/pg_background.md#full-output-queue. This is our only statement that can hold a snapshot for long. So it
        is cancelled when the worker waits for that snapshot (docs/pg_background.md#waiting-holds-a-snapshot): then the
        worker can end, but its outcome is unknown.
        """
        handle = (row[0] or "", row[1] or "", self._role)
        columns = await describe_rows(self.session, self.request)
        if columns.problem is not None:
            columns = self._columns
        rows = self.request.rows
        reading = asyncio.ensure_future(drain(self.session, handle, columns, rows=rows, answer_within=math.inf))
        why = ""
        try:
            while not (await asyncio.wait({reading}, timeout=POLL_WHILE_READING))[0]:
                await self._monitor.reconnected()  # this session may be silent, the server must answer
                await self._follower.identify_and_signal()
                why = "" if self._must_detach else await self._reason_to_stop_reading()
                if self._must_detach or why:
                    await self.session.cancel()
            reply, now = reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if reply.error is None or is_workers_own(reply.error):
            self.session_free = reply.error is None or await is_free(self.session)
            end = end_by_output(reply, columns, self.request, first=self._first, started=row[6], finished=now)
            return self._complete(end)
        self.session_free = await is_free(self.session)
        if self._must_detach and not why:
            return self._complete(WorkerEnd(detached=True))
        return await self._follow_lost(why or f"its output could not be read: {reply.error.message}")

    async def _reason_to_stop_reading(self) -> str:
        with contextlib.suppress(GatewayError):
            if self.worker is not None and await self._monitor.waits_for(self.worker, self.session.process):
                return "its messages filled output_buffer, and it waited for the snapshot of the session that read them"
        return ""

    async def _follow_lost(self, why: str) -> WorkerEnd:
        """Observe a worker without a launcher session by its identity.

        See docs/pg_background.md#workers-outlive-their-launcher.
        """
        self._on_lost(why)
        if not await self._follower.wait_until_ended():
            return self._complete(WorkerEnd(detached=True))
        return self._complete(WorkerEnd(lost=True, reason=why))

    def _complete(self, end: WorkerEnd) -> WorkerEnd:
        """Add the worker's identity and its notices, which can arrive until its end."""
        notices = self._notices
        return replace(
            end,
            worker=self.worker,
            notices=tuple(notices.kept),
            notices_dropped=notices.dropped,
            warnings=notices.warnings,
        )
