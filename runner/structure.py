"""Read JSON values into frozen dataclasses: the exact inverse of how events and plans are written.

No value is converted or ignored: a value of the wrong type, a missing field or an unknown field is an error, because
the result decides which steps run again.
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

#: Takes JSON values and the target type.
_Hook = Callable[[Any, Any], Any]


def new_converter() -> cattrs.Converter:
    """Return a converter whose `structure` reads dataclasses from JSON values.

    A field whose empty value is None or an empty tuple may be absent. `what_is_wrong` explains its errors.
    """
    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    converter.register_structure_hook(
        enum.StrEnum, lambda value, kind: kind(value)
    )  # otherwise they would stay strings
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _exactly(frozenset({kind})))
    converter.register_structure_hook_factory(_is_union_of_scalars, lambda kind: _exactly(_members(kind)))
    converter.register_structure_hook_factory(dataclasses.is_dataclass, lambda kind: _dataclass_hook(kind, converter))
    return converter


#: The errors that `structure` raises for values that do not match.
WRONG = (ForbiddenExtraKeysError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


def what_is_wrong(error: Exception) -> str:
    """Return, as the end of a sentence, why values could not be read."""
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
    """Return a check that a value is of one of these types; JSON may write whole floats as integers."""
    allowed = kinds | {int} if float in kinds else kinds

    def check(value: Any, _: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
        if type(value) not in allowed:
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
            raise TypeError(f"{value!r} is not {wanted}")
        return value

    return check


def _dataclass_hook(kind: Any, converter: cattrs.Converter) -> _Hook:  # noqa: ANN401 - any dataclass
    """Read a dataclass; a field such as `if_`, whose name is a Python keyword, is written without the underscore."""
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
    """Return the value that the writer omits for a field of this type, or `_NEVER`."""
    if typing.get_origin(kind) is tuple:
        return ()
    return None if types.NoneType in typing.get_args(kind) else _NEVER


def as_mapping(values: object) -> Mapping[str, Any]:
    """Return JSON values as an object; TypeError if they are something else."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{type(values).__name__} instead of an object")
    return values
