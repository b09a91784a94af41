"""One worker from launch to end, on a launcher session that tracks no other (pg_background.md#one-worker-per-session).

The launch is a few statements in one transaction, and a refusal of theirs has a meaning. The outcome is read before
anything is consumed; only then are the notices fetched, which also frees the handle (`worker_output`). With a worker
that sends no rows, both travel in one round trip. When the session is lost the worker is followed by its identity, and
its outcome stays unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.engine.events import ErrorDetails, Worker
from runner.engine.ports import LaunchRequest, OnUnstoppable, WorkerEnd, keep_waiting
from runner.engine.server_activity import ReportedProgress
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.ledger.writer import LOCKED_LEDGER, Ledger
from runner.gateway.polling import IDENTIFY_AFTER, SLICE, Pauses, Rhythm
from runner.gateway.session import Reply, Row, Session, Statement, TurnedAwayError, first_error
from runner.gateway.transaction_settings import (
    COMMIT_ROW_LOCK_TIMEOUT,
    plain_settings,
    with_lock_timeout,
    worker_settings,
)
from runner.gateway.worker_follower import Follower, Monitor, Sought
from runner.gateway.worker_output import (
    NoticeCollector,
    RowColumns,
    can_be_text,
    cannot_send_rows,
    describe_rows,
    drain,
    end_by_output,
    handles,
    is_free,
    is_workers_own,
    launched_text,
    must_be_text,
    read_end,
    sends_no_rows,
)
from runner.identity import WorkerLabel, step_of

#: "No worker to give now" (pg_background.md#capacity-errors), and "no connection to give now", which a launcher
#: session needs.
_CAPACITY_SQLSTATES = {
    "53000": "max_worker_processes is used up",
    "53400": "pg_background.max_workers is used up",
    "53300": "there are too many connections",
}
#: The statement that waits once more for a worker that was launched at once.
WAIT_AT_ONCE = "wait_at_once"


#: Columns of the moment of the launch, in the rows of `launch` and `launch_at_once`.
_MOMENT = 2
_MOMENT_AT_ONCE = 9


class LaunchRefusedError(GatewayError):
    """The server refused the launch itself: a setting, a role, a privilege."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details.message)
        self.details = details


def refusal(error: ErrorDetails) -> CapacityError | LaunchRefusedError:
    """Return what an error before the worker had been asked for means: a shortage, or the step's own fault."""
    if error.sqlstate in _CAPACITY_SQLSTATES:
        return CapacityError(f"{_CAPACITY_SQLSTATES[error.sqlstate]} ({error.message})")
    return LaunchRefusedError(error)


class Launching:
    """How one worker is launched on a session of `role` and `search_path`.

    `first_wait` is how many milliseconds the statement waits for its end. Where one statement launches and waits,
    `slices` further waits follow in the same round trip.
    """

    def __init__(self, request: LaunchRequest, *, role: str, search_path: str, first_wait: int, slices: int) -> None:
        self._request = request
        self._search_path = search_path
        #: The role whose rights the worker has; "none" is that of the login.
        self.role = role if request.role is None else request.role
        # In the transaction of `wait` the role is taken already, and it need not have the rights of who took it.
        own_role = request.role is None
        #: Reads the output of a worker that has succeeded; it travels with `wait`.
        drain_ended = (("drain_ended", (self.role,)),) if own_role and sends_no_rows(request) else ()
        #: Whether one statement launches, waits and drains. In one statement with the launch, an output that cannot be
        #: read would take the outcome with it. Settings of the plan's would reach it too: how the outcome is written
        #: (client_encoding), when the session is ended.
        self.at_once = own_role and not request.settings and cannot_send_rows(request)
        self._first_wait = str(first_wait)
        self._first = (("wait", (self._first_wait, self.role)), *drain_ended)
        #: What waits in the server for the worker once more, with a snapshot of its own, and reads its output.
        self.slice: tuple[Statement, ...] = (("wait", (str(SLICE), self.role)), *drain_ended)
        if self.at_once:
            self.slice = ((WAIT_AT_ONCE, (str(SLICE),)),)
        self._slices = slices if self.at_once else 0

    @property
    def in_block(self) -> bool:
        """Say whether the launch is in a transaction block, which an error leaves open."""
        return not self.at_once or self._slices > 0

    def moment_of(self, launched: Reply) -> str | None:
        """Return the server's time before the launch, from the launch's reply; the worker has not begun earlier."""
        return launched.rows[0][_MOMENT_AT_ONCE if self.at_once else _MOMENT]

    def slices_in(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Return the replies of the slices among those that came after the one of the launch itself."""
        return replies[1::2]

    def statements(self, first: str) -> tuple[Statement, ...]:
        """Return what asks for the worker and waits a moment for it; `first` are the statements of its commit row."""
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


QUERY_CANCELED = "57014"
#: Waits that may fail for another reason than a cancel while the session lives.
FAILING_WAITS = 5
#: How many times the time since the launch must have passed until a worker that was not found is looked up again.
_IDENTIFY_AGAIN = 1.5
#: Seconds between two looks whether a worker waits for the session that reads its output.
LOOK_WHILE_READING = 0.25
#: Somebody broke off what ran: of a launching statement nobody knows whether the worker had been asked for.
_BROKEN_OFF = frozenset({QUERY_CANCELED, "57P01", "57P02", "57P03"})


class LaunchedWorker:
    """A handle of the extension; see `ports.WorkerHandle`.

    `over` is called once, when the worker has ended or was detached, or when it is not followed any longer. The session
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
        #: What comes before the plan's own text, and whether there is a commit row in it.
        self._first = ""
        self.writes_commit_row = False
        #: What was asked for, and what is launched: some rows have to be sent as text.
        self.asked = self.request = request
        self._rhythm = rhythm
        self._pauses = Pauses()
        if request.rows and must_be_text(request.sql):
            self.request = replace(request, as_text=True)
        self._identify_after = IDENTIFY_AFTER
        #: How many slices the session has waited in the server after the one that was part of the launch.
        self._slices = 0
        self._first_slices = rhythm.first_slices()
        self._launching = self._prepared()
        self._role = self._launching.role
        self._drained: Reply | None = None
        self._columns = RowColumns()
        self._monitor = monitor
        self._over = over
        label = "" if request.label is None else request.label.to_comment()
        self._follower = Follower(Sought(name=request.application_name, label=label), monitor)
        self._row: Row | None = None
        self._failures = 0
        self._lost: str | None = None
        #: What the worker has told of its own progress.
        self.reported: ReportedProgress | None = None
        self._notices = NoticeCollector()

    @property
    def pid(self) -> int:
        """The worker's process, as far as it is known; 0 if not."""
        return self._follower.sought.pid if self.worker is None else self.worker.pid

    @property
    def ended_at_once(self) -> bool:
        """Say whether the worker had ended when its launch was answered."""
        return self._row is not None and self._row[2] == "t"

    @property
    def label(self) -> WorkerLabel | None:
        """What was written in front of its text."""
        return self.request.label

    @property
    def _step(self) -> str:
        label = self.request.label
        return step_of(self.request.application_name) if label is None else label.step

    @property
    def worker(self) -> Worker | None:
        """Who it is, once it has been seen on the server."""
        return self._follower.worker

    @property
    def age(self) -> float | None:
        """For how many seconds it had lived, by the server's clock, when it was first seen."""
        return self._follower.age

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._follower.cancel()
        self._pauses.interrupt()

    def detach(self) -> None:
        """Detach the worker as soon as it has been seen."""
        self._follower.detach()
        self._pauses.interrupt()

    async def launch(self, first: str = "", ledger: Ledger | None = None) -> None:
        """Ask for the worker and wait a moment for it; `first` are the statements that write its commit row, if any.

        What the ledger does not know yet travels with it and is written before. If it cannot be, the worker is launched
        without both.
        CapacityError if the server has none; LaunchRefusedError if it refuses for another reason; TurnedAwayError if
        the session was at its end before (`begin` or `nothing` is what would have run first). A session that is lost
        later is no error here: the worker may well run, and `ended` looks for it.
        """
        self.session.on_notice = self._notices
        await self._describe_early()
        try:
            _, launched, *more = await self._ask_for_it(first, ledger)
        except TurnedAwayError:
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
        self._follower.sought = replace(
            self._follower.sought, pid=int(launched.rows[0][0] or 0), since=self._launching.moment_of(launched) or ""
        )

    async def _roll_back(self) -> None:
        """End the transaction block that an error has left open. A session that is lost is noticed at the next look."""
        with contextlib.suppress(ServerLostError):
            await self.session.run(("rollback", ()))

    def _note_at_once(self, *replies: Reply) -> Row | None:
        """Return what a launch and the slices after it have told: the last one that has told anything."""
        row: Row | None = None
        for number, reply in enumerate(replies):
            if row is None or row[2] != "t":
                self._slices += number > 0
                row = reply.rows[0] if reply.rows else row
                if row is not None and row[2] == "t" and row[8] == "t":
                    self._drained = Reply(rows=tuple(tag[-1:] for tag in reply.rows))
        return row

    async def _ask_for_it(self, first: str, ledger: Ledger | None) -> list[Reply]:
        """Return the replies without those to what comes before, which fails by itself: then nothing was asked for."""
        label, batch = self.request.label, None
        if ledger is not None and label is not None:
            await ledger.before_launch()
            batch = ledger.ahead(label.step, label.attempt, commit_row=bool(first))
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
        claimed = ledger is not None and label is not None and not ledger.disclaim(label.step, label.attempt)
        try:
            await self.session.run(("rollback", ()))
        except ServerLostError as lost:
            raise TurnedAwayError(lost.message) from lost
        if claimed:
            raise CapacityError(LOCKED_LEDGER)
        return await self._ask_for_it("", None)

    def _prepared(self) -> Launching:
        session = self.session
        first_wait, slices = self._first_slices
        return Launching(
            self.request, role=session.role, search_path=session.search_path, first_wait=first_wait, slices=slices
        )

    async def _describe_early(self) -> None:
        """Describe the rows that are wanted while the worker cannot yet have locked what that takes.

        What cannot be described has its last statement rewritten, so that its rows are text.
        """
        if not self.request.rows:
            return
        try:
            self._columns = await describe_rows(self.session, self.request)
        except ServerLostError as error:
            raise TurnedAwayError(error.message) from error
        if self._columns.problem is not None and can_be_text(self.request.sql):
            self.request = replace(self.request, as_text=True)
            self._launching = self._prepared()
            self._columns = await describe_rows(self.session, self.request)

    async def _refused(self, error: ErrorDetails) -> None:
        """Raise what the launch's error means, unless it came after the worker had been asked for."""
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
        if error.sqlstate in _BROKEN_OFF or not before:
            self._lost = error.message
            return
        self.session_free = not self.session.lost
        raise refusal(error)

    async def ended(
        self, *, seen: Callable[[Worker], None], lost: Callable[[str], None], unstoppable: OnUnstoppable = keep_waiting
    ) -> WorkerEnd:
        """Follow the worker to its end."""
        self._follower.unstoppable = unstoppable
        try:
            return await self._explained(await self._to_its_end(seen, lost))
        finally:
            self._over(self)

    async def _to_its_end(self, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        try:
            if self._lost is not None:
                return await self._follow_lost(self._lost, seen, lost)
            return await self._follow(seen, lost)
        except ServerLostError as error:
            return await self._follow_lost(str(error), seen, lost)

    async def _explained(self, end: WorkerEnd) -> WorkerEnd:
        """Say who asked for the end, where somebody may have brought it about."""
        if end.proven or end.detached or (end.error is not None and end.error.sqlstate not in _BROKEN_OFF):
            return end
        return replace(end, cancelled_by=await self._monitor.cancelled_by(self._step))

    async def _follow(self, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        while self._row is None or self._row[2] != "t":
            if self._follower.has_orders or self._pauses.elapsed >= self._identify_after:
                self._identify_after = max(IDENTIFY_AFTER, _IDENTIFY_AGAIN * self._pauses.elapsed)
                await self._follower.look_after(seen)
            if self._leaving:
                self._row = await self._row_of(("let_go", (self._role,)))
                if self._row is not None and self._row[2] != "t":
                    self.session_free = True
                    return self._complete(WorkerEnd(detached=True))
            elif self._blocked and self._row is not None:
                return await self._drain_running(self._row, seen, lost)
            else:
                await self._look()
        self._rhythm.learn(self._pauses.elapsed, self._slices)
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
        """Look whether the worker has ended: after a wait in the server at first, after a pause here later."""
        if self._rhythm.waits_in_server(self._pauses.elapsed):
            self._slices += 1
            self._row = await self._row_of(*self._launching.slice)
        elif await self._pauses.pause():
            # without `drain_ended`: a worker that runs for long shall cost the server little
            self._row = await self._row_of(("follow", (self._role,)))
            self._hear_progress(self._row)

    def _hear_progress(self, row: Row | None) -> None:
        if row is not None and row[2] != "t" and row[8] is not None:
            self.reported = ReportedProgress(percent=int(row[8]), message=row[9] or "")

    @property
    def _blocked(self) -> bool:
        return self.worker is not None and self._monitor.is_blocked(self.worker)

    @property
    def _leaving(self) -> bool:
        """Say whether the worker is to be let go of now: it was asked for, or a detach step's queue is full."""
        return self.worker is not None and (self._follower.detaching or (self._blocked and self.request.detachable))

    async def _row_of(self, *statements: tuple[str, Sequence[str]]) -> Row | None:
        """Ask about the worker; None if the statement was cancelled, which says nothing of the worker."""
        reply, *drained = await self.session.run(*statements)
        row = self._note_at_once(reply) if statements[0][0] == WAIT_AT_ONCE else self._note(reply, drained)
        if row is None and reply.error is None:
            raise ServerLostError("the extension has forgotten the worker")
        if reply.error is not None and reply.error.sqlstate != QUERY_CANCELED:
            self._failures += 1
            if self._failures == FAILING_WAITS:
                raise ServerLostError(reply.error.message)
        return row

    def _note(self, waited: Reply, drained: list[Reply]) -> Row | None:
        """Return what a wait has told, or what was told with the output that was drained right after it."""
        row = waited.rows[0] if waited.rows else None
        for reply in drained:
            if reply.rows:
                row = reply.rows[0]
                self._drained = Reply(rows=tuple(tag[-1:] for tag in reply.rows))
            elif reply.error is not None and row is not None and row[2] == "t":
                self._drained = reply
        return row

    async def _drain_running(self, row: Row, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        """Read on until the worker has gone, because its full queue keeps it from ending
        (pg_background.md#full-output-queue).

        The one statement of ours that may hold a snapshot for long. So it is broken off when the worker waits for that
        snapshot (pg_background.md#waiting-holds-a-snapshot), which lets the worker end, but not say how.
        """
        handle = (row[0] or "", row[1] or "", self._role)
        columns = await describe_rows(self.session, self.request)
        if columns.problem is not None:
            columns = self._columns
        rows = self.request.rows
        reading = asyncio.ensure_future(drain(self.session, handle, columns, rows=rows, patience=math.inf))
        why = ""
        try:
            while not (await asyncio.wait({reading}, timeout=LOOK_WHILE_READING))[0]:
                await self._monitor.reconnected()  # this session may be silent while it reads; the server may not
                await self._follower.look_after(seen)
                why = "" if self._leaving else await self._why_break_off()
                if self._leaving or why:
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
        if self._leaving and not why:
            return self._complete(WorkerEnd(detached=True))
        return await self._follow_lost(why or f"its output could not be read: {reply.error.message}", seen, lost)

    async def _why_break_off(self) -> str:
        with contextlib.suppress(GatewayError):
            if self.worker is not None and await self._monitor.waits_for(self.worker, self.session.process):
                return "its messages filled output_buffer, and it would have waited for ever for who reads them"
        return ""

    async def _follow_lost(self, why: str, seen: Callable[[Worker], None], lost: Callable[[str], None]) -> WorkerEnd:
        """Nobody will hear from the worker any longer, but it is there
        (pg_background.md#workers-outlive-their-launcher): follow it by identity.
        """
        lost(why)
        if not await self._follower.gone(seen):
            return self._complete(WorkerEnd(detached=True))
        return self._complete(WorkerEnd(lost=True, reason=why))

    def _complete(self, end: WorkerEnd) -> WorkerEnd:
        """Add who it was, and the notices: they come until the last moment."""
        notices = self._notices
        return replace(
            end,
            worker=self.worker,
            notices=tuple(notices.kept),
            notices_dropped=notices.dropped,
            warnings=notices.warnings,
        )
