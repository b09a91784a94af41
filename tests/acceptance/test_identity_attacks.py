"""Attacks on a worker's identity: what a step, another role or a hash does to names must not make a worker disappear.

Each test is one attack on a real server. A worker is its pid and backend_start; its name and label are claims.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runner.identity import runner_name, worker_name
from tests.acceptance.console import Database, Jobplan, until

#: Statements by which a step can change its own application_name.
RENAMINGS = {
    "set": "SET application_name = 'something else'",
    "set_config": "SELECT set_config('application_name', 'my report', false)",
    "empty": "SET application_name = ''",
    "another run": "SET application_name = 'jobplan:260101-aaaaaa:other'",
    "the runner": "SELECT set_config('application_name', 'jobplan:260101-aaaaaa:runner', false)",
}


def records(jobplan: Jobplan, run: str) -> list[dict[str, Any]]:
    """Read the run's journal."""
    lines = (jobplan.folder / ".jobplan" / "runs" / run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def workers(db: Database) -> list[int]:
    """Return the pids of all workers in this database, whatever they are called."""
    return db.column(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
    )


def kill_when_seen(jobplan: Jobplan, db: Database, plan: Path, count: int = 1) -> str:
    """Run the plan until its workers are recorded with their pids, kill the runner, and return the run's id."""
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--no-ledger", "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == count)
    started.send(signal.SIGKILL)
    started.ended()
    return str(jobplan.events()[0]["run"])


def renaming(how: str, wait: str = "LOCK TABLE gate", **keys: str) -> str:
    """Write a step that changes its name and then waits."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"""- {{id: slow, sql: "{RENAMINGS[how]}; {wait}; INSERT INTO done VALUES ('slow')"{more}}}"""


@pytest.mark.parametrize("how", sorted(RENAMINGS))
def test_a_step_that_changes_its_name_is_waited_for_after_kill_9_and_not_run_twice(
    jobplan: Jobplan, done: Database, how: str
) -> None:
    plan = jobplan.plan(renaming(how, idempotent="true"))
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = kill_when_seen(jobplan, done, plan)
        reported = jobplan("status", "--dsn", done.dsn)
        assert run in reported.out, reported.out
        assert "slow" in reported.out
        resumed = jobplan.start("resume", run, "--no-ledger")
        until(lambda: any(event["event"] == "run_resumed" for event in records(jobplan, run)))
    ended = resumed.ended()
    (event,) = [event for event in records(jobplan, run) if event["event"] == "run_resumed"]
    assert [found["step"] for found in event["adopted"]] == ["slow"], ended.err
    assert done.value("SELECT count(*) FROM done") in (1, 2)  # idempotent: its end is unknown, so it may run once more
    launched = [event for event in records(jobplan, run) if event["event"] == "attempt_launching"]
    finished = [event for event in records(jobplan, run) if event["event"] == "attempt_finished"]
    assert len(launched) == len(finished), "one was launched while the other lived"


@pytest.mark.parametrize("how", sorted(RENAMINGS))
def test_a_step_that_changes_its_name_is_stopped_by_cancel_after_kill_9(
    jobplan: Jobplan, done: Database, tmp_path: Path, how: str
) -> None:
    plan = jobplan.plan(renaming(how, wait="SELECT pg_sleep(60)"))
    run = kill_when_seen(jobplan, done, plan)
    elsewhere = tmp_path / "elsewhere"  # another machine, without the journal
    elsewhere.mkdir()
    cancelled = jobplan("cancel", run, "--dsn", done.dsn, "--journal", elsewhere)
    assert cancelled.code == 0, cancelled.err
    assert "slow" in cancelled.out
    assert not workers(done)


@pytest.mark.parametrize("how", ["set_config", "another run"])
def test_a_step_that_changes_its_name_is_stopped_by_ctrl_c(jobplan: Jobplan, done: Database, how: str) -> None:
    plan = jobplan.plan(renaming(how, wait="SELECT pg_sleep(60)"))
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    started.send(signal.SIGINT)
    ended = started.ended()
    assert ended.code == 130, ended.err
    assert not workers(done)


def test_a_step_that_changes_its_name_at_once_is_stopped_by_cancel_while_its_runner_lives(
    jobplan: Jobplan, done: Database
) -> None:
    plan = jobplan.plan(renaming("set_config", wait="SELECT pg_sleep(60)"))
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    cancelled = jobplan("cancel", str(jobplan.events()[0]["run"]), "--dsn", done.dsn)
    assert cancelled.code == 0, cancelled.err
    ended = started.ended()
    assert ended.code == 1, ended.err
    assert not workers(done)


def test_a_step_that_changes_its_name_and_shows_no_text_is_found_by_the_journal(
    jobplan: Jobplan, done: Database
) -> None:
    database = done.value("SELECT quote_ident(current_database())")
    done.run(f"ALTER DATABASE {database} SET track_activities = off")
    plan = jobplan.plan(renaming("set", wait="SELECT pg_sleep(60)"))
    run = kill_when_seen(jobplan, done, plan)
    assert "slow" in jobplan("status", run, "--dsn", done.dsn).out
    assert "slow" in jobplan("status", "--dsn", done.dsn).out
    resumed = jobplan("resume", run, "--orphans", "cancel", "--no-ledger")
    assert resumed.code == 4, resumed.err  # stopped, and now it asks what the worker did
    assert "--mark 'slow=" in resumed.err
    assert not workers(done)


def test_two_items_whose_names_collide_are_two_workers(jobplan: Jobplan, done: Database) -> None:
    long = "x" * 50
    plan = jobplan.plan(f"""
        - id: step
          for_each: {{items: [{long}a, {long}b], as: t}}
          sql: SELECT set_config('application_name', 'the same', false); LOCK TABLE gate; INSERT INTO done VALUES (:'t')
    """)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = kill_when_seen(jobplan, done, plan, 2)
        resumed = jobplan.start("resume", run, "--no-ledger")
        until(lambda: any(event["event"] == "run_resumed" for event in records(jobplan, run)))
    resumed.ended()
    (event,) = [event for event in records(jobplan, run) if event["event"] == "run_resumed"]
    assert len({found["worker"]["pid"] for found in event["adopted"]}) == 2
    assert done.value("SELECT count(*) FROM done") == 2


# --- other roles ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mallory(db: Database) -> str:
    """A role that can connect and launch workers, and is nothing to the run's; return its connection."""
    name = f"mallory_{time.monotonic_ns()}"
    db.run(f"CREATE ROLE {name} LOGIN; GRANT pgbackground_role TO {name}")
    return make_conninfo(db.dsn, user=name)


def test_another_roles_sessions_locks_and_workers_with_the_runs_name_do_not_block_resume(
    jobplan: Jobplan, done: Database, mallory: str
) -> None:
    plan = jobplan.plan("""
        - {id: one, sql: "SELECT pg_sleep(60); INSERT INTO done VALUES ('one')", idempotent: true}
    """)
    run = kill_when_seen(jobplan, done, plan)
    (pid,) = workers(done)
    done.run(f"SELECT pg_terminate_backend({pid})")
    until(lambda: not workers(done))
    fast = jobplan.folder / "plan.yaml"
    fast.write_text(fast.read_text(encoding="utf-8").replace("pg_sleep(60)", "1"), encoding="utf-8")
    with psycopg.connect(mallory, autocommit=True, application_name=runner_name(run)) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('jobplan:run:' || %s::text, 0))", (run,))
        other.execute("SELECT set_config('application_name', %s, false)", (worker_name(run, "one"),))
        other.execute("SELECT pg_background_launch('SELECT pg_sleep(60)', 0, '')")
        other.execute("SELECT set_config('application_name', %s, false)", (runner_name(run),))
        until(lambda: len(workers(done)) == 1)
        (theirs,) = workers(done)
        resumed = jobplan("resume", run, "--no-ledger", "--allow-changed")
        assert resumed.code == 0, resumed.err
        (event,) = [event for event in records(jobplan, run) if event["event"] == "run_resumed"]
        assert "adopted" not in event
        assert len(event["foreign"]) == 3, event["foreign"]
        assert all("mallory" in one for one in event["foreign"])
        assert "mallory" in resumed.err
        assert workers(done) == [theirs]
        cancelled = jobplan("cancel", run, "--dsn", done.dsn)
        assert workers(done) == [theirs], cancelled.out
        assert "mallory" in cancelled.out
        other.execute("SELECT pg_terminate_backend(%s)", (theirs,))


def test_a_step_called_runner_is_no_runner_also_for_a_role_that_sees_only_names(
    jobplan: Jobplan, done: Database, mallory: str
) -> None:
    plan = jobplan.plan('- {id: runner, sql: "SELECT pg_sleep(60)"}')
    run = kill_when_seen(jobplan, done, plan)
    reported = jobplan("status", run, "--dsn", mallory, "--format", "json")
    (seen,) = json.loads(reported.out)["runs"]
    assert (seen["run"], seen["runner"]["alive"], len(seen["workers"])) == (run, False, 1)
    cancelled = jobplan("cancel", run, "--dsn", done.dsn)
    assert cancelled.code == 0, cancelled.err
    assert not workers(done)


# --- items ------------------------------------------------------------------------------------------------------------

PAIRS = """
    - id: load
      for_each:
        items: [{items}]
        as: t
      sql: >
        INSERT INTO done SELECT :'t.who' || '/' || :'t.what'
        FROM pg_sleep(CASE :'t.what' WHEN 'c' THEN 60 ELSE 0 END)
    - {{id: last, sql: "INSERT INTO done VALUES ('last')", needs: [load]}}
"""
ONE, OTHER, THIRD = '{who: a, what: "b,c"}', '{who: "a,b", what: c}', '{who: x, what: "y"}'


def test_items_that_look_the_same_are_not_mixed_up_when_they_are_reordered(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(PAIRS.format(items=f"{ONE}, {OTHER}"))
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--no-ledger", "--report", "jsonl=events.jsonl")
    until(lambda: any(event["event"] == "attempt_finished" for event in events_so_far(jobplan)))
    until(lambda: len(workers(done)) == 1)
    started.send(signal.SIGKILL)
    started.ended()
    run = str(jobplan.events()[0]["run"])
    done.run(f"SELECT pg_terminate_backend({workers(done)[0]})")
    until(lambda: not workers(done))
    text = PAIRS.replace("WHEN 'c' THEN 60", "WHEN 'c' THEN 0").format(items=f"{OTHER}, {THIRD}, {ONE}")
    jobplan.plan(text)
    asked = jobplan("resume", run, "--allow-changed", "--no-ledger")
    assert asked.code == 4, asked.err
    assert "--mark 'load[a,b,c#2]=" in asked.err
    finished = jobplan("resume", run, "--allow-changed", "--no-ledger", "--mark", "load[a,b,c#2]=failed")
    assert finished.code == 0, finished.err
    assert done.column("SELECT step FROM done ORDER BY 1") == ["a,b/c", "a/b,c", "last", "x/y"]
    assert jobplan("show", run).code == 0
    assert jobplan("resume", run, "--allow-changed", "--no-ledger").code == 0


def events_so_far(jobplan: Jobplan) -> list[dict[str, Any]]:
    """Return what the run has reported, which may be nothing yet."""
    return jobplan.events() if (jobplan.folder / "events.jsonl").exists() else []


# --- labels that are not there ----------------------------------------------------------------------------------------

MIXED = """
    - {id: waits, sql: "SELECT pg_sleep(60)"}
    - {id: away, sql: "SELECT pg_sleep(60)", on_finish: detach}
"""


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["track_activities", "no journal"])
def test_cancel_without_labels_leaves_detach_steps_alone(
    jobplan: Jobplan, done: Database, tmp_path: Path, hidden: str
) -> None:
    database = done.value("SELECT quote_ident(current_database())")
    done.run(f"ALTER DATABASE {database} SET track_activities = off")
    run = kill_when_seen(jobplan, done, jobplan.plan(MIXED), 2)
    journal = jobplan.folder / ".jobplan" / "runs" if hidden == "track_activities" else tmp_path / "none"
    cancelled = jobplan("cancel", run, "--dsn", done.dsn, "--journal", journal, "--timeout", "5s")
    assert cancelled.code == 0, cancelled.err
    if hidden == "track_activities":
        assert done.workers() == ["away"]
        assert "away" in cancelled.out
    else:
        assert done.workers() == ["away", "waits"]
        assert cancelled.out.count("not cancelled (check track_activities") == 2
    all_of_them = jobplan("cancel", run, "--dsn", done.dsn, "--journal", journal, "--detached")
    assert all_of_them.code == 0, all_of_them.err
    until(lambda: not done.workers())
