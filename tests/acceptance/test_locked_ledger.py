"""ACCESS EXCLUSIVE on a table of the ledger: every command ends with a message, and nothing runs twice."""

from __future__ import annotations

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan

TABLES = ("meta", "runs", "events", "commits", "plans", "keys")
PATIENT = "{timeout: 5m, on_finish: wait}"
COMMANDS = (
    ("dry-run", "plan.yaml"),
    ("status",),
    ("doctor",),
    ("ledger", "status"),
    ("ledger", "install"),
    ("ledger", "purge", "--older-than", "1d"),
    ("ledger", "restore", "last", "--journal", "new"),
    ("ledger", "remove", "--yes"),
    ("resume", "last", "--from-ledger", "--journal", "newer"),
    ("attach", "260101-abcdef"),
    ("cancel", "260101-abcdef"),
)


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
        started = [jobplan.start(*command, "--dsn", done.dsn) for command in COMMANDS]
        for command, one in zip(COMMANDS, started, strict=True):
            ended = one.ended(120.0)
            print(table, command, ended.code, ended.out[-300:], ended.err[-300:])
            assert ended.code in (0, 2, 4), (command, ended.code, ended.out, ended.err)
            assert "Traceback" not in ended.err
    assert done.column("SELECT run FROM jobplan.runs")
