"""How pg_background behaves: what identifies a worker, which session has its handle, and what ends it."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import runner
from runner.engine import events as ev
from runner.gateway.queries import query
from runner.gateway.session import Session
from runner.gateway.worker_follower import WorkerSearch
from tests.builders import plan, step
from tests.integration.gateway_setups import (
    GATE,
    Follower,
    RealSetup,
    ask,
    open_transaction,
    run_one,
    run_plan,
    until,
    value,
)

ROOT = Path(runner.__file__).parent
LONG = "SELECT pg_sleep(120)"


# --- note 1: handles belong to a session, identity does not -----------------------------------------------------------


def test_another_session_knows_nothing_of_a_handle(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as launcher, psycopg.connect(dsn, autocommit=True) as other:
        handle = launcher.execute("SELECT pid, cookie FROM pg_background_launch('SELECT pg_sleep(1)')").fetchone()
        assert handle is not None
        assert launcher.execute("SELECT count(*) FROM pg_background_list").fetchone() == (1,)
        assert other.execute("SELECT count(*) FROM pg_background_list").fetchone() == (0,)
        with pytest.raises(psycopg.Error):
            other.execute("SELECT pg_background_wait(%s, %s, 100)", handle)


@pytest.mark.parametrize("key", ["step", "s" * 90, "vacuum[größe]", "vacuum[日本語]", "vacuum[with 'quotes' and %]"])
async def test_a_worker_is_found_and_stopped_by_its_name(dsn: str, key: str) -> None:
    async with RealSetup(dsn, "notes-name") as setup:
        follower = await Follower(setup, key, LONG).running()
        worker = follower.seen[0]
        names = ask(dsn, "SELECT application_name FROM pg_stat_activity WHERE pid = %s", worker.pid)
        assert names == [(worker.application_name,)] == [(follower.name,)]
        follower.handle.cancel()
        await follower.wait_until_ended()


async def test_a_signal_needs_pid_and_start_together_in_the_workers_database(dsn: str) -> None:
    async with RealSetup(dsn, "notes-triple") as setup:
        follower = await Follower(setup, "step", LONG).running()
        worker = follower.seen[0]
        cancel = re.sub(rb"\$\d", b"%s", query("cancel"))
        with psycopg.connect(dsn, autocommit=True) as other:
            # No order of dates and no time zone of who asks may change what a start means.
            other.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
            text = b"%s".join(re.split(rb"\$\d", query("cancel")))
            wrong = [
                (os.getpid(), worker.backend_start),
                (worker.pid, "2001-01-01T00:00:00.000000Z"),
            ]
            for pid, start in wrong:
                assert other.execute(text, (str(pid), start)).fetchall() == []
            with psycopg.connect(make_conninfo(dsn, dbname="postgres")) as elsewhere:
                assert elsewhere.execute(text, (str(worker.pid), worker.backend_start)).fetchall() == []
            assert setup.alive() == {follower.name}
            right = (str(worker.pid), worker.backend_start)
            assert other.execute(cancel, right).fetchall() == [(True,)]
        assert (await follower.wait_until_ended()).error is not None


# --- note 2: one launcher session for each worker ---------------------------------------------------------------------


async def test_no_outcome_is_lost_or_mixed_up_in_a_thousand_fast_steps(database: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    number = 1000
    steps = [
        step(f"s{n}", f"INSERT INTO witness VALUES ({n})" + ("; SELECT 1/0" if n % 7 == 0 else ""))
        for n in range(number)
    ]
    result, record = await run_plan(database, plan(*steps, slots=4))
    witnesses = {n for (n,) in ask(database, "SELECT n FROM witness")}
    outcomes = record.outcomes()
    assert len(outcomes) == number
    assert witnesses == {n for n in range(number) if n % 7}
    for n in range(number):
        expected = ev.Outcome.SUCCEEDED if n in witnesses else ev.Outcome.FAILED
        assert outcomes[f"s{n}"] is expected, n
    assert result.exit_code == 1
    sqlstates = {end.error.sqlstate for end in record.of(ev.AttemptFinished) if end.error is not None}
    assert sqlstates == {"22012"}


async def test_a_garbage_pid_identifies_no_other_session(dsn: str) -> None:
    async with RealSetup(dsn, "notes-pid") as setup:
        one = await Follower(setup, "one", LONG).running()
        two = await Follower(setup, "two", LONG).running()
        monitor = setup.gateway._monitor
        since = two.seen[0].backend_start
        for pid in (one.seen[0].pid, 0):
            found = await monitor.identify(WorkerSearch(name=two.name, pid=pid, since=since))
            assert found is not None
            assert found[0] == two.seen[0]
        setup.end()
        await one.wait_until_ended()
        await two.wait_until_ended()


async def test_no_session_ever_tracks_two_workers(new_role: Callable[..., str], database: str) -> None:
    """With room for one handle in a session, a handle that is left behind would refuse the next launch."""
    role_dsn = new_role("", "pg_background.max_workers = 1")
    kinds = [
        "SELECT 1",
        "SELECT 1/0",
        "SELECT 1/(2 - i) FROM generate_series(1, 5) AS i",
        "DO $$ BEGIN RAISE NOTICE 'n'; END $$",
        "COPY (SELECT 1) TO STDOUT",
        "CALL gives(NULL)",
        "no SQL at all",
        "SELECT 1; SELECT 2",
    ]
    ask(database, "CREATE PROCEDURE gives(OUT a int) LANGUAGE sql AS 'SELECT 1'")
    steps = [step(f"s{n}", kinds[n % len(kinds)]) for n in range(5 * len(kinds))]
    _, record = await run_plan(role_dsn, plan(*steps, slots=2))
    ends = record.of(ev.AttemptFinished)
    assert len(ends) == len(steps)
    assert not record.of(ev.CapacityShort)
    by_kind = {
        kind: {record.end(f"s{n}").outcome for n in range(i, len(steps), len(kinds))} for i, kind in enumerate(kinds)
    }
    bad = {"SELECT 1/0", "SELECT 1/(2 - i) FROM generate_series(1, 5) AS i", "no SQL at all"}
    assert by_kind == {kind: {ev.Outcome.FAILED if kind in bad else ev.Outcome.SUCCEEDED} for kind in kinds}


# --- notes 6 and 8: the launcher's end does not end the worker, its timeout does --------------------------------------

RUNNER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from tests.builders import plan, step
from tests.integration.gateway_setups import GATE, run_plan
steps = (
    step("late", "INSERT INTO witness VALUES ('late'); SELECT pg_sleep(120)", timeout=4.0),
    step("soon", GATE + "; INSERT INTO witness VALUES ('soon')", timeout=60.0),
)
asyncio.run(run_plan(sys.argv[1], plan(*steps), run_id="notes-killed"))
"""


async def test_workers_outlive_a_killed_runner_but_not_their_timeouts(database: str) -> None:
    ask(database, "CREATE TABLE witness (who text)")
    setup = RealSetup(database, "notes-killed")
    with open_transaction(database, GATE):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, database, str(ROOT.parent))
        await until(lambda: len(setup.alive()) == 2)
        process.kill()
        await process.wait()
        assert len(setup.alive()) == 2
    await until(lambda: setup.connections() == 0)
    await until(lambda: not setup.alive())
    assert ask(database, "SELECT who FROM witness") == [("soon",)]


# --- note 12: a row that exists exactly if the step committed ---------------------------------------------------------


async def test_a_statement_before_the_plans_own_shares_its_fate_and_leaves_its_tag(database: str) -> None:
    ask(database, "CREATE TABLE ledger (step text); CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2), (3)")
    async with RealSetup(database, "notes-ledger") as setup:
        end = await run_one(setup, "INSERT INTO ledger VALUES ('good');\nUPDATE t SET i = i + 1")
        assert (end.confirmed, end.command_tag, end.row_count) == (True, "UPDATE", 3)
        end = await run_one(setup, "INSERT INTO ledger VALUES ('rows');\nDELETE FROM t WHERE i > 2 RETURNING i")
        assert (end.confirmed, end.command_tag, end.row_count) == (True, "DELETE", 2)
        end = await run_one(setup, "INSERT INTO ledger VALUES ('bad');\nSELECT 1/0")
        assert not end.confirmed
        assert ask(database, "SELECT step FROM ledger ORDER BY step") == [("good",), ("rows",)]


# --- note 13: what a step costs ---------------------------------------------------------------------------------------


async def test_a_step_that_ends_at_once_takes_one_round_trip(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RealSetup(dsn, "notes-trips") as setup:
        await run_one(setup, "SELECT 1")
        trips: list[tuple[str, ...]] = []

        def counted(run: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
            async def counting(self: Session, *statements: tuple[str, tuple[str, ...]], **keys: Any) -> object:
                trips.append(tuple(name for name, _ in statements))
                return await run(self, *statements, **keys)

            return counting

        monkeypatch.setattr(Session, "run", counted(Session.run))
        monkeypatch.setattr(Session, "run_together", counted(Session.run_together))
        counts = []
        for number in range(30):
            trips.clear()
            assert (await run_one(setup, "SELECT 1", f"s{number}")).confirmed
            counts.append(len([names for names in trips if names != ("workers",)]))
        assert min(counts) == 1


# --- note 14: SIGKILL is not used ------------------------------------------------------------------------------------


def test_the_only_signal_is_that_of_the_cancel_query() -> None:
    blocks = (ROOT / "gateway" / "queries.sql").read_text(encoding="utf-8").split("-- name: ")[1:]
    statements = {block.split()[0]: re.sub(r"(?m)^--.*", "", block.split("\n", 1)[1]) for block in blocks}
    signalling = {name for name, text in statements.items() if re.search(r"terminate|cancel_|_kill", text)}
    assert signalling == {"cancel"}


def test_no_module_but_the_embedded_server_sends_a_signal() -> None:
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "embedded"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            assert name not in {"kill", "killpg", "SIGKILL", "send_signal", "pidfd_send_signal"}, path


def test_the_server_has_not_crashed(dsn: str) -> None:
    """A worker that is killed takes every session down with it; this one has been up since before this test ran."""
    assert value(dsn, "SELECT pg_postmaster_start_time() < now()")
