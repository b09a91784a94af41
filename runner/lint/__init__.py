"""The safety rules: what PostgreSQL would refuse, block or do at 3 a.m., found before anything runs.

`lint` judges a plan; `load_plan` is that of `runner.plan` with the rules applied, and with `read_plan` the way in for
every command: what does not validate does not run either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from runner.errors import ParameterError, PlanError, Position, Problem, Severity
from runner.lint.parameter_rules import BODY_RULES
from runner.lint.rule import Rule
from runner.lint.rule_table import RULES
from runner.lint.suppressions import Sources, enabled, without_ignored
from runner.lint.syntax_rules import GRAMMAR_RULES, OPTION_RULES
from runner.lint.transaction_rules import ALONE_RULES, WORKER_RULES
from runner.plan.loading import Loaded, without_collection
from runner.plan.loading import load_plan as load_unchecked
from runner.plan.model import Plan
from runner.plan.parameters import OF_GIVEN_VALUES
from runner.plan.parsed_sql import read_subject
from runner.plan.problem_collector import grouped

_MAX_MESSAGE = 400  # characters
#: Rules that look at nothing but the SQL text of one step.
_OF_SQL_ALONE = (*GRAMMAR_RULES, *WORKER_RULES, *ALONE_RULES, *BODY_RULES, *OPTION_RULES)

#: Problems with the parameters of a SQL text.
_OF_PARAMETERS = frozenset({"JP220", "JP221"})

__all__ = ["RULES", "Sources", "invalid_plan", "lint", "load_plan", "read_plan"]


def lint(plan: Plan, sources: Sources | None = None) -> tuple[Problem, ...]:
    """Return what the rules find in a plan, by file and line, without what comments in its files ignore.

    `sources` are the files' lines, where they have been read already.
    """
    codes = [rule.code for rule in RULES]
    sources = sources or Sources()
    wanted = enabled(plan, sources, {rule.code for rule in RULES if rule.optional})
    rules = [rule for rule in RULES if not rule.optional or rule.code in wanted]
    kept = without_ignored(_problems(plan, rules), plan, sources, codes)
    return grouped(sorted(dict.fromkeys(kept), key=_order(plan)))


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
    with without_collection():
        loaded = load_unchecked(
            path, given=given, params_file=params_file, environment=environment, require_values=require_values
        )
        problems = loaded.problems
        if loaded.plan is not None:
            problems += lint(loaded.plan, sources)
        elif loaded.draft is not None:
            problems = _with_sql_alone(loaded.draft, problems, sources or Sources())
    invalid = any(problem.severity is Severity.ERROR for problem in problems)
    plan = None if invalid else loaded.plan
    shown = tuple(map(_shortened, problems))
    return Loaded(plan=plan, problems=shown, draft=loaded.draft, unjudged=loaded.unjudged)


def read_plan(
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    params_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    require_values: bool = True,
) -> Plan:
    """Return a plan that is ready to run; PlanError, with every error but no warning, if it is invalid.

    ParameterError, which is one, if nothing is wrong but the values of its parameters.

    Without `require_values`, parameters may be without one: the plan is only to be looked at.
    """
    loaded = load_plan(
        path, given=given, params_file=params_file, environment=environment, require_values=require_values
    )
    if loaded.plan is None:
        raise invalid_plan(path, loaded)
    return loaded.plan


def invalid_plan(path: str | Path, loaded: Loaded) -> PlanError:
    """Return the error that lists every error of a plan, but no warning."""
    errors = tuple(problem for problem in loaded.problems if problem.severity is Severity.ERROR)
    count = f"{len(errors)} problem{'s' if len(errors) > 1 else ''}"
    if all(problem.code in OF_GIVEN_VALUES for problem in errors):
        return ParameterError(f"{path} cannot run with these parameters: {count}", errors)
    return PlanError(f"{path} is not a valid plan: {count}", errors)


def _shortened(problem: Problem) -> Problem:
    """Cut the middle out of a message that repeats a very long word of the file; PostgreSQL's own do."""
    message = problem.message
    if len(message) <= _MAX_MESSAGE:
        return problem
    return replace(problem, message=f"{message[: _MAX_MESSAGE // 2]}…{message[-_MAX_MESSAGE // 2 :]}")


def _problems(plan: Plan, rules: Iterable[Rule]) -> Iterable[Problem]:
    subject = read_subject(plan)
    return (finding.problem(rule.code) for rule in rules for finding in rule.check(subject))


def _with_sql_alone(draft: Plan, problems: tuple[Problem, ...], sources: Sources) -> tuple[Problem, ...]:
    """Add what is wrong with the SQL of a plan that has other errors, as far as each text tells it by itself.

    No other rule makes sense before the errors are gone. What is reported already, such as a quote that is never
    closed, is not told a second time.
    """
    told = {problem.position for problem in problems}
    # A parameter that cannot stand where it does is read as a number, which may be no SQL.
    lines = {(one.position.file, one.position.line) for one in problems if one.code in _OF_PARAMETERS}
    rules = {rule.code for rule in _OF_SQL_ALONE}
    kept = without_ignored(_problems(draft, _OF_SQL_ALONE), draft, sources, rules)
    found = [
        problem
        for problem in kept
        if problem.code in rules and problem.position not in told
        if problem.code != "JP300" or (problem.position.file, problem.position.line) not in lines
    ]
    return grouped(sorted((*problems, *dict.fromkeys(found)), key=_order(draft))) if found else problems


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
