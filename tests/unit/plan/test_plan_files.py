"""Files that a plan names: found, read once, and never outside the plan's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import ParameterError
from runner.lint import read_plan
from runner.plan import load_plan, plan_files
from runner.plan.plan_files import MAX_SQL_BYTES

_HEAD = "version: 1\nname: example\nbudget: {slots: 2}\ndefaults: {timeout: 10m, on_finish: wait}\n"
_STEP = "steps:\n  - {id: a, sql: VACUUM}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def codes(path: Path) -> list[str]:
    return [problem.code for problem in load_plan(path).problems]


def test_a_sql_file_may_be_linked_within_the_folder(tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: sql/b.sql}\n")
    write(tmp_path / "sql" / "a.sql", "SELECT 1")
    (tmp_path / "sql" / "b.sql").symlink_to("a.sql")
    assert codes(plan) == []


def test_a_sql_file_may_not_be_linked_to_from_outside(tmp_path: Path) -> None:
    write(tmp_path / "secret.sql", "SELECT 1")
    plan = write(tmp_path / "plans" / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: sql/b.sql}\n")
    (tmp_path / "plans" / "sql").symlink_to(tmp_path)
    (tmp_path / "b.sql").symlink_to("secret.sql")
    assert codes(plan) == ["JP217"]


def test_a_plan_may_itself_be_reached_through_a_link_to_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.sql", "SELECT 1")
    write(tmp_path / "real" / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: a.sql}\n")
    (tmp_path / "link").symlink_to("real")
    assert codes(tmp_path / "link" / "plan.yaml") == []


def test_a_link_to_itself_is_a_problem(tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: a.sql}\n")
    (tmp_path / "a.sql").symlink_to("a.sql")
    assert codes(plan) == ["JP218"]


@pytest.mark.parametrize("name", ["a/../../b.sql", "..", "../plans2/b.sql"])
def test_dots_do_not_lead_out(tmp_path: Path, name: str) -> None:
    write(tmp_path / "b.sql", "SELECT 1")
    write(tmp_path / "plans2" / "b.sql", "SELECT 1")
    (tmp_path / "plans" / "a").mkdir(parents=True)
    plan = write(tmp_path / "plans" / "plan.yaml", _HEAD + f"steps:\n  - {{id: a, sql_file: {name}}}\n")
    assert codes(plan) == ["JP217"]


def test_a_file_that_is_too_long_a_name_is_a_problem(tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.yaml", _HEAD + f"steps:\n  - {{id: a, sql_file: {'x' * 5000}}}\n")
    assert codes(plan) == ["JP218"]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: pipe}\n")
    os.mkfifo(tmp_path / "pipe")
    assert codes(plan) == ["JP218"]


def test_a_sql_file_is_bounded(tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql_file: a.sql}\n")
    with (tmp_path / "a.sql").open("wb") as file:
        file.truncate(MAX_SQL_BYTES + 1)
    assert codes(plan) == ["JP002"]


def test_a_sql_file_of_two_steps_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a.sql", "SELECT 1")
    text = "steps:\n  - {id: a, sql_file: a.sql}\n  - {id: b, sql_file: ./a.sql}\n"
    plan = load_plan(write(tmp_path / "plan.yaml", _HEAD + text)).plan
    assert plan is not None
    assert plan.step("a").sql is plan.step("b").sql


def test_a_sql_file_s_path_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "sql" / "a.sql", "SELECT 1")
    write(tmp_path / "parts" / "part.yaml", "steps:\n  - {id: b, sql_file: sql/a.sql}\n")
    plan = load_plan(write(tmp_path / "plan.yaml", _HEAD + "include: [parts/part.yaml]\n" + _STEP)).plan
    assert plan is not None
    assert plan.step("b").sql.start.file == str(tmp_path / "parts" / "sql" / "a.sql")


def test_included_files_that_double_at_every_level_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_files, "MAX_INCLUDES", 50)
    for level in range(10):
        inner = f"include: [{{file: p{level + 1}.yaml, as: a}}, {{file: p{level + 1}.yaml, as: b}}]\n"
        write(tmp_path / f"p{level}.yaml", (inner if level < 9 else "") + "steps:\n  - {id: s, sql: VACUUM}\n")
    found = codes(write(tmp_path / "plan.yaml", _HEAD + "include: [p0.yaml]\n" + _STEP))
    assert found == ["JP223"]


def test_included_files_together_stay_within_what_one_may_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_files, "MAX_NODES", 20)
    write(tmp_path / "p.yaml", "steps:\n  - {id: s, sql: VACUUM}\n")
    text = "include: [{file: p.yaml, as: a}, {file: p.yaml, as: b}, {file: p.yaml, as: c}]\n"
    assert codes(write(tmp_path / "plan.yaml", _HEAD + text + _STEP)) == ["JP013"]


def test_parameters_may_be_declared_twice_in_the_same_words(tmp_path: Path) -> None:
    declared = "params:\n  days: {type: integer, default: 9}\n"
    write(tmp_path / "p.yaml", declared + "steps:\n  - {id: s, sql: 'SELECT :days'}\n")
    assert codes(write(tmp_path / "plan.yaml", _HEAD + declared + "include: [p.yaml]\n" + _STEP)) == []


def test_values_come_from_a_params_file(tmp_path: Path) -> None:
    text = "params:\n  days: {type: integer}\n  share: {type: number}\n  word: {type: string}\n"
    path = write(tmp_path / "plan.yaml", _HEAD + text + _STEP)
    params = write(tmp_path / "params.json", '{"days": 5, "share": 0.10, "word": "x"}\n')
    plan = load_plan(path, params_file=params, given={"word": "y"}).plan
    assert plan is not None
    assert plan.values == {"days": 5, "share": "0.10", "word": "y"}


def test_a_bad_params_file_is_reported_with_the_plan_s_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "plan.yaml", _HEAD + "steps:\n  - {id: a, sql: VACUUM, needs: [b]}\n")
    params = write(tmp_path / "params.yaml", "- 1\n")
    loaded = load_plan(path, params_file=params)
    assert [(Path(problem.position.file).name, problem.code) for problem in loaded.problems] == [
        ("plan.yaml", "JP202"),
        ("params.yaml", "JP008"),
    ]


@pytest.mark.parametrize("text", [None, "", "- 1\n", "a: [\n", "a: 1\na: 2\n", "x: 1\n"])
def test_a_params_file_that_cannot_be_used_is_not_an_error_of_the_plan(tmp_path: Path, text: str | None) -> None:
    path = write(tmp_path / "plan.yaml", _HEAD + "params:\n  a: {type: integer}\n" + _STEP)
    params = tmp_path / "params.yaml"
    if text is not None:
        write(params, text)
    with pytest.raises(ParameterError, match=r"cannot run with these parameters: [12] problem") as caught:
        read_plan(path, params_file=params)
    assert {problem.code for problem in caught.value.problems} <= {
        *("JP001", "JP005", "JP006", "JP008", "JP010"),
        *("JP227", "JP228"),
    }
    if text != "x: 1\n":
        assert [Path(problem.position.file).name for problem in caught.value.problems] == ["params.yaml"]


def test_a_parameter_without_a_value_is_a_problem_only_if_values_are_required(tmp_path: Path) -> None:
    text = "params:\n  a: {type: string}\n  b: {type: string}\n"
    path = write(tmp_path / "plan.yaml", _HEAD + text + _STEP)
    assert load_plan(path).plan is not None
    loaded = load_plan(path, given={}, require_values=True)
    assert [problem.code for problem in loaded.problems] == ["JP228", "JP228"]
    environment = {"JOBPLAN_PARAM_A": "1", "JOBPLAN_PARAM_B": "2"}
    plan = load_plan(path, environment=environment, require_values=True).plan
    assert plan is not None
    assert plan.values == {"a": "1", "b": "2"}
