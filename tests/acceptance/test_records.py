"""`jobplan runs` and `jobplan show`: what was recorded, read back by a person or a program."""

from __future__ import annotations

import json
import re

from tests.acceptance.console import Database, Jobplan

STEPS = """
- {id: one, sql: SELECT 1}
- {id: each, for_each: {items: [a, b]}, sql: "SELECT :'item'"}
- {id: fails, sql: SELECT 1/0, retry: {max_attempts: 2, delay: 10ms}}
- {id: never, sql: SELECT 1, needs: [fails]}
"""


def test_runs_are_listed_shown_and_removed(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("run", jobplan.plan("- {id: one, sql: SELECT 1}"), "--dsn", db.dsn).code == 0
    assert jobplan("run", jobplan.plan(STEPS, name="second"), "--dsn", db.dsn).code == 1
    listed = json.loads(jobplan("runs", "--format", "json").out)
    assert [(run["plan"], run["standing"], run["exit_code"]) for run in listed] == [
        ("second", "finished", 1),
        ("trial", "finished", 0),
    ]
    assert listed[0]["steps"] == {"succeeded": 3, "failed": 1, "skipped": 1}
    lines = jobplan("runs").out.splitlines()
    assert lines[0].split() == ["RUN", "PLAN", "STARTED", "TOOK", "ENDED", "STEPS"]
    assert lines[1].startswith(listed[0]["run"])
    assert lines[1].endswith("failed     2 succeeded, 1 failed, 1 skipped")

    shown = jobplan("show", "last")
    assert shown.code == 0
    assert shown.out.startswith(f"run {listed[0]['run']} of second (")
    steps = {line.split()[0]: line.split()[1:] for line in _table(shown.out)}
    assert steps["fails"][:2] == ["failed", "2"]
    above, _, below = shown.out.partition("STEP")
    wrong = above.splitlines()[-4:-1]
    assert wrong[0] == "What went wrong:"
    assert wrong[1] == "  step fails: division by zero (SQLSTATE 22012)"
    assert re.fullmatch(r"    \S+\.yaml:\d+", wrong[2])
    assert below.splitlines()[-1] == f"Resume  jobplan resume {listed[0]['run']}"
    assert "Resume" not in jobplan("show", listed[1]["run"]).out
    assert "division by zero (SQLSTATE 22012)" in shown.out
    assert steps["never"] == ["skipped", "upstream:", "fails", "failed"]
    assert steps["each[a]"][0] == "succeeded"
    data = json.loads(jobplan("show", listed[1]["run"], "--format", "json").out)
    assert (data["plan"], data["exit_code"], data["steps"][0]["state"]) == ("trial", 0, "succeeded")

    assert jobplan("show", "last", "--report", "jsonl=events.jsonl").code == 0
    assert jobplan.events()[-1]["event"] == "run_finished"

    refused = jobplan("runs", "--prune")
    assert (refused.code, "--older-than" in refused.err) == (2, True)
    kept = jobplan("runs", "--prune", "--older-than", "30d")
    assert (kept.out, kept.err) == ("", "0 removed\n")
    pruned = jobplan("runs", "--prune", "--keep", "1")
    assert listed[1]["run"] in pruned.out
    assert [run["run"] for run in json.loads(jobplan("runs", "--format", "json").out)] == [listed[0]["run"]]


def test_one_step_is_shown_with_its_log(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("""
        - {id: talk, sql: "DO $$ BEGIN RAISE NOTICE 'half way'; END $$"}
        - {id: each, needs: [talk], for_each: {items: [a, b]}, sql: "SELECT :'item'"}
        """)
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    steps = {line.split()[0] for line in _table(jobplan("show", "last", "--step", "each").out)}
    assert steps == {"each", "each[a]", "each[b]"}
    log = jobplan("show", "--step", "talk", "--log", "last")
    assert log.code == 0
    assert "talk: NOTICE: half way" in log.out
    assert all("Z talk: " in line for line in log.out.splitlines())
    assert "each[a]: " in jobplan("show", "last", "--log").out
    data = json.loads(jobplan("show", "last", "--step", "talk", "--format", "json").out)
    assert [step["step"] for step in data["steps"]] == ["talk"]
    unknown = jobplan("show", "last", "--step", "tlak")
    assert (unknown.code, "Did you mean 'talk'?" in unknown.err) == (2, True)
    for more in (["--format", "json"], ["--report", "markdown=-"]):
        assert jobplan("show", "last", "--log", *more).code == 2


def _table(shown: str) -> list[str]:
    """Return the lines of the steps."""
    return shown.partition("STEP")[2].partition("\n\n")[0].splitlines()[1:]


def test_what_is_not_there(jobplan: Jobplan) -> None:
    ran = jobplan("show", "last")
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert "there is no run in .jobplan/runs" in ran.err
    ran = jobplan("runs")
    assert (ran.code, ran.out, ran.err) == (0, "", "no runs in .jobplan/runs\n")
    for arguments in (["--older-than", "1d"], ["--prune", "--older-than", "soon"]):
        assert jobplan("runs", *arguments).code == 2
