"""More attacks: output, triggers, renamed roles, clocks that jump, notifications, names in offered commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import PATIENCE, Database, Jobplan, clean_environment, until

PATIENT = "{timeout: 5m, on_finish: wait}"

ONE = "- {id: one, sql: SELECT 1}"

WORKERS = "FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"


def counts(db: Database) -> dict[str, int]:
    """Return how often each step has written its row."""
    return {
        step: db.value(f"SELECT count(*) FROM done WHERE step = '{step}'")
        for step in db.column("SELECT step FROM done")
    }


def test_messages_of_the_server_give_a_terminal_and_github_no_commands(jobplan: Jobplan, done: Database) -> None:
    done.run(
        "CREATE FUNCTION shout() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN"
        r" RAISE WARNING E'\x1b]0;owned\x07\n::add-mask::x\n::error::pwned\r\x1b[2J%%0A::set-output name=a::b';"
        r" RAISE EXCEPTION E'bad\n::set-output name=x::y\x1b[31m%%0A::add-mask::q' USING"
        r" DETAIL = E'\n::warning::d', HINT = E'\r\n::notice::h\u202e'; END $f$"
    )
    done.run('CREATE TABLE "a\n::add-path::/evil" (n int CHECK (n > 0))')
    plan = jobplan.plan(
        """
        - {id: one, sql: SELECT shout()}
        - id: each
          for_each: {items: ["x\\n::add-mask::y", "\\e[31m", "%0A::error::z"]}
          sql: "SELECT 1/0, :'item'"
        - {id: relation, sql: 'INSERT INTO "a\\n::add-path::/evil" VALUES (0)'}
        """.replace("'INSERT INTO", '"INSERT INTO')
        .replace("/evil\" VALUES (0)'", '/evil\\" VALUES (0)"')
        .replace('INTO "a', 'INTO \\"a'),
    )
    (jobplan.folder / "summary.md").touch()
    for env in ({}, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(jobplan.folder / "summary.md")}):
        ended = jobplan("run", plan, "--dsn", done.dsn, env=env)
        assert ended.code == 1, ended.err
        shown = jobplan("show", "last", env=env)
        status = jobplan("status", "--dsn", done.dsn, env=env)
        for said in (ended.out, ended.err, shown.out, shown.err, status.out):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said.replace("\r\n", "\n")), said
            for line in said.splitlines():
                commands = line.lstrip()
                if commands.startswith("::"):
                    assert env, line
                    assert commands.startswith(("::error ", "::warning ", "::notice ", "::group", "::endgroup")), line
                    assert "%250A" in line or "%0A::" not in line, line


@pytest.mark.pg(">= 17", reason="login triggers")
def test_a_login_trigger_that_raises_or_writes_stops_commands_with_a_message(jobplan: Jobplan, done: Database) -> None:
    done.run("CREATE TABLE logins (who name)")
    done.run(
        "CREATE FUNCTION on_login() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN"
        " IF current_setting('application_name') LIKE 'jobplan%' THEN RAISE EXCEPTION 'closed for the night'; END IF;"
        " END $f$"
    )
    done.run("CREATE EVENT TRIGGER closed ON login EXECUTE FUNCTION on_login()")
    plan = jobplan.plan(ONE)
    try:
        for command in (("run", plan), ("dry-run", plan), ("status",), ("doctor",), ("ledger", "install")):
            ended = jobplan(*command, "--dsn", done.dsn)
            assert ended.code == 4, (command, ended.err)
            assert "closed for the night" in ended.err
    finally:
        done.run("DROP EVENT TRIGGER closed")


def test_an_event_trigger_that_raises_leaves_no_half_a_ledger(jobplan: Jobplan, done: Database) -> None:
    done.run(
        "CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN"
        " IF (SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'commits') > 0 THEN"
        " RAISE EXCEPTION 'no change tonight'; END IF; END $f$"
    )
    done.run("CREATE EVENT TRIGGER frozen ON ddl_command_end EXECUTE FUNCTION frozen()")
    ended = jobplan("ledger", "install", "--dsn", done.dsn)
    assert ended.code == 4
    assert "no change tonight" in ended.err
    assert done.column("SELECT nspname FROM pg_namespace WHERE nspname = 'jobplan'") == []
    done.run("DROP EVENT TRIGGER frozen")


def test_a_role_that_is_renamed_in_mid_run_runs_nothing_twice(jobplan: Jobplan, done: Database, mallory: str) -> None:
    done.run(f"GRANT ALL ON done, gate TO {mallory}")
    assert jobplan("ledger", "install", "--grant", mallory, "--dsn", done.dsn).code == 0
    plan = jobplan.plan(
        """
        - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')"}
        - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [slow]}
        """,
        defaults=PATIENT,
    )
    new = f"{mallory}_new"
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start(
            "run", plan, "--dsn", make_conninfo(done.dsn, user=mallory), "--report", "jsonl=events.jsonl"
        )
        until(lambda: jobplan.happened("attempt_running"))
        done.run(f"ALTER ROLE {mallory} RENAME TO {new}")
    try:
        ended = started.ended()
        assert "Traceback" not in ended.err
        run = str(jobplan.events()[0]["run"])
        resumed = jobplan("resume", run, "--dsn", make_conninfo(done.dsn, user=new))
        assert "Traceback" not in resumed.err
        found = counts(done)
        assert found["slow"] == 1, (ended.err, resumed.err)
        assert found.get("last", 0) <= 1, (ended.err, resumed.err)
    finally:
        done.run(f"ALTER ROLE {new} RENAME TO {mallory}")


JUMP = """
import os, sys, threading, time
real, state = time.time, {"add": 0.0}
time.time = lambda: real() + state["add"]
def watch():
    while not os.path.exists("jump"):
        time.sleep(0.02)
    state["add"] = float(open("jump").read())
threading.Thread(target=watch, daemon=True).start()
sys.argv = ["jobplan", *sys.argv[1:]]
import runpy
runpy.run_module("runner", run_name="__main__")
"""


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0, 3e9, -1.7e9])
def test_a_clock_that_jumps_in_mid_run_ends_nothing_early_and_breaks_nothing(
    jobplan: Jobplan, done: Database, seconds: float
) -> None:
    plan = jobplan.plan(
        """
        - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')", timeout: 1m}
        - {id: last, sql: INSERT INTO done VALUES ('last'), needs: [slow]}
        """,
        run_timeout="5m",
    )
    (jobplan.folder / "jumping.py").write_text(JUMP, encoding="utf-8")
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        process = subprocess.Popen(
            [sys.executable, "jumping.py", "run", str(plan), "--dsn", done.dsn, "--report", "jsonl=events.jsonl"],
            cwd=jobplan.folder,
            env={**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        until(lambda: jobplan.happened("attempt_running"))
        (jobplan.folder / "jump").write_text(str(seconds), encoding="ascii")
        time.sleep(2.5)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert counts(done) == {"slow": 1, "last": 1}
    for command in (("show", "last"), ("runs",), ("status", "--dsn", done.dsn)):
        assert jobplan(*command).code == 0, command


def test_a_flood_of_notifications_neither_stops_a_run_nor_hides_a_request(
    jobplan: Jobplan, done: Database, mallory: str
) -> None:
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(100)}", defaults=PATIENT)
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    run = str(jobplan.events()[0]["run"])
    sent, most = [0], 60  # rounds of 180 notifications: more only take longer to read

    def flood() -> None:
        bad = ["", "[" * 7000, '{"run": "' + run + '"}', "null", '"\\ud800"', '{"run": 1e999}', "9" * 7000]
        with psycopg.connect(make_conninfo(done.dsn, user=mallory), autocommit=True) as connection:
            for number in range(most):
                forged = {"run": run, "step": None, "by": "\ud800\x1b[31m", "key": f"{number}\ud800" + "k" * 7000}
                payloads = [*bad, json.dumps(forged)[:7900], json.dumps({**forged, "key": str(number)})]
                connection.execute(
                    "SELECT pg_notify('jobplan', p) FROM unnest(%s::text[]) AS p, generate_series(1, 20)", [payloads]
                )
                sent[0] += 1

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        until(lambda: sent[0] >= most // 2, seconds=60)
        assert started.alive
        cancelled = jobplan("cancel", run, "--dsn", done.dsn)
        ended = started.ended(120)
    finally:
        flooding.join()
    assert ended.code == 1, ended.err
    assert jobplan.events()[-1]["steps"] == {"slow": "cancelled"}
    assert cancelled.code in (0, 7), cancelled.out + cancelled.err
    assert done.workers() == []


@pytest.mark.parametrize("name", ["`touch owned`", "$(touch owned)", "a; touch owned", "a' ; touch owned; '"])
def test_commands_that_are_offered_for_a_worker_with_a_hostile_name_execute_nothing_else(
    jobplan: Jobplan, done: Database, mallory: str, name: str
) -> None:
    other = psycopg.connect(make_conninfo(done.dsn, user=mallory), autocommit=True)
    with other:
        other.execute("SELECT set_config('application_name', %s, false)", (f"jobplan:{name}:step",))
        other.execute("SELECT pg_background_launch('SELECT pg_sleep(20)', 0, '')")
        until(lambda: len(done.workers()) == 1)
        seen = jobplan("status", "--dsn", done.dsn)
        assert seen.code == 0, seen.err
        stopped = jobplan("cancel", name, "--dsn", done.dsn, "--timeout", "2s")
        (jobplan.folder / "bin").mkdir()
        stub = jobplan.folder / "bin" / "jobplan"
        stub.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> ran\n', encoding="ascii")
        stub.chmod(0o755)
        offered = [
            line[line.index("jobplan ") :]
            for line in (seen.out + stopped.out + stopped.err).splitlines()
            if re.search(r"jobplan (status|cancel|attach|resume) ", line)
        ]
        for line in offered:
            subprocess.run(
                ["sh", "-c", line],
                cwd=jobplan.folder,
                env={"PATH": f"{jobplan.folder / 'bin'}:/usr/bin:/bin"},
                capture_output=True,
                check=False,
            )
        assert offered
        assert not (jobplan.folder / "owned").exists(), offered
        done.run(f"SELECT pg_terminate_backend(pid) {WORKERS}")
