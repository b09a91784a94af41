"""The end of a run in words: how it ended, what went wrong first, where its record is, and what to type next.

`run_end` collects it once; the terminal prints its lines, the JSON log its fields. `jobplan show` and `jobplan status`
print the same failures and commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from runner.durations import format_duration
from runner.engine.events import Event, StepFinished
from runner.engine.resume_state import steps_over
from runner.engine.state import BAD, HOLDING, RunState, StepRecord, StepState
from runner.engine.step_sql import place_in_plan
from runner.engine.window import unfinished_words
from runner.exit_codes import end_words
from runner.phrases import counted
from runner.reports.messages import error_of, error_text, failure_words
from runner.reports.step_counts import counts_words, run_counts
from runner.reports.terminal_text import broken, broken_command
from runner.structs import Struct, picked

#: How many failures are listed; `jobplan show` has all of them in its table.
SHOWN_FAILURES = 10


class StepFailure(Struct, frozen=True, kw_only=True):
    """A step that did not succeed: its state and error in words, and the place in the plan's files."""

    step: str
    state: str
    message: str
    place: str | None = None


class NextCommands(Struct, frozen=True, kw_only=True):
    """The commands that follow and cancel workers that outlive the run, and resume it; or a note instead of them."""

    follow: str = ""
    cancel: str = ""
    resume: str = ""
    note: str = ""


class RunEnd(Struct, frozen=True, kw_only=True):
    """What is printed at the end of a run; commands that do not apply are empty."""

    summary: str
    failures: tuple[StepFailure, ...]
    record: str
    reports: tuple[str, ...]
    commands: NextCommands

    def lines(self, width: int | None = None) -> Iterator[str]:
        """Yield the lines for a person: one fact on each, and at the end the commands to type next.

        With the `width` of a terminal, lines are broken between words, and commands so that they can be copied.
        """
        for line in self._facts():
            yield from broken(line, width)
        named = (("Follow", self.commands.follow), ("Cancel", self.commands.cancel), ("Resume", self.commands.resume))
        for label, command in named:
            yield from broken_command(next_line(label, command), width) if command else ()

    def _facts(self) -> Iterator[str]:
        yield self.summary
        yield from failures_as_lines(self.failures)
        if self.record:
            yield next_line("Record", self.record)
        yield from (next_line("Report", report) for report in self.reports)
        if self.commands.note:
            yield next_line("Note", self.commands.note)

    def fields(self) -> Mapping[str, Any]:
        """Return the same for a program; what does not apply is left out."""
        failures = [picked(one, "step", "state", "message", "place") for one in self.failures]
        commands = picked(self.commands, "follow", "cancel", "resume")
        found = {"failures": failures, "record": self.record, "reports": self.reports, **commands}
        return {name: value for name, value in found.items() if value}


def next_line(label: str, text: str) -> str:
    """Return a line with a label: `Resume  jobplan resume 260101-abcdef`."""
    return f"{label:<8}{text}"


def run_end(
    state: RunState,
    *,
    run_id: str,
    exit_code: int,
    seconds: float,
    record: str = "",
    reports: Sequence[str] = (),
    commands: NextCommands,
) -> RunEnd:
    """Return the end of a run. Of the `commands`, those for workers count only while workers run."""
    alive = any(
        (one.state is StepState.DETACHED and not one.worker_ended) or one.state in HOLDING
        for one in state.records.values()
    )
    return RunEnd(
        summary=_summary(state, run_id, exit_code, seconds),
        failures=tuple(failures_of(state, run_id)),
        record=record,
        reports=tuple(reports),
        commands=NextCommands(
            follow=commands.follow if alive else "",
            cancel=commands.cancel if alive else "",
            note=commands.note if alive else "",
            resume=commands.resume if is_resumable(state) else "",
        ),
    )


def _summary(state: RunState, run_id: str, exit_code: int, seconds: float) -> str:
    """Sum up the run: how it ended, its steps by state, its duration, and the server's WARNINGs."""
    unfinished = unfinished_words(state)
    end = "" if exit_code == 0 or unfinished else f" {words_of_end(state, exit_code)}"
    text = f"run {run_id}{end}: {counts_words(run_counts(state), took=format_duration(seconds))}"
    warnings = sum(one.warnings for one in state.records.values())
    text += f"; {counted(warnings, 'warning')} from the server" if warnings else ""
    return text + (f"; not finished: {unfinished}" if unfinished else "")


def words_of_end(state: RunState, exit_code: int | None) -> str:
    """Return how a run ended, in a few words; without an exit code, it has not ended."""
    if exit_code is None:
        return "not finished"
    cancelled = state.cancelled_by is not None and not any(
        one.state in BAD and one.state is not StepState.CANCELLED for one in state.records.values()
    )
    return "cancelled" if cancelled and exit_code == 1 else end_words(exit_code)


def is_resumable(state: RunState) -> bool:
    """Return whether a resume would run something: a step has not ended, has failed, or was skipped because of that."""
    leaves = {key for key, record in state.records.items() if record.instances is None}
    return not leaves <= steps_over(state, {}, state.plan)


def recorded_places(events: Iterable[Event]) -> Mapping[str, str]:
    """Return the places that events recorded, by step: a recorded plan has no positions in files."""
    finished = (event for event in events if isinstance(event, StepFinished) and event.file)
    return {event.step: f"{event.file}:{event.line}" for event in finished}


def failures_of(state: RunState, run_id: str, places: Mapping[str, str] = MappingProxyType({})) -> list[StepFailure]:
    """Return what went wrong, the first failure first; without steps that were cancelled because the run ended.

    `places` are recorded places, for steps whose plan has no positions.
    """
    ended = state.interrupted is not None or state.timed_out or state.cancelled_by is not None
    wrong = [
        one
        for one in state.records.values()
        if one.state in BAD and one.instances is None and not (one.state is StepState.CANCELLED and ended)
    ]
    wrong.sort(key=lambda one: (one.ended_at is None, one.ended_at or 0.0))
    return [_failure(one, state, run_id, places.get(one.key)) for one in wrong]


def _failure(record: StepRecord, state: RunState, run_id: str, recorded: str | None) -> StepFailure:
    error = error_of(record)
    place = place_in_plan(error, record, state, run_id) or record.step.position
    return StepFailure(
        step=record.key,
        state=str(record.state),
        message=failure_words(error_text(error), committed=record.committed),
        place=str(place) if place.file else recorded,
    )


def failures_as_lines(failures: Sequence[StepFailure]) -> Iterator[str]:
    """Yield what went wrong: for each failure the step and its message, and below it the place in the plan."""
    if failures:
        yield "What went wrong:"
    for one in failures[:SHOWN_FAILURES]:
        state = "" if one.state == StepState.FAILED else f" {one.state.replace('_', ' ')}"
        yield f"  step {one.step}{state}: {one.message}"
        if one.place:
            yield f"    {one.place}"
    if len(failures) > SHOWN_FAILURES:
        yield f"  and {len(failures) - SHOWN_FAILURES:,} more"
