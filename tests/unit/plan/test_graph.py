"""Which step waits for which: order, cycles, paths. The answers are checked against what defines them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.plan.graph import ancestors, descendants, find_cycles, longest_path, topological_order

_NAMES = "abcdefgh"


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool = False) -> dict[str, list[str]]:
    names = draw(st.permutations(_NAMES[: draw(st.integers(0, len(_NAMES)))]))
    hidden = draw(st.permutations(names))
    return {
        name: draw(st.lists(st.sampled_from(hidden[: hidden.index(name)] if acyclic else hidden), max_size=3))
        if not acyclic or hidden.index(name)
        else []
        for name in names
    }


@pytest.mark.parametrize(
    ("needs", "order"),
    [
        ({}, ""),
        ({"c": [], "a": [], "b": []}, "cab"),
        ({"a": ["c"], "b": [], "c": []}, "bca"),
        ({"d": ["c"], "c": ["b"], "b": ["a"], "a": []}, "abcd"),
        ({"a": ["x"], "b": ["a", "a"]}, "ab"),
    ],
)
def test_order_is_the_plan_s_own_where_needs_leave_room(needs: dict[str, list[str]], order: str) -> None:
    assert topological_order(needs) == tuple(order)


@given(graphs(acyclic=True))
def test_everything_comes_after_what_it_needs(needs: dict[str, list[str]]) -> None:
    order = topological_order(needs)
    assert sorted(order) == sorted(needs)
    assert all(order.index(need) < order.index(name) for name, needed in needs.items() for need in needed)


@given(graphs())
def test_there_is_an_order_exactly_if_there_is_no_cycle(needs: dict[str, list[str]]) -> None:
    if find_cycles(needs):
        with pytest.raises(ValueError, match="cycle"):
            topological_order(needs)
    else:
        assert len(topological_order(needs)) == len(needs)


@given(graphs())
def test_a_cycle_is_one(needs: dict[str, list[str]]) -> None:
    for cycle in find_cycles(needs):
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(need in needs[name] for name, need in pairwise(cycle))


@given(graphs())
def test_every_name_on_a_cycle_is_in_a_knot_of_which_one_cycle_is_reported(needs: dict[str, list[str]]) -> None:
    circular = {name for name in needs if name in ancestors(needs, [name])}
    reported = {cycle[0] for cycle in find_cycles(needs)}
    assert reported <= circular
    for name in circular:
        assert any(start in ancestors(needs, [name]) and name in ancestors(needs, [start]) for start in reported)


@pytest.mark.parametrize(
    ("needs", "cycles"),
    [
        ({"a": ["a"]}, ["aa"]),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, ["abca"]),
        ({"a": ["b", "c"], "b": ["c"], "c": ["a"]}, ["aca"]),
        ({"x": ["a"], "b": ["a"], "a": ["b"], "d": ["c"], "c": ["d"]}, ["bab", "dcd"]),
        ({"a": ["b"], "b": [], "c": ["a", "nothing"]}, []),
    ],
)
def test_the_shortest_cycle_of_each_knot(needs: dict[str, list[str]], cycles: list[str]) -> None:
    assert find_cycles(needs) == tuple(tuple(cycle) for cycle in cycles)


@given(graphs(acyclic=True), st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_no_path_is_longer_than_the_longest(needs: dict[str, list[str]], numbers: list[int]) -> None:
    weights = dict(zip(_NAMES, map(float, numbers), strict=True))
    total, path = longest_path(needs, weights)
    assert sum(weights[name] for name in path) == total
    assert all(before in needs[name] for before, name in pairwise(path))
    best: dict[str, float] = {}
    for name in topological_order(needs):
        best[name] = weights[name] + max((best[need] for need in needs[name]), default=0.0)
    assert total == max(best.values(), default=0.0)


@given(graphs())
def test_descendants_are_ancestors_turned_round(needs: dict[str, list[str]]) -> None:
    for name in needs:
        assert descendants(needs, [name]) == {other for other in needs if name in ancestors(needs, [other])}


def test_ancestors_and_descendants_of_several() -> None:
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["d"]}
    assert ancestors(needs, ["c", "e"]) == {"a", "b", "d"}
    assert descendants(needs, ["a", "d", "nothing"]) == {"b", "c", "e"}


def test_a_chain_of_ten_thousand_is_no_recursion() -> None:
    names = [f"s{number}" for number in range(10_000)]
    needs = {name: names[index - 1 : index] for index, name in enumerate(names)}
    backwards = dict(reversed(needs.items()))
    assert topological_order(backwards) == tuple(names)
    assert longest_path(backwards, dict.fromkeys(names, 1.0))[0] == 10_000
    assert len(ancestors(needs, ["s9999"])) == len(descendants(needs, ["s0"])) == 9_999
    assert find_cycles(needs) == ()
    assert find_cycles({**needs, "s0": ["s9999"]}) == (("s0", *reversed(names)),)
