"""A reader that does not read: timeouts, signals and cancel requests of a run work all the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import PATIENCE, Database, Jobplan, clean_environment, until

_PAGE = 4096


@dataclass(frozen=True)
class Blocked:
    """A run whose standard output or standard error is a full pipe."""

    process: subprocess.Popen[bytes]
    read_end: int

    def code(self) -> int:
        """Wait for the end, without reading anything."""
        return self.process.wait(timeout=PATIENCE)

    def read(self) -> str:
        """Read what is in the pipe, to its end."""
        with os.fdopen(os.dup(self.read_end), "rb") as file:
            return file.read().decode()


@contextlib.contextmanager
def blocked(folder: Path, stream: str, *arguments: str | Path) -> Iterator[Blocked]:
    """Start the command with a pipe as `stream` that has no room left from the beginning."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PAGE)
    os.write(write_end, b"x" * _PAGE)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=folder,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        **{stream: write_end, other: subprocess.DEVNULL},  # type: ignore[call-overload] # names of streams as data
        start_new_session=True,
    )
    os.close(write_end)
    try:
        yield Blocked(process, read_end)
    finally:
        process.kill()
        process.wait()
        os.close(read_end)


EVENTS = ("--report", "jsonl=events.jsonl")


@pytest.mark.parametrize("form", ["text", "json"])
def test_run_timeout_ends_a_run_whose_standard_error_is_not_read(jobplan: Jobplan, db: Database, form: str) -> None:
    plan = jobplan.plan("- {id: sleeps, sql: SELECT pg_sleep(60)}", run_timeout="2s")
    with blocked(jobplan.folder, "stderr", "run", plan, "--dsn", db.dsn, *EVENTS, "--log-format", form) as run:
        assert run.code() == 5
    assert jobplan.events()[-1]["exit_code"] == 5
    assert db.workers() == []


def test_a_signal_ends_a_run_whose_standard_error_is_not_read(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: sleeps, sql: SELECT pg_sleep(60)}")
    with blocked(jobplan.folder, "stderr", "run", plan, "--dsn", db.dsn, *EVENTS) as run:
        db.until_workers("sleeps")
        until(lambda: jobplan.happened("attempt_running"))
        run.process.send_signal(signal.SIGTERM)
        assert run.code() == 143
    assert db.workers() == []


def test_cancel_is_answered_by_a_run_whose_standard_error_is_not_read(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: sleeps, sql: SELECT pg_sleep(60)}")
    with blocked(jobplan.folder, "stderr", "run", plan, "--dsn", db.dsn, *EVENTS) as run:
        db.until_workers("sleeps")
        until(lambda: jobplan.happened("attempt_running"))
        asked = jobplan("cancel", jobplan.events()[0]["run"], "--dsn", db.dsn)
        assert asked.code == 0, asked.err
        assert run.code() == 1
    assert jobplan.events()[-1]["steps"] == {"sleeps": "cancelled"}


def test_a_resume_whose_standard_error_is_not_read_ends(jobplan: Jobplan, db: Database) -> None:
    """It reports what has changed, and asks its questions, before the run continues."""
    plan = jobplan.plan("- {id: items, for_each: {items: [a, b], as: i}, sql: \"SELECT 1/0, :'i'\"}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    jobplan.plan("- {id: items, for_each: {items: [b, a, c], as: i}, sql: \"SELECT 1, :'i'\"}")
    arguments = ("resume", "last", "--dsn", db.dsn, "--allow-changed")
    with blocked(jobplan.folder, "stderr", *arguments) as run:
        assert run.code() == 0


def test_an_error_on_a_standard_error_that_is_not_read_ends_the_command(jobplan: Jobplan) -> None:
    with blocked(jobplan.folder, "stderr", "run", "no-such-plan.yaml") as run:
        assert run.code() != 0
    with blocked(jobplan.folder, "stderr", "resume", "no-such-run") as run:
        assert run.code() != 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fleet_run_whose_standard_error_is_not_read_ends(jobplan: Jobplan, db: Database, form: str) -> None:
    """Each of its targets fails, and a line says so."""
    parts = conninfo_to_dict(db.dsn)
    connection = json.dumps({"host": parts["host"], "port": int(parts["port"] or 0), "user": parts["user"]})
    names = "".join(f"  - {{cluster: c, database: no_such_{number}}}\n" for number in range(40))
    targets = jobplan.folder / "targets.yaml"
    targets.write_text(
        f"version: 1\nname: t\nclusters:\n  c: {{connection: {connection}, slots: 4}}\ntargets:\n{names}",
        encoding="utf-8",
    )
    plan = jobplan.plan("- {id: a, sql: ANALYZE no_table}")
    arguments = ("fleet", "run", plan, "--targets", targets, "--format", form)
    with blocked(jobplan.folder, "stderr", *arguments) as run:
        assert run.code() == 4
