"""Each rule about statements finds what it is about, at the very place, and nothing in what is only near.

`tests/plans/lint/JP310.yaml` has the rule's cases, one a document: steps, or a plan's keys. A finding is wanted where a
`§` stands, and nowhere else; the mark itself is taken out before the plan is read.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.errors import Problem
from runner.lint import RULES, check_plan
from runner.lint.rule import Rule

CASES = Path(__file__).parents[2] / "plans" / "lint"
MARK = "§"
HEADER = {
    "version": "1",
    "name": "case",
    "budget": "{slots: 1}",
    "defaults": "{timeout: 10m, on_finish: wait}",
}
MINE = tuple(rule for rule in RULES if "JP310" <= rule.code < "JP380")


def plan_text(piece: str) -> str:
    """Return a whole plan: the piece, and what a plan has besides."""
    if not re.search(r"^§?[a-z]+:", piece, re.MULTILINE):
        piece = "steps:\n" + "".join(f"  {line}" for line in piece.splitlines(keepends=True))
    rest = (f"{key}: {value}\n" for key, value in HEADER.items() if not re.search(rf"^§?{key}:", piece, re.MULTILINE))
    return f"{piece.rstrip()}\n{''.join(rest)}"


def problems(text: str, folder: Path) -> tuple[Problem, ...]:
    """Return what is found in a plan; nothing but rules may find anything."""
    file = folder / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    found = check_plan(file).problems
    assert [str(problem) for problem in found if problem.code < "JP300"] == []
    return found


def places(text: str) -> list[tuple[int, int]]:
    """Return line and column of each mark, as they are without the marks."""
    return [
        (number, column - before)
        for number, line in enumerate(text.splitlines(), 1)
        for before, column in enumerate(match.start() + 1 for match in re.finditer(MARK, line))
    ]


def cases() -> list[object]:
    return [
        pytest.param(file.stem, case, id=f"{file.stem}-{number}")
        for file in sorted(CASES.glob("JP*.yaml"))
        for number, case in enumerate(re.split(r"^---\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE), 1)
    ]


@pytest.mark.parametrize(("code", "case"), cases())
def test_a_rule_finds_what_is_marked_and_nothing_else(code: str, case: str, tmp_path: Path) -> None:
    text = plan_text(case)
    found = [problem for problem in problems(text.replace(MARK, ""), tmp_path) if problem.code == code]
    stands = [place for problem in found for place in (problem.position, *(place for place, _ in problem.also))]
    assert sorted((place.line, place.column) for place in stands) == places(text)


@pytest.mark.parametrize("rule", MINE, ids=lambda rule: rule.code)
def test_every_rule_has_cases_that_trigger_it_and_cases_that_just_do_not(rule: Rule) -> None:
    documents = re.split(r"^---\n", (CASES / f"{rule.code}.yaml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {MARK in document for document in documents} == {True, False}


def test_a_message_says_what_and_a_hint_what_to_do(tmp_path: Path) -> None:
    text = plan_text("- id: a\n  sql: ALTER TABLE s.orders ADD COLUMN note text\n")
    (problem,) = problems(text, tmp_path)
    assert problem.step == "a"
    assert problem.message == (
        "ALTER TABLE takes an ACCESS EXCLUSIVE lock on `s.orders`: "
        "while it waits, it blocks all sessions that queue after it"
    )
    assert problem.hint == "set `lock_timeout`, such as 5s, and `retry` on lock_not_available"
