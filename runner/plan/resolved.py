"""Read a resolved plan back from its JSON, and list the differences between two plans.

The JSON can be read back, so that a run can be resumed or displayed without its plan files, and resumed with a changed
plan. `canonical` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from runner.errors import Position, RecordError
from runner.plan.canonical import resolved_json, sha256
from runner.plan.model import Plan, Sql, Value
from runner.plan.parameters import typed_values
from runner.structure import WRONG, as_mapping, new_converter, what_is_wrong

__all__ = ["plan_from_json", "resolved_json", "sha256"]


def plan_from_json(text: str) -> Plan:
    """Return the plan that `resolved_json` wrote; it runs the same steps and has the same SHA-256.

    It has no positions and no file name, and its mappings are sorted by key. RecordError if the text is not a resolved
    plan, or has fields of a later version of jobplan.
    """
    try:
        plan: Plan = _READ(as_mapping(json.loads(text)), Plan)
        plan = replace(plan, values=typed_values(plan.params, plan.values))
    except WRONG as error:
        raise RecordError(
            f"the recorded plan {what_is_wrong(error)}.",
            hint="Read the record with the version of jobplan that wrote it, or a later one.",
        ) from error
    return plan


_NOWHERE = Position(file="", line=1, column=1)
_ITEM = Value | Mapping[str, Value]


def _sql(text: object, _: object) -> Sql:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not SQL")
    return Sql(text=text, start=_NOWHERE)


def _item(value: Any, _: object) -> Any:  # noqa: ANN401 - a scalar or an object of scalars
    scalars = value.values() if isinstance(value, dict) else (value,)
    if not all(isinstance(scalar, str | int | float) for scalar in scalars):
        raise TypeError(f"{value!r} is not an item")
    return value


_CONVERTER = new_converter()
_CONVERTER.register_structure_hook(Sql, _sql)
_CONVERTER.register_structure_hook_func(lambda kind: kind == _ITEM, _item)
_READ = _CONVERTER.get_structure_hook(Plan)


#: How many characters of a value are shown, and how many of these precede the first difference.
_SHOWN = 60
_BEFORE = 20


def differences(old: Plan, new: Plan) -> Iterator[str]:
    """Yield a line for each key of the plan, and each key of a step, whose value differs."""
    before, after = json.loads(resolved_json(old)), json.loads(resolved_json(new))
    for section in ("steps", "finally"):
        yield from _steps(_by_id(before.pop(section, ())), _by_id(after.pop(section, ())))
    yield from _keys("", before, after)


def _by_id(steps: Iterator[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {step["id"]: step for step in steps}


def _steps(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for key in before:
        if key not in after:
            yield f"step {key} was removed"
        else:
            yield from _keys(f"step {key}: ", before[key], after[key])
    yield from (f"step {key} was added" for key in after if key not in before)


def _keys(where: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        name = where + key.rstrip("_")
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _keys(f"{name}.", old, new)
        else:
            yield f"{name}: {' -> '.join(_shown(old, new))}"


def _shown(old: object, new: object) -> tuple[str, str]:
    """Return both on one line; of long values the part in which they begin to differ."""
    one, other = _flat(old), _flat(new)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    begin = max(0, same - _BEFORE) if max(len(one), len(other)) > _SHOWN else 0
    return _cut(one, begin), _cut(other, begin)


def _flat(value: object) -> str:
    if value is None:
        return "nothing"
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())


def _cut(text: str, begin: int) -> str:
    shown = f"…{text[begin + 1 :]}" if begin else text
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
