"""Chains of steps for each item, on a real server: order, failures, selection, resume, and an included chain."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.acceptance.console import Database, Jobplan, until

WORK = """
    CREATE TABLE did (i text, s text, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE broken (i text);
    CREATE FUNCTION does(item text, step text) RETURNS void BEGIN ATOMIC
        INSERT INTO did SELECT item, step WHERE 1 / (SELECT 1 - count(*) FROM broken WHERE i = item || '.' || step) = 1;
    END
"""
CHAIN = """
    - {id: first, sql: "INSERT INTO did VALUES (:'x', 'first')"}
    - {id: last, needs: [first], sql: "INSERT INTO did VALUES (:'x', 'last')"}
"""


def did(db: Database) -> list[str]:
    """Return what the steps did, in order."""
    return db.column("SELECT i || '.' || s FROM did ORDER BY at")


def states(jobplan: Jobplan) -> dict[str, str]:
    """Return the last state of every step."""
    found: dict[str, str] = jobplan.events()[-1]["steps"]
    return found


def last_run(jobplan: Jobplan) -> str:
    """Return the id of the newest run."""
    folders = sorted((jobplan.folder / ".jobplan" / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    return folders[-1].name


def moments(events: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Return the place of the first such event of each step."""
    found: dict[str, int] = {}
    for place, event in enumerate(events):
        if event["event"] == name:
            found.setdefault(event["step"], place)
    return found


def test_a_chain_over_300_items_has_no_barrier_and_a_failed_item_stops_nothing(jobplan: Jobplan, db: Database) -> None:
    db.run(f"{WORK}; INSERT INTO broken VALUES ('007.first')")
    plan = jobplan.plan(
        """
        - id: chain
          for_each: {sql: "SELECT to_char(n, 'FM000') AS x FROM generate_series(1, 300) n", as: x, max_parallel: 2}
          steps:
            - {id: first, sql: "SELECT does(:'x', 'first')"}
            - {id: last, needs: [first], sql: "SELECT does(:'x', 'last')"}
        - {id: after, needs: [{step: chain, on: done}], sql: "INSERT INTO did VALUES ('all', 'after')"}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 1
    order = did(db)
    assert order.index("001.last") < order.index("300.first")
    assert order[-1] == "all.after"
    assert len(order) == 2 * 299 + 1
    found = states(jobplan)
    assert (found["chain[007].first"], found["chain[007].last"], found["chain[007]"]) == ("failed", "skipped", "failed")
    assert sum(found[f"chain[{number:03}]"] == "succeeded" for number in range(1, 301)) == 299
    events = jobplan.events()
    begins, ends = moments(events, "attempt_launching"), moments(events, "attempt_finished")
    items = [f"chain[{number:03}]" for number in range(1, 301) if number != 7]
    spans = [(begins[f"{item}.first"], ends[f"{item}.last"]) for item in items]
    assert max(sum(begin <= at <= end for begin, end in spans) for at, _ in spans) <= 2
    assert "chain: failed (299/300 done, 1 failed)" in "\n".join(ran.lines)

    # the resume runs the two steps of that item, and nothing else; then one item is selected
    db.run("DELETE FROM broken")
    resumed = jobplan("resume", "last", "--dsn", db.dsn)
    assert resumed.code == 0, resumed.err
    assert did(db)[len(order) :] == ["007.first", "007.last"]
    assert jobplan("run", plan, "--dsn", db.dsn, "--select", "chain[123]").code == 0
    assert did(db)[len(order) + 2 :] == ["123.first", "123.last"]


def test_resume_runs_only_what_the_failed_item_lacks(jobplan: Jobplan, db: Database) -> None:
    db.run(f"{WORK}; INSERT INTO broken VALUES ('b.last')")
    plan = jobplan.plan(
        """
        - id: chain
          for_each: {items: [a, b, c], as: x}
          steps:
            - {id: first, sql: "INSERT INTO did VALUES (:'x', 'first')"}
            - {id: last, needs: [first], sql: "SELECT does(:'x', 'last')"}
        - {id: after, needs: [chain], sql: "INSERT INTO did VALUES ('all', 'after')"}
        """
    )
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    assert sorted(did(db)) == ["a.first", "a.last", "b.first", "c.first", "c.last"]
    db.run("DELETE FROM broken")
    ran = jobplan("resume", "last", "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert sorted(did(db)) == ["a.first", "a.last", "all.after", "b.first", "b.last", "c.first", "c.last"]
    assert set(states(jobplan).values()) == {"succeeded"}


def test_one_item_and_one_step_can_be_selected(jobplan: Jobplan, db: Database) -> None:
    db.run(WORK)
    plan = jobplan.plan(
        f"""
        - id: chain
          for_each: {{sql: "SELECT unnest(ARRAY['a', 'b', 'c']) AS x", as: x}}
          steps:{CHAIN.replace(chr(10), chr(10) + "        ")}
        """
    )
    assert jobplan("run", plan, "--dsn", db.dsn, "--select", "chain[b]").code == 0
    assert did(db) == ["b.first", "b.last"]
    assert jobplan("run", plan, "--dsn", db.dsn, "--select", "chain.first", "--exclude", "chain[b]").code == 0
    assert sorted(did(db)[2:]) == ["a.first", "c.first"]
    ran = jobplan("run", plan, "--dsn", db.dsn, "--select", "chain[a].last")
    assert (ran.code, "chain[a].last needs chain[a].first, which is not selected" in ran.err) == (2, True)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--select", "chain[a].last", "--assume-done")
    assert (ran.code, did(db)[-1]) == (0, "a.last")
    ran = jobplan("run", plan, "--dsn", db.dsn, "--select", "chain.lost")
    assert (ran.code, "did you mean `chain.last`?" in ran.err) == (2, True)


def test_a_killed_runner_is_resumed_in_the_middle_of_an_item(jobplan: Jobplan, db: Database) -> None:
    db.run(f"{WORK}; CREATE TABLE door (open boolean); INSERT INTO door VALUES (false)")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0  # the evidence of what the adopted worker did
    plan = jobplan.plan(
        """
        - id: chain
          for_each: {items: [a, b, c], as: x, max_parallel: 1}
          steps:
            - {id: first, sql: "INSERT INTO did VALUES (:'x', 'first')"}
            - id: second
              needs: [first]
              sql: |
                DO $$ BEGIN
                  WHILE NOT (SELECT open FROM door) AND EXISTS (SELECT FROM did WHERE i = 'b') LOOP
                    PERFORM pg_sleep(0.05);
                  END LOOP;
                END $$;
                INSERT INTO did VALUES (:'x', 'second')
            - {id: last, needs: [second], sql: "INSERT INTO did VALUES (:'x', 'last')"}
        """
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    until(lambda: "b.first" in did(db))
    db.until_workers("chain[b].second")
    started.send(signal.SIGKILL)
    started.ended()
    resumed = jobplan.start("resume", "last", "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("run_resumed"))
    db.run("UPDATE door SET open = true")
    ran = resumed.ended()
    assert ran.code == 0, ran.err
    (adopted,) = next(event["adopted"] for event in jobplan.events() if event["event"] == "run_resumed")
    assert adopted["step"] == "chain[b].second"
    assert sorted(did(db)) == sorted(f"{i}.{s}" for i in "abc" for s in ("first", "second", "last"))
    assert did(db)[:4] == ["a.first", "a.second", "a.last", "b.first"]


def test_the_ledger_alone_is_enough_to_resume_a_group(jobplan: Jobplan, db: Database) -> None:
    db.run(f"{WORK}; INSERT INTO broken VALUES ('b.last')")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    plan = jobplan.plan(
        """
        - id: chain
          for_each: {sql: "SELECT unnest(ARRAY['a', 'b']) AS x", as: x}
          steps:
            - {id: first, sql: "INSERT INTO did VALUES (:'x', 'first')"}
            - {id: last, needs: [first], sql: "SELECT does(:'x', 'last')"}
        """
    )
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    db.run("DELETE FROM broken")
    run = last_run(jobplan)
    ran = jobplan("resume", run, "--dsn", db.dsn, "--from-ledger", "--journal", "elsewhere")
    assert ran.code == 0, ran.err
    assert sorted(did(db)) == ["a.first", "a.last", "b.first", "b.last"]


def test_an_included_chain_is_written_once(jobplan: Jobplan, db: Database) -> None:
    tables = ("app.orders", "app.lines", "other")
    db.run("CREATE SCHEMA app; " + "; ".join(f"CREATE TABLE {table} (n int)" for table in tables))
    chain = """
        params: {table: {type: relation}, rows: {type: integer, default: 1}, note: {type: string}}
        steps:
          - {id: fill, sql: 'INSERT INTO :"table" SELECT generate_series(1, :rows)'}
          - id: comment
            needs: [fill]
            sql: COMMENT ON TABLE :"table" IS :'note'
            verify: SELECT obj_description(:'table'::regclass) = :'note'
    """
    (jobplan.folder / "chain.yaml").write_text("\n".join(line[8:] for line in chain.splitlines()[1:]), encoding="utf-8")
    plan = jobplan.plan(
        """
        - id: per_table
          for_each: {items: [{t: app.orders, n: it's}, {t: app.lines, n: b}], as: x}
          include: {file: chain.yaml, with: {table: ":'x.t'", rows: 3, note: ":'x.n'"}}
        - id: once
          include: {file: chain.yaml, with: {table: other, note: c}}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert [db.value(f"SELECT count(*) FROM {table}") for table in tables] == [3, 3, 1]
    assert db.value("SELECT obj_description('app.orders'::regclass)") == "it's"
    found = states(jobplan)
    assert found["once.comment"] == found["per_table[app.orders,it's].comment"] == "succeeded"


def test_the_dry_run_checks_the_chain_for_each_item(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE orders (n int); CREATE TABLE lines (n int)")
    plan = jobplan.plan(
        """
        - id: copy
          for_each: {sql: "SELECT unnest(ARRAY['orders', 'lines', 'gone']) AS t", as: x, max_parallel: 1}
          steps:
            - {id: make, sql: 'CREATE TABLE IF NOT EXISTS copies (t text, n bigint)'}
            - {id: fill, needs: [make], sql: "INSERT INTO copies SELECT :'x.t', count(*) FROM :\\"x.t\\""}
        """
    )
    ran = jobplan("dry-run", plan, "--dsn", db.dsn, "--format", "json")
    found = json.loads(ran.out)
    errors = [one for one in found["findings"] if one["severity"] == "error"]
    assert [(one["step"], "gone" in one["message"]) for one in errors] == [("copy.fill", True)]
    instances = {one["instance"] for one in found["statements"]}
    assert {"copy[orders].make", "copy[orders].fill", "copy[gone].fill"} <= instances
    bars = [bar["step"] for bar in found["schedule"]["steps"]]
    assert bars == [f"copy[{t}].{s}" for t in ("orders", "lines", "gone") for s in ("make", "fill")]


def test_a_wrong_value_of_an_item_fails_the_group_with_its_reason(jobplan: Jobplan, db: Database) -> None:
    (jobplan.folder / "chain.yaml").write_text(
        "params: {n: {type: integer}}\nsteps:\n  - {id: a, sql: 'SELECT :n'}\n", encoding="utf-8"
    )
    plan = jobplan.plan(
        """
        - id: g
          for_each: {sql: "SELECT unnest(ARRAY['1', 'two']) AS v", as: x}
          include: {file: chain.yaml, with: {n: ":'x.v'"}}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 1
    assert "g: failed: for_each: an item of `n` is `two`, not a whole number" in "\n".join(ran.lines)


def test_the_graph_shows_the_chain(jobplan: Jobplan, tmp_path: Path) -> None:  # noqa: ARG001
    plan = jobplan.plan(
        """
        - {id: before, sql: SELECT 1}
        - id: g
          needs: [before]
          for_each: {items: [a, b]}
          steps:
            - {id: first, sql: "SELECT :'item'"}
            - {id: last, needs: [first], sql: "SELECT :'item'"}
        - {id: after, needs: [g], sql: SELECT 1}
        """
    )
    ran = jobplan("graph", plan)
    assert ran.out.splitlines() == ["before", "↓ g.first [2 items]", "↓ g.last [2 items]", "↓ after"]
    assert "subgraph" in jobplan("graph", plan, "--format", "mermaid").out


EVERYTHING = """
- id: per_table
  for_each:
    sql: SELECT c.oid::regclass AS t FROM pg_class AS c WHERE c.relnamespace = '"Odd Schema"'::regnamespace ORDER BY 1
    as: t
    type: relation
  steps:
    - id: large
      if: SELECT count(*) > 50 FROM :"t"
      sql: INSERT INTO did VALUES (:'t', 'large')
    - id: fill
      needs: [large]
      preconditions: [{sql: 'SELECT count(*) > 0 FROM :"t"', message: it is empty}]
      settings: {ops.mark: ":'mark'"}
      sql: |
        WITH batch AS (
          UPDATE :"t" SET v = v + 1 WHERE id > :last_id AND id <= :last_id + 40 RETURNING id)
        SELECT max(id) AS last_id FROM batch
      repeat: {until: no_rows, carry: {last_id: {type: integer, start: 0}}}
    - id: warns
      needs: [fill]
      allow_failure: true
      sql: DO $$ BEGIN RAISE WARNING 'look at it'; END $$
      expect: {warnings: 0}
    - id: last
      needs: [{step: warns, on: done}]
      settings: {ops.mark: ":'mark'"}
      sql: INSERT INTO did VALUES (:'t', current_setting('ops.mark'))
"""


def test_conditions_parameters_warnings_totals_and_relations_work_in_a_chain(jobplan: Jobplan, db: Database) -> None:
    db.run(WORK)
    db.run('CREATE SCHEMA "Odd Schema"')
    for name, rows in (("Small", 30), ("big one", 100)):
        table = f'"Odd Schema"."{name}"'
        db.run(f"CREATE TABLE {table} AS SELECT n AS id, 0 AS v FROM generate_series(1, {rows}) AS n")
    plan = jobplan.plan(EVERYTHING, params="{mark: {type: string, default: it's mine}}")
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    found = states(jobplan)
    small, big = (next(key for key in found if key.endswith("]") and name in key) for name in ("Small", "big one"))
    assert (found[f"{small}.large"], found[f"{big}.large"]) == ("skipped", "succeeded")
    assert found[f"{small}.fill"] == found[f"{big}.fill"] == "succeeded"
    assert found[f"{small}.warns"] == found[f"{big}.warns"] == "failed_allowed"
    ends = {event["step"]: event["rows"] for event in jobplan.events() if event.get("rows") is not None}
    assert (ends[f"{small}.fill"], ends[f"{big}.fill"]) == (30, 100)
    assert db.column("SELECT s FROM did ORDER BY at")[-1] == "it's mine"
    for name in ("Small", "big one"):
        assert db.value(f'SELECT count(*) FROM "Odd Schema"."{name}" WHERE v <> 1') == 0
