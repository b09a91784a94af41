"""What people see of the ledger: the views, and every query of its page in the manual."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from runner.engine import events as ev
from runner.gateway.ledger.admin import LedgerAdmin
from runner.plan.model import Expect
from tests.builders import plan, step
from tests.integration.gateway_setups import (
    GATE,
    LAUNCHERS,
    ask,
    open_transaction,
    real_run,
    run_plan,
    signal_sessions,
    until,
    value,
)

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def ledger(database: str) -> str:
    """A database of this test's own, with a ledger."""
    LedgerAdmin(database, "jobplan").install("0")
    return database


def rows(dsn: str, query: str) -> list[dict[str, object]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


async def test_every_query_of_the_manual_gives_what_it_says(ledger: str) -> None:
    noisy = "DO $$ BEGIN RAISE NOTICE 'hello'; END $$"
    ask(ledger, "CREATE TABLE paid (id int)")
    check = Expect(value=42, has_value=True)
    steps = [
        *(step("a", "SELECT 1"), step("b", "SELECT 1/0"), step("c", noisy)),
        step("d", "INSERT INTO paid VALUES (1) RETURNING 41", expect=check),
    ]
    for _ in range(2):
        await run_plan(ledger, plan(*steps), ledger="jobplan")
    found = {query: rows(ledger, query) for query in QUERIES}
    assert len(found) == 9
    check_failed = next(result for query, result in found.items() if "check_failed" in query)
    assert [(row["step"], row["check_failed"]) for row in check_failed] == [("d", "expected 42, got 41")] * 2
    by_view = {view: result for query, result in found.items() for view in re.findall(r"FROM jobplan\.(\w+)", query)}
    assert by_view["running"] == []
    assert [(row["step"], row["sqlstate"]) for row in by_view["failures"]] == [("b", "22012")] * 2
    durations = next(result for query, result in found.items() if "longest" in query)
    assert {row["step"]: row["n"] for row in durations} == {"a": 2, "c": 2, "d": 2}
    attempts = next(result for query, result in found.items() if "attempt, outcome" in query)
    assert {row["step"]: (row["outcome"], row["committed"]) for row in attempts} == {
        "a": ("succeeded", True),
        "b": ("failed", False),
        "c": ("succeeded", False),
        "d": ("succeeded", True),
    }
    notices = next(result for query, result in found.items() if "severity" in query)
    assert [row["message"] for row in notices] == ["hello"] * 2


async def test_running_workers_are_listed_with_the_sessions_that_are_connected(ledger: str) -> None:
    run, record = real_run(ledger, plan(step("a", "SELECT pg_sleep(60)")), run_id="views-running", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    running = "SELECT step, worker_lives, runner_lives FROM jobplan.running WHERE doing = 'Timeout: PgSleep'"
    await until(lambda: ask(ledger, running))
    assert ask(ledger, running) == [("a", True, True)]
    run.interrupt(2)
    await task
    assert not ask(ledger, "SELECT FROM jobplan.running")
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED}


async def test_a_detached_step_runs_until_it_has_committed(ledger: str) -> None:
    steps = step("a", GATE, detach=True)
    run, record = real_run(ledger, plan(steps), run_id="views-detached", ledger="jobplan")
    with open_transaction(ledger, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        run.interrupt(15)
        await task
        assert value(ledger, "SELECT outcome FROM jobplan.running") == "detached"
    await until(lambda: value(ledger, "SELECT committed FROM jobplan.attempts"))
    assert value(ledger, "SELECT outcome FROM jobplan.attempts") == "succeeded"
    assert not ask(ledger, "SELECT FROM jobplan.running")


async def test_what_a_dead_runner_has_left_is_seen_as_far_as_it_is_known(ledger: str) -> None:
    steps = (step("done", GATE), step("gone", "DO $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"))
    run, record = real_run(ledger, plan(*steps), run_id="views-dead", ledger="jobplan")
    with open_transaction(ledger, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: len(record.of(ev.AttemptRunning)) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        signal_sessions(ledger, "views-dead", LAUNCHERS)
    await until(lambda: value(ledger, "SELECT bool_and(NOT worker_lives) FROM jobplan.running"))
    outcomes = ask(ledger, "SELECT step, outcome, committed FROM jobplan.attempts ORDER BY step")
    assert outcomes == [("done", "succeeded", True), ("gone", "running", False)]
    assert ask(ledger, "SELECT step, worker_lives, runner_lives FROM jobplan.running") == [("gone", False, False)]


async def test_an_old_failure_is_not_of_this_week(ledger: str) -> None:
    await run_plan(ledger, plan(step("a", "SELECT 1/0")), ledger="jobplan")
    ask(ledger, "UPDATE jobplan.events SET at = at - interval '8 days'")
    assert not ask(ledger, "SELECT FROM jobplan.failures")
