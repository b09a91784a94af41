"""Waits for locks on a real server: events, log lines, `show` and every report have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.records.record import read_record
from tests.acceptance.console import Database, Jobplan, until


def locked_run(jobplan: Jobplan, db: Database, sql: str, lock: str, *more: str) -> tuple[dict[str, Any], str]:
    """Run a step behind another session's lock until the wait is recorded; return the two events and the log."""
    holder = db.elsewhere("nightly import")
    holder.execute(lock)
    started = jobplan.start(
        "run", jobplan.plan(f"- {{id: wait, sql: {sql}}}"), "--dsn", db.dsn, "--report", "jsonl=events.jsonl", *more
    )
    until(lambda: jobplan.happened("attempt_blocked"))
    holder.rollback()
    holder.close()
    ran = started.ended()
    assert ran.code == 0, ran.err
    return {event["event"]: event for event in jobplan.events()}, ran.err


@pytest.mark.parametrize(
    ("sql", "lock", "mode", "kind", "relation"),
    [
        ("VACUUM FULL t", "SELECT * FROM t", "AccessExclusiveLock", "relation", "public.t"),
        ("UPDATE t SET x = 2 WHERE x = 1", "UPDATE t SET x = 3 WHERE x = 1", "ShareLock", "transactionid", "public.t"),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_lock(7)", "ExclusiveLock", "advisory", None),
    ],
)
def test_each_kind_of_lock(
    jobplan: Jobplan, db: Database, sql: str, lock: str, mode: str, kind: str, relation: str | None
) -> None:
    db.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
    if kind == "advisory":
        lock = lock.replace("pg_advisory_lock", "pg_advisory_xact_lock")
    events, _ = locked_run(jobplan, db, sql, lock)
    blocked, unblocked = events["attempt_blocked"], events["attempt_unblocked"]
    assert (blocked["mode"], blocked["lock"], blocked.get("relation")) == (mode, kind, relation)
    assert blocked["seconds"] >= 1
    assert unblocked["seconds"] >= blocked["seconds"]
    (holder,) = blocked["by"]
    assert holder["name"] == "nightly import"
    assert holder["state"].startswith("idle in transaction")
    assert blocked["attempt"] == unblocked["attempt"] == 1


def test_a_wait_that_its_lock_timeout_ends_is_recorded_to_its_end(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int)")
    with db.elsewhere("reader") as holder:
        holder.execute("SELECT * FROM t")
        ran = jobplan(
            "run",
            jobplan.plan("- {id: drop, sql: ALTER TABLE t ADD y int, lock_timeout: 5s}"),
            "--dsn",
            db.dsn,
            "--report",
            "jsonl=events.jsonl",
        )
    assert ran.code == 1
    names = [event["event"] for event in jobplan.events() if event["event"].startswith("attempt_")]
    assert names[-3:] == ["attempt_blocked", "attempt_unblocked", "attempt_finished"]
    over = next(event for event in jobplan.events() if event["event"] == "attempt_unblocked")
    assert over["seconds"] >= 2


def test_show_and_every_report_have_the_wait(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int)")
    reports = [f"{kind}=run.{kind}" for kind in ("html", "junit", "markdown", "prometheus")]
    more = [word for report in reports for word in ("--report", report)]
    events, _ = locked_run(jobplan, db, "VACUUM FULL t", "SELECT * FROM t", *more)
    run = events["run_started"]["run"]
    words = "for AccessExclusiveLock on public.t, held by pid "
    shown = jobplan("show", run)
    assert words in shown.out
    (step,) = json.loads(jobplan("show", run, "--format", "json").out)["steps"]
    (wait,) = step["lock_waits"]
    assert (wait["mode"], wait["relation"]) == ("AccessExclusiveLock", "public.t")
    assert wait["seconds"] >= 1
    for kind in ("html", "junit", "markdown"):
        text = (jobplan.folder / f"run.{kind}").read_text(encoding="utf-8")
        assert words in text, kind
        again = jobplan.folder / f"again.{kind}"
        assert jobplan("show", run, "--report", f"{kind}={again}").code == 0
        assert words in again.read_text(encoding="utf-8")
    metrics = (jobplan.folder / "run.prometheus").read_text(encoding="utf-8").splitlines()
    (seconds,) = [float(line.split()[-1]) for line in metrics if line.startswith("jobplan_step_lock_wait_seconds{")]
    assert seconds >= 1


def test_the_monitor_asks_no_more_statements_for_it(jobplan: Jobplan, db: Database) -> None:
    """One look a second finds the workers, their full queues and their waits for locks."""
    text = (Path(__file__).parents[2] / "runner" / "gateway" / "queries.sql").read_text(encoding="utf-8")
    block = text.partition("-- name: workers\n")[2].partition("-- name:")[0]
    assert "MessageQueuePutMessage" in block
    assert "pg_blocking_pids" in block
    db.run("CREATE TABLE t (x int)")
    events, _ = locked_run(jobplan, db, "VACUUM FULL t", "SELECT * FROM t")
    record = read_record(jobplan.folder / ".jobplan" / "runs", events["run_started"]["run"])
    assert [event.name for event in record.events].count("attempt_blocked") == 1
