"""A step is only said to be started when there is a worker."""

from __future__ import annotations

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import initial_state
from runner.reports.messages import Verbosity, event_lines
from tests.builders import plan, step


def lines(*events: ev.Event) -> list[str]:
    state = initial_state(plan(step("a", "select 1")))
    said: list[str] = []
    for event in events:
        apply(state, event)
        said += event_lines(event, state, Verbosity.NORMAL, "r")
    return said


READY = ev.StepReady(at=0.0, step="a")
LAUNCHING = ev.AttemptLaunching(at=0.0, step="a", attempt=1, application_name="", timeout=60.0)
DEFERRED = ev.AttemptDeferred(at=0.0, step="a", attempt=1, message="no connection")
RUNNING = ev.AttemptRunning(
    at=1.0, step="a", attempt=1, worker=ev.Worker(pid=1, backend_start="", application_name="x"), age=0.1
)


def ended(outcome: ev.Outcome, started_at: float | None = None) -> ev.AttemptFinished:
    return ev.AttemptFinished(at=2.0, step="a", attempt=1, outcome=outcome, command_tag="SELECT", started_at=started_at)


def test_launches_that_the_server_does_not_grant_start_nothing() -> None:
    assert not any("started" in line for line in lines(READY, *[LAUNCHING, DEFERRED] * 85))


def test_a_step_is_started_once_its_worker_is_seen() -> None:
    said = lines(READY, LAUNCHING, DEFERRED, LAUNCHING, RUNNING, ended(ev.Outcome.SUCCEEDED, started_at=1.0))
    assert [line for line in said if "started" in line] == ["a: started (timeout 1m00s)"]


def test_a_worker_that_ends_before_it_is_seen_was_started() -> None:
    assert "a: started (timeout 1m00s)" in lines(READY, LAUNCHING, ended(ev.Outcome.SUCCEEDED))
    assert "a: started (timeout 1m00s)" in lines(READY, LAUNCHING, ended(ev.Outcome.FAILED, started_at=1.0))
    assert not any("started" in line for line in lines(READY, LAUNCHING, ended(ev.Outcome.FAILED)))
