"""UPDATE, DELETE and MERGE of every row."""

from __future__ import annotations

import pytest

from runner.sql.statements import Statement, parse_statements
from runner.sql.unfiltered_writes import unfiltered_writes


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
