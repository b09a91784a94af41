"""`for_each: {chunk: N}`: several items for one worker, and one by one if it fails."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest

from tests.acceptance.console import Database, Jobplan, Ran, until

TABLES = [f"t{number}" for number in range(7)]


@pytest.fixture
def tables(db: Database) -> Database:
    """A database with seven tables, and a schema with names that need quotes."""
    for name in TABLES:
        db.run(f"CREATE TABLE {name} (id int)")
    return db


def run(jobplan: Jobplan, db: Database, steps: str, *more: str) -> Ran:
    """Run these steps."""
    plan = jobplan.plan(steps)
    return jobplan("run", plan, "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl", *more)


def launched(jobplan: Jobplan) -> list[tuple[str, int]]:
    """Return the steps and attempts that were launched, in order."""
    return [(event["step"], event["attempt"]) for event in jobplan.events() if event["event"] == "attempt_launching"]


def analyzed(db: Database) -> list[str]:
    """Return the tables that were analyzed."""
    db.run("SELECT pg_stat_clear_snapshot()")
    return db.column("SELECT relname FROM pg_stat_user_tables WHERE analyze_count > 0 ORDER BY relname")


def test_a_worker_gets_several_items_as_a_list(jobplan: Jobplan, tables: Database) -> None:
    ran = run(
        jobplan,
        tables,
        f"""
        - id: analyze
          for_each: {{items: [{", ".join(TABLES)}], as: t, chunk: 3}}
          sql: ANALYZE :"t"
          verify: "SELECT count(*) > 0 FROM pg_class WHERE relname IN (:'t')"
        """,
    )
    assert ran.code == 0, ran.err
    assert sorted(launched(jobplan)) == [("analyze[t0+2]", 1), ("analyze[t3+2]", 1), ("analyze[t6]", 1)]
    until(lambda: analyzed(tables) == TABLES)
    assert "analyze: 7 items in 3 chunks" in ran.err
    (expanded,) = [event for event in jobplan.events() if event["event"] == "step_expanded"]
    items = [[one["values"]["t"] for one in item.get("items", [item])] for item in expanded["items"]]
    assert items == [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]


def test_one_bad_item_does_not_take_the_others_with_it_and_is_named(jobplan: Jobplan, tables: Database) -> None:
    tables.run("DROP TABLE t4")
    ran = run(
        jobplan,
        tables,
        f"""
        - id: analyze
          for_each: {{items: [{", ".join(TABLES)}], as: t, chunk: 3}}
          sql: ANALYZE :"t"
        """,
        *("--report", "junit=run.xml", "--report", "markdown=run.md", "--report", "html=run.html"),
    )
    assert ran.code == 1
    until(lambda: analyzed(tables) == [name for name in TABLES if name != "t4"])
    steps = jobplan.events()[-1]["steps"]
    assert steps["analyze[t4]"] == steps["analyze[t3+2]"] == steps["analyze"] == "failed"
    assert steps["analyze[t3]"] == steps["analyze[t5]"] == steps["analyze[t0+2]"] == "succeeded"
    assert {key: attempt for key, attempt in launched(jobplan) if key != "analyze[t3+2]"}["analyze[t4]"] == 2
    assert 'analyze[t3+2]: its 3 items run one by one now, after: relation "t4" does not exist' in ran.err
    assert "1 of its 3 items did not succeed: t4" in ran.err
    for report in ("run.xml", "run.md", "run.html"):
        assert "analyze[t4]" in (jobplan.folder / report).read_text(encoding="utf-8")
    shown = jobplan("show", "last", "--journal", "runs")
    assert "analyze[t4]" in shown.out
    assert jobplan.events()[-1]["split"] == ["analyze[t3+2]"]
    assert re.search(r" failed: 1 failed in \S+; 7 items: 6 succeeded, 1 failed$", ran.last_line)
    assert re.search(r" failed +1 failed$", jobplan("runs", "--journal", "runs").out, re.MULTILINE)


def test_a_chunk_is_not_repeated_without_retry_and_as_often_as_retry_says_with_it(
    jobplan: Jobplan, tables: Database
) -> None:
    tables.run("DROP TABLE t1")
    ran = run(
        jobplan,
        tables,
        """
        - id: once # jobplan: ignore=JP399 on purpose
          for_each: {items: [t0, t1], as: t, chunk: 2}
          sql: TRUNCATE :"t"
        - id: thrice
          for_each: {items: [t0, t1], as: t, chunk: 2}
          retry: {max_attempts: 3, delay: 10ms}
          sql: TRUNCATE :"t"
        - id: listed
          for_each: {items: [t0, t1], as: t, chunk: 2}
          retry: {max_attempts: 3, delay: 10ms, on: [lock_not_available]}
          sql: TRUNCATE :"t"
        """,
    )
    assert ran.code == 1
    counts: dict[str, list[int]] = {}
    for key, attempt in launched(jobplan):
        counts.setdefault(key, []).append(attempt)
    assert counts == {
        "once[t0+1]": [1],
        "thrice[t0+1]": [1],
        "thrice[t0]": [2],
        "thrice[t1]": [2, 3],
        "listed[t0+1]": [1],
        "listed[t0]": [2],
        "listed[t1]": [2],
    }


def test_names_of_relations_are_quoted_part_by_part_in_a_chunk(jobplan: Jobplan, db: Database) -> None:
    db.run('CREATE SCHEMA "Sales"')
    db.run('CREATE TABLE "Sales"."Orders" (id int)')
    db.run('CREATE TABLE "Sales"."li""ne, items" (id int)')
    db.run("CREATE TABLE plain (id int)")
    ran = run(
        jobplan,
        db,
        """
        - id: given
          for_each: {items: [Sales.Orders, plain], as: t, type: relation, chunk: 2}
          sql: ANALYZE :"t"
        - id: queried
          needs: [given]
          for_each:
            sql: SELECT oid::regclass AS rel FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY relname DESC
            as: t
            type: relation
            chunk: 10
          sql: VACUUM :"t.rel"
          expect: {warnings: 0}
        """,
    )
    assert ran.code == 0, ran.err
    until(lambda: analyzed(db) == ["Orders", "plain"])
    assert launched(jobplan)[-1][0] == "queried[plain+2]"


def test_a_resume_runs_the_same_chunks_and_nothing_twice(jobplan: Jobplan, tables: Database) -> None:
    tables.run("CREATE TABLE seen (item text)")
    steps = """
        - id: note
          for_each: {items: [a, b, c, d, e], as: t, chunk: 2, max_parallel: 1}
          retry: {max_attempts: 2}
          sql: INSERT INTO seen SELECT unnest(ARRAY[:'t']) FROM pg_sleep(CASE WHEN 'c' IN (:'t') THEN 60 ELSE 0 END)
        """
    plan = jobplan.plan(steps)
    started = jobplan.start("run", plan, "--dsn", tables.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    tables.until_workers("note[c+1]")
    until(lambda: tables.value("SELECT count(*) FROM seen") == 2)
    started.send(signal.SIGKILL)
    started.ended()
    tables.terminate("note[c+1]")
    tables.run("CREATE FUNCTION public.pg_sleep(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    tables.run(
        f"ALTER DATABASE {tables.value('SELECT quote_ident(current_database())')} SET search_path = public, pg_catalog"
    )
    asked = jobplan("resume", "last", "--journal", "runs")
    assert asked.code == 4
    assert "--mark 'note[c+1]=failed'" in asked.err
    resumed = jobplan("resume", "last", "--journal", "runs", "--mark", "note[c+1]=failed")
    assert resumed.code == 0, resumed.err
    assert tables.column("SELECT item FROM seen ORDER BY item") == ["a", "b", "c", "d", "e"]
    shown: dict[str, Any] = json.loads(jobplan("show", "last", "--journal", "runs", "--format", "json").out)
    assert [one["step"] for one in shown["steps"]] == ["note", "note[a+1]", "note[c+1]", "note[e]"]


def test_a_resume_of_a_split_chunk_runs_only_the_items_that_failed(jobplan: Jobplan, tables: Database) -> None:
    tables.run("DROP TABLE t1")
    steps = """
        - id: clear
          for_each: {items: [t0, t1, t2], as: t, chunk: 3}
          retry: {max_attempts: 2}
          sql: TRUNCATE :"t"
        """
    assert run(jobplan, tables, steps).code == 1
    tables.run("CREATE TABLE t1 (id int)")
    resumed = jobplan("resume", "last", "--journal", "runs", "--report", "jsonl=events.jsonl")
    assert resumed.code == 0, resumed.err
    assert launched(jobplan)[-1] == ("clear[t1]", 3)
    assert [key for key, _ in launched(jobplan)].count("clear[t0]") == 1


def test_an_item_that_is_null_fails_alone(jobplan: Jobplan, tables: Database) -> None:
    ran = run(
        jobplan,
        tables,
        """
        - id: analyze
          for_each: {sql: "SELECT * FROM (VALUES ('t0'), (NULL), ('t2')) AS v (n)", as: t, chunk: 5}
          sql: ANALYZE :"t"
        """,
    )
    assert ran.code == 1
    assert "NULL is not a name" in ran.err
    until(lambda: analyzed(tables) == ["t0", "t2"])


def test_a_query_of_several_columns_is_refused_when_it_runs(jobplan: Jobplan, tables: Database) -> None:
    tables.run("CREATE VIEW two AS SELECT 't0' AS a, 't1' AS b")
    ran = run(
        jobplan,
        tables,
        """
        - id: analyze
          for_each: {sql: "SELECT * FROM two", as: t, chunk: 5}
          sql: ANALYZE :"t.a"
        """,
    )
    assert ran.code == 1
    assert "an item has several columns; an item of a chunk has one" in ran.err


def test_the_dry_run_shows_the_chunks(jobplan: Jobplan, tables: Database) -> None:
    plan = jobplan.plan(
        f"""
        - id: analyze
          for_each: {{items: [{", ".join(TABLES)}], as: t, chunk: 3}}
          sql: ANALYZE :"t"
          retry: {{max_attempts: 2}}
          on_retry: SELECT pg_sleep(1)
        """
    )
    checked = jobplan("dry-run", plan, "--dsn", tables.dsn)
    assert checked.code == 0, checked.err
    assert "analyze[t0+2]" in checked.out
    graph = jobplan("graph", plan)
    assert "analyze [7 items in chunks of 3]" in graph.out


def test_conditions_and_parameters_are_those_of_the_chunk(jobplan: Jobplan, tables: Database) -> None:
    tables.run("CREATE TABLE wanted AS SELECT 't3' AS name")
    plan = jobplan.plan(
        f"""
        - id: analyze
          for_each: {{items: [{", ".join(TABLES)}], as: t, chunk: 3}}
          if: "SELECT count(*) > 0 FROM wanted WHERE name IN (:'t')"
          preconditions:
            - {{sql: "SELECT count(*) = 3 FROM pg_class WHERE relname IN (:'t')", message: a table is missing}}
          sql: ANALYZE :"t"
          settings: {{app.word: ":'word'"}}
          expect: {{warnings: 0}}
          verify: "SELECT :'word' = 'hello' AND count(*) = 3 FROM pg_class WHERE relname IN (:'t')"
        """,
        params="{word: {type: string, default: hello}}",
    )
    ran = jobplan("run", plan, "--dsn", tables.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert launched(jobplan) == [("analyze[t3+2]", 1)]
    assert jobplan.events()[-1]["steps"] == {
        "analyze": "succeeded",
        "analyze[t0+2]": "skipped",
        "analyze[t3+2]": "succeeded",
        "analyze[t6]": "skipped",
    }


def test_a_chunk_that_is_cancelled_is_not_repeated(jobplan: Jobplan, tables: Database) -> None:
    plan = jobplan.plan(
        """
        - id: sleep
          for_each: {items: [30, 31], as: t, chunk: 2}
          retry: {max_attempts: 3}
          sql: SELECT pg_sleep(least(:t))
        """
    )
    started = jobplan.start("run", plan, "--dsn", tables.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    tables.until_workers("sleep[30+1]")
    asked = jobplan("cancel", "--step", "sleep", str(jobplan.events()[0]["run"]), "--dsn", tables.dsn)
    assert asked.code == 0, asked.err
    ran = started.ended()
    assert ran.code == 1
    assert launched(jobplan) == [("sleep[30+1]", 1)]
    assert jobplan.events()[-1]["steps"] == {"sleep": "cancelled", "sleep[30+1]": "cancelled"}
