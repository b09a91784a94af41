"""What happens between the attempts of a step: `on_retry`, and `leftovers: drop`."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, Ran, until


@pytest.fixture
def state(db: Database) -> Database:
    """A database with a counter of the runs of `on_retry`, and a sequence that no rollback takes back."""
    db.run("CREATE TABLE state (n int NOT NULL)")
    db.run("INSERT INTO state VALUES (0)")
    db.run("CREATE SEQUENCE tried")
    return db


def run(jobplan: Jobplan, db: Database, steps: str, *more: str | Path, **keys: str) -> Ran:
    """Run these steps."""
    plan = jobplan.plan(steps, **keys)
    return jobplan("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl", *more)


def step_of(jobplan: Jobplan, key: str) -> dict[str, Any]:
    """Return what `show` reports of a step."""
    shown = json.loads(jobplan("show", "last", "--journal", "runs", "--format", "json").out)
    (found,) = [one for one in shown["steps"] if one["step"] == key]
    return dict(found)


def names_of(jobplan: Jobplan, *names: str) -> list[tuple[str, int]]:
    """Return the events of these names with their attempts, in order."""
    return [(event["event"], event["attempt"]) for event in jobplan.events() if event["event"] in names]


FAILS_TWICE = "SELECT nextval('tried'), 1 / (SELECT greatest(n - 1, 0) FROM state)"


def test_on_retry_runs_before_each_further_attempt_and_not_before_the_first(jobplan: Jobplan, state: Database) -> None:
    ran = run(
        jobplan,
        state,
        f"""
        - id: a
          on_retry: UPDATE state SET n = n + 1
          retry: {{max_attempts: 5, delay: 10ms}}
          sql: {FAILS_TWICE}
        """,
    )
    assert ran.code == 0, ran.err
    assert (state.value("SELECT n FROM state"), state.value("SELECT last_value FROM tried")) == (2, 3)
    assert names_of(jobplan, "attempt_preparing", "attempt_launching", "attempt_finished") == [
        *(("attempt_launching", 1), ("attempt_finished", 1)),
        *(("attempt_preparing", 2), ("attempt_launching", 2), ("attempt_finished", 2)),
        *(("attempt_preparing", 3), ("attempt_launching", 3), ("attempt_finished", 3)),
    ]
    assert step_of(jobplan, "a")["attempts"] == 3


def test_a_failed_on_retry_fails_the_attempt(jobplan: Jobplan, state: Database) -> None:
    ran = run(
        jobplan,
        state,
        """
        - id: a
          on_retry: SELECT 1 / 0
          retry: {max_attempts: 3, delay: 10ms}
          sql: SELECT nextval('tried'), 2 / 0
        """,
    )
    assert ran.code == 1
    assert state.value("SELECT last_value FROM tried") == 1
    assert "a: failed" in ran.err
    assert "on_retry: division by zero" in ran.err
    assert names_of(jobplan, "attempt_launching", "attempt_finished") == [
        *(("attempt_launching", 1), ("attempt_finished", 1)),
        *(("attempt_finished", 2), ("attempt_finished", 3)),
    ]
    last = jobplan.events()[-2]
    assert (last["event"], last["error"]["sqlstate"], "position" in last["error"]) == ("step_finished", "22012", False)


def test_on_retry_has_the_role_path_settings_and_timeout_of_the_step(jobplan: Jobplan, state: Database) -> None:
    role = f"keeper_{state.value('SELECT pg_backend_pid()')}"
    state.run(f"CREATE ROLE {role}")
    try:
        state.run("CREATE SCHEMA own")
        state.run("CREATE TABLE own.seen (who text, setting text, path text)")
        state.run(f"GRANT ALL ON SCHEMA own TO {role}")
        state.run(f"GRANT ALL ON ALL TABLES IN SCHEMA own TO {role}")
        ran = run(
            jobplan,
            state,
            f"""
            - id: a
              role: {role}
              search_path: own
              settings: {{app.word: hello}}
              timeout: 1s
              on_retry: INSERT INTO seen SELECT current_user, current_setting('app.word'), current_schema
              retry: {{max_attempts: 2, delay: 10ms}}
              sql: SELECT 1 / 0
            - id: slow
              timeout: 1s
              on_retry: SELECT pg_sleep(30)
              retry: {{max_attempts: 2, delay: 10ms}}
              sql: SELECT 1 / 0
            """,
        )
        assert ran.code == 1
        assert state.value("SELECT who || ' ' || setting || ' ' || path FROM own.seen") == f"{role} hello own"
        steps = jobplan.events()[-1]["steps"]
        assert steps == {"a": "failed", "slow": "timed_out"}
    finally:
        state.run("DROP SCHEMA own CASCADE")
        state.run(f"DROP ROLE {role}")


def test_on_retry_does_not_run_between_iterations_and_runs_for_each_item(jobplan: Jobplan, state: Database) -> None:
    state.run("CREATE TABLE seen (item text)")
    ran = run(
        jobplan,
        state,
        """
        - id: loop
          on_retry: UPDATE state SET n = n + 1
          retry: {max_attempts: 3, delay: 10ms}
          repeat: {until: SELECT last_value > 2 FROM tried, max_iterations: 9}
          sql: SELECT nextval('tried')
        - id: each
          needs: [loop]
          for_each: {items: [x, y], as: t}
          on_retry: INSERT INTO seen VALUES (:'t')
          retry: {max_attempts: 2, delay: 10ms}
          sql: SELECT 1 / 0, :'t'
        """,
    )
    assert ran.code == 1
    assert state.value("SELECT n FROM state") == 0
    assert state.column("SELECT item FROM seen ORDER BY item") == ["x", "y"]


@pytest.mark.parametrize("ledger", [False, True])
def test_a_runner_killed_during_on_retry_leaves_no_question(jobplan: Jobplan, state: Database, *, ledger: bool) -> None:
    if ledger:
        assert jobplan("ledger", "install", "--dsn", state.dsn).code == 0
    steps = """
        - id: a
          on_retry: UPDATE state SET n = n + 1 FROM pg_advisory_xact_lock(1)
          retry: {max_attempts: 2, delay: 10ms}
          sql: INSERT INTO state SELECT 100 / (SELECT min(n) FROM state)
        """
    plan = jobplan.plan(steps)
    keeper = state.elsewhere()
    keeper.execute("SELECT pg_advisory_xact_lock(1)")
    started = jobplan.start("run", plan, "--dsn", state.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_preparing"))
    state.until_workers("a")
    started.send(signal.SIGKILL)
    started.ended()
    keeper.rollback()
    resumed = jobplan("resume", "last", "--journal", "runs", "--report", "jsonl=events.jsonl")
    assert resumed.code == 0, resumed.err
    # That of the killed runner has ended and counts; the step was tried again, so it ran once more.
    assert state.column("SELECT n FROM state ORDER BY n") == [2, 50]
    assert "--mark" not in resumed.err


def test_a_resume_runs_on_retry_before_a_step_that_it_runs_again(jobplan: Jobplan, state: Database) -> None:
    steps = """
        - id: a
          on_retry: UPDATE state SET n = n + 1
          retry: {max_attempts: 2}
          sql: INSERT INTO state SELECT 100 / (SELECT min(n) FROM state)
          allow_failure: false
        - {id: b, sql: UPDATE state SET n = n + 10, needs: [{step: a, on: failure}]}
        """
    state.run("UPDATE state SET n = -1")
    plan = jobplan.plan(steps.replace("retry: {max_attempts: 2}", "timeout: 10s"))
    first = jobplan("run", plan, "--dsn", state.dsn, "--journal", "runs")
    assert first.code == 0, first.err
    state.run("DELETE FROM state WHERE n < -1")
    state.run("UPDATE state SET n = 0")
    second = jobplan("run", plan, "--dsn", state.dsn, "--journal", "runs")
    assert (second.code, state.value("SELECT n FROM state")) == (1, 10)
    resumed = jobplan("resume", "last", "--journal", "runs")
    assert resumed.code == 0, resumed.err
    assert state.column("SELECT n FROM state ORDER BY n") == [9, 11]


def test_a_cancelled_step_does_not_run_after_its_on_retry(jobplan: Jobplan, state: Database) -> None:
    steps = """
        - id: a
          on_retry: SELECT pg_sleep(30)
          retry: {max_attempts: 3, delay: 10ms}
          sql: SELECT nextval('tried'), 1 / 0
        """
    plan = jobplan.plan(steps)
    started = jobplan.start("run", plan, "--dsn", state.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_preparing"))
    state.until_workers("a")
    started.send(signal.SIGINT)
    ran = started.ended()
    assert ran.code == 130
    assert state.workers() == []
    assert state.value("SELECT last_value FROM tried") == 1
    assert jobplan.events()[-1]["steps"] == {"a": "cancelled"}


# --- leftovers --------------------------------------------------------------------------------------------------------

INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"


def test_the_index_of_a_failed_build_is_removed_before_the_next_attempt_and_at_the_end(
    jobplan: Jobplan, db: Database
) -> None:
    db.run("CREATE TABLE t (id int)")
    db.run("INSERT INTO t VALUES (1), (1)")
    with pytest.raises(Exception, match="duplicated"):
        db.run("CREATE UNIQUE INDEX CONCURRENTLY before_the_run ON t (id)")
    ran = run(
        jobplan,
        db,
        """
        - id: build
          sql: CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)
          retry: {max_attempts: 2, delay: 10ms}
          leftovers: drop
          verify: SELECT true
        """,
    )
    assert ran.code == 1
    assert db.column(INVALID) == ["before_the_run"]
    assert "already exists" not in ran.err
    assert "build: removed: index public.t_id of public.t is INVALID" in ran.err
    build = step_of(jobplan, "build")
    assert (build["attempts"], build["leftovers"]) == (2, [])
    ends = [event for event in jobplan.events() if event["event"] == "attempt_finished"]
    assert [[one["what"] for one in end["removed"]] for end in ends] == [
        ["index public.t_id of public.t is INVALID"]
    ] * 2


def test_an_index_that_was_there_before_is_not_removed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    db.run("INSERT INTO t VALUES (1), (1)")
    with pytest.raises(Exception, match="duplicated"):
        db.run("CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)")
    ran = run(
        jobplan,
        db,
        """
        - id: build
          sql: CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)
          retry: {max_attempts: 2, delay: 10ms}
          leftovers: drop
          verify: SELECT true
        """,
    )
    assert ran.code == 1
    assert "already exists" in ran.err
    assert db.column(INVALID) == ["t_id"]


def test_without_drop_nothing_is_removed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    db.run("INSERT INTO t VALUES (1), (1)")
    ran = run(jobplan, db, "- {id: build, sql: CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id), verify: SELECT true}")
    assert ran.code == 1
    assert db.column(INVALID) == ["t_id"]
    assert "build: left behind: index public.t_id of public.t is INVALID" in ran.err


@pytest.mark.parametrize("what", ["INDEX CONCURRENTLY orders_at", "TABLE CONCURRENTLY orders"])
def test_the_copies_of_failed_rebuilds_are_removed(jobplan: Jobplan, db: Database, what: str) -> None:
    db.run("CREATE TABLE orders (id int, at int)")
    db.run("CREATE INDEX orders_at ON orders (at)")
    steps = f"""
        - id: re
          sql: REINDEX {what}
          lock_timeout: 300ms # jobplan: ignore=JP330 short on purpose
          retry: {{max_attempts: 50, delay: 300ms}}
          leftovers: drop
        """
    with db.elsewhere("reader") as reader:
        reader.execute("SELECT * FROM orders")
        plan = jobplan.plan(steps)
        started = jobplan.start("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.events()[-1]["event"] == "step_retrying" if jobplan.happened("step_retrying") else False)
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert db.column("SELECT relname FROM pg_class WHERE relname LIKE 'orders_at%'") == ["orders_at"]
    assert db.column(INVALID) == []


def test_a_half_detached_partition_is_detached_and_the_step_has_succeeded(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE p (at int) PARTITION BY RANGE (at)")
    db.run("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)")
    steps = """
        - id: detach
          sql: ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY
          timeout: 700ms
          retry: {max_attempts: 50, delay: 300ms}
          leftovers: drop
          verify: SELECT NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = 'p1'::regclass)
        """
    with db.elsewhere("reader") as reader:
        reader.execute("SELECT * FROM p")
        plan = jobplan.plan(steps)
        started = jobplan.start("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.happened("step_retrying"))
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert db.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'p'::regclass") == 0
    assert db.value("SELECT to_regclass('p1') IS NOT NULL")


def test_a_resume_removes_what_the_attempt_of_a_killed_runner_left(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    steps = """
        - {id: build, sql: CREATE INDEX CONCURRENTLY t_id ON t (id), timeout: 30s, leftovers: drop, verify: SELECT
           indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_id')}
        """
    with db.elsewhere("writer") as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        plan = jobplan.plan(steps)
        started = jobplan.start("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
        db.until_workers("build")
        until(lambda: db.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1)
        started.send(signal.SIGKILL)
        started.ended()
        db.terminate("build")
        db.until_workers()
    assert db.column(INVALID) == ["t_id"]
    resumed = jobplan("resume", "last", "--journal", "runs")
    assert resumed.code == 0, resumed.err
    assert "already exists" not in resumed.err
    assert db.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_id'::regclass")


def test_a_removal_that_fails_leaves_the_object_listed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    steps = """
        - id: build
          sql: CREATE INDEX CONCURRENTLY t_id ON t (id)
          lock_timeout: 500ms # jobplan: ignore=JP330 short on purpose
          leftovers: drop
          verify: SELECT true
        """
    with db.elsewhere("writer") as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        ran = run(jobplan, db, steps)
    assert ran.code == 1
    assert db.column(INVALID) == ["t_id"]
    assert "build: left behind: index public.t_id of public.t is INVALID" in ran.err


def test_the_dry_run_checks_on_retry_and_its_findings_are_warnings(jobplan: Jobplan, state: Database) -> None:
    plan = jobplan.plan(
        """
        - id: a
          on_retry: DROP TABLE what_a_failed_attempt_leaves
          retry: {max_attempts: 2}
          sql: UPDATE state SET n = 1
        - id: b
          on_retry: UPDATE state SET m = 1
          retry: {max_attempts: 2}
          sql: UPDATE state SET n = 2
          needs: [a]
        """
    )
    checked = jobplan("dry-run", plan, "--dsn", state.dsn)
    assert checked.code == 0, checked.out + checked.err
    assert "what_a_failed_attempt_leaves" in checked.out + checked.err
    assert "m" in checked.out
    assert state.value("SELECT n FROM state") == 0


def test_what_another_session_builds_on_the_table_stays_and_what_is_left_behind_is_listed(
    jobplan: Jobplan, db: Database
) -> None:
    db.run("CREATE TABLE t (id int, other int)")
    steps = """
        - id: build
          sql: CREATE INDEX CONCURRENTLY t_id ON t (id)
          timeout: 2s
          leftovers: drop
          verify: SELECT true
        """
    with psycopg.connect(db.dsn, autocommit=True, application_name="builder") as builder, ThreadPoolExecutor() as pool:
        with db.elsewhere("writer") as writer:
            writer.execute("INSERT INTO t VALUES (1, 1)")
            building = pool.submit(builder.execute, "CREATE INDEX CONCURRENTLY theirs ON t (other)")
            until(lambda: "theirs" in db.column(INVALID))
            # Both wait for the writer, and ours for their lock on the table, too: it ends before it has an index.
            ran = run(jobplan, db, steps)
            assert ran.code == 1
            assert "theirs" in db.column(INVALID)
            assert "theirs" not in ran.err
        building.result()
    assert db.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'theirs'::regclass")


def test_a_leftover_beside_a_build_of_another_session_is_listed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int, other int)")
    steps = """
        - id: build
          sql: CREATE INDEX CONCURRENTLY t_id ON t (id)
          timeout: 2s
          retry: {max_attempts: 2, delay: 4s}
          leftovers: drop
          verify: SELECT true
        """
    with psycopg.connect(db.dsn, autocommit=True, application_name="builder") as builder, ThreadPoolExecutor() as pool:
        with db.elsewhere("writer") as writer:
            writer.execute("INSERT INTO t VALUES (1, 1)")
            plan = jobplan.plan(steps)
            started = jobplan.start("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
            until(lambda: jobplan.happened("step_retrying"))
            assert db.column(INVALID) == ["t_id"]
            building = pool.submit(builder.execute, "CREATE INDEX CONCURRENTLY theirs ON t (other)")
            until(lambda: db.column(INVALID) == ["t_id", "theirs"])
            ran = started.ended()
        building.result()
    assert ran.code == 1
    assert "build: left behind: index public.t_id of public.t is INVALID" in ran.err
    assert "theirs" not in ran.err
    assert db.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'theirs'::regclass")
