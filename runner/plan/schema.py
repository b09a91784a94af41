"""The plan language's keys, from `schemas/plan-v1.schema.json`: which editors and jobplan use.

`shape` interprets the file, not the jsonschema library: that takes at least a quarter of a millisecond for each step
(several seconds for a large plan) and 100 ms to import, and it reports violations as dumps of the schema. Tests compare
the results of both.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from runner.plan.nodes import Node
from runner.plan.report import Report
from runner.plan.shape import Check, Walk, compile_check

_FILE = "plan-v1.schema.json"


def schema_text() -> str:
    """Return the JSON Schema of plans, as `jobplan schema` prints it."""
    packaged = resources.files("runner") / "schemas" / _FILE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    # A wheel has the schemas inside the package; a checkout has them at the top, where users and editors find them.
    return (Path(__file__).resolve().parents[2] / "schemas" / _FILE).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """Return the JSON Schema of plans, parsed. Treat it as read-only."""
    parsed: dict[str, Any] = json.loads(schema_text())
    return parsed


@lru_cache(maxsize=2)
def _check(definition: str | None) -> Check:
    root = schema()
    return compile_check(root, root if definition is None else root["definitions"][definition])


def check_shape(root: Node, report: Report, *, definition: str | None = None) -> frozenset[int]:
    """Report what the schema forbids, and return the `id()` of every node whose value must not be used.

    `definition` names the part of the schema that the file must follow; None means the whole schema, for a plan.
    """
    walk = Walk(report)
    _check(definition)(root, "the file" if definition else "the plan", walk)
    return frozenset(walk.bad)
