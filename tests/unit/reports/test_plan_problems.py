"""How problems are reported: to people, in a terminal, in JSON, to GitHub Actions, and as SARIF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from runner.errors import Position, Problem, Severity
from runner.reference.rule_pages import explanations
from runner.reports.plan_problems import (
    PlanVerdict,
    Style,
    distinct,
    json_text,
    problem_lines,
    sarif_text,
    summary,
)
from runner.reports.workflow_commands import github_lines

PLAIN = Style()
TERMINAL = Style(excerpt=True)


def problem(line: int = 1, column: int = 1, file: str = "a.yaml", **keys: Any) -> Problem:
    known = {"code": "JP300", "message": "no good"} | keys
    return Problem(position=Position(file=file, line=line, column=column), **known)


def shown(found: Problem, text: str, style: Style = TERMINAL) -> list[str]:
    def lines(_: str) -> Sequence[str]:
        return text.split("\n")

    return list(problem_lines(found, lines, style))


def test_a_problem_is_one_line_outside_a_terminal() -> None:
    found = problem(3, 7, hint="do better", severity=Severity.WARNING)
    assert shown(found, "", PLAIN) == ["a.yaml:3:7: warning JP300: no good (do better)"]


def test_a_terminal_shows_the_line_with_a_caret_and_the_hint() -> None:
    assert shown(problem(2, 5, hint="do better"), "one\ntwo: three") == [
        "a.yaml:2:5: error JP300 sql-syntax: no good",
        "  2 | two: three",
        "    |     ^",
        "  help: do better",
    ]


def test_the_caret_stands_under_the_character() -> None:
    assert shown(problem(1, 5), "äé漢字x")[2] == "    |       ^"
    assert shown(problem(1, 3), "e\N{COMBINING ACUTE ACCENT}x")[2] == "    |  ^"
    assert shown(problem(1, 2), "\tx")[1:] == ["  1 |  x", "    |  ^"]
    assert shown(problem(1, 4), "abc")[2] == "    |    ^"


@pytest.mark.parametrize(("line", "column"), [(9, 1), (1, 99)])
def test_a_place_that_is_not_there_is_not_shown(line: int, column: int) -> None:
    assert len(shown(problem(line, column), "abc")) == 1


def test_a_long_line_is_cut_around_the_place() -> None:
    _, excerpt, caret = shown(problem(1, 5_001), "x" * 5_000 + "y" + "z" * 5_000)
    assert len(excerpt) < 140
    assert excerpt.index("y") == caret.index("^")
    assert excerpt.startswith("  1 | …x")
    assert excerpt.endswith("z…")


def test_nothing_in_a_file_commands_the_terminal() -> None:
    found = problem(message="bad \x1b[31m id\u202e", file="x\x1b]0;y\x07.yaml", hint="\x9b1m")
    for style in (PLAIN, TERMINAL):
        text = "\n".join(shown(found, "\x1b[2J hello \u202e", style))
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\x07" not in text
        assert "\x9b" not in text


def test_colour_is_added_and_changes_nothing_else() -> None:
    found = problem(1, 2, hint="do better")
    colored = "\n".join(shown(found, "abc", Style(excerpt=True, color=True)))
    assert "\x1b[1;31merror JP300 sql-syntax\x1b[0m" in colored
    plain = colored
    for code in ("1", "2", "36", "1;31", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == "\n".join(shown(found, "abc"))


@pytest.mark.parametrize(
    ("steps", "severities", "expected"),
    [
        (1, [], "a.yaml: valid, 1 step"),
        (1200, ["warning"], "a.yaml: valid, 1,200 steps, 1 warning"),
        (None, ["error", "warning", "warning"], "a.yaml: invalid, 1 error, 2 warnings"),
    ],
)
def test_a_plan_is_summed_up(steps: int | None, severities: list[str], expected: str) -> None:
    problems = tuple(problem(severity=Severity(word)) for word in severities)
    assert summary(PlanVerdict(file="a.yaml", steps=steps, problems=problems)) == expected


def test_a_problem_in_a_shared_file_is_reported_once() -> None:
    verdicts = [PlanVerdict(file=name, steps=None, problems=(problem(),)) for name in ("a", "b")]
    assert distinct(verdicts) == [problem()]


def test_json_has_every_key_always() -> None:
    found = json.loads(json_text([problem(2, 3, step="a"), problem(severity=Severity.WARNING, hint="ö")]))
    assert found[0] == {
        "file": "a.yaml",
        "line": 2,
        "column": 3,
        "severity": "error",
        "code": "JP300",
        "slug": "sql-syntax",
        "message": "no good",
        "hint": None,
        "step": "a",
        "also": [],
    }
    assert found[1].keys() == found[0].keys()
    assert (found[1]["severity"], found[1]["hint"]) == ("warning", "ö")
    assert json.loads(json_text([])) == []


def test_github_commands_are_escaped() -> None:
    found = problem(2, 3, file="a,b:c%.yaml", message="50% of\nthis::that,\r\nyes", hint="do")
    assert list(github_lines([found])) == [
        "::error file=a%2Cb%3Ac%25.yaml,line=2,col=3,title=JP300::50%25 of%0Athis::that,%0Ayes%0Ado"
    ]


def sarif(*problems: Problem) -> Any:
    return json.loads(sarif_text(problems, explanations(), "1.2.3"))


def test_sarif_is_a_log_of_one_run_with_every_rule() -> None:
    log = sarif(problem(2, 3, step="a", hint="do better"), problem(code="JP901", severity=Severity.WARNING))
    assert log.keys() == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "jobplan"
    assert driver["semanticVersion"] == "1.2.3"
    assert run["columnKind"] in {"utf16CodeUnits", "unicodeCodePoints"}
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert identifiers == list(explanations())
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
        assert rule["help"]["markdown"]
    for result in run["results"]:
        assert result["message"]["text"]
        assert identifiers[result["ruleIndex"]] == result["ruleId"]
        (location,) = result["locations"]
        region = location["physicalLocation"]["region"]
        assert region["startLine"] >= 1
        assert region["startColumn"] >= 1
    first, second = run["results"]
    assert (first["level"], second["level"]) == ("error", "warning")
    assert first["message"]["text"] == "no good (do better)"
    assert first["locations"][0]["logicalLocations"][0]["name"] == "a"


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("plans/a b.yaml", "plans/a%20b.yaml"),
        ("/srv/ö.yaml", "file:///srv/%C3%B6.yaml"),
        ("./plans/a.yaml", "plans/a.yaml"),
        ("a\udcff.yaml", "a%FF.yaml"),
    ],
)
def test_sarif_places_are_uris(file: str, uri: str) -> None:
    (result,) = sarif(problem(file=file))["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": uri}


def test_sarif_without_problems_has_an_empty_list_of_results() -> None:
    assert sarif()["runs"][0]["results"] == []
