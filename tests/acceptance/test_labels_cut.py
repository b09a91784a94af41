"""A server that shows a hundred bytes of a text, or none: labels are cut, and nothing is stopped by mistake."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, until
from tests.servers import start_test_server

MIXED = """
    - {id: waits, sql: "DO $$ BEGIN PERFORM pg_sleep(60); END $$"}
    - {id: away, sql: "DO $$ BEGIN PERFORM pg_sleep(60); END $$", on_finish: detach}
"""
#: Plan names with which the cut falls before `on_finish`, inside the step's id, and inside the plan's own name.
NAMES = ["a", "plan-of-a-middling-name-here-ab", "p" * 60]


@pytest.fixture(scope="module")
def narrow_server() -> Iterator[str]:
    """A server with the smallest track_activity_query_size that there is."""
    with start_test_server(track_activity_query_size="100") as server:
        yield server.dsn


@pytest.fixture
def narrow(narrow_server: str) -> Iterator[Database]:
    """A database of a test's own on it."""
    with psycopg.connect(narrow_server, autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS narrow WITH (FORCE)")
        server.execute("CREATE DATABASE narrow")
        connected = Database(make_conninfo(narrow_server, dbname="narrow"))
        connected.run("CREATE EXTENSION IF NOT EXISTS pg_background")
        yield connected
        connected.close()
        server.execute("DROP DATABASE narrow WITH (FORCE)")


def orphans(jobplan: Jobplan, db: Database, name: str, *, ledger: bool = False) -> str:
    """Run the plan until both workers are recorded, kill the runner, and return the run's id."""
    plan = jobplan.plan(MIXED, name=name)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == 2)
    if ledger:
        until(lambda: db.value("SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running'") == 2)
    started.send(signal.SIGKILL)
    started.ended()
    assert db.value("SELECT max(length(query)) FROM pg_stat_activity WHERE backend_type = 'pg_background'") <= 99
    return str(jobplan.events()[0]["run"])


@pytest.mark.parametrize("name", NAMES, ids=["before on_finish", "in the step", "in the plan"])
def test_cancel_with_a_journal_stops_what_waits_and_leaves_detach_steps_although_labels_are_cut(
    jobplan: Jobplan, narrow: Database, name: str
) -> None:
    run = orphans(jobplan, narrow, name)
    cancelled = jobplan("cancel", run, "--dsn", narrow.dsn)
    assert cancelled.code == 0, cancelled.out + cancelled.err
    assert narrow.workers() == ["away"]
    assert "): a detach step" in cancelled.out
    assert jobplan("cancel", run, "--detached", "--dsn", narrow.dsn).code == 0
    narrow.until_workers()


@pytest.mark.parametrize("name", NAMES, ids=["before on_finish", "in the step", "in the plan"])
def test_cancel_with_a_ledger_stops_what_waits_and_leaves_detach_steps_although_labels_are_cut(
    jobplan: Jobplan, narrow: Database, tmp_path: Path, name: str
) -> None:
    assert jobplan("ledger", "install", "--dsn", narrow.dsn).code == 0
    run = orphans(jobplan, narrow, name, ledger=True)
    cancelled = jobplan("cancel", run, "--dsn", narrow.dsn, "--journal", tmp_path / "none")
    assert cancelled.code == 0, cancelled.out + cancelled.err
    assert narrow.workers() == ["away"]
    assert jobplan("cancel", run, "--detached", "--dsn", narrow.dsn, "--journal", tmp_path / "none").code == 0
    narrow.until_workers()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=["before on_finish", "in the step", "in the plan"])
def test_cancel_without_any_record_leaves_workers_alone_whose_labels_are_cut_and_says_why(
    jobplan: Jobplan, narrow: Database, tmp_path: Path, name: str
) -> None:
    run = orphans(jobplan, narrow, name)
    cancelled = jobplan("cancel", run, "--dsn", narrow.dsn, "--journal", tmp_path / "none", "--timeout", "6s")
    assert cancelled.code == 0, cancelled.out + cancelled.err
    assert narrow.workers() == ["away", "waits"]
    assert cancelled.out.count("track_activities and track_activity_query_size") == 2
    reported = json.loads(
        jobplan("status", run, "--dsn", narrow.dsn, "--format", "json", "--journal", tmp_path / "none").out
    )
    assert [len(seen["workers"]) for seen in reported["runs"]] == [2]
    assert jobplan("cancel", run, "--detached", "--dsn", narrow.dsn, "--journal", tmp_path / "none").code == 0
    narrow.until_workers()


def test_cancel_during_a_run_stops_wait_steps_and_detach_steps_continue_although_labels_are_cut(
    jobplan: Jobplan, narrow: Database
) -> None:
    plan = jobplan.plan(MIXED, name="p" * 60)
    started = jobplan.start("run", plan, "--dsn", narrow.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    narrow.until_workers("away", "waits")
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == 2)
    assert jobplan("cancel", str(jobplan.events()[0]["run"]), "--dsn", narrow.dsn).code == 0
    started.ended()
    assert narrow.workers() == ["away"]
    assert jobplan.events()[-1]["steps"] == {"waits": "cancelled", "away": "detached"}


def test_resume_takes_over_workers_whose_labels_are_cut(jobplan: Jobplan, narrow: Database) -> None:
    run = orphans(jobplan, narrow, "p" * 60)
    resumed = jobplan("resume", run, "--orphans", "cancel")
    assert resumed.code == 4, resumed.err  # both were stopped, and what they did is asked
    assert "--mark" in resumed.err
    narrow.until_workers()


@pytest.mark.parametrize("setting", ["track_activity_query_size = 100", "track_activities = off"])
def test_doctor_names_the_setting_that_hides_labels(jobplan: Jobplan, narrow: Database, setting: str) -> None:
    if "track_activities" in setting:
        narrow.run("ALTER DATABASE narrow SET track_activities = off")
    ran = jobplan("doctor", "--dsn", narrow.dsn, "--format", "json")
    (labels,) = [one for one in json.loads(ran.out)["checks"] if one["check"] == "labels"]
    assert labels["level"] == "warning"
    assert setting in labels["found"]
    assert setting.split(maxsplit=1)[0] in labels["mend"]
    assert jobplan("doctor", "--dsn", narrow.dsn, "--strict").code == 4
