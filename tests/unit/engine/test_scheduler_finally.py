"""`finally`, selection, and what a run says of itself in the end."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.scheduler import run_status
from runner.engine.simulation import CheckScript, Simulation
from runner.plan.model import ForEach, Need, NeedOn, OnFailure, Plan, Repeat, RetryPolicy, Step
from tests.unit.simulated_runs import IDLE, SQL, code, ends, launches, plan, script, simulated, step

O = ev.Outcome  # noqa: E741 - it stands in every table below
LONG = {"a": [script(O.SUCCEEDED, duration=50.0)]}
BAD = {"a": [script(O.FAILED)]}


def with_note(*steps: Step, **keys: Any) -> Plan:
    return plan(*steps, finally_=(step("note"),), **keys)


def skips(run: Simulation) -> dict[str, tuple[str, str]]:
    found = [event for event in run.events if isinstance(event, ev.StepSkipped)]
    return {event.step: (str(event.reason), event.because) for event in found}


@pytest.mark.parametrize(
    ("a_plan", "scripts", "keys", "status", "exit_code", "at"),
    [
        (with_note(step("a")), {}, {}, "succeeded", 0, 1.0),
        (with_note(step("a"), step("b", "a")), BAD, {}, "failed", 1, 1.0),
        (with_note(step("a"), on_failure=OnFailure.DRAIN), BAD, {}, "failed", 1, 1.0),
        (with_note(step("a"), step("b"), on_failure=OnFailure.CANCEL), BAD, {}, "failed", 1, 1.0),
        (with_note(step("a")), {"a": [script(O.UNKNOWN)]}, {}, "failed", 7, 1.0),
        (with_note(step("a"), run_timeout=5.0), LONG, {}, "timed_out", 5, 5.0),
        (with_note(step("a")), LONG, {"interrupts": [2.0]}, "interrupted", 130, 2.0),
        (with_note(step("a", **IDLE), step("b")), LONG, {}, "succeeded", 0, 1.0),
        (with_note(step("a")), {}, {"not_selected": ["a"]}, "succeeded", 0, 0.0),
        (with_note(step("a", for_each=ForEach(as_="t"))), {}, {}, "succeeded", 0, 0.0),
    ],
)
def test_finally_runs_however_the_rest_ended(
    a_plan: Plan, scripts: dict[str, Any], keys: dict[str, Any], status: str, exit_code: int, at: float
) -> None:
    run = simulated(a_plan, scripts, **keys)
    assert (launches(run, "note"), ends(run)["note"]) == ([at], "succeeded")
    assert (run_status(run.state), code(run)) == (status, exit_code)


def test_finally_waits_for_a_worker_that_ends_late_after_its_cancel() -> None:
    slow = {"a": [script(O.SUCCEEDED, duration=50.0, cancel_latency=7.0)]}
    assert launches(simulated(with_note(step("a")), slow, interrupts=[2.0]), "note") == [9.0]


def test_finally_waits_for_what_is_being_asked() -> None:
    asked = CheckScript(duration=6.0)
    run = simulated(with_note(step("a", verify=SQL)), verdicts={"a": [asked]}, interrupts=[2.0])
    assert (launches(run, "note"), ends(run)["a"]) == ([7.0], "succeeded")


def test_finally_steps_have_only_their_own_timeouts() -> None:
    run = simulated(with_note(step("a"), run_timeout=5.0), {**LONG, "note": [script(O.SUCCEEDED, duration=30.0)]})
    timeouts = {event.step: event.timeout for event in run.events if isinstance(event, ev.AttemptLaunching)}
    assert (timeouts, run.makespan, code(run)) == ({"a": 5.0, "note": 60.0}, 35.0, 5)


def test_finally_steps_need_each_other() -> None:
    steps = (step("f"), step("g", "f"), step("h", Need(step="f", on=NeedOn.FAILURE)), step("i"))
    run = simulated(plan(step("a"), finally_=steps), {"f": [script(O.FAILED)]})
    assert {key: ends(run)[key] for key in "fghi"} == {
        "f": "failed", "g": "skipped", "h": "succeeded", "i": "succeeded",
    }  # fmt: skip
    assert (skips(run)["g"], code(run)) == (("upstream", "f failed"), 1)


def test_a_finally_step_that_fails_stops_no_other_and_does_not_change_how_the_run_ended() -> None:
    steps = (step("f"), step("g", Need(step="f", on=NeedOn.DONE)))
    run = simulated(plan(step("a"), finally_=steps, on_failure=OnFailure.CANCEL), {"f": [script(O.FAILED)]})
    assert (ends(run)["g"], run_status(run.state), code(run)) == ("succeeded", "succeeded", 1)
    assert not any(isinstance(event, ev.RunDraining) for event in run.events)


def test_finally_steps_retry_and_repeat_after_an_interrupt() -> None:
    steps = (step("f", retry=RetryPolicy(max_attempts=2, delay=1.0)), step("g", repeat=Repeat(max_iterations=2)))
    scripts = {
        **LONG,
        "f": [script(O.FAILED), script(O.SUCCEEDED)],
        "g": [script(O.SUCCEEDED, row_count=1), script(O.SUCCEEDED)],
    }
    run = simulated(plan(step("a"), finally_=steps), scripts, interrupts=[2.0])
    assert (launches(run, "f"), launches(run, "g")) == ([2.0, 4.0], [2.0, 3.0])
    assert (ends(run), code(run)) == ({"a": "cancelled", "f": "succeeded", "g": "succeeded"}, 130)


def test_an_interrupt_of_finally_ends_it() -> None:
    steps = (step("f"), step("g", "f"), step("h", for_each=ForEach(as_="t", items=("x", "y"), max_parallel=1)))
    scripts = {key: [script(O.SUCCEEDED, duration=50.0)] for key in ("f", "h[x]")}
    run = simulated(plan(step("a"), finally_=steps), scripts, interrupts=[3.0])
    assert ends(run) == {
        "a": "succeeded", "f": "cancelled", "g": "skipped", "h": "cancelled", "h[x]": "cancelled", "h[y]": "skipped",
    }  # fmt: skip
    assert (code(run), run.makespan, skips(run)["h[y]"]) == (130, 3.0, ("drained", "interrupted"))


def test_detach_steps_of_finally_are_detached_at_the_end() -> None:
    steps = (step("f", **IDLE), step("g"))
    run = simulated(plan(step("a"), finally_=steps), {"f": [script(O.SUCCEEDED, duration=50.0)]})
    assert (ends(run)["f"], run.makespan) == ("detached", 2.0)


def test_finally_has_to_fit_into_the_budget_too() -> None:
    run = simulated(plan(step("a"), finally_=(step("f"), step("g")), slots=1))
    assert (launches(run, "f"), launches(run, "g")) == ([1.0], [2.0])


# --- selection --------------------------------------------------------------------------------------------------------


def test_a_step_that_was_not_selected_counts_as_done() -> None:
    late = step("d", Need(step="a", on=NeedOn.FAILURE))
    run = simulated(
        plan(step("a"), step("b", "a"), step("c", Need(step="a", on=NeedOn.DONE)), late), not_selected=["a"]
    )
    assert ends(run) == {"a": "skipped", "b": "succeeded", "c": "succeeded", "d": "skipped"}
    assert (skips(run)["d"], code(run)) == (("upstream", "a skipped"), 0)


def test_nothing_is_asked_of_a_step_that_was_not_selected() -> None:
    steps = (step("a", if_=SQL), step("b", for_each=ForEach(as_="t", sql=SQL)), step("c", "a", "b"))
    run = simulated(plan(*steps), not_selected=["a", "b"])
    assert not any(isinstance(event, ev.StepChecking) for event in run.events)
    assert (ends(run)["c"], launches(run, "c")) == ("succeeded", [0.0])
