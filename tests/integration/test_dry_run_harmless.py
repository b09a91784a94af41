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
from runner.embedded import EmbeddedServer, start_server
from runner.preflight.dryrun import Wishes
from runner.preflight.result import Coverage, DryRun
from tests.integration.houses import ask, value

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
#: Everything that a step could have left behind.
CATALOG = """
    SELECT 'class', oid::text, relname, relfilenode::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'function', oid::text, proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'role', oid::text, rolname, '' FROM pg_roles
    UNION ALL SELECT 'setting', setdatabase::text, setrole::text, setconfig::text FROM pg_db_role_setting
    UNION ALL SELECT 'schema', oid::text, nspname, '' FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
    ORDER BY 1, 2
"""
DATA = (
    "SELECT count(*), sum(id), md5(string_agg(word, '' ORDER BY id)) FROM kept",
    "SELECT last_value, is_called FROM numbers",
    "SELECT n FROM seen",
    "SELECT count(*) FROM pg_file_settings",
)
COUNTERS = """
    SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup, n_dead_tup, vacuum_count, analyze_count, seq_scan
    FROM pg_stat_user_tables ORDER BY 1
"""
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
    - {id: analyze, sql: EXPLAIN ANALYZE DELETE FROM kept WHERE id = 1}
    - {id: terminate, sql: SELECT pg_terminate_backend(pg_backend_pid())}
    - {id: lock, sql: "SELECT pg_advisory_lock(77)"}
    - {id: list, for_each: {sql: SELECT nextval('numbers') AS n, as: x}, sql: "SELECT :'x'"}
    - {id: hidden, for_each: {sql: SELECT honest() AS n, as: x}, sql: "SELECT :'x'"}
    - {id: guarded, if: SELECT honest() = 1, sql: SELECT 1, verify: "SELECT nextval('numbers') > 0"}
"""


@pytest.fixture(scope="module")
def idle_server() -> Iterator[EmbeddedServer]:
    """A server on which nobody else writes."""
    with start_server(progress=print, settings={"autovacuum": "off", "checkpoint_timeout": "1d"}) as server:
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
    """Return all that must not change, but for what this very question changes: its own scans are counted before."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found: list[Any] = [connection.execute(query).fetchall() for query in (CATALOG, *DATA)]
        connection.execute("SELECT pg_stat_force_next_flush()")
    return found


def written(folder: Path, steps: str) -> Path:
    """Return a plan of these steps."""
    head = "version: 1\nname: harm\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 30s, on_finish: wait}\n"
    path = folder / "plan.yaml"
    path.write_text(head + "steps:\n" + textwrap.dedent(steps), encoding="utf-8")
    return path


@pytest.mark.parametrize("explain", [True, False], ids=["explain", "no-explain"])
def test_nothing_is_executed(
    quiet: str, tmp_path: Path, explain: bool, checked: Callable[[Path, str, bool], DryRun]
) -> None:
    path = written(tmp_path, HARM)
    checked(path, quiet, explain)  # what is only done once, such as loading a library, is done
    ask(quiet, "CHECKPOINT")
    before, counted = everything(quiet), ask(quiet, COUNTERS)
    position = value(quiet, "SELECT pg_current_wal_insert_lsn()")
    result = checked(path, quiet, explain)
    assert value(quiet, "SELECT pg_current_wal_insert_lsn()") == position
    assert ask(quiet, COUNTERS) == counted
    assert everything(quiet) == before
    reports = {one.step: one for one in result.statements if one.key == "sql"}
    assert reports["block"].coverage is Coverage.NOT
    assert {one.step for one in result.statements} >= {"delete", "several", "lying", "list", "hidden"}
    assert "hidden" not in {one.step for one in result.statements if one.instance != one.step}


@pytest.fixture
def checked() -> Callable[[Path, str, bool], DryRun]:
    """Look at a plan."""

    def run(path: Path, dsn: str, explain: bool) -> DryRun:
        return asyncio.run(look(load_plan(path), dsn, Wishes(explain=explain)))

    return run
