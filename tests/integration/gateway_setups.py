"""What tests of the gateway share: a real and a fake one with their surroundings, and ways to disturb sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import psycopg

from runner.engine.events import Worker
from runner.engine.ports import Gateway, LaunchRequest, Sink, WorkerEnd, WorkerHandle
from runner.gateway.ledger.sink import LedgerSink
from runner.gateway.postgres import PgGateway
from runner.identity import WorkerLabel, new_run_id, runner_name, worker_name
from runner.plan.model import Plan
from runner.run.loop import Run, RunResult
from tests.builders import Recorder, new_run, pauses
from tests.fake_gateway import FakeGateway, FakeWorker

#: Seconds after which a test gives up on something that must happen.
PATIENCE = 60.0
#: The sessions of this database: another process of tests may use the same server.
HERE = "pg_stat_activity WHERE datname = current_database()"
#: All sessions of a run but its first, the monitor.
LAUNCHERS = f"SELECT pid FROM {HERE} AND application_name = %s ORDER BY backend_start OFFSET 1"
MONITORS = f"SELECT pid FROM {HERE} AND application_name = %s ORDER BY backend_start LIMIT 1"
SESSIONS = f"SELECT pid FROM {HERE} AND application_name = %s AND backend_type = 'client backend'"
#: What a worker waits for while a test has it in an open transaction: a step that takes as long as the test needs it.
GATE = "SELECT pg_advisory_xact_lock(1)"


def ask(dsn: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own and return its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description is not None else []


def value(dsn: str, query: str, *parameters: object) -> Any:
    """Run one statement and return the one value that it gives."""
    ((one,),) = ask(dsn, query, *parameters)
    return one


@contextmanager
def open_transaction(dsn: str, sql: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold what a transaction that has run `sql` holds, until it is rolled back."""
    with psycopg.connect(dsn) as connection:
        connection.execute(sql.encode())
        yield connection
        connection.rollback()


def signal_sessions(dsn: str, run_id: str, which: str, function: str = "pg_terminate_backend") -> int:
    """Terminate or cancel sessions of the run; return how many there were."""
    return len(ask(dsn, f"SELECT {function}(pid) FROM ({which}) AS s", runner_name(run_id)))


async def until(true: Callable[[], object]) -> None:
    """Wait for something that must happen."""
    async with asyncio.timeout(PATIENCE):
        for pause in pauses():
            if true():
                return
            await asyncio.sleep(pause)


class GatewaySetup(Protocol):
    """A gateway under contract and what surrounds it."""

    run_id: str

    @property
    def gateway(self) -> Gateway:
        """The gateway."""
        ...

    def alive(self) -> set[str]:
        """Return the names of the workers that run."""
        ...

    def lose_session(self, name: str) -> None:
        """Break the launcher session of this worker."""
        ...

    def connections(self) -> int:
        """Return how many sessions the gateway has."""
        ...

    async def replace_runner(self) -> None:
        """Have another runner of the same run take the place of the previous one."""
        ...

    def end(self) -> None:
        """Stop what a test has left running."""
        ...


class RealSetup:
    """PostgreSQL with pg_background; with a ledger if the schema of one is given."""

    def __init__(self, dsn: str, run_id: str, *, ledger: str | None = None) -> None:
        self.dsn = dsn
        self.run_id = run_id
        self.gateway = PgGateway(dsn, run_id, ledger_schema=ledger)

    async def __aenter__(self) -> Self:
        await self.gateway.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.close()
        self.end()

    def alive(self) -> set[str]:
        """Ask the server."""
        query = f"SELECT application_name FROM {HERE} AND backend_type = 'pg_background'"
        return {name for (name,) in ask(self.dsn, query) if name.startswith(worker_name(self.run_id, ""))}

    def lose_session(self, name: str) -> None:  # noqa: ARG002 - the only launcher session of the test
        """Terminate every launcher session of the run."""
        query = f"SELECT pg_terminate_backend(pid) FROM ({LAUNCHERS}) AS launchers"
        assert ask(self.dsn, query, runner_name(self.run_id))

    def connections(self) -> int:
        """Ask the server."""
        query = f"SELECT count(*) FROM {HERE} AND backend_type = 'client backend' AND application_name = %s"
        return int(value(self.dsn, query, runner_name(self.run_id)))

    async def replace_runner(self) -> None:
        """Close the gateway and open another."""
        await self.gateway.close()
        self.gateway = PgGateway(self.dsn, self.run_id)
        await self.gateway.open()

    def end(self) -> None:
        """Terminate the workers."""
        query = f"SELECT pg_terminate_backend(pid) FROM {HERE} AND backend_type = 'pg_background' AND "
        for _ in range(300):
            try:
                ask(self.dsn, query + "starts_with(application_name, %s)", worker_name(self.run_id, ""))
            except psycopg.OperationalError as error:  # a session that has just been closed may still count
                if "too many connections" not in str(error):
                    raise
                time.sleep(0.1)
            else:
                return


class FakeSetup:
    """The fake gateway."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.gateway = FakeGateway()

    def alive(self) -> set[str]:
        """Ask the fake gateway."""
        return set(self.gateway.alive)

    def lose_session(self, name: str) -> None:
        """Have the fake worker lose its session."""
        self.gateway.alive[name].lose_session()

    def connections(self) -> int:
        """Return what a real gateway would have: one for each worker that ran at the same time, and the monitor's."""
        return 0 if self.gateway.closed else self.gateway.most_alive + 1

    async def replace_runner(self) -> None:
        """Open it once more; virtual workers continue."""
        await self.gateway.close()
        await self.gateway.open()

    def end(self) -> None:
        """Stop the virtual workers."""
        for worker in list(self.gateway.alive.values()):
            assert isinstance(worker, FakeWorker)
            worker.cancel()


class Follower:
    """Launches a worker and follows it in a task; keeps what was reported."""

    def __init__(self, setup: GatewaySetup, step: str, sql: str, **keys: Any) -> None:
        self.name = worker_name(setup.run_id, step)
        label = WorkerLabel(run=setup.run_id, plan="p", step=step, attempt=1, on_finish="wait", timeout=None)
        self.request = LaunchRequest(sql=sql, application_name=self.name, **{"label": label, **keys})
        self.seen: list[Worker] = []
        self.lost: list[str] = []
        self._house = setup
        self._seen = asyncio.Event()
        self.handle: WorkerHandle
        self.task: asyncio.Task[WorkerEnd]

    async def launch(self) -> Follower:
        """Launch it, without following it yet."""
        self.handle = await self._house.gateway.launch(self.request)
        return self

    def follow(self) -> Follower:
        """Begin to follow it."""

        def seen(worker: Worker) -> None:
            self.seen.append(worker)
            self._seen.set()

        self.task = asyncio.create_task(
            self.handle.wait_until_ended(on_seen=seen, on_lost=self.lost.append, on_unstoppable=lambda _, __: None)
        )
        return self

    async def running(self) -> Follower:
        """Launch it, follow it, and return when it has been seen."""
        (await self.launch()).follow()
        async with asyncio.timeout(PATIENCE):
            await self._seen.wait()
        return self

    async def wait_until_ended(self) -> WorkerEnd:
        """Follow it to its end."""
        async with asyncio.timeout(PATIENCE):
            return await self.task


def real_run(dsn: str, of: Plan, *sinks: Sink, run_id: str = "", ledger: str | None = None) -> tuple[Run, Recorder]:
    """Return a run on the real server that is ready to be executed, and what will keep its events.

    `ledger` is the schema of the ledger that it writes.
    """
    run_id = run_id or new_run_id(time.time())
    gateway = PgGateway(dsn, run_id, ledger_schema=ledger)
    return new_run(of, gateway, LedgerSink(gateway.ledger, run_id), *sinks, run_id=run_id)


async def run_plan(
    dsn: str, of: Plan, *sinks: Sink, run_id: str = "", ledger: str | None = None
) -> tuple[RunResult, Recorder]:
    """Run a plan on the real server to its end."""
    run, recorder = real_run(dsn, of, *sinks, run_id=run_id, ledger=ledger)
    return await run.execute(), recorder


async def run_one(setup: GatewaySetup, sql: str, step: str = "step", **keys: Any) -> WorkerEnd:
    """Launch a worker and follow it to its end."""
    return await (await Follower(setup, step, sql, **keys).launch()).follow().wait_until_ended()
