"""Stops a server when the command that started it is gone, and holds the one way in which a server is stopped.

It is started as a program of its own, `python -I -S watchdog.py …`, and stays when its owner is killed. It holds the
read end of a pipe: the owner's death closes the write end. Only the standard library, nothing of ours: it has to start
fast, and to work whatever the owner's import path was.

Nothing here ever sends SIGKILL to a backend: that would make the postmaster restart all others.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_TICK = 0.01
_OWNER_CHECK = 2.0
_FAST_PATIENCE = 8.0
_QUIT_PATIENCE = 10.0
_STRAGGLER_PATIENCE = 5.0
_REMOVE_PATIENCE = 10.0


def process_started(pid: int) -> str | None:
    """Return a mark of when process `pid` was started, to tell it from a later one with its number.

    None if there is none, or if it is dead and only waits for its parent to notice.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in {"Z", "X"} else fields[19]
    done = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def postmaster_pid(data_dir: Path) -> int | None:
    """Return the process that serves `data_dir`, from postmaster.pid; None if there is none alive."""
    try:
        first_line = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
        pid = int(first_line)
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and process_started(pid) is not None and _serves(pid, data_dir) else None


def _serves(pid: int, data_dir: Path) -> bool:
    """Tell whether the process is the postmaster of `data_dir`: after a crash, its number may be another program's."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # a system that does not show it
    return _data_argument(data_dir) in command


def _data_argument(data_dir: Path) -> bytes:
    """Return how the data directory stands in the command line of every program that works on it."""
    return b"\0-D\0" + os.fsencode(data_dir) + b"\0"


def _stragglers(data_dir: Path) -> list[int]:
    """Return the processes of a server whose postmaster is gone.

    Their titles may have overwritten their command lines, and where they work is not shown to everybody: either tells.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if _data_argument(data_dir) in command or (b"postgres" in command and _works_in(entry, data_dir)):
                found.append(int(entry.name))
    return found


def _works_in(process: Path, data_dir: Path) -> bool:
    place = os.readlink(process / "cwd")  # noqa: PTH115 (a removed folder's has a suffix that is no part of a path)
    return place.removesuffix(" (deleted)") == str(data_dir)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_gone(pid: int, seconds: float) -> bool:
    started, deadline = process_started(pid), time.monotonic() + seconds
    while started is not None and process_started(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(_TICK)
    return True


def stop_postmaster(data_dir: Path, *, fast: bool = True) -> bool:
    """Stop the server on `data_dir` and wait until it is gone; False if none was running.

    Fast lets it write everything out; after some seconds, or with `fast` false, it is told to drop everything. A
    postmaster that does not even do that within ten seconds is hung, and is killed: it, and none of its backends.
    """
    pid = postmaster_pid(data_dir)
    if pid is not None:
        steps = [(signal.SIGINT, _FAST_PATIENCE)] if fast else []
        for number, patience in [*steps, (signal.SIGQUIT, _QUIT_PATIENCE), (signal.SIGKILL, _STRAGGLER_PATIENCE)]:
            _signal(pid, number)
            if _wait_gone(pid, patience):
                break
    for straggler in _stragglers(data_dir):
        _signal(straggler, signal.SIGQUIT)
        _wait_gone(straggler, _STRAGGLER_PATIENCE)
    _drop_stale_locks(data_dir)
    return pid is not None


def _drop_stale_locks(data_dir: Path) -> None:
    """Remove the lock files of a postmaster that was killed, where PostgreSQL would take it for alive.

    It only asks whether the process number is in use: by another program now, or by the dead postmaster itself, which
    nobody waits for in a container whose first process is no init. A number that is not in use it deals with itself.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid_file = data_dir / "postmaster.pid"
        lines = pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
        if Path(f"/proc/{int(lines[0])}").exists() and postmaster_pid(data_dir) is None:
            pid_file.unlink()
            (Path(lines[4]) / f".s.PGSQL.{int(lines[3])}.lock").unlink()


def tear_down(data_dir: Path, folder: Path, *, fast: bool = True) -> None:
    """Stop the server on `data_dir` and remove the server's own folder with everything in it."""
    stop_postmaster(data_dir, fast=fast)
    _remove(folder)
    if _stragglers(data_dir):  # one that was being started while we stopped
        stop_postmaster(data_dir, fast=False)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, also one that a copy is still being made into: the copy ends when its target is gone."""
    deadline = time.monotonic() + _REMOVE_PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(_TICK)
        shutil.rmtree(folder, ignore_errors=True)


def _detach() -> None:
    """Leave the owner: no child of its, so that it has nothing to wait for, and deaf to the terminal."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _watch(pipe: int, owner: int, owner_started: str | None, folder: Path) -> None:
    """Return when the owner is gone or has removed the folder itself.

    The owner's process is looked at as well: a child that it forked may hold the pipe open beyond its death.
    """
    while True:
        readable, _, _ = select.select([pipe], [], [], _OWNER_CHECK)
        if readable or not folder.exists() or process_started(owner) != owner_started:
            return


def main() -> None:
    """Hold the folder's lock, wait for the owner's end, and clear away what it left."""
    parser = argparse.ArgumentParser(description="Stops a throwaway PostgreSQL when its owner is gone.")
    parser.add_argument("--pipe", type=int, required=True)
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    lock = os.open(options.folder / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)
    started = process_started(options.owner)
    _detach()
    try:
        _watch(options.pipe, options.owner, started, options.folder)
    finally:
        if options.folder.exists():
            tear_down(options.data, options.folder)
            # one that was being started in this very moment has not written its pid by then
            time.sleep(1.0)
            tear_down(options.data, options.folder, fast=False)


if __name__ == "__main__":
    main()
