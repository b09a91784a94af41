"""Groups: a chain of steps for each item, on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.simulation import AttemptScript, Simulation
from runner.engine.state import HOLDING, initial_state
from runner.plan.graph import not_selected
from runner.plan.model import Bound, ForEach, Need, NeedOn, OnFailure, Param, ParamType, Plan, Sql, Step
from runner.plan.selection import is_left_out
from runner.structs import replace
from tests.invariants import validate
from tests.unit.simulated_runs import NOWHERE_SQL, code, ends, item_rows, launches, plan, script, simulated, step

FAILED = script(ev.Outcome.FAILED, "42P01")


def group(key: str, *chain: Step, items: Any = ("a", "b"), needs: Any = (), **keys: Any) -> Step:
    """Return a group whose items are texts, those of a query with `sql`, or none at all."""
    for_each = None if items is None else ForEach(as_="x", items=tuple(items), **keys)
    return replace(step(key, *needs), sql=NOWHERE_SQL, timeout=None, for_each=for_each, steps=chain)


CHAIN = (step("rebuild"), step("log", "rebuild"))


def spans(run: Simulation) -> dict[str, tuple[float, float]]:
    """Return when each step was launched first, and when it ended."""
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    for event in run.events:
        if isinstance(event, ev.AttemptLaunching):
            begun.setdefault(event.step, event.at)
        elif isinstance(event, ev.AttemptFinished):
            ended[event.step] = event.at
    return {key: (at, ended[key]) for key, at in begun.items()}


def under_way(run: Simulation, name: str) -> int:
    """Return how many items were between their first launch and their last end at the same time."""
    items: dict[str, list[float]] = {}
    for key, (begin, end) in spans(run).items():
        if key.startswith(f"{name}["):
            item = items.setdefault(key.rpartition(".")[0], [begin, end])
            item[:] = [min(item[0], begin), max(item[1], end)]
    return max((sum(begin <= at < end for begin, end in items.values()) for at, _ in items.values()), default=0)


def test_each_item_has_its_own_chain_and_ids() -> None:
    run = simulated(plan(group("per_index", *CHAIN)))
    assert ends(run) == {
        "per_index": "succeeded",
        "per_index[a]": "succeeded",
        "per_index[a].rebuild": "succeeded",
        "per_index[a].log": "succeeded",
        "per_index[b]": "succeeded",
        "per_index[b].rebuild": "succeeded",
        "per_index[b].log": "succeeded",
    }
    at = spans(run)
    assert at["per_index[a].rebuild"][1] <= at["per_index[a].log"][0]


def test_there_is_no_barrier_between_the_items() -> None:
    items = tuple(f"i{number:03}" for number in range(100))
    run = simulated(plan(group("g", *CHAIN, items=items, max_parallel=2)))
    at = spans(run)
    assert at["g[i000].log"][1] < at["g[i099].rebuild"][0]
    assert under_way(run, "g") == 2
    assert len(at) == 200


def test_an_item_that_has_begun_is_finished_before_the_next_one_begins() -> None:
    """Without max_parallel too: the first items do not wait until the last one has had its first step."""
    run = simulated(plan(group("g", *CHAIN, items=tuple("abcdef")), slots=2))
    at = spans(run)
    assert at["g[a].log"][0] < at["g[c].rebuild"][0]
    assert at["g[a].log"][1] < at["g[f].rebuild"][0]


def test_max_parallel_counts_items_not_workers() -> None:
    chain = (step("one"), step("two"), step("three", "one", "two"))
    run = simulated(plan(group("g", *chain, items=tuple("abcd"), max_parallel=1), slots=8))
    at = spans(run)
    assert under_way(run, "g") == 1
    assert at["g[a].one"][0] == at["g[a].two"][0]  # both workers of the one item
    assert at["g[a].three"][1] <= at["g[b].one"][0]


def test_an_item_keeps_its_place_while_it_waits_for_a_retry() -> None:
    again = replace(step("log", "rebuild"), retry=replace(step("x").retry, max_attempts=2, delay=30.0))
    run = simulated(
        plan(group("g", step("rebuild"), again, max_parallel=1)),
        {"g[a].log": [FAILED, AttemptScript(duration=1.0)]},
    )
    at = spans(run)
    assert len(launches(run, "g[a].log")) == 2
    assert at["g[b].rebuild"][0] >= at["g[a].log"][1]


def test_a_failed_item_does_not_stop_the_others() -> None:
    run = simulated(
        plan(group("g", *CHAIN, items=tuple("abc"), max_parallel=1), step("after", "g")), {"g[b].rebuild": [FAILED]}
    )
    found = ends(run)
    assert found["g[a]"] == found["g[c]"] == found["g[c].log"] == "succeeded"
    assert (found["g[b].rebuild"], found["g[b].log"], found["g[b]"], found["g"]) == (
        "failed",
        "skipped",
        "failed",
        "failed",
    )
    assert (found["after"], code(run)) == ("skipped", 1)


@pytest.mark.parametrize(
    ("on", "state"), [(NeedOn.SUCCESS, "skipped"), (NeedOn.FAILURE, "succeeded"), (NeedOn.DONE, "succeeded")]
)
def test_a_step_outside_waits_for_all_items(on: NeedOn, state: str) -> None:
    after = step("after", Need(step="g", on=on))
    run = simulated(plan(group("g", *CHAIN), after), {"g[b].log": [FAILED]})
    assert ends(run)["after"] == state
    if state == "succeeded":
        assert launches(run, "after")[0] >= max(end for key, (_, end) in spans(run).items() if key != "after")


def test_a_cleanup_in_the_chain_runs_only_for_the_item_that_failed() -> None:
    clean = step("clean", Need(step="rebuild", on=NeedOn.FAILURE))
    run = simulated(plan(group("g", step("rebuild"), clean)), {"g[a].rebuild": [FAILED]})
    found = ends(run)
    assert (found["g[a].clean"], found["g[b].clean"]) == ("succeeded", "skipped")
    assert (found["g[a]"], found["g[b]"]) == ("failed", "succeeded")


def test_a_group_without_items_is_one_chain() -> None:
    run = simulated(plan(group("g", *CHAIN, items=None), step("after", "g")))
    assert ends(run) == dict.fromkeys(("g", "after", "g.rebuild", "g.log"), "succeeded")
    assert launches(run, "after")[0] >= spans(run)["g.log"][1]


def test_the_items_of_a_query_are_fixed_when_the_needs_are_met() -> None:
    run = simulated(
        plan(
            step("before"),
            group("g", *CHAIN, items=(), sql=Sql(text="select", start=NOWHERE_SQL.start), needs=["before"]),
        ),
        verdicts={"g": [item_rows("p", "q")]},
    )
    assert set(ends(run)) == {"before", "g", *(f"g[{i}]{s}" for i in "pq" for s in ("", ".rebuild", ".log"))}


def test_a_group_whose_query_returns_nothing_has_nothing_to_do() -> None:
    run = simulated(
        plan(group("g", *CHAIN, items=(), sql=NOWHERE_SQL), step("after", "g")), verdicts={"g": [item_rows()]}
    )
    assert ends(run) == {"g": "succeeded", "after": "succeeded"}


def test_on_failure_drain_leaves_the_items_that_have_not_begun() -> None:
    run = simulated(
        plan(group("g", *CHAIN, items=tuple("abc"), max_parallel=1), on_failure=OnFailure.DRAIN),
        {"g[a].rebuild": [FAILED]},
    )
    found = ends(run)
    assert found["g[a]"] == "failed"
    assert found["g[b]"] == found["g[c]"] == found["g[c].log"] == "skipped"


def test_a_group_can_be_a_finally_step() -> None:
    run = simulated(plan(step("work"), finally_=(group("g", *CHAIN),)))
    assert launches(run, "g[a].rebuild")[0] >= spans(run)["work"][1]
    assert ends(run)["g[b].log"] == "succeeded"


@pytest.mark.parametrize("asked", ["g", "g[b]", "g[b].log"])
def test_a_cancel_request_concerns_the_group_an_item_or_one_step(asked: str) -> None:
    run = simulated(plan(group("g", *CHAIN, max_parallel=1)), cancels=[(0.5, asked)])
    found = ends(run)
    assert found["g[b].log"] in ({"cancelled"} if asked == "g[b].log" else {"cancelled", "skipped"})
    assert found["g[b].rebuild"] == ("succeeded" if asked == "g[b].log" else "cancelled")
    assert found["g[a].rebuild"] == ("cancelled" if asked == "g" else "succeeded")
    assert (found["g[a].log"] == "succeeded") is (asked != "g")
    assert (found["g[b]"], found["g"]) == ("cancelled", "cancelled")


def selected(a_plan: Plan, select: list[str], exclude: list[str]) -> Simulation:
    return simulated(a_plan, not_selected=sorted(not_selected(a_plan, select, exclude)))


THREE = plan(step("before"), group("g", *CHAIN, items=tuple("abc"), needs=["before"]), step("after", "g"))


@pytest.mark.parametrize(
    ("select", "exclude", "runs"),
    [
        (["+g"], [], {"before", *(f"g[{i}].{s}" for i in "abc" for s in ("rebuild", "log"))}),
        (["+g[b]"], [], {"before", "g[b].rebuild", "g[b].log"}),
        (["before", "g[b]", "g[c]"], [], {"before", "g[b].rebuild", "g[b].log", "g[c].rebuild", "g[c].log"}),
        (["+g[b].rebuild"], [], {"before", "g[b].rebuild"}),
        (["+g[b].log"], [], {"before", "g[b].rebuild", "g[b].log"}),
        (["+g.rebuild"], [], {"before", "g[a].rebuild", "g[b].rebuild", "g[c].rebuild"}),
        ([], ["g[b]"], {"before", "after", "g[a].rebuild", "g[a].log", "g[c].rebuild", "g[c].log"}),
        ([], ["g.log"], {"before", "after", "g[a].rebuild", "g[b].rebuild", "g[c].rebuild"}),
        ([], ["g[?].log"], {"before", "after", "g[a].rebuild", "g[b].rebuild", "g[c].rebuild"}),
        (["+g[*]"], ["g[c]"], {"before", *(f"g[{i}].{s}" for i in "ab" for s in ("rebuild", "log"))}),
    ],
)
def test_the_selection_knows_items_and_steps_of_items(select: list[str], exclude: list[str], runs: set[str]) -> None:
    run = selected(THREE, select, exclude)
    assert set(spans(run)) == runs
    assert code(run) == 0
    reasons = {record.skip.reason for record in run.state.records.values() if record.skip is not None}
    assert reasons <= {ev.SkipReason.NOT_SELECTED}


def test_an_item_that_is_left_out_counts_as_done() -> None:
    run = selected(THREE, [], ["g[b]"])
    assert run.state.records["g[b]"].skip == ev.StepSkipped(
        at=run.state.records["g[b]"].since, step="g[b]", reason=ev.SkipReason.NOT_SELECTED
    )
    assert ends(run)["g"] == ends(run)["after"] == "succeeded"


@pytest.mark.parametrize(
    ("entries", "key", "left_out"),
    [
        (["g[a]"], "g[a].log", True),
        (["g[a]"], "g[ab].log", False),
        (["g[a]"], "h[a].log", False),
        (["g[a*]"], "g[ab].log", True),
        (["only g[a]"], "g[a].log", False),
        (["only g[a]"], "g[b].log", True),
        (["only g[a]"], "h[b].log", False),
        (["only g[a].log"], "g[a].rebuild", True),
        (["only g.log"], "g[x].y].log", False),
        (["g[x].y]"], "g[x].y].log", True),
        (["once.log"], "once.log", True),
        (["once.log"], "once.rebuild", False),
        (["only v[a]"], "v[b]", True),
        (["v[a.b]"], "v[a.b]", True),
        (["v[(a)+]"], "v[(a)+]", True),
    ],
)
def test_what_a_record_leaves_out(entries: list[str], key: str, left_out: bool) -> None:
    assert is_left_out(entries, key) is left_out


def bound(name: str, kind: ParamType, **keys: Any) -> Bound:
    return Bound(param=Param(name=name, type=kind), **keys)


def test_bound_parameters_are_values_of_the_steps() -> None:
    one = replace(
        group("g", *CHAIN),
        bound=(bound("n", ParamType.INTEGER, value=5), bound("t", ParamType.RELATION, source="x")),
    )
    run = simulated(plan(one))
    assert dict(run.state.records["g[b].log"].values) == {"x": "b", "n": 5, "t": "b"}
    assert dict(run.state.records["g[b]"].values) == {"x": "b"}


def resumed(at: float, **keys: Any) -> ev.RunResumed:
    found = {"jobplan": "", "file": "", "sha256": "", "host": "", "os_pid": 0, "slots": 1, "steps": 1, **keys}
    return ev.RunResumed(at=at, **found)


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "queried"])
def test_a_run_killed_after_any_event_is_finished_without_repeating_what_is_done(*, listed: bool) -> None:
    chain = (step("rebuild"), step("check", "rebuild"), step("log", "rebuild", "check"))
    keys: dict[str, Any] = {"items": tuple("abc")} if listed else {"items": (), "sql": NOWHERE_SQL}
    a_plan = plan(
        step("before"),
        group("g", *chain, needs=["before"], max_parallel=2, **keys),
        group("once", *chain, items=None),
        step("after", "g", "once"),
        finally_=(group("last", *CHAIN),),
        slots=3,
    )
    verdicts = {"g": [item_rows("a", "b", "c")]}
    first = simulated(a_plan, {"g[b].check": [FAILED], "once.log": [FAILED]}, verdicts)
    assert code(first) == 1
    for number in range(1, len(first.events) + 1):
        before = initial_state(a_plan)
        for event in first.events[:number]:
            apply(before, event)
        open_ = [key for key, record in before.records.items() if record.state in HOLDING]
        settled = tuple(ev.Settled(step=key, outcome=ev.Outcome.FAILED, by="ledger") for key in open_)
        history = [*first.events[:number], resumed(1000.0, settled=settled)]
        again = simulated(a_plan, verdicts=verdicts, history=history)
        assert set(ends(again).values()) == {"succeeded"}, f"after {first.events[number - 1]}"
        assert ends(again).keys() == ends(first).keys()
        done = {key for key, record in before.records.items() if record.state == "succeeded" and not record.in_finally}
        second = again.events[number:]
        launched = {event.step for event in second if isinstance(event, ev.AttemptLaunching)}
        assert launched.isdisjoint(done), f"after {first.events[number - 1]}"
        assert under_way(replace(again, events=second), "g") <= 2


def test_a_step_that_was_added_to_the_chain_runs_for_the_items_that_are_done() -> None:
    old = plan(group("g", *CHAIN))
    first = simulated(old)
    new = plan(group("g", *CHAIN, step("mail", "log")))
    state = initial_state(old)
    for event in first.events:
        apply(state, event)
    state.plan = new
    apply(state, resumed(1000.0))
    validate(state)
    waiting = {key: str(record.state) for key, record in state.records.items() if record.instances is None}
    assert waiting == {
        **{f"g[{item}].{name}": "succeeded" for item in "ab" for name in ("rebuild", "log")},
        **{f"g[{item}].mail": "pending" for item in "ab"},
    }


@pytest.mark.parametrize("turn", ["into a group", "into a step"])
def test_a_step_that_became_a_group_or_was_one_begins_again(turn: str) -> None:
    items = ForEach(as_="x", items=("a", "b"))
    plain, chain = plan(step("g", for_each=items)), plan(group("g", *CHAIN))
    old, new = (plain, chain) if turn == "into a group" else (chain, plain)
    first = simulated(old)
    state = initial_state(old)
    for event in first.events:
        apply(state, event)
    state.plan = new
    apply(state, resumed(1000.0))
    validate(state)
    assert {str(record.state) for record in state.records.values() if record.instances is None} == {"pending"}
