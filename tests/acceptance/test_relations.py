"""Items and parameters of type relation on a real server, whatever the names are."""

from __future__ import annotations

from tests.acceptance.console import Database, Jobplan

TABLES = (
    'CREATE TABLE orders (x int); CREATE SCHEMA "Sales"; CREATE TABLE "Sales"."Line-Items" (x int); '
    'CREATE TABLE "a.b" (x int); CREATE TABLE "Users" (x int)'
)
STEPS = """
- id: listed
  for_each: {items: [public.orders, Sales.Line-Items, '"a.b"'], as: t, type: relation}
  sql: INSERT INTO :"t" VALUES (1)
  verify: SELECT count(*) = 1 FROM :"t"
- id: queried
  needs: [listed]
  for_each:
    sql: >-
      SELECT oid::regclass AS n FROM pg_class WHERE relname IN ('orders', 'Users', 'Line-Items', 'a.b')
      ORDER BY relname
    as: t
    type: relation
  sql: INSERT INTO :"t" SELECT 2 WHERE :'t'::regclass IS NOT NULL
- id: one
  needs: [queried]
  sql: INSERT INTO :"target" VALUES (3)
  touches: [':"target"']
"""
TARGET = "{target: {type: relation, default: Sales.Line-Items}}"


def test_each_item_is_the_relation_that_it_names(jobplan: Jobplan, db: Database) -> None:
    db.run(TABLES)
    plan = jobplan.plan(STEPS, params=TARGET, defaults="{timeout: 20s, on_finish: wait, lock_timeout: 5s}")
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert dry.code == 0, dry.out + dry.err
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert [
        db.value(f"SELECT array_agg(x ORDER BY x)::text FROM {name}") for name in ("orders", '"a.b"', '"Users"')
    ] == [
        "{1,2}",
        "{1,2}",
        "{2}",
    ]
    assert db.value('SELECT array_agg(x ORDER BY x)::text FROM "Sales"."Line-Items"') == "{1,2,3}"
    keys = {key for key in jobplan.events()[-1]["steps"] if key.startswith("listed[")}
    assert keys == {"listed[public.orders]", "listed[Sales.Line-Items]", "listed[a.b]"}


def test_a_resumed_run_knows_its_relations(jobplan: Jobplan, db: Database) -> None:
    db.run(TABLES)
    db.run('ALTER TABLE "Users" ADD CONSTRAINT no CHECK (x <> 2)')
    plan = jobplan.plan(STEPS, params=TARGET)
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    db.run('ALTER TABLE "Users" DROP CONSTRAINT no')
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    ran = jobplan("resume", folder.name, "--dsn", db.dsn)
    assert ran.code == 0, ran.err
    assert db.value('SELECT array_agg(x ORDER BY x)::text FROM "Users"') == "{2}"
    assert db.value('SELECT array_agg(x ORDER BY x)::text FROM "Sales"."Line-Items"') == "{1,2,3}"


def test_an_item_of_a_query_that_is_no_relation_fails_the_step(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        """
        - id: a
          for_each: {sql: "SELECT 'a.b.c' AS t", as: t, type: relation}
          sql: INSERT INTO :"t" VALUES (1)
        """
    )
    says = "for_each: an item is `a.b.c`, which has 3 parts; a relation is `table` or `schema.table`"
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert (ran.code, says in ran.err) == (1, True)
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert says in dry.out + dry.err, dry.out + dry.err
