"""Steps with many items in lists of lines: progress, `show` and Markdown have their counts and what failed of them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import Sink
from runner.engine.state import initial_state
from runner.plan.model import ForEach, Plan, RetryPolicy
from runner.records.record import Record
from runner.reports.json_lines import JsonLog
from runner.reports.markdown import markdown_text
from runner.reports.messages import Verbosity
from runner.reports.progress import FOLDED_EVERY, Plain, heartbeat
from runner.reports.report_builder import run_report
from runner.reports.run_end import NextCommands, run_end
from runner.reports.run_records import chosen_steps, record_lines, step_lines
from runner.structs import replace
from tests.unit.report_samples import AT, RUN
from tests.unit.simulated_runs import plan, script, simulated, step

FAILED = [script(ev.Outcome.FAILED, "42P01")]
AGAIN = [script(ev.Outcome.FAILED, "40P01"), script(ev.Outcome.SUCCEEDED)]


def plan_of(items: int, *, grouped: bool = False) -> Plan:
    each = step("parts", for_each=ForEach(as_="t", items=tuple(f"i{number:02d}" for number in range(items))))
    each = replace(each, retry=RetryPolicy(max_attempts=2, delay=1.0))
    if grouped:
        each = replace(each, retry=None, steps=(step("one"), step("two", "one")))
    return plan(step("first"), each, step("last", "parts"), slots=2)


SCRIPTS = {"parts[i03]": FAILED, "parts[i05]": AGAIN, "parts[i04].two": FAILED}


def events_of(a_plan: Plan) -> list[ev.Event]:
    return list(simulated(a_plan, SCRIPTS, start=AT, watch=None).events)


def printed(a_plan: Plan, verbosity: Verbosity = Verbosity.NORMAL, kind: type[Plain] = Plain) -> list[str]:
    """Return the lines of a run, with a tick of the clock after each event."""
    stream = io.StringIO()
    sink: Sink = kind(stream, RUN, verbosity)
    state = initial_state(a_plan)
    for event in events_of(a_plan):
        apply(state, event)
        sink.handle(event, state)
        sink.tick(event.at, state)
    return stream.getvalue().splitlines()


def test_items_that_go_as_planned_have_no_lines_but_are_counted() -> None:
    lines = printed(plan_of(60))
    counted = [line for line in lines if " parts: " in line]
    assert counted[0].endswith("parts: 60 items")
    assert counted[-1].endswith("parts: failed (59/60 done, 1 failed)")
    between = counted[1:-1]
    assert 1 <= len(between) <= 32 / FOLDED_EVERY
    assert all("/60 done" in line and "running" in line for line in between)
    items = [line.partition("parts[")[2] for line in lines if "parts[" in line]
    assert {item[:4] for item in items} == {"i03]", "i05]"}
    assert any("i03]: failed" in item for item in items)
    assert any("i05]: next attempt in" in item for item in items)


def test_all_items_have_lines_when_there_are_few_of_them_and_when_they_are_wanted() -> None:
    assert sum("]: started" in line for line in printed(plan_of(5))) >= 5
    assert sum("]: started" in line for line in printed(plan_of(30), Verbosity.VERBOSE)) >= 30


def test_the_steps_of_a_groups_items_are_folded_too() -> None:
    lines = printed(plan_of(8, grouped=True))
    assert [line.partition(" ")[2].partition(":")[0] for line in lines if "parts[" in line] == ["parts[i04].two"]
    assert any("parts: failed" in line and "(7/8 done, 1 failed)" in line for line in lines)


def test_json_lines_have_every_item() -> None:
    events = [json.loads(line) for line in printed(plan_of(30), kind=JsonLog)]
    ended = {one["step"] for one in events if one["event"] == "step_finished"}
    assert {f"parts[i{number:02d}]" for number in range(30)} <= ended


def test_a_heartbeat_counts_the_items() -> None:
    a_plan = plan_of(60)
    state = initial_state(a_plan)
    for event in events_of(a_plan):
        if event.at <= AT + 4.5:
            apply(state, event)
    words = heartbeat(state, AT + 4.5)
    assert re.search(r"queued: nothing; parts 5/60 done, 1 retrying, 2 running, 52 queued$", words)
    assert words.startswith("running: parts[")
    assert words.count("parts[") == 2  # of the queued ones none is named


def record_of(a_plan: Plan) -> Record:
    events = tuple(events_of(a_plan))
    state = initial_state(a_plan)
    for event in events:
        apply(state, event)
    return Record(
        run_id=RUN,
        folder=Path("runs") / RUN,
        plan=a_plan,
        sha256="0" * 64,
        events=events,
        state=state,
        torn=False,
    )


@pytest.mark.parametrize("width", [None, 80])
def test_show_has_a_row_with_counts_and_rows_for_what_failed(width: int | None) -> None:
    lines = list(record_lines(record_of(plan_of(60)), locked=False, resume="jobplan resume x", width=width))
    table = lines[lines.index("") + 1 :]
    steps = [line.split()[0] for line in table if line and not line.startswith(" ")]
    assert steps[:6] == ["STEP", "first", "parts", "parts[i03]", "last", "all"]
    assert any("59/60 done, 1 failed" in line for line in table)
    assert f"all instances: jobplan show {RUN} --step ID (parts)" in table


def test_show_lists_all_items_of_a_step_that_is_named() -> None:
    record = record_of(plan_of(60))
    assert sum(line.startswith("parts[") for line in step_lines(record, chosen_steps(record, "parts"))) == 60


def test_markdown_has_a_row_with_counts_and_rows_for_what_failed() -> None:
    a_plan = plan_of(60)
    text = markdown_text(run_report(a_plan, RUN, events_of(a_plan)))
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["`parts`", "`parts[i03]`", "`first`", "`last`"]
    assert "`59/60 done, 1 failed`" in text
    assert "✅ 1 succeeded · ❌ 1 failed · ⏭️ 1 skipped · 60 items: ✅ 59 succeeded · ❌ 1 failed" in text


def test_the_end_of_a_run_counts_the_steps_of_the_plan() -> None:
    state = record_of(plan_of(60)).state
    end = run_end(state, run_id=RUN, exit_code=1, seconds=32.0, commands=NextCommands())
    assert (
        end.summary == f"run {RUN} failed: 1 succeeded, 1 failed, 1 skipped in 32.0s; 60 items: 59 succeeded, 1 failed"
    )


def test_the_end_of_a_run_fits_a_terminal_and_its_commands_can_be_copied() -> None:
    state = record_of(plan_of(60)).state
    command = (
        "jobplan resume 260101-abcdef --journal /srv/jobs/records --dsn 'host=db.example dbname=warehouse user=jobs'"
    )
    end = run_end(
        state,
        run_id=RUN,
        exit_code=1,
        seconds=32.0,
        record="/srv/jobs/records/260101-abcdef",
        commands=NextCommands(resume=command),
    )
    lines = list(end.lines(80))
    assert max(map(len, lines)) <= 80
    resume = next(number for number, line in enumerate(lines) if line.startswith("Resume"))
    assert all(line.endswith(" \\") for line in lines[resume:-1])
    assert " ".join("\n".join(lines[resume:]).removeprefix("Resume").replace("\\\n", " ").split()) == command
    assert "\n".join(end.lines()).endswith(f"Resume  {command}")
