"""What commands name beside relations, what they set, which rights they need, and the queries inside them."""

from __future__ import annotations

import pytest

from runner.sql.catalog_needs import mentions, row_rights
from runner.sql.relations import inner_query
from runner.sql.session_settings import assigned, settings_after
from runner.sql.statements import Statement, parse_statements


def one(sql: str) -> Statement:
    """Return the only statement of a text."""
    (statement,) = parse_statements(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CREATE TABLE t (a int, b s.money[] DEFAULT s.f(1), c serial)", {"pg_catalog.int4", "s.money", "s.f"}),
        ("CREATE TABLE t () TABLESPACE x", {"x"}),
        ("GRANT SELECT ON t TO a, public, current_user", {"a"}),
        ("GRANT a TO b", {"a", "b"}),
        ("ALTER TABLE t OWNER TO z, SET TABLESPACE y", {"z", "y"}),
        ("CREATE INDEX ON t (f(a)) TABLESPACE q", {"f", "q"}),
        ("REINDEX (TABLESPACE z) TABLE t", {"z"}),
        ("CREATE EXTENSION e", {"e"}),
        ("CREATE FUNCTION f(a x.y) RETURNS void LANGUAGE plperl AS ''", {"x.y", "void", "plperl"}),
        ("CREATE TRIGGER g AFTER INSERT ON a EXECUTE FUNCTION s.f()", {"s.f"}),
        ("DROP FUNCTION s.g(int)", {"s.g"}),
        ("DROP FUNCTION IF EXISTS s.g(int)", set()),
        ("DROP TYPE s.t", {"s.t"}),
        ("CREATE SCHEMA x AUTHORIZATION me", {"me"}),
        ("CREATE ROLE x IN ROLE y", {"y"}),
        ("DROP ROLE IF EXISTS x", set()),
        ("CREATE MATERIALIZED VIEW v TABLESPACE m AS SELECT 1", {"m"}),
        ("VACUUM t", set()),
    ],
)
def test_what_a_command_names(sql: str, names: set[str]) -> None:
    assert {str(each.name) for each in mentions(one(sql))} == names


def test_where_it_is_named() -> None:
    sql = "GRANT SELECT ON t TO äöü, who"
    assert [sql[each.offset :][:3] for each in mentions(one(sql))] == ["äöü", "who"]


@pytest.mark.parametrize(
    ("sql", "setting"),
    [
        ('SET search_path = Shop, "A b"', ("search_path", '"shop", "A b"')),
        ("SET LOCAL work_mem TO 100", ("work_mem", "100")),
        ("SET random_page_cost = 1.5", ("random_page_cost", "1.5")),
        ("SET geqo = off", ("geqo", "off")),
        ("SET ROLE x", ("role", "x")),
        ("RESET ROLE", ("role", None)),
        ("RESET ALL", ("all", None)),
        ("SET work_mem = DEFAULT", ("work_mem", None)),
        ("SELECT set_config('search_path', 'a, b', true)", ("search_path", "a, b")),
    ],
)
def test_what_a_statement_sets(sql: str, setting: tuple[str, str | None]) -> None:
    assert assigned(one(sql)) == (setting,)


@pytest.mark.parametrize("sql", ["SET TRANSACTION READ WRITE", "SELECT set_config(name, 'x', true) FROM t", "SHOW x"])
def test_what_sets_nothing_that_is_known(sql: str) -> None:
    assert assigned(one(sql)) == ()


def test_what_is_set_after_all() -> None:
    before = (("role", "a"), ("work_mem", "1MB"))
    assert settings_after(before, (("work_mem", None), ("geqo", "off"))) == (("role", "a"), ("geqo", "off"))
    assert settings_after(before, (("all", None),)) == (("role", "a"),)


@pytest.mark.parametrize(
    ("sql", "rights"),
    [
        ("SELECT * FROM a, b FOR UPDATE OF b", {"a SELECT", "b SELECT", "b UPDATE"}),
        ("INSERT INTO a SELECT * FROM c ON CONFLICT (x) DO UPDATE SET y = 1", {"c SELECT", "a INSERT", "a UPDATE"}),
        ("UPDATE a SET x = 1", {"a UPDATE"}),
        ("DELETE FROM a USING b WHERE a.x = b.x", {"a DELETE", "a SELECT", "b SELECT"}),
        (
            "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
            {"a SELECT", "b SELECT", "a DELETE", "a INSERT"},
        ),
        ("WITH x AS (DELETE FROM q RETURNING *) SELECT * FROM x", {"q DELETE"}),
    ],
)
def test_which_rights_on_rows_a_query_needs(sql: str, rights: set[str]) -> None:
    assert {f"{each.relation} {each.privilege}" for each in row_rights(one(sql))} == rights


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("CREATE VIEW v (a) WITH (security_barrier) AS SELECT 1 AS x WITH LOCAL CHECK OPTION", "SELECT 1 AS x"),
        ("CREATE VIEW v AS SELECT 1 WITH CHECK OPTION", "SELECT 1"),
        (
            "CREATE OR REPLACE TEMP VIEW v AS WITH a AS (SELECT 1) SELECT * FROM a",
            "WITH a AS (SELECT 1) SELECT * FROM a",
        ),
        ("CREATE VIEW v AS /* hm */ VALUES (1) -- x", "VALUES (1)"),
        ("COPY (SELECT (1)) TO '/tmp/x' (FORMAT csv)", "SELECT (1)"),
        ("CREATE RECURSIVE VIEW v (n) AS SELECT 1", None),
        ("COPY t TO '/tmp/x'", None),
        ("VACUUM t", None),
    ],
)
def test_the_query_inside_a_command(sql: str, query: str | None) -> None:
    statement = one(sql)
    found = inner_query(statement, sql)
    assert (found[1] if found is not None else None) == query
    assert found is None or sql[found[0] :].startswith(found[1])
