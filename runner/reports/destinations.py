"""Where a report goes, and how it is written without destroying other data.

A report replaces only a regular file at the very path that was named, in one go. Everything else keeps its identity:
`-` and what leads to an open descriptor (`/dev/stdout`, `/dev/fd/3`, the file that standard output was redirected to)
is written to that descriptor, behind what is there. A symbolic link stays, and its target is written in place. A pipe
or a device is written into. Directories, block devices and sockets are refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
import time
from pathlib import Path

from runner.reports.output_queue import REPORT_LIMIT, REPORT_PATIENCE, OutputQueue, standard_queue

#: Why a report is not complete although its place could be written to.
_NOT_READ = "it was not read to its end"
#: The path that stands for standard output.
STDOUT = Path("-")
#: Seconds to wait for the reader of a named pipe.
_READER_WITHIN = 5.0
_DESCRIPTORS = re.compile(r"/proc/(\d+)/fd")
#: Most links that are followed from one name, as in the kernel.
_MOST_LINKS = 40


class Destination:
    """A place for one report. Make it with `Destination.of`, before the run; OSError if nothing can be written there.

    Nothing is changed before `write` or `stream`, except that a pipe or a device is opened at once, because the reader
    of a pipe waits for it.
    """

    def __init__(self, path: Path, descriptor: int | None, *, in_place: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._in_place = in_place
        self._queue: OutputQueue | None = None
        #: Whether the queue is that of standard output or standard error, which others end.
        self._shared = False

    @classmethod
    def of(cls, path: Path, *, unblocked: bool = False) -> Destination:
        """Look at the place. `unblocked`: no write may wait for a reader, because a run is under way."""
        found = cls._of(path)
        if unblocked:
            found.unblock(standard_queue(_descriptor_of(path)))
        return found

    def unblock(self, standard: OutputQueue | None) -> None:
        """Write through a queue where a reader could stop a write; `standard` is that of standard output."""
        if standard is not None:
            self._queue, self._shared = standard, True
        elif self._descriptor is not None and not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self._queue = OutputQueue(self._descriptor, REPORT_LIMIT)

    @classmethod
    def _of(cls, path: Path) -> Destination:
        number = _descriptor_of(path)
        if number is not None:
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "it is open for reading only")
            return cls(path, os.dup(number), in_place=True)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return cls._to_file(path)
        if stat.S_ISREG(mode):
            return cls._to_file(path)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise OSError(errno.EINVAL, "it is neither a file, a pipe nor a terminal")
        return cls(path, _opened(path, mode), in_place=True)

    @classmethod
    def _to_file(cls, path: Path) -> Destination:
        if path.is_symlink():
            existed = path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            os.close(descriptor)
            if not existed:
                path.resolve().unlink()
            return cls(path, None, in_place=True)
        part = _part(path)
        with part.open("wb"):
            pass
        _drop(part)
        return cls(path, None, in_place=False)

    def write(self, text: str) -> None:
        """Write the whole report. OSError if it cannot be written; a regular file then keeps its previous content."""
        data = text.encode("utf-8", errors="backslashreplace")
        if self._in_place:
            self.stream(data)
            self.close()
            return
        part = _part(self.path)
        try:
            part.write_bytes(data)
            _check_replaceable(self.path)
            part.replace(self.path)
        except OSError:
            _drop(part)
            raise

    def stream(self, data: bytes) -> None:
        """Write a part of a report that is written during the run; the first part empties a regular file."""
        if self._queue is not None:
            if not self._queue.put(data):
                raise OSError(errno.ENOBUFS, _NOT_READ)
            return
        if self._descriptor is None:
            self._descriptor = _emptied(self.path, in_place=self._in_place)
        if self._in_place:
            _flush_streams()
        while data:
            data = data[os.write(self._descriptor, data) :]

    def try_to_open(self) -> None:
        """Raise OSError if `stream` could not open an existing file. The file is not changed: the run may not start."""
        if self._descriptor is None and self.path.exists():
            if not self._in_place:
                _check_replaceable(self.path)
            os.close(os.open(self.path, os.O_WRONLY))

    def close(self) -> None:
        """Close what is open. OSError if a reader has not read everything."""
        descriptor, self._descriptor = self._descriptor, None
        queue, self._queue = self._queue, None
        if queue is not None:
            if not self._shared:
                queue.end()
            if not queue.wait(REPORT_PATIENCE):
                raise OSError(errno.ETIMEDOUT, _NOT_READ)  # the descriptor stays open: the thread still writes to it
        if descriptor is not None:
            os.close(descriptor)


def _emptied(path: Path, *, in_place: bool) -> int:
    """Open an empty file. A hard link to a regular file keeps the content."""
    if not in_place:
        _check_replaceable(path)
        if path.exists() and path.stat().st_nlink > 1:
            path.unlink()
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (0 if in_place else os.O_NOFOLLOW), 0o666)


def _check_replaceable(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EEXIST, "it is not a regular file any more")


def identity_of(path: Path) -> tuple[object, ...]:
    """Return a value that is equal for two paths to the same file, also if the file does not exist."""
    try:
        found = os.fstat(1) if path == STDOUT else path.stat()
    except OSError:
        return (os.path.realpath(path),)
    return (found.st_dev, found.st_ino)


def is_device(path: Path) -> bool:
    """Return whether it is a device, such as /dev/null: several reports may go there."""
    with contextlib.suppress(OSError):
        return path != STDOUT and stat.S_ISCHR(path.stat().st_mode)
    return False


def _descriptor_of(path: Path) -> int | None:
    """Return the open descriptor that a path leads to, or that has the same file open for output; None if none does."""
    if path == STDOUT:
        return 1
    name = path.absolute()
    for _ in range(_MOST_LINKS):
        process = _DESCRIPTORS.fullmatch(os.path.realpath(name.parent))
        if process is not None and name.name.isdigit():
            if int(process.group(1)) != os.getpid():
                raise OSError(errno.EBADF, "it is a descriptor of another process")
            os.fstat(int(name.name))
            return int(name.name)
        if not name.is_symlink():
            break
        name = name.parent / name.readlink()
    with contextlib.suppress(OSError):
        there = path.stat()
        if stat.S_ISREG(there.st_mode):
            return next((number for number in (1, 2) if os.path.samestat(there, os.fstat(number))), None)
    return None


def _opened(path: Path, mode: int) -> int:
    """Open a pipe or a device without creating or truncating it; wait some seconds for the reader of a pipe."""
    end = time.monotonic() + _READER_WITHIN
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(mode) or time.monotonic() >= end:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _flush_streams() -> None:
    """Flush what was printed before the report."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _part(path: Path) -> Path:
    """Return the path of the unfinished report: in the same folder, with a name that no textfile collector reads.

    The name is unique to this process: two runs may write the same report at the same time.
    """
    return path.absolute().with_name(f".jobplan-{os.getpid()}.part")


def _drop(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()
