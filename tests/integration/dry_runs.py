"""What tests of the dry run share: how it is asked, plans to ask about, and words for what it found."""

from __future__ import annotations

import asyncio
import os
import textwrap
from pathlib import Path

from runner import load_plan
from runner.cli.dry_run import look
from runner.errors import Problem, Severity
from runner.plan.model import Plan
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import DryRun, StatementReport

PLANS = Path(__file__).parents[2] / "plans"
ROLE = f"jobplan_test_reviewed_{os.getpid()}"  # two test processes may share a given server


def dry_run(plan: Plan, dsn: str, *, explain: bool = True) -> DryRun:
    """Look at the plan on the server."""
    return asyncio.run(look(plan, dsn, DryRunOptions(explain=explain)))


def shipped(name: str, **params: str) -> Plan:
    """Return one of the project's plans."""
    return load_plan(PLANS / f"{name}.yaml", params=params)


def written(folder: Path, steps: str, **keys: str) -> Plan:
    """Return a plan of these steps."""
    top = {"version": "1", "name": "trial", "budget": "{slots: 2}"}
    top["defaults"] = "{timeout: 10m, lock_timeout: 2m, on_finish: wait}"
    head = "".join(f"{name}: {value}\n" for name, value in {**top, **keys}.items())
    path = folder / "plan.yaml"
    path.write_text(head + "steps:\n" + textwrap.dedent(steps).strip() + "\n", encoding="utf-8")
    return load_plan(path)


def errors(result: DryRun) -> list[Problem]:
    """Return the errors."""
    return [problem for problem in result.problems if problem.severity is Severity.ERROR]


def codes(problems: list[Problem]) -> set[str]:
    """Return the codes of problems."""
    return {problem.code for problem in problems}


def reports(result: DryRun) -> dict[str, StatementReport]:
    """Return what is said of each step's own SQL, if that is one statement."""
    return {one.step: one for one in result.statements if one.key == "sql"}


def reported(result: DryRun, code: str) -> list[Problem]:
    """Return the problems of a code."""
    return [problem for problem in result.problems if problem.code == code]
