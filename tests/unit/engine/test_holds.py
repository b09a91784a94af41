"""Holds: what a measurement means, which changes are recorded, and what the scheduler does while one is on."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.holds import FIRST, LONGEST, HoldWatch, Measurement, failed_measurement, limit_of, read_measurement
from runner.engine.ports import QueryResult
from runner.engine.scheduler import decide
from runner.engine.simulation import AttemptScript, HoldScript, Simulation, run_started, simulate
from runner.engine.slot_queue import why_queued
from runner.engine.state import initial_state
from runner.errors import Position
from runner.plan.model import (
    Adapt,
    Budget,
    Check,
    Hold,
    OnFinish,
    OnRunnerExit,
    Outside,
    Plan,
    Repeat,
    RetryPolicy,
    Sql,
    Step,
    Window,
)
from runner.structs import replace

NOTHING = Sql(text="select 1", start=Position(file="", line=1, column=1))
HOLD = Hold(name="load", while_=NOTHING, every=5.0, release_after=30.0)
ON, OFF = Measurement(on=True, value="high"), Measurement(on=False, value="low")


def step(key: str, *, holds: tuple[str, ...] = ("load",), **more: Any) -> Step:
    return Step(
        id=key,
        sql=NOTHING,
        timeout=100.0,
        on_finish=OnFinish.WAIT,
        on_runner_exit=OnRunnerExit.CANCEL,
        holds=holds,
        **more,
    )


def plan(*steps: Step, slots: int = 2, hold: Hold = HOLD, finally_: tuple[Step, ...] = ()) -> Plan:
    return Plan(name="p", budget=Budget(slots=slots), steps=steps, holds=(hold,), finally_=finally_)


def run(p: Plan, *changes: tuple[float, bool], seconds: float = 1.0, **scripts: AttemptScript) -> Simulation:
    return simulate(
        p,
        durations=lambda one, _: scripts.get(one.id, AttemptScript(duration=seconds)),
        holds=[HoldScript(at=at, hold="load", on=on) for at, on in changes],
    )


def launches(found: Simulation) -> list[tuple[str, float]]:
    return [(e.step, e.at) for e in found.events if isinstance(e, ev.AttemptLaunching)]


# --- what a measurement means ---


def result(*row: str | None, columns: tuple[str, ...] = ("number", "name", "hidden")) -> QueryResult:
    return QueryResult(columns=columns, rows=(row,))


@pytest.mark.parametrize(
    ("hold", "row", "on", "value"),
    [
        (Hold(name="h", replication_lag=10.0), ("10.001", "s1", "f"), True, "replay lag of s1 10.0s"),
        (Hold(name="h", replication_lag=10.0), ("10", "s1", "f"), False, "replay lag of s1 10.0s"),
        (Hold(name="h", replication_lag=0.0), (None, None, "f"), False, "no standby lags behind"),
        (Hold(name="h", wal_to_archive=1 << 30), (str((1 << 30) + 1), None, "f"), True, "1.0GB of WAL to archive"),
        (Hold(name="h", wal_to_archive=1 << 30), ("0", None, "f"), False, "0B of WAL to archive"),
        (Hold(name="h", active_sessions=1), ("2", None, "f"), True, "2 active sessions"),
        (Hold(name="h", active_sessions=1), ("1", None, "f"), False, "1 active session"),
        (Hold(name="h", autovacuum_on=("t",)), (None, "public.t", "f"), True, "autovacuum works on public.t"),
        (Hold(name="h", autovacuum_on=("t",)), (None, None, "f"), False, "autovacuum works on none of the tables"),
    ],
)
def test_a_hold_is_on_above_its_limit(hold: Hold, row: tuple[str | None, ...], on: bool, value: str) -> None:
    measured = read_measurement(hold, result(*row))
    assert (measured.on, measured.value, measured.error) == (on, value, None)


def test_what_the_role_cannot_see_counts_as_on_and_names_the_privilege() -> None:
    measured = read_measurement(Hold(name="h", active_sessions=1), result("0", None, "t"))
    assert measured.on
    assert measured.lacks_privilege
    assert "GRANT pg_monitor" in measured.value


@pytest.mark.parametrize(
    ("answer", "on", "words"),
    [
        (QueryResult(columns=("x",), rows=(("t",),), boolean=True), True, "while is true"),
        (QueryResult(columns=("x",), rows=(("f",),), boolean=True), False, "while is not true"),
        (QueryResult(columns=("x",), rows=((None,),), boolean=True), False, "while is not true"),
        (QueryResult(columns=("x",), boolean=True), False, "while is not true"),
        (QueryResult(columns=("x",), rows=(("t",), ("f",)), boolean=True), True, "must return one row, but returns 2"),
        (QueryResult(columns=("x", "y"), rows=(("t", "f"),)), True, "must return one boolean, but returns x, y"),
        (QueryResult(), True, "must return one boolean, but returns no columns"),
        (QueryResult(error=ev.ErrorDetails(message="no", sqlstate="42P01")), True, "no (SQLSTATE 42P01)"),
    ],
)
def test_while_is_judged_like_every_condition_and_a_failure_counts_as_on(
    answer: QueryResult, on: bool, words: str
) -> None:
    measured = read_measurement(HOLD, answer)
    assert measured.on is on
    assert words in measured.value
    assert (measured.error is not None) is (on and words != "while is true")


def test_a_measurement_has_a_limit_between_one_and_ten_seconds() -> None:
    assert [limit_of(Hold(name="h", every=every)) for every in (0.1, 5.0, 3600.0)] == [1.0, 5.0, 10.0]


# --- which changes are recorded ---


def watched(*measured: tuple[float, Measurement], hold: Hold = HOLD) -> list[ev.HoldEvent]:
    watch = HoldWatch(hold)
    return [event for at, one in measured for event in watch.take(one, at)]


def test_a_hold_ends_with_the_first_measurement_after_release_after() -> None:
    events = watched((0, OFF), (5, ON), (10, OFF), (35, OFF), (40, OFF), (45, OFF))
    assert [(type(e), e.at) for e in events] == [(ev.HoldMeasured, 0), (ev.HoldBegan, 5), (ev.HoldEnded, 40)]
    assert isinstance(events[-1], ev.HoldEnded)
    assert (events[-1].seconds, events[-1].value) == (35, "low")


def test_a_condition_that_flaps_does_not_release_the_hold() -> None:
    measured = [(float(at), ON if at % 20 == 0 else OFF) for at in range(0, 200, 5)]
    assert [type(event) for event in watched(*measured)] == [ev.HoldBegan]


def test_release_after_zero_releases_at_once() -> None:
    hold = Hold(name="h", while_=NOTHING, release_after=0.0)
    assert [type(e) for e in watched((0, ON), (5, OFF), (10, ON), (15, OFF), hold=hold)] == [
        ev.HoldBegan,
        ev.HoldEnded,
    ] * 2


def test_a_changed_value_is_recorded_at_growing_intervals_and_keeps_its_start() -> None:
    measured = [(float(at), Measurement(on=True, value=f"lag {at}")) for at in range(0, 3600, 5)]
    events = watched(*measured)
    assert {event.since for event in events if isinstance(event, ev.HoldBegan)} == {0.0}
    pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(events)]
    assert pauses[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert max(pauses) == LONGEST


def test_a_query_that_begins_to_fail_is_recorded_at_once() -> None:
    broken = failed_measurement(ev.ErrorDetails(message="gone", sqlstate="57014"))
    events = watched((0, ON), (1, broken), (2, ON))
    assert [event.value for event in events] == ["high", "it cannot be measured: gone (SQLSTATE 57014)", "high"]
    assert [event.error is not None for event in events if isinstance(event, ev.HoldBegan)] == [False, True, False]


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_measured_a_hold_begins_and_ends_by_turns(seed: int) -> None:
    random, now, measured = Random(seed), 0.0, []  # noqa: S311 - a reproducible generator is wanted
    for _ in range(200):
        now += random.choice((0.1, 5.0, 20.0))
        measured.append((now, random.choice((ON, OFF, OFF, failed_measurement(ev.ErrorDetails(message="x"))))))
    on = False
    for event in watched(*measured):
        if isinstance(event, ev.HoldBegan):
            assert not on or event.at > event.since
            on = True
        elif isinstance(event, ev.HoldEnded):
            assert on
            on = False


# --- what the scheduler does ---


def test_nothing_starts_while_a_hold_is_on_and_a_running_worker_ends_as_usual() -> None:
    p = plan(step("a"), step("b"), step("free", holds=()), slots=1)
    found = run(p, (0.5, True), (10.0, False))
    assert launches(found) == [("a", 0.0), ("free", 1.0), ("b", 10.0)]


def test_finally_starts_whatever_is_on() -> None:
    p = plan(step("a"), finally_=(step("last", holds=()),))
    found = run(p, (0.5, True))
    assert launches(found) == [("a", 0.0), ("last", 1.0)]


def test_no_iteration_and_no_retry_starts_while_held() -> None:
    looped = step("loop", repeat=Repeat(max_iterations=3))
    found = run(plan(looped), (0.5, True), (7.0, False), loop=AttemptScript(duration=1.0, row_count=1))
    assert launches(found) == [("loop", 0.0), ("loop", 7.0), ("loop", 8.0)]
    tried = step("again", retry=RetryPolicy(max_attempts=2))
    failing = AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED)
    found = run(plan(tried), (0.5, True), (7.0, False), again=failing)
    assert launches(found) == [("again", 0.0), ("again", 7.0)]


def test_conditions_are_evaluated_again_after_a_hold_that_began_meanwhile() -> None:
    conditional = step("a", preconditions=(Check(sql=NOTHING, message="no"),))
    found = run(plan(conditional), (0.0, True), (3.0, False))
    checks = [event.at for event in found.events if isinstance(event, ev.StepChecking)]
    assert checks[-1] == 3.0
    assert launches(found) == [("a", 3.0)]


def test_held_time_does_not_count_in_queue_timeout() -> None:
    p = plan(step("long"), step("a", queue_timeout=2.0), slots=1)
    found = run(p, (0.5, True), (60.0, False), seconds=1.0)
    assert launches(found) == [("long", 0.0), ("a", 60.0)]
    p = plan(step("long", holds=()), step("a", queue_timeout=2.0, holds=("load",)), slots=1)
    found = run(p, (0.5, True), (60.0, False), long=AttemptScript(duration=100.0))
    timed_out = [(e.step, e.at) for e in found.events if isinstance(e, ev.StepQueueTimedOut)]
    assert timed_out == [("a", 61.5)]


def test_longer_than_at_most_fails_the_waiting_steps_as_held_and_those_that_follow() -> None:
    hold = Hold(name="load", while_=NOTHING, at_most=5.0)
    p = plan(step("a"), step("slow", holds=()), step("later", needs=()), slots=3, hold=hold)
    found = run(p, (0.0, True), slow=AttemptScript(duration=9.0))
    ends = {e.step: (e.state, e.reason, e.at) for e in found.events if isinstance(e, ev.StepFinished)}
    assert ends["a"] == ("failed", ev.FailureReason.HELD, 5.0)
    assert ends["slow"][0] == "succeeded"
    (error,) = {e.error.message for e in found.events if isinstance(e, ev.StepFinished) and e.error is not None}
    assert error == "held by `load` for its at_most of 5.0s: scripted"


def test_at_most_counts_one_continuous_hold() -> None:
    hold = Hold(name="load", while_=NOTHING, at_most=5.0)
    first = step("first", holds=())
    found = run(
        plan(first, step("a"), slots=1, hold=hold),
        (0.0, True),
        (4.0, False),
        (4.5, True),
        (9.0, False),
        first=AttemptScript(duration=6.0),
    )
    assert [e.step for e in found.events if isinstance(e, ev.StepHoldTimedOut)] == []
    assert launches(found)[-1] == ("a", 9.0)


def test_a_held_step_is_not_overtaken_and_reserves_nothing() -> None:
    wide = step("wide", slots=2, priority=1)
    small = [step(f"s{number}", holds=()) for number in range(40)]
    found = run(plan(wide, *small), (0.0, True), (15.0, False))
    assert found.state.records["wide"].state == "succeeded"
    assert not any("wide" in e.overtook for e in found.events if isinstance(e, ev.AttemptLaunching) and e.at < 15.0)
    assert max(at for key, at in launches(found) if key != "wide") >= 15.0
    assert sum(at < 15.0 for _, at in launches(found)) == 30


def test_nothing_starts_before_the_first_measurement() -> None:
    p = plan(step("a"))
    state = initial_state(p)
    apply(state, run_started(p, 0.0))
    apply(state, ev.StepReady(at=0.0, step="a"))
    decision = decide(state, 0.0)
    assert [event.reason for event in decision.events if isinstance(event, ev.StepQueued)] == [
        "hold load: not measured yet"
    ]
    apply(state, decision.events[0])
    assert decide(state, 0.0).commands == ()
    apply(state, ev.HoldMeasured(at=0.1, hold="load", value="low"))
    assert why_queued(state, state.records["a"]) == "its turn"
    assert [command.step for command in decide(state, 0.1).commands] == ["a"]


def test_a_thousand_steps_wait_for_one_hold_at_the_cost_of_one() -> None:
    """A decision looks at lists of steps with equal needs, so its cost does not depend on how many are held."""
    found = run(plan(*(step(f"s{number}") for number in range(1000)), slots=4), (0.0, True), (5.0, False), seconds=0.1)
    assert all(record.state == "succeeded" for record in found.state.records.values())
    assert all(at >= 5.0 for _, at in launches(found))


def test_a_hold_that_is_on_before_the_window_opens_fails_no_step() -> None:
    """Before the window opens the steps wait for the window, and `at_most` does not count against them."""
    day = 1_767_225_600.0  # 2026-01-01T00:00:00Z
    window = Window(timezone="UTC", from_=100, to=200, outside=Outside.WAIT)
    hold = Hold(name="load", while_=NOTHING, at_most=50.0)
    p = replace(plan(step("a"), hold=hold), window=window)
    changes = [HoldScript(at=day, hold="load", on=True), HoldScript(at=day + 90, hold="load", on=False)]
    found = simulate(p, durations=lambda *_: AttemptScript(duration=1.0), holds=changes, start=day)
    assert not any(isinstance(event, ev.StepHoldTimedOut) for event in found.events)
    assert launches(found) == [("a", day + 100)]


def test_an_attempt_that_was_prepared_is_put_off_if_a_hold_began_meanwhile() -> None:
    p = plan(step("a", on_retry=NOTHING, retry=RetryPolicy(max_attempts=2)))
    scripts = {
        1: AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED),
        2: AttemptScript(duration=1.0, prepares=5.0),
    }
    changes = [HoldScript(at=3.0, hold="load", on=True), HoldScript(at=20.0, hold="load", on=False)]
    found = simulate(p, durations=lambda _, attempt: scripts[attempt], holds=changes)
    assert [event.at for event in found.events if isinstance(event, ev.AttemptDeferred)] == [6.0]
    assert not any(isinstance(event, ev.CapacityShort) for event in found.events)
    assert launches(found) == [("a", 0.0), ("a", 25.0)]
    assert found.state.records["a"].state == "succeeded"


def test_a_batch_that_follows_a_hold_is_half_as_large_once() -> None:
    adapt = Adapt(param="batch", target=1.0, min=10, max=1000)
    looped = step("loop", repeat=Repeat(max_iterations=4, adapt=adapt))
    p = replace(plan(looped), values={"batch": 100})
    changes = [
        HoldScript(at=at, hold="load", on=on) for at, on in ((0.0, True), (2.0, False), (2.5, True), (9.0, False))
    ]
    found = simulate(p, durations=lambda *_: AttemptScript(duration=1.0, row_count=1), holds=changes)
    smaller = [
        (event.at, event.before, event.value)
        for event in found.events
        if isinstance(event, ev.StepAdapted) and event.because is ev.AdaptReason.HOLD
    ]
    assert smaller == [(9.0, 100, 50)], "not before the first batch, and once for each hold"
