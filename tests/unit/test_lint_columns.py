"""A plan whose check of a value could never be made is refused before anything is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.lint import load_plan


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
    found = [problem.code for problem in load_plan(plan).problems if problem.severity == "error"]
    assert found == (["JP361"] if refused else [])
