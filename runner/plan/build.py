"""Build a `Plan` from a checked document: included files, parameters, steps, and the rules between steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from runner.plan import control
from runner.plan.crossfield import check_steps
from runner.plan.declarations import declare_params
from runner.plan.fields import Fields
from runner.plan.files import PlanFiles
from runner.plan.includes import Includes, PlanFile
from runner.plan.model import Budget, Concurrency, OnConflict, OnFailure, Otherwise, Param, Plan, Requires, Value
from runner.plan.nodes import Mapping as MappingNode
from runner.plan.nodes import Scalar
from runner.plan.params import resolve_values
from runner.plan.plaintexts import check_plain_texts
from runner.plan.report import Report
from runner.plan.schema import check_shape
from runner.plan.scope import Scope, check_references, plan_scope
from runner.plan.steps import Draft, StepReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The values of a plan's parameters, by their source."""

    given: Mapping[str, str] = field(default_factory=dict)
    file_values: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    require_values: bool = False


def build_plan(root: MappingNode, path: Path, report: Report, inputs: Inputs) -> Plan:
    """Return the plan of a file; it must not be used if an error was reported."""
    fields = Fields(root.values, root, report, check_shape(root, report))
    main = PlanFile(fields=fields, name=root.source.name)
    files = PlanFiles(path, report)
    parts = Includes(files, report).collect(main, path.resolve())
    params = declare_params(part.fields for part in parts)
    values = _values(params, fields, report, inputs)
    budget = _budget(fields)
    run_timeout = fields.duration("run_timeout")
    requires = _requires(fields, plan_scope(params, status=False), report)
    drafts = _drafts(parts, params, files, report)
    check_steps(drafts, budget, run_timeout, _hidden(parts))
    for part in parts:
        check_plain_texts(part.fields, params, report)
    return Plan(
        name=fields.text("name"),
        budget=budget or Budget(slots=1),
        steps=tuple(draft.step for draft in drafts if not draft.finally_),
        finally_=tuple(draft.step for draft in drafts if draft.finally_),
        description=fields.text("description"),
        owner=fields.text("owner"),
        tags=frozenset(fields.texts("tags")),
        params=MappingProxyType(params),
        values=MappingProxyType(values),
        requires=requires,
        concurrency=_concurrency(fields),
        run_timeout=run_timeout,
        on_failure=fields.choice("on_failure", OnFailure.CONTINUE),
        file=root.source.name,
    )


def _values(params: Mapping[str, Param], fields: Fields, report: Report, inputs: Inputs) -> dict[str, Value]:
    values, problems = resolve_values(
        params,
        given=inputs.given,
        file_values=inputs.file_values,
        environment=inputs.environment,
        start=fields.position,
    )
    wrong = {problem.position for problem in problems}
    for problem in problems:
        report.add(problem.position, problem.code, problem.message, hint=problem.hint)
    if inputs.require_values:
        for name, param in params.items():
            if name not in values and param.position not in wrong:
                message = f"the parameter `{name}` has no default, and no value was given"
                report.add(param.position, "JP228", message, hint=f"give one: --param {name}=…")
    return values


def _budget(fields: Fields) -> Budget | None:
    budget = fields.mapping("budget")
    if budget is None:
        return None
    pools = budget.mapping("pools")
    limits = {name: pools.integer(name, 1) for name, _ in pools.pairs()} if pools else {}
    slots = budget.scalar("slots")
    if slots is None:
        return None
    return Budget(
        slots=budget.integer("slots", 1),
        reserve=budget.integer("reserve", 0),
        pools=MappingProxyType(limits),
        position=slots.position,
    )


def _requires(fields: Fields, scope: Scope, report: Report) -> Requires:
    requires = fields.mapping("requires")
    if requires is None:
        return Requires()
    database = requires.text("database")
    checks = control.read_checks(requires)
    for check in checks:
        check_references(check.sql, scope, report, step=None)
    return Requires(
        databases=(database,) if database else requires.texts("database"),
        server_version=requires.text("server_version") or None,
        extension_version=requires.text("extension_version") or None,
        standby=requires.boolean("standby"),
        role=requires.text("role") or None,
        preconditions=checks,
        otherwise=requires.choice("otherwise", Otherwise.FAIL) if requires.has("otherwise") else None,
    )


def _concurrency(fields: Fields) -> Concurrency | None:
    concurrency = fields.mapping("concurrency")
    if concurrency is None:
        return None
    return Concurrency(
        group=concurrency.text("group", fields.text("name")),
        on_conflict=concurrency.choice("on_conflict", OnConflict.FAIL),
    )


def _drafts(parts: tuple[PlanFile, ...], params: Mapping[str, Param], files: PlanFiles, report: Report) -> list[Draft]:
    main = parts[-1]
    node = main.fields.node("defaults")
    defaults = node.values if isinstance(node, MappingNode) else {}
    scope = plan_scope(params, status=False)
    last_scope = plan_scope(params, status=True)
    drafts: list[Draft] = []
    for part in parts:
        bad = part.fields.bad | main.fields.bad
        reader = StepReader(defaults=defaults, params=params, files=files, report=report, bad=bad)
        drafts += (reader.read(part, step, scope) for step in _mappings(part, "steps"))
        if part is main:
            drafts += (reader.read(part, step, last_scope, finally_=True) for step in _mappings(part, "finally"))
    return drafts


def _hidden(parts: tuple[PlanFile, ...]) -> dict[str, str]:
    """Return each id as its included file has it, with the id after the prefix was added."""
    ids = ((part, step.values.get("id")) for part in parts if part.prefix for step in _mappings(part, "steps"))
    return {node.text: part.prefix + node.text for part, node in ids if isinstance(node, Scalar)}


def _mappings(part: PlanFile, key: str) -> Iterator[MappingNode]:
    return (node for node in part.fields.items(key) if isinstance(node, MappingNode))
