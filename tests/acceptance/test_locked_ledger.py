"""ACCESS EXCLUSIVE on a table of the ledger: every command ends with a message, and nothing runs twice."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, until

TABLES = ("meta", "runs", "events", "commits", "plans", "keys")
PATIENT = "{timeout: 5m, on_finish: wait}"
#: Commands, and how they may end. They run at the same time, so that they also meet the locks of each other.
COMMANDS: dict[tuple[str, ...], tuple[int, ...]] = {
    ("dry-run", "plan.yaml"): (0, 4),
    ("status",): (0, 4),
    ("doctor",): (0, 4),
    ("ledger", "status"): (0, 4),
    ("ledger", "install"): (0, 4),
    ("ledger", "purge", "--older-than", "1d"): (0, 4),
    ("ledger", "restore", "last", "--journal", "new"): (0, 4),
    ("ledger", "remove", "--yes"): (4,),
    ("resume", "last", "--from-ledger", "--journal", "newer"): (0, 4),
    ("attach", "260101-abcdef"): (2,),
    ("cancel", "260101-abcdef"): (2,),
}


@pytest.fixture
def done(db: Database, jobplan: Jobplan) -> Database:
    """A database with a ledger, a table that steps write to, and one that they wait for."""
    db.run("CREATE TABLE done (step text); CREATE TABLE gate ()")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    return db


@pytest.mark.parametrize("table", TABLES)
def test_a_lock_on_a_table_of_the_ledger_stops_no_command(jobplan: Jobplan, done: Database, table: str) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    assert jobplan("run", plan, "--dsn", done.dsn).code == 0
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute(f"LOCK TABLE jobplan.{table}".encode())
        started = {command: jobplan.start(*command, "--dsn", done.dsn) for command in COMMANDS}
        for command, one in started.items():
            ended = one.ended(120.0)
            assert ended.code in COMMANDS[command], (command, ended.code, ended.out, ended.err)
            assert "Traceback" not in ended.err
    assert len(done.column("SELECT run FROM jobplan.runs")) == 1


@pytest.mark.parametrize("table", TABLES)
def test_a_lock_on_a_table_of_the_ledger_delays_no_run_and_changes_no_outcome(
    jobplan: Jobplan, done: Database, table: str
) -> None:
    """The lock is taken in mid-run, and held until the run has ended and was looked at and cancelled."""
    plan = jobplan.plan(
        """
        - {id: first, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('first')"}
        - {id: second, sql: INSERT INTO done VALUES ('second'), needs: [first]}
        - {id: slow, sql: "SELECT pg_sleep(60); INSERT INTO done VALUES ('slow')", needs: [second]}
        """,
        defaults=PATIENT,
    )
    with psycopg.connect(done.dsn) as keeper:
        with psycopg.connect(done.dsn) as gate:
            gate.execute("LOCK TABLE gate")
            started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
            until(lambda: jobplan.happened("attempt_running"))
            if table != "commits":  # else the worker itself holds a lock on it
                keeper.execute(f"LOCK TABLE jobplan.{table}".encode())
        until(lambda: done.workers() == ["slow"] or not started.alive, seconds=60)
        if table == "commits":
            keeper.execute("SET lock_timeout = '5s'")
            with contextlib.suppress(psycopg.Error):
                keeper.execute(f"LOCK TABLE jobplan.{table}".encode())
        run = str(jobplan.events()[0]["run"])
        seen = jobplan("status", run, "--dsn", done.dsn)
        assert (seen.code, "slow" in seen.out) == (0, True), seen.out + seen.err
        cancelled = jobplan("cancel", run, "--dsn", done.dsn)
        assert cancelled.code == 0, cancelled.out + cancelled.err
        ended = started.ended(120.0)
        assert ended.code == 1, ended.err
        assert jobplan.events()[-1]["steps"] == {"first": "succeeded", "second": "succeeded", "slow": "cancelled"}
    plan.write_text(plan.read_text(encoding="utf-8").replace("pg_sleep(60)", "pg_sleep(0)"), encoding="utf-8")
    resumed = jobplan("resume", run, "--allow-changed")
    assert resumed.code == 0, resumed.err
    assert done.column("SELECT step FROM done ORDER BY 1") == ["first", "second", "slow"]
