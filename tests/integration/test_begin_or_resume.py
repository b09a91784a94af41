"""`runner.begin_or_resume` on a real server: with a journal, with the ledger only, and in any event loop."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from pathlib import Path

import psycopg
import pytest

import runner
from runner.errors import OpenQuestionError, PreflightError, RunHeldError, UsageError
from runner.gateway.ledger.admin import LedgerAdmin
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.records.record import Record, read_record
from tests.integration.gateway_setups import until

PLAN = """
version: 1
name: trial
params: {days: {type: integer, default: 3}}
budget: {slots: 2}
defaults: {timeout: 60s, on_finish: wait}
steps:
  - {id: first, sql: "INSERT INTO done VALUES ('first')"}
  - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')", needs: [first]}
  - {id: last, sql: "INSERT INTO done SELECT 'last' FROM wanted", needs: [slow]}
"""


class Place:
    """A database, and a folder of the test's own."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.folder = folder
        self.file = folder / "plan.yaml"
        self.file.write_text(PLAN, encoding="utf-8")
        self.run("CREATE TABLE done (step text); CREATE TABLE gate (); CREATE TABLE wanted AS SELECT 1")

    @property
    def plan(self) -> Plan:
        """The plan, as it is now."""
        return runner.load_plan(self.file)

    def run(self, sql: str) -> None:
        """Execute SQL."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.encode())

    def column(self, sql: str) -> list[str]:
        """Return the first column."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return [str(row[0]) for row in connection.execute(sql.encode()).fetchall()]

    @property
    def effects(self) -> list[str]:
        """What the steps have written."""
        return self.column("SELECT step FROM done ORDER BY step")

    @property
    def workers(self) -> list[str]:
        """The steps whose workers live."""
        return self.column(
            "SELECT split_part(application_name, ':', 3) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database()"
        )


@pytest.fixture
def place(database: str, tmp_path: Path) -> Place:
    """A database without a ledger."""
    return Place(database, tmp_path)


@pytest.fixture
def kept(place: Place) -> Place:
    """A database with a ledger."""
    LedgerAdmin(place.dsn, "jobplan").install("test")
    return place


@pytest.mark.parametrize("with_journal", [True, False], ids=["journal", "ledger only"])
async def test_a_run_begins_fails_is_resumed_and_is_done(kept: Place, with_journal: bool) -> None:
    journal = kept.folder / "runs" if with_journal else None
    kept.run("ALTER TABLE wanted RENAME TO hidden")
    first = await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, journal=journal)
    assert (first.exit_code, first.origin, first.run_id) == (1, runner.RunOrigin.BEGUN, "mine")
    kept.run("ALTER TABLE hidden RENAME TO wanted")
    second = await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, journal=journal)
    assert (second.exit_code, second.origin, second.run_id) == (0, runner.RunOrigin.RESUMED, "mine")
    third = await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, journal=journal)
    assert (third.exit_code, third.origin, third.run_id) == (0, runner.RunOrigin.DONE, "mine")
    assert third.state.records["last"].state == "succeeded"
    assert kept.effects == ["first", "last", "slow"]
    assert (kept.folder / "runs").exists() is with_journal


@pytest.mark.parametrize("named", [True, False], ids=["id", "no id"])
@pytest.mark.parametrize("with_journal", [True, False], ids=["journal", "ledger only"])
async def test_a_call_that_was_cancelled_is_continued_by_the_next_one(
    kept: Place, named: bool, with_journal: bool
) -> None:
    """The worker that the first call has left continues; the second one follows it."""

    async def call() -> runner.RunResult:
        return await runner.begin_or_resume(
            kept.plan,
            run_id="mine" if named else None,
            dsn=kept.dsn,
            journal=kept.folder / "runs" if with_journal else None,
        )

    with psycopg.connect(kept.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        task = asyncio.create_task(call())
        await until(lambda: kept.workers == ["slow"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kept.workers == ["slow"]
    result = await call()
    assert (result.exit_code, result.origin) == (0, runner.RunOrigin.RESUMED)
    assert kept.effects == ["first", "last", "slow"]
    anew = await call()
    assert anew.origin == (runner.RunOrigin.DONE if named else runner.RunOrigin.BEGUN)
    assert len(kept.effects) == (3 if named else 6)


async def test_of_two_calls_for_one_run_one_gets_it(kept: Place) -> None:
    with psycopg.connect(kept.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        calls = [asyncio.create_task(runner.begin_or_resume(kept.plan, run_id="x", dsn=kept.dsn)) for _ in range(3)]
        waits = asyncio.create_task(runner.begin_or_resume(kept.plan, run_id="x", dsn=kept.dsn, wait_for_runner=True))
        await until(lambda: sum(one.done() for one in (*calls, waits)) >= 2)
        await asyncio.sleep(0)
    ended = await asyncio.gather(*calls, return_exceptions=True)
    waited = await waits
    assert waited.exit_code == 0
    assert sum(isinstance(one, RunHeldError) for one in ended) >= 2
    assert all(isinstance(one, RunHeldError | runner.RunResult) for one in ended)
    assert kept.effects == ["first", "last", "slow"]


async def test_a_journal_that_another_process_removes_meanwhile_is_none(
    kept: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not get the run removes the journal that it has begun."""
    runs = kept.folder / "runs"
    journal = Journal.create(runs, "begun", kept.plan)
    shutil.copytree(runs / "begun", runs / "mine")
    journal.close()

    def read(root: Path, run_id: str, **how: bool) -> Record:
        shutil.rmtree(runs / "mine", ignore_errors=True)
        return read_record(root, run_id, **how)

    monkeypatch.setattr("runner.run.resumption.read_record", read)
    result = await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, journal=runs)
    assert (result.exit_code, result.origin) == (0, runner.RunOrigin.BEGUN)


async def test_a_question_is_an_error_and_marks_answer_it(place: Place) -> None:
    journal = place.folder / "runs"
    with psycopg.connect(place.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        task = asyncio.create_task(runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn, journal=journal))
        await until(lambda: place.workers == ["slow"])
        task.cancel()
        await asyncio.wait([task])
        place.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'"
            " AND datname = current_database()"
        )
        await until(lambda: place.workers == [])
    with pytest.raises(OpenQuestionError) as asked:
        await runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn, journal=journal)
    assert list(asked.value.questions) == ["slow"]
    assert "marks={'slow': 'succeeded' or 'failed'}" in str(asked.value)
    assert place.effects == ["first"]
    with pytest.raises(UsageError, match="neither 'succeeded' nor 'failed'"):
        await runner.begin_or_resume(
            place.plan, run_id="mine", dsn=place.dsn, journal=journal, marks={"slow": "perhaps"}
        )
    result = await runner.begin_or_resume(
        place.plan, run_id="mine", dsn=place.dsn, journal=journal, marks={"slow": "failed"}
    )
    assert (result.exit_code, result.origin) == (0, runner.RunOrigin.RESUMED)
    assert place.effects == ["first", "last", "slow"]


async def test_nothing_begins_that_could_not_be_resumed(place: Place) -> None:
    with pytest.raises(PreflightError, match="no ledger can be used"):
        await runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn)
    with pytest.raises(PreflightError, match="no ledger can be used"):
        await runner.begin_or_resume(place.plan, dsn=place.dsn, journal=place.folder / "runs", require_ledger=True)
    with pytest.raises(UsageError, match="neither a journal nor a ledger"):
        await runner.begin_or_resume(place.plan, run_id="mine", dsn=place.dsn, ledger=None)
    with pytest.raises(UsageError, match="--run-id"):
        await runner.begin_or_resume(place.plan, run_id="a/b", dsn=place.dsn, journal=place.folder / "runs")
    assert place.effects == []


async def test_the_run_of_another_plan_parameter_or_selection_is_refused(kept: Place) -> None:
    await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn)
    other = runner.load_plan(kept.file, params={"days": "4"})
    with pytest.raises(UsageError, match="with other parameters: days was 3, and is 4"):
        await runner.begin_or_resume(other, run_id="mine", dsn=kept.dsn)
    with pytest.raises(UsageError, match="with another selection"):
        await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, exclude=["last"])
    kept.file.write_text(PLAN.replace("name: trial", "name: other"), encoding="utf-8")
    with pytest.raises(UsageError, match="is a run of the plan 'trial'"):
        await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn)
    kept.file.write_text(PLAN.replace("'last'", "'LAST'"), encoding="utf-8")
    with pytest.raises(UsageError, match="has changed since run mine started"):
        await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn)
    result = await runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn, allow_changed=True)
    assert (result.exit_code, result.origin) == (0, runner.RunOrigin.RESUMED)
    assert kept.effects == ["first", "last", "slow"]


def test_it_runs_outside_the_main_thread_and_leaves_signals_alone(kept: Place) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    results: list[runner.RunResult] = []

    def call() -> None:
        results.append(asyncio.run(runner.begin_or_resume(kept.plan, run_id="mine", dsn=kept.dsn)))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert [result.exit_code for result in results] == [0]
    assert {number: signal.getsignal(number) for number in before} == before
