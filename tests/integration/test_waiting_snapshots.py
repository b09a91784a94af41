"""pg_background.md#waiting-holds-a-snapshot: what our sessions hold while they wait, read from their statements and
from the server itself.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runner.engine import events as ev
from runner.gateway.polling import FIRST_SLICE, LEAST_SLICE, SLICE
from runner.gateway.session import Pipeline
from runner.identity import runner_name
from tests.builders import plan, step
from tests.integration.gateway_setups import (
    GATE,
    LAUNCHERS,
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

GATEWAY = Path(__file__).resolve().parents[2] / "runner" / "gateway"
LONG = "SELECT pg_sleep(120)"
LOUD = "DO $$ BEGIN FOR i IN 1..2000 LOOP RAISE NOTICE '% %', i, repeat('y', 100); END LOOP; END $$"


def blocks() -> dict[str, str]:
    """Return the text of every named statement of the gateway."""
    found: dict[str, str] = {}
    for file in GATEWAY.glob("*.sql"):
        for block in file.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, body = block.partition("\n")
            found[name.strip()] = re.sub(r"(?m)^--.*$", "", body)
    return found


def waits(text: str, parameters: Sequence[str]) -> list[int]:
    """Return for how many milliseconds a statement waits in the server, one number for each call."""
    arguments = re.findall(r"pg_background_wait\([^;]*?, *(\$\d+|\d+)(?:::int4)?\)", text)
    assert len(arguments) == text.count("pg_background_wait(")
    return [int(parameters[int(one[1:]) - 1] if one.startswith("$") else one) for one in arguments]


def all_waits(statements: Sequence[tuple[str, tuple[str, ...]]]) -> list[int]:
    """Return the waits of all these statements."""
    texts = blocks()
    return [ms for name, parameters in statements for ms in waits(texts[name.partition(":")[0]], parameters)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Keep every named statement that a session sends, with its parameters."""
    kept: list[tuple[str, tuple[str, ...]]] = []
    execute = Pipeline.execute

    def keeping(self: Pipeline, name: str, parameters: Sequence[str]) -> None:
        kept.append((name, tuple(parameters)))
        execute(self, name, parameters)

    monkeypatch.setattr(Pipeline, "execute", keeping)
    return kept


def test_no_statement_sleeps_or_waits_in_the_server_but_by_the_extensions_bounded_wait() -> None:
    for name, text in blocks().items():
        assert not re.search(r"pg_sleep|pg_background_(run|outcome|drain|wait_any|purge)\b", text), name
        assert len(re.findall(r"pg_background_wait\(", text)) == len(re.findall(r"pg_background_wait", text)), name


async def test_no_statement_of_a_run_waits_in_the_server_for_longer_than_a_slice(
    database: str, sent: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.gateway.monitor.LOOK_EVERY", 0.2)
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i")
    steps = (
        *(step(f"fast{n}", "SELECT 1") for n in range(20)),
        step("slow", "SELECT pg_sleep(1.5)"),
        step("settings", "SELECT pg_sleep(0.3)", settings={"work_mem": "8MB"}),
        step("rows", "SELECT 1 AS a", capture_rows=1),
        step("fails", "SELECT 1/0"),
        step("too_slow", LONG, timeout=0.3),
        step("loud", LOUD),
        step("index", "CREATE INDEX CONCURRENTLY i ON t (i)", needs=["rows"]),
        step("reindex", "REINDEX TABLE CONCURRENTLY t", needs=["index"]),
        step("detached", "SELECT pg_sleep(30)", detach=True, needs=["reindex"]),
    )
    _, record = await run_plan(database, plan(*steps, slots=6))
    assert record.outcomes()["reindex"] is ev.Outcome.SUCCEEDED
    texts = blocks()
    waited = [(name, ms) for name, parameters in sent for ms in waits(texts[name.partition(":")[0]], parameters)]
    assert {"launch_at_once", "wait", "follow", "detach_worker"} <= {name for name, _ in waited}
    assert {(name, ms) for name, ms in waited if not 0 < ms <= SLICE} == set()


@pytest.mark.parametrize("sql", ["CREATE INDEX CONCURRENTLY i ON t (i)", "REINDEX TABLE CONCURRENTLY t"])
@pytest.mark.parametrize("settings", [{}, {"maintenance_work_mem": "32MB"}])
async def test_a_step_that_waits_for_snapshots_is_never_waited_for_in_the_server(
    database: str, sent: list[tuple[str, tuple[str, ...]]], sql: str, settings: dict[str, str]
) -> None:
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i")
    async with RealSetup(database, "waits-concurrently") as setup:
        assert (await run_one(setup, sql, settings=settings)).confirmed
        during = all_waits(sent)
        sent.clear()
        assert (await run_one(setup, "SELECT 1", "after")).confirmed
        after = all_waits(sent)
    assert set(during) == {LEAST_SLICE}
    assert FIRST_SLICE in after


async def test_no_other_session_of_the_run_waits_in_the_server_beside_a_step_that_waits_for_snapshots(
    database: str, sent: list[tuple[str, tuple[str, ...]]]
) -> None:
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i")
    async with RealSetup(database, "waits-beside") as setup:
        with psycopg.connect(database) as holder:
            holder.execute("INSERT INTO t VALUES (0)")
            index = await Follower(setup, "index", "CREATE INDEX CONCURRENTLY i ON t (i)").running()
            sent.clear()
            assert (await run_one(setup, "SELECT 1", "beside")).confirmed
            assert (await run_one(setup, "SELECT pg_sleep(0.2)", "slower")).confirmed
            beside = all_waits(sent)
            holder.rollback()
        assert (await index.wait_until_ended()).confirmed
    assert set(beside) == {LEAST_SLICE}


async def test_sessions_hardly_ever_hold_a_snapshot_while_steps_run(database: str) -> None:
    """Each held one in all looks before; what is left are statements of a tenth of a millisecond."""
    run_id = "waits-snapshots"
    run, record = real_run(database, plan(*(step(f"s{n}", "SELECT pg_sleep(4)") for n in range(3))), run_id=run_id)
    task = asyncio.create_task(run.execute())
    await until(lambda: len(record.of(ev.AttemptRunning)) == 3)
    looks = held = 0
    query = "SELECT count(backend_xmin), count(*) FROM pg_stat_activity WHERE application_name = %s"
    with psycopg.connect(database, autocommit=True) as witness:
        while not record.of(ev.AttemptFinished):
            ((snapshots, sessions),) = witness.execute(query.encode(), (runner_name(run_id),)).fetchall()
            held += bool(snapshots)
            looks += 1
            assert sessions == 4
            await asyncio.sleep(0.01)
    assert (await task).exit_code == 0
    assert looks > 20
    assert held / looks < 0.25


async def test_no_session_sits_idle_in_a_transaction(database: str) -> None:
    run_id = "waits-idle"
    steps = (step("settings", GATE, settings={"work_mem": "8MB"}), step("fails", "SELECT 1/0"))
    run, record = real_run(database, plan(*steps), run_id=run_id)
    query = """SELECT pid, xact_start FROM pg_stat_activity
      WHERE application_name = %s AND state LIKE 'idle in transaction%%'"""
    seen: Counter[tuple[Any, ...]] = Counter()
    with psycopg.connect(database, autocommit=True) as witness, open_transaction(database, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning, "settings") and record.of(ev.AttemptFinished, "fails"))
        for _ in range(40):
            seen.update(witness.execute(query.encode(), (runner_name(run_id),)).fetchall())
            await asyncio.sleep(0.02)
    await task
    # one that a look finds is in between two statements of a round trip, for longer on a busy machine
    assert max(seen.values(), default=0) < 20


# --- every way to end is noticed, however the session waits -----------------------------------------------------------


@pytest.fixture(params=["in the server", "in the runner", "in the launch"])
def _rhythm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait in one way only, from the launch to the end."""
    if request.param == "in the launch":
        monkeypatch.setattr("runner.gateway.polling.Rhythm.first_slices", lambda _: (LEAST_SLICE, 12))
    if request.param == "in the server":
        monkeypatch.setattr("runner.gateway.polling.IN_SERVER", 3600.0)
    else:
        monkeypatch.setattr("runner.gateway.polling.IN_SERVER", 0.0)
        monkeypatch.setattr("runner.gateway.polling.FIRST_SLICE", LEAST_SLICE)


@pytest.mark.usefixtures("_rhythm")
@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT pg_sleep(0.3)", "VACUUM", "SELECT 1; SELECT 2"])
async def test_a_success_is_noticed(dsn: str, sql: str) -> None:
    async with RealSetup(dsn, "waits-success") as setup:
        end = await run_one(setup, sql)
        assert end.confirmed
        assert end.started_at is not None
        assert end.finished_at is not None
        assert not setup.alive()
        assert setup.connections() == 2


@pytest.mark.usefixtures("_rhythm")
@pytest.mark.parametrize("sql", ["SELECT 1/0", "SELECT 1/(pg_sleep(0.3) IS NULL)::int"])
async def test_a_failure_is_noticed_with_its_error(dsn: str, sql: str) -> None:
    async with RealSetup(dsn, "waits-failure") as setup:
        end = await run_one(setup, sql)
        assert end.error is not None
        assert end.error.sqlstate == "22012"
        assert not end.confirmed


@pytest.mark.usefixtures("_rhythm")
async def test_a_timeout_is_noticed(dsn: str) -> None:
    async with RealSetup(dsn, "waits-timeout") as setup:
        end = await run_one(setup, LONG, timeout=0.2)
        assert end.error is not None
        assert end.error.sqlstate == "57014"


@pytest.mark.usefixtures("_rhythm")
async def test_a_worker_that_another_user_terminates_is_noticed(dsn: str) -> None:
    async with RealSetup(dsn, "waits-killed") as setup:
        follower = await Follower(setup, "step", LONG).running()
        assert ask(dsn, "SELECT pg_terminate_backend(%s)", follower.seen[0].pid) == [(True,)]
        end = await follower.wait_until_ended()
        assert not end.confirmed
        assert not end.lost
        assert end.error is not None


@pytest.mark.usefixtures("_rhythm")
@pytest.mark.pg(">= 17", reason="transaction_timeout")
async def test_a_worker_that_ends_without_a_word_is_no_success(dsn: str) -> None:
    """It says nothing of its end itself: completed, no error, and no evidence
    (pg_background.md#completed-is-not-success).
    """
    async with RealSetup(dsn, "waits-silent") as setup:
        end = await run_one(setup, LONG, settings={"transaction_timeout": "300ms"})
        assert not end.confirmed
        assert not setup.alive()


@pytest.mark.usefixtures("_rhythm")
async def test_statements_that_another_session_cancels_lose_nothing(dsn: str) -> None:
    async with RealSetup(dsn, "waits-struck") as setup:
        await run_one(setup, "SELECT 1", "first")  # its session is there before anything is struck
        launch = asyncio.create_task(Follower(setup, "step", "SELECT pg_sleep(0.5)").launch())
        while not launch.done():
            signal_sessions(dsn, setup.run_id, LAUNCHERS, "pg_cancel_backend")
            await asyncio.sleep(0.002)
        follower = (await launch).follow()
        while not follower.task.done():
            signal_sessions(dsn, setup.run_id, LAUNCHERS, "pg_cancel_backend")
            await asyncio.sleep(0.05)
        end = await follower.wait_until_ended()
        # cancelled before the worker had been requested: then nothing is known, and nothing is claimed
        assert end.confirmed or end.lost
        assert (await run_one(setup, "SELECT 1", "after")).confirmed


@pytest.mark.usefixtures("_rhythm")
async def test_a_cancel_is_carried_out_and_noticed(dsn: str) -> None:
    async with RealSetup(dsn, "waits-cancel") as setup:
        follower = (await Follower(setup, "step", LONG).launch()).follow()
        follower.handle.cancel()
        end = await follower.wait_until_ended()
        assert end.error is not None
        assert end.error.sqlstate == "57014"
        assert not setup.alive()


@pytest.mark.usefixtures("_rhythm")
async def test_a_detach_is_carried_out_and_the_worker_continues(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    async with RealSetup(database, "waits-detach") as setup:
        follower = await Follower(setup, "step", "SELECT pg_sleep(1); INSERT INTO witness VALUES (1)").launch()
        follower.follow().handle.detach()
        end = await follower.wait_until_ended()
        assert end.detached
        assert end.worker is not None
        assert (await run_one(setup, "SELECT 1", "after")).confirmed
        await until(lambda: value(database, "SELECT count(*) FROM witness") == 1)


@pytest.mark.usefixtures("_rhythm")
async def test_a_session_that_is_lost_leaves_a_worker_that_is_followed(dsn: str) -> None:
    async with RealSetup(dsn, "waits-lost") as setup:
        follower = await Follower(setup, "step", "SELECT pg_sleep(1)").running()
        assert signal_sessions(dsn, setup.run_id, LAUNCHERS)
        end = await follower.wait_until_ended()
        assert end.lost
        assert end.worker == follower.seen[0]
        assert follower.lost


@pytest.mark.usefixtures("_rhythm")
async def test_a_full_queue_is_noticed_and_read(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.monitor.LOOK_EVERY", 0.2)
    async with RealSetup(dsn, "waits-loud") as setup:
        end = await run_one(setup, LOUD)
        assert end.confirmed
        assert len(end.notices) + end.notices_dropped == 2000


@pytest.mark.usefixtures("_rhythm")
async def test_no_fast_end_is_missed(dsn: str) -> None:
    """A launch may return a garbage pid (pg_background.md#one-worker-per-session): the look asks the session's only
    handle instead.
    """
    steps = [step(f"s{n}", "SELECT 1" if n % 5 else "SELECT 1/0") for n in range(200)]
    result, record = await run_plan(dsn, plan(*steps, slots=4))
    assert result.exit_code == 1
    for n, outcome in enumerate(record.outcomes()[f"s{n}"] for n in range(200)):
        assert outcome is (ev.Outcome.SUCCEEDED if n % 5 else ev.Outcome.FAILED)
    assert not record.of(ev.AttemptLost)


async def test_no_worker_that_has_ended_keeps_the_others_from_waiting(database: str) -> None:
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 10) AS i; CREATE TYPE pair AS (a int, b int)")
    async with RealSetup(database, "waits-forgets") as setup:
        await run_one(setup, "CREATE INDEX CONCURRENTLY i ON t (i)", "a", rows=1)
        await run_one(setup, "REINDEX TABLE CONCURRENTLY nowhere", "b")
        await run_one(setup, "WHAT IS THIS", "c", rows=1)
        await run_one(setup, "SELECT ROW(1, 2)::pair, ROW(1, 2)", "d", rows=1)
        await run_one(setup, "REINDEX TABLE CONCURRENTLY t", "e", settings={"work_mem": "nonsense"})
        left = await Follower(setup, "f", LONG).running()
        left.handle.detach()
        assert (await left.wait_until_ended()).detached
        assert not setup.gateway._rhythm.snapshots_matter
        assert setup.gateway._rhythm.first_slices()[0] == FIRST_SLICE
