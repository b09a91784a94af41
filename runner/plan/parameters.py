"""Parameters of a plan: their declarations, the values that they allow, and which source of a value has precedence.

A value comes from `--param`, a params file, the environment or the plan's default, in that order of precedence. It is
checked in the same way for every source: by its type, and by the declaration's enum, pattern, minimum and maximum.

Python's regular expressions backtrack, and for a pattern such as `(a+)+b` forty letters take years. CI checks plans
from pull requests of unknown users, so no pattern may take long. Simple patterns cannot, and are matched here. Every
other one is matched in a process of its own with a limit on its processor time, and all of them together have a limit
too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final

from runner.durations import format_duration, parse_duration
from runner.errors import Position
from runner.phrases import listed
from runner.plan.model import Param, ParamType, Value
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Fields, Node, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.sql.qualified_names import MAX_NAME_BYTES, qualified_name
from runner.structs import Struct, field, replace

#: The longest value that is matched.
MAX_MATCHED: Final = 1_000
#: Seconds of processor time that one match may take, and of real time if the machine is busy.
_MATCH_SECONDS: Final = 1
_WALL_SECONDS: Final = 10.0
#: Seconds that all matches in other processes may take while one plan is read.
_ALL_SECONDS: Final = 10.0

_CHILD: Final = """\
import json, re, sys, warnings
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
except (ImportError, OSError, ValueError):
    pass
warnings.simplefilter("ignore")
pattern, text = json.load(sys.stdin)
print(int(re.fullmatch(pattern, text) is not None))
"""
#: A piece of a pattern: an escape, a set, the start or end of a group, a quantifier.
_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|[*+?]|\{\d*,?\d*\}|.", re.DOTALL)
#: How many choices a simple pattern may leave to the engine: as many as two stars.
_MOST_CHOICES: Final = 3_000_000


class TooSlowError(ValueError):
    """Matching takes too long, or there is no process to do it in."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a compiled pattern that must match the whole value; ValueError if it is not a regular expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about constructs whose meaning may change; they are still valid
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches a whole text; ValueError if it is not one, TooSlowError if it takes too long."""
    compiled = compile_pattern(pattern)
    if is_simple(pattern):
        return compiled.fullmatch(text) is not None
    return _elsewhere(pattern, text)


def is_simple(pattern: str) -> bool:
    """Return whether no text of `MAX_MATCHED` characters can keep the engine busy for long.

    That is so if nothing is repeated but single characters and sets, nothing refers to what was matched before, and the
    product of all choices that the engine can try is small.
    """
    choices = 1
    before = ""
    for piece in _PIECE.findall(pattern):
        if before == "(" and piece == "?":  # an extension such as (?: or (?=
            before = ""
            continue
        if re.fullmatch(r"\\[1-9]", piece):
            return False
        repeats = _repeats(piece)
        if piece == "|":
            choices *= 2
        elif repeats is not None:
            if before == ")" and piece != "?":
                return False
            choices *= repeats
        before = "" if repeats is not None else piece
        if choices > _MOST_CHOICES:
            return False
    return "(?P=" not in pattern and "(?(" not in pattern


def _repeats(piece: str) -> int | None:
    """Return how many numbers of repetitions a quantifier allows, None if it is not a quantifier."""
    if piece in {"*", "+"}:
        return MAX_MATCHED + 1
    if piece == "?":
        return 2
    if piece[0] != "{" or len(piece) == 1:
        return None
    low, comma, high = piece[1:-1].partition(",")
    least = int(low[:9] or "0")
    most = (int(high[:9]) if high else MAX_MATCHED) if comma else least
    # Also an exact number repeats a group, and the group may have choices each time.
    return max(min(most, MAX_MATCHED) - least + 1, 1) if comma else 1


#: What each match has taken since `bounded_matching` began.
_SPENT: Final[ContextVar[list[float] | None]] = ContextVar("spent", default=None)


@contextmanager
def bounded_matching() -> Iterator[None]:
    """Bound what all matches of one plan take together; another plan of the same process has a limit of its own."""
    token = _SPENT.set([])
    try:
        yield
    finally:
        _SPENT.reset(token)


@lru_cache(maxsize=1024)
def _elsewhere(pattern: str, text: str) -> bool:
    spent = _SPENT.get()
    if spent is not None and sum(spent) > _ALL_SECONDS:
        raise TooSlowError("cannot be matched: previous patterns took too long")
    now = time.monotonic()
    try:
        return _in_process(pattern, text)
    finally:
        if spent is not None:
            spent.append(time.monotonic() - now)


def _in_process(pattern: str, text: str) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _CHILD.replace("SECONDS", str(_MATCH_SECONDS))]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, text]).encode(), capture_output=True, timeout=_WALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise TooSlowError("takes too long to match") from None
    except OSError as error:
        raise TooSlowError(f"cannot be matched: {error}") from None
    if done.stdout.strip() not in {b"0", b"1"}:
        raise TooSlowError("takes too long to match")
    return done.stdout.strip() == b"1"


#: The prefix of an environment variable for a parameter; the parameter's name in upper case follows.
ENVIRONMENT_PREFIX: Final = "JOBPLAN_PARAM_"
#: Codes of problems with the values given for a run, not with the plan.
OF_GIVEN_VALUES: Final = frozenset({"JP226", "JP227", "JP228"})
#: The longest integer or number (characters); PostgreSQL's numeric takes far more, no key or count needs it.
MAX_NUMBER: Final = 100

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


def read_value(param: Param, raw: object) -> Value:
    """Return `raw` as a value of the parameter. ValueError as in `parse_value`, or if the declaration forbids it."""
    value = parse_value(param.type, raw)
    _check_allowed(param, value)
    return value


def _check_allowed(param: Param, value: Value) -> None:
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


class Inputs(Struct, frozen=True, kw_only=True):
    """The values of a plan's parameters, by their source; `require_values`: each parameter needs one."""

    given: Mapping[str, str] = field(default_factory=dict)
    file_values: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    require_values: bool = False


def resolve_values(params: Mapping[str, Param], inputs: Inputs, report: Report, start: Position) -> dict[str, Value]:
    """Return the value of every parameter that has one; report each that is wrong or missing.

    A problem has the position of the parameter's declaration, or `start` if the name is not declared. Environment
    variables without a declaration are ignored, and so are `defaults`: they may be for another plan.
    """
    values: dict[str, Value] = {}
    for names, source in ((inputs.given, "--param"), (inputs.file_values, "the params file")):
        for name in names:
            if name not in params:
                message = f"the plan has no parameter `{name}`, for which {source} gives a value"
                report.add(start, "JP227", message, hint=report.guesses.did_you_mean(name, params))
    for name, param in params.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        sources = (
            (inputs.given, name, "--param"),
            (inputs.file_values, name, "the params file"),
            (inputs.environment, variable, variable),
            (inputs.defaults, name, "the project's settings"),
        )
        found = next(((source[key], origin) for source, key, origin in sources if key in source), None)
        if found is None:
            if param.default is not None:
                values[name] = param.default
            elif inputs.require_values:
                message = f"the parameter `{name}` has no default, and no value was given"
                report.add(param.position, "JP228", message, hint=f"give one: --param {name}=…")
            continue
        raw, origin = found
        try:
            values[name] = read_value(param, raw)
        except ValueError as error:
            report.add(param.position, "JP226", f"the value of `{name}` from {origin} {error}")
    return values


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
    if (size := len(text.encode())) > MAX_NAME_BYTES:
        raise ValueError(f"is {size} bytes long; PostgreSQL cuts identifiers to {MAX_NAME_BYTES}")
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


_PATTERN_TYPES = (ParamType.STRING, ParamType.IDENTIFIER, ParamType.RELATION)
_ORDERED_TYPES = (ParamType.INTEGER, ParamType.NUMBER, ParamType.DURATION)
_NOWHERE = Position(file="", line=1, column=1)


def declare_params(files: Iterable[Fields]) -> dict[str, Param]:
    """Return every declared parameter by name, from the plan and the files that it includes."""
    params: dict[str, Param] = {}
    for file in files:
        declared = file.mapping("params")
        file.report.unread_any |= declared is None and file.has("params")
        file.report.unread.update(declared.present if declared else ())
        for name, node in declared.pairs() if declared else ():
            if declared is None or not isinstance(node, MappingNode):
                continue
            param = _declare(name, file.within(node), declared.key(name).position)
            if param is None:
                continue
            file.report.unread.discard(name)
            known = params.setdefault(name, param)
            if not is_declared_alike(known, param):
                message = f"the parameter `{name}` is declared differently at {known.position}"
                file.add(param.position, "JP224", message, hint="declare it once, or with the same keys and values")
    return params


def is_declared_alike(one: Param, other: Param) -> bool:
    """Return whether two declarations are the same, at different places."""
    return replace(one, position=_NOWHERE) == replace(other, position=_NOWHERE)


def raw_value(node: Node) -> object:
    """Return a scalar's value; a number with a fraction as an exact decimal. None for a list or mapping."""
    if not isinstance(node, Scalar):
        return None
    return Decimal(node.text) if isinstance(node.value, float) else node.value


def _declare(name: str, fields: Fields, position: Position) -> Param | None:
    type_node = fields.scalar("type")
    if type_node is None:
        return None
    kind = ParamType(type_node.text)
    bare = Param(
        name=name,
        type=kind,
        pattern=_pattern(kind, fields),
        minimum=_declared_bound(kind, fields, "minimum"),
        maximum=_declared_bound(kind, fields, "maximum"),
        description=fields.text("description"),
        position=position,
    )
    if bare.minimum is not None and bare.maximum is not None and bare.minimum > bare.maximum:
        fields.add(fields.scalar("minimum") or fields, "JP229", "`minimum` is above `maximum`")
    values = (_value(bare, fields, node, "an item of `enum`") for node in fields.items("enum"))
    param = replace(bare, enum=tuple(value for value in values if value is not None))
    default = fields.node("default")
    return param if default is None else replace(param, default=_value(param, fields, default, "`default`"))


def _value(param: Param, fields: Fields, node: Node, what: str) -> Value | None:
    try:
        return read_value(param, raw_value(node))
    except ValueError as error:
        fields.add(node, "JP225", f"{what} {error}", hint=f"`{param.name}` is of type {param.type}")
        return None


def _pattern(kind: ParamType, fields: Fields) -> str | None:
    node = fields.scalar("pattern")
    if node is None:
        return None
    if kind not in _PATTERN_TYPES:
        fields.add(node, "JP225", f"a parameter of type {kind} has no `pattern`; string, identifier and relation have")
        return None
    try:
        compile_pattern(node.text)
    except ValueError as error:
        fields.add(node, "JP225", f"`pattern` {error}")
        return None
    return node.text


def _declared_bound(kind: ParamType, fields: Fields, key: str) -> float | None:
    node = fields.scalar(key)
    if node is None:
        return None
    if kind not in _ORDERED_TYPES:
        fields.add(node, "JP225", f"a parameter of type {kind} has no `{key}`; integer, number and duration have")
        return None
    try:
        size = measure(kind, parse_value(kind, raw_value(node)))
    except ValueError as error:
        fields.add(node, "JP225", f"`{key}` {error}", hint=f"`{key}` is written like a value: of type {kind}")
        return None
    return None if size is None else float(size)
