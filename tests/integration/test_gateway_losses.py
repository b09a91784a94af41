"""What a run survives: sessions that are terminated, statements that are cancelled, and a server that restarts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.embedded import EmbeddedServer, watchdog
from runner.embedded.server import Mode
from runner.engine import events as ev
from runner.engine.ports import LaunchRequest, Query
from runner.engine.state import StepState
from runner.errors import ServerLostError
from runner.gateway.postgres import PgGateway
from runner.identity import runner_name
from runner.plan.model import Hold, Need, NeedOn
from tests.builders import plan, sql, step
from tests.integration.gateway_setups import (
    GATE,
    LAUNCHERS,
    MONITORS,
    SESSIONS,
    Follower,
    RealSetup,
    ask,
    open_transaction,
    real_run,
    run_one,
    run_plan,
    signal_sessions,
    until,
    value,
)

LONG = "SELECT pg_sleep(120)"


# --- sessions and statements ------------------------------------------------------------------------------------------


async def test_a_launcher_session_that_ended_while_it_was_idle_costs_nothing(dsn: str) -> None:
    async with RealSetup(dsn, "losses-idle") as setup:
        assert (await run_one(setup, "SELECT 1", "a")).confirmed
        assert signal_sessions(dsn, setup.run_id, LAUNCHERS) == 1  # the loop has had no turn to see it
        end = await run_one(setup, "SELECT 1", "b")
        assert end.confirmed


async def test_waits_that_another_session_cancels_lose_nothing(dsn: str) -> None:
    async with RealSetup(dsn, "losses-cancel") as setup:
        with open_transaction(dsn, GATE):
            follower = await Follower(setup, "step", GATE).running()
            struck = 0
            while struck < 10:
                struck += signal_sessions(dsn, setup.run_id, LAUNCHERS, "pg_cancel_backend")
                await asyncio.sleep(0.1)
        end = await follower.wait_until_ended()
        assert end.confirmed
        assert not follower.lost
        assert (await run_one(setup, "SELECT 1", "after")).confirmed


async def test_the_monitors_statements_that_another_session_cancels_lose_nothing(dsn: str) -> None:
    async with RealSetup(dsn, "losses-look") as setup:
        follower = await Follower(setup, "step", LONG).running()
        follower.handle.cancel()
        while not follower.task.done():
            signal_sessions(dsn, setup.run_id, SESSIONS, "pg_cancel_backend")
            await asyncio.sleep(0.05)
        end = await follower.wait_until_ended()
        assert end.error is not None
        assert not follower.lost


async def test_a_monitor_session_that_is_lost_comes_back(dsn: str) -> None:
    async with RealSetup(dsn, "losses-monitor") as setup:
        first = await Follower(setup, "first", LONG).running()
        await until(lambda: signal_sessions(dsn, setup.run_id, MONITORS))
        second = await Follower(setup, "second", LONG).running()
        for follower in (first, second):
            follower.handle.cancel()
            end = await follower.wait_until_ended()
            assert end.error is not None
            assert not follower.lost


async def test_a_condition_is_read_again_on_a_new_session(dsn: str) -> None:
    async with RealSetup(dsn, "losses-read") as setup:
        assert (await setup.gateway.query(Query(sql="SELECT true"))).rows == (("t",),)
        signal_sessions(dsn, setup.run_id, SESSIONS)
        assert (await setup.gateway.query(Query(sql="SELECT true"))).rows == (("t",),)


async def test_a_condition_waits_for_a_connection(database: str, new_role: Callable[..., str]) -> None:
    dsn = new_role("CONNECTION LIMIT 1")
    role = conninfo_to_dict(dsn)["user"]
    async with RealSetup(dsn, "losses-limit") as setup:  # the monitor session is the one that the role may have
        reading = asyncio.create_task(setup.gateway.query(Query(sql="SELECT true")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), 0.5)
        ask(database, f"ALTER ROLE {role} CONNECTION LIMIT -1")
        assert (await reading).rows == (("t",),)


async def test_a_condition_that_gets_no_connection_is_given_up(
    new_role: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 0.0)
    async with RealSetup(new_role("CONNECTION LIMIT 1"), "losses-none") as setup:
        with pytest.raises(ServerLostError, match="too many connections"):
            await setup.gateway.query(Query(sql="SELECT true"))


async def test_a_step_that_may_run_again_does_so_when_its_lost_worker_has_ended(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    text = f"INSERT INTO witness VALUES (1); {GATE}"
    run, record = real_run(database, plan(step("a", text, idempotent=True)), run_id="losses-again")
    with open_transaction(database, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        assert signal_sessions(database, "losses-again", LAUNCHERS)
    assert (await task).exit_code == 0
    assert [end.outcome for end in record.ends("a")] == [ev.Outcome.UNKNOWN, ev.Outcome.SUCCEEDED]
    # Both have committed, and the first was lost before the second began: the ends prove it, one slot apart.
    assert value(database, "SELECT count(*) FROM witness") == 2
    kinds = [type(event) for event in record.events if isinstance(event, ev.AttemptFinished | ev.AttemptLaunching)]
    assert kinds == [ev.AttemptLaunching, ev.AttemptFinished] * 2


async def test_a_lost_worker_holds_its_slot_until_it_has_ended(database: str) -> None:
    steps = (step("a", GATE), step("b", "SELECT 1"))
    run, record = real_run(database, plan(*steps, slots=1), run_id="losses-slot")
    with open_transaction(database, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning, "a"))
        assert signal_sessions(database, "losses-slot", LAUNCHERS)
        await until(lambda: record.of(ev.AttemptLost, "a"))
        assert not record.of(ev.AttemptLaunching, "b")
    assert (await task).exit_code == 7
    order = [event.step for event in record.events if isinstance(event, ev.AttemptFinished)]
    assert order == ["a", "b"]


async def test_a_group_is_not_lost_to_the_runs_own_dead_session(database: str) -> None:
    """After a network failure the old session may live on in the server for a while, with its lock."""
    setup = RealSetup(database, "losses-group")
    lock = "SELECT pg_advisory_lock(hashtextextended('jobplan:g', 0))"
    with psycopg.connect(database, autocommit=True, application_name=runner_name(setup.run_id)) as old:
        async with setup:
            assert await setup.gateway.hold_group("g") is None
            waiting = asyncio.create_task(asyncio.to_thread(old.execute, lock))
            await until(lambda: ask(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            signal_sessions(
                database,
                setup.run_id,
                "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE application_name = %s AND locktype = 'advisory' AND granted",
            )
            await waiting
            assert (await run_one(setup, "SELECT pg_sleep(0.2)")).confirmed
            assert not setup.gateway.group_lost
            old.execute("SELECT pg_advisory_unlock_all()")
            held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
            await until(lambda: ask(database, held))
        await until(lambda: not ask(database, held))


async def test_a_group_that_another_run_took_meanwhile_is_lost(database: str) -> None:
    setup = RealSetup(database, "losses-taken")
    lock = "SELECT pg_advisory_lock(hashtextextended('jobplan:g', 0))"
    with psycopg.connect(database, autocommit=True, application_name=runner_name("another")) as other:
        async with setup:
            assert await setup.gateway.hold_group("g") is None
            waiting = asyncio.create_task(asyncio.to_thread(other.execute, lock))
            await until(lambda: ask(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            signal_sessions(database, setup.run_id, SESSIONS)
            await waiting
            await until(lambda: setup.gateway.group_lost)


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_run_continues_after_the_server_has_restarted(frail_server: EmbeddedServer, mode: Mode) -> None:
    steps = (
        step("lost", LONG),
        step("again", "SELECT pg_sleep(2)", idempotent=True),
        step("settled", LONG, verify=sql("SELECT true")),
        step("after", "SELECT 1", needs=[Need(step="lost", on=NeedOn.DONE), Need(step="settled")]),
    )
    run, record = real_run(frail_server.dsn, plan(*steps))
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 3)
    await asyncio.to_thread(frail_server.restart, mode)
    result = await task
    assert result.exit_code == 7
    states = {key: record_.state for key, record_ in run.state.records.items()}
    assert states == {
        "lost": StepState.UNKNOWN,
        "again": StepState.SUCCEEDED,
        "settled": StepState.SUCCEEDED,
        "after": StepState.SUCCEEDED,
    }
    assert {event.step for event in record.of(ev.AttemptLost)} == {"lost", "again", "settled"}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


async def test_a_run_ends_when_the_server_does_not_come_back(
    frail_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 2.0)
    steps = (step("a", LONG), step("b", LONG), step("c", "SELECT 1", needs=[Need(step="a", on=NeedOn.DONE)]))
    run, record = real_run(frail_server.dsn, plan(*steps))
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 2)
    await asyncio.to_thread(frail_server.stop, "immediate")
    result = await task
    assert result.exit_code == 7
    assert record.outcomes() == {"a": ev.Outcome.UNKNOWN, "b": ev.Outcome.UNKNOWN, "c": ev.Outcome.FAILED}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


async def test_a_condition_does_not_wait_once_more_for_a_server_that_is_given_up(
    frail_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minute for which a run waits for its server counts once, not for each statement that follows."""
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 1.0)
    gateway = PgGateway(frail_server.dsn, "losses-once")
    await gateway.open()
    try:
        await asyncio.to_thread(frail_server.stop, "immediate")
        with pytest.raises(ServerLostError):
            await gateway.query(Query(sql="SELECT true"))
        with pytest.raises(ServerLostError, match="the server cannot be reached"):
            await asyncio.wait_for(gateway.query(Query(sql="SELECT true")), 40)
    finally:
        await gateway.close()


async def test_nothing_is_requested_from_a_server_that_is_given_up_until_it_is_back(
    frail_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a path that stalls, each attempt to connect takes seconds: a run of many steps would end after minutes."""
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 1.0)
    connecting = 0
    connect = psycopg.AsyncConnection.connect

    async def counted(*arguments: Any, **options: Any) -> psycopg.AsyncConnection[Any]:
        nonlocal connecting
        connecting += 1
        return await connect(*arguments, **options)

    gateway = PgGateway(frail_server.dsn, "losses-none-more")
    await gateway.open()
    try:
        await asyncio.to_thread(watchdog.stop_postmaster, frail_server.data_dir, fast=False)
        with pytest.raises(ServerLostError):
            await gateway.query(Query(sql="SELECT true"))
        monkeypatch.setattr(psycopg.AsyncConnection, "connect", counted)
        request = LaunchRequest(sql="SELECT 1", application_name="jobplan:losses-none-more:a")
        for _ in range(3):
            tried = connecting
            with pytest.raises(ServerLostError, match="the server cannot be reached"):
                await gateway.launch(request)
            with pytest.raises(ServerLostError, match="the server cannot be reached"):
                await gateway.query(Query(sql="SELECT true"))
            assert connecting == tried
        await asyncio.to_thread(frail_server.restart, "fast")
        await until(lambda: connecting > 0)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(ServerLostError):
                    assert (await gateway.query(Query(sql="SELECT true"))).rows == (("t",),)
                    break
                await asyncio.sleep(0.2)
    finally:
        await gateway.close()


async def test_the_second_interrupt_while_the_server_is_away_ends_the_run(frail_server: EmbeddedServer) -> None:
    run, record = real_run(frail_server.dsn, plan(step("a", LONG)))
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning))
    await asyncio.to_thread(frail_server.stop, "immediate")
    await until(lambda: record.of(ev.AttemptLost))
    run.interrupt(2)
    run.interrupt(2)
    assert (await task).exit_code == 130
    (finished,) = record.of(ev.RunFinished)
    assert finished.steps == {"a": "running"}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


async def test_nothing_is_left_open_after_a_run(dsn: str) -> None:
    steps = (step("a", "SELECT 1"), step("b", "SELECT 1/0"), step("c", LONG, detach=True))
    setup = RealSetup(dsn, "losses-open")
    await run_plan(dsn, plan(*steps), run_id=setup.run_id)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    await until(lambda: setup.connections() == 0)
    setup.end()


async def test_a_run_that_is_held_ends_when_its_server_is_given_up(
    frail_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 1.0)
    hold = Hold(name="load", while_=sql("SELECT true"), every=0.2)
    run, record = real_run(frail_server.dsn, plan(step("a", "SELECT 1", holds=("load",)), holds=(hold,)))
    task = asyncio.create_task(run.execute())
    await until(lambda: bool(record.of(ev.HoldBegan)))
    await asyncio.to_thread(watchdog.stop_postmaster, frail_server.data_dir, fast=False)
    try:
        async with asyncio.timeout(60):
            result = await task
    finally:
        await asyncio.to_thread(frail_server.restart, "fast")
    assert result.exit_code == 1
    (end,) = record.of(ev.StepFinished)
    assert end.reason is ev.FailureReason.HELD
    assert end.error is not None
    assert end.error.message.startswith("held by `load`: it cannot be measured: the server cannot be reached: ")
    assert not record.of(ev.AttemptLaunching)
