"""The command line as a person uses it: its own process, its own folder, a real server behind it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.builders import pauses
from tests.fork_server import ForkedProcess, ForkServer, needs_own_interpreter

#: Seconds after which a command that should have ended is a failure, not a slow machine.
PATIENCE = 60.0

_JOBPLAN = (sys.executable, "-m", "runner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The progress lines, without their time."""
        return [_without_time(line) for line in self.err.splitlines()]

    @property
    def last_line(self) -> str:
        """The line that sums up: the one of a run that has ended, otherwise the last one."""
        lines = self.err.splitlines()
        return next((line for line in reversed(lines) if re.match(r"run \S+( [^:]*)?: ", line)), lines[-1])

    def labelled(self, label: str) -> list[str]:
        """What the end of a run prints after this label, such as `Record` or `Resume`."""
        lines = (line.partition(" ") for line in self.err.splitlines())
        return [rest.strip() for first, _, rest in lines if first == label]


def _without_time(line: str) -> str:
    time_of_day, _, rest = line.partition(" ")
    return rest if len(time_of_day) == 9 and time_of_day[2] == time_of_day[5] == ":" else line


def accept_signals() -> None:
    """Take SIGHUP and SIGINT as a terminal's command does, also where the tests run with nohup or in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@functools.cache
def _fork_server() -> ForkServer:
    server = ForkServer()
    atexit.register(server.close)
    return server


def _start(arguments: Sequence[str], *, cwd: Path, env: dict[str, str]) -> ForkedProcess | subprocess.Popen[str]:
    """Start the command in a session of its own, so that a signal reaches no other process.

    It is forked from an interpreter that has imported it, or executed if JOBPLAN_TEST_EXEC is set.
    """
    if not os.environ.get("JOBPLAN_TEST_EXEC") and not needs_own_interpreter(env):
        return _fork_server().start(arguments, cwd=cwd, env=env)
    return subprocess.Popen(
        [*_JOBPLAN, *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=accept_signals,  # noqa: PLW1509 - no thread of this process holds a lock that it could need
    )


class Started:
    """A command under way."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: dict[str, str]) -> None:
        self._process = _start(arguments, cwd=cwd, env=env)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def ended(self, patience: float = PATIENCE) -> Ran:
        """Wait for the end."""
        out, err = self._process.communicate(timeout=patience)
        assert self._process.returncode is not None
        return Ran(code=self._process.returncode, out=out, err=err)

    def read_line(self) -> str:
        """Wait for a line on standard error; `ended` does not return it again."""
        if isinstance(self._process, ForkedProcess):
            return self._process.read_error_line()
        assert self._process.stderr is not None
        return str(self._process.stderr.readline())

    def close(self) -> None:
        """Leave no process behind."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Jobplan:
    """Runs the command in a folder of the test's own, with nothing of the caller's environment that it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Started] = []

    def __call__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> Ran:
        """Run the command to its end."""
        return self.start(*arguments, env=env).ended()

    def start(self, *arguments: str | Path, env: dict[str, str] | None = None) -> Started:
        """Start the command."""
        started = Started([str(argument) for argument in arguments], cwd=self.folder, env=clean_environment(env))
        self._started.append(started)
        return started

    def plan(self, steps: str, *, file: str = "plan.yaml", **keys: str) -> Path:
        """Write a plan of these steps, a YAML list, into the folder; `keys` are the plan's own, as YAML."""
        top = {"version": "1", "name": "trial", "budget": "{slots: 4}", "defaults": "{timeout: 20s, on_finish: wait}"}
        head = "".join(f"{name}: {value}\n" for name, value in {**top, **keys}.items())
        path = self.folder / file
        path.write_text(head + "steps:\n" + textwrap.dedent(steps).lstrip("\n"), encoding="utf-8")
        return path

    def events(self, name: str = "events.jsonl") -> list[dict[str, Any]]:
        """Read the events that a run wrote."""
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def happened(self, event: str) -> bool:
        """Say whether a run that is under way has written such an event."""
        path = self.folder / "events.jsonl"
        return path.exists() and f'"event": "{event}"' in path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Leave no process behind."""
        for started in self._started:
            started.close()


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment without what jobplan and libpq read, and with `extra`."""
    ours = ("PG", "JOBPLAN_", "GITHUB_", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONWARNINGS": "error", **(extra or {})}


_WORKER = (
    "FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
    " AND application_name LIKE 'jobplan:%:{}'"
)


class Database:
    """A database of the test's own, and a connection to look into it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._others: list[Database | psycopg.Connection[Any]] = []

    def run(self, sql: str) -> None:
        """Execute SQL."""
        self._connection.execute(sql)

    def value(self, sql: str) -> Any:
        """Return the first column of the only row."""
        rows = self._connection.execute(sql).fetchall()
        assert len(rows) == 1, f"{sql}: {rows}"
        return rows[0][0]

    def column(self, sql: str) -> list[Any]:
        """Return the first column of every row."""
        return [row[0] for row in self._connection.execute(sql).fetchall()]

    def workers(self) -> list[str]:
        """Return the steps whose workers live in this database."""
        return self.column(
            "SELECT split_part(application_name, ':', 3) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database() ORDER BY 1"
        )

    def pid(self, step: str) -> int:
        """Return the process of a step's worker."""
        return int(self.value(f"SELECT pid {_WORKER.format(step)}"))

    def terminate(self, step: str) -> None:
        """Stop a step's worker as a DBA does."""
        self.run(f"SELECT pg_terminate_backend(pid) {_WORKER.format(step)}")

    def until_workers(self, *steps: str) -> None:
        """Wait until exactly these steps have workers."""
        until(lambda: self.workers() == sorted(steps))

    def elsewhere(self, name: str = "elsewhere") -> psycopg.Connection[Any]:
        """Open another session, of an application of this name; leaving it ends its transaction."""
        other = psycopg.connect(self.dsn, application_name=name)
        self._others.append(other)
        return other

    def as_role(self, role: str) -> Database:
        """Connect to the same database as another role."""
        other = Database(make_conninfo(self.dsn, user=role))
        self._others.append(other)
        return other

    def close(self) -> None:
        """Close the connection, and the others that were opened through it."""
        for other in self._others:
            other.close()
        self._connection.close()


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    for pause in pauses():
        if condition():
            return
        assert time.monotonic() < end, f"not so within {seconds} seconds"
        time.sleep(pause)
