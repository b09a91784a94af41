"""The reports of `validate` and `dry-run` for CI systems: JUnit, GitLab Code Quality, Markdown, the graph."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from junitparser import JUnitXml

from runner.errors import Position, Problem, Severity
from runner.plan.model import Plan
from runner.reports.check_reports import codequality_json, findings_junit, verdicts_markdown
from runner.reports.plan_graph import drawing
from runner.reports.plan_problems import PlanVerdict
from runner.structs import replace
from tests.unit.simulated_runs import plan, step

XSD = Path(__file__).parents[2] / "schemas" / "junit-10.xsd"
HOSTILE = '<b>@team</b> | `x` \x1b[31m\x00 ]]> & "quoted" ::error::x ##[error]y'


def problem(message: str, *, line: int = 7, name: str | None = "a", code: str = "JP300", error: bool = True) -> Problem:
    place = Position(file="plans/one.yaml", line=line, column=3)
    severity = Severity.ERROR if error else Severity.WARNING
    return Problem(code=code, severity=severity, message=message, position=place, hint="Mend it.", step=name)


def a_plan() -> Plan:
    steps = [
        replace(step(name), position=Position(file="plans/one.yaml", line=line, column=3))
        for name, line in (("a", 6), ("b", 9))
    ]
    return plan(*steps)


def verdict(*problems: Problem, with_plan: bool = True) -> PlanVerdict:
    return PlanVerdict(file="plans/one.yaml", steps=2, problems=problems, plan=a_plan() if with_plan else None)


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own output


def test_code_quality_has_the_fields_that_gitlab_reads() -> None:
    issues = json.loads(codequality_json([problem("wrong"), problem("slow", error=False, line=9, name="b")]))
    assert [set(issue) for issue in issues] == [
        {"type", "description", "check_name", "fingerprint", "severity", "location"}
    ] * 2
    assert [(issue["severity"], issue["location"]) for issue in issues] == [
        ("critical", {"path": "plans/one.yaml", "lines": {"begin": 7}}),
        ("minor", {"path": "plans/one.yaml", "lines": {"begin": 9}}),
    ]
    assert issues[0]["description"] == "wrong (Mend it.)"
    assert issues[0]["check_name"].startswith("JP300")


def test_fingerprints_are_unique_and_do_not_depend_on_the_line() -> None:
    first = json.loads(codequality_json([problem("same"), problem("same"), problem("other")]))
    moved = json.loads(codequality_json([problem("same", line=8), problem("same", line=9), problem("other", line=10)]))
    prints = [issue["fingerprint"] for issue in first]
    assert len(set(prints)) == 3
    assert prints == [issue["fingerprint"] for issue in moved]


def test_paths_are_relative_to_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    (issue,) = json.loads(codequality_json([problem("wrong")], str(tmp_path)))
    assert issue["location"]["path"] == "sub/plans/one.yaml"
    suite = parsed(findings_junit([verdict(problem("wrong"))], root=str(tmp_path)))
    assert {case.get("file") for case in suite.iter("testcase")} == {"sub/plans/one.yaml"}


def test_no_problem_is_an_empty_list() -> None:
    assert json.loads(codequality_json([])) == []


def test_junit_has_a_case_with_file_and_line_for_each_step() -> None:
    text = findings_junit([verdict(problem("wrong"), problem("slow", error=False, name="b"))])
    cases = {case.get("name"): case for case in parsed(text).iter("testcase")}
    assert {name: (case.get("file"), case.get("line")) for name, case in cases.items()} == {
        "plan": ("plans/one.yaml", "1"),
        "a": ("plans/one.yaml", "7"),  # where its problem is
        "b": ("plans/one.yaml", "9"),
    }
    failure = cases["a"].find("failure")
    assert failure is not None
    assert failure.get("message") == "JP300: wrong"
    assert "plans/one.yaml:7:3: error JP300: wrong" in str(failure.text)
    assert cases["b"].find("failure") is None
    assert "slow" in str(cases["b"].findtext("system-out"))


def test_warnings_are_failures_only_under_strict() -> None:
    warned = verdict(problem("slow", error=False))
    for strict, failures in ((False, "0"), (True, "1")):
        assert parsed(findings_junit([warned], strict=strict)).get("failures") == failures


def test_a_problem_without_a_step_belongs_to_the_plan() -> None:
    text = findings_junit([verdict(problem("no yaml", name=None, line=3), with_plan=False)])
    (case,) = parsed(text).iter("testcase")
    assert (case.get("name"), case.get("line")) == ("plan", "3")
    assert case.find("failure") is not None


def test_several_problems_of_a_step_are_one_failure() -> None:
    text = findings_junit([verdict(problem("first"), problem("second", line=8))])
    (case,) = (case for case in parsed(text).iter("testcase") if case.get("name") == "a")
    (failure,) = case.findall("failure")
    assert failure.get("message") == "JP300: first (and 1 more)"
    assert "second" in str(failure.text)


def test_a_problem_of_several_steps_marks_each_of_them() -> None:
    other = Position(file="plans/one.yaml", line=10, column=1)
    shared = dataclasses.replace(problem("wrong"), also=((other, "b"),))
    failed = [
        (case.get("name"), case.get("line"))
        for case in parsed(findings_junit([verdict(shared)])).iter("testcase")
        if case.find("failure") is not None
    ]
    assert failed == [("a", "7"), ("b", "10")]
    issues = json.loads(codequality_json([shared]))
    assert [issue["location"]["lines"]["begin"] for issue in issues] == [7, 10]
    assert issues[0]["fingerprint"] != issues[1]["fingerprint"]


def test_junit_is_what_readers_of_junit_read(tmp_path: Path) -> None:
    text = findings_junit([verdict(problem(HOSTILE)), PlanVerdict(file="b\x1b.yaml", steps=None, problems=())])
    path = tmp_path / "junit.xml"
    path.write_text(text, encoding="utf-8")
    suites = list(JUnitXml.fromfile(str(path)))
    assert [suite.tests for suite in suites] == [3, 1]
    # Jenkins' strict schema has everything but the place of a case, which GitLab and other readers know.
    root = parsed(text)
    for case in root.iter("testcase"):
        del case.attrib["file"], case.attrib["line"]
    xmlschema.XMLSchema(str(XSD)).validate(ET.tostring(root, encoding="unicode"))


def test_the_markdown_has_verdicts_problems_and_the_graphs_of_valid_plans() -> None:
    text = verdicts_markdown(
        [verdict(problem(HOSTILE)), PlanVerdict(file="two.yaml", steps=2, problems=(), plan=a_plan())]
    )
    assert text.startswith("### ❌ 1 of 2 plans invalid\n")
    assert "| ✅ | <code>two.yaml</code> | 2 |  |  |" in text
    assert text.count("```mermaid") == 1
    row = next(line for line in text.splitlines() if line.startswith("| ❌ JP300"))
    assert row.count("|") == 5
    for part in ("<b>", "@team", "`", "\x1b", "##["):
        assert part not in row


def test_the_markdown_of_many_problems_says_how_many_are_left_out() -> None:
    many = [problem(f"message {number} {'x' * 400}") for number in range(1_000)]
    text = verdicts_markdown([verdict(*many)])
    assert len(text) < 65_536
    shown = sum(line.startswith("| ❌ JP300") for line in text.splitlines())
    assert f"_{1_000 - shown} more problems: see the log of the step._" in text


def test_the_markdown_of_many_plans_says_how_many_are_left_out() -> None:
    plans = [PlanVerdict(file=f"plans/{number}.yaml", steps=2, problems=(), plan=a_plan()) for number in range(500)]
    text = verdicts_markdown(plans)
    assert "_300 more plans._" in text
    drawn = text.count("```mermaid")
    assert 0 < drawn < 500
    assert f"_The graphs of {500 - drawn} more plans are left out._" in text


def test_a_graph_shows_how_steps_ended() -> None:
    text = drawing(a_plan(), title="Graph", colours={"a": "failed", "b": "skipped"})
    assert text.startswith("<details open><summary>Graph</summary>\n\n```mermaid\nflowchart LR\n")
    assert "  class s1 failed\n" in text
    assert "  class s2 skipped\n" in text


def test_a_graph_that_github_would_not_draw_is_replaced_by_a_sentence() -> None:
    names = [f"s{number}" for number in range(40)]
    wide = plan(*(step(name, *names[:number]) for number, name in enumerate(names)))
    assert drawing(wide, title="Graph").startswith("_Graph: 40 steps are too many to be drawn here;")


def test_a_graph_of_many_steps_is_folded() -> None:
    text = drawing(plan(*(step(f"s{number}") for number in range(31))), title="Graph")
    assert text.startswith("<details><summary>")
