"""Each server's own folder: its socket, its log, mostly its data, and a lock that says that somebody still wants it.

The owner and its watchdog hold the lock, and the kernel drops it when both are dead; that also holds across containers
that share a folder for temporary files, where process numbers would not. A server that is meant to outlive its command
has no holder: it is wanted for as long as its postmaster lives.
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
#: A folder without a record is either being made now or was left by somebody who died at that.
_BEING_MADE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a folder says about its server: where the data are, and whether it outlives its command (`keep`)."""

    data_dir: Path
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFolder:
    """A server's own folder, and the descriptor that holds its lock."""

    path: Path
    record: Record
    lock: int

    @property
    def socket_dir(self) -> Path:
        """The folder that only the server's account can enter."""
        return self.path / "s"


def make_server_folder(base: Path, account: Account, data_dir: Path | None, *, keep: bool) -> ServerFolder:
    """Make a folder for a new server and lock it; the data lie in it unless `data_dir` says otherwise."""
    path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
    lock = locks.hold_shared(path / _LOCK)
    record = Record(data_dir=data_dir or path / "data", keep=keep)
    text = json.dumps({"data_dir": str(record.data_dir), "keep": keep})
    (path / _RECORD).write_text(text, encoding="utf-8")
    folder = ServerFolder(path=path, record=record, lock=lock)
    make_folder(folder.socket_dir, account)
    if account.drop:
        path.chmod(0o711)  # the account passes through it to what it owns in it
    return folder


def start_watchdog(folder: ServerFolder) -> int:
    """Start the process that stops the server when we are gone; return the descriptor whose closing tells it so."""
    if not sys.executable:
        raise EmbeddedServerError("Python does not know its own program, which the server's watchdog needs.")
    reader, writer = os.pipe()
    arguments = [sys.executable, "-I", "-S", watchdog.__file__, f"--pipe={reader}", f"--owner={os.getpid()}"]
    arguments += [f"--data={folder.record.data_dir}", f"--folder={folder.path}"]
    try:
        # it leaves this process at once, by forking, so that there is never a child of ours to wait for
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
        raise EmbeddedServerError("The process that watches over the embedded server could not be started.")
    return writer


def sweep(bases: Iterable[Path] | None = None) -> tuple[Path, ...]:
    """Remove what servers left behind whose owner and watchdog are gone, and return those folders.

    Only our own folders are looked at, and none that somebody holds.
    """
    removed = []
    for base in temp_bases() if bases is None else bases:
        for path in sorted(base.glob(f"{FOLDER_PREFIX}*")):
            with contextlib.suppress(OSError):  # somebody else was faster
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
    """Return what the folder `path` says about its server; None if it says nothing that can be read."""
    try:
        said = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        return Record(data_dir=Path(said["data_dir"]), keep=bool(said["keep"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(data_dir: Path, path: Path) -> bool:
    """Tell whether the server on `data_dir` runs: we see its process, or its socket in the folder `path` answers."""
    return watchdog.postmaster_pid(data_dir) is not None or any(map(_answers, (path / "s").glob(".s.PGSQL.*[0-9]")))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
