"""The table of rules, and the way from a file to a judged plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.codes import CODES
from runner.errors import PlanError, Severity
from runner.lint import RULES, check_plan, lint, read_plan
from runner.reference.pages import plan_reference_markdown
from runner.reference.pages import write as write_pages

ROOT = Path(__file__).parents[3]
_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait}\n"


def write(folder: Path, text: str, name: str = "plan.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_codes_are_unique_and_of_the_rules_own_range() -> None:
    codes = [rule.code for rule in RULES]
    assert sorted(set(codes)) == codes
    assert all(re.fullmatch(r"JP[3-9][0-9]{2}", code) for code in codes)
    assert set(codes) <= CODES.keys()


@pytest.mark.parametrize("name", ["rules.md", "plan-reference.md"])
def test_the_documentation_is_what_the_program_reads(tmp_path: Path, name: str) -> None:
    write_pages(tmp_path)
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), (
        "run `make docs`"
    )


def test_the_reference_has_every_key() -> None:
    text = plan_reference_markdown()
    for key in ("budget", "reserve", "on_finish", "for_each", "max_parallel", "repeat", "include", "as", "capture"):
        assert f"`{key}`" in text
    assert "### `retry`" in text
    assert "### `params.<name>`" in text


def test_sql_in_every_key_is_parsed(tmp_path: Path) -> None:
    text = (
        _HEAD
        + """\
requires: {preconditions: [{sql: bad0, message: no}]}
steps:
  - id: a
    sql: bad1
    if: bad2
    preconditions: [{sql: bad3, message: no}]
    for_each: {sql: bad4, as: t}
    repeat: {until: bad5, max_iterations: 2}
    expect: {sql: bad6}
    verify: bad7
finally:
  - id: z
    sql: bad8
"""
    )
    path = write(tmp_path, text)
    found = [problem for problem in check_plan(path).problems if problem.code == "JP300"]
    assert [text.splitlines()[problem.position.line - 1][problem.position.column - 1 :][:4] for problem in found] == [
        f"bad{number}" for number in range(9)
    ]
    assert [problem.step for problem in found] == [None, *["a"] * 7, "z"]


def test_values_of_parameters_decide_what_a_statement_is_about(tmp_path: Path) -> None:
    text = (
        _HEAD
        + "params: {n: {type: integer, default: 1}}\nsteps: [{id: a, sql: 'SELECT ::n'}, {id: b, sql: 'SELECT :n'}]\n"
    )
    codes = [(problem.code, problem.step) for problem in check_plan(write(tmp_path, text)).problems]
    assert ("JP300", "a") in codes
    assert ("JP300", "b") not in codes


def test_a_plan_with_an_error_of_a_rule_is_no_plan(tmp_path: Path) -> None:
    path = write(tmp_path, _HEAD + 'steps: [{id: a, sql: SELEC 1}, {id: b, sql: "\\\\d t"}]\n')
    loaded = check_plan(path)
    assert loaded.plan is None
    assert [problem.code for problem in loaded.problems] == ["JP300", "JP301"]
    with pytest.raises(PlanError, match="is not a valid plan: 2 problems") as raised:
        read_plan(path)
    assert raised.value.problems == loaded.problems


def test_warnings_leave_a_plan_that_runs(tmp_path: Path) -> None:
    path = write(tmp_path, _HEAD + "steps:\n  - id: a  # jobplan: ignore=JP300\n    sql: VACUUM\n")
    loaded = check_plan(path)
    assert [problem.severity for problem in loaded.problems] == [Severity.WARNING]
    assert loaded.plan is not None
    assert lint(loaded.plan) == loaded.problems
    assert read_plan(path) == loaded.plan


def test_syntax_is_reported_together_with_other_errors(tmp_path: Path) -> None:
    text = _HEAD + 'steps:\n  - {id: a, sql: SELEC 1, needs: [b]}\n  - {id: c, sql: "SELECT \'x :y"}\n'
    codes = [problem.code for problem in check_plan(write(tmp_path, text)).problems]
    assert codes == ["JP300", "JP202", "JP222"]


def test_findings_from_sql_alone_are_reported_together_with_other_errors(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\nsteps:\n"
        "  - {id: tidy, sql: VACUUM a; VACUUM b, nonsense: 1}\n  - {id: begin, sql: BEGIN, needs: [tdy]}\n"
        "  - {id: odd, sql: VACUUM (nonsense) t}\n  - {id: body, sql: DO $$ BEGIN SELEC 1; END $$}\n"
    )
    found = [problem.code for problem in check_plan(file).problems]
    assert found == ["JP320", "JP101", "JP310", "JP202", "JP303", "JP306"]
