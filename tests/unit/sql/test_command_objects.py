"""What a command is about: what it creates, drops and rebuilds."""

from __future__ import annotations

import pytest

from runner.sql.command_objects import (
    CreatedIndex,
    ReindexTarget,
    created_index,
    created_relations,
    dropped_relations,
    is_temporary,
    reindex_target,
)
from runner.sql.relations import Relation
from runner.sql.statements import Statement, parse_statements


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


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
    ("sql", "temporary"),
    [
        ("CREATE TEMP TABLE t (a int)", True),
        ("CREATE TABLE pg_temp.t (a int)", True),
        ("CREATE FOREIGN TABLE pg_temp.f (a int) SERVER s", True),
        ("CREATE TEMP VIEW v AS SELECT 1", True),
        ("SELECT 1 INTO TEMP t", True),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1", False),
        ("CREATE TABLE t (a int)", False),
        ("DROP TABLE pg_temp.t", False),
    ],
)
def test_what_ends_with_the_session(sql: str, temporary: bool) -> None:
    assert is_temporary(_parse(sql)) is temporary
