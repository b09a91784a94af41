"""Load a plan from its file: read, check, build, and check the rules between steps. Every caller uses `load_plan`."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from runner.errors import Cause, Problem
from runner.plan import steps
from runner.plan.graph import find_cycles
from runner.plan.group_reader import GroupReader, find_chains, is_group_node, with_params_of_chains
from runner.plan.hold_reader import read_holds, with_holds
from runner.plan.model import (
    Budget,
    Concurrency,
    Need,
    NeedOn,
    OnConflict,
    OnFailure,
    Otherwise,
    Param,
    Plan,
    Requires,
)
from runner.plan.parameters import Inputs, bounded_matching, declare_params, raw_value, resolve_values
from runner.plan.plan_files import Includes, PlanFile, PlanFiles
from runner.plan.problem_collector import Report
from runner.plan.schema_check import check_shape
from runner.plan.sql_scope import Scope, check_plain_texts, check_references, plan_scope
from runner.plan.steps import Draft, StepReader
from runner.plan.window import check_window, read_window
from runner.plan.yaml_nodes import Fields, Node, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.plan.yaml_reader import read
from runner.structs import Struct

_SHOWN = 12


def _check_steps(
    drafts: Sequence[Draft], budget: Budget | None, run_timeout: float | None, hidden: Mapping[str, str]
) -> None:
    """Report problems between the steps; `budget` is None if the plan's budget is not valid.

    `hidden` has the ids as written in included files, with the ids that the prefix made of them.
    """
    by_id = _by_id(drafts)
    for draft in drafts:
        _check_needs(draft, by_id, hidden)
        if draft.fields.has("steps") or draft.fields.has("include"):
            _check_group(draft, by_id, budget, run_timeout)
        else:
            _check_alone(draft, budget, run_timeout)
    _check_cycles(by_id)


def _check_alone(draft: Draft, budget: Budget | None, run_timeout: float | None) -> None:
    _check_policy(draft)
    if budget is not None:
        _check_budget(draft, budget)
    if run_timeout is not None:
        _check_run_timeout(draft, run_timeout)


def _check_group(group: Draft, outside: Mapping[str, Draft], budget: Budget | None, run_timeout: float | None) -> None:
    by_id = _by_id(group.inner)
    for draft in group.inner:
        for need, node in draft.needs:
            if need.step not in by_id and need.step in outside:
                message = (
                    f"`{need.step}` is not a step of the group `{group.step.id}`, whose steps need only each other"
                )
                hint = f"write it in `needs` of `{group.step.id}`" if need.step != group.step.id else None
                draft.fields.add(node, "JP202", message, hint=hint)
        _check_needs(draft, {**outside, **by_id}, {}, inside=by_id)
        _check_alone(draft, budget, run_timeout)
    _check_cycles(by_id)


def _by_id(drafts: Iterable[Draft]) -> dict[str, Draft]:
    by_id: dict[str, Draft] = {}
    for draft in drafts:
        if not draft.step.id:
            draft.fields.report.unread_id = True
            continue
        first = by_id.setdefault(draft.step.id, draft)
        if first is not draft:
            message = f"the id `{draft.step.id}` is already used by the step at {first.step.position}"
            draft.fields.add(draft.place("id"), "JP201", message)
    return by_id


#: What each step must have: the key, the code of the problem, and an example.
_POLICIES: Final = (("timeout", "JP204", "10m"), ("on_finish", "JP205", "wait"))


def _check_policy(draft: Draft) -> None:
    name = draft.fields.step
    named = f"the step `{name}`" if name else "this step"
    report = draft.fields.report
    meant = report.meant.get(id(draft.fields.place), set()) | report.meant_in.get("defaults", set())
    missing = [policy for policy in _POLICIES if not draft.fields.has(policy[0]) and policy[0] not in meant]
    lines = " and ".join(f"`{key}: {example}`" for key, _, example in missing)
    what = f"paste two lines, {lines}," if len(missing) > 1 else f"write {lines}"
    into = "into" if len(missing) > 1 else "in"
    for key, code, _ in missing:
        message = f"{named} has no `{key}`, and `defaults` has none either"
        cause = Cause(key=key, part=draft.part, hint=f"{what} {into} `defaults`")
        hint = f"{what} {into} the step or {into} `defaults`"
        draft.fields.add(draft.fields, code, message, hint=hint, cause=cause)


def _check_needs(
    draft: Draft, by_id: Mapping[str, Draft], hidden: Mapping[str, str], inside: Mapping[str, Draft] | None = None
) -> None:
    """Check the needs of a step; of a step of a group, only those that are `inside` its chain."""
    forms: dict[str, tuple[type, NeedOn]] = {}
    for need, node in draft.needs:
        # The schema already forbids the same text twice.
        form = (type(node), need.on)
        if forms.setdefault(need.step, form) != form:
            draft.fields.add(node, "JP232", f"`{need.step}` is in `needs` twice")
        needed = by_id.get(need.step)
        if needed is None:
            known = by_id if inside is None else inside
            _report_unknown(draft, need, node, known, hidden)
        elif inside is None or need.step in inside:
            _check_need(draft, need, node, needed)


def _report_unknown(
    draft: Draft, need: Need, node: Node, by_id: Mapping[str, Draft], hidden: Mapping[str, str]
) -> None:
    """Report a need of an unknown step with the id as its file has it: without the prefix of an included file.

    If a step has no readable id, which is reported, it may be the one that is meant.
    """
    if draft.fields.report.unread_id:
        return
    word = node.values["step"] if isinstance(node, MappingNode) else node
    written = word.text if isinstance(word, Scalar) else need.step
    prefix = need.step.removesuffix(written)
    guesses = draft.fields.report.guesses
    if meant := hidden.get(need.step):
        hint: str | None = f"did you mean `{meant}`?"
    elif group := next((one for one in by_id.values() if any(inner.step.id == written for inner in one.inner)), None):
        hint = f"`{written}` is a step of the group `{group.step.id}`; a step outside needs the whole group"
    elif prefix and not guesses.spent:
        known = [step_id.removeprefix(prefix) for step_id in by_id if step_id.startswith(prefix)]
        hint = guesses.did_you_mean(written, known)
    else:
        hint = guesses.did_you_mean(written, by_id)
    where = " in this file" if prefix else ""
    draft.fields.add(node, "JP202", f"there is no step `{written}`{where}", hint=hint)


def _check_need(draft: Draft, need: Need, node: Node, needed: Draft) -> None:
    if needed.finally_ != draft.finally_:
        if draft.finally_:
            message = f"`{need.step}` has ended before any finally step starts; those can only need each other"
        else:
            message = f"`{need.step}` is a finally step, which starts when all other steps have ended"
        draft.fields.add(node, "JP234", message)
    elif not needed.step.waits:
        message = f"`{need.step}` is a detach step: the run may end before it does, so no step can need it"
        draft.fields.add(node, "JP206", message, hint=f"make `{need.step}` a step with `on_finish: wait`")


def _check_budget(draft: Draft, budget: Budget) -> None:
    step = draft.step
    if step.slots > budget.slots:
        message = f"`slots` is {step.slots}, but the budget has only {budget.slots}"
        draft.fields.add(draft.place("slots"), "JP207", message, hint="it could never start")
    places = _pool_places(draft) if step.pools else {}
    for pool, weight in step.pools.items():
        limit = budget.pools.get(pool)
        if limit is None:
            hint = draft.fields.report.guesses.did_you_mean(pool, budget.pools)
            hint = hint or f"declare it: `budget: {{pools: {{{pool}: 1}}}}`"
            draft.fields.add(places[pool], "JP208", f"the budget has no pool `{pool}`", hint=hint)
        elif weight > limit:
            message = f"the step takes {weight} of the pool `{pool}`, which has only {limit}"
            draft.fields.add(places[pool], "JP209", message, hint="it could never start")


def _pool_places(draft: Draft) -> Mapping[str, Scalar]:
    node = draft.fields.node("pools")
    if isinstance(node, MappingNode):
        return node.keys
    return {item.text: item for item in draft.fields.items("pools") if isinstance(item, Scalar)}


def _check_run_timeout(draft: Draft, run_timeout: float) -> None:
    step = draft.step
    if draft.finally_ or not step.waits or step.timeout is None or step.timeout <= run_timeout:
        return
    message = f"`timeout` is {draft.fields.text('timeout')}, but `run_timeout` ends the whole run before that"
    cause = Cause(key=draft.fields.text("timeout"), part=draft.part)
    draft.fields.add(
        draft.place("timeout"),
        "JP210",
        message,
        hint="raise `run_timeout`, or shorten `timeout`",
        cause=cause,
    )


def _check_cycles(by_id: Mapping[str, Draft]) -> None:
    needs = {step_id: [need.step for need, _ in draft.needs] for step_id, draft in by_id.items()}
    for step_id, needed in needs.items():
        # A need between a step and a finally step is a problem by itself.
        needs[step_id] = [need for need in needed if need in by_id and by_id[need].finally_ == by_id[step_id].finally_]
    for cycle in find_cycles(needs):
        draft = by_id[cycle[0]]
        node = next(node for need, node in draft.needs if need.step == cycle[1])
        shown = cycle if len(cycle) <= _SHOWN else (*cycle[: _SHOWN - 2], "…", cycle[-2], cycle[-1])
        message = f"these steps need each other in a cycle: {' → '.join(shown)}"
        if len(cycle) == 2:
            message = f"`{cycle[0]}` needs itself"
        draft.fields.add(node, "JP203", message)


def _build_plan(root: MappingNode, path: Path, report: Report, inputs: Inputs) -> Plan:
    """Return the plan of a file; it must not be used if an error was reported."""
    fields = Fields(root.values, root, report, check_shape(root, report))
    main = PlanFile(fields=fields, name=root.source.name)
    files = PlanFiles(path, report)
    includes = Includes(files, report)
    parts = includes.collect(main, path.resolve())
    chains = find_chains(parts, includes)
    params = with_params_of_chains(declare_params(part.fields for part in parts), chains)
    values = resolve_values(params, inputs, report, fields.position)
    budget = _budget(fields)
    run_timeout = fields.duration("run_timeout")
    scope = plan_scope(params, status=False)
    requires = _requires(fields, scope)
    holds = read_holds(fields, scope)
    drafts = with_holds(_drafts(parts, params, files, report, GroupReader(chains=chains, values=values)), holds)
    _check_steps(drafts, budget, run_timeout, _hidden(parts))
    window = read_window(fields)
    check_window(drafts, window, has_window=fields.has("window"))
    for part in parts:
        check_plain_texts(part.fields, params)
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
        window=window,
        holds=holds,
        run_timeout=run_timeout,
        on_failure=fields.choice("on_failure", OnFailure.CONTINUE),
        file=root.source.name,
    )


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


def _requires(fields: Fields, scope: Scope) -> Requires:
    requires = fields.mapping("requires")
    if requires is None:
        return Requires()
    database = requires.text("database")
    checks = steps.read_checks(requires)
    for check in checks:
        check_references(check.sql, scope, requires)
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


def _drafts(
    parts: tuple[PlanFile, ...], params: Mapping[str, Param], files: PlanFiles, report: Report, groups: GroupReader
) -> list[Draft]:
    main = parts[-1]
    node = main.fields.node("defaults")
    defaults = node.values if isinstance(node, MappingNode) else {}
    if main.fields.has("defaults") and not isinstance(node, MappingNode):  # what it would hold is not known
        report.meant_in.setdefault("defaults", set()).update(key for key, _, _ in _POLICIES)
    scope = plan_scope(params, status=False)
    last_scope = plan_scope(params, status=True)
    drafts: list[Draft] = []
    for part in parts:
        unusable = part.fields.unusable | main.fields.unusable
        reader = StepReader(
            defaults=defaults, params=params, values=groups.values, files=files, report=report, unusable=unusable
        )
        drafts += (_draft(reader, groups, part, step, scope, finally_=False) for step in _mappings(part, "steps"))
        if part is main:
            last = _mappings(part, "finally")
            drafts += (_draft(reader, groups, part, step, last_scope, finally_=True) for step in last)
    return drafts


def _draft(
    reader: StepReader, groups: GroupReader, part: PlanFile, node: MappingNode, scope: Scope, *, finally_: bool
) -> Draft:
    if is_group_node(node):
        return groups.read(reader, part, node, scope, finally_=finally_)
    return reader.read(part, node, scope, finally_=finally_)


def _hidden(parts: tuple[PlanFile, ...]) -> dict[str, str]:
    """Return each id as its included file has it, with the id after the prefix was added."""
    ids = ((part, step.values.get("id")) for part in parts if part.prefix for step in _mappings(part, "steps"))
    return {node.text: part.prefix + node.text for part, node in ids if isinstance(node, Scalar)}


def _mappings(part: PlanFile, key: str) -> Iterator[MappingNode]:
    return (node for node in part.fields.items(key) if isinstance(node, MappingNode))


class Loaded(Struct, frozen=True, kw_only=True):
    """The result of loading a file: the plan if there is no error, and every problem, in file order.

    `draft` is the plan as far as it could be built, also with errors; only its single SQL texts are reliable. None if
    the file could not be read. `unjudged` is the plan if its form has no error, also if rules about its SQL find some.
    `values_file` is the name of the file of values, empty without one.
    """

    plan: Plan | None
    problems: tuple[Problem, ...]
    draft: Plan | None = None
    unjudged: Plan | None = None
    values_file: str = ""


def load_plan(
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    params_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    require_values: bool = False,
) -> Loaded:
    """Read a plan, with every problem that it has; nothing in the file can make this raise.

    `given` are `--param` texts, `params_file` a YAML or JSON mapping, `environment` the process's environment,
    `defaults` those of the project's settings, in that order of precedence. `require_values` makes a parameter without
    any value an error.
    """
    report = Report()
    plan = None
    with without_collection(), bounded_matching():
        root = read(Path(path), str(path), report)
        file_values = {} if params_file is None else _read_values(Path(params_file), report)
        if file_values is None:  # which values it would give is not known
            file_values, require_values = {}, False
        if root is not None:
            inputs = Inputs(
                given=given or {},
                file_values=file_values,
                environment=environment or {},
                defaults=defaults or {},
                require_values=require_values,
            )
            plan = _build_plan(root, Path(path), report, inputs)
    valid = None if report.has_errors else plan
    values_file = "" if params_file is None else str(params_file)
    return Loaded(plan=valid, problems=report.problems(), draft=plan, unjudged=valid, values_file=values_file)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector: a large plan has a million objects and no cycles; collection doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_values(path: Path, report: Report) -> dict[str, object] | None:
    """Return a params file's values, None if it cannot be read; they are checked when the plan is built."""
    root = read(path, str(path), report, hint="a params file has `name: value` on each line", pipe=True)
    return None if root is None else {name: raw_value(node) for name, node in root.values.items()}
