"""How long the steps of a plan took in its earlier runs, from their journals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.errors import RecordError
from runner.records.folder import EVENTS
from runner.records.lines import read_lines
from runner.records.summary import Standing, list_records

#: Runs that are told of: the latest ones.
MOST = 20
#: Bytes of a journal beyond which it is left alone.
_LARGEST = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An earlier run of the plan: for each step that was launched, its seconds and its last state."""

    run: str
    started_at: float
    steps: Mapping[str, tuple[float, str]]


def past_runs(root: Path, plan: str, before: float) -> tuple[PastRun, ...]:
    """Return the last runs of a plan that finished and had begun before a moment, the oldest first.

    A journal that cannot be read is left out.
    """
    found: list[PastRun] = []
    for summary in list_records(root):
        if len(found) == MOST:
            break
        fits = summary.plan == plan and summary.standing is Standing.FINISHED
        if fits and summary.started_at is not None and summary.started_at < before:
            steps = _steps(summary.folder / EVENTS)
            if steps:
                found.append(PastRun(run=summary.run_id, started_at=summary.started_at, steps=steps))
    return tuple(reversed(found))


def _steps(path: Path) -> dict[str, tuple[float, str]]:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        return durations(line for _, line in read_lines(path, path.read_bytes()))
    except (OSError, RecordError, KeyError, TypeError, ValueError):
        return {}


def durations(lines: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Return each launched step's seconds, from the first launch to the last attempt's end, and its last state."""
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    states: dict[str, str] = {}
    for line in lines:
        match line["event"]:
            case "attempt_launching":
                began.setdefault(line["step"], _moment(line))
            case "attempt_finished":
                ended[line["step"]] = _moment(line)
            case "step_finished":
                states[line["step"]] = line["state"]
    return {
        step: (round(ended[step] - at, 3), states[step])
        for step, at in began.items()
        if step in ended and step in states
    }


def _moment(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()
