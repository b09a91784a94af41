"""A worker whose end was not observed, or that was never seen: the step says so, whatever another attempt does."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.outcomes import classify, settle
from runner.engine.ports import WorkerEnd
from runner.engine.state import RunState, StepState, initial_state
from runner.plan.model import AllowFailure, RetryPolicy
from tests.unit.simulated_runs import SQL, plan, step

WORKER = ev.Worker(pid=7, backend_start="2026-11-30 01:00:00+00", application_name="jobplan:r:a")
ERROR = ev.ErrorDetails(message="duplicate key", sqlstate="23505")


def lost_attempt(*, seen: bool, unobserved: bool, **keys: Any) -> RunState:
    """Return a run whose only step had one attempt, which lost its launcher session."""
    state = initial_state(plan(step("a", **keys)))
    at: dict[str, Any] = {"step": "a", "attempt": 1}
    apply(state, ev.StepReady(at=0.0, step="a"))
    apply(state, ev.AttemptLaunching(at=1.0, application_name="jobplan:r:a", timeout=None, **at))
    if seen:
        apply(state, ev.AttemptRunning(at=2.0, worker=WORKER, **at))
    apply(state, ev.AttemptLost(at=3.0, message="the network is away", **at))
    worker = WORKER if seen else None
    apply(state, ended(1, ev.Outcome.UNKNOWN, worker=worker, unobserved=unobserved))
    return state


def ended(attempt: int, outcome: ev.Outcome, **facts: Any) -> ev.AttemptFinished:
    """Return the end of an attempt."""
    return ev.AttemptFinished(at=4.0, step="a", attempt=attempt, outcome=outcome, **facts)


def next_event(state: RunState) -> ev.StepEvent | None:
    """Return what follows for the step."""
    return settle(state, state.records["a"], 5.0)


@pytest.mark.parametrize("keys", [{}, {"idempotent": True}, {"idempotent": True, "retry": RetryPolicy(max_attempts=5)}])
@pytest.mark.parametrize("seen", [True, False])
def test_no_attempt_follows_one_whose_worker_may_still_be_running(seen: bool, keys: dict[str, Any]) -> None:
    event = next_event(lost_attempt(seen=seen, unobserved=True, **keys))
    assert isinstance(event, ev.StepFinished)
    assert event.state is StepState.UNKNOWN


@pytest.mark.parametrize("verdict", [ev.Verdict.FAIL, ev.Verdict.ERROR])
def test_a_false_verify_is_no_evidence_while_the_worker_may_still_be_running(verdict: ev.Verdict) -> None:
    state = lost_attempt(seen=True, unobserved=True, idempotent=True, verify=SQL)
    apply(state, ev.StepChecked(at=4.5, step="a", phase=ev.CheckPhase.AFTER, verdict=verdict, error=ERROR))
    event = next_event(state)
    assert isinstance(event, ev.StepFinished)
    assert event.state is StepState.UNKNOWN


def test_a_step_runs_again_if_the_end_of_its_lost_worker_was_observed() -> None:
    assert isinstance(next_event(lost_attempt(seen=True, unobserved=False, idempotent=True)), ev.StepRetrying)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(
    "outcome", [ev.Outcome.FAILED, ev.Outcome.TIMED_OUT, ev.Outcome.CANCELLED, ev.Outcome.SUCCEEDED]
)
def test_the_failure_of_a_second_attempt_does_not_hide_that_the_first_worker_may_still_begin(
    outcome: ev.Outcome, allowed: bool, seen: bool
) -> None:
    allow = AllowFailure() if allowed else None
    state = lost_attempt(seen=seen, unobserved=False, idempotent=True, allow_failure=allow)
    retrying = next_event(state)
    assert isinstance(retrying, ev.StepRetrying)
    apply(state, retrying)
    apply(state, ev.StepReady(at=6.0, step="a"))
    apply(state, ev.AttemptLaunching(at=6.0, step="a", attempt=2, application_name="jobplan:r:a", timeout=None))
    failed = outcome is not ev.Outcome.SUCCEEDED
    apply(state, ended(2, outcome, error=ERROR if failed else None, command_tag="" if failed else "SELECT"))
    event = next_event(state)
    assert isinstance(event, ev.StepFinished)
    if seen or not failed:
        assert event.state is not StepState.UNKNOWN
        return
    assert event.state is StepState.UNKNOWN
    assert event.error is not None
    assert event.error.message == "duplicate key; the worker of attempt 1 was never seen and may still begin"


def test_the_error_says_that_the_worker_may_still_be_running() -> None:
    end = WorkerEnd(lost=True, unobserved=True, reason="the server cannot be reached")
    outcome, error = classify(end, timeout=None, cancelled=None)
    assert outcome is ev.Outcome.UNKNOWN
    assert error is not None
    assert error.message == "the worker may still be running: the server cannot be reached"
