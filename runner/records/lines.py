"""The lines of a journal, as far as they were written to their end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.errors import RecordError


def from_ledger(run_id: str) -> str:
    """Say how to go on with a run without its journal."""
    return f"With a ledger: jobplan resume {shlex.quote(run_id)} --from-ledger --journal NEW_FOLDER."


def damaged(run_id: str) -> str:
    """Say what has become of a journal that does not fit together, and what to do."""
    return f"The journal was damaged or changed. {from_ledger(run_id)}"


def intact_length(data: bytes) -> int:
    """Return how much of a journal is whole lines; what a crash left behind at its end does not count."""
    end = data.rfind(b"\n") + 1
    begin = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return end if begin == end or _is_event(data[begin:end]) else begin


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


#: How the line of a notice begins. A step can have sent hundreds of thousands of them, and they change no state.
_NOTICE = b'{"event": "attempt_notice", '
#: What is in the line of a WARNING, which is always shown; what a message quotes has its own quotes escaped.
_WARNS = b'"severity": "WARNING"'


def read_lines(path: Path, data: bytes, *, notices: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each whole line of a journal, and what it says. RecordError at one that says nothing.

    Without `notices` the lines of those that are no WARNING are not parsed, but for the last line: it says how far the
    journal goes.
    """
    lines = data[: intact_length(data)].split(b"\n")[:-1]
    numbers: Sequence[int] = range(1, len(lines) + 1)
    if not notices:
        numbers = [n for n in numbers if n == len(lines) or not _is_left_out(lines[n - 1])]
        lines = [lines[n - 1] for n in numbers]
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        found = None
    if found is None or len(found) != len(lines) or not all(isinstance(line, dict) for line in found):
        number = next(number for number, line in zip(numbers, lines, strict=True) if not _is_event(line))
        raise RecordError(f"{path}:{number}: this line is no event.", hint=damaged(path.parent.name))
    yield from zip(numbers, found, strict=True)


def _is_left_out(line: bytes) -> bool:
    return line.startswith(_NOTICE) and _WARNS not in line
