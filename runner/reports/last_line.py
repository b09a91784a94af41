"""The last line of a run: how it ended, where its record is, and what lives on."""

from __future__ import annotations

from dataclasses import dataclass

from runner.durations import format_duration
from runner.engine.state import HOLDING, RunState, StepState
from runner.reports.outcomes import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Afterlife:
    """What is to be said of workers that live on: the commands that follow and stop them, or why there are none."""

    follow: str = ""
    stop: str = ""
    instead: str = ""


def last_line(state: RunState, *, run_id: str, seconds: float, record: str | None, afterlife: Afterlife) -> str:
    """Sum up the run: how many of each state, how long, WARNINGs, where the record is, how to find what lives on."""
    counts = state.counts()
    tally = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in StepState if counts[name])
    text = f"run {run_id}: {tally} in {format_duration(seconds)}"
    warnings = sum(record.warnings for record in state.records.values())
    text += f"; {counted(warnings, 'warning')} of the server" if warnings else ""
    if record:
        text += f"; record: {record}"
    if any((r.state is StepState.DETACHED and not r.gone) or r.state in HOLDING for r in state.records.values()):
        text += f"; {afterlife.instead}" if afterlife.instead else ""
        text += f"; follow what lives on: {afterlife.follow}" if afterlife.follow else ""
        text += f"; stop it: {afterlife.stop}" if afterlife.stop else ""
    return text
