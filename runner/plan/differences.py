"""The differences between two plans, for a user who resumes a run with a changed plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from runner.plan.model import Plan
from runner.plan.resolved import resolved_json

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
