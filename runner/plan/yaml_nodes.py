"""The nodes of a YAML file: scalars, sequences and mappings with their positions, and typed access to a mapping.

Nodes are named tuples, not dataclasses: a plan of 10,000 steps has a quarter of a million of them, and a frozen
dataclass takes four times as long to make.

Plain scalars are read by the YAML 1.2 core schema with restrictions, because people read plans: only `true` and
`false` are booleans, only `null`, `~` and nothing are null, integers are decimal and have no leading zero (`007` and
`0o17` stay text), there is no infinity, and neither `yes`, `12:30` nor `2026-01-02` is anything but text. A value that
the schema does not allow reads as absent.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, KeysView
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar, overload

from runner.durations import parse_duration
from runner.errors import Cause, Position
from runner.plan.model import Sql
from runner.plan.problem_collector import Placed, Report
from runner.sql.comments import has_comments, without_comments

ScalarValue: TypeAlias = str | int | float | bool | None


class Source:
    """One file: its name in problems, and its text."""

    __slots__ = ("_lines", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._lines: list[str] | None = None

    @property
    def lines(self) -> list[str]:
        """Return the lines without their ends, split as YAML and SQL count them."""
        if self._lines is None:
            self._lines = self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return self._lines


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStarts(SequenceABC[Position]):
    """The starts of adjacent lines in one column. They are created on access: a file may have very many lines."""

    file: str
    first_line: int
    column: int
    lines: int

    def __len__(self) -> int:
        return self.lines

    @overload
    def __getitem__(self, index: int) -> Position: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Position, ...]: ...
    def __getitem__(self, index: int | slice) -> Position | tuple[Position, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(self.lines)))
        line = range(self.first_line, self.first_line + self.lines)[index]
        return Position(file=self.file, line=line, column=self.column)


class Scalar(NamedTuple):
    """A scalar: `text` as written (without quotes), `value` as YAML 1.2 reads it; `style` is empty for a plain one."""

    source: Source
    line: int
    column: int
    text: str
    value: ScalarValue
    style: str

    @property
    def position(self) -> Position:
        """Return where the scalar begins."""
        return Position(file=self.source.name, line=self.line, column=self.column)


class Sequence(NamedTuple):
    """A sequence; `size` counts all nodes in it, an aliased one as often as it occurs."""

    source: Source
    line: int
    column: int
    items: tuple[Node, ...]
    size: int

    @property
    def position(self) -> Position:
        """Return where the sequence begins."""
        return Position(file=self.source.name, line=self.line, column=self.column)


class Mapping(NamedTuple):
    """A mapping: its values by key, and the scalar of each key. Merged keys (`<<`) are included."""

    source: Source
    line: int
    column: int
    values: dict[str, Node]
    keys: dict[str, Scalar]
    size: int

    @property
    def position(self) -> Position:
        """Return where the mapping begins."""
        return Position(file=self.source.name, line=self.line, column=self.column)


Node: TypeAlias = Scalar | Sequence | Mapping


def sql_of(scalar: Scalar) -> Sql:
    """Return the scalar's text as SQL with its position.

    The start of each line is known if the file has the text unchanged: literal blocks, and scalars on one line without
    escapes. The text is compared with the source; where they differ, only the start is known.
    """
    starts = _block_starts(scalar) if scalar.style == "|" else _inline_start(scalar)
    if starts is None:
        return Sql(text=scalar.text, start=scalar.position)
    return Sql(text=scalar.text, start=starts[0], line_starts=starts)


def sql_of_file(name: str, text: str) -> Sql:
    """Return the text of a whole file as SQL; `name` is the file's name in problems."""
    starts = LineStarts(file=name, first_line=1, column=1, lines=text.count("\n") + 1)
    return Sql(text=text, start=starts[0], line_starts=starts)


def is_empty_sql(sql: Sql) -> bool:
    """Return whether a text has only white space, semicolons and comments."""
    text = without_comments(sql.text) if has_comments(sql.text) else sql.text
    return not text.strip(" \t\r\n\f\v;")


def _block_starts(scalar: Scalar) -> LineStarts | None:
    written = scalar.source.lines
    lines = scalar.text.split("\n")
    first = scalar.line  # the line after the one with the bar, counted from 0
    indent: int | None = None
    for number, line in enumerate(lines, first):
        if not line:
            continue
        raw = written[number] if number < len(written) else ""
        indent = len(raw) - len(line) if indent is None else indent
        if indent < 0 or raw[indent:] != line or raw[:indent].strip(" "):
            return None
    if indent is None:
        return None
    return LineStarts(file=scalar.source.name, first_line=first + 1, column=indent + 1, lines=len(lines))


def _inline_start(scalar: Scalar) -> LineStarts | None:
    quote = scalar.style if scalar.style != ">" else "\n"  # a folded block is never on one line
    as_written = f"{quote}{scalar.text}{quote}"
    if "\n" in as_written or not scalar.source.lines[scalar.line - 1].startswith(as_written, scalar.column - 1):
        return None
    column = scalar.column + len(quote)
    return LineStarts(file=scalar.source.name, first_line=scalar.line, column=column, lines=1)


#: The longest integer or number that is read as a number (characters); a longer one is text.
MAX_DIGITS = 100

_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER_STARTS = frozenset("+-.0123456789")
#: First characters of plain scalars that may be something else than text; "" stands for an empty scalar.
NOT_ALWAYS_TEXT = _NUMBER_STARTS | {word[:1] for word in _WORDS}
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def is_long_integer(text: str) -> bool:
    """Return whether a text is a whole number that is too long to be read as a number."""
    return len(text) > MAX_DIGITS and _INTEGER.fullmatch(text) is not None


def read_otherwise(value: object, text: str) -> str | None:
    """Return the form in which a number is used if the file has another: `1.10` becomes 1.1, `1e3` 1000.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or str(value) == text:
        return None
    return str(value)


def resolve_plain(text: str) -> str | int | float | bool | None:
    """Return the value of a plain (unquoted) scalar."""
    if text[:1] in _NUMBER_STARTS and len(text) <= MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        return text
    return _WORDS.get(text, text)


_Choice = TypeVar("_Choice", bound=enum.StrEnum)

_NONE = "none"


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float | str:
    """Return the seconds, or the error."""
    try:
        return parse_duration(text)
    except ValueError as error:
        return str(error)


class UnusableNodes:
    """The nodes with values that the schema does not allow, each by its identity: equal nodes can be at two places."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes = {id(node): node for node in nodes}

    def __contains__(self, node: Node) -> bool:
        return id(node) in self._nodes

    def __or__(self, other: UnusableNodes) -> UnusableNodes:
        return UnusableNodes((*self._nodes.values(), *other._nodes.values()))

    def add(self, node: Node) -> None:
        """Add a node."""
        self._nodes[id(node)] = node


class Fields:
    """A mapping's values by key, without those that the schema does not allow (`unusable`)."""

    __slots__ = ("_values", "place", "report", "step", "unusable")

    def __init__(
        self,
        values: MappingABC[str, Node],
        place: Placed,
        report: Report,
        unusable: UnusableNodes,
        *,
        step: str | None = None,
    ) -> None:
        self._values = values
        self.unusable = unusable
        self.place = place
        self.report = report
        self.step = step

    @property
    def position(self) -> Position:
        """Return where the mapping begins."""
        return self.place.position

    @property
    def present(self) -> KeysView[str]:
        """Return all keys, also those with values that are not valid."""
        return self._values.keys()

    def has(self, key: str) -> bool:
        """Return whether the key exists, also with a value that is not valid."""
        return key in self._values

    def node(self, key: str) -> Node | None:
        """Return the key's node, None if there is none or it is not valid."""
        node = self._values.get(key)
        return None if node is None or node in self.unusable else node

    def key(self, name: str) -> Placed:
        """Return the node of a key, or the mapping if the key comes from elsewhere."""
        keys = self.place.keys if isinstance(self.place, Mapping) else {}
        return keys.get(name, self.place)

    def scalar(self, key: str) -> Scalar | None:
        """Return the key's node if it is a scalar."""
        node = self._values.get(key)
        return node if isinstance(node, Scalar) and node not in self.unusable else None

    def items(self, key: str) -> tuple[Node, ...]:
        """Return the valid items of a list."""
        node = self._values.get(key)
        if not isinstance(node, Sequence) or node in self.unusable:
            return ()
        return tuple(item for item in node.items if item not in self.unusable)

    def mapping(self, key: str) -> Fields | None:
        """Return the key's mapping."""
        node = self.node(key)
        return self.within(node) if isinstance(node, Mapping) else None

    def within(self, node: Mapping) -> Fields:
        """Return the fields of a mapping that belongs to this one."""
        return Fields(node.values, node, self.report, self.unusable, step=self.step)

    def pairs(self) -> tuple[tuple[str, Node], ...]:
        """Return every key that has a valid value."""
        return tuple((key, node) for key, node in self._values.items() if node not in self.unusable)

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        node = self.scalar(key)
        return default if node is None else node.text

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(item.text for item in self.items(key) if isinstance(item, Scalar))

    def sql(self, key: str) -> Sql | None:
        """Return a SQL text; one without any SQL is a problem."""
        node = self.scalar(key)
        if node is None:
            return None
        sql = sql_of(node)
        if is_empty_sql(sql):
            self.add(node, "JP219", f"`{key}` has no SQL")
            return None
        return sql

    def integer(self, key: str, default: int) -> int:
        """Return a whole number."""
        node = self.scalar(key)
        return int(node.value) if node is not None and isinstance(node.value, int | float) else default

    def number(self, key: str, default: float) -> float:
        """Return a number."""
        node = self.scalar(key)
        return float(node.value) if node is not None and isinstance(node.value, int | float) else default

    def boolean(self, key: str) -> bool | None:
        """Return true or false, None if the key has neither."""
        node = self.scalar(key)
        return node.value if node is not None and isinstance(node.value, bool) else None

    def choice(self, key: str, default: _Choice) -> _Choice:
        """Return a member of the default's enum."""
        node = self.scalar(key)
        return default if node is None else type(default)(node.text)

    def duration(self, key: str, default: float | None = None, *, zero: bool = False) -> float | None:
        """Return seconds, None for `none`; a duration of zero is a problem unless `zero`."""
        node = self.scalar(key)
        if node is None or node.text == _NONE:
            return None if node is not None else default
        seconds = _seconds(node.text)
        if isinstance(seconds, str):
            self.add(node, "JP215", f"`{key}`: {seconds}")
            return default
        if seconds == 0 and not zero:
            hint = "write `none` for no limit" if key.endswith("timeout") and key != "run_timeout" else None
            self.add(node, "JP215", f"`{key}` must be greater than zero", hint=hint)
            return default
        return seconds

    def add(
        self,
        where: Placed | Position,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        cause: Cause | None = None,
    ) -> None:
        """Report a problem of this mapping's step."""
        self.report.add(where, code, message, hint=hint, step=self.step, cause=cause)
