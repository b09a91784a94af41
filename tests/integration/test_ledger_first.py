"""With `--or-resume` no worker is requested before its launch is in the ledger."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import runner
from runner.engine import events as ev
from runner.errors import PreflightError
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.ledger.writer import NOT_IN_LEDGER
from runner.plan.model import Plan
from tests.acceptance.console import Jobplan
from tests.acceptance.console import until as until_now
from tests.builders import Recorder
from tests.integration.gateway_setups import until

PLAN = """
version: 1
name: trial
budget: {slots: 2}
defaults: {timeout: 60s, on_finish: wait}
steps:
  - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')"}
  - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
"""


class Place:
    """A database with a ledger, and a plan."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.file = folder / "plan.yaml"
        self.file.write_text(PLAN, encoding="utf-8")
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("CREATE TABLE done (step text); CREATE TABLE gate ()")
        LedgerAdmin(dsn, "jobplan").install("test")

    @property
    def plan(self) -> Plan:
        """The plan."""
        return runner.load_plan(self.file)

    def column(self, sql: str) -> list[str]:
        """Return the first column."""
        return [str(row[0]) for row in self.connection.execute(sql.encode()).fetchall()]

    @property
    def effects(self) -> list[str]:
        """What the steps have written."""
        return self.column("SELECT step FROM done ORDER BY step")

    @property
    def workers(self) -> list[str]:
        """The steps whose workers are running."""
        return self.column(
            "SELECT split_part(application_name, ':', 3) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database()"
        )


@pytest.fixture
def place(database: str, tmp_path: Path) -> Iterator[Place]:
    """A database with a ledger."""
    made = Place(database, tmp_path)
    yield made
    made.connection.close()


async def test_while_the_ledger_is_locked_nothing_is_launched(place: Place) -> None:
    recorder = Recorder()
    with psycopg.connect(place.dsn) as keeper, psycopg.connect(place.dsn) as locker:
        keeper.execute("LOCK TABLE gate")
        task = asyncio.create_task(runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn, sinks=[recorder]))
        await until(lambda: place.workers == ["slow"])
        locker.execute("LOCK TABLE jobplan.events")
        keeper.rollback()
        deferred = ev.AttemptDeferred
        await until(lambda: any(isinstance(event, deferred) and event.step == "last" for event in recorder.events))
        assert place.effects == ["slow"]
    result = await task
    assert result.exit_code == 0
    messages = {event.message for event in recorder.events if isinstance(event, ev.AttemptDeferred)}
    assert messages == {NOT_IN_LEDGER}
    assert place.effects == ["last", "slow"]


async def test_a_ledger_that_is_dropped_is_reported_and_the_run_continues(place: Place) -> None:
    recorder = Recorder()
    with psycopg.connect(place.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        task = asyncio.create_task(runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn, sinks=[recorder]))
        await until(lambda: place.workers == ["slow"])
        drop = asyncio.create_task(asyncio.to_thread(place.connection.execute, "DROP SCHEMA jobplan CASCADE"))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DROP SCHEMA%' AND wait_event_type = 'Lock'"
        with psycopg.connect(place.dsn, autocommit=True) as other:
            await until(lambda: bool(other.execute(waiting).fetchall()))
    await drop
    result = await task
    assert result.exit_code == 0
    assert any(isinstance(event, ev.LedgerLost) for event in recorder.events)
    assert place.effects == ["last", "slow"]


async def test_a_locked_ledger_does_not_make_the_question_whether_a_run_exists_wait(place: Place) -> None:
    with psycopg.connect(place.dsn) as locker:
        locker.execute("LOCK TABLE jobplan.events")
        with pytest.raises(PreflightError, match="does not say whether the run exists"):
            await runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn)
    assert place.effects == []


def test_a_runner_that_is_killed_before_it_requests_a_worker_leaves_no_question(place: Place, tmp_path: Path) -> None:
    """The journal has the launch, and the ledger does not: it is locked when the runner comes to it."""
    jobplan = Jobplan(tmp_path)
    command = ("run", place.file, "--dsn", place.dsn, "--run-id", "mine", "--or-resume")
    journal = tmp_path / ".jobplan" / "runs" / "mine" / "events.jsonl"
    with psycopg.connect(place.dsn) as keeper, psycopg.connect(place.dsn) as locker:
        keeper.execute("LOCK TABLE gate")
        started = jobplan.start(*command)
        until_now(lambda: place.workers == ["slow"])
        locker.execute("LOCK TABLE jobplan.events")
        keeper.rollback()
        until_now(lambda: '"attempt_launching"' in journal.read_text().rpartition('"slow"')[2])
        started.send(signal.SIGKILL)
        started.ended()
    again = jobplan(*command)
    assert again.code == 0, again.err
    assert place.effects == ["last", "slow"]
