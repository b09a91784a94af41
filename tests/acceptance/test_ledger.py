"""`jobplan ledger`, and what the ledger does for a run whose runner was killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import Database, Jobplan, until

_WHERE_ELSE = " If the run used another server or schema, pass --dsn, or set JOBPLAN_LEDGER_SCHEMA."
STEPS = """
    - {id: one, sql: INSERT INTO done VALUES ('one')}
    - {id: two, sql: SELECT 1/0, allow_failure: true}
"""


@pytest.fixture
def done(db: Database) -> Database:
    """A database with a table that steps write to."""
    db.run("CREATE TABLE done (step text)")
    return db


def test_from_install_to_remove(jobplan: Jobplan, done: Database) -> None:
    env = {"JOBPLAN_DSN": done.dsn}
    status = jobplan("ledger", "status", env=env)
    assert (status.code, status.out) == (3, "no ledger in schema jobplan; create it: jobplan ledger install\n")
    installed = jobplan("ledger", "install", env=env)
    assert (installed.code, installed.out) == (0, "the ledger was created in schema jobplan\n")
    assert jobplan("ledger", "install", env=env).out == "the ledger already exists in schema jobplan\n"
    assert jobplan("ledger", "upgrade", env=env).out == "the ledger has version 3 already\n"
    ran = jobplan("run", jobplan.plan(STEPS), "-v", env=env)
    assert ran.code == 0
    assert "ledger: schema jobplan" in ran.lines
    assert done.column("SELECT outcome FROM jobplan.attempts ORDER BY step") == ["succeeded", "failed"]
    assert done.column("SELECT step FROM jobplan.failures") == ["two"]
    found = json.loads(jobplan("ledger", "status", "--format", "json", env=env).out)
    assert (found["installed"], found["writable"], found["runs"]) == (True, True, 1)
    assert "runs:    1, with" in jobplan("ledger", "status", env=env).out
    assert jobplan("ledger", "purge", "--older-than", "1d", env=env).out == "0 runs deleted\n"
    assert jobplan("ledger", "purge", "--older-than", "0s", env=env).out == "1 run deleted\n"
    asked = jobplan("ledger", "remove", env=env)
    assert asked.code == 130
    assert "Drop the ledger in schema jobplan, with 0 runs?" in asked.err
    assert jobplan("ledger", "remove", "--yes", env=env).out == "the ledger was dropped\n"
    assert done.column("SELECT nspname FROM pg_namespace WHERE nspname = 'jobplan'") == []


def test_without_a_ledger_it_is_mentioned_only_with_verbose(jobplan: Jobplan, done: Database) -> None:
    ran = jobplan("run", jobplan.plan(STEPS), "--dsn", done.dsn)
    assert ran.code == 0
    assert "ledger" not in ran.err
    verbose = jobplan("run", jobplan.plan(STEPS), "--dsn", done.dsn, "-v")
    assert "no ledger: there is no schema jobplan" in verbose.lines


def test_a_ledger_may_have_another_name_and_may_be_left_alone(jobplan: Jobplan, done: Database) -> None:
    env = {"JOBPLAN_DSN": done.dsn, "JOBPLAN_LEDGER_SCHEMA": 'a "ledger"'}
    assert jobplan("ledger", "install", env=env).code == 0
    assert jobplan("run", jobplan.plan(STEPS), "--no-ledger", env=env).code == 0
    assert done.value('SELECT count(*) FROM "a ""ledger""".runs') == 0
    assert jobplan("run", jobplan.plan(STEPS), env=env).code == 0
    assert done.value('SELECT count(*) FROM "a ""ledger""".runs') == 1
    assert jobplan("ledger", "status", "--schema", "jobplan", env=env).code == 3


@pytest.mark.parametrize("arguments", [("--schema", ""), ("--schema", "x" * 64)])
def test_a_schema_that_cannot_be_is_refused(jobplan: Jobplan, arguments: tuple[str, str]) -> None:
    ran = jobplan("ledger", "status", *arguments)
    assert ran.code == 2
    assert "is not the name of a schema" in ran.err


def test_what_cannot_be_done_is_said_in_a_line(jobplan: Jobplan, done: Database) -> None:
    database, host = done.value("SELECT current_database()"), conninfo_to_dict(done.dsn)["host"]
    for command, advice in (
        (("upgrade",), " Create it: jobplan ledger install"),
        (("purge", "--older-than", "1d"), ""),
        (("remove", "--yes"), ""),
        (("restore", "last"), _WHERE_ELSE),
    ):
        ran = jobplan("ledger", *command, "--dsn", done.dsn)
        assert ran.code == 4
        assert ran.err == (
            f"jobplan: there is no ledger in schema jobplan of the database {database} on {host}.{advice}\n"
        )
    resumed = jobplan("resume", "last", "--from-ledger", "--dsn", done.dsn)
    assert resumed.code == 4
    assert f"of the database {database} on {host}.{_WHERE_ELSE}" in resumed.err
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    unknown = jobplan("resume", "260101-abcdef", "--from-ledger", "--dsn", done.dsn)
    assert unknown.code == 4
    assert f"in schema jobplan of the database {database} on {host}.{_WHERE_ELSE}" in unknown.err
    assert jobplan("ledger", "purge", "--older-than", "long ago", "--dsn", done.dsn).code == 2


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_killed_runner_leaves_no_question(jobplan: Jobplan, done: Database, tmp_path: Path, elsewhere: bool) -> None:
    """Neither `verify` nor `idempotent`: the rows say which worker has committed."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """
        - {id: commits, sql: "INSERT INTO done SELECT 'commits' FROM pg_advisory_xact_lock(1)"}
        - id: is_stopped
          sql: |
            INSERT INTO done
            SELECT 'is_stopped' FROM pg_sleep(CASE WHEN EXISTS (SELECT FROM done) THEN 0 ELSE 60 END)
        - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [commits, is_stopped]}
        """,
        defaults="{timeout: 5m, on_finish: wait}",
    )
    keeper = done.elsewhere()
    keeper.execute("SELECT pg_advisory_xact_lock(1)")
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    done.until_workers("commits", "is_stopped")
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == 2)
    started.send(signal.SIGKILL)
    started.ended()
    keeper.rollback()
    done.until_workers("is_stopped")
    done.terminate("is_stopped")
    done.until_workers()
    run = jobplan.events()[0]["run"]
    journal: tuple[str | Path, ...] = ()
    if elsewhere:
        journal = ("--journal", tmp_path / "elsewhere")
        restored = jobplan("ledger", "restore", run, "--dsn", done.dsn, *journal)
        assert restored.code == 0, restored.err
        assert restored.out == f"{tmp_path / 'elsewhere' / run}\n"
        assert jobplan("show", run, *journal).code == 0
    resumed = jobplan("resume", run, "--dsn", done.dsn, *journal)
    assert resumed.code == 0, resumed.err
    assert "commits: its last worker completed its work (evidence: ledger)" in resumed.lines
    assert (
        "is_stopped: its last worker did not complete its work (evidence: ledger); the step runs again" in resumed.lines
    )
    assert done.column("SELECT step FROM done ORDER BY step") == ["commits", "is_stopped", "last"]
    assert done.value("SELECT exit_code FROM jobplan.runs") == 0


def test_another_shell_sees_in_the_ledger_what_the_server_does_not_know(
    jobplan: Jobplan, done: Database, tmp_path: Path
) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """
        - {id: first, sql: INSERT INTO done VALUES ('first')}
        - {id: commits, sql: "INSERT INTO done SELECT 'commits' FROM pg_advisory_xact_lock(1)", needs: [first]}
        - {id: slow, sql: SELECT pg_sleep(240), needs: [first]}
        - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [commits, slow]}
        """,
        defaults="{timeout: 5m, on_finish: wait}",
    )
    keeper = done.elsewhere()
    keeper.execute("SELECT pg_advisory_xact_lock(1)")
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    done.until_workers("commits", "slow")
    known = "SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running' AND step <> 'first'"
    until(lambda: done.value(known) == 2)
    started.send(signal.SIGKILL)
    started.ended()
    keeper.rollback()
    done.until_workers("slow")
    run = jobplan.events()[0]["run"]
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "JOBPLAN_DSN": done.dsn, "JOBPLAN_JOURNAL": str(home)}
    shown = jobplan("status", run, env=env)
    assert shown.code == 0, shown.err
    assert f"run {run} of trial: RUNNER LOST, 1 orphaned worker" in shown.out
    assert "  1 succeeded, 2 running, 1 pending (ledger in schema jobplan)" in shown.out
    assert "  commits: committed (evidence: its row in the ledger)" in shown.out
    (reported,) = json.loads(jobplan("status", run, "--format", "json", env=env).out)["runs"]
    assert (reported["plan"], reported["record"]["source"]) == ("trial", "ledger")
    assert reported["record"]["counts"] == {"succeeded": 1, "running": 2, "pending": 1}
    assert (reported["record"]["steps"], reported["record"]["committed"]) == ({"first": "succeeded"}, ["commits"])
    assert jobplan("cancel", run, env=env).code == 0


#: A plan that ends badly until there is a table that it asks for.
INSTANCES = """
    - id: each
      for_each: {sql: "SELECT unnest('{x,y}'::text[]) AS name", as: item}
      sql: INSERT INTO done VALUES (:'item')
    - {id: last, sql: SELECT FROM wanted, needs: [each]}
"""


def lines(folder: Path, run: str) -> list[str]:
    return (folder / run / "events.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("lost", ["seq >= (SELECT seq FROM jobplan.events WHERE event = 'step_expanded')", "true"])
def test_a_resume_with_the_journal_writes_what_the_ledger_lacks(jobplan: Jobplan, done: Database, lost: str) -> None:
    """A killed runner has written more to its journal than to the ledger; or the ledger was made only later."""
    env = {"JOBPLAN_DSN": done.dsn}
    assert jobplan("ledger", "install", env=env).code == 0
    assert jobplan("run", jobplan.plan(INSTANCES), env=env).code == 1
    (run,) = done.column("SELECT run FROM jobplan.runs")
    done.run(f"DELETE FROM jobplan.events WHERE {lost}")
    if lost == "true":
        done.run("DELETE FROM jobplan.runs; DELETE FROM jobplan.plans")
    done.run("CREATE TABLE wanted ()")
    resumed = jobplan("resume", str(run), env=env)
    assert resumed.code == 0, resumed.err
    restored = jobplan("ledger", "restore", str(run), "--journal", "elsewhere", env=env)
    assert restored.code == 0, restored.err
    journal = lines(jobplan.folder / ".jobplan" / "runs", str(run))
    assert [json.loads(line) for line in lines(jobplan.folder / "elsewhere", str(run))] == [
        json.loads(line) for line in journal
    ]
    assert done.column("SELECT step FROM done ORDER BY step") == ["x", "y"]
    assert done.value("SELECT started_at = min(at) FROM jobplan.runs, jobplan.events GROUP BY started_at")


def test_a_ledger_that_lacks_what_the_rest_follows_from_restores_nothing(jobplan: Jobplan, done: Database) -> None:
    env = {"JOBPLAN_DSN": done.dsn}
    assert jobplan("ledger", "install", env=env).code == 0
    assert jobplan("run", jobplan.plan(INSTANCES), env=env).code == 1
    done.run("DELETE FROM jobplan.events WHERE event = 'step_expanded'")
    restored = jobplan("ledger", "restore", "last", "--journal", "elsewhere", env=env)
    assert restored.code == 4
    assert "it lacks events on which others depend" in restored.err
    assert "Resume it with its journal: that completes the ledger" in restored.err
    assert not (jobplan.folder / "elsewhere").exists()
    done.run("CREATE TABLE wanted ()")
    assert jobplan("resume", "last", env=env).code == 0
    assert jobplan("ledger", "restore", "last", "--journal", "elsewhere", env=env).code == 0


def test_a_worker_that_outlives_its_runner_is_followed_and_then_known(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """- {id: slow, sql: "INSERT INTO done SELECT 'slow' FROM pg_sleep(8)"}""",
        defaults="{timeout: 5m, on_finish: wait}",
    )
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    done.until_workers("slow")
    started.send(signal.SIGKILL)
    started.ended()
    resumed = jobplan("resume", "last", "--dsn", done.dsn)
    assert resumed.code == 0, resumed.err
    assert done.column("SELECT step FROM done") == ["slow"]
