"""Attacks and faults of the four causes that came to mind after the product was built; each on a real server."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, until

SLOW = """
    - {id: first, sql: INSERT INTO done VALUES ('first')}
    - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')", needs: [first]}
    - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [slow]}
"""
PATIENT = "{timeout: 5m, on_finish: wait}"


def runs(jobplan: Jobplan) -> Path:
    """Return the folder of journals."""
    return jobplan.folder / ".jobplan" / "runs"


def killed(jobplan: Jobplan, db: Database, plan: Path, *more: str, step: str = "slow") -> str:
    """Run the plan until a step's worker is recorded, kill the runner, and return the run's id."""
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl", *more)
    until(lambda: jobplan.happened("attempt_running"))
    until(lambda: any(e["event"] == "attempt_running" and e["step"] == step for e in jobplan.events()))
    started.send(signal.SIGKILL)
    started.ended()
    return str(jobplan.events()[0]["run"])


def counts(db: Database) -> dict[str, int]:
    """Return how often each step has written its row."""
    return {
        step: db.value(f"SELECT count(*) FROM done WHERE step = '{step}'")
        for step in db.column("SELECT step FROM done")
    }


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_copied_journal_resumed_beside_the_original_runs_nothing_twice(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(SLOW, defaults=PATIENT)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = killed(jobplan, done, plan)
        shutil.copytree(runs(jobplan), jobplan.folder / "copy")
        one = jobplan.start("resume", run, "--orphans", "wait")
        two = jobplan.start("resume", run, "--orphans", "wait", "--journal", "copy")
        until(lambda: not one.alive or not two.alive)
    ended = [one.ended(), two.ended()]
    assert counts(done) == {"first": 1, "slow": 1, "last": 1} or counts(done) == {"first": 1, "slow": 1}
    assert sum(end.code == 0 for end in ended) <= 1, [end.err for end in ended]


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
def test_a_journal_restored_from_an_older_backup_runs_no_step_twice(
    jobplan: Jobplan, done: Database, ledger: bool
) -> None:
    if ledger:
        assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """
        - {id: first, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('first')"}
        - {id: slow, sql: "LOCK TABLE gate2; INSERT INTO done VALUES ('slow')", needs: [first]}
        """,
        defaults=PATIENT,
    )
    done.run("CREATE TABLE gate2 ()")
    with psycopg.connect(done.dsn) as keeper, psycopg.connect(done.dsn) as second:
        second.execute("LOCK TABLE gate2")
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.happened("attempt_running"))
        run = str(jobplan.events()[0]["run"])
        shutil.copytree(runs(jobplan) / run, jobplan.folder / "old" / run)
        keeper.rollback()
        until(lambda: any(e["event"] == "attempt_running" and e["step"] == "slow" for e in jobplan.events()))
        if ledger:
            until(lambda: done.value("SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running'") == 2)
        started.send(signal.SIGKILL)
        started.ended()
        resumed = jobplan.start("resume", run, "--journal", "old", "--orphans", "wait")
        until(
            lambda: (
                not resumed.alive
                or done.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%:runner%'")
                > 0
            )
        )
        time.sleep(1.0)
    ended = resumed.ended()
    assert counts(done) in ({"first": 1, "slow": 1}, {"first": 1}), ended.err
    if ledger:
        assert ended.code != 70, ended.err


def test_a_session_of_the_same_role_with_the_name_of_a_worker_is_not_stopped(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(SLOW, defaults=PATIENT)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = killed(jobplan, done, plan)
        name = done.value(
            "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'pg_background'"
            " AND datname = current_database()"
        )
        text = done.value(
            "SELECT query FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
        )
        with psycopg.connect(make_conninfo(done.dsn, application_name=name), autocommit=True) as person:
            comment = text.split("*/")[0] + "*/" if "*/" in text else text.splitlines()[0]
            person.execute(comment + "\nSELECT 1")
            cancelled = jobplan("cancel", run, "--dsn", done.dsn)
            assert cancelled.code == 0, cancelled.err + cancelled.out
            assert person.execute("SELECT 1").fetchone() == (1,)


def test_items_that_are_equal_only_after_conversion_are_not_mixed_up(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(
        """
        - id: each
          for_each: {items: [1, "1", "\\u00e9", "e\\u0301", "01", 1.5, "1.5"]}
          sql: "INSERT INTO done VALUES (:'item')"
        """,
        defaults=PATIENT,
    )
    ended = jobplan("run", plan, "--dsn", done.dsn)
    if ended.code == 0:
        assert done.value("SELECT count(*) FROM done") == 7
    else:
        assert ended.code == 3, ended.err
        assert done.value("SELECT count(*) FROM done") == 0


def test_a_step_that_launches_a_copy_of_itself_is_not_mistaken_for_its_copy(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(
        """
        - id: slow
          sql: |
            INSERT INTO done VALUES ('slow');
            SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_launch_v2(
              '/* copy */' || split_part(query, 'INSERT', 1) || ' LOCK TABLE gate; SELECT pg_sleep(0)')
              AS l(pid, cookie),
              (SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS q
        """,
        defaults=PATIENT,
    )
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        ended = jobplan("run", plan, "--dsn", done.dsn)
    assert ended.code in (0, 1), ended.err
    assert "Traceback" not in ended.err


# --- the ledger, and what a database sets -----------------------------------------------------------------------------

SETTINGS = {
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "idle_in_transaction_session_timeout": "200ms",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_database_cannot_make_values_code_or_outcomes_wrong(
    jobplan: Jobplan, done: Database, name: str
) -> None:
    database = done.value("SELECT current_database()")
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    done.run(
        f"ALTER DATABASE {database} SET {name} = '{SETTINGS[name]}'"
        if name != "DateStyle"
        else f"ALTER DATABASE {database} SET DateStyle = German, DMY"
    )
    evil = "\\'); DROP TABLE gate; --"
    plan = jobplan.plan(
        f"""
        - {{id: good, sql: "INSERT INTO done VALUES (:'value')"}}
        - {{id: bad, sql: SELECT 1/0, allow_failure: true}}
        - {{id: each, for_each: {{items: [{json.dumps(evil)}]}}, sql: "INSERT INTO done VALUES (:'item')"}}
        """,
        params="{value: {type: string}}",
    )
    ended = jobplan("run", plan, "--dsn", done.dsn, "--param", f"value={evil}", "--report", "jsonl=events.jsonl")
    done.run(f"ALTER DATABASE {database} RESET {name}")
    assert done.value("SELECT to_regclass('gate') IS NOT NULL"), "a value was executed"
    assert ended.code == 0, ended.err
    assert done.column("SELECT step FROM done") == [evil, evil]


def test_events_of_another_writer_that_cannot_be_cast_stop_no_command(
    jobplan: Jobplan, done: Database, mallory: str
) -> None:
    assert jobplan("ledger", "install", "--grant", mallory, "--dsn", done.dsn).code == 0
    plan = jobplan.plan("- {id: one, sql: INSERT INTO done VALUES ('one')}")
    assert jobplan("run", plan, "--dsn", done.dsn).code == 0
    mine = str(done.value("SELECT run FROM jobplan.runs"))
    forger = done.as_role(mallory)
    for run in (mine, "theirs"):
        forger.run(
            f"INSERT INTO jobplan.runs (run, plan, sha256, jobplan, host, os_pid, started_at)"
            f" VALUES ('{run}', 'trial', 'x', '1', 'h', 1, 'infinity')"
        )
        for seq, event in enumerate(
            ("run_started", "attempt_launching", "attempt_finished", "step_finished", "run_finished"), 1
        ):
            body = json.dumps(
                {
                    "event": event,
                    "at": "never",
                    "started_at": "never",
                    "finished_at": "never",
                    "row_count": "many",
                    "worker": {"pid": "x"},
                    "outcome": "succeeded",
                    "step": "one",
                    "attempt": 1,
                    "state": "succeeded",
                }
            )
            forger.run(
                f"INSERT INTO jobplan.events (run, seq, at, event, step, attempt, body)"
                f" VALUES ('{run}', {seq}, now(), '{event}', 'one', 1, '{body}')"
            )
        forger.run(f"INSERT INTO jobplan.plans (run, sha256, resolved) VALUES ('{run}', 'x', '[]')")
    forger.close()
    commands = [
        ("run", "plan.yaml"),
        ("dry-run", "plan.yaml"),
        ("status",),
        ("doctor",),
        ("resume", mine, "--from-ledger", "--journal", "n1"),
        ("resume", "theirs", "--from-ledger", "--journal", "n2"),
        ("resume", "last", "--from-ledger", "--journal", "n3"),
        ("ledger", "status"),
        ("ledger", "restore", "theirs", "--journal", "n4"),
        ("ledger", "restore", mine, "--journal", "n5"),
        ("ledger", "purge", "--older-than", "0s"),
    ]
    for command in commands:
        ended = jobplan(*command, "--dsn", done.dsn)
        assert ended.code != 70, (command, ended.err)
        assert "Traceback" not in ended.err
        if command[0] in ("run", "dry-run", "status", "doctor"):
            assert ended.code == 0, (command, ended.err)


def test_a_ledger_that_is_replaced_in_mid_run_by_another_role_is_not_written_to(
    jobplan: Jobplan, done: Database, mallory: str
) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """
        - {id: first, sql: INSERT INTO done VALUES ('first')}
        - {id: slow, sql: VACUUM gate, needs: [first]}
        - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [slow]}
        """,
        defaults=PATIENT,
    )
    other = done.as_role(mallory)
    assert jobplan("ledger", "install", "--dsn", other.dsn, "--schema", "prepared").code == 0
    other.run(
        "CREATE FUNCTION prepared.fire() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN"
        " IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN"
        f" EXECUTE 'ALTER ROLE {mallory} SUPERUSER'; END IF; RETURN NULL; END $f$"
    )
    for table in ("runs", "plans", "events", "commits", "keys"):
        other.run(
            f"CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON prepared.{table} EXECUTE FUNCTION prepared.fire()"
        )
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.happened("attempt_running"))
        until(lambda: any(e["event"] == "attempt_running" and e["step"] == "slow" for e in jobplan.events()))
        time.sleep(1.5)  # so that nothing of what is already known is written after the replacement
        done.run("DROP SCHEMA jobplan CASCADE")
        other.run("ALTER SCHEMA prepared RENAME TO jobplan")
    ended = started.ended()
    other.close()
    assert not done.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{mallory}'"), ended.err
    assert ended.code == 0, ended.err
    assert "its tables are no longer those that were found when the run began" in ended.err
    assert counts(done) == {"first": 1, "last": 1}


def test_purge_keeps_a_run_whose_only_worker_has_changed_its_name(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    sql = "SET application_name = 'my report'; LOCK TABLE gate; INSERT INTO done VALUES ('slow')"
    plan = jobplan.plan(f'- {{id: slow, sql: "{sql}"}}', defaults=PATIENT)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start("run", plan, "--dsn", done.dsn)
        until(lambda: done.value("SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running'") == 1)
        started.send(signal.SIGKILL)
        started.ended()
        until(lambda: not done.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%'"))
        done.run("UPDATE jobplan.runs SET started_at = started_at - interval '100 days'")
        done.run("UPDATE jobplan.events SET at = at - interval '100 days'")
        assert jobplan("ledger", "purge", "--older-than", "1d", "--dsn", done.dsn).code == 0
        assert done.value("SELECT count(*) FROM jobplan.runs") == 1
    until(lambda: done.value("SELECT count(*) FROM jobplan.runs") == 1 and counts(done) == {"slow": 1})
    until(lambda: "0" not in jobplan("ledger", "purge", "--older-than", "1d", "--dsn", done.dsn).out.split()[:1])
    assert done.value("SELECT count(*) FROM jobplan.runs") == 0


def test_functions_of_the_names_of_the_extension_are_not_called(jobplan: Jobplan, done: Database, mallory: str) -> None:
    database = done.value("SELECT current_database()")
    other = done.as_role(mallory)
    other.run("CREATE SCHEMA trap")
    done.run("DROP EXTENSION pg_background CASCADE; CREATE SCHEMA ext; CREATE EXTENSION pg_background SCHEMA ext")
    body = (
        "LANGUAGE plpgsql AS $f$ BEGIN IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN"
        f" EXECUTE 'ALTER ROLE {mallory} SUPERUSER'; END IF; RETURN NULL; END $f$"
    )
    for name, args in (
        ("pg_background_launch_v2", "sql text, q int DEFAULT 1"),
        ("pg_background_launch", "sql text, q int DEFAULT 1"),
        ("pg_background_launch_v2", "sql text, q int, l text"),
    ):
        other.run(f"CREATE FUNCTION trap.{name}({args}) RETURNS text {body}")
    other.run("GRANT USAGE ON SCHEMA trap TO PUBLIC")
    other.close()
    done.run(f"ALTER DATABASE {database} SET search_path = trap, public")
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    for command in ("run", "dry-run", "doctor"):
        ended = jobplan(command, *([plan] if command != "doctor" else []), "--dsn", done.dsn)
        assert not done.value(f"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = '{mallory}'"), command
    done.run("DROP EXTENSION pg_background")
    for command in ("run", "dry-run", "doctor"):
        ended = jobplan(command, *([plan] if command != "doctor" else []), "--dsn", done.dsn)
        assert ended.code != 0
        assert not done.value(f"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = '{mallory}'"), command
