"""What a run writes to the ledger, who may, and what becomes of the run when it cannot be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.engine import events as ev
from runner.engine.event_json import to_json
from runner.gateway.ledger.admin import LedgerAdmin
from runner.sql.placeholders import quote_identifier
from tests.builders import Recorder, plan, step
from tests.integration.gateway_setups import HERE, PATIENCE, RealSetup, ask, real_run, run_one, run_plan, until, value

COMMITTED = "SELECT step FROM jobplan.commits WHERE committed ORDER BY step"
EVENTS = "SELECT body FROM jobplan.events WHERE run = %s ORDER BY seq"
QUICK = "SELECT pg_sleep(0.2)"


@pytest.fixture
def ledger(database: str) -> str:
    """A database of this test's own, with a ledger."""
    LedgerAdmin(database, "jobplan").install("0")
    return database


async def run_committing(dsn: str, sql: str, ledger_dsn: str = "", **keys: Any) -> bool:
    """Run one step, which must succeed, and say whether it has left its row."""
    result, record = await run_plan(dsn, plan(step("a", sql, **keys)), ledger="jobplan")
    assert result.exit_code == 0, record.end("a").error
    assert not record.of(ev.LedgerLost)
    return bool(ask(ledger_dsn or dsn, COMMITTED))


def messages(record: Recorder) -> list[str]:
    return [event.message for event in record.of(ev.LedgerLost)]


# --- what is written --------------------------------------------------------------------------------------------------


async def test_the_ledger_has_every_event_as_the_journal_would(ledger: str) -> None:
    steps = (step("a", "SELECT 1"), step("b", "SELECT 1/0"), step("ü'\\", "SELECT 'ä😀'", needs=["a"]))
    run_id = "ledger-events"
    result, record = await run_plan(ledger, plan(*steps), run_id=run_id, ledger="jobplan")
    assert result.exit_code == 1
    written = [body for (body,) in ask(ledger, EVENTS, run_id)]
    with_rows = [body.pop("commit_row", False) for body in written]
    assert [isinstance(body.pop("proof", None), str) for body in written] == with_rows
    assert written == [json.loads(json.dumps(to_json(event, run_id))) for event in record.events]
    assert with_rows.count(True) == 3
    assert ask(ledger, COMMITTED) == [("a",), ("ü'\\",)]
    (row,) = ask(
        ledger,
        "SELECT plan, exit_code, finished_at > started_at, resolved ->> 'name' "
        "FROM jobplan.runs JOIN jobplan.plans USING (run)",
    )
    assert row == ("test", 1, True, "test")


async def test_a_run_says_which_ledger_it_writes(ledger: str) -> None:
    _, record = await run_plan(ledger, plan(step("a", "SELECT 1")), ledger="jobplan")
    (started,) = record.of(ev.RunStarted)
    assert started.ledger == "jobplan"
    assert started.ledger_problem is None


async def test_without_a_ledger_a_run_is_as_ever(database: str) -> None:
    result, record = await run_plan(database, plan(step("a", "SELECT 1")), ledger="jobplan")
    (started,) = record.of(ev.RunStarted)
    assert result.exit_code == 0
    assert started.ledger is None
    assert started.ledger_problem == "there is no schema jobplan"


async def test_a_ledger_that_is_turned_off_is_left_alone(ledger: str) -> None:
    _, record = await run_plan(ledger, plan(step("a", "SELECT 1")), ledger=None)
    (started,) = record.of(ev.RunStarted)
    assert started.ledger is None
    assert started.ledger_problem is None
    assert value(ledger, "SELECT count(*) FROM jobplan.runs") == 0


@pytest.mark.parametrize("schema", ['we"ird; DROP', "Ünïcode $jobplan$ {run}", "50%s"])
async def test_any_schema_will_do(database: str, schema: str) -> None:
    assert LedgerAdmin(database, schema).install("0")
    result, _ = await run_plan(database, plan(step("a", "SELECT 1")), ledger=schema)
    assert result.exit_code == 0
    quoted = quote_identifier(schema).replace("%", "%%")
    assert ask(database, f"SELECT step, outcome, committed FROM {quoted}.attempts WHERE run <> %s", "") == [
        ("a", "succeeded", True)
    ]
    assert LedgerAdmin(database, schema).purge(0.0) == 1
    assert LedgerAdmin(database, schema).remove()


# --- which steps write their row --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE u (); ALTER TABLE u ADD n int",
        "TRUNCATE t; COPY t FROM PROGRAM 'echo 1' WITH (FREEZE)",
        "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'",
        "LOCK TABLE t; INSERT INTO t VALUES (1)",
        "SET LOCAL work_mem = '4MB'; SELECT 1",
        "CALL nothing(); SELECT 1",
        "ANALYZE t",
        "CREATE INDEX ON t (n)",
        "REFRESH MATERIALIZED VIEW m",
        "-- only a comment\nSELECT 1 -- and another",
    ],
)
async def test_a_transactional_step_writes_its_row(ledger: str, sql: str) -> None:
    ask(ledger, "CREATE TABLE t (n int)")
    ask(ledger, "CREATE MATERIALIZED VIEW m AS SELECT 1")
    ask(ledger, "CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1'")
    assert await run_committing(ledger, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM t",
        "CREATE INDEX CONCURRENTLY ON t (n)",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX TABLE t",
        "CALL commits()",
        "DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$",
        "DO $$ BEGIN NULL; END $$",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1",
        "SET TRANSACTION READ ONLY; SELECT 1",
        "SET transaction_isolation = 'repeatable read'; SELECT 1",
        "ALTER SYSTEM RESET work_mem",
    ],
)
async def test_what_would_fail_behind_a_row_has_none(ledger: str, sql: str) -> None:
    ask(ledger, "CREATE TABLE t (n int)")
    ask(ledger, "CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'")
    assert not await run_committing(ledger, sql)


async def test_what_the_server_refuses_without_a_ledger_it_refuses_with_one(ledger: str) -> None:
    ask(ledger, "CREATE TABLE t (n int)")
    async with RealSetup(ledger, "ledger-alone", ledger="jobplan") as setup:
        end = await run_one(setup, "LOCK TABLE t")
        assert end.error is not None
        assert end.error.sqlstate == "25P01"


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"default_transaction_isolation": "serializable"}, True),
        ({"default_transaction_read_only": "on"}, False),
        ({"DEFAULT_transaction_read_only": "yes"}, False),
        ({"default_transaction_read_only": "off"}, True),
        ({"transaction_read_only": "true"}, False),
        ({"lock_timeout": "7s"}, True),
        ({"standard_conforming_strings": "off"}, True),
        ({"default_transaction_deferrable": "on"}, True),
    ],
)
async def test_settings_that_forbid_writing_forbid_the_row(
    ledger: str,
    settings: dict[str, str],
    written: bool,
) -> None:
    assert await run_committing(ledger, "SELECT 1", settings=settings) == written


async def test_a_lock_that_comes_before_the_snapshot_still_does(ledger: str) -> None:
    ask(ledger, "CREATE TABLE t (n int)")
    serializable = {"default_transaction_isolation": "serializable"}
    assert not await run_committing(ledger, "LOCK TABLE t; SELECT 1", settings=serializable)


@pytest.mark.parametrize(("given", "expected"), [(5.0, "5s"), (None, "3s")])
async def test_the_step_has_its_own_lock_timeout(
    ledger: str, new_role: Callable[..., str], given: float | None, expected: str
) -> None:
    login = new_role("", "lock_timeout = '3s'")
    LedgerAdmin(ledger, "jobplan").install("0", [str(conninfo_to_dict(login)["user"])])
    async with RealSetup(login, "ledger-locktimeout", ledger="jobplan") as setup:
        shown = await run_one(setup, "SELECT current_setting('lock_timeout')", lock_timeout=given, rows=1)
        assert shown.result is not None
        assert shown.result.rows == ((expected,),)
    assert ask(ledger, COMMITTED) == [("step",)]


async def test_rows_and_counts_are_those_of_the_step(ledger: str) -> None:
    ask(ledger, "CREATE TABLE t (n int)")
    async with RealSetup(ledger, "ledger-counts", ledger="jobplan") as setup:
        inserted = await run_one(setup, "INSERT INTO t SELECT generate_series(1, 7)", "a")
        assert (inserted.command_tag, inserted.row_count) == ("INSERT", 7)
        selected = await run_one(setup, "SELECT n FROM t ORDER BY n", "b", rows=2)
        assert selected.result is not None
        assert selected.result.rows == (("1",), ("2",))
        assert selected.row_count == 7
        noisy = await run_one(setup, "SELECT repeat('x', 1000) FROM generate_series(1, 500)", "c")
        assert noisy.confirmed
        assert noisy.row_count == 500


async def test_a_statement_that_refuses_to_come_second_comes_first_after_all(ledger: str) -> None:
    """What the parser cannot see: a function that refuses a transaction which has written something."""
    ask(
        ledger,
        "CREATE FUNCTION picky() RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "IF pg_current_xact_id_if_assigned() IS NOT NULL THEN RAISE 'not first' USING ERRCODE = '25001'; END IF; "
        "END $$",
    )
    assert not await run_committing(ledger, "SELECT picky()")
    assert value(ledger, "SELECT count(*) FROM jobplan.events WHERE body ? 'commit_row'") == 0


# --- who may write ----------------------------------------------------------------------------------------------------


async def test_a_role_without_the_right_runs_without_the_ledger(ledger: str, new_role: Callable[..., str]) -> None:
    result, record = await run_plan(new_role(), plan(step("a", "SELECT 1")), ledger="jobplan")
    (started,) = record.of(ev.RunStarted)
    assert result.exit_code == 0
    assert started.ledger is None
    assert started.ledger_problem == "this role may not write to the one in schema jobplan"
    assert value(ledger, "SELECT count(*) FROM jobplan.runs") == 0


async def test_an_ordinary_role_may_install_and_use_it(database: str, new_role: Callable[..., str]) -> None:
    login = new_role()
    user = str(conninfo_to_dict(login)["user"])
    ask(database, f"GRANT CREATE ON DATABASE {conninfo_to_dict(database)['dbname']} TO {user}")
    assert LedgerAdmin(login, "jobplan").install("0")
    assert await run_committing(login, "SELECT 1")


async def test_a_role_that_was_granted_the_right_writes(ledger: str, new_role: Callable[..., str]) -> None:
    login = new_role()
    LedgerAdmin(ledger, "jobplan").install("0", [str(conninfo_to_dict(login)["user"])])
    assert await run_committing(login, "SELECT 1", ledger)
    assert value(login, "SELECT count(*) FROM jobplan.attempts") == 1


@pytest.mark.parametrize("way", ["role", "settings"])
@pytest.mark.parametrize("granted", [False, True])
async def test_a_step_with_a_role_of_its_own_writes_if_that_one_may(
    ledger: str,
    new_role: Callable[..., str],
    granted: bool,
    way: str,
) -> None:
    user = str(conninfo_to_dict(new_role())["user"])
    if granted:
        LedgerAdmin(ledger, "jobplan").install("0", [user])
    keys: dict[str, Any] = {"role": user} if way == "role" else {"settings": {"role": user}}
    assert await run_committing(ledger, "SELECT 1", **keys) == granted
    assert value(ledger, "SELECT exit_code FROM jobplan.runs") == 0


async def test_a_login_role_that_reads_only_by_default_writes_events_but_no_row(
    ledger: str, new_role: Callable[..., str]
) -> None:
    login = new_role("", "default_transaction_read_only = on", "default_transaction_isolation = 'repeatable read'")
    LedgerAdmin(ledger, "jobplan").install("0", [str(conninfo_to_dict(login)["user"])])
    assert not await run_committing(login, "SELECT 1", ledger)
    assert value(ledger, "SELECT exit_code FROM jobplan.runs") == 0


@pytest.mark.parametrize(("version", "remedy"), [(0, "jobplan ledger upgrade"), (99, "a newer jobplan")])
async def test_a_ledger_of_another_version_is_left_alone(ledger: str, version: int, remedy: str) -> None:
    ask(ledger, f"DELETE FROM jobplan.meta; INSERT INTO jobplan.meta VALUES ({version}, '0')")
    result, record = await run_plan(ledger, plan(step("a", "SELECT 1")), ledger="jobplan")
    (started,) = record.of(ev.RunStarted)
    assert result.exit_code == 0
    assert started.ledger_problem is not None
    assert remedy in started.ledger_problem
    assert value(ledger, "SELECT count(*) FROM jobplan.runs") == 0


async def test_a_schema_of_that_name_that_is_another_user_is_left_alone(database: str) -> None:
    ask(database, "CREATE SCHEMA jobplan; CREATE TABLE jobplan.runs (n int)")
    _, record = await run_plan(database, plan(step("a", "SELECT 1")), ledger="jobplan")
    assert record.of(ev.RunStarted)[0].ledger_problem == "there is none in schema jobplan"


# --- when it cannot be written any longer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "blow",
    [
        "DROP SCHEMA jobplan CASCADE",
        "DROP TABLE jobplan.commits CASCADE",
        "ALTER SCHEMA jobplan RENAME TO elsewhere",
        "ALTER TABLE jobplan.events DROP COLUMN body CASCADE",
        "REVOKE ALL ON SCHEMA jobplan FROM {user}",
        "REVOKE ALL ON jobplan.commits FROM {user}",
        "REVOKE ALL ON jobplan.events FROM {user}",
    ],
)
async def test_a_run_continues_when_the_ledger_is_lost(ledger: str, new_role: Callable[..., str], blow: str) -> None:
    login = new_role()
    user = str(conninfo_to_dict(login)["user"])
    LedgerAdmin(ledger, "jobplan").install("0", [user])
    steps = [step(f"s{number}", QUICK) for number in range(8)]
    run, record = real_run(login, plan(*steps, slots=2), ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.StepFinished))
    ask(ledger, blow.format(user=user))
    result = await task
    assert result.exit_code == 0, record.outcomes()
    assert len(messages(record)) <= 1
    if "commits" not in blow:
        assert [*messages(record), result.ledger_problem][0] is not None


@pytest.mark.parametrize("table", ["events", "runs", "commits"])
async def test_a_lock_on_the_ledger_does_not_hold_up_the_run(ledger: str, table: str) -> None:
    steps = [step(f"s{number:02}", QUICK) for number in range(12)]
    run, record = real_run(ledger, plan(*steps, slots=2), run_id="ledger-locked", ledger="jobplan")
    with psycopg.connect(ledger) as locker:
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.StepFinished))
        waiting = asyncio.create_task(asyncio.to_thread(locker.execute, f"LOCK TABLE jobplan.{table}".encode()))
        await until(lambda: len(record.of(ev.StepFinished)) >= 10)
        await waiting
        locker.rollback()
        result = await task
    assert result.exit_code == 0
    assert result.ledger_problem is None
    assert not messages(record)
    gapless = "SELECT count(*) = max(seq) AND min(seq) = 1 FROM jobplan.events WHERE run = 'ledger-locked'"
    assert value(ledger, gapless)
    assert value(ledger, "SELECT exit_code FROM jobplan.runs") == 0
    assert value(ledger, CLAIMED_IN_VAIN) == 0


async def test_a_ledger_that_is_locked_all_the_time_holds_nothing_up(ledger: str) -> None:
    """Not even in sessions that have never written to it: to have a statement parsed takes a lock already."""
    steps = [step(f"s{number}", "SELECT pg_sleep(0.2)") for number in range(6)]
    run, record = real_run(ledger, plan(*steps, slots=3), run_id="ledger-shut", ledger="jobplan")
    with psycopg.connect(ledger) as locker:
        locker.execute("LOCK TABLE jobplan.events IN EXCLUSIVE MODE")
        async with asyncio.timeout(PATIENCE):
            result = await run.execute()
    assert result.exit_code == 0
    assert len(record.of(ev.StepFinished)) == 6
    assert result.ledger_problem is not None
    assert "could not be written" in result.ledger_problem
    assert value(ledger, CLAIMED_IN_VAIN) == 0


#: Attempts that succeeded, that have no row, and of which the ledger says that they would have: as if they had failed.
CLAIMED_IN_VAIN = """
SELECT count(*) FROM jobplan.events AS e
WHERE event = 'attempt_launching' AND (body ->> 'commit_row')::boolean
  AND NOT EXISTS (SELECT FROM jobplan.commits AS c WHERE (c.run, c.step, c.attempt) = (e.run, e.step, e.attempt))
"""


async def test_a_step_does_not_run_without_its_row_before_the_ledger_knows(
    ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resume would take the missing row for proof that the step has not committed, and run it twice."""
    monkeypatch.setattr("runner.gateway.ledger.commit_rows.LAST_TRY", 0.3)
    ask(ledger, "CREATE TABLE witness (n int)")
    steps = (step("first", "SELECT pg_sleep(1)"), step("a", "INSERT INTO witness VALUES (1)", needs=["first"]))
    run, record = real_run(ledger, plan(*steps), run_id="ledger-order", ledger="jobplan")
    refused = f"SELECT count(*) FROM {HERE} AND wait_event_type = 'Lock' AND backend_type = 'pg_background'"
    with psycopg.connect(ledger) as locker:
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning, "first"))
        await asyncio.to_thread(locker.execute, b"LOCK TABLE jobplan.commits IN EXCLUSIVE MODE")  # when `first` is over
        await until(lambda: value(ledger, refused) or record.of(ev.StepFinished, "a"))
        locker.execute("LOCK TABLE jobplan.events IN EXCLUSIVE MODE")
        await asyncio.sleep(6)
        assert not record.of(ev.StepFinished, "a")
        assert value(ledger, "SELECT count(*) FROM witness") == 0
        locker.rollback()
        result = await task
    assert result.exit_code == 0
    assert value(ledger, "SELECT count(*) FROM witness") == 1
    assert value(ledger, CLAIMED_IN_VAIN) == 0


async def test_a_lock_until_after_the_end_is_reported(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.ledger.writer.LAST_TRY", 1.0)
    run, record = real_run(ledger, plan(step("a", QUICK), step("b", QUICK, needs=["a"])), ledger="jobplan")
    with psycopg.connect(ledger) as locker:
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.StepFinished))
        locker.execute("LOCK TABLE jobplan.events")
        result = await task
    assert result.exit_code == 0
    assert result.ledger_problem is not None
    assert "could not be written" in result.ledger_problem
