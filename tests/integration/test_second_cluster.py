"""A second cluster behind the same connection string: a run never continues there, whatever leads to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded import EmbeddedServer
from runner.engine import events as ev
from runner.gateway.observer import Observer
from runner.plan.model import Need
from tests.acceptance.console import Jobplan
from tests.builders import plan, step
from tests.integration.gateway_setups import ask, real_run, until, value
from tests.integration.standby import standby_of, until_replayed
from tests.servers import start_test_server


@pytest.fixture
def first() -> Iterator[EmbeddedServer]:
    """The cluster on which runs begin."""
    with start_test_server() as server:
        yield server


@pytest.fixture
def second() -> Iterator[EmbeddedServer]:
    """A copy of it, which has the same system identifier: the hardest case of another cluster."""
    with start_test_server() as server:
        yield server


def both(*conninfos: str, **more: str) -> str:
    """Return a connection string that leads to each of these."""
    parts = [conninfo_to_dict(conninfo) for conninfo in conninfos]
    return make_conninfo(
        host=",".join(str(part["host"]) for part in parts),
        port=",".join(str(part["port"]) for part in parts),
        user="postgres",
        dbname="postgres",
        **more,
    )


WITNESS = "CREATE TABLE witness (n int)"


async def test_every_session_of_a_run_is_on_the_server_where_it_began_although_hosts_are_balanced(
    first: EmbeddedServer, second: EmbeddedServer
) -> None:
    for server in (first, second):
        ask(server.dsn, WITNESS)
    steps = [step(f"s{n}", f"INSERT INTO witness SELECT {n} FROM pg_sleep(0.1)") for n in range(16)]
    run, record = real_run(both(first.dsn, second.dsn, load_balance_hosts="random"), plan(*steps, slots=8))
    result = await run.execute()
    assert result.exit_code == 0, record.outcomes()
    counts = sorted(value(server.dsn, "SELECT count(*) FROM witness") for server in (first, second))
    assert counts == [0, 16]


async def test_a_run_does_not_continue_on_another_cluster_when_its_own_is_restarted(
    first: EmbeddedServer, second: EmbeddedServer
) -> None:
    for server in (first, second):
        ask(server.dsn, WITNESS)
    steps = (
        step("long", "SELECT pg_sleep(60)", idempotent=True),
        step("after", "INSERT INTO witness VALUES (1)"),
    )
    run, record = real_run(both(first.dsn, second.dsn), plan(*steps[:1]))
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 1)
    ask(first.dsn, "CREATE FUNCTION public.pg_sleep(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    ask(first.dsn, "ALTER DATABASE postgres SET search_path = public, pg_catalog")
    await asyncio.to_thread(first.restart, "immediate")
    result = await task
    assert result.exit_code == 0, record.outcomes()
    assert not ask(second.dsn, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%'")


async def test_a_run_whose_cluster_is_lost_ends_as_unknown_and_never_on_another_cluster(
    first: EmbeddedServer, second: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 3.0)
    ask(second.dsn, WITNESS)
    steps = (
        step("long", "SELECT pg_sleep(60)"),
        step("after", "INSERT INTO witness VALUES (1)", needs=[Need(step="long")]),
        step("again", "SELECT pg_sleep(60); INSERT INTO witness VALUES (2)", idempotent=True),
    )
    run, record = real_run(both(first.dsn, second.dsn), plan(*steps))
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 2)
    await asyncio.to_thread(first.stop, "immediate")
    result = await task
    assert result.exit_code == 7
    assert record.outcomes()["long"] is ev.Outcome.UNKNOWN
    assert value(second.dsn, "SELECT count(*) FROM witness") == 0


async def test_a_run_continues_on_its_own_standby_once_that_is_promoted(first: EmbeddedServer) -> None:
    ask(first.dsn, WITNESS)
    with standby_of(first) as standby:
        steps = (
            step("long", "SELECT pg_sleep(60)", idempotent=True),
            step("after", "INSERT INTO witness VALUES (1)", needs=[Need(step="long")]),
        )
        run, record = real_run(both(first.dsn, standby), plan(*steps))
        task = asyncio.create_task(run.execute())
        await until(lambda: len(record.of(ev.AttemptRunning)) == 1)
        ask(first.dsn, "CREATE FUNCTION public.pg_sleep(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        ask(first.dsn, "ALTER DATABASE postgres SET search_path = public, pg_catalog")
        await asyncio.to_thread(until_replayed, first.dsn, standby)
        await asyncio.to_thread(first.stop, "immediate")
        await asyncio.to_thread(ask, standby, "SELECT pg_promote()")
        result = await task
        assert result.exit_code == 0, record.outcomes()
        assert value(standby, "SELECT count(*) FROM witness") == 1


async def test_a_session_that_lands_on_a_standby_is_not_used(first: EmbeddedServer) -> None:
    ask(first.dsn, WITNESS)
    with standby_of(first) as standby:
        steps = [step(f"s{n}", f"INSERT INTO witness SELECT {n} FROM pg_sleep(0.05)") for n in range(8)]
        primary = both(first.dsn, standby, load_balance_hosts="random")
        run, record = real_run(make_conninfo(primary, target_session_attrs="read-write"), plan(*steps, slots=4))
        assert (await run.execute()).exit_code == 0, record.outcomes()


async def test_a_role_that_cannot_see_the_system_identifier_runs_and_is_refused_after_a_restart(
    first: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 4.0)
    ask(first.dsn, "CREATE ROLE weak LOGIN")
    ask(first.dsn, "GRANT pgbackground_role TO weak")
    ask(first.dsn, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    run, record = real_run(make_conninfo(first.dsn, user="weak"), plan(step("long", "SELECT pg_sleep(60)")))
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 1)
    await asyncio.to_thread(first.restart, "immediate")
    assert (await task).exit_code == 7
    (finished,) = record.of(ev.AttemptFinished)
    assert finished.error is not None
    assert "pg_control_system()" in finished.error.message


async def test_status_does_not_take_another_cluster_for_the_one_that_it_looked_at(
    first: EmbeddedServer, second: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 3.0)
    observer = await Observer.connect(both(first.dsn, second.dsn))
    try:
        assert (await observer.look()).database == "postgres"
        await asyncio.to_thread(first.stop, "immediate")
        with pytest.raises(Exception, match="leads to another server"):
            await observer.look()
    finally:
        await observer.close()


async def test_cancel_attach_and_status_do_not_take_a_run_of_that_id_on_another_cluster_for_the_journal_s(
    first: EmbeddedServer, second: EmbeddedServer, jobplan: Jobplan
) -> None:
    """Two clusters have a run of one id, as after a copy of the first; the journal here is that of the first one."""
    for server in (first, second):
        ask(server.dsn, "CREATE TABLE gate ()")
    written = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(60)}", defaults="{timeout: 5m, on_finish: wait}")
    mine = jobplan.start("run", written, "--dsn", first.dsn, "--report", "jsonl=events.jsonl")
    await until(lambda: jobplan.happened("attempt_running"))
    run_id = str(jobplan.events()[0]["run"])
    theirs, record = real_run(second.dsn, plan(step("slow", "SELECT pg_sleep(60)")), run_id=run_id)
    task = asyncio.create_task(theirs.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 1)
    for command in ("cancel", "attach"):
        refused = await asyncio.to_thread(jobplan, command, run_id, "--dsn", second.dsn)
        assert refused.code == 4, refused.err
        assert "is on another server" in refused.err
    reported = await asyncio.to_thread(jobplan, "status", run_id, "--dsn", second.dsn)
    assert reported.code == 0, reported.err
    assert ".jobplan" not in reported.out, "the journal of the other run is left out"
    assert mine.alive
    assert not task.done()
    elsewhere = await asyncio.to_thread(jobplan, "cancel", run_id, "--dsn", second.dsn, "--journal", "none")
    assert elsewhere.code == 0, elsewhere.err
    await task
    assert mine.alive
    own = await asyncio.to_thread(jobplan, "cancel", run_id)
    assert own.code == 0, own.err
    assert mine.ended().code == 1
