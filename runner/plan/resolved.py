"""The resolved plan: what runs, with every default and parameter value, as JSON, and the hash of the JSON.

The JSON can be read back, so that a run can be resumed or displayed without its plan files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.errors import Position, RecordError
from runner.plan.canonical import resolved_json, sha256
from runner.plan.model import Plan, Sql, Value
from runner.plan.params import typed_values
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
