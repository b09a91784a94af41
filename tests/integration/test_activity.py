"""What a real server shows of workers that another session has started, and what stopping them leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from runner.engine import events as ev
from runner.engine.events import Worker
from runner.engine.ports import CancelRequest
from runner.engine.server_activity import Activity, LiveRun, LiveWorker
from runner.errors import ConnectionFailedError
from runner.gateway.cancel_requests import payload_of
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.observer import APPLICATION_NAME, Observer, SignalRefusedError, Stopper
from runner.identity import runner_name
from tests.builders import looked_label, plan, step
from tests.integration.gateway_setups import GATE, Follower, RealSetup, ask, open_transaction, real_run, run_plan, until

LONG = "SELECT pg_sleep(120)"


@pytest.fixture(autouse=True)
def answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runs here have no runner that could answer, and it is not waited for long."""
    monkeypatch.setattr("runner.gateway.observer.ANSWER_WITHIN", 2.0)


@contextlib.asynccontextmanager
async def observing(dsn: str) -> AsyncIterator[Observer]:
    """Open an observer and close it."""
    observer = await Observer.connect(dsn)
    try:
        yield observer
    finally:
        await observer.close()


async def running(setup: RealSetup, key: str, sql: str = LONG, **keys: object) -> Follower:
    """Return a follower of a labelled worker that runs."""
    label = looked_label(setup.run_id, key, **keys)
    return await Follower(setup, key, sql, label=label).running()


def of(activity: Activity, run: str) -> LiveRun:
    """Return what a look says of this run."""
    (found,) = [one for one in activity.runs if one.run == run]
    return found


async def looked(observer: Observer, run: str, true: Callable[[LiveRun], object]) -> LiveRun:
    """Look until it is so."""
    async with asyncio.timeout(30):
        while True:
            found = [one for one in (await observer.look()).runs if one.run == run]
            if found and true(found[0]):
                return found[0]
            await asyncio.sleep(0.05)


def only(run: LiveRun) -> LiveWorker:
    """Return the only worker."""
    (worker,) = run.workers
    return worker


async def test_a_look_needs_no_extension(new_database: Callable[[], str]) -> None:
    bare = new_database()
    ask(bare, "DROP EXTENSION pg_background")
    async with observing(bare) as observer:
        activity = await observer.look()
    assert activity.version.split(".")[0].isdigit()
    assert activity.sees_all


async def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with pytest.raises(ConnectionFailedError):
        await Observer.connect("host=127.0.0.1 port=1")


async def test_worker_label_state_and_runner_are_seen_from_another_database(dsn: str, database: str) -> None:
    async with RealSetup(dsn, "live-see") as setup, observing(database) as observer:
        await running(setup, "größe[*/]")
        run = await looked(observer, setup.run_id, lambda run: only(run).label is not None)
        worker = only(run)
        assert (run.alive, worker.step, worker.label) == (True, "größe[*/]", looked_label(setup.run_id, "größe[*/]"))
        assert (worker.query, worker.state, worker.wait) == (LONG, "active", "Timeout: PgSleep")
        assert run.database == worker.database != (await observer.look()).database
        assert worker.deadline is not None


async def test_a_worker_that_waits_names_the_session_that_blocks_it(database: str) -> None:
    ask(database, "CREATE TABLE t (i int)")
    async with RealSetup(database, "live-lock") as setup, observing(database) as observer:
        with psycopg.connect(database, application_name="the app") as other:
            other.execute("LOCK TABLE t IN SHARE MODE")
            await running(setup, "a", "INSERT INTO t VALUES (1)")
            run = await looked(observer, setup.run_id, lambda run: only(run).blocked_by)
            (by,) = only(run).blocked_by
            assert (by.pid, by.name, by.state, by.query) == (
                other.info.backend_pid,
                "the app",
                "idle in transaction",
                "LOCK TABLE t IN SHARE MODE",
            )
            assert by.lock == "RowExclusiveLock on public.t"
            assert by.seconds is not None


async def test_sessions_that_a_worker_blocks_are_listed(database: str) -> None:
    ask(database, "CREATE TABLE t (i int)")
    async with RealSetup(database, "live-holds") as setup, observing(database) as observer:
        await running(setup, "a", "LOCK TABLE t; SELECT pg_sleep(120)")
        other = await psycopg.AsyncConnection.connect(database, application_name="the app", autocommit=True)
        async with other:
            waiting = asyncio.create_task(other.execute("SELECT * FROM t"))
            run = await looked(observer, setup.run_id, lambda run: only(run).blocks)
            (waiter,) = only(run).blocks
            assert (waiter.pid, waiter.name, waiter.lock) == (
                other.info.backend_pid,
                "the app",
                "AccessShareLock on public.t",
            )
            setup.end()
            await waiting


def building(run: LiveRun) -> list[LiveWorker]:
    """Return the workers that build an index."""
    return [one for one in run.workers if one.progress is not None and one.progress.command.startswith("CREATE")]


async def test_progress_of_maintenance_commands(database: str) -> None:
    ask(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 50000) AS i")
    ask(database, "UPDATE t SET i = i")
    async with RealSetup(database, "live-progress") as setup, observing(database) as observer:
        slow = {"vacuum_cost_delay": "100", "vacuum_cost_limit": "1"}
        await Follower(setup, "v", "VACUUM t", label=looked_label(setup.run_id, "v"), settings=slow).running()
        run = await looked(observer, setup.run_id, lambda run: only(run).progress)
        reported = only(run).progress
        assert reported is not None
        assert (reported.command, reported.relation, reported.unit) == ("VACUUM", "public.t", "blocks")
        assert reported.total > 0
        setup.end()
        with psycopg.connect(database) as other:
            other.execute("INSERT INTO t VALUES (0)")
            await running(setup, "i", "CREATE INDEX CONCURRENTLY i ON t (i)")
            run = await looked(observer, setup.run_id, building)
            (worker,) = building(run)
            assert worker.progress is not None
            assert worker.progress.phase.startswith("waiting for")
            setup.end()


async def test_a_lost_connection_is_opened_again(dsn: str) -> None:
    async with observing(dsn) as observer:
        await observer.look()
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        assert ask(dsn, query + " AND datname = current_database()", APPLICATION_NAME)
        assert (await observer.look()).at > 0


# --- roles ------------------------------------------------------------------------------------------------------------


async def test_a_role_without_rights_sees_names_and_signals_nothing(
    new_role: Callable[..., str], database: str
) -> None:
    async with RealSetup(database, "live-role") as setup, observing(new_role()) as observer:
        follower = await running(setup, "a")
        activity = await observer.look()
        worker = only(of(activity, setup.run_id))
        assert (activity.sees_all, worker.step, worker.visible, worker.query) == (False, "a", False, "")
        stopped = await stopper(observer, of(activity, setup.run_id)).stop(5.0)
        assert [w.step for w in stopped.still] == ["a"]
        assert stopped.refused is not None
        assert "not visible to this role" in stopped.refused
        assert setup.alive() == {follower.name}


@pytest.mark.pg(">= 16", reason="the wording of permission denied")
async def test_a_role_that_sees_but_may_not_signal_is_refused(new_role: Callable[..., str], database: str) -> None:
    role = new_role("IN ROLE pg_read_all_stats")
    async with RealSetup(new_role(), "live-seer") as setup, observing(role) as observer:
        follower = await running(setup, "a")
        run = await looked(observer, setup.run_id, lambda run: run.workers)
        with pytest.raises(SignalRefusedError, match="permission denied"):
            await observer.signal(only(run).worker)
        stopped = await stopper(observer, run).stop(5.0)
        assert stopped.refused is not None
        assert [w.step for w in stopped.still] == ["a"]
        assert setup.alive() == {follower.name}
        ask(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            follower.name,
        )


async def test_the_rights_that_a_refusal_names_are_enough(new_role: Callable[..., str]) -> None:
    role = new_role("IN ROLE pg_read_all_stats, pg_signal_backend")
    async with RealSetup(new_role(), "live-right") as setup, observing(role) as observer:
        await running(setup, "a")
        run = await looked(observer, setup.run_id, lambda run: run.workers)
        stopped = await stopper(observer, run).stop(20.0)
        assert (stopped.still, stopped.refused, len(stopped.seconds)) == ((), None, 1)


async def test_only_a_worker_that_is_visible_at_that_moment_is_signalled(dsn: str) -> None:
    async with RealSetup(dsn, "live-ident") as setup, observing(dsn) as observer:
        follower = await running(setup, "a")
        seen = follower.seen[0]
        for wrong in (
            Worker(pid=seen.pid, backend_start="2001-01-01T00:00:00.000000Z", application_name=seen.application_name),
            Worker(pid=seen.pid + 1, backend_start=seen.backend_start, application_name=seen.application_name),
        ):
            assert await observer.signal(wrong) is False
        assert setup.alive() == {follower.name}


# --- stopping ---------------------------------------------------------------------------------------------------------


def stopper(observer: Observer, run: LiveRun, *, step: str | None = None, detached: bool = False) -> Stopper:
    """Return what stops this run."""
    request = CancelRequest(run=run.run, step=step, by="alice@laptop", key="1")
    return Stopper(observer=observer, run=run, request=request, detached=detached)


async def test_detach_steps_are_left_alone_unless_asked_for(database: str) -> None:
    async with RealSetup(database, "live-left") as setup, observing(database) as observer:
        for key, word in (("a", "wait"), ("b[x]", "wait"), ("b[y]", "wait"), ("away", "detach")):
            await running(setup, key, on_finish=word)
        run = await looked(observer, setup.run_id, lambda run: len(run.workers) == 4)
        first = await stopper(observer, run, step="b").stop(20.0)
        assert sorted(w.step for w in first.asked) == ["b[x]", "b[y]"]
        second = await stopper(observer, run).stop(20.0)
        assert [w.step for w in second.asked] == ["a"]
        assert [w.step for w in second.left] == ["away"]
        third = await stopper(observer, run, detached=True).stop(20.0)
        assert ([w.step for w in third.asked], third.left, third.still) == (["away"], (), ())
        assert setup.alive() == set()


async def test_a_worker_that_ignores_its_cancel_is_still_running(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ignored(_: Observer, worker: Worker) -> bool:  # noqa: ARG001 - the signature of `signal`
        return True

    monkeypatch.setattr(Observer, "signal", ignored)
    async with RealSetup(database, "live-stubborn") as setup, observing(database) as observer:
        await running(setup, "a")
        run = await looked(observer, setup.run_id, lambda run: run.workers)
        stopped = await stopper(observer, run).stop(0.6)
        assert [w.step for w in stopped.still] == ["a"]
        assert stopped.seconds == {}


async def test_objects_left_behind_are_reported_with_the_sql_that_repairs_them(database: str) -> None:
    ask(database, 'CREATE TABLE "T x" (i int)')
    ask(database, 'CREATE INDEX "old I" ON "T x" (i)')
    ask(database, "CREATE TABLE p (i int) PARTITION BY LIST (i)")
    ask(database, "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)")
    ask(database, "CREATE INDEX ON ONLY p (i)")
    statements = {
        "cic": 'CREATE INDEX CONCURRENTLY "new I" ON "T x" (i)',
        "reindex": 'REINDEX INDEX CONCURRENTLY "old I"',
        "detach": "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY",
    }
    found: dict[str, tuple[str, ...]] = {}
    for key, sql in statements.items():
        async with RealSetup(database, f"live-{key}") as setup, observing(database) as observer:
            with psycopg.connect(database) as other:
                other.execute("SELECT i FROM p")
                other.execute('INSERT INTO "T x" VALUES (1)')
                await running(setup, key, sql)
                run = await looked(observer, setup.run_id, lambda run: only(run).blocked_by)
                stopped = await stopper(observer, run).stop(20.0)
                found.update({one.what: one.repair for one in stopped.leftovers})
    assert found == {
        'index public."new I" of public."T x" is INVALID': (
            'REINDEX INDEX CONCURRENTLY public."new I";',
            'DROP INDEX CONCURRENTLY public."new I";',
        ),
        'index public."old I_ccnew" of public."T x" is an unfinished copy': (
            'DROP INDEX CONCURRENTLY public."old I_ccnew";',
        ),
        "public.p1 is only half detached from public.p": ("ALTER TABLE public.p DETACH PARTITION public.p1 FINALIZE;",),
    }
    for repair in found.values():
        ask(database, repair[0])
    assert (
        ask(database, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid AND indrelid <> 'p'::regclass")
        == []
    )
    assert ask(database, "SELECT inhrelid FROM pg_inherits WHERE inhdetachpending") == []


async def test_a_statement_that_left_nothing_leaves_nothing_to_report(database: str) -> None:
    ask(database, "CREATE TABLE t (i int)")
    async with RealSetup(database, "live-clean") as setup, observing(database) as observer:
        await running(setup, "a", "INSERT INTO t SELECT 1 FROM pg_sleep(120)")
        run = await looked(observer, setup.run_id, lambda run: run.workers)
        assert (await stopper(observer, run).stop(20.0)).leftovers == ()


# --- what the ledger has of it ----------------------------------------------------------------------------------------


async def test_the_ledger_is_read_where_it_is_and_may_be(new_role: Callable[..., str], database: str) -> None:
    async def reported(dsn: str) -> list[str]:
        observer = await Observer.connect(dsn, ledger="jobplan")
        try:
            return sorted(await observer.recorded(["ledger-read", "no-such-run"]))
        finally:
            await observer.close()

    assert await reported(database) == []
    LedgerAdmin(database, "jobplan").install("0")
    steps = (step("a", "SELECT 1"), step("b", "SELECT 1"))
    await run_plan(database, plan(*steps), run_id="ledger-read", ledger="jobplan")
    assert await reported(database) == ["ledger-read"]
    login = new_role()
    assert await reported(login) == []
    LedgerAdmin(database, "jobplan").install("0", [str(psycopg.conninfo.conninfo_to_dict(login)["user"])])
    assert await reported(login) == ["ledger-read"]
    ask(database, "UPDATE jobplan.meta SET version = 99 WHERE version = (SELECT max(version) FROM jobplan.meta)")
    assert await reported(database) == []


# --- the runner receives the request ----------------------------------------------------------------------------------


async def test_a_runner_receives_the_sender_of_a_cancel_and_starts_nothing_more(database: str) -> None:
    ask(database, "CREATE TABLE witness (step text)")
    steps = (
        step("a", LONG),
        step("away", LONG, detach=True),
        step("later", "INSERT INTO witness VALUES ('later')", needs=["a"]),
    )
    note = step("note", "INSERT INTO witness VALUES (:'run.status')")
    run, recorder = real_run(database, plan(*steps, finally_=(note,)), run_id="live-cancel")
    task = asyncio.create_task(run.execute())
    async with observing(database) as observer:
        seen = await looked(
            observer, "live-cancel", lambda run: len(run.workers) == 2 and all(w.label for w in run.workers)
        )
        stopped = await stopper(observer, seen).stop(20.0)
        result = await task
        assert [w.step for w in stopped.asked] == ["a"]
        rest = await looked(observer, "live-cancel", lambda run: run.workers)
        await stopper(observer, rest, detached=True).stop(20.0)
    assert result.exit_code == 1
    assert ask(database, "SELECT step FROM witness") == [("cancelled",)]
    (reported,) = recorder.of(ev.RunCancelled)
    assert reported.by == f"alice@laptop (role {psycopg.conninfo.conninfo_to_dict(database)['user']})"
    assert recorder.end("a").cancelled_by == reported.by
    assert recorder.end("a").outcome is ev.Outcome.CANCELLED
    assert recorder.events.index(reported) < recorder.events.index(recorder.end("a"))


async def test_a_cancelled_step_names_the_user_and_the_run_continues(database: str) -> None:
    run, recorder = real_run(database, plan(step("a", LONG), step("b", GATE)), run_id="live-step")
    with open_transaction(database, GATE):
        task = asyncio.create_task(run.execute())
        async with observing(database) as observer:
            seen = await looked(observer, "live-step", lambda run: len(run.workers) == 2)
            await stopper(observer, seen, step="a").stop(20.0)
    await task
    assert recorder.of(ev.RunCancelled) == []
    assert str(recorder.end("a").cancelled_by).startswith("alice@laptop")
    assert recorder.outcomes() == {"a": ev.Outcome.CANCELLED, "b": ev.Outcome.SUCCEEDED}


async def test_a_request_of_a_role_that_may_stop_nothing_is_ignored(
    new_role: Callable[..., str], database: str
) -> None:
    run, recorder = real_run(database, plan(step("a", "SELECT pg_sleep(3)")), run_id="live-forged")
    task = asyncio.create_task(run.execute())
    async with observing(new_role()) as mallory:
        await until(lambda: recorder.of(ev.AttemptRunning))
        forged = CancelRequest(run="live-forged", step=None, by="mallory", key="1")
        await mallory.notify(payload_of(forged))
        result = await task
    assert recorder.of(ev.RunCancelled) == []
    assert result.exit_code == 0


@pytest.mark.parametrize("superuser", [False, True])
async def test_a_user_whose_request_is_ignored_is_informed(
    new_role: Callable[..., str], database: str, *, superuser: bool
) -> None:
    owner = database if superuser else new_role()
    seers = {owner: True, database: True, new_role("IN ROLE pg_signal_backend"): not superuser}
    run, recorder = real_run(owner, plan(step("a", GATE)), run_id="live-heeded")
    with open_transaction(database, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: recorder.of(ev.AttemptRunning))
        for seer, heeded in seers.items():
            async with observing(seer) as observer:
                seen = of(await observer.look(), "live-heeded")
                assert await observer.accepts_requests(seen.runner[0]) is heeded
        async with observing(new_role()) as observer:
            stopped = await stopper(observer, of(await observer.look(), "live-heeded")).stop(5.0)
            assert (stopped.runner_alive, stopped.request_accepted) == (True, False)
    assert (await task).exit_code == 0
    assert recorder.of(ev.RunCancelled) == []


async def test_a_runner_that_was_away_receives_again(database: str) -> None:
    run, recorder = real_run(database, plan(step("a", LONG)), run_id="live-again")
    task = asyncio.create_task(run.execute())
    await until(lambda: recorder.of(ev.AttemptRunning))
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        " AND backend_type = 'client backend' ORDER BY backend_start LIMIT 1"
    )
    ask(database, query, runner_name("live-again"))
    async with observing(database) as observer:
        await asyncio.sleep(2.5)  # two looks of the monitor, the first of which finds out
        seen = await looked(observer, "live-again", lambda run: run.workers)
        await stopper(observer, seen).stop(20.0)
    await task
    assert recorder.of(ev.RunCancelled)
