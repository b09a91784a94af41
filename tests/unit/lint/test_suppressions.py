"""Comments that ignore a rule: which step they belong to, and what is said of those that do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.lint import check_plan, suppressions, syntax_rules
from runner.lint.suppressions import MAX_COMMENTS, StepLines

_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait}\n"
#: `SELEC 1` is JP300 and `\\d` JP301, wherever they stand.
_BAD = "SELEC 1"


def found(folder: Path, text: str) -> list[str]:
    """Return the problems of a plan as `line:code`, or `file:line:code` for another file than the plan's."""
    path = folder / "plan.yaml"
    path.write_text(_HEAD + text, encoding="utf-8")
    head = _HEAD.count("\n")
    codes = {
        rule.code for rule in (*syntax_rules.GRAMMAR_RULES, *suppressions.RULES)
    }  # the other rules are not what this is about
    reported = []
    for problem in check_plan(path).problems:
        if problem.code.startswith("JP3") and problem.code not in codes:
            continue
        place = problem.position
        here = place.file == str(path)
        reported.append(f"{place.line - head if here else f'{Path(place.file).name}:{place.line}'}:{problem.code}")
    return reported


@pytest.mark.parametrize(
    "steps",
    [
        f"steps:\n  - id: a  # jobplan: ignore=JP300\n    sql: {_BAD}\n",
        f"steps:\n  - id: a\n    sql: {_BAD}  # jobplan: ignore=JP300\n",
        f"steps:\n  - id: a\n    sql: {_BAD}\n    # jobplan: ignore=JP300\n    slots: 1\n",
        f"steps:\n  # jobplan: ignore=JP300\n  - id: a\n    sql: {_BAD}\n",
        f"steps:\n  # jobplan: ignore=JP300\n  # and more words\n  -\n    id: a\n    sql: {_BAD}\n",
        f"steps:\n- id: a\n  sql: {_BAD}\n  # jobplan: ignore=JP300\n",
        f"steps:\n  - id: a\n\n    # jobplan: ignore=JP300\n\n    sql: |\n      SELECT 1;\n\n      {_BAD}\n",
        f"steps: [{{id: a, sql: {_BAD}}}]  # jobplan: ignore=JP300\n",
        f"steps:\n  - {{id: a,  # jobplan: ignore=JP300\n     sql: {_BAD}}}\n",
        f"steps:\n  - id: a  #   jobplan:ignore = JP301,JP300 , because it is known\n    sql: {_BAD}; \n    if: \\d\n",
    ],
)
def test_a_comment_silences_its_step(tmp_path: Path, steps: str) -> None:
    assert found(tmp_path, steps) == []


def test_a_comment_above_a_step_is_not_the_step_s_before_it(tmp_path: Path) -> None:
    text = (
        f"steps:\n  - id: a\n    sql: {_BAD}\n  # jobplan: ignore=JP300\n  - id: b\n    sql: {_BAD}\n"
        f"  - id: c\n    sql: {_BAD}\n"
    )
    assert found(tmp_path, text) == ["3:JP300", "8:JP300"]


def test_a_comment_with_a_gap_below_it_is_that_of_the_step_before(tmp_path: Path) -> None:
    text = f"steps:\n  - id: a\n    sql: {_BAD}\n  # jobplan: ignore=JP300\n\n  - id: b\n    sql: {_BAD}\n"
    assert found(tmp_path, text) == ["7:JP300"]


def test_a_comment_after_the_last_step_is_not_that_step_s(tmp_path: Path) -> None:
    text = f"steps:\n  - id: a\n    sql: {_BAD}\nowner: me  # jobplan: ignore=JP300\n"
    assert found(tmp_path, text) == ["3:JP300", "4:JP901"]


def test_a_comment_outside_the_steps_is_about_the_plan(tmp_path: Path) -> None:
    requires = f"requires:\n  preconditions:\n    - sql: {_BAD}\n      message: no\n"
    step = f"steps: [{{id: a, sql: {_BAD}}}]\n"
    assert found(tmp_path, f"{requires}owner: me  # jobplan: ignore=JP300\n{step}") == ["6:JP300"]
    assert found(tmp_path, requires + step) == ["3:JP300", "5:JP300"]


def test_an_unused_comment_is_reported(tmp_path: Path) -> None:
    text = "steps:\n  - id: a  # jobplan: ignore=JP300\n    sql: VACUUM\n"
    assert found(tmp_path, text) == ["2:JP901"]


def test_one_code_of_a_comment_can_be_unused(tmp_path: Path) -> None:
    text = f"steps:\n  - id: a  # jobplan: ignore=JP300,JP301\n    sql: {_BAD}\n"
    path = tmp_path / "plan.yaml"
    path.write_text(_HEAD + text)
    (problem,) = check_plan(path).problems
    assert (problem.code, problem.severity, problem.position.column) == (
        "JP901",
        "warning",
        text.splitlines()[1].index("JP301") + 1,
    )
    assert problem.message == "`ignore=JP301` has no effect: the rule has no finding here"


@pytest.mark.parametrize(
    ("comment", "message", "hint"),
    [
        ("ignore=JP3000", "`JP3000` is not a rule that can be ignored", "did you mean JP300?"),
        ("ignore=jp300", "`jp300` is not a rule that can be ignored", "did you mean JP300?"),
        ("ignore=JP202", "`JP202` is not a rule that can be ignored", ""),
        ("ignore=JP901", "`JP901` is not a rule that can be ignored", ""),
        ("ignore", "the comment names no code to ignore", "write `# jobplan: ignore=JP341`"),
        ("ignore=", "the comment names no code to ignore", "write `# jobplan: ignore=JP341`"),
    ],
)
def test_a_comment_that_names_no_rule_is_reported(tmp_path: Path, comment: str, message: str, hint: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"{_HEAD}steps:\n  - id: a  # jobplan: {comment}\n    sql: VACUUM\n")
    (problem,) = check_plan(path).problems
    assert (problem.code, problem.severity, problem.message) == ("JP902", "warning", message)
    assert (problem.hint or "").startswith(hint)


@pytest.mark.parametrize(
    "comment", ["# jobplan: see the wiki", "# ignore=JP300", "# a jobplan: ignored", "x#jobplan:ignore"]
)
def test_other_comments_mean_nothing(tmp_path: Path, comment: str) -> None:
    assert found(tmp_path, f"steps:\n  - id: a\n    sql: VACUUM\n    description: y {comment}\n") == []


def test_included_files_have_comments_too(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        f"steps:\n  - id: a  # jobplan: ignore=JP300\n    sql: {_BAD}\n  - id: b\n    sql: {_BAD}\n"
    )
    text = f"include: [{{file: more.yaml, as: x}}]\nsteps:\n  - id: c\n    needs: [x_a]\n    sql: {_BAD}\n"
    assert found(tmp_path, text) == ["5:JP300", "more.yaml:5:JP300"]


def test_a_finding_in_a_sql_file_is_silenced_beside_the_step(tmp_path: Path) -> None:
    (tmp_path / "bad.sql").write_text(_BAD)
    assert found(tmp_path, "steps:\n  - id: a\n    sql_file: bad.sql\n") == ["bad.sql:1:JP300"]
    assert found(tmp_path, "steps:\n  - id: a\n    sql_file: bad.sql  # jobplan: ignore=JP300\n") == []


def test_a_plan_with_other_errors_says_nothing_of_its_comments(tmp_path: Path) -> None:
    text = (
        f"steps:\n  - id: a\n    # jobplan: ignore=JP300\n    sql: {_BAD}\n    neds: []\n"
        f"  - id: b  # jobplan: ignore=JP341\n    sql: {_BAD}\n"
    )
    assert found(tmp_path, text) == ["5:JP101", "7:JP300"]


def test_a_file_full_of_comments_ends(tmp_path: Path) -> None:
    text = "steps:\n  - id: a\n    sql: VACUUM\n" + "    # jobplan: ignore=whatever\n" * (MAX_COMMENTS + 5)
    reported = found(tmp_path, text)
    assert len(reported) == MAX_COMMENTS + 1
    assert {line.split(":")[1] for line in reported} == {"JP902"}


def test_no_step_has_a_line_before_the_first() -> None:
    assert StepLines(["# a comment", "steps: []"], []).at(1, alone=True) == frozenset()
