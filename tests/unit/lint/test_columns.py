"""A plan whose check of a value could never be made is refused before anything is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.lint import check_plan


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("CREATE TEMP TABLE w (i int); SELECT * FROM w", True),
        ("CREATE TEMPORARY TABLE w AS SELECT 1; TABLE w", True),
        ("SELECT 1 AS i INTO TEMP w; WITH d AS (DELETE FROM w RETURNING i) SELECT count(*) FROM d", True),
        ("CREATE TEMP TABLE w (i int); INSERT INTO w VALUES (1) RETURNING *", True),
        ("CREATE TEMP TABLE w (i int); SELECT count(*) FROM w", False),
        ("CREATE TEMP TABLE w (i int); SELECT * FROM t", False),
        ("CREATE TABLE w (i int); SELECT * FROM w", False),
        ("CREATE TEMP TABLE w (i int); WITH w AS (SELECT 1) SELECT * FROM w", False),
    ],
)
def test_a_value_that_could_never_be_read_is_refused(tmp_path: Path, sql: str, *, refused: bool) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: n\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\n"
        f'steps:\n  - id: a\n    sql: "{sql}"\n    expect: {{value: 1}}\n',
        encoding="utf-8",
    )
    found = [problem.code for problem in check_plan(plan).problems if problem.severity == "error"]
    assert found == (["JP361"] if refused else [])


@pytest.mark.parametrize(
    ("sql", "verify", "severity"),
    [
        ("CREATE TEMP TABLE w (i int); INSERT INTO t SELECT i FROM w", "SELECT count(*) = 0 FROM w", "error"),
        ("SELECT 1 AS i INTO TEMP w", "SELECT true WHERE EXISTS (SELECT FROM w)", "error"),
        ("CREATE TABLE pg_temp.w (i int)", "SELECT count(*) = 0 FROM pg_temp.w", "error"),
        ("CREATE TEMP TABLE w ON COMMIT DROP AS TABLE t", "SELECT count(*) = 0 FROM w", "error"),
        ("CREATE TEMP TABLE w AS SELECT * FROM w", "SELECT count(*) = 0 FROM w", "warning"),
        ("CREATE TEMP TABLE w AS SELECT * FROM app.w", "SELECT count(*) = 0 FROM w", "warning"),
        ("CREATE TEMP TABLE w AS TABLE t", "SELECT count(*) = 0 FROM app.w", None),
        ("CREATE TEMP TABLE w AS TABLE t", "WITH w AS (SELECT 1) SELECT count(*) = 1 FROM w", None),
        ("CREATE UNLOGGED TABLE w AS TABLE t", "SELECT count(*) = 0 FROM w", None),
    ],
)
def test_a_check_that_names_the_steps_own_temporary_table(
    tmp_path: Path, sql: str, verify: str, severity: str | None
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: n\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\n"
        f'steps:\n  - id: a\n    sql: "{sql}"\n    verify: "{verify}"\n',
        encoding="utf-8",
    )
    found = [str(problem.severity) for problem in check_plan(plan).problems if problem.code == "JP364"]
    assert found == ([severity] if severity else [])
