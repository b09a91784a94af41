"""pg_background.md#capacity-errors: a server that has no worker to give makes steps wait; it never makes them fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runner.embedded import EmbeddedServer
from runner.engine import events as ev
from tests.builders import Recorder, plan, step
from tests.integration.gateway_setups import ask, run_plan, value

WORKERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'pg_background'"


@contextmanager
def hog(dsn: str, number: int) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Take so many of the server's workers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(number):
            connection.execute("SELECT pg_background_launch('SELECT pg_sleep(600)')")
        yield connection
        connection.execute("SELECT pg_background_cancel_all()")


@asynccontextmanager
async def most_workers(dsn: str) -> AsyncIterator[list[int]]:
    """Watch how many workers of the extension run at the same time.

    What counts is seen in two looks in a row: one look is not one moment, and workers end and begin during it.
    """
    most = [0]

    async def watch() -> None:
        before = 0
        with psycopg.connect(dsn, autocommit=True) as witness:
            while True:
                (count,) = witness.execute(WORKERS.encode()).fetchone() or (0,)
                most[0] = max(most[0], min(before, int(count)))
                before = int(count)
                await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield most
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_the_extension_refuses_with_53000_and_53400(small_server: EmbeddedServer) -> None:
    with hog(small_server.dsn, 5) as full, pytest.raises(psycopg.Error) as refused:
        full.execute("SELECT pg_background_launch('SELECT 1')")
    assert refused.value.sqlstate == "53000"
    with psycopg.connect(small_server.dsn, autocommit=True) as connection:
        connection.execute("SELECT 1 FROM pg_background_stats(); SET pg_background.max_workers = 1")
        connection.execute("SELECT pg_background_launch('SELECT pg_sleep(600)')")
        with pytest.raises(psycopg.Error) as refused:
            connection.execute("SELECT pg_background_launch('SELECT 1')")
        connection.execute("SELECT pg_background_cancel_all()")
    assert refused.value.sqlstate == "53400"


def all_succeeded(record: Recorder, number: int) -> bool:
    """Say whether so many steps had an attempt and each ended well."""
    return list(record.outcomes().values()) == [ev.Outcome.SUCCEEDED] * number


def shortages(record: Recorder) -> list[str]:
    """Return what the run said when workers became short: once until there were enough again.

    A worker that ends in the very moment of a probe looks like the end of the shortage.
    """
    said = [event for event in record.events if isinstance(event, ev.CapacityShort | ev.CapacityRestored)]
    assert all(isinstance(event, ev.CapacityShort) == (number % 2 == 0) for number, event in enumerate(said))
    return [event.message for event in said if isinstance(event, ev.CapacityShort)]


async def test_steps_wait_for_a_server_that_is_full_and_it_is_said_once(small_server: EmbeddedServer) -> None:
    dsn = small_server.dsn
    with hog(dsn, 3):
        steps = [step(f"s{number}", "SELECT pg_sleep(0.1)") for number in range(10)]
        result, record = await run_plan(dsn, plan(*steps, slots=5))
    assert result.exit_code == 0
    assert all_succeeded(record, 10)
    assert "of the 5 workers of the budget" in shortages(record)[0]


async def test_a_run_on_a_full_server_begins_when_a_worker_is_free(small_server: EmbeddedServer) -> None:
    dsn = small_server.dsn
    with hog(dsn, 5) as full:
        task = asyncio.create_task(run_plan(dsn, plan(step("a", "SELECT 1"), step("b", "SELECT 1"))))
        await asyncio.sleep(0.5)
        assert not task.done()
        full.execute("SELECT pg_background_cancel_all()")
        result, record = await task
    assert result.exit_code == 0
    assert shortages(record)
    assert record.of(ev.AttemptDeferred)


async def test_a_queue_timeout_ends_the_waiting(small_server: EmbeddedServer) -> None:
    with hog(small_server.dsn, 5):
        result, record = await run_plan(small_server.dsn, plan(step("a", "SELECT 1", queue_timeout=0.2)))
    assert result.exit_code == 1
    assert not record.ends("a")


def ran_at_once(*records: Recorder) -> int:
    """Return how many attempts ran at the same time at most, by the server's clock."""
    ends = [end for record in records for end in record.of(ev.AttemptFinished)]
    times = [(end.started_at or 0.0, end.finished_at or 0.0) for end in ends]
    return max(sum(start <= moment < end for start, end in times) for moment, _ in times)


async def test_the_reserve_is_left_free_by_however_many_slots(small_server: EmbeddedServer) -> None:
    steps = [step(f"s{number}", "SELECT pg_sleep(0.2)") for number in range(12)]
    async with most_workers(small_server.dsn) as most:
        result, record = await run_plan(small_server.dsn, plan(*steps, slots=5, reserve=3))
    assert result.exit_code == 0
    assert all_succeeded(record, 12)
    assert most[0] <= 2
    assert ran_at_once(record) >= 2


async def test_the_reserve_is_left_free_by_concurrent_runs_in_several_databases(
    small_server: EmbeddedServer,
) -> None:
    """Each run looks, then launches; without announcing that, two of them would take the same free worker."""
    plans = [plan(*(step(f"s{n}", "SELECT pg_sleep(0.05)") for n in range(15)), slots=4, reserve=3) for _ in range(3)]
    ask(small_server.dsn, "CREATE DATABASE elsewhere")
    elsewhere = make_conninfo(small_server.dsn, dbname="elsewhere")
    ask(elsewhere, "CREATE EXTENSION IF NOT EXISTS pg_background")
    databases = [small_server.dsn, small_server.dsn, elsewhere]
    async with most_workers(small_server.dsn) as most:
        results = await asyncio.gather(*(run_plan(dsn, of) for dsn, of in zip(databases, plans, strict=True)))
    assert [result.exit_code for result, _ in results] == [0, 0, 0]
    for _, record in results:
        assert all_succeeded(record, 15)
    assert most[0] <= 2
    assert ran_at_once(*(record for _, record in results)) >= 2


async def test_a_role_without_a_connection_to_give_makes_steps_wait(
    database: str, new_role: Callable[..., str]
) -> None:
    """53300 for a launcher session is a shortage like any other."""
    role_dsn = new_role("CONNECTION LIMIT 3")
    steps = [step(f"s{number}", "SELECT pg_sleep(0.1)") for number in range(8)]
    async with most_workers(database) as most:
        result, record = await run_plan(role_dsn, plan(*steps, slots=4))
    assert result.exit_code == 0
    assert all_succeeded(record, 8)
    assert shortages(record)
    assert most[0] <= 2
    assert value(database, "SELECT 1") == 1


async def test_a_run_takes_no_more_connections_than_slots_and_one(database: str) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%:runner' AND datname = current_database()"
    )
    steps = [step(f"s{number}", "SELECT pg_sleep(0.2); SELECT 1/0") for number in range(12)]
    task = asyncio.create_task(run_plan(database, plan(*steps, slots=3)))
    before = most = 0
    while not task.done():
        count = value(database, query)
        before, most = count, max(most, min(before, count))  # one look is not one moment
        await asyncio.sleep(0.02)
    await task
    assert 2 <= most <= 4
