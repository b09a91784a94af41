"""Reading the files of a journal: regular files only, and, before anything is executed by them, of the right owner.

Whoever can write to a journal's files decides which SQL a resume executes. A FIFO would hold the command up for ever, a
symbolic link or a device leads somewhere else, so none of them is opened as a part of a journal.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from runner.errors import RecordError

_IS_OWN = "A resume executes the SQL that is in it. If you trust it: chown it to yourself, and chmod go-w."


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file and return its descriptor. OSError if it cannot be; RecordError if it is something else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise _not_regular(path, found.st_mode)
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it was put there after the look
            raise _not_regular(path, stat.S_IFLNK if error.errno == errno.ELOOP else stat.S_IFIFO) from error
        raise
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise _not_regular(path, kind)
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return what is in a regular file. OSError and RecordError as for `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def require_owner(root: Path, folder: Path, names: Iterable[str]) -> None:
    """Refuse a journal that another user could have written: RecordError, with what to do.

    Its folder, and the files in it with these names or patterns, belong to this user, and neither its group nor others
    may write to them. The folder of all journals belongs to this user or to root, and others may not rename what is in
    it.
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
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    return RecordError(f"{path} is {kind}, and a journal consists of regular files.", hint="It is not read.")


def _foreign(path: Path, found: os.stat_result, me: int) -> RecordError:
    if found.st_uid != me:
        return RecordError(f"{path} belongs to user {found.st_uid}, and this is user {me}.", hint=_IS_OWN)
    who = "others" if found.st_mode & stat.S_IWOTH else "its group"
    return RecordError(f"{path} can be written by {who} (mode {stat.S_IMODE(found.st_mode):04o}).", hint=_IS_OWN)
