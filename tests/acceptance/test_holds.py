"""Holds and `yield_after` on a real server, through the command line."""

from __future__ import annotations

import json
import signal
import threading
from typing import Any

from tests.acceptance.console import Database, Jobplan, until

_SWITCH = "[{name: switch, while: SELECT on_ FROM switch, every: 200ms, release_after: 300ms}]"


def named(jobplan: Jobplan, event: str) -> list[dict[str, Any]]:
    return [one for one in jobplan.events() if one["event"] == event]


def test_nothing_starts_while_a_hold_is_on_and_running_workers_continue(jobplan: Jobplan, done: Database) -> None:
    done.run("CREATE TABLE switch (on_ bool); INSERT INTO switch VALUES (false)")
    plan = jobplan.plan(
        """
        - {id: first, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('first')"}
        - {id: second, sql: "INSERT INTO done VALUES ('second')", needs: [first]}
        - {id: free, sql: "INSERT INTO done VALUES ('free')", needs: [first], holds: []}
        """,
        holds=_SWITCH,
    )
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    done.run("UPDATE switch SET on_ = true")
    until(lambda: jobplan.happened("hold_began"))
    keeper.rollback()
    until(lambda: done.value("SELECT count(*) FROM done WHERE step = 'free'") == 1)
    assert done.value("SELECT count(*) FROM done WHERE step = 'first'") == 1
    assert not any(event["step"] == "second" for event in named(jobplan, "attempt_launching"))
    shown = jobplan("status", "--dsn", done.dsn)
    assert "held by switch for" in shown.out
    done.run("UPDATE switch SET on_ = false")
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert "hold switch: on (while is true); no step that it concerns starts" in ran.err
    assert "hold switch: released after" in ran.err
    names = [(event["event"], event.get("step")) for event in jobplan.events()]
    assert names.index(("hold_measured", None)) < names.index(("attempt_launching", "first"))
    assert names.index(("hold_ended", None)) < names.index(("attempt_launching", "second"))


def test_show_and_every_report_say_what_was_held(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE switch (on_ bool); INSERT INTO switch VALUES (true)")
    reports = [f"{kind}=run.{kind}" for kind in ("html", "junit", "markdown", "prometheus")]
    more = [word for report in reports for word in ("--report", report)]
    plan = jobplan.plan("- {id: a, sql: SELECT 1}", holds=_SWITCH)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl", *more)
    until(lambda: jobplan.happened("hold_began"))
    db.run("UPDATE switch SET on_ = false")
    assert started.ended().code == 0
    run = jobplan.events()[0]["run"]
    shown = jobplan("show", run)
    assert "hold switch: on (while is true)" in shown.out
    assert "held for" in shown.out
    record = json.loads(jobplan("show", run, "--format", "json").out)
    (hold,) = record["holds"]
    assert (hold["hold"], hold["value"], hold["failed"]) == ("switch", "while is true", False)
    assert hold["since"] < hold["until"]
    assert record["steps"][0]["held_seconds"] > 0
    for kind in ("html", "junit", "markdown"):
        text = (jobplan.folder / f"run.{kind}").read_text(encoding="utf-8")
        assert "hold switch: on (while is true)" in text, kind
        assert "hold switch: released after" in text, kind
    metrics = (jobplan.folder / "run.prometheus").read_text(encoding="utf-8").splitlines()
    (seconds,) = [float(line.split()[-1]) for line in metrics if line.startswith("jobplan_run_hold_seconds{")]
    assert seconds > 0


def test_a_hold_longer_than_at_most_fails_the_waiting_steps_as_held(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        """
        - {id: a, sql: SELECT 1, queue_timeout: 500ms}
        - {id: b, sql: SELECT 1, needs: [a]}
        - {id: c, sql: SELECT 1, holds: []}
        """,
        holds="[{name: always, while: SELECT true, every: 200ms, at_most: 2s}]",
        **{"finally": "[{id: last, sql: SELECT 1}]"},
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 1
    ends = {event["step"]: event for event in named(jobplan, "step_finished")}
    assert (ends["a"]["state"], ends["a"]["reason"]) == ("failed", "held")
    assert "held by `always` for its at_most of 2.0s: while is true" in ends["a"]["error"]["message"]
    assert (ends["c"]["state"], ends["last"]["state"]) == ("succeeded", "succeeded")


def test_a_query_that_fails_counts_as_held_and_is_reported(jobplan: Jobplan, db: Database) -> None:
    holds = "[{name: broken, while: SELECT on_ FROM switch, every: 200ms, release_after: 0s}]"
    started = jobplan.start(
        "run", jobplan.plan("- {id: a, sql: SELECT 1}", holds=holds), "--dsn", db.dsn, "--report", "jsonl=events.jsonl"
    )
    until(lambda: jobplan.happened("hold_began"))
    (began,) = named(jobplan, "hold_began")
    assert began["error"]["sqlstate"] == "42P01"
    db.run("CREATE TABLE switch AS SELECT false AS on_")
    ran = started.ended()
    assert ran.code == 0
    assert 'it cannot be measured: relation "switch" does not exist (SQLSTATE 42P01)' in ran.err


def test_a_step_that_blocks_a_writer_yields_and_is_tried_again(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int); CREATE TABLE written (x int)")
    reader = db.elsewhere("reader")
    reader.execute("SELECT * FROM t")  # ALTER TABLE waits for it, and the writer waits for ALTER TABLE
    plan = jobplan.plan(
        """
        - id: alter
          sql: ALTER TABLE t ADD COLUMN y int
          lock_timeout: 1m
          timeout: 2m
          yield_after: 2s
          retry: {max_attempts: 10, delay: 1s, on: [yielded]}
        """
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    writer = db.elsewhere("shop")
    writer.execute("INSERT INTO t VALUES (1)")  # returns as soon as the step has yielded
    writer.commit()
    writer.close()
    until(lambda: jobplan.happened("step_retrying"))
    reader.rollback()
    reader.close()
    ran = started.ended()
    assert ran.code == 0, ran.err
    blocking = named(jobplan, "attempt_blocking")[0]
    (other, *_) = blocking["others"]
    assert (other["name"], other["mode"], other["relation"], other["query"]) == (
        "shop",
        "RowExclusiveLock",
        "public.t",
        "INSERT",
    )
    assert other["seconds"] >= 2
    ends = named(jobplan, "attempt_finished")
    assert (ends[0]["outcome"], ends[0]["reason"]) == ("failed", "yielded")
    assert "app 'shop'" in ends[0]["error"]["message"]
    assert ends[-1]["outcome"] == "succeeded"
    assert "app 'shop'" in jobplan("show", jobplan.events()[0]["run"]).out


def test_a_runner_that_is_killed_while_a_step_yields_is_resumed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int); CREATE TABLE gate ()")
    plan = jobplan.plan(
        """
        - id: locks
          sql: LOCK TABLE t IN ACCESS EXCLUSIVE MODE; LOCK TABLE gate
          idempotent: true
          yield_after: 500ms
          retry: {max_attempts: 5, delay: 200ms, on: [yielded]}
        """
    )
    keeper = db.elsewhere("keeper")
    keeper.execute("LOCK TABLE gate")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    with db.elsewhere("shop") as writer:
        blocked = threading.Thread(target=writer.execute, args=("INSERT INTO t VALUES (1)",))
        blocked.start()
        until(lambda: jobplan.happened("attempt_blocking"))
        started.send(signal.SIGKILL)
        assert started.ended().code == -signal.SIGKILL
        keeper.rollback()
        blocked.join()  # the worker has ended by the cancel, or has done its work
        writer.commit()
    run = jobplan.events()[0]["run"]
    resumed = jobplan("resume", run)
    assert resumed.code == 0, resumed.err
    step = json.loads(jobplan("show", run, "--format", "json").out)["steps"][0]
    assert step["state"] == "succeeded"
    assert step["blocked_sessions"][0]["name"] == "shop"


def test_a_hold_is_measured_again_by_a_runner_that_resumes(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE switch (on_ bool); INSERT INTO switch VALUES (true)")
    started = jobplan.start(
        "run",
        jobplan.plan("- {id: a, sql: SELECT 1}", holds=_SWITCH),
        "--dsn",
        db.dsn,
        "--report",
        "jsonl=events.jsonl",
    )
    until(lambda: jobplan.happened("hold_began"))
    started.send(signal.SIGKILL)
    started.ended()
    db.run("UPDATE switch SET on_ = false")
    run = jobplan.events()[0]["run"]
    resumed = jobplan("resume", run, "--report", "jsonl=again.jsonl")
    assert resumed.code == 0, resumed.err
    names = [event["event"] for event in jobplan.events("again.jsonl")]
    assert names.index("run_resumed") < names.index("hold_measured") < names.index("attempt_launching")
