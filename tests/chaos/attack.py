"""One command of a trial: started as a process of its own, struck by its faults, and waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import IO, Any, TypeVar

import psycopg

from runner.embedded import EmbeddedServer
from tests.chaos.disk import SmallDisk
from tests.chaos.faults import Fault, Planned, strike
from tests.chaos.pipe import UnreadPipe
from tests.tunnel import Tunnel

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

#: Seconds after which a command that should have ended is a violation: a lost server is waited for for a minute.
PATIENCE = 100.0
#: The same where the path can stall: an answer is waited for, then a lost server, and that more than once.
_PATIENCE_STALLED = 240.0
#: Seconds between two looks at what a run has recorded.
_LOOK = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Where trials take place, one after the other: a server, a database on it, a small disk, and who watches.

    `second` leads to a database of the same name on a second cluster, `neighbour` to another one on the same server.
    """

    server: EmbeddedServer
    conninfo: str
    second: str
    neighbour: str
    disk: SmallDisk
    samples: Path
    server_wide: bool
    faketime: Path | None = None

    @property
    def possible(self) -> frozenset[Fault]:
        """The faults that can be brought about here."""
        return frozenset(Fault) - ({Fault.CLOCK_JUMP} if self.faketime is None else set())

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to the lane's database. OperationalError if the server has no connection to give now."""
        return psycopg.connect(self.conninfo, autocommit=True, application_name="chaos")

    def reach(self) -> psycopg.Connection[Any]:
        """Connect to the lane's database; again and again while the server starts."""
        return _patiently(self.connect)

    def ask(self, query: bytes) -> list[tuple[Any, ...]]:
        """Run a query that only reads; again if the server goes down just then, because something has struck it."""

        def once() -> list[tuple[Any, ...]]:
            with self.connect() as connection:
                return connection.execute(query).fetchall()

        return _patiently(once)


def _patiently(do: Callable[[], T]) -> T:
    """Do it, again and again while the server is away."""
    end = time.monotonic() + 30
    while True:
        try:
            return do()
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended; `code` is None if it had to be killed because it did not end."""

    code: int | None
    out: str
    err: str
    faults: tuple[str, ...] = ()


class Attack:
    """A command of jobplan's that runs, and what faults can do to it. Use it once.

    `others` gives the arguments of what other processes may do with the run; how those ended is in `beside_it`.
    """

    def __init__(
        self,
        lane: Lane,
        folder: Path,
        name: str,
        *,
        run_id: Callable[[], str],
        others: Callable[[str], Sequence[str | Path]],
        clock: Path | None = None,
        tunnel: Tunnel | None = None,
    ) -> None:
        self.server = lane.server
        self.beside_it: list[tuple[str, Ended]] = []
        self._lane = lane
        self._folder = folder
        self._name = name
        self._run_id = run_id
        self._others = others
        self._clock = clock
        self._tunnel = tunnel
        self._pipe: UnreadPipe | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def run_id(self) -> str:
        """The run under attack; empty while unknown."""
        return self._run_id()

    def carry_out(
        self, arguments: Sequence[str | Path], faults: Sequence[Planned], events: Callable[[], int], random: Random
    ) -> Ended:
        """Start the command, strike it, and wait for its end. `events` counts what the run has recorded."""
        began = time.monotonic()
        before = events()
        struck = []
        patience = PATIENCE if self._tunnel is None else _PATIENCE_STALLED
        piped = any(planned.fault is Fault.FULL_PIPE for planned in faults)
        with self._started(self._name, arguments, piped=piped) as process:
            self._process = process
            for planned in faults:
                if not self._awaited(planned, lambda: events() - before):
                    break
                if strike(planned.fault, self, random):
                    struck.append(planned.fault.value)
            code = self._code(process, began + patience)
        self._pipe = None
        self.deliver()
        return replace(self._ended(self._name, code), faults=tuple(struck))

    def beside(self, command: str) -> bool:
        """Have another process do something with the run, to its end."""
        if not self.run_id:
            return False
        name = f"{self._name}-{command}-{len(self.beside_it)}"
        patience = PATIENCE if self._tunnel is None else _PATIENCE_STALLED
        with self._started(name, self._others(command)) as process:
            code = self._code(process, time.monotonic() + patience)
        self.beside_it.append((name, self._ended(name, code)))
        return True

    @contextlib.contextmanager
    def _started(
        self, name: str, arguments: Sequence[str | Path], *, piped: bool = False
    ) -> Iterator[subprocess.Popen[bytes]]:
        with contextlib.ExitStack() as opened:
            out = opened.enter_context((self._folder / f"{name}.out").open("wb"))
            err: int | IO[bytes]
            if piped:
                self._pipe = opened.enter_context(contextlib.closing(UnreadPipe(self._folder / f"{name}.err")))
                err = self._pipe.write_end
            else:
                err = opened.enter_context((self._folder / f"{name}.err").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "runner", *map(str, arguments)],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            if piped and self._pipe is not None:
                self._pipe.started()
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _code(self, process: subprocess.Popen[bytes], end: float) -> int | None:
        """Wait for a process; one that does not end has no code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(max(1.0, end - time.monotonic()))
        return None

    def _ended(self, name: str, code: int | None) -> Ended:
        out, err = (self._folder / f"{name}.{kind}" for kind in ("out", "err"))
        return Ended(code=code, out=_text(out), err=_text(err))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "JOBPLAN_", "GITHUB_"))}
        faked = {}
        if self._clock is not None:
            faked = {
                "LD_PRELOAD": str(self._lane.faketime),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **faked}

    def _awaited(self, planned: Planned, events: Callable[[], int]) -> bool:
        """Wait for the moment of a fault; False if the command has ended before."""
        assert self._process is not None
        while events() < planned.events:
            if self._process.poll() is not None:
                return False
            time.sleep(_LOOK)
        time.sleep(planned.delay)
        return self._process.poll() is None

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to the run's database."""
        return self._lane.connect()

    def signal(self, number: signal.Signals) -> bool:
        """Send the runner's process a signal."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.send_signal(number)
        return True

    def fill_disk(self) -> bool:
        """Leave no room for the journal."""
        return self._process is not None and self._process.poll() is None and self._lane.disk.fill(self._process.pid)

    def free_disk(self) -> None:
        """Give the room back."""
        self._lane.disk.free()

    def fill_pipe(self) -> bool:
        """Let standard error have no room, and read nothing of it."""
        return self._pipe is not None and self._pipe.fill()

    def read_pipe(self) -> None:
        """Read what is in standard error, and continue reading."""
        if self._pipe is not None:
            self._pipe.read()

    def stall(self) -> bool:
        """Deliver nothing more between the runner and the server."""
        if self._tunnel is None:
            return False
        self._tunnel.stall()
        return True

    def deliver(self) -> None:
        """Deliver what was held back, and what follows."""
        if self._tunnel is not None:
            self._tunnel.resume()

    def jump_clock(self, seconds: float) -> bool:
        """Move the runner's wall clock."""
        if self._clock is None:
            return False
        self._clock.write_text(f"{seconds:+.0f}s\n", encoding="utf-8")
        return True


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
