"""A run in GitHub Actions: annotations for steps that did not succeed, and a step summary with the plan's graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from runner.engine import events as ev
from runner.engine.ports import Sink
from runner.engine.state import BAD, RunState, StepState
from runner.engine.step_sql import place_in_plan
from runner.engine.window import is_cancelled_by_window, is_unfinished, unfinished_words
from runner.phrases import counted
from runner.reports.markdown import markdown_text
from runner.reports.messages import error_text, failure_words
from runner.reports.plan_graph import drawing
from runner.reports.plan_problems import repository_path
from runner.reports.report_builder import run_report
from runner.reports.run_report import RunReport
from runner.reports.workflow_commands import Annotations, append_summary, workflow_command


class GithubActions(Sink):
    """A sink that writes annotations to a stream when steps end, and the summary at the end of the run.

    `history` are the events so far, if the run is resumed. If an annotation or the summary cannot be written, the run
    does not fail.
    """

    def __init__(
        self,
        stream: TextIO,
        run_id: str,
        *,
        summary: Path | None,
        workspace: str = "",
        history: Sequence[ev.Event] = (),
    ) -> None:
        self._stream = stream
        self._run_id = run_id
        self._summary = summary
        self._workspace = workspace
        self._events = list(history)
        self._state: RunState | None = None
        self._annotations = Annotations(self._write)

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Keep the event, and write an annotation if a step did not succeed."""
        self._events.append(event)
        self._state = state
        for command in annotated(event, state, self._run_id, self._workspace):
            self._annotations.add(command)

    def close(self) -> None:
        """Write the last annotations, and append the summary to those of the previous steps of the job."""
        self._annotations.close()
        if self._summary is None or self._state is None or self._state.started_at is None:
            return
        report = run_report(self._state.plan, self._run_id, self._events)
        left_out = {one.key for one in report.steps if one.skip_reason is ev.SkipReason.NOT_SELECTED}
        graph = drawing(self._state.plan, title="Graph", left_out=left_out, colours=_colours(report))
        text = markdown_text(report)
        missing = append_summary(self._summary, f"{text}\n{graph}", text.partition("\n")[0])
        if missing is not None:
            self._write(workflow_command("warning", {}, missing))

    def _write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return


def _colours(report: RunReport) -> Mapping[str, str]:
    """Return how to draw each step that has ended."""
    good = {StepState.SUCCEEDED: "succeeded", StepState.DETACHED: "succeeded", StepState.SKIPPED: "skipped"}
    return {
        step.key: "failed" if step.bad or step.state is StepState.FAILED_ALLOWED else good.get(step.state, "")
        for step in report.steps
    }


def annotated(event: ev.Event, state: RunState, run_id: str, workspace: str = "") -> Iterator[str]:
    """Yield the workflow command for the end of a step: an error, or a warning for a failure that is allowed.

    Its place is the position of the error in the step's SQL, else the step; files are relative to the folder
    `workspace`, else to their repository.
    """
    if isinstance(event, ev.RunFinished) and (why := unfinished_words(state)):
        left = counted(sum(is_unfinished(state, one) for one in state.records.values() if not one.instances), "step")
        yield workflow_command("warning", {"title": f"{state.plan.name} is not finished"}, f"{why}: {left} left over")
    if not isinstance(event, ev.StepFinished) or not (event.state in BAD or event.state == StepState.FAILED_ALLOWED):
        return
    record = state.records[event.step]
    if record.instances:
        return  # each instance has its own annotation
    place = place_in_plan(event.error, record, state, run_id) or record.step.position
    properties = {"title": f"{event.step} {event.state.replace('_', ' ')}"}
    if place.file:
        properties |= {
            "file": repository_path(place.file, workspace),
            "line": str(place.line),
            "col": str(place.column),
        }
    light = event.state == StepState.FAILED_ALLOWED or is_cancelled_by_window(state, record)
    kind = "warning" if light else "error"
    yield workflow_command(kind, properties, failure_words(error_text(event.error), committed=record.committed))


def from_environment(
    environment: Mapping[str, str], stream: TextIO, run_id: str, history: Sequence[ev.Event] = ()
) -> GithubActions | None:
    """Return the sink in a job of GitHub Actions, else None."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return None
    summary = environment.get("GITHUB_STEP_SUMMARY")
    workspace = environment.get("GITHUB_WORKSPACE", "")
    place = Path(summary) if summary else None
    return GithubActions(stream, run_id, summary=place, workspace=workspace, history=history)
