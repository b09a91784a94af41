"""Typed parameters: which values they allow, and which source of a value has precedence.

A value comes from `--param`, a params file, the environment or the plan's default, in that order of precedence. It is
checked in the same way for every source: by its type, and by the declaration's enum, pattern, minimum and maximum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from runner.durations import format_duration, parse_duration
from runner.errors import Position, Problem
from runner.plan.model import Param, ParamType, Value
from runner.plan.patterns import MAX_MATCHED, TooSlowError, matches
from runner.plan.report import Guesses, listed
from runner.sql.qualified import qualified_name

#: The prefix of an environment variable for a parameter; the parameter's name in upper case follows.
ENVIRONMENT_PREFIX: Final = "JOBPLAN_PARAM_"
#: Codes of problems with the values given for a run, not with the plan.
OF_GIVEN_VALUES: Final = frozenset({"JP226", "JP227", "JP228"})
#: The longest integer or number (characters); PostgreSQL's numeric takes far more, no key or count needs it.
MAX_NUMBER: Final = 100
#: The longest name that PostgreSQL keeps (NAMEDATALEN - 1, bytes).
MAX_IDENTIFIER: Final = 63

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,4})?")
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)


def parse_value(param_type: ParamType, raw: object) -> Value:
    """Return `raw` (text, or a scalar of YAML or JSON) as a value of the type.

    A number keeps its exact decimal form, as text; a duration and a timestamp stay as written, which PostgreSQL can
    read. ValueError, with a sentence that continues "the value", if it is not of the type.
    """
    if param_type is ParamType.BOOLEAN:
        return _boolean(raw)
    return _PARSERS[param_type](_text(raw, number=param_type in (ParamType.INTEGER, ParamType.NUMBER)))


def typed_values(params: Mapping[str, Param], values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return values that were read back as plain texts with the types that they have in a plan."""
    relations = {name for name, param in params.items() if param.type is ParamType.RELATION} & values.keys()
    return {**values, **{name: qualified_name(str(values[name])) for name in relations}}


def check_value(param: Param, value: Value) -> None:
    """Raise ValueError, as parse_value does, if the declaration forbids the value."""
    if param.enum and not _is_one_of(param, value):
        raise ValueError(f"is {_shown(value)}; allowed is {listed(str(allowed) for allowed in param.enum)}")
    if param.pattern is not None:
        text = str(value)
        if len(text) > MAX_MATCHED:
            raise ValueError(f"has more than {MAX_MATCHED:,} characters, too many to match its pattern")
        try:
            found = matches(param.pattern, text)
        except TooSlowError as error:
            raise ValueError(f"is {_shown(value)}, and {_shown(param.pattern)} {error}") from None
        if not found:
            raise ValueError(f"is {_shown(value)}, which does not match `{param.pattern}`")
    size = measure(param.type, value)
    if size is not None and param.minimum is not None and size < Decimal(param.minimum):
        raise ValueError(f"is {_shown(value)}, below the minimum of {_bound(param.type, param.minimum)}")
    if size is not None and param.maximum is not None and size > Decimal(param.maximum):
        raise ValueError(f"is {_shown(value)}, above the maximum of {_bound(param.type, param.maximum)}")


def _is_one_of(param: Param, value: Value) -> bool:
    """Return whether the enum has the value; numbers are compared by value, not by text."""
    if param.type is ParamType.NUMBER:
        return any(Decimal(str(allowed)) == Decimal(str(value)) for allowed in param.enum)
    return value in param.enum


def measure(param_type: ParamType, value: Value) -> Decimal | None:
    """Return what minimum and maximum are compared with (seconds for a duration), None for types without order."""
    if param_type is ParamType.DURATION:
        return Decimal(parse_duration(str(value)))
    return Decimal(str(value)) if param_type in (ParamType.INTEGER, ParamType.NUMBER) else None


def resolve_values(
    params: Mapping[str, Param],
    *,
    given: Mapping[str, str],
    file_values: Mapping[str, object],
    environment: Mapping[str, str],
    start: Position,
) -> tuple[dict[str, Value], tuple[Problem, ...]]:
    """Return the value of every parameter that has one, and a problem for each that is wrong.

    A problem has the position of the parameter's declaration, or `start` if the name is not declared. Environment
    variables without a declaration are ignored: they may be for another plan.
    """
    values: dict[str, Value] = {}
    problems = []
    guesses = Guesses()
    for names, source in ((given, "--param"), (file_values, "the params file")):
        for name in names:
            if name not in params:
                message = f"the plan has no parameter `{name}`, for which {source} gives a value"
                problems.append(
                    Problem(position=start, code="JP227", message=message, hint=guesses.did_you_mean(name, params))
                )
    for name, param in params.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        sources = ((given, name, "--param"), (file_values, name, "the params file"), (environment, variable, variable))
        found = next(((source[key], origin) for source, key, origin in sources if key in source), None)
        if found is None:
            if param.default is not None:
                values[name] = param.default
            continue
        raw, origin = found
        try:
            value = parse_value(param.type, raw)
            check_value(param, value)
        except ValueError as error:
            message = f"the value of `{name}` from {origin} {error}"
            problems.append(Problem(position=param.position, code="JP226", message=message))
        else:
            values[name] = value
    return values, tuple(problems)


def _text(raw: object, *, number: bool) -> str:
    """Return a scalar as text; with `number` it may be a number."""
    match raw:
        case str():
            _check_characters(raw)
            return raw
        case bool():
            raise ValueError(f"is `{str(raw).lower()}`, a boolean; put it in quotes if the text is meant")
        case int() | float() | Decimal():
            if number:
                return str(raw)
            raise ValueError(f"is the number {raw}; put it in quotes if the text is meant")
        case _:
            raise ValueError("is not a single text, number or boolean")


def _boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if raw in ("true", "false"):
        return raw == "true"
    raise ValueError(f"is {_shown(raw)}; write `true` or `false`")


def _string(text: str) -> str:
    return text


def _identifier(text: str) -> str:
    if not text:
        raise ValueError("is empty; an identifier is not")
    if (size := len(text.encode())) > MAX_IDENTIFIER:
        raise ValueError(f"is {size} bytes long; PostgreSQL cuts identifiers to {MAX_IDENTIFIER}")
    return text


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"is {_shown(text)}, not a whole number")
    _check_length(text)
    return int(text)


def _number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"is {_shown(text)}, not a number like 3 or 0.25")
    _check_length(text)
    return text.removeprefix("+")


def _duration(text: str) -> str:
    _check_length(text)
    try:
        parse_duration(text)
    except ValueError as error:
        raise ValueError(f"is wrong: {error}") from None
    return text


def _timestamp(text: str) -> str:
    wrong = f"is {_shown(text)}, not a timestamp like 2026-01-31T12:00:00Z"
    if not _TIMESTAMP.fullmatch(text):
        raise ValueError(wrong)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(wrong) from None
    return text


_PARSERS: Final[Mapping[ParamType, Callable[[str], Value]]] = {
    ParamType.STRING: _string,
    ParamType.IDENTIFIER: _identifier,
    ParamType.INTEGER: _integer,
    ParamType.NUMBER: _number,
    ParamType.DURATION: _duration,
    ParamType.TIMESTAMP: _timestamp,
    ParamType.RELATION: qualified_name,
}


def _check_length(text: str) -> None:
    if len(text) > MAX_NUMBER:
        raise ValueError(f"is out of range: it has more than {MAX_NUMBER} characters")


def _check_characters(text: str) -> None:
    if "\0" in text:
        raise ValueError("contains a NUL character, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text") from None


def _bound(param_type: ParamType, bound: float) -> str:
    return format_duration(bound) if param_type is ParamType.DURATION else format(Decimal(repr(bound)).normalize(), "f")


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return f"`{text[:57]}…`" if len(text) > 60 else f"`{text}`"
