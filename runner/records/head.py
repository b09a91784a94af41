"""How far a journal goes: a second file that confirms its first lines, so that a journal that was cut is noticed.

A crash can only take lines that were not durable yet. Lines that an order followed (a launch, a cancel) are durable
before it is carried out, and are confirmed here: how many they are, how many bytes, and the SHA-256 of all of them. A
journal that does not begin with what its head confirms was cut or changed, and nothing is run again by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from runner.errors import RecordError
from runner.records.files import open_regular, read_regular
from runner.records.lines import damaged

HEAD = "events.head"
#: Bytes of the file; it is overwritten in place, which a crash does not tear.
_SIZE = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """The beginning of a journal that is known to be durable."""

    lines: int
    size: int
    sha256: str


class Head:
    """Confirms what has been written to a journal. OSError if it cannot be written."""

    def __init__(self, folder: Path, data: bytes = b"", *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if create else 0)
        self._file = open_regular(folder / HEAD, flags)
        self._sha256 = hashlib.sha256(data)
        self._lines, self._size = data.count(b"\n"), len(data)

    def add(self, line: bytes) -> None:
        """Take a line that was appended."""
        self._sha256.update(line)
        self._lines += 1
        self._size += len(line)

    def confirmation(self) -> bytes:
        """Return what confirms everything so far, to be written once it is durable."""
        found = {"lines": self._lines, "bytes": self._size, "sha256": self._sha256.hexdigest()}
        return f"{json.dumps(found):<{_SIZE - 1}}\n".encode()

    def confirm(self, confirmation: bytes) -> None:
        """Write down how much is durable. The file itself is made durable when it is closed."""
        os.pwrite(self._file, confirmation, 0)

    def close(self) -> None:
        """Make it durable and close it."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def read_head(folder: Path) -> Confirmed | None:
    """Return what the head of a journal confirms; None if there is none. RecordError if it cannot be read."""
    try:
        data = read_regular(folder / HEAD)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(data)
        return Confirmed(lines=int(found["lines"]), size=int(found["bytes"]), sha256=str(found["sha256"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RecordError(f"{folder / HEAD} is damaged.", hint=damaged(folder.name)) from error


def check_head(folder: Path, head: Confirmed | None, data: bytes) -> None:
    """Refuse a journal that does not begin with what its head confirms; a journal of an older version has no head.

    RecordError, with what to do. The head must have been read before the `data`, which may have grown since.
    """
    if head is None:
        return
    if len(data) < head.size:
        raise RecordError(
            f"{folder} ends early: it has {data.count(_NEWLINE)} of the {head.lines} lines that were written.",
            hint=damaged(folder.name),
        )
    if hashlib.sha256(data[: head.size]).hexdigest() != head.sha256:
        raise RecordError(
            f"{folder}: its first {head.lines} lines are not those that were written.", hint=damaged(folder.name)
        )


_NEWLINE = b"\n"
