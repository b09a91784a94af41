"""Progress as JSON lines: the same facts, a level and a message, under names that stay."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from runner.engine.fold import apply
from runner.engine.state import initial_state
from runner.reports.json_lines import JsonLog
from runner.reports.messages import Verbosity
from runner.reports.progress import HEARTBEAT
from tests.unit.report_samples import AT, HOSTILE, RUN, everything


def logged(verbosity: Verbosity) -> list[dict[str, Any]]:
    stream = io.StringIO()
    a_plan, events = everything()
    state = initial_state(a_plan)
    log = JsonLog(stream, RUN, verbosity)
    for event in events:
        apply(state, event)
        log.handle(event, state)
    log.flush()
    log.tick(AT + 10 * HEARTBEAT, state)
    log.close()
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


@pytest.mark.parametrize("verbosity", Verbosity)
def test_every_line_has_the_same_first_fields(verbosity: Verbosity) -> None:
    for line in logged(verbosity):
        assert list(line)[:4] == ["at", "level", "message", "event"]
        assert line["run"] == RUN
        assert line["level"] in {"debug", "info", "warning", "error"}
        assert line["message"]


def test_quiet_is_failures_only() -> None:
    assert [(line["step"], line["level"]) for line in logged(Verbosity.QUIET)] == [("lost", "error"), ("late", "error")]


def test_normal_is_what_a_person_reads_and_a_heartbeat() -> None:
    lines = logged(Verbosity.NORMAL)
    assert lines[0]["event"] == "run_started"
    assert lines[0]["database"] == "app"
    assert lines[-1]["event"] == "heartbeat"
    assert "attempt_notice" not in {line["event"] for line in lines}
    retrying = next(line for line in lines if line["event"] == "step_retrying")
    assert (retrying["level"], retrying["next_attempt"]) == ("warning", 2)


def test_verbose_is_every_event() -> None:
    lines = logged(Verbosity.VERBOSE)
    assert len(lines) == len(everything()[1]) + 1
    notice = next(line for line in lines if line["event"] == "attempt_notice")
    assert notice["notice"]["message"] == f"of {notice['step']} {HOSTILE}"
    assert lines[-2]["event"] == "run_finished"
    assert lines[-2]["level"] == "error"


def test_a_closed_stream_does_not_end_the_run() -> None:
    stream = io.StringIO()
    a_plan, events = everything()
    log = JsonLog(stream, RUN)
    stream.close()
    state = initial_state(a_plan)
    apply(state, events[0])
    log.handle(events[0], state)
    assert stream.closed
