"""When `if` and `preconditions` are evaluated, what they hold meanwhile, and what their answer means for the step."""

from __future__ import annotations

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.resume_state import has_succeeded, is_kept, is_open
from runner.engine.simulation import CheckScript, Simulation
from runner.engine.slot_queue import HOLD_FOR
from runner.engine.state import initial_state
from runner.plan.model import Check, ForEach, Repeat, RetryPolicy
from tests.unit.simulated_runs import SQL, code, ends, launches, message, plan, script, simulated, step

O = ev.Outcome  # noqa: E741 - it stands in every table below
V = ev.Verdict
GATED = {"preconditions": (Check(sql=SQL, message="replicas are behind"),)}
LOOP = Repeat(max_iterations=5)


def evaluated(run: Simulation, key: str = "a") -> list[float]:
    """Return when the conditions before a launch were evaluated."""
    return [
        event.at
        for event in run.events
        if isinstance(event, ev.StepChecking) and event.step == key and event.phase is ev.CheckPhase.BEFORE
    ]


def finish(run: Simulation, key: str = "a") -> ev.StepFinished:
    return next(event for event in run.events if isinstance(event, ev.StepFinished) and event.step == key)


def test_conditions_are_evaluated_when_the_slot_is_free_and_not_before() -> None:
    run = simulated(
        plan(step("long", priority=9), step("a", if_=SQL), slots=1), {"long": [script(O.SUCCEEDED, duration=30)]}
    )
    assert (evaluated(run), launches(run, "a")) == ([30.0], [30.0])


def test_what_was_true_when_the_step_became_ready_does_not_count() -> None:
    closed = {"a": [V.SKIP]}
    run = simulated(plan(step("long", priority=9), step("a", if_=SQL), slots=1), verdicts=closed)
    assert (ends(run)["a"], evaluated(run)) == ("skipped", [1.0])


def test_each_instance_is_evaluated_before_its_own_launch() -> None:
    each = step("a", if_=SQL, for_each=ForEach(as_="i", items=("x", "y", "z")))
    run = simulated(plan(each, slots=1), verdicts={"a[y]": [V.SKIP]})
    assert [evaluated(run, f"a[{item}]") for item in "xyz"] == [[0.0], [1.0], [1.0]]
    assert (ends(run)["a[y]"], ends(run)["a"]) == ("skipped", "succeeded")


def test_each_attempt_is_evaluated_before_its_launch() -> None:
    run = simulated(plan(step("a", if_=SQL, retry=RetryPolicy(max_attempts=3, delay=2.0))), {"a": [script(O.FAILED)]})
    assert (evaluated(run), launches(run, "a")) == ([0.0, 3.0, 6.0], [0.0, 3.0, 6.0])


def test_each_iteration_is_evaluated_before_its_launch() -> None:
    more, done = script(O.SUCCEEDED, row_count=5), script(O.SUCCEEDED, row_count=0)
    run = simulated(plan(step("a", repeat=LOOP, **GATED)), {"a": [more, more, done]})
    assert (evaluated(run), launches(run, "a"), ends(run)["a"]) == ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], "succeeded")


def test_a_loop_that_its_condition_stops_has_succeeded_and_says_so() -> None:
    more = script(O.SUCCEEDED, row_count=5)
    run = simulated(
        plan(step("a", repeat=LOOP, if_=SQL), step("b", "a")), {"a": [more]}, {"a": [V.PROCEED, V.PROCEED, V.SKIP]}
    )
    assert (ends(run), len(launches(run, "a")), code(run)) == ({"a": "succeeded", "b": "succeeded"}, 2, 0)
    assert finish(run).because == "if is false: stopped after 2 iterations"


def test_a_loop_that_does_not_begin_is_skipped() -> None:
    run = simulated(plan(step("a", repeat=LOOP, if_=SQL)), verdicts={"a": [V.SKIP]})
    assert (ends(run)["a"], launches(run, "a")) == ("skipped", [])


def test_a_condition_that_ends_the_attempts_leaves_the_failure_as_it_is() -> None:
    tried = step("a", if_=SQL, retry=RetryPolicy(max_attempts=3))
    run = simulated(plan(tried), {"a": [script(O.FAILED, "55P03")]}, {"a": [V.PROCEED, V.SKIP]})
    error = finish(run).error
    assert error is not None
    assert (ends(run)["a"], error.message, error.detail) == ("failed", "scripted", "not retried: if is false")


def test_a_loop_whose_failed_iteration_is_not_tried_again_has_failed() -> None:
    tried = step("a", if_=SQL, repeat=LOOP, retry=RetryPolicy(max_attempts=3))
    attempts = [script(O.SUCCEEDED, row_count=5), script(O.TIMED_OUT)]
    run = simulated(plan(tried), {"a": attempts}, {"a": [V.PROCEED, V.PROCEED, V.SKIP]})
    assert (ends(run)["a"], finish(run).because) == ("timed_out", None)


@pytest.mark.parametrize("iteration", [1, 3])
def test_an_unmet_precondition_fails_the_step_before_any_iteration(iteration: int) -> None:
    more = script(O.SUCCEEDED, row_count=5)
    verdicts = [V.PROCEED] * (iteration - 1) + [V.FAIL]
    run = simulated(plan(step("a", repeat=LOOP, **GATED)), {"a": [more]}, {"a": verdicts})
    assert (ends(run)["a"], len(launches(run, "a")), code(run)) == ("failed", iteration - 1, 1)
    assert message(run, "a") == "scripted before fail"


def test_an_unmet_precondition_is_tried_again_as_retry_says() -> None:
    waits = step("a", retry=RetryPolicy(max_attempts=3, delay=4.0, backoff=2.0), **GATED)
    run = simulated(plan(waits), verdicts={"a": [V.FAIL, V.FAIL, V.PROCEED]})
    assert (evaluated(run), launches(run, "a"), ends(run)["a"]) == ([0.0, 4.0, 12.0], [12.0], "succeeded")
    assert run.state.records["a"].attempt == 1


def test_a_precondition_that_stays_unmet_fails_the_step_when_its_attempts_are_used_up() -> None:
    waits = step("a", retry=RetryPolicy(max_attempts=3, delay=4.0), **GATED)
    run = simulated(plan(waits), verdicts={"a": [V.FAIL]})
    assert (evaluated(run), launches(run, "a"), ends(run)["a"]) == ([0.0, 4.0, 8.0], [], "failed")


def test_each_iteration_has_its_own_attempts_for_a_precondition() -> None:
    more, done = script(O.SUCCEEDED, row_count=5), script(O.SUCCEEDED, row_count=0)
    waits = step("a", repeat=LOOP, retry=RetryPolicy(max_attempts=2, delay=4.0), **GATED)
    run = simulated(plan(waits), {"a": [more, done]}, {"a": [V.FAIL, V.PROCEED, V.FAIL, V.PROCEED]})
    assert (launches(run, "a"), ends(run)["a"]) == ([4.0, 9.0], "succeeded")


def test_a_precondition_is_not_one_of_the_errors_that_retry_names() -> None:
    waits = step("a", retry=RetryPolicy(max_attempts=3, on=frozenset({"55P03"})), **GATED)
    run = simulated(plan(waits), verdicts={"a": [V.FAIL]})
    assert (len(evaluated(run)), ends(run)["a"]) == (1, "failed")


def test_nothing_takes_the_slot_between_the_answer_and_the_launch() -> None:
    steps = (step("a", if_=SQL), *(step(f"b{number}") for number in range(4)))
    run = simulated(plan(*steps, slots=1), verdicts={"a": [CheckScript(duration=HOLD_FOR / 2)]})
    assert launches(run, "a") == [HOLD_FOR / 2]
    assert min(launches(run, f"b{number}")[0] for number in range(4)) == HOLD_FOR / 2 + 1.0


def test_a_slow_condition_gives_its_slot_to_others_and_is_evaluated_again() -> None:
    slow = CheckScript(duration=50.0)
    other = {"b": [script(O.SUCCEEDED, duration=55.0)]}
    run = simulated(plan(step("a", if_=SQL), step("b"), slots=1), other, {"a": [slow, V.PROCEED]})
    assert launches(run, "b") == [HOLD_FOR]
    assert (evaluated(run), launches(run, "a")) == ([0.0, HOLD_FOR + 55.0], [HOLD_FOR + 55.0])


def test_a_slow_condition_that_finds_its_slot_free_is_launched_at_once() -> None:
    slow = CheckScript(duration=50.0)
    run = simulated(plan(step("a", if_=SQL, queue_timeout=5.0), step("b"), slots=1), verdicts={"a": [slow]})
    assert (launches(run, "b"), launches(run, "a"), code(run)) == ([HOLD_FOR], [50.0], 0)


def test_a_condition_that_is_always_slow_gives_way_only_once() -> None:
    slow = CheckScript(duration=3.0)
    others = {f"b{number}": [script(O.SUCCEEDED, duration=10.0)] for number in range(3)}
    run = simulated(plan(step("a", if_=SQL), *(step(key) for key in others), slots=1), others, {"a": [slow]})
    assert (evaluated(run), launches(run, "a")) == ([0.0, 11.0], [14.0])


def test_a_launch_that_the_server_defers_is_evaluated_again() -> None:
    run = simulated(
        plan(step("a", if_=SQL)),
        capacity=lambda now: 0 if now < 2.5 else 9,
    )
    assert ends(run)["a"] == "succeeded"
    assert len(evaluated(run)) == sum(isinstance(event, ev.AttemptDeferred) for event in run.events) + 1
    assert evaluated(run)[-1] == launches(run, "a")[-1]


@pytest.mark.parametrize(
    "last",
    [
        ev.StepChecking(at=2.0, step="a", phase=ev.CheckPhase.BEFORE),
        ev.StepChecked(at=2.0, step="a", phase=ev.CheckPhase.BEFORE, verdict=V.PROCEED),
        ev.StepChecked(at=2.0, step="a", phase=ev.CheckPhase.BEFORE, verdict=V.FAIL),
        ev.StepChecked(at=2.0, step="a", phase=ev.CheckPhase.BEFORE, verdict=V.ERROR),
    ],
)
@pytest.mark.parametrize("iterations", [0, 1])
def test_a_runner_that_dies_while_conditions_are_evaluated_leaves_nothing_open(
    last: ev.StepEvent, iterations: int
) -> None:
    """No worker was asked for: the step begins anew, and its conditions are evaluated again."""
    more = script(O.SUCCEEDED, row_count=5)
    whole = simulated(plan(step("a", repeat=LOOP, **GATED)), {"a": [more]}, {"a": [V.PROCEED, V.SKIP]})
    state = initial_state(plan(step("a", repeat=LOOP, **GATED)))
    seen = 0
    for event in whole.events:
        if isinstance(event, ev.StepChecking):
            if seen == iterations:
                break
            seen += 1
        apply(state, event)
    apply(state, ev.StepChecking(at=2.0, step="a", phase=ev.CheckPhase.BEFORE))
    if not isinstance(last, ev.StepChecking):
        apply(state, last)
    record = state.records["a"]
    assert record.attempt == iterations
    assert [check(record) for check in (is_open, has_succeeded)] == [False, False]
    assert not is_kept(record, {})


def test_conditions_that_are_being_evaluated_leave_a_run_that_stops_nothing_to_launch() -> None:
    checks = {"a": [CheckScript(duration=0.5)]}
    run = simulated(plan(step("a", if_=SQL)), verdicts=checks, interrupts=[0.2])
    assert (ends(run)["a"], launches(run, "a"), code(run)) == ("skipped", [], 130)


def test_a_step_whose_end_was_asked_for_is_not_launched_when_its_conditions_hold() -> None:
    checks = {"a": [CheckScript(duration=0.5)]}
    run = simulated(plan(step("a", if_=SQL)), verdicts=checks, cancels=[(0.2, "a")])
    assert (ends(run)["a"], launches(run, "a")) == ("cancelled", [])
