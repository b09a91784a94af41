"""Write the resolved plan: one JSON text for what runs, and its hash.

`resolved` reads it. The modules are separate because a run only writes, and reading has slow imports.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from runner.errors import Position
from runner.plan.model import Plan, Sql


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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name.rstrip("_"): getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(item) for name, item in fields.items() if name != "file" and not _is_empty(item)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(_plain(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def _is_empty(item: object) -> bool:
    return item is None or isinstance(item, Position) or (isinstance(item, Mapping | AbstractSet | tuple) and not item)
