"""Which steps a selection leaves out."""

from __future__ import annotations

import pytest

from runner.errors import Position, UsageError
from runner.plan.graph import not_selected
from runner.plan.model import Budget, Need, OnFinish, OnRunnerExit, Plan, Sql, Step

PLACE = Position(file="plan.yaml", line=1, column=1)


def step(name: str, *needs: str, tags: tuple[str, ...] = ()) -> Step:
    return Step(
        id=name,
        sql=Sql(text="SELECT 1", start=PLACE),
        timeout=1.0,
        on_finish=OnFinish.WAIT,
        on_runner_exit=OnRunnerExit.CANCEL,
        needs=tuple(Need(step=need) for need in needs),
        tags=frozenset(tags),
    )


#: fill → index_a, index_b → check; other stands alone.
PLAN = Plan(
    name="p",
    budget=Budget(slots=1),
    steps=(
        step("fill"),
        step("index_a", "fill", tags=("index",)),
        step("index_b", "fill", tags=("index",)),
        step("check", "index_a", "index_b"),
        step("other"),
    ),
)


@pytest.mark.parametrize(
    ("select", "exclude", "left_out"),
    [
        ((), (), set()),
        (("fill",), (), {"index_a", "index_b", "check", "other"}),
        (("+index_a",), (), {"index_b", "check", "other"}),
        (("fill+",), (), {"other"}),
        (("+check",), ("other",), {"other"}),
        (("fill", "+index_*"), (), {"check", "other"}),
        (("fill", "tag:index"), (), {"check", "other"}),
        ((), ("check",), {"check"}),
        ((), ("index_a+", "tag:index"), {"index_a", "index_b", "check"}),
        (("*",), (), set()),
    ],
)
def test_selectors(select: tuple[str, ...], exclude: tuple[str, ...], left_out: set[str]) -> None:
    assert not_selected(PLAN, select, exclude) == left_out


def test_what_a_selected_step_needs_must_be_selected_or_assumed_done() -> None:
    with pytest.raises(UsageError, match=r"check needs index_a, which is not selected. Select \+check"):
        not_selected(PLAN, ["check"], [])
    assert not_selected(PLAN, ["check"], [], assume_done=True) == {"fill", "index_a", "index_b", "other"}


@pytest.mark.parametrize("selector", ["nothing", "tag:none", "fil", "x*", "", "+"])
def test_a_selector_that_matches_nothing_is_an_error(selector: str) -> None:
    with pytest.raises(UsageError, match="No step matches"):
        not_selected(PLAN, [selector], [])


def test_a_near_miss_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean `index_a`"):
        not_selected(PLAN, ["indx_a"], [])


def test_selecting_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="leaves no step"):
        not_selected(PLAN, ["other"], ["other"])
