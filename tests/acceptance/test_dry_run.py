"""`jobplan dry-run` as a person and a CI job use it."""

from __future__ import annotations

import json

import psycopg

from tests.acceptance.console import Database, Jobplan


def test_what_is_wrong_comes_first_and_a_line_sums_up(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE orders (id int)")
    plan = jobplan.plan("""
        - {id: fine, sql: SELECT id FROM orders}
        - {id: wrong, sql: SELECT total FROM orders}
    """)
    ran = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert ran.code == 3
    lines = ran.out.splitlines()
    assert lines[0] == f'{plan}:7:27: error JP602: column "total" does not exist'
    assert "would fail, 1 error" in lines[-1]
    assert any(line.split()[:2] == ["checked", "fine"] for line in lines)
    assert ran.err == ""


def test_run_has_a_dry_run_too(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: make, sql: CREATE TABLE made (id int)}")
    ran = jobplan("run", plan, "--dry-run", "--dsn", db.dsn)
    assert ran.code == 0
    assert "no problem found" in ran.out
    assert db.value("SELECT to_regclass('made') IS NULL")


def test_exit_codes(jobplan: Jobplan, db: Database) -> None:
    fine = jobplan.plan("- {id: one, sql: SELECT 1}", file="fine.yaml")
    late = jobplan.plan("- {id: a, sql: CREATE TABLE t (n int)}\n- {id: b, sql: ANALYZE t}", file="late.yaml")
    greedy = jobplan.plan("- {id: one, sql: SELECT 1}", file="greedy.yaml", budget="{slots: 1, reserve: 999}")
    assert jobplan("dry-run", fine, "--dsn", db.dsn).code == 0
    assert jobplan("dry-run", late, "--dsn", db.dsn).code == 0
    assert jobplan("dry-run", late, "--dsn", db.dsn, "--strict").code == 3
    assert jobplan("dry-run", greedy, "--dsn", db.dsn).code == 4
    assert jobplan("dry-run", fine, "--dsn", "host=/nowhere").code == 4
    assert jobplan("dry-run", fine, "--dsn", db.dsn, "--select", "nothing").code == 2


def test_formats(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: wrong, sql: SELECT * FROM missing}")

    def out(format_: str) -> str:
        ran = jobplan("dry-run", plan, "--dsn", db.dsn, "--format", format_)
        assert ran.code == 3, ran.err
        return ran.out

    document = json.loads(out("json"))
    (finding,) = [one for one in document["findings"] if one["severity"] == "error"]
    assert (finding["code"], finding["step"], finding["line"]) == ("JP601", "wrong", 6)
    assert document["statements"][0]["coverage"] == "partly checked"
    assert out("github").startswith("::error file=")
    results = json.loads(out("sarif"))["runs"][0]["results"]
    assert "JP601" in {one["ruleId"] for one in results}
    markdown = out("markdown")
    assert markdown.startswith("## Dry run of trial")
    assert "| ❌ JP601 |" in markdown
    assert "| 🟡 partly checked | wrong | <code>SELECT &#42; FROM missing</code> | JP601 |" in markdown


def test_a_parameter_cannot_become_markup(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        "- {id: a, sql: \"SELECT :'who'\"}", params="{who: {type: string, default: '| <script> @everybody `x`'}}"
    )
    ran = jobplan("dry-run", plan, "--dsn", db.dsn, "--format", "markdown")
    assert ran.code == 0
    assert "<script>" not in ran.out
    assert "@everybody" not in ran.out


def test_selection_leaves_steps_out(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: fine, sql: SELECT 1}\n- {id: wrong, sql: SELECT * FROM missing}")
    assert jobplan("dry-run", plan, "--dsn", db.dsn, "--exclude", "wrong").code == 0


def test_without_explain_privileges_are_not_known(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: fine, sql: SELECT count(*) FROM pg_class}")
    ran = jobplan("dry-run", plan, "--dsn", db.dsn, "--no-explain")
    assert ran.code == 0
    assert "partly checked" in ran.out
    assert "--no-explain" in ran.out


def test_a_dry_run_does_not_wait_for_a_locked_table(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE busy (id int)")
    plan = jobplan.plan("- {id: read, sql: SELECT * FROM busy}\n- {id: shrink, sql: VACUUM busy}")
    with psycopg.connect(db.dsn) as other:
        other.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        ran = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert ran.code == 0
    assert "JP620" in ran.out
