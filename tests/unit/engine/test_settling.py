"""What the end of an attempt is worth: conditions, expectations, repetition, and an unknown outcome."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.simulation import CheckScript, Simulation
from runner.plan.model import AllowFailure, Check, Expect, OnFailure, Repeat, RetryPolicy
from tests.unit.simulated_runs import SQL, code, ends, launches, message, plan, script, simulated, step

O = ev.Outcome  # noqa: E741 - it stands in every table below
V = ev.Verdict
NO_ROWS = Repeat(max_iterations=3, pause=2.0)
UNTIL = Repeat(max_iterations=3, until_sql=SQL)


def phases(run: Simulation, key: str = "a") -> list[str]:
    return [str(event.phase) for event in run.events if isinstance(event, ev.StepChecking) and event.step == key]


# --- before -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "verdict", "expected", "dependent", "exit_code"),
    [
        ({"if_": SQL}, V.PROCEED, "succeeded", "succeeded", 0),
        ({"if_": SQL}, V.SKIP, "skipped", "succeeded", 0),
        ({"if_": SQL}, V.ERROR, "failed", "skipped", 1),
        ({"preconditions": (Check(sql=SQL, message="no"),)}, V.FAIL, "failed", "skipped", 1),
        ({"if_": SQL, "allow_failure": AllowFailure()}, V.ERROR, "failed_allowed", "succeeded", 0),
        (
            {"preconditions": (Check(sql=SQL, message="no"),), "allow_failure": AllowFailure(sqlstates=frozenset("x"))},
            V.FAIL,
            "failed",
            "skipped",
            1,
        ),
    ],
)
def test_conditions_before_a_step(
    keys: dict[str, Any], verdict: ev.Verdict, expected: str, dependent: str, exit_code: int
) -> None:
    run = simulated(plan(step("a", **keys), step("b", "a")), verdicts={"a": [verdict]})
    assert (ends(run), code(run)) == ({"a": expected, "b": dependent}, exit_code)
    assert len(launches(run, "a")) == (verdict is V.PROCEED)


def test_a_step_that_must_not_start_says_why() -> None:
    run = simulated(plan(step("a", preconditions=(Check(sql=SQL, message="no"),))), verdicts={"a": [V.FAIL]})
    assert message(run, "a") == "scripted before fail"


def test_a_step_that_is_asked_about_while_the_run_stops_is_drained() -> None:
    slow = CheckScript(duration=9.0)
    run = simulated(plan(step("a", if_=SQL), step("b", "a")), verdicts={"a": [slow]}, interrupts=[1.0])
    assert (ends(run), code(run), run.makespan) == ({"a": "skipped", "b": "skipped"}, 130, 9.0)
    assert run.state.records["a"].skip == ev.StepSkipped(
        at=9.0, step="a", reason=ev.SkipReason.DRAINED, because="interrupted"
    )


# --- after ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "verdict", "expected"),
    [
        ({"verify": SQL}, V.PROCEED, "succeeded"),
        ({"verify": SQL}, V.FAIL, "failed"),
        ({"verify": SQL}, V.ERROR, "failed"),
        ({"expect": Expect(sql=SQL)}, V.FAIL, "failed"),
        ({"verify": SQL, "allow_failure": AllowFailure()}, V.FAIL, "failed_allowed"),
        ({"verify": SQL, "retry": RetryPolicy(max_attempts=3)}, V.FAIL, "failed"),
    ],
)
def test_conditions_after_a_success(keys: dict[str, Any], verdict: ev.Verdict, expected: str) -> None:
    run = simulated(plan(step("a", **keys)), verdicts={"a": [verdict]})
    assert (ends(run), phases(run), len(launches(run, "a"))) == ({"a": expected}, ["after"], 1)


@pytest.mark.parametrize("outcome", [O.FAILED, O.TIMED_OUT, O.CANCELLED, O.DETACHED])
def test_nothing_is_verified_after_an_attempt_that_is_known_not_to_have_done_it(outcome: ev.Outcome) -> None:
    run = simulated(plan(step("a", verify=SQL)), {"a": [script(outcome)]})
    assert (phases(run), ends(run)) == ([], {"a": str(outcome)})


@pytest.mark.parametrize(
    ("keys", "verdicts", "expected", "attempts", "exit_code"),
    [
        ({}, [V.PROCEED], "succeeded", 1, 0),
        ({}, [V.FAIL], "failed", 1, 1),
        ({}, [V.ERROR], "unknown", 1, 7),
        ({"idempotent": True}, [V.PROCEED], "succeeded", 1, 0),
        ({"idempotent": True}, [V.FAIL, V.PROCEED], "succeeded", 2, 0),
        ({"idempotent": True}, [V.FAIL], "failed", 3, 1),
        ({"idempotent": True}, [V.FAIL, V.FAIL, V.ERROR], "unknown", 3, 7),
        ({"idempotent": True}, [V.ERROR], "unknown", 3, 7),
        ({"allow_failure": AllowFailure()}, [V.FAIL], "failed_allowed", 1, 0),
        ({"retry": RetryPolicy(max_attempts=5)}, [V.FAIL], "failed", 1, 1),
    ],
)
def test_verify_settles_an_unknown_outcome(
    keys: dict[str, Any], verdicts: list[ev.Verdict], expected: str, attempts: int, exit_code: int
) -> None:
    run = simulated(plan(step("a", verify=SQL, **keys)), {"a": [script(O.UNKNOWN)]}, {"a": verdicts})
    assert (ends(run), len(launches(run, "a")), code(run)) == ({"a": expected}, attempts, exit_code)


def test_what_verify_has_denied_stays_denied_when_there_is_no_second_attempt() -> None:
    again = step("a", verify=SQL, idempotent=True)
    run = simulated(plan(again), {"a": [script(O.UNKNOWN)]}, {"a": [V.FAIL]}, interrupts=[1.5])
    assert (ends(run), code(run), message(run, "a")) == ({"a": "failed"}, 130, "scripted after fail")


def test_what_verify_has_denied_stays_denied_when_the_server_refuses_another_attempt() -> None:
    again = step("a", verify=SQL, idempotent=True)
    run = simulated(
        plan(again, run_timeout=30.0),
        {"a": [script(O.UNKNOWN)]},
        {"a": [V.FAIL]},
        capacity=lambda now: 1 if now < 1.5 else 0,
    )
    assert (ends(run), code(run)) == ({"a": "failed"}, 5)


def test_an_unknown_outcome_says_why_verify_could_not_settle_it() -> None:
    run = simulated(plan(step("a", verify=SQL)), {"a": [script(O.UNKNOWN)]}, {"a": [V.ERROR]})
    finished = next(event for event in run.events if isinstance(event, ev.StepFinished))
    assert finished.error is not None
    assert finished.error.detail == "scripted after error"


def test_a_new_attempt_is_verified_again() -> None:
    again = step("a", verify=SQL, idempotent=True)
    run = simulated(plan(again), {"a": [script(O.UNKNOWN), script(O.SUCCEEDED)]}, {"a": [V.FAIL, V.PROCEED]})
    assert (phases(run), ends(run)) == (["after", "after"], {"a": "succeeded"})


def test_an_unmet_expectation_fails_the_step_before_anything_is_verified() -> None:
    picky = step("a", verify=SQL, expect=Expect(rows_min=2), retry=RetryPolicy(max_attempts=3))
    run = simulated(plan(picky), {"a": [script(O.SUCCEEDED, row_count=1)]})
    assert (ends(run), phases(run), message(run, "a")) == ({"a": "failed"}, [], "expected at least 2 rows, got 1")


# --- repeat -----------------------------------------------------------------------------------------------------------


def rows(*counts: int | None) -> dict[str, list[Any]]:
    return {"a": [script(O.SUCCEEDED, row_count=count) for count in counts]}


@pytest.mark.parametrize(
    ("counts", "expected", "at"),
    [
        ((0,), "succeeded", [0.0]),
        ((5, 0), "succeeded", [0.0, 3.0]),
        ((5, 5, 0), "succeeded", [0.0, 3.0, 6.0]),
        ((5, 5, 5), "failed", [0.0, 3.0, 6.0]),
        ((None,), "failed", [0.0, 3.0, 6.0]),
    ],
)
def test_a_step_is_repeated_until_it_gives_no_rows(
    counts: tuple[int | None, ...], expected: str, at: list[float]
) -> None:
    run = simulated(plan(step("a", repeat=NO_ROWS)), rows(*counts))
    assert (ends(run), launches(run, "a")) == ({"a": expected}, at)


@pytest.mark.parametrize(
    ("verdicts", "expected", "iterations"),
    [
        ([V.PROCEED], "succeeded", 1),
        ([V.AGAIN, V.PROCEED], "succeeded", 2),
        ([V.AGAIN], "failed", 3),
        ([V.AGAIN, V.FAIL], "failed", 2),
        ([V.AGAIN, V.ERROR], "failed", 2),
    ],
)
def test_a_step_is_repeated_until_a_condition_holds(verdicts: list[ev.Verdict], expected: str, iterations: int) -> None:
    run = simulated(plan(step("a", repeat=UNTIL)), rows(7), {"a": verdicts})
    assert (ends(run), len(launches(run, "a"))) == ({"a": expected}, iterations)


def test_too_many_iterations_say_how_many() -> None:
    run = simulated(plan(step("a", repeat=NO_ROWS)), rows(1))
    assert message(run, "a") == "not done after max_iterations (3)"


def test_verify_comes_after_the_last_iteration_only() -> None:
    run = simulated(plan(step("a", repeat=NO_ROWS, verify=SQL)), rows(5, 5, 0), {"a": [V.FAIL]})
    assert (ends(run), phases(run)) == ({"a": "failed"}, ["after"])


def test_the_slot_is_free_between_two_iterations() -> None:
    run = simulated(plan(step("a", repeat=NO_ROWS), step("b"), slots=1), rows(5, 0))
    assert (launches(run, "a"), launches(run, "b")) == ([0.0, 3.0], [1.0])


def test_attempts_are_counted_again_in_each_iteration() -> None:
    failing = [script(O.FAILED), script(O.SUCCEEDED, row_count=1)]
    retry = RetryPolicy(max_attempts=2)
    run = simulated(plan(step("a", repeat=NO_ROWS, retry=retry)), {"a": [*failing * 2, *failing[:1], *failing[:1]]})
    numbers = [event.attempt for event in run.events if isinstance(event, ev.AttemptLaunching)]
    assert (numbers, ends(run)) == ([1, 2, 3, 4, 5, 6], {"a": "failed"})


def test_the_delay_of_a_retry_is_that_of_its_iteration() -> None:
    retry = RetryPolicy(max_attempts=2, delay=1.0, backoff=10.0)
    scripts = [script(O.SUCCEEDED, row_count=1), script(O.SUCCEEDED, row_count=1), script(O.FAILED), *rows(0)["a"]]
    run = simulated(plan(step("a", repeat=Repeat(max_iterations=9), retry=retry)), {"a": scripts})
    assert (launches(run, "a"), ends(run)) == ([0.0, 1.0, 2.0, 4.0], {"a": "succeeded"})


def test_an_interrupt_between_two_iterations_cancels_the_step() -> None:
    run = simulated(plan(step("a", repeat=NO_ROWS), step("b", "a")), rows(5), interrupts=[2.0])
    assert (ends(run), code(run)) == ({"a": "cancelled", "b": "skipped"}, 130)
    assert message(run, "a") == "stopped after 1 of at most 3 iterations"


def test_an_interrupt_during_the_until_condition_cancels_the_step() -> None:
    slow = CheckScript(duration=9.0, verdict=V.AGAIN)
    run = simulated(plan(step("a", repeat=UNTIL)), rows(5), {"a": [slow]}, interrupts=[5.0])
    assert (ends(run), message(run, "a")) == ({"a": "cancelled"}, "stopped after 1 of at most 3 iterations")


def test_an_interrupt_during_the_until_condition_does_not_undo_what_is_done() -> None:
    run = simulated(plan(step("a", repeat=UNTIL)), rows(5), {"a": [CheckScript(duration=9.0)]}, interrupts=[5.0])
    assert (ends(run), code(run)) == ({"a": "succeeded"}, 130)


def test_queue_timeout_counts_for_each_iteration() -> None:
    waiting = step("a", repeat=NO_ROWS, queue_timeout=4.0)
    hog = step("b", "c")
    run = simulated(
        plan(waiting, step("c"), hog, slots=1),
        {**rows(5, 5), "b": [script(O.SUCCEEDED, duration=30.0)]},
    )
    assert (ends(run)["a"], message(run, "a")) == ("failed", "no slot within its queue_timeout of 4 s")


def test_a_failure_elsewhere_ends_the_repetition() -> None:
    run = simulated(
        plan(step("a", repeat=NO_ROWS), step("b"), on_failure=OnFailure.DRAIN),
        {**rows(5), "b": [script(O.FAILED, duration=2.0)]},
    )
    assert (ends(run), code(run)) == ({"a": "cancelled", "b": "failed"}, 1)


def test_ten_thousand_iterations_are_as_many_launches() -> None:
    many = step("a", repeat=Repeat(max_iterations=10_000))
    run = simulated(plan(many), {"a": [script(O.SUCCEEDED, row_count=1)]}, watch=None)
    assert len(launches(run, "a")) == 10_000
    assert len(run.events) <= 6 * 10_000
