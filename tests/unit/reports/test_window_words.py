"""What a run under a window prints while it waits, while the window is open, and when it has closed."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.simulation import run_started
from runner.engine.state import RunState, initial_state
from runner.plan.model import AtEnd, Window
from runner.reports.github import annotated
from runner.reports.json_lines import level
from runner.reports.live import View, frame
from runner.reports.messages import Verbosity, event_lines
from runner.reports.progress import HEARTBEAT, Plain, heartbeat
from runner.reports.run_end import NextCommands, run_end
from runner.structs import replace
from tests.builders import plan, step

OPENS = datetime(2026, 1, 3, 21, tzinfo=UTC).timestamp()
CLOSES = OPENS + 7 * 3600
NIGHT = Window(timezone="Europe/Berlin", from_=22 * 3600, to=5 * 3600)
WAITING = ev.WindowWaiting(at=OPENS - 600, opens_at=OPENS, closes_at=CLOSES)
OPENED = ev.WindowOpened(at=OPENS, opens_at=OPENS, closes_at=CLOSES)
CLOSED = ev.WindowClosed(at=CLOSES, closes_at=CLOSES)


def after(*events: ev.Event, window: Window = NIGHT) -> RunState:
    """Return the state of a run of two steps after these events."""
    a_plan = plan(step("a", "SELECT 1"), step("b", "SELECT 2"), window=window)
    state = initial_state(a_plan)
    for event in (run_started(a_plan, OPENS - 3600), *events):
        apply(state, event)
    return state


def lines(event: ev.Event, *before: ev.Event, window: Window = NIGHT) -> list[str]:
    return list(event_lines(event, after(*before, event, window=window), Verbosity.NORMAL, "r"))


def test_each_turn_of_the_window_has_a_line() -> None:
    assert lines(WAITING) == ["waiting for the window: it opens at Sat 2026-01-03 22:00 CET, in 10m00s"]
    assert lines(OPENED, WAITING) == ["the window is open until Sun 2026-01-04 05:00 CET"]
    closed = "the window closed at Sun 2026-01-04 05:00 CET: no further steps start; "
    assert lines(CLOSED, OPENED) == [closed + "running steps may end"]
    cancels = replace(NIGHT, at_end=AtEnd.CANCEL)
    assert lines(CLOSED, OPENED, window=cancels) == [closed + "running steps are cancelled"]


def test_the_heartbeat_says_when_the_window_opens_and_closes() -> None:
    assert heartbeat(after(WAITING), OPENS - 300).endswith("; the window opens at 22:00 CET, in 5m00s")
    assert heartbeat(after(OPENED), OPENS + 3600).endswith("; the window closes at Sun 2026-01-04 05:00 CET, in 6h00m")
    assert heartbeat(after(OPENED, CLOSED), CLOSES).endswith("; the window closed at Sun 2026-01-04 05:00 CET")
    behind = after(ev.ServerClock(at=OPENS - 700, ahead=-60.0), WAITING)
    assert heartbeat(behind, OPENS - 300).endswith("in 6m00s")


def test_a_run_that_waits_is_not_silent() -> None:
    stream = io.StringIO()
    sink, state = Plain(stream, "r"), after(WAITING)
    sink.handle(WAITING, state)
    sink.tick(WAITING.at + HEARTBEAT + 1, state)
    assert stream.getvalue().splitlines()[-1].endswith("the window opens at 22:00 CET, in 8m59s")


def test_the_live_terminal_says_when_the_window_opens_and_closes() -> None:
    for state, now, words in (
        (after(WAITING), OPENS - 300, "the window opens at 22:00 CET, in 5m00s"),
        (after(OPENED), CLOSES - 60, "the window closes at 05:00 CET, in 1m00s"),
    ):
        headline = frame(View(state=state, run_id="r", now=now, workers={}), 160, 20)[0]
        assert words in headline.plain


def test_steps_wait_for_the_window_in_the_live_terminal() -> None:
    ready = [ev.StepReady(at=OPENS - 600, step="a"), ev.StepQueued(at=OPENS - 600, step="a", reason="the window")]
    shown = frame(View(state=after(WAITING, *ready), run_id="r", now=OPENS - 300, workers={}), 120, 20)
    assert any("a: waits for the window" in line.plain for line in shown)


def ended(*skipped: str) -> RunState:
    skips = [ev.StepSkipped(at=CLOSES, step=key, reason=ev.SkipReason.WINDOW) for key in skipped]
    return after(OPENED, CLOSED, *skips, ev.RunFinished(at=CLOSES, exit_code=8, steps={}))


def test_the_last_line_says_that_the_run_is_not_finished() -> None:
    line = run_end(ended("a", "b"), run_id="r", exit_code=8, seconds=60.0, commands=NextCommands()).summary
    assert line == "run r: 2 skipped in 1m00s; not finished: the window closed at Sun 2026-01-04 05:00 CET"


@pytest.mark.parametrize(("skipped", "words"), [(("a",), "1 step left over"), (("a", "b"), "2 steps left over")])
def test_github_gets_one_warning(skipped: tuple[str, ...], words: str) -> None:
    state = ended(*skipped)
    assert state.finished is not None
    (line,) = annotated(state.finished, state, "r")
    assert line.startswith("::warning title=test is not finished::the window closed at")
    assert line.endswith(words)


def test_levels() -> None:
    assert (level(CLOSED), level(OPENED), level(WAITING)) == ("warning", "info", "info")
    assert level(ev.RunFinished(at=CLOSES, exit_code=8, steps={})) == "warning"
    assert level(ev.ServerClock(at=CLOSES, ahead=1.0)) == "debug"
