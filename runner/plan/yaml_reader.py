"""Read a plan file to nodes with positions: check, decode, parse and compose its bytes. No content makes it raise.

It has limits because CI reads plans from pull requests of unknown users. PyYAML's own composer recurses for each level
of nesting, does not limit what aliases expand to, stops at the first problem, and takes seven times as long as its
parser; nodes are built here in one pass, without recursion, and within bounds.
"""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import yaml
from yaml import events

from runner.errors import Position
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import NOT_ALWAYS_TEXT, Mapping, Node, Scalar, Sequence, Source, resolve_plain
from runner.sql.tokens import INVISIBLE, name_of
from runner.structs import Struct, field

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
    ("Unicode character escape", "half of a surrogate pair is no character; write both halves, such as \\ud83d\\ude00"),
    ("unknown escape character", "in double quotes a backslash begins an escape: double it, or use single quotes"),
    (
        "hexdecimal number",
        "\\x, \\u and \\U begin an escape, with 2, 4 and 8 digits; double the backslash if it is meant",
    ),
    ("quoted scalar", "a quote is opened here and never closed"),
    ("flow", "a bracket or a comma is missing"),
    ("block", "check the indentation of this line and of the one before it"),
    ("expected", "check the indentation of this line and of the one before it"),
)


#: Words of the parser's messages about a wrong escape in double quotes.
_ESCAPES: Final = ("escape character", "character escape", "hexdecimal")


class _StopReading(Exception):  # noqa: N818 - carries no error of its own: the problem is in the report already
    """The file cannot be read any further."""


class _Open(Struct):
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
        if style == '"' and (place := directional_character(text)) is not None:
            self._add(event, "JP004", f"an escape in this text makes the character {name_of(text[place])}")
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
    unclosed = "quoted scalar" in message and not any(word in message for word in _ESCAPES)
    mark = begins if begins and (stops is None or unclosed) else stops
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


#: The largest plan, include or params file that is read (bytes).
MAX_BYTES: Final = 20_000_000

_WIDE_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# All but what YAML 1.2 calls printable. Separators that only YAML 1.1 takes as line breaks are excluded too, because
# readers would count lines differently, and characters that change the text direction, because a reviewer would not see
# what runs. (The set of all others takes five times as long to compile, at every start.)
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
    "\\ufeff\\ufffe\\uffff]"
)
_DIRECTIONAL: Final = re.compile("[\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]")
#: Two JSON escapes for one character: json.dumps writes them, and YAML does not have them.
_SURROGATES: Final = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
# Not needed in a plan, and the parser compares each one with all previous ones.
_TAG_DIRECTIVE = re.compile(r"^%TAG", re.MULTILINE)

#: The hint for an empty plan.
PLAN_HINT: Final = "a plan begins with `version: 1`"


def read_text(path: Path, name: str, report: Report, *, limit: int = MAX_BYTES, pipe: bool = False) -> str | None:
    """Return the text of a UTF-8 file without its byte order mark, or None and a problem; `limit` is in bytes.

    A pipe is read only with `pipe`: an untrusted plan could be a pipe without a writer, and reading would not end.
    """
    start = Position(file=name, line=1, column=1)
    try:
        if not pipe and (special := special_file(path)) is not None:
            hint = "write it to a file first"
            report.add(start, "JP001", f"the file cannot be read: it is {special}, not a file", hint=hint)
            return None
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        report.add(start, "JP001", f"the file cannot be read: {reason}")
        return None
    if len(data) > limit:
        report.add(start, "JP002", f"the file is larger than {limit:,} bytes")
        return None
    return decode(data, name, report)


_SPECIAL: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def special_file(path: Path) -> str | None:
    """Return the kind of a path if reading it may wait forever; None for files and for missing paths."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None  # opening it reports that
    return next((name for is_one, name in _SPECIAL if is_one(mode)), None)


def decode(data: bytes, name: str, report: Report) -> str | None:
    """Return the text of UTF-8 bytes without the byte order mark, or None and a problem."""
    for mark, encoding in _WIDE_MARKS:
        if data.startswith(mark):
            start = Position(file=name, line=1, column=1)
            report.add(start, "JP003", f"the file is {encoding}", hint="save it as UTF-8")
            return None
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        position = _position(name, data[: error.start].decode())
        report.add(position, "JP003", f"byte 0x{data[error.start]:02x} is not UTF-8", hint="save the file as UTF-8")
        return None


def parse(text: str, name: str, report: Report, *, hint: str | None = PLAN_HINT) -> Mapping | None:
    """Return the mapping that a YAML text is, or None and problems.

    `name` is the file's name in problems; `hint` says how such a file begins.
    """
    report.names_file(name)
    if bad := _UNPRINTABLE.search(text):
        message = f"the character {name_of(bad.group())} is not allowed in a plan"
        report.add(_position(name, text[: bad.start()]), "JP004", message, hint="remove it")
        return None
    if directive := _TAG_DIRECTIVE.search(text):
        message = "the directive %TAG is not allowed in a plan"
        report.add(_position(name, text[: directive.start()]), "JP014", message, hint="leave the tags out")
        return None
    known = report.count
    root = compose(Source(name, _with_pairs_joined(text)), report)
    if isinstance(root, Mapping):
        return root
    if report.count > known:
        return None
    if root is None or (isinstance(root, Scalar) and root.value is None):
        report.add(Position(file=name, line=1, column=1), "JP006", "the file is empty", hint=hint)
    else:
        report.add(root, "JP008", "the file must be a mapping, `key: value` and so on", hint=hint)
    return None


def directional_character(text: str) -> int | None:
    """Return the offset of a character that changes the text direction, None if there is none."""
    found = None if text.isascii() else _DIRECTIONAL.search(text)
    return None if found is None else found.start()


def _with_pairs_joined(text: str) -> str:
    """Return the text with each pair of surrogate escapes replaced by one escape; not after an escaped backslash."""
    return _SURROGATES.sub(_joined, text) if "\\u" in text or "\\U" in text else text


def _joined(pair: re.Match[str]) -> str:
    backslashes = len(before := pair.string[: pair.start()]) - len(before.rstrip("\\"))
    if backslashes % 2:
        return pair.group()  # the first backslash is itself escaped
    code = 0x10000 + ((int(pair[1], 16) - 0xD800) << 10) + int(pair[2], 16) - 0xDC00
    return f"\\U{code:08x}"


def read(path: Path, name: str, report: Report, *, hint: str | None = PLAN_HINT, pipe: bool = False) -> Mapping | None:
    """Return the mapping that a YAML file is, or None and problems; `pipe` as `read_text` takes it."""
    report.names_file(name)
    text = read_text(path, name, report, pipe=pipe)
    return None if text is None else parse(text, name, report, hint=hint)


def _position(name: str, before: str) -> Position:
    """Return the position of the character after `before`, the text from the start of the file."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return Position(file=name, line=len(lines), column=len(lines[-1]) + 1)
