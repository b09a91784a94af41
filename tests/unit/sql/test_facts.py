"""What rules ask of a statement."""

from __future__ import annotations

import pytest

from runner.sql.facts import (
    CreatedIndex,
    FunctionCall,
    ParameterSymbol,
    ReindexTarget,
    SettingChange,
    created_index,
    created_relations,
    dropped_relations,
    enabled,
    functions_called,
    is_cascading,
    is_concurrent,
    is_guarded,
    options,
    parameter_symbols,
    reindex_target,
    server_wide,
    settings_changed,
    unfiltered_writes,
)
from runner.sql.relations import Relation
from runner.sql.statement_effects import Effect, effect
from runner.sql.statements import Statement, parse_statements


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM é.t", ["é.t"]),
        ("UPDATE t SET a = 1", ["t"]),
        ("DELETE FROM t WHERE a", []),
        ("DELETE FROM t USING u", ["t"]),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", ["t"]),
        ("EXPLAIN ANALYZE UPDATE t SET a = 1", ["t"]),
        ("TRUNCATE t", []),
        ("INSERT INTO t SELECT 1", []),
        ("MERGE INTO é.t USING u ON true WHEN MATCHED THEN DELETE", ["é.t"]),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", []),
        ("MERGE INTO t USING u ON (SELECT false) WHEN MATCHED THEN DELETE", []),
        ("MERGE INTO t USING u ON 1 = 1 WHEN NOT MATCHED THEN DO NOTHING WHEN MATCHED THEN DELETE", ["t"]),
        ("MERGE INTO t USING u ON false WHEN MATCHED THEN DELETE", []),
        ("MERGE INTO t USING u ON false WHEN NOT MATCHED BY SOURCE THEN DELETE", ["t"]),
    ],
)
def test_writes_without_where(sql: str, expected: list[str]) -> None:
    found = unfiltered_writes(_parse(sql))
    assert [str(use.relation).replace('"', "") for use in found] == expected
    assert all(sql[use.offset :].startswith(expected[0]) for use in found)


@pytest.mark.parametrize(
    ("sql", "guarded", "cascading", "concurrent"),
    [
        ("DROP TABLE IF EXISTS t CASCADE", True, True, False),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", True, False, True),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", True, False, True),
        ("CREATE INDEX i ON t (a)", False, False, False),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", True, False, False),
        ("ALTER TABLE IF EXISTS t DROP COLUMN c CASCADE", True, True, False),
        ("TRUNCATE t CASCADE", False, True, False),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", False, False, True),
        ("REINDEX (VERBOSE, CONCURRENTLY off) TABLE t", False, False, False),
        ("REINDEX TABLE CONCURRENTLY t", False, False, True),
        ("ALTER TABLE p DETACH PARTITION c CONCURRENTLY", False, False, True),
        ("SELECT 1", False, False, False),
    ],
)
def test_guards_and_manners(sql: str, guarded: bool, cascading: bool, concurrent: bool) -> None:
    statement = _parse(sql)
    assert (is_guarded(statement), is_cascading(statement), is_concurrent(statement)) == (
        guarded,
        cascading,
        concurrent,
    )


def test_parameter_symbols_are_found_but_not_where_they_are_meant() -> None:
    assert parameter_symbols(_parse("SELECT 'é', $1 + $22")) == (
        ParameterSymbol(number=1, offset=12),
        ParameterSymbol(number=22, offset=17),
    )
    assert parameter_symbols(_parse("PREPARE q AS SELECT $1")) == ()
    assert parameter_symbols(_parse("SELECT '$1', $$ $1 $$")) == ()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SET statement_timeout = '5s'", [SettingChange(name="statement_timeout", local=False, offset=0)]),
        ("SET LOCAL lock_timeout TO DEFAULT", [SettingChange(name="lock_timeout", local=True, offset=0)]),
        ("SET TIME ZONE 'UTC'", [SettingChange(name="timezone", local=False, offset=0)]),
        ("RESET ALL", [SettingChange(name="all", local=False, offset=0)]),
        ("SELECT set_config('role', x, true)", [SettingChange(name="role", local=False, offset=7)]),
        ("SELECT set_config(x, 'y', true)", []),
        ("SHOW work_mem", []),
    ],
)
def test_settings(sql: str, expected: list[SettingChange]) -> None:
    assert list(settings_changed(_parse(sql))) == expected


def test_functions_are_found_with_their_schema() -> None:
    assert functions_called(_parse("SELECT 'é', s.f(g(1))")) == (
        FunctionCall(schema="s", name="f", offset=12),
        FunctionCall(schema=None, name="g", offset=16),
    )
    assert [call.name for call in functions_called(_parse("CALL p()"))] == ["p"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("VACUUM (FULL, VERBOSE false, PARALLEL 4) t", {"full": None, "verbose": "false", "parallel": "4"}),
        ("VACUUM FULL VERBOSE t", {"full": None, "verbose": None}),
        ("REINDEX (VERBOSE, TABLESPACE fast) INDEX i", {"verbose": None, "tablespace": "fast"}),
        ("REINDEX INDEX CONCURRENTLY i", {"concurrently": None}),
        ("EXPLAIN (ANALYZE on, COSTS 0) SELECT 1", {"analyze": "on", "costs": "0"}),
        ("SELECT 1", {}),
        ("ALTER DATABASE d SET work_mem = 1", {}),
    ],
)
def test_options(sql: str, expected: dict[str, str | None]) -> None:
    assert dict(options(_parse(sql))) == expected


def test_an_option_is_on_unless_it_says_no() -> None:
    statement = _parse("VACUUM (FULL, VERBOSE OFF, ANALYZE 0, FREEZE 1) t")
    assert [enabled(statement, name) for name in ("full", "verbose", "analyze", "freeze", "truncate")] == [
        *(True, False, False, True, False)
    ]
    assert enabled(statement, "truncate", default=True) is True


@pytest.mark.parametrize(
    ("sql", "target"),
    [
        ("REINDEX INDEX i", ReindexTarget.INDEX),
        ("REINDEX TABLE t", ReindexTarget.TABLE),
        ("REINDEX SCHEMA s", ReindexTarget.SCHEMA),
        ("REINDEX DATABASE", ReindexTarget.DATABASE),
        ("REINDEX SYSTEM", ReindexTarget.SYSTEM),
        ("VACUUM", None),
    ],
)
def test_reindex_targets(sql: str, target: ReindexTarget | None) -> None:
    assert reindex_target(_parse(sql)) is target


def test_an_index_is_created_in_its_tables_schema() -> None:
    assert created_index(_parse("CREATE INDEX i ON s.t (a)")) == CreatedIndex(
        index=Relation("s", "i"), table=Relation("s", "t"), columns=("a",)
    )
    assert created_index(_parse("CREATE INDEX ON t (a)")) == CreatedIndex(
        index=None, table=Relation(None, "t"), columns=("a",)
    )
    assert created_index(_parse("VACUUM")) is None


@pytest.mark.parametrize(
    ("sql", "created", "dropped"),
    [
        ("CREATE TABLE s.t (a int)", ["s.t"], []),
        ("CREATE TABLE t AS SELECT 1", ["t"], []),
        ("SELECT 1 INTO t", ["t"], []),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1", ["m"], []),
        ("CREATE VIEW v AS SELECT 1", ["v"], []),
        ("CREATE SEQUENCE q", ["q"], []),
        ("CREATE FOREIGN TABLE f (a int) SERVER s", ["f"], []),
        ("DROP TABLE s.t, u", [], ["s.t", "u"]),
        ("DROP INDEX i", [], ["i"]),
        ("DROP FUNCTION f", [], []),
    ],
)
def test_what_comes_and_goes(sql: str, created: list[str], dropped: list[str]) -> None:
    statement = _parse(sql)
    assert [str(relation) for relation in created_relations(statement)] == created
    assert [str(relation) for relation in dropped_relations(statement)] == dropped


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER SYSTEM SET work_mem = 1", "ALTER SYSTEM"),
        ("CREATE USER x", "CREATE ROLE"),
        ("DROP DATABASE d", "DROP DATABASE"),
        ("CHECKPOINT", "CHECKPOINT"),
        ("GRANT r TO x", "GRANT ROLE"),
        ("GRANT CONNECT ON DATABASE d TO x", "GRANT"),
        ("ALTER DATABASE d RENAME TO e", "ALTER … RENAME"),
        ("ALTER DATABASE d OWNER TO x", "ALTER … OWNER TO"),
        ("COMMENT ON ROLE x IS 'y'", "COMMENT"),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "pg_terminate_backend()"),
        ("GRANT SELECT ON t TO x", None),
        ("ALTER TABLE t RENAME TO u", None),
        ("VACUUM", None),
    ],
)
def test_what_reaches_beyond_the_database(sql: str, expected: str | None) -> None:
    assert server_wide(_parse(sql)) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM t WHERE a > now() - interval '1 day'", Effect.READS),
        ("SELECT extract(epoch FROM a), pg_get_indexdef(1) FROM t", Effect.READS),
        ("SELECT pg_catalog.repeat('a', 3)", Effect.READS),
        ("VALUES (1)", Effect.READS),
        ("SHOW work_mem", Effect.READS),
        ("EXPLAIN DELETE FROM t", Effect.READS),
        ("EXPLAIN (ANALYZE) SELECT 1", Effect.READS),
        ("COPY (SELECT 1) TO STDOUT", Effect.READS),
        ("EXPLAIN ANALYZE DELETE FROM t", Effect.WRITES),
        ("COPY t TO '/tmp/x'", Effect.WRITES),
        ("SELECT * FROM t FOR UPDATE", Effect.WRITES),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", Effect.WRITES),
        ("SELECT nextval('q')", Effect.WRITES),
        ("SELECT pg_advisory_lock(1), f()", Effect.WRITES),
        ("SELECT 1 INTO t", Effect.WRITES),
        ("VACUUM", Effect.WRITES),
        ("SELECT purge_old_rows()", Effect.UNKNOWN),
        ("SELECT s.count(1)", Effect.UNKNOWN),
        ("SELECT s.nextval(1)", Effect.UNKNOWN),
        ("SELECT pg_catalog.query_to_xml('DELETE FROM t', true, true, '')", Effect.UNKNOWN),
        ("DO ''", Effect.UNKNOWN),
        ("CALL p()", Effect.UNKNOWN),
    ],
)
def test_effects(sql: str, expected: Effect) -> None:
    assert effect(_parse(sql)) is expected
