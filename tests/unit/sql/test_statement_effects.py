"""Whether a statement only reads."""

from __future__ import annotations

import pytest

from runner.sql.statement_effects import Effect, effect
from runner.sql.statements import Statement, parse_statements


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


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
