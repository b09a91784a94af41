"""Connections, folders, files and names that are not what they seem."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import PATIENCE, Database, Jobplan, clean_environment, until

PATIENT = "{timeout: 5m, on_finish: wait}"
ONE = "- {id: one, sql: SELECT 1}"


@pytest.mark.parametrize("kind", ["database", "true"])
def test_a_walsender_is_no_server_for_plans(jobplan: Jobplan, done: Database, kind: str) -> None:
    plan = jobplan.plan(ONE)
    dsn = make_conninfo(done.dsn, replication=kind)
    for command in (
        ("run", plan),
        ("dry-run", plan),
        ("status",),
        ("doctor",),
        ("cancel", "260101-abcdef"),
        ("attach", "260101-abcdef"),
        ("ledger", "status"),
        ("ledger", "install"),
    ):
        ended = jobplan(*command, "--dsn", dsn)
        assert ended.code in (2, 4), (command, kind, ended.code, ended.out, ended.err)
        assert "Traceback" not in ended.err
        assert "replication" in ended.err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_journals_that_is_a_link_into_another_user_s_folder_is_not_resumed(
    jobplan: Jobplan, done: Database
) -> None:
    assert jobplan("run", jobplan.plan("- {id: fails, sql: SELECT 1/0}"), "--dsn", done.dsn).code == 1
    runs = jobplan.folder / ".jobplan" / "runs"
    (folder,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    elsewhere = jobplan.folder / "elsewhere"
    runs.rename(elsewhere)
    runs.symlink_to(elsewhere)
    assert jobplan("resume", folder.name).code == 1  # whose folder it is decides, not the link
    for owned in (elsewhere, elsewhere / folder.name):
        os.chown(owned, 65534, 65534)
        resumed = jobplan("resume", folder.name)
        assert resumed.code == 4, resumed.err
        assert "belongs to user 65534" in resumed.err
        os.chown(owned, 0, 0)
    os.chown(elsewhere, 65534, 65534)
    new = jobplan("run", "plan.yaml", "--dsn", done.dsn)
    assert new.code == 1, new.err  # to write there is no risk: nothing of it is executed


def test_a_plan_that_changes_while_it_runs_is_run_as_it_was_read(jobplan: Jobplan, done: Database) -> None:
    """And it is resumed as it was read, or not at all."""
    later = jobplan.folder / "later.sql"
    later.write_text("INSERT INTO done VALUES ('as read')", encoding="utf-8")
    plan = jobplan.plan(
        """
        - {id: slow, sql: "LOCK TABLE gate; SELECT 1"}
        - {id: later, sql_file: later.sql, needs: [slow]}
        - {id: fails, sql: "INSERT INTO done SELECT 'x' FROM wanted", needs: [later]}
        """,
        defaults=PATIENT,
    )
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.happened("attempt_running"))
        later.write_text("INSERT INTO done VALUES ('changed')", encoding="utf-8")
        plan.write_text(plan.read_text(encoding="utf-8").replace("wanted", "done"), encoding="utf-8")
    assert started.ended().code == 1
    assert done.column("SELECT step FROM done") == ["as read"]
    done.run("CREATE TABLE wanted AS SELECT 1")
    refused = jobplan("resume", "last")
    assert refused.code == 2, refused.err
    assert "has changed since run" in refused.err
    plan.unlink()
    later.unlink()
    assert jobplan("resume", "last").code == 0  # there is no file any more: the record has the plan
    assert done.column("SELECT step FROM done ORDER BY 1") == ["as read", "x"]


@pytest.mark.parametrize(
    "item",
    ["é" * 80, "😀" * 40, "x" * 62 + "é" * 40, "x" * 45 + "😀" * 9, "Ж" * 20 + "*/ DROP TABLE gate; /*"],
    ids=["é", "smileys", "é at 62", "smileys at 45", "a comment's end"],
)
def test_items_whose_names_are_cut_inside_a_character_are_found_and_cancelled(
    jobplan: Jobplan, done: Database, item: str
) -> None:
    plan = jobplan.plan(
        f"""
        - id: each
          for_each: {{items: [{json.dumps(item)}, {json.dumps(item + "2")}]}}
          sql: "SELECT pg_sleep(60), :'item'"
        """,
        defaults=PATIENT,
    )
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == 2)
    steps = sorted(event["step"] for event in jobplan.events() if event["event"] == "attempt_running")
    run = str(jobplan.events()[0]["run"])
    started.send(signal.SIGKILL)
    started.ended()
    seen = jobplan("status", "--dsn", done.dsn, "--format", "json")
    (found,) = (one for one in json.loads(seen.out)["runs"] if one["run"] == run)
    assert sorted(worker["step"] for worker in found["workers"]) == steps
    one = jobplan("cancel", run, "--step", steps[0], "--dsn", done.dsn, "--journal", "none")
    assert one.code == 0, one.err
    assert len(done.workers()) == 1
    rest = jobplan("cancel", run, "--dsn", done.dsn, "--journal", "none")
    assert rest.code == 0, rest.err
    assert done.workers() == []
    assert done.value("SELECT to_regclass('gate') IS NOT NULL")


def test_a_runner_with_little_memory_captures_hundreds_of_megabytes_cut(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        """
        - {id: rows, sql: "SELECT repeat('x', 50000000) AS a FROM generate_series(1, 8)", capture: {rows: 8}}
        - {id: notices, sql: "DO $$ BEGIN FOR i IN 1..8 LOOP RAISE NOTICE '%', repeat('n', 50000000); END LOOP; END $$"}
        - {id: error, sql: "DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 50000000); END $$", allow_failure: true}
        """,
        defaults="{timeout: 1m, on_finish: wait}",
        budget="{slots: 1}",
    )
    line = f"ulimit -v 900000; exec '{sys.executable}' -m runner run '{plan}' --dsn '{db.dsn}' --report jsonl=e.jsonl"
    ran = subprocess.run(
        ["bash", "-c", line],
        cwd=jobplan.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
    (journal,) = (jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")
    assert journal.stat().st_size < 2_000_000
    assert "left out" in journal.read_text(encoding="utf-8")
