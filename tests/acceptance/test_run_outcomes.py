"""Each way in which a step or a run can end is reported as what it is, with the exit code that belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, Ran, until


def line_of(ran: Ran, step: str) -> str:
    """Return the last line about a step."""
    return next(line for line in reversed(ran.lines) if line.startswith(f"{step}: "))


def test_raised_timed_out_refused_a_lock_and_terminated_are_distinguished(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE locked (id int)")
    plan = jobplan.plan(
        """
        - {id: raises, sql: "DO $$ BEGIN RAISE EXCEPTION 'no orders today' USING HINT = 'Ask sales.'; END $$"}
        - {id: times_out, sql: SELECT pg_sleep(60), timeout: 500ms}
        - {id: refused, sql: DELETE FROM locked, lock_timeout: 300ms}
        - {id: terminated, sql: SELECT pg_sleep(60)}
        """
    )
    with psycopg.connect(db.dsn) as holder:
        holder.execute("LOCK TABLE locked")
        started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
        until(lambda: "terminated" in db.workers())
        db.terminate("terminated")
        ran = started.ended()
    assert ran.code == 1
    assert re.fullmatch(r"raises: failed in \S+: no orders today \(SQLSTATE P0001\) Ask sales.", line_of(ran, "raises"))
    assert re.match(r"times_out: timed out in \S+: ", line_of(ran, "times_out"))
    assert re.match(r"refused: failed in \S+: canceling statement due to lock timeout .*55P03", line_of(ran, "refused"))
    assert re.match(r"terminated: cancelled in \S+ by another session on the server: ", line_of(ran, "terminated"))
    assert "2 failed, 1 timed out, 1 cancelled" in ran.last_line
    assert jobplan.events()[-1]["steps"] == {
        "raises": "failed",
        "times_out": "timed_out",
        "refused": "failed",
        "terminated": "cancelled",
    }


def test_a_cancel_by_a_dba_is_no_timeout(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: nap, sql: SELECT pg_sleep(60)}")
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("nap")
    db.run(f"SELECT pg_cancel_backend({db.pid('nap')})")
    ran = started.ended()
    assert ran.code == 1
    assert re.match(r"nap: cancelled in \S+ by another session on the server: .*57014", line_of(ran, "nap"))


def test_run_timeout_ends_the_run(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        "- {id: nap, sql: SELECT pg_sleep(60)}\n- {id: later, needs: [nap], sql: SELECT 1}\n",
        run_timeout="1s",
        defaults="{timeout: 1s, on_finish: wait}",
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 5
    assert "run_timeout" in ran.err
    assert db.workers() == []


def test_an_unknown_outcome_is_never_a_success(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("- {id: nap, sql: \"LOCK TABLE gate; INSERT INTO done VALUES ('nap')\"}")
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    started = jobplan.start("run", plan, "--dsn", done.dsn)
    done.until_workers("nap")
    done.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name LIKE 'jobplan:%' AND datname = current_database()"
    )
    keeper.rollback()
    ran = started.ended()
    assert ran.code == 7, ran.err
    assert "nap: unknown" in line_of(ran, "nap")
    assert "1 unknown" in ran.last_line
    assert done.column("SELECT step FROM done") == ["nap"]


RUNNERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name LIKE 'jobplan:%:runner' AND datname = current_database()"
)
GROUP = "{group: nightly, on_conflict: %s}"


@pytest.fixture
def holder(jobplan: Jobplan, db: Database) -> Iterator[str]:
    """A run that holds the group until its worker is stopped; gives its run id."""
    plan = jobplan.plan(
        "- {id: hold, sql: SELECT pg_sleep(60), timeout: 90s}", file="holder.yaml", concurrency=GROUP % "fail"
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("hold")
    name = db.value(f"SELECT application_name FROM pg_stat_activity WHERE pid = {db.pid('hold')}")
    yield name.split(":")[1]
    db.terminate("hold")
    assert started.ended().code == 1


def test_a_second_run_of_a_group_fails_and_names_the_first(jobplan: Jobplan, db: Database, holder: str) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}", concurrency=GROUP % "fail")
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 6
    assert ran.err.startswith(f"jobplan: run {holder} holds the concurrency group 'nightly', from ")
    assert ran.err.count("\n") == 1
    elsewhere = make_conninfo(db.dsn, dbname="postgres")
    assert jobplan("run", plan, "--dsn", elsewhere).code == 0


def test_a_second_run_of_a_group_may_wait(jobplan: Jobplan, db: Database, holder: str) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}", concurrency=GROUP % "wait")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("group_waiting"))
    db.terminate("hold")
    ran = started.ended()
    assert ran.code == 0
    assert any(line.startswith(f"waiting: run {holder} holds") for line in ran.lines)


def test_a_dead_runner_frees_its_group(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: hold, sql: SELECT pg_sleep(2)}", concurrency=GROUP % "fail")
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("hold")
    started.close()
    until(lambda: db.value(RUNNERS) == 0)
    short = jobplan.plan("- {id: one, sql: SELECT 1}", concurrency=GROUP % "fail")
    assert jobplan("run", short, "--dsn", db.dsn).code == 0


def test_more_slots_than_the_server_has_workers_is_slower_and_one_line_says_why(
    jobplan: Jobplan, small_server: str
) -> None:
    steps = "".join(f"- {{id: nap{number}, sql: SELECT pg_sleep(0.3)}}\n" for number in range(8))
    ran = jobplan("run", jobplan.plan(steps), "--dsn", small_server, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert "8 succeeded" in ran.last_line
    said = [line for line in ran.lines if line.startswith(("fewer workers than planned: ", "the server starts all"))]
    assert "max_worker_processes" in said[0]
    # One line for each time: a worker that ends in the very moment of a probe looks like room for one more.
    assert all(line.startswith("fewer workers than planned: ") == (number % 2 == 0) for number, line in enumerate(said))
    at_once = most = 0
    for event in jobplan.events():
        at_once += {"attempt_launching": 1, "attempt_finished": -1, "attempt_deferred": -1}.get(event["event"], 0)
        most = max(most, at_once)
    assert 3 <= most <= 4


def test_a_server_that_never_has_a_worker_ends_by_queue_timeout(jobplan: Jobplan, small_server: str) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1, queue_timeout: 1s}", budget="{slots: 1, reserve: 64}")
    ran = jobplan("run", plan, "--dsn", small_server)
    assert ran.code == 1
    assert any(line.startswith("fewer workers than planned: ") and "reserve" in line for line in ran.lines)
    assert "queue_timeout" in line_of(ran, "one")
