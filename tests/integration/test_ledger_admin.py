"""`jobplan ledger` beneath the command line: making the ledger, bringing it up, shortening, reading, removing it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.engine import events as ev
from runner.errors import ConnectionFailedError, RecordError, UsageError
from runner.gateway.ledger import admin as ledger_admin
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.ledger.storage import distrust_statement
from runner.gateway.queries import query
from runner.records.ledger_restore import restore_journal
from runner.records.record import read_record
from tests.builders import plan, step
from tests.integration.gateway_setups import LAUNCHERS, ask, real_run, run_plan, signal_sessions, until, value

OBJECTS = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('jobplan')"


async def test_from_nothing_to_nothing(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    before = admin.status()
    assert (before.version, before.remedy) == (None, "jobplan ledger install")
    assert admin.install("1.2.3")
    assert not admin.install("1.2.3")
    assert ask(database, "SELECT version, jobplan FROM jobplan.meta ORDER BY 1") == [
        (1, "1.2.3"),
        (2, "1.2.3"),
        (3, "1.2.3"),
    ]
    await run_plan(database, plan(step("a", "SELECT 1")), ledger="jobplan")
    status = admin.status()
    assert (status.version, status.writable, status.runs, status.unfinished) == (3, True, 1, 0)
    assert status.remedy is None
    assert status.events > 4
    assert status.bytes > 0
    assert status.first == status.last
    assert admin.remove()
    assert value(database, "SELECT to_regnamespace('jobplan')") is None
    for action in (admin.remove, lambda: admin.purge(0.0), lambda: admin.upgrade("1"), lambda: admin.read("last")):
        with pytest.raises(RecordError, match="no ledger in schema jobplan"):
            action()


def test_the_check_of_the_owners_is_not_worth_a_compilation(database: str) -> None:
    LedgerAdmin(database, "jobplan").install("1")
    name, (schema, trusted) = distrust_statement("jobplan", ())
    statement = query(name).decode().replace("$1", f"'{schema}'").replace("$2", f"'{trusted}'")
    (((plan,),),) = ask(database, f"EXPLAIN (FORMAT JSON) {statement}")
    assert plan["Plan"]["Total Cost"] < float(value(database, "SHOW jit_above_cost"))


async def test_two_that_install_at_the_same_time(database: str) -> None:
    made = await asyncio.gather(
        *(asyncio.to_thread(LedgerAdmin(database, "jobplan").install, "0") for _ in range(5)),
    )
    assert sorted(made) == [False, False, False, False, True]


def test_a_role_that_may_not_create_gets_a_hint(database: str, new_role: Callable[..., str]) -> None:
    with pytest.raises(RecordError, match=r"permission denied for database .* needs CREATE on the database"):
        LedgerAdmin(new_role(), "jobplan").install("0")
    assert value(database, "SELECT to_regnamespace('jobplan')") is None


def test_a_role_without_access_is_referred_to_the_owner(database: str, new_role: Callable[..., str]) -> None:
    LedgerAdmin(database, "jobplan").install("0")
    admin = LedgerAdmin(new_role(), "jobplan")
    found = admin.status()
    assert (found.readable, found.writable, found.remedy) == (False, False, "jobplan ledger install --grant ROLE")
    for action in (admin.remove, lambda: admin.purge(0.0), lambda: admin.upgrade("1"), lambda: admin.read("last")):
        with pytest.raises(RecordError, match=r"permission denied .* install --grant ROLE"):
            action()


def test_a_role_may_install_into_a_schema_that_it_was_given(database: str, new_role: Callable[..., str]) -> None:
    login = new_role()
    ask(database, f"CREATE SCHEMA jobplan AUTHORIZATION {conninfo_to_dict(login)['user']}")
    assert LedgerAdmin(login, "jobplan").install("0")
    assert LedgerAdmin(login, "jobplan").status().writable


def test_a_schema_with_the_same_tables_is_not_overwritten(database: str) -> None:
    ask(database, "CREATE SCHEMA jobplan; CREATE TABLE jobplan.runs (n int)")
    with pytest.raises(RecordError, match="already exists"):
        LedgerAdmin(database, "jobplan").install("0")
    assert value(database, OBJECTS) == 1


@pytest.mark.parametrize("role", ["nobody_there", ""])
def test_a_grant_to_a_missing_role_leaves_nothing_behind(database: str, role: str) -> None:
    with pytest.raises((RecordError, UsageError)):
        LedgerAdmin(database, "jobplan").install("0", [role])
    assert value(database, "SELECT to_regnamespace('jobplan')") is None


def test_what_others_have_made_in_the_schema_stays(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    ask(database, "CREATE VIEW jobplan.mine AS SELECT 1 AS n")
    assert not admin.remove()
    assert value(database, "SELECT n FROM jobplan.mine") == 1
    assert value(database, OBJECTS) == 1


def test_what_others_have_made_of_it_keeps_it(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    ask(database, "CREATE VIEW public.mine AS SELECT * FROM jobplan.failures")
    with pytest.raises(RecordError, match=r"view public\.mine depends"):
        admin.remove()
    assert admin.status().version == 3


def test_a_lock_is_not_waited_for_long(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_admin, "LOCK_TIMEOUT", "100ms")
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    with psycopg.connect(database) as locker:
        locker.execute("LOCK TABLE jobplan.commits IN ROW EXCLUSIVE MODE")
        with pytest.raises(RecordError, match="lock timeout") as caught:
            admin.remove()
    assert caught.value.hint is not None
    assert admin.status().version == 3


def test_an_older_ledger_is_brought_up_with_what_is_in_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("1")
    ask(database, "INSERT INTO jobplan.commits VALUES ('r', 's', 1, true)")
    monkeypatch.setattr(ledger_admin, "VERSION", 4)
    monkeypatch.setattr(ledger_admin, "STEPS", {**ledger_admin.STEPS, 4: "ledger_free"})
    assert admin.status().remedy == "jobplan ledger upgrade"
    with pytest.raises(RecordError, match="is of version 3"):
        admin.purge(0.0)
    with pytest.raises(RecordError, match="there is no run"):  # an older ledger can still be read
        admin.read("last")
    assert admin.upgrade("2") == (3, 4)
    assert admin.upgrade("2") == (4, 4)
    found = ask(database, "SELECT version, jobplan FROM jobplan.meta ORDER BY 1")
    assert found == [(1, "1"), (2, "1"), (3, "1"), (4, "2")]
    assert value(database, "SELECT committed FROM jobplan.commits")


def test_a_newer_ledger_is_not_touched(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("1")
    ask(database, "INSERT INTO jobplan.meta VALUES (7, 'newer')")
    assert admin.status().remedy == "a newer jobplan"
    for action in (lambda: admin.install("2"), lambda: admin.upgrade("2"), lambda: admin.purge(0.0)):
        with pytest.raises(RecordError, match="is of version 7"):
            action()


def test_no_server_is_a_connection_that_failed() -> None:
    with pytest.raises(ConnectionFailedError):
        LedgerAdmin("host=/nowhere", "jobplan").status()


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    with pytest.raises(UsageError):
        LedgerAdmin("", "j" * 64)


# --- purge ------------------------------------------------------------------------------------------------------------


async def test_purge_keeps_what_is_young_and_what_lives(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    for name in ("purge-old", "purge-young"):
        await run_plan(database, plan(step("a", "SELECT 1")), run_id=name, ledger="jobplan")
    run, record = real_run(database, plan(step("a", "SELECT pg_sleep(60)")), run_id="purge-live", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(lambda: record.of(ev.AttemptRunning) and value(database, "SELECT count(*) = 3 FROM jobplan.runs"))
    old = "started_at = started_at - interval '100 days', finished_at = finished_at - interval '100 days'"
    ask(database, f"UPDATE jobplan.runs SET {old} WHERE run <> 'purge-young'")
    ask(database, "UPDATE jobplan.events SET at = at - interval '100 days' WHERE run <> 'purge-young'")
    assert await asyncio.to_thread(admin.purge, 90 * 86400.0) == 1
    assert ask(database, "SELECT run FROM jobplan.runs ORDER BY run") == [("purge-live",), ("purge-young",)]
    for table in ("events", "commits", "plans"):
        assert not ask(database, f"SELECT FROM jobplan.{table} WHERE run = 'purge-old'")
    run.interrupt(2)
    await task


async def test_purge_counts_a_run_without_an_end_from_its_last_event(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    await run_plan(database, plan(step("a", "SELECT 1")), ledger="jobplan")
    ask(database, "UPDATE jobplan.runs SET finished_at = NULL, started_at = started_at - interval '100 days'")
    assert admin.purge(86400.0) == 0
    assert admin.purge(999_999_999 * 86400.0) == 0
    ask(database, "UPDATE jobplan.events SET at = at - interval '2 days'")
    assert admin.purge(86400.0) == 1


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_a_run_is_read_by_its_id_its_beginning_or_as_the_last(database: str) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    for name in ("read-one", "read-two", "read-tw"):
        await run_plan(database, plan(step("a", "SELECT 1")), run_id=name, ledger="jobplan")
    assert admin.read("read-o").run_id == "read-one"
    assert admin.read("read-tw").run_id == "read-tw"
    assert admin.read("last").run_id == "read-tw"
    with pytest.raises(RecordError, match="more than one run"):
        admin.read("read-")
    with pytest.raises(RecordError, match="no run 'other'"):
        admin.read("other")


async def test_a_journal_is_restored_as_it_was(database: str, tmp_path: Path) -> None:
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    steps = (step("a", "SELECT 'ä'"), step("b", "SELECT 1/0"), step("c", "VACUUM", needs=["a"]))
    result, record = await run_plan(database, plan(*steps), run_id="restored", ledger="jobplan")
    found = admin.read("restored")
    restore_journal(tmp_path, found.run_id, found.plans, found.events, instead="")
    restored = read_record(tmp_path, "restored")
    assert [event.name for event in restored.events] == [event.name for event in record.events]
    assert restored.state.counts() == result.state.counts()
    assert restored.plan.steps == plan(*steps).steps
    before = (tmp_path / "restored" / "events.jsonl").read_bytes()
    restore_journal(tmp_path, found.run_id, found.plans, found.events, instead="")
    assert (tmp_path / "restored" / "events.jsonl").read_bytes() == before


async def test_what_a_killed_runner_has_left_can_be_restored(database: str, tmp_path: Path) -> None:
    """The launch is there although nothing after it is."""
    admin = LedgerAdmin(database, "jobplan")
    admin.install("0")
    run, record = real_run(database, plan(step("a", "SELECT pg_sleep(60)")), run_id="killed", ledger="jobplan")
    task = asyncio.create_task(run.execute())
    await until(
        lambda: ask(
            database,
            "SELECT FROM pg_stat_activity WHERE application_name = 'jobplan:killed:a'",
        )
    )
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    signal_sessions(database, "killed", LAUNCHERS)
    found = admin.read("last")
    restore_journal(tmp_path, found.run_id, found.plans, found.events, instead="")
    restored = read_record(tmp_path, "killed")
    assert restored.state.records["a"].attempt == 1
    assert not restored.state.records["a"].final
    assert not record.of(ev.AttemptFinished)


def test_a_run_without_a_beginning_cannot_be_restored(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="lacks the beginning"):
        restore_journal(tmp_path, "r", {}, [], instead="")
