"""Attacks on what a resume believes: a worker's name, without a ledger and with a step that must not run twice."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, until

RENAMINGS = {
    "set": "SET application_name = 'something else'",
    "trace function": "SELECT trace()",
    "empty": "SET application_name = ''",
    "another run": "SET application_name = 'jobplan:260101-aaaaaa:other'",
}

#: A session that has looked at what runs on the server.
#: The sessions of `attach` that have polled the server for a second.
LOOKED = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE application_name = 'jobplan looking' AND query_start > backend_start + interval '1 second'"
)


@pytest.fixture
def done(db: Database) -> Database:
    """A database with a table that steps write to, a lock, and a function that changes the session's name."""
    db.run("CREATE TABLE done (step text); CREATE TABLE gate ()")
    db.run(
        "CREATE FUNCTION trace() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('application_name', 'trace ' || clock_timestamp(), false); END $$"
    )
    return db


def workers(db: Database) -> list[int]:
    """Return the pids of all workers in this database, whatever they are called."""
    return db.column(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
    )


def journal(jobplan: Jobplan, run: str) -> list[dict[str, Any]]:
    """Read the run's journal."""
    path = jobplan.folder / ".jobplan" / "runs" / run / "events.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def killed(jobplan: Jobplan, db: Database, plan: Path) -> str:
    """Run the plan until its worker is recorded, kill the runner, and return the run's id."""
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    started.send(signal.SIGKILL)
    started.ended()
    return str(jobplan.events()[0]["run"])


@pytest.mark.parametrize("how", sorted(RENAMINGS))
@pytest.mark.parametrize("verified", [True, False], ids=["verify", "no verify"])
def test_a_step_that_must_not_run_twice_and_changes_its_name_is_followed_after_kill_9_and_runs_once(
    jobplan: Jobplan, done: Database, how: str, verified: bool
) -> None:
    sql = f"{RENAMINGS[how]}; LOCK TABLE gate; INSERT INTO done VALUES ('slow')"
    verify = ", verify: SELECT EXISTS (SELECT FROM done WHERE step = 'slow')" if verified else ""
    plan = jobplan.plan(
        f"""
        - {{id: slow, sql: "{sql}"{verify}}}
        - {{id: last, sql: INSERT INTO done VALUES ('last'), needs: [slow]}}
        """,
        defaults="{timeout: 5m, on_finish: wait}",
    )
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = killed(jobplan, done, plan)
        (pid,) = workers(done)
        assert f"pid {pid}" in jobplan("status", "--dsn", done.dsn).out
        resumed = jobplan.start("resume", run)
        until(lambda: any(event["event"] == "run_resumed" for event in journal(jobplan, run)))
        assert workers(done) == [pid], "a second one was launched"
    ended = resumed.ended()
    assert done.value("SELECT count(*) FROM done WHERE step = 'slow'") == 1
    assert (
        sum(event["event"] == "attempt_launching" and event["step"] == "slow" for event in journal(jobplan, run)) == 1
    )
    assert ended.code == (0 if verified else 7), ended.err
    assert done.value("SELECT count(*) FROM done WHERE step = 'last'") == (1 if verified else 0)


@pytest.mark.parametrize("how", sorted(RENAMINGS))
def test_attach_follows_a_worker_that_has_changed_its_name(jobplan: Jobplan, done: Database, how: str) -> None:
    plan = jobplan.plan(
        f"- {{id: slow, sql: \"{RENAMINGS[how]}; LOCK TABLE gate; INSERT INTO done VALUES ('slow')\"}}",
        defaults="{timeout: 5m, on_finish: wait}",
    )
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = killed(jobplan, done, plan)
        attached = jobplan.start("attach", run)
        until(lambda: bool(done.column(LOOKED)) or not attached.alive)
        assert attached.alive
    ended = attached.ended()
    assert "slow" in ended.out
    assert done.value("SELECT count(*) FROM done") == 1


# --- a server without a free worker -----------------------------------------------------------------------------------


def test_steps_for_which_the_server_has_no_worker_are_not_said_to_have_started(
    jobplan: Jobplan, small_server: str
) -> None:
    with psycopg.connect(small_server, autocommit=True) as hog:
        hog.execute("CREATE EXTENSION IF NOT EXISTS pg_background")
        with contextlib.suppress(psycopg.Error):
            for _ in range(20):  # more than the server has
                hog.execute("SELECT pg_background_launch('SELECT pg_sleep(100)', 0, '')")
        plan = jobplan.plan(
            '- {id: each, for_each: {items: [1, 2, 3, 4, 5, 6, 7, 8]}, sql: "SELECT :item", queue_timeout: 3s}'
        )
        ran = jobplan("run", plan, "--dsn", small_server)
        hog.execute("SELECT pg_background_cancel_all()")
    assert ran.code == 1, ran.err
    assert not re.search(r": started", ran.err), ran.err
