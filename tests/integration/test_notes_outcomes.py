"""How pg_background behaves: the evidence of success, what ended a worker, and what one worker may do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from runner.engine import events as ev
from runner.plan.model import RetryPolicy
from tests.builders import Recorder, plan, sql, step
from tests.integration.gateway_setups import RealSetup, ask, real_run, run_one, run_plan, until, value

LONG = "SELECT pg_sleep(120)"
#: Timeouts of transactions end a worker without a word (pg_background.md#completed-is-not-success).
NEEDS_TIMEOUT = pytest.mark.pg(">= 17", reason="transaction_timeout")
TRANSACTION_TIMEOUT = "SET transaction_timeout = '200ms'; SELECT pg_sleep(60)"


# --- note 5: completed and without an error is not success ------------------------------------------------------------


@NEEDS_TIMEOUT
async def test_the_extension_calls_a_killed_worker_completed_and_without_error(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as launcher:
        handle = launcher.execute("SELECT pid, cookie FROM pg_background_launch(%s)", (TRANSACTION_TIMEOUT,)).fetchone()
        assert launcher.execute("SELECT pg_background_wait(%s, %s, 30000)", handle).fetchone() == (True,)
        info = launcher.execute(
            "SELECT completed, has_error, finished_at FROM pg_background_result_info(%s, %s)", handle
        ).fetchone()
    assert info == (True, False, None)


@NEEDS_TIMEOUT
async def test_a_worker_that_was_killed_has_not_succeeded(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    steps = (
        step("killed", "INSERT INTO witness VALUES (1); " + TRANSACTION_TIMEOUT),
        step("quiet", "SET client_min_messages = 'panic'; SET log_min_messages = 'panic'; " + TRANSACTION_TIMEOUT),
    )
    result, record = await run_plan(database, plan(*steps))
    assert result.exit_code in (1, 7)
    assert record.outcomes()["killed"] is ev.Outcome.FAILED
    error = record.end("killed").error
    assert error is not None
    assert error.sqlstate == "25P04"
    assert record.outcomes()["quiet"] in (ev.Outcome.FAILED, ev.Outcome.UNKNOWN)
    assert value(database, "SELECT count(*) FROM witness") == 0


async def test_a_worker_that_dies_before_it_begins_has_failed_and_says_why(
    database: str, new_role: Callable[..., str]
) -> None:
    role_dsn = new_role()
    role = value(role_dsn, "SELECT current_user")
    async with RealSetup(role_dsn, "notes-early") as setup:
        assert (await run_one(setup, "SELECT 1")).confirmed
        ask(database, f"ALTER ROLE {role} NOLOGIN")
        end = await run_one(setup, "SELECT 1", "too_late")
        ask(database, f"ALTER ROLE {role} LOGIN")
        assert not end.confirmed
        assert end.started_at is None
        assert end.error is not None
        assert end.error.sqlstate == "28000"
        assert (await run_one(setup, "SELECT 1", "again")).confirmed


async def test_sql_that_does_nothing_is_not_success(dsn: str) -> None:
    async with RealSetup(dsn, "notes-empty") as setup:
        for text in ("", "-- nothing", ";"):
            assert not (await run_one(setup, text)).confirmed


# --- note 6: the server keeps the timeout; who ended a worker ---------------------------------------------------------


async def test_a_statement_timeout_of_the_steps_own_has_no_effect(dsn: str) -> None:
    text = "SET statement_timeout = '50ms'; SELECT pg_sleep(0.4)"
    result, _ = await run_plan(dsn, plan(step("a", text)))
    assert result.exit_code == 0


@NEEDS_TIMEOUT
async def test_timeouts_of_the_role_reach_neither_the_worker_nor_the_runner(
    database: str, new_role: Callable[..., str]
) -> None:
    settings = ("statement_timeout = '100ms'", "transaction_timeout = '100ms'", "idle_session_timeout = '100ms'")
    role_dsn = new_role("", *settings, "pg_background.worker_timeout = '100ms'")
    steps = (
        step("a", "SELECT pg_sleep(1)", timeout=None),
        step("b", "SELECT pg_sleep(0.5)", needs=["a"]),
        step("c", "SELECT 1", needs=["b"]),
    )
    result, record = await run_plan(role_dsn, plan(*steps))
    assert record.outcomes() == dict.fromkeys("abc", ev.Outcome.SUCCEEDED)
    assert result.exit_code == 0
    assert not record.of(ev.AttemptLost)
    assert value(database, "SELECT 1") == 1


async def stopped(dsn: str, stop: Callable[[int], object], **keys: object) -> ev.AttemptFinished:
    """Run a long step, do something to its worker when it is seen, and return how it ended."""
    run, record = real_run(dsn, plan(step("a", LONG, **keys)))
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning) or record.ends("a"))
    for running in record.of(ev.AttemptRunning):
        stop(running.worker.pid)
    await task
    return record.end("a")


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_cancel_by_another_user_is_neither_a_timeout_nor_one_of_jobplan(dsn: str, function: str) -> None:
    end = await stopped(dsn, lambda pid: ask(dsn, f"SELECT {function}(%s)", pid), timeout=100.0)
    assert end.outcome is ev.Outcome.CANCELLED
    assert end.error is not None
    assert end.error.sqlstate in ("57014", "57P01")


async def test_the_timeout_is_one(dsn: str) -> None:
    end = await stopped(dsn, lambda _: None, timeout=0.5)
    assert end.outcome is ev.Outcome.TIMED_OUT
    assert end.error is not None
    assert end.error.sqlstate == "57014"


async def test_a_step_that_swallows_the_timeout_is_stopped_by_the_second_line(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.engine.scheduler.GRACE", 0.5)
    text = """DO $$ BEGIN
      BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
      PERFORM pg_sleep(60);
    END $$"""
    result, record = await run_plan(dsn, plan(step("a", text, timeout=0.3)))
    assert result.exit_code == 1
    assert [event.reason for event in record.of(ev.AttemptCancelRequested)] == [ev.CancelReason.TIMEOUT]
    assert record.outcomes() == {"a": ev.Outcome.TIMED_OUT}


async def test_a_worker_that_swallows_a_cancel_is_asked_again(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.worker_follower.SIGNAL_AGAIN", 2)
    text = """DO $$ BEGIN
      BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN RAISE NOTICE 'swallowed'; END;
      PERFORM pg_sleep(60);
    END $$"""
    run, record = real_run(dsn, plan(step("a", text)))
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning))
    run.interrupt(2)
    assert (await task).exit_code == 130
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED}
    assert [notice.message for notice in record.notices("a")] == ["swallowed"]


async def test_a_lock_timeout_is_a_failure_that_may_be_retried(database: str) -> None:
    ask(database, "CREATE TABLE t (i int)")
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE t")
        keys = {"lock_timeout": 0.1, "retry": RetryPolicy(max_attempts=2, on=frozenset({"55P03"}))}
        _, record = await run_plan(database, plan(step("a", "DROP TABLE t", **keys)))
    ends = record.ends("a")
    assert [end.outcome for end in ends] == [ev.Outcome.FAILED] * 2
    assert [end.error.sqlstate if end.error else None for end in ends] == ["55P03"] * 2


# --- note 7: one statement, or one transaction ------------------------------------------------------------------------


def sqlstates(record: Recorder) -> dict[str, str | None]:
    """Return each step's SQLSTATE, None for one that succeeded."""
    ends = record.of(ev.AttemptFinished)
    return {end.step: end.error.sqlstate if end.error is not None else None for end in ends}


async def test_what_must_be_alone_works_alone_and_only_alone(database: str) -> None:
    ask(
        database,
        "CREATE TABLE t (i int); "
        "CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$",
    )
    alone = {
        "vacuum": "VACUUM (ANALYZE) t; -- alone, with a comment",
        "index": "CREATE INDEX CONCURRENTLY i ON t (i)",
        "call": "CALL commits()",
        "do": "DO $$ BEGIN INSERT INTO t VALUES (2); COMMIT; END $$",
        "reindex": "REINDEX TABLE CONCURRENTLY t",
    }
    steps = [step(key, text) for key, text in alone.items()]
    steps += [step(f"not_{key}", "SELECT 1; " + text) for key, text in alone.items() if key != "index"]
    steps += [step("begin", "BEGIN"), step("savepoint", "SAVEPOINT s"), step("listen", "LISTEN c")]
    _, record = await run_plan(database, plan(*steps, slots=1))
    assert sqlstates(record) == {
        **dict.fromkeys(alone),
        "not_vacuum": "25001",
        "not_call": "2D000",
        "not_do": "2D000",
        "not_reindex": "25001",
        "begin": "0A000",
        "savepoint": "0A000",
        "listen": "0A000",
    }


async def test_several_statements_are_all_or_nothing_and_report_the_last(database: str) -> None:
    ask(database, "CREATE TABLE t (i int)")
    steps = (
        step("all", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2), (3)"),
        step("nothing", "INSERT INTO t VALUES (9); SELECT 1/0"),
    )
    _, record = await run_plan(database, plan(*steps))
    assert (record.end("all").command_tag, record.end("all").row_count) == ("INSERT", 2)
    assert ask(database, "SELECT i FROM t ORDER BY i") == [(1,), (2,), (3,)]


def test_the_extension_does_not_let_a_statement_see_the_one_before(database: str) -> None:
    """The trap itself, which the design's notes do not have."""
    with psycopg.connect(database, autocommit=True) as launcher:
        launcher.execute("CREATE TABLE t (i int)")
        text = "INSERT INTO t VALUES (1); UPDATE t SET i = 2"
        handle = launcher.execute("SELECT pid, cookie FROM pg_background_launch(%s)", (text,)).fetchone()
        assert launcher.execute("SELECT pg_background_wait(%s, %s, 30000)", handle).fetchone() == (True,)
        info = "SELECT row_count, command_tag, has_error FROM pg_background_result_info(%s, %s)"
        assert launcher.execute(info.encode(), handle).fetchone() == (0, "UPDATE", False)
        assert launcher.execute("SELECT i FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("text", "rows", "left"),
    [
        ("INSERT INTO t VALUES (1); UPDATE t SET i = i + 1", 1, [2]),
        ("INSERT INTO t VALUES (1); UPDATE t SET i = i + 1; UPDATE t SET i = i + 10;", 1, [12]),
        ("INSERT INTO t VALUES (1); DELETE FROM t -- all of them", 1, []),
        ("INSERT INTO t VALUES (1) -- why\n; SELECT i FROM t", 1, [1]),
        ("INSERT INTO t VALUES (1); INSERT INTO t SELECT i + 1 FROM t RETURNING i", 1, [1, 2]),
        (
            "WITH w AS (INSERT INTO t VALUES (1), (2) RETURNING i) SELECT count(*) FROM w; DELETE FROM t WHERE i = 1",
            1,
            [2],
        ),
        ("SELECT adds(5); UPDATE t SET i = i + 1", 1, [6]),
        pytest.param(
            "INSERT INTO t VALUES (1); MERGE INTO t USING (VALUES (1)) AS s (i) ON t.i = s.i WHEN MATCHED THEN DELETE",
            1,
            [],
            marks=pytest.mark.pg(">= 15", reason="MERGE"),
        ),
        ("COPY t FROM PROGRAM 'echo 4'; UPDATE t SET i = i * 2", 1, [8]),
    ],
)
async def test_each_statement_of_a_step_sees_what_the_ones_before_have_done(
    database: str, text: str, rows: int, left: list[int]
) -> None:
    ask(
        database,
        "CREATE TABLE t (i int); CREATE FUNCTION adds(n int) RETURNS void LANGUAGE sql AS 'INSERT INTO t VALUES (n)'",
    )
    for wanted in (0, 5):
        ask(database, "TRUNCATE t")
        async with RealSetup(database, "notes-see") as setup:
            end = await run_one(setup, text, rows=wanted)
        assert end.confirmed
        assert end.row_count == rows
        assert [i for (i,) in ask(database, "SELECT i FROM t ORDER BY i")] == left


async def test_a_constraint_that_fails_at_the_commit_is_a_failure(database: str) -> None:
    ask(database, "CREATE TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    _, record = await run_plan(database, plan(step("a", "INSERT INTO t VALUES (1), (1) RETURNING i")))
    assert sqlstates(record) == {"a": "23505"}
    error = record.end("a").error
    assert error is not None
    assert (error.schema, error.table, error.constraint) == ("public", "t", "t_i_key")


async def test_output_that_cannot_be_read_takes_no_outcome_with_it(database: str) -> None:
    ask(
        database,
        "CREATE TABLE t (i int); CREATE RULE r AS ON INSERT TO t DO ALSO SELECT 'surprise'::text, 42",
    )
    steps = (step("rule", "INSERT INTO t VALUES (1)"), step("copy", "COPY t TO STDOUT", needs=["rule"]))
    result, record = await run_plan(database, plan(*steps))
    assert result.exit_code == 0
    assert record.outcomes() == {"rule": ev.Outcome.SUCCEEDED, "copy": ev.Outcome.SUCCEEDED}


# --- note 10: what a cancelled CREATE INDEX CONCURRENTLY leaves behind ------------------------------------------------


async def test_a_cancelled_concurrent_index_is_invalid_and_verify_finds_that(database: str) -> None:
    ask(database, "CREATE TABLE t AS SELECT 1 AS i")
    make = "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (i)"
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"
    with psycopg.connect(database) as holder:
        holder.execute("INSERT INTO t VALUES (2)")
        run, record = real_run(database, plan(step("index", make)))
        task = asyncio.create_task(run.execute())
        await until(lambda: ask(database, "SELECT 1 FROM pg_class WHERE relname = 'i'"))
        run.interrupt(2)
        assert (await task).exit_code == 130
        assert record.outcomes() == {"index": ev.Outcome.CANCELLED}
    assert value(database, valid) is False
    result, record = await run_plan(database, plan(step("index", make, verify=sql(valid))))
    assert record.outcomes() == {"index": ev.Outcome.SUCCEEDED}
    assert result.exit_code == 1
    (finished,) = record.of(ev.StepFinished)
    assert finished.state == "failed"
