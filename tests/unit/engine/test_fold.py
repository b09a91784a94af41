"""The fold: a run's state is that of its events, and of nothing else."""

from __future__ import annotations

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import FINAL, RunState, StepState, initial_state, need_met
from runner.errors import Position
from runner.plan.model import Budget, NeedOn, OnFinish, OnRunnerExit, Plan, Sql, Step
from runner.structs import replace
from tests.invariants import validate

STEP = Step(
    id="a",
    sql=Sql(text="select 1", start=Position(file="", line=1, column=1)),
    timeout=60.0,
    on_finish=OnFinish.WAIT,
    on_runner_exit=OnRunnerExit.CANCEL,
    pools={"io": 2},
    slots=2,
)
PLAN = Plan(name="fold", budget=Budget(slots=2, pools={"io": 2}), steps=(STEP, replace(STEP, id="b")))
LAUNCHING = ev.AttemptLaunching(at=2.0, step="a", attempt=1, application_name="x", timeout=60.0)
WORKER = ev.Worker(pid=7, backend_start="2026-01-01", application_name="x")
RUNNING = ev.AttemptRunning(at=3.0, step="a", attempt=1, worker=WORKER)
ENDED = ev.AttemptFinished(at=4.0, step="a", attempt=1, outcome=ev.Outcome.FAILED)


def fold(*events: ev.Event) -> RunState:
    state = initial_state(PLAN)
    for event in (ev.StepReady(at=1.0, step="a"), *events):
        apply(state, event)
        validate(state)
    return state


@pytest.mark.parametrize(
    ("events", "state", "used"),
    [
        ((), StepState.READY, 0),
        ((ev.StepQueued(at=1.0, step="a", reason="slots 2/2"),), StepState.QUEUED, 0),
        ((LAUNCHING,), StepState.LAUNCHING, 2),
        ((LAUNCHING, RUNNING), StepState.RUNNING, 2),
        (
            (LAUNCHING, ev.AttemptCancelRequested(at=3.0, step="a", attempt=1, reason=ev.CancelReason.INTERRUPT)),
            StepState.LAUNCHING,
            2,
        ),
        ((LAUNCHING, RUNNING, ev.AttemptDetachRequested(at=3.0, step="a", attempt=1)), StepState.RUNNING, 2),
        ((LAUNCHING, RUNNING, ev.AttemptLost(at=3.0, step="a", attempt=1, message="gone")), StepState.RUNNING, 2),
        ((LAUNCHING, ev.AttemptDeferred(at=3.0, step="a", attempt=1, message="53000")), StepState.QUEUED, 0),
        ((LAUNCHING, RUNNING, ENDED), StepState.SETTLING, 0),
        ((LAUNCHING, ENDED, ev.StepRetrying(at=4.0, step="a", next_attempt=2, until=9.0)), StepState.RETRYING, 0),
        ((LAUNCHING, ENDED, ev.StepFinished(at=4.0, step="a", state="failed")), StepState.FAILED, 0),
        ((LAUNCHING, ev.StepSkipped(at=3.0, step="a", reason=ev.SkipReason.CONDITION)), StepState.SKIPPED, 0),
        ((ev.StepQueueTimedOut(at=9.0, step="a", waited=8.0),), StepState.SETTLING, 0),
    ],
)
def test_a_step_holds_its_slots_from_before_the_launch_until_its_worker_has_ended(
    events: tuple[ev.Event, ...], state: StepState, used: int
) -> None:
    folded = fold(*events)
    assert folded.records["a"].state is state
    assert (folded.used["slots"], folded.used["pool:io"]) == (used, used)


def test_events_that_only_inform_change_nothing() -> None:
    notice = ev.Notice(severity="NOTICE", message="hello")
    reported = fold(LAUNCHING, RUNNING, ev.AttemptNotice(at=9.0, step="a", attempt=1, notice=notice))
    assert reported == fold(LAUNCHING, RUNNING)


def test_a_new_attempt_starts_with_a_clean_record() -> None:
    asked = ev.AttemptCancelRequested(at=3.0, step="a", attempt=1, reason=ev.CancelReason.TIMEOUT)
    lost = ev.AttemptLost(at=3.0, step="a", attempt=1, message="gone")
    retry = ev.StepRetrying(at=4.0, step="a", next_attempt=2, until=5.0)
    again = replace(LAUNCHING, at=6.0, attempt=2)
    record = fold(LAUNCHING, RUNNING, asked, lost, ENDED, retry, ev.StepReady(at=5.0, step="a"), again).records["a"]
    assert (record.attempt, record.cancel_reason, record.lost, record.worker) == (2, None, False, None)
    assert (record.started_at, record.launched_at) == (2.0, 6.0)


CHECKING = ev.StepChecking(at=1.0, step="a", phase=ev.CheckPhase.BEFORE)
REPEATING = ev.StepRepeating(at=4.0, step="a", next_iteration=2, until=9.0)
ITEM = ev.Item(key="a[x]", values={"t": "x"})


def checked(verdict: ev.Verdict, phase: ev.CheckPhase = ev.CheckPhase.BEFORE) -> ev.StepChecked:
    return ev.StepChecked(at=2.0, step="a", phase=phase, verdict=verdict)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((replace(CHECKING, phase=ev.CheckPhase.ITEMS),), StepState.CHECKING),
        ((replace(CHECKING, phase=ev.CheckPhase.AFTER),), StepState.CHECKING),
        ((CHECKING, checked(ev.Verdict.SKIP)), StepState.SETTLING),
        ((CHECKING, checked(ev.Verdict.FAIL)), StepState.SETTLING),
        ((CHECKING, checked(ev.Verdict.ERROR, ev.CheckPhase.ITEMS)), StepState.SETTLING),
        ((CHECKING, checked(ev.Verdict.PROCEED, ev.CheckPhase.AFTER)), StepState.SETTLING),
        ((CHECKING, checked(ev.Verdict.AGAIN, ev.CheckPhase.AFTER)), StepState.SETTLING),
        ((CHECKING, ev.StepExpanded(at=2.0, step="a", items=(ITEM,))), StepState.EXPANDED),
        ((CHECKING, ev.StepExpanded(at=2.0, step="a", items=())), StepState.SETTLING),
        ((LAUNCHING, ENDED, REPEATING), StepState.RETRYING),
    ],
)
def test_where_a_step_waits_that_holds_nothing(events: tuple[ev.Event, ...], state: StepState) -> None:
    folded = fold(*events)
    assert (folded.records["a"].state, folded.used, list(folded.active)) == (state, {}, [])


@pytest.mark.parametrize("events", [(CHECKING,), (CHECKING, checked(ev.Verdict.PROCEED))])
def test_a_step_holds_its_slots_while_its_conditions_are_evaluated_before_a_launch(
    events: tuple[ev.Event, ...],
) -> None:
    folded = fold(*events)
    assert (folded.records["a"].state, list(folded.active)) == (StepState.CHECKING, [])
    assert (folded.used["slots"], folded.used["pool:io"]) == (2, 2)


@pytest.mark.parametrize("verdict", list(ev.Verdict))
def test_a_record_may_leave_out_that_conditions_were_evaluated(verdict: ev.Verdict) -> None:
    whole = fold(CHECKING, checked(verdict), LAUNCHING, RUNNING, ENDED)
    short = fold(LAUNCHING, RUNNING, ENDED)
    whole.records["a"].phase, whole.records["a"].refused = None, 0
    assert whole == short


def test_an_instance_is_its_step_for_one_item() -> None:
    state = fold(CHECKING, ev.StepExpanded(at=2.0, step="a", items=(ITEM,)))
    instance, parent = state.records["a[x]"], state.records["a"]
    assert (instance.parent, instance.values, instance.needs) == ("a", {"t": "x"}, parent.needs)
    assert instance.step == replace(STEP, id="a[x]")
    assert (state.unfinished, state.expanded, list(state.released)) == (3, 1, ["b", "a[x]"])


def test_the_last_instance_hands_over_to_its_step() -> None:
    finish = ev.StepFinished(at=3.0, step="a[x]", state="failed")
    state = fold(CHECKING, ev.StepExpanded(at=2.0, step="a", items=(ITEM,)), finish)
    assert (state.records["a"].state, state.first_bad) == (StepState.SETTLING, "a[x]")


def test_a_verdict_counts_for_the_attempt_it_was_given_for() -> None:
    verified = checked(ev.Verdict.FAIL, ev.CheckPhase.AFTER)
    retry = ev.StepRetrying(at=4.0, step="a", next_attempt=2, until=5.0)
    again = replace(LAUNCHING, at=6.0, attempt=2)
    deferred = ev.AttemptDeferred(at=6.0, step="a", attempt=2, message="53000")
    until_then = (LAUNCHING, ENDED, CHECKING, verified, retry, ev.StepReady(at=5.0, step="a"), again)
    assert fold(*until_then, deferred).records["a"].verdict is ev.Verdict.FAIL
    assert fold(*until_then, replace(ENDED, attempt=2)).records["a"].verdict is None


def test_an_iteration_begins_to_count_its_attempts_again() -> None:
    record = fold(LAUNCHING, ENDED, REPEATING).records["a"]
    assert (record.iteration, record.attempt, record.tries) == (2, 1, 0)


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("reason", ev.SkipReason)
def test_needs(state: StepState, reason: ev.SkipReason) -> None:
    skip = ev.StepSkipped(at=0.0, step="a", reason=reason) if state is StepState.SKIPPED else None
    good = state in {StepState.SUCCEEDED, StepState.FAILED_ALLOWED}
    bad = state in {StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN}
    nothing_to_do = skip is not None and reason in {ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED}
    left_over = skip is not None and reason is ev.SkipReason.WINDOW  # it has not ended: a resume runs it
    assert need_met(NeedOn.DONE, state, skip) is not left_over
    assert need_met(NeedOn.SUCCESS, state, skip) is (good or nothing_to_do)
    assert need_met(NeedOn.FAILURE, state, skip) is bad


def test_validate_notices_a_wrong_index() -> None:
    state = fold(LAUNCHING)
    state.used["slots"] = 1
    with pytest.raises(AssertionError, match="in use"):
        validate(state)


def test_validate_notices_a_step_that_would_never_start() -> None:
    state = fold(LAUNCHING)
    state.released.clear()
    with pytest.raises(AssertionError, match="need nothing more"):
        validate(state)


def test_validate_notices_a_wrong_number_of_instances() -> None:
    state = fold(CHECKING, ev.StepExpanded(at=2.0, step="a", items=(ITEM,)))
    state.records["a"].open_instances = 2
    with pytest.raises(AssertionError, match="open instances of a"):
        validate(state)
