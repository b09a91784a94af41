"""The contract of a gateway, held by the real one and by its double alike."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import pytest

from runner.engine.events import Worker
from runner.engine.ports import LaunchRequest, Query, RemainingBackends
from runner.errors import CapacityError, OutsideLaunchTimeError, Position
from runner.plan.model import Hold, Sql
from runner.run.hold_sampler import measurement_query
from runner.structs import replace
from tests.integration.gateway_setups import FakeSetup, Follower, GatewaySetup, RealSetup, run_one, until

RAISES = """DO $$ BEGIN
  RAISE NOTICE 'one';
  RAISE WARNING 'two';
  RAISE EXCEPTION 'no such thing' USING ERRCODE = 'JP001', DETAIL = 'the detail', HINT = 'the hint',
    SCHEMA = 's', TABLE = 't', COLUMN = 'c', CONSTRAINT = 'k';
END $$"""
LONG = "SELECT pg_sleep(120)"


@pytest.fixture(params=["fake", "real"])
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[GatewaySetup]:
    """A gateway that is open, and what surrounds it."""
    made: GatewaySetup
    if request.param == "real":
        made = RealSetup(request.getfixturevalue("dsn"), f"contract-{request.node.name[-20:].strip(']')}")
    else:
        made = FakeSetup("contract")
    info = await made.gateway.open()
    assert info.version_number >= 140_000
    assert info.extension_version.startswith("2.")
    yield made
    await made.gateway.close()
    made.end()
    gc.collect()  # a connection that was not closed would be a warning, and warnings are errors


async def test_a_hold_is_measured_by_its_query(setup: GatewaySetup) -> None:
    for text, on in (("SELECT true", "t"), ("SELECT false", "f")):
        hold = Hold(name="h", while_=Sql(text=text, start=Position(file="", line=1, column=1)))
        result = await setup.gateway.measure(hold, measurement_query(hold, {}))
        assert (result.error, result.boolean, result.rows) == (None, True, ((on,),))


async def test_success_has_evidence(setup: GatewaySetup) -> None:
    end = await run_one(setup, "SELECT 1")
    assert end.confirmed
    assert (end.command_tag, end.row_count) == ("SELECT", 1)
    assert end.error is None
    assert end.started_at is not None
    assert end.finished_at is not None
    assert end.started_at <= end.finished_at


async def test_an_error_comes_with_all_that_the_server_says(setup: GatewaySetup) -> None:
    end = await run_one(setup, RAISES)
    assert not end.confirmed
    error = end.error
    assert error is not None
    assert (error.sqlstate, error.message) == ("JP001", "no such thing")
    assert (error.detail, error.hint) == ("the detail", "the hint")
    assert (error.schema, error.table, error.column, error.constraint) == ("s", "t", "c", "k")


async def test_notices_come_in_order_also_before_an_error(setup: GatewaySetup) -> None:
    end = await run_one(setup, RAISES)
    assert [(notice.severity, notice.message) for notice in end.notices] == [("NOTICE", "one"), ("WARNING", "two")]
    assert end.warnings == 1
    assert end.notices_dropped == 0


async def test_a_setting_that_the_server_refuses_is_the_workers_error(setup: GatewaySetup) -> None:
    end = await run_one(setup, "SELECT 1", settings={"work_mem": "nonsense"})
    assert end.error is not None
    assert end.error.sqlstate == "22023"
    assert (await run_one(setup, "SELECT 1")).confirmed


async def test_the_timeout_is_kept_by_the_server(setup: GatewaySetup) -> None:
    end = await run_one(setup, LONG, timeout=0.2)
    assert end.error is not None
    assert end.error.sqlstate == "57014"
    assert end.started_at is not None
    assert end.finished_at is not None
    assert end.finished_at - end.started_at >= 0.2


async def test_a_worker_is_seen_once_with_its_identity(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", "SELECT pg_sleep(0.5)").running()
    end = await follower.wait_until_ended()
    assert end.confirmed
    assert follower.seen == [end.worker]
    assert follower.seen[0].application_name == follower.name
    assert follower.seen[0].pid > 0
    assert follower.seen[0].backend_start
    assert not follower.lost


async def test_cancel_stops_a_worker_and_its_end_reports_when_it_has_ended(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", LONG).running()
    follower.handle.cancel()
    follower.handle.cancel()
    end = await follower.wait_until_ended()
    assert end.error is not None
    assert end.error.sqlstate == "57014"
    assert end.worker == follower.seen[0]
    assert not setup.alive()


async def test_a_cancel_before_the_worker_is_followed_ends_it(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", LONG).launch()
    follower.handle.cancel()
    end = await follower.follow().wait_until_ended()
    assert not end.confirmed
    assert not setup.alive()


async def test_cancel_and_detach_after_the_end_take_nothing_back(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", "SELECT pg_sleep(0.1)").launch()
    await until(lambda: not setup.alive())
    follower.handle.cancel()
    follower.handle.detach()
    end = await follower.follow().wait_until_ended()
    assert end.confirmed
    assert not end.detached


async def test_a_detached_worker_continues(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", LONG).running()
    follower.handle.detach()
    end = await follower.wait_until_ended()
    assert end.detached
    assert not end.confirmed
    assert end.error is None
    assert end.worker == follower.seen[0]
    assert setup.alive() == {follower.name}


async def test_detach_before_the_worker_is_followed_still_identifies_it(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", LONG).launch()
    follower.handle.detach()
    end = await follower.follow().wait_until_ended()
    assert end.detached
    assert end.worker is not None
    assert setup.alive() == {follower.name}


async def test_a_worker_whose_session_is_lost_is_followed_to_its_end(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", "SELECT pg_sleep(3)").running()
    setup.lose_session(follower.name)
    await until(lambda: follower.lost)
    assert setup.alive() == {follower.name}
    end = await follower.wait_until_ended()
    assert end.lost
    assert not end.confirmed
    assert end.error is None
    assert end.reason
    assert end.worker == follower.seen[0]
    assert not setup.alive()
    assert (await run_one(setup, "SELECT 1")).confirmed


async def test_a_worker_whose_session_is_lost_can_still_be_cancelled_and_detached(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "one", LONG).running()
    setup.lose_session(follower.name)
    await until(lambda: follower.lost)
    follower.handle.cancel()
    await follower.wait_until_ended()
    assert not setup.alive()
    follower = await Follower(setup, "two", LONG).running()
    setup.lose_session(follower.name)
    await until(lambda: follower.lost)
    follower.handle.detach()
    assert (await follower.wait_until_ended()).detached
    assert setup.alive() == {follower.name}


async def test_a_reserve_that_cannot_be_kept_is_a_shortage(setup: GatewaySetup) -> None:
    with pytest.raises(CapacityError, match="reserve"):
        await setup.gateway.launch(LaunchRequest(sql="SELECT 1", application_name="jobplan:x:y", reserve=100_000))
    assert (await run_one(setup, "SELECT 1", reserve=1)).confirmed


async def test_sessions_are_used_again(setup: GatewaySetup) -> None:
    for number in range(6):
        assert (await run_one(setup, "SELECT 1", f"s{number}")).confirmed
        assert not (await run_one(setup, "SELECT 1/0", f"e{number}")).confirmed
    assert setup.connections() == 2


async def test_workers_run_beside_each_other_on_sessions_of_their_own(setup: GatewaySetup) -> None:
    followers = [await Follower(setup, f"s{number}", LONG).running() for number in range(3)]
    assert setup.alive() == {follower.name for follower in followers}
    assert setup.connections() == 4
    for follower in followers:
        follower.handle.cancel()
    ends = [await follower.wait_until_ended() for follower in followers]
    assert [end.error is not None for end in ends] == [True] * 3


async def test_close_leaves_nothing_but_the_workers(setup: GatewaySetup) -> None:
    follower = await Follower(setup, "step", LONG).running()
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    await setup.gateway.close()
    await until(lambda: setup.connections() == 0)
    assert setup.alive() == {follower.name}


@pytest.mark.pg(">= 15", reason="the column of SELECT true is called bool in version 14")
@pytest.mark.parametrize(("sql", "value"), [("SELECT true", "t"), ("SELECT false", "f")])
async def test_a_condition_is_answered(setup: GatewaySetup, sql: str, value: str) -> None:
    result = await setup.gateway.query(Query(sql=sql))
    assert result.boolean
    assert result.rows == ((value,),)
    assert result.columns == ("?column?",)


async def test_a_condition_that_cannot_be_evaluated_has_an_error(setup: GatewaySetup) -> None:
    result = await setup.gateway.query(Query(sql="SELECT 1/0 = 1"))
    assert result.error is not None
    assert result.error.sqlstate == "22012"


async def test_a_concurrency_group_that_is_free_is_taken(setup: GatewaySetup) -> None:
    assert await setup.gateway.hold_group("a group of this test alone") is None
    assert not setup.gateway.group_lost


async def test_a_run_has_one_runner(setup: GatewaySetup) -> None:
    assert await setup.gateway.hold_run() is None


async def test_a_run_that_left_nothing_leaves_nothing(setup: GatewaySetup) -> None:
    assert await setup.gateway.remaining_backends() == RemainingBackends()


@pytest.fixture
async def orphan(setup: GatewaySetup) -> Worker:
    """A worker that lives although its runner is lost; the gateway is the next runner's."""
    follower = await Follower(setup, "step", LONG).running()
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    await setup.replace_runner()
    await until(lambda: setup.connections() <= 1)
    left = await setup.gateway.remaining_backends()
    assert not left.sessions
    assert [one.worker for one in left.workers] == follower.seen
    return left.workers[0].worker


async def test_an_orphan_is_followed_and_its_outcome_is_unknown(setup: GatewaySetup, orphan: Worker) -> None:
    follower = Follower(setup, "step", LONG)
    follower.handle = setup.gateway.adopt(orphan, step="step")
    assert follower.handle.worker == orphan
    follower.handle.cancel()
    end = await follower.follow().wait_until_ended()
    assert (end.lost, end.confirmed, end.error, end.worker) == (True, False, None, orphan)
    assert end.reason
    assert not setup.alive()


async def test_an_orphan_that_is_not_awaited_counts_as_detached(setup: GatewaySetup, orphan: Worker) -> None:
    follower = Follower(setup, "step", LONG)
    follower.handle = setup.gateway.adopt(orphan, step="step", awaited=False)
    follower.handle.cancel()
    end = await follower.follow().wait_until_ended()
    assert (end.lost, end.detached, end.worker) == (False, True, orphan)


async def test_an_orphan_can_be_detached(setup: GatewaySetup, orphan: Worker) -> None:
    follower = Follower(setup, "step", LONG)
    follower.handle = setup.gateway.adopt(orphan, step="step")
    follower.handle.detach()
    assert (await follower.follow().wait_until_ended()).detached
    assert setup.alive() == {orphan.application_name}


async def test_the_clock_of_the_server_is_measured_and_limits_launches(setup: GatewaySetup) -> None:
    ahead = await setup.gateway.measure_clock(lambda: time.time() - 5_000.0)
    server_time = time.time() - 5_000.0 + ahead
    assert setup.gateway.clock_ahead == pytest.approx(ahead, abs=1.0)
    request = LaunchRequest(sql="SELECT 1", application_name="jobplan:clock:a", timeout=60.0)
    for between in ((server_time - 900.0, server_time - 600.0), (server_time + 600.0, server_time + 900.0)):
        with pytest.raises(OutsideLaunchTimeError):
            await setup.gateway.launch(replace(request, launch_between=between))
    inside = replace(request, launch_between=(server_time - 600.0, server_time + 600.0))
    handle = await setup.gateway.launch(inside)
    end = await handle.wait_until_ended(
        on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=lambda _, __: None
    )
    assert end.confirmed
