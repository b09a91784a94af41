"""Conditions before a launch: run on the launcher session of that launch, beside each other, leaving nothing in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from runner.engine.events import ErrorDetails
from runner.engine.ports import Query, QueryResult
from runner.gateway.postgres import MOST_BEFORE_LAUNCH
from tests.integration.houses import HERE, LAUNCHERS, Follower, RealHouse, ask, strike, until

_NUMBERS = itertools.count(1)


@pytest.fixture
async def house(database: str) -> AsyncIterator[RealHouse]:
    async with RealHouse(database, f"conditions-{next(_NUMBERS)}") as made:
        yield made


def before(sql: str, role: str | None = None, search_path: str | None = None) -> Query:
    return Query(sql=sql, before_launch=True, role=role, search_path=search_path)


def error(result: QueryResult) -> ErrorDetails:
    assert result.error is not None
    return result.error


async def test_a_condition_runs_on_the_session_that_launches_afterwards(house: RealHouse) -> None:
    result = await house.gateway.query(before("SELECT pg_backend_pid(), current_setting('transaction_read_only')"))
    ((pid, read_only),) = result.rows
    assert read_only == "on"
    sessions = house.connections()
    end = await (await Follower(house, "a", "SELECT pg_sleep(0.1)").launch()).follow().wait_until_ended()
    assert end.confirmed
    again = await house.gateway.query(before("SELECT pg_backend_pid()"))
    assert (again.rows, house.connections()) == (((pid,),), sessions)


async def test_what_a_condition_has_set_is_not_there_for_the_worker(house: RealHouse, database: str) -> None:
    ask(database, "CREATE ROLE conditional; GRANT USAGE ON SCHEMA public TO conditional")
    try:
        sets = "SELECT current_user, set_config('work_mem', '77kB', false)"
        asked = before(sets, role="conditional", search_path="pg_catalog")
        assert (await house.gateway.query(asked)).rows == (("conditional", "77kB"),)
        ask(database, "CREATE TABLE seen (who text, mem text, path text)")
        sql = (
            "INSERT INTO seen SELECT current_user, current_setting('work_mem'), current_setting('search_path') "
            "WHERE current_setting('transaction_read_only') = 'off'"
        )
        end = await (await Follower(house, "a", sql).launch()).follow().wait_until_ended()
        assert (end.confirmed, end.row_count) == (True, 1)
        ((who, mem, path),) = ask(database, "SELECT * FROM seen")
        assert who != "conditional"
        assert mem != "77kB"
        assert "public" in path
    finally:
        ask(database, "DROP OWNED BY conditional; DROP ROLE conditional")


async def test_a_condition_that_writes_or_fails_is_an_error_and_the_session_stays_good(house: RealHouse) -> None:
    assert error(await house.gateway.query(before("CREATE TABLE no (x int)"))).sqlstate == "25006"
    assert error(await house.gateway.query(before("SELECT 1/0 = 1"))).sqlstate == "22012"
    assert error(await house.gateway.query(before("SELECT true; COMMIT"))).sqlstate == "42601"
    assert (await house.gateway.query(before("SELECT true"))).rows == (("t",),)
    assert house.connections() == 2


async def test_a_slow_condition_does_not_keep_others_waiting(house: RealHouse, database: str) -> None:
    slow = asyncio.create_task(house.gateway.query(before("SELECT true FROM pg_sleep(30)")))
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert (await house.gateway.query(before("SELECT true"))).rows == (("t",),)
    assert (await house.gateway.query(Query(sql="SELECT true"))).rows == (("t",),)
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_slow_conditions_take_no_more_than_a_few_connections(house: RealHouse, database: str) -> None:
    asked = [asyncio.create_task(house.gateway.query(before("SELECT true FROM pg_sleep(0.5)"))) for _ in range(20)]
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert house.connections() <= MOST_BEFORE_LAUNCH + 1
    results = await asyncio.gather(*asked)
    assert [result.rows for result in results] == [(("t",),)] * 20
    assert house.connections() <= MOST_BEFORE_LAUNCH + 1


async def test_a_condition_whose_session_is_lost_is_asked_again(house: RealHouse, database: str) -> None:
    asked = asyncio.create_task(house.gateway.query(before("SELECT true FROM pg_sleep(1)")))
    await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND wait_event = 'PgSleep'"))
    assert strike(database, house.run_id, LAUNCHERS) == 1
    assert (await asked).rows == (("t",),)


async def test_conditions_that_take_advisory_locks_share_a_session(house: RealHouse) -> None:
    lock = "SELECT pg_try_advisory_lock(4711), pg_backend_pid()"
    results = await asyncio.gather(*(house.gateway.query(before(lock)) for _ in range(3)))
    assert {result.rows for result in results} == {results[0].rows}
    assert results[0].rows[0][0] == "t"
