"""The resolved plan as JSON: written, hashed, read back, and compared with another plan.

The JSON can be read back, so that a run can be resumed or displayed without its plan files, and resumed with a changed
plan. Its text is canonical: the same plan has the same SHA-256 in every version of jobplan.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import takewhile
from typing import Any

from runner.errors import Position, RecordError
from runner.phrases import cut
from runner.plan.model import Plan, Sql, Step
from runner.plan.parameters import parse_value, typed_values
from runner.structs import Struct, from_values, names, replace


def resolved_json(plan: Plan) -> str:
    """Return the plan as canonical JSON. Positions and the file's name are left out: they do not change what runs."""
    return json.dumps(_plain(plan), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256(plan: Plan) -> str:
    """Return the SHA-256 of the resolved plan, in hexadecimal."""
    return sha256_of(resolved_json(plan))


def sha256_of(resolved: str) -> str:
    """Return the SHA-256 of a plan's canonical JSON, in hexadecimal."""
    return hashlib.sha256(resolved.encode()).hexdigest()


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    if isinstance(value, Sql):
        return value.text
    if isinstance(value, Struct):
        fields = ((name, getattr(value, attribute)) for attribute, name in names(value))
        return {name: _plain(item) for name, item in fields if name != "file" and not _is_empty(item)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(_plain(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def _is_empty(item: object) -> bool:
    return item is None or isinstance(item, Position) or (isinstance(item, Mapping | AbstractSet | tuple) and not item)


def plan_from_json(text: str) -> Plan:
    """Return the plan that `resolved_json` wrote; it runs the same steps and has the same SHA-256.

    It has no positions and no file name, and its mappings are sorted by key. RecordError if the text is not a resolved
    plan, or has fields of a later version of jobplan.
    """
    try:
        plan = from_values(_loaded(text), Plan, _sql)
        steps, last = (tuple(map(_with_typed_bounds, steps)) for steps in (plan.steps, plan.finally_))
        return replace(plan, values=typed_values(plan.params, plan.values), steps=steps, finally_=last)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"the recorded plan {error}.",
            hint="Read the record with the version of jobplan that wrote it, or a later one.",
        ) from error


def _with_typed_bounds(step: Step) -> Step:
    if not step.bound:
        return step
    bound = tuple(
        one if one.value is None else replace(one, value=parse_value(one.param.type, one.value)) for one in step.bound
    )
    return replace(step, bound=bound)


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"holds a wrong value: {error}") from error


_NOWHERE = Position(file="", line=1, column=1)


def _sql(_: type, text: object) -> Sql:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not SQL")
    return Sql(text=text, start=_NOWHERE)


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
    return cut(shown, _SHOWN)
