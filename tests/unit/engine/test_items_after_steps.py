"""Steps of the plan start before the next items of a for_each, and the items do not wait for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.simulation import Simulation
from runner.engine.state import OVERTAKES_PER_SLOT
from runner.identity import is_of_plan
from runner.plan.model import ForEach, Plan, Step
from runner.structs import replace
from tests.unit.inspector import Inspector
from tests.unit.simulated_runs import launches, plan, simulated, step


def each(items: int, **keys: object) -> Step:
    return step("each", for_each=ForEach(as_="x", items=tuple(f"i{number:02d}" for number in range(items))), **keys)


def played(a_plan: Plan) -> Simulation:
    """Run the plan; after each decision, check it and the budgets the slow way."""
    return simulated(a_plan, watch=Inspector(a_plan))


def order(run: Simulation) -> list[str]:
    return [event.step for event in run.events if isinstance(event, ev.AttemptLaunching)]


def test_a_step_does_not_wait_for_items_that_precede_it_in_the_plan() -> None:
    run = played(plan(each(60), step("after", "each"), step("single"), slots=3))
    assert launches(run, "single") == [0.0]


def test_a_step_that_becomes_ready_later_gets_the_next_free_slot() -> None:
    run = played(plan(each(60), step("after", "each"), step("first"), step("second", "first"), slots=3))
    assert launches(run, "second") == [1.0]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_so_it_is_with_chunks_and_with_the_steps_of_groups(slots: int) -> None:
    chunks = replace(each(40), for_each=ForEach(as_="x", items=tuple(f"i{n}" for n in range(40)), chunk=2))
    group = replace(each(20), id="group", steps=(step("one"), step("two", "one")))
    singles = [step(f"single{number}") for number in range(slots)]
    run = played(plan(chunks, group, step("after", "each", "group"), *singles, slots=slots))
    assert {launches(run, single.id)[0] for single in singles} == {0.0}


def test_a_group_without_items_is_not_behind_the_steps() -> None:
    group = replace(step("group"), steps=(step("one"), step("two", "one")))
    run = played(plan(group, step("after", "group"), step("single"), slots=1))
    assert order(run)[0] == "group.one"


def test_a_higher_priority_of_the_items_counts_more() -> None:
    run = played(plan(each(3, priority=1), step("single"), slots=1))
    assert order(run) == ["each[i00]", "each[i01]", "each[i02]", "single"]


def test_among_themselves_steps_and_items_keep_their_order() -> None:
    singles = [step(f"s{number}") for number in range(6)]
    run = played(plan(*singles[:3], each(4), *singles[3:], slots=1))
    items = [f"each[i{number:02d}]" for number in range(4)]
    assert [key for key in order(run) if is_of_plan(key)] == [one.id for one in singles]
    assert [key for key in order(run) if not is_of_plan(key)] == items


def test_without_items_nothing_is_overtaken_and_the_order_is_that_of_rank() -> None:
    run = played(plan(*(step(f"s{number}") for number in range(9)), step("end", "s8"), slots=2))
    assert order(run) == ["s8", *(f"s{number}" for number in range(8)), "end"]
    assert not any(event.overtook for event in run.events if isinstance(event, ev.AttemptLaunching))


def test_items_do_not_starve_behind_many_steps() -> None:
    """After so many steps have gone before an item, it is next: here with one slot, so after four steps."""
    run = played(plan(each(3), step("after", "each"), *(step(f"s{number:02d}") for number in range(30)), slots=1))
    places = [place for place, key in enumerate(order(run)) if key.startswith("each[")]
    assert places == [4, 9, 14]


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    items=st.integers(1, 8),
    singles=st.integers(0, 40),
    pooled=st.booleans(),
    limited=st.sampled_from([None, 1, 2]),
)
def test_between_two_items_there_are_at_most_as_many_steps_as_the_limit(
    slots: int, items: int, singles: int, *, pooled: bool, limited: int | None
) -> None:
    many = each(items, pools={"io": 1} if pooled else {})
    many = replace(many, for_each=ForEach(as_="x", items=tuple(f"i{n}" for n in range(items)), max_parallel=limited))
    others = [step(f"s{number}") for number in range(singles)]
    run = played(plan(many, step("after", "each"), *others, slots=slots, pools={"io": 1}))
    between = 0
    for key in order(run):
        between = 0 if key.startswith("each[") else between + 1
        assert between <= OVERTAKES_PER_SLOT * slots + slots or not _waits(run, key)
    assert sorted(key for key in order(run) if key.startswith("each[")) == sorted(f"each[i{n}]" for n in range(items))


def _waits(run: Simulation, key: str) -> bool:
    """Return whether an item waited when the step was launched."""
    launched = order(run)
    return any(one.startswith("each[") for one in launched[launched.index(key) :])
