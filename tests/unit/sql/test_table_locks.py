"""Locks that statements take; the integration tests hold many more of them against a server."""

from __future__ import annotations

import itertools

import pytest

from runner.sql.lock_modes import LockMode, conflict, strongest
from runner.sql.statements import Statement, parse_statements
from runner.sql.table_locks import Sweep, is_opaque, locks_taken, sweeping_lock

AS, RS, RE, SUE, S, SRE, E, AE = LockMode


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


def _locks(sql: str) -> list[str]:
    return [f"{lock.relation} {lock.mode} {lock.target.name}@{lock.offset}" for lock in locks_taken(_parse(sql))]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM t, s.u", ["t ACCESS SHARE RELATION@14", "s.u ACCESS SHARE RELATION@17"]),
        ("INSERT INTO t SELECT * FROM t", ["t ROW EXCLUSIVE RELATION@12"]),
        ("CREATE INDEX ON s.t (a)", ["s.t SHARE RELATION@16"]),
        ("CREATE INDEX CONCURRENTLY ON t (a)", ["t SHARE UPDATE EXCLUSIVE RELATION@29"]),
        ("DROP INDEX s.i", ["s.i ACCESS EXCLUSIVE RELATION@0", "s.i ACCESS EXCLUSIVE TABLE_OF_INDEX@0"]),
        (
            "DROP INDEX CONCURRENTLY i",
            ["i SHARE UPDATE EXCLUSIVE RELATION@0", "i SHARE UPDATE EXCLUSIVE TABLE_OF_INDEX@0"],
        ),
        ("REINDEX INDEX i", ["i ACCESS EXCLUSIVE RELATION@14", "i SHARE TABLE_OF_INDEX@14"]),
        ("REINDEX TABLE t", ["t ACCESS EXCLUSIVE INDEXES_OF_TABLE@14", "t SHARE RELATION@14"]),
        (
            "REINDEX TABLE CONCURRENTLY t",
            ["t SHARE UPDATE EXCLUSIVE INDEXES_OF_TABLE@27", "t SHARE UPDATE EXCLUSIVE RELATION@27"],
        ),
        ("VACUUM t, u", ["t SHARE UPDATE EXCLUSIVE RELATION@7", "u SHARE UPDATE EXCLUSIVE RELATION@10"]),
        ("VACUUM (FULL) t", ["t ACCESS EXCLUSIVE RELATION@14"]),
        ("VACUUM (FULL off) t", ["t SHARE UPDATE EXCLUSIVE RELATION@18"]),
        ("TRUNCATE t CASCADE", ["t ACCESS EXCLUSIVE RELATION@9"]),
        ("LOCK TABLE t IN SHARE MODE", ["t SHARE RELATION@11"]),
        ("CREATE TABLE t (a int REFERENCES t, b int REFERENCES u)", ["u SHARE ROW EXCLUSIVE RELATION@53"]),
        ("VACUUM", []),
        ("DO ''", []),
        ("SELECT 1", []),
    ],
)
def test_locks(sql: str, expected: list[str]) -> None:
    assert _locks(sql) == expected


def test_only_the_locks_that_matter_are_kept() -> None:
    assert _locks("ALTER TABLE t ADD COLUMN c int, ALTER a SET STATISTICS 5, DISABLE TRIGGER x") == [
        "t ACCESS EXCLUSIVE RELATION@12"
    ]


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ([AS, AE, SUE], [AE]),
        ([S, SUE], [SUE, S]),
        ([RE, RS, AS], [RE]),
        ([SRE, S, SUE], [SRE]),
        ([], []),
    ],
)
def test_a_mode_that_another_covers_is_left_out(modes: list[LockMode], expected: list[LockMode]) -> None:
    assert list(strongest(modes)) == expected


def test_conflicts_go_both_ways() -> None:
    assert all(conflict(one, other) is conflict(other, one) for one, other in itertools.product(LockMode, repeat=2))


def test_modes_have_postgresqls_names() -> None:
    assert (str(SUE), SUE.pg_name) == ("SHARE UPDATE EXCLUSIVE", "ShareUpdateExclusiveLock")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("VACUUM", Sweep(mode=SUE)),
        ("VACUUM FULL", Sweep(mode=AE)),
        ("ANALYZE", Sweep(mode=SUE)),
        ("CLUSTER", Sweep(mode=AE)),
        ("REINDEX SCHEMA s", Sweep(mode=S, schema="s")),
        ("REINDEX DATABASE CONCURRENTLY d", Sweep(mode=SUE)),
        ("DROP SCHEMA s CASCADE", Sweep(mode=AE, schema="s")),
        ("DROP SCHEMA r, s CASCADE", Sweep(mode=AE)),
        ("ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b", Sweep(mode=AE)),
        ("VACUUM t", None),
        ("REINDEX TABLE t", None),
        ("SELECT 1", None),
    ],
)
def test_commands_that_visit_every_table(sql: str, expected: Sweep | None) -> None:
    assert sweeping_lock(_parse(sql)) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DO ''", True),
        ("CALL p()", True),
        ("EXECUTE q", True),
        ("CREATE TABLE t AS EXECUTE q", True),
        ("EXPLAIN ANALYZE EXECUTE q", True),
        ("SELECT f()", False),
    ],
)
def test_what_runs_sql_that_it_does_not_show(sql: str, expected: bool) -> None:
    assert is_opaque(_parse(sql)) is expected
