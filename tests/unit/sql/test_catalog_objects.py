"""What a statement demands of the catalog, and what it changes there."""

from __future__ import annotations

import pytest

from runner.sql.catalog_changes import Action, Sort, added_columns, changes, parts
from runner.sql.catalog_needs import Right, needed
from runner.sql.placeholders import render_traced
from runner.sql.statements import Statement, parse_statements


def one(sql: str) -> Statement:
    """Return the only statement of a text."""
    (statement,) = parse_statements(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "relations", "right"),
    [
        ("VACUUM a.b, c", ["a.b", "c"], Right.MAINTAIN),
        ("REINDEX INDEX i", ["i"], Right.MAINTAIN),
        ("TRUNCATE a, b", ["a", "b"], Right.TRUNCATE),
        ("ALTER TABLE a ADD COLUMN x int", ["a"], Right.OWN),
        ("DROP TABLE IF EXISTS a", ["a"], Right.OWN),
        ("CREATE INDEX i ON a (x)", ["a"], Right.OWN),
        ("CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()", ["a"], Right.TRIGGER),
        ("COPY a FROM '/tmp/x'", ["a"], Right.INSERT),
        ("CREATE VIEW v AS SELECT * FROM a", ["a"], Right.NONE),
        ("CREATE TABLE n (id int REFERENCES a)", ["a"], Right.REFERENCES),
        ("CREATE TABLE n PARTITION OF a FOR VALUES IN (1)", ["a"], Right.OWN),
        ("CREATE TABLE n (id int REFERENCES n)", [], None),
        ("GRANT SELECT ON a TO x", ["a"], Right.GRANT),
    ],
)
def test_what_must_be_there(sql: str, relations: list[str], right: Right | None) -> None:
    found = needed(one(sql))
    assert [str(each.relation) for each in found] == relations
    assert {each.right for each in found} == ({right} if right else set())


def test_only_the_altered_table_itself_is_owned() -> None:
    found = {
        str(each.relation): each.right for each in needed(one("ALTER TABLE a ATTACH PARTITION b FOR VALUES IN (1)"))
    }
    assert found == {"a": Right.OWN, "b": Right.NONE}


def reported(sql: str) -> set[tuple[Action, Sort, str]]:
    """Return the changes of a statement, in short."""
    found = changes(one(sql))
    return {(each.action, each.sort, each.name or str(each.relation or "")) for each in found}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE a ()", {(Action.CREATE, Sort.RELATION, "a")}),
        ("CREATE INDEX i ON s.a (x)", {(Action.CREATE, Sort.RELATION, "s.i")}),
        (
            "CREATE UNIQUE INDEX i ON a (x)",
            {(Action.CREATE, Sort.RELATION, "i"), (Action.CREATE, Sort.UNIQUE, "a")},
        ),
        ("CREATE UNIQUE INDEX i ON a (x) WHERE x > 1", {(Action.CREATE, Sort.RELATION, "i")}),
        ("CREATE INDEX ON a (x)", set()),
        ("CREATE SCHEMA s", {(Action.CREATE, Sort.SCHEMA, "s")}),
        ("DROP SCHEMA s CASCADE", {(Action.DROP, Sort.SCHEMA, "s")}),
        ("DROP VIEW a, b", {(Action.DROP, Sort.RELATION, "a"), (Action.DROP, Sort.RELATION, "b")}),
        (
            "ALTER TABLE a RENAME TO b",
            {(Action.DROP, Sort.RELATION, "a"), (Action.CREATE, Sort.RELATION, "b")},
        ),
        (
            "ALTER TABLE a SET SCHEMA s",
            {(Action.DROP, Sort.RELATION, "a"), (Action.CREATE, Sort.RELATION, "s.a")},
        ),
        (
            "ALTER TABLE a RENAME COLUMN x TO y",
            {(Action.DROP, Sort.COLUMN, "x"), (Action.CREATE, Sort.COLUMN, "y")},
        ),
        (
            "ALTER TABLE a ADD COLUMN IF NOT EXISTS x int, DROP COLUMN y",
            {(Action.CREATE, Sort.COLUMN, "x"), (Action.DROP, Sort.COLUMN, "y"), (Action.ALTER, Sort.RELATION, "a")},
        ),
        ("CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", {(Action.CREATE, Sort.FUNCTION, "s.f")}),
        ("CREATE TYPE t AS ENUM ('x')", {(Action.CREATE, Sort.TYPE, "t")}),
        ("DO 'BEGIN END'", {(Action.CREATE, Sort.ANYTHING, "")}),
        ("CALL p()", {(Action.CREATE, Sort.ANYTHING, "")}),
        ("CREATE EXTENSION e", {(Action.CREATE, Sort.ANYTHING, "")}),
        ("SELECT 1", set()),
        ("EXECUTE p", set()),
    ],
)
def test_what_changes(sql: str, expected: set[tuple[Action, Sort, str]]) -> None:
    assert reported(sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER TABLE a DROP COLUMN x", {("x", True)}),
        ("ALTER TABLE a DROP COLUMN IF EXISTS x", set()),
        ("ALTER TABLE a ADD COLUMN x int", {("x", False)}),
        ("ALTER TABLE a ADD COLUMN IF NOT EXISTS x int", set()),
        ("ALTER TABLE a ADD COLUMN x int, ADD CONSTRAINT c UNIQUE (x)", {("x", False), ("c", False)}),
        ("ALTER TABLE a VALIDATE CONSTRAINT c", {("c", True)}),
        ("ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b", {("x", True)}),
        ("CREATE INDEX ON a (x, lower(y)) INCLUDE (z)", {("x", True), ("z", True)}),
        ("ANALYZE a (x, y)", {("x", True), ("y", True)}),
        ("SELECT x FROM a", set()),
        ("COPY a (x, y) FROM '/tmp/z'", {("x", True), ("y", True)}),
        ("COPY (SELECT x FROM a) TO '/tmp/z'", set()),
    ],
)
def test_columns_and_constraints(sql: str, expected: set[tuple[str, bool]]) -> None:
    assert {(part.name, part.exists) for part in parts(one(sql))} == expected


def test_columns_that_are_added() -> None:
    assert added_columns(one("ALTER TABLE a ADD x int, ADD COLUMN IF NOT EXISTS y int")) == {"x", "y"}
    assert added_columns(one("VACUUM a")) == frozenset()


@pytest.mark.parametrize("values", [{"a": "x", "b": "y"}, {"a": "a much longer value", "b": "it's"}])
def test_every_character_knows_where_it_comes_from(values: dict[str, str]) -> None:
    text = "SELECT :'a' AS one,\n  :\"b\" AS two -- end"
    rendered = render_traced(text, values)
    for word in ("SELECT", "AS one", "AS two", "-- end"):
        assert rendered.original(rendered.text.index(word)) == text.index(word)
    assert rendered.original(rendered.text.index(values["a"].replace("'", "''"))) == text.index(":'a'")
