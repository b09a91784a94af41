"""Values with typed fields, and their JSON: one definition for Python, for writing and for reading.

Our values are Structs, not dataclasses: defining a Struct takes a thirtieth of the time, and a command defines some
hundred of them before it does anything. Only this module uses msgspec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict, replace

__all__ = [
    "Recorded",
    "RecordedEvent",
    "Struct",
    "asdict",
    "field",
    "from_values",
    "names",
    "picked",
    "replace",
    "to_json_line",
    "to_values",
    "written",
]

_Value = TypeVar("_Value")


class Recorded(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what a record on disk consists of.

    A field that has its default is not written, and may be absent when it is read, unless the default is `written`. An
    unknown field is an error, because what is read decides which steps run again.
    """


class RecordedEvent(Recorded, frozen=True, kw_only=True):
    """Base of events. `name` is the name of the class in records: `run_started`. `at` is seconds since the epoch."""

    name: ClassVar[str]
    at: float

    def __init_subclass__(cls) -> None:
        """Name the class."""
        cls.name = re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()


def written(default: _Value) -> _Value:
    """Return a default that is written although it is the default, as records always had it."""
    made: _Value = field(default_factory=lambda: default)
    return made


def picked(value: object, *fields: str) -> dict[str, Any]:
    """Return some fields of a value by name, in this order; of None, each is None."""
    return {name: None if value is None else getattr(value, name) for name in fields}


def names(struct: Struct) -> tuple[tuple[str, str], ...]:
    """Return the name of each field, in Python and in JSON."""
    return tuple(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))


def to_values(struct: Struct) -> dict[str, Any]:
    """Return a Struct as what `to_json_line` writes; a tuple is still one."""
    values: dict[str, Any] = msgspec.to_builtins(struct, enc_hook=_plain)
    return values


def _plain(value: object) -> object:
    """Return a value of a subclass, such as the name of a relation, as one of its base, which is what JSON knows."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json_line(values: Mapping[str, Any]) -> bytes:
    """Return JSON values as one line, in UTF-8.

    A text that is not Unicode, such as a file name in another encoding, is escaped: no event may be lost over it.
    """
    try:
        return msgspec.json.format(_ENCODER.encode(values), indent=0) + b"\n"
    except UnicodeEncodeError:
        return (json.dumps(values) + "\n").encode()


_ENCODER = msgspec.json.Encoder()


def from_values(values: object, kind: type[_Value], hook: Callable[[type, Any], Any] | None = None) -> _Value:
    """Return the Struct that was written as these JSON values. `hook` makes values of types that msgspec does not know.

    No value is converted or ignored. ValueError, whose text is the end of a sentence, for a value of the wrong type, a
    missing field or an unknown field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"holds a wrong value: {type(values).__name__} instead of an object")  # noqa: TRY004 - see above
    try:
        return msgspec.convert(values, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        raise ValueError(_what_is_wrong(str(error), values)) from error


_ERROR = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?P<problem>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
_TYPE = re.compile(r"Expected `(?P<kind>.*)`, got `(?P<got>.*)`")
_PROBLEMS = {"missing required": "lacks the field", "contains unknown": "has the unknown field"}
#: How many characters of a wrong value are shown.
_SHOWN = 60


def _what_is_wrong(message: str, values: object) -> str:
    """Return msgspec's message as the end of a sentence, with the value that is meant."""
    found = _ERROR.fullmatch(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    if named := _FIELD.fullmatch(what):
        return f"{_PROBLEMS[named['problem']]} {named['name']}{f' in {path}' if path else ''}"
    if wrong := _TYPE.fullmatch(what):
        what = f"{_at(path, values, wrong['got'])} is not {wrong['kind'].replace(' | ', ' or ')}"
    return f"holds a wrong value: {what}{f', in {path}' if path else ''}"


def _at(path: str, values: Any, otherwise: str) -> str:  # noqa: ANN401 - JSON values have no narrower type
    """Return the value at a path such as `steps[0].sql`; paths through a mapping's keys are not known."""
    try:
        for name, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
            values = values[int(place)] if place else values[name]
    except (LookupError, TypeError):
        return otherwise
    text = repr(values)
    return text if "[...]" not in path and len(text) <= _SHOWN else otherwise
