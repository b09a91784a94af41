"""A dry run as text: it fits the terminal, says each thing once, and leaves out what there is nothing to say of."""

from __future__ import annotations

import pytest

from runner.errors import Position, Problem, Severity
from runner.preflight.current_activity import LockReport
from runner.preflight.doctor import Demand, examine
from runner.preflight.dry_run_result import Coverage, DryRun, StatementReport
from runner.preflight.schedule_forecast import forecast
from runner.preflight.step_durations import Duration, KnownDurations
from runner.reports.dry_run_report import MARKDOWN_LIMIT, dry_run_lines, dry_run_markdown, summary
from runner.reports.plan_problems import Style
from runner.structs import replace
from tests.builders import plan, step
from tests.unit.preflight.test_doctor import HEALTHY

AT = Position(file="plan.yaml", line=9, column=3)


def statement(step_id: str, **more: object) -> StatementReport:
    """Return a statement that was checked."""
    one = StatementReport(
        step=step_id, instance=step_id, key="sql", text="SELECT 1", command="SELECT", coverage=Coverage.CHECKED
    )
    return replace(one, **more)


def result(*statements: StatementReport, problems: tuple[Problem, ...] = (), **more: object) -> DryRun:
    """Return what a dry run has found."""
    found = DryRun(
        plan="nightly",
        file="plan.yaml",
        facts=HEALTHY,
        server=tuple(examine(HEALTHY, Demand())),
        problems=problems,
        statements=statements,
    )
    return replace(found, **more)


def lines(found: DryRun, width: int = 80) -> list[str]:
    """Return the lines of the report."""
    return list(dry_run_lines(found, lambda _: (), Style(), width=width))


def test_findings_come_first_then_statements_then_the_schedule() -> None:
    problem = Problem(position=AT, code="JP601", message="there is no relation t", severity=Severity.ERROR, step="a")
    of = plan(step("a", "SELECT 1"), slots=1)
    schedule = forecast(of, KnownDurations({"a": Duration(p50=5, p95=5, runs=1)}), rows={})
    found = lines(result(statement("a", codes=("JP601",)), problems=(problem,), schedule=schedule))
    heads = [line for line in found if line in {"Statements", "Schedule"} or "JP601: " in line or "nightly on" in line]
    assert [head.split()[0] for head in heads] == ["plan.yaml:9:3:", "Statements", "Schedule", "nightly"]
    assert any(line.strip() == "- JP601, above" for line in found)


def test_large_counts_of_the_verdict_are_grouped() -> None:
    problem = Problem(position=Position(file="p.yaml", line=1, column=1), code="JP501", message="no")
    found = result(*(statement(f"s{number}") for number in range(1200)), problems=(problem,) * 1234)
    verdict = summary(found)
    assert "would fail, 1,234 errors; statements: 1,200 checked" in verdict


def test_what_is_about_the_server_has_no_line_of_the_plan() -> None:
    top = Position(file="plan.yaml", line=1, column=1)
    problem = Problem(
        position=top, code="JP503", message="extension: none", hint="CREATE EXTENSION", severity=Severity.ERROR
    )
    assert lines(result(problems=(problem,)))[0] == "server: error JP503: extension: none (CREATE EXTENSION)"


def test_instances_with_the_same_remarks_are_shown_once() -> None:
    why = ("shop.events: created by step `table`",)
    items = [statement("make", instance=f"make[{n}]", coverage=Coverage.NOT, why=why) for n in range(8)]
    text = "\n".join(lines(result(*items)))
    assert text.count("make[") == 1
    assert "7 more instances are the same" in text


def test_a_condition_that_is_well_is_only_counted() -> None:
    found = lines(
        result(statement("a"), statement("a", key="verify"), statement("b", key="if", notes=("it is false now",)))
    )
    assert not any("(verify)" in line for line in found)
    assert any("b (if)" in line for line in found)
    assert "  checked: 1 more without remarks" in found


def test_a_plan_of_hundreds_of_steps_is_not_listed() -> None:
    many = [statement(f"s{n}") for n in range(400)]
    found = lines(result(*many, statement("odd", notes=("a note",))))
    assert len(found) < 10
    assert "  checked: 400 more without remarks" in found


@pytest.mark.parametrize("width", [64, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    lock = LockReport(
        step="a" * 20,
        relation="a_schema_with_a_name.a_table_with_a_name",
        mode="ACCESS EXCLUSIVE",
        command="ALTER TABLE … ADD COLUMN",
        stops="reads and writes",
        bytes=123_456_789,
        partitions=12,
        seconds=90.0,
        limit=None,
    )
    names = ["a", "a_long_name_of_a_step_that_somebody_chose", "b" * 24]
    of = plan(*(step(name, "SELECT 1") for name in names), slots=2)
    schedule = forecast(of, KnownDurations({"a": Duration(p50=5, p95=9, runs=1)}), rows={}, slots=range(1, 5))
    wide = [
        statement(
            name, text="SELECT " + "x, " * 40, cost=12345.0, rows=99, why=("word " * 40,), coverage=Coverage.PARTLY
        )
        for name in names
    ]
    report = result(*wide, locks=(lock,), schedule=schedule)
    found = list(dry_run_lines(report, lambda _: (), Style(excerpt=True), width=width))
    assert [line for line in found if len(line) > width] == []
    assert any("cost 12,345" in line for line in found)


def test_steps_that_use_tables_of_the_plan_are_one_line() -> None:
    unknown = {"coverage": Coverage.NOT, "why": ("t: created by step `make`",), "of_plan": True}
    many = [statement(f"use_{number:02d}", **unknown) for number in range(11)]
    other = statement("do", coverage=Coverage.NOT, why=("the statements of a DO block are known only when it runs",))
    text = "\n".join(lines(result(statement("make"), *many, other)))
    assert "  not checkable: 11 steps depend on tables that this plan creates: use_00," in text
    assert "use_07 and 3 more" in " ".join(text.split())
    assert "created by step" not in text
    assert "  not checkable   do" in text
    assert "12 not checkable" in text


def test_a_single_step_that_uses_a_table_of_the_plan_has_its_reason() -> None:
    one = statement("use", coverage=Coverage.NOT, why=("t: created by step `make`",), of_plan=True)
    text = "\n".join(lines(result(statement("make"), one)))
    assert "- t: created by step `make`" in text
    assert "depend on tables" not in text


def test_the_markdown_of_a_small_plan_is_complete() -> None:
    problem = Problem(position=Position(file="a_b.yaml", line=3, column=1), code="JP300", message="wrong | *bad* @team")
    text = "\n".join(dry_run_markdown(result(statement("a", text="SELECT 1 | 2"), problems=(problem,))))
    assert text.startswith("## Dry run of ")
    assert "| ❌ JP300 | <code>a&#95;b.yaml:3:1</code> | wrong &#124; &#42;bad&#42; &#64;team |  |" in text
    assert "SELECT 1 &#124; 2" in text
    assert "Left out" not in text
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize(("statements", "problems"), [(2_000, 0), (0, 2_000), (2_000, 2_000)])
def test_the_markdown_of_a_large_plan_fits_a_comment_and_says_what_is_missing(statements: int, problems: int) -> None:
    found = result(
        *(statement(f"s{number}", text=f"UPDATE t SET n = {number} {'x' * 100}") for number in range(statements)),
        problems=tuple(
            Problem(position=Position(file="a.yaml", line=number, column=1), code="JP300", message=f"wrong {'y' * 200}")
            for number in range(1, problems + 1)
        ),
    )
    written = list(dry_run_markdown(found))
    text = "\n".join(written)
    assert len(text) <= MARKDOWN_LIMIT
    shown = sum(line.startswith("| ❌ JP300") for line in written)
    if problems:
        assert shown
        assert f"{problems - shown} of the findings" in written[-1]
    if statements:
        listed = sum("UPDATE t SET" in line for line in written)
        assert f"{statements - listed} of the statements" in written[-1]
    assert text.count("<details>") == text.count("</details>")
