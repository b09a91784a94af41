"""What `show`, the JSON log and the history say of a step: why it failed, where, how many rows, how long it took."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from runner.preflight.step_durations import recorded
from runner.records.summaries import previous_runs
from tests.acceptance.console import Database, Jobplan, until

#: A step that fails, what is said of it, and the line of the plan: the step's is 6.
FAILURES = [
    ("sql: SELECT 41\n  expect: {value: 42}", "42", 6),
    ("sql: SELECT 1 WHERE false\n  expect: {rows: 1}", "row", 6),
    ("sql: INSERT INTO t VALUES (1)\n  verify: SELECT false", "verify", 6),
    ("sql: |\n    SELECT 1,\n      missing\n    FROM t", 'column "missing" does not exist', 9),
]


@pytest.mark.parametrize(("step", "says", "line"), FAILURES)
def test_show_says_why_and_where_a_step_failed(jobplan: Jobplan, db: Database, step: str, says: str, line: int) -> None:
    db.run("CREATE TABLE t (x int)")
    plan = jobplan.plan(f"- id: wrong\n  {step}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    shown = jobplan("show", "last").out
    row = next(one for one in shown.splitlines() if one.startswith("wrong"))
    assert says in row
    assert f"{plan}:{line}" in row
    (found,) = json.loads(jobplan("show", "last", "--format", "json").out)["steps"]
    assert says in found["error"]
    assert (found["file"], found["line"]) == (str(plan), line)


def test_show_has_row_counts(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int)")
    plan = jobplan.plan("- {id: fill, sql: 'INSERT INTO t SELECT generate_series(1, 17)'}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    assert "INSERT 17" in jobplan("show", "last").out
    (step,) = json.loads(jobplan("show", "last", "--format", "json").out)["steps"]
    assert (step["rows"], step["error"], step["line"]) == (17, None, 6)
    assert step["seconds"] > 0


def log(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_json_log_says_how_long_how_much_and_where(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int)")
    plan = jobplan.plan("""
        - {id: fill, sql: "INSERT INTO t SELECT generate_series(1, 17)"}
        - id: wrong
          needs: [fill]
          retry: {max_attempts: 2, on: [division_by_zero]}
          sql: |
            SELECT 1
              / 0
        - {id: never, needs: [wrong], sql: SELECT 1}
        """)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--log-format", "json")
    lines = log(ran.err)
    ends = {line["step"]: line for line in lines if line["event"] == "step_finished"}
    fill, wrong = ends["fill"], ends["wrong"]
    assert (fill["rows"], fill["attempt"], fill["file"], fill["line"]) == (17, 1, str(plan), 6)
    assert fill["duration"] > 0
    assert (wrong["attempt"], wrong["file"], wrong["line"] >= 7) == (2, str(plan), True)
    assert "rows" not in wrong
    summary = lines[-1]
    assert (summary["event"], summary["exit_code"]) == ("summary", 1)
    assert summary["counts"] == {"succeeded": 1, "failed": 1, "skipped": 1}
    assert summary["duration"] > 0
    # the journal has the same facts
    kept = jobplan("show", "last", "--report", "jsonl=-").out
    of_journal = {line["step"]: line for line in log(kept) if line["event"] == "step_finished"}
    assert of_journal["wrong"]["line"] == wrong["line"]
    assert of_journal["fill"]["duration"] == fill["duration"]


def test_a_resumed_run_takes_as_long_as_its_runners_took(jobplan: Jobplan, db: Database) -> None:
    """A step of 25 s was forecast at 6 min: the time between two runners counted."""
    db.run("CREATE TABLE gate (open boolean); INSERT INTO gate VALUES (false)")
    plan = jobplan.plan("""
        - {id: slow, sql: "SELECT pg_sleep(0.5), 1 / (SELECT CASE WHEN open THEN 1 ELSE 0 END FROM gate)"}
        - {id: after, needs: [slow], sql: SELECT 1}
        """)
    began = time.monotonic()
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    db.run("UPDATE gate SET open = true")
    failed = time.monotonic()
    time.sleep(4)  # what must not count
    continued = time.monotonic()
    resumed = jobplan("resume", "last", "--dsn", db.dsn, "--log-format", "json")
    assert resumed.code == 0, resumed.err
    most = (failed - began) + (time.monotonic() - continued)
    runs = json.loads(jobplan("runs", "--format", "json").out)
    assert runs[0]["seconds"] < most
    steps = {step["step"]: step for step in json.loads(jobplan("show", "last", "--format", "json").out)["steps"]}
    assert 1.0 <= steps["slow"]["seconds"] < most
    assert steps["slow"]["attempts"] == 2
    end = next(line for line in log(resumed.err) if line["event"] == "step_finished" and line["step"] == "slow")
    assert 1.0 <= end["duration"] < most
    assert end["line"] == 6
    root = jobplan.folder / ".jobplan" / "runs"
    known = recorded(root, "trial").of("slow")
    assert known is not None
    assert 1.0 <= known.p50 < most
    (past,) = previous_runs(root, "trial", time.time())
    assert 1.0 <= past.steps["slow"][0] < most
    page = jobplan("show", "last", "--report", "prometheus=-").out
    (seconds,) = [
        float(one.split()[-1]) for one in page.splitlines() if one.startswith("jobplan_run_duration_seconds{")
    ]
    assert seconds < most


def test_an_attempt_that_another_runner_sees_end_counts_as_a_whole(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_advisory_xact_lock(7), verify: SELECT true}")
    holder = db.elsewhere("holder")
    holder.execute("SELECT pg_advisory_xact_lock(7)")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    launched = time.time()
    started.close()
    resumed = jobplan.start("resume", "last", "--dsn", db.dsn)
    (journal,) = (jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")
    until(lambda: "run_resumed" in journal.read_text(encoding="utf-8"), seconds=60)
    holder.close()
    released = time.time()
    assert resumed.ended().code == 0
    (step,) = json.loads(jobplan("show", "last", "--format", "json").out)["steps"]
    assert (step["state"], step["attempts"]) == ("succeeded", 1)
    assert step["seconds"] >= released - launched - 1


def test_the_end_of_a_cancelled_run_has_the_same_words_everywhere(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(120)}", defaults="{timeout: 5m, on_finish: wait}")
    files = {"jsonl": "events.jsonl", "html": "run.html", "markdown": "run.md"}
    reports = [part for kind, file in files.items() for part in ("--report", f"{kind}={file}")]
    started = jobplan.start("run", plan, "--dsn", db.dsn, *reports)
    db.until_workers("slow")
    assert jobplan("cancel", str(jobplan.events()[0]["run"]), "--dsn", db.dsn).code == 0
    ran = started.ended()
    assert ran.code == 1
    assert re.search(r"run \S+ cancelled: 1 cancelled", ran.err), ran.err
    assert ": cancelled (exit code 1)" in jobplan("show", "last").out.splitlines()[0]
    assert "` cancelled in " in (jobplan.folder / "run.md").read_text(encoding="utf-8").splitlines()[0]
    assert re.search(r"<title>\S+ cancelled, run", (jobplan.folder / "run.html").read_text(encoding="utf-8"))
