"""pg_background.md#helper-functions-use-search-path and the rights that a run needs: any schema, any search_path, an
ordinary role.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runner.embedded import EmbeddedServer
from runner.engine import events as ev
from runner.errors import ConnectionFailedError, PreflightError
from runner.gateway.postgres import PgGateway
from runner.plan.model import OnRunnerExit
from tests.builders import plan, sql, step
from tests.integration.gateway_setups import (
    GATE,
    RealSetup,
    ask,
    open_transaction,
    real_run,
    run_one,
    run_plan,
    until,
    value,
)

LONG = "SELECT pg_sleep(120)"
HOSTILE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''::text';
CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''::text';
CREATE FUNCTION hostile.pg_terminate_backend(int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION hostile.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.json_each_text(json) RETURNS TABLE (key text, value text) LANGUAGE sql AS 'SELECT '''', ''''';
CREATE FUNCTION hostile.to_char(timestamp, text) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''::text';
CREATE FUNCTION hostile.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.pg_background_launch(text, int, text) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.never);
CREATE AGGREGATE hostile.count(*) (SFUNC = int4um, STYPE = int, INITCOND = '0');
CREATE VIEW hostile.pg_stat_activity AS SELECT 0 AS pid, now() AS backend_start, ''::text AS application_name,
  'pg_background'::text AS backend_type, ''::text AS wait_event, ''::text AS wait_event_type;
CREATE DOMAIN hostile.int4 AS integer CHECK (VALUE < 0);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (VALUE = '');
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
GRANT SELECT ON hostile.pg_stat_activity TO PUBLIC;
"""


# --- note 15: schemas -------------------------------------------------------------------------------------------------


def move_extension(database: str, schema: str) -> None:
    """Put pg_background into another schema."""
    ask(database, f"CREATE SCHEMA {schema}")
    ask(database, f"DROP EXTENSION pg_background; CREATE EXTENSION pg_background SCHEMA {schema}")


def test_the_extensions_own_helpers_need_it_in_the_search_path(database: str) -> None:
    move_extension(database, "ext")
    with psycopg.connect(database, autocommit=True) as connection, pytest.raises(psycopg.Error) as failed:
        connection.execute("SELECT ext.pg_background_run('SELECT 1')")
    assert failed.value.sqlstate in ("42883", "42704")


async def everything_works(dsn: str, **keys: object) -> None:
    """Run steps of every kind, with a reserve, and see that each ends as it should."""
    steps = (
        step("succeeds", "SELECT 1", **keys),
        step("fails", "SELECT 1/0", **keys),
        step("says", "DO $$ BEGIN RAISE NOTICE 'hello'; END $$", **keys),
        step("times_out", LONG, timeout=0.3, **keys),
        step("condition", "SELECT 1", if_=sql("SELECT true"), verify=sql("SELECT true"), **keys),
        step("is_cancelled", LONG, needs=[], **keys),
        step("is_detached", "SELECT pg_sleep(6)", detach=True, **keys),
    )
    run, record = real_run(dsn, plan(*steps, slots=8, reserve=1))
    task = asyncio.create_task(run.execute())
    expected = {"succeeds", "fails", "says", "times_out", "condition"}
    await until(lambda: expected <= record.outcomes().keys() and len(record.of(ev.AttemptRunning, "is_cancelled")))
    run.interrupt(2)
    await task
    assert {key: str(outcome) for key, outcome in record.outcomes().items()} == {
        "succeeds": "succeeded",
        "fails": "failed",
        "says": "succeeded",
        "times_out": "timed_out",
        "condition": "succeeded",
        "is_cancelled": "cancelled",
        "is_detached": "detached",
    }
    assert [notice.message for notice in record.notices("says")] == ["hello"]
    states = {key: str(record_.state) for key, record_ in run.state.records.items()}
    assert states["condition"] == "succeeded"
    assert not record.of(ev.AttemptLost)


async def test_the_extension_may_lie_in_any_schema(database: str) -> None:
    move_extension(database, '"Odd ""Schema"""')
    await everything_works(database)


async def test_no_schema_in_front_changes_what_the_runner_asks(database: str, new_role: Callable[..., str]) -> None:
    ask(database, HOSTILE)
    await everything_works(new_role("", "search_path = hostile, pg_catalog, public"))


async def test_the_worker_has_the_search_path_of_its_role_or_of_its_step(
    database: str, new_role: Callable[..., str]
) -> None:
    role_dsn = new_role("", "search_path = first, second")
    role = value(role_dsn, "SELECT current_user")
    ask(database, f"CREATE SCHEMA first AUTHORIZATION {role}; CREATE SCHEMA second AUTHORIZATION {role}")
    steps = (
        step("own", "CREATE TABLE a (i int)"),
        step("given", "CREATE TABLE b (i int)", search_path="second"),
        step("empty", "CREATE TABLE c (i int)", search_path=""),
        step("again", "CREATE TABLE d (i int)", needs=["given"]),
    )
    _, record = await run_plan(role_dsn, plan(*steps, slots=1))
    assert record.outcomes()["empty"] is ev.Outcome.FAILED
    tables = ask(database, "SELECT schemaname || '.' || tablename FROM pg_tables WHERE tablename = ANY ('{a,b,c,d}')")
    assert {table for (table,) in tables} == {"first.a", "second.b", "first.d"}


async def test_settings_of_the_role_reach_the_worker_without_harm(database: str, new_role: Callable[..., str]) -> None:
    settings = (
        "datestyle = 'German'",
        "timezone = 'Asia/Kathmandu'",
        "extra_float_digits = -15",
        "standard_conforming_strings = off",
        "lc_messages = 'C'",
        "work_mem = '123MB'",
        "default_transaction_isolation = 'serializable'",
    )
    role_dsn = new_role("", *settings)
    async with RealSetup(role_dsn, "notes-settings") as setup:
        end = await run_one(setup, "DO $$ BEGIN ASSERT current_setting('work_mem') = '123MB'; END $$")
        assert end.confirmed
        end = await run_one(setup, "DO $$ BEGIN ASSERT current_setting('TimeZone') = 'Asia/Kathmandu'; END $$")
        assert end.confirmed
        end = await run_one(setup, LONG, timeout=0.3)
        assert end.started_at is not None
        assert end.finished_at is not None
        assert 0.3 <= end.finished_at - end.started_at < 30
        now = float(value(database, "SELECT extract(epoch FROM clock_timestamp())"))
        assert abs(now - end.finished_at) < 30
    await everything_works(role_dsn)


# --- rights -----------------------------------------------------------------------------------------------------------


async def test_an_ordinary_role_can_do_everything(new_role: Callable[..., str]) -> None:
    await everything_works(new_role())


@pytest.mark.parametrize("how", ["WITH INHERIT TRUE, SET TRUE", "WITH INHERIT FALSE, SET TRUE"])
@pytest.mark.pg(">= 16", reason="GRANT … WITH INHERIT")
async def test_a_step_takes_another_role_also_one_whose_rights_are_not_inherited(
    database: str, new_role: Callable[..., str], how: str
) -> None:
    login = new_role()
    owner = new_role(grant=False)
    login_name, owner_name = value(login, "SELECT current_user"), value(owner, "SELECT current_user")
    ask(database, f"GRANT {owner_name} TO {login_name} {how}")
    await everything_works(login, role=owner_name)
    _, record = await run_plan(login, plan(step("make", "CREATE TABLE mine (i int)", role=owner_name)))
    assert record.outcomes() == {"make": ev.Outcome.SUCCEEDED}
    assert value(database, "SELECT tableowner FROM pg_tables WHERE tablename = 'mine'") == owner_name


async def test_a_role_that_may_not_be_taken_fails_its_step_only(new_role: Callable[..., str]) -> None:
    steps = (step("a", "SELECT 1", role="postgres"), step("b", "SELECT 1", needs=[]))
    _, record = await run_plan(new_role(), plan(*steps, slots=1))
    assert record.outcomes() == {"a": ev.Outcome.FAILED, "b": ev.Outcome.SUCCEEDED}
    error = record.end("a").error
    assert error is not None
    assert error.sqlstate == "42501"


async def test_a_role_without_the_grant_gets_a_hint(new_role: Callable[..., str]) -> None:
    with pytest.raises(PreflightError, match="GRANT pgbackground_role TO") as refused:
        await PgGateway(new_role(grant=False), "rights").open()
    assert refused.value.hint


async def test_a_database_without_the_extension_gets_a_hint(database: str) -> None:
    ask(database, "DROP EXTENSION pg_background")
    with pytest.raises(PreflightError, match="CREATE EXTENSION pg_background"):
        await PgGateway(database, "rights").open()


async def test_a_server_that_cannot_be_reached_says_why(database: str, small_server: EmbeddedServer) -> None:
    secret = {"password": "not-the-right-one"}
    wrong = {
        "does not exist": make_conninfo(database, dbname="no_such_database"),
        "password authentication failed": make_conninfo(small_server.tcp_dsn, **secret),
        "refused": "host=127.0.0.1 port=1 user=nobody dbname=postgres",
        "no_such_role": make_conninfo(database, user="no_such_role"),
        "not a connection string": "host=a = b",
    }
    for words, dsn in wrong.items():
        with pytest.raises(ConnectionFailedError) as refused:
            await PgGateway(dsn, "rights").open()
        assert words in str(refused.value)
        assert secret["password"] not in str(refused.value)
        assert "\n" not in refused.value.message


async def test_a_worker_may_be_left_to_itself_by_an_ordinary_role(new_role: Callable[..., str]) -> None:
    role_dsn = new_role()
    run, record = real_run(role_dsn, plan(step("a", GATE, on_runner_exit=OnRunnerExit.DETACH)))
    workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background' AND usename = current_user"
    with open_transaction(role_dsn, GATE):
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        run.interrupt(15)
        assert (await task).exit_code == 143
        assert record.outcomes() == {"a": ev.Outcome.DETACHED}
        assert value(role_dsn, workers) == 1
    await until(lambda: value(role_dsn, workers) == 0)
