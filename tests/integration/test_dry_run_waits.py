"""Who a step would have to wait for now: what a dry run says is what the server does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import look
from runner.embedded import EmbeddedServer
from runner.errors import ConnectionFailedError
from runner.preflight.dry_run import DryRunOptions
from tests.integration.dry_runs import dry_run, errors, reported, written
from tests.integration.gateway_setups import ask, until
from tests.servers import start_test_server

SCHEMA = """
    CREATE TABLE t (a int PRIMARY KEY, b text);
    CREATE INDEX tb ON t (b);
    CREATE TABLE other (a int);
    CREATE TABLE p (d int) PARTITION BY RANGE (d);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)
"""
BUILD = "CREATE INDEX CONCURRENTLY i ON t (b)"
REBUILD = "REINDEX INDEX CONCURRENTLY tb"
DROP = "DROP INDEX CONCURRENTLY tb"
DETACH = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
WRITE, READ = "INSERT INTO t VALUES (99)", "SELECT count(*) FROM t"
SNAPSHOT = "SELECT count(*) FROM other"


@pytest.fixture
def tables(database: str) -> str:
    """A database with tables to wait for."""
    ask(database, SCHEMA)
    return database


@pytest.mark.parametrize(
    ("sql", "held", "repeatable", "code"),
    [
        (BUILD, WRITE, False, "JP701"),
        (BUILD, READ, False, None),
        (BUILD, SNAPSHOT, True, "JP702"),
        (BUILD, "INSERT INTO other VALUES (1)", False, None),
        (REBUILD, WRITE, False, "JP701"),
        (REBUILD, READ, False, "JP701"),
        (REBUILD, SNAPSHOT, True, "JP702"),
        (DROP, WRITE, False, "JP701"),
        (DROP, READ, False, "JP701"),
        (DROP, SNAPSHOT, True, None),
        (DETACH, "INSERT INTO p VALUES (1)", False, "JP701"),
        (DETACH, "SELECT count(*) FROM p", False, "JP701"),
        (DETACH, SNAPSHOT, True, None),
    ],
)
def test_what_concurrently_waits_for(
    tables: str, tmp_path: Path, sql: str, held: str, repeatable: bool, code: str | None
) -> None:
    with psycopg.connect(tables) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ if repeatable else None
        other.execute(held.encode())
        time.sleep(1.1)  # a snapshot that is younger is over in a moment
        result = dry_run(written(tmp_path, f'- {{id: a, sql: "{sql}", verify: SELECT true}}'), tables)
        assert [problem.code for problem in result.problems if problem.code.startswith("JP7")] == (
            [code] if code else []
        )
        with psycopg.connect(tables, autocommit=True) as one:
            if code is None:
                one.execute(sql.encode())
            else:
                one.execute("SET statement_timeout = '700ms'")
                with pytest.raises(psycopg.errors.QueryCanceled):
                    one.execute(sql.encode())
        other.rollback()


@pytest.fixture(scope="module")
def preparing() -> Iterator[EmbeddedServer]:
    """A server with prepared transactions."""
    with start_test_server(max_prepared_transactions="4") as server:
        yield server


def test_a_prepared_transaction_is_named_with_what_ends_it(preparing: EmbeddedServer, tmp_path: Path) -> None:
    ask(preparing.dsn, "CREATE TABLE t (a int)")
    with psycopg.connect(preparing.dsn) as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO t VALUES (1)")
        other.execute("PREPARE TRANSACTION 'left ''behind'")
    plan = written(tmp_path, "- {id: a, sql: ALTER TABLE t ADD COLUMN b int}")
    result = dry_run(plan, preparing.dsn)
    (problem,) = reported(result, "JP701")
    assert "the prepared transaction" in problem.message
    assert (problem.hint or "").startswith("ROLLBACK PREPARED 'left ''behind';")
    (of_server,) = reported(result, "JP513")
    assert "left" in of_server.message
    ask(preparing.dsn, "ROLLBACK PREPARED 'left ''behind'")
    assert reported(dry_run(plan, preparing.dsn), "JP701") == []


def test_a_locked_table_is_reported_and_not_waited_for_again_and_again(tables: str, tmp_path: Path) -> None:
    steps = "\n".join(f"- {{id: s{n}, sql: SELECT count(*) FROM t WHERE a = {n}}}" for n in range(20))
    with psycopg.connect(tables) as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        result = dry_run(written(tmp_path, steps), tables)
        took = time.monotonic() - began
        other.rollback()
    assert len(reported(result, "JP620")) == len(reported(result, "JP701")) == 20
    assert errors(result) == []
    assert took < 15, "twenty statements that wait a second each take twenty seconds"


def test_what_takes_long_to_plan_is_given_up(tables: str, tmp_path: Path) -> None:
    ask(
        tables,
        "CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN PERFORM pg_sleep(60); RETURN 1; END'",
    )
    ask(tables, "ALTER EXTENSION pg_background ADD FUNCTION slow()")  # others are never executed
    steps = "\n".join(f"- {{id: s{n}, sql: SELECT count(*) FROM t WHERE a = slow()}}" for n in range(3))
    result = dry_run(written(tmp_path, steps), tables)
    assert len(reported(result, "JP620")) == 3
    assert errors(result) == []


def test_a_connection_that_is_lost_meanwhile_is_reported(tables: str, tmp_path: Path) -> None:
    ask(
        tables,
        "CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN PERFORM pg_sleep(60); RETURN 1; END'",
    )
    ask(tables, "ALTER EXTENSION pg_background ADD FUNCTION slow()")  # others are never executed
    plan = written(tmp_path, "- {id: a, sql: SELECT count(*) FROM t WHERE a = slow()}")

    async def struck() -> None:
        asked = asyncio.create_task(look(plan, tables, DryRunOptions()))
        signal_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'EXPLAIN%slow()%'"
        await until(lambda: asked.done() or ask(tables, f"{signal_sessions} AND pid <> pg_backend_pid()"))
        await asked

    with pytest.raises(ConnectionFailedError, match="the connection to the server was lost"):
        asyncio.run(struck())
