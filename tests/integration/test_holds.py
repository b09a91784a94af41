"""Each condition of a hold measured on a real server, what a measurement leaves behind, and what it needs to see."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runner.engine.holds import Measurement, read_measurement
from runner.engine.ports import Query
from runner.errors import Position
from runner.gateway.postgres import PgGateway
from runner.identity import runner_name
from runner.plan.model import Hold, Sql
from runner.run.hold_sampler import measurement_query
from tests.acceptance.console import Database, Jobplan
from tests.acceptance.console import until as happens
from tests.integration.gateway_setups import RealSetup, ask, until, value
from tests.integration.standby import standby_of, until_replayed
from tests.servers import start_test_server

_NUMBERS = itertools.count(1)


@pytest.fixture
async def setup(database: str) -> AsyncIterator[RealSetup]:
    async with RealSetup(database, f"holds-{next(_NUMBERS)}") as made:
        yield made


def condition(sql: str, every: float = 5.0) -> Hold:
    return Hold(name="h", while_=Sql(text=sql, start=Position(file="", line=1, column=1)), every=every)


async def measured(gateway: PgGateway, hold: Hold) -> Measurement:
    return read_measurement(hold, await gateway.measure(hold, measurement_query(hold, {})))


async def test_a_measurement_has_a_session_of_its_own_and_leaves_no_transaction(setup: RealSetup) -> None:
    before = setup.connections()
    assert (await measured(setup.gateway, condition("SELECT true"))).on
    assert not (await measured(setup.gateway, condition("SELECT false"))).on
    assert setup.connections() == before + 1
    open_ = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND xact_start IS NOT NULL"
    assert value(setup.dsn, open_, runner_name(setup.run_id)) == 0


async def test_a_measurement_cannot_write_and_is_ended_by_its_limit(setup: RealSetup) -> None:
    ask(setup.dsn, "CREATE SEQUENCE s")
    wrote = await measured(setup.gateway, condition("SELECT nextval('s') > 0"))
    assert wrote.on
    assert "read-only transaction" in wrote.value
    slow = await measured(setup.gateway, condition("SELECT true FROM pg_sleep(60)", every=1.0))
    assert slow.error is not None
    assert slow.error.sqlstate == "57014"


async def test_a_slow_condition_of_a_step_does_not_delay_a_measurement(setup: RealSetup) -> None:
    slow = asyncio.create_task(setup.gateway.query(Query(sql="SELECT true FROM pg_sleep(30)")))
    await until(lambda: value(setup.dsn, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%'") > 1)
    assert (await measured(setup.gateway, condition("SELECT true"))).on
    assert not slow.done()
    slow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slow


async def test_a_session_of_holds_that_is_terminated_is_opened_again(setup: RealSetup) -> None:
    assert (await measured(setup.gateway, condition("SELECT pg_backend_pid() > 0"))).on
    last = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_backend_pid() > 0%'"
    ask(setup.dsn, f"{last} AND application_name = '{runner_name(setup.run_id)}'")
    assert (await measured(setup.gateway, condition("SELECT true"))).error is None


async def test_active_sessions_counts_what_works_and_not_the_run_itself(setup: RealSetup) -> None:
    """On a given server other tests have sessions, too: at least those of this test are counted."""
    hold = Hold(name="h", active_sessions=0)
    async with contextlib.AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(setup.dsn, autocommit=True))
            for _ in range(8)
        ]
        work = [asyncio.create_task(other.execute("SELECT pg_sleep(60)")) for other in others]
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
        await until(lambda: value(setup.dsn, f"{asleep} AND datname = current_database()") == len(others))
        found = await measured(setup.gateway, hold)
        assert found.on
        assert int(found.value.split()[0]) >= len(others)
        for other in others:
            await other.cancel_safe()
        await asyncio.gather(*work, return_exceptions=True)


async def test_a_role_that_cannot_see_other_sessions_is_reported(setup: RealSetup) -> None:
    ask(setup.dsn, "CREATE ROLE blind LOGIN")
    try:
        dsn = make_conninfo(setup.dsn, user="blind")
        ask(setup.dsn, "GRANT USAGE ON SCHEMA public TO blind")
        ask(setup.dsn, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO blind")
        gateway = PgGateway(dsn, "blind-run")
        try:
            with contextlib.closing(psycopg.connect(setup.dsn)):
                for hold in (
                    Hold(name="h", active_sessions=5),
                    Hold(name="h", wal_to_archive=5),
                    Hold(name="h", autovacuum_on=("t",)),
                ):
                    found = await measured(gateway, hold)
                    assert found.on
                    assert found.lacks_privilege, found
            assert not (await measured(gateway, Hold(name="h", replication_lag=5.0))).on, "there is no standby to see"
        finally:
            await gateway.close()
    finally:
        ask(setup.dsn, "DROP OWNED BY blind; DROP ROLE blind")


async def test_autovacuum_on_a_table_or_a_partition_of_one(setup: RealSetup) -> None:
    ask(setup.dsn, "CREATE SCHEMA sales; CREATE TABLE sales.parts (x int) PARTITION BY RANGE (x)")
    ask(
        setup.dsn,
        "CREATE TABLE sales.part1 PARTITION OF sales.parts FOR VALUES FROM (0) TO (10000000) WITH"
        " (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1, autovacuum_vacuum_cost_delay = 100,"
        " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_insert_threshold = 1,"
        " autovacuum_vacuum_insert_scale_factor = 0)",
    )
    hold, other = Hold(name="h", autovacuum_on=("sales.parts", "absent")), Hold(name="h", autovacuum_on=("absent",))
    assert not (await measured(setup.gateway, hold)).on
    ask(setup.dsn, "ALTER SYSTEM SET autovacuum_naptime = '1s'")
    ask(setup.dsn, "SELECT pg_reload_conf()")
    try:
        ask(setup.dsn, "INSERT INTO sales.parts SELECT g FROM generate_series(1, 200000) AS g")
        ask(setup.dsn, "DELETE FROM sales.parts WHERE x % 2 = 0")
        works = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'sales.part1'::regclass"
        await until(lambda: value(setup.dsn, works))
        found = await measured(setup.gateway, hold)
        assert (found.on, found.value) == (True, "autovacuum works on sales.parts")
        assert not (await measured(setup.gateway, other)).on
    finally:
        ask(setup.dsn, "ALTER SYSTEM RESET autovacuum_naptime")
        ask(setup.dsn, "SELECT pg_reload_conf()")
        ask(setup.dsn, "DROP SCHEMA sales CASCADE")


@pytest.fixture(scope="module")
def primary() -> Iterator[tuple[str, str]]:
    """A server that archives nothing although it should, and its standby."""
    settings = {"archive_mode": "on", "archive_command": "false"}
    with start_test_server(**settings) as server, standby_of(server) as standby:
        until_replayed(server.dsn, standby)
        yield server.dsn, standby


@pytest.mark.pg(">= 15", reason="the standby is made with pg_backup_start()")
async def test_replication_lag_grows_while_a_standby_does_not_replay(primary: tuple[str, str]) -> None:
    server, standby = primary
    gateway = PgGateway(server, "lag-run")
    hold = Hold(name="h", replication_lag=1.0)
    try:
        ask(standby, "SELECT pg_wal_replay_pause()")
        ask(server, "CREATE TABLE lagging AS SELECT 1 AS x")
        async with asyncio.timeout(60):
            while not (found := await measured(gateway, hold)).on:
                ask(server, "INSERT INTO lagging VALUES (1)")
                await asyncio.sleep(0.2)
        assert found.value.startswith("replay lag of ")
        ask(standby, "SELECT pg_wal_replay_resume()")
        async with asyncio.timeout(60):
            while (await measured(gateway, hold)).on:
                ask(server, "INSERT INTO lagging VALUES (1)")
                await asyncio.sleep(0.2)
    finally:
        await gateway.close()


@pytest.mark.pg(">= 15", reason="the standby is made with pg_backup_start()")
async def test_wal_to_archive_counts_files_that_wait(primary: tuple[str, str]) -> None:
    server, _ = primary
    gateway = PgGateway(server, "wal-run")
    try:
        for _ in range(3):
            ask(server, "SELECT pg_logical_emit_message(false, 'x', 'x')")
            ask(server, "SELECT pg_switch_wal()")
        segment = int(value(server, "SELECT pg_size_bytes(current_setting('wal_segment_size'))"))
        found = await measured(gateway, Hold(name="h", wal_to_archive=segment))
        assert found.on
        assert found.value.endswith("MB of WAL to archive")
        assert not (await measured(gateway, Hold(name="h", wal_to_archive=segment * 1000))).on
    finally:
        await gateway.close()


# --- the whole run ---


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    connected = Database(database)
    yield connected
    connected.close()


def test_one_statement_for_each_hold_and_every_however_many_steps_wait(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE switch (on_ bool); INSERT INTO switch VALUES (true)")
    db.run(
        "CREATE FUNCTION asked() RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE LOG 'asked'; "
        "RETURN (SELECT on_ FROM switch); END $$"
    )
    db.run(f"ALTER DATABASE {db.value('SELECT quote_ident(current_database())')} SET track_functions = 'all'")
    steps = "\n".join(f"- {{id: s{number}, sql: SELECT 1}}" for number in range(30))
    holds = "[{name: switch, while: SELECT asked(), every: 500ms, release_after: 0s}]"
    started = jobplan.start("run", jobplan.plan(steps, holds=holds), "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'asked'"
    try:
        happens(lambda: jobplan.happened("hold_began"))
        began = db.value("SELECT clock_timestamp()")
        db.run("SELECT pg_sleep(4)")
        seconds = float(db.value(f"SELECT extract(epoch FROM clock_timestamp() - '{began}'::timestamptz)"))
        sessions = db.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%' AND query LIKE '%asked%'"
        )
        assert sessions <= 1
        assert 1 <= int(db.value(calls)) <= seconds / 0.5 + 3
    finally:
        db.run("UPDATE switch SET on_ = false")
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert not any(event["event"] == "attempt_launching" for event in _before_end_of_hold(jobplan))


def _before_end_of_hold(jobplan: Jobplan) -> Iterator[dict[str, object]]:
    return itertools.takewhile(lambda event: event["event"] != "hold_ended", jobplan.events())


def test_a_vacuum_full_that_blocks_a_writer_yields_and_succeeds_later(jobplan: Jobplan, db: Database) -> None:
    db.run(
        "CREATE FUNCTION slow(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.01); RETURN x; END $$"
    )
    db.run("CREATE TABLE big AS SELECT g AS x FROM generate_series(1, 300) AS g")
    db.run("CREATE INDEX ON big (slow(x))")  # VACUUM FULL builds it anew under its lock, which takes three seconds
    plan = jobplan.plan(
        """
        - id: shrink
          sql: VACUUM FULL big
          timeout: 2m
          yield_after: 200ms
          retry: {max_attempts: 20, delay: 500ms, on: [yielded]}
        """
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    with db.elsewhere("shop") as writer:
        writer.autocommit = True
        while not jobplan.happened("attempt_blocking") and started.alive:
            writer.execute("INSERT INTO big VALUES (1)")
    ran = started.ended()
    assert ran.code == 0, ran.err
    events = jobplan.events()
    blocking = [event for event in events if event["event"] == "attempt_blocking"]
    assert blocking
    assert blocking[0]["others"][0]["name"] == "shop"
    ends = [event for event in events if event["event"] == "attempt_finished"]
    assert (ends[0]["outcome"], ends[0].get("reason")) == ("failed", "yielded")
    assert ends[-1]["outcome"] == "succeeded"


def test_a_plan_without_these_keys_opens_no_session_and_polls_nothing_more(jobplan: Jobplan, db: Database) -> None:
    started = jobplan.start("run", jobplan.plan("- {id: a, sql: SELECT pg_sleep(2)}"), "--dsn", db.dsn)
    seen: set[str] = set()
    most = 0
    while started.alive:
        rows = db.column(
            "SELECT query FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'jobplan:%:runner'"
        )
        seen.update(rows)
        most = max(most, len(rows))
    assert started.ended().code == 0
    assert most <= 2
    assert not [query for query in seen if "$3::text" in query and "pg_blocking_pids(w.pid)" in query]


def test_the_dry_run_says_what_is_on_and_what_is_missing(jobplan: Jobplan, db: Database) -> None:
    holds = (
        "[{name: now, while: SELECT true}, {name: never, while: SELECT false}, "
        "{name: typo, while: SELECT x FROM missing_table}, {name: wide, while: 'SELECT 1'}, "
        "{name: vacuum, autovacuum_on: [absent]}, {name: sessions, active_sessions: 100000}]"
    )
    plan = jobplan.plan("- {id: a, sql: SELECT 1}", holds=holds)
    ran = jobplan("dry-run", plan, "--dsn", db.dsn)
    text = " ".join(ran.out.split())
    assert "now: on now (while is true)" in text
    assert "never: not on now (while is not true)" in text
    assert "sessions: not on now" in text
    for code in ("JP629", "JP631"):
        assert code in text
    assert "hold `typo`: there is no" in text
    assert "there is no table absent" in text
    assert "Unknown wait: the schedule leaves out how long steps wait for the holds (now, never" in text
    assert ran.code != 0
    db.run("CREATE ROLE unseeing LOGIN")
    try:
        blind = jobplan(
            "dry-run",
            jobplan.plan("- {id: a, sql: SELECT 1}", holds="[{name: w, wal_to_archive: 1GB}]"),
            "--dsn",
            make_conninfo(db.dsn, user="unseeing"),
        )
        assert "JP630" in blind.out
    finally:
        db.run("DROP ROLE unseeing")
