"""Each server's own folder: its socket, its log, usually its data, and a lock that is held while the server is in use.

The owner and its watchdog hold the lock, and the kernel releases it when both have ended. That also works between
containers that share a folder for temporary files, where process ids would not. A kept server, which outlives its
command, has no holder: it is in use as long as its postmaster runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded import locks, watchdog
from runner.embedded.account import make_folder
from runner.embedded.places import FOLDER_PREFIX, temp_bases
from runner.embedded.programs import server_environment
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.embedded.account import Account

_RECORD = "server.json"
_LOCK = "lock"
#: A folder without a record is either being made now, or the process that made it was killed.
_BEING_MADE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The record in a server's folder: where the data are, and whether the server outlives its command (`keep`)."""

    data_dir: Path
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFolder:
    """A server's own folder, and the file descriptor that holds its lock."""

    path: Path
    record: Record
    lock: int

    @property
    def socket_dir(self) -> Path:
        """The folder that only the server's account can enter."""
        return self.path / "s"


def make_server_folder(base: Path, account: Account, data_dir: Path | None, *, keep: bool) -> ServerFolder:
    """Make a folder for a new server and lock it; the data are in it unless `data_dir` names another place."""
    path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
    lock = locks.hold_shared(path / _LOCK)
    record = Record(data_dir=data_dir or path / "data", keep=keep)
    text = json.dumps({"data_dir": str(record.data_dir), "keep": keep})
    (path / _RECORD).write_text(text, encoding="utf-8")
    folder = ServerFolder(path=path, record=record, lock=lock)
    make_folder(folder.socket_dir, account)
    if account.drop:
        path.chmod(0o711)  # the account has to reach its own folders in it
    return folder


def start_watchdog(folder: ServerFolder) -> int:
    """Start the process that stops the server when this one ends; closing the returned descriptor triggers it."""
    if not sys.executable:
        raise EmbeddedServerError(
            "sys.executable is empty: the server's watchdog cannot be started without Python's program."
        )
    reader, writer = os.pipe()
    arguments = [sys.executable, "-I", "-S", watchdog.__file__, f"--pipe={reader}", f"--owner={os.getpid()}"]
    arguments += [f"--data={folder.record.data_dir}", f"--folder={folder.path}"]
    try:
        # it forks at once, so that this process never has a child to wait for
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=server_environment(os.environ),
            pass_fds=(reader,),
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(reader)
    if done.returncode != 0:
        os.close(writer)
        raise EmbeddedServerError("The embedded server's watchdog process could not be started.")
    return writer


def sweep(bases: Iterable[Path] | None = None) -> tuple[Path, ...]:
    """Remove the folders of servers whose owner and watchdog have ended, and return those folders.

    Folders of other users, and folders whose lock is held, stay.
    """
    removed = []
    for base in temp_bases() if bases is None else bases:
        for path in sorted(base.glob(f"{FOLDER_PREFIX}*")):
            with contextlib.suppress(OSError):  # another process was faster
                if _sweep_one(path):
                    removed.append(path)
    return tuple(removed)


def _sweep_one(path: Path) -> bool:
    status = path.lstat()
    if status.st_uid != os.geteuid() or not path.is_dir() or path.is_symlink():
        return False
    record = read_record(path)
    if record is None and time.time() - status.st_mtime < _BEING_MADE_SECONDS:
        return False
    if record is None and not (path / _LOCK).exists():
        shutil.rmtree(path, ignore_errors=True)
        return True
    with locks.exclusive_if_free(path / _LOCK) as free:
        if not free or (record is not None and record.keep and is_alive(record.data_dir, path)):
            return False
        if record is None or record.keep:
            shutil.rmtree(path, ignore_errors=True)
        else:
            watchdog.tear_down(record.data_dir, path)
        return True


def read_record(path: Path) -> Record | None:
    """Return the record in the folder `path`; None if there is none that can be read."""
    try:
        fields = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        return Record(data_dir=Path(fields["data_dir"]), keep=bool(fields["keep"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(data_dir: Path, path: Path) -> bool:
    """Return whether the server on `data_dir` runs: its process is visible, or its socket in `path` accepts."""
    return watchdog.postmaster_pid(data_dir) is not None or any(map(_answers, (path / "s").glob(".s.PGSQL.*[0-9]")))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
