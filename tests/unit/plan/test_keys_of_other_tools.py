"""A key of another tool gets a hint: the key of a plan, or what to use outside the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import PlanError
from runner.lint import read_plan

PLAN = """
version: 1
name: trial
budget: {slots: 1}
%s
steps:
  - {id: a, sql: SELECT 1, on_finish: wait, timeout: 5s%s}
"""


def hint_for(tmp_path: Path, key: str, *, of_step: bool) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN % (("", f", {key}: x") if of_step else (f"{key}: x", "")), encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    problem = next(one for one in caught.value.problems if f"`{key}`" in one.message)
    return str(problem.hint)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("run", "sql"),
        ("loop", "for_each"),
        ("with_items", "for_each"),
        ("matrix", "for_each"),
        ("continue_on_error", "allow_failure"),
        ("continue-on-error", "allow_failure"),
        ("depends_on", "needs"),
        ("env", "settings"),
        ("retries", "retry"),
        ("cmd", "sql"),
        ("register", "capture"),
        ("uses", "include"),
        ("when", "if"),
        ("timeout-minutes", "timeout"),
        ("on_failure", "needs: [{step: ID, on: failure}]"),
    ],
)
def test_a_key_of_a_step_names_the_key_of_a_plan(tmp_path: Path, key: str, meant: str) -> None:
    assert meant in hint_for(tmp_path, key, of_step=True).replace("`", "")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("run", "sql"), ("loop", "for_each"), ("depends_on", "needs"), ("retries", "retry"), ("env", "settings")],
)
def test_a_key_of_a_step_at_the_top_of_a_plan_says_that_steps_have_it(tmp_path: Path, key: str, meant: str) -> None:
    assert hint_for(tmp_path, key, of_step=False) == f"a step has the key `{meant}`"


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("schedule", "cron"),
        ("cron", "timer"),
        ("trigger", "timer"),
        ("mail", "--report"),
        ("mail", "--notify"),
        ("email", "--notify"),
        ("notify", "exit code"),
        ("shell", "script"),
        ("always", "finally"),
    ],
)
def test_what_a_plan_does_not_do_names_what_does_it(tmp_path: Path, key: str, word: str) -> None:
    assert word in hint_for(tmp_path, key, of_step=False)
    assert word in hint_for(tmp_path, key, of_step=True) or key == "always"
