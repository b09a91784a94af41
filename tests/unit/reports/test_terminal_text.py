"""Text that a terminal is given: nothing in it acts, nothing in it is lost."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from runner.cli.console import report_bug
from runner.engine import events as ev
from runner.engine.state import RunState, StepState, initial_state
from runner.errors import Position, Problem
from runner.reports.json_lines import JsonLog
from runner.reports.live import View, frame
from runner.reports.markdown import block, code
from runner.reports.messages import Verbosity
from runner.reports.plan_problems import Style, problem_lines
from runner.reports.progress import Plain
from runner.reports.terminal_text import visible, visible_json, visible_lines
from runner.reports.worker_activity import WorkerView
from runner.reports.workflow_commands import workflow_command
from tests.builders import plan, step

#: Clears the screen, in seven bits and in eight; sets a title; turns the direction of writing around.
EVIL = "a\x1b[2J\x9b2J\x1b]0;title\x07\u202eb"
SHOWN = r"a\x1b[2J\x9b2J\x1b]0;title\x07\u202eb"
AT = 1_767_225_600.0
RUN = "260101-abcdef"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 表, \U0001f468\u200d\U0001f469", "plain, ünïcode, 表, \U0001f468\u200d\U0001f469"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        (EVIL, SHOWN),
        ("\x7f\x85\u2028\ufeff\ud800", r"\x7f\x85\u2028\ufeff\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_what_acts_on_a_terminal_is_written_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_character_that_acts_gets_through() -> None:
    everything = "".join(map(chr, range(0x110000)))
    acting = [one for one in visible(everything) if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
    assert acting == []


def test_several_lines_stay_several_lines() -> None:
    assert visible_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_json_keeps_its_meaning() -> None:
    value = {"text": f"{EVIL}\u2028\ud800\U000e0041", "plain": "ü表"}
    text = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert visible(text) == text
    assert "ü表" in text


def failed(state: RunState) -> ev.StepFinished:
    error = ev.ErrorDetails(message=EVIL, sqlstate="P0001", detail="\x1b[31m", hint="\x9bm")
    state.records["a"].state = StepState.FAILED
    return ev.StepFinished(at=AT, step="a", state=StepState.FAILED, error=error)


def test_progress_lines_and_the_json_log() -> None:
    state = initial_state(plan(step("a", "SELECT 1")))
    notice = ev.AttemptNotice(at=AT, step="a", attempt=1, notice=ev.Notice(severity="NOTICE", message=EVIL))
    lines, log = io.StringIO(), io.StringIO()
    for sink in (Plain(lines, RUN, Verbosity.VERBOSE), JsonLog(log, RUN, Verbosity.VERBOSE)):
        sink.handle(failed(state), state)
        sink.handle(notice, state)
    first, second = lines.getvalue().splitlines()
    assert first.endswith(f"a: failed: {SHOWN} (SQLSTATE P0001) \\x1b[31m \\x9bm")
    assert second.endswith(f"a: NOTICE: {SHOWN}")
    assert visible_lines(log.getvalue()) == log.getvalue()
    written = [json.loads(line) for line in log.getvalue().splitlines()]
    assert written[0]["error"]["message"] == written[1]["notice"]["message"] == EVIL


def test_the_live_view() -> None:
    state = initial_state(plan(step("a", "SELECT 1"), slots=1))
    state.records["a"].state = StepState.RUNNING
    state.active["a"] = None
    view = View(state=state, run_id=RUN, now=AT, workers={"a": WorkerView(doing=EVIL, waits=f"waits, held by {EVIL}")})
    text = "\n".join(line.plain for line in frame(view, 160, 20))
    assert text.count(SHOWN) == 2
    assert visible_lines(text) == text


@pytest.mark.parametrize("color", [False, True])
def test_problems(*, color: bool) -> None:
    problem = Problem(position=Position(file="f\x1b", line=1, column=2), code="JP1", message=EVIL, hint=EVIL)
    text = "\n".join(problem_lines(problem, lambda _: [EVIL], Style(excerpt=True, color=color)))
    for own in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[1;31m"):
        text = text.replace(own, "")
    assert visible_lines(text) == text
    assert text.count(SHOWN) == 3


def test_annotations_and_markdown() -> None:
    assert workflow_command("error", {"title": EVIL}, f"{EVIL}\nx%").endswith(f"::{SHOWN}%0Ax%25")
    assert code(EVIL) == f"`{SHOWN}`"
    assert block(f"{EVIL}\n\tx") == f"```text\n{SHOWN}\n\tx\n```"


def test_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    report_bug(ValueError(EVIL))
    written = capsys.readouterr().err
    assert f"ValueError: {SHOWN}\n" in written
    assert visible_lines(written) == written
