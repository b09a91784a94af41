"""The real gateway: PostgreSQL with pg_background.

A run has one monitor session and one launcher session for each worker that runs at the same time. Launcher sessions are
opened when needed and reused: at most `slots` + 1 connections, one more for conditions in SQL, and one for holds. Slow
conditions before a launch can need up to MOST_BEFORE_LAUNCH more.

A condition may take seconds, and every worker must be observed meanwhile, so conditions and lists of items have a
separate session, opened when needed. Conditions before a launch use the idle launcher session of that launch
(docs/decisions/0018).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from runner.engine.events import Identity, LockWait, Place, Worker
from runner.engine.leftovers import UnfinishedObject
from runner.engine.ports import (
    CancelRequest,
    GroupHolder,
    LaunchRequest,
    OnBlocked,
    Query,
    QueryResult,
    RecordedRun,
    RemainingBackends,
    RequirementsCheck,
    ServerInfo,
    StoredBatch,
    WorkerHandle,
)
from runner.engine.previous_runs import PreviousRuns
from runner.engine.run_location import place_after
from runner.engine.server_activity import KnownWorkers, LiveWorker
from runner.engine.worker_text import waits_for_snapshots
from runner.engine.yielding import WatchedWorkers
from runner.errors import (
    CapacityError,
    ConnectionFailedError,
    GatewayError,
    OutsideLaunchTimeError,
    PreflightError,
    ServerLostError,
)
from runner.gateway.connecting import recorded, with_keepalives
from runner.gateway.ledger.commit_rows import Commits, WorkerWithCommitRow
from runner.gateway.ledger.reader import read_previous_runs
from runner.gateway.ledger.writer import LAST_TRY, LOCKED_LEDGER, Ledger
from runner.gateway.monitor import MonitorSession
from runner.gateway.observer import ALL_LEFTOVERS, ALL_UNFINISHED, read_runs, unfinished_object
from runner.gateway.polling import Rhythm
from runner.gateway.queries import hold_text, query
from runner.gateway.replies import query_result
from runner.gateway.server_refusals import (
    WHERE,
    address_of,
    check_server,
    describe_server,
    discarded_on_failure,
    leads_back,
    prepare_session,
    raise_refusal,
    read_place,
    refuse_shared_sessions,
    refuse_standby,
)
from runner.gateway.session import ConnectionCheck, NothingExecutedError, Reconnecting, Session
from runner.gateway.transaction_settings import query_settings
from runner.gateway.worker import LaunchedWorker, LaunchRefusedError
from runner.gateway.worker_follower import AdoptedWorker, RefusedWorker
from runner.identity import runner_name
from runner.plan.model import Hold
from runner.sql.placeholders import quote_identifier
from runner.structs import replace


async def read(session: Session, query: Query) -> QueryResult:
    """Execute a read-only query on this session without side effects. ServerLostError if the session is lost."""
    return query_result(await session.read(query_settings(query, session.search_path), query.sql))


class ReadingSession:
    """Executes one query at a time; after a lost connection the next query opens another one."""

    def __init__(self, connect: Callable[[], Awaitable[Session]]) -> None:
        self._connect = connect
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    async def query(self, query: Query, *, answer_within: float | None = None) -> QueryResult:
        """Execute a read-only query. ServerLostError if the session is lost, ConnectionFailedError without one.

        TimeoutError, and the session is closed, if there is no answer within the seconds `answer_within`.
        """
        async with self._lock, asyncio.timeout(answer_within):
            return await read(await self._live_session(), query)

    async def close(self) -> None:
        """Close the session if there is one."""
        if self._session is not None:
            self._session.discard()

    async def release(self) -> bool:
        """Close the session if it is idle, to free a connection; False if there was none to close."""
        if self._session is None or self._lock.locked():
            return False
        await self.close()
        self._session = None
        return True

    async def _live_session(self) -> Session:
        if self._session is not None and not self._session.lost:
            return self._session
        await self.close()
        self._session = await self._connect()
        return self._session


#: The number of steps whose conditions are evaluated at the same time before their launches. Each needs a launcher
#: session, which exists because the step holds its slots; but a slow condition releases these to another step.
MOST_BEFORE_LAUNCH = 4
#: How often, and after how many seconds, a launched worker is looked up before its claim is removed. Between the launch
#: and the row in pg_stat_activity the postmaster forks a process; the worker may also have ended by then.
_LOOKS_FOR_WORKER = 25
_LOOK_FOR_WORKER = 0.02


#: Seconds before the end of the times for launches in which nothing is launched any more.
LAST_MOMENT = 0.2
#: Seconds beyond its limit on the server after which a measurement without an answer has failed.
MEASURE_SLACK = 5.0
#: Seconds for the server to notice that a session was closed, before another one is opened instead.
_SESSION_ENDS = 0.1


class PgGateway:
    """Executes steps on a server; see `ports.Gateway`.

    `conninfo` is a libpq connection string, `run_id` is part of the name of all sessions. `ledger_schema` is the schema
    to search for the ledger; None: no ledger. `trusted_roles` may own the ledger besides the session's role and
    superusers. `open` adds those that the ledger has to `previous_runs`. `roles` have executed the run before.
    """

    def __init__(
        self,
        conninfo: str,
        run_id: str,
        *,
        ledger_schema: str | None = None,
        trusted_roles: Sequence[str] = (),
        previous_runs: PreviousRuns | None = None,
        roles: Collection[str] = (),
        ledger_first: bool = False,
    ) -> None:
        self._asked = conninfo
        self._conninfo = with_keepalives(conninfo)
        self._run_id = run_id
        self._extension_schema = ""
        self._idle: list[Session] = []
        self._sessions: set[Session] = set()
        #: The number of launches in progress, and the workers that were launched and are followed.
        self._launching = 0
        self._launched: set[LaunchedWorker] = set()
        self._rhythm = Rhythm()
        self._one_at_a_time = asyncio.Lock()
        #: The number of launches that were announced to other runs because of a reserve, and the tasks that remove the
        #: claims.
        self._claims = 0
        self._unclaiming: set[asyncio.Task[None]] = set()
        self._before_launch = asyncio.Semaphore(MOST_BEFORE_LAUNCH)
        self._monitor = MonitorSession(
            connect=self._connect, run_id=run_id, again=self._look_for_another_runner, roles=roles
        )
        self._reading = ReadingSession(self._connect)
        #: The session of holds, opened when needed: a measurement must not wait for a slow condition.
        self._measuring = ReadingSession(self._connect)
        self._ledger_schema = "" if ledger_schema is None else quote_identifier(ledger_schema)
        self._trusted_roles = tuple(trusted_roles)
        #: Receives the events of the run.
        self.ledger = Ledger(run_id, ledger_schema, trusted_roles)
        self._ledger_first = ledger_first
        self._commits = Commits(self.ledger)
        self._previous_runs = previous_runs
        #: The location of the run's first session, or of the last one that may replace it; its address; a string that
        #: leads there.
        self._place: Place | None = None
        self._address = ("", "")
        self._pinned = ""
        #: The host and start of another runner that has taken the run over.
        self.taken_over_by: str | None = None

    async def open(self, first: RequirementsCheck | None = None) -> ServerInfo:
        """Connect, let `first` check the server, and check the server and a pooler in front of it."""
        session = await self._connect(check=lambda connection: refuse_shared_sessions(connection, self._conninfo))
        async with discarded_on_failure(session):
            info = await self._examine(session, first)
            await self._reading.release()  # what `first` has opened: such a session seems to be another runner's
            await self.ledger.open(session, self._monitor)
            if self._previous_runs is not None and self.ledger.on:
                self._previous_runs.add(await read_previous_runs(session, self._previous_runs.plan))
            await self._monitor.open(session)
        self.ledger.comes_first = self._ledger_first and self.ledger.on
        return replace(info, ledger=self.ledger.schema if self.ledger.on else None)

    async def launch(self, request: LaunchRequest) -> WorkerHandle:
        """Request a worker on a session that tracks no other, with a commit row if that is possible."""
        self._monitor.check_not_given_up()
        label = request.label
        if label is not None and label.purpose:
            return await self._launch(request)  # it is no attempt of the step: it has no commit row
        row = await self._commits.row_for(request)
        withdraw = self._commits.withdraw_commit_row
        if not row and label is not None and not await withdraw(label.step, label.attempt):
            raise CapacityError(LOCKED_LEDGER)
        with_store, row = await self._commits.storing(request, row)
        worker = await self._launch(with_store, row)
        if label is None or not isinstance(worker, LaunchedWorker) or not worker.writes_commit_row:
            return worker
        again = replace(request, launch_between=None)  # it is the same attempt, which began in time
        return WorkerWithCommitRow(worker, request, label, self._commits, lambda: self._launch(again))

    async def _launch(self, request: LaunchRequest, first: str = "") -> WorkerHandle:
        claim: int | None = None
        if request.reserve:
            async with self._one_at_a_time:
                claim = await self._keep_reserve(request.reserve)
                self._launching += 1
        else:
            self._launching += 1
        self._rhythm.begin(request, for_snapshots=waits_for_snapshots(request.sql))
        launched: WorkerHandle | None = None
        try:
            launched = await self._launch_on_a_session(request, first)
        except BaseException:
            self._rhythm.end(request)
            raise
        else:
            return launched
        finally:
            self._launching -= 1
            if claim is not None:
                task = asyncio.ensure_future(self._give_up_claim(claim, launched))
                self._unclaiming.add(task)
                task.add_done_callback(self._unclaiming.discard)

    async def _launch_on_a_session(self, request: LaunchRequest, first: str) -> WorkerHandle:
        while True:
            session = await self._session()
            if request.launch_between is not None and not await self._is_launch_time(session, request.launch_between):
                continue
            worker = LaunchedWorker(request, session, self._monitor, self._over, rhythm=self._rhythm)
            try:
                await worker.launch(first, self.ledger)
            except NothingExecutedError:
                self._drop(worker.session)
            except LaunchRefusedError as error:
                self._over(worker)
                return RefusedWorker(error.details)
            except BaseException:
                self._over(worker)
                raise
            else:
                self._launched.add(worker)
                return worker

    async def _is_launch_time(self, session: Session, between: tuple[float, float]) -> bool:
        """Read the server's clock on the session that will launch a worker; False if the session is lost.

        OutsideLaunchTimeError outside these times. A moment before the end counts as outside: the worker's process
        starts a moment after it was requested.
        """
        try:
            (reply,) = await session.run(("now", ()))
        except ServerLostError:
            self._drop(session)
            return False
        except BaseException:
            self._drop(session)  # its reply was not read
            raise
        first, last = between
        if reply.error is None and first <= float(reply.rows[0][0] or 0.0) < last - LAST_MOMENT:
            return True
        self._idle.append(session)
        if reply.error is not None:  # such as a cancel of this statement
            raise CapacityError(f"the server's clock cannot be read: {reply.error.message}")
        raise OutsideLaunchTimeError("the server's clock is outside the plan's window")

    async def measure_clock(self, now: Callable[[], float]) -> float:
        """Return by how many seconds the server's clock is ahead of `now`, and measure it again with each poll."""
        return await self._monitor.measure_clock(now)

    @property
    def clock_ahead(self) -> float | None:
        """By how many seconds the server's clock was ahead when it was measured last; None before it was measured."""
        return self._monitor.clock_ahead

    async def hold_run(self) -> GroupHolder | None:
        """Lock the run for this runner, as long as the monitor session lives; return the holder if there is another."""
        return await self._monitor.hold_run()

    async def remaining_backends(self, known: Collection[Worker] = ()) -> RemainingBackends:
        """Find what a previous runner of this run has left on the server."""
        return await self._monitor.remaining_backends(known)

    async def committed(self, step: str, attempt: int) -> bool | None:
        """Return whether an attempt whose worker has ended committed; None without a ledger that can say."""
        return await self._commits.orphan_committed(step, attempt)

    async def stored_batch(self, step: str, attempt: int) -> StoredBatch | None:
        """Return what the transaction of a committed iteration has stored; None if it stored nothing, or if unknown."""
        return await self._commits.stored_batch(step, attempt)

    async def write_ledger(self) -> None:
        """Write the events so far to the ledger, if that is possible soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                await self.ledger.write()

    def launch_without_ledger(self) -> None:
        """From now on request workers whose launch the ledger does not contain."""
        self.ledger.comes_first = False

    async def ledger_record(self) -> RecordedRun | None:
        """Return the ledger's record of this run; None without a readable one."""
        return await self._commits.ledger_record()

    def adopt(self, worker: Worker, *, step: str, awaited: bool = True) -> WorkerHandle:
        """Follow a worker of a previous runner by its identity."""
        return AdoptedWorker(worker, self._monitor, step=step, awaited=awaited)

    async def hold_group(self, group: str) -> GroupHolder | None:
        """Lock a concurrency group on the monitor session, or return its holder."""
        return await self._monitor.hold_group(group)

    @property
    def group_lost(self) -> bool:
        """Whether another run locked the group while the connection was lost."""
        return self._monitor.group_lost

    def take_cancel(self, *, of_run: bool) -> CancelRequest | None:
        """Return a request to cancel the run, or else one step of it, once."""
        return self._monitor.take_cancel(of_run=of_run)

    def answer(self, request: CancelRequest, *, steps: int | None) -> None:
        """Report to the user what the request cancels."""
        self._monitor.answer(request, steps=steps)

    @property
    def ledger_problem(self) -> str | None:
        """Why the ledger is not written although it was requested; None if it is."""
        return self.ledger.problem

    @property
    def ledger_ignored(self) -> bool:
        """Whether a ledger exists that is not written because of its owner."""
        return self.ledger.ignored

    async def query(self, query: Query) -> QueryResult:
        """Execute a read-only statement of the plan; once more if its session is lost, because it has no side effects.

        It waits for a connection as long as for that of the monitor session: a server without free connections is no
        failure of the step.
        """
        self._monitor.check_not_given_up()
        # A session's advisory lock outlives the condition: conditions with such locks use one common session, so that
        # they do not block each other.
        if query.before_launch and "advisory" not in query.sql.lower():
            async with self._before_launch:
                result = await self._query_before_launch(query)
            if result is not None:
                return result
        lost, reconnecting = False, Reconnecting(asyncio.get_running_loop().time())
        while True:
            try:
                return await self._reading.query(query)
            except ConnectionFailedError as error:
                if not self._monitor.connected:
                    await self._monitor.reconnected()  # ServerLostError if the server has been away for too long
                if reconnecting.over:
                    raise ServerLostError(error.message) from error
                if self._idle:  # the server may be short of connections
                    self._drop(self._idle.pop())
                    await asyncio.sleep(_SESSION_ENDS)
                else:
                    await reconnecting.pause(error)
            except ServerLostError:
                if lost:
                    raise
                lost = True
                await self._monitor.reconnected()

    async def measure(self, hold: Hold, query: Query) -> QueryResult:
        """Measure a hold; once more on another session if its session is lost."""
        self._monitor.check_not_given_up()
        if hold.while_ is None:
            text, path = hold_text(hold)
            query = replace(query, sql=text, search_path=path)
        within = query.timeout + MEASURE_SLACK
        try:
            try:
                return await self._measuring.query(query, answer_within=within)
            except ServerLostError:
                return await self._measuring.query(query, answer_within=within)
        except ConnectionFailedError as error:
            raise GatewayError(error.message) from error
        except TimeoutError as error:
            raise GatewayError(f"the server has not answered for {within:g} seconds") from error

    async def _query_before_launch(self, query: Query) -> QueryResult | None:
        """Execute a condition on the launcher session that its step will need; None if there is no such session."""
        try:
            session = await self._session()
        except CapacityError:
            return None
        try:
            result = await read(session, query)
        except ServerLostError:
            self._drop(session)
            return None
        except BaseException:
            self._drop(session)  # its reply was not read
            raise
        self._idle.append(session)
        return result

    def watch_blocking(self, workers: Callable[[], WatchedWorkers], seen: OnBlocked) -> None:
        """Poll which sessions the workers block."""
        self._monitor.watch_blocking(workers, seen)

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Call `seen` after each poll of the monitor."""
        self._monitor.watch_locks(seen)

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return the activity of the run's workers, read on the monitor session, which needs no further connection."""
        sessions, blocking, progress = [
            (await self._monitor.read(name)).rows for name in ("live_sessions", "blocking", "progress")
        ]
        labels = ((one.worker, one.request.label) for one in self._launched)
        own = {worker: label for worker, label in labels if worker is not None and label is not None}
        runs = read_runs(sessions, blocking, progress, KnownWorkers(by_identity=own))
        return tuple(self._with_report(worker) for run in runs if run.run == self._run_id for worker in run.workers)

    async def unfinished_objects(self, *, in_progress: bool = False) -> tuple[UnfinishedObject, ...]:
        """Return the unfinished objects of the database, read on the monitor session."""
        wanted = ALL_UNFINISHED if in_progress else ALL_LEFTOVERS
        return tuple(map(unfinished_object, (await self._monitor.read("leftovers", wanted)).rows))

    def _with_report(self, worker: LiveWorker) -> LiveWorker:
        """Add the step's own progress report, which only the launcher session can read."""
        launched = next((one for one in self._launched if one.worker == worker.worker), None)
        return worker if launched is None or launched.reported is None else replace(worker, reported=launched.reported)

    async def close(self) -> None:
        """Write the rest of the ledger and close every session; workers continue."""
        for task in self._unclaiming:
            task.cancel()
        await self.ledger.close()
        for session in self._sessions:
            session.discard()
        self._sessions.clear()
        self._idle.clear()
        await self._reading.close()
        await self._measuring.close()
        await self._monitor.close()

    async def _examine(self, session: Session, first: RequirementsCheck | None) -> ServerInfo:
        server, standby = await session.run(("server", ()), ("standby", ()))
        raise_refusal([server], PreflightError)
        info = describe_server(server.rows[0], standby)
        if first is not None:
            await first(info)
        check_server(server.rows[0])
        self._extension_schema = quote_identifier(info.extension_schema)
        raise_refusal(await session.run(("load", ())), PreflightError)
        refuse_standby(info)
        return replace(
            info,
            connection=recorded(self._asked, **session.target),
            system_identifier=None if self._place is None else self._place.system_identifier,
            place=self._place,
        )

    async def _keep_reserve(self, reserve: int) -> int:
        """Refuse a launch that would leave fewer workers than the reserve; return the number of its claim otherwise.

        A worker that is not yet seen on the server counts: for this run by its own records, for other runs by their
        claims. Two runs that check at the same time see each other's claim, and at least one of them waits.
        """
        self._claims += 1
        claim = self._claims
        free, pids = await self._monitor.claim_worker(claim)
        free -= self._launching + sum(worker.pid not in pids for worker in self._launched)
        if free <= reserve:
            await self._give_up_claim(claim, None)
            raise CapacityError(f"{free} of max_worker_processes are free, and budget.reserve keeps {reserve}")
        return claim

    async def _give_up_claim(self, claim: int, worker: WorkerHandle | None) -> None:
        """Remove a claim when its worker is seen, has ended, or was not seen for long enough."""
        with contextlib.suppress(GatewayError):  # then the session is lost, and its claims with it
            if isinstance(worker, LaunchedWorker) and worker.pid and not worker.ended_at_once:
                for _ in range(_LOOKS_FOR_WORKER):
                    if await self._monitor.unclaim(claim, worker.pid):
                        return
                    if worker not in self._launched:
                        break
                    await asyncio.sleep(_LOOK_FOR_WORKER)
            await self._monitor.unclaim(claim, None)

    async def _session(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            session.notice_loss()
            elsewhere = self._place is not None and session.server_started != self._place.started
            if not session.lost and not elsewhere:
                return session
            self._drop(session)
        try:
            session = await self._connect_launcher()
        except ConnectionFailedError as error:
            if not self._monitor.connected:
                await self._monitor.reconnected()
            raise CapacityError(f"no connection for another worker: {error.message}") from error
        self._sessions.add(session)
        # A runner that takes the run over waits until the previous runner has no session: this one may be later than
        # that.
        await self._monitor.reconnected()
        if self.taken_over_by is not None:
            self._idle.append(session)
            raise CapacityError("another runner has taken the run over")
        return session

    async def _connect_launcher(self) -> Session:
        """Open a launcher session; without a free connection, close the idle session of conditions for it."""
        try:
            return await self._connect(load=True)
        except ConnectionFailedError:
            if not (await self._reading.release() or await self._measuring.release()):
                raise
            await asyncio.sleep(_SESSION_ENDS)
            return await self._connect(load=True)

    async def _look_for_another_runner(self, session: Session) -> None:
        """After a loss of the monitor session, check whether another runner took the run over; stop the ledger then."""
        self.taken_over_by = (
            self.taken_over_by or self._monitor.taken_over_by or await self._commits.taken_over_by(session)
        )
        if self.taken_over_by is not None:
            self.ledger.give_up("another runner has taken the run over")

    async def _connect(self, *, load: bool = False, check: ConnectionCheck | None = None) -> Session:
        """Open a session on the run's server; `load` makes it a launcher session. ConnectionFailedError if that fails.

        It tries the run's server first, then the other servers of the connection string.
        """
        if self._pinned:
            with contextlib.suppress(ConnectionFailedError):
                return await self._connect_to(self._pinned, load=load, check=check)
        return await self._connect_to(self._conninfo, load=load, check=check)

    async def _connect_to(self, conninfo: str, *, load: bool, check: ConnectionCheck | None) -> Session:
        session = await Session.connect(
            conninfo,
            application_name=runner_name(self._run_id),
            queries=lambda name: query(
                name,
                extension_schema=self._extension_schema,
                ledger=self._ledger_schema,
                trusted=self._trusted_roles,
            ),
            check=check,
        )
        async with discarded_on_failure(session):
            loading = (("load", ()),) if load else ()
            (path, role, process), (*loaded, place, system) = await prepare_session(session, *loading, *WHERE)
            self._note_place(session, read_place(place, system))
            raise_refusal(loaded, ConnectionFailedError)
        session.search_path, session.role, session.process = path or "", role or "", int(process or 0)
        session.launched = int(loaded[0].rows[0][1] or 0) if load else 0  # a pooled session may have launched some
        return session

    def _note_place(self, session: Session, found: Place) -> None:
        """Compare the session's location with the run's. WrongServerError if they differ."""
        address = address_of(session)
        if self._place is not None:
            moved = address != self._address
            found = place_after(self._place, found, alive=self._monitor.connected, moved=moved)
        self._place, self._address = found, address
        session.server_started = found.started
        self._pinned = leads_back(self._conninfo, session)

    def _over(self, worker: LaunchedWorker) -> None:
        """Take a worker's session back, unless it is lost or may still track a worker."""
        self._launched.discard(worker)
        self._rhythm.end(worker.asked)
        worker.session.on_notice = None
        if worker.session_free and not worker.session.lost:
            self._idle.append(worker.session)
        else:
            self._drop(worker.session)

    def _drop(self, session: Session) -> None:
        self._sessions.discard(session)
        session.discard()
