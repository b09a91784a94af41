"""The view `running`: a worker is its pid and backend_start in this database; names of sessions are no evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.gateway.ledger.admin import LedgerAdmin
from runner.identity import runner_name, worker_name
from tests.builders import plan, step
from tests.integration.gateway_setups import HERE, SESSIONS, ask, real_run, signal_sessions, until, value

RUN = "running-view"
SEEN = "SELECT step, worker_lives, runner_lives FROM jobplan.running ORDER BY step"
WORKERS = f"SELECT pid FROM {HERE} AND backend_type = 'pg_background'"


@pytest.fixture
def ledger(database: str) -> Iterator[str]:
    """A database of this test's own, with a ledger and a table that keeps steps waiting while it is locked."""
    LedgerAdmin(database, "jobplan").install("0")
    ask(database, "CREATE TABLE gate ()")
    yield database
    ask(database, f"SELECT pg_terminate_backend(pid) FROM {HERE} AND backend_type = 'pg_background'")


async def orphaned(ledger: str, sql: str) -> None:
    """Begin a run of one step, wait until its worker is in the ledger, and leave it without a runner."""
    run, _ = real_run(ledger, plan(step("slow", sql)), run_id=RUN, ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: ask(ledger, "SELECT FROM jobplan.events WHERE event = 'attempt_running'"))
    await until(
        lambda: value(
            ledger, f"SELECT bool_and(wait_event_type = 'Lock') FROM ({WORKERS}) AS w JOIN pg_stat_activity USING (pid)"
        )
    )
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    signal_sessions(ledger, RUN, SESSIONS)


@pytest.mark.parametrize("name", ["my report", "", "jobplan:another:step", runner_name(RUN)])
async def test_a_worker_that_has_changed_its_name_is_seen_as_alive(ledger: str, name: str) -> None:
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        await orphaned(ledger, f"SELECT set_config('application_name', '{name}', false); LOCK TABLE gate")
        assert ask(ledger, SEEN) == [("slow", True, False)]
        assert value(ledger, "SELECT pid FROM jobplan.running") == value(ledger, WORKERS)


async def test_a_session_of_another_role_with_the_names_of_worker_and_runner_is_neither(
    ledger: str, new_role: Callable[..., str]
) -> None:
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        await orphaned(ledger, "LOCK TABLE gate; SELECT 1")
        ask(ledger, f"SELECT pg_terminate_backend(pid) FROM ({WORKERS}) AS w")
        await until(lambda: not ask(ledger, WORKERS))
        with psycopg.connect(new_role(), autocommit=True) as other:
            other.execute("SELECT set_config('application_name', %s, false)", (worker_name(RUN, "slow"),))
            other.execute("SELECT pg_background_launch('SELECT pg_sleep(60)', 0, '')")
            other.execute("SELECT set_config('application_name', %s, false)", (runner_name(RUN),))
            await until(lambda: ask(ledger, WORKERS))
            assert ask(ledger, SEEN) == [("slow", False, False)]


async def test_a_worker_of_the_same_name_in_another_database_is_not_this_one(
    ledger: str, new_database: Callable[[], str]
) -> None:
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        await orphaned(ledger, "LOCK TABLE gate; SELECT 1")
        ask(ledger, f"SELECT pg_terminate_backend(pid) FROM ({WORKERS}) AS w")
        await until(lambda: not ask(ledger, WORKERS))
        elsewhere = new_database()
        with psycopg.connect(elsewhere, autocommit=True) as other:
            other.execute("SELECT set_config('application_name', %s, false)", (worker_name(RUN, "slow"),))
            other.execute("SELECT pg_background_launch('SELECT pg_sleep(60)', 0, '')")
            other.execute("SELECT set_config('application_name', %s, false)", (runner_name(RUN),))
            await until(lambda: ask(elsewhere, WORKERS))
            assert ask(ledger, SEEN) == [("slow", False, False)]
            ask(elsewhere, f"SELECT pg_terminate_backend(pid) FROM ({WORKERS}) AS w")


async def test_a_detached_worker_that_has_changed_its_name_is_seen_after_its_run_has_ended(ledger: str) -> None:
    sql = "SELECT set_config('application_name', 'my report', false); LOCK TABLE gate"
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        run, _ = real_run(ledger, plan(step("slow", sql, detach=True)), run_id=RUN, ledger="jobplan")
        assert (await run.execute()).exit_code == 0
        assert ask(ledger, "SELECT step, outcome, worker_lives FROM jobplan.running") == [("slow", "detached", True)]


async def test_a_role_that_may_not_see_a_worker_is_not_given_a_wrong_answer(
    ledger: str, new_role: Callable[..., str]
) -> None:
    weak = new_role()
    name = conninfo_to_dict(weak)["user"]
    LedgerAdmin(ledger, "jobplan").install("0", [str(name)])
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        await orphaned(ledger, "LOCK TABLE gate; SELECT 1")
        assert ask(weak, "SELECT step, worker_lives FROM jobplan.running") == [("slow", None)]
        ask(ledger, f"GRANT pg_read_all_stats TO {name}")
        assert ask(weak, "SELECT step, worker_lives FROM jobplan.running") == [("slow", True)]


async def test_a_pid_that_another_process_has_now_is_not_the_worker(ledger: str) -> None:
    with psycopg.connect(ledger) as keeper:
        keeper.execute("LOCK TABLE gate")
        await orphaned(ledger, "LOCK TABLE gate; SELECT 1")
        ask(
            ledger,
            "UPDATE jobplan.events SET body = jsonb_set(body, '{worker,backend_start}', to_jsonb("
            "'2026-01-01T00:00:00.000000Z'::text)) WHERE event = 'attempt_running'",
        )
        assert ask(ledger, SEEN) == [("slow", False, False)]


def test_an_upgrade_of_a_ledger_that_is_up_to_date_renews_its_views(ledger: str) -> None:
    before = value(ledger, "SELECT pg_get_viewdef('jobplan.running'::regclass)")
    columns = "plan, run, step, attempt, launched_at, age, pid, doing, worker_lives, runner_lives, outcome, writer"
    ask(ledger, f"CREATE TABLE old AS SELECT {columns} FROM jobplan.running")
    ask(ledger, f"CREATE OR REPLACE VIEW jobplan.running AS SELECT {columns} FROM old")
    LedgerAdmin(ledger, "jobplan").upgrade("0")
    assert value(ledger, "SELECT pg_get_viewdef('jobplan.running'::regclass)") == before


def test_the_view_runs_fast_beside_many_runs(ledger: str) -> None:
    """A thousand runs of the last day have ended; only their rows in `runs` are read while nothing runs."""
    ask(
        ledger,
        "INSERT INTO jobplan.runs (run, plan, sha256, jobplan, host, os_pid, started_at, finished_at)"
        " SELECT 'r' || n, 'p', '', '', '', 1, now(), now() FROM generate_series(1, 1000) AS n",
    )
    explained = value(ledger, "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM jobplan.running")
    assert explained[0]["Plan"]["Actual Rows"] == 0
