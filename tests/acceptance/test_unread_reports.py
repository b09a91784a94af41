"""Standard output, or a report's pipe, that is not read: limits, signals and requests end the run all the same."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.acceptance.console import Database, Jobplan, clean_environment, until

_PAGE = 4096
WORKERS = "FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
SLEEPS = "- {id: sleeps, sql: SELECT pg_sleep(120)}"


class Unread:
    """A run whose standard output is a pipe that is full from the beginning."""

    def __init__(self, jobplan: Jobplan, *arguments: str) -> None:
        self._read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PAGE)
        os.write(write_end, b"x" * _PAGE)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=jobplan.folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(write_end)

    def read(self) -> str:
        """Read what was written, to its end."""
        with os.fdopen(os.dup(self._read_end), "rb") as file:
            return file.read()[_PAGE:].decode()

    def code(self) -> int:
        """Wait for the end."""
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """Leave no process behind."""
        self.process.kill()
        self.process.wait()
        os.close(self._read_end)


@pytest.fixture
def runs() -> Iterator[list[Unread]]:
    """The runs of a test, which are ended with it."""
    made: list[Unread] = []
    yield made
    for run in made:
        run.close()


def begin(runs: list[Unread], jobplan: Jobplan, db: Database, report: str, **keys: str) -> Unread:
    """Start a run whose report goes to standard output, and wait for its worker."""
    plan = jobplan.plan(SLEEPS, **keys)
    run = Unread(jobplan, "run", str(plan), "--dsn", db.dsn, "--report", f"{report}=-")
    runs.append(run)
    until_running(jobplan)
    return run


def until_running(jobplan: Jobplan) -> None:
    """Wait until the journal has a worker: this stays true when the run has ended."""
    journals = jobplan.folder / ".jobplan" / "runs"
    until(lambda: any(b'"attempt_running"' in path.read_bytes() for path in journals.glob("*/events.jsonl")))


@pytest.mark.parametrize("report", ["jsonl", "html"])
def test_run_timeout_ends_a_run_whose_standard_output_is_not_read(
    jobplan: Jobplan, db: Database, runs: list[Unread], report: str
) -> None:
    run = begin(runs, jobplan, db, report, run_timeout="3s")
    until(lambda: db.workers() == [], seconds=40)
    written = run.read()  # a reader that comes late misses nothing
    assert run.code() == 5
    if report == "jsonl":
        lines = [json.loads(line) for line in written.splitlines()]
        assert (lines[0]["event"], lines[-1]["event"]) == ("run_started", "run_finished")
    else:
        assert written.rstrip().endswith("</html>")


@pytest.mark.parametrize(("how", "code"), [("signal", 143), ("cancel", 1)])
def test_a_signal_and_a_request_end_a_run_whose_standard_output_is_not_read(
    jobplan: Jobplan, db: Database, runs: list[Unread], how: str, code: int
) -> None:
    run = begin(runs, jobplan, db, "jsonl")
    if how == "signal":
        run.process.send_signal(signal.SIGTERM)
    else:
        (name,) = db.column(f"SELECT application_name {WORKERS}")
        cancelled = jobplan("cancel", name.split(":")[1], "--dsn", db.dsn)
        assert cancelled.code == 0, cancelled.out + cancelled.err
    until(lambda: db.workers() == [], seconds=40)
    assert json.loads(run.read().splitlines()[-1])["exit_code"] == code
    assert run.code() == code


def test_run_timeout_ends_a_run_whose_report_goes_to_a_named_pipe_that_is_not_read(
    jobplan: Jobplan, db: Database
) -> None:
    os.mkfifo(jobplan.folder / "pipe")
    loud = "FOR i IN 1..1000 LOOP RAISE NOTICE '%', repeat('n', 100); END LOOP; PERFORM pg_sleep(120)"
    plan = jobplan.plan(f'- {{id: loud, sql: "DO $$ BEGIN {loud}; END $$"}}', run_timeout="5s")
    reader = os.open(jobplan.folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=pipe")
    until_running(jobplan)
    until(lambda: db.workers() == [], seconds=40)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    ended = started.ended()
    assert ended.code == 5, ended.err
    assert json.loads(lines[-1])["event"] == "run_finished"


@pytest.mark.slow
def test_a_report_that_is_never_read_costs_the_exit_code_and_ends(
    jobplan: Jobplan, db: Database, runs: list[Unread]
) -> None:
    """The run waits for a minute for its reader."""
    run = begin(runs, jobplan, db, "jsonl", run_timeout="3s")
    assert run.process.wait(timeout=150) in (1, 5)
