"""The safety rules: what PostgreSQL would refuse, block or do at 3 a.m., found before anything runs.

`lint` judges a plan; `load_plan` and `read_plan` are those of `runner.plan` with the rules applied, and the way in for
every command: what does not validate does not run either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from runner.errors import PlanError, Position, Problem, Severity
from runner.lint.sources import Sources
from runner.lint.subject import read_subject
from runner.lint.suppress import without_ignored
from runner.lint.table import RULES
from runner.plan.loading import Loaded
from runner.plan.loading import load_plan as load_unchecked
from runner.plan.model import Plan

__all__ = ["RULES", "Sources", "lint", "load_plan", "read_plan"]


def lint(plan: Plan, sources: Sources | None = None) -> tuple[Problem, ...]:
    """Return what the rules find in a plan, by file and line, without what comments in its files ignore.

    `sources` are the files' lines, where they have been read already.
    """
    subject = read_subject(plan)
    problems = (
        Problem(
            position=finding.position,
            code=rule.code,
            message=finding.message,
            hint=finding.hint,
            severity=rule.severity,
            step=finding.step,
        )
        for rule in RULES
        for finding in rule.check(subject)
    )
    known = [rule.code for rule in RULES]
    kept = set(without_ignored(problems, plan, sources or Sources(), known))
    return tuple(sorted(kept, key=_order(plan)))


def load_plan(
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    params_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    require_values: bool = False,
    sources: Sources | None = None,
) -> Loaded:
    """Read and judge a plan, with every problem that it has; nothing in the file can make this raise.

    The values of parameters are as `runner.plan.load_plan` takes them: rules see the tables that they name. The plan is
    there if there is no error; warnings are among the problems.
    """
    loaded = load_unchecked(
        path, given=given, params_file=params_file, environment=environment, require_values=require_values
    )
    if loaded.plan is None:
        return loaded
    problems = (*loaded.problems, *lint(loaded.plan, sources))
    invalid = any(problem.severity is Severity.ERROR for problem in problems)
    return Loaded(plan=None if invalid else loaded.plan, problems=problems)


def read_plan(
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    params_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """Return a plan that is ready to run; PlanError, with every problem, if it has an error."""
    loaded = load_plan(path, given=given, params_file=params_file, environment=environment, require_values=True)
    if loaded.plan is None:
        errors = [problem for problem in loaded.problems if problem.severity is Severity.ERROR]
        count = f"{len(errors)} problem{'s' if len(errors) > 1 else ''}"
        raise PlanError(f"{path} is not a valid plan: {count}", tuple(errors))
    return loaded.plan


def _order(plan: Plan) -> Callable[[Problem], tuple[int, Position, str, str]]:
    """Return what sorts problems: the plan's file comes first, then the others as their steps come."""
    files = {plan.file: 0}
    for step in (*plan.steps, *plan.finally_):
        for file in (step.position.file, step.sql.start.file):
            files.setdefault(file, len(files))
    return lambda problem: (
        files.get(problem.position.file, len(files)),
        problem.position,
        problem.code,
        problem.message,
    )
