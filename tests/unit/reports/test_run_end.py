"""The end of a run: how it ended, what went wrong first, and what to type next, each on its own line."""

from __future__ import annotations

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.simulation import run_started
from runner.engine.state import RunState, initial_state
from runner.exit_codes import ExitCode, end_words
from runner.reports.run_end import SHOWN_FAILURES, NextCommands, run_end
from tests.builders import plan, step

AT = 1_767_225_600.0  # 2026-01-01T00:00:00Z
RUN = "260101-abcdef"
COMMANDS = NextCommands(follow="F", cancel="C", resume="R")


def state_after(*events: ev.Event, steps: str = "ab") -> RunState:
    """Return the state of a plan after these events."""
    p = plan(*(step(key, "SELECT 1") for key in steps), slots=1)
    state = initial_state(p)
    for event in (run_started(p, AT), *events):
        apply(state, event)
    return state


def failed(key: str, at: float, message: str = "no") -> ev.StepFinished:
    error = ev.ErrorDetails(message=message, sqlstate="XX000")
    return ev.StepFinished(at=at, step=key, state="failed", error=error)


def lines(state: RunState, code: int = 0) -> list[str]:
    end = run_end(
        state, run_id=RUN, exit_code=code, seconds=65.0, record="rec", reports=["a.md", "b.xml"], commands=COMMANDS
    )
    return list(end.lines())


def test_a_success_has_its_record_and_reports_and_no_command() -> None:
    state = state_after(*(ev.StepSkipped(at=AT, step=key, reason=ev.SkipReason.CONDITION) for key in "ab"))
    assert lines(state) == [f"run {RUN}: 2 skipped in 1m05s", "Record  rec", "Report  a.md", "Report  b.xml"]


def test_failures_come_in_the_order_in_which_they_happened_with_message_and_place() -> None:
    state = state_after(failed("b", AT + 1, "first"), failed("a", AT + 2, "second\nline"))
    state.records["b"].ended_at, state.records["a"].ended_at = AT + 1, AT + 2
    shown = lines(state, 1)
    assert shown[0] == f"run {RUN} failed: 2 failed in 1m05s"
    assert shown[1] == "What went wrong:"
    assert [line for line in shown if line.startswith("  step ")] == [
        "  step b: first (SQLSTATE XX000)",
        "  step a: second line (SQLSTATE XX000)",
    ]
    assert shown[-1] == "Resume  R"


def test_many_failures_are_cut_with_their_number() -> None:
    names = "abcdefghijklm"
    shown = lines(state_after(*(failed(key, AT + number) for number, key in enumerate(names)), steps=names), 1)
    assert len([line for line in shown if line.startswith("  step ")]) == SHOWN_FAILURES
    assert f"  and {len(names) - SHOWN_FAILURES} more" in shown


def test_commands_for_workers_are_there_only_while_workers_run() -> None:
    name = f"jobplan:{RUN}:a"
    launching = ev.AttemptLaunching(at=AT, step="a", attempt=1, application_name=name, timeout=60.0)
    state = state_after(ev.StepReady(at=AT, step="a"), launching)
    assert lines(state, 130)[-3:] == ["Follow  F", "Cancel  C", "Resume  R"]
    assert lines(state, 130)[0].startswith(f"run {RUN} interrupted: ")


def test_the_fields_are_those_of_the_lines() -> None:
    end = run_end(state_after(failed("a", AT)), run_id=RUN, exit_code=1, seconds=1.0, record="rec", commands=COMMANDS)
    fields = end.fields()
    assert fields["record"] == "rec"
    assert fields["resume"] == "R"
    assert [one["step"] for one in fields["failures"]] == ["a"]
    assert "follow" not in fields
    assert "reports" not in fields


@pytest.mark.parametrize(
    ("code", "words"), [(0, "succeeded"), (1, "failed"), (130, "interrupted"), (143, "interrupted")]
)
def test_each_exit_code_of_a_run_has_words(code: int, words: str) -> None:
    assert end_words(code) == words


def test_codes_of_ended_runs_are_never_shown_as_numbers() -> None:
    codes = (ExitCode.RUN_TIMEOUT, ExitCode.GROUP_HELD, ExitCode.UNKNOWN, ExitCode.WINDOW_CLOSED)
    assert not any(character.isdigit() for code in codes for character in end_words(code))
