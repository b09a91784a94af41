"""Reports of real runs, and `jobplan graph`: what a team and its tools are given afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import xmlschema
from junitparser import Failure, JUnitXml

from tests.acceptance.console import Database, Jobplan

SCHEMA = Path(__file__).parents[1] / "schemas" / "junit-10.xsd"

STEPS = """
- {id: table, sql: CREATE TABLE t (id int PRIMARY KEY)}
- {id: fill, needs: [table], sql: 'INSERT INTO t SELECT generate_series(1, 3)'}
- {id: again, needs: [fill], sql: INSERT INTO t VALUES (2)}
- {id: after, needs: [again], sql: SELECT 1}
- {id: rows, needs: [fill], sql: 'SELECT id, id::text || ''<b>'' AS label FROM t ORDER BY id', capture: {rows: 2}}
- id: chatty
  sql: |
    DO $$ BEGIN RAISE NOTICE 'a "<script>" '; END $$
"""


def test_one_run_gives_every_kind_of_report(jobplan: Jobplan, db: Database) -> None:
    kinds = ("jsonl", "junit", "markdown", "html", "prometheus")
    options = [word for kind in kinds for word in ("--report", f"{kind}=run.{kind}")]
    ran = jobplan("run", jobplan.plan(STEPS), "--dsn", db.dsn, *options)
    assert ran.code == 1
    assert ran.labelled("Report") == [f"run.{kind}" for kind in kinds]
    text = {kind: (jobplan.folder / f"run.{kind}").read_text(encoding="utf-8") for kind in kinds}

    xmlschema.XMLSchema10(SCHEMA).validate(text["junit"])
    (suite,) = JUnitXml.fromstring(text["junit"].encode())
    cases = {case.name: case for case in suite}
    (failure,) = cases["again"].result
    assert isinstance(failure, Failure)
    assert failure.type == "23505"
    assert "DETAIL: Key (id)=(2) already exists." in failure.text
    assert "CONSTRAINT NAME: t_pkey" in failure.text
    assert 'NOTICE:  a "<script>" ' in cases["chatty"].system_out
    assert cases["after"].result[0].message == "upstream: again failed"

    assert "| `again` | ❌ failed |" in text["markdown"]
    assert "| `2` | `2<b>` |" in text["markdown"]
    assert 'state="failed"} 1' in text["prometheus"]
    assert "duplicate key value violates unique constraint" in text["html"]


def test_reports_do_not_overwrite_the_plan_or_one_another(jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: a, sql: SELECT 1}")
    assert jobplan("run", plan, "--report", "html=plan.yaml").code == 2
    ran = jobplan("run", plan, "--report", "html=a", "--report", "junit=./a")
    assert (ran.code, "would overwrite a" in ran.err) == (2, True)


def test_an_unknown_kind_is_reported_with_the_known_kinds(jobplan: Jobplan) -> None:
    ran = jobplan("run", jobplan.plan("- {id: a, sql: SELECT 1}"), "--report", "pdf=a.pdf")
    assert ran.code == 2
    assert "there is no kind 'pdf'; the kinds are jsonl, junit, markdown, html, prometheus" in ran.err


def test_a_report_that_cannot_be_written_is_refused_before_the_run(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: a, sql: CREATE TABLE ran ()}")
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "html=nowhere/a.html")
    assert ran.code == 4
    assert "the html report nowhere/a.html cannot be written: No such file or directory" in ran.err
    assert db.value("SELECT to_regclass('ran')") is None


GRAPH = """
- {id: a, sql: SELECT 1, tags: [x]}
- {id: b, needs: [a], sql: SELECT 1, tags: [x]}
- {id: c, needs: [{step: b, on: failure}], sql: SELECT 1}
"""


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ((), "a\n↓ b\n↓ c  (on failure)\n"),
        (("--select", "tag:x"), "a\n↓ b\n"),
        (("--exclude", "a", "--assume-done"), "b\n↓ c  (on failure)\n"),
        (("--format", "mermaid", "-s", "+b"), 'flowchart LR\n  s1["a"]\n  s2["b"]\n  s1 --> s2\n'),
    ],
)
def test_graph_draws_what_is_selected(jobplan: Jobplan, options: tuple[str, ...], out: str) -> None:
    ran = jobplan("graph", jobplan.plan(GRAPH), *options)
    assert (ran.code, ran.out, ran.err) == (0, out, "")


def test_graph_needs_no_values_of_parameters(jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: a, sql: 'SELECT :n'}", params="{n: {type: integer}}")
    ran = jobplan("graph", plan, "--format", "dot")
    assert ran.code == 0
    assert '"a" [label="a"]' in ran.out


def test_graph_of_an_invalid_plan_reports_what_is_wrong(jobplan: Jobplan) -> None:
    ran = jobplan("graph", jobplan.plan("- {id: a, sql: SELECT 1, needs: [b]}"))
    assert ran.code == 3
    assert "b" in ran.err


def test_a_report_of_the_record_is_the_one_that_the_run_wrote(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: a, sql: SELECT 1}\n- {id: b, sql: SELECT 1/0, needs: [a]}")
    kinds = ("jsonl", "junit", "markdown", "html", "prometheus")
    for _ in range(2):  # the second one has a past
        live = [word for kind in kinds for word in ("--report", f"{kind}=live.{kind}")]
        assert jobplan("run", plan, "--dsn", db.dsn, *live).code == 1
    afterwards = [word for kind in kinds for word in ("--report", f"{kind}=record.{kind}")]
    assert jobplan("show", "last", *afterwards).code == 0
    for kind in kinds:
        written = [(jobplan.folder / f"{when}.{kind}").read_text(encoding="utf-8") for when in ("live", "record")]
        assert written[0] == written[1], kind
    assert '"history":[{"run":' in (jobplan.folder / "record.html").read_text(encoding="utf-8")


WRONG = """
- id: chatty
  sql: |
    SELECT 1;
    SELECT 'größe', :'word',
      nope
    FROM pg_class
"""


def test_an_error_leads_to_the_line_of_the_sql(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(WRONG, params="{word: {type: string, default: a long word that is put in}}")
    env = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(jobplan.folder)}
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "markdown=run.md", env=env)
    assert ran.code == 1
    lines = plan.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if "nope" in text)
    column = lines[line - 1].index("nope") + 1
    assert f"::error title=chatty failed,file=plan.yaml,line={line},col={column}::column " in ran.out
    assert any(reported.endswith(f"(SQLSTATE 42703) at {plan}:{line}:{column}") for reported in ran.lines)
    assert "LINE 3:   nope\n          ^\n" in (jobplan.folder / "run.md").read_text(encoding="utf-8")


def test_another_machine_s_runs_are_known_from_the_ledger(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    plan = jobplan.plan("- {id: a, sql: SELECT pg_sleep(0.2)}")
    for journal in ("theirs", "theirs", "ours"):
        ran = jobplan("run", plan, "--dsn", db.dsn, "--journal", journal, "--report", "html=live.html")
        assert ran.code == 0, ran.err
    live = (jobplan.folder / "live.html").read_text(encoding="utf-8")
    assert live.count('"steps":{"a":[0.') == 2
    assert jobplan("show", "last", "--journal", "ours", "--report", "html=record.html").code == 0
    assert (jobplan.folder / "record.html").read_text(encoding="utf-8") == live


def test_a_run_that_never_began_leaves_no_history_behind(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    report = ("--report", "html=run.html")
    fine = jobplan.plan("- {id: a, sql: SELECT 1}", file="fine.yaml")
    assert jobplan("run", fine, "--dsn", db.dsn, "--journal", "theirs").code == 0
    plan = jobplan.plan("- {id: a, sql: SELECT 1}", requires="{preconditions: [{sql: SELECT false, message: not now}]}")
    ran = jobplan("run", plan, "--dsn", db.dsn, *report)
    assert (ran.code, "not now" in ran.err) == (9, True)
    assert list((jobplan.folder / ".jobplan" / "runs").iterdir()) == []
