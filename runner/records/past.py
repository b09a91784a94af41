"""How long the steps of a plan took in its earlier runs, from their journals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.engine.past import PastRun, StepTimes
from runner.errors import RecordError
from runner.records.files import read_regular
from runner.records.folder import EVENTS
from runner.records.lines import read_lines
from runner.records.summary import Standing, Summary, list_records

#: Runs that are told of: the latest ones.
MOST = 20
#: Where a run keeps what the ledger knew of earlier ones.
KEPT = "history.json"
#: Bytes of a journal beyond which it is left alone.
_LARGEST = 50_000_000


def past_runs(root: Path, plan: str, before: float) -> tuple[PastRun, ...]:
    """Return the last runs of a plan that finished and had begun before a moment, the oldest first.

    A journal that cannot be read is left out.
    """
    found: list[PastRun] = []
    for summary in _summaries(root):
        if len(found) == MOST:
            break
        fits = summary.plan == plan and summary.standing is Standing.FINISHED
        if fits and summary.started_at is not None and summary.started_at < before:
            steps = _steps(summary.folder / EVENTS)
            if steps:
                found.append(PastRun(run=summary.run_id, started_at=summary.started_at, steps=steps))
    return tuple(reversed(found))


def _summaries(root: Path) -> tuple[Summary, ...]:
    try:
        return list_records(root)
    except RecordError:
        return ()


def latest(runs: Iterable[PastRun]) -> tuple[PastRun, ...]:
    """Return the latest runs, the oldest of them first."""
    return tuple(sorted(runs, key=lambda run: run.started_at)[-MOST:])


def keep_past(folder: Path, runs: Iterable[PastRun]) -> None:
    """Write earlier runs into a run's folder. OSError if they cannot be."""
    told = [{"run": run.run, "started_at": run.started_at, "steps": dict(run.steps)} for run in runs]
    (folder / KEPT).write_text(json.dumps(told), encoding="utf-8")


def kept_past(folder: Path) -> tuple[PastRun, ...] | None:
    """Return the earlier runs that a run has kept in its folder; None if there are none, or nobody can read them."""
    try:
        told = json.loads(read_regular(folder / KEPT).decode())
        return tuple(
            PastRun(
                run=str(one["run"]),
                started_at=float(one["started_at"]),
                steps={str(step): (float(seconds), str(state)) for step, (seconds, state) in one["steps"].items()},
            )
            for one in told
        )
    except (OSError, RecordError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _steps(path: Path) -> dict[str, tuple[float, str]]:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        return durations(line for _, line in read_lines(path, read_regular(path)))
    except (OSError, RecordError, KeyError, TypeError, ValueError):
        return {}


def durations(lines: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Return the seconds and the last state of each step of which an attempt has ended."""
    times, states = StepTimes(), dict[str, str]()
    for line in lines:
        event, step = line["event"], line.get("step", "")
        if event in _TIMED:
            times.take(event, step, _moment(line))
        elif event == "step_finished":
            states[step] = line["state"]
    found = ((step, times.seconds(step), state) for step, state in states.items())
    return {step: (round(seconds, 3), state) for step, seconds, state in found if seconds is not None}


#: What `StepTimes` takes.
_TIMED = frozenset({"run_resumed", "attempt_launching", "attempt_deferred", "attempt_finished"})


def _moment(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()
