"""The items of a for_each: their keys, their values, and what becomes of the instances."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.for_each_items import identity_of, literal_items, queried_items
from runner.engine.scheduler import run_status
from runner.engine.simulation import CheckScript
from runner.plan.model import AllowFailure, ForEach, Need, NeedOn, OnFailure, Repeat
from tests.unit.simulated_runs import IDLE, SQL, code, ends, item_rows, launches, message, plan, script, simulated, step

O = ev.Outcome  # noqa: E741 - it stands in every table below
LONG = "x" * 10_000


def each(*items: Any, **keys: Any) -> ForEach:
    return ForEach(as_="t", items=items, **keys)


QUERY = ForEach(as_="t", sql=SQL)


def keys_of(*items: Any) -> list[str]:
    return [item.key for item in literal_items(step("a", for_each=each(*items)))]


# --- keys and values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "keys"),
    [
        (("orders",), ["a[orders]"]),
        ((1, 2.5, True), ["a[1]", "a[2.5]", "a[true]"]),
        (({"schema": "s", "table": "t"},), ["a[s,t]"]),
        (("x", "x", "x"), ["a[x]", "a[x#2]", "a[x#3]"]),
        (("x", "x", "x#2"), ["a[x]", "a[x#2]", "a[x#2#2]"]),
        (("x#2", "x", "x", "x"), ["a[x#2]", "a[x]", "a[x#3]", "a[x#4]"]),
        (("1", 1), ["a[1]", "a[1#2]"]),
        (("",), ["a[]"]),
        (("two\nlines\tand  more",), ["a[two lines and more]"]),
        (("]", "[", "a[b]"), ["a[]]", "a[[]", "a[a[b]]"]),
        (("Größe", "表"), ["a[Größe]", "a[表]"]),
        (("\x1b[31mred", "a\u202eb", "a\ud800b"), ["a[?[31mred]", "a[a?b]", "a[a?b#2]"]),
        ((LONG, LONG), [f"a[{'x' * 59}…]", f"a[{'x' * 59}…#2]"]),
        (("x" * 60,), [f"a[{'x' * 60}]"]),
    ],
)
def test_keys(items: tuple[Any, ...], keys: list[str]) -> None:
    assert keys_of(*items) == keys


@given(st.lists(st.sampled_from(["a", "a#2", "a#2#2", "a#3", "", "#2", LONG]), max_size=12))
def test_every_instance_has_a_key_of_its_own(items: list[str]) -> None:
    assert len(set(keys_of(*items))) == len(items)


@given(st.lists(st.text(max_size=80), max_size=5))
def test_keys_are_short_lines_of_printable_characters(items: list[str]) -> None:
    assert all(key.isprintable() and len(key) <= 70 for key in keys_of(*items))


@pytest.mark.parametrize(
    ("items", "values"),
    [
        (("x\ny",), [{"t": "x\ny"}]),
        (({"a": 1, "b": "z"},), [{"t.a": 1, "t.b": "z"}]),
        (({"a": 1}, {"a": 2}), [{"t": 1, "t.a": 1}, {"t": 2, "t.a": 2}]),
        (({"a": 1}, {"b": 2}), [{"t.a": 1}, {"t.b": 2}]),
    ],
)
def test_values_of_literal_items(items: tuple[Any, ...], values: list[dict[str, Any]]) -> None:
    assert [dict(item.values) for item in literal_items(step("a", for_each=each(*items)))] == values


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        (("c",), [("x",)], [("a[x]", {"t": "x", "t.c": "x"})]),
        (("c",), [(None,), ("",), ("NULL",)], [
            ("a[NULL]", {"t": None, "t.c": None}),
            ("a[]", {"t": "", "t.c": ""}),
            ("a[NULL#2]", {"t": "NULL", "t.c": "NULL"}),
        ]),
        (("c", "d"), [("x", None), ("x,NULL", "")], [
            ("a[x,NULL]", {"t.c": "x", "t.d": None}),
            ("a[x,NULL,]", {"t.c": "x,NULL", "t.d": ""}),
        ]),
        (("c",), [], []),
    ],
)  # fmt: skip
def test_items_of_a_query(
    columns: tuple[str, ...], rows: list[tuple[str | None, ...]], expected: list[tuple[str, dict[str, Any]]]
) -> None:
    items = queried_items(step("a", for_each=QUERY), columns, rows)
    assert [(item.key, dict(item.values)) for item in items] == expected


def test_a_step_without_for_each_has_no_items() -> None:
    assert (literal_items(step("a")), queried_items(step("a"), ("c",), [("x",)])) == ((), ())


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "expected", "exit_code"),
    [
        ((O.SUCCEEDED, O.SUCCEEDED), "succeeded", 0),
        ((O.SUCCEEDED, O.FAILED), "failed", 1),
        ((O.TIMED_OUT, O.FAILED), "failed", 1),
        ((O.TIMED_OUT, O.CANCELLED), "timed_out", 1),
        ((O.SUCCEEDED, O.CANCELLED), "cancelled", 1),
        ((O.FAILED, O.UNKNOWN), "unknown", 7),
        ((O.SUCCEEDED, O.DETACHED), "detached", 0),
        ((O.DETACHED, O.FAILED), "failed", 1),
    ],
)
def test_a_step_has_the_outcome_of_its_worst_instance(
    outcomes: tuple[ev.Outcome, ...], expected: str, exit_code: int
) -> None:
    scripts = {f"a[{number}]": [script(outcome)] for number, outcome in enumerate(outcomes)}
    run = simulated(plan(step("a", for_each=each(0, 1))), scripts)
    assert (ends(run)["a"], code(run)) == (expected, exit_code)


@pytest.mark.parametrize("for_each", [each(), QUERY])
def test_without_items_there_is_nothing_to_do(for_each: ForEach) -> None:
    run = simulated(plan(step("a", for_each=for_each), step("b", "a")), verdicts={"a": [item_rows()]})
    assert (ends(run), code(run)) == ({"a": "succeeded", "b": "succeeded"}, 0)


def test_items_that_cannot_be_had_fail_the_step() -> None:
    run = simulated(plan(step("a", for_each=QUERY), step("b", "a")), verdicts={"a": [ev.Verdict.ERROR]})
    assert (ends(run), message(run, "a")) == ({"a": "failed", "b": "skipped"}, "scripted items error")


def test_items_are_asked_for_when_the_step_becomes_ready() -> None:
    run = simulated(plan(step("b"), step("a", "b", for_each=QUERY)), verdicts={"a": [item_rows("x", "y")]})
    assert [(e.at, len(e.items)) for e in run.events if isinstance(e, ev.StepExpanded)] == [(1.0, 2)]
    assert ends(run) == {"a": "succeeded", "a[x]": "succeeded", "a[y]": "succeeded", "b": "succeeded"}


def test_dependents_wait_for_all_instances() -> None:
    run = simulated(
        plan(step("a", for_each=each("x", "y")), step("b", "a")), {"a[y]": [script(O.SUCCEEDED, duration=9.0)]}
    )
    assert launches(run, "b") == [9.0]


def test_a_dependent_on_failure_waits_for_the_parent_too() -> None:
    late = Need(step="a", on=NeedOn.FAILURE)
    run = simulated(
        plan(step("a", for_each=each("x", "y")), step("b", late)),
        {"a[x]": [script(O.FAILED)], "a[y]": [script(O.SUCCEEDED, duration=9.0)]},
    )
    assert launches(run, "b") == [9.0]


def test_the_parent_takes_no_slot_and_max_parallel_bounds_its_instances() -> None:
    run = simulated(plan(step("a", for_each=each("x", "y", "z", max_parallel=2)), step("b"), slots=3))
    assert [launches(run, key) for key in ("a[x]", "a[y]", "a[z]", "b")] == [[0.0], [0.0], [1.0], [0.0]]
    assert launches(run, "a") == []


def test_an_instance_that_waits_for_its_siblings_says_so() -> None:
    run = simulated(plan(step("a", for_each=each("x", "y", max_parallel=1))))
    assert [e.reason for e in run.events if isinstance(e, ev.StepQueued)] == ["for_each:a 1/1"]


def test_instances_share_an_exclusive_name() -> None:
    run = simulated(plan(step("a", for_each=each("x", "y"), exclusive=frozenset({"orders"}))))
    assert (launches(run, "a[x]"), launches(run, "a[y]")) == ([0.0], [1.0])


def test_failures_are_allowed_for_each_instance() -> None:
    allowing = step("a", for_each=each("x", "y"), allow_failure=AllowFailure(sqlstates=frozenset({"23505"})))
    run = simulated(plan(allowing, step("b", "a")), {"a[x]": [script(O.FAILED, "23505")]})
    assert (ends(run)["a"], ends(run)["a[x]"], ends(run)["b"], code(run)) == (
        "failed_allowed", "failed_allowed", "succeeded", 0,
    )  # fmt: skip
    run = simulated(
        plan(allowing, step("b", "a")), {"a[x]": [script(O.FAILED, "23505")], "a[y]": [script(O.FAILED, "1")]}
    )
    assert (ends(run)["a"], ends(run)["b"], code(run)) == ("failed", "skipped", 1)


def test_each_instance_has_its_conditions_retries_and_iterations() -> None:
    conditional = step("a", for_each=each("x", "y"), if_=SQL, repeat=Repeat(max_iterations=3))
    run = simulated(
        plan(conditional, step("b", "a")),
        {"a[y]": [script(O.SUCCEEDED, row_count=1), script(O.SUCCEEDED)]},
        {"a[x]": [ev.Verdict.SKIP]},
    )
    assert ends(run) == {"a": "succeeded", "a[x]": "skipped", "a[y]": "succeeded", "b": "succeeded"}
    assert launches(run, "a[y]") == [0.0, 1.0]


def test_instances_that_were_not_run_leave_the_parent_skipped() -> None:
    run = simulated(plan(step("a", for_each=each("x", "y")), step("b", "a"), slots=1), interrupts=[0.5], scripts={
        "a[x]": [script(O.SUCCEEDED, cancel_latency=9.0)],
    })  # fmt: skip
    assert (ends(run), code(run)) == ({"a": "skipped", "a[x]": "succeeded", "a[y]": "skipped", "b": "skipped"}, 130)
    skip = run.state.records["a"].skip
    assert skip is not None
    assert (skip.reason, skip.because) == (ev.SkipReason.DRAINED, "not all of its instances were run")


def test_items_that_come_while_the_run_stops_are_drained() -> None:
    slow = item_rows("x", duration=5.0)
    run = simulated(plan(step("a", for_each=QUERY)), verdicts={"a": [slow]}, interrupts=[1.0])
    assert ends(run) == {"a": "skipped", "a[x]": "skipped"}


def test_a_failure_cancels_the_instances_of_other_steps() -> None:
    run = simulated(
        plan(step("a", for_each=each("x", "y", max_parallel=1)), step("b"), on_failure=OnFailure.CANCEL),
        {"b": [script(O.FAILED)], "a[x]": [script(O.SUCCEEDED, duration=50.0)]},
    )
    assert ends(run) == {"a": "cancelled", "a[x]": "cancelled", "a[y]": "skipped", "b": "failed"}
    assert (code(run), run.makespan) == (1, 1.0)


def test_a_failed_instance_cancels_its_siblings_if_the_plan_says_so() -> None:
    run = simulated(
        plan(step("a", for_each=each("x", "y")), on_failure=OnFailure.CANCEL),
        {"a[x]": [script(O.FAILED)], "a[y]": [script(O.SUCCEEDED, duration=50.0)]},
    )
    assert ends(run) == {"a": "failed", "a[x]": "failed", "a[y]": "cancelled"}
    assert [e.step for e in run.events if isinstance(e, ev.RunDraining)] == ["a[x]"]


def test_the_failure_of_the_last_instance_drains_nothing() -> None:
    run = simulated(plan(step("a", for_each=each("x")), on_failure=OnFailure.DRAIN), {"a[x]": [script(O.FAILED)]})
    assert not any(isinstance(event, ev.RunDraining) for event in run.events)


def test_detach_instances_are_detached_when_the_rest_is_over() -> None:
    run = simulated(
        plan(step("a", for_each=each("x", "y"), **IDLE), step("b"), step("c", for_each=each("z"))),
        {key: [script(O.SUCCEEDED, duration=50.0)] for key in ("a[x]", "a[y]")},
    )
    assert (ends(run)["a"], ends(run)["a[x]"], code(run), run.makespan) == ("detached", "detached", 0, 1.0)


def test_a_detach_instance_that_waits_for_its_sibling_gets_its_turn() -> None:
    run = simulated(
        plan(step("a", for_each=each("x", "y", max_parallel=1), **IDLE)),
        {"a[x]": [script(O.SUCCEEDED, duration=7.0)], "a[y]": [script(O.SUCCEEDED, duration=50.0)]},
    )
    assert (ends(run), run.makespan) == ({"a": "detached", "a[x]": "succeeded", "a[y]": "detached"}, 7.0)


def test_detach_instances_are_detached_while_no_item_query_is_open() -> None:
    run = simulated(
        plan(step("a", for_each=each("x"), **IDLE), step("b", for_each=QUERY)),
        {"a[x]": [script(O.SUCCEEDED, duration=50.0)]},
        {"b": [item_rows("z", duration=3.0)]},
    )
    assert (ends(run)["a[x]"], launches(run, "b[z]"), run.makespan) == ("detached", [3.0], 4.0)


def test_a_step_with_instances_is_counted_as_these() -> None:
    run = simulated(plan(step("a", for_each=each("x", "y")), step("b", for_each=each()), step("c")))
    assert run.state.counts() == {"succeeded": 4}


def test_an_instance_of_finally_belongs_to_finally() -> None:
    run = simulated(
        plan(step("a"), finally_=(step("f", for_each=QUERY), step("g", "f"))),
        {"a": [script(O.FAILED)]},
        {"f": [item_rows("x", "y")]},
    )
    assert (launches(run, "f[x]"), launches(run, "g"), run_status(run.state)) == ([1.0], [2.0], "failed")


def test_ten_thousand_instances_are_as_many_launches() -> None:
    items = CheckScript(rows=ev.Rows(columns=("c",), rows=tuple((str(number % 5000),) for number in range(10_000))))
    run = simulated(plan(step("a", for_each=QUERY), slots=8), verdicts={"a": [items]}, watch=None)
    assert sum(isinstance(event, ev.AttemptLaunching) for event in run.events) == 10_000
    assert ends(run)["a"] == "succeeded"


# --- an instance is its whole item ------------------------------------------------------------------------------------


COLLIDING = [
    ({"who": "a", "what": "b,c"}, {"who": "a,b", "what": "c"}),
    ("a b", "a  b"),
    ("x" * 80 + "1", "x" * 80 + "2"),
    ("a\u2028", "a?"),
    (True, "true"),
    (1, "1"),
]


@pytest.mark.parametrize(("one", "other"), COLLIDING)
def test_items_that_look_the_same_keep_their_keys_in_another_order(one: Any, other: Any) -> None:
    first = literal_items(step("a", for_each=each(one, other)))
    assert len({item.key for item in first}) == 2
    turned = literal_items(step("a", for_each=each(other, one)), first)
    assert {identity_of(item): item.key for item in turned} == {identity_of(item): item.key for item in first}
    assert [item.key for item in turned] == [item.key for item in reversed(first)]


@pytest.mark.parametrize(("one", "other"), COLLIDING)
def test_an_item_that_takes_the_place_of_one_that_looks_the_same_gets_a_key_of_its_own(one: Any, other: Any) -> None:
    (before,) = first = literal_items(step("a", for_each=each(one)))
    (after,) = literal_items(step("a", for_each=each(other)), first)
    assert after.key != before.key


def test_equal_items_are_as_many_instances_as_there_are_of_them() -> None:
    first = literal_items(step("a", for_each=each("x", "x", "y")))
    again = literal_items(step("a", for_each=each("y", "x", "x", "x")), first)
    assert sorted(item.key for item in again) == ["a[x#2]", "a[x#3]", "a[x]", "a[y]"]
    assert [item.key for item in again][:3] == ["a[y]", "a[x]", "a[x#2]"]


@given(st.lists(st.one_of(st.text(max_size=4), st.integers(0, 3), st.booleans()), max_size=8), st.randoms())
def test_whatever_the_order_an_item_keeps_its_key(items: list[Any], random: Any) -> None:
    first = literal_items(step("a", for_each=each(*items)))
    turned = list(items)
    random.shuffle(turned)
    again = literal_items(step("a", for_each=each(*turned)), first)
    assert sorted((identity_of(i), i.key) for i in again) == sorted((identity_of(i), i.key) for i in first)
