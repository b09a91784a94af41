"""Conditions and lists of a dry run: what the evaluation of one shows, as the run evaluates it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runner.cli.dry_run import look, read_to_look
from runner.cli.options import Parameters
from runner.gateway.inspection import LIMITS
from runner.lint import read_plan
from runner.preflight.dry_run import DryRunOptions
from runner.run.api import run_plan
from tests.integration.test_dry_run_report import HEAD, reported


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT FROM pg_class", "for_each: the query returns no columns, so it has no items"),
        (
            "SELECT g FROM generate_series(1, 10001) AS g",
            "for_each: the query returns 10,001 items; the limit is 10,000",
        ),
        ("SELECT 1 AS a, 2 AS a", "for_each: its columns need unique names, and a is the name of several"),
    ],
)
def test_a_list_that_cannot_be_items_is_an_error(tmp_path: Path, dsn: str, query: str, message: str) -> None:
    steps = f'  - {{id: a, for_each: {{sql: "{query}"}}, sql: ANALYZE pg_class}}\n'
    found = [problem.message for problem in reported(tmp_path, dsn, steps).problems if problem.code == "JP619"]
    assert found == [message]


_TWO_ROWS = '"SELECT g > 0 FROM generate_series(1, 2) AS g"'


@pytest.mark.parametrize(
    ("key", "value"), [("if", _TWO_ROWS), ("preconditions", f"[{{sql: {_TWO_ROWS}, message: no}}]")]
)
def test_a_condition_that_returns_several_rows_is_an_error(tmp_path: Path, dsn: str, key: str, value: str) -> None:
    found = reported(tmp_path, dsn, f"  - {{id: a, {key}: {value}, sql: ANALYZE pg_class}}\n")
    messages = [problem.message for problem in found.problems if problem.code == "JP606"]
    assert messages == [f"`{key}`: the condition must return one row, but returns 2"]


def test_a_condition_that_a_previous_step_may_change_is_a_warning(tmp_path: Path, dsn: str) -> None:
    steps = (
        "  - {id: first, sql: DELETE FROM pg_temp.nothing}\n"
        "  - {id: a, needs: [first], if: SELECT true FROM pg_class, sql: ANALYZE pg_class}\n"
    )
    found = [problem for problem in reported(tmp_path, dsn, steps).problems if problem.step == "a"]
    assert [(problem.code, str(problem.severity)) for problem in found] == [("JP606", "warning")]


def test_a_condition_without_rows_is_false(tmp_path: Path, dsn: str) -> None:
    result = reported(tmp_path, dsn, "  - {id: a, if: SELECT true WHERE false, sql: ANALYZE pg_class}\n")
    assert [problem.code for problem in result.problems if problem.step == "a"] == []
    assert any("it is false now" in one.notes for one in result.statements)


def test_a_condition_that_takes_too_long_is_no_error(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "statement_timeout", 1_000)
    condition = "SELECT count(*) > 0 FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"
    result = reported(tmp_path, dsn, f'  - {{id: a, if: "{condition}", sql: ANALYZE pg_class}}\n')
    assert [problem.code for problem in result.problems if problem.step == "a"] == []
    notes = [note for statement in result.statements for note in statement.notes]
    assert [note for note in notes if note.startswith("it was not evaluated within the limits of a dry run")]


_READ_ONLY = " options='-c default_transaction_read_only=on'"
_HARMLESS = """
  - {id: a, sql: "SELECT count(*) FROM pg_class", expect: {rows: 1}}
  - {id: b, sql: ANALYZE pg_class}
  - {id: c, sql: "CREATE TABLE made ()", settings: {default_transaction_read_only: "off"}}
  - {id: d, sql: "SET TRANSACTION READ WRITE; CREATE TABLE made2 ()"}
  - {id: e, sql: "CREATE TABLE made3 ()", allow_failure: [read_only_sql_transaction]}
"""


def test_read_only_by_default_is_an_error_for_a_statement_that_writes(tmp_path: Path, dsn: str) -> None:
    found = reported(tmp_path, dsn + _READ_ONLY, _HARMLESS)
    assert {str(problem.severity) for problem in found.problems if problem.code == "JP507"} == {"warning"}
    assert not found.refused
    writes = '  - {id: f, sql: "CREATE TABLE made4 ()"}\n  - {id: g, sql: "CREATE TABLE made5 ()"}\n'
    found = reported(tmp_path, dsn + _READ_ONLY, f"{_HARMLESS}{writes}")
    errors = [problem.step for problem in found.problems if (problem.code, str(problem.severity)) == ("JP507", "error")]
    assert errors == ["f"]


def test_what_is_no_error_for_a_read_only_default_runs(tmp_path: Path, database: str) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(HEAD + _HARMLESS, encoding="utf-8")
    assert run_plan(read_plan(plan), dsn=database + _READ_ONLY).exit_code == 0


def test_a_statement_refers_to_the_finding_that_is_reported(tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "plan.yaml"
    keys = "requires: {preconditions: [{sql: SELECT 1, message: no}]}\nholds: [{name: h, while: SELECT 1}]\n"
    path.write_text(HEAD.replace("steps:", f"{keys}steps:") + "  - {id: a, sql: ANALYZE pg_class}\n", encoding="utf-8")
    readable = read_to_look(path, Parameters().values())
    result = asyncio.run(look(readable.plan, dsn, DryRunOptions(found=readable.found)))
    known = {problem.code for problem in result.problems}
    codes = {one.key: one.codes for one in result.statements if one.codes}
    assert codes == {"requires.preconditions": ("JP520",), "holds.while": ("JP629",)}
    assert known >= {"JP520", "JP629"}
