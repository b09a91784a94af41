"""A plan file to nodes with positions: bytes are checked, decoded and composed, and nothing in them can make it raise.

The bounds are there because plans are read in CI from whoever opens a pull request.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Final

from runner.errors import Position
from runner.plan.composer import compose
from runner.plan.nodes import Mapping, Scalar, Source
from runner.plan.report import Report

#: The largest plan, include or params file that is read (bytes).
MAX_BYTES: Final = 20_000_000

_WIDE_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16: its mark begins with the other's
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# What YAML 1.2 calls printable, without the separators that YAML 1.1 takes for line breaks and 1.2 does not: two
# readers of the same file would count its lines differently.
_UNPRINTABLE = re.compile(
    "[^\\t\\n\\r -~\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff]"
)
# Not needed in a plan, and each one makes the parser compare it with all before it.
_TAG_DIRECTIVE = re.compile(r"^%TAG", re.MULTILINE)

#: What to write into a plan that is empty.
PLAN_HINT: Final = "a plan begins with `version: 1`"


def read_text(path: Path, name: str, report: Report, *, limit: int = MAX_BYTES) -> str | None:
    """Return the text of a UTF-8 file without its byte order mark, or None and a problem; `limit` is in bytes."""
    start = Position(file=name, line=1, column=1)
    try:
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

    `name` is the file's, as problems tell it; `hint` says how such a file begins.
    """
    report.names_file(name)
    if bad := _UNPRINTABLE.search(text):
        message = f"the character U+{ord(bad.group()):04X} is not allowed in a plan"
        report.add(_position(name, text[: bad.start()]), "JP004", message, hint="remove it")
        return None
    if directive := _TAG_DIRECTIVE.search(text):
        message = "the directive %TAG is not allowed in a plan"
        report.add(_position(name, text[: directive.start()]), "JP014", message, hint="leave the tags out")
        return None
    known = report.count
    root = compose(Source(name, text), report)
    if isinstance(root, Mapping):
        return root
    if report.count > known:
        return None
    if root is None or (isinstance(root, Scalar) and root.value is None):
        report.add(Position(file=name, line=1, column=1), "JP006", "the file is empty", hint=hint)
    else:
        report.add(root, "JP008", "the file must be a mapping, `key: value` and so on", hint=hint)
    return None


def read(path: Path, name: str, report: Report, *, hint: str | None = PLAN_HINT) -> Mapping | None:
    """Return the mapping that a YAML file is, or None and problems."""
    report.names_file(name)
    text = read_text(path, name, report)
    return None if text is None else parse(text, name, report, hint=hint)


def _position(name: str, before: str) -> Position:
    """Return the place of the character after `before`, which begins the file."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return Position(file=name, line=len(lines), column=len(lines[-1]) + 1)
