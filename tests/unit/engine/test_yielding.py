"""`yield_after`: when a worker has blocked others for too long, and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.outcomes import classify, has_yielded
from runner.engine.ports import WorkerEnd
from runner.engine.simulation import AttemptScript, Simulation, run_started, simulate
from runner.engine.state import RunState, initial_state
from runner.engine.yielding import IDLE, POLL, SHORTEST, BlockedSessions, yield_error
from runner.errors import Position
from runner.plan.model import AllowFailure, Budget, OnFinish, OnRunnerExit, Plan, RetryPolicy, Sql, Step

NOTHING = Sql(text="select 1", start=Position(file="", line=1, column=1))
WORKER = ev.Worker(pid=7, backend_start="then", application_name="jobplan:r:a")
RETRY = RetryPolicy(max_attempts=3, delay=1.0, on=frozenset({"yielded"}))


def step(key: str = "a", *, yield_after: float | None = 2.0, **more: Any) -> Step:
    return Step(
        id=key,
        sql=NOTHING,
        timeout=100.0,
        on_finish=OnFinish.WAIT,
        on_runner_exit=OnRunnerExit.CANCEL,
        yield_after=yield_after,
        **more,
    )


def plan(*steps: Step) -> Plan:
    return Plan(name="p", budget=Budget(slots=2), steps=steps)


def running(one: Step, *, at: float = 0.0) -> RunState:
    p = plan(one)
    state = initial_state(p)
    apply(state, run_started(p, 0.0))
    apply(state, ev.StepReady(at=at, step=one.id))
    apply(state, ev.AttemptLaunching(at=at, step=one.id, attempt=1, application_name="x", timeout=None))
    apply(state, ev.AttemptRunning(at=at, step=one.id, attempt=1, worker=WORKER))
    return state


def blocked(seconds: float, pid: int = 99) -> dict[ev.Identity, list[ev.Blocked]]:
    return {(7, "then"): [ev.Blocked(pid=pid, mode="RowExclusiveLock", relation="t", seconds=seconds)]}


# --- when ---


def test_a_worker_that_blocks_no_session_is_never_reported() -> None:
    sessions = BlockedSessions(running(step()))
    assert [event for at in range(100) for event in sessions.look({}, float(at))] == []


def test_it_is_due_when_one_session_has_waited_long_enough() -> None:
    sessions = BlockedSessions(running(step()))
    assert list(sessions.look({}, 10.0)) == []
    assert list(sessions.look(blocked(0.4), 10.5)) == []
    assert list(sessions.look(blocked(1.9), 12.0)) == []
    (event,) = sessions.look(blocked(2.0), 12.1)
    assert (event.step, event.attempt, event.since, event.seconds) == ("a", 1, 10.1, 2.0)
    assert [one.pid for one in event.others] == [99]
    assert list(sessions.look(blocked(3.0), 13.1)) == [], "it is reported once"


def test_sessions_that_give_up_and_come_again_count_as_one_wait() -> None:
    sessions = BlockedSessions(running(step()))
    found: list[ev.AttemptBlocking] = []
    for number in range(6):
        found += sessions.look(blocked(0.3, pid=number), 10.0 + number * 0.5)
    assert len(found) == 1
    assert found[0].seconds == pytest.approx(2.3, abs=0.01)


def test_a_poll_without_a_blocked_session_begins_again() -> None:
    sessions = BlockedSessions(running(step()))
    assert list(sessions.look(blocked(1.5), 10.0)) == []
    assert list(sessions.look({}, 10.5)) == []
    assert list(sessions.look(blocked(0.3), 11.0)) == []
    assert list(sessions.look(blocked(1.3), 12.0)) == []
    assert len(list(sessions.look(blocked(2.3), 13.0))) == 1


def test_a_session_that_waited_before_the_worker_began_counts_from_the_workers_start() -> None:
    sessions = BlockedSessions(running(step(), at=9.5))
    assert list(sessions.look(blocked(600.0), 10.0)) == []
    (event,) = sessions.look(blocked(601.6), 11.6)
    assert event.since == 9.5


def test_the_next_poll_comes_when_the_limit_is_reached() -> None:
    sessions = BlockedSessions(running(step()))
    assert sessions.pause == IDLE
    list(sessions.look({}, 10.0))
    assert sessions.pause == POLL
    list(sessions.look(blocked(0.3), 10.5))
    assert sessions.pause == POLL
    list(sessions.look(blocked(1.8), 12.0))
    assert sessions.pause == pytest.approx(0.2)
    list(sessions.look(blocked(1.99), 12.19))
    assert sessions.pause == SHORTEST


def test_only_workers_of_steps_with_the_key_are_polled_and_all_count_as_own() -> None:
    assert BlockedSessions(running(step(yield_after=None))).workers().yielding == ()
    watched = BlockedSessions(running(step())).workers()
    assert (watched.yielding, watched.own) == ((WORKER,), (7,))


def test_a_worker_that_was_asked_to_stop_is_not_polled_any_more() -> None:
    state = running(step())
    apply(state, ev.AttemptCancelRequested(at=1.0, step="a", attempt=1, reason=ev.CancelReason.YIELDED))
    assert BlockedSessions(state).workers().yielding == ()


# --- what its end means ---

STOPPED = ev.ErrorDetails(message="terminating", sqlstate="57P01")


@pytest.mark.parametrize(
    ("end", "outcome", "yielded"),
    [
        (WorkerEnd(error=STOPPED), ev.Outcome.FAILED, True),
        (WorkerEnd(error=ev.ErrorDetails(message="x", sqlstate="57014")), ev.Outcome.FAILED, True),
        (WorkerEnd(rolled_back=True), ev.Outcome.FAILED, True),
        (WorkerEnd(), ev.Outcome.FAILED, True),
        (WorkerEnd(confirmed=True), ev.Outcome.SUCCEEDED, False),
        (WorkerEnd(error=ev.ErrorDetails(message="x", sqlstate="22012")), ev.Outcome.FAILED, False),
        (WorkerEnd(lost=True), ev.Outcome.UNKNOWN, False),
        (WorkerEnd(started_at=1.0), ev.Outcome.UNKNOWN, False),
        (WorkerEnd(detached=True), ev.Outcome.DETACHED, False),
    ],
)
def test_a_commit_that_is_faster_is_a_success_and_an_error_of_its_own_is_that_error(
    end: WorkerEnd, outcome: ev.Outcome, yielded: bool
) -> None:
    found, _ = classify(end, timeout=None, cancelled=ev.CancelReason.YIELDED)
    assert found is outcome
    assert has_yielded(end, ev.CancelReason.YIELDED) is yielded
    assert not has_yielded(end, ev.CancelReason.CANCEL)
    assert not has_yielded(end, None)


def test_the_error_names_the_blocked_sessions() -> None:
    others = tuple(
        ev.Blocked(pid=pid, name="shop", user="app", mode="RowExclusiveLock", relation="t", query="INSERT", seconds=2.5)
        for pid in range(1, 6)
    )
    blocking = ev.AttemptBlocking(at=1.0, step="a", attempt=1, others=others, since=0.0, seconds=2.5)
    error = yield_error(blocking)
    assert error.message.startswith(
        "cancelled because it blocked other sessions for 2.5s: pid 1 app 'shop' user app waited 2.5s for "
        "RowExclusiveLock on t (INSERT), pid 2"
    )
    assert error.message.endswith(" and 2 more")


# --- what follows ---


def run(one: Step, *scripts: AttemptScript) -> Simulation:
    return simulate(plan(one), durations=lambda _, attempt: scripts[min(attempt, len(scripts)) - 1])


BLOCKS = AttemptScript(duration=50.0, yields_at=3.0)


def test_it_is_cancelled_and_tried_again() -> None:
    found = run(step(retry=RETRY), BLOCKS, AttemptScript(duration=1.0))
    cancels = [(e.at, e.reason) for e in found.events if isinstance(e, ev.AttemptCancelRequested)]
    assert cancels == [(3.0, ev.CancelReason.YIELDED)]
    ends = [(e.outcome, e.reason) for e in found.events if isinstance(e, ev.AttemptFinished)]
    assert ends == [(ev.Outcome.FAILED, ev.FailureReason.YIELDED), (ev.Outcome.SUCCEEDED, None)]
    assert found.state.records["a"].state == "succeeded"


@pytest.mark.parametrize(
    "retry", [RetryPolicy(), RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=3, on=frozenset({"40P01"}))]
)
def test_it_is_not_tried_again_unless_retry_names_it(retry: RetryPolicy) -> None:
    found = run(step(retry=retry), BLOCKS)
    (end,) = [e for e in found.events if isinstance(e, ev.StepFinished)]
    assert (end.state, end.reason) == ("failed", ev.FailureReason.YIELDED)
    assert len([e for e in found.events if isinstance(e, ev.AttemptLaunching)]) == 1


def test_another_error_is_not_tried_again_if_only_a_yield_is() -> None:
    found = run(step(retry=RETRY), AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED, sqlstate="22012"))
    assert found.state.records["a"].attempt == 1


def test_the_last_attempt_that_yields_fails_the_step_and_allow_failure_accepts_that() -> None:
    found = run(step(retry=RETRY), BLOCKS)
    assert found.state.records["a"].attempt == 3
    assert found.state.records["a"].state == "failed"
    allowed = run(step(retry=RETRY, allow_failure=AllowFailure()), BLOCKS)
    assert allowed.state.records["a"].state == "failed_allowed"


def test_a_commit_before_the_cancel_arrives_is_a_success() -> None:
    found = run(step(retry=RETRY), AttemptScript(duration=4.0, yields_at=3.0, cancel_latency=10.0))
    assert found.state.records["a"].state == "succeeded"
    assert found.state.records["a"].attempt == 1


def test_an_observation_that_arrives_after_the_end_of_the_worker_changes_nothing() -> None:
    state = running(step())
    apply(state, ev.AttemptFinished(at=1.0, step="a", attempt=1, outcome=ev.Outcome.SUCCEEDED))
    apply(state, ev.AttemptBlocking(at=1.1, step="a", attempt=1, since=0.0, seconds=2.0))
    assert state.to_yield == {}
    assert state.records["a"].blocking is None
