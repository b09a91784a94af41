"""Numbers in a plan: SQL gets each as it is written, or the plan says that a text has quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import Problem
from runner.lint import check_plan
from runner.plan.loading import load_plan as load

HEAD = "version: 1\nname: n\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\n"
ALTERED = [
    *("1.10", "1e3", "1E3", ".5", "-.5", "5.", "-0", "+5", "+1.5", "1.0e0"),
    *("100000000000000000.5", "0.0000001", "1e-7"),
]
KEPT = [
    *("1.1", "5", "-5", "0", "1.0", "12345678901234567890123", "0777", "0o17", "0x1f", "1_000"),
    *("007.10", "12:30", "1e400", "'1.10'"),
]
STEPS = "\nsteps: [{id: a, sql: DELETE FROM t}]"


def problems(tmp_path: Path, text: str) -> list[Problem]:
    path = tmp_path / "plan.yaml"
    path.write_text(HEAD + text, "utf-8")
    return [problem for problem in check_plan(path).problems if problem.code == "JP225"]


@pytest.mark.parametrize("number", ALTERED)
def test_an_item_that_would_be_changed_is_an_error_at_its_place(tmp_path: Path, number: str) -> None:
    text = f"steps: [{{id: a, sql: DELETE FROM t, for_each: {{items: [x, {number}]}}}}]"
    (found,) = problems(tmp_path, text)
    assert (found.position.line, found.position.column) == (5, text.index("[x, ") + 5)
    assert found.message.startswith(f"this item is the number {number}, and SQL would get ")
    assert "put it in quotes if the text is meant" in (found.hint or "")


@pytest.mark.parametrize("number", ALTERED)
def test_so_is_a_column_of_an_item(tmp_path: Path, number: str) -> None:
    (found,) = problems(tmp_path, f"steps: [{{id: a, sql: DELETE FROM t, for_each: {{items: [{{v: {number}}}]}}}}]")
    assert found.message.startswith(f"`v` is the number {number}")


@pytest.mark.parametrize("number", KEPT)
def test_an_item_that_is_kept_as_it_is_written_is_fine(tmp_path: Path, number: str) -> None:
    text = f"steps: [{{id: a, sql: DELETE FROM t, for_each: {{items: [x, {number}]}}}}]"
    assert problems(tmp_path, text) == []
    loaded = load(tmp_path / "plan.yaml")
    assert loaded.plan is not None
    for_each = loaded.plan.steps[0].for_each
    assert for_each is not None
    assert str(for_each.items[1]) == number.strip("'")


@pytest.mark.parametrize("key", ["default", "enum"])
@pytest.mark.parametrize("number", ["1.10", "5", "1e3"])
def test_a_number_for_a_text_is_an_error(tmp_path: Path, key: str, number: str) -> None:
    value = f"[{number}]" if key == "enum" else number
    (found,) = problems(
        tmp_path, f"params: {{v: {{type: string, {key}: {value}}}}}\nsteps: [{{id: a, sql: DELETE FROM t}}]"
    )
    assert "put it in quotes" in found.message


@pytest.mark.parametrize(("number", "exact"), [("1.10", "1.10"), ("0.1234567890123456789", "0.1234567890123456789")])
def test_a_number_parameter_keeps_its_digits(tmp_path: Path, number: str, exact: str) -> None:
    assert (
        problems(
            tmp_path, f"params: {{v: {{type: number, default: {number}}}}}\nsteps: [{{id: a, sql: DELETE FROM t}}]"
        )
        == []
    )
    loaded = load(tmp_path / "plan.yaml")
    assert loaded.plan is not None
    assert loaded.plan.values["v"] == exact


def test_an_enum_of_numbers_is_compared_by_value(tmp_path: Path) -> None:
    text = "params: {v: {type: number, enum: [1.10, 2], default: 1.1}}\nsteps: [{id: a, sql: DELETE FROM t}]"
    assert problems(tmp_path, text) == []


@pytest.mark.parametrize("given", ['{"v": 1.10}', "v: 1.10"])
def test_a_number_of_a_params_file_for_a_text_is_an_error(tmp_path: Path, given: str) -> None:
    assert problems(tmp_path, "params: {v: {type: string}}\nsteps: [{id: a, sql: DELETE FROM t}]") == []
    file = tmp_path / "given.yaml"
    file.write_text(given, "utf-8")
    found = check_plan(tmp_path / "plan.yaml", params_file=file).problems
    assert [problem.code for problem in found if "in quotes" in problem.message] == ["JP226"]


@pytest.mark.parametrize(
    ("number", "wrong"), [("1.10", 0), ("1e3", 0), ("+5", 0), ("0.12345678901234567891", 1), ("1e400", 0)]
)
def test_an_expected_number_is_compared_by_value_or_refused(tmp_path: Path, number: str, wrong: int) -> None:
    assert len(problems(tmp_path, f"steps: [{{id: a, sql: SELECT 1, expect: {{value: {number}}}}}]")) == wrong


def test_a_setting_is_the_text_that_the_plan_has(tmp_path: Path) -> None:
    problems(tmp_path, "steps: [{id: a, sql: DELETE FROM t, settings: {app.v: 1.10, app.w: 1e3, app.x: -0}}]")
    loaded = load(tmp_path / "plan.yaml")
    assert loaded.plan is not None
    assert dict(loaded.plan.steps[0].settings) == {"app.v": "1.10", "app.w": "1e3", "app.x": "-0"}
