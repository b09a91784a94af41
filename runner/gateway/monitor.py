"""The run's monitor session: finds workers by identity, signals them, and sees who is stopped by a full queue.

It survives the loss of its connection: it connects again, for up to a minute. Who only wants to look does not wait for
that; who has nothing else to go by does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from runner.engine.events import Blocker, Identity, LockWait, Worker
from runner.engine.ports import GroupHolder, RemainingBackends, RemainingWorker, RunCancel, StepCancel
from runner.errors import ConnectionFailedError, GatewayError, ServerLostError
from runner.gateway.cancel_requests import CancelAnswer, HeardRequests
from runner.gateway.session import LONG_ANSWER_WITHIN, Reply, Row, Session, first_error
from runner.gateway.worker_follower import Sought
from runner.identity import PREFIX, Claim, run_of, runner_name, worker_name

#: Seconds between two looks at the run's workers.
LOOK_EVERY = 1.0
#: Seconds that the end of a run waits for its last answers to be sent.
ANSWER_FOR = 2.0
#: Seconds for which a lost server is tried again, and between two tries.
RECONNECT_FOR = 60.0
RECONNECT_EVERY = 1.0


class MonitorSession:
    """See the module's docstring. `connect` opens a session that can run the queries.

    `again` is called with each later session, before anything else runs on it. `roles` have run the run before: their
    sessions and workers are believed to be the run's, like those of this session's own role (docs/decisions/0020).
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
        self._blocked: frozenset[tuple[str, str]] = frozenset()
        self._seen_locks: Callable[[Mapping[Identity, LockWait]], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        #: The groups that this run has taken, and whether it holds them now.
        self._groups: dict[str, bool] = {}
        self._run_group = f"run:{run_id}"
        #: A session of a role that cannot be the run's, and holds the run's lock.
        self._foreign_holder: str | None = None
        #: The sessions that have held them: process and start.
        self._own: set[tuple[str | None, ...]] = set()
        self._requests = HeardRequests(run_id)
        self._heard = asyncio.Event()
        self._answers: list[CancelAnswer] = []
        self.group_lost = False
        #: Where another runner of this run is connected from, if one has taken it up.
        self.taken_over_by: str | None = None

    @property
    def connected(self) -> bool:
        """Say whether the session is there."""
        return self._session is not None and not self._session.lost

    async def open(self, session: Session) -> None:
        """Begin to look and to listen, on this session at first."""
        self._session = session
        await self._listen(session)
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop looking and close the session; who has asked for something is answered before."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_FOR):
                    while self._answers:  # noqa: ASYNC110 - the task that looks sends them
                        await asyncio.sleep(ANSWER_FOR / 100)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            await self._session.close()

    async def reconnected(self) -> None:
        """Wait until the session is there. ServerLostError if it has not come back in a minute since it was lost."""
        await self._run_patiently("now", ())

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Call `seen` after each look, with the workers that wait for a lock."""
        self._seen_locks = seen

    def is_blocked(self, worker: Worker) -> bool:
        """Say whether the worker was last seen stopped by its full output queue."""
        return (str(worker.pid), worker.backend_start) in self._blocked

    async def identify(self, sought: Sought) -> tuple[Worker, float] | None:
        """Find the worker, and for how many seconds it has lived. GatewayError if the server cannot be asked now."""
        reply = await self._run("identify", (sought.name, str(sought.pid), sought.since, sought.label))
        if not reply.rows:
            return None
        pid, backend_start, name, age = reply.rows[0]
        worker = Worker(pid=int(pid or 0), backend_start=backend_start or "", application_name=name or "")
        return worker, max(0.0, float(age or 0.0))

    async def lives(self, sought: Sought, worker: Worker | None) -> bool:
        """Say whether the worker is there; `worker` is its identity if it was seen. ServerLostError after a minute."""
        pid, start = (worker.pid, worker.backend_start) if worker else (sought.pid, "")
        reply = await self._run_patiently("lives", (sought.name, str(pid), start, sought.label, sought.since))
        return bool(reply.rows)

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:
        """Say whether the worker waits for the session's snapshot. GatewayError if nobody can look now."""
        reply = await self._run("waits_for", (str(worker.pid), str(session_pid)))
        return bool(reply.rows)

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if its pid and backend_start are seen together. GatewayError if that cannot be done now."""
        await self._run("cancel", (str(worker.pid), worker.backend_start))

    def take_cancel(self) -> RunCancel | None:
        """Return a request for the run to be stopped; each is told once."""
        return self._requests.take_cancel()

    def take_step_cancel(self) -> StepCancel | None:
        """Return who has asked for a step to be stopped; each request is told once."""
        return self._requests.take_step_cancel()

    def answer(self, request: RunCancel | StepCancel, *, steps: int | None) -> None:
        """Have who asks told how many steps that concerns; None: there is no such step."""
        self._answers.append(CancelAnswer(run=self._run_id, key=request.key, steps=steps))
        self._heard.set()

    async def _send_answers(self) -> None:
        """Send what is to be answered. Who cannot be told now is told at the next look."""
        with contextlib.suppress(GatewayError, ConnectionFailedError):
            while self._answers:
                await self._run("notify", (self._answers[0].to_payload(),))
                del self._answers[0]

    async def cancelled_by(self, step: str) -> str | None:
        """Return the role that has requested, through the server, the end of this step's worker.

        A request is sent before the signal, so what concerns a worker that has ended is here with the next answer.
        """
        with contextlib.suppress(GatewayError):
            await self._run("now", ())
            await self._check_requests()
        return self._requests.by_whom(step)

    async def _listen(self, session: Session) -> None:
        """Hear requests on this session. Where that is not possible, workers can still be signalled."""
        session.on_notification = self._notified
        await session.run(("listen", ()))

    def _notified(self, channel: str, payload: str, sender: int) -> None:
        if self._requests.hear(channel, payload, sender):
            self._heard.set()

    async def _check_requests(self) -> None:
        """Find out which requests count. GatewayError if nobody can look now; then they wait."""
        for request, sender in self._requests.to_check:
            reply = await self._run("may_stop", (str(sender),))
            self._requests.judge(request, sender, reply.rows[0][0] if reply.rows else None)

    async def tell(self, name: str, parameters: Sequence[str] = ()) -> Reply:
        """Run a query that only looks. GatewayError if nobody can look now."""
        return await self._run(name, parameters)

    async def free_workers(self) -> tuple[int, frozenset[int]]:
        """Return how many of max_worker_processes are free, and the pids of all workers of the extension.

        As far as this role can see. ServerLostError if the server does not come back within a minute.
        """
        reply = await self._run_patiently("free_workers", ())
        return _free_workers(reply)

    async def claim_worker(self, number: int) -> tuple[int, frozenset[int]]:
        """Announce launch `number` to the other runs on the server, and return what `free_workers` does.

        Workers that other runs are launching count as taken. The claim is given up with `unclaim`, or with the session.
        """
        _, claims, reply = await self._run_all_patiently(
            ("claim", (str(number),)), ("claims", ()), ("free_workers", ())
        )
        free, pids = _free_workers(reply)
        return free - int(claims.rows[0][0] or 0), pids

    async def unclaim(self, number: int, pid: int | None) -> bool:
        """Give up a claim, if `pid` is given only if that process is seen. GatewayError if nobody can be asked now."""
        if pid is None:
            await self._run("unclaim_now", (str(number),))
            return True
        return bool((await self._run("unclaim", (str(number), str(pid)))).rows)

    async def together(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        """Run statements as one transaction, which is rolled back after an error in one of them.

        GatewayError if nobody can be asked now.
        """
        async with self._lock:
            if self._session is None or self._session.lost:
                raise GatewayError("the monitor session is lost")
            slow = any(name == "ledger_patience" for name, _ in statements)
            replies = await self._session.run_together(*statements, patience=LONG_ANSWER_WITHIN if slow else None)
            if any(reply.error is not None for reply in replies):
                await self._session.run(("rollback", ()))
            return replies

    async def hold_group(self, group: str) -> GroupHolder | None:
        """Take the concurrency group for as long as this session lives, or return the session that holds it.

        ServerLostError if the server does not come back within a minute.
        """
        held = (await self._run_patiently("hold_group", (group,))).rows[0][0] == "t"
        holder = await self._run_patiently("group_holder", (self._roles, group))
        if not held:
            return _holder(holder)
        self._groups[group] = True
        self._own.update(map(_session_of, holder.rows))
        return None

    async def hold_run(self) -> GroupHolder | None:
        """Be the only runner of the run, as `hold_group`.

        Any role can take an advisory lock of this key, so a session of a role that cannot be the run's does not count:
        the run begins, and takes the lock as soon as it is free.
        """
        group = self._run_group
        holder = await self.hold_group(group)
        if holder is None or not await self._is_held_by_others(group):
            return holder
        self._groups[group] = False
        self._foreign_holder = (
            f"pid {holder.pid} of role {holder.role} holds the advisory lock of this run, and is none of its runners"
        )
        return None

    async def _is_held_by_others(self, group: str) -> bool:
        """Say whether the group is held by a session whose role cannot be the run's."""
        rows = (await self._run_patiently("group_holder", (self._roles, group))).rows
        return bool(rows) and not any(_may_be_ours(row) for row in rows)

    async def remaining_backends(self, known: Collection[Worker] = ()) -> RemainingBackends:
        """Find the run's workers, and the runners' sessions but for this one. Call it before there are others.

        `known` are workers that have been seen before, whatever they are called now. ServerLostError if the server does
        not come back within a minute.
        """
        workers = await self._run_patiently("left_workers", (self._roles,))
        sessions = await self._run_patiently("sessions", (self._roles, runner_name(self._run_id)))
        return remaining_backends(
            self._run_id, workers.rows, sessions.rows, known=known, foreign=[self._foreign_holder or ""]
        )

    async def _hold_again(self, session: Session) -> None:
        """A new session does not hold what the old one did; somebody may have taken it meanwhile.

        After a failure of the network that may be our own old session, until the server finds out that it is dead.
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
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), LOOK_EVERY)
            self._heard.clear()
            with contextlib.suppress(GatewayError, ConnectionFailedError):
                await self._check_requests()
            await self._send_answers()
            with contextlib.suppress(GatewayError, ConnectionFailedError):
                async with self._lock:
                    reply = await self._attempt("workers", ())
                    if self._session is not None and not all(self._groups.values()):
                        await self._hold_again(self._session)
                self._blocked = frozenset((row[0] or "", row[1] or "") for row in reply.rows if row[3] == "t")
                self._seen_locks({(int(row[0] or 0), row[1] or ""): _lock_wait(row[4]) for row in reply.rows if row[4]})

    async def _run(self, name: str, parameters: Sequence[str]) -> Reply:
        """Run the query, but not while the server is away: `_look` finds out when it is back."""
        async with self._lock:
            if self._lost_at is not None:
                raise GatewayError("the monitor session is lost")
            try:
                return await self._attempt(name, parameters)
            except (ServerLostError, ConnectionFailedError) as error:
                raise GatewayError(error.message) from error

    async def _run_patiently(self, name: str, parameters: Sequence[str]) -> Reply:
        return (await self._run_all_patiently((name, parameters)))[0]

    async def _run_all_patiently(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        """Run queries, if need be again and again: until the server is away, or refuses them, for a minute."""
        failing_since: float | None = None
        while True:
            try:
                async with self._lock:
                    return await self._attempt_all(*statements)
            except (GatewayError, ConnectionFailedError) as error:
                now = asyncio.get_running_loop().time()
                failing_since = self._lost_at or failing_since or now
                if now >= failing_since + RECONNECT_FOR:
                    raise ServerLostError(f"the server is gone: {error.message}") from error
            await asyncio.sleep(RECONNECT_EVERY)

    async def _attempt(self, name: str, parameters: Sequence[str]) -> Reply:
        return (await self._attempt_all((name, parameters)))[0]

    async def _attempt_all(self, *statements: tuple[str, Sequence[str]]) -> list[Reply]:
        try:
            if self._session is None or self._session.lost:
                if self._session is not None:
                    await self._session.close()
                self._session = await self._connect()
                await self._listen(self._session)
                await self._hold_again(self._session)
            replies = await self._session.run(*statements)
        except (ServerLostError, ConnectionFailedError):
            if self._lost_at is None:
                self._lost_at = asyncio.get_running_loop().time()
            raise
        self._lost_at = None
        error = first_error(replies)
        if error is not None:
            raise GatewayError(f"the server refuses a query about the run's workers: {error.message}")
        return replies


def _lock_wait(text: str) -> LockWait:
    """Read the last column of `workers`."""
    told = json.loads(text)
    return LockWait(
        mode=told["mode"],
        lock=told["lock"],
        relation=told["relation"],
        seconds=max(0.0, float(told["seconds"] or 0.0)),
        by=tuple(
            Blocker(pid=pid, name=name or "", user=user or "", state=state or "", seconds=_rounded(seconds))
            for pid, name, user, state, seconds in told["by"] or ()
        ),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, float(seconds)), 3)


def _free_workers(reply: Reply) -> tuple[int, frozenset[int]]:
    free, pids = reply.rows[0]
    return int(free or 0), frozenset(json.loads(pids or "[]"))


def _session_of(holder: Row) -> tuple[str | None, ...]:
    return holder[3], holder[2]


def _may_be_ours(holder: Row) -> bool:
    return holder[5] == "t"


def _holder(reply: Reply) -> GroupHolder:
    name, host, since, pid, role, _ = reply.rows[0] if reply.rows else ("", "", "", "", "", "")
    return GroupHolder(run=run_of(name or ""), host=host or "", since=since or "", role=role or "", pid=int(pid or 0))


def remaining_backends(
    run_id: str, workers: Sequence[Row], sessions: Sequence[Row], *, known: Collection[Worker], foreign: Sequence[str]
) -> RemainingBackends:
    """Read what `left_workers` and `sessions` gave: what of it is the run's, or may be, and what only says so."""
    runner, prefix = runner_name(run_id), worker_name(run_id, "")
    found: list[RemainingWorker] = []
    others = [text for text in foreign if text]
    others += [
        f"pid {pid} of role {role} is called {runner}, and is none of this run's runners"
        for pid, role, trusted in sessions
        if trusted != "t"
    ]
    unseen = starting = 0
    for pid, start, name, text, role, trusted, age, visible, without_database in workers:
        worker = Worker(pid=int(pid or 0), backend_start=start or "", application_name=name or "")
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
        elif trusted == "t" and (named or (claim.run == run_id if claim is not None else _says_nothing(name, text))):
            found.append(RemainingWorker(worker=worker, claim=claim, readable=bool(text), age=float(age or 0.0)))
    return RemainingBackends(
        workers=tuple(found),
        sessions=sum(trusted == "t" for _, _, trusted in sessions),
        unseen=unseen,
        starting=starting,
        foreign=tuple(others),
    )


def _says_nothing(name: str | None, text: str | None) -> bool:
    """Say whether a worker shows no text (track_activities is off), and has no name of another run's."""
    return not text and not (name or "").startswith(f"{PREFIX}:")


def _foreign_worker(worker: Worker, role: str | None) -> str:
    return (
        f"the worker pid {worker.pid} of role {role} has the name or label of this run ({worker.application_name}), "
        "and is none of its workers"
    )
