"""How a run is watched by machines: JSON lines on standard error, annotations and a summary in GitHub Actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.acceptance.console import Database, Jobplan, Ran

STEPS = """
- {id: good, sql: SELECT 1}
- {id: bad, sql: SELECT 1/0}
"""


def lines(ran: Ran) -> list[dict[str, Any]]:
    """Read standard error, which has to be JSON from the first line to the last."""
    return [json.loads(line) for line in ran.err.splitlines()]


def test_every_line_of_a_json_log_is_json(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan("run", jobplan.plan(STEPS), "--dsn", db.dsn, "--log-format", "json")
    assert (ran.code, ran.out) == (1, "")
    reported = lines(ran)
    assert reported[0]["event"] == "run_started"
    assert reported[-1]["event"] == "summary"
    assert reported[-1]["exit_code"] == 1
    (failed,) = (line for line in reported if line["event"] == "step_finished" and line["level"] == "error")
    assert (failed["step"], failed["error"]["sqlstate"]) == ("bad", "22012")
    assert "division by zero" in failed["message"]
    assert len({line["run"] for line in reported}) == 1


def test_what_keeps_a_run_from_starting_is_json_too(jobplan: Jobplan) -> None:
    ran = jobplan("run", jobplan.plan("- {id: a, sql: SELEC, needs: [b]}"), "--log-format", "json")
    assert ran.code == 3
    reported = lines(ran)
    assert {line["event"] for line in reported[:-1]} == {"problem"}
    assert reported[0]["line"] == 6
    assert reported[-1]["event"] == "error"
    ran = jobplan("run", jobplan.plan(STEPS), "--dsn", "host=/nowhere", "--log-format", "json")
    assert ran.code == 4
    assert lines(ran)[-1]["level"] == "error"


def test_github_gets_annotations_and_a_summary_by_themselves(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(STEPS)
    summary = jobplan.folder / "summary.md"
    environment = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(jobplan.folder),
    }
    ran = jobplan("run", plan, "--dsn", db.dsn, env=environment)
    assert ran.code == 1
    assert ran.out == "::error title=bad failed,file=plan.yaml,line=7,col=3::division by zero (SQLSTATE 22012)\n"
    assert "| `bad` | ❌ failed |" in summary.read_text(encoding="utf-8")
    assert not Path("summary.md").exists()
