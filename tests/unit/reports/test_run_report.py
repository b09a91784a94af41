"""What a report knows of a run: every attempt, every wait, who said what, and which way was the longest."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.event_json import to_json
from runner.engine.simulation import AttemptScript
from runner.engine.state import StepState
from runner.plan.graph import topological_order
from runner.reports.html import TALLEST, lay_out
from runner.reports.report_builder import assign_lanes, run_report
from runner.reports.run_report import RunReport, StepReport, Waiting
from runner.structs import replace
from tests.unit.report_samples import AT, HOSTILE_ITEM, RUN, everything
from tests.unit.simulated_runs import plan, simulated, step


@pytest.fixture(scope="module")
def report() -> RunReport:
    a_plan, events = everything()
    return run_report(a_plan, RUN, events)


def named(report: RunReport, key: str) -> StepReport:
    (found,) = (one for one in report.steps if one.key == key)
    return found


def test_every_outcome_is_reported(report: RunReport) -> None:
    assert {one.key: str(one.state) for one in report.leaves} == {
        "purge": "succeeded",
        "vacuum[a]": "succeeded",
        "vacuum[b]": "succeeded",
        f"vacuum[{HOSTILE_ITEM}]": "succeeded",
        "wide": "succeeded",
        "deadlocked": "succeeded",
        "late": "timed_out",
        "after_late": "skipped",
        "told_of_late": "succeeded",
        "allowed": "failed_allowed",
        "lost": "unknown",
        "left": "detached",
        "note": "succeeded",
    }
    assert report.exit_code == 7
    assert report.end == "unknown outcome"
    assert report.counts()[StepState.SUCCEEDED] == 8


def test_instances_follow_what_they_are_instances_of(report: RunReport) -> None:
    keys = [one.key for one in report.steps]
    at = keys.index("vacuum")
    assert [one.parent for one in report.steps[at : at + 4]] == [None, "vacuum", "vacuum", "vacuum"]
    assert named(report, "vacuum").instances == 3
    assert "vacuum" not in {one.key for one in report.leaves}


def test_sql_has_its_values_in_it(report: RunReport) -> None:
    assert named(report, "purge").sql == "DELETE FROM audit WHERE n > 9"
    assert named(report, "vacuum[a]").sql == 'VACUUM "a"'
    assert named(report, "note").sql == "SELECT 'failed'"


def test_sql_without_its_values_stands_as_it_is(report: RunReport) -> None:
    assert named(report, "vacuum").sql == 'VACUUM :"t"'


def test_attempts_and_the_waits_between_them_are_kept(report: RunReport) -> None:
    deadlocked = named(report, "deadlocked")
    assert [str(one.outcome) for one in deadlocked.attempts] == ["failed", "succeeded"]
    assert deadlocked.retries == 1
    (retrying,) = (wait for wait in deadlocked.waits if wait.kind is Waiting.RETRYING)
    assert retrying.until - retrying.since == 2.0
    assert "40P01" in retrying.why
    first, second = deadlocked.attempts
    assert first.error is not None
    assert second.result is not None
    assert len(first.notices) == len(second.notices) == 1


def test_an_iteration_is_no_retry(report: RunReport) -> None:
    purge = named(report, "purge")
    assert [(one.number, one.iteration) for one in purge.attempts] == [(1, 1), (2, 2)]
    assert purge.retries == 0
    assert [wait.kind for wait in purge.waits] == [Waiting.PAUSING]
    assert purge.seconds == 3.5


def test_a_wait_for_a_slot_says_for_what(report: RunReport) -> None:
    waited = [one for one in report.leaves if one.waited]
    assert waited
    assert all(wait.why for one in waited for wait in one.waits if wait.kind is Waiting.QUEUED)


def test_no_two_attempts_hold_a_slot_at_the_same_time(report: RunReport) -> None:
    spans = sorted(
        (lane, one.launched_at, one.ended_at) for leaf in report.leaves for one in leaf.attempts for lane in one.lanes
    )
    for (lane, _, end), (other, begin, _) in itertools.pairwise(spans):
        assert lane != other or end <= begin
    assert {lane for lane, _, _ in spans} == {0, 1, 2}
    assert len(named(report, "wide").attempts[0].lanes) == 2
    assert report.slots_used == 3


def test_the_critical_path_is_the_one_that_took_longest(report: RunReport) -> None:
    assert report.critical == ("purge", "vacuum", "wide")
    assert report.spans["vacuum"] >= 4.0


def test_a_report_of_recorded_events_is_the_same(report: RunReport) -> None:
    """The journal keeps milliseconds: what is finer may not show."""
    a_plan, events = everything()
    finer = tuple(replace(event, at=event.at + 0.0004) for event in events)
    assert run_report(a_plan, RUN, finer) == report
    written = [to_json(event, RUN)["at"] for event in finer]
    assert written == [to_json(event, RUN)["at"] for event in events]
    assert json.dumps(written)


def test_a_killed_run_is_reported_up_to_its_last_event() -> None:
    a_plan, events = everything()
    launched = next(number for number, event in enumerate(events) if isinstance(event, ev.AttemptLaunching))
    report = run_report(a_plan, RUN, events[: launched + 2])
    assert report.exit_code is None
    assert report.end == "not finished"
    (attempt,) = named(report, "purge").attempts
    assert attempt.outcome is None


def test_events_begin_with_the_start_of_the_run() -> None:
    a_plan, events = everything()
    with pytest.raises(ValueError, match="run_started"):
        run_report(a_plan, RUN, events[1:2])


def test_a_deferred_attempt_is_a_wait() -> None:
    run = simulated(
        plan(step("a"), step("b"), slots=2), {"a": [AttemptScript(duration=3.0)]}, start=AT, capacity=lambda _: 1
    )
    report = run_report(run.state.plan, RUN, run.events)
    b = named(report, "b")
    assert len(b.attempts) == 1
    assert b.waited == 3.0
    assert any("no worker" in wait.why for wait in b.waits)
    assert report.messages[0].text.startswith("fewer workers than planned")


def test_lanes_are_given_back_and_wide_steps_get_neighbours() -> None:
    lanes = assign_lanes([(0, 5, 1, "a"), (0, 2, 1, "b"), (0, 9, 1, "c"), (2, 4, 1, "d"), (5, 8, 2, "e")])
    assert lanes == {"a": (0,), "b": (1,), "c": (2,), "d": (1,), "e": (0, 1)}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(1, 3)), max_size=40))
def test_lanes_never_overlap(spans: list[tuple[int, int, int]]) -> None:
    lanes = assign_lanes((begin, begin + length, wide, key) for key, (begin, length, wide) in enumerate(spans))
    for key, (begin, length, wide) in enumerate(spans):
        assert len(set(lanes[key])) == wide
        for other in range(key):
            apart = begin >= sum(spans[other][:2]) or spans[other][0] >= begin + length
            assert apart or not set(lanes[key]) & set(lanes[other])


@given(st.lists(st.lists(st.integers(0, 60), max_size=3), max_size=60))
def test_a_step_stands_right_of_what_it_needs_and_none_overlap(picked: list[list[int]]) -> None:
    needs = {str(key): tuple({str(need) for need in found if need < key}) for key, found in enumerate(picked)}
    layout = lay_out(needs, last=())
    assert len(set(layout.places.values())) == len(needs) == len(topological_order(needs))
    for name, needed in needs.items():
        assert all(layout.places[need][0] < layout.places[name][0] for need in needed)
    assert all(0 <= column < layout.columns and 0 <= row < layout.rows for column, row in layout.places.values())


def test_a_very_tall_column_is_broken() -> None:
    layout = lay_out({str(number): () for number in range(3 * TALLEST)}, last=("1",))
    assert layout.rows == TALLEST
    assert layout.columns == 4
    assert layout.places["1"][0] == 3


def test_a_resumed_run_is_reported_as_one() -> None:
    a_plan = plan(step("done"), step("settled"), step("lives"), step("again"), slots=4)
    keys = [one.id for one in a_plan.steps]
    begun = simulated(a_plan, {key: [AttemptScript(duration=1.0 if key == "done" else 9.0)] for key in keys}, start=AT)
    events = [event for event in begun.events if event.at < AT + 5]
    worker = ev.Worker(pid=7, backend_start="2026-01-01T00:00:00.0Z", application_name="jobplan:x:lives")
    events.append(
        ev.RunResumed(
            at=AT + 20,
            jobplan="2",
            file="moved.yaml",
            sha256="1",
            host="other",
            os_pid=1,
            slots=4,
            steps=4,
            settled=(ev.Settled(step="settled", outcome=ev.Outcome.SUCCEEDED, by="ledger"),),
            adopted=(ev.Adopted(step="lives", attempt=1, worker=worker),),
        )
    )
    events.append(ev.AttemptFinished(at=AT + 21, step="lives", attempt=1, outcome=ev.Outcome.SUCCEEDED, worker=worker))
    report = run_report(a_plan, RUN, events)
    outcomes = {one.key: [str(attempt.outcome) for attempt in one.attempts] for one in report.steps}
    assert outcomes == {"done": ["succeeded"], "settled": ["succeeded"], "lives": ["succeeded"], "again": ["unknown"]}
    assert (report.started_at, report.finished_at) == (AT, AT + 21)
    assert (report.started.host, report.started.file) == ("other", "moved.yaml")
    assert report.messages[0].text.startswith(f"run {RUN} resumed")
    (again,) = named(report, "again").attempts
    assert again.ended_at == AT + 20


def test_steps_that_a_changed_plan_has_no_more_are_left_out() -> None:
    a_plan, events = everything()
    shorter = replace(a_plan, steps=tuple(one for one in a_plan.steps if one.id not in ("lost", "left")))
    report = run_report(shorter, RUN, events)
    assert {"lost", "left"}.isdisjoint(one.key for one in report.steps)
    assert len(report.leaves) == 11
