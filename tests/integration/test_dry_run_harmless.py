"""A dry run executes nothing: catalogs, data, sequences, statistics and WAL are the same before and after."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runner import load_plan
from runner.cli.dry_run import look
from runner.embedded import EmbeddedServer
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage, DryRun
from tests.integration.gateway_setups import ask, until, value
from tests.servers import start_test_server

SEED = """
    CREATE TABLE kept (id int PRIMARY KEY, word text);
    INSERT INTO kept SELECT n, 'x' FROM generate_series(1, 1000) AS n;
    CREATE TABLE child (id int REFERENCES kept);
    CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n FROM kept;
    CREATE SEQUENCE numbers;
    CREATE INDEX kept_word ON kept (word);
    CREATE FUNCTION honest() RETURNS int LANGUAGE plpgsql VOLATILE AS
      $$ BEGIN DELETE FROM kept; PERFORM nextval('numbers'); RETURN 1; END $$;
    CREATE FUNCTION lying() RETURNS int LANGUAGE plpgsql STABLE AS
      $$ BEGIN PERFORM nextval('numbers'); PERFORM set_config('x.y', '1', false); RETURN 1; END $$;
    CREATE FUNCTION lying_more() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT nextval('numbers')::int $$;
    CREATE PROCEDURE committing() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM kept; COMMIT; END $$
"""
#: Every table there is: those of the catalog, of this database and of the whole server, and one's own.
TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind IN ('r', 'm') AND relpersistence = 'p' ORDER BY oid
"""
#: Each row with its place and who has made and locked it: a change that leaves the same values would show too.
ROWS = "SELECT count(*), md5(string_agg(md5(concat(t.ctid, t.xmin, t.xmax, t)), '' ORDER BY t.ctid)) FROM {} AS t"
SEQUENCES = "SELECT last_value, log_cnt, is_called, ctid, xmin, xmax FROM numbers"
SETTINGS = "SELECT sourcefile, sourceline, name, setting FROM pg_file_settings ORDER BY 1, 2"
#: All columns but those about blocks, which a look at the ends of an index touches.
COUNTERS = (
    "SELECT to_jsonb(s) FROM pg_stat_user_tables AS s ORDER BY relid",
    "SELECT to_jsonb(s) FROM pg_stat_user_indexes AS s ORDER BY indexrelid",
    "SELECT to_jsonb(s) - 'blks_hit' FROM pg_statio_user_sequences AS s ORDER BY relid",
    "SELECT funcname, calls FROM pg_stat_user_functions WHERE funcname = 'honest'",
    "SELECT conflicts, deadlocks, tup_inserted, tup_updated, tup_deleted FROM pg_stat_database ORDER BY datid",
)
#: No other session is connected.
IDLE = "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
#: Plans that would do harm, and plans that try to break out of what looks at them.
HARM = """
    - {id: delete, sql: DELETE FROM kept}  # jobplan: ignore=JP350 it is what a plan may do
    - {id: truncate, sql: TRUNCATE kept CASCADE}  # jobplan: ignore=JP353,JP354 the same
    - {id: drop, sql: DROP TABLE child}  # jobplan: ignore=JP353 the same
    - {id: create, sql: CREATE TABLE made AS SELECT * FROM kept}
    - {id: view, sql: CREATE MATERIALIZED VIEW mv AS SELECT nextval('numbers') AS n}
    - {id: sequence, sql: "SELECT nextval('numbers'), setval('numbers', 7)"}
    - {id: honest, sql: SELECT honest()}
    - {id: lying, sql: SELECT 1 FROM kept WHERE id = lying()}
    - {id: lying_more, sql: SELECT lying_more()}
    - {id: call, sql: CALL committing()}
    - {id: block, sql: "DO $$ BEGIN DELETE FROM kept; COMMIT; END $$"}
    - {id: vacuum, sql: VACUUM FULL kept}
    - {id: refresh, sql: REFRESH MATERIALIZED VIEW seen}
    - {id: system, sql: ALTER SYSTEM SET work_mem = '1GB'}
    - {id: setting, sql: "SELECT set_config('transaction_read_only', 'off', false), pg_sleep(0)"}
    - {id: role, sql: CREATE ROLE jobplan_test_harm}
    - {id: strings, sql: "SELECT 'x''; COMMIT; DELETE FROM kept; --' AS text"}
    - {id: quoted, sql: 'SELECT 1 AS "; COMMIT; DELETE FROM kept; --"'}
    - {id: dollar, sql: "SELECT $a$; COMMIT; DELETE FROM kept; $a$ AS text"}
    - {id: comment, sql: "SELECT 1 /* ; COMMIT; */ -- ; DELETE FROM kept"}
    - {id: several, sql: "UPDATE kept SET word = 'y' WHERE id = 1; DELETE FROM kept WHERE id = 2"}
    - {id: settable, sql: "SET transaction_read_only = off; DELETE FROM kept WHERE id = 1"}
    - {id: by_function, sql: "SELECT set_config('transaction_read_only', 'off', true); DELETE FROM kept WHERE id = 1"}
    - {id: loosened, sql: "SET default_transaction_read_only = off; SET statement_timeout = 0; SELECT honest()"}
    - {id: replica, sql: "SET session_replication_role = replica; DELETE FROM kept WHERE id = 1"}
    - {id: copied, sql: "COPY (DELETE FROM kept WHERE id = 1 RETURNING id) TO '/dev/null'"}
    - {id: seen_through, sql: "CREATE VIEW v AS SELECT nextval('numbers') AS n, honest() AS m"}
    - {id: analyze, sql: EXPLAIN ANALYZE DELETE FROM kept WHERE id = 1}
    - {id: terminate, sql: SELECT pg_terminate_backend(pg_backend_pid())}
    - {id: lock, sql: "SELECT pg_advisory_lock(77)"}
    - {id: list, for_each: {sql: SELECT nextval('numbers') AS n, as: x}, sql: "SELECT :'x'"}
    - {id: hidden, for_each: {sql: SELECT honest() AS n, as: x}, sql: "SELECT :'x'"}
    - {id: guarded, if: SELECT honest() = 1, sql: SELECT 1, verify: "SELECT nextval('numbers') > 0"}
"""


@pytest.fixture(scope="module")
def idle_server() -> Iterator[EmbeddedServer]:
    """A server on which nothing writes: no other session, and no snapshot for standbys every 15 seconds."""
    settings = {"autovacuum": "off", "checkpoint_timeout": "1d", "wal_level": "minimal", "max_wal_senders": "0"}
    with start_test_server(**settings, track_functions="all") as server:
        yield server


@pytest.fixture
def quiet(idle_server: EmbeddedServer) -> str:
    """A database with something to lose, at rest: no page has a hint bit left to be set."""
    dsn = idle_server.dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE EXTENSION pg_background")
        connection.execute(SEED)
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")
    return dsn


def everything(dsn: str) -> list[Any]:
    """Return the content of every table, and the server's settings files."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        tables = [name for (name,) in connection.execute(TABLES).fetchall()]
        found: list[Any] = [(name, connection.execute(ROWS.format(name).encode()).fetchall()) for name in tables]
        found += [connection.execute(query).fetchall() for query in (SEQUENCES, SETTINGS)]
        connection.execute("SELECT pg_stat_force_next_flush()")
    return found


def counted(dsn: str) -> list[Any]:
    """Return the statistics of what is not the system's."""
    return [ask(dsn, query) for query in COUNTERS]


def written(folder: Path, steps: str) -> Path:
    """Return a plan of these steps."""
    head = "version: 1\nname: harm\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 30s, on_finish: wait}\n"
    path = folder / "plan.yaml"
    path.write_text(head + "steps:\n" + textwrap.dedent(steps), encoding="utf-8")
    return path


@pytest.mark.parametrize("explain", [True, False], ids=["explain", "no-explain"])
@pytest.mark.pg(">= 15", reason="pg_stat_force_next_flush()")
def test_nothing_is_executed(
    quiet: str, tmp_path: Path, explain: bool, checked: Callable[[Path, str, bool], DryRun]
) -> None:
    path = written(tmp_path, HARM)
    checked(path, quiet, explain)  # what is only done once, such as loading a library, is done
    ask(quiet, "CHECKPOINT")
    before = everything(quiet)
    asyncio.run(until(lambda: value(quiet, IDLE)))
    counters = counted(quiet)
    position = value(quiet, "SELECT pg_current_wal_insert_lsn()")
    result = checked(path, quiet, explain)
    asyncio.run(until(lambda: value(quiet, IDLE)))  # what a session has counted is there when it has ended
    assert value(quiet, "SELECT pg_current_wal_insert_lsn()") == position
    assert counted(quiet) == counters
    after = everything(quiet)
    assert [name for name, content in after[:-2] if (name, content) not in before] == []
    assert after == before
    reports = {one.step: one for one in result.statements if one.key == "sql"}
    assert reports["block"].coverage is Coverage.NOT
    assert {one.step for one in result.statements} >= {"delete", "several", "lying", "list", "hidden"}
    assert "hidden" not in {one.step for one in result.statements if one.instance != one.step}


@pytest.fixture
def checked() -> Callable[[Path, str, bool], DryRun]:
    """Look at a plan."""

    def run(path: Path, dsn: str, explain: bool) -> DryRun:
        return asyncio.run(look(load_plan(path), dsn, DryRunOptions(explain=explain)))

    return run
