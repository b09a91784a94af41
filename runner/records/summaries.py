"""Summaries of recorded runs, from each journal's first and last lines, and the times of steps in previous runs."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from runner.clock import parse_rfc3339
from runner.engine.previous_runs import MOST_PREVIOUS_RUNS, PastRun, PreviousRun, StepTimes
from runner.engine.state import BAD
from runner.errors import RecordError
from runner.exit_codes import is_failure
from runner.identity import is_of_chain, is_of_plan
from runner.records.journal_files import intact_length, open_regular, read_lines, read_regular
from runner.records.run_folders import EVENTS, is_locked, journals
from runner.structs import Struct, field, from_values, replace, to_values

#: The bytes of a journal that are read at once, from either end.
_CHUNK = 65_536
#: The only event that a journal can have between a run's end and its resume.
_WAITING = "group_waiting"


class Standing(enum.StrEnum):
    """The state of a run, as far as its journal shows."""

    RUNNING = "running"
    FINISHED = "finished"
    #: It began, has no end, and has no runner: its runner was killed, or its journal was lost.
    ENDED_EARLY = "broken_off"
    NOT_STARTED = "not_started"
    UNREADABLE = "unreadable"


class Summary(Struct, frozen=True, kw_only=True):
    """A summary of a run. Times are seconds since the epoch; without an end, `ended_at` is the time of its last event.

    `steps` counts the steps of a finished run by state; for a step with instances, these are counted. `plan_steps`
    counts the steps of its plan. `problem` says why a journal cannot be read.
    """

    run_id: str
    folder: Path
    standing: Standing
    plan: str = ""
    host: str = ""
    os_pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    #: The seconds that its runners worked on a finished run.
    took: float | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    plan_steps: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


def list_records(root: Path) -> tuple[Summary, ...]:
    """Return the runs whose journals are in `root`, the latest first, including unreadable ones.

    RecordError if `root` itself cannot be read.
    """
    found = [_summary(folder) for folder in journals(root) if not folder.is_symlink()]
    return tuple(sorted(found, key=lambda run: (run.started_at or 0.0, run.run_id), reverse=True))


def _summary(folder: Path) -> Summary:
    try:
        locked = is_locked(folder)
        with os.fdopen(open_regular(folder / EVENTS), "rb") as file:
            first = next((line for line in _first_lines(file) if line.get("event") == "run_started"), None)
            last, waits = _last_line(file)
        return _summed_up(folder, first, last, locked=locked, waits=waits)
    except _READ_ERRORS as error:
        return Summary(run_id=folder.name, folder=folder, standing=Standing.UNREADABLE, problem=_problem(error))


#: What reading a journal raises if it is missing, damaged or not for this user.
_READ_ERRORS = (OSError, RecordError, KeyError, TypeError, ValueError, AttributeError, RecursionError, StopIteration)


def _problem(error: BaseException) -> str:
    """Return why a journal cannot be read."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return error.message if isinstance(error, RecordError) else "its events are damaged"


def _summed_up(
    folder: Path, first: Mapping[str, Any] | None, last: Mapping[str, Any] | None, *, locked: bool, waits: bool
) -> Summary:
    """Return the summary; `waits`: after `last`, a runner waits for the group to resume the run."""
    if first is None or last is None:
        standing = Standing.RUNNING if locked else Standing.NOT_STARTED
        return Summary(run_id=folder.name, folder=folder, standing=standing)
    finished = last["event"] == "run_finished" and not (waits and locked)
    open_ = Standing.RUNNING if locked else Standing.ENDED_EARLY
    began, ended = parse_rfc3339(first["at"]), parse_rfc3339(last["at"])
    return Summary(
        run_id=folder.name,
        folder=folder,
        standing=Standing.FINISHED if finished else open_,
        plan=first["plan"],
        host=first["host"],
        os_pid=first["os_pid"],
        started_at=began,
        ended_at=ended,
        exit_code=last["exit_code"] if finished else None,
        took=last.get("duration", ended - began) if finished else None,
        steps=_counted(last["steps"], last.get("split", ())) if finished else {},
        plan_steps=Counter(state for key, state in last["steps"].items() if is_of_plan(key)) if finished else {},
    )


def _counted(steps: Mapping[str, str], split: Iterable[str]) -> Mapping[str, int]:
    parents = {key.partition("[")[0] for key in steps if "[" in key} | set(split)
    parents |= {key.rpartition(".")[0] for key in steps if is_of_chain(key)}  # the items of groups
    return Counter(state for key, state in steps.items() if key not in parents)


def _first_lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the content of the first lines, as far as they are complete and in the first chunk."""
    head = file.read(_CHUNK)
    for line in head.split(b"\n")[:-1]:
        data = json.loads(line)
        yield data


def _last_line(file: BinaryIO) -> tuple[dict[str, Any] | None, bool]:
    """Return the content of the last complete line, and whether a runner waits for the group after it.

    Such a wait does not change the run's state, which the line before it shows. None: there is no line.
    """
    size = file.seek(0, 2)
    tail = b""
    while size:
        begin = max(size - _CHUNK, 0)
        file.seek(begin)
        tail = file.read(size - begin) + tail
        size = begin
        lines = tail[: intact_length(tail)].split(b"\n")[:-1]
        for number, line in enumerate(reversed(lines[1:] if size else lines)):
            data: dict[str, Any] = json.loads(line)
            if data.get("event") != _WAITING:
                return data, number > 0
    return None, False


#: The file in a run's folder with the ledger's previous runs.
KEPT = "history.json"
#: The size in bytes beyond which a journal is not read.
_LARGEST = 50_000_000


def previous_runs(root: Path, plan: str, before: float) -> tuple[PreviousRun, ...]:
    """Return the last runs of a plan that finished and began before a time, the oldest first.

    Unreadable journals are left out.
    """
    found = (
        PreviousRun(run=summary.run_id, started_at=summary.started_at or 0.0, steps=steps)
        for summary in _finished(root, plan, before)
        if (steps := _steps(summary.folder / EVENTS))
    )
    return tuple(reversed(list(islice(found, MOST_PREVIOUS_RUNS))))


def recorded_runs(root: Path) -> Iterator[PastRun]:
    """Yield all runs whose journals are in `root`, the latest first, including unreadable ones.

    RecordError if `root` itself cannot be read.
    """
    yield from map(_recorded_run, list_records(root))


def _recorded_run(summary: Summary) -> PastRun:
    found = PastRun(
        run=summary.run_id,
        standing=summary.standing.value,
        plan=summary.plan,
        host=summary.host,
        started_at=summary.started_at,
        ended_at=summary.ended_at,
        exit_code=summary.exit_code,
        seconds=summary.took,
        problem=summary.problem,
    )
    if summary.standing is Standing.UNREADABLE or summary.started_at is None:
        return found
    path = summary.folder / EVENTS
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            return replace(found, problem=f"its steps are left out: the journal has {size / 1e6:,.0f} MB")
        lines = [line for _, line in read_lines(path, read_regular(path), notices=False)]
        first = next(line for line in lines if line["event"] == "run_started")
        return replace(
            found,
            target=first.get("target") or "",
            database=first["database"],
            steps=durations(lines),
            failures=_failures(lines),
        )
    except _READ_ERRORS as error:
        return replace(found, standing=Standing.UNREADABLE.value, problem=_problem(error))


def _failures(lines: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the steps that went wrong in the end, with state and message; a resume runs them again."""
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        if line["event"] == "run_resumed":
            found.clear()
        elif line["event"] == "step_finished":
            found.pop(line["step"], None)
            if line["state"] in BAD:
                found[line["step"]] = (str(line["state"]), str((line.get("error") or {}).get("message") or ""))
    return found


def failed_before(root: Path, plan: str, before: float) -> bool:
    """Return whether the last run of a plan that finished, and began before a time, had failed."""
    last = next(_finished(root, plan, before), None)
    return last is not None and last.exit_code is not None and is_failure(last.exit_code)


def _finished(root: Path, plan: str, before: float) -> Iterator[Summary]:
    """Yield the finished runs of a plan that began before a time, the latest first; none if `root` cannot be read."""
    with contextlib.suppress(RecordError):
        for run in list_records(root):
            finished = run.plan == plan and run.standing is Standing.FINISHED
            if finished and run.started_at is not None and run.started_at < before:
                yield run


def write_previous_runs(folder: Path, runs: Iterable[PreviousRun]) -> None:
    """Write previous runs into a run's folder. OSError if that fails."""
    (folder / KEPT).write_text(json.dumps(list(map(to_values, runs))), encoding="utf-8")


def kept_previous_runs(folder: Path) -> tuple[PreviousRun, ...] | None:
    """Return the previous runs in a run's folder; None if there are none, or if they cannot be read."""
    try:
        return tuple(from_values(one, PreviousRun) for one in json.loads(read_regular(folder / KEPT).decode()))
    except _READ_ERRORS:
        return None


def _steps(path: Path) -> dict[str, tuple[float, str]]:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        return durations(line for _, line in read_lines(path, read_regular(path)))
    except _READ_ERRORS:
        return {}


def durations(lines: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Return the seconds and the last state of each step with an ended attempt."""
    times, states = StepTimes(), dict[str, str]()
    for line in lines:
        event, step = line["event"], line.get("step", "")
        if event in _TIMED:
            times.take(event, step, _moment(line))
        elif event == "step_finished":
            states[step] = line["state"]
    found = ((step, times.seconds(step), state) for step, state in states.items())
    return {step: (round(seconds, 3), state) for step, seconds, state in found if seconds is not None}


#: The events that `StepTimes` processes.
_TIMED = frozenset({"run_resumed", "attempt_preparing", "attempt_launching", "attempt_deferred", "attempt_finished"})


def _moment(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()
