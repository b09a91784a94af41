"""Reports as text: JUnit that others' tools accept, Markdown that cannot be broken, metrics by the book."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import xmlschema
from junitparser import Error, Failure, JUnitXml, Skipped

from runner.engine import events as ev
from runner.reports.junit import junit_xml
from runner.reports.markdown import LIMIT, block, code, markdown_text
from runner.reports.messages import tag_words
from runner.reports.prometheus import prometheus_text
from runner.reports.report_builder import run_report
from runner.reports.run_report import RunReport
from tests.unit.report_samples import HOSTILE_ITEM, RUN, everything
from tests.unit.simulated_runs import plan, script, simulated, step

SCHEMA = Path(__file__).parents[2] / "schemas" / "junit-10.xsd"


@pytest.fixture(scope="module")
def report() -> RunReport:
    a_plan, events = everything()
    return run_report(a_plan, RUN, events)


@pytest.fixture(scope="module")
def huge() -> RunReport:
    """A run of a thousand steps of which every second one failed."""
    steps = [step(f"step_{number}") for number in range(1000)]
    scripts = {one.id: [script(ev.Outcome.FAILED, "23505")] for one in steps[::2]}
    run = simulated(plan(*steps, slots=8), scripts, watch=None)
    return run_report(run.state.plan, RUN, run.events)


def test_junit_is_valid_by_the_schema_of_jenkins(report: RunReport) -> None:
    schema = xmlschema.XMLSchema10(SCHEMA)
    schema.validate(junit_xml(report))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema.validate(junit_xml(report).replace("<testcase ", "<testcase colour='red' ", 1))


def test_junit_is_read_back_by_a_parser(report: RunReport) -> None:
    (suite,) = JUnitXml.fromstring(junit_xml(report).encode())
    cases = {case.name: case for case in suite}
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (13, 1, 1, 1)
    assert suite.time == report.seconds
    assert {name: case.time for name, case in cases.items()} == {
        one.key.replace("\x1b", "\ufffd"): one.seconds for one in report.leaves
    }
    assert {type(result) for result in cases["late"].result} == {Failure}
    assert {type(result) for result in cases["lost"].result} == {Error}
    (skipped,) = cases["after_late"].result
    assert isinstance(skipped, Skipped)
    assert skipped.message == "upstream: late timed_out"
    assert cases["allowed"].is_passed
    assert "attempt 1: failed in 1.0s" in cases["deadlocked"].system_out
    assert "NOTICE:  of deadlocked" in cases["deadlocked"].system_out
    assert suite._elem.find("properties/property[@name='param.keep']").get("value") == "9"


def test_junit_has_an_error_with_its_details() -> None:
    details = ev.ErrorDetails(
        message="duplicate key", sqlstate="23505", detail="Key (id)=(1)", constraint="orders_pkey"
    )
    (suite,) = JUnitXml.fromstring(junit_xml(_failed(details)).encode())
    (case,) = suite
    (failure,) = case.result
    assert (failure.message, failure.type) == ("failed: duplicate key", "23505")
    assert failure.text.splitlines() == [
        "duplicate key",
        "SQLSTATE: 23505",
        "DETAIL: Key (id)=(1)",
        "CONSTRAINT NAME: orders_pkey",
    ]


def _failed(error: ev.ErrorDetails) -> RunReport:
    run = simulated(plan(step("a")), {"a": [script(ev.Outcome.FAILED, error.sqlstate)]})
    events = [
        ev.StepFinished(at=event.at, step="a", state=event.state, error=error)
        if isinstance(event, ev.StepFinished)
        else event
        for event in run.events
    ]
    return run_report(run.state.plan, RUN, events)


def test_markdown_says_what_matters_first(report: RunReport) -> None:
    lines = markdown_text(report).splitlines()
    assert lines[0] == f"### ❌ `table` unknown outcome in {report.seconds:.1f}s"
    assert "❓ 1 unknown" in lines[2]
    rows = [line for line in lines if line.startswith("| `")]
    assert rows[0].startswith("| `late` | ⏱️ timed out | 5.0s |")
    assert rows[1].startswith("| `lost` | ❓ unknown |")


def test_markdown_of_hostile_text_stays_in_code(report: RunReport) -> None:
    for line in _outside_blocks(markdown_text(report)):
        outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert not re.search(r"<|@|script|onerror", outside), line
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6), line


def _outside_blocks(text: str) -> list[str]:
    lines, fence = [], ""
    for line in text.splitlines():
        if not fence and line.startswith("```"):
            fence = line.rstrip("tex")
        elif fence and line == fence:
            fence = ""
        elif not fence:
            lines.append(line)
    assert not fence
    return lines


@pytest.mark.parametrize(
    ("text", "span"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a\nb", "`a b`"), ("", ""), ("x" * 500, f"`{'x' * 159}…`")],
)
def test_a_code_span_holds_any_text(text: str, span: str) -> None:
    assert code(text) == span


def test_a_code_block_is_longer_fenced_than_its_text() -> None:
    assert block("a\n```\nb") == "````text\na\n```\nb\n````"


def test_no_line_of_a_code_block_is_a_command_for_the_runner_of_github() -> None:
    assert block("a\n::error::x\n  ::add-mask::y\n::") == "```text\na\n\\x3a:error::x\n  \\x3a:add-mask::y\n\\x3a:\n```"
    assert block("a::b\n:c") == "```text\na::b\n:c\n```"


def test_markdown_fits_into_a_comment(huge: RunReport) -> None:
    text = markdown_text(huge)
    assert LIMIT - 1000 < len(text) <= LIMIT + 200
    assert re.search(r"_\d+ more steps did not succeed._", text)
    assert re.search(r"_\d+ more steps are not shown._", text)


def test_metrics_have_names_types_and_labels_by_the_book(report: RunReport) -> None:
    text = prometheus_text(report)
    seen: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in seen
            seen.add(name)
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {name} gauge"
        else:
            sample = re.fullmatch(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\} (\S+)', line)
            assert sample is not None, line
            assert sample[1] == name
            float(sample[3])
    assert text.endswith("\n")
    assert 'jobplan_run_exit_code{plan="table",database="app"} 7\n' in text
    assert 'jobplan_run_steps{plan="table",database="app",state="succeeded"} 8\n' in text
    assert 'jobplan_step_duration_seconds{plan="table",database="app",step="late"} 5\n' in text
    assert 'jobplan_step_retries{plan="table",database="app",step="deadlocked"} 1\n' in text
    assert 'jobplan_run_slots_used{plan="table",database="app"} 3\n' in text
    assert HOSTILE_ITEM.replace("\\", "\\\\").replace('"', '\\"') in text


@pytest.mark.parametrize(
    ("tag", "count", "words"),
    [
        ("DELETE", 3, "DELETE 3"),
        ("SELECT", 0, "SELECT 0"),
        ("VACUUM", 0, "VACUUM"),
        ("DO", 0, "DO"),
        ("SELECT", None, "SELECT"),
        ("", None, ""),
    ],
)
def test_a_command_tag_has_a_number_where_it_says_something(tag: str, count: int | None, words: str) -> None:
    assert tag_words(tag, count) == words
