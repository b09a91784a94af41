"""jobplan as a child process of a task or of the triggerer.

The child has a session of its own and no standard input. So what ends the task (a signal to its group, a worker that
is restarted) does not end jobplan at once, and no open pipe hides from Airflow that a task was killed. Its output is a
file without a name: a child that outlives its task can still write, and nothing is left behind.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_jobplan.decisions import exit_code
from airflow_provider_jobplan.hook import JobplanHook, PasswordFile

#: Steps or targets that XCom gets; those that did not succeed come first.
_MOST_IN_XCOM = 1000
_SHOW_SECONDS = 60
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: jobplan of this Python, whatever is in the working directory.
_OWN = (sys.executable, "-P", "-m", "runner")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a child does: values that a trigger can store. There is no password in it.

    `arguments` are those of the command, and `show` those of the command that prints the record as JSON; the id of the
    run is appended to it. `connection` is the one of a single database; `passwords` are connections whose passwords
    the password file gets.
    """

    arguments: list[str]
    show: list[str]
    run: str = ""
    connection: str | None = None
    database: str | None = None
    passwords: list[str] = field(default_factory=list)
    jobplan: str | None = None
    state_folder: str = ""
    report_url: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the fields for a trigger."""
        return asdict(self)

    @property
    def command(self) -> list[str]:
        """The beginning of the command."""
        return [self.jobplan] if self.jobplan else list(_OWN)


def default_state_folder() -> Path:
    """Return the folder of journals and password files, unless a task names another one: below AIRFLOW_HOME."""
    return Path(os.environ.get("AIRFLOW_HOME") or "~/airflow").expanduser() / "jobplan"


class Child:
    """jobplan, under way. `poll` until it has ended, then `result`."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._stopped = False
        self._rest = b""
        #: The id of the run, which jobplan chooses if the work has none.
        self.run = work.run
        environment = _environment()
        lines: list[str] = []
        if work.connection is not None:
            hook = JobplanHook(work.connection, work.database)
            environment["JOBPLAN_DSN"] = hook.get_conn()
            line = hook.password_line(any_host=True)
            lines = [] if line is None else [line]
            environment.pop("PGPASSWORD", None)
        for name in work.passwords:
            line = JobplanHook(name).password_line(any_host=False)
            lines += [] if line is None else [line]
        self._passwords = PasswordFile(Path(work.state_folder) / "passwords", lines) if lines else None
        if self._passwords is not None:
            environment["PGPASSFILE"] = str(self._passwords.path)
        self._environment = environment
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the child
        try:
            self._process = subprocess.Popen(
                [*work.command, *work.arguments],
                env=environment,
                cwd=work.state_folder,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if self._passwords is None else (self._passwords.descriptor,),
            )
        except OSError:
            self.close()
            raise
        #: How much of the output was read.
        self._position = 0

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code as a shell reports it, None while the child runs."""
        code = self._process.poll()
        return None if code is None else exit_code(code)

    def messages(self) -> Iterator[tuple[int, str]]:
        """Yield the lines since the last call, with the level of the log."""
        data = self._rest
        while more := os.pread(self._output.fileno(), 1 << 16, self._position):
            self._position += len(more)
            data += more
        *lines, self._rest = data.split(b"\n")
        if self._process.poll() is not None and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            yield self._read(line.decode(errors="replace"))

    def report(self, log: Any) -> int | None:  # noqa: ANN401 - a logger of the standard library, or of Airflow
        """Log the lines since the last call; return the exit code as a shell reports it, None while the child runs."""
        code = self.poll()
        for level, text in self.messages():
            log.log(level, "%s", text)
        return code

    def _read(self, line: str) -> tuple[int, str]:
        """Return level and text of a line: jobplan run writes JSON, and jobplan fleet text."""
        try:
            values = json.loads(line)
            level, text = _LEVELS.get(values["level"], logging.INFO), str(values["message"])
        except (ValueError, TypeError, KeyError):
            return logging.INFO, line
        self.run = self.run or str(values.get("run") or "")
        return level, text

    def stop(self) -> None:
        """Send SIGTERM, once: after a second signal jobplan does not wait for the end of its steps."""
        if not self._stopped and self._process.poll() is None:
            self._stopped = True
            self._process.send_signal(signal.SIGTERM)

    def result(self) -> dict[str, Any]:
        """Return what XCom gets of a child that has ended: run, exit code, and the states of steps or of targets."""
        code = self.poll()
        return {"run": self.run, "exit_code": code, **self._states()}

    def _states(self) -> dict[str, dict[str, str]]:
        """Return the states as the record has them, nothing if there is no record."""
        name, key = ("targets", "target") if self.work.arguments[:1] == ["fleet"] else ("steps", "step")
        if not self.run:
            return {name: {}}
        shown = subprocess.run(
            [*self.work.command, *self.work.show, self.run],
            env=self._environment,
            cwd=self.work.state_folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SHOW_SECONDS,
        )
        try:
            record = json.loads(shown.stdout)
        except ValueError:
            return {name: {}}
        found: list[Mapping[str, str]] = record["members" if name == "targets" else "steps"]
        states = sorted(((one[key], one["state"]) for one in found), key=lambda one: one[1] == "succeeded")
        return {name: dict(states[:_MOST_IN_XCOM])}

    def release(self) -> None:
        """Leave the child running: close what this process has of it. Its password file stays."""
        self._output.close()
        if self._passwords is not None:
            self._passwords.close()

    def close(self) -> None:
        """Remove the password file, and close the output: the child has ended, or never began."""
        self._output.close()
        if self._passwords is not None:
            self._passwords.remove()


def _environment() -> dict[str, str]:
    """Return the environment without Airflow's variables, which have its secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
