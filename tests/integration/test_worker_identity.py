"""Workers that are slow to be seen, sessions that are short, and groups that are lost: what is reported stays true."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from runner.clock import MonotonicClock
from runner.embedded import EmbeddedServer
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import StepState, initial_state
from runner.gateway.postgres import PgGateway
from runner.identity import runner_name
from runner.plan.model import Concurrency, Need, OnConflict
from runner.run.takeover import Takeover
from tests.builders import new_run, plan, sql, step
from tests.integration.gateway_setups import (
    LAUNCHERS,
    SESSIONS,
    Follower,
    RealSetup,
    ask,
    open_transaction,
    real_run,
    signal_sessions,
    until,
    value,
)

SKEWED = "260101-skewed"
LOCKING = "LOCK TABLE gate; SELECT 1"
STARTING = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datid IS NULL"


@pytest.mark.slow
@pytest.mark.parametrize("verified", [False, True])
async def test_a_worker_that_starts_slowly_while_its_launcher_session_is_lost_is_waited_for(
    frail_server: EmbeddedServer, *, verified: bool
) -> None:
    dsn = frail_server.dsn
    ask(dsn, "CREATE TABLE witness (n int)")
    verify = sql("SELECT EXISTS (SELECT FROM witness)") if verified else None
    run, _ = real_run(dsn, plan(step("slow", "INSERT INTO witness VALUES (1)", verify=verify)), run_id="slow-start")
    # Sessions of the test are open before the delay begins: a new one would see the worker too late.
    with psycopg.connect(dsn, autocommit=True) as watching:
        ask(dsn, "ALTER SYSTEM SET post_auth_delay = 3")
        ask(dsn, "SELECT pg_reload_conf()")
        await until(lambda: ask(dsn, "SHOW post_auth_delay") == [("3s",)])
        task = asyncio.create_task(run.execute())
        ending = f"SELECT pg_terminate_backend(pid) FROM ({LAUNCHERS}) AS launchers WHERE EXISTS ({STARTING})".encode()
        await until(lambda: watching.execute(ending, (runner_name("slow-start"),)).fetchall())
    result = await task
    assert value(dsn, "SELECT count(*) FROM witness") == 1, "it was given up while it started"
    assert (result.exit_code, run.state.records["slow"].state) in (
        [(0, StepState.SUCCEEDED)] if verified else [(7, StepState.UNKNOWN)]
    )


async def test_steps_that_a_lost_concurrency_group_keeps_from_running_are_no_success(database: str) -> None:
    lock = "SELECT pg_advisory_lock(hashtextextended('jobplan:g', 0))"
    ask(database, "CREATE TABLE gate ()")
    steps = (step("first", "LOCK TABLE gate; SELECT 1"), step("second", "SELECT 1", needs=[Need(step="first")]))
    group = Concurrency(group="g", on_conflict=OnConflict.FAIL)
    run, record = real_run(database, plan(*steps, concurrency=group), run_id="lost-group")
    with psycopg.connect(database, autocommit=True, application_name=runner_name("another")) as other:
        with open_transaction(database, "LOCK TABLE gate"):
            task = asyncio.create_task(run.execute())
            await until(lambda: record.of(ev.AttemptRunning))
            waiting = asyncio.create_task(asyncio.to_thread(other.execute, lock))
            await until(lambda: ask(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            signal_sessions(database, "lost-group", SESSIONS + " ORDER BY backend_start LIMIT 1")
            await waiting
            await until(lambda: run._gateway.group_lost)
        result = await task
    assert record.of(ev.GroupLost)
    assert run.state.records["second"].state is StepState.SKIPPED
    assert result.exit_code == 6


async def test_two_connections_are_enough_for_a_run_with_conditions(database: str) -> None:
    ask(database, "DROP ROLE IF EXISTS jobplan_test_two")
    ask(database, "CREATE ROLE jobplan_test_two LOGIN CONNECTION LIMIT 2")
    try:
        ask(database, "GRANT pgbackground_role TO jobplan_test_two")
        checked = {"if_": sql("SELECT true"), "verify": sql("SELECT true")}
        run, record = real_run(
            psycopg.conninfo.make_conninfo(database, user="jobplan_test_two"),
            plan(step("a", "SELECT 1", **checked), step("b", "SELECT 2", needs=[Need(step="a")], **checked), slots=4),
        )
        async with asyncio.timeout(50):
            result = await run.execute()
        assert result.exit_code == 0, record.outcomes()
    finally:
        ask(database, "DROP OWNED BY jobplan_test_two")
        ask(database, "DROP ROLE jobplan_test_two")


@pytest.mark.parametrize("skew", [-7200.0, -120.0, 120.0, 7200.0])
async def test_a_skewed_clock_does_not_make_a_resumption_call_a_healthy_worker_timed_out(
    database: str, skew: float
) -> None:
    ask(database, "CREATE TABLE gate ()")
    p = plan(step("slow", LOCKING, timeout=60.0))
    clock = MonotonicClock()
    async with RealSetup(database, SKEWED) as setup:
        with psycopg.connect(database) as keeper:
            keeper.execute("LOCK TABLE gate")
            follower = await Follower(setup, "slow", LOCKING, timeout=60.0).running()
            await setup.gateway.close()
            state, then = initial_state(p), clock.now() + skew
            launched = ev.AttemptLaunching(at=then, step="slow", attempt=1, application_name="", timeout=60.0)
            running = ev.AttemptRunning(at=then, step="slow", attempt=1, worker=follower.seen[0])
            for event in (ev.StepReady(at=then, step="slow"), launched, running):
                apply(state, event)
            run, record = new_run(
                p, PgGateway(database, SKEWED), run_id=SKEWED, clock=clock, previous_state=state, takeover=Takeover()
            )
            task = asyncio.create_task(run.execute())
            await until(lambda: record.of(ev.RunResumed))
            resumed = run.state.records["slow"]
            assert resumed.server_end is not None
            assert 30 < resumed.server_end - clock.now() <= 60
        await task
    assert not record.of(ev.AttemptCancelRequested)
