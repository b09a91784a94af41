"""Ids of steps with dashes, in everything that an id is part of: names of workers, records, reports and options."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from tests.acceptance.console import Database, Jobplan

STEPS = """
- {id: make-it, sql: CREATE TABLE log (v text)}
- id: per-item
  needs: make-it
  for_each: {items: [a-b, "c"]}
  sql: INSERT INTO log VALUES (:'item')
- id: g-1
  needs: per-item
  for_each: {items: [x]}
  steps:
  - {id: one-a, sql: "INSERT INTO log VALUES (:'item')"}
  - {id: two--b, needs: one-a, sql: "INSERT INTO log VALUES ('2')"}
- {id: fails-now, needs: make-it, sql: SELECT * FROM missing, retry: 2}
"""
KEYS = ["make-it", "per-item", "per-item[a-b]", "per-item[c]", "g-1", "g-1[x]", "g-1[x].one-a", "g-1[x].two--b"]


def test_they_are_the_same_in_the_record_the_ledger_and_every_report(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    reports = [f"--report={kind}=run.{kind}" for kind in ("junit", "html", "markdown", "prometheus", "jsonl")]
    plan = jobplan.plan(STEPS)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--run-id", "r-1", *reports)
    assert ran.code == 1, ran.err
    shown = json.loads(jobplan("show", "r-1", "--format", "json").out)
    states = {step["step"]: (step["state"], step["attempts"]) for step in shown["steps"]}
    assert states.pop("fails-now") == ("failed", 2)
    assert sorted(states) == sorted(KEYS)
    assert {state for state, _ in states.values()} == {"succeeded"}
    texts = {kind: (jobplan.folder / f"run.{kind}").read_text(encoding="utf-8") for kind in ("html", "markdown")}
    for text in texts.values():
        assert "g-1[x].two--b" in text
    cases = {case.get("name") for case in ET.parse(jobplan.folder / "run.junit").iter("testcase")}  # noqa: S314 - our own
    assert {"make-it", "g-1[x].one-a", "fails-now"} <= cases
    assert 'step="fails-now"' in (jobplan.folder / "run.prometheus").read_text(encoding="utf-8")
    assert db.column("SELECT step FROM jobplan.commits WHERE step LIKE 'g-1%' ORDER BY 1") == [
        "g-1[x].one-a",
        "g-1[x].two--b",
    ]
    step = jobplan("show", "r-1", "--step", "g-1[x].two--b")
    assert (step.code, "two--b" in step.out) == (0, True)

    db.run("CREATE TABLE missing ()")
    resumed = jobplan("resume", "r-1", "--dsn", db.dsn)
    assert resumed.code == 0, resumed.err
    assert sorted(db.column("SELECT v FROM log")) == ["2", "a-b", "c", "x"]


def test_workers_and_options_have_them(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: nap-1, sql: SELECT pg_sleep(60)}\n- {id: nap-2, sql: SELECT pg_sleep(60)}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--run-id", "r-1")
    db.until_workers("nap-1", "nap-2")
    assert db.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'jobplan:r-1:nap-1'") == 1
    assert "nap-1" in jobplan("status", "r-1", "--dsn", db.dsn).out
    assert jobplan("cancel", "r-1", "--step", "nap-1", "--dsn", db.dsn).code == 0
    db.until_workers("nap-2")
    assert jobplan("cancel", "r-1", "--dsn", db.dsn).code == 0
    assert started.ended().code == 1
    plan = jobplan.plan(STEPS)
    for selection, expected in (
        (["--select", "make-it"], ["make-it"]),
        (["--select", "+per-item"], ["make-it", "per-item"]),
        (["--select", "per-*", "--assume-done"], ["per-item"]),
        (["--exclude", "make-it+"], []),
    ):
        drawn = jobplan("graph", plan, "--format", "dot", *selection)
        found = [name for name in ("make-it", "per-item", "g-1", "fails-now") if f'"{name}' in drawn.out]
        assert found == expected or drawn.code == 2 != len(expected), (selection, drawn)
    kept = jobplan("run", plan, "--dsn", db.dsn, "--select", "make-it", "--select", "per-item[a-b]", "--run-id", "r-2")
    assert kept.code == 0, kept.err
    assert db.column("SELECT v FROM log") == ["a-b"]
    db.run("DROP TABLE log")
    chain = jobplan("run", plan, "--dsn", db.dsn, "--exclude", "g-1.two--b", "--exclude", "fails-now")
    assert chain.code == 0, chain.err
    assert sorted(db.column("SELECT v FROM log")) == ["a-b", "c", "x"]
    for form in ("text", "mermaid"):
        assert "two--b" in jobplan("graph", plan, "--format", form).out
    assumed = jobplan("dry-run", plan, "--dsn", db.dsn, "--assume", "make-it=5m")
    assert "make-it" in assumed.out, assumed
