"""The kept server: the one embedded server of a user that outlives its command (`jobplan server start`).

Its data are kept from one start to the next. A state file beside them has what later commands need; the password is
only in a password file for libpq, which no other user can read.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.embedded import cluster, server_folders, watchdog
from runner.embedded.programs import make_readable_folder, server_account, write_file
from runner.embedded.server import start_server
from runner.embedded.server_folders import cache_folder
from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.embedded.server import EmbeddedServer


_STATE = "state.json"
#: What the state file has of the server; texts and paths.
_TEXTS = ("dsn", "version")
_PATHS = ("data_dir", "log_file", "bin_dir", "folder")
_PASSWORDS = "pgpass"


class KeptServer(Struct, frozen=True, kw_only=True):
    """The user's running server, without its password: `passfile` has the one that `tcp_dsn` needs.

    `started_at` is in seconds since the Unix epoch.
    """

    dsn: str
    tcp_dsn: str
    passfile: Path
    version: str
    pid: int
    started_at: float
    data_dir: Path
    log_file: Path
    bin_dir: Path
    folder: Path


def start_kept(progress: Callable[[str], None]) -> tuple[KeptServer, bool]:
    """Start the user's server and return it with True, or with False if it is running already."""
    home = _home()
    with server_folders.exclusive(
        home / "lock", lambda: progress("another jobplan is starting or stopping the server; waiting for it")
    ):
        running = _read(home)
        if running is not None:
            return running, False
        server = start_server(progress=progress, data_dir=home / "data", keep=True)
        try:
            return _hand_over(home, server), True
        except BaseException:
            server.stop()
            raise


def find_kept() -> KeptServer | None:
    """Return the user's server; None if it is not running."""
    return _read(_home())


def stop_kept(*, remove_data: bool) -> bool:
    """Stop the user's server; False if none was running. Its data are kept unless `remove_data`."""
    home = _home()
    with server_folders.exclusive(home / "lock"):
        running = _read(home)
        if running is not None:
            watchdog.tear_down(running.data_dir, running.folder, fast=True)
        for name in (_STATE, _PASSWORDS):
            (home / name).unlink(missing_ok=True)
        if remove_data:
            shutil.rmtree(home / "data", ignore_errors=True)
            cluster.programs_file(home / "data").unlink(missing_ok=True)
        return running is not None


def _home() -> Path:
    account = server_account()
    home = cache_folder(os.environ, account) / "server"
    make_readable_folder(home, account)
    return home


def _hand_over(home: Path, server: EmbeddedServer) -> KeptServer:
    """Write the state file for later commands, and detach the server from this process."""
    _write(home, server)
    kept = _read(home)
    if kept is None:
        raise EmbeddedServerError(
            "The embedded server stopped as soon as it had started.", hint=f"See {server.log_file}."
        )
    server.leave_running()
    return kept


def _write(home: Path, server: EmbeddedServer) -> None:
    address = urlsplit(server.tcp_dsn)
    write_file(home / _PASSWORDS, f"{address.hostname}:{address.port}:*:{address.username}:{address.password}\n")
    state = {name: str(getattr(server, name)) for name in (*_TEXTS, *_PATHS)}
    state["tcp_dsn"] = f"postgresql://{address.username}@{address.hostname}:{address.port}{address.path}"
    write_file(home / _STATE, json.dumps(state, indent=2))


def _read(home: Path) -> KeptServer | None:
    """Return the server of the state file; None if it does not run."""
    try:
        state = json.loads((home / _STATE).read_text(encoding="utf-8"))
        data_dir = Path(state["data_dir"])
        pid = watchdog.postmaster_pid(data_dir)
        if pid is None:
            return None
        started_at = float((data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()[2])
        known = {name: state[name] for name in (*_TEXTS, "tcp_dsn")} | {name: Path(state[name]) for name in _PATHS}
        return KeptServer(pid=pid, started_at=started_at, passfile=home / _PASSWORDS, **known)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
