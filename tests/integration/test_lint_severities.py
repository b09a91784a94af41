"""What the rules call certain fails on a real server, and what they let pass runs; each text is one transaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from runner.errors import Severity
from runner.lint import check_plan
from runner.sql.builtin_functions import READERS, STABLE, VOLATILE
from runner.sql.statements import parse_statements

SETUP = """
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN plain AS int;
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE FUNCTION three() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 3';
    CREATE TABLE t (id int PRIMARY KEY, v int, s varchar(10), n numeric(5, 2), m mood);
    INSERT INTO t SELECT i, i, i::text, i, 'ok' FROM generate_series(1, 10) AS i;
"""


@pytest.fixture(scope="module")
def server(new_database: Callable[[], str]) -> str:
    """A database of this module's own."""
    return new_database()


def outcome(dsn: str, sql: str) -> str | None:
    """Run a text as one transaction on fresh tables, and return its SQLSTATE if it fails."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute(SETUP.encode())
        try:
            connection.execute(sql.encode())
        except psycopg.Error as error:
            return error.sqlstate
    return None


def errors(folder: Path, sql: str) -> list[str]:
    """Return the codes of the errors that the rules find in a step with this text."""
    (folder / "a.sql").write_text(sql, encoding="utf-8")
    path = folder / "plan.yaml"
    path.write_text(
        "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait, lock_timeout: 5s}\n"
        "steps:\n  - id: a\n    sql_file: a.sql\n"
    )
    return [problem.code for problem in check_plan(path).problems if problem.severity is Severity.ERROR]


@pytest.mark.parametrize(
    ("sql", "code", "sqlstate"),
    [
        ("ALTER TYPE mood ADD VALUE 'new'; SELECT 'new'::mood", "JP322", "55P04"),
        ("DO $$ BEGIN VACUUM t; END $$", "JP323", "25001"),
        ("DO $$ BEGIN EXECUTE 'VACUUM t'; END $$", "JP323", "25001"),
        ("DO $$ BEGIN CREATE INDEX CONCURRENTLY i ON t (v); END $$", "JP323", "25001"),
        ("DO $$ BEGIN IF false THEN SELEC 1; END IF; END $$", "JP306", "42601"),
        ("DO $$ BEGIN IF true THEN PERFORM 1; END $$", "JP306", "42601"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELEC 1'", "JP306", "42601"),
        ("CREATE FUNCTION f(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a +; END $$", "JP306", "42601"),
        ("SELECT 1; DO $$ BEGIN LOOP COMMIT; EXIT; END LOOP; END $$", "JP321", "2D000"),
        ("VACUUM (nonsense) t", "JP303", "42601"),
        ("ANALYZE (buffers) t", "JP303", "42601"),
        ("CLUSTER (quick) t", "JP303", "42601"),
        ("REINDEX (fast) TABLE t", "JP303", "42601"),
        ("EXPLAIN SELECT 1; VACUUM t", "JP320", "25001"),
        ("SELECT $1", "JP314", "42P02"),
        ("LOCK TABLE t", "JP313", "25P01"),
        ("DECLARE c CURSOR FOR SELECT 1", "JP313", "25P01"),
        ("SELECT 'a' /* c */\n 'b'", "JP300", "42601"),
    ],
)
def test_what_is_an_error_fails(server: str, tmp_path: Path, sql: str, code: str, sqlstate: str) -> None:
    assert errors(tmp_path, sql) == [code]
    assert outcome(server, sql) == sqlstate


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TYPE mood ADD VALUE 'new'; INSERT INTO t (id, s) VALUES (11, 'new')",
        "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ok'; SELECT 'ok'::mood",
        "CREATE TYPE fresh AS ENUM ('a'); ALTER TYPE fresh ADD VALUE 'b'; SELECT 'b'::fresh",
        "DO $$ BEGIN EXECUTE 'VACUUM t'; EXCEPTION WHEN others THEN NULL; END $$",
        "DO $$ BEGIN IF false THEN VACUUM t; END IF; END $$",
        "DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN others THEN COMMIT; END $$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN COMMIT; END'",
        "SELECT 1; DO $$ BEGIN IF false THEN COMMIT; END IF; END $$",
        "SELECT 1; DO $$ BEGIN FOR i IN 1..0 LOOP COMMIT; END LOOP; END $$",
        "SELECT 1; DO $$ BEGIN RETURN; COMMIT; END $$",
        "SELECT 1; UPDATE t SET v = 1; LOCK TABLE t",
        "UNLISTEN c",
        "SELECT 1 WHERE 1 NOT -- why\n IN (2)",
        "SELECT v FROM t ORDER BY v NULLS /* x */ LAST",
        "SELECT now()::timestamp WITH -- c\n TIME ZONE",
        "SELECT 'a' -- c\n 'b'",
        "SELECT U&'!0041' -- c\n UESCAPE /* d */ '!'",
        "SELECT 1 FROM unnest(ARRAY[1]) WITH /* n */ ORDINALITY",
    ],
)
def test_what_runs_is_no_error(server: str, tmp_path: Path, sql: str) -> None:
    assert outcome(server, sql) is None
    assert errors(tmp_path, sql) == []


@pytest.mark.parametrize(
    ("sql", "fails"),
    [
        ("ALTER TABLE t ADD COLUMN w int NOT NULL", True),
        ("ALTER TABLE t ADD COLUMN w mood NOT NULL", True),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD COLUMN w int PRIMARY KEY", True),
        ("ALTER TABLE t ADD COLUMN w int NOT NULL DEFAULT 0", False),
        ("ALTER TABLE t ADD COLUMN w serial NOT NULL", False),
        ("ALTER TABLE t ADD COLUMN w int GENERATED ALWAYS AS IDENTITY NOT NULL", False),
        ("ALTER TABLE t ADD COLUMN w int GENERATED ALWAYS AS (id + 1) STORED NOT NULL", False),
    ],
)
def test_a_new_column_that_is_not_null_needs_a_default(server: str, tmp_path: Path, sql: str, fails: bool) -> None:
    assert (outcome(server, sql) == "23502") is fails
    errors(tmp_path, sql)
    codes = {problem.code for problem in check_plan(tmp_path / "plan.yaml").problems}
    assert ("JP336" in codes) is fails


@pytest.mark.parametrize(
    ("sql", "again"),
    [
        ("ADD COLUMN w mood", False),
        ("ADD COLUMN w mood DEFAULT 'ok'", False),
        ("ADD COLUMN w plain", False),
        ("ADD COLUMN w plain DEFAULT 1", False),
        ("ADD COLUMN w int DEFAULT three()", False),
        ("ADD COLUMN w text DEFAULT lower('A')", False),
        ("ADD COLUMN w timestamptz DEFAULT now()", False),
        ("ADD COLUMN w positive", True),
        ("ADD COLUMN w uuid DEFAULT gen_random_uuid()", True),
        ("ALTER v TYPE text", True),
        ("ALTER v TYPE numeric", True),
        ("ALTER v TYPE bigint", True),
    ],
)
def test_what_writes_the_table_again_is_found(server: str, tmp_path: Path, sql: str, again: bool) -> None:
    assert outcome(server, "SELECT 1") is None
    with psycopg.connect(server, autocommit=True) as connection:
        node = "SELECT pg_relation_filenode('t')"
        before = connection.execute(node).fetchone()
        connection.execute(f"ALTER TABLE t {sql}".encode())
        assert (connection.execute(node).fetchone() != before) is again
    path = tmp_path / "plan.yaml"
    path.write_text(
        "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait, lock_timeout: 5s}\nsteps:\n"
        "  - {id: d, sql: CREATE DOMAIN positive AS int CHECK (value > 0)}\n"
        "  - {id: f, sql: CREATE FUNCTION three() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 3'}\n"
        f'  - {{id: a, needs: [d, f], sql: "ALTER TABLE t {sql}"}}\n'
    )
    assert ("JP350" in {problem.code for problem in check_plan(path).problems}) is again


def test_the_known_functions_have_the_volatility_that_is_known_of_them(server: str) -> None:
    with psycopg.connect(server) as connection:
        rows = connection.execute(
            "SELECT proname::text, array_agg(DISTINCT provolatile::text) FROM pg_proc"
            " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s) GROUP BY 1",
            [sorted(READERS | STABLE | VOLATILE)],
        ).fetchall()
    known: dict[str, set[str]] = {name: set(kinds) for name, kinds in rows}
    assert {name for name in VOLATILE & known.keys() if known[name] != {"v"}} == set()
    assert {name for name in (READERS | STABLE) - VOLATILE if "v" in known.get(name, set())} == set()


@pytest.mark.parametrize("text", ["SELECT 1 WHERE 1 NOT -- why\n IN (2)", "SELECT 'a' -- c\n 'b'"])
def test_the_text_is_sent_as_it_is_written(text: str) -> None:
    (statement,) = parse_statements(text)
    assert text[statement.start : statement.end] == text
