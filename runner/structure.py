"""JSON values back into frozen dataclasses: the exact inverse of how events and plans are written down.

Nothing is converted on the way and nothing is left out: a value of the wrong type, a missing field or one that this
version does not know is an error, because what is read here decides what is run again.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

_SCALARS = frozenset({str, int, float, bool, types.NoneType})

#: Takes JSON values and the type that they are to become.
_Hook = Callable[[Any, Any], Any]


def new_converter() -> cattrs.Converter:
    """Return a converter whose `structure` reads dataclasses from JSON values.

    A field that may be absent (None, or an empty tuple) need not be there. It raises what `what_is_wrong` explains.
    """
    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    converter.register_structure_hook(enum.StrEnum, lambda value, kind: kind(value))  # or they would stay texts
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _exactly(frozenset({kind})))
    converter.register_structure_hook_factory(_is_union_of_scalars, lambda kind: _exactly(_members(kind)))
    converter.register_structure_hook_factory(dataclasses.is_dataclass, lambda kind: _dataclass_hook(kind, converter))
    return converter


#: What `structure` raises when the values do not fit.
WRONG = (ForbiddenExtraKeysError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


def what_is_wrong(error: Exception) -> str:
    """Say, as the end of a sentence, why values could not be read."""
    if isinstance(error, ForbiddenExtraKeysError):
        return f"has the unknown field {', '.join(sorted(map(str, error.extra_fields)))}"
    if isinstance(error, KeyError):
        return f"lacks the field {error.args[0]}"
    return f"holds a wrong value: {error}"


def _members(kind: object) -> frozenset[type]:
    return frozenset(typing.get_args(kind))


def _is_union_of_scalars(kind: object) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union) and _members(kind) <= _SCALARS


def _exactly(kinds: frozenset[type]) -> _Hook:
    """Let a value pass as it is if it is of one of these types; JSON writes whole floats as integers at times."""
    allowed = kinds | {int} if float in kinds else kinds

    def check(value: Any, _: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
        if type(value) not in allowed:
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
            raise TypeError(f"{value!r} is not {wanted}")
        return value

    return check


def _dataclass_hook(kind: Any, converter: cattrs.Converter) -> _Hook:  # noqa: ANN401 - any dataclass
    """Read a dataclass; a field such as `if_`, whose name is a word of Python's, is written without the underscore."""
    fields = dataclasses.fields(kind)
    options: dict[str, Any] = {
        field.name: override(rename=field.name[:-1]) for field in fields if field.name.endswith("_")
    }
    read: _Hook = make_dict_structure_fn(kind, converter, **options)
    hints = typing.get_type_hints(kind)
    required = [field.name for field in fields if _has_no_default(field)]
    absent = {name: empty for name in required if (empty := _empty(hints[name])) is not _NEVER}
    if not absent:
        return read
    return lambda values, to: read({**absent, **values}, to)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


_NEVER = object()


def _empty(kind: object) -> object:
    """Return what the writer leaves out of a field of this type, or `_NEVER`."""
    if typing.get_origin(kind) is tuple:
        return ()
    return None if types.NoneType in typing.get_args(kind) else _NEVER


def as_mapping(values: object) -> Mapping[str, Any]:
    """Return JSON values as an object; TypeError if they are something else."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{type(values).__name__} instead of an object")
    return values
