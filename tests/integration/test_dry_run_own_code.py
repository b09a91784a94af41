"""A dry run executes no function of the database's own, whatever it is marked and wherever it hides."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest

from runner import load_plan
from runner.cli.dry_run import look
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage
from runner.preflight.planned_queries import words_of
from tests.integration.gateway_setups import ask, value

SEED = """
    CREATE FUNCTION mark(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x; END';
    CREATE FUNCTION stable_mark(x int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN x; END';
    CREATE FUNCTION holds(x int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
    CREATE FUNCTION both_hold(x int, y int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
    CREATE TABLE plain (n int, word text);
    INSERT INTO plain SELECT n, 'x' FROM generate_series(1, 100) AS n;
    CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = both_hold, RESTRICT = eqsel);
    CREATE DOMAIN checked AS int CHECK (holds(VALUE));
    CREATE TYPE pair AS (a int, b int);
    CREATE FUNCTION to_pair(x int) RETURNS pair LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (x, x); END';
    CREATE CAST (int AS pair) WITH FUNCTION to_pair(int) AS ASSIGNMENT;
    CREATE TABLE paired (p pair);
    CREATE TABLE many_pairs (p pair[]);
    CREATE VIEW seen_pairs AS SELECT p FROM paired;
    CREATE VIEW seen AS SELECT n FROM plain WHERE n = mark(3);
    CREATE VIEW seen_twice AS SELECT * FROM seen;
    CREATE TABLE filled (n int DEFAULT mark(4), m int);
    CREATE TABLE bounded (n int, CHECK (n > mark(5)));
    CREATE TABLE indexed (n int);
    CREATE INDEX ON indexed (n) WHERE n > mark(6);
    CREATE TABLE guarded (n int);
    CREATE FUNCTION row_name(p plain) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN ''; END$$;
    ANALYZE
"""
STATEMENTS = {
    "immutable": "SELECT mark(1)",
    "stable": "SELECT 1 FROM plain WHERE n = stable_mark(1)",
    "qualified": "SELECT public.mark(1)",
    "quoted": 'SELECT "mark"(1)',
    "operator": "SELECT 1 FROM plain WHERE n === 5",
    "operator_syntax": "SELECT 1 WHERE 1 OPERATOR(public.===) 2",
    "domain": "SELECT 5::checked",
    "domain_cast": "SELECT CAST('5' AS public.checked)",
    "cast": "SELECT (5::pair).a",
    "assigned": "INSERT INTO paired VALUES (5)",
    "assigned_list": "INSERT INTO many_pairs SELECT ARRAY[5]",
    "assigned_by_view": "INSERT INTO seen_pairs VALUES (5)",
    "view": "SELECT * FROM seen",
    "view_of_view": "SELECT * FROM seen_twice",
    "default": "INSERT INTO filled (m) VALUES (1)",
    "check": "SELECT 1 FROM bounded WHERE n > 1",
    "index": "SELECT 1 FROM indexed WHERE n > 1",
    "policy": "SELECT 1 FROM guarded",
    "functional_notation": "SELECT plain.row_name FROM plain",
    "copy": "COPY (SELECT mark(1)) TO STDOUT",
    "create_as": "CREATE TABLE made AS SELECT mark(1) AS n",
    "subquery": "DELETE FROM plain WHERE n IN (SELECT mark(1))",
    "nested": "SELECT coalesce(NULL, mark(1))",
    "insert": "INSERT INTO plain SELECT mark(1), 'x'",
}


@pytest.fixture
def tracked(database: str) -> str:
    """A database that counts every call of a function, and whose own functions hide in all sorts of objects."""
    name = value(database, "SELECT current_database()")
    for statement in SEED.split(";\n"):
        ask(database, statement)
    ask(database, f"ALTER DATABASE {name} SET track_functions = 'all'")
    return database


def test_no_function_of_the_database_s_own_is_executed(tracked: str, tmp_path: Path) -> None:
    ask(tracked, "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
    ask(tracked, "ALTER TABLE guarded FORCE ROW LEVEL SECURITY")
    ask(tracked, "CREATE POLICY p ON guarded USING (n > mark(7))")
    ask(tracked, "SELECT pg_stat_reset()")
    steps = "".join(f"- {{id: {name}, sql: {sql!r}}}\n" for name, sql in STATEMENTS.items())
    steps = steps.replace("\\'", "''") + textwrap.dedent(
        """\
        - {id: listed, for_each: {sql: SELECT n FROM plain WHERE n = stable_mark(1), as: x}, sql: "SELECT :'x'"}
        - {id: conditional, if: SELECT holds(1), sql: SELECT 1, verify: SELECT holds(2)}
        - {id: guarded_step, preconditions: [{sql: SELECT holds(3), message: no}], sql: SELECT 1}
        """
    )
    path = tmp_path / "plan.yaml"
    head = "version: 1\nname: own\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 30s, on_finish: wait}\n"
    requires = "requires: {preconditions: [{sql: SELECT holds(4), message: no}]}\n"
    path.write_text(f"{head}{requires}steps:\n{steps}", encoding="utf-8")
    result = asyncio.run(look(load_plan(path), tracked, DryRunOptions()))
    executed = [name for (name,) in ask(tracked, "SELECT funcname FROM pg_stat_user_functions")]
    assert [name for name in executed if not name.startswith("pg_background")] == []
    reports = {one.step: one for one in result.statements if one.key == "sql" and one.step in STATEMENTS}
    assert reports.keys() == STATEMENTS.keys()
    for name in STATEMENTS.keys() - {"copy"}:
        reported = " ".join(reports[name].why)
        assert reports[name].coverage is not Coverage.CHECKED, name
        assert "planning could execute public." in reported, (name, reported)


def test_statements_that_use_only_what_is_postgresql_s_own_are_still_explained(tracked: str, tmp_path: Path) -> None:
    ask(tracked, "CREATE EXTENSION IF NOT EXISTS pg_background")
    ask(tracked, "DROP OPERATOR === (int, int)")
    # A cast to a type that the statement does not name, and a range type with its constructors and its own cast.
    ask(tracked, "CREATE TYPE span AS RANGE (subtype = int4)")
    path = tmp_path / "plan.yaml"
    head = "version: 1\nname: own\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 30s, on_finish: wait}\n"
    path.write_text(
        f'{head}steps:\n- {{id: one, sql: "SELECT lower(word) FROM plain WHERE n IN (1, 2)"}}\n', encoding="utf-8"
    )
    result = asyncio.run(look(load_plan(path), tracked, DryRunOptions()))
    (report,) = [one for one in result.statements if one.key == "sql"]
    assert report.coverage is Coverage.CHECKED, report.why
    assert report.cost is not None


def test_names_and_operators_are_found_in_a_text() -> None:
    words = words_of('SELECT "A""b".Lower(x) OPERATOR(s.===) 1 != 2 -- mark()\n')
    assert words is not None
    names, operators = words
    assert {'A"b', "lower", "x", "s"} <= names
    assert {"===", "<>", "="} <= operators
    assert "mark" not in names
    assert words_of('SELECT U&"\\006dark"(1)') is None
