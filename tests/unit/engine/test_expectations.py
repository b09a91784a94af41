"""`expect`: what the last statement's rows must be, and how the answer is worded."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.outcomes import rows_wanted, same_value, unmet_expectation
from runner.plan.model import Expect
from runner.structs import replace
from tests.unit.simulated_runs import SQL, step


def ended(row_count: int | None = 1, result: ev.Rows | None = None, tag: str = "SELECT") -> ev.AttemptFinished:
    return ev.AttemptFinished(
        at=0.0,
        step="a",
        attempt=1,
        outcome=ev.Outcome.SUCCEEDED,
        command_tag=tag,
        row_count=row_count,
        result=result,
    )


def value(text: str | None) -> ev.Rows:
    return ev.Rows(columns=("v",), rows=((text,),))


@pytest.mark.parametrize(
    ("least", "most", "rows", "problem"),
    [
        (2, 2, 2, None),
        (2, 2, 3, "expected 2 rows, got 3"),
        (0, 0, None, None),
        (1, None, 1, None),
        (1, None, 0, "expected at least 1 row, got 0"),
        (1, None, None, "expected at least 1 row, got 0"),
        (None, 2, 2, None),
        (None, 2, 3, "expected at most 2 rows, got 3"),
        (1, 2, 2, None),
        (1, 2, 0, "expected 1 to 2 rows, got 0"),
        (None, None, 7, None),
    ],
)
def test_number_of_rows(least: int | None, most: int | None, rows: int | None, problem: str | None) -> None:
    assert unmet_expectation(step("a", expect=Expect(rows_min=least, rows_max=most)), ended(rows)) == problem


@pytest.mark.parametrize("expect", [Expect(rows_min=0, rows_max=0), Expect(value=None, has_value=True)])
def test_a_result_that_was_lost_is_not_taken_for_an_empty_one(expect: Expect) -> None:
    problem = unmet_expectation(step("a", expect=expect), ended(None, tag=""))
    assert problem == "it has committed, but its result was lost with its session"


@pytest.mark.parametrize(
    ("wanted", "got", "same"),
    [
        (0, "0", True),
        (0, "0.00", True),
        (0, "-0", True),
        (1, "01", True),
        (1, "2", False),
        (1, "one", False),
        (1, "", False),
        (1, None, False),
        (0.1, "0.1", True),
        (0.1, "0.10000000000000001", False),
        (1e20, "100000000000000000000", True),
        (10**30, "1000000000000000000000000000000", True),
        (float("inf"), "Infinity", True),
        (float("nan"), "NaN", True),
        (float("nan"), "1", False),
        (1, "NaN", False),
        (1, "sNaN", False),
        (True, "t", True),
        (True, "true", False),
        (True, "1", False),
        (False, "f", True),
        (False, None, False),
        (1, "t", False),
        ("a", "a", True),
        ("a", "a ", False),
        ("0", "0.0", False),
        ("", "", True),
        ("", None, False),
        (None, None, True),
        (None, "", False),
        (None, "NULL", False),
    ],
)
def test_values_are_compared_as_their_types_are(wanted: Any, got: str | None, same: bool) -> None:
    assert same_value(wanted, got) is same


@pytest.mark.parametrize(
    ("wanted", "last", "problem"),
    [
        (0, ended(1, value("0")), None),
        (0, ended(1, value("3")), "expected 0, got 3"),
        (0, ended(1, value(None)), "expected 0, got NULL"),
        (None, ended(1, value("x")), "expected NULL, got x"),
        (True, ended(1, value("f")), "expected true, got f"),
        (True, ended(1, value("true")), "expected true, got the text true"),
        (0, ended(0, ev.Rows(columns=("v",))), "expected one value, got 0 rows of 1 column"),
        (0, ended(9, ev.Rows(columns=("v",), rows=(("0",), ("0",)))), "expected one value, got 9 rows of 1 column"),
        (0, ended(1, ev.Rows(columns=("v", "w"), rows=(("0", "0"),))), "expected one value, got 1 row of 2 columns"),
        (0, ended(None, None), "expected one value, got 0 rows of 0 columns"),
        (0, ended(1, ev.Rows(problem="a type has no name")), "its rows cannot be read: a type has no name"),
    ],
)
def test_one_value(wanted: Any, last: ev.AttemptFinished, problem: str | None) -> None:
    assert unmet_expectation(step("a", expect=Expect(value=wanted, has_value=True)), last) == problem


def test_the_number_of_rows_comes_before_the_value() -> None:
    both = step("a", expect=Expect(rows_min=2, value=0, has_value=True))
    assert unmet_expectation(both, ended(1, value("1"))) == "expected at least 2 rows, got 1"


def test_rows_that_the_plan_does_not_need_cannot_be_a_problem() -> None:
    unread = ended(1, ev.Rows(problem="void"))
    assert unmet_expectation(step("a"), unread) is None
    assert unmet_expectation(step("a", expect=Expect(rows_min=1)), unread) is None
    assert unmet_expectation(step("a", capture_rows=5), unread) is None


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        ({}, 0),
        ({"expect": Expect(rows_min=5)}, 0),
        ({"expect": Expect(sql=SQL)}, 0),
        ({"expect": Expect(value=None, has_value=True)}, 2),
        ({"capture_rows": 1, "expect": Expect(value=1, has_value=True)}, 2),
        ({"capture_rows": 100}, 100),
    ],
)
def test_how_many_rows_are_wanted(keys: dict[str, Any], rows: int) -> None:
    assert rows_wanted(step("a", **keys)) == rows


@pytest.mark.parametrize(
    ("expect", "warnings", "problem"),
    [
        (Expect(warnings_min=0, warnings_max=0), None, None),
        (Expect(warnings_min=0, warnings_max=0), 2, "expected 0 warnings, got 2"),
        (Expect(warnings_max=2), 2, None),
        (Expect(warnings_min=1), None, "expected at least 1 warning, got 0"),
        (Expect(rows_min=1), 3, None),
    ],
)
def test_the_number_of_warnings(expect: Expect, warnings: int | None, problem: str | None) -> None:
    last = replace(ended(1), warnings=warnings)
    assert unmet_expectation(step("a", expect=expect), last) == problem


def test_warnings_that_were_lost_with_the_session_cannot_be_judged() -> None:
    lost = replace(ended(None), command_tag="")
    assert "lost with its session" in (unmet_expectation(step("a", expect=Expect(warnings_max=0)), lost) or "")
    assert unmet_expectation(step("a", expect=Expect(sql=SQL)), lost) is None
