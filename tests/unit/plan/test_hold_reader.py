"""`holds` of a plan: which steps each concerns, and that a plan without holds is what it was."""

from __future__ import annotations

from pathlib import Path

from runner.lint import check_plan
from runner.plan import load_plan
from runner.plan.model import Plan
from runner.plan.plan_json import plan_from_json, resolved_json

_HEAD = "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\n"
_HOLDS = "holds:\n  - {name: a, active_sessions: 5}\n  - {name: b, while: SELECT true}\n"


def plan(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(_HEAD + text)
    loaded = load_plan(path)
    assert loaded.plan is not None, [str(problem) for problem in loaded.problems]
    return loaded.plan


def test_a_step_waits_for_all_holds_unless_it_names_some_or_none(tmp_path: Path) -> None:
    steps = """\
steps:
  - {id: all, sql: VACUUM t}
  - {id: one, sql: VACUUM t, holds: [b]}
  - {id: none, sql: VACUUM t, holds: []}
finally:
  - {id: last, sql: VACUUM t}
"""
    found = plan(tmp_path, _HOLDS + steps)
    assert {step.id: step.holds for step in found.all_steps} == {
        "all": ("a", "b"),
        "one": ("b",),
        "none": (),
        "last": (),
    }


def test_holds_in_defaults_do_not_concern_finally(tmp_path: Path) -> None:
    text = _HOLDS.replace("holds:", "x-none: 0\nholds:")
    head = _HEAD.replace("on_finish: wait", "on_finish: wait, holds: [a]")
    path = tmp_path / "plan.yaml"
    path.write_text(head + text + "steps: [{id: s, sql: VACUUM t}]\nfinally: [{id: f, sql: VACUUM t}]\n")
    found = load_plan(path).plan
    assert found is not None
    assert found.steps[0].holds == ("a",)
    assert found.finally_[0].holds == ()


def test_the_resolved_plan_keeps_holds_and_that_a_step_has_none(tmp_path: Path) -> None:
    text = _HOLDS + "steps: [{id: s, sql: VACUUM t, holds: []}, {id: t, sql: VACUUM t, yield_after: 2s}]\n"
    found = plan(tmp_path, text)
    again = plan_from_json(resolved_json(found))
    assert [step.holds for step in again.steps] == [(), ("a", "b")]
    assert again.steps[1].yield_after == 2.0
    facts = [(hold.active_sessions, hold.every, hold.release_after, hold.at_most) for hold in again.holds]
    assert facts == [(5, 5.0, 30.0, None), (None, 5.0, 30.0, None)]
    assert resolved_json(again) == resolved_json(found)


def test_a_plan_without_holds_has_the_resolved_form_that_it_had(tmp_path: Path) -> None:
    found = plan(tmp_path, "steps: [{id: s, sql: VACUUM t}]\n")
    assert "hold" not in resolved_json(found)
    assert "yield_after" not in resolved_json(found)


def test_sql_of_a_hold_is_parsed_and_its_parameters_count_as_used(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    params = "params: {switch: {type: string, default: a}}\n"
    holds = "holds: [{name: a, while: \"SELECT FROM WHERE\"}, {name: b, while: \"SELECT :'switch' = 'a'\"}]\n"
    path.write_text(_HEAD + params + holds + "steps: [{id: s, sql: VACUUM t}]\n")
    problems = check_plan(path).problems
    assert [problem.code for problem in problems] == ["JP300"]
