"""Which steps can run at the same time: the bits against a search in the graph, one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.locks.contention import Overlaps, bits_of
from runner.plan.graph import ancestors
from runner.plan.model import Budget, ForEach, Need, NeedOn, Plan, Step
from tests.builders import plan, step

Pair = frozenset[str]


def overlapping(of: Plan) -> set[Pair]:
    """Return the pairs of steps that can overlap; a step with itself is a pair of one."""
    overlaps = Overlaps(of)
    steps = of.all_steps
    found: set[Pair] = set()
    for overlap in overlaps.steps():
        own = steps[overlap.step].id
        if overlap.with_itself:
            found.add(frozenset({own}))
        found.update(frozenset({own, steps[other].id}) for other in map(overlaps.number, bits_of(overlap.others)))
    return found


def pairs(*names: str) -> set[Pair]:
    return {frozenset(name.split("+")) for name in names}


# --- one reason each --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", NeedOn)
def test_steps_that_wait_for_each_other_do_not_overlap(on: NeedOn) -> None:
    chain = (step("a", ""), step("b", "", needs=[Need(step="a", on=on)]), step("c", "", needs=["b"]), step("d", ""))
    assert overlapping(plan(*chain)) == pairs("a+d", "b+d", "c+d")


def test_what_is_needed_need_not_come_first() -> None:
    assert overlapping(plan(step("a", "", needs=["b"]), step("b", ""))) == set()


@pytest.mark.parametrize(("slots", "expected"), [(3, set()), (4, pairs("a+b"))])
def test_slots_that_do_not_suffice_for_both_keep_steps_apart(slots: int, expected: set[Pair]) -> None:
    assert overlapping(plan(step("a", "", slots=3), step("b", ""), slots=slots)) == expected


@pytest.mark.parametrize(("limit", "expected"), [(2, pairs("a+c", "b+c")), (3, pairs("a+b", "a+c", "b+c"))])
def test_a_pool_keeps_steps_apart_if_both_are_too_much(limit: int, expected: set[Pair]) -> None:
    steps = (step("a", "", pools={"io": 2}), step("b", "", pools={"io": 1}), step("c", ""))
    budget = Budget(slots=4, pools={"io": limit})
    assert overlapping(Plan(name="p", budget=budget, steps=steps)) == expected


def test_an_exclusive_name_keeps_steps_apart() -> None:
    named = {"a": {"x"}, "b": {"x", "y"}, "c": {"y"}}
    steps = (step(key, "", exclusive=frozenset(names)) for key, names in named.items())
    assert overlapping(plan(*steps)) == pairs("a+c")


def test_steps_of_opposite_branches_never_both_run() -> None:
    good, bad = Need(step="a"), Need(step="a", on=NeedOn.FAILURE)
    steps = (
        step("a", ""),
        step("good", "", needs=[good]),
        step("bad", "", needs=[bad]),
        step("after_good", "", needs=["good"]),
        step("after_bad", "", needs=[Need(step="bad", on=NeedOn.DONE)]),
        step("done", "", needs=[Need(step="a", on=NeedOn.DONE)]),
    )
    expected = pairs("good+done", "bad+done", "after_good+done", "after_bad+done", "good+after_bad")
    assert overlapping(plan(*steps)) == expected | pairs("after_good+after_bad")


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, pairs("a")),
        ({"slots": 3}, set()),
        ({"exclusive": frozenset({"x"})}, set()),
        ({"pools": {"io": 1}}, pairs("a")),
        ({"pools": {"io": 2}}, set()),
    ],
)
def test_instances_overlap_as_steps_do(keys: dict[str, object], expected: set[Pair]) -> None:
    made = step("a", "", for_each=ForEach(as_="i", items=(1, 2)), **keys)
    assert overlapping(Plan(name="p", budget=Budget(slots=4, pools={"io": 2}), steps=(made,))) == expected


@pytest.mark.parametrize(("most", "expected"), [(1, set()), (2, pairs("a")), (None, pairs("a"))])
def test_max_parallel_one_keeps_instances_apart(most: int | None, expected: set[Pair]) -> None:
    made = step("a", "", for_each=ForEach(as_="i", items=(1, 2), max_parallel=most))
    assert overlapping(plan(made)) == expected


# --- finally ----------------------------------------------------------------------------------------------------------


def test_finally_overlaps_with_itself_and_with_what_was_detached() -> None:
    main = (step("a", ""), step("d", "", detach=True))
    last = (step("x", ""), step("y", ""), step("z", "", needs=["x"]))
    expected = pairs("a+d", "x+y", "y+z", "d+x", "d+y", "d+z")
    assert overlapping(plan(*main, finally_=last)) == expected


def test_a_detached_worker_has_given_back_what_it_shared() -> None:
    both = {"exclusive": frozenset({"x"}), "slots": 1}
    last = (step("x", "", **both), step("y", "", **both))
    found = overlapping(plan(step("d", "", detach=True, **both), finally_=last, slots=1))
    assert found == pairs("d+x", "d+y")


# --- many steps -------------------------------------------------------------------------------------------------------


def test_only_wanted_steps_are_compared() -> None:
    steps = [step(f"s{n}", "", needs=[f"s{n - 1}"] if n % 3 else []) for n in range(9)]
    overlaps = Overlaps(plan(*steps), {1, 2, 5, 8})
    numbers = ((each.step, overlaps.number(bit)) for each in overlaps.steps() for bit in bits_of(each.others))
    found = set(map(frozenset, numbers))
    assert found == {frozenset(pair) for pair in ((1, 5), (1, 8), (2, 5), (2, 8), (5, 8))}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of up to 14 steps with needs of every kind, slots, pools and exclusive names."""
    count = draw(st.integers(1, 10))
    last = draw(st.integers(0, 4))
    main = [draw(_steps(f"m{n}", [f"m{before}" for before in range(n)])) for n in range(count)]
    detached = {made.id for made in main if not made.waits}
    main = [_without(made, detached) for made in main]
    end = [draw(_steps(f"f{n}", [f"f{before}" for before in range(n)])) for n in range(last)]
    end = [_without(made, {made.id for made in end if not made.waits}) for made in end]
    budget = Budget(slots=draw(st.integers(1, 4)), pools={"p": draw(st.integers(1, 3))})
    order = draw(st.permutations(main))
    return Plan(name="p", budget=budget, steps=tuple(order), finally_=tuple(end))


@st.composite
def _steps(draw: st.DrawFn, key: str, before: list[str]) -> Step:
    needed = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
    return step(
        key,
        "",
        detach=draw(st.integers(0, 5)) == 0,
        needs=[Need(step=need, on=draw(st.sampled_from(NeedOn))) for need in needed],
        slots=draw(st.integers(1, 2)),
        pools={"p": draw(st.integers(1, 3))} if draw(st.booleans()) else {},
        exclusive=frozenset(draw(st.sets(st.sampled_from("xyz"), max_size=1))),
        for_each=ForEach(as_="i", items=(1, 2)) if draw(st.integers(0, 3)) == 0 else None,
    )


def _without(made: Step, detached: set[str]) -> Step:
    needs = tuple(need for need in made.needs if need.step not in detached)
    return step(
        made.id,
        "",
        detach=not made.waits,
        needs=needs,
        slots=made.slots,
        pools=made.pools,
        exclusive=made.exclusive,
        for_each=made.for_each,
    )


@given(plans())
def test_bits_agree_with_a_search_for_each_pair(made: Plan) -> None:
    assert overlapping(made) == set(_searched(made))


def _searched(made: Plan) -> Iterator[Pair]:
    steps = {each.id: each for each in made.all_steps}
    last = {each.id for each in made.finally_}
    needs = {key: [need.step for need in each.needs] for key, each in steps.items()}
    before = {key: ancestors(needs, [key]) for key in steps}
    for one, other in combinations(steps, 2):
        if (one in last) != (other in last):
            main = other if one in last else one
            if not steps[main].waits:
                yield frozenset({one, other})
            continue
        ordered = one in before[other] or other in before[one]
        if (
            not ordered
            and _fit(made, steps[one], steps[other])
            and not _opposed(_ends(steps, one), _ends(steps, other))
        ):
            yield frozenset({one, other})
    for key, each in steps.items():
        if each.for_each is not None and _fit(made, each, each):
            yield frozenset({key})


def _fit(made: Plan, one: Step, other: Step) -> bool:
    pool = one.pools.get("p", 0) + other.pools.get("p", 0)
    both_in = bool(one.pools and other.pools)
    enough = one.slots + other.slots <= made.budget.slots and (not both_in or pool <= made.budget.pools["p"])
    return enough and not one.exclusive & other.exclusive


def _ends(steps: dict[str, Step], key: str) -> set[tuple[str, NeedOn]]:
    """Return which ends of which steps have been seen for sure when a step runs."""
    found: set[tuple[str, NeedOn]] = set()
    for need in steps[key].needs:
        if need.on is not NeedOn.DONE:
            found |= {(need.step, need.on)} | _ends(steps, need.step)
    return found


def _opposed(one: set[tuple[str, NeedOn]], other: set[tuple[str, NeedOn]]) -> bool:
    opposite = {NeedOn.SUCCESS: NeedOn.FAILURE, NeedOn.FAILURE: NeedOn.SUCCESS}
    return any((key, opposite[on]) in other for key, on in one)
