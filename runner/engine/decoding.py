"""Events from their JSON form, for whoever reads a run's record: the inverse of `encoding.to_json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.clock import parse_rfc3339
from runner.engine import events as ev
from runner.engine.encoding import TIMES
from runner.errors import RecordError
from runner.structure import WRONG, new_converter, what_is_wrong

#: The version of the form that is read here; `RunStarted` says which one its record has.
VERSION = 1
_NEWER = "Read the record with the version of jobplan that wrote it, or a later one."
#: What every line has besides the event's own fields.
_ENVELOPE = frozenset({"event", "run"})
_MOMENTS = TIMES | {"at"}


def from_json(data: Mapping[str, Any]) -> ev.Event:
    """Return the event that was written as `data`; moments come back to the millisecond.

    RecordError if it is no event, or one of a version of jobplan that knows more than this one.
    """
    name = data.get("event")
    known = _READERS.get(name) if isinstance(name, str) else None
    if known is None:
        raise RecordError(f"the event {name!r} is not known to this version of jobplan.", hint=_NEWER)
    kind, read = known
    try:
        fields = {
            key: parse_rfc3339(value) if key in _MOMENTS else value
            for key, value in data.items()
            if key not in _ENVELOPE
        }
        event: ev.Event = read(fields, kind)
    except WRONG as error:
        raise RecordError(f"the event {name} {what_is_wrong(error)}.", hint=_NEWER) from error
    if isinstance(event, ev.RunStarted) and event.version > VERSION:
        raise RecordError(f"the record is of version {event.version}, and this jobplan reads {VERSION}.", hint=_NEWER)
    return event


def _kinds(of: type[ev.Event]) -> Iterator[type[ev.Event]]:
    for kind in of.__subclasses__():
        if "name" in vars(kind) and isinstance(kind.name, str):
            yield kind
        yield from _kinds(kind)


_CONVERTER = new_converter()
_READERS = {kind.name: (kind, _CONVERTER.get_structure_hook(kind)) for kind in _kinds(ev.Event)}
