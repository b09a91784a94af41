"""Stop a server when the command that started it has ended. All other code stops servers through this module too.

It is started as a program, `python -I -S watchdog.py …`, and continues when its owner is killed. It holds the read end
of a pipe; the kernel closes the write end when the owner ends. It imports only the standard library, so that it starts
fast and does not depend on the owner's import path.

It never sends SIGKILL to a backend: the postmaster would then restart all others.
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
    """Return the start time of process `pid`, which distinguishes it from a later process with the same id.

    None if there is no such process, or if it is a zombie.
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
    """Return the process id of the postmaster of `data_dir`, from postmaster.pid; None if it does not run."""
    try:
        first_line = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
        pid = int(first_line)
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and process_started(pid) is not None and _serves(pid, data_dir) else None


def _serves(pid: int, data_dir: Path) -> bool:
    """Return whether the process is the postmaster of `data_dir`: after a crash, another program may have its id."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # a system that does not show command lines
    return _data_argument(data_dir) in command


def _data_argument(data_dir: Path) -> bytes:
    """Return the data directory as an argument in the command line of every program that works on it."""
    return b"\0-D\0" + os.fsencode(data_dir) + b"\0"


def _stragglers(data_dir: Path) -> list[int]:
    """Return the process ids of a server whose postmaster has ended.

    A process title may have replaced the command line, and only some users can read the working directory; a match in
    either is enough.
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


def _wait_for_end(pid: int, seconds: float) -> bool:
    started, deadline = process_started(pid), time.monotonic() + seconds
    while started is not None and process_started(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(_TICK)
    return True


def stop_postmaster(data_dir: Path, *, fast: bool = True) -> bool:
    """Stop the server on `data_dir` and wait until it has ended; False if none was running.

    A fast shutdown writes a checkpoint; after some seconds, or without `fast`, an immediate shutdown follows. If the
    postmaster does not end within ten seconds of that, it is killed, but none of its backends.
    """
    pid = postmaster_pid(data_dir)
    if pid is not None:
        steps = [(signal.SIGINT, _FAST_PATIENCE)] if fast else []
        for number, patience in [*steps, (signal.SIGQUIT, _QUIT_PATIENCE), (signal.SIGKILL, _STRAGGLER_PATIENCE)]:
            _signal(pid, number)
            if _wait_for_end(pid, patience):
                break
    for straggler in _stragglers(data_dir):
        _signal(straggler, signal.SIGQUIT)
        _wait_for_end(straggler, _STRAGGLER_PATIENCE)
    _drop_stale_locks(data_dir)
    return pid is not None


def _drop_stale_locks(data_dir: Path) -> None:
    """Remove the lock files of a postmaster that was killed, where PostgreSQL would consider it to be running.

    PostgreSQL only checks whether the process id is in use. Another program may have it now, or the postmaster may be a
    zombie in a container whose first process is no init. PostgreSQL handles an id that is not in use.
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
    if _stragglers(data_dir):  # a server that was being started meanwhile
        stop_postmaster(data_dir, fast=False)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, also while files are being copied into it: the copy fails when its target has been removed."""
    deadline = time.monotonic() + _REMOVE_PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(_TICK)
        shutil.rmtree(folder, ignore_errors=True)


def _detach() -> None:
    """Fork, so that the owner has no child to wait for, and ignore signals from the terminal."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _watch(pipe: int, owner: int, owner_started: str | None, folder: Path) -> None:
    """Return when the owner has ended or has removed the folder itself.

    The owner's process is checked as well as the pipe: a child of the owner may hold the pipe open.
    """
    while True:
        readable, _, _ = select.select([pipe], [], [], _OWNER_CHECK)
        if readable or not folder.exists() or process_started(owner) != owner_started:
            return


def main() -> None:
    """Hold the folder's lock, wait until the owner ends, stop the server and remove the folder."""
    parser = argparse.ArgumentParser(description="Stop a throwaway PostgreSQL when its owner has ended.")
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
            # a server that was being started at that moment may not have written its pid file yet
            time.sleep(1.0)
            tear_down(options.data, options.folder, fast=False)


if __name__ == "__main__":
    main()
