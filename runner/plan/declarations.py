"""Read the parameter declarations of a plan and of the files that it includes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from runner.errors import Position
from runner.plan.fields import Fields
from runner.plan.model import Param, ParamType, Value
from runner.plan.nodes import Mapping as MappingNode
from runner.plan.nodes import Node, Scalar
from runner.plan.params import check_value, measure, parse_value
from runner.plan.patterns import compile_pattern

_PATTERN_TYPES = (ParamType.STRING, ParamType.IDENTIFIER, ParamType.RELATION)
_ORDERED_TYPES = (ParamType.INTEGER, ParamType.NUMBER, ParamType.DURATION)
_NOWHERE = Position(file="", line=1, column=1)


def declare_params(files: Iterable[Fields]) -> dict[str, Param]:
    """Return every declared parameter by name, from the plan and the files that it includes."""
    params: dict[str, Param] = {}
    for file in files:
        declared = file.mapping("params")
        for name, node in declared.pairs() if declared else ():
            if declared is None or not isinstance(node, MappingNode):
                continue
            param = _declare(name, file.within(node), declared.key(name).position)
            if param is None:
                continue
            known = params.setdefault(name, param)
            if replace(known, position=_NOWHERE) != replace(param, position=_NOWHERE):
                message = f"the parameter `{name}` is declared differently at {known.position}"
                file.add(param.position, "JP224", message, hint="declare it once, or with the same keys and values")
    return params


def raw_value(node: Node) -> object:
    """Return a scalar's value; a number with a fraction as an exact decimal. None for a list or mapping."""
    if not isinstance(node, Scalar):
        return None
    return Decimal(node.text) if isinstance(node.value, float) else node.value


def _declare(name: str, fields: Fields, position: Position) -> Param | None:
    type_node = fields.scalar("type")
    if type_node is None:
        return None
    kind = ParamType(type_node.text)
    bare = Param(
        name=name,
        type=kind,
        pattern=_pattern(kind, fields),
        minimum=_bound(kind, fields, "minimum"),
        maximum=_bound(kind, fields, "maximum"),
        description=fields.text("description"),
        position=position,
    )
    if bare.minimum is not None and bare.maximum is not None and bare.minimum > bare.maximum:
        fields.add(fields.scalar("minimum") or fields, "JP229", "`minimum` is above `maximum`")
    values = (_value(bare, fields, node, "an item of `enum`") for node in fields.items("enum"))
    param = replace(bare, enum=tuple(value for value in values if value is not None))
    default = fields.node("default")
    return param if default is None else replace(param, default=_value(param, fields, default, "`default`"))


def _value(param: Param, fields: Fields, node: Node, what: str) -> Value | None:
    try:
        value = parse_value(param.type, raw_value(node))
        check_value(param, value)
    except ValueError as error:
        fields.add(node, "JP225", f"{what} {error}", hint=f"`{param.name}` is of type {param.type}")
        return None
    return value


def _pattern(kind: ParamType, fields: Fields) -> str | None:
    node = fields.scalar("pattern")
    if node is None:
        return None
    if kind not in _PATTERN_TYPES:
        fields.add(node, "JP225", f"a parameter of type {kind} has no `pattern`; string, identifier and relation have")
        return None
    try:
        compile_pattern(node.text)
    except ValueError as error:
        fields.add(node, "JP225", f"`pattern` {error}")
        return None
    return node.text


def _bound(kind: ParamType, fields: Fields, key: str) -> float | None:
    node = fields.scalar(key)
    if node is None:
        return None
    if kind not in _ORDERED_TYPES:
        fields.add(node, "JP225", f"a parameter of type {kind} has no `{key}`; integer, number and duration have")
        return None
    try:
        size = measure(kind, parse_value(kind, raw_value(node)))
    except ValueError as error:
        fields.add(node, "JP225", f"`{key}` {error}", hint=f"`{key}` is written like a value: of type {kind}")
        return None
    return None if size is None else float(size)
