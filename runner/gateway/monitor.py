"""The run's monitor session: finds workers by identity, signals them, and sees who is stopped by a full queue.

It survives the loss of its connection: it connects again, for up to a minute. Who only wants to look does not wait for
that; who has nothing else to go by does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

from runner.engine.events import Blocker, Identity, LockWait, Worker
from runner.errors import ConnectionFailedError, GatewayError, ServerLostError
from runner.gateway.base import GroupHolder, LeftBehind, RunCancel, StepCancel
from runner.gateway.replies import Reply, Row
from runner.gateway.requests import CancelAnswer, HeardRequests
from runner.gateway.session import LONG_ANSWER_WITHIN, Session
from runner.identity import run_of, runner_name, worker_name

#: Seconds between two looks at the run's workers.
LOOK_EVERY = 1.0
#: Seconds that the end of a run waits for its last answers to be sent.
ANSWER_FOR = 2.0
#: Seconds for which a lost server is tried again, and between two tries.
RECONNECT_FOR = 60.0
RECONNECT_EVERY = 1.0


class MonitorSession:
    """See the module's docstring. `connect` opens a session that can run the queries.

    `again` is told of each later session, before anything else runs on it.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Session]],
        run_id: str,
        again: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._again = again
        self._run_id = run_id
        self._prefix = worker_name(run_id, "")
        self._session: Session | None = None
        self._lock = asyncio.Lock()
        self._lost_at: float | None = None
        self._blocked: frozenset[tuple[str, str]] = frozenset()
        self._seen_locks: Callable[[Mapping[Identity, LockWait]], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        #: The groups that this run has taken, and whether it holds them now.
        self._groups: dict[str, bool] = {}
        self._run_group = f"run:{run_id}"
        #: The sessions that have held them: process and start.
        self._own: set[tuple[str | None, ...]] = set()
        self._requests = HeardRequests(run_id)
        self._heard = asyncio.Event()
        self._answers: list[CancelAnswer] = []
        self.group_lost = False
        #: Where another runner of this run is connected from, if one has taken it up.
        self.taken_up: str | None = None

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

    async def identify(self, application_name: str, pid: int) -> Worker | None:
        """Find the worker; `pid` only decides between two of the same name. GatewayError if nobody can look now."""
        reply = await self._run("identify", (application_name, str(pid)))
        if not reply.rows:
            return None
        found, backend_start, name = reply.rows[0]
        return Worker(pid=int(found or 0), backend_start=backend_start or "", application_name=name or "")

    async def lives(self, application_name: str, worker: Worker | None) -> bool:
        """Say whether the worker is there; `worker` is who it was seen to be. ServerLostError after a minute."""
        pid, start = (worker.pid, worker.backend_start) if worker else (0, "")
        reply = await self._run_patiently("lives", (application_name, str(pid), start))
        return bool(reply.rows)

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:
        """Say whether the worker waits for the session's snapshot. GatewayError if nobody can look now."""
        reply = await self._run("waits_for", (str(worker.pid), str(session_pid)))
        return bool(reply.rows)

    async def cancel(self, worker: Worker) -> None:
        """Signal the worker if pid, backend_start and application_name are seen together.

        GatewayError if nobody can look now.
        """
        await self._run("cancel", (str(worker.pid), worker.backend_start, worker.application_name))

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

    async def cancelled_by(self, application_name: str) -> str | None:
        """Return who has asked through the server for this worker's end, if somebody has.

        Whoever asks says so before they signal, so what concerns a worker that has gone is here with the next answer.
        """
        with contextlib.suppress(GatewayError):
            await self._run("now", ())
            await self._check_requests()
        return self._requests.by_whom(application_name)

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

    async def free_workers(self) -> tuple[int, frozenset[str]]:
        """Return how many of max_worker_processes only this run may have taken, and the names of its own workers.

        As far as this role can see. ServerLostError if the server does not come back within a minute.
        """
        reply = await self._run_patiently("free_workers", (self._prefix,))
        free, own = reply.rows[0]
        return int(free or 0), frozenset(json.loads(own or "[]"))

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
        """Take the concurrency group for as long as this session lives, or say who holds it.

        ServerLostError if the server does not come back within a minute.
        """
        held = (await self._run_patiently("hold_group", (group,))).rows[0][0] == "t"
        holder = await self._run_patiently("group_holder", (group,))
        if not held:
            return _holder(holder)
        self._groups[group] = True
        self._own.update(map(_session_of, holder.rows))
        return None

    async def hold_run(self) -> GroupHolder | None:
        """Be the only runner of the run, as `hold_group`."""
        return await self.hold_group(self._run_group)

    async def left_behind(self) -> LeftBehind:
        """Find the run's workers, and the runners' sessions but for this one. Call it before there are others.

        ServerLostError if the server does not come back within a minute.
        """
        workers = await self._run_patiently("workers", (self._prefix,))
        own = runner_name(self._run_id)
        sessions = await self._run_patiently("sessions", (own,))
        unseen = await self._run_patiently("unseen", (self._prefix, own))
        return LeftBehind(
            workers=tuple(
                Worker(pid=int(row[0] or 0), backend_start=row[1] or "", application_name=row[2] or "")
                for row in workers.rows
            ),
            sessions=len(sessions.rows),
            unseen=int(unseen.rows[0][0] or 0),
        )

    async def _hold_again(self, session: Session) -> None:
        """A new session does not hold what the old one did; somebody may have taken it meanwhile.

        After a failure of the network that may be our own old session, until the server finds out that it is dead.
        """
        for group in self._groups:
            held, holder = await session.run(("hold_group", (group,)), ("group_holder", (group,)))
            self._groups[group] = bool(held.rows) and held.rows[0][0] == "t"
            if self._groups[group]:
                self._own.update(map(_session_of, holder.rows))
                continue
            others = [row for row in holder.rows if _session_of(row) not in self._own]
            self.group_lost = self.group_lost or any(run_of(row[0] or "") != self._run_id for row in others)
            if group == self._run_group and others:
                self.taken_up = f"from {others[0][1]}, since {others[0][2]}"
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
                    reply = await self._attempt("workers", (self._prefix,))
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
        """Run the query, if need be again and again: until the server has been away, or refuses it, for a minute."""
        failing_since: float | None = None
        while True:
            try:
                async with self._lock:
                    return await self._attempt(name, parameters)
            except (GatewayError, ConnectionFailedError) as error:
                now = asyncio.get_running_loop().time()
                failing_since = self._lost_at or failing_since or now
                if now >= failing_since + RECONNECT_FOR:
                    raise ServerLostError(f"the server is gone: {error.message}") from error
            await asyncio.sleep(RECONNECT_EVERY)

    async def _attempt(self, name: str, parameters: Sequence[str]) -> Reply:
        try:
            if self._session is None or self._session.lost:
                if self._session is not None:
                    await self._session.close()
                self._session = await self._connect()
                await self._listen(self._session)
                await self._hold_again(self._session)
            (reply,) = await self._session.run((name, parameters))
        except (ServerLostError, ConnectionFailedError):
            if self._lost_at is None:
                self._lost_at = asyncio.get_running_loop().time()
            raise
        self._lost_at = None
        if reply.error is not None:
            raise GatewayError(f"the server refuses to tell about the run's workers: {reply.error.message}")
        return reply


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


def _session_of(holder: Row) -> tuple[str | None, ...]:
    return holder[3], holder[2]


def _holder(reply: Reply) -> GroupHolder:
    name, host, since, _ = reply.rows[0] if reply.rows else ("", "", "", "")
    return GroupHolder(run=run_of(name or ""), host=host or "", since=since or "")
