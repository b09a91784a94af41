"""Conditions and lists of a dry run: what the evaluation of one shows, as the run evaluates it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_dry_run_report import reported


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT FROM pg_class", "for_each: the query returns no columns, so no items"),
        (
            "SELECT g FROM generate_series(1, 10001) AS g",
            "for_each: the query returns 10,001 items; the limit is 10,000",
        ),
        ("SELECT 1 AS a, 2 AS a", "for_each: its columns need unique names, and a is not one"),
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


def test_a_condition_that_takes_too_long_is_no_error(tmp_path: Path, dsn: str) -> None:
    condition = "SELECT count(*) > 0 FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"
    result = reported(tmp_path, dsn, f'  - {{id: a, if: "{condition}", sql: ANALYZE pg_class}}\n')
    assert [problem.code for problem in result.problems if problem.step == "a"] == []
