"""The JSON form of events, one object a line, as `schemas/events-v1.schema.json` describes it: written and read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from runner.clock import parse_rfc3339, rfc3339
from runner.engine import events as ev
from runner.errors import RecordError
from runner.structs import from_values, to_json_line, to_values

#: Fields that hold a moment: seconds in Python, RFC 3339 in JSON.
MOMENTS = (
    *("at", "until", "deadline", "started_at", "finished_at", "waiting_since", "since"),
    *("opens_at", "closes_at"),
)
#: The version of the form that is read here; `RunStarted` says which one its record has.
VERSION = 1
_NEWER = "Read the record with the version of jobplan that wrote it, or a later one."


def to_json(event: ev.Event, run: str) -> dict[str, Any]:
    """Return the event as JSON values: `event`, `at`, `run`, then its own fields without those that are not set."""
    data: dict[str, Any] = json.loads(to_line(event, run))
    return data


def to_line(event: ev.Event, run: str) -> bytes:
    """Return the event as one line of JSON Lines, in UTF-8.

    The sinks of a run ask for the same event one after the other, so the last line is kept.
    """
    known = _latest.get(run)
    if known is None or known[0] is not event:
        _latest.clear()
        _latest[run] = known = (event, _line(event, run))
    return known[1]


_latest: dict[str, tuple[ev.Event, bytes]] = {}


def _line(event: ev.Event, run: str) -> bytes:
    fields = to_values(event)
    data = {"event": event.name, "at": rfc3339(fields.pop("at")), "run": run, **fields}
    for name in _later_moments(type(event)):
        if name in data:
            data[name] = rfc3339(data[name])
    return to_json_line(data)


@cache
def _later_moments(kind: type[ev.Event]) -> tuple[str, ...]:
    """Return the fields of an event that hold a moment, besides `at`."""
    return tuple(name for name in MOMENTS[1:] if name in kind.__struct_fields__)


def from_json(data: Mapping[str, Any]) -> ev.Event:
    """Return the event that was written as `data`; moments come back to the millisecond.

    RecordError if it is no event, or one of a later version of jobplan.
    """
    name = data.get("event")
    kind = _kinds().get(name) if isinstance(name, str) else None
    if kind is None:
        raise RecordError(f"the event {name!r} is not known to this version of jobplan.", hint=_NEWER)
    fields = {key: value for key, value in data.items() if key not in ("event", "run")}
    try:
        for key in MOMENTS:
            if key in fields:
                fields[key] = _moment(fields[key])
        event = from_values(fields, kind)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"the event {name} {error}.", hint=_NEWER) from error
    if isinstance(event, ev.RunStarted) and event.version > VERSION:
        raise RecordError(f"the record is of version {event.version}, and this jobplan reads {VERSION}.", hint=_NEWER)
    return event


def _moment(text: object) -> float:
    if not isinstance(text, str):
        raise ValueError(f"holds a wrong value: {text!r} is not a moment")  # noqa: TRY004 - as any other wrong value
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise ValueError(f"holds a wrong value: {error}") from error


@cache
def _kinds() -> dict[str, type[ev.Event]]:
    return {kind.name: kind for kind in _without_subclasses(ev.Event)}


def _without_subclasses(kind: type[ev.Event]) -> Iterator[type[ev.Event]]:
    """Yield the kinds of events below this one, without those that are only the base of others."""
    if not kind.__subclasses__():
        yield kind
    for one in kind.__subclasses__():
        yield from _without_subclasses(one)
