"""The files of a journal: how they are opened, their complete lines, and the head that confirms them.

A user who can write to a journal's files decides which SQL a resume executes. A FIFO would block the command forever, a
symbolic link or a device leads elsewhere, so none of them is opened as a part of a journal.

A crash can only remove lines that were not durable. Lines that announce a command (a launch, a cancel) are durable
before it is performed, and are confirmed in the head: their number, their bytes, and their SHA-256. A journal that does
not begin with the confirmed lines was truncated or changed, and is not used to run anything again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.errors import RecordError
from runner.structs import Struct

_TRUST_HINT = "A resume executes the SQL in it. If you trust it: chown it to yourself, and chmod go-w."


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor. OSError if that fails; RecordError for another kind of file.

    A file that is created can be read by its owner only.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise _not_regular(path, found.st_mode)
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it was replaced after the check
            raise _not_regular(path, stat.S_IFLNK if error.errno == errno.ELOOP else stat.S_IFIFO) from error
        raise
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise _not_regular(path, kind)
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file. OSError and RecordError as for `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def write_new(path: Path, data: bytes) -> None:
    """Write a new file, durably. FileExistsError if there is one."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def require_owner(root: Path, folder: Path, names: Iterable[str]) -> None:
    """Refuse a journal that another user could have written: RecordError, with a hint.

    Its folder, and the files in it with these names or patterns, must belong to this user, and neither their group nor
    others may write to them. The folder of all journals must belong to this user or to root, and others may not rename
    its entries.
    """
    me = os.geteuid()
    try:
        above = root.stat()
        if above.st_uid not in (me, 0) or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
            raise _foreign(root, above, me)
        for path in (folder, *(path for name in names for path in sorted(folder.glob(name)))):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) and not (path == folder and stat.S_ISDIR(found.st_mode)):
                raise _not_regular(path, found.st_mode)
            if found.st_uid != me or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _foreign(path, found, me)
    except OSError as error:
        raise RecordError(f"the journal {folder} cannot be read: {error.strerror} ({error.filename}).") from error


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _not_regular(path: Path, mode: int) -> RecordError:
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    return RecordError(f"{path} is {kind}, and a journal consists of regular files.", hint="It is not read.")


def _foreign(path: Path, found: os.stat_result, me: int) -> RecordError:
    if found.st_uid != me:
        return RecordError(f"{path} belongs to user {found.st_uid}, and this is user {me}.", hint=_TRUST_HINT)
    others = "others" if found.st_mode & stat.S_IWOTH else "its group"
    return RecordError(f"{path} can be written by {others} (mode {stat.S_IMODE(found.st_mode):04o}).", hint=_TRUST_HINT)


def from_ledger(run_id: str) -> str:
    """Return how to resume a run without its journal."""
    return f"With a ledger: jobplan resume {shlex.quote(run_id)} --from-ledger --journal NEW_FOLDER."


def damaged(run_id: str) -> str:
    """Return the hint for an inconsistent journal."""
    return f"The journal was damaged or changed. {from_ledger(run_id)}"


def intact_length(data: bytes) -> int:
    """Return the length of a journal's complete lines, without an incomplete last one."""
    end = data.rfind(b"\n") + 1
    begin = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return end if begin == end or _is_event(data[begin:end]) else begin


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


#: The beginning of a notice's line. A step can have sent hundreds of thousands of them, and they change no state.
_NOTICE = b'{"event": "attempt_notice", '
#: The mark of a WARNING's line, which is always read; quotes in a message are escaped.
_WARNS = b'"severity": "WARNING"'


def read_lines(path: Path, data: bytes, *, notices: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the content of each complete line of a journal. RecordError for an invalid line.

    Without `notices`, the lines of notices other than WARNINGs are not parsed, except the last line, which has the time
    of the journal's end.
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
        raise RecordError(f"{path}:{number}: this line is not an event.", hint=damaged(path.parent.name))
    yield from zip(numbers, found, strict=True)


def _is_left_out(line: bytes) -> bool:
    return line.startswith(_NOTICE) and _WARNS not in line


HEAD = "events.head"
#: The size of the file in bytes; it is overwritten in place, which a crash cannot split.
_SIZE = 160


class Confirmed(Struct, frozen=True, kw_only=True):
    """The confirmed, durable beginning of a journal."""

    lines: int
    size: int
    sha256: str


class Head:
    """Confirms the written lines of a journal. OSError if it cannot be written."""

    def __init__(self, folder: Path, data: bytes = b"", *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if create else 0)
        self._file = open_regular(folder / HEAD, flags)
        self._sha256 = hashlib.sha256(data)
        self._lines, self._size = data.count(b"\n"), len(data)

    def add(self, line: bytes) -> None:
        """Add a line that was appended."""
        self._sha256.update(line)
        self._lines += 1
        self._size += len(line)

    def confirmation(self) -> bytes:
        """Return the confirmation of all lines so far, to be written when they are durable."""
        found = {"lines": self._lines, "bytes": self._size, "sha256": self._sha256.hexdigest()}
        return f"{json.dumps(found):<{_SIZE - 1}}\n".encode()

    def confirm(self, confirmation: bytes) -> None:
        """Write a confirmation. It is durable after `make_durable` or `close`."""
        os.pwrite(self._file, confirmation, 0)

    def make_durable(self) -> None:
        """Make the last confirmation durable."""
        os.fsync(self._file)

    def close(self) -> None:
        """Make it durable and close it."""
        try:
            self.make_durable()
        finally:
            os.close(self._file)


def read_head(folder: Path) -> Confirmed | None:
    """Return the confirmation of a journal; None without one. RecordError if it cannot be read."""
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
    """Refuse a journal that does not begin with its confirmed lines; a journal of an older version has no head.

    RecordError, with a hint. The head must be read before the `data`, which may have grown since.
    """
    if head is None:
        return
    if len(data) < head.size:
        lines = data.count(b"\n")
        raise RecordError(
            f"{folder} ends early: it has {lines} of the {head.lines} lines that were written.",
            hint=damaged(folder.name),
        )
    if hashlib.sha256(data[: head.size]).hexdigest() != head.sha256:
        raise RecordError(
            f"{folder}: its first {head.lines} lines are not those that were written.", hint=damaged(folder.name)
        )
