"""Folders of the embedded servers: the cache, a folder for each server, and the locks that show what is in use.

The owner and its watchdog hold the lock of a server's folder, and the kernel releases it when both have ended. That
also works between containers that share a folder for temporary files, where process ids would not. A kept server,
which outlives its command, has no holder: it is in use as long as its postmaster runs.

Three limits apply to the choice of folders. A unix socket's path has at most 107 bytes. The account that runs
PostgreSQL has to reach programs and data, and root's home is usually closed to it. Programs are executed from the
cache, so no other user may be able to write to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded import watchdog
from runner.embedded.programs import make_folder, make_readable_folder, reachable, server_environment
from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from runner.embedded.programs import Account


@contextlib.contextmanager
def exclusive(path: Path, when_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; `when_waiting` is called once if another process holds it now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if not _try_lock(descriptor):
            if when_waiting is not None:
                when_waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _exclusive_if_free(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path` if it is free, and yield whether it is held.

    FileNotFoundError if there is no such file: it is not created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def hold_shared(path: Path) -> int:
    """Create the lock file `path`, take a shared lock on it, and return the file descriptor that holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


CACHE_VARIABLE = "JOBPLAN_CACHE_DIR"
#: The prefix of the name of every server's own folder.
FOLDER_PREFIX = "jobplan-pg-"

#: sun_path has 108 bytes on Linux, the last of them NUL; macOS has 104.
_SOCKET_PATH_MAX = 103
#: The longest path below the base: the folder's random name, the socket's folder and the name of the socket.
_SOCKET_SUFFIX = f"/{FOLDER_PREFIX}xxxxxxxx/s/.s.PGSQL.65535.lock"
_SYSTEM_CACHE = Path("/var/cache/jobplan")
_SERVER_SPACE = 256 * 1024 * 1024
#: pg_ctl hands paths to a shell in double quotes, the loader splits at colons and semicolons, PostgreSQL at commas.
_UNUSABLE = re.compile(r"[\"$`\\:;,%\n\r]")


def is_plain(path: Path) -> bool:
    """Return whether PostgreSQL's programs and the loader accept `path`: blanks yes; `$`, `:`, `,`, `"` no."""
    return not _UNUSABLE.search(str(path))


def fits_socket(base: Path) -> bool:
    """Return whether the path of a server's socket under `base` is within the limit."""
    return len(os.fsencode(base)) + len(_SOCKET_SUFFIX) <= _SOCKET_PATH_MAX


def _temp_bases() -> tuple[Path, ...]:
    """Return the folders that may hold servers' own folders, in order of preference."""
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 (each server makes a private folder in it)
    return tuple(dict.fromkeys(base.resolve() for base in bases if base.is_dir()))


def choose_base(account: Account) -> Path:
    """Return the first temporary folder with a short path that `account` can reach and that is writable and has space.

    EmbeddedServerError if there is none.
    """
    for base in _temp_bases():
        if not (fits_socket(base) and is_plain(base) and reachable(base, account)):
            continue
        if os.access(base, os.W_OK | os.X_OK) and shutil.disk_usage(base).free >= _SERVER_SPACE:
            return base
    tried = ", ".join(str(base) for base in _temp_bases())
    raise EmbeddedServerError(
        f"No temporary folder is writable, accessible to the account {account.name}, short enough for a socket's path"
        f" and has {_SERVER_SPACE // 2**20} MB free (tried {tried}).",
        hint="Set TMPDIR to a folder that is.",
    )


def cache_candidates(environ: Mapping[str, str], account: Account) -> tuple[Path, ...]:
    """Return the candidates for the cache in order of preference; JOBPLAN_CACHE_DIR is the only one if it is set.

    Root gets a system folder: its home is closed to the account that runs PostgreSQL, and with a HOME inherited from
    another user root would execute files of that user.
    """
    if explicit := environ.get(CACHE_VARIABLE):
        return (Path(explicit).absolute(),)
    fallback = Path(tempfile.gettempdir()).resolve() / f"jobplan-cache-{os.geteuid()}"
    if account.drop:
        return (_SYSTEM_CACHE, fallback)
    places = []
    if (xdg := environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        places.append(Path(xdg) / "jobplan")
    if (home := environ.get("HOME")) and Path(home).is_absolute():
        places.append(Path(home) / ".cache" / "jobplan")
    return (*places, fallback)


def cache_folder(environ: Mapping[str, str], account: Account) -> Path:
    """Return the cache folder; create it if it does not exist.

    EmbeddedServerError with the reasons if no folder can be used.
    """
    refusals = []
    for place in cache_candidates(environ, account):
        refusal = _try_cache(place, account, trusted=CACHE_VARIABLE in environ)
        if refusal is None:
            return place
        refusals.append(f"{place} {refusal}")
    raise EmbeddedServerError(
        f"No folder can be used for the embedded server's files: {'; '.join(refusals)}.",
        hint=f"Set {CACHE_VARIABLE} to a folder that you can write to and that the account {account.name} can reach.",
    )


def _try_cache(place: Path, account: Account, *, trusted: bool) -> str | None:
    """Make `place` usable and return None, or return the reason why it is not usable."""
    if not is_plain(place):
        return "has a character in its path that PostgreSQL's programs do not accept"
    try:
        make_readable_folder(place, account, parents=True)
        status = place.lstat() if not trusted else place.stat()
    except OSError as error:
        return f"cannot be created ({error.strerror or error})"
    if not os.access(place, os.W_OK | os.X_OK):
        return "is not writable"
    if not reachable(place, account):
        return f"is closed to the account {account.name}"
    if not trusted and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        return "can be written by another user"
    return None


_RECORD = "server.json"
_LOCK = "lock"
#: A folder without a record is either being made now, or the process that made it was killed.
_BEING_MADE_SECONDS = 60.0


class FolderRecord(Struct, frozen=True, kw_only=True):
    """The record in a server's folder: where the data are, and whether the server outlives its command (`keep`)."""

    data_dir: Path
    keep: bool


class ServerFolder(Struct, frozen=True, kw_only=True):
    """A server's own folder, and the file descriptor that holds its lock."""

    path: Path
    record: FolderRecord
    lock: int

    @property
    def socket_dir(self) -> Path:
        """The folder that only the server's account can enter."""
        return self.path / "s"


def make_server_folder(base: Path, account: Account, data_dir: Path | None, *, keep: bool) -> ServerFolder:
    """Make a folder for a new server and lock it; the data are in it unless `data_dir` names another place."""
    path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
    lock = hold_shared(path / _LOCK)
    record = FolderRecord(data_dir=data_dir or path / "data", keep=keep)
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
    for base in _temp_bases() if bases is None else bases:
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
    with _exclusive_if_free(path / _LOCK) as free:
        if not free or (record is not None and record.keep and is_alive(record.data_dir, path)):
            return False
        if record is None or record.keep:
            shutil.rmtree(path, ignore_errors=True)
        else:
            watchdog.tear_down(record.data_dir, path)
        return True


def read_record(path: Path) -> FolderRecord | None:
    """Return the record in the folder `path`; None if there is none that can be read."""
    try:
        fields = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        return FolderRecord(data_dir=Path(fields["data_dir"]), keep=bool(fields["keep"]))
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
