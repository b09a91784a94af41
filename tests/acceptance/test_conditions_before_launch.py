"""`if` and `preconditions` on a real server: evaluated immediately before each launch."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from tests.acceptance.console import Database, Jobplan, Ran, until

CLOSES = "CREATE TABLE win (closed boolean); INSERT INTO win VALUES (false)"


def line_of(ran: Ran, step: str) -> str:
    """Return the last line about a step."""
    return next(line for line in reversed(ran.lines) if line.startswith(f"{step}: "))


def run_folder(jobplan: Jobplan) -> Path:
    """Return where the journal of the only run is."""
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    return folder


def test_a_window_that_closes_while_steps_wait_for_the_slot_stops_them(jobplan: Jobplan, db: Database) -> None:
    db.run(CLOSES)
    plan = jobplan.plan(
        """
        - {id: long_one, priority: 10, sql: UPDATE win SET closed = true}
        - {id: later, if: SELECT NOT closed FROM win, sql: SELECT 1}
        - id: gated
          preconditions: [{sql: SELECT NOT closed FROM win, message: the window is over}]
          sql: SELECT 1
        """,
        budget="{slots: 1}",
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert (ran.code, line_of(ran, "later")) == (1, "later: skipped (condition: if is false)")
    assert line_of(ran, "gated") == "gated: failed: the window is over"


def test_a_window_that_closes_stops_the_instances_that_are_left(jobplan: Jobplan, db: Database) -> None:
    db.run(CLOSES)
    plan = jobplan.plan(
        """
        - id: freeze
          for_each: {items: [a, b, c, d], as: i}
          if: SELECT NOT closed AND :'i' <> 'b' FROM win
          sql: UPDATE win SET closed = (:'i' = 'c')
        """,
        budget="{slots: 1}",
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0
    states = {key: state for key, state in jobplan.events()[-1]["steps"].items() if "[" in key}
    assert states == {
        "freeze[a]": "succeeded",
        "freeze[b]": "skipped",
        "freeze[c]": "succeeded",
        "freeze[d]": "skipped",
    }


def test_a_loop_stops_when_its_condition_does_not_hold_any_more(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE work (id int); INSERT INTO work SELECT generate_series(1, 9)")
    plan = jobplan.plan(
        """
        - id: purge
          if: SELECT count(*) > 4 FROM work
          sql: DELETE FROM work WHERE id IN (SELECT id FROM work ORDER BY id LIMIT 2)
          repeat: {until: no_rows, max_iterations: 100}
        - {id: after, needs: [purge], sql: SELECT 1}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0
    assert line_of(ran, "purge").endswith("if is false: stopped after 3 iterations")
    assert jobplan.events()[-1]["steps"] == {"purge": "succeeded", "after": "succeeded"}
    assert db.value("SELECT count(*) FROM work") == 3


def test_a_throttle_of_preconditions_and_retry_holds_in_each_iteration(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE lag (mb int); INSERT INTO lag VALUES (0)")
    db.run("CREATE TABLE work (id int); INSERT INTO work SELECT generate_series(1, 6)")
    plan = jobplan.plan(
        """
        - id: backfill
          sql: DELETE FROM work WHERE id IN (SELECT id FROM work LIMIT 1)
          repeat: {until: no_rows, pause: 50ms, max_iterations: 100}
          preconditions: [{sql: SELECT mb < 16 FROM lag, message: replicas are behind}]
          retry: {max_attempts: 100, delay: 100ms}
        """
    )
    with psycopg.connect(db.dsn) as holder:
        holder.execute("LOCK TABLE work IN SHARE MODE")  # the first iteration waits for it
        started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
        db.until_workers("backfill")
        db.run("UPDATE lag SET mb = 99")
    until(lambda: jobplan.happened("step_retrying"))
    assert db.value("SELECT count(*) FROM work") == 5
    db.run("UPDATE lag SET mb = 0")
    ran = started.ended()
    assert (ran.code, db.value("SELECT count(*) FROM work")) == (0, 0)
    assert any(
        line.startswith("backfill: not launched (replicas are behind); its conditions are evaluated again in")
        for line in ran.lines
    )


def test_a_precondition_that_stays_unmet_in_a_loop_fails_the_step_with_its_message(
    jobplan: Jobplan, db: Database
) -> None:
    db.run("CREATE TABLE work (id int); INSERT INTO work SELECT generate_series(1, 6)")
    plan = jobplan.plan(
        """
        - id: backfill
          sql: DELETE FROM work WHERE id IN (SELECT id FROM work LIMIT 2)
          repeat: {until: no_rows, max_iterations: 100}
          preconditions: [{sql: SELECT count(*) > 2 FROM work, message: too few are left}]
          retry: {max_attempts: 3, delay: 10ms}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert (ran.code, db.value("SELECT count(*) FROM work")) == (1, 2)
    assert line_of(ran, "backfill").endswith("too few are left")


def test_a_journal_does_not_grow_by_conditions_that_hold(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE work (id int); INSERT INTO work SELECT generate_series(1, 20)")
    plan = jobplan.plan(
        """
        - id: purge
          preconditions: [{sql: SELECT true, message: never}]
          sql: DELETE FROM work WHERE id IN (SELECT id FROM work LIMIT 1)
          repeat: {until: no_rows, max_iterations: 100}
        """
    )
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    folder = run_folder(jobplan)
    journal = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in journal]
    assert events.count("attempt_finished") == 21
    assert (events.count("step_checking"), events.count("step_checked")) == (1, 1)
    assert "succeeded" in jobplan("show", folder.name).out


def test_conditions_are_evaluated_again_by_a_resume(jobplan: Jobplan, db: Database) -> None:
    db.run(CLOSES)
    plan = jobplan.plan(
        """
        - {id: gate, if: SELECT NOT closed FROM win, sql: SELECT 1/0}
        - {id: loop, if: SELECT NOT closed FROM win, sql: SELECT 1/0, repeat: {until: no_rows, max_iterations: 3}}
        """
    )
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    db.run("UPDATE win SET closed = true")
    ran = jobplan("resume", run_folder(jobplan).name, "--dsn", db.dsn)
    assert (ran.code, line_of(ran, "gate")) == (0, "gate: skipped (condition: if is false)")


def test_a_slow_condition_does_not_keep_other_steps_from_their_slot(jobplan: Jobplan, db: Database) -> None:
    db.run(CLOSES)
    plan = jobplan.plan(
        """
        - {id: slow, priority: 9, if: "SELECT closed FROM win, pg_sleep(4)", sql: SELECT 1}
        - {id: other, sql: UPDATE win SET closed = true}
        """,
        budget="{slots: 1}",
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0
    order = [e["step"] for e in jobplan.events() if e["event"] in ("attempt_finished", "step_checked")]
    assert order[0] == "other"


def test_conditions_of_a_run_whose_sessions_are_ended_are_evaluated_on_new_ones(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE work (id int); INSERT INTO work SELECT generate_series(1, 4)")
    plan = jobplan.plan(
        """
        - id: purge
          preconditions:
            - sql: SELECT true FROM pg_sleep(0.3)
              message: never
          sql: DELETE FROM work WHERE id IN (SELECT id FROM work LIMIT 1)
          repeat: {until: no_rows, max_iterations: 100}
        """
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    sleeping = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    until(lambda: db.value(f"SELECT count(pg_terminate_backend(pid)) {sleeping}") > 0)
    ran = started.ended()
    assert (ran.code, db.value("SELECT count(*) FROM work")) == (0, 0)


_CONDITIONS = list(
    enumerate(
        [
            "SELECT true; SELECT true",
            "DELETE FROM done RETURNING true",
            "WITH d AS (DELETE FROM done RETURNING step) SELECT count(*) = 0 FROM d",
            "SELECT step = 'a' FROM done FOR UPDATE",
            "SELECT true AS x INTO y",
            "VACUUM done",
            "SHOW fsync",
            "EXPLAIN SELECT true",
        ]
    )
)


def test_a_condition_that_validate_refuses_fails_whenever_it_is_evaluated(jobplan: Jobplan, done: Database) -> None:
    done.run("INSERT INTO done VALUES ('a')")
    steps = [f"- {{id: s{number}, sql: ANALYZE done, if: {json.dumps(sql)}}}" for number, sql in _CONDITIONS]
    plan = jobplan.plan("\n".join(steps))
    refused = jobplan("validate", plan)
    assert refused.code == 3
    assert refused.out.count("error JP365") == len(steps), refused.out
    jobplan.plan("\n".join(f"{step}  # jobplan: ignore=JP365 to see it fail" for step in steps))
    ran = jobplan("run", plan, "--dsn", done.dsn)
    assert ran.code == 1
    failed = {line.partition(":")[0] for line in ran.lines if ": failed: if" in line}
    assert failed == {f"s{number}" for number, _ in _CONDITIONS}, ran.err
