"""Attacks on `jobplan cancel`: answers in the name of a runner."""

from __future__ import annotations

import json
import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan


def forge(dsn: str, run: str, name: str, stop: threading.Event, ready: threading.Event) -> None:
    """Answer every request of a run at once, in a session with this name."""
    with psycopg.connect(dsn, autocommit=True, application_name=name) as connection:
        connection.execute("LISTEN jobplan")
        ready.set()
        while not stop.is_set():
            for received in list(connection.notifies(timeout=0.2, stop_after=1)):
                asked = json.loads(received.payload)
                if asked.get("run") == run and "by" in asked:
                    answer = json.dumps({"run": run, "answer": asked["key"], "steps": 7777777})
                    connection.execute("SELECT pg_notify('jobplan', %s)", [answer])


@pytest.mark.parametrize("named", [False, True], ids=["any session", "session with the runner's name"])
def test_an_answer_of_a_role_that_is_not_the_runner_s_is_not_trusted(
    jobplan: Jobplan, db: Database, named: bool
) -> None:
    db.run("DROP ROLE IF EXISTS liar")
    db.run("CREATE ROLE liar LOGIN")
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(120)}", defaults="{timeout: 5m, on_finish: wait}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("slow")
    run = str(jobplan.events()[0]["run"])
    stop, ready = threading.Event(), threading.Event()
    name = f"jobplan:{run}:runner" if named else "anything"
    liar = threading.Thread(target=forge, args=(make_conninfo(db.dsn, user="liar"), run, name, stop, ready))
    liar.start()
    try:
        assert ready.wait(20)
        cancelled = jobplan("cancel", run, "--dsn", db.dsn, "--format", "json")
    finally:
        stop.set()
        liar.join()
    assert cancelled.code == 0, cancelled.err
    assert "7777777" not in cancelled.out
    assert "7777777" not in cancelled.err
    assert started.ended().code == 1
    db.run("DROP ROLE liar")
