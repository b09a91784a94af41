"""The run's monitor session: finds workers by identity, signals them, and finds those with a full output queue.

If its connection is lost, it reconnects, for up to a minute. Optional queries do not wait for that; queries that the
run depends on do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from runner.engine.events import Blocked, Blocker, Identity, LockWait, Worker
from runner.engine.ports import CancelRequest, GroupHolder, OnBlocked, RemainingBackends, RemainingWorker
from runner.engine.yielding import IDLE, WatchedWorkers
from runner.errors import ConnectionFailedError, GatewayError, ServerGivenUpError, ServerLostError
from runner.gateway.cancel_requests import CancelAnswer, ReceivedRequests
from runner.gateway.replies import Reply, Row, first_error, read_row
from runner.gateway.session import LONG_ANSWER_WITHIN, Reconnecting, Session
from runner.gateway.worker_follower import WorkerSearch
from runner.identity import PREFIX, Claim, run_of, runner_name, worker_name

#: Seconds between two polls of the run's workers.
LOOK_EVERY = 1.0
#: The least number of seconds between two checks of requests: a flood of requests is not followed by one of queries.
CHECK_EVERY = 0.1
#: Seconds for which the run does not listen after a flood of notifications has kept the server from answering.
DEAF_FOR = 5.0
#: Seconds within which a reply must come for a measurement of the server's clock.
PROMPT = 0.25
#: Seconds that the end of a run waits until its last answers are sent.
ANSWER_FOR = 2.0


class MonitorSession:
    """See the module's docstring. `connect` opens a session that can execute the queries.

    `again` is called with each later session, before anything else is executed on it. `roles` have executed the run
    before: their sessions and workers are attributed to the run, like those of this session's role
    (docs/decisions/0020).
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Session]],
        run_id: str,
        again: Callable[[Session], Awaitable[None]],
        roles: Collection[str] = (),
    ) -> None:
        self._connect = connect
        self._again = again
        self._run_id = run_id
        self._roles = json.dumps(sorted(roles))
        self._session: Session | None = None
        self._lock = asyncio.Lock()
        self._lost_at: float | None = None
        #: Why the last attempt to reach the server failed.
        self._lost_because = ""
        self._blocked: frozenset[tuple[str, str]] = frozenset()
        self._seen_locks: Callable[[Mapping[Identity, LockWait]], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._blocking: tuple[Callable[[], WatchedWorkers], OnBlocked] | None = None
        self._blocking_task: asyncio.Task[None] | None = None
        #: The concurrency groups that this run has locked, and whether it holds each lock now.
        self._groups: dict[str, bool] = {}
        self._run_group = f"run:{run_id}"
        #: A description of a session whose role cannot be the run's and that holds the run's lock.
        self._foreign_holder: str | None = None
        #: The sessions of this run that have held the locks: pid and start.
        self._own: set[tuple[str | None, ...]] = set()
        self._requests = ReceivedRequests(run_id)
        self._wake_up = asyncio.Event()
        self._answers: list[CancelAnswer] = []
        #: When to listen again after a flood of notifications, by the clock of the event loop.
        self._deaf_until: float | None = None
        #: The run's clock, and by how many seconds the server's clock is ahead of it; both None if nothing needs that.
        self._now: Callable[[], float] | None = None
        self.clock_ahead: float | None = None
        self.group_lost = False
        #: The host and start of another runner that has taken this run over.
        self.taken_over_by: str | None = None

    @property
    def connected(self) -> bool:
        """Whether the session is connected."""
        return self._session is not None and not self._session.lost

    async def open(self, session: Session) -> None:
        """Start polling and listening, on this session at first."""
        self._session = session
        await self._listen(session)
        self._task = asyncio.create_task(self._look())
        if self._blocking is not None:
            self._blocking_task = asyncio.create_task(self._watch_blocking(*self._blocking))

    async def close(self) -> None:
        """Stop polling and close the session; pending answers are sent before."""
        if self._blocking_task is not None:
            self._blocking_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._blocking_task
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_FOR):
                    while self._answers:  # noqa: ASYNC110 - the polling task sends them
                        await asyncio.sleep(ANSWER_FOR / 100)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            self._session.discard()

    async def reconnected(self) -> None:
        """Wait until the session is connected. ServerLostError if it is not within a minute after its loss."""
        await self._run_with_retries("now", ())

    def check_not_given_up(self) -> None:
        """ServerGivenUpError if the server has been lost for a minute; the next poll that reaches it ends that state.

        Each further attempt to connect could take seconds, for every step of the run.
        """
        if self._lost_at is not None and Reconnecting(self._lost_at).over:
            raise ServerGivenUpError(f"the server cannot be reached: {self._lost_because}")

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Call `seen` after each poll, with the workers that wait for a lock."""
        self._seen_locks = seen

    def watch_blocking(self, workers: Callable[[], WatchedWorkers], seen: OnBlocked) -> None:
        """Poll which sessions the workers block, from `open` on; `seen` returns the seconds until the next poll."""
        self._blocking = workers, seen

    async def _watch_blocking(self, workers: Callable[[], WatchedWorkers], seen: OnBlocked) -> None:
        pause = IDLE
        while True:
            await asyncio.sleep(pause)
            watched, pause = workers(), IDLE
            if not watched.yielding:
                continue
            pids = json.dumps([worker.pid for worker in watched.yielding])
            try:
                reply = await self.read("blocked_by", (pids, json.dumps(watched.own), worker_name(self._run_id, "")))
            except GatewayError:
                pause = LOOK_EVERY
            else:
                pause = seen(_blocked_by(watched.yielding, reply.rows))

    async def measure_clock(self, now: Callable[[], float]) -> float:
        """Return by how many seconds the server's clock is ahead of `now`, and measure it with each poll from now on.

        ServerLostError if the server does not come back within a minute.
        """
        self._now = now
        while self.clock_ahead is None:
            await self._run_with_retries("now", ())
            await self._measure(now)
        return self.clock_ahead

    async def _measure(self, now: Callable[[], float]) -> None:
        """Measure the clock. A reply that took long says little, and does not replace a better measurement."""
        with contextlib.suppress(GatewayError):
            asked = now()
            reply = await self.read("now")
            answered = now()
            if self.clock_ahead is None or answered - asked <= PROMPT:
                # The server read its clock before this: it may be a little further ahead, so nothing starts too early.
                self.clock_ahead = float(reply.rows[0][0] or 0.0) - answered

    def is_blocked(self, worker: Worker) -> bool:
        """Return whether the last poll found the worker waiting because of its full output queue."""
        return (str(worker.pid), worker.backend_start) in self._blocked

    async def identify(self, search: WorkerSearch) -> tuple[Worker, float] | None:
        """Find the worker and its age in seconds. GatewayError if the server cannot be queried now."""
        reply = await self.read("identify", (search.name, str(search.pid), search.since, search.label))
        if not reply.rows:
            return None
        *worker, age = reply.rows[0]
        return read_row(Worker, worker), max(0.0, float(age or 0.0))

    async def is_running(self, search: WorkerSearch, worker: Worker | None) -> bool:
        """Return whether the worker is running; `worker` is its identity if known. ServerLostError after a minute."""
        pid, start = (worker.pid, worker.backend_start) if worker else (search.pid, "")
        reply = await self._run_with_retries("is_running", (search.name, str(pid), start, search.label, search.since))
        return bool(reply.rows)

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:
        """Return whether the worker waits for the session's snapshot. GatewayError if that cannot be queried now."""
        reply = await self.read("waits_for", (str(worker.pid), str(session_pid)))
        return bool(reply.rows)

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if its pid and backend_start match. GatewayError if the server cannot be queried now."""
        await self.read("cancel", (str(worker.pid), worker.backend_start))

    def take_cancel(self, *, of_run: bool) -> CancelRequest | None:
        """Return a request to cancel the run, or else one step of it, once."""
        return self._requests.take(of_run=of_run)

    def answer(self, request: CancelRequest, *, steps: int | None) -> None:
        """Send the user the number of steps that the request cancels; None: there is no such step."""
        self._answers.append(CancelAnswer(run=self._run_id, key=request.key, steps=steps))
        self._wake_up.set()

    async def _send_answers(self) -> None:
        """Send the pending answers; those that cannot be sent now follow after the next poll."""
        with contextlib.suppress(GatewayError, ConnectionFailedError):
            while self._answers:
                await self.read("notify", (self._answers[0].to_payload(),))
                del self._answers[0]

    async def cancelled_by(self, step: str) -> str | None:
        """Return the user who has requested, through the server, to cancel this step's worker.

        A request is sent before the signal, so for an ended worker it has arrived with the next reply.
        """
        with contextlib.suppress(GatewayError):
            await self.read("now")
            await self._check_requests()
        return self._requests.requester_of(step)

    async def _listen(self, session: Session) -> None:
        """Listen for requests on this session. If that is not possible, workers can still be signalled."""
        if self._deaf_until is not None:
            if asyncio.get_running_loop().time() < self._deaf_until:
                return
            self._deaf_until = None
        session.on_notification = self._notified
        await session.run(("listen", ()))

    def _notified(self, channel: str, payload: str, sender: int) -> None:
        if self._requests.receive(channel, payload, sender):
            self._wake_up.set()

    async def _check_requests(self) -> None:
        """Find out which requests are permitted. If the server cannot be queried now (GatewayError), they wait."""
        senders = self._requests.senders_to_check
        if senders:
            reply = await self.read("may_stop", (json.dumps(senders),))
            roles = {int(pid or 0): role for pid, role in reply.rows}
            for sender in senders:
                self._requests.judge(sender, roles.get(sender))
        self._requests.end_check()

    async def claim_worker(self, number: int) -> tuple[int, frozenset[int]]:
        """Announce launch `number` to the other runs on the server, and return how many workers are free.

        That is the number of free max_worker_processes, and the pids of all workers of the extension, both limited to
        what is visible to this role. Workers that other runs are launching count as used. `unclaim`, or the end of the
        session, removes the claim. ServerLostError if the server does not come back within a minute.
        """
        _, claims, reply = await self._run_all_with_retries(
            ("claim", (str(number),)), ("claims", ()), ("free_workers", ())
        )
        free, pids = reply.rows[0]
        return int(free or 0) - int(claims.rows[0][0] or 0), frozenset(json.loads(pids or "[]"))

    async def unclaim(self, number: int, pid: int | None) -> bool:
        """Remove a claim; with `pid`, only if that process is seen. GatewayError if the query fails now."""
        if pid is None:
            await self.read("unclaim_now", (str(number),))
            return True
        return bool((await self.read("unclaim", (str(number), str(pid)))).rows)

    async def together(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        """Execute statements as one transaction, which is rolled back after an error in one of them.

        GatewayError if the server cannot be queried now.
        """
        async with self._lock:
            if self._session is None or self._session.lost:
                raise GatewayError("the monitor session is lost")
            slow = any(name == "ledger_long_limits" for name, _ in statements)
            return await self._session.transact(*statements, answer_within=LONG_ANSWER_WITHIN if slow else None)

    async def hold_group(self, group: str) -> GroupHolder | None:
        """Lock the concurrency group as long as this session lives, or return the session that holds it.

        ServerLostError if the server does not come back within a minute.
        """
        held = (await self._run_with_retries("hold_group", (group,))).rows[0][0] == "t"
        holder = await self._run_with_retries("group_holder", (self._roles, group))
        if not held:
            return _holder(holder)
        self._groups[group] = True
        self._own.update(map(_session_of, holder.rows))
        return None

    async def hold_run(self) -> GroupHolder | None:
        """Lock the run for this runner, like `hold_group`.

        Any role can take an advisory lock with this key, so a session whose role cannot be the run's does not count:
        the run begins, and takes the lock as soon as it is free.
        """
        group = self._run_group
        holder = await self.hold_group(group)
        if holder is None or not await self._is_held_by_others(group):
            return holder
        self._groups[group] = False
        self._foreign_holder = (
            f"pid {holder.pid} of role {holder.role} holds the advisory lock of this run, but is not one of its runners"
        )
        return None

    async def _is_held_by_others(self, group: str) -> bool:
        """Return whether a session whose role cannot be the run's holds the lock."""
        rows = (await self._run_with_retries("group_holder", (self._roles, group))).rows
        return bool(rows) and not any(_may_be_ours(row) for row in rows)

    async def remaining_backends(self, known: Collection[Worker] = ()) -> RemainingBackends:
        """Find the run's workers, and its runners' sessions except this one. Call it before this runner opens others.

        `known` are workers that were seen before, whatever their present name. ServerLostError if the server does not
        come back within a minute.
        """
        workers = await self._run_with_retries("left_workers", (self._roles,))
        sessions = await self._run_with_retries("sessions", (self._roles, runner_name(self._run_id)))
        return remaining_backends(
            self._run_id, workers.rows, sessions.rows, known=known, foreign=[self._foreign_holder or ""]
        )

    async def _lock_again(self, session: Session) -> None:
        """Take the locks of the previous session again; another session may hold them now.

        After a network failure that may be our own previous session, until the server notices its loss.
        """
        for group in self._groups:
            held, holder = await session.run(("hold_group", (group,)), ("group_holder", (self._roles, group)))
            self._groups[group] = bool(held.rows) and held.rows[0][0] == "t"
            if self._groups[group]:
                self._own.update(map(_session_of, holder.rows))
                continue
            others = [row for row in holder.rows if _session_of(row) not in self._own]
            if group != self._run_group:
                self.group_lost = self.group_lost or any(run_of(row[0] or "") != self._run_id for row in others)
            elif others := [row for row in others if _may_be_ours(row)]:
                self.taken_over_by = f"from {others[0][1]}, since {others[0][2]}"
        await self._again(session)

    async def _look(self) -> None:
        time = asyncio.get_running_loop().time
        checked = looked = time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake_up.wait(), max(looked + LOOK_EVERY - time(), 0.0))
            await asyncio.sleep(max(checked + CHECK_EVERY - time(), 0.0))
            self._wake_up.clear()
            with contextlib.suppress(GatewayError, ConnectionFailedError):
                await self._check_requests()
            await self._send_answers()
            checked = time()
            if checked < looked + LOOK_EVERY:
                continue
            looked = checked
            with contextlib.suppress(GatewayError, ConnectionFailedError):
                async with self._lock:
                    (reply,) = await self._attempt(("workers", ()))
                    if self._session is not None and self._deaf_until is not None:
                        await self._listen(self._session)
                    if self._session is not None and not all(self._groups.values()):
                        await self._lock_again(self._session)
                if self._now is not None:
                    await self._measure(self._now)
                self._blocked = frozenset((row[0] or "", row[1] or "") for row in reply.rows if row[3] == "t")
                self._seen_locks({(int(row[0] or 0), row[1] or ""): _lock_wait(row[4]) for row in reply.rows if row[4]})

    async def read(self, name: str, parameters: Sequence[str] = ()) -> Reply:
        """Execute a query. GatewayError if the server cannot be queried now: `_look` finds out when it is back."""
        async with self._lock:
            if self._lost_at is not None:
                raise GatewayError("the monitor session is lost")
            try:
                return (await self._attempt((name, parameters)))[0]
            except (ServerLostError, ConnectionFailedError) as error:
                raise GatewayError(error.message) from error

    async def _run_with_retries(self, name: str, parameters: Sequence[str]) -> Reply:
        return (await self._run_all_with_retries((name, parameters)))[0]

    async def _run_all_with_retries(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        """Execute queries, with retries until the server was lost, or has refused them, for a minute."""
        self.check_not_given_up()
        reconnecting = Reconnecting()
        while True:
            try:
                async with self._lock:
                    return await self._attempt(*statements)
            except (GatewayError, ConnectionFailedError) as error:
                reconnecting.since = self._lost_at or reconnecting.since
                await reconnecting.pause(error)

    async def _attempt(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        try:
            if self._session is None or self._session.lost:
                if self._session is not None:
                    if self._session.flooded:
                        self._deaf_until = asyncio.get_running_loop().time() + DEAF_FOR
                    self._session.discard()
                self._session = await self._connect()
                await self._listen(self._session)
                await self._lock_again(self._session)
            replies = await self._session.run(*statements)
        except (ServerLostError, ConnectionFailedError) as error:
            if self._lost_at is None:
                self._lost_at = asyncio.get_running_loop().time()
            self._lost_because = error.message
            raise
        self._lost_at = None
        refused = first_error(replies)
        if refused is not None:
            raise GatewayError(f"the server refuses a query about the run's workers: {refused.message}")
        return replies


def _lock_wait(text: str) -> LockWait:
    """Parse the last column of `workers`."""
    wait = json.loads(text)
    return LockWait(
        mode=wait["mode"],
        lock=wait["lock"],
        relation=wait["relation"],
        seconds=max(0.0, float(wait["seconds"] or 0.0)),
        by=tuple(
            Blocker(pid=pid, name=name or "", user=user or "", state=state or "", seconds=_rounded(seconds))
            for pid, name, user, state, seconds in wait["by"] or ()
        ),
    )


def _blocked_by(workers: Sequence[Worker], rows: Sequence[Row]) -> dict[Identity, list[Blocked]]:
    """Parse the rows of `blocked_by`, by worker."""
    identities = {str(worker.pid): (worker.pid, worker.backend_start) for worker in workers}
    found: dict[Identity, list[Blocked]] = {}
    for worker, *session, seconds in rows:
        blocked = read_row(Blocked, session, seconds=_rounded(float(seconds or 0.0)))
        found.setdefault(identities[worker or ""], []).append(blocked)
    return found


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, float(seconds)), 3)


def _session_of(holder: Row) -> tuple[str | None, ...]:
    return holder[3], holder[2]


def _may_be_ours(holder: Row) -> bool:
    return holder[5] == "t"


def _holder(reply: Reply) -> GroupHolder:
    name, host, since, pid, role, _ = reply.rows[0] if reply.rows else ("", "", "", "", "", "")
    return read_row(GroupHolder, (host, since, role, pid), run=run_of(name or ""))


def remaining_backends(
    run_id: str, workers: Sequence[Row], sessions: Sequence[Row], *, known: Collection[Worker], foreign: Sequence[str]
) -> RemainingBackends:
    """Evaluate the rows of `left_workers` and `sessions`: which belong to the run, and which only have its name."""
    runner, prefix = runner_name(run_id), worker_name(run_id, "")
    found: list[RemainingWorker] = []
    others = [text for text in foreign if text]
    others += [
        f"pid {pid} of role {role} uses the name {runner}, but is not one of this run's runners"
        for pid, role, trusted in sessions
        if trusted != "t"
    ]
    unseen = starting = 0
    for pid, start, name, text, role, trusted, age, visible, without_database in workers:
        worker = read_row(Worker, (pid, start, name))
        claim = Claim.from_query(text or "")
        named = (name or "").startswith(prefix)
        if visible != "t":
            if named and name != runner and trusted == "t":
                unseen += 1
            elif named and name != runner:
                others.append(_foreign_worker(worker, role))
        elif worker in known:
            found.append(RemainingWorker(worker=worker, claim=claim, readable=bool(text), age=float(age or 0.0)))
        elif without_database == "t":
            starting += 1
        elif (claim.run == run_id if claim is not None else named) and trusted != "t":
            others.append(_foreign_worker(worker, role))
        elif trusted == "t" and (named or (claim.run == run_id if claim is not None else _is_anonymous(name, text))):
            found.append(RemainingWorker(worker=worker, claim=claim, readable=bool(text), age=float(age or 0.0)))
    return RemainingBackends(
        workers=tuple(found),
        sessions=sum(trusted == "t" for _, _, trusted in sessions),
        unseen=unseen,
        starting=starting,
        foreign=tuple(others),
    )


def _is_anonymous(name: str | None, text: str | None) -> bool:
    """Return whether a worker has no query text (track_activities is off) and not the name of another run."""
    return not text and not (name or "").startswith(f"{PREFIX}:")


def _foreign_worker(worker: Worker, role: str | None) -> str:
    return (
        f"the worker pid {worker.pid} of role {role} has the name or label of this run ({worker.application_name}), "
        "but is not one of its workers"
    )
