"""Where an error stands: the line of the SQL with a caret under it, and the place in the plan's file."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import StepState, initial_state
from runner.errors import Position
from runner.plan.model import Plan, Sql, Value
from runner.reports.github import annotated
from runner.reports.messages import Verbosity, error_block, event_lines
from runner.reports.plan_problems import excerpt
from runner.sql.placeholders import render
from runner.structs import replace
from tests.unit.simulated_runs import plan, step

RUN = "260101-abcdef"


@pytest.mark.parametrize(
    ("sql", "position", "lines"),
    [
        ("SELECT nope", 8, ["LINE 1: SELECT nope", "               ^"]),
        ("SELECT 1,\n  nope\nFROM t", 13, ["LINE 2:   nope", "          ^"]),
        ("SELECT '表', nope", 13, ["LINE 1: SELECT '表', nope", "                     ^"]),
        ("SELECT", 7, ["LINE 1: SELECT", "              ^"]),
        ("SELECT", 999, ["LINE 1: SELECT", "              ^"]),
        ("", 1, []),
    ],
)
def test_the_line_is_shown_with_a_caret(sql: str, position: int, lines: list[str]) -> None:
    assert list(excerpt(ev.ErrorDetails(message="m", position=position), sql)) == lines


def test_of_a_long_line_a_part_is_shown() -> None:
    sql = f"SELECT {'1, ' * 1000} nope {', 1' * 1000}"
    line, caret = excerpt(ev.ErrorDetails(message="m", position=sql.index("nope") + 1), sql)
    assert len(line) < 150
    assert line[caret.index("^") :].startswith("nope")


def test_an_error_without_a_place_has_no_line() -> None:
    assert error_block(ev.ErrorDetails(message="m", sqlstate="22012"), "SELECT 1/0") == "m\nSQLSTATE: 22012"


def test_the_line_stands_below_the_message() -> None:
    error = ev.ErrorDetails(message="m", sqlstate="42703", position=8)
    assert error_block(error, "SELECT nope").splitlines() == [
        "m",
        "LINE 1: SELECT nope",
        "               ^",
        "SQLSTATE: 42703",
    ]


def from_file(text: str, **values: Value) -> Plan:
    """Return a plan whose only step's SQL is a block that begins at line 20, column 7."""
    lines = tuple(Position(file="/w/p.yaml", line=20 + number, column=7) for number in range(text.count("\n") + 1))
    sql = Sql(text=text, start=lines[0], line_starts=lines)
    a_step = replace(step("a"), sql=sql, position=Position(file="/w/p.yaml", line=18, column=5))
    return plan(a_step, values=values)


def reported(a_plan: Plan, position: int | None) -> tuple[str, str]:
    """Let the step fail at this place; return the annotation and the progress line."""
    state = initial_state(a_plan)
    error = ev.ErrorDetails(message="no", sqlstate="42703", position=position)
    event = ev.StepFinished(at=1.0, step="a", state=StepState.FAILED, error=error)
    apply(state, event)
    (annotation,) = annotated(event, state, RUN, "/w")
    (line,) = event_lines(event, state, Verbosity.NORMAL, RUN)
    return annotation, line


@pytest.mark.parametrize(
    ("text", "values", "wrong", "place"),
    [
        ("SELECT 1,\n  nope", {}, "nope", (21, 9)),
        ("SELECT :'much',\n  nope", {"much": "x" * 500}, "nope", (21, 9)),
        ("SELECT :n, nope", {"n": -5}, "nope", (20, 18)),
        ("SELECT nope, :'run.id'", {}, "nope", (20, 14)),
    ],
)
def test_an_error_leads_to_its_place_in_the_plan(
    text: str, values: Mapping[str, Value], wrong: str, place: tuple[int, int]
) -> None:
    a_plan = from_file(text, **values)
    launched = render(text, {**values, "run.id": RUN})
    annotation, line = reported(a_plan, launched.index(wrong) + 1)
    assert f"file=p.yaml,line={place[0]},col={place[1]}::" in annotation
    assert line.endswith(f"no (SQLSTATE 42703) at /w/p.yaml:{place[0]}:{place[1]}")


def test_without_a_place_the_step_is_what_is_pointed_at() -> None:
    annotation, line = reported(from_file("SELECT 1"), None)
    assert "line=18,col=5::" in annotation
    assert line.endswith("no (SQLSTATE 42703)")
