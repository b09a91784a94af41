"""The JSON form of events, as `schemas/events-v1.schema.json` describes it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from runner.clock import rfc3339
from runner.engine.events import Event


def to_json(event: Event, run: str) -> dict[str, Any]:
    """Return the event as JSON values: `event`, `at` (RFC 3339), `run`, then its own fields without the empty ones."""
    data: dict[str, Any] = {"event": event.name, "at": rfc3339(event.at), "run": run}
    for field in dataclasses.fields(event):
        if field.name == "at":
            continue
        value = _plain(getattr(event, field.name))
        if value is not None and value != []:
            data[field.name] = rfc3339(value) if field.name in _TIMES else value
    return data


_TIMES = frozenset({"until", "deadline", "started_at", "finished_at"})


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: item for name, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
