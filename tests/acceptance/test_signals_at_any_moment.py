"""A signal that arrives at a chosen moment of `run` or `resume`: the process sends it to itself, there and then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.console import PATIENCE, Database, Jobplan, Ran, clean_environment, until

#: Runs the command line, and sends itself a signal after each call of one function.
DRIVER = """
import functools, importlib, os, runpy, sys
place, number, *sys.argv[1:] = sys.argv[1:]
module, _, name = place.partition(":")
module = importlib.import_module(module)
called = getattr(module, name)
@functools.wraps(called)
def and_signal(*arguments, **keywords):
    result = called(*arguments, **keywords)
    os.kill(os.getpid(), int(number))
    return result
setattr(module, name, and_signal)
runpy.run_module("runner", run_name="__main__")
"""

STEPS = "- {id: one, sql: INSERT INTO done VALUES ('one')}"
#: All signals for one place of each kind, and one signal for the other places.
ALL = ((signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGALRM, 142))
TERM = (signal.SIGTERM, 143)


def signalled(jobplan: Jobplan, place: str, number: signal.Signals, *arguments: str | Path) -> Ran:
    """Run the command with a signal after each call of the function `place`."""
    (jobplan.folder / "driver.py").write_text(DRIVER, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "driver.py", place, str(int(number)), *map(str, arguments)],
        cwd=jobplan.folder,
        env={**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    return Ran(code=ended.returncode, out=ended.stdout, err=ended.stderr)


def interrupted_before_anything(ran: Ran, code: int, done: Database) -> None:
    """Check that the command ended in order, and that nothing was started."""
    assert ran.code == code, ran.err
    assert ran.err.splitlines()[-1] == "jobplan: interrupted; nothing was started."
    assert done.value("SELECT count(*) FROM done") == 0


@pytest.mark.parametrize(
    ("place", "number", "code"),
    [
        *((place, *TERM) for place in ("cli.run:read_plan", "cli.run:protect", "cli.run:begin", "run.loop:hold_run")),
        *(("cli.run_execution:new_run", *one) for one in ALL),
    ],
)
def test_a_signal_before_a_run_begins_ends_it_in_order(
    jobplan: Jobplan, done: Database, place: str, number: signal.Signals, code: int
) -> None:
    plan = jobplan.plan(STEPS)
    ran = signalled(jobplan, f"runner.{place}", number, "run", plan, "--dsn", done.dsn)
    interrupted_before_anything(ran, code, done)


@pytest.mark.parametrize(
    ("place", "number", "code"), [("_report_wait", *TERM), ("again", *TERM), *(("again", *one) for one in ALL)]
)
def test_a_signal_between_two_waits_for_a_runner_ends_the_command_in_order(
    jobplan: Jobplan, done: Database, place: str, number: signal.Signals, code: int
) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("- {id: slow, sql: \"LOCK TABLE gate; INSERT INTO done VALUES ('slow')\"}")
    command = ("run", plan, "--dsn", done.dsn, "--run-id", "mine", "--or-resume")
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        holder = jobplan.start(*command)
        until(lambda: done.workers() == ["slow"])
        ran = signalled(jobplan, f"runner.cli.run:{place}", number, *command, "--wait-for-runner")
        interrupted_before_anything(ran, code, done)
    assert holder.ended().code == 0


@pytest.mark.parametrize("place", ["cli.resume:read_record", "cli.resume:resume_record", "cli.run_execution:new_run"])
def test_a_signal_before_a_resume_has_begun_ends_it_in_order(jobplan: Jobplan, done: Database, place: str) -> None:
    plan = jobplan.plan("- {id: fails, sql: INSERT INTO done SELECT 'x' FROM wanted}")
    assert jobplan("run", plan, "--dsn", done.dsn).code == 1
    ran = signalled(jobplan, f"runner.{place}", signal.SIGTERM, "resume", "last", "--dsn", done.dsn)
    interrupted_before_anything(ran, 143, done)
    done.run("CREATE TABLE wanted AS SELECT 1")
    assert jobplan("resume", "last", "--dsn", done.dsn).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_run_does_not_change_its_exit_code(
    jobplan: Jobplan, done: Database, number: signal.Signals
) -> None:
    ran = signalled(jobplan, "runner.cli.run_execution:run_end", number, "run", jobplan.plan(STEPS), "--dsn", done.dsn)
    assert ran.code == 0, ran.err
    assert "1 succeeded" in ran.last_line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_an_error_is_reported_does_not_change_its_exit_code(
    jobplan: Jobplan, done: Database, number: signal.Signals
) -> None:
    """The message is complete, and says why nothing was run."""
    plan = jobplan.plan("- {id: one, sql: SELEC 1}")
    ran = signalled(jobplan, "runner.cli.run:for_error", number, "run", plan, "--dsn", done.dsn)
    assert ran.code == 3, ran.err
    assert "interrupted" not in ran.err
