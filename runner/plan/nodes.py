"""The nodes of a YAML file: scalars, sequences and mappings with their positions.

Nodes are named tuples, not dataclasses: a plan of 10,000 steps has a quarter of a million of them, and a frozen
dataclass takes four times as long to make.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, overload

from runner.errors import Position
from runner.plan.model import Sql

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
