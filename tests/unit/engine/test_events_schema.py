"""The published schema of events says what the events are: no more, no less."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner.engine import events as ev
from runner.engine.event_json import to_json
from runner.structs import Struct

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas" / "events-v1.schema.json").read_text(encoding="utf-8"))


def event_classes() -> Iterator[type[ev.Event]]:
    for item in vars(ev).values():
        if isinstance(item, type) and issubclass(item, ev.Event) and not item.__subclasses__():
            yield item


def sample(kind: Any) -> Any:
    """Make a value of the annotated type, with every optional part filled in."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return sample(next(arm for arm in typing.get_args(kind) if arm is not type(None)))
    if origin is tuple:
        return (sample(typing.get_args(kind)[0]),)
    if origin is not None and issubclass(origin, Mapping):
        return {"a_step": sample(typing.get_args(kind)[1])}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    if isinstance(kind, type) and issubclass(kind, Struct):
        hints = typing.get_type_hints(kind)
        ends = tuple[kind, ...]  # the items of an item are not filled in: they would not end
        return kind(**{name: () if hints[name] == ends else sample(hints[name]) for name in kind.__struct_fields__})
    return {str: "text", int: 1, float: 1.5, bool: True}[kind]


@pytest.mark.parametrize("kind", list(event_classes()), ids=lambda kind: str(kind.name))
def test_every_event_is_as_the_schema_says(kind: type[ev.Event]) -> None:
    event = sample(kind)
    data = to_json(event, "260101-abcdef")
    assert data["event"] == kind.name
    jsonschema.validate(data, SCHEMA)
    (described,) = [arm for arm in SCHEMA["oneOf"] if arm["title"] == kind.name]
    assert set(described["properties"]) == set(data)


def test_the_schema_describes_no_event_that_does_not_exist() -> None:
    assert {arm["title"] for arm in SCHEMA["oneOf"]} == {kind.name for kind in event_classes()}


def test_an_unknown_field_is_refused() -> None:
    data = {**to_json(ev.RunTimedOut(at=0.0), "260101-abcdef"), "extra": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)
