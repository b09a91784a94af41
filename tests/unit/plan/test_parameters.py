"""Parameters: what a value of each type may be, and which source is the strongest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import Position, Problem
from runner.plan.model import Param, ParamType, Value
from runner.plan.parameters import Inputs, compile_pattern, parse_value, read_value, resolve_values
from runner.plan.problem_collector import Report

_START = Position(file="p", line=1, column=1)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("string", "", ""),
        ("string", "it's", "it's"),
        ("identifier", "Mixed Case", "Mixed Case"),
        ("identifier", "ä" * 31, "ä" * 31),
        ("integer", 5, 5),
        ("integer", "+5", 5),
        ("integer", "-9223372036854775809", -9223372036854775809),
        ("integer", "007", 7),
        ("number", "0.10", "0.10"),
        ("number", "+1e-3", "1e-3"),
        ("number", 3, "3"),
        ("number", 0.1, "0.1"),
        ("number", Decimal("3.14159265358979323846"), "3.14159265358979323846"),
        ("number", Decimal("1."), "1"),
        ("boolean", True, True),
        ("boolean", "false", False),
        ("duration", "1h30m", "1h30m"),
        ("timestamp", "2026-01-31", "2026-01-31"),
        ("timestamp", "2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.5Z"),
        ("timestamp", "2026-01-31 12:00+05:30", "2026-01-31 12:00+05:30"),
    ],
)
def test_a_value_is_read_by_its_type(kind: str, raw: object, value: Value) -> None:
    found = parse_value(ParamType(kind), raw)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "raw", "reported"),
    [
        ("string", "a\0b", "contains a NUL character, which PostgreSQL cannot store"),
        ("string", "\udce4", "is not UTF-8 text"),
        ("string", 5, "is the number 5; put it in quotes if the text is meant"),
        ("string", True, "is `true`, a boolean; put it in quotes if the text is meant"),
        ("string", None, "is not a single text, number or boolean"),
        ("string", [1], "is not a single text, number or boolean"),
        ("identifier", "", "is empty; an identifier is not"),
        ("identifier", "ä" * 32, "is 64 bytes long; PostgreSQL cuts identifiers to 63"),
        ("integer", "1.0", "is `1.0`, not a whole number"),
        ("integer", "five", "is `five`, not a whole number"),
        ("integer", "٣", "is `٣`, not a whole number"),
        ("integer", "1" * 101, "is out of range: it has more than 100 characters"),
        ("integer", True, "is `true`, a boolean; put it in quotes if the text is meant"),
        ("number", "NaN", "is `NaN`, not a number like 3 or 0.25"),
        ("number", float("inf"), "is `inf`, not a number like 3 or 0.25"),
        ("number", "1;DROP", "is `1;DROP`, not a number like 3 or 0.25"),
        ("number", "0." + "1" * 100, "is out of range: it has more than 100 characters"),
        ("boolean", "yes", "is `yes`; write `true` or `false`"),
        ("boolean", 1, "is `1`; write `true` or `false`"),
        ("boolean", None, "is `None`; write `true` or `false`"),
        ("duration", "30", "is wrong: '30' is not a duration; write it like 500ms, 30s, 10m, 2h, 1d or 1h30m"),
        ("timestamp", "2026-02-30", "is `2026-02-30`, not a timestamp like 2026-01-31T12:00:00Z"),
        ("timestamp", "2026-W05-1", "is `2026-W05-1`, not a timestamp like 2026-01-31T12:00:00Z"),
        ("timestamp", "x" * 80, f"is `{'x' * 57}…`, not a timestamp like 2026-01-31T12:00:00Z"),
    ],
)
def test_what_a_value_cannot_be(kind: str, raw: object, reported: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reported)}$"):
        parse_value(ParamType(kind), raw)


@given(st.sampled_from(ParamType), st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.decimals())
def test_a_value_is_read_or_refused_with_a_sentence(kind: ParamType, raw: object) -> None:
    reported = ""
    value: Value = ""
    try:
        value = parse_value(kind, raw)
    except ValueError as error:
        reported = str(error)
    assert reported or "\0" not in str(value)


@pytest.mark.parametrize(
    ("param", "raw", "reported"),
    [
        (Param(name="a", type=ParamType.STRING, enum=("a", "b")), "c", "is `c`; allowed is `a` or `b`"),
        (
            Param(name="a", type=ParamType.STRING, pattern="[a-z]+"),
            "ab1",
            "is `ab1`, which does not match `[a-z]+`",
        ),
        (
            Param(name="a", type=ParamType.STRING, pattern="a+"),
            "a" * 1001,
            "has more than 1,000 characters, too many to match its pattern",
        ),
        (Param(name="a", type=ParamType.INTEGER, minimum=1.0), "0", "is `0`, below the minimum of 1"),
        (Param(name="a", type=ParamType.NUMBER, maximum=0.5), "0.51", "is `0.51`, above the maximum of 0.5"),
        (Param(name="a", type=ParamType.DURATION, maximum=60.0), "2m", "is `2m`, above the maximum of 1m00s"),
        (Param(name="a", type=ParamType.BOOLEAN, enum=(True,)), "false", "is `false`; allowed is `True`"),
    ],
)
def test_what_a_declaration_forbids(param: Param, raw: str, reported: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reported)}$"):
        read_value(param, raw)


@pytest.mark.parametrize(
    ("param", "raw"),
    [
        (Param(name="a", type=ParamType.INTEGER, minimum=1.0, maximum=1.0), "1"),
        (Param(name="a", type=ParamType.NUMBER, enum=("0.5", "1")), "0.5"),
        (Param(name="a", type=ParamType.STRING, pattern="a|ab"), "ab"),
        (Param(name="a", type=ParamType.DURATION, minimum=0.2), "200ms"),
    ],
)
def test_what_a_declaration_allows(param: Param, raw: str) -> None:
    assert read_value(param, raw) == parse_value(param.type, raw)


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?P<a", "*"])
def test_a_pattern_that_is_none(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        compile_pattern(pattern)


def test_a_pattern_that_python_only_warns_of_is_taken() -> None:
    assert compile_pattern("[[a]").fullmatch("[")


def resolved(params: Mapping[str, Param], **inputs: Any) -> tuple[Mapping[str, Value], tuple[Problem, ...]]:
    report = Report()
    return resolve_values(params, Inputs(**inputs), report, _START), report.problems()


def test_the_strongest_source_gives_the_value() -> None:
    params = {name: Param(name=name, type=ParamType.INTEGER, default=0) for name in ("a", "b", "c", "d")}
    values, problems = resolved(
        params,
        given={"a": "1"},
        file_values={"a": 2, "b": 2},
        environment={"JOBPLAN_PARAM_A": "3", "JOBPLAN_PARAM_B": "3", "JOBPLAN_PARAM_C": "3", "JOBPLAN_PARAM_X": "3"},
    )
    assert not problems
    assert values == {"a": 1, "b": 2, "c": 3, "d": 0}


def test_a_weaker_source_is_not_asked_when_the_strongest_is_wrong() -> None:
    params = {"a": Param(name="a", type=ParamType.INTEGER, default=0)}
    values, problems = resolved(params, given={"a": "x"}, file_values={"a": 2})
    assert not values
    assert [problem.code for problem in problems] == ["JP226"]


def test_all_bad_values_are_reported_at_once() -> None:
    place = Position(file="p", line=7, column=3)
    params = {name: Param(name=name, type=ParamType.INTEGER, position=place) for name in ("days", "shards")}
    values, problems = resolved(
        params, given={"dasy": "1"}, file_values={"days": [1]}, environment={"JOBPLAN_PARAM_SHARDS": "many"}
    )
    assert not values
    assert [str(problem) for problem in problems] == [
        "p:1:1: error JP227: the plan has no parameter `dasy`, for which --param gives a value (did you mean `days`?)",
        "p:7:3: error JP226: the value of `days` from the params file is not a single text, number or boolean",
        "p:7:3: error JP226: the value of `shards` from JOBPLAN_PARAM_SHARDS is `many`, not a whole number",
    ]


def test_a_required_parameter_without_a_value_has_none() -> None:
    values, problems = resolved({"a": Param(name="a", type=ParamType.STRING)})
    assert (values, problems) == ({}, ())
