"""The decision whether a request begins a run or resumes one; `run`, `resume` and `begin_or_resume` have it in common.

A request is a plan, perhaps with the id of its run. What the journals and the ledger have of such a run decides whether
it begins, is resumed, is done already, or is refused. The decision is pure (`decide`). It is made before the run is
locked, so it is checked again under the lock: a run whose id was chosen must be unknown to the ledger
(`start.check_unused`), and a journal must have what the ledger has (`takeover.check_journal_is_latest`). If this check
fails, `again` returns the request for the next decision. The code that reads records is in `resumption`, which a run
that only begins does not import.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Mapping
from pathlib import Path

from runner.engine import events as ev
from runner.engine.state import RunState
from runner.errors import (
    JobplanError,
    JournalExistsError,
    RecordError,
    RunExistsError,
    RunHeldError,
    StaleRecordError,
    UsageError,
)
from runner.identity import run_id_problem
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.records.run_folders import is_locked
from runner.run.start import Ready, exists_in_ledger
from runner.structs import Struct, field, replace

#: Seconds between two decisions while another runner has the run.
WAIT_EVERY = 1.0
#: How often a decision is made again because another process was faster.
_TRIES = 5


class RunRequest(Struct, frozen=True, kw_only=True):
    """A request for a run: this plan, without the steps `left_out`; `run_id` if the caller chose it.

    `journal` is the folder of all journals, None for none; `ledger` the schema of the ledger, None for none.
    `or_resume`: finish a run that is there. `allow_changed`: also with a plan that has changed since. `wait`: wait for
    the end of another runner of the run.
    """

    plan: Plan
    conninfo: str
    left_out: frozenset[str] = frozenset()
    run_id: str | None = None
    journal: Path | None = None
    ledger: str | None = None
    trusted_roles: tuple[str, ...] = ()
    or_resume: bool = False
    allow_changed: bool = False
    wait: bool = False
    marks: Mapping[str, ev.Outcome] = field(default_factory=dict)
    #: The decision has been made so often before, and the ledger is known to have more than the journal.
    tries: int = 0
    stale: bool = False

    def check(self) -> None:
        """UsageError if the request contradicts itself, or if its id cannot be one."""
        problem = None if self.run_id is None else run_id_problem(self.run_id)
        if problem is not None:
            raise UsageError(f"--run-id {self.run_id!r}: {problem}.")


class RunAction(enum.StrEnum):
    """What to do with a request."""

    BEGIN = "begin"
    #: Also a run of which nothing is left to do: that is found out when it is resumed.
    RESUME = "resume"
    REFUSE = "refuse"


def decide(*, named: bool, or_resume: bool, known: Known | None) -> RunAction:
    """Return what to do. `named`: the caller chose the id, which `known` has. Else `known` is the last matching run."""
    if known is None or not (named or or_resume):
        return RunAction.BEGIN
    if not or_resume:
        return RunAction.REFUSE
    if named:
        return RunAction.RESUME
    return RunAction.BEGIN if known.exit_code in _NOT_TO_BE_FINISHED else RunAction.RESUME


#: Exit codes after which a request without an id begins another run: all is well, or a step has failed.
_NOT_TO_BE_FINISHED = frozenset({0, 1})


class Known(Struct, frozen=True, kw_only=True):
    """What a journal or the ledger has of a run. `exit_code` is None if it has not ended; `resumed_at` are moments.

    `here`: a journal has it, as far as the ledger has it.
    """

    run_id: str
    started: ev.RunStarted
    place: ev.Place | None = None
    exit_code: int | None = None
    resumed_at: frozenset[float] = frozenset()
    here: bool = False

    def is_behind(self, ledger: Known) -> bool:
        """Return whether the ledger has what this journal lacks: a later runner, or the end of the last one."""
        if not ledger.resumed_at <= self.resumed_at:
            return True
        same_runner = max(ledger.resumed_at, default=0.0) == max(self.resumed_at, default=0.0)
        return same_runner and ledger.exit_code is not None and self.exit_code is None


def latest(journal: Known | None, ledger: Known | None) -> Known | None:
    """Return the one to use: of two sources of one run the more complete one, of two runs the later one."""
    if journal is None or ledger is None:
        return journal or ledger
    if journal.run_id == ledger.run_id:
        return ledger if journal.is_behind(ledger) else journal
    return max(journal, ledger, key=lambda known: known.started.at)


# --- the result of a request ---


class Done(Struct, frozen=True, kw_only=True):
    """A run of which nothing is left to do."""

    run_id: str
    state: RunState


def again(request: RunRequest, error: JobplanError, run_id: str | None) -> tuple[RunRequest, float]:
    """Return the request with which to decide once more after this error, and how many seconds later.

    `run_id` is the run that had been chosen, if any: whatever another process has made of it, no other run takes its
    place. Raises the error if there is nothing more to try.
    """
    if isinstance(error, RunHeldError):
        run_id = error.run_id
    pinned = replace(request, run_id=run_id or request.run_id)
    if request.or_resume and request.wait and isinstance(error, RunHeldError):
        return pinned, WAIT_EVERY
    if (
        request.or_resume
        and request.tries < _TRIES
        and isinstance(error, StaleRecordError | JournalExistsError | RunExistsError)
    ):
        stale = request.stale or isinstance(error, StaleRecordError)
        return replace(pinned, tries=request.tries + 1, stale=stale), 0.0
    if isinstance(error, JournalExistsError) and not request.or_resume:
        raise RunExistsError(error.message, hint=error.hint) from error
    raise error


def begin(request: RunRequest, run_id: str) -> Ready:
    """Return a run that is ready to begin, its journal open."""
    journal = None if request.journal is None else _new_journal(request, request.journal, run_id)
    chosen = request.run_id is not None
    return Ready(run_id=run_id, plan=request.plan, journal=journal, left_out=request.left_out, chosen=chosen)


def _new_journal(request: RunRequest, root: Path, run_id: str) -> Journal:
    try:
        return Journal.create(root, run_id, request.plan)
    except JournalExistsError:
        try:
            locked = is_locked(root / run_id)
        except (OSError, RecordError):
            locked = False
        if locked and request.or_resume:
            raise RunHeldError(
                f"run {run_id} is already running: another process is beginning it.", run_id=run_id
            ) from None
        raise


def exists(request: RunRequest, known: Known) -> RunExistsError:
    """Return the refusal to begin a run with the id of a known one."""
    if not known.here or request.journal is None:
        return exists_in_ledger(known.run_id)
    named = shlex.quote(known.run_id)
    return RunExistsError(
        f"there is a run {known.run_id} already: its journal is {request.journal / known.run_id}.",
        hint=f"To finish it: jobplan resume {named}, or jobplan run PLAN --run-id {named} --or-resume. Else choose "
        "another id.",
    )
