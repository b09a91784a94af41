"""The safety rules: they find what PostgreSQL would refuse, what blocks other sessions and what loses data.

`lint` applies the rules to a plan. `check_plan` is `runner.plan.load_plan` with the rules applied. Every command loads
plans with it or with `read_plan`, so that an invalid plan does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict, Unpack

from runner.errors import ParameterError, PlanError, Position, Problem, Severity
from runner.lint import (
    blocking_rules,
    data_rules,
    lock_conflict_rules,
    parameter_rules,
    plan_rules,
    repeat_rules,
    suppressions,
    syntax_rules,
    transaction_rules,
)
from runner.lint.parameter_rules import BODY_RULES
from runner.lint.rule import Rule
from runner.lint.suppressions import Sources, enabled, without_ignored
from runner.lint.syntax_rules import GRAMMAR_RULES, OPTION_RULES
from runner.lint.transaction_rules import ALONE_RULES, WORKER_RULES
from runner.phrases import counted
from runner.plan.groups import written_steps
from runner.plan.loading import Loaded, load_plan, without_collection
from runner.plan.model import Plan
from runner.plan.parameters import OF_GIVEN_VALUES
from runner.plan.parsed_sql import of_on_retry, read_subject
from runner.plan.problem_collector import grouped

#: The modules with rules; each has them in its `RULES`. A module is named here, and in no other place.
_MODULES: Final = (
    syntax_rules,
    transaction_rules,
    blocking_rules,
    data_rules,
    plan_rules,
    repeat_rules,
    parameter_rules,
    lock_conflict_rules,
    suppressions,
)
#: Every rule, by code. Codes are stable: none is given to another rule, and a retired one is never used again.
RULES: Final[tuple[Rule, ...]] = tuple(
    sorted(chain.from_iterable(module.RULES for module in _MODULES), key=lambda rule: rule.code)
)
_MAX_MESSAGE = 400  # characters
#: Rules that need only the SQL text of one step.
_OF_SQL_ALONE = (*GRAMMAR_RULES, *WORKER_RULES, *ALONE_RULES, *BODY_RULES, *OPTION_RULES)

#: Rules about what a worker refuses, whichever text of the plan it executes.
_OF_A_WORKER = frozenset(rule.code for rule in (*WORKER_RULES, *ALONE_RULES, *BODY_RULES, *OPTION_RULES))

#: Problems with the parameters of a SQL text.
_OF_PARAMETERS = frozenset({"JP220", "JP221"})

__all__ = ["RULES", "Sources", "check_plan", "invalid_plan", "lint", "read_plan"]


#: The severity that switches a rule off.
OFF = "off"


def lint(
    plan: Plan, sources: Sources | None = None, *, severities: Mapping[str, str] = MappingProxyType({})
) -> tuple[Problem, ...]:
    """Return the findings of the rules in a plan, by file and line, without those that comments ignore.

    `sources` are the files' lines, where they have been read already. `severities` are those that the project sets, by
    code: `error` or `warning`, which also switches an optional rule on, or `off`.
    """
    codes = [rule.code for rule in RULES]
    sources = sources or Sources()
    wanted = enabled(plan, sources, {rule.code for rule in RULES if rule.optional})
    wanted |= severities.keys()
    rules = [rule for rule in RULES if not rule.optional or rule.code in wanted]
    kept = without_ignored(_problems(plan, rules), plan, sources, codes)
    return grouped(_as_wanted(sorted(dict.fromkeys(kept), key=_order(plan)), severities))


def _as_wanted(problems: Iterable[Problem], severities: Mapping[str, str]) -> Iterable[Problem]:
    """Yield the findings of rules with the severities that the project sets, without those that are off."""
    for problem in problems:
        wanted = severities.get(problem.code)
        if wanted is None:
            yield problem
        elif wanted != OFF:
            yield replace(problem, severity=Severity(wanted))


class PlanInputs(TypedDict, total=False):
    """What gives the parameters of a plan their values, as in `runner.plan.load_plan`."""

    given: Mapping[str, str] | None
    params_file: str | Path | None
    environment: Mapping[str, str] | None
    defaults: Mapping[str, str] | None
    require_values: bool


def check_plan(
    path: str | Path,
    *,
    severities: Mapping[str, str] | None = None,
    sources: Sources | None = None,
    **inputs: Unpack[PlanInputs],
) -> Loaded:
    """Read and check a plan, and return every problem; no content of the file raises an error.

    Parameters have their values, so that rules see the tables that they name; `severities` are as in `lint`. The result
    has the plan if there is no error; warnings are among the problems.
    """
    severities = severities or {}
    with without_collection():
        loaded = load_plan(path, **inputs)
        problems = loaded.problems
        if loaded.plan is not None:
            problems += lint(loaded.plan, sources, severities=severities)
        elif loaded.draft is not None:
            problems = tuple(_as_wanted(_with_sql_alone(loaded.draft, problems, sources or Sources()), severities))
    invalid = any(problem.severity is Severity.ERROR for problem in problems)
    plan = None if invalid else loaded.plan
    shown = tuple(map(_shortened, problems))
    return Loaded(
        plan=plan, problems=shown, draft=loaded.draft, unjudged=loaded.unjudged, values_file=loaded.values_file
    )


def read_plan(path: str | Path, *, severities: Mapping[str, str] | None = None, **inputs: Unpack[PlanInputs]) -> Plan:
    """Return a plan that is ready to run; PlanError, with every error but no warning, if it is invalid.

    ParameterError, which is a PlanError, if only the values of its parameters are wrong. With `require_values=False`
    parameters need no values: the plan is not run.
    """
    inputs.setdefault("require_values", True)
    loaded = check_plan(path, severities=severities, **inputs)
    if loaded.plan is None:
        raise invalid_plan(path, loaded)
    return loaded.plan


def invalid_plan(path: str | Path, loaded: Loaded) -> PlanError:
    """Return the error that lists every error of a plan, but no warning."""
    errors = tuple(problem for problem in loaded.problems if problem.severity is Severity.ERROR)
    count = counted(len(errors), "problem")
    values = loaded.values_file
    if all(problem.code in OF_GIVEN_VALUES or (values and problem.position.file == values) for problem in errors):
        return ParameterError(f"{path} cannot run with these parameters: {count}", errors)
    return PlanError(f"{path} is not a valid plan: {count}", errors)


def _shortened(problem: Problem) -> Problem:
    """Remove the middle of a message with a very long word of the file, as PostgreSQL does."""
    message = problem.message
    if len(message) <= _MAX_MESSAGE:
        return problem
    return replace(problem, message=f"{message[: _MAX_MESSAGE // 2]}…{message[-_MAX_MESSAGE // 2 :]}")


def _problems(plan: Plan, rules: Iterable[Rule]) -> Iterable[Problem]:
    rules = tuple(rules)
    subject = read_subject(plan)
    yield from (finding.problem(rule.code) for rule in rules for finding in rule.check(subject))
    further = of_on_retry(subject)
    if further.steps:
        for rule in rules:
            if rule.code in _OF_A_WORKER:
                yield from (finding.problem(rule.code) for finding in rule.check(further))


def _with_sql_alone(draft: Plan, problems: tuple[Problem, ...], sources: Sources) -> tuple[Problem, ...]:
    """Add findings about the SQL of a plan that has other errors, from the rules that need only one text.

    The other rules need a plan without errors. A position that already has a problem, such as an unclosed quote, gets
    no second one.
    """
    reported = {problem.position for problem in problems}
    # A parameter in an impossible place is read as a number, which may not be valid SQL.
    lines = {(one.position.file, one.position.line) for one in problems if one.code in _OF_PARAMETERS}
    rules = {rule.code for rule in _OF_SQL_ALONE}
    kept = without_ignored(_problems(draft, _OF_SQL_ALONE), draft, sources, rules)
    found = [
        problem
        for problem in kept
        if problem.code in rules and problem.position not in reported
        if problem.code != "JP300" or (problem.position.file, problem.position.line) not in lines
    ]
    return grouped(sorted((*problems, *dict.fromkeys(found)), key=_order(draft))) if found else problems


def _order(plan: Plan) -> Callable[[Problem], tuple[int, Position, str, str]]:
    """Return the sort key of problems: the plan's file first, then other files in the order of their steps."""
    files = {plan.file: 0}
    for step in written_steps(plan):
        for file in (step.position.file, step.sql.start.file):
            files.setdefault(file, len(files))
    return lambda problem: (
        files.get(problem.position.file, len(files)),
        problem.position,
        problem.code,
        problem.message,
    )
