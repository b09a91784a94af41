"""Build nodes from the YAML parser's events: in one pass, without recursion, and within bounds.

PyYAML's own composer recurses for each level of nesting, does not limit what aliases expand to, stops at the first
problem, and takes seven times as long as its parser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import yaml
from yaml import events

from runner.errors import Position
from runner.plan.nodes import Mapping, Node, Scalar, Sequence, Source
from runner.plan.report import Report
from runner.plan.scalars import NOT_ALWAYS_TEXT, resolve_plain
from runner.sql.tokens import INVISIBLE, name_of

#: How deep collections may be nested. The language needs six levels.
MAX_DEPTH: Final = 64
#: How many nodes a file may have once its aliases are expanded.
MAX_NODES: Final = 1_000_000

_Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_MERGE = "<<"
_TOO_DEEP = f"this is nested more than {MAX_DEPTH} levels deep"
#: The error of a libyaml with a nesting limit of its own, which it reaches while it reads ahead.
_LOOKED_TOO_DEEP = "maximum nesting depth"
_STARTS = (events.MappingStartEvent, events.SequenceStartEvent)
_ENDS = (events.MappingEndEvent, events.SequenceEndEvent)


class _Mark(Protocol):
    """A place as the parser returns it: line and column count from 0."""

    line: int
    column: int


class _Event(Protocol):
    """The attributes of PyYAML's events that the composer uses. The types of PyYAML make marks optional."""

    start_mark: _Mark
    anchor: str
    tag: str | None


class _ScalarEvent(_Event, Protocol):
    value: str
    style: str | None


#: Words of the parser's message, and the probable mistake.
_SYNTAX_HINTS: Final = (
    ("mapping values", "a value with a colon and a space in it needs quotes, or the indentation is wrong"),
    ("quoted scalar", "a quote is opened here and never closed"),
    ("flow", "a bracket or a comma is missing"),
    ("block", "check the indentation of this line and of the one before it"),
    ("expected", "check the indentation of this line and of the one before it"),
)


class _StopReading(Exception):  # noqa: N818 - carries no error of its own: the problem is in the report already
    """The file cannot be read any further."""


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    mapping: bool
    line: int
    column: int
    anchor: str | None
    size: int = 1
    items: list[Node] = field(default_factory=list)
    values: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Scalar] = field(default_factory=dict)
    key: Node | None = None


def compose(source: Source, report: Report) -> Node | None:
    """Return the root of the single document, None if there is none; problems go to `report`."""
    loader = _Loader(source.text)
    try:
        return _Composer(source, report, loader).read()
    except _StopReading:
        return None
    except yaml.MarkedYAMLError as error:
        _report_syntax(error, source, report)
        return None
    finally:
        loader.dispose()


class _Composer:
    def __init__(self, source: Source, report: Report, loader: yaml.CSafeLoader | yaml.SafeLoader) -> None:
        self._source = source
        self._report = report
        self._loader = loader
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._documents = 0

    def read(self) -> Node | None:
        """Return the root. Half of the time for a large plan is spent here, so finished nodes are added inline."""
        get_event: Callable[[], Any] = self._loader.get_event
        stack = self._stack
        total = 0
        while True:
            event = get_event()
            kind = type(event)
            if kind is events.ScalarEvent:
                node, size = self._scalar(event), 1
                total += 1
            elif kind in _STARTS:
                self._begin(event, mapping=kind is events.MappingStartEvent)
                total += 1
                continue
            elif kind in _ENDS:
                node, size = self._end()
            elif kind is events.AliasEvent:
                node, size = self._alias(event)
                total += size
            elif self._is_over(event, kind):
                return self._root
            else:
                continue
            if total > MAX_NODES:
                self._add(event, "JP013", f"the file has more than {MAX_NODES:,} values, with aliases expanded")
                raise _StopReading
            if not stack:
                self._root = node
                continue
            parent = stack[-1]
            parent.size += size
            if not parent.mapping:
                parent.items.append(node)
            elif parent.key is None:
                parent.key = node
            else:
                self._pair(parent, parent.key, node)
                parent.key = None

    def _is_over(self, event: _Event, kind: type[object]) -> bool:
        """Return whether the document has ended, or a second one begins."""
        if kind is events.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                self._add(event, "JP007", "a second document begins here; a plan is one document")
                return True
        return kind is events.StreamEndEvent

    def _scalar(self, event: _ScalarEvent) -> Node:
        text, style, tag = event.value, event.style or "", event.tag
        mark = event.start_mark
        if style == '"' and ("\0" in text or not _is_unicode(text)):
            self._add(event, "JP004", "an escape in this text makes a character that PostgreSQL cannot hold")
        if tag is not None:
            self._check_tag(event, tag, ("!", "tag:yaml.org,2002:str"))
        value = resolve_plain(text) if not style and text[:1] in NOT_ALWAYS_TEXT and tag is None else text
        node = Scalar(self._source, mark.line + 1, mark.column + 1, text, value, style)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _begin(self, event: _Event, *, mapping: bool) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._add(event, "JP012", _TOO_DEEP)
            raise _StopReading
        if event.tag is not None:
            self._check_tag(event, event.tag, ("!", "tag:yaml.org,2002:map" if mapping else "tag:yaml.org,2002:seq"))
        if event.anchor:
            self._anchors[event.anchor] = None
        mark = event.start_mark
        self._stack.append(_Open(mapping, mark.line + 1, mark.column + 1, event.anchor))

    def _end(self) -> tuple[Node, int]:
        done = self._stack.pop()
        node: Node
        if done.mapping:
            if _MERGE in done.keys and not done.keys[_MERGE].style:
                self._merge(done)
            node = Mapping(self._source, done.line, done.column, done.values, done.keys, done.size)
        else:
            node = Sequence(self._source, done.line, done.column, tuple(done.items), done.size)
        if done.anchor:
            self._anchors[done.anchor] = node
        return node, done.size

    def _alias(self, event: _Event) -> tuple[Node, int]:
        name = event.anchor
        node = self._anchors.get(name)
        if node is None:
            message = f"`*{name}` is an alias of itself" if name in self._anchors else f"there is no anchor `&{name}`"
            hint = "write the anchor `&name` before the aliases `*name` that repeat it"
            self._add(event, "JP011", message, hint=hint)
            raise _StopReading
        return node, 1 if isinstance(node, Scalar) else node.size

    def _pair(self, parent: _Open, key: Node, value: Node) -> None:
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            subject = f"`{key.text}`" if isinstance(key, Scalar) else "this key"
            message = f"{subject} is not text; every key of a plan must be"
            self._add(key, "JP009", message, hint="put the key in quotes")
        elif key.value in parent.keys:
            first = parent.keys[key.value]
            message = f"the key `{key.value}` is repeated; it is already at line {first.line}, column {first.column}"
            self._add(key, "JP010", message)
        else:
            parent.values[key.value] = value
            parent.keys[key.value] = key

    def _merge(self, into: _Open) -> None:
        """Add the keys of the mapping or mappings under `<<`; keys that the mapping has itself take precedence."""
        del into.keys[_MERGE]
        merge = into.values.pop(_MERGE)
        for part in merge.items if isinstance(merge, Sequence) else (merge,):
            if not isinstance(part, Mapping):
                self._add(part, "JP015", "`<<` takes an alias of a mapping, or a list of such aliases")
                continue
            for key, value in part.values.items():
                if key not in into.values:
                    into.values[key] = value
                    into.keys[key] = part.keys[key]

    def _check_tag(self, event: _Event, tag: str, allowed: tuple[str, str]) -> None:
        if tag not in allowed:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self._add(event, "JP014", f"the tag `{short}` is not allowed here", hint="leave the tag out")

    def _add(self, where: _Event | Node | _Open, code: str, message: str, *, hint: str | None = None) -> None:
        if isinstance(where, Scalar | Sequence | Mapping | _Open):
            line, column = where.line, where.column
        else:
            line, column = where.start_mark.line + 1, where.start_mark.column + 1
        self._report.add(Position(file=self._source.name, line=line, column=column), code, message, hint=hint)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _report_syntax(error: yaml.MarkedYAMLError, source: Source, report: Report) -> None:
    message = " ".join(part for part in (error.context, error.problem) if part)
    begins, stops = error.context_mark, error.problem_mark
    # An unclosed quote is reported at the end of the file; the useful place is where the quote begins.
    mark = begins if begins and (stops is None or "quoted scalar" in message) else stops
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if begins and begins.line + 1 < line:
        message += f"; it begins at line {begins.line + 1}"
    position = Position(file=source.name, line=line, column=column)
    if error.problem is not None and _LOOKED_TOO_DEEP in error.problem:
        report.add(position, "JP012", _TOO_DEEP)
        return
    report.add(position, "JP005", f"this is not YAML: {message}", hint=_syntax_hint(source, line, column, message))


def _syntax_hint(source: Source, line: int, column: int, message: str) -> str | None:
    """Return the probable mistake: the parser names the token that it expected, not what to write."""
    raw = source.lines[line - 1] if line <= len(source.lines) else ""
    character = raw[column - 1 : column]
    if character == "\t":
        return "YAML does not allow tabs for indentation; use spaces"
    if (found := INVISIBLE.search(raw)) is not None:
        return f"{name_of(found.group())} is in this line, which is invisible or looks like a space; remove it"
    if character in ("@", "`", "%"):
        return f"a value cannot begin with `{character}`; put it in quotes"
    return next((hint for words, hint in _SYNTAX_HINTS if words in message), None)
