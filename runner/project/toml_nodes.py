"""TOML as nodes with positions, so that a settings file gets the same checks and messages as a plan.

`tomllib` decides what is TOML and what the values are. It knows no positions; a second pass over the text, which is
known to be valid then, finds where each key and each value begins.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping as MappingABC
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from runner.errors import Position
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Mapping, Node, Scalar, Sequence, Source
from runner.plan.yaml_reader import directional_character, read_text

#: The deepest nesting of tables and lists.
MAX_DEPTH = 50
#: The largest settings file (bytes).
MAX_BYTES = 1_000_000

_Path: TypeAlias = tuple[str | int, ...]
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*'")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2}(?!"))|' + r"'''.*?'''(?:'{0,2}(?!'))|" + r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", re.DOTALL
)
_OTHER = re.compile(r"[^\s,\]}#]+(?: [0-9][0-9:.]*[^\s,\]}#]*)?")
#: A dotted key of more parts than the deepest nesting: the parser takes quadratic time for it.
_DOTTED = re.compile(r"(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){50}")
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_toml(path: Path, name: str, report: Report, *, table: tuple[str, ...]) -> Mapping | None:
    """Return a TOML file as a mapping, or one of its tables; None with problems, or if there is no such table."""
    report.names_file(name)
    text = read_text(path, name, report, limit=MAX_BYTES)
    return None if text is None else parse_toml(text, name, report, table=table)


def parse_toml(text: str, name: str, report: Report, *, table: tuple[str, ...] = ()) -> Mapping | None:
    """Return a TOML text as a mapping, or one of its tables; None with problems, or if there is no such table."""
    source = Source(name, text)
    start = Position(file=name, line=1, column=1)
    if (offset := directional_character(text)) is not None:
        line = Position(file=name, line=text.count("\n", 0, offset) + 1, column=1)
        report.add(line, "JP004", "a character that changes the text direction is not allowed", hint="remove it")
        return None
    values: Any = None
    try:
        if not _DOTTED.search(text):
            values = tomllib.loads(text, parse_float=Decimal)
    except RecursionError:
        values = None
    except ValueError as error:  # also a number with too many digits
        report.add(*_syntax_problem(str(error), source))
        return None
    if values is None or _is_deep(values):
        report.add(start, "JP012", f"the file is nested deeper than {MAX_DEPTH} levels")
        return None
    tree = _Tree(source, _Places(text).found)
    found: _Path = ()
    for key in table:
        if not isinstance(values, MappingABC) or key not in values:
            return None
        values, found = values[key], (*found, key)
    node = tree.node(values, found)
    if isinstance(node, Mapping):
        return node
    report.add(node, "JP008", f"`{'.'.join(table)}` must be a table")
    return None


def _syntax_problem(message: str, source: Source) -> tuple[Position, str, str]:
    place = _AT.search(message)
    words = message[: place.start()] if place is not None else message
    words = words[:1].lower() + words[1:]
    if place is None:
        return Position(file=source.name, line=1, column=1), "JP275", words
    if place[1] is None:
        return Position(file=source.name, line=max(1, len(source.lines)), column=1), "JP275", f"{words}: the file ends"
    return Position(file=source.name, line=int(place[1]), column=int(place[2])), "JP275", words


def _is_deep(values: object) -> bool:
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


class _Tree:
    """Builds nodes from values and the places of their paths."""

    def __init__(self, source: Source, places: MappingABC[_Path, tuple[int, int]]) -> None:
        self._source = source
        self._places = places
        self._starts = [0, *(found.end() for found in re.finditer("\n", source.text))]

    def node(self, value: Any, path: _Path) -> Node:  # noqa: ANN401 - a value of TOML
        """Return the node of a value."""
        line, column = self._place(self._places.get(path, (0, 0))[1])
        if isinstance(value, dict):
            values = {key: self.node(part, (*path, key)) for key, part in value.items()}
            keys = {key: self._scalar(key, *self._place(self._places.get((*path, key), (0, 0))[0])) for key in value}
            return Mapping(self._source, line, column, values, keys, 1 + sum(map(_size, values.values())))
        if isinstance(value, list):
            items = tuple(self.node(part, (*path, number)) for number, part in enumerate(value))
            return Sequence(self._source, line, column, items, 1 + sum(map(_size, items)))
        if isinstance(value, bool):
            return Scalar(self._source, line, column, str(value).lower(), value, "")
        if isinstance(value, int):
            return Scalar(self._source, line, column, str(value), value, "")
        if isinstance(value, Decimal):
            return Scalar(self._source, line, column, str(value), float(value), "")
        return self._scalar(value if isinstance(value, str) else value.isoformat(), line, column)

    def _scalar(self, text: str, line: int, column: int) -> Scalar:
        return Scalar(self._source, line, column, text, text, '"')

    def _place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def _size(node: Node) -> int:
    return 1 if isinstance(node, Scalar) else node.size


class _Places:
    """Finds where the key and the value of each path begin, in a text that is valid TOML."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.found: dict[_Path, tuple[int, int]] = {}
        self._arrays: dict[_Path, int] = {}
        table: _Path = ()
        self._skip(_BLANK)
        while self._at < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        self._at = self._at if found is None else found.end()

    def _header(self) -> _Path:
        start, of_array = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if of_array else 1
        path: _Path = ()
        keys = self._keys()
        for number, (key, at) in enumerate(keys, 1):
            path = (*path, key)
            self.found.setdefault(path, (at, start))
            if of_array and number == len(keys):
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = (*path, self._arrays[path])
                self.found.setdefault(path, (at, start))
        self._at += 2 if of_array else 1
        return path

    def _keys(self) -> list[tuple[str, int]]:
        keys: list[tuple[str, int]] = []
        while True:
            self._skip(_SPACE)
            found = _KEY.match(self._text, self._at)
            if found is None:  # the text is not TOML after all: what follows has no positions
                self._at = len(self._text)
                return keys
            written = found.group()
            key = written if written[0] not in "\"'" else str(next(iter(tomllib.loads(f"{written}=0"))))
            keys.append((key, self._at))
            self._at = found.end()
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _pair(self, table: _Path) -> None:
        path = table
        for key, at in self._keys():
            path = (*path, key)
            self.found.setdefault(path, (at, at))
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path, key_at=self.found.get(path, (0, 0))[0])

    def _value(self, path: _Path, *, key_at: int) -> None:
        self.found[path] = (key_at, self._at)
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._at += 1
            self._skip(_BLANK)
            number = 0
            while self._at < len(self._text) and self._text[self._at] != "]":
                self._value((*path, number), key_at=self._at)
                number += 1
                self._skip_comma()
            self._at += 1
        elif opening == "{":
            self._at += 1
            self._skip(_BLANK)
            while self._at < len(self._text) and self._text[self._at] != "}":
                self._pair(path)
                self._skip_comma()
            self._at += 1
        else:
            self._skip(_STRING if opening in "\"'" else _OTHER)

    def _skip_comma(self) -> None:
        before = self._at
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += 1
        self._skip(_BLANK)
        if self._at == before and self._text[self._at : self._at + 1] not in ("]", "}"):
            self._at = len(self._text)  # never twice at the same place
