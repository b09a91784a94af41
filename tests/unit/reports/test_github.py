"""GitHub Actions: annotations at the steps' places in the plan, and a step summary, by themselves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import StepState, initial_state
from runner.errors import Position
from runner.plan.model import Plan
from runner.reports.github import GithubActions, from_environment
from runner.structs import replace
from tests.unit.report_samples import RUN, everything
from tests.unit.simulated_runs import plan, step


def placed() -> Plan:
    return plan(replace(step("a"), position=Position(file="/w/plans/a,b.yaml", line=7, column=3)))


def github_annotations(a_plan: Plan, *events: ev.Event, summary: Path | None = None, workspace: str = "/w") -> str:
    """Let the sink see events, and return what it wrote to its stream."""
    stream = io.StringIO()
    sink = GithubActions(stream, RUN, summary=summary, workspace=workspace)
    state = initial_state(a_plan)
    for event in events:
        apply(state, event)
        sink.handle(event, state)
    sink.flush()
    sink.tick(0.0, state)
    sink.close()
    return stream.getvalue()


def ended(state: StepState) -> ev.StepFinished:
    error = ev.ErrorDetails(message="100% wrong\nreally", sqlstate="23505", hint="Mend it.")
    return ev.StepFinished(at=1.0, step="a", state=state, error=error)


def test_a_failure_is_an_error_at_the_place_of_its_step() -> None:
    assert github_annotations(placed(), ended(StepState.FAILED)) == (
        "::error title=a failed,file=plans/a%2Cb.yaml,line=7,col=3::100%25 wrong really (SQLSTATE 23505) Mend it.\n"
    )


def test_a_failure_that_is_allowed_is_a_warning() -> None:
    assert github_annotations(placed(), ended(StepState.FAILED_ALLOWED), workspace="").startswith(
        "::warning title=a failed allowed,file=/w/plans/a%2Cb.yaml,"
    )


def test_a_success_is_not_annotated() -> None:
    assert github_annotations(placed(), ev.StepFinished(at=1.0, step="a", state=StepState.SUCCEEDED)) == ""


def test_the_summary_is_appended(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("of the step before\n", encoding="utf-8")
    a_plan, events = everything()
    out = github_annotations(a_plan, *events, summary=summary)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("of the step before\n### ❌ `table` unknown")
    assert [line.split("::")[1] for line in out.splitlines()] == [
        "error title=" + title if "allowed" not in title else "warning title=" + title
        for title in ("allowed failed allowed", "lost unknown", "late timed out")
    ]


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    a_plan, events = everything()
    out = github_annotations(a_plan, *events, summary=tmp_path / "nowhere" / "summary.md")
    assert out.splitlines()[-1] == "::warning::The step summary cannot be written: No such file or directory"


def test_a_run_that_never_began_has_no_summary(tmp_path: Path) -> None:
    assert github_annotations(placed(), summary=tmp_path / "summary.md") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("environment", "there"), [({}, False), ({"GITHUB_ACTIONS": "true"}, True)])
def test_it_is_only_done_in_github_actions(environment: dict[str, str], there: bool) -> None:
    assert (from_environment(environment, io.StringIO(), RUN) is not None) == there


def test_an_output_that_cannot_be_written_does_not_end_the_run() -> None:
    stream = io.StringIO()
    stream.close()
    sink = GithubActions(stream, RUN, summary=None)
    a_plan = placed()
    sink.handle(ended(StepState.FAILED), initial_state(a_plan))
    assert stream.closed


def test_the_summary_of_a_resumed_run_includes_the_previous_runner(tmp_path: Path) -> None:
    a_plan, events = everything()
    state = initial_state(a_plan)
    for event in events[:20]:
        apply(state, event)
    sink = GithubActions(io.StringIO(), RUN, summary=tmp_path / "summary.md", history=events[:20])
    for event in events[20:]:
        apply(state, event)
        sink.handle(event, state)
    sink.close()
    assert "### ❌ `table` unknown" in (tmp_path / "summary.md").read_text(encoding="utf-8")
