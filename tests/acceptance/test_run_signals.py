"""Ctrl-C, SIGTERM and SIGKILL: what becomes of the workers, by what pg_stat_activity says of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.acceptance.console import PATIENCE, Database, Jobplan, clean_environment, until

BOTH = """
    - {id: stops, sql: INSERT INTO done SELECT 'stops' FROM pg_sleep(60)}
    - {id: stays, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('stays')", on_runner_exit: detach}
    - {id: away, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('away')", on_finish: detach}
    - {id: later, needs: [stops], sql: INSERT INTO done VALUES ('later')}
    """


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGALRM, 142)]
)
def test_the_first_signal_stops_or_detaches_by_on_runner_exit(
    jobplan: Jobplan, done: Database, number: signal.Signals, code: int
) -> None:
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    plan = jobplan.plan(BOTH, **{"finally": "[{id: note, sql: \"INSERT INTO done VALUES (:'run.status')\"}]"})
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    done.until_workers("away", "stays", "stops")
    started.send(number)
    ran = started.ended()
    assert ran.code == code
    assert done.workers() == ["away", "stays"]
    keeper.rollback()
    assert "interrupted" in ran.err
    assert re.match(r"run \S+ interrupted: ", ran.last_line)
    for label, command in (("Follow", "attach"), ("Cancel", "cancel"), ("Resume", "resume")):
        assert ran.labelled(label)[0].startswith(f"jobplan {command} "), ran.err
    last = jobplan.events()[-1]
    assert (last["event"], last["exit_code"]) == ("run_finished", code)
    assert last["steps"] == {
        "stops": "cancelled",
        "stays": "detached",
        "away": "detached",
        "later": "skipped",
        "note": "succeeded",
    }
    done.until_workers()
    assert done.column("SELECT step FROM done ORDER BY 1") == ["away", "interrupted", "stays"]


def test_nohup_keeps_a_run_from_ending_with_its_terminal(jobplan: Jobplan, db: Database) -> None:
    """And what means nothing to a run does not kill its runner: SIGUSR1, SIGUSR2, and a pipe without a reader."""
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(3)}")
    line = f"trap '' HUP; exec '{sys.executable}' -m runner run '{plan}' --dsn '{db.dsn}' --report jsonl=events.jsonl"
    process = subprocess.Popen(
        ["bash", "-c", line],
        cwd=jobplan.folder,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: jobplan.happened("attempt_running"))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert jobplan.events()[-1]["steps"] == {"slow": "succeeded"}


def test_the_second_signal_stops_waiting_and_says_what_still_runs(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE done (step text)")
    plan = jobplan.plan("- {id: stubborn, sql: INSERT INTO done SELECT 'late' FROM pg_sleep(60)}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("stubborn")
    until(lambda: jobplan.happened("attempt_running"))
    pid = db.pid("stubborn")
    os.kill(pid, signal.SIGSTOP)  # a worker that does not heed a cancel, as in a long call of a C function
    try:
        started.send(signal.SIGINT)
        until(lambda: jobplan.happened("attempt_cancel_requested"))
        started.send(signal.SIGINT)
        ran = started.ended()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ran.code == 130
    assert "1 running" in ran.last_line
    assert ran.labelled("Cancel")[0].startswith("jobplan cancel ")
    assert jobplan.events()[-1]["steps"] == {"stubborn": "running"}
    db.until_workers()
    assert db.column("SELECT step FROM done") == []


def test_a_signal_before_the_first_launch_starts_nothing(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE done (step text)")
    plan = jobplan.plan("- {id: never, sql: INSERT INTO done VALUES ('never'), if: SELECT pg_sleep(3) IS NOT NULL}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("step_checking"))
    started.send(signal.SIGINT)
    assert started.ended().code == 130
    assert db.column("SELECT step FROM done") == []


def test_signals_that_come_when_the_run_is_over_change_nothing(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("run_finished"))
    while started.alive:
        started.send(signal.SIGINT)
        started.send(signal.SIGTERM)
    ran = started.ended()
    assert ran.code == 0
    assert ran.err.count("\n") == 6, ran.err  # begun, started, succeeded, the counts, Record, Report
    assert "1 succeeded" in ran.last_line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_connecting_ends_at_once(jobplan: Jobplan, number: signal.Signals, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} connect_timeout=600"
        started = jobplan.start("run", jobplan.plan("- {id: one, sql: SELECT 1}"), "--dsn", dsn)
        connection, _ = silent.accept()
        with connection:
            started.send(number)
            ran = started.ended()
    assert (ran.code, ran.err) == (code, "jobplan: interrupted; nothing was started.\n")


def test_a_signal_while_waiting_for_the_group_starts_nothing(jobplan: Jobplan, db: Database) -> None:
    group = "{group: nightly, on_conflict: wait}"
    holder = jobplan.start(
        "run", jobplan.plan("- {id: hold, sql: SELECT pg_sleep(60)}", concurrency=group), "--dsn", db.dsn
    )
    db.until_workers("hold")
    plan = jobplan.plan("- {id: never, sql: CREATE TABLE never ()}", file="second.yaml", concurrency=group)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("group_waiting"))
    started.send(signal.SIGINT)
    ran = started.ended()
    assert ran.code == 130
    assert ran.last_line == "jobplan: interrupted; nothing was started."
    holder.send(signal.SIGINT)
    assert holder.ended().code == 130
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 'never'") == 0


def test_a_killed_runner_leaves_workers_that_end_by_their_own_timeout(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("""
        - {id: short, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('short')"}
        - {id: long, sql: INSERT INTO done SELECT 'long' FROM pg_sleep(60), timeout: 5s}
        - {id: later, needs: [short], sql: INSERT INTO done VALUES ('later')}
        """)
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    started = jobplan.start("run", plan, "--dsn", done.dsn)
    done.until_workers("long", "short")
    started.send(signal.SIGKILL)
    assert started.ended().code == -signal.SIGKILL
    assert done.workers() == ["long", "short"]
    done.until_workers("short")
    keeper.rollback()
    done.until_workers()
    assert done.column("SELECT step FROM done") == ["short"]
