"""What must stand alone, what a worker refuses and which functions only read, held against a server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest

from runner.sql.builtin_functions import READERS, STABLE, VOLATILE, WRITERS
from runner.sql.statements import parse_statements
from runner.sql.transactions import (
    cannot_stand_alone,
    may_have_to_stand_alone,
    must_stand_alone,
    refused_by_worker,
)

_SETUP = """
    CREATE SCHEMA w;
    CREATE TABLE w.t (a int PRIMARY KEY, b int);
    CREATE INDEX t_b ON w.t (b);
    CREATE TABLE w.p (a int, b int) PARTITION BY RANGE (a);
    CREATE TABLE w.p1 PARTITION OF w.p FOR VALUES FROM (0) TO (10);
    CREATE INDEX p_b ON w.p (b);
    CREATE MATERIALIZED VIEW w.m AS SELECT a FROM w.t;
    CREATE UNIQUE INDEX ON w.m (a);
    CREATE PROCEDURE w.quiet() LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END';
    CREATE PROCEDURE w.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
"""

_COMMANDS = [
    *("VACUUM w.t", "VACUUM (FULL) w.t", "VACUUM", "ANALYZE w.t", "ANALYZE", "CLUSTER", "CLUSTER w.t USING t_pkey"),
    *("CREATE INDEX CONCURRENTLY n ON w.t (b)", "CREATE INDEX n ON w.t (b)", "DROP INDEX CONCURRENTLY w.t_b"),
    *(
        "DROP INDEX w.t_b",
        "REINDEX INDEX CONCURRENTLY w.t_b",
        "REINDEX INDEX w.t_b",
        "REINDEX (CONCURRENTLY) TABLE w.t",
    ),
    *("REINDEX (CONCURRENTLY off) TABLE w.t", "REINDEX SCHEMA w", "REINDEX DATABASE", "REINDEX SYSTEM"),
    *("REINDEX TABLE w.p", "REINDEX INDEX w.p_b", "CLUSTER w.p USING p_b"),
    *("ALTER TABLE w.p DETACH PARTITION w.p1 CONCURRENTLY", "ALTER TABLE w.p DETACH PARTITION w.p1"),
    *("REFRESH MATERIALIZED VIEW CONCURRENTLY w.m", "CREATE DATABASE never", "DROP DATABASE never"),
    *("CREATE TABLESPACE never LOCATION '/nowhere'", "DROP TABLESPACE never", "ALTER SYSTEM SET work_mem = '4MB'"),
    *("ALTER DATABASE never SET TABLESPACE pg_default", "DISCARD ALL", "DISCARD PLANS", "NOTIFY x", "UNLISTEN x"),
    *("CALL w.quiet()", "CALL w.commits()", "DO $$ BEGIN COMMIT; END $$", "DO $$ BEGIN PERFORM 1; END $$"),
    *("DO $$ BEGIN CALL w.commits(); END $$", "DO $$ BEGIN IF true THEN ROLLBACK; END IF; END $$"),
    *("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "LISTEN x"),
    *("COPY w.t FROM STDIN", "COPY w.t TO STDOUT", "COPY w.t TO '/dev/null'", "LOCK TABLE w.t", "SET work_mem = '5MB'"),
    *("SET CONSTRAINTS ALL DEFERRED", "DECLARE c CURSOR FOR SELECT 1", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
    *(
        "PREPARE q AS SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "CREATE TABLE n AS SELECT 1",
        "TRUNCATE w.t",
        "LOAD 'plpgsql'",
    ),
    "CREATE SUBSCRIPTION never CONNECTION 'host=/nowhere' PUBLICATION p",
    "CREATE SUBSCRIPTION never CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
]


@pytest.fixture
def worker_sql(new_database: Callable[[], str]) -> Iterator[Callable[[str], str | None]]:
    """Run a text in a worker and return its SQLSTATE, None if it succeeded."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute(_SETUP)
        connection.execute("SELECT * FROM pg_background_stats()")

        def run(text: str) -> str | None:
            launch = "SELECT (h).pid, (h).cookie FROM pg_background_launch(%s, 0, 'test') AS h"
            handle = connection.execute(launch, [text]).fetchone()
            assert handle is not None
            for _ in range(120):
                gone = connection.execute("SELECT pg_background_wait(%s, %s, 250)", handle).fetchone()
                if gone == (True,):
                    break
            row = connection.execute("SELECT sqlstate FROM pg_background_error_info(%s, %s)", handle).fetchone()
            connection.execute("SELECT pg_background_detach(%s, %s)", handle)
            assert row is not None
            return None if row[0] is None else str(row[0])

        yield run


@pytest.mark.pg(">= 16", reason="REINDEX DATABASE without a name")
def test_what_must_stand_alone_is_what_a_shared_transaction_refuses(worker_sql: Callable[[str], str | None]) -> None:
    """After `SELECT 1`, whatever must stand alone is refused before it does anything; the rest ends in a division."""
    wrong = []
    for sql in _COMMANDS:
        (statement,) = parse_statements(sql)
        state = worker_sql(f"SELECT 1; {sql}; SELECT 1 / 0")
        refused = state in {"25001", "2D000"}
        said = must_stand_alone(statement) is not None
        allowed = may_have_to_stand_alone(statement) is not None
        if refused is not said and not (refused and allowed):
            wrong.append((sql, state))
        if (refused_by_worker(statement) is not None) is not (state in {"0A000", "08003"}):
            wrong.append((sql, state))
    assert wrong == []


def test_what_cannot_stand_alone_is_refused_alone(worker_sql: Callable[[str], str | None]) -> None:
    for sql in ("LOCK TABLE w.t", "DECLARE c CURSOR FOR SELECT 1"):
        (statement,) = parse_statements(sql)
        assert cannot_stand_alone(statement) is not None
        assert worker_sql(sql) == "25P01"
    (holding,) = parse_statements("DECLARE c CURSOR WITH HOLD FOR SELECT 1")
    assert cannot_stand_alone(holding) is None
    assert worker_sql("DECLARE c CURSOR WITH HOLD FOR SELECT 1") is None


@pytest.mark.pg(">= 16", reason="any_value(), pg_input_is_valid()")
def test_the_functions_that_are_listed_exist(dsn: str) -> None:
    listed = (READERS | WRITERS | STABLE | VOLATILE) - {
        *("dblink_exec", "pg_prewarm", "uuid_generate_v1", "uuid_generate_v4"),  # of extensions
    }
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        ).fetchall()
    if not any(name == "uuidv7" for (name,) in rows):
        listed -= {"uuidv4", "uuidv7"}  # since PostgreSQL 18
    assert listed - set(itertools.chain.from_iterable(rows)) == set()


@pytest.mark.pg(">= 15", reason="the volatility of timezone()")
def test_the_functions_of_known_volatility_have_it(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT proname, bool_or(provolatile = 'v') FROM pg_proc"
            " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s) GROUP BY proname",
            [list(STABLE | VOLATILE)],
        ).fetchall()
    assert {name for name, volatile in rows if volatile} <= VOLATILE
    assert {name for name, volatile in rows if not volatile} <= STABLE | {"txid_current", "pg_current_xact_id"}
