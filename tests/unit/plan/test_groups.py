"""Groups in the plan: their model, their JSON, and the plan as written out."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.identity import is_of_chain, written_key
from runner.plan import load_plan
from runner.plan.groups import bound_values, constants, written_out
from runner.plan.model import Need, NeedOn, Plan, Step
from runner.plan.plan_json import differences, plan_from_json, resolved_json, sha256
from runner.structs import replace

_VALID = Path(__file__).parents[2] / "plans" / "valid"


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = load_plan(_VALID / "groups.yaml").plan
    assert found is not None
    return found


def test_a_group_has_the_steps_of_its_chain(plan: Plan) -> None:
    group = plan.step("per_index")
    assert [step.id for step in group.steps] == ["rebuild", "log", "alarm"]
    assert group.steps[1].needs == (Need(step="rebuild"),)
    assert (group.timeout, group.role, group.search_path) == (None, ":'owner'", "app, public")
    assert [step.timeout for step in group.steps] == [3600.0, 600.0, 600.0]
    assert {(step.role, step.search_path) for step in group.steps} == {(":'owner'", "app, public")}
    assert {step.search_path for step in plan.step("per_table").steps} == {"app"}


def test_an_included_chain_has_bound_parameters(plan: Plan) -> None:
    group = plan.step("per_table")
    assert [step.id for step in group.steps] == ["purge", "prepare", "vacuum", "remark"]
    assert {bound.param.name: (bound.value, bound.source) for bound in group.bound} == {
        "table": (None, "x.t"),
        "days": (None, "x.n"),
        "owner": ("app", "owner"),
    }
    assert plan.params.keys() == {"owner", "note", "days"}  # those that `with` does not name
    assert bound_values(group.bound, {"x.t": "a.b", "x.n": "5"}) == {"table": "a.b", "days": 5, "owner": "app"}
    assert constants(plan.step("prepare_again")) == {"table": "d", "days": 3, "owner": "me"}
    assert group.steps[0].position.file.endswith("parts/chain.yaml")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"x.t": "a b", "x.n": "5"}, "of `table` is `a b`, in which a name has white space"),
        ({"x.t": "a", "x.n": "zero"}, "of `days` is `zero`, not a whole number"),
        ({"x.t": "a", "x.n": "0"}, "of `days` is `0`, below the minimum of 1"),
    ],
)
def test_a_value_of_an_item_is_checked_by_the_declaration(plan: Plan, item: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound_values(plan.step("per_table").bound, item)


def test_files_that_a_chain_includes_come_first_with_their_prefix(plan: Plan) -> None:
    ids = [step.id for step in plan.step("plain").steps]
    assert ids[-1] == "one"
    assert all(name.startswith("more_") for name in ids[:-1])
    assert len(ids) > 1


def test_the_resolved_plan_can_be_read_back(plan: Plan) -> None:
    again = plan_from_json(resolved_json(plan))
    assert sha256(again) == sha256(plan)
    assert again.step("per_table").bound[0].param.type == "relation"
    assert again.step("per_index").steps[2].needs == (Need(step="rebuild", on=NeedOn.FAILURE),)


def test_a_change_in_a_chain_is_a_difference(plan: Plan) -> None:
    group = plan.step("per_index")
    changed = replace(group, steps=group.steps[:2])
    other = replace(plan, steps=tuple(changed if step is group else step for step in plan.steps))
    (line,) = differences(plan, other)
    assert line.startswith("step per_index: steps: ")


def needs(step: Step) -> dict[str, str]:
    return {need.step: str(need.on) for need in step.needs}


def test_a_plan_can_be_written_out(plan: Plan) -> None:
    written = written_out(plan)
    found = {step.id: needs(step) for step in written.steps}
    assert found["per_index.rebuild"] == {"prepare": "success"}
    assert found["per_index.log"] == {"per_index.rebuild": "success"}
    assert found["report"] == {"per_index.log": "success", "per_index.alarm": "done", "per_table.remark": "done"}
    assert [step.id for step in written.finally_] == ["tidy.report"]
    log = written.step("per_index.log")
    assert (log.group, log.for_each) == ("per_index", plan.step("per_index").for_each)
    assert written_out(written) is written


def test_a_plan_without_groups_is_the_same_plan_and_has_the_same_json() -> None:
    plain = load_plan(_VALID / "every_key.yaml").plan
    assert plain is not None
    assert written_out(plain) is plain
    assert '"steps":[]' not in resolved_json(plain)
    assert '"with"' not in resolved_json(plain)


@pytest.mark.parametrize(
    ("key", "written", "of_chain"),
    [
        ("a", "a", False),
        ("a[x]", "a", False),
        ("a[x.y]", "a", False),
        ("a[x]].b", "a.b", True),
        ("a[x].y].b", "a.b", True),
        ("a.b", "a.b", True),
        ("a[x#2]", "a", False),
    ],
)
def test_a_key_names_a_step_of_the_written_plan(key: str, written: str, of_chain: bool) -> None:
    assert (written_key(key), is_of_chain(key)) == (written, of_chain)
