"""Steps start only while the plan's window is open by the server's clock; what does not fit is left over."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from random import Random
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.scheduler import run_status
from runner.engine.simulation import AttemptScript, CheckScript, Simulation
from runner.engine.state import BAD, WINDOW, StepState, initial_state
from runner.engine.window import EARLY, check_window, is_cancelled_by_window, window_status
from runner.errors import OutsideWindowError
from runner.plan.model import (
    AtEnd,
    Check,
    Fit,
    ForEach,
    Need,
    NeedOn,
    OnFailure,
    Outside,
    Plan,
    Repeat,
    RetryPolicy,
    Step,
    StepWindow,
    Window,
)
from runner.plan.window import Opening
from runner.structs import replace
from tests.unit.inspector import Inspector
from tests.unit.random_runs import World, random_plan
from tests.unit.simulated_runs import (
    IDLE,
    NOWHERE_SQL,
    SQL,
    code,
    ends,
    item_rows,
    launches,
    plan,
    script,
    simulated,
    step,
)

#: Midnight of a day in UTC; the window of most tests is open from 10 to 20 seconds after it.
DAY = 1_767_225_600.0
OPEN = Window(timezone="UTC", from_=10, to=20, outside=Outside.WAIT)
IN_WINDOW = DAY + 10


def run_in(window: Window, *steps: Step, start: float = IN_WINDOW, keys: dict[str, Any] | None = None, **more: Any):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as `simulated`
    """Run steps under a window; `keys` are those of the plan, the rest is for `simulated`."""
    return simulated(plan(*steps, window=window, **(keys or {})), start=start, **more)


def skips(run: Simulation) -> dict[str, str]:
    """Return why steps were left over."""
    left = (event for event in run.events if isinstance(event, ev.StepSkipped) and event.reason is ev.SkipReason.WINDOW)
    return {event.step: event.because for event in left}


def lasting(*seconds: float) -> Sequence[AttemptScript]:
    return [script(ev.Outcome.SUCCEEDED, duration=each) for each in seconds]


def of(run: Simulation, kind: type[ev.Event]) -> list[float]:
    """Return when events of a kind happened, in seconds after midnight."""
    return [event.at - DAY for event in run.events if isinstance(event, kind)]


# --- the opening ------------------------------------------------------------------------------------------------------


def test_a_run_waits_for_the_opening_and_then_starts_its_steps() -> None:
    run = run_in(OPEN, step("a"), step("b", "a"), start=DAY + 3)
    assert (of(run, ev.WindowWaiting), of(run, ev.WindowOpened)) == ([3], [10])
    assert launches(run, "a") == [DAY + 10]
    assert (ends(run), code(run)) == ({"a": "succeeded", "b": "succeeded"}, 0)
    queued = [event.reason for event in run.events if isinstance(event, ev.StepQueued)]
    assert queued == ["the window"]


def test_items_are_queried_when_the_window_is_open() -> None:
    each = ForEach(as_="t", sql=SQL)
    run = run_in(OPEN, step("a", for_each=each), start=DAY + 3, verdicts={"a": [item_rows("x", "y")]})
    assert of(run, ev.StepChecking) == [10]
    assert ends(run) == {"a": "succeeded", "a[x]": "succeeded", "a[y]": "succeeded"}


def test_the_wait_counts_for_run_timeout() -> None:
    run = run_in(OPEN, step("a"), start=DAY, keys={"run_timeout": 5.0})
    assert of(run, ev.RunTimedOut) == [5]
    assert (ends(run), code(run), launches(run, "a")) == ({"a": "skipped"}, 5, [])


def test_the_wait_does_not_count_for_queue_timeout() -> None:
    run = run_in(OPEN, step("a", queue_timeout=2.0), step("b", queue_timeout=2.0), start=DAY, keys={"slots": 1})
    assert ends(run) == {"a": "succeeded", "b": "succeeded"}
    run = run_in(OPEN, step("a"), step("b", queue_timeout=2.0), start=DAY, keys={"slots": 1}, scripts={"a": lasting(5)})
    assert ends(run) == {"a": "succeeded", "b": "failed"}
    assert of(run, ev.StepQueueTimedOut) == [12]


def test_an_interrupt_ends_the_wait() -> None:
    run = run_in(OPEN, step("a"), start=DAY, interrupts=[4.0 + DAY])
    assert (ends(run), code(run), of(run, ev.RunFinished)) == ({"a": "skipped"}, 130, [4])
    assert not skips(run)


def test_a_cancel_request_ends_the_wait() -> None:
    run = run_in(OPEN, step("a"), start=DAY, cancels=[(DAY + 4, None)])
    assert (ends(run), code(run), of(run, ev.RunFinished)) == ({"a": "skipped"}, 1, [4])


def test_a_step_that_ignores_the_window_starts_before_it_opens() -> None:
    run = run_in(OPEN, step("a", window=StepWindow.IGNORE), step("b"), start=DAY, keys={"slots": 1})
    assert (launches(run, "a"), launches(run, "b")) == ([DAY], [DAY + 10])


REFUSES = replace(OPEN, outside=Outside.REFUSE)


@pytest.mark.parametrize("seconds", [0, 7.9, 20, 86_399])
def test_a_run_outside_is_refused_with_the_next_opening(seconds: float) -> None:
    with pytest.raises(OutsideWindowError) as refusal:
        check_window(plan(step("a"), window=REFUSES), DAY + seconds)
    assert "00:00:10 to 00:00:20 (UTC)" in refusal.value.message
    assert refusal.value.hint is not None
    assert "It opens at" in refusal.value.hint


def test_a_run_inside_or_a_moment_before_is_not_refused() -> None:
    inside = Opening(opens=DAY + 10, closes=DAY + 20)
    assert check_window(plan(step("a"), window=REFUSES), DAY + 10) == inside
    assert check_window(plan(step("a"), window=REFUSES), DAY + 19.9) == inside
    assert check_window(plan(step("a"), window=REFUSES), DAY + 10 - EARLY) is None
    assert check_window(plan(step("a"), window=OPEN), DAY) is None
    assert check_window(plan(step("a")), DAY) is None


def test_a_run_that_must_not_wait_is_over_if_its_window_closes_before_its_first_step() -> None:
    run = run_in(REFUSES, step("a"), start=DAY + 20.1, keys={"finally_": (step("z"),)})
    assert of(run, ev.WindowWaiting) == []
    assert of(run, ev.WindowClosed) == [pytest.approx(20.1)]
    assert (ends(run), code(run)) == ({"a": "skipped", "z": "succeeded"}, 8)


def test_a_run_that_begins_a_moment_early_waits_for_the_opening() -> None:
    run = run_in(REFUSES, step("a"), start=DAY + 10 - EARLY)
    assert (launches(run, "a"), code(run)) == ([DAY + 10], 0)


# --- the close --------------------------------------------------------------------------------------------------------


def test_nothing_starts_after_the_close_and_what_runs_ends() -> None:
    run = run_in(OPEN, step("a"), step("b", "a"), step("c"), keys={"slots": 1}, scripts={"a": lasting(12)})
    assert of(run, ev.WindowClosed) == [20]
    assert ends(run) == {"a": "succeeded", "b": "skipped", "c": "skipped"}
    assert skips(run) == {
        "b": "the window closed at Thu 2026-01-01 00:00:20 UTC",
        "c": "the window closed at Thu 2026-01-01 00:00:20 UTC",
    }
    assert code(run) == 8


def test_a_run_that_is_finished_when_its_last_step_ends_after_the_close_succeeds() -> None:
    run = run_in(OPEN, step("a"), scripts={"a": lasting(12)})
    assert (ends(run), code(run), of(run, ev.WindowClosed)) == ({"a": "succeeded"}, 0, [20])


def test_what_needs_a_step_that_is_left_over_is_left_over_also_on_done() -> None:
    steps = (
        step("a", retry=RetryPolicy(max_attempts=9, delay=3.0)),
        step("b", Need(step="a", on=NeedOn.DONE)),
        step("c", Need(step="a", on=NeedOn.FAILURE)),
        step("d", Need(step="b", on=NeedOn.DONE), window=StepWindow.IGNORE),
    )
    run = run_in(OPEN, *steps, scripts={"a": [script(ev.Outcome.FAILED, "40P01")]})
    assert ends(run) == dict.fromkeys("abcd", "skipped")
    assert {key: skips(run)[key] for key in "bcd"} == {
        "b": "a is left over",
        "c": "a is left over",
        "d": "b is left over",
    }
    assert code(run) == 8


def test_a_retry_after_the_close_is_left_over_with_its_last_failure() -> None:
    failing = [script(ev.Outcome.FAILED, "40P01", duration=4.0)]
    run = run_in(OPEN, step("a", retry=RetryPolicy(max_attempts=9, delay=5.0)), scripts={"a": failing})
    assert launches(run, "a") == [DAY + 10, DAY + 19]
    assert skips(run) == {"a": "the window closed at Thu 2026-01-01 00:00:20 UTC; attempt 2 failed: scripted"}
    assert code(run) == 8


def test_a_failure_without_a_further_attempt_stays_a_failure() -> None:
    failing = [script(ev.Outcome.FAILED, "40P01", duration=12.0)]
    run = run_in(OPEN, step("a"), step("b", "a"), step("c"), keys={"slots": 1}, scripts={"a": failing})
    assert ends(run) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert code(run) == 1
    assert run_status(run.state) == "failed"


def test_the_next_iteration_is_left_over() -> None:
    rows = [script(ev.Outcome.SUCCEEDED, duration=4.0, row_count=5)]
    run = run_in(OPEN, step("a", repeat=Repeat(max_iterations=99)), scripts={"a": rows})
    assert launches(run, "a") == [DAY + 10, DAY + 14, DAY + 18]
    assert skips(run) == {"a": "the window closed at Thu 2026-01-01 00:00:20 UTC; 3 iterations so far"}
    assert (code(run), run.state.records["a"].rows) == (8, 15)


def test_the_last_iteration_is_not_left_over() -> None:
    rows = [script(ev.Outcome.SUCCEEDED, duration=6.0, row_count=5), script(ev.Outcome.SUCCEEDED, duration=6.0)]
    run = run_in(OPEN, step("a", repeat=Repeat(max_iterations=99)), scripts={"a": rows})
    assert (ends(run), code(run)) == ({"a": "succeeded"}, 0)


def test_checks_of_work_that_is_done_are_still_evaluated_after_the_close() -> None:
    run = run_in(OPEN, step("a", verify=SQL), scripts={"a": lasting(12)})
    assert (ends(run), code(run), of(run, ev.StepChecking)) == ({"a": "succeeded"}, 0, [22])


def test_an_unmet_precondition_that_would_be_tried_again_is_left_over() -> None:
    gated = step("a", preconditions=(Check(sql=SQL, message="not yet"),), retry=RetryPolicy(max_attempts=9, delay=6.0))
    run = run_in(OPEN, gated, verdicts={"a": [ev.Verdict.FAIL]})
    assert (ends(run), code(run), launches(run, "a")) == ({"a": "skipped"}, 8, [])


def test_conditions_that_end_after_the_close_do_not_launch() -> None:
    slow = CheckScript(duration=30.0)
    run = run_in(OPEN, step("a", if_=SQL), verdicts={"a": [slow]})
    assert (ends(run), code(run), launches(run, "a")) == ({"a": "skipped"}, 8, [])


def test_instances_are_left_over_one_by_one() -> None:
    each = ForEach(as_="t", items=("x", "y", "z"))
    run = run_in(OPEN, step("a", for_each=each), keys={"slots": 1}, scripts={"a[x]": lasting(4), "a[y]": lasting(8)})
    assert ends(run) == {"a": "skipped", "a[x]": "succeeded", "a[y]": "succeeded", "a[z]": "skipped"}
    assert skips(run)["a"] == "not all of its instances were run"
    assert code(run) == 8


def test_the_rest_of_each_chain_of_a_group_is_left_over_and_resumed() -> None:
    chain = (step("rebuild"), step("log", "rebuild"), step("free", "rebuild", window=StepWindow.IGNORE))
    items = ForEach(as_="x", items=("a", "b"), max_parallel=1)
    group = replace(step("g"), sql=NOWHERE_SQL, timeout=None, for_each=items, steps=chain)
    a_plan = plan(group, step("after", "g"), window=OPEN, slots=1)
    run = simulated(a_plan, {"g[a].rebuild": lasting(12)}, start=IN_WINDOW)
    states = ends(run)
    assert (states["g[a].rebuild"], states["g[a].free"]) == ("succeeded", "succeeded")
    left = ("g[a].log", "g[b].rebuild", "g[b].log", "g[b].free", "g[a]", "g[b]", "g", "after")
    assert {states[key] for key in left} == {"skipped"}
    assert skips(run).keys() == set(left)
    assert code(run) == 8
    again = simulated(a_plan, history=[*run.events, resumed(DAY + 86_400 + 10)])
    assert set(ends(again).values()) == {"succeeded"}
    assert (code(again), launches(again, "g[a].rebuild")) == (0, [])


def test_finally_runs_after_the_close_and_knows_why() -> None:
    last = step("last")
    run = run_in(OPEN, step("a"), step("b", "a"), keys={"finally_": (last,)}, scripts={"a": lasting(12)})
    assert ends(run) == {"a": "succeeded", "b": "skipped", "last": "succeeded"}
    assert launches(run, "last") == [DAY + 22]
    assert (code(run), run_status(run.state)) == (8, "window_closed")


def test_a_step_that_ignores_the_window_starts_after_the_close() -> None:
    run = run_in(OPEN, step("a"), step("b", "a", window=StepWindow.IGNORE), step("c", "b"), scripts={"a": lasting(12)})
    assert ends(run) == {"a": "succeeded", "b": "succeeded", "c": "skipped"}
    assert launches(run, "b") == [DAY + 22]


def test_running_steps_are_cancelled_at_the_close_with_its_reason() -> None:
    window = replace(OPEN, at_end=AtEnd.CANCEL)
    steps = (step("a"), step("b", "a"), step("idle", **IDLE), step("free", window=StepWindow.IGNORE), step("short"))
    long = {"a": lasting(30), "idle": lasting(60), "free": lasting(30)}
    run = run_in(window, *steps, keys={"slots": 9}, scripts=long)
    cancels = [(e.step, str(e.reason)) for e in run.events if isinstance(e, ev.AttemptCancelRequested)]
    assert cancels == [("a", "window")]
    assert ends(run) == {
        "a": "cancelled",
        "b": "skipped",
        "idle": "detached",
        "free": "succeeded",
        "short": "succeeded",
    }
    finished = next(e for e in run.events if isinstance(e, ev.StepFinished) and e.step == "a")
    assert finished.error is not None
    assert finished.error.detail == "the window closed at Thu 2026-01-01 00:00:20 UTC"
    assert code(run) == 8


@pytest.mark.parametrize("policy", [OnFailure.CANCEL, OnFailure.DRAIN, OnFailure.CONTINUE])
def test_a_cancel_at_the_close_is_no_failure_of_the_plan(policy: OnFailure) -> None:
    window = replace(OPEN, at_end=AtEnd.CANCEL)
    run = run_in(window, step("a"), keys={"on_failure": policy}, scripts={"a": lasting(30)})
    assert (ends(run), code(run), of(run, ev.RunDraining)) == ({"a": "cancelled"}, 8, [])
    assert run_status(run.state) == "window_closed"


def test_a_cancelled_instance_is_no_failure_but_a_failed_one_is() -> None:
    each = ForEach(as_="t", items=("x", "y"))
    window = replace(OPEN, at_end=AtEnd.CANCEL)
    run = run_in(window, step("a", for_each=each), scripts={"a[x]": lasting(30)})
    assert (ends(run)["a"], code(run)) == ("cancelled", 8)
    failed = {"a[x]": lasting(30), "a[y]": [script(ev.Outcome.FAILED, "23505")]}
    run = run_in(window, step("a", for_each=each), scripts=failed)
    assert (ends(run)["a"], code(run)) == ("failed", 1)


def test_an_interrupt_after_the_close_decides_the_exit_code() -> None:
    run = run_in(OPEN, step("a"), step("b", "a"), scripts={"a": lasting(20)}, interrupts=[DAY + 25])
    assert (ends(run), code(run)) == ({"a": "cancelled", "b": "skipped"}, 130)


# --- fit --------------------------------------------------------------------------------------------------------------

FIT = replace(OPEN, fit=Fit.P95)


def test_a_step_starts_only_if_its_usual_duration_fits() -> None:
    steps = (step("first"), step("long"), step("short"), step("unknown"))
    run = run_in(
        FIT,
        *steps,
        keys={"slots": 1},
        usual={"first": 4.0, "long": 8.0, "short": 3.0},
        scripts={"first": lasting(4), "unknown": lasting(9)},
    )
    assert ends(run) == {"first": "succeeded", "long": "skipped", "short": "succeeded", "unknown": "succeeded"}
    assert skips(run) == {"long": "it usually takes 8.0s (p95), and the window closes in 8.0s"}
    assert of(run, ev.StepSkipped) == [12]
    assert code(run) == 8


def test_a_step_that_fits_exactly_at_the_last_moment_is_not_started() -> None:
    run = run_in(FIT, step("a"), usual={"a": 10.0})
    assert (ends(run), code(run)) == ({"a": "skipped"}, 8)
    assert ends(run_in(FIT, step("a"), usual={"a": 9.9})) == {"a": "succeeded"}


def test_an_instance_fits_by_its_own_duration_else_by_that_of_its_step() -> None:
    each = ForEach(as_="t", items=("x", "y"))
    run = run_in(FIT, step("a", for_each=each), usual={"a": 30.0, "a[y]": 2.0})
    assert ends(run) == {"a": "skipped", "a[x]": "skipped", "a[y]": "succeeded"}


def test_retries_and_iterations_must_fit_too() -> None:
    rows = [script(ev.Outcome.SUCCEEDED, duration=3.0, row_count=5)]
    run = run_in(FIT, step("a", repeat=Repeat(max_iterations=99)), usual={"a": 3.0}, scripts={"a": rows})
    assert launches(run, "a") == [DAY + 10, DAY + 13, DAY + 16]
    assert skips(run) == {"a": "it usually takes 3.0s (p95), and the window closes in 1.0s; 3 iterations so far"}
    failing = [script(ev.Outcome.FAILED, "40P01", duration=4.0)]
    run = run_in(FIT, step("a", retry=RetryPolicy(max_attempts=9)), usual={"a": 5.0}, scripts={"a": failing})
    assert launches(run, "a") == [DAY + 10, DAY + 14]


def test_durations_are_not_used_outside_the_window() -> None:
    free = step("a", window=StepWindow.IGNORE)
    run = run_in(FIT, free, keys={"finally_": (step("z"),)}, usual={"a": 99.0, "z": 99.0})
    assert ends(run) == {"a": "succeeded", "z": "succeeded"}


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_server_s_clock_decides() -> None:
    run = run_in(OPEN, step("a"), start=DAY + 100, clock=[(DAY + 100, -95.0)])
    assert (of(run, ev.WindowOpened)[-1], launches(run, "a")) == (105, [DAY + 105])


def test_a_clock_that_jumps_over_the_end_closes_the_window() -> None:
    steps = (step("a"), step("b", "a"))
    run = run_in(OPEN, *steps, scripts={"a": lasting(4)}, clock=[(DAY + 11, 3600.0)])
    assert (of(run, ev.WindowClosed), ends(run), code(run)) == ([11], {"a": "succeeded", "b": "skipped"}, 8)


def test_a_clock_that_jumps_into_the_next_opening_has_closed_this_one() -> None:
    run = run_in(OPEN, step("a"), step("b", "a"), scripts={"a": lasting(4)}, clock=[(DAY + 11, 86_400.0)])
    assert (of(run, ev.WindowClosed), ends(run), code(run)) == ([11], {"a": "succeeded", "b": "skipped"}, 8)


def test_a_clock_that_is_set_back_waits_for_the_opening_again() -> None:
    run = run_in(OPEN, step("a"), step("b", "a"), scripts={"a": lasting(2)}, clock=[(DAY + 11, -5.0)])
    assert (of(run, ev.WindowWaiting), of(run, ev.WindowOpened)) == ([11], [10, 15])
    assert (launches(run, "b"), ends(run), code(run)) == ([DAY + 15], {"a": "succeeded", "b": "succeeded"}, 0)


def test_a_clock_that_jumps_over_the_opening_waits_for_the_next_one() -> None:
    run = run_in(OPEN, step("a"), start=DAY, clock=[(DAY + 5, 60.0)])
    assert of(run, ev.WindowWaiting) == [0, 5]
    assert launches(run, "a") == [DAY + 86_400 + 10 - 60]


@pytest.mark.parametrize(
    ("evening", "hours"),
    [
        pytest.param("2026-01-10T21:00+01:00", 7, id="an ordinary night"),
        pytest.param("2026-03-28T21:00+01:00", 6, id="the clock is put forward"),
        pytest.param("2026-10-24T21:00+02:00", 8, id="the clock is put back"),
    ],
)
def test_a_night_with_a_change_of_the_clock_has_as_many_iterations_as_it_has_hours(evening: str, hours: int) -> None:
    night = Window(timezone="Europe/Berlin", from_=22 * 3600, to=5 * 3600, outside=Outside.WAIT)
    begin = datetime.fromisoformat(evening).timestamp()
    loop = step("a", repeat=Repeat(max_iterations=99), timeout=None)
    hourly = [script(ev.Outcome.SUCCEEDED, duration=3601.0, row_count=5)]
    run = run_in(night, loop, start=begin, scripts={"a": hourly})
    assert launches(run, "a") == [begin + 3600 + number * 3601 for number in range(hours)]
    (closed,) = [event.at for event in run.events if isinstance(event, ev.WindowClosed)]
    assert (closed, code(run)) == (begin + 3600 * (hours + 1), 8)


def test_a_launch_that_the_server_refuses_is_made_again_a_moment_later() -> None:
    a_plan = plan(step("a"), window=OPEN)
    state = initial_state(a_plan)
    run = simulated(a_plan, start=IN_WINDOW)
    at_launch = next(number for number, e in enumerate(run.events) if isinstance(e, ev.AttemptLaunching))
    for event in run.events[: at_launch + 1]:
        apply(state, event)
    apply(state, ev.AttemptDeferred(at=IN_WINDOW, step="a", attempt=1, message="early", outside_window=True))
    assert state.ceiling is None
    from runner.engine.scheduler import decide  # noqa: PLC0415 - only here

    waiting = decide(state, IN_WINDOW)
    assert (waiting.commands, waiting.wake_at) == ((), IN_WINDOW + 0.5)
    assert [command.step for command in decide(state, IN_WINDOW + 0.5).commands] == ["a"]


def test_words_for_people() -> None:
    state = initial_state(plan(step("a"), window=OPEN))
    assert window_status(state, DAY) == ""
    apply(state, ev.WindowWaiting(at=DAY, opens_at=DAY + 10, closes_at=DAY + 20))
    assert window_status(state, DAY + 1) == "the window opens at 00:00:10 UTC, in 9.0s"
    apply(state, ev.WindowOpened(at=DAY + 10, opens_at=DAY + 10, closes_at=DAY + 20))
    assert window_status(state, DAY + 12) == "the window closes at 00:00:20 UTC, in 8.0s"
    apply(state, ev.WindowClosed(at=DAY + 20, closes_at=DAY + 20))
    assert window_status(state, DAY + 21) == "the window closed at Thu 2026-01-01 00:00:20 UTC"


# --- a resume ---------------------------------------------------------------------------------------------------------


def resumed(at: float, **keys: Any) -> ev.RunResumed:
    found = {"jobplan": "", "file": "", "sha256": "", "host": "", "os_pid": 0, "slots": 1, "steps": 1, **keys}
    return ev.RunResumed(at=at, **found)


@pytest.mark.parametrize("at_end", AtEnd)
def test_a_run_that_was_killed_after_any_event_is_finished_in_the_next_window(at_end: AtEnd) -> None:
    window = replace(OPEN, at_end=at_end, outside=Outside.WAIT, fit=Fit.P95)
    a_plan = plan(
        step("a"),
        step("b", "a", retry=RetryPolicy(max_attempts=9, delay=3.0)),
        step("c", for_each=ForEach(as_="t", items=("x", "y", "z")), idempotent=True),
        step("d", repeat=Repeat(max_iterations=9), idempotent=True),
        step("e", "b", "c"),
        slots=2,
        window=window,
        finally_=(step("z"),),
    )
    rows = [script(ev.Outcome.SUCCEEDED, duration=4.0, row_count=n) for n in (5, 5, 5, 0)]
    scripts = {"b": [script(ev.Outcome.FAILED, "40P01"), script(ev.Outcome.SUCCEEDED)], "d": rows}
    usual = {"a": 1.0, "c": 3.0}
    first = simulated(a_plan, scripts, start=DAY + 5, usual=usual)
    # The window ends a repeat between two iterations or in one.
    left_over = StepState.CANCELLED if at_end is AtEnd.CANCEL else StepState.SKIPPED
    assert (code(first), first.state.records["d"].state) == (8, left_over)
    for number in range(1, len(first.events) + 1):
        state = initial_state(a_plan)
        for event in first.events[:number]:
            apply(state, event)
        settled = tuple(
            ev.Settled(step=key, outcome=ev.Outcome.FAILED, by="ledger")
            for key, record in state.records.items()
            if record.state in (StepState.LAUNCHING, StepState.RUNNING)
        )
        again = simulated(
            a_plan,
            {"d": [script(ev.Outcome.SUCCEEDED, row_count=0)]},
            history=[*first.events[:number], resumed(DAY + 86_400 + 5, settled=settled)],
            usual=usual,
        )
        assert set(ends(again).values()) == {"succeeded"}, f"after {first.events[number - 1]}"
        assert code(again) == 0
        launched = [event.at for event in again.events if isinstance(event, ev.AttemptLaunching)]
        done = {event.step for event in first.events[:number] if isinstance(event, ev.StepFinished)}
        assert not done & {"a", "b", "c[x]"} & {e.step for e in again.events if isinstance(e, ev.AttemptLaunching)}
        assert all(moment >= DAY + 86_400 + 10 for moment in launched)


# --- what holds for every plan ----------------------------------------------------------------------------------------


def with_window(random: Random, a_plan: Plan) -> Plan:
    """Give a random plan a window that opens and closes while it runs, and let some steps ignore it."""
    begin = random.choice((0, 0, 2, 5))
    window = Window(
        timezone="UTC",
        from_=begin,
        to=begin + random.choice((1, 2, 3, 6, 20)),
        outside=random.choice((Outside.WAIT, Outside.WAIT, Outside.REFUSE)),
        at_end=random.choice(tuple(AtEnd)),
        fit=random.choice(tuple(Fit)),
    )
    steps = tuple(replace(one, window=StepWindow.IGNORE) if random.random() < 0.2 else one for one in a_plan.steps)
    return replace(a_plan, window=window, steps=steps)


def random_clock(random: Random) -> list[tuple[float, float]]:
    """Draw jumps of the server's clock: a few seconds, over the end, back to before the beginning, a day."""
    jumps = random.choice((0, 0, 0, 1, 2, 3))
    ahead = (0.0, 0.4, -1.5, 3.0, -4.0, 10.0, 100.0, -100.0, 86_400.0, -86_400.0, 3_600.0)
    return sorted((random.uniform(0.0, 9.0), random.choice(ahead)) for _ in range(jumps))


def check_run(random: Random) -> Simulation:
    a_plan = with_window(random, random_plan(random))
    world = World(random, a_plan)
    window = a_plan.window
    assert window is not None
    usual = {one.id: random.choice((0.1, 0.9, 2.5, 7.0)) for one in a_plan.steps if random.random() < 0.5}
    clock = random_clock(random)
    run = world.run(
        a_plan,
        holds=(),
        clock=clock,
        usual=usual if window.fit is not Fit.OFF else None,
        watch=Inspector(a_plan),
    )
    assert all(record.final for record in run.state.records.values())
    assert [*run.state.active, *run.state.checking, *run.state.cleared, *run.state.used] == []
    again = initial_state(a_plan)
    for event in run.events:
        apply(again, event)
    assert again == run.state
    check_starts(run, a_plan)
    check_end(run)
    return run


def check_starts(run: Simulation, a_plan: Plan) -> None:
    """Nothing that obeys the window starts outside it by the server's clock, or when it does not fit."""
    window, ahead, state = a_plan.window, 0.0, initial_state(a_plan)
    assert window is not None
    for event in run.events:
        if isinstance(event, ev.ServerClock):
            ahead = event.ahead
        before = isinstance(event, ev.StepChecking) and event.phase is not ev.CheckPhase.AFTER
        if before or isinstance(event, ev.AttemptLaunching):
            assert isinstance(event, ev.StepEvent)
            record = run.state.records[event.step]
            seconds = (event.at + ahead) % 86_400
            if WINDOW in record.needs:
                assert window.from_ - 1e-3 <= seconds < window.to, f"{event} at {seconds}"
                assert not any(isinstance(e, ev.WindowClosed) and e.at < event.at for e in run.events)
            else:
                assert record.in_finally or record.step.window is StepWindow.IGNORE
        apply(state, event)


def check_end(run: Simulation) -> None:
    """The exit code is 8 exactly if steps are left over, and nothing else has ended the run or failed."""
    last = run.events[-1]
    assert isinstance(last, ev.RunFinished)
    records = run.state.records.values()
    left = [r for r in records if r.skip is not None and r.skip.reason is ev.SkipReason.WINDOW]
    cancelled = [r for r in records if is_cancelled_by_window(run.state, r)]
    failed = [r for r in records if r.state in BAD and r not in cancelled]
    assert all(WINDOW in r.needs or r.step.needs or r.instances is not None for r in left)
    assert not cancelled or (run.state.plan.window is not None and run.state.plan.window.at_end is AtEnd.CANCEL)
    kinds = {type(event) for event in run.events}
    if not kinds & {ev.RunInterrupted, ev.RunTimedOut, ev.RunCancelled}:
        unknown = any(r.state is StepState.UNKNOWN for r in records)
        assert last.exit_code == (7 if unknown else 1 if failed else 8 if left or cancelled else 0)
    if ev.WindowClosed not in kinds and not left:
        assert last.exit_code != 8


BLOCKS, RUNS = 5, 400


#: The first block is enough to find most mistakes; the others are for CI.
ALL = [pytest.param(block, marks=[pytest.mark.slow] if block else []) for block in range(BLOCKS)]


@functools.cache
def checked_block(block: int) -> Counter[str]:
    """Check the runs of a block, and count what happened in them."""
    seen: Counter[str] = Counter()
    for seed in range(block * RUNS, (block + 1) * RUNS):
        try:
            seen.update(what_happened(check_run(Random(seed))))  # noqa: S311 - a reproducible generator is wanted
        except (AssertionError, LookupError, RuntimeError) as error:
            pytest.fail(f"check_run(Random({seed})): {error!r}")
    return seen


@pytest.mark.parametrize("block", ALL)
def test_no_step_starts_outside_the_window_whatever_happens(block: int) -> None:
    assert checked_block(block)["run_finished"] == RUNS


def what_happened(run: Simulation) -> Iterator[str]:
    for event in run.events:
        yield event.name
        if isinstance(event, ev.StepSkipped):
            yield f"skipped {event.reason}"
            if event.reason is ev.SkipReason.WINDOW:
                yield " ".join(event.because.split()[:3])
        if isinstance(event, ev.AttemptCancelRequested):
            yield f"cancel {event.reason}"
        if isinstance(event, ev.RunFinished):
            yield f"exit {event.exit_code}"
    closed = [number for number, event in enumerate(run.events) if isinstance(event, ev.WindowClosed)]
    if closed and any(isinstance(event, ev.AttemptLaunching) for event in run.events[closed[0] :]):
        yield "a start after the close"


def test_the_random_runs_meet_every_rule() -> None:
    wanted = {
        *("window_waiting", "window_opened", "window_closed", "server_clock", "usual_durations", "skipped window"),
        *("the window closed", "it usually takes", "cancel window", "exit 8", "exit 0", "exit 1", "exit 130"),
        "a start after the close",
    }
    assert wanted <= checked_block(0).keys()
