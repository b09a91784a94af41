"""Progress lines: what each event says to a person, heartbeats by the clock, and the line that sums up."""

from __future__ import annotations

import io

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import RunState, StepState, initial_state
from runner.reports.messages import Verbosity, error_text
from runner.reports.progress import HEARTBEAT, Plain, heartbeat
from runner.reports.worker_activity import WorkerView
from tests.builders import plan, step

AT = 1_767_225_600.0  # 2026-01-01T00:00:00Z
RUN = "260101-abcdef"


class Story:
    """A run whose events a sink receives one by one."""

    def __init__(self, state: RunState, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        self.state = state
        self.stream = io.StringIO()
        self.sink = Plain(self.stream, RUN, verbosity)

    def tell(self, *events: ev.Event) -> list[str]:
        """Apply the events, and return the lines that they gave."""
        before = len(self.stream.getvalue())
        for event in events:
            apply(self.state, event)
            self.sink.handle(event, self.state)
        return self.stream.getvalue()[before:].splitlines()

    def tick(self, now: float) -> list[str]:
        """Let time pass, and return the lines that it gave."""
        before = len(self.stream.getvalue())
        self.sink.tick(now, self.state)
        return self.stream.getvalue()[before:].splitlines()


def run_started(at: float = AT) -> ev.RunStarted:
    return ev.RunStarted(
        at=at,
        jobplan="1",
        plan="nightly",
        file="plan.yaml",
        sha256="0" * 64,
        host="h",
        os_pid=1,
        server="18.6 (Debian 18.6-3)",
        extension="2.0",
        database="app",
        user="u",
        slots=1,
        steps=2,
    )


def launching(key: str, at: float = AT) -> ev.AttemptLaunching:
    return ev.AttemptLaunching(at=at, step=key, attempt=1, application_name=f"jobplan:{RUN}:{key}", timeout=60.0)


def two_steps() -> RunState:
    return initial_state(plan(step("a", "SELECT 1"), step("b", "SELECT 2"), slots=1))


def test_the_first_line_says_what_runs_where() -> None:
    assert Story(two_steps()).tell(run_started()) == [
        "00:00:00Z run 260101-abcdef of nightly: 2 steps, 1 slot, on app (PostgreSQL 18.6, pg_background 2.0)"
    ]


def test_a_heartbeat_comes_when_nothing_was_said_for_a_minute_and_not_before() -> None:
    story = Story(two_steps())
    story.tell(run_started(), ev.StepReady(at=AT, step="a"), ev.StepReady(at=AT, step="b"), launching("a"))
    story.tell(ev.StepQueued(at=AT, step="b", reason="all 1 slots are taken"))
    assert story.tick(AT + HEARTBEAT - 1) == []
    assert story.tick(AT + HEARTBEAT) == ["00:01:00Z running: a for 1m00s; queued: b (all 1 slots are taken)"]
    assert story.tick(AT + HEARTBEAT + 1) == []
    assert len(story.tick(AT + 2 * HEARTBEAT)) == 1


def test_a_heartbeat_has_the_progress_of_running_steps_and_the_blocking_sessions() -> None:
    state = two_steps()
    Story(state).tell(run_started(), ev.StepReady(at=AT, step="a"), launching("a"))
    far = heartbeat(state, AT + 9, {"a": WorkerView(doing="VACUUM t: scanning heap", share=0.456)})
    assert far == "running: a for 9.0s (VACUUM t: scanning heap, 45%); queued: nothing"
    held = heartbeat(
        state, AT + 9, {"a": WorkerView(waits="waits for ShareLock on t, held by pid 7 app 'web' for 12s")}
    )
    assert held == "running: a for 9.0s (waits for ShareLock on t, held by pid 7 app 'web' for 12s); queued: nothing"


def test_a_quiet_run_has_no_heartbeat() -> None:
    story = Story(two_steps(), Verbosity.QUIET)
    assert story.tell(run_started()) == []
    assert story.tick(AT + 10 * HEARTBEAT) == []


def test_a_heartbeat_of_a_run_that_waits_says_so() -> None:
    assert heartbeat(two_steps(), AT) == "running: nothing; queued: nothing"


def test_a_cancel_from_outside_is_distinguished_from_ours() -> None:
    story = Story(two_steps())
    story.tell(run_started(), ev.StepReady(at=AT, step="a"), launching("a"))
    error = ev.ErrorDetails(message="canceling statement due to user request", sqlstate="57014")
    story.tell(ev.AttemptFinished(at=AT + 1, step="a", attempt=1, outcome=ev.Outcome.CANCELLED, error=error))
    (line,) = story.tell(ev.StepFinished(at=AT + 1, step="a", state=StepState.CANCELLED, error=error))
    assert line.startswith("00:00:01Z a: cancelled in 1.0s by another session on the server: canceling statement")


def test_a_cancel_through_the_server_names_its_user() -> None:
    story = Story(two_steps())
    story.tell(run_started(), ev.StepReady(at=AT, step="a"), launching("a"))
    (line,) = story.tell(ev.RunCancelled(at=AT, by="alice@laptop (role dba)"))
    assert line == "00:00:00Z cancelled by alice@laptop (role dba): no further steps start; running steps are cancelled"
    outcome = ev.Outcome.CANCELLED
    story.tell(ev.AttemptFinished(at=AT + 1, step="a", attempt=1, outcome=outcome, cancelled_by="alice@laptop"))
    assert story.tell(ev.StepFinished(at=AT + 1, step="a", state=StepState.CANCELLED)) == [
        "00:00:01Z a: cancelled in 1.0s by alice@laptop"
    ]


def test_an_unknown_outcome_names_the_user_who_requested_the_end() -> None:
    story = Story(two_steps())
    story.tell(run_started(), ev.StepReady(at=AT, step="a"), launching("a"))
    outcome = ev.Outcome.UNKNOWN
    story.tell(ev.AttemptFinished(at=AT + 1, step="a", attempt=1, outcome=outcome, cancelled_by="alice@laptop"))
    assert story.tell(ev.StepFinished(at=AT + 1, step="a", state=StepState.UNKNOWN)) == [
        "00:00:01Z a: unknown in 1.0s, after a cancel request of alice@laptop"
    ]


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_a_closed_stream_ends_the_lines_and_not_the_run(stream: io.StringIO | None) -> None:
    state = two_steps()
    broken = stream or _Full()
    sink = Plain(broken, RUN)
    if stream is not None:
        stream.close()
    apply(state, run_started())
    sink.handle(run_started(), state)
    sink.tick(AT + 10 * HEARTBEAT, state)
    assert broken.closed or (isinstance(broken, _Full) and broken.writes == 1)


class _Full(io.StringIO):
    """A stream on a full disk."""

    writes = 0

    def write(self, _: str, /) -> int:
        self.writes += 1
        raise OSError(28, "No space left on device")


def test_an_error_is_one_line() -> None:
    error = ev.ErrorDetails(message="no such\ntable", sqlstate="42P01", detail="Key (a)=(1)", hint="Create it.")
    assert error_text(error) == "no such table (SQLSTATE 42P01) Key (a)=(1) Create it."
