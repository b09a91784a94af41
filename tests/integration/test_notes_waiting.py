"""How pg_background behaves: waiting holds no snapshot for long, output never stops a worker, notices arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from runner.engine import events as ev
from runner.engine.state import StepState
from runner.plan.model import OnRunnerExit
from tests.builders import Recorder, plan, step
from tests.integration.gateway_setups import RealSetup, ask, real_run, run_one, run_plan, until, value

NOISY = """CREATE FUNCTION noisy(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE '% %', i, repeat('x', 100); RETURN i; END $$"""
SNAPSHOTS = """SELECT pid, xact_start FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND application_name LIKE 'jobplan:%:runner' AND datname = current_database()
    AND backend_xmin IS NOT NULL"""
WAIT_EVENTS = (
    "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find a full queue sooner than a run has to."""
    monkeypatch.setattr("runner.gateway.monitor.LOOK_EVERY", 0.2)


def flood(count: int = 2000) -> str:
    """Return a DO block that says more than the output queue holds."""
    return f"DO $$ BEGIN FOR i IN 1..{count} LOOP RAISE NOTICE '% %', i, repeat('y', 100); END LOOP; END $$"


# --- note 3: a waiting session blocks no other one --------------------------------------------------------------------


async def test_a_session_that_waits_blocks_its_own_worker(database: str) -> None:
    """The trap itself: the index cannot be finished while its launcher waits in one statement."""
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
    blockers = (
        "SELECT pg_blocking_pids(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'pg_background' AND datname = current_database()"
    )
    waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND backend_xmin IS NOT NULL"
    with psycopg.connect(database) as holder, psycopg.connect(database, autocommit=True) as launcher:
        holder.execute("INSERT INTO t VALUES (0)")
        launch = "SELECT pid, cookie FROM pg_background_launch('CREATE INDEX CONCURRENTLY i ON t (i)')"
        handle = launcher.execute(launch.encode()).fetchone()
        wait = asyncio.to_thread(launcher.execute, "SELECT pg_background_wait(%s, %s, 60000)", handle)
        waiting = asyncio.create_task(wait)
        await until(lambda: ask(database, waits, launcher.info.backend_pid))
        await until(lambda: ask(database, blockers) == [([holder.info.backend_pid],)])
        holder.commit()
        await until(lambda: ask(database, blockers) == [([launcher.info.backend_pid],)])
        ask(database, "SELECT pg_cancel_backend(%s)", launcher.info.backend_pid)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await waiting
        await until(lambda: not ask(database, WAIT_EVENTS))
    assert value(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")


async def test_an_index_is_built_concurrently_beside_steps_that_run(database: str) -> None:
    """VACUUM is what CREATE INDEX CONCURRENTLY does not wait for; its launcher is another matter."""
    rows = "SELECT i, repeat('x', 500) AS x FROM generate_series(1, 10000) AS i"
    ask(database, f"CREATE TABLE t AS {rows}")
    settings = {"vacuum_cost_delay": "100ms", "vacuum_cost_limit": "1"}
    for number in range(3):
        ask(database, f"CREATE TABLE slow{number} AS {rows}")
    slow = [step(f"slow{number}", f"VACUUM (FREEZE) slow{number}", settings=settings) for number in range(3)]
    run, record = real_run(database, plan(*slow, step("index", "CREATE INDEX CONCURRENTLY i ON t (i)", timeout=20.0)))
    task = asyncio.create_task(run.execute())
    await until(lambda: record.ends("index"))
    assert record.outcomes() == {"index": ev.Outcome.SUCCEEDED}
    run.interrupt(2)
    assert (await task).exit_code == 130
    assert value(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")


async def test_no_session_of_the_runner_holds_a_snapshot_for_long(database: str) -> None:
    run, record = real_run(database, plan(step("one", "SELECT pg_sleep(3)"), step("two", flood() + "; SELECT 1")))
    task = asyncio.create_task(run.execute())
    held: dict[tuple[Any, ...], list[Any]] = {}
    with psycopg.connect(database, autocommit=True) as witness:
        while not task.done():
            for row in witness.execute(SNAPSHOTS.encode()):
                held.setdefault(row, []).append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.05)
    assert (await task).exit_code == 0
    assert held
    assert max(times[-1] - times[0] for times in held.values()) < 2
    assert not record.of(ev.AttemptLost)


async def test_a_full_queue_is_read_so_that_the_worker_continues(database: str) -> None:
    """Who reads holds a snapshot, and CREATE INDEX CONCURRENTLY waits for it: the reading has to give way."""
    ask(database, f"CREATE TABLE t AS SELECT i FROM generate_series(1, 3000) AS i; {NOISY}")
    result, record = await run_plan(database, plan(step("index", "CREATE INDEX CONCURRENTLY i ON t (noisy(i))")))
    assert value(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")
    assert result.exit_code == 7
    end = record.end("index")
    assert end.outcome is ev.Outcome.UNKNOWN
    assert end.error is not None
    assert "output_buffer" in end.error.message


# --- note 4: output never stops a worker ------------------------------------------------------------------------------


async def test_rows_without_a_reader_stop_a_worker_of_the_extension(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as launcher:
        handle = launcher.execute(
            "SELECT pid, cookie FROM pg_background_launch($$SELECT repeat('x', 1000) FROM generate_series(1, 1000)$$)"
        ).fetchone()
        await until(lambda: ask(database, WAIT_EVENTS) == [("MessageQueuePutMessage",)])
        launcher.execute("SELECT pg_background_detach(%s, %s)", handle)
    await until(lambda: not ask(database, WAIT_EVENTS))


async def test_a_hundred_megabytes_of_rows_stay_in_the_worker(dsn: str) -> None:
    text = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"
    result, record = await run_plan(dsn, plan(step("rows", text), step("after", "SELECT 1", needs=["rows"])))
    assert result.exit_code == 0
    end = record.end("rows")
    assert (end.command_tag, end.row_count) == ("SELECT", 100_000)


@pytest.mark.parametrize(
    ("text", "tag", "rows"),
    [
        ("INSERT INTO t SELECT g FROM generate_series(1, 20000) AS g RETURNING i, repeat('x', 100)", "INSERT", 20_000),
        ("UPDATE t SET i = i + 1 RETURNING *", "UPDATE", 1),
        ("DELETE FROM t RETURNING *", "DELETE", 1),
        pytest.param(
            "MERGE INTO t USING (SELECT 2 AS i) AS s ON t.i = s.i WHEN MATCHED THEN DELETE RETURNING t.i",
            "MERGE",
            0,
            marks=pytest.mark.pg(">= 17", reason="MERGE … RETURNING"),
        ),
        ("VALUES (1), (2)", "SELECT", 2),
        ("TABLE t", "SELECT", 1),
        ("WITH w AS (INSERT INTO t VALUES (7), (8) RETURNING i) SELECT * FROM w -- the end", "SELECT", 2),
        ("EXPLAIN SELECT 1", "EXPLAIN", None),
        ("SHOW work_mem;", "SHOW", None),
        ("SELECT pg_notify('c', 'x')", "SELECT", 1),
        ("PREPARE p AS SELECT i FROM t; EXECUTE p", "SELECT", 1),
        ("CREATE TABLE made AS SELECT * FROM t", "SELECT", 1),
        ("VACUUM t", "VACUUM", None),
        ("DO $$ BEGIN END $$", "DO", None),
    ],
)
async def test_the_tag_and_the_count_are_those_of_the_plans_own_statement(
    database: str, text: str, tag: str, rows: int | None
) -> None:
    ask(database, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
    async with RealSetup(database, "notes-tag") as setup:
        end = await run_one(setup, text)
    assert end.confirmed
    assert end.command_tag == tag
    if rows is not None:
        assert end.row_count == rows


async def test_messages_that_cannot_be_turned_off_are_drained(database: str) -> None:
    """VACUUM VERBOSE says INFO whatever client_min_messages is; here it says more than the queue holds."""
    steps = (step("vacuum", "VACUUM (VERBOSE)", output_buffer=8192, settings={"client_min_messages": "error"}),)
    result, record = await run_plan(database, plan(*steps))
    assert result.exit_code == 0
    end = record.end("vacuum")
    assert end.command_tag == "VACUUM"
    assert {notice.severity for notice in record.notices("vacuum")} == {"INFO"}
    assert sum(len(notice.message) for notice in record.notices("vacuum")) > 8192


async def test_what_is_too_much_to_keep_is_counted(dsn: str) -> None:
    result, record = await run_plan(dsn, plan(step("flood", flood(3000))))
    assert result.exit_code == 0
    kept = record.notices("flood")
    assert len(kept) + record.end("flood").notices_dropped == 3000
    assert [notice.message.split()[0] for notice in kept] == [str(n) for n in range(1, len(kept) + 1)]


async def test_a_flooded_step_that_fails_and_one_that_is_too_slow_are_distinguished(dsn: str) -> None:
    fails = flood().replace("END $$", "RAISE EXCEPTION 'no' USING ERRCODE = 'JP002'; END $$")
    slow = flood().replace("END $$", "PERFORM pg_sleep(60); END $$")
    steps = (step("fails", fails), step("slow", slow, timeout=2.0))
    _, record = await run_plan(dsn, plan(*steps))
    assert record.outcomes() == {"fails": ev.Outcome.FAILED, "slow": ev.Outcome.TIMED_OUT}
    error = record.end("fails").error
    assert error is not None
    assert (error.sqlstate, error.message) == ("JP002", "no")


async def test_a_flooded_step_can_be_cancelled(dsn: str) -> None:
    run, record = real_run(dsn, plan(step("a", flood().replace("END $$", "PERFORM pg_sleep(60); END $$"))))
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning))
    await until(lambda: ask(dsn, WAIT_EVENTS) == [("MessageQueuePutMessage",)])
    await until(lambda: ask(dsn, WAIT_EVENTS) == [("PgSleep",)])
    run.interrupt(2)
    assert (await task).exit_code == 130
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED}


async def test_a_flooded_step_that_is_not_awaited_is_detached_and_commits(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    text = flood().replace("END $$", "INSERT INTO witness VALUES (1); END $$")
    result, record = await run_plan(database, plan(step("d", text, detach=True), step("w", "SELECT pg_sleep(1.5)")))
    assert result.exit_code == 0
    assert record.outcomes() == {"d": ev.Outcome.DETACHED, "w": ev.Outcome.SUCCEEDED}
    await until(lambda: value(database, "SELECT count(*) FROM witness") == 1)


async def test_a_flooded_step_that_is_detached_while_it_is_read_continues(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    text = flood().replace("END $$", "PERFORM pg_sleep(1.5); INSERT INTO witness VALUES (1); END $$")
    run, record = real_run(database, plan(step("a", text, on_runner_exit=OnRunnerExit.DETACH)), run_id="notes-leave")
    task = asyncio.create_task(run.execute())
    await until(lambda: ask(database, WAIT_EVENTS) == [("PgSleep",)])
    run.interrupt(2)
    assert (await task).exit_code == 130
    assert record.outcomes() == {"a": ev.Outcome.DETACHED}
    assert run.state.records["a"].state is StepState.DETACHED
    await until(lambda: value(database, "SELECT count(*) FROM witness") == 1)


async def test_the_outcome_of_a_flooded_call_with_a_row_of_its_own_is_not_lost(database: str) -> None:
    """A procedure that commits must be alone, so its row cannot be kept in the worker; it is read with exact types."""
    ask(database, "CREATE TYPE mood AS ENUM ('fine'); CREATE TABLE witness (n int)")
    loop = "FOR k IN 1..2000 LOOP RAISE NOTICE '% %', k, repeat('y', 100); END LOOP;"
    body = f"INSERT INTO witness VALUES (1); COMMIT; a := 1; c := 2.5; d := 'fine'; e := '{{1,2}}'; {loop}"
    arguments = "OUT a int, INOUT b name, OUT c numeric(10, 2), OUT d mood, OUT e int[]"
    ask(database, f"CREATE PROCEDURE p({arguments}) LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    steps = (step("call", "CALL p(NULL, 'x', NULL, NULL, NULL)"),)
    result, record = await run_plan(database, plan(*steps))
    assert record.outcomes() == {"call": ev.Outcome.SUCCEEDED}
    assert result.exit_code == 0
    assert record.end("call").notices_dropped > 0


# --- note 11: notices -------------------------------------------------------------------------------------------------


def messages(record: Recorder, key: str) -> list[tuple[str, str]]:
    """Return a step's notices as pairs."""
    return [(notice.severity, notice.message) for notice in record.notices(key)]


async def test_notices_arrive_however_the_step_ends(database: str) -> None:
    ask(
        database,
        "CREATE FUNCTION nothing() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'from void'; END $$; "
        "CREATE PROCEDURE gives(OUT a int) LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'from call'; a := 1; END $$",
    )
    steps = (
        step("do", "DO $$ BEGIN RAISE INFO 'i'; RAISE WARNING 'w'; RAISE LOG 'l'; END $$"),
        step("fails", "DO $$ BEGIN RAISE NOTICE 'before'; PERFORM 1/0; END $$"),
        step("void", "SELECT nothing()"),
        step("call", "CALL gives(NULL)"),
        step("times_out", "DO $$ BEGIN RAISE NOTICE 'early'; PERFORM pg_sleep(60); END $$", timeout=0.3),
    )
    _, record = await run_plan(database, plan(*steps))
    assert messages(record, "do") == [("INFO", "i"), ("WARNING", "w")]
    assert messages(record, "fails") == [("NOTICE", "before")]
    assert messages(record, "void") == [("NOTICE", "from void")]
    assert messages(record, "call") == [("NOTICE", "from call")]
    assert messages(record, "times_out") == [("NOTICE", "early")]
    assert record.outcomes()["void"] is ev.Outcome.SUCCEEDED


async def test_notify_reaches_listening_sessions_when_the_step_has_committed(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("LISTEN news")
        steps = (step("fails", "NOTIFY news, 'never'; SELECT 1/0"), step("tells", "NOTIFY news, 'told'"))
        await run_plan(database, plan(*steps, slots=1))
        payloads = [notification.payload for notification in listener.notifies(timeout=5, stop_after=1)]
    assert payloads == ["told"]
