"""The foreign keys that statements make, and the row changes that concern one."""

from __future__ import annotations

import pytest

from runner.sql.lock_modes import LockMode
from runner.sql.statements import parse_statements
from runner.sql.table_locks import RowChangeKind, foreign_keys, row_changes

_SHARE, _EXCLUSIVE = LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "CREATE TABLE c (i int REFERENCES s.p, j int CONSTRAINT k REFERENCES p (x) ON DELETE CASCADE)",
            [
                ("c_i_fkey", "c → s.p", ("i",), (), _SHARE, _SHARE),
                ("k", "c → p", ("j",), ("x",), _EXCLUSIVE, _SHARE),
            ],
        ),
        (
            "CREATE TABLE c (a int, FOREIGN KEY (a, b) REFERENCES p (x, y) ON UPDATE SET NULL ON DELETE RESTRICT)",
            [("c_a_b_fkey", "c → p", ("a", "b"), ("x", "y"), _SHARE, _EXCLUSIVE)],
        ),
        (
            "ALTER TABLE s.c ADD CHECK (a > 0), ADD FOREIGN KEY (a) REFERENCES p ON DELETE SET DEFAULT NOT VALID",
            [("c_a_fkey", "s.c → p", ("a",), (), _EXCLUSIVE, _SHARE)],
        ),
        (
            "ALTER TABLE c ADD COLUMN n int NOT NULL REFERENCES p, DROP COLUMN x",
            [("c_n_fkey", "c → p", ("n",), (), _SHARE, _SHARE)],
        ),
        ("CREATE TABLE c (i int PRIMARY KEY, CHECK (i > 0), LIKE p)", []),
        ("SELECT 'REFERENCES p'", []),
    ],
)
def test_foreign_keys_of_a_statement(sql: str, expected: list[object]) -> None:
    (statement,) = parse_statements(sql)
    found = [
        (key.name, str(key), key.columns, key.referenced, key.on_delete, key.on_update)
        for key in foreign_keys(statement)
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO t VALUES (1)", [("t", RowChangeKind.INSERT, set())]),
        (
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1, c = 2",
            [("t", RowChangeKind.INSERT, set()), ("t", RowChangeKind.UPDATE, {"b", "c"})],
        ),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", [("t", RowChangeKind.INSERT, set())]),
        ("UPDATE ONLY s.t SET (a, b) = (1, 2), c[1] = 3", [("s.t", RowChangeKind.UPDATE, {"a", "b", "c"})]),
        ("DELETE FROM t USING u", [("t", RowChangeKind.DELETE, set())]),
        (
            "WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO old SELECT * FROM gone",
            [("old", RowChangeKind.INSERT, set()), ("t", RowChangeKind.DELETE, set())],
        ),
        (
            """MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)
               WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN MATCHED THEN DO NOTHING""",
            [
                ("t", RowChangeKind.UPDATE, {"a"}),
                ("t", RowChangeKind.INSERT, set()),
                ("t", RowChangeKind.DELETE, set()),
            ],
        ),
        ("COPY t (a) FROM '/dev/null'", [("t", RowChangeKind.INSERT, set())]),
        ("COPY t TO '/dev/null'", []),
        ("EXPLAIN DELETE FROM t", []),
        ("EXPLAIN (ANALYZE) DELETE FROM t", [("t", RowChangeKind.DELETE, set())]),
        ("CREATE RULE r AS ON DELETE TO t DO ALSO DELETE FROM u", []),
        ("SELECT * FROM t", []),
    ],
)
def test_row_changes_of_a_statement(sql: str, expected: list[tuple[str, RowChangeKind, set[str]]]) -> None:
    (statement,) = parse_statements(sql)
    found = [(str(change.relation), change.change, set(change.columns)) for change in row_changes(statement)]
    assert found == expected


def test_a_row_change_stands_where_its_relation_is_named() -> None:
    (statement,) = parse_statements("WITH x AS (DELETE FROM é) SELECT 1")
    (change,) = row_changes(statement)
    assert change.offset == len("WITH x AS (DELETE FROM ")
