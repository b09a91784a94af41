"""Conditions before a launch: run on the launcher session of that launch, beside each other, leaving nothing in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from runner.engine.events import ErrorDetails
from runner.engine.ports import Query, QueryResult
from runner.gateway.postgres import MOST_BEFORE_LAUNCH
from tests.integration.gateway_setups import HERE, LAUNCHERS, Follower, RealSetup, ask, signal_sessions, until

_NUMBERS = itertools.count(1)


@pytest.fixture
async def setup(database: str) -> AsyncIterator[RealSetup]:
    async with RealSetup(database, f"conditions-{next(_NUMBERS)}") as made:
        yield made


def before(sql: str, role: str | None = None, search_path: str | None = None) -> Query:
    return Query(sql=sql, before_launch=True, role=role, search_path=search_path)


def error(result: QueryResult) -> ErrorDetails:
    assert result.error is not None
    return result.error


async def test_a_condition_runs_on_the_session_that_launches_afterwards(setup: RealSetup) -> None:
    result = await setup.gateway.query(before("SELECT pg_backend_pid(), current_setting('transaction_read_only')"))
    ((pid, read_only),) = result.rows
    assert read_only == "on"
    sessions = setup.connections()
    end = await (await Follower(setup, "a", "SELECT pg_sleep(0.1)").launch()).follow().wait_until_ended()
    assert end.confirmed
    again = await setup.gateway.query(before("SELECT pg_backend_pid()"))
    assert (again.rows, setup.connections()) == (((pid,),), sessions)


async def test_what_a_condition_has_set_is_not_there_for_the_worker(setup: RealSetup, database: str) -> None:
    ask(database, "CREATE ROLE conditional; GRANT USAGE ON SCHEMA public TO conditional")
    try:
        sets = "SELECT current_user, set_config('work_mem', '77kB', false)"
        asked = before(sets, role="conditional", search_path="pg_catalog")
        assert (await setup.gateway.query(asked)).rows == (("conditional", "77kB"),)
        ask(database, "CREATE TABLE seen (who text, mem text, path text)")
        sql = (
            "INSERT INTO seen SELECT current_user, current_setting('work_mem'), current_setting('search_path') "
            "WHERE current_setting('transaction_read_only') = 'off'"
        )
        end = await (await Follower(setup, "a", sql).launch()).follow().wait_until_ended()
        assert (end.confirmed, end.row_count) == (True, 1)
        ((who, mem, path),) = ask(database, "SELECT * FROM seen")
        assert who != "conditional"
        assert mem != "77kB"
        assert "public" in path
    finally:
        ask(database, "DROP OWNED BY conditional; DROP ROLE conditional")


async def test_a_condition_that_writes_or_fails_is_an_error_and_the_session_stays_good(setup: RealSetup) -> None:
    assert error(await setup.gateway.query(before("CREATE TABLE no (x int)"))).sqlstate == "25006"
    assert error(await setup.gateway.query(before("SELECT 1/0 = 1"))).sqlstate == "22012"
    assert error(await setup.gateway.query(before("SELECT true; COMMIT"))).sqlstate == "42601"
    assert (await setup.gateway.query(before("SELECT true"))).rows == (("t",),)
    assert setup.connections() == 2


async def test_a_slow_condition_does_not_keep_others_waiting(setup: RealSetup, database: str) -> None:
    slow = asyncio.create_task(setup.gateway.query(before("SELECT true FROM pg_sleep(30)")))
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert (await setup.gateway.query(before("SELECT true"))).rows == (("t",),)
    assert (await setup.gateway.query(Query(sql="SELECT true"))).rows == (("t",),)
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_slow_conditions_take_no_more_than_a_few_connections(setup: RealSetup, database: str) -> None:
    asked = [asyncio.create_task(setup.gateway.query(before("SELECT true FROM pg_sleep(0.5)"))) for _ in range(20)]
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert setup.connections() <= MOST_BEFORE_LAUNCH + 1
    results = await asyncio.gather(*asked)
    assert [result.rows for result in results] == [(("t",),)] * 20
    assert setup.connections() <= MOST_BEFORE_LAUNCH + 1


async def test_a_condition_whose_session_is_lost_is_asked_again(setup: RealSetup, database: str) -> None:
    asked = asyncio.create_task(setup.gateway.query(before("SELECT true FROM pg_sleep(1)")))
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert signal_sessions(database, setup.run_id, LAUNCHERS) == 1
    assert (await asked).rows == (("t",),)


async def test_conditions_that_take_advisory_locks_share_a_session(setup: RealSetup) -> None:
    lock = "SELECT pg_try_advisory_lock(4711), pg_backend_pid()"
    results = await asyncio.gather(*(setup.gateway.query(before(lock)) for _ in range(3)))
    assert {result.rows for result in results} == {results[0].rows}
    assert results[0].rows[0][0] == "t"
