"""What is known of a step's text: whether it may run again, and what it leaves half done when it fails."""

from __future__ import annotations

import pytest

from runner.engine.leftovers import UnfinishedObject, left_by
from runner.sql.text_traits import nature_of


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "SELECT 1",
            "SELECT count(*) FROM t; SELECT max(a) FROM t",
            "VALUES (1)",
            "TABLE t",
            "SHOW fsync",
            "SELECT :x",
        ),
        *("WITH a AS (SELECT 1) SELECT * FROM a", "EXPLAIN DELETE FROM t", "EXPLAIN (ANALYZE) SELECT 1"),
        *("SELECT * FROM t WHERE x = :'v'", "SET work_mem = '1GB'; SELECT 1"),
    ],
)
def test_what_only_reads(sql: str) -> None:
    assert nature_of(sql).only_reads
    assert nature_of(sql).idempotent


@pytest.mark.parametrize(
    "sql",
    [
        *("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1); SELECT 41", "SELECT 41; DELETE FROM t"),
        *(
            "WITH w AS (DELETE FROM t RETURNING 1) SELECT count(*) FROM w",
            "SELECT 1 INTO t",
            "SELECT * FROM t FOR UPDATE",
        ),
        *("SELECT f()", "SELECT nextval('s')", "SELECT setval('s', 1)", "SELECT dblink('c', 'DELETE FROM t')"),
        *("SELECT pg_advisory_lock(1)", "SELECT pg_notify('c', 'x')", "SELECT set_config('a.b', 'c', false)"),
        *("EXPLAIN (ANALYZE) DELETE FROM t", "DO $$ BEGIN END $$", "CALL p()", "LOCK TABLE t", "COPY t TO '/tmp/x'"),
        *("SELECT * FROM dblink('c', 'q') AS t(a int)", "SELECT lo_unlink(1)", "SELECT pg_terminate_backend(1)"),
        *("SELECT * FROM t FOR KEY SHARE", "TRUNCATE t", "CREATE TABLE t (a int)", "NOTIFY c", "not sql at all"),
        *('SELECT :"f"()', "SELECT s.f(1)", "SELECT pg_logical_emit_message(true, 'a', 'b')", "EXECUTE p", "FETCH c"),
    ],
)
def test_what_does_more_than_reading(sql: str) -> None:
    assert not nature_of(sql).only_reads
    assert not nature_of(sql).idempotent


@pytest.mark.parametrize(
    "sql",
    [
        *("VACUUM", "VACUUM (FULL, ANALYZE) t, u", "ANALYZE t", "REINDEX TABLE t", "REINDEX INDEX CONCURRENTLY i"),
        *("REINDEX SCHEMA s", "REINDEX DATABASE d", "REFRESH MATERIALIZED VIEW m", "CLUSTER t USING i", "CHECKPOINT"),
        *(
            "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
            "ANALYZE t; SELECT 1",
            'VACUUM :"t"',
            "SET work_mem = '1GB'; ANALYZE",
        ),
    ],
)
def test_what_is_idempotent_by_nature(sql: str) -> None:
    assert nature_of(sql).idempotent


@pytest.mark.parametrize(
    "sql", ["ANALYZE t; INSERT INTO t VALUES (1)", "CREATE INDEX CONCURRENTLY i ON t (a)", "", "--"]
)
def test_what_is_not(sql: str) -> None:
    assert not nature_of(sql).idempotent


def _index(name: str, table: str = "t", schema: str = "public", oid: int = 1) -> UnfinishedObject:
    return UnfinishedObject(
        oid=oid, kind="index", shown=f"{schema}.{name}", parent=f"{schema}.{table}", schema=schema, name=name,
        table_schema=schema, table=table,
    )  # fmt: skip


_P = UnfinishedObject(oid=9, kind="partition", shown="public.p1", parent="public.p", schema="public", name="p1",
              table_schema="public", table="p")  # fmt: skip
_LONG = "i" * 63


@pytest.mark.parametrize(
    ("sql", "found", "listed"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", _index("i"), True),
        ("CREATE INDEX CONCURRENTLY ON public.t (a)", _index("t_a_idx"), True),
        ("CREATE INDEX CONCURRENTLY ON t (a)", _index("t_a_idx12"), True),
        ("CREATE INDEX CONCURRENTLY ON t (a)", _index("i"), False),
        ("CREATE INDEX CONCURRENTLY ON t (a)", _index("t_b_idx"), False),
        ("CREATE INDEX CONCURRENTLY ON t (a, b) INCLUDE (c)", _index("t_a_b_c_idx"), True),
        ("CREATE INDEX CONCURRENTLY ON t (lower(a))", _index("t_lower_idx"), True),
        ("CREATE INDEX CONCURRENTLY ON t (lower(a))", _index("i"), False),
        (f"CREATE INDEX CONCURRENTLY ON {'t' * 63} (a)", _index(f"{'t' * 57}_a_idx", table="t" * 63), True),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", _index("other"), False),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", _index("i", table="u"), False),
        ("CREATE INDEX CONCURRENTLY i ON s.t (a)", _index("i"), False),
        ("CREATE INDEX i ON t (a)", _index("i"), False),
        ("REINDEX INDEX CONCURRENTLY i", _index("i_ccnew"), True),
        ("REINDEX INDEX CONCURRENTLY i", _index("i_ccnew12"), True),
        ("REINDEX INDEX CONCURRENTLY public.i", _index("i_ccold"), True),
        ("REINDEX INDEX CONCURRENTLY i", _index("j_ccnew"), False),
        ("REINDEX INDEX CONCURRENTLY s.i", _index("i_ccnew"), False),
        (f"REINDEX INDEX CONCURRENTLY {_LONG}", _index(f"{_LONG[:57]}_ccnew"), True),
        ("REINDEX (CONCURRENTLY) TABLE t", _index("i_ccnew"), True),
        ("REINDEX TABLE CONCURRENTLY t", _index("i_ccnew", table="u"), False),
        ("REINDEX TABLE t", _index("i_ccnew"), False),
        ("REINDEX SCHEMA CONCURRENTLY public", _index("i_ccnew", table="u"), True),
        ("REINDEX SCHEMA CONCURRENTLY other", _index("i_ccnew"), False),
        ("REINDEX DATABASE CONCURRENTLY", _index("i_ccnew"), True),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", _P, True),
        ("ALTER TABLE q DETACH PARTITION p1 CONCURRENTLY", _P, False),
        ("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", _P, False),
        ("ALTER TABLE p DETACH PARTITION s.p1 CONCURRENTLY", _P, False),
        ("ALTER TABLE p DETACH PARTITION public.p1 CONCURRENTLY", _P, True),
        ("ALTER TABLE p DETACH PARTITION p1", _P, False),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", _index("i", table="p"), False),
        ("REINDEX TABLE CONCURRENTLY p", _P, False),
        ("DROP INDEX CONCURRENTLY i", _index("i"), True),
        ("DROP INDEX CONCURRENTLY IF EXISTS public.i", _index("i"), True),
        ("DROP INDEX CONCURRENTLY s.i", _index("i"), False),
        ("DROP INDEX CONCURRENTLY i", _index("i_ccnew"), False),
        ("DROP INDEX i", _index("i"), False),
    ],
)  # fmt: skip
def test_only_what_the_text_is_about_is_listed(sql: str, found: UnfinishedObject, *, listed: bool) -> None:
    assert bool(left_by(nature_of(sql).builds, [found], frozenset())) is listed
    assert not left_by(nature_of(sql).builds, [found], frozenset({found.oid}))
