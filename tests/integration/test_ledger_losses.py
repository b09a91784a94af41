"""With the ledger, a worker's outcome is known even if its end was not seen: its own transaction records it."""

from __future__ import annotations

import asyncio
import gc

import psycopg
import pytest

from runner.embedded import EmbeddedServer
from runner.embedded.server import Mode
from runner.engine import events as ev
from runner.engine.state import StepState
from runner.gateway.ledger.admin import LedgerAdmin
from runner.plan.model import Need, NeedOn, OnFailure
from tests.builders import plan, sql, step
from tests.integration.gateway_setups import (
    GATE,
    LAUNCHERS,
    MONITORS,
    SESSIONS,
    Follower,
    RealSetup,
    ask,
    open_transaction,
    real_run,
    run_one,
    run_plan,
    signal_sessions,
    until,
    value,
)
from tests.servers import start_test_server

LONG = "SELECT pg_sleep(120)"
COMMITS = "SELECT step, committed FROM jobplan.commits WHERE run = %s ORDER BY step"
GAPLESS = "SELECT count(*) = max(seq) AND min(seq) = 1 FROM jobplan.events WHERE run = %s"


@pytest.fixture
def ledger(database: str) -> str:
    """A database of this test's own, with a ledger."""
    LedgerAdmin(database, "jobplan").install("0")
    return database


async def test_a_worker_that_commits_without_a_session_has_succeeded(ledger: str) -> None:
    async with RealSetup(ledger, "ledger-lost", ledger="jobplan") as setup:
        with open_transaction(ledger, GATE):
            follower = await Follower(setup, "step", f"CREATE TABLE witness (); {GATE}").running()
            assert signal_sessions(ledger, setup.run_id, LAUNCHERS)
        end = await follower.wait_until_ended()
        assert follower.lost
        assert end.confirmed
        assert not end.lost
        assert ask(ledger, COMMITS, setup.run_id) == [("step", True)]
        assert value(ledger, "SELECT count(*) FROM witness") == 0


async def test_a_worker_that_fails_without_a_session_has_not_committed(ledger: str) -> None:
    async with RealSetup(ledger, "ledger-fails", ledger="jobplan") as setup:
        with open_transaction(ledger, GATE):
            follower = await Follower(setup, "step", f"CREATE TABLE witness (); {GATE}; SELECT 1/0").running()
            assert signal_sessions(ledger, setup.run_id, LAUNCHERS)
        end = await follower.wait_until_ended()
        assert follower.lost
        assert end.rolled_back
        assert not end.lost
        assert ask(ledger, COMMITS, setup.run_id) == [("step", False)]
        assert value(ledger, "SELECT to_regclass('witness')") is None


@pytest.mark.parametrize("text", ["CALL waits()", "DO $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"])
async def test_a_worker_without_the_row_stays_unknown(ledger: str, text: str) -> None:
    async with RealSetup(ledger, "ledger-without", ledger="jobplan") as setup:
        ask(
            ledger, "CREATE PROCEDURE waits() LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); COMMIT; END'"
        )
        with open_transaction(ledger, GATE):
            follower = await Follower(setup, "step", text).running()
            assert signal_sessions(ledger, setup.run_id, LAUNCHERS)
        end = await follower.wait_until_ended()
        assert end.lost
        assert not ask(ledger, COMMITS, setup.run_id)


async def test_a_late_worker_is_kept_from_committing(ledger: str) -> None:
    """The fence: once a run has said that an attempt did not commit, no worker of it can, wherever it was."""
    async with RealSetup(ledger, "ledger-late", ledger="jobplan") as setup:
        proof = setup.gateway.ledger.proof("step", 1)
        fence = (
            "INSERT INTO jobplan.commits (run, step, attempt, committed, proof)"
            " VALUES ('ledger-late', 'step', 1, false, %s) RETURNING 1"
        )
        assert ask(ledger, fence, proof)
        end = await run_one(setup, "CREATE TABLE witness ()")
        assert end.error is not None
        assert end.error.sqlstate == "23505"
        assert value(ledger, "SELECT to_regclass('witness')") is None


async def test_a_second_worker_of_an_attempt_that_has_committed_changes_nothing(ledger: str) -> None:
    async with RealSetup(ledger, "ledger-twice", ledger="jobplan") as setup:
        ask(ledger, "CREATE TABLE witness (n int)")
        assert (await run_one(setup, "INSERT INTO witness VALUES (1)")).confirmed
        assert (await run_one(setup, "INSERT INTO witness VALUES (1)")).confirmed
        assert value(ledger, "SELECT count(*) FROM witness") == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_second_worker_of_an_attempt_waits_for_what_becomes_of_the_first(ledger: str, commits: bool) -> None:
    """It gives up waiting for the key of the row, and that is no sign of a ledger that another session has locked."""
    async with RealSetup(ledger, "ledger-rival", ledger="jobplan") as setup:
        ask(ledger, "CREATE TABLE witness (n int)")
        with psycopg.connect(ledger) as first:
            first.execute(
                "INSERT INTO jobplan.commits (run, step, attempt, committed, proof)"
                " VALUES ('ledger-rival', 'step', 1, true, %s)",
                [setup.gateway.ledger.proof("step", 1)],
            )
            second = (await Follower(setup, "step", "INSERT INTO witness VALUES (1)").launch()).follow()
            await asyncio.sleep(4)
            assert not second.task.done()
            if commits:
                first.commit()
            else:
                first.rollback()
        end = await second.wait_until_ended()
        assert end.confirmed is commits
        assert value(ledger, "SELECT count(*) FROM witness") == 0
        assert ask(ledger, COMMITS, setup.run_id) == [("step", commits)]


@pytest.mark.pg(">= 17", reason="transaction_timeout")
async def test_a_worker_that_says_nothing_of_its_end_has_not_committed(ledger: str) -> None:
    """pg_background.md#completed-is-not-success: transaction_timeout ends it with completed and without an error."""
    async with RealSetup(ledger, "ledger-silent", ledger="jobplan") as setup:
        end = await run_one(setup, LONG, settings={"transaction_timeout": "300ms"})
        assert end.rolled_back or (end.error is not None and end.error.sqlstate == "25P04")
        assert not end.confirmed


async def test_a_step_whose_session_is_lost_runs_once(ledger: str) -> None:
    ask(ledger, "CREATE TABLE witness (n int)")
    text = f"INSERT INTO witness VALUES (1); {GATE}"
    run, record = real_run(ledger, plan(step("a", text, idempotent=True)), run_id="ledger-once", ledger="jobplan")
    with open_transaction(ledger, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        assert signal_sessions(ledger, "ledger-once", LAUNCHERS)
    assert (await task).exit_code == 0
    assert [end.outcome for end in record.ends("a")] == [ev.Outcome.SUCCEEDED]
    assert value(ledger, "SELECT count(*) FROM witness") == 1
    assert value(ledger, GAPLESS, "ledger-once")


async def test_a_lost_worker_that_was_asked_to_stop_is_cancelled(ledger: str) -> None:
    steps = (step("a", LONG), step("b", f"{GATE}; SELECT 1/0"))
    run, record = real_run(ledger, plan(*steps, on_failure=OnFailure.CANCEL), run_id="ledger-stop", ledger="jobplan")
    with open_transaction(ledger, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: len(record.of(ev.AttemptRunning)) == 2)
        assert signal_sessions(ledger, "ledger-stop", LAUNCHERS)
    assert (await task).exit_code == 1
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED, "b": ev.Outcome.FAILED}


async def test_idle_launcher_sessions_that_end_cost_nothing(ledger: str) -> None:
    async with RealSetup(ledger, "ledger-idle", ledger="jobplan") as setup:
        assert (await run_one(setup, "SELECT 1", "a")).confirmed
        assert signal_sessions(ledger, setup.run_id, LAUNCHERS) == 1
        assert (await run_one(setup, "SELECT 1", "b")).confirmed
        assert ask(ledger, COMMITS, setup.run_id) == [("a", True), ("b", True)]


async def test_statements_that_another_session_cancels_lose_nothing(ledger: str) -> None:
    steps = [step(f"s{number}", "SELECT pg_sleep(0.05)") for number in range(30)]
    run, record = real_run(ledger, plan(*steps), run_id="ledger-cancel", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptLaunching))  # a statement that is cancelled before is a refusal to begin
    while not task.done():
        signal_sessions(ledger, "ledger-cancel", SESSIONS, "pg_cancel_backend")
        await asyncio.sleep(0.02)
    result = await task
    # A launch that another session interrupts has either happened or not; the row knows, if it was in the text.
    assert set(record.outcomes().values()) <= {ev.Outcome.SUCCEEDED, ev.Outcome.FAILED, ev.Outcome.UNKNOWN}
    committed = {name for name, committed_ in ask(ledger, COMMITS, "ledger-cancel") if committed_}
    assert committed <= {name for name, outcome in record.outcomes().items() if outcome is ev.Outcome.SUCCEEDED}
    assert result.ledger_problem is None
    assert value(ledger, GAPLESS, "ledger-cancel")


async def test_a_monitor_session_that_is_lost_loses_no_event(ledger: str) -> None:
    steps = [step(f"s{number}", "SELECT pg_sleep(0.3)") for number in range(12)]
    run, record = real_run(ledger, plan(*steps, slots=2), run_id="ledger-monitor", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning))
    assert signal_sessions(ledger, "ledger-monitor", MONITORS)
    assert (await task).exit_code == 0
    assert value(ledger, GAPLESS, "ledger-monitor")
    assert value(ledger, "SELECT exit_code FROM jobplan.runs WHERE run = 'ledger-monitor'") == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_server_leaves_nothing_unknown(frail_server: EmbeddedServer, mode: Mode) -> None:
    LedgerAdmin(frail_server.dsn, "jobplan").install("0")
    steps = (
        step("before", "CREATE TABLE before ()"),
        step("lost", LONG),
        step("settled", LONG, verify=sql("SELECT true")),
        step("after", "SELECT 1", needs=[Need(step="lost", on=NeedOn.DONE)]),
    )
    run, record = real_run(frail_server.dsn, plan(*steps), run_id="ledger-restart", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) >= 2 and record.of(ev.StepFinished, "before"))
    await asyncio.to_thread(frail_server.restart, mode)
    result = await task
    assert result.exit_code == 1
    states = {key: found.state for key, found in run.state.records.items()}
    assert states == {
        "before": StepState.SUCCEEDED,
        "lost": StepState.FAILED,
        "settled": StepState.FAILED,
        "after": StepState.SUCCEEDED,
    }
    assert value(frail_server.dsn, "SELECT exit_code FROM jobplan.runs") == 1
    gc.collect()


async def test_a_crash_of_the_server_costs_nothing_that_was_written_before() -> None:
    """The runner lives on and does not write again what it takes for written: a hole would stay in the record."""
    with start_test_server(wal_writer_delay="10s") as server:
        LedgerAdmin(server.dsn, "jobplan").install("0")
        steps = (step("long", LONG), *(step(f"s{number}", "SELECT 1", if_=sql("SELECT false")) for number in range(5)))
        run, record = real_run(server.dsn, plan(*steps), run_id="ledger-crash", ledger="jobplan")
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        await until(lambda: value(server.dsn, "SELECT count(*) FROM jobplan.events WHERE event = 'step_skipped'") == 5)
        await asyncio.to_thread(server.restart, "immediate")
        assert (await task).exit_code == 1
        assert value(server.dsn, GAPLESS, "ledger-crash")
    gc.collect()


async def test_a_server_that_does_not_come_back_leaves_it_unknown(
    frail_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 2.0)
    LedgerAdmin(frail_server.dsn, "jobplan").install("0")
    run, record = real_run(frail_server.dsn, plan(step("a", LONG)), ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning))
    await asyncio.to_thread(frail_server.stop, "immediate")
    result = await task
    assert result.exit_code == 7
    assert result.ledger_problem is not None
    assert record.outcomes() == {"a": ev.Outcome.UNKNOWN}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


async def test_nothing_is_left_open_after_a_run(ledger: str) -> None:
    setup = RealSetup(ledger, "ledger-open", ledger="jobplan")
    await run_plan(ledger, plan(step("a", "SELECT 1"), step("b", "SELECT 1/0")), run_id=setup.run_id, ledger="jobplan")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    await until(lambda: setup.connections() == 0)
