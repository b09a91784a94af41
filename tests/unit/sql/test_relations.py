"""Which relations a query uses, and how: CTEs, aliases and functions are not relations."""

from __future__ import annotations

import pytest

from runner.sql.relations import Relation, query_relations
from runner.sql.statements import parse_statements


def _uses(sql: str) -> list[str]:
    (statement,) = parse_statements(sql)
    uses = query_relations(statement)
    for use in uses:
        assert sql[use.offset :].startswith((use.relation.schema or use.relation.name, '"'))
    return [f"{use.use.value} {use.relation}" for use in uses]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM t AS x JOIN s.u ON true", ["reads t", "reads s.u"]),
        ("SELECT * FROM f(1), generate_series(1, 2) g", []),
        ("SELECT a, (SELECT 1 FROM u) FROM t WHERE EXISTS (SELECT FROM v)", ["reads u", "reads t", "reads v"]),
        ("SELECT * FROM t UNION (SELECT * FROM u)", ["reads t", "reads u"]),
        ("VALUES ((SELECT a FROM t))", ["reads t"]),
        ("WITH x AS (SELECT * FROM t) SELECT * FROM x", ["reads t"]),
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", ["reads t"]),
        ("WITH RECURSIVE t AS (SELECT 1 UNION SELECT * FROM t) SELECT * FROM t", []),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", ["reads b"]),
        ("WITH x AS (SELECT 1) SELECT * FROM s.x", ["reads s.x"]),
        ("WITH x AS (SELECT 1) SELECT * FROM (WITH y AS (SELECT * FROM x) SELECT * FROM y, z) q", ["reads z"]),
        ("WITH x AS (INSERT INTO t SELECT * FROM u RETURNING *) SELECT * FROM x", ["writes t", "reads u"]),
        ("WITH x AS (SELECT 1) INSERT INTO x SELECT * FROM x", ["writes x"]),
        ("INSERT INTO t VALUES ((SELECT a FROM u)) ON CONFLICT DO NOTHING", ["writes t", "reads u"]),
        ("UPDATE t SET a = 1 FROM u WHERE t.a = u.a", ["writes t", "reads u"]),
        ("DELETE FROM t USING u WHERE t.a IN (SELECT a FROM v)", ["writes t", "reads u", "reads v"]),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", ["writes t", "reads u"]),
        ("SELECT * FROM t FOR UPDATE", ["locks rows of t"]),
        ("SELECT * FROM t x, u FOR SHARE OF x", ["locks rows of t", "reads u"]),
        ("SELECT * FROM t, (SELECT * FROM u) o FOR UPDATE", ["locks rows of t", "locks rows of u"]),
        ("SELECT * FROM t, (SELECT * FROM u) o FOR UPDATE OF o", ["reads t", "locks rows of u"]),
        ("SELECT * FROM (t JOIN u USING (a)) j FOR UPDATE", ["locks rows of t", "locks rows of u"]),
        (
            "SELECT * FROM t JOIN u ON t.a IN (SELECT a FROM v) FOR UPDATE OF u",
            ["reads t", "locks rows of u", "reads v"],
        ),
        ("SELECT * FROM t WHERE a IN (SELECT a FROM u) FOR UPDATE", ["locks rows of t", "reads u"]),
        ("WITH x AS (SELECT * FROM t) SELECT * FROM x, u FOR UPDATE", ["reads t", "locks rows of u"]),
        ("SELECT * FROM t TABLESAMPLE system (1) FOR UPDATE", ["locks rows of t"]),
        ("SELECT * FROM LATERAL (SELECT * FROM t FOR UPDATE) x", ["locks rows of t"]),
        ("EXPLAIN DELETE FROM t", ["writes t"]),
        ("CREATE TABLE n AS SELECT * FROM t", ["reads t"]),
        ("SELECT a INTO n FROM t", ["reads t"]),
        ("COPY (SELECT * FROM t) TO STDOUT", ["reads t"]),
        ("COPY t TO STDOUT", []),
        ("CREATE INDEX ON t (a)", []),
        ('SELECT é.a FROM "É" AS é', ['reads "É"']),
    ],
)
def test_uses(sql: str, expected: list[str]) -> None:
    assert _uses(sql) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Relation("s", "t"), Relation("s", "t"), True),
        (Relation(None, "t"), Relation("s", "t"), True),
        (Relation("s", "t"), Relation(None, "t"), True),
        (Relation("s", "t"), Relation("r", "t"), False),
        (Relation(None, "t"), Relation(None, "u"), False),
    ],
)
def test_a_name_without_a_schema_may_be_any_of_that_name(one: Relation, other: Relation, expected: bool) -> None:
    assert one.may_be(other) is expected


def test_a_relation_is_written_as_sql() -> None:
    assert str(Relation("Sales", 'a"b')) == '"Sales"."a""b"'
