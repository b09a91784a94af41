"""The JSON form of events, as `schemas/events-v1.schema.json` describes it; `decoding` reads it."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any

from runner.clock import rfc3339
from runner.engine.events import Event

#: Fields that hold a moment, besides `at`.
TIMES = frozenset({"until", "deadline", "started_at", "finished_at", "waiting_since"})


def to_json(event: Event, run: str) -> dict[str, Any]:
    """Return the event as JSON values: `event`, `at` (RFC 3339), `run`, then its own fields without the empty ones."""
    data: dict[str, Any] = {"event": event.name, "at": rfc3339(event.at), "run": run}
    for name in _fields(event):
        if name == "at":
            continue
        value = _plain(getattr(event, name))
        if value is not None and value != []:
            data[name] = rfc3339(value) if name in TIMES else value
    return data


def to_line(event: Event, run: str) -> bytes:
    """Return the event as one line of JSON Lines, in UTF-8.

    A text that is not Unicode, such as a file's name in another encoding, is escaped: no event may be lost over it. The
    sinks of a run ask for the same event one after the other, so the last answer is kept.
    """
    known = _latest.get(run)
    if known is None or known[0] is not event:
        _latest.clear()
        _latest[run] = known = (event, _line(to_json(event, run)))
    return known[1]


_latest: dict[str, tuple[Event, bytes]] = {}


def _line(data: dict[str, Any]) -> bytes:
    try:
        return (_ENCODE(data) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(data) + "\n").encode()


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


_KNOWN: dict[type[Any], tuple[str, ...]] = {}


def _fields(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - any dataclass
    """Return the names of a dataclass's fields; remembered, because a run writes the same few kinds all the time."""
    kind = type(value)
    if kind not in _KNOWN:
        _KNOWN[kind] = tuple(field.name for field in dataclasses.fields(kind))
    return _KNOWN[kind]


#: What most fields hold; asked first, because this is done for every field of every event.
_SCALARS = frozenset({str, int, float, bool, type(None)})


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    if type(value) in _SCALARS:
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {name: _plain(getattr(value, name)) for name in _fields(value)}
        return {name: item for name, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
