"""The kinds of report that `--report KIND=PATH` knows, in one table, and the sink that writes one when the run ends.

`jobplan run` and `jobplan show` use the same table, with events that happen and events that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from runner.engine.event_json import to_line
from runner.engine.events import Event
from runner.engine.ports import Sink
from runner.engine.previous_runs import PreviousRun, PreviousRuns
from runner.engine.state import RunState
from runner.errors import RecordError
from runner.plan.model import Plan
from runner.reports.destinations import Destination
from runner.reports.json_lines import JsonLines
from runner.reports.run_report import RunReport
from runner.structs import replace

#: `jsonl` is the events, written as they happen; the others are rendered from the finished report.
KINDS = ("jsonl", "junit", "markdown", "html", "prometheus")

#: Takes the plan, the run's id, its events, previous runs of the plan (the oldest first), and the command to resume.
_Renderer = Callable[[Plan, str, Sequence[Event], Sequence[PreviousRun], str], str]


def _renderer(kind: str) -> _Renderer:
    """Return what renders a kind of report. Its modules are imported here: most runs write no report.

    A run asks for it when it starts, so that a later change of the installation cannot spoil its report.
    """
    from runner.reports.report_builder import run_report

    render: Callable[[RunReport], str]
    match kind:
        case "junit":
            from runner.reports.junit import junit_xml as render
        case "markdown":
            from runner.reports.markdown import markdown_text as render
        case "html":
            from runner.reports.html import html_page as render
        case "prometheus":
            from runner.reports.prometheus import prometheus_text as render
        case _:
            raise ValueError(f"{kind} is no kind of report")
    return lambda plan, run_id, events, history, resume: render(
        replace(run_report(plan, run_id, events), history=tuple(history), resume=resume)
    )


def report_text(
    kind: str,
    plan: Plan,
    run_id: str,
    events: Sequence[Event],
    history: Sequence[PreviousRun] = (),
    *,
    resume: str = "",
) -> str:
    """Return a report of what was recorded. ValueError if the events do not begin with the run's start.

    `history` are previous runs of the plan, the oldest first; `resume` is the command that resumes the run.
    """
    if kind == "jsonl":
        return b"".join(to_line(event, run_id) for event in events).decode()
    return _renderer(kind)(plan, run_id, events, history, resume)


def write_report(kind: str, path: Path, text: str) -> None:
    """Write a report so that readers see the old one or the new one, never a part. RecordError if it cannot be written.

    What is not a regular file at this path is not replaced: see `destinations`.
    """
    try:
        Destination.of(path).write(text)
    except OSError as error:
        raise _refused(kind, path, error) from error


def _refused(kind: str, path: Path, error: OSError) -> RecordError:
    return RecordError(f"the {kind} report {path} cannot be written: {error.strerror}")


class ReportFile(Sink):
    """A sink that collects the run's events and writes a report at its end; `broken`: the report was not written.

    `history` has the previous runs when the report is written. RecordError at once if the place cannot be written
    to. A run that never started has no report.
    """

    def __init__(
        self, kind: str, path: Path, run_id: str, history: PreviousRuns | None = None, *, resume: str = ""
    ) -> None:
        self.path = path
        self._resume = resume
        self.broken = False
        self._kind = kind
        self._render = _renderer(kind)
        self._run_id = run_id
        self._history = history
        self._events: list[Event] = []
        self._plan: Plan | None = None
        try:
            self._place = Destination.of(path, unblocked=True)
        except OSError as error:
            raise _refused(kind, path, error) from error

    def handle(self, event: Event, state: RunState) -> None:
        """Keep the event."""
        self._plan = state.plan
        self._events.append(event)

    def close(self) -> None:
        """Write the report."""
        if self._plan is None or not any(event.name == "run_started" for event in self._events):
            self.broken = True
            self._place.close()
            return
        history = self._history.runs if self._history is not None else ()
        text = self._render(self._plan, self._run_id, self._events, history, self._resume)
        try:
            self._place.write(text)
        except OSError as error:
            self.broken = True
            raise _refused(self._kind, self.path, error) from error


def open_report(
    kind: str, path: Path, run_id: str, history: PreviousRuns | None = None, *, resume: str = ""
) -> JsonLines | ReportFile:
    """Return the sink for a report of this kind. RecordError if its place cannot be written to.

    `resume` is the command that resumes the run, without a connection: reports are passed on.
    """
    return JsonLines(path, run_id) if kind == "jsonl" else ReportFile(kind, path, run_id, history, resume=resume)
