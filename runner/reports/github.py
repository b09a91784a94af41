"""What a run shows in GitHub Actions: an annotation for each step that did not succeed, and a step summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from runner.engine import events as ev
from runner.engine.state import BAD, RunState, StepState
from runner.engine.step_sql import place_in_plan
from runner.reports.markdown import markdown_text
from runner.reports.messages import failure_words
from runner.reports.plan_problems import repository_path, workflow_command
from runner.reports.progress import error_text
from runner.reports.report_builder import run_report


class GithubActions:
    """A sink that writes annotations to a stream as they come up, and the summary at the end.

    `history` is what has happened before, if the run is taken up. Neither is what the run is for: where one cannot be
    written, the run is not told to have failed.
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

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Keep the event, and write an annotation if a step did not succeed."""
        self._events.append(event)
        self._state = state
        for line in annotated(event, state, self._run_id, self._workspace):
            self._write(line)

    def flush(self) -> None:
        """Do nothing: what was handled was written."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing: annotations are about ends."""

    def close(self) -> None:
        """Append the summary to those of the steps before."""
        if self._summary is None or self._state is None or self._state.started_at is None:
            return
        text = markdown_text(run_report(self._state.plan, self._run_id, self._events))
        try:
            with self._summary.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{text}\n")
        except OSError as error:
            self._write(workflow_command("warning", {}, f"The step summary cannot be written: {error.strerror}"))

    def _write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return


def annotated(event: ev.Event, state: RunState, run_id: str, workspace: str = "") -> Iterator[str]:
    """Yield the workflow command that an event is worth: an error, or a warning for a failure that is allowed.

    It stands at the place in the step's SQL that the server complained of, else at the step; files are relative to the
    folder `workspace`, else to their repository.
    """
    if not isinstance(event, ev.StepFinished) or not (event.state in BAD or event.state == StepState.FAILED_ALLOWED):
        return
    record = state.records[event.step]
    if record.instances:
        return  # each of them has an annotation of its own
    place = place_in_plan(event.error, record, state, run_id) or record.step.position
    properties = {"title": f"{event.step} {event.state.replace('_', ' ')}"}
    if place.file:
        properties |= {
            "file": repository_path(place.file, workspace),
            "line": str(place.line),
            "col": str(place.column),
        }
    kind = "warning" if event.state == StepState.FAILED_ALLOWED else "error"
    yield workflow_command(kind, properties, failure_words(error_text(event.error), committed=record.committed))


def from_environment(
    environment: Mapping[str, str], stream: TextIO, run_id: str, history: Sequence[ev.Event] = ()
) -> GithubActions | None:
    """Return the sink if this is a job of GitHub Actions; None elsewhere."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return None
    summary = environment.get("GITHUB_STEP_SUMMARY")
    workspace = environment.get("GITHUB_WORKSPACE", "")
    place = Path(summary) if summary else None
    return GithubActions(stream, run_id, summary=place, workspace=workspace, history=history)
