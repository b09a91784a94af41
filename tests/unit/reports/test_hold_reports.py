"""The live view, the heartbeat and every report: which hold is on, since when, by which value, and who was blocked."""

from __future__ import annotations

import json

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.simulation import AttemptScript, HoldScript, Simulation
from runner.engine.state import RunState, initial_state
from runner.plan.model import Hold, Plan, RetryPolicy
from runner.reports.html import html_page, page_json
from runner.reports.junit import junit_xml
from runner.reports.live import View, frame
from runner.reports.markdown import markdown_text
from runner.reports.messages import Verbosity, event_lines
from runner.reports.progress import heartbeat
from runner.reports.prometheus import prometheus_text
from runner.reports.report_builder import run_report
from runner.reports.run_report import RunReport, Waiting
from tests.unit.simulated_runs import SQL, plan, simulated, step

RUN = "260101-abcdef"
HOLD = Hold(name="replicas", while_=SQL)
HELD = plan(
    step("first", holds=("replicas",)),
    step("second", "first", holds=("replicas",), queue_timeout=50.0),
    step("free"),
    holds=(HOLD,),
)
YIELDS = plan(
    step("locks", yield_after=2.0, retry=RetryPolicy(max_attempts=3, delay=1.0, on=frozenset({"yielded"}))),
)


def held() -> Simulation:
    changes = [HoldScript(at=0.5, hold="replicas", on=True), HoldScript(at=30.5, hold="replicas", on=False)]
    return simulated(HELD, holds=changes)


def yielded() -> Simulation:
    return simulated(YIELDS, {"locks": [AttemptScript(duration=9.0, yields_at=2.5), AttemptScript(duration=1.0)]})


def state_at(of: Plan, run: Simulation, second: float) -> RunState:
    state = initial_state(of)
    for event in run.events:
        if event.at <= second:
            apply(state, event)
    return state


def report(of: Plan, run: Simulation) -> RunReport:
    return run_report(of, RUN, run.events)


def test_the_live_view_has_a_line_for_each_hold_that_is_on() -> None:
    state = state_at(HELD, held(), 10.5)
    lines = [line.plain for line in frame(View(state=state, run_id=RUN, now=10.5, workers={}), 100, 24)]
    assert "  held by replicas for 10.0s (scripted)" in lines
    assert any("second: waits for hold replicas" in line for line in lines)
    assert not any("held by" in line.plain for line in frame(_view(31.0), 100, 24))


def _view(second: float) -> View:
    return View(state=state_at(HELD, held(), second), run_id=RUN, now=second, workers={})


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_shows_the_hold_and_no_line_is_too_wide(width: int) -> None:
    state = state_at(HELD, held(), 10.5)
    state.holds = {
        f"hold-{number}": ev.HoldBegan(at=0.5, hold=f"hold-{number}", value="x" * 200, since=0.5) for number in range(9)
    }
    lines = [line.plain for line in frame(View(state=state, run_id=RUN, now=10.5, workers={}), width, 12)]
    assert sum("held by" in line for line in lines) == 4
    assert max(map(len, lines)) <= width
    assert any("6 more holds" in line for line in lines)


def test_the_heartbeat_has_the_hold_and_what_waits_for_it() -> None:
    line = heartbeat(state_at(HELD, held(), 10.5), 10.5)
    assert line == ("running: nothing; queued: second (hold replicas: scripted); held by replicas for 10.0s (scripted)")
    assert "held" not in heartbeat(state_at(HELD, held(), 31.0), 31.0)


def test_the_log_has_a_line_when_a_hold_begins_changes_and_ends() -> None:
    state = initial_state(HELD)
    began = ev.HoldBegan(at=10.0, hold="replicas", value="replay lag of s1 12.0s", since=10.0)
    again = ev.HoldBegan(at=40.0, hold="replicas", value="replay lag of s1 40.0s", since=10.0)
    ended = ev.HoldEnded(at=100.0, hold="replicas", value="no standby lags behind", seconds=90.0)
    lines = [line for event in (began, again, ended) for line in event_lines(event, state, Verbosity.NORMAL, RUN)]
    assert lines == [
        "hold replicas: on (replay lag of s1 12.0s); no step that it concerns starts",
        "hold replicas: on for 30.0s (replay lag of s1 40.0s)",
        "hold replicas: released after 1m30s (no standby lags behind)",
    ]
    assert [*event_lines(began, state, Verbosity.QUIET, RUN)] == []


def test_a_report_has_the_spans_of_holds_and_the_held_time_of_steps_apart_from_their_queue() -> None:
    found = report(HELD, held())
    (span,) = found.holds
    assert (span.name, span.since, span.until, span.value, span.failed) == ("replicas", 0.5, 30.5, "scripted", False)
    assert found.held == 30.0
    second = next(one for one in found.steps if one.key == "second")
    assert (second.held, second.waited) == (29.5, 0.0)
    assert [(wait.kind, wait.since, wait.until) for wait in second.waits] == [(Waiting.HELD, 1.0, 30.5)]


def test_a_hold_that_begins_while_a_step_is_queued_splits_its_wait() -> None:
    p = plan(step("long"), step("waits", holds=("replicas",)), slots=1, holds=(HOLD,))
    changes = [HoldScript(at=2.0, hold="replicas", on=True), HoldScript(at=4.0, hold="replicas", on=False)]
    found = report(p, simulated(p, {"long": [AttemptScript(duration=9.0)]}, holds=changes))
    waits = next(one for one in found.steps if one.key == "waits").waits
    assert [(wait.kind, wait.since, wait.until) for wait in waits] == [
        (Waiting.QUEUED, 0.0, 2.0),
        (Waiting.HELD, 2.0, 4.0),
        (Waiting.QUEUED, 4.0, 9.0),
    ]


def test_every_report_has_the_hold() -> None:
    found = report(HELD, held())
    for text in (html_page(found), junit_xml(found), markdown_text(found)):
        assert "hold replicas: on (scripted)" in text
        assert "hold replicas: released after 30.0s (scripted)" in text
    metrics = prometheus_text(found)
    assert 'jobplan_run_hold_seconds{plan="table",database=""} 30\n' in metrics
    assert 'jobplan_step_hold_seconds{plan="table",database="",step="second"} 29.5\n' in metrics


def test_every_report_has_the_blocked_sessions_also_of_an_attempt_that_another_one_followed() -> None:
    found = report(YIELDS, yielded())
    (locks,) = found.steps
    first, second = locks.attempts
    assert (first.reason, second.reason) == (ev.FailureReason.YIELDED, None)
    assert [one.pid for one in first.blocked] == [1]
    words = "cancelled because it blocked other sessions for 2.0s: pid 1 waited 2.0s"
    assert words in junit_xml(found)
    assert "Blocked sessions:" in markdown_text(found)
    assert "pid 1 waited 2.0s" in markdown_text(found)
    assert words in json.dumps(json.loads(page_json(found)))
    assert locks.state == "succeeded"


def test_the_log_says_whom_a_step_blocks() -> None:
    state = initial_state(YIELDS)
    others = (ev.Blocked(pid=7, name="shop", mode="RowExclusiveLock", relation="t", query="INSERT", seconds=2.0),)
    event = ev.AttemptBlocking(at=9.0, step="locks", attempt=1, others=others, since=7.0, seconds=2.0)
    assert [*event_lines(event, state, Verbosity.NORMAL, RUN)] == [
        "locks: has blocked for 2.0s: pid 7 app 'shop' waited 2.0s for RowExclusiveLock on t (INSERT)"
    ]
