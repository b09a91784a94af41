"""Find the run that a request names in the journals and in the ledger, and prepare it to be resumed.

`jobplan resume` names its run, and enters at `resume_record`; `jobplan run --or-resume` and `begin_or_resume` look for
it first (`prepare`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runner.engine import events as ev
from runner.engine.event_json import from_json
from runner.engine.resume_state import kept_items, steps_over
from runner.errors import JournalHeldError, PreflightError, RecordError, RunHeldError, UsageError
from runner.gateway.ledger.admin import LedgerAdmin, LedgerRun
from runner.gateway.ledger.finding import LedgerEntry, RunSearch, searching
from runner.identity import new_run_id, this_user
from runner.plan.model import Plan
from runner.plan.plan_json import differences, plan_from_json, sha256
from runner.records.journal import Journal
from runner.records.journal_files import from_ledger
from runner.records.ledger_restore import restore_journal, state_after
from runner.records.record import Record, read_record
from runner.records.run_folders import EVENTS, LATER_PLANS, has_journal, journals, refused, set_aside
from runner.run.run_decision import Done, Known, RunAction, RunRequest, begin, decide, exists, latest
from runner.run.start import Ready
from runner.run.takeover import Orphans, Takeover, journal_record
from runner.structs import replace

#: Bytes of a journal in which the event that begins the run lies.
_HEAD = 65_536


async def prepare(request: RunRequest, now: float, notify: Callable[[str], None] = lambda _: None) -> Ready | Done:
    """Decide what to do with a request, and open or restore its journal. `notify` is given messages for a person.

    RunExistsError if the id exists and must not; RunHeldError if the run has a runner; UsageError if it is not the run
    of this plan, as it is now, with these parameters and this selection; RecordError if its record cannot be read.
    """
    request.check()
    if request.run_id is None and not request.or_resume:
        return begin(request, new_run_id(now))
    try:
        return await _look_for_run(request, now, notify)
    except JournalHeldError as error:
        run_id = error.run_id
        raise RunHeldError(
            f"run {run_id} is already running: {error.message}", run_id=run_id, hint=error.hint
        ) from error


async def _look_for_run(request: RunRequest, now: float, notify: Callable[[str], None]) -> Ready | Done:
    async with searching(request.conninfo, request.ledger, request.trusted_roles) as search:
        known = await _find(request, search)
        match decide(named=request.run_id is not None, or_resume=request.or_resume, known=known):
            case RunAction.BEGIN:
                _check_ledger_readable(search, known)
                return begin(request, request.run_id or new_run_id(now))
            case RunAction.REFUSE if known is not None:
                raise exists(request, known)
        if known is None:
            raise AssertionError("there is no run to resume")
        record = await _record(request, search, known, notify)
    plan = _plan_of(request, record, notify)
    found = resume_record(record, plan, root=request.journal, orphans=Orphans.WAIT, marks=request.marks)
    if isinstance(found, Done) and request.run_id is None:  # it was interrupted when its last step had ended
        return begin(request, new_run_id(now))
    return found


def _of_record(record: Record) -> Known | None:
    """Read a journal; None if its run never began."""
    if record.started is None:
        return None
    finished = record.state.finished
    return Known(
        run_id=record.run_id,
        started=record.started,
        place=record.place,
        exit_code=None if finished is None else finished.exit_code,
        resumed_at=frozenset(event.at for event in record.events if isinstance(event, ev.RunResumed)),
        here=True,
    )


def _of_ledger(entry: LedgerEntry) -> Known:
    """Read what the ledger has."""
    resumed = entry.resumed
    return Known(
        run_id=entry.run_id,
        started=entry.started,
        place=(resumed.place if resumed is not None else None) or entry.started.place,
        exit_code=entry.exit_code,
        resumed_at=frozenset() if resumed is None else frozenset({resumed.at}),
    )


def _check_ledger_readable(search: RunSearch, known: Known | None) -> None:
    """PreflightError if the run may be one that the ledger has, and this version cannot read that ledger."""
    if search.problem is not None and known is None:
        raise PreflightError(
            "nothing was started: jobplan cannot find out whether the run exists already, because the ledger cannot be "
            f"read: {search.problem}.",
            hint="To leave the ledger out: --no-ledger.",
        )


# --- what is known ---


async def _find(request: RunRequest, search: RunSearch) -> Known | None:
    if request.run_id is not None:
        journal = None if request.journal is None else _in_journal(request.journal, request.run_id)
        entry = await search.of_id(request.run_id)
        found = None if entry is None else _of_ledger(entry)
        if request.stale and found is not None:
            return found
        return latest(journal, found)
    digest = sha256(request.plan)
    journal = None if request.journal is None else _last_in_journals(request, request.journal, digest, search.place)
    entries = [_of_ledger(entry) for entry in await search.of_plan(request.plan.name, digest)]
    return latest(journal, next((known for known in entries if _fits(request, known, search.place)), None))


def _in_journal(root: Path, run_id: str) -> Known | None:
    record = _read_if_there(root, run_id)
    return None if record is None else _of_record(record)


def _read_if_there(root: Path, run_id: str) -> Record | None:
    """Return the record of a run; None without a journal, also if another process removes it meanwhile."""
    try:
        return read_record(root, run_id, notices=False, own=True) if has_journal(root / run_id) else None
    except RecordError:
        if has_journal(root / run_id):
            raise
        return None


def _last_in_journals(request: RunRequest, root: Path, digest: str, place: ev.Place) -> Known | None:
    """Return the last run of the request that has a journal. RecordError if that cannot be read to its end."""
    begun = [(started, folder) for folder in journals(root) if (started := _beginning(folder)) is not None]
    for started, folder in sorted(begun, key=lambda one: one[0].at, reverse=True):
        changed = started.sha256 != digest
        if started.plan != request.plan.name or (changed and not any(folder.glob(LATER_PLANS))):
            continue
        known = Known(run_id=folder.name, started=started, place=started.place)
        if not _fits(request, known, place):
            continue
        record = _read_if_there(root, folder.name)
        if record is not None and record.sha256 == digest:
            return _of_record(record)
    return None


def _beginning(folder: Path) -> ev.RunStarted | None:
    """Return the event that begins the run of a journal; None if it cannot be read, or never began."""
    try:
        with (folder / EVENTS).open("rb") as file:
            lines = file.read(_HEAD).split(b"\n")[:-1]
        line = next((line for line in lines if line.startswith(b'{"event": "run_started"')), None)
        event = None if line is None else from_json(json.loads(line))
    except (OSError, ValueError, RecordError):
        return None
    return event if isinstance(event, ev.RunStarted) else None


def _fits(request: RunRequest, known: Known, place: ev.Place) -> bool:
    """Return whether a run of the same plan is also one of the same selection and database.

    Where it is not certain that the database is another one, the run fits: whether it can be resumed there is checked
    when it is.
    """
    if frozenset(known.started.left_out) != request.left_out:
        return False
    there = known.place
    if known.started.database not in ("", place.database):
        return False
    recorded = there.system_identifier if there is not None else known.started.system_identifier
    if None not in (recorded, place.system_identifier) and recorded != place.system_identifier:
        return False
    return there is None or there.database_oid in (0, place.database_oid)


# --- resume it ---


async def _record(request: RunRequest, search: RunSearch, known: Known, notify: Callable[[str], None]) -> Record:
    """Return the record to resume by; one that only the ledger has is restored, unless the run has a runner."""
    if known.here and request.journal is not None:
        return read_record(request.journal, known.run_id, notices=False, own=True)
    runner = await search.runner_of(known.run_id) if known.exit_code is None else None
    if runner is not None:
        raise RunHeldError(
            f"run {known.run_id} is already running: its runner is connected from {runner}.",
            run_id=known.run_id,
            hint=f"Follow it with jobplan attach {shlex.quote(known.run_id)}, or wait for its end with "
            "--wait-for-runner.",
        )
    admin = LedgerAdmin(request.conninfo, request.ledger or "", request.trusted_roles)
    found = await asyncio.to_thread(admin.read, known.run_id)
    if request.journal is None:
        return _record_of(found.run_id, found.plans, found.events)
    _restore(request.journal, known, found, notify)
    return read_record(request.journal, known.run_id, notices=False, own=True)


def _restore(root: Path, known: Known, found: LedgerRun, notify: Callable[[str], None]) -> None:
    """Write the journal from the ledger. One whose run was resumed elsewhere since is kept under another name."""
    run_id = found.run_id
    before = _in_journal(root, run_id)
    instead = f"jobplan resume {shlex.quote(run_id)}"
    try:
        restore_journal(root, run_id, found.plans, found.events, instead=instead, notify=notify)
    except JournalHeldError:
        raise
    except RecordError:
        if before is None or known.resumed_at <= before.resumed_at:
            raise
        try:
            kept = set_aside(root, run_id)
        except OSError as error:
            raise refused(root / run_id, error) from error
        notify(f"run {run_id} was resumed elsewhere since: its journal here is kept as {kept}.")
        restore_journal(root, run_id, found.plans, found.events, instead=instead)


def _record_of(run_id: str, plans: Mapping[str, str], recorded: Sequence[Mapping[str, object]]) -> Record:
    """Return the record of a run that has no journal, from its plans, JSON by their SHA-256, and its events."""
    state, _ = state_after(plans, recorded)
    events = tuple(from_json(event) for event in recorded)
    begun = [event for event in events if isinstance(event, ev.RunStarted | ev.RunResumed)]
    plan = replace(plan_from_json(plans[begun[-1].sha256]), file=begun[-1].file)
    return Record(
        run_id=run_id, folder=Path(run_id), plan=plan, sha256=begun[-1].sha256, events=events, state=state, torn=False
    )


def _plan_of(request: RunRequest, record: Record, notify: Callable[[str], None]) -> Plan:
    """Return the plan to resume with. UsageError if the run is one of another plan, or of another request."""
    started, recorded = begun(record), record.plan
    if recorded.name != request.plan.name:
        raise UsageError(
            f"run {record.run_id} is a run of the plan {recorded.name!r}, and this is {request.plan.name!r}.",
            hint="Choose another --run-id.",
        )
    others = [
        f"{name} was {recorded.values[name]!r}, and is {value!r}"
        for name, value in request.plan.values.items()
        if name in recorded.values and recorded.values[name] != value
    ]
    if others:
        raise UsageError(
            f"run {record.run_id} was begun with other parameters: {', '.join(others)}.",
            hint="Choose another --run-id.",
        )
    if frozenset(started.left_out) != request.left_out:
        names = [", ".join(sorted(steps)) or "no step" for steps in (started.left_out, request.left_out)]
        raise UsageError(
            f"run {record.run_id} was begun with another selection: it leaves out {names[0]}, and this leaves out "
            f"{names[1]}.",
            hint="Choose another --run-id.",
        )
    return plan_to_resume(record, request.plan, allow_changed=request.allow_changed, notify=notify)


def begun(record: Record) -> ev.RunStarted:
    """Return how the run of a record began. RecordError, with what to do, if it never did."""
    if record.started is None and record.torn:
        raise RecordError(
            f"the journal {record.folder} has no complete line: the run never started, or the journal was damaged.",
            hint=from_ledger(record.run_id),
        )
    if record.started is None:
        raise RecordError(f"run {record.run_id} never started: there is nothing to resume.", hint="Use jobplan run.")
    return record.started


def plan_to_resume(record: Record, present: Plan, *, allow_changed: bool, notify: Callable[[str], None]) -> Plan:
    """Return the plan as it is now, with no more slots than the run began with.

    UsageError if it is not the recorded one, unless that is allowed: then `notify` is given what has changed.
    """
    recorded = record.plan
    slots = min(begun(record).slots, present.budget.slots)
    present = replace(present, budget=replace(present.budget, slots=slots))
    if sha256(present) == sha256(recorded):
        return present  # the same plan, with its places in files
    changes = list(differences(recorded, present))
    if not allow_changed:
        raise changed(recorded.file, record.run_id, changes)
    changes += kept_items(record.state, present)
    for line in (f"{recorded.file} has changed since run {record.run_id} started:", *(f"  {one}" for one in changes)):
        notify(line)
    return present


def changed(file: str, run_id: str, changes: Sequence[str]) -> UsageError:
    """Return the refusal to resume with a plan that is not what was run."""
    listed = "".join(f"\n  {line}" for line in changes)
    return UsageError(
        f"{file} has changed since run {run_id} started:{listed}\n",
        hint="Restore the file, or resume with the changed plan: --allow-changed.",
    )


def resume_record(
    record: Record, plan: Plan, *, root: Path | None, orphans: Orphans, marks: Mapping[str, ev.Outcome]
) -> Ready | Done:
    """Return a run that is ready to be resumed with this plan, its journal in `root` opened, if it has one there.

    JournalHeldError if another process writes the journal.
    """
    started = begun(record)
    journal: Journal | None = None
    with contextlib.ExitStack() as opened:
        if root is not None:
            journal = opened.enter_context(contextlib.closing(Journal.reopen(root, record.run_id, plan)))
            # no other process writes to it any longer; notices are read only if reports and the ledger need them
            left = not is_done(record, plan)
            record = read_record(root, record.run_id, notices=left, own=True)
            if not left and not is_done(record, plan):  # another runner has resumed it between the two
                record = read_record(root, record.run_id, own=True)
        if is_done(record, plan):
            return Done(run_id=record.run_id, state=record.state)
        opened.pop_all()
    return Ready(
        run_id=record.run_id,
        plan=plan,
        journal=journal,
        left_out=frozenset(started.left_out),
        history=record.events,
        previous_state=record.state,
        takeover=Takeover(
            orphans=orphans,
            marks=marks,
            by=this_user(),
            database=started.database,
            system_identifier=started.system_identifier,
            place=record.place,
            known=journal_record(record.events),
            roles=_roles(record, started),
        ),
    )


def is_done(record: Record, plan: Plan) -> bool:
    """Return whether the run has ended, and no step of this plan would run again."""
    steps = {key for key, step in record.state.records.items() if step.instances is None}
    over = steps <= steps_over(record.state, {}, plan)
    return record.state.finished is not None and over and sha256(plan) == sha256(record.plan)


def _roles(record: Record, started: ev.RunStarted) -> frozenset[str]:
    """Return the roles that have run the run so far."""
    resumed = {event.user for event in record.events if isinstance(event, ev.RunResumed) and event.user}
    return frozenset({started.user, *resumed})
