"""Patterns of parameters: matched as Python matches them, and never for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.lint import check_plan
from runner.plan import parameters
from runner.plan.parameters import MAX_MATCHED, TooSlowError, compile_pattern, is_simple, matches

#: Exponential, or a high power, for the engine of Python.
HOSTILE = (
    ("(a+)+", "a" * 60 + "!"),
    ("(a*)*b", "a" * 60),
    ("(a|a)*b", "a" * 60),
    ("(a|aa)+", "a" * 80 + "!"),
    ("([a-zA-Z]+)*", "a" * 60 + "!"),
    ("(.*)*x", "y" * 100),
    ("(?=a)(a+)+b", "a" * 60),
    ("((a{1,50}){1,50}){1,50}b", "a" * 60),
    ("a*a*a*a*a*a*b", "a" * 900),
    ("a?" * 40 + "a" * 40 + "b", "a" * 40),
    ("(?:a|b|ab)*c", "ab" * 40),
    ("(x+x+)+y", "x" * 60),
    ("^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 60),
    ("(a)(?:\\1+)+b", "a" * 60),
    ("\\S*\\s*\\S*\\s*\\S*x", "y" * 900),
)
_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait}\n"


@pytest.mark.parametrize(("pattern", "text"), HOSTILE[:3])
def test_a_hostile_pattern_is_not_simple_and_ends(pattern: str, text: str) -> None:
    assert not is_simple(pattern)
    assert not matched_in_time(pattern, text)


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "text"), HOSTILE[3:])
def test_every_hostile_pattern_ends_on_a_busy_machine_too(
    monkeypatch: pytest.MonkeyPatch, pattern: str, text: str
) -> None:
    monkeypatch.setattr(parameters, "_WALL_SECONDS", 0.4)  # less than the limit of processor time
    assert not is_simple(pattern)
    assert not matched_in_time(pattern, text)


def matched_in_time(pattern: str, text: str) -> bool:
    """Say whether the text matches; a match that was given up is none."""
    try:
        return matches(pattern, text)
    except TooSlowError:
        return False


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("[a-z]+", "abc", True),
        ("[a-z][a-z0-9_]{0,62}", "orders", True),
        ("\\d{4}-\\d\\d-\\d\\d", "2026-01-31", True),
        ("(?:north|south)", "south", True),
        ("(north|south)?", "", True),
        ("[(]x[)]+", "(x)", True),
        ("[]a]*", "]a]", True),
        ("a{,3}", "aa", True),
        ("a|ab", "ab", True),
        ("é+", "éé", True),
        ("[a-z]+", "abc1", False),
        ("a.c", "a\nc", False),
    ],
)
def test_an_ordinary_pattern_is_matched_here(pattern: str, text: str, fits: bool) -> None:
    assert is_simple(pattern)
    assert matches(pattern, text) is fits
    assert (compile_pattern(pattern).fullmatch(text) is not None) is fits


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("[a-z]+(-[a-z]+)*", "a-b-c", True),
        ("[a-z]+(-[a-z]+)*", "a-b-", False),
        ("(?!pg_)[a-z_]+(,[a-z_]+)*", "a,b", True),
        ("(?!pg_)[a-z_]+(,[a-z_]+)*", "pg_a", False),
        ("(a)(\\1)+", "aaa", True),
        ("(ü)+", "üü", True),
    ],
)
def test_a_pattern_that_repeats_groups_is_matched_as_python_does(pattern: str, text: str, fits: bool) -> None:
    assert not is_simple(pattern)
    assert matches(pattern, text) is fits


@given(st.text(alphabet="ab()*+?|{},1", max_size=14), st.text(alphabet="ab", max_size=12))
def test_what_is_simple_is_fast_and_what_is_no_pattern_is_an_error(pattern: str, text: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except ValueError:
        return
    if is_simple(pattern):
        assert matches(pattern, text) is (compiled.fullmatch(text) is not None)
        assert compiled.fullmatch("ab" * (MAX_MATCHED // 2) + "c") is None  # and the test ends


def test_hostile_defaults_enums_and_values_are_problems_of_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"{_HEAD}params:\n  a: {{type: string, pattern: '(a+)+', default: '{'a' * 60}!'}}\n"
        f"  b: {{type: string, pattern: '(b|bb)+', enum: ['{'b' * 80}!']}}\nsteps: [{{id: s, sql: VACUUM t}}]\n"
    )
    problems = [problem for problem in check_plan(path).problems if problem.code == "JP225"]
    assert [problem.position.line for problem in problems] == [6, 7]


def test_many_hostile_patterns_share_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "_ALL_SECONDS", 1.5)
    rows = "".join(
        f"  p{number}: {{type: string, pattern: '(a+)+{number}', default: '{'a' * 60}'}}\n" for number in range(200)
    )
    path = tmp_path / "plan.yaml"
    path.write_text(f"{_HEAD}params:\n{rows}steps: [{{id: s, sql: VACUUM t}}]\n")
    problems = [problem for problem in check_plan(path).problems if problem.code == "JP225"]
    assert len(problems) == 200
    assert sum("previous patterns took too long" in problem.message for problem in problems) > 150


def test_hostile_patterns_of_one_plan_do_not_fail_the_next_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(parameters, "_ALL_SECONDS", 0.0)
        test_hostile_defaults_enums_and_values_are_problems_of_the_plan(tmp_path)
    path = tmp_path / "next.yaml"
    path.write_text(
        f"{_HEAD}params:\n  a: {{type: string, pattern: '[a-z]+(-[a-z]+)*', default: x-y}}\n"
        "  b: {type: string, pattern: '([a-z]|-)+', default: x-z}\nsteps: [{id: s, sql: VACUUM t}]\n"
    )
    assert [problem for problem in check_plan(path).problems if problem.code == "JP225"] == []
