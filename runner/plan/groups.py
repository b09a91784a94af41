"""Groups: a step with a chain of steps for each of its items, and the view of a plan in which they are written out.

A run expands a group when its needs are met: each step of the chain becomes, for each item, a step of its own, such as
`per_index[orders_pkey].rebuild`. What looks at a plan without running it needs the steps of a chain once, as the plan
has them: `written_out` returns a plan in which a group is replaced by its steps, each a `for_each` with the id
`per_index.rebuild`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from runner.identity import inner_key
from runner.plan.model import Bound, Need, NeedOn, ParamType, Plan, Step, Value
from runner.plan.parameters import read_value
from runner.sql.placeholders import plain_text
from runner.structs import replace

#: What PostgreSQL writes for a boolean.
_BOOLEANS = {"t": True, "f": False}


def is_group(step: Step) -> bool:
    """Return whether the step has a chain of steps instead of SQL."""
    return bool(step.steps)


def written_steps(plan: Plan) -> tuple[Step, ...]:
    """Return all steps of the plan as written out, those of `finally` last."""
    written = written_out(plan)
    return written.all_steps


def written_out(plan: Plan) -> Plan:
    """Return the plan with the steps of its groups instead of the groups; the plan itself if it has none.

    The first steps of a chain need what the group needs, and a step that needs the group needs the last steps of the
    chain. Of one item this is the order of a run; steps of different items have no order.
    """
    if not any(map(is_group, plan.all_steps)):
        return plan
    ends = {step.id: step for step in plan.all_steps if is_group(step)}
    return replace(
        plan,
        steps=tuple(each for step in plan.steps for each in _written(step, ends)),
        finally_=tuple(each for step in plan.finally_ for each in _written(step, ends)),
    )


def _written(step: Step, groups: Mapping[str, Step]) -> Iterator[Step]:
    needs = tuple(dict.fromkeys(found for need in step.needs for found in _resolved(need, groups)))
    if not is_group(step):
        yield step if needs == step.needs else replace(step, needs=needs)
        return
    for inner in step.steps:
        own = tuple(Need(step=inner_key(step.id, need.step), on=need.on) for need in inner.needs)
        yield replace(
            inner,
            id=inner_key(step.id, inner.id),
            needs=own or needs,
            for_each=step.for_each,
            bound=step.bound,
            group=step.id,
        )


def _resolved(need: Need, groups: Mapping[str, Step]) -> Iterator[Need]:
    """Yield a need; for one of a group, the needs of the last steps of its chain."""
    group = groups.get(need.step)
    if group is None:
        yield need
        return
    needed = {inner_need.step for inner in group.steps for inner_need in inner.needs}
    for inner in group.steps:
        if inner.id not in needed:
            # A step that only runs after a failure is skipped when its group succeeds.
            after_failure = any(inner_need.on is NeedOn.FAILURE for inner_need in inner.needs)
            on = NeedOn.DONE if after_failure else need.on
            yield Need(step=inner_key(group.id, inner.id), on=on)


def steps_of_groups(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Return the ids of the steps of each group, in a plan as written out."""
    found: dict[str, list[str]] = defaultdict(list)
    for step in plan.all_steps:
        if step.group is not None:
            found[step.group].append(step.id)
    return {group: tuple(ids) for group, ids in found.items()}


def has_parallel_items(step: Step) -> bool:
    """Return whether two items of the step, or of its group, can be under way at the same time."""
    for_each = step.for_each
    return for_each is not None and for_each.max_parallel != 1 and (for_each.sql is not None or len(for_each.items) > 1)


def constants(step: Step) -> Mapping[str, Value]:
    """Return the bound parameters whose values do not depend on the item."""
    return {bound.param.name: bound.value for bound in step.bound if bound.value is not None}


def bound_to_items(step: Step) -> Mapping[str, Bound]:
    """Return the bound parameters whose values are those of the item, by name."""
    return {bound.param.name: bound for bound in step.bound if bound.value is None and bound.source is not None}


def bound_values(parameters: Iterable[Bound], item: Mapping[str, Value | None]) -> dict[str, Value | None]:
    """Return the values of a group's bound parameters for one item.

    ValueError, with a sentence that continues "the value", if the item's value is not of the parameter's type.
    """
    found: dict[str, Value | None] = {}
    for bound in parameters:
        raw = item.get(bound.source or "") if bound.value is None else bound.value
        if raw is None:
            found[bound.param.name] = None
            continue
        try:
            found[bound.param.name] = read_value(bound.param, _readable(bound.param.type, raw))
        except ValueError as error:
            raise ValueError(f"of `{bound.param.name}` {error}") from None
    return found


def values_or_texts(step: Step, item: Mapping[str, Value | None]) -> dict[str, Value | None]:
    """Return the same for an item that was checked before, by another version of the plan: a wrong value is a text."""
    try:
        return bound_values(step.bound, item)
    except ValueError:
        return {bound.param.name: bound.value or item.get(bound.source or "") for bound in step.bound}


def _readable(kind: ParamType, raw: Value) -> object:
    """Return an item's value as `read_value` takes it: items of a query are texts, those of the plan also numbers."""
    if kind is ParamType.BOOLEAN:
        return _BOOLEANS.get(raw, raw) if isinstance(raw, str) else raw
    return plain_text(raw)
