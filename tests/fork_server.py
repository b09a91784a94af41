"""Start the command by fork from an interpreter that has imported it: a real process, without the time of the imports.

Each process has the folder, environment, session, standard streams and signals that it would have after an exec.
Only what an interpreter reads when it starts is not its own: `needs_own_interpreter` names those variables. And its
modules are not torn down at its end.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

_ROOT = Path(__file__).parents[1]
#: A request is one message: this many bytes at most, beside three standard streams and a pipe for the exit status.
_REQUEST, _DESCRIPTORS = 1 << 20, 4
_READ_AT_START = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_")


def needs_own_interpreter(environment: Mapping[str, str]) -> bool:
    """Say whether a variable differs from ours that an interpreter reads only when it starts."""

    def at_start(variables: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in variables.items()
            if name.startswith(_READ_AT_START) and name != "PYTHONWARNINGS"  # the server has it from its start
        }

    return at_start(environment) != at_start(os.environ)


# --- the caller's side ------------------------------------------------------------------------------------------------


class ForkServer:
    """A process that imports `runner` once, and forks itself for each command."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                cwd=_ROOT,
                env={**os.environ, "PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # otherwise a terminal's buffering would be inherited
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def start(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> ForkedProcess:
        """Start `jobplan` with these arguments; its standard input is empty."""
        with contextlib.ExitStack() as theirs:
            nothing = theirs.enter_context(Path(os.devnull).open("rb"))
            out, err, status = (os.pipe() for _ in range(3))
            for _, write_end in (out, err, status):
                theirs.callback(os.close, write_end)
            request = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}).encode()
            handed = array.array("i", [nothing.fileno(), out[1], err[1], status[1]])
            self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)])
        return ForkedProcess(out=out[0], err=err[0], status=status[0])

    def close(self) -> None:
        """End the server. What it has started lives on."""
        self._socket.close()
        self._process.wait()


class ForkedProcess:
    """A command under way; has what its tests need of `subprocess.Popen`."""

    def __init__(self, *, out: int, err: int, status: int) -> None:
        self._status = os.fdopen(status, "r", encoding="ascii")
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self.stdout, self.stderr = os.fdopen(out, "rb", buffering=0), os.fdopen(err, "rb", buffering=0)
        self._read: dict[int, bytearray] = {out: bytearray(), err: bytearray()}

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended, and its exit status not arrived yet
                os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        if self.returncode is None and _readable(self._status.fileno(), 0):
            self._end()
        return self.returncode

    def read_error_line(self) -> str:
        """Wait for a line on standard error; `communicate` does not return it again."""
        descriptor = self.stderr.fileno()
        read = self._read[descriptor]
        while b"\n" not in read and (chunk := os.read(descriptor, 1 << 16)):
            read += chunk
        line, newline, rest = read.partition(b"\n")
        self._read[descriptor] = rest
        return (line + newline).decode()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their end and wait for the process. TimeoutExpired after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        streams = [stream for stream in (self.stdout, self.stderr) if not stream.closed]
        texts = list(self._read.values())
        open_ones = {stream.fileno(): self._read[stream.fileno()] for stream in streams}
        while open_ones:
            for descriptor in _wait(list(open_ones), end):
                if chunk := os.read(descriptor, 1 << 16):
                    open_ones[descriptor] += chunk
                else:
                    del open_ones[descriptor]
        for stream in streams:
            stream.close()
        if self.returncode is None:
            _wait([self._status.fileno()], end)
            self._end()
        out, err = (io.TextIOWrapper(io.BytesIO(text), encoding="utf-8").read() for text in texts)
        return out, err

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
        self._status.close()


def _readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _wait(descriptors: list[int], end: float | None) -> list[int]:
    """Return the descriptors that can be read without waiting, one at least."""
    seconds = None if end is None else max(0.0, end - time.monotonic())
    ready = select.select(descriptors, [], [], seconds)[0]
    if not ready:
        raise subprocess.TimeoutExpired("jobplan", seconds or 0.0)
    return ready


# --- the server's side ------------------------------------------------------------------------------------------------


def _serve(requests: socket.socket) -> Sequence[str]:
    """Fork for each request until the caller closes the socket; return in a forked process, with its arguments."""
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, _note_child)
    signal.set_wakeup_fd(waker.fileno())
    running: dict[int, int] = {}
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            for pid, status in _ended():
                _report(running.pop(pid), status)
        if requests in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, _REQUEST, _DESCRIPTORS)
            if not message:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for end in (requests, woken, waker):
                    end.detach()
                return _become(json.loads(message), descriptors)
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running[pid] = descriptors[3]
            os.write(descriptors[3], f"{pid}\n".encode())


def _note_child(_: int, __: FrameType | None) -> None:
    """Do nothing: the wakeup descriptor has the news."""


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


def _report(descriptor: int, status: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the caller has lost interest
        os.write(descriptor, f"{status}\n".encode())
    os.close(descriptor)


def _become(request: Mapping[str, object], descriptors: Sequence[int]) -> Sequence[str]:
    """Take the place of a process that was just started, and return its arguments."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, also where the tests run with nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or in the background
    for number in range(3):
        os.dup2(descriptors[number], number)
    os.closerange(3, max(64, *descriptors) + 1)
    _open_standard_streams()
    os.chdir(str(request["cwd"]))
    environment = request["env"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    sys.argv = [str(_ROOT / "runner" / "__main__.py"), *arguments]
    return arguments


def _open_standard_streams() -> None:
    """Open Python's standard streams anew: the old ones have cached what the server's own descriptors are."""
    sys.stdin = _stream(0, "r", sys.stdin)
    sys.stdout = _stream(1, "w", sys.stdout)
    sys.stderr = _stream(2, "w", sys.stderr)


def _stream(number: int, mode: str, old: TextIO) -> TextIO:
    """Open a descriptor as an interpreter does when it starts."""
    buffering = 1 if number == 2 else -1
    return cast(
        "TextIO", open(number, mode, encoding=old.encoding, errors=old.errors, buffering=buffering, closefd=False)
    )


def _end(end: SystemExit) -> NoReturn:
    """End as an interpreter does, but leave its modules: to tear them down would copy the memory that was inherited."""
    gc.collect()  # an open file or socket in a cycle is reported
    cast("Any", threading)._shutdown()  # what waits for threads; its type is not published
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(end.code if isinstance(end.code, int) else 0)


def _import_everything() -> None:
    """Import what commands import when they are called, without garbage that a fork would copy."""
    package = importlib.import_module("runner")
    gc.disable()
    for module in pkgutil.walk_packages(package.__path__, "runner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    _import_everything()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from runner.cli import main

    try:
        main()
    except SystemExit as end:
        _end(end)
