"""Read `repeat`: when it ends, the values that one iteration passes to the next, and the parameter that it adapts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from runner.durations import format_duration
from runner.plan.model import Adapt, Carried, ForEach, Param, ParamType, Repeat, Value
from runner.plan.parameters import parse_value, raw_value
from runner.plan.yaml_nodes import Fields, Node
from runner.plan.yaml_nodes import Mapping as MappingNode

#: The limit of iterations of a repeat with `carry` that names none.
MOST_ITERATIONS: Final = 1_000_000
#: The largest value that `adapt` gives to a parameter without a maximum.
LARGEST: Final = 1_000_000_000
#: The shortest time for which a batch can be adapted: a worker alone takes some milliseconds.
SHORTEST_TARGET: Final = 0.01
_NO_ROWS: Final = "no_rows"
_RUN: Final = "run"


def read_repeat(
    fields: Fields, params: Mapping[str, Param], values: Mapping[str, Value], for_each: ForEach | None
) -> Repeat | None:
    """Return how a step is repeated. `values` are the parameters' values, as far as known."""
    repeat = fields.mapping("repeat")
    if repeat is None:
        return None
    until = None if repeat.text("until") == _NO_ROWS else repeat.sql("until")
    carry = _carry(repeat, params, for_each)
    if not repeat.has("max_iterations") and not repeat.has("carry"):
        message = "`repeat` has no `max_iterations`, which only a repeat with `carry` can do without"
        repeat.add(repeat, "JP256", message, hint="write the most iterations that the work can need")
    if carry:
        _check_result(fields)
    return Repeat(
        max_iterations=repeat.integer("max_iterations", MOST_ITERATIONS if carry else 1),
        until_sql=until,
        pause=repeat.duration("pause", 0.0, zero=True) or 0.0,
        carry=MappingProxyType(carry),
        adapt=_adapt(repeat, params, values, carry),
    )


def _carry(repeat: Fields, params: Iterable[str], for_each: ForEach | None) -> dict[str, Carried]:
    """Return the carried values by name."""
    carry = repeat.mapping("carry")
    repeat.report.unread_any |= carry is None and repeat.has("carry")
    found: dict[str, Carried] = {}
    for name, node in carry.pairs() if carry is not None else ():
        if carry is None or not isinstance(node, MappingNode):
            continue
        taken = _taken(name, params, for_each)
        if taken is not None:
            message = f"the carried value cannot be called `{name}`: that name is {taken}"
            carry.add(
                carry.key(name), "JP252", message, hint="use another name, also for the column of the last statement"
            )
        found[name] = _carried(name, carry.within(node))
    repeat.report.unread.update(carry.present - found.keys() if carry is not None else ())
    return found


def _taken(name: str, params: Iterable[str], for_each: ForEach | None) -> str | None:
    if name == _RUN:
        return "jobplan's own"
    if name in params:
        return "a parameter's"
    return "the item's" if for_each is not None and for_each.as_ == name else None


def _carried(name: str, fields: Fields) -> Carried:
    """Return a carried value; one that is not valid gets a harmless value, so that the SQL can still be checked."""
    kind_node, start = fields.scalar("type"), fields.scalar("start")
    kind = ParamType.INTEGER if kind_node is None else ParamType(kind_node.text)
    if kind_node is not None and start is not None:
        try:
            return Carried(type=kind, start=parse_value(kind, raw_value(start)))
        except ValueError as error:
            fields.add(start, "JP225", f"`start` {error}", hint=f"`{name}` is of type {kind}")
    return Carried(type=kind, start=0)


def _check_result(fields: Fields) -> None:
    """Report keys of the step that need rows which are not read: of an iteration only the last row is."""
    expect = fields.mapping("expect")
    value: Node | None = expect.node("value") if expect is not None and expect.has("value") else None
    for key, node in (("capture", fields.node("capture")), ("expect.value", value)):
        if node is not None:
            message = f"`{key}` cannot be used with `carry`: of an iteration only the carried values are read"
            fields.add(node, "JP255", message, hint="use `verify` or `expect.sql`")


def _adapt(
    repeat: Fields, params: Mapping[str, Param], values: Mapping[str, Value], carry: Mapping[str, Carried]
) -> Adapt | None:
    """Return the parameter to adapt, None if there is none or if it is not valid."""
    adapt = repeat.mapping("adapt")
    node = adapt.scalar("param") if adapt is not None else None
    if adapt is None or node is None:
        return None
    param = params.get(node.text)
    if param is None:
        kind = "a carried value, not a parameter" if node.text in carry else "no parameter of the plan"
        hint = adapt.report.guesses.did_you_mean(node.text, params)
        adapt.add(node, "JP253", f"`{node.text}` is {kind}", hint=hint or f"declare it: `params: {{{node.text}: …}}`")
        return None
    if param.type is not ParamType.INTEGER:
        message = f"`{node.text}` is of type {param.type}; only an integer can be adapted"
        adapt.add(node, "JP253", message, hint="declare it as `type: integer`")
        return None
    target = adapt.duration("target")
    if target is None:
        return None
    if target < SHORTEST_TARGET:
        message = (
            f"`target` must be at least {format_duration(SHORTEST_TARGET)}: a worker alone takes some milliseconds"
        )
        adapt.add(adapt.node("target") or adapt, "JP254", message)
    least, most = _bounds(adapt, param)
    _check_bounds(adapt, param, least, most, values.get(param.name))
    return Adapt(param=param.name, target=target, min=least, max=most)


def _bounds(adapt: Fields, param: Param) -> tuple[int, int]:
    low, high = param.minimum, param.maximum
    least = adapt.integer("min", max(1, int(low)) if low is not None else 1)
    return least, adapt.integer("max", min(LARGEST, int(high)) if high is not None else LARGEST)


def _check_bounds(adapt: Fields, param: Param, least: int, most: int, value: Value | None) -> None:
    """Report bounds that exclude each other, the parameter's value, or what its declaration allows."""
    if least > most:
        adapt.add(adapt.node("min") or adapt.node("max") or adapt, "JP229", "`min` is above `max`")
        return
    for key, bound, limit, word in (
        ("min", least, param.minimum, "below the parameter's minimum"),
        ("max", most, param.maximum, "above the parameter's maximum"),
    ):
        if limit is not None and (bound < limit if key == "min" else bound > limit):
            node = adapt.node(key) or adapt
            adapt.add(node, "JP254", f"`{key}` is {bound}, {word} of {limit:g}")
    allowed = [one for one in param.enum if isinstance(one, int)]
    if allowed:
        adapt.add(adapt.node("param") or adapt, "JP254", f"`{param.name}` has an `enum`, so it cannot be adapted")
    elif isinstance(value, int) and not least <= value <= most:
        message = f"`{param.name}` begins with {value}, which is not from {least} to {most}"
        adapt.add(
            adapt.node("param") or adapt, "JP254", message, hint="change `min` or `max`, or the parameter's value"
        )
