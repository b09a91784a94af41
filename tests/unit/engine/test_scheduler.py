"""Each rule of the scheduler by itself: a few steps, what happens to them, and what it must make of that."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import Cancel, Command, Detach, Launch
from runner.engine.scheduler import GRACE, decide, exit_code
from runner.engine.slot_queue import why_queued
from runner.engine.state import OVERTAKES_PER_SLOT, RunState, initial_state
from runner.plan.model import (
    AllowFailure,
    Need,
    NeedOn,
    OnFailure,
    OnRunnerExit,
    Plan,
    RetryPolicy,
    Step,
)
from tests.builders import sql
from tests.invariants import validate
from tests.unit.simulated_runs import IDLE, code, ends, launches, plan, script, simulated, step

O = ev.Outcome  # noqa: E741 - it stands in every table below


class Table:
    """A state that the test moves by hand, event by event."""

    def __init__(self, a_plan: Plan) -> None:
        self.state: RunState = initial_state(a_plan)
        self.now = 0.0

    def settle(self) -> tuple[Command, ...]:
        """Apply what follows, and return the orders."""
        while True:
            decision = decide(self.state, self.now)
            for event in decision.events:
                apply(self.state, event)
            if not decision.events:
                return decision.commands

    def launch(self) -> list[str]:
        """Perform the launches that are ordered and return the steps that they are for."""
        orders = [order for order in self.settle() if isinstance(order, Launch)]
        for order in orders:
            self.happen(
                ev.AttemptLaunching, order, application_name="x", timeout=order.timeout, overtook=order.overtook
            )
        return [order.step for order in orders]

    def happen(self, kind: type[ev.AttemptEvent], order: Command | str, **keys: Any) -> None:
        key = order if isinstance(order, str) else order.step
        attempt = self.state.records[key].attempt if isinstance(order, str) else order.attempt
        apply(self.state, kind(at=self.now, step=key, attempt=attempt, **keys))
        validate(self.state)

    def run(self, key: str) -> None:
        worker = ev.Worker(pid=1, backend_start="", application_name="x")
        self.happen(ev.AttemptRunning, key, worker=worker)

    def refuse(self, key: str) -> None:
        self.happen(ev.AttemptDeferred, key, message="53000")


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (RetryPolicy(), [0.0]),
        (RetryPolicy(max_attempts=3), [0.0, 1.0, 2.0]),
        (RetryPolicy(max_attempts=3, delay=2.0), [0.0, 3.0, 6.0]),
        (RetryPolicy(max_attempts=4, delay=1.0, backoff=2.0), [0.0, 2.0, 5.0, 10.0]),
        (RetryPolicy(max_attempts=5, delay=1.0, backoff=3.0, max_delay=4.0), [0.0, 2.0, 6.0, 11.0, 16.0]),
        (RetryPolicy(max_attempts=3, on=frozenset({"40P01"})), [0.0, 1.0, 2.0]),
        (RetryPolicy(max_attempts=3, on=frozenset({"55P03"})), [0.0]),
        (RetryPolicy(max_attempts=3, on=frozenset({"timeout"})), [0.0]),
    ],
)
def test_a_failed_step_is_tried_again(retry: RetryPolicy, expected: list[float]) -> None:
    run = simulated(plan(step("a", retry=retry)), {"a": [script(O.FAILED, "40P01")]})
    assert launches(run, "a") == expected
    assert (ends(run), code(run)) == ({"a": "failed"}, 1)


@pytest.mark.parametrize(
    ("outcome", "on", "attempts"),
    [
        (O.TIMED_OUT, frozenset(), 3),
        (O.TIMED_OUT, frozenset({"timeout"}), 3),
        (O.TIMED_OUT, frozenset({"57014"}), 1),
        (O.CANCELLED, frozenset(), 1),
        (O.UNKNOWN, frozenset(), 1),
        (O.DETACHED, frozenset(), 1),
    ],
)
def test_what_counts_as_worth_another_attempt(outcome: ev.Outcome, on: frozenset[str], attempts: int) -> None:
    run = simulated(plan(step("a", retry=RetryPolicy(max_attempts=3, on=on))), {"a": [script(outcome)]})
    assert len(launches(run, "a")) == attempts
    assert ends(run) == {"a": str(outcome)}


def test_the_slot_is_free_during_the_backoff() -> None:
    two = plan(step("a", retry=RetryPolicy(max_attempts=2, delay=5.0)), step("b"), slots=1)
    run = simulated(two, {"a": [script(O.FAILED), script(O.SUCCEEDED)]})
    assert (launches(run, "a"), launches(run, "b")) == ([0.0, 6.0], [1.0])


@pytest.mark.parametrize(
    ("idempotent", "retry", "expected"),
    [
        (False, RetryPolicy(max_attempts=5), [0.0]),
        (True, RetryPolicy(), [0.0, 2.0, 4.0]),
        (True, RetryPolicy(max_attempts=4, delay=3.0), [0.0, 4.0, 8.0, 12.0]),
    ],
)
def test_only_an_idempotent_step_runs_again_when_its_outcome_is_unknown(
    idempotent: bool, retry: RetryPolicy, expected: list[float]
) -> None:
    run = simulated(plan(step("a", idempotent=idempotent, retry=retry)), {"a": [script(O.UNKNOWN)]})
    assert launches(run, "a") == expected
    assert (ends(run), code(run)) == ({"a": "unknown"}, 7)


# --- needs and skips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "on", "runs"),
    [
        (O.SUCCEEDED, NeedOn.SUCCESS, True),
        (O.SUCCEEDED, NeedOn.FAILURE, False),
        (O.SUCCEEDED, NeedOn.DONE, True),
        (O.FAILED, NeedOn.SUCCESS, False),
        (O.FAILED, NeedOn.FAILURE, True),
        (O.FAILED, NeedOn.DONE, True),
        (O.TIMED_OUT, NeedOn.FAILURE, True),
        (O.CANCELLED, NeedOn.FAILURE, True),
        (O.UNKNOWN, NeedOn.SUCCESS, False),
        (O.UNKNOWN, NeedOn.FAILURE, True),
    ],
)
def test_a_dependent_starts_on_the_end_it_needs(outcome: ev.Outcome, on: NeedOn, runs: bool) -> None:
    run = simulated(plan(step("a"), step("b", Need(step="a", on=on))), {"a": [script(outcome)]})
    assert ends(run)["b"] == ("succeeded" if runs else "skipped")


def test_a_skip_by_condition_counts_as_a_success() -> None:
    run = simulated(plan(step("a"), step("b", "a"), step("c", "b"), slots=1), {"a": [script(O.SUCCEEDED, skip=True)]})
    assert (ends(run), code(run)) == ({"a": "skipped", "b": "succeeded", "c": "succeeded"}, 0)


def test_an_upstream_skip_passes_on() -> None:
    run = simulated(plan(step("a"), step("b", "a"), step("c", "b"), step("d", Need(step="c", on=NeedOn.DONE))),
               {"a": [script(O.FAILED)]})  # fmt: skip
    assert ends(run) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "succeeded"}
    assert [e.because for e in run.events if isinstance(e, ev.StepSkipped)] == ["a failed", "b skipped"]


def test_an_upstream_skip_is_early_and_names_the_step_that_failed() -> None:
    """The first need still runs; the second has failed, and nothing can make up for that."""
    run = simulated(
        plan(step("slow"), step("bad"), step("c", "slow", "bad")),
        {"slow": [script(O.SUCCEEDED, duration=100.0)], "bad": [script(O.FAILED)]},
    )
    skip = next(event for event in run.events if isinstance(event, ev.StepSkipped))
    assert (skip.at, skip.reason, skip.because) == (1.0, ev.SkipReason.UPSTREAM, "bad failed")


def test_an_allowed_failure_lets_dependents_run() -> None:
    run = simulated(plan(step("a", allow_failure=AllowFailure()), step("b", "a")), {"a": [script(O.FAILED)]})
    assert (ends(run), code(run)) == ({"a": "failed_allowed", "b": "succeeded"}, 0)


@pytest.mark.parametrize(
    ("outcome", "sqlstate", "state"),
    [(O.FAILED, "23505", "failed_allowed"), (O.FAILED, "40P01", "failed"), (O.UNKNOWN, None, "unknown")],
)
def test_only_the_listed_failures_are_allowed(outcome: ev.Outcome, sqlstate: str | None, state: str) -> None:
    allow = AllowFailure(sqlstates=frozenset({"23505"}))
    assert ends(simulated(plan(step("a", allow_failure=allow)), {"a": [script(outcome, sqlstate)]})) == {"a": state}


# --- failure, time, interrupt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnFailure.CONTINUE, {"bad": "failed", "long": "succeeded", "later": "succeeded"}),
        (OnFailure.DRAIN, {"bad": "failed", "long": "succeeded", "later": "skipped"}),
        (OnFailure.CANCEL, {"bad": "failed", "long": "cancelled", "later": "skipped"}),
    ],
)
def test_on_failure(policy: OnFailure, expected: dict[str, str]) -> None:
    three = plan(step("bad"), step("long"), step("later"), slots=2, on_failure=policy)
    run = simulated(three, {"bad": [script(O.FAILED)], "long": [script(O.SUCCEEDED, duration=9.0)]})
    assert (ends(run), code(run)) == (expected, 1)


def test_a_failure_after_which_nothing_is_left_drains_nothing() -> None:
    run = simulated(plan(step("a"), on_failure=OnFailure.DRAIN), {"a": [script(O.FAILED)]})
    assert not any(isinstance(event, ev.RunDraining) for event in run.events)


def test_a_drain_ends_retries_with_their_last_failure() -> None:
    two = plan(step("a", retry=RetryPolicy(max_attempts=2, delay=9.0)), step("b"), on_failure=OnFailure.DRAIN)
    run = simulated(two, {"a": [script(O.FAILED, "40P01")], "b": [script(O.FAILED, duration=2.0)]})
    assert (ends(run), run.makespan) == ({"a": "failed", "b": "failed"}, 2.0)


@pytest.mark.parametrize(
    ("timeout", "waits", "expected"),
    [(60.0, True, 7.0), (3.0, True, 3.0), (None, True, 7.0), (60.0, False, 60.0), (None, False, None)],
)
def test_run_timeout_caps_the_timeout_of_wait_steps(timeout: float | None, waits: bool, expected: float | None) -> None:
    keys = {} if waits else IDLE
    run = simulated(plan(step("first"), step("a", "first", timeout=timeout, **keys), run_timeout=10.0),
               {"first": [script(O.SUCCEEDED, duration=3.0)]})  # fmt: skip
    launching = [event for event in run.events if isinstance(event, ev.AttemptLaunching)]
    assert launching[1].timeout == expected


def test_run_timeout_cancels_wait_steps_and_detaches_the_others() -> None:
    two = plan(step("a"), step("b", **IDLE), step("c", "a"), run_timeout=5.0)
    long = [script(O.SUCCEEDED, duration=50.0, stops_on_timeout=False, cancel_latency=2.0)]
    run = simulated(two, {"a": long, "b": long})
    assert ends(run) == {"a": "cancelled", "b": "detached", "c": "skipped"}
    assert (code(run), run.makespan) == (5, 7.0)


def test_the_second_line_cancels_five_seconds_after_the_timeout() -> None:
    run = simulated(plan(step("a", timeout=10.0)), {"a": [script(O.SUCCEEDED, duration=99.0, stops_on_timeout=False)]})
    asked = next(event for event in run.events if isinstance(event, ev.AttemptCancelRequested))
    assert (asked.at, asked.reason) == (10.0 + GRACE, ev.CancelReason.TIMEOUT)
    assert (ends(run), code(run)) == ({"a": "timed_out"}, 1)


def test_a_step_stopped_by_the_second_line_is_tried_again_like_any_timeout() -> None:
    retry = RetryPolicy(max_attempts=2, on=frozenset({"timeout"}))
    deaf = script(O.SUCCEEDED, duration=99.0, stops_on_timeout=False)
    run = simulated(plan(step("a", timeout=10.0, retry=retry)), {"a": [deaf, script(O.SUCCEEDED)]})
    assert (launches(run, "a"), ends(run)) == ([0.0, 15.0], {"a": "succeeded"})


def test_the_second_line_of_a_worker_that_is_being_detached_causes_no_wake_up() -> None:
    table = Table(plan(step("a", **IDLE)))
    table.launch()
    assert table.settle() == (Detach(step="a", attempt=1),)
    table.happen(ev.AttemptDetachRequested, "a")
    table.now = 1000.0
    assert (table.settle(), decide(table.state, table.now).wake_at) == ((), None)


@pytest.mark.parametrize(
    ("keys", "state"),
    [
        ({}, "cancelled"),
        ({"on_runner_exit": OnRunnerExit.DETACH}, "detached"),
        (IDLE, "detached"),
        ({**IDLE, "on_runner_exit": OnRunnerExit.CANCEL}, "cancelled"),
    ],
)
def test_an_interrupt_applies_on_runner_exit_and_starts_nothing(keys: dict[str, Any], state: str) -> None:
    two = plan(step("a", **keys), step("b"), slots=1)
    run = simulated(two, {"a": [script(O.SUCCEEDED, duration=50.0)]}, interrupts=[2.0])
    assert (ends(run), code(run)) == ({"a": state, "b": "skipped"}, 130)


def test_a_detach_step_is_detached_when_the_rest_is_over() -> None:
    run = simulated(plan(step("a", **IDLE), step("b")), {"a": [script(O.SUCCEEDED, duration=50.0)]})
    assert (ends(run), code(run), run.makespan) == ({"a": "detached", "b": "succeeded"}, 0, 1.0)


def test_a_detach_step_keeps_its_slot_while_another_step_waits_for_it() -> None:
    two = plan(step("a", **IDLE), step("b", **IDLE), slots=1)
    run = simulated(two, {"a": [script(O.SUCCEEDED, duration=7.0)], "b": [script(O.SUCCEEDED, duration=50.0)]})
    assert (ends(run), launches(run, "b")) == ({"a": "succeeded", "b": "detached"}, [7.0])


# --- slots, pools, turns ----------------------------------------------------------------------------------------------


def test_priority_comes_first_then_the_longest_remaining_path_then_the_plan() -> None:
    steps = [step("x"), step("y"), step("end", "z"), step("z"), step("p", priority=1)]
    run = simulated(plan(*steps, slots=1))
    launched = [event.step for event in run.events if isinstance(event, ev.AttemptLaunching)]
    assert launched == ["p", "z", "x", "y", "end"]


def test_steps_that_share_an_exclusive_name_never_run_together() -> None:
    name = frozenset({"orders"})
    run = simulated(plan(step("a", exclusive=name), step("b", exclusive=name), step("c")))
    assert (launches(run, "b"), launches(run, "c")) == ([1.0], [0.0])


def test_a_wide_step_gets_its_turn() -> None:
    """Narrow steps that never end together would keep a wide one waiting for ever."""
    narrow = [step(f"n{number:02}") for number in range(40)]
    scripts = {one.id: [script(O.SUCCEEDED, duration=1.0 + number % 2 * 0.5)] for number, one in enumerate(narrow)}
    run = simulated(plan(step("n"), step("wide", slots=2), *narrow, slots=2), scripts)
    order = [event.step for event in run.events if isinstance(event, ev.AttemptLaunching)]
    assert order.index("wide") <= 1 + OVERTAKES_PER_SLOT * 2 + 2


def test_whose_patience_is_over_keeps_its_place_before_newcomers_of_its_kind() -> None:
    table = Table(plan(step("a", slots=2), step("b", "c", slots=2), step("d", "b", slots=2), step("c"), slots=2))
    assert table.launch() == ["c"]
    for _ in range(table.state.overtake_limit):
        apply(table.state, ev.AttemptLaunching(
            at=0.0, step="c", attempt=1, application_name="x", timeout=None, overtook=("a",)
        ))  # fmt: skip
    table.happen(ev.AttemptFinished, "c", outcome=O.SUCCEEDED)
    assert table.launch() == ["a"]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((step("a", slots=4), step("b")), "slots 4/4"),
        ((step("a", pools={"io": 1}), step("b", pools={"io": 1})), "pool:io 1/1"),
        ((step("a", exclusive=frozenset("x")), step("b", exclusive=frozenset("x"))), "exclusive:x 1/1"),
    ],
)
def test_why_a_step_is_queued(steps: tuple[Step, ...], reason: str) -> None:
    run = simulated(plan(*steps, pools={"io": 1}))
    assert [e.reason for e in run.events if isinstance(e, ev.StepQueued)] == [reason]


def test_a_step_that_fits_waits_for_its_turn() -> None:
    table = Table(plan(step("a")))
    for event in decide(table.state, 0.0).events:
        apply(table.state, event)
    assert why_queued(table.state, table.state.records["a"]) == "its turn"


@pytest.mark.parametrize("start", [0.0, 1000.0])
def test_queue_timeout_fails_a_step_that_gets_no_slot(start: float) -> None:
    two = plan(step("a", priority=1), step("b", queue_timeout=3.0), step("c", "b"), slots=1)
    run = simulated(two, {"a": [script(O.SUCCEEDED, duration=10.0)]}, start=start)
    waited = [(e.at - start, e.waited) for e in run.events if isinstance(e, ev.StepQueueTimedOut)]
    assert waited == [(3.0, 3.0)]
    assert (ends(run), code(run)) == ({"a": "succeeded", "b": "failed", "c": "skipped"}, 1)


# --- the server's capacity --------------------------------------------------------------------------------------------


def test_a_refusal_is_reported_once_and_its_end_once() -> None:
    run = simulated(plan(*[step(f"s{n}") for n in range(6)]), capacity=lambda now: 0 if now < 3.5 else 9)
    names = [event.name for event in run.events]
    assert (names.count("capacity_short"), names.count("capacity_restored")) == (1, 1)
    assert set(ends(run).values()) == {"succeeded"}


def test_an_episode_is_one_though_the_server_gives_a_little_more_now_and_then() -> None:
    steps = [step(f"s{n}", timeout=None) for n in range(4)]
    scripts = {one.id: [script(O.SUCCEEDED, duration=20.0)] for one in steps}
    run = simulated(plan(*steps), scripts, capacity=lambda now: int(now / 2.5))
    names = [event.name for event in run.events]
    assert (names.count("capacity_short"), names.count("capacity_restored")) == (1, 1)


def test_one_probe_a_second_asks_a_server_that_refused() -> None:
    run = simulated(plan(*[step(f"s{n}") for n in range(4)]), capacity=lambda now: 0 if now < 3.5 else 9)
    refused = [event.at for event in run.events if isinstance(event, ev.AttemptDeferred)]
    assert refused == [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]


def test_a_refused_step_keeps_its_attempts_and_was_not_started() -> None:
    table = Table(plan(step("a")))
    table.launch()
    table.refuse("a")
    record = table.state.records["a"]
    assert (record.attempt, record.started_at, record.queued_because) == (0, None, "server capacity")
    table.now = 1.0
    assert table.launch() == ["a"]
    assert record.attempt == 1


def test_another_workers_start_does_not_end_the_shortage() -> None:
    table = Table(plan(*[step(f"s{n}") for n in range(4)]))
    assert len(table.launch()) == 4
    table.refuse("s3")
    table.refuse("s2")
    table.now = 1.0
    assert table.launch() == ["s2"]
    table.run("s0")
    assert table.state.ceiling == 2
    table.run("s2")
    assert table.state.ceiling is None


def test_a_probe_that_no_step_fits_causes_no_wake_up() -> None:
    holder, waiter = step("a", pools={"io": 1}, timeout=None), step("b", pools={"io": 1})
    table = Table(plan(holder, waiter, step("c", queue_timeout=5.0), pools={"io": 1}))
    assert table.launch() == ["a", "c"]
    table.refuse("c")
    table.now = 6.0
    assert table.settle() == ()
    assert table.state.ceiling == 1
    assert decide(table.state, 6.0).wake_at is None


def test_a_step_whose_condition_is_false_gives_its_slot_back() -> None:
    table = Table(plan(step("a"), step("b"), slots=1))
    assert table.launch() == ["a"]
    apply(table.state, ev.StepSkipped(at=0.0, step="a", reason=ev.SkipReason.CONDITION))
    assert table.launch() == ["b"]


def test_queue_timeout_continues_while_the_server_refuses() -> None:
    run = simulated(plan(step("a", queue_timeout=2.5)), capacity=lambda _: 0)
    assert (ends(run), run.makespan) == ({"a": "failed"}, 2.5)


def test_run_timeout_ends_a_run_that_gets_no_worker() -> None:
    run = simulated(plan(step("a"), run_timeout=2.5), capacity=lambda _: 0)
    assert (ends(run), code(run), run.makespan) == ({"a": "skipped"}, 5, 2.5)


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((O.SUCCEEDED, O.SUCCEEDED), 0),
        ((O.SUCCEEDED, O.FAILED), 1),
        ((O.TIMED_OUT, O.SUCCEEDED), 1),
        ((O.CANCELLED, O.SUCCEEDED), 1),
        ((O.DETACHED, O.SUCCEEDED), 0),
        ((O.UNKNOWN, O.FAILED), 7),
    ],
)
def test_exit_codes(outcomes: tuple[ev.Outcome, ev.Outcome], expected: int) -> None:
    run = simulated(plan(step("a"), step("b")), {"a": [script(outcomes[0])], "b": [script(outcomes[1])]})
    assert code(run) == expected


def test_a_run_that_is_left_with_a_worker_exits_with_7() -> None:
    table = Table(plan(step("a")))
    table.launch()
    assert exit_code(table.state) == 7


def test_sigterm_exits_with_143_whatever_else_happened() -> None:
    table = Table(plan(step("a")))
    apply(table.state, ev.RunInterrupted(at=0.0, signal=15))
    assert table.settle() == ()
    assert exit_code(table.state) == 143


def test_a_cancel_is_ordered_once() -> None:
    table = Table(plan(step("a")))
    table.launch()
    apply(table.state, ev.RunInterrupted(at=0.0, signal=2))
    assert table.settle() == (Cancel(step="a", attempt=1, reason=ev.CancelReason.INTERRUPT),)
    table.happen(ev.AttemptCancelRequested, "a", reason=ev.CancelReason.INTERRUPT)
    assert table.settle() == ()


def test_a_simulation_that_asks_the_same_again_and_again_ends_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(state: RunState, event: ev.Event) -> None:
        apply(state, event)
        if isinstance(event, ev.StepChecked):
            state.records[event.step].verdict = None  # as if there were no answer

    monkeypatch.setattr("runner.engine.simulation.apply", forget)
    with pytest.raises(RuntimeError, match=r"second evaluation of a \(after, after 1 attempts\)"):
        simulated(plan(step("a", verify=sql("select true"))))
