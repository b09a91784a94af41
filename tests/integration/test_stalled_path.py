"""A network that acknowledges every packet and delivers none, as a tunnel can: limits and signals work all the same."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from runner.engine import events as ev
from runner.engine.ports import Query
from runner.engine.state import StepState
from runner.errors import ConnectionFailedError, GatewayError, ServerLostError
from runner.gateway.postgres import PgGateway
from runner.plan.model import Hold
from runner.run.hold_sampler import measurement_query
from runner.run.loop import Run, RunResult
from tests.builders import Recorder, plan, sql, step
from tests.integration.gateway_setups import HERE, RealSetup, ask, real_run, until, value
from tests.tunnel import Tunnel


@pytest.fixture
def tunnel(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tunnel]:
    """A tunnel to the server; two seconds of silence are too long, and two seconds without a server."""
    monkeypatch.setattr("runner.gateway.session.ANSWER_WITHIN", 2.0)
    monkeypatch.setattr("runner.gateway.session.LONG_ANSWER_WITHIN", 2.0)
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 2.0)
    made = Tunnel(dsn)
    yield made
    made.close()


LONG = "SELECT pg_sleep(120)"


async def until_running(run: Run, recorder: Recorder) -> asyncio.Task[RunResult]:
    """Begin a run, and wait until its worker has been seen on the server."""
    ending = asyncio.create_task(run.execute())
    await until(lambda: ending.done() or any(isinstance(event, ev.AttemptRunning) for event in recorder.events))
    return ending


@pytest.fixture(autouse=True)
def _no_worker_stays(dsn: str) -> Iterator[None]:
    yield
    ask(
        dsn,
        f"SELECT pg_terminate_backend(pid) FROM {HERE} AND backend_type = 'pg_background'",
    )


async def test_run_timeout_ends_a_run_behind_a_stalled_path(tunnel: Tunnel) -> None:
    run, recorder = real_run(tunnel.dsn, plan(step("long", LONG, timeout=600.0), run_timeout=3.0))
    ending = await until_running(run, recorder)
    tunnel.stall()
    result = await asyncio.wait_for(ending, 40)
    assert result.exit_code == 5
    assert result.state.records["long"].state is StepState.UNKNOWN
    lost = next(event for event in recorder.events if isinstance(event, ev.AttemptLost))
    assert "has not answered for 2 seconds" in lost.message


async def test_a_signal_ends_a_run_behind_a_stalled_path(tunnel: Tunnel) -> None:
    run, recorder = real_run(tunnel.dsn, plan(step("long", LONG)))
    ending = await until_running(run, recorder)
    tunnel.stall()
    run.interrupt(signal.SIGTERM)
    result = await asyncio.wait_for(ending, 40)
    assert result.state.records["long"].state is StepState.UNKNOWN


async def test_a_path_that_stalls_for_a_moment_loses_nothing(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setattr("runner.gateway.session.ANSWER_WITHIN", 20.0)
    run, recorder = real_run(tunnel.dsn, plan(step("some", "SELECT pg_sleep(3)")))
    ending = await until_running(run, recorder)
    tunnel.stall()
    await until(
        lambda: (
            not ask(
                dsn,
                f"SELECT FROM {HERE} AND backend_type = 'pg_background'",
            )
        )
    )
    tunnel.resume()
    result = await asyncio.wait_for(ending, 40)
    assert result.exit_code == 0
    assert result.state.records["some"].state is StepState.SUCCEEDED


async def test_a_condition_behind_a_stalled_path_ends_within_a_limit(tunnel: Tunnel, dsn: str) -> None:
    gateway = PgGateway(tunnel.dsn, "stalled-condition")
    await gateway.open()
    reading = asyncio.create_task(gateway.query(Query(sql="SELECT pg_sleep(60) IS NULL")))
    await until(
        lambda: value(
            dsn,
            f"SELECT count(*) FROM {HERE} AND query LIKE '%pg_sleep(60) IS NULL'",
        )
    )
    tunnel.stall()
    with pytest.raises(ServerLostError):
        await asyncio.wait_for(reading, 40)
    await gateway.close()


async def test_connecting_through_a_stalled_path_is_given_up(tunnel: Tunnel) -> None:
    tunnel.stall()
    setup = RealSetup(tunnel.dsn, "stalled-connect")
    with pytest.raises(ConnectionFailedError):
        await asyncio.wait_for(setup.gateway.open(), 40)


@pytest.mark.slow
async def test_the_wait_for_the_output_of_a_worker_behind_a_stalled_path_has_a_limit(tunnel: Tunnel) -> None:
    notices = "FOR i IN 1..100000 LOOP RAISE NOTICE '%', repeat('n', 1000); END LOOP"
    loud = f"DO $$ BEGIN {notices}; PERFORM pg_sleep(60); END $$"
    run, recorder = real_run(tunnel.dsn, plan(step("loud", loud, timeout=600.0), run_timeout=6.0))
    ending = await until_running(run, recorder)
    await asyncio.sleep(2)
    tunnel.stall()
    result = await asyncio.wait_for(ending, 60)
    assert result.state.records["loud"].state is StepState.UNKNOWN


async def test_a_measurement_of_a_hold_behind_a_stalled_path_fails_soon(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold must not keep its last value while the server cannot be queried."""
    monkeypatch.setattr("runner.gateway.postgres.MEASURE_SLACK", 0.5)
    tunnel = Tunnel(dsn)
    hold = Hold(name="h", while_=sql("SELECT false"), every=1.0)
    gateway = PgGateway(tunnel.dsn, "stalled-hold")
    try:
        assert (await gateway.measure(hold, measurement_query(hold, {}))).rows == (("f",),)
        tunnel.stall()
        with pytest.raises(GatewayError, match=r"the server has not answered for 1\.5 seconds"):
            await asyncio.wait_for(gateway.measure(hold, measurement_query(hold, {})), 40)
        tunnel.resume()
        assert (await gateway.measure(hold, measurement_query(hold, {}))).rows == (("f",),)
    finally:
        await gateway.close()
        tunnel.close()
