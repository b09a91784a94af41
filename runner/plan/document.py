"""Read a plan file to nodes with positions: check, decode and compose its bytes. No content makes it raise.

It has limits because CI reads plans from pull requests of unknown users.
"""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path
from typing import Final

from runner.errors import Position
from runner.plan.composer import compose
from runner.plan.nodes import Mapping, Scalar, Source
from runner.plan.report import Report
from runner.sql.tokens import name_of

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
# what runs.
_UNPRINTABLE = re.compile(
    "[^\\t\\n\\r -~\\xa0-\\u061b\\u061d-\\u200d\\u2010-\\u2027\\u202f-\\u2065\\u206a-\\ud7ff"
    "\\ue000-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff]"
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
        if not pipe and (special := _special(path)) is not None:
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


def _special(path: Path) -> str | None:
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
