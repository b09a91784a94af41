"""Read a run's record from disk: its resolved plan, its events, and the state after them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner._version import installed_version
from runner.engine import events as ev
from runner.engine.event_json import from_json
from runner.engine.fold import apply
from runner.engine.state import RunState, initial_state
from runner.errors import RecordError
from runner.plan.model import Plan
from runner.plan.plan_json import plan_from_json
from runner.records.journal_files import (
    HEAD,
    check_head,
    damaged,
    from_ledger,
    intact_length,
    read_head,
    read_lines,
    read_regular,
    require_owner,
)
from runner.records.run_folders import DIGEST, EVENTS, LATER_PLANS, PLAN, journals
from runner.records.summaries import list_records
from runner.structs import Struct, replace

#: The name for the latest run.
LAST = "last"
_LIST = "jobplan runs lists runs; --journal DIR or JOBPLAN_JOURNAL specifies where."
_ELSEWHERE = "If it was started on another machine and is in a ledger: jobplan resume {run} --from-ledger."


class Record(Struct, frozen=True, kw_only=True):
    """The record of a run. `torn`: its last line is incomplete, and was left out."""

    run_id: str
    folder: Path
    plan: Plan
    sha256: str
    events: tuple[ev.Event, ...]
    state: RunState
    torn: bool

    @property
    def started(self) -> ev.RunStarted | None:
        """The event of the run's beginning; None if it never began."""
        return ev.beginning(self.events)

    @property
    def place(self) -> ev.Place | None:
        """The last location of the run; None if its record is of an earlier version without locations."""
        said = (event.place for event in reversed(self.events) if isinstance(event, ev.RunStarted | ev.RunResumed))
        return next((place for place in said if place is not None), None)


def find_run(root: Path, name: str) -> str:
    """Return the id of the run with this id, beginning of an id, or `last`.

    RecordError, with a hint, if there is none or more than one.
    """
    if name == LAST:
        summaries = list_records(root)
        if not summaries:
            raise RecordError(f"there is no run in {root}.", hint=_where_else(name))
        return summaries[0].run_id
    found = [folder.name for folder in journals(root) if name and folder.name.startswith(name)]
    if name in found:
        return name
    if not found:
        raise RecordError(f"there is no run {name!r} in {root}.", hint=_where_else(name))
    if len(found) > 1:
        listed = ", ".join(found[:5]) + (" and others" if len(found) > 5 else "")
        raise RecordError(f"{name!r} matches more than one run: {listed}.", hint="Write more characters of its id.")
    return found[0]


def _where_else(name: str) -> str:
    return f"{_LIST} {_ELSEWHERE.format(run=shlex.quote(name))}"


def read_record(root: Path, run_id: str, *, notices: bool = True, own: bool = False, whole: bool = True) -> Record:
    """Return the record of a run, by its id, its beginning, or `last`; the run may be running.

    Without `notices` its events lack those of notices other than WARNINGs: they take most of the time and change no
    state.

    `own`: its SQL will be executed, so no other user may be able to write it. Not `whole`: it may have been truncated.

    RecordError, with a hint, if there is none, more than one, or one that this version cannot read.
    """
    folder = root / find_run(root, run_id)
    if own:
        require_owner(root, folder, (EVENTS, PLAN, DIGEST, LATER_PLANS, HEAD))
    try:
        plans = _Plans(folder)
        head = read_head(folder)  # before the events, because a runner may be appending to them
        data = read_regular(folder / EVENTS)
    except OSError as error:
        raise RecordError(
            f"the record {folder} cannot be read: {error.strerror} ({error.filename}).", hint=from_ledger(folder.name)
        ) from error
    lines = list(read_lines(folder / EVENTS, data, notices=notices))
    events = tuple(_events(folder, lines))
    state = _fold(folder, plans, events, [number for number, _ in lines])
    if whole:
        check_head(folder, head, data)
    resumed = [event for event in events if isinstance(event, ev.RunResumed)]
    return Record(
        run_id=folder.name,
        folder=folder,
        plan=state.plan,
        sha256=resumed[-1].sha256 if resumed else plans.first,
        events=events,
        state=state,
        torn=intact_length(data) < len(data),
    )


class _Plans:
    """The plans in a journal's folder, by their SHA-256: the first one, and the changed ones of resumes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.is_symlink():
            raise RecordError(f"{folder} is a symbolic link, and a journal is a folder.", hint="It is not read.")
        text = read_regular(folder / PLAN)
        self.first = hashlib.sha256(text).hexdigest()
        if read_regular(folder / DIGEST).decode("ascii", "replace").split()[:1] != [self.first]:
            raise RecordError(
                f"{folder / PLAN} is not the plan that was run: its SHA-256 is not the one in {DIGEST}.",
                hint=damaged(folder.name),
            )
        self._texts = {self.first: text}
        for path in folder.glob(LATER_PLANS):
            later = read_regular(path)
            self._texts[hashlib.sha256(later).hexdigest()] = later

    def get(self, sha256: str, file: str) -> Plan:
        """Return the plan with this hash, as it was read from `file`. RecordError if it is missing."""
        if sha256 not in self._texts:
            raise RecordError(
                f"the record {self._folder} lacks the plan {sha256[:16]}.", hint=damaged(self._folder.name)
            )
        return replace(plan_from_json(self._texts[sha256].decode(errors="replace")), file=file)


def _events(folder: Path, lines: list[tuple[int, dict[str, Any]]]) -> Iterator[ev.Event]:
    for number, data in lines:
        try:
            yield from_json(data)
        except RecordError as error:
            version = _written_by(data for _, data in lines)
            said = f" The run was recorded by jobplan {version}." if version else ""
            hint = damaged(folder.name) if _is_own(version) else error.hint
            raise RecordError(f"{folder / EVENTS}:{number}: {error.message}{said}", hint=hint) from error


def _is_own(version: str) -> bool:
    """Return whether this version wrote the record: it can read it unless it was changed."""
    return version == installed_version()


def _written_by(lines: Iterator[Mapping[str, Any]]) -> str:
    versions = [line["jobplan"] for line in lines if isinstance(line.get("jobplan"), str)]
    return versions[-1] if versions else ""


def _fold(folder: Path, plans: _Plans, events: tuple[ev.Event, ...], numbers: Sequence[int]) -> RunState:
    started = ev.beginning(events)
    state = initial_state(plans.get(plans.first, started.file if started else ""))
    for number, event in zip(numbers, events, strict=True):
        if isinstance(event, ev.RunResumed):
            state.plan = plans.get(event.sha256, event.file)
        try:
            apply(state, event)
        except (LookupError, ValueError) as error:
            raise RecordError(
                f"{folder / EVENTS}:{number}: {event.name} does not follow from the lines before it.",
                hint=damaged(folder.name),
            ) from error
    return state
