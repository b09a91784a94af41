"""A session that reads the activity of all runs on a server, and stops their workers.

It needs no extension and no record, only the server. After a lost connection it reconnects, for up to a minute. The
runner is notified first, in a separate transaction, so that it knows which user stopped a worker before it notices the
worker's end. Only a worker that is seen at that time is signalled (docs/decisions/0003).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from psycopg.conninfo import make_conninfo

from runner.engine.events import Leftover, Place, Worker
from runner.engine.leftovers import UnfinishedObject, read_leftover
from runner.engine.ports import CancelRequest
from runner.engine.run_location import place_after
from runner.engine.server_activity import Activity, KnownWorkers, LiveRun, LiveWorker, Other, Progress, RunnerSession
from runner.engine.worker_text import plan_text
from runner.errors import ConnectionFailedError, GatewayError, PreflightError, ServerLostError
from runner.gateway.cancel_requests import CancelAnswer, payload_of, read_answer
from runner.gateway.connecting import with_keepalives
from runner.gateway.ledger.reader import LedgerRecord, read_recorded
from runner.gateway.queries import query
from runner.gateway.replies import Reply, Row, read_row
from runner.gateway.server_refusals import (
    WHERE,
    address_of,
    discarded_on_failure,
    leads_back,
    prepare_session,
    read_place,
)
from runner.gateway.session import Reconnecting, Session, SessionUser
from runner.identity import PREFIX, Claim, run_of, runner_name
from runner.plan.sqlstates import INSUFFICIENT_PRIVILEGE
from runner.sql.placeholders import quote_identifier
from runner.structs import Struct, field, replace

#: The application_name of the session; no session of a run has this name.
APPLICATION_NAME = "jobplan looking"
_WORKER = "pg_background"
_CLIENT = "client backend"
_HIDDEN = "<insufficient privilege>"
_DETACH = re.compile(r"\bdetach\s+partition\b", re.IGNORECASE)


class SignalRefusedError(GatewayError):
    """The role lacks the privilege to stop the worker."""


class Observer(SessionUser):
    """See the module's docstring. Open it with `connect`."""

    def __init__(self, conninfo: str, session: Session, ledger: str = "", trusted_roles: Sequence[str] = ()) -> None:
        self._conninfo = conninfo
        self._session = session
        self._ledger = ledger
        self._trusted_roles = tuple(trusted_roles)
        #: Why an existing ledger is not read, after an attempt to read it.
        self.ledger_ignored: str | None = None
        #: The facts that records have about workers, whatever their present names.
        self.known = KnownWorkers()
        self._seen: list[Reply] = []
        #: The location of its server; a later session must be on the same one.
        self.place: Place | None = None
        self.address = ("", "")

    @classmethod
    async def connect(
        cls,
        conninfo: str,
        *,
        database: str | None = None,
        ledger: str = "",
        trusted_roles: Sequence[str] = (),
        beside: Observer | None = None,
    ) -> Observer:
        """Open it; `database` replaces that of the connection string, `ledger` is the schema of a ledger.

        `trusted_roles` may own the ledger besides the session's role and superusers. `beside`: use the server of
        another observer, even if the connection string leads to several. ConnectionFailedError if the server cannot be
        reached.
        """
        given = with_keepalives(conninfo)
        if beside is not None and beside.pinned:
            given = beside.pinned
        if database is not None:
            given = make_conninfo(given, dbname=database)
        observer = cls(given, await open_session(given, ledger, trusted_roles), ledger, trusted_roles)
        try:
            if beside is not None and beside.place is not None:
                observer.place, observer.address = replace(beside.place, database_oid=0), beside.address
            await observer.check_place()
        except BaseException:
            await observer.close()
            raise
        return observer

    @property
    def pinned(self) -> str:
        """A connection string that leads only to its server; empty if the original one does."""
        return leads_back(self._conninfo, self._session)

    async def check_place(self) -> None:
        """Check that the session is on the same server as before. ConnectionFailedError if it is not."""
        try:
            found = read_place(*await self._session.run(*WHERE))
        except ServerLostError as error:
            raise ConnectionFailedError(error.message) from error
        address = address_of(self._session)
        if self.place is not None:
            before = self.place
            if not before.database_oid:  # the location of a session in another database
                before = replace(before, database=found.database, database_oid=found.database_oid)
            found = place_after(before, found, moved=address != self.address)
        self.place, self.address = found, address

    async def look(self) -> Activity:
        """Return the activity on the server now. ServerLostError if it does not come back within a minute."""
        self._seen = await self._run(("whereabouts", ()), ("live_sessions", ()), ("blocking", ()), ("progress", ()))
        return self.last_look()

    def last_look(self) -> Activity:
        """Return the result of the last poll, with the facts that are `known` now."""
        place, sessions, blocking, progress = self._seen
        return read_row(
            Activity,
            place.rows[0],
            runs=read_runs(sessions.rows, blocking.rows, progress.rows, self.known),
            others=sum(row[3] == _WORKER and _run_of(row, self.known) is None for row in sessions.rows),
        )

    async def recorded(self, runs: Iterable[str]) -> dict[str, LedgerRecord]:
        """Return what a ledger in this session's database has about these runs; empty without a readable one."""
        if not self._ledger:
            return {}
        try:
            return await read_recorded(self._session, self._ledger, runs, self._trusted_roles, self._ignore)
        except ServerLostError:
            return {}

    def _ignore(self, why: str) -> None:
        self.ledger_ignored = why

    async def listen(self, received: Callable[[str, int], None]) -> None:
        """Call `received` with the payload and the sender of each notification; none is kept while disconnected."""
        self._session.on_notification = lambda _, payload, sender: received(payload, sender)
        await self._run(("listen", ()))

    async def notify(self, payload: str) -> None:
        """Notify the runners that listen in this session's database."""
        await self._run(("notify", (payload,)))

    async def accepts_requests(self, runner: RunnerSession) -> bool:
        """Return whether the runner accepts requests from this role: only if the role may stop its workers itself."""
        (reply,) = await self._run(("ignores_requests", (str(runner.pid),)))
        return not reply.rows

    async def signal(self, worker: Worker) -> bool:
        """Request the worker to stop, if its pid and backend_start match in this session's database.

        False: it has ended. SignalRefusedError if this role lacks the privilege.
        """
        (reply,) = await self._try(("cancel", (str(worker.pid), worker.backend_start)))
        if reply.error is not None and reply.error.sqlstate == INSUFFICIENT_PRIVILEGE:
            raise SignalRefusedError(f"{reply.error.message}.", hint=reply.error.detail)
        return bool(_checked(reply).rows)

    async def locked(self, pids: Iterable[int]) -> frozenset[str]:
        """Return the OIDs of the relations that these sessions hold or await locks on, in this session's database."""
        (reply,) = await self._run(("locked", (json.dumps(list(pids)),)))
        return frozenset(row[0] or "" for row in reply.rows)

    async def leftovers(self, relations: Iterable[str], workers: Iterable[LiveWorker]) -> tuple[Leftover, ...]:
        """Return what these workers, which locked these relations, have left behind.

        See docs/pg_background.md#what-concurrently-leaves-behind.
        """
        detached = any(_DETACH.search(worker.query) for worker in workers)
        (reply,) = await self._run(("leftovers", (json.dumps(sorted(relations)), str(detached), "false", "false")))
        return tuple(read_leftover(one.kind, one.shown, one.parent) for one in map(unfinished_object, reply.rows))

    async def _check_again(self) -> None:
        try:
            await self.check_place()
        except ConnectionFailedError:
            self._session.discard()  # the next attempt opens another one
            raise

    async def _run(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        return [_checked(reply) for reply in await self._try(*statements)]

    async def _try(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        """Execute statements, again after a lost connection: they must be safe to execute twice."""
        reconnecting = Reconnecting()
        while True:
            try:
                if self._session.lost:
                    self._session = await open_session(self._conninfo, self._ledger, self._trusted_roles)
                    await self._check_again()
                return await self._session.run(*statements)
            except (ServerLostError, ConnectionFailedError) as error:
                await reconnecting.pause(error)


async def open_session(conninfo: str, ledger: str, trusted_roles: Sequence[str]) -> Session:
    """Open a session that only looks; `ledger` is the schema of a ledger. ConnectionFailedError if it cannot be."""
    quoted = quote_identifier(ledger) if ledger else ""
    session = await Session.connect(
        conninfo,
        application_name=APPLICATION_NAME,
        queries=lambda name: query(name, ledger=quoted, trusted=trusted_roles),
    )
    async with discarded_on_failure(session):
        await prepare_session(session)
    return session


def _checked(reply: Reply) -> Reply:
    if reply.error is not None:
        raise PreflightError(f"the activity of the server cannot be read: {reply.error.message}")
    return reply


def read_runs(
    sessions: Sequence[Row], blocking: Sequence[Row], progress: Sequence[Row], known: KnownWorkers | None = None
) -> tuple[LiveRun, ...]:
    """Combine the rows of `live_sessions`, `blocking` and `progress`, in the order in which the runs began."""
    known = known or KnownWorkers()
    blocked_by: dict[str, list[Other]] = defaultdict(list)
    blocks: dict[str, list[Other]] = defaultdict(list)
    for row in blocking:
        blocked_by[row[0] or ""].append(_other(row[7:], row[6]))
        blocks[row[7] or ""].append(_other(row[:6], row[6]))
    reports = {row[0] or "": read_row(Progress, row[1:]) for row in progress}
    runners: dict[str, list[RunnerSession]] = defaultdict(list)
    workers: dict[str, list[LiveWorker]] = defaultdict(list)
    databases: dict[str, str] = {}
    for row in sessions:
        run = _run_of(row, known)
        if run is None:
            continue
        if _is_runner(row, run):
            if known.roles.get(run) and row[5] not in known.roles[run]:
                continue
            runners[run].append(_runner(row))
        elif row[3] in (_WORKER, None):
            pid = row[0] or ""
            seen = _worker(row, run, known)
            workers[run].append(
                replace(
                    seen,
                    progress=reports.get(pid),
                    blocked_by=tuple(blocked_by[pid]),
                    blocks=tuple(blocks[pid]),
                )
            )
        else:
            continue
        databases.setdefault(run, row[4] or "")
    return tuple(
        LiveRun(
            run=run,
            database=database,
            runner=tuple(runners[run]),
            workers=tuple(_marked_foreign(worker, runners[run], known) for worker in workers[run]),
        )
        for run, database in databases.items()
    )


def _run_of(row: Row, known: KnownWorkers) -> str | None:
    """Return the run of a session: by its identity, else by its label, else by its name; None if it has none."""
    name = row[2] or ""
    if row[3] == _WORKER:
        label = known.by_identity.get(read_row(Worker, row[:3]))
        claim = Claim.from_query(row[9] or "")
        if label is not None or claim is not None:
            return label.run if label is not None else claim.run if claim is not None else None
    return run_of(name) if name.startswith(f"{PREFIX}:") else None


def _marked_foreign(worker: LiveWorker, runners: Sequence[RunnerSession], known: KnownWorkers) -> LiveWorker:
    """Mark a worker as foreign if its role is none of the run's, unless the record has its identity."""
    roles = known.roles.get(worker.run) or frozenset(session.user for session in runners)
    foreign = bool(roles) and worker.user not in roles and worker.worker not in known.by_identity
    return replace(worker, foreign=foreign)


def _is_runner(row: Row, run: str) -> bool:
    """Return whether it is a runner's session; if its kind is not visible to this role, its name decides."""
    return row[3] in (_CLIENT, None) and row[2] == runner_name(run)


def _runner(row: Row) -> RunnerSession:
    return read_row(RunnerSession, (row[0], row[11], row[10], row[12], row[5]))


def _worker(row: Row, run: str, known: KnownWorkers) -> LiveWorker:
    worker, kind, (wait_type, wait, text) = read_row(Worker, row[:3]), row[3], row[7:10]
    label = known.label_of(worker, "" if text == _HIDDEN else text or "") if kind is not None else None
    return read_row(
        LiveWorker,
        (*row[4:6], row[10], row[6]),
        worker=worker,
        run=run,
        visible=kind is not None,
        foreign=False,
        label=label if label is not None and label.run == run else None,
        wait=f"{wait_type}: {wait}" if wait else "",
        query=_shown(text),
    )


def _other(row: Row, lock: str | None) -> Other:
    return read_row(Other, (*row[:4], row[5]), query=_shown(row[4]), lock=lock or "")


def _shown(text: str | None) -> str:
    """Return the plan's text in the query text of a session; empty if this role may not see it."""
    return "" if text == _HIDDEN else plan_text(text or "")


#: Parameters of `leftovers` for all unfinished objects of the database, without and with those in progress.
ALL_LEFTOVERS = ("[]", "false", "true", "false")
ALL_UNFINISHED = ("[]", "false", "true", "true")


def unfinished_object(row: Row) -> UnfinishedObject:
    """Parse a row of `leftovers`."""
    return read_row(UnfinishedObject, row)


#: Seconds between two polls, and between two signals to the same worker.
LOOK_EVERY = 0.25
SIGNAL_EVERY = 5.0
#: Seconds without a worker after which a run with a runner is assumed to start none: a worker that was being launched
#: has appeared by then.
QUIET = 1.5
#: Seconds to wait for the answer of a living runner; without one it is unknown whether it received the request.
ANSWER_WITHIN = 10.0
#: The limit of senders whose answers are kept until the next poll, one for each.
_MOST_ANSWERS = 1000
#: Seconds for which a new worker may be visible without the query text that has its label.
_LABEL_BY = 2.0


class Stopped(Struct, frozen=True, kw_only=True):
    """The result. `seconds` is the time that each ended worker took to stop; `still` are those that are running.

    `left` are workers of detach steps, which were not stopped; `refused` says why some could not be signalled.
    """

    asked: tuple[LiveWorker, ...]
    seconds: dict[Worker, float]
    still: tuple[LiveWorker, ...]
    left: tuple[LiveWorker, ...]
    runner_alive: bool
    #: Whether a living runner accepts requests from this role.
    request_accepted: bool
    refused: str | None
    leftovers: tuple[Leftover, ...]
    #: The runner's answer to the request; None without one.
    answer: CancelAnswer | None


class _Target(Struct):
    worker: LiveWorker
    asked_at: float
    signalled_at: float | None = None
    refused: bool = False
    ended_after: float | None = None


class Stopper(Struct, kw_only=True):
    """Stops one run, or one step of it. `detached`: also workers of detach steps; `on_request` gets each worker."""

    observer: Observer
    run: LiveRun
    request: CancelRequest
    detached: bool = False
    on_request: Callable[[LiveWorker], None] = lambda _: None
    _targets: dict[Worker, _Target] = field(default_factory=dict)
    _relations: set[str] = field(default_factory=set)
    _refused: str | None = None
    _request_accepted: bool = True
    _answer: CancelAnswer | None = None
    #: The last answer of each sender (its pid) that was not checked yet.
    _received: dict[int, CancelAnswer] = field(default_factory=dict)

    async def stop(self, wait_for: float) -> Stopped:
        """Stop the run; wait for its workers for at most `wait_for` seconds. ServerLostError if the server is lost."""
        await self.observer.listen(self._receive)
        await self.observer.notify(payload_of(self.request))
        self._request_accepted = not self.run.alive or await self.observer.accepts_requests(self.run.runner[0])
        loop = asyncio.get_running_loop()
        notified_at = quiet_since = loop.time()
        until = notified_at + wait_for
        while True:
            activity = await self.observer.look()
            now = loop.time()
            run = next((run for run in activity.runs if run.run == self.run.run), None)
            self._check_answers(activity, run)
            wanted = [worker for worker in run.workers if self._must_stop(worker, activity)] if run else []
            self._record_ends({worker.worker for worker in wanted}, now)
            await self._signal(wanted, now)
            if wanted:
                quiet_since = now
            alive = run is not None and run.alive
            awaited = alive and self._request_accepted and self._answer is None and now - notified_at < ANSWER_WITHIN
            if not wanted and (not alive or (now - quiet_since >= QUIET and not awaited)):
                break
            if now >= until:
                break
            if wanted and not awaited and all(self._targets[worker.worker].refused for worker in wanted):
                break
            await asyncio.sleep(LOOK_EVERY)
        return await self._result(run, wanted)

    def _receive(self, payload: str, sender: int) -> None:
        answer = read_answer(payload, self.request)
        if answer is not None and (sender in self._received or len(self._received) < _MOST_ANSWERS):
            self._received[sender] = answer

    def _check_answers(self, activity: Activity, run: LiveRun | None) -> None:
        """Accept an answer only if it comes from a session of the run whose role can be the runner's.

        Any role can send a notification and use a runner's application_name. So all sessions with that name must have
        one role, which is that of the run's workers, if there are any; else only this session's own role is trusted.
        """
        sessions = {one.pid: one.user for look in (self.run, run) if look is not None for one in look.runner}
        roles = set(sessions.values())
        workers = {one.user for look in (self.run, run) if look is not None for one in look.workers if not one.foreign}
        agreed = len(roles) == 1 and (not workers or roles <= workers)
        for sender, answer in self._received.items():
            if sender in sessions and (agreed or sessions[sender] == activity.user):
                self._answer = answer
        self._received.clear()

    def _must_stop(self, worker: LiveWorker, activity: Activity) -> bool:
        """Return whether to stop it.

        The request does not include workers that `finally` starts only now. If neither the server nor a record has the
        step of a worker, it may be one of a detach step: without --detached it is not stopped. A new worker can be
        without its query text for a moment.
        """
        if worker.worker in self._targets:
            return True
        if worker.foreign:
            return False
        if self.request.step is not None:
            return worker.is_of(self.request.step)
        if worker.label is None and worker.visible:
            old = worker.started_at is None or activity.at - worker.started_at >= _LABEL_BY
            return self.detached and old
        if worker.detached:
            return self.detached
        starts_now = worker.label is not None and worker.label.in_finally
        return not starts_now or any(worker.worker == before.worker for before in self.run.workers)

    async def _signal(self, wanted: list[LiveWorker], now: float) -> None:
        new = [worker for worker in wanted if worker.worker not in self._targets]
        for worker in new:
            self._targets[worker.worker] = _Target(worker=worker, asked_at=now)
            self.on_request(worker)
        if wanted:
            self._relations |= await self.observer.locked(worker.worker.pid for worker in wanted)
        for worker in wanted:
            target = self._targets[worker.worker]
            due = target.signalled_at is None or now - target.signalled_at >= SIGNAL_EVERY
            if due and not target.refused:
                target.signalled_at = now
                await self._signal_one(target)

    async def _signal_one(self, target: _Target) -> None:
        if not target.worker.visible:
            target.refused = True
            self._refused = "these workers are not visible to this role, and only visible workers are signalled"
            return
        try:
            await self.observer.signal(target.worker.worker)
        except SignalRefusedError as error:
            target.refused = True
            self._refused = str(error)

    def _record_ends(self, there: set[Worker], now: float) -> None:
        for key, target in self._targets.items():
            if key not in there and target.ended_after is None:
                target.ended_after = now - target.asked_at

    async def _result(self, run: LiveRun | None, wanted: list[LiveWorker]) -> Stopped:
        kept = {worker.worker for worker in wanted}
        left = tuple(worker for worker in run.workers if worker.worker not in kept) if run is not None else ()
        asked = tuple(target.worker for target in self._targets.values())
        leftovers = await self.observer.leftovers(self._relations, asked) if asked else ()
        return Stopped(
            asked=asked,
            seconds={key: t.ended_after for key, t in self._targets.items() if t.ended_after is not None},
            still=tuple(wanted),
            left=left if self.request.step is None else (),
            runner_alive=run is not None and run.alive,
            request_accepted=run is None or not run.alive or self._request_accepted,
            refused=self._refused,
            leftovers=leftovers,
            answer=self._answer,
        )
