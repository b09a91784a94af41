"""What a dry run reports of commands that EXPLAIN does not accept: names, privileges, and settings."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from runner.preflight.dry_run_result import Coverage
from tests.integration.dry_runs import ROLE, codes, dry_run, errors, reported, reports, written
from tests.integration.gateway_setups import ask

ORDERS = """
    CREATE FUNCTION shop.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TYPE shop.mood AS ENUM ('good', 'bad')
"""

#: Types and functions that the grammar makes of words of its own.
ODD_TYPES = """
    CREATE TABLE shop.x (
      a double precision, b character varying(3), c timestamp with time zone DEFAULT CURRENT_TIMESTAMP, d interval day,
      e bit(3), f national char(2), g "char", h name[], i int DEFAULT extract(year FROM now())::int,
      j text DEFAULT trim('x' FROM 'xax'), k boolean DEFAULT ('a' SIMILAR TO 'b'),
      l timestamp DEFAULT (now() AT TIME ZONE 'UTC'), m bigserial, n oid, o json, q shop.orders[],
      r text GENERATED ALWAYS AS (lower(b) || overlay(b placing 'a' from 1)) STORED,
      CHECK (position('a' in b) > 0), EXCLUDE USING gist (int4range(i, i) WITH &&))
"""
ODD_FUNCTIONS = """
    CREATE FUNCTION shop.t1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE FUNCTION shop.t2(a anyelement, VARIADIC b int[]) RETURNS TABLE (x int, y text) LANGUAGE sql AS '';
    CREATE TRIGGER y BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
    GRANT EXECUTE ON FUNCTION shop.t2(anyelement, int[]) TO public;
    CREATE DOMAIN shop.d AS int CHECK (VALUE > abs(-1));
    CREATE AGGREGATE shop.ag (int) (sfunc = int4pl, stype = int);
    CREATE VIEW shop.vw AS SELECT a, sum(a) OVER () AS s FROM (VALUES (1)) AS v(a)
"""


def steps_of(*texts: str, **keys: str) -> str:
    """Return steps that run one after the other."""
    more = "".join(f", {name}: {value}" for name, value in keys.items())
    return "\n".join(
        f"- {{id: s{n}, {f'needs: [s{n - 1}], ' if n else ''}sql: {json.dumps(text)}{more}}}"
        f"  # jobplan: ignore=JP353 a test"
        for n, text in enumerate(texts)
    )


@pytest.mark.parametrize(
    ("sql", "code", "says"),
    [
        ("CREATE TABLE shop.n (a int, b shop.mod)", "JP603", "there is no type shop.mod"),
        ("CREATE TABLE shop.n (a int DEFAULT shop.next())", "JP603", "there is no function shop.next"),
        ("ALTER TABLE shop.orders ADD COLUMN m moody", "JP603", "there is no type moody"),
        ("CREATE INDEX CONCURRENTLY i ON shop.orders (shop.folded(total))", "JP603", "shop.folded"),
        ("CREATE TRIGGER n AFTER INSERT ON shop.orders EXECUTE FUNCTION shop.note()", "JP603", "shop.note"),
        ("DROP FUNCTION shop.gone(int)", "JP603", "shop.gone"),
        ("DROP TYPE shop.gone", "JP603", "shop.gone"),
        ("GRANT SELECT ON shop.orders TO jobplan_test_nobody", "JP621", "jobplan_test_nobody"),
        ("ALTER TABLE shop.orders OWNER TO jobplan_test_nobody", "JP621", "jobplan_test_nobody"),
        ("CREATE INDEX i ON shop.orders (total) TABLESPACE fast", "JP622", "fast"),
        ("ALTER TABLE shop.orders SET TABLESPACE fast", "JP622", "fast"),
        ("CREATE EXTENSION not_there", "JP623", "not_there"),
        ("CREATE FUNCTION shop.f() RETURNS int LANGUAGE cobol AS ''", "JP623", "cobol"),
        ("CREATE VIEW shop.v AS SELECT totel FROM shop.orders", "JP602", "totel"),
        ("CREATE VIEW shop.v (n) AS SELECT shop.tidy(1) WITH CHECK OPTION", "JP603", "tidy"),
        ("COPY (SELECT totel FROM shop.orders) TO '/tmp/x'", "JP602", "totel"),
        ("COPY shop.orders (id, totel) FROM '/tmp/x'", "JP602", "totel"),
        ("SET work_mem = 'plenty'; SELECT 1", "JP523", "plenty"),
        ("SET ROLE jobplan_test_nobody; SELECT 1", "JP522", "jobplan_test_nobody"),
        ("SELECT 1; SET statement_timeout = '1 blink'", "JP523", "blink"),
    ],
)
def test_what_a_command_names_and_is_not_there(copy: str, tmp_path: Path, sql: str, code: str, says: str) -> None:
    ask(copy, ORDERS)
    result = dry_run(written(tmp_path, steps_of(sql)), copy)
    (problem,) = errors(result)
    assert problem.code == code
    assert says in problem.message


@pytest.mark.parametrize(
    "texts",
    [
        ("CREATE TABLE shop.n (a serial, b shop.mood DEFAULT 'good', c shop.orders, d numeric(3, 1)[])",),
        (ODD_TYPES, ODD_FUNCTIONS),
        ("CREATE TYPE shop.pair AS (a int)", "CREATE TABLE shop.n (a shop.pair)"),
        ("CREATE DOMAIN shop.short AS varchar(3)", "ALTER TABLE shop.orders ADD COLUMN c shop.short"),
        ("CREATE TABLE shop.other (a int)", "CREATE TABLE shop.n (a shop.other)"),
        ("CREATE FUNCTION shop.f(int) RETURNS int LANGUAGE sql AS ''", "CREATE INDEX i ON shop.orders (shop.f(id))"),
        ("CREATE ROLE jobplan_test_new", "GRANT SELECT ON shop.orders TO jobplan_test_new"),
        ("CREATE TRIGGER n AFTER INSERT ON shop.orders EXECUTE FUNCTION shop.noted()",),
        ("CREATE OR REPLACE VIEW shop.v AS SELECT total AS n FROM shop.orders WITH LOCAL CHECK OPTION",),
        ("CREATE VIEW shop.v AS SELECT 1 AS one", "CREATE VIEW shop.w AS SELECT one FROM shop.v"),
        ("DROP FUNCTION IF EXISTS shop.gone(int)", "DROP ROLE IF EXISTS jobplan_test_nobody"),
        ("GRANT SELECT ON shop.orders TO public, CURRENT_USER",),
        ("SET search_path = shop; SELECT total FROM orders; RESET search_path; SELECT total FROM shop.orders",),
        ("SELECT set_config('search_path', 'shop', true); SELECT total FROM orders; ANALYZE orders",),
        ("SET LOCAL work_mem = '64MB'; SET TIME ZONE 'UTC'; RESET ALL; SELECT 1",),
        ('CREATE TABLE shop."Odd.name; --" ("a""b" int)', 'SELECT "a""b" FROM shop."Odd.name; --"'),
        ('CREATE SCHEMA "Übung"', 'CREATE TABLE "Übung"."日本 tabelle" (n int)', 'ANALYZE "Übung"."日本 tabelle" (n)'),
        ("CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1); ANALYZE t; DROP TABLE t",),
    ],
)  # fmt: skip
def test_what_a_command_names_and_is_there(copy: str, tmp_path: Path, texts: tuple[str, ...]) -> None:
    ask(copy, ORDERS)
    assert [str(problem) for problem in errors(dry_run(written(tmp_path, steps_of(*texts)), copy))] == []


def test_quoted_names_that_are_there_are_found(copy: str, tmp_path: Path) -> None:
    ask(copy, 'CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."C ""d" (é int); CREATE INDEX "É" ON "a.b"."C ""d" (é)')
    good = ['VACUUM "a.b"."C ""d"', 'SELECT é FROM "a.b"."C ""d"', 'REINDEX INDEX "a.b"."É"']
    assert errors(dry_run(written(tmp_path, steps_of(*good)), copy)) == []
    (problem,) = errors(dry_run(written(tmp_path, steps_of('ANALYZE a.b."C ""d"')), copy))
    assert problem.code == "JP601"


@pytest.mark.usefixtures("reviewed")
def test_a_step_that_takes_a_role_is_judged_by_what_that_may_do(copy: str, tmp_path: Path) -> None:
    ask(copy, f"REVOKE ALL ON shop.customers FROM {ROLE}")
    taken = f"SET ROLE {ROLE}; SELECT count(*) FROM shop.customers"
    result = dry_run(written(tmp_path, steps_of(taken)), copy)
    assert [problem.code for problem in errors(result)] == ["JP610"]
    given_back = f"SET ROLE {ROLE}; RESET ROLE; SELECT count(*) FROM shop.customers"
    later = dry_run(written(tmp_path, steps_of(given_back)), copy)
    assert errors(later) == []
    of_key = dry_run(written(tmp_path, steps_of("SELECT count(*) FROM shop.customers", role=ROLE)), copy)
    assert [problem.code for problem in errors(of_key)] == ["JP610"]


def test_without_explain_the_catalog_reports_rights(reviewed: str, copy: str, tmp_path: Path) -> None:
    ask(copy, f"REVOKE ALL ON shop.customers FROM {ROLE}")
    ask(copy, f"REVOKE SELECT ON shop.order_lines FROM {ROLE}")
    ask(copy, f"GRANT SELECT (sku) ON shop.order_lines TO {ROLE}")
    texts = (
        "SELECT count(*) FROM shop.orders",
        "SELECT count(*) FROM shop.customers",
        "SELECT sku FROM shop.order_lines",
        "DELETE FROM shop.customers WHERE id = 1",
        "INSERT INTO shop.orders SELECT id, 1, now(), 1 FROM shop.customers",
    )
    result = dry_run(written(tmp_path, steps_of(*texts)), reviewed, explain=False)
    found = {(problem.step, problem.message.split(" on ")[0].split()[-1]) for problem in errors(result)}
    assert found == {("s1", "SELECT"), ("s3", "DELETE"), ("s3", "SELECT"), ("s4", "SELECT")}
    assert codes(errors(result)) == {"JP610"}
    assert any("some columns" in why for why in reports(result)["s2"].why)
    with_explain = dry_run(written(tmp_path, steps_of(*texts)), reviewed)
    assert {problem.step for problem in errors(with_explain)} == {"s1", "s3", "s4"}
    assert all((problem.hint or "").startswith("GRANT ") for problem in errors(with_explain))
    ask(copy, f"REVOKE USAGE ON SCHEMA shop FROM {ROLE}")
    (closed, *_) = errors(dry_run(written(tmp_path, steps_of(*texts)), reviewed))
    assert closed.hint == f'GRANT USAGE ON SCHEMA "shop" TO "{ROLE}";'


def test_a_view_needs_no_right_on_its_tables_before_it_is_read(reviewed: str, copy: str, tmp_path: Path) -> None:
    ask(copy, f"GRANT CREATE ON SCHEMA shop TO {ROLE}")
    ask(copy, f"REVOKE ALL ON shop.customers FROM {ROLE}")
    sql = "CREATE VIEW shop.v AS SELECT name FROM shop.customers"
    assert errors(dry_run(written(tmp_path, steps_of(sql)), reviewed)) == []
    ask(reviewed, sql)


def test_roles_that_may_grant(reviewed: str, copy: str, tmp_path: Path) -> None:
    """A role that has a privilege itself, and may not grant it, gets a WARNING of the server: nothing was granted."""
    sql = f"GRANT SELECT ON shop.orders TO {ROLE}"
    result = dry_run(written(tmp_path, steps_of(sql)), reviewed)
    (problem,) = reported(result, "JP610")
    assert "a grant option" in problem.message
    assert errors(result) == []
    ask(copy, f"GRANT SELECT ON shop.orders TO {ROLE} WITH GRANT OPTION")
    assert reported(dry_run(written(tmp_path, steps_of(sql)), reviewed), "JP610") == []


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("COPY shop.orders FROM '/tmp/x'", "pg_read_server_files"),
        ("COPY shop.orders TO '/tmp/x'", "pg_write_server_files"),
        ("COPY (SELECT 1) TO PROGRAM 'cat'", "pg_execute_server_program"),
    ],
)
def test_roles_that_may_use_files_of_the_server(
    reviewed: str, copy: str, tmp_path: Path, sql: str, wanted: str
) -> None:
    (problem,) = errors(dry_run(written(tmp_path, steps_of(sql)), reviewed))
    assert problem.hint == f'GRANT {wanted} TO "{ROLE}";'
    ask(copy, f"GRANT {wanted} TO {ROLE}")
    assert errors(dry_run(written(tmp_path, steps_of(sql)), reviewed)) == []


@pytest.mark.pg(">= 17", reason="the privilege MAINTAIN")
def test_partitions_that_vacuum_would_skip_are_reported(reviewed: str, copy: str, tmp_path: Path) -> None:
    ask(copy, f"GRANT MAINTAIN ON shop.events TO {ROLE}")
    result = dry_run(written(tmp_path, steps_of("VACUUM shop.events")), reviewed)
    (problem,) = reported(result, "JP610")
    assert "of the partitions of shop.events" in problem.message
    assert errors(result) == [problem]  # the step would fail
    allowed = steps_of("VACUUM shop.events", expect="{warnings: {min: 0}}")
    assert errors(dry_run(written(tmp_path, allowed), reviewed)) == []
    with psycopg.connect(reviewed, autocommit=True) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("VACUUM shop.events")
    assert any("permission denied to vacuum" in notice for notice in notices)


def test_what_a_trigger_does_is_not_known_and_that_is_said(copy: str, tmp_path: Path) -> None:
    ask(copy, ORDERS)
    ask(copy, "CREATE TRIGGER n AFTER UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.noted()")
    texts = (
        "UPDATE shop.orders SET total = 1 WHERE id = 1",
        "DELETE FROM shop.orders WHERE id = 1",
        "VACUUM shop.orders",
    )
    found = reports(dry_run(written(tmp_path, steps_of(*texts)), copy))
    assert found["s0"].coverage is Coverage.PARTLY
    assert found["s0"].why == ("its trigger n runs noted(): what that does is not known",)
    assert found["s1"].coverage is found["s2"].coverage is Coverage.CHECKED


def test_how_much_is_written_again(copy: str, tmp_path: Path) -> None:
    ask(copy, "CREATE TABLE shop.large (n int, word text)")
    ask(copy, "ALTER TABLE shop.large ALTER word SET STORAGE EXTERNAL")
    ask(copy, "INSERT INTO shop.large SELECT n, repeat('x', 100000) FROM generate_series(1, 1500) AS n")
    result = dry_run(written(tmp_path, steps_of("VACUUM FULL shop.large")), copy)
    (note,) = reports(result)["s0"].notes
    assert note.startswith("writes about 0.1 GB"), "what is stored beside the table counts, without an ANALYZE"
    (lock,) = result.locks
    assert (lock.bytes or 0) > 150_000_000


def test_a_list_that_may_do_anything_is_not_read(copy: str, tmp_path: Path) -> None:
    lists = {
        "known": ("SELECT pg_get_userbyid(10) AS n", True),
        "writes": ("SELECT query_to_xml('DELETE FROM shop.orders', true, true, '') AS n", False),
        "file": ("SELECT pg_read_file('postgresql.conf') AS n", False),
    }
    steps = "\n".join(
        f'- {{id: {name}, for_each: {{sql: "{sql}", as: x}}, sql: "SELECT :\'x\'"}}' for name, (sql, _) in lists.items()
    )
    result = dry_run(written(tmp_path, steps), copy)
    read = {one.step for one in result.statements if one.instance != one.step}
    assert read == {name for name, (_, harmless) in lists.items() if harmless}


def test_preconditions_of_the_plan_are_statements_too(copy: str, tmp_path: Path) -> None:
    ask(copy, "CREATE FUNCTION shop.may() RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true'")
    checks = "[{sql: SELECT shop.may(), message: it may}, {sql: SELECT count(*) > 0 FROM shop.orders, message: orders}]"
    result = dry_run(written(tmp_path, steps_of("SELECT 1"), requires=f"{{preconditions: {checks}}}"), copy)
    assert errors(result) == []
    first, second = (one for one in result.statements if one.instance == "requires")
    assert first.coverage is Coverage.PARTLY
    assert any("not explained" in why and "shop.may()" in why for why in first.why)
    assert any("not evaluated" in why for why in first.why)
    assert second.coverage is Coverage.CHECKED
