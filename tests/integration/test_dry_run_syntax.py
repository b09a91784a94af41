"""Syntax in a dry run: what the parser does not read and the server does, and what an older server does not read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import look
from runner.errors import Problem
from runner.gateway.inspection import Inspector
from runner.gateway.replies import Reply
from runner.gateway.session import Session
from runner.lint import check_plan
from runner.plan.model import Plan
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage, DryRun
from runner.run.api import run_plan

HEAD = "version: 1\nname: t\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"


@pytest.fixture
def seeded(database: str) -> str:
    """A database with a table of two rows."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int, at timestamptz); INSERT INTO t VALUES (1, now()), (2, now())")
    return database


def plan_of(folder: Path, sql: str) -> tuple[Plan, tuple[Problem, ...]]:
    """Return the plan with one step, and what is found offline."""
    path = folder / "plan.yaml"
    path.write_text(f"{HEAD}  - {{id: a, sql: {json.dumps(sql)}}}\n", encoding="utf-8")
    loaded = check_plan(path)
    assert loaded.plan is not None
    return loaded.plan, tuple(loaded.problems)


def looked(plan: Plan, dsn: str) -> DryRun:
    """Return the report."""
    return asyncio.run(look(plan, dsn, DryRunOptions()))


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET id = 3 WHERE id NOT -- why\nIN (1, 2)",
        "UPDATE t SET id = 3 WHERE id IS NOT /* why */ NULL AND id NOT /* a */ /* b */ BETWEEN 1 AND 2",
        "INSERT INTO t (id) SELECT id FROM t ORDER BY at NULLS /*x*/ LAST",
        "ALTER TABLE t ADD COLUMN late timestamp WITH -- c\nTIME ZONE",
        "INSERT INTO t (at) VALUES ('2026-01-01' -- the day\n' 10:00')",
        "ALTER TABLE t ADD COLUMN word text DEFAULT 'a' -- one\n-- two\n'b'",
        "UPDATE t SET at = at AT /* here */ TIME ZONE 'UTC' AT TIME ZONE 'UTC'",
    ],
)
def test_a_comment_inside_a_token_of_two_words_is_read_as_the_server_reads_it(
    seeded: str, tmp_path: Path, sql: str
) -> None:
    plan, problems = plan_of(tmp_path, sql)
    assert [problem.code for problem in problems if problem.code in {"JP300", "JP302"}] == []
    result = looked(plan, seeded)
    assert {problem.code for problem in result.problems if problem.step == "a"} <= {"JP355"}
    assert run_plan(plan, dsn=seeded, sinks=[], ledger=None).exit_code == 0


def test_a_text_that_is_too_long_for_the_parser_is_not_checked_and_runs(seeded: str, tmp_path: Path) -> None:
    plan, problems = plan_of(tmp_path, f"DELETE FROM t WHERE id IN ({', '.join(map(str, range(60_000)))})")
    assert [problem.code for problem in problems] == ["JP302"]
    result = looked(plan, seeded)
    (report,) = [one for one in result.statements if one.step == "a"]
    assert report.coverage is Coverage.NOT
    assert "the server can parse this syntax" in report.why[0]
    assert not [problem for problem in result.problems if problem.step == "a"]
    assert run_plan(plan, dsn=seeded, sinks=[], ledger=None).exit_code == 0


def test_newer_syntax_that_the_server_refuses_is_an_error(seeded: str, tmp_path: Path) -> None:
    plan, problems = plan_of(tmp_path, "WAIT FOR LSN '0/1'")
    assert [problem.code for problem in problems] == ["JP302"]
    (problem,) = [one for one in looked(plan, seeded).problems if one.step == "a"]
    assert problem.code == "JP606"
    assert "syntax error" in problem.message


@pytest.mark.parametrize(
    ("sql", "word", "refused", "code"),
    [
        ("UPDATE t SET id = 1_000 WHERE id = 1", "1_000", "1_000x", "JP606"),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (id > 0b1)", "0b1", "0b12", "JP606"),
        ("COMMENT ON COLUMN t.id IS U&'x' UESCAPE '!'", "UESCAPE", "ESCAPED", "JP606"),
        ("ALTER TABLE t ADD COLUMN next int GENERATED ALWAYS AS (id + 1) VIRTUAL", "VIRTUAL", "VIRTUALLY", "JP624"),
    ],
)
def test_a_syntax_error_of_an_older_server_says_which_syntax_was_read(
    seeded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str, word: str, refused: str, code: str
) -> None:
    """The server is sent what no version reads, as an older one does not read the text; its version is made up.

    What is known to have come later is said better, and once.
    """
    plan, problems = plan_of(tmp_path, sql)
    assert not [problem for problem in problems if problem.code in {"JP300", "JP302"}]
    probe = Session.probe

    async def older(session: Session, settings: str, sql: str, *, explain: bool) -> list[Reply]:
        return await probe(session, settings, sql.replace(word, refused), explain=explain)

    monkeypatch.setattr(Session, "probe", older)
    monkeypatch.setattr(Inspector, "version", property(lambda _: 150_003))
    (problem,) = [one for one in looked(plan, seeded).problems if one.step == "a" and one.code.startswith("JP6")]
    assert problem.code == code
    if code == "JP606":
        assert problem.hint == "it was read as PostgreSQL 18 syntax; the server is 15"
