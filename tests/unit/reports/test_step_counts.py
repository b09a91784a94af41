"""Folded steps: what is counted of a step with items, and which instances are listed nevertheless."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.simulation import AttemptScript
from runner.engine.state import RunState, StepState, initial_state
from runner.plan.model import ForEach, Plan, RetryPolicy
from runner.reports.report_builder import run_report
from runner.reports.step_counts import counts_words, fan_outs, run_counts
from runner.structs import replace
from tests.unit.report_samples import AT, RUN
from tests.unit.simulated_runs import plan, script, simulated, step

ITEMS = tuple(f"i{number}" for number in range(60))


def at_second(a_plan: Plan, second: float, **scripts: list[AttemptScript]) -> RunState:
    """Return the state of a run of the plan after some seconds."""
    state = initial_state(a_plan)
    for event in simulated(a_plan, scripts, start=AT, watch=None).events:
        if event.at <= AT + second:
            apply(state, event)
    return state


def fan(**keys: object) -> Plan:
    each = step("partitions", for_each=ForEach(as_="t", items=ITEMS), **keys)
    return plan(step("before"), each, step("after", "partitions"), slots=3)


def test_items_are_counted_by_what_they_do() -> None:
    found = fan_outs(at_second(fan(), 5.5))["partitions"]
    assert found.words() == "14/60 done, 3 running, 43 queued"
    assert found.unfolded == ()


def test_failures_are_counted_and_listed() -> None:
    scripts = {f"partitions[i{number}]": [script(ev.Outcome.FAILED, "42P01")] for number in (0, 3)}
    state = at_second(fan(), 1000.0, **scripts)
    found = fan_outs(state)["partitions"]
    assert found.words() == "58/60 done, 2 failed"
    assert found.unfolded == ("partitions[i0]", "partitions[i3]")
    assert counts_words(run_counts(state)) == "1 succeeded, 1 failed, 1 skipped; 60 items: 58 succeeded, 2 failed"


def test_an_item_that_waits_for_its_next_attempt_is_neither_running_nor_queued() -> None:
    again = [script(ev.Outcome.FAILED, "40P01")]
    state = at_second(fan(retry=RetryPolicy(max_attempts=2, delay=99.0)), 2.5, **{"partitions[i0]": again})
    assert fan_outs(state)["partitions"].words() == "4/60 done, 1 retrying, 3 running, 52 queued"


def test_items_of_a_group_count_once_however_many_steps_they_have() -> None:
    chain = (step("rebuild"), step("log", "rebuild"))
    group = replace(step("g"), for_each=ForEach(as_="x", items=ITEMS[:10], max_parallel=2), steps=chain)
    state = at_second(plan(group), 5.0, **{"g[i3].log": [script(ev.Outcome.FAILED, "42P01")]})
    found = fan_outs(state)["g"]
    assert (found.total, found.running, found.finished) == (10, 2, 4)
    state = at_second(plan(group), 99.0, **{"g[i3].log": [script(ev.Outcome.FAILED, "42P01")]})
    found = fan_outs(state)["g"]
    assert (found.words(), found.unfolded) == ("9/10 done, 1 failed", ("g[i3].log",))
    assert counts_words(run_counts(state)) == "1 failed; 10 items: 9 succeeded, 1 failed"


def test_the_steps_of_a_group_without_items_are_steps() -> None:
    group = replace(step("g"), steps=(step("one"), step("two", "one"), step("three", "two")))
    state = at_second(plan(group), 1.5)
    assert fan_outs(state)["g"].words() == "1/3 steps done, 1 running, 1 queued"
    assert run_counts(state).all_items == 0


def test_a_chunk_counts_with_its_items() -> None:
    each = step("t", for_each=ForEach(as_="t", items=ITEMS, chunk=25))
    a_plan = plan(each, slots=1)
    state = at_second(a_plan, 1.5)
    assert fan_outs(state)["t"].words() == "25/60 done, 25 running, 10 queued"


def test_a_report_has_the_counts_of_its_run() -> None:
    run = simulated(fan(), {"partitions[i7]": [script(ev.Outcome.FAILED, "42P01")]}, start=AT)
    report = run_report(fan(), RUN, run.events)
    assert report.fan_outs["partitions"].words() == "59/60 done, 1 failed"
    assert (report.tally.all_steps, report.tally.steps_ended) == (3, 3)
    assert report.tally.items == {StepState.SUCCEEDED: 59, StepState.FAILED: 1}


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 12),
    slots=st.integers(1, 4),
    failing=st.sets(st.integers(0, 11)),
    second=st.floats(0, 14),
    grouped=st.booleans(),
)
def test_at_any_time_the_counts_add_up_and_the_steps_stay_as_many(
    items: int, slots: int, failing: set[int], second: float, *, grouped: bool
) -> None:
    each = replace(step("e"), for_each=ForEach(as_="x", items=ITEMS[:items]))
    each = replace(each, steps=(step("one"), step("two", "one"))) if grouped else each
    bad = [script(ev.Outcome.FAILED, "42P01")]
    scripts = {f"e[i{number}]{'.two' if grouped else ''}": bad for number in failing}
    a_plan = plan(step("a"), each, step("z", "e"), slots=slots)
    state = at_second(a_plan, second, **scripts)
    counts = run_counts(state)
    assert counts.all_steps == 3
    for found in fan_outs(state).values():
        assert found.total == items == counts.all_items
        assert found.finished + found.retrying + found.running + found.queued == items
        assert len(found.unfolded) == found.ended.get(StepState.FAILED, 0)
        assert found.running <= slots + items * grouped
