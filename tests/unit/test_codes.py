"""Every code has a readable slug, which the command line, comments and the documentation take like the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.codes import CODES, CODES_BY_SLUG, code_of, slug_of, with_slug
from runner.errors import Cause, Position, Problem, Severity
from runner.lint import check_plan
from runner.plan.problem_collector import grouped
from runner.reference.pages import rules_markdown
from runner.reference.rule_pages import explain
from runner.reports.plan_problems import json_text, legend

_HEAD = "version: 1\nname: example\nbudget: {slots: 4}\ndefaults: {timeout: 10m, on_finish: wait}\n"


def load(folder: Path, text: str) -> list[Problem]:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return [problem for problem in check_plan(path).problems if problem.code != "JP374"]  # the budget is no matter here


def test_every_code_has_a_slug_of_its_own_and_no_slug_is_without_a_code() -> None:
    assert list(CODES) == sorted(CODES)
    assert len(CODES_BY_SLUG) == len(CODES)
    assert all(re.fullmatch(r"JP[0-9]{3}", code) for code in CODES)


@pytest.mark.parametrize(("code", "slug"), [(entry.code, entry.slug) for entry in CODES.values()])
def test_a_slug_is_kebab_case_and_explained_like_its_code(code: str, slug: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug)
    assert len(slug) <= 40
    assert explain(slug) == explain(code)
    assert code_of(slug) == code_of(code.lower()) == code
    assert f"`{slug}`" in rules_markdown()


def test_what_is_neither_code_nor_slug_names_nothing() -> None:
    assert code_of("JP999") is None
    assert code_of("index-blocks") is None
    assert slug_of("JP999") == ""
    assert with_slug("JP999") == "JP999"
    assert with_slug("JP341") == "JP341 index-blocks-writes"


@pytest.mark.parametrize(
    "comment",
    [
        "ignore=JP341",
        "ignore=index-blocks-writes",
        "ignore=index-blocks-writes nobody else is there",
        "ignore = index-blocks-writes, because nobody else is there",
        "ignore=lock-without-timeout,index-blocks-writes",
        "ignore=JP333, index-blocks-writes",
        "ignore=index-blocks-writes,JP333 on Sundays",
    ],
)
def test_a_comment_ignores_by_code_or_slug(tmp_path: Path, comment: str) -> None:
    lock = "" if "333" in comment or "lock-" in comment else "    lock_timeout: 5s\n"
    steps = f"steps:\n  - id: a  # jobplan: {comment}\n{lock}    sql: CREATE INDEX i ON t (v)\n"
    assert [str(problem) for problem in load(tmp_path, _HEAD + steps)] == []


def test_a_misspelt_slug_is_reported_with_the_nearest_one(tmp_path: Path) -> None:
    steps = "steps:\n  - id: a  # jobplan: ignore=index-block-writes\n    sql: VACUUM t\n"
    (problem,) = load(tmp_path, _HEAD + steps)
    assert problem.code == "JP902"
    assert problem.hint == "did you mean index-blocks-writes?"


def test_an_unused_slug_is_reported_as_it_is_written(tmp_path: Path) -> None:
    steps = "steps:\n  - id: a  # jobplan: ignore=index-blocks-writes\n    sql: VACUUM t\n"
    (problem,) = load(tmp_path, _HEAD + steps)
    assert problem.message == "`ignore=index-blocks-writes` has no effect: the rule has no finding here"


def test_the_legend_names_each_code_and_the_option_once() -> None:
    line = legend(["JP341", "JP333", "JP341"])
    assert line == "jobplan validate --explain CODE explains JP333 lock-without-timeout, JP341 index-blocks-writes"
    assert legend([]) is None


def test_thirty_steps_without_a_policy_are_one_finding_each(tmp_path: Path) -> None:
    steps = "".join(f"  - id: s{number}\n    sql: VACUUM t{number}\n" for number in range(30))
    found = load(tmp_path, f"version: 1\nname: example\nbudget: {{slots: 4}}\nsteps:\n{steps}")
    assert [problem.code for problem in found] == ["JP204", "JP205"]
    assert found[0].message == (
        "the step `s0` has no `timeout`, and `defaults` has none either; "
        "the same holds for `s1`, `s2`, `s3`, `s4`, `s5` and 24 more"
    )
    assert found[0].hint == "paste two lines, `timeout: 10m` and `on_finish: wait`, into `defaults`"
    assert [step for _, step in found[0].also] == [f"s{number}" for number in range(1, 30)]
    document = json.loads(json_text(found))
    assert document[0]["also"][0] == {"file": str(tmp_path / "plan.yaml"), "line": 7, "column": 5, "step": "s1"}


def test_one_lock_conflict_of_many_steps_is_one_finding(tmp_path: Path) -> None:
    steps = "".join(
        f"  - id: s{number}\n    lock_timeout: 5s\n    sql: ALTER TABLE t ADD COLUMN c{number} int\n"
        for number in range(6)
    )
    found = [problem for problem in load(tmp_path, f"{_HEAD}steps:\n{steps}") if problem.code == "JP402"]
    (problem,) = found
    assert "`s0`" in problem.message
    assert "the same holds for" in problem.message
    assert problem.hint == "order them with `needs`, or give all of them a common name in `exclusive`"


def test_a_comment_silences_its_own_part_of_a_group_only(tmp_path: Path) -> None:
    steps = "".join(
        f"  - id: s{number}{'  # jobplan: ignore=JP333' if number == 0 else ''}\n    sql: TRUNCATE t{number}\n"
        for number in range(3)
    )
    found = [problem for problem in load(tmp_path, f"{_HEAD}steps:\n{steps}") if problem.code == "JP333"]
    assert [(problem.step, [step for _, step in problem.also]) for problem in found] == [("s1", ["s2"])]


def test_what_one_file_says_in_several_steps_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SELEC 1")
    steps = "".join(f"  - id: s{number}\n    sql_file: a.sql\n" for number in range(5))
    (problem,) = load(tmp_path, f"{_HEAD}steps:\n{steps}")
    assert (problem.code, len(problem.also)) == ("JP300", 4)


def test_problems_with_other_causes_stay_apart() -> None:
    place = Position(file="a", line=1, column=1)
    other = Position(file="a", line=2, column=1)
    problems = [
        Problem(position=place, code="JP333", message="m", cause=Cause(key="a", part="x")),
        Problem(position=other, code="JP333", message="m", cause=Cause(key="b", part="y")),
        Problem(position=other, code="JP333", message="m", severity=Severity.WARNING),
    ]
    assert grouped(problems) == tuple(problems)
