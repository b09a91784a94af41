"""Facts: everything that happens in a run, as frozen values.

A run's state is the fold of its events and of nothing else, so an event carries all that its state change needs. `at`
is seconds since the epoch on the run's clock. The JSON form, one object a line, is described by
`schemas/events-v1.schema.json`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar

from runner.structs import Recorded, written

#: The severity of the server's messages that are counted and shown; the same in every language.
WARNING = "WARNING"


class Outcome(enum.StrEnum):
    """How one attempt, that is one worker, ended. `unknown`: it has gone, and nothing proves what it did."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DETACHED = "detached"
    UNKNOWN = "unknown"


class SkipReason(enum.StrEnum):
    """Why a step was not run."""

    CONDITION = "condition"
    UPSTREAM = "upstream"
    NOT_SELECTED = "not_selected"
    DRAINED = "drained"


class CancelReason(enum.StrEnum):
    """Why jobplan asked a worker to stop."""

    INTERRUPT = "interrupt"
    ON_FAILURE = "on_failure"
    RUN_TIMEOUT = "run_timeout"
    TIMEOUT = "timeout"
    OUTPUT = "output"
    CANCEL = "cancel"


class CheckPhase(enum.StrEnum):
    """What a step's SQL conditions decide: its items, whether it starts, or what its end is worth."""

    ITEMS = "items"
    BEFORE = "before"
    AFTER = "after"


class Verdict(enum.StrEnum):
    """What conditions say: go on, skip the step, it has failed, once more; or that they cannot be evaluated."""

    PROCEED = "proceed"
    SKIP = "skip"
    FAIL = "fail"
    AGAIN = "again"
    ERROR = "error"


class Worker(Recorded, frozen=True, kw_only=True):
    """What a worker is, across sessions: its pid and backend_start, in the run's database on the run's server.

    Both must be seen together before it may be signalled (pg_background.md#handles-are-session-local).
    `application_name` is what it was called when it was
    seen: a claim, which a step can change, and no part of the identity.
    """

    pid: int
    backend_start: str
    application_name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worker) and (self.pid, self.backend_start) == (other.pid, other.backend_start)

    def __hash__(self) -> int:
        return hash((self.pid, self.backend_start))


#: A worker as the monitor names it: its process, and when that began.
Identity = tuple[int, str]


class ErrorDetails(Recorded, frozen=True, kw_only=True):
    """A PostgreSQL error as the server gave it, or one of jobplan's own, which has no SQLSTATE.

    `position` is the character, from 1, of the step's SQL with its values put in.
    """

    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    context: str | None = None
    schema: str | None = None
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    position: int | None = None


class Notice(Recorded, frozen=True, kw_only=True):
    """A message that a worker sent while it ran.

    `routine` is the server's function that sent it: unlike the message, it is the same in every language.
    """

    severity: str
    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    routine: str | None = None


class Leftover(Recorded, frozen=True, kw_only=True):
    """What a statement that failed has left in the database, and SQL that repairs it: one of `repair` is enough."""

    what: str
    repair: tuple[str, ...] = written(())


class Blocker(Recorded, frozen=True, kw_only=True):
    """A session that holds, or awaits before us, the lock that a worker waits for.

    `seconds` is how long its transaction had been open. A prepared transaction has the pid 0. Empty texts and None: not
    visible to this role.
    """

    pid: int
    name: str = written("")
    user: str = written("")
    state: str = written("")
    seconds: float | None = None


class LockWait(Recorded, frozen=True, kw_only=True):
    """What a worker waits for now, as `AttemptBlocked` has it; `seconds` is how long it has waited so far."""

    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = written(())
    seconds: float = written(0.0)


class Rows(Recorded, frozen=True, kw_only=True):
    """Rows of a result as PostgreSQL writes them; `problem` says why there are none although some were wanted.

    `cut` is how many bytes of their values were left out, if any were.
    """

    columns: tuple[str, ...] = written(())
    rows: tuple[tuple[str | None, ...], ...] = written(())
    problem: str | None = None
    cut: int | None = None


class Event(Recorded, frozen=True, kw_only=True):
    """Base of all events. `at` is seconds since the epoch."""

    name: ClassVar[str]
    at: float


class Place(Recorded, frozen=True, kw_only=True):
    """Where a session is: its database, and the server process by the moment at which it began.

    `started` and `seen`, which is now, are by the server's clock, as it writes backend_start. `timeline` and `flushed`,
    a position in the WAL, are None on a standby; `system_identifier` is None if the role may not execute
    pg_control_system().
    """

    database: str
    database_oid: int
    started: str
    seen: str
    standby: bool = written(default=False)
    timeline: int | None = None
    flushed: int | None = None
    system_identifier: str | None = None


class RunStarted(Event, frozen=True, kw_only=True):
    """The run begins; nothing has been launched. `sha256` is that of the resolved plan.

    `connection` leads to the server again, without a password; `system_identifier` and `place` say whether it is still
    the same.
    `ledger` is the schema of the ledger that is written, `ledger_problem` why none is although it was looked for.
    """

    name: ClassVar[str] = "run_started"
    version: int = written(1)
    jobplan: str
    plan: str
    file: str
    sha256: str
    host: str
    os_pid: int
    server: str
    extension: str
    database: str
    user: str
    slots: int
    steps: int
    connection: str = written("")
    system_identifier: str | None = None
    place: Place | None = None
    ledger: str | None = None
    ledger_problem: str | None = None
    left_out: tuple[str, ...] = ()


class Item(Recorded, frozen=True, kw_only=True):
    """One item of a for_each: the key of its instance, and its values by the names that SQL uses."""

    key: str
    values: Mapping[str, str | int | float | bool | None]


class Expansion(Recorded, frozen=True, kw_only=True):
    """The items with which a step goes on when the run is resumed."""

    step: str
    items: tuple[Item, ...]


class Settled(Recorded, frozen=True, kw_only=True):
    """What was found out, before a run is taken up, of an attempt that nothing had proven: how it ended, and from what.

    `by` is `ledger`, `verify`, `idempotent`, `repeat` (an iteration is done, others follow), or the person who says so.
    """

    step: str
    outcome: Outcome
    by: str


class Adopted(Recorded, frozen=True, kw_only=True):
    """An attempt of an earlier runner whose worker lives; `age` is for how many seconds, by the server's clock."""

    step: str
    attempt: int
    worker: Worker
    age: float | None = None


class RunResumed(Event, frozen=True, kw_only=True):
    """Another runner takes the run up, with the plan of this `sha256`.

    What succeeded stays as it is, and so does what `settled` says succeeded; `adopted` workers, also those that were
    detached, keep their slots and are followed; all other steps begin anew. `user` is the role that resumes it;
    `foreign` are sessions and workers of other roles that had the run's name and were left alone.
    `expansions` are the items of steps that had some already: one that was there before has its old key.
    """

    name: ClassVar[str] = "run_resumed"
    jobplan: str
    file: str
    sha256: str
    host: str
    os_pid: int
    slots: int
    steps: int
    settled: tuple[Settled, ...] = ()
    adopted: tuple[Adopted, ...] = ()
    user: str = written("")
    foreign: tuple[str, ...] = ()
    place: Place | None = None
    expansions: tuple[Expansion, ...] = ()


class RunInterrupted(Event, frozen=True, kw_only=True):
    """Ctrl-C, SIGTERM, SIGHUP or SIGALRM arrived; nothing more is launched. `signal` is its number."""

    name: ClassVar[str] = "run_interrupted"
    signal: int


class RunCancelled(Event, frozen=True, kw_only=True):
    """Somebody asked through the server for the run to be stopped (`jobplan cancel`); nothing more is launched."""

    name: ClassVar[str] = "run_cancelled"
    by: str


class RunTimedOut(Event, frozen=True, kw_only=True):
    """run_timeout is over."""

    name: ClassVar[str] = "run_timed_out"


class RunDraining(Event, frozen=True, kw_only=True):
    """A step failed and on_failure says that nothing more is launched."""

    name: ClassVar[str] = "run_draining"
    step: str


class RecordLost(Event, frozen=True, kw_only=True):
    """The journal cannot be written any more (the disk is full): nothing more is launched, `finally` included."""

    name: ClassVar[str] = "record_lost"
    message: str


class GroupWaiting(Event, frozen=True, kw_only=True):
    """Another run holds the concurrency group; this one waits for it to end."""

    name: ClassVar[str] = "group_waiting"
    message: str


class GroupLost(Event, frozen=True, kw_only=True):
    """The connection was lost, and another run has taken the concurrency group: nothing more is launched."""

    name: ClassVar[str] = "group_lost"


class LedgerLost(Event, frozen=True, kw_only=True):
    """The ledger cannot be written any longer; the run goes on without it."""

    name: ClassVar[str] = "ledger_lost"
    message: str


class CapacityShort(Event, frozen=True, kw_only=True):
    """The server has no worker to give (53000, 53400, the reserve, or no connection); steps go on waiting."""

    name: ClassVar[str] = "capacity_short"
    message: str


class CapacityRestored(Event, frozen=True, kw_only=True):
    """The server gives workers again."""

    name: ClassVar[str] = "capacity_restored"


class RunFinished(Event, frozen=True, kw_only=True):
    """The run is over. `steps` has the last state of every step.

    `duration` is how long its runners worked on it, in seconds, if it was resumed: not the time between two of them.
    """

    name: ClassVar[str] = "run_finished"
    exit_code: int
    steps: Mapping[str, str]
    duration: float | None = None


class StepEvent(Event, frozen=True, kw_only=True):
    """Base of the events of one step."""

    step: str


class StepReady(StepEvent, frozen=True, kw_only=True):
    """All that the step needs has happened; it may start as soon as there is a slot."""

    name: ClassVar[str] = "step_ready"


class StepQueued(StepEvent, frozen=True, kw_only=True):
    """The step is ready and has to wait; `reason` says for what."""

    name: ClassVar[str] = "step_queued"
    reason: str


class StepSkipped(StepEvent, frozen=True, kw_only=True):
    """The step will not run. `because` names the step or the policy."""

    name: ClassVar[str] = "step_skipped"
    reason: SkipReason
    because: str = written("")


class StepQueueTimedOut(StepEvent, frozen=True, kw_only=True):
    """queue_timeout is over and the step still has no slot: it fails."""

    name: ClassVar[str] = "step_queue_timed_out"
    waited: float


class StepCancelRequested(StepEvent, frozen=True, kw_only=True):
    """Somebody asked through the server for the step to be stopped (`jobplan cancel --step`): it is not begun again."""

    name: ClassVar[str] = "step_cancel_requested"
    by: str


class StepChecking(StepEvent, frozen=True, kw_only=True):
    """The step's SQL conditions are being evaluated, or the query that gives its items.

    Before a launch the step holds its slots from here on; `overtook` is then what it is in AttemptLaunching.
    """

    name: ClassVar[str] = "step_checking"
    phase: CheckPhase
    overtook: tuple[str, ...] = ()


class StepChecked(StepEvent, frozen=True, kw_only=True):
    """What the conditions say; `error` explains anything but going on."""

    name: ClassVar[str] = "step_checked"
    phase: CheckPhase
    verdict: Verdict
    error: ErrorDetails | None = None


class StepExpanded(StepEvent, frozen=True, kw_only=True):
    """The items of a for_each are fixed; each becomes an instance of the step."""

    name: ClassVar[str] = "step_expanded"
    items: tuple[Item, ...] = ()


class StepRepeating(StepEvent, frozen=True, kw_only=True):
    """An iteration of a repeat is over and another one follows at `until`; the slot is free meanwhile."""

    name: ClassVar[str] = "step_repeating"
    next_iteration: int
    until: float


class AttemptEvent(StepEvent, frozen=True, kw_only=True):
    """Base of the events of one attempt, counted from 1."""

    attempt: int


class AttemptLaunching(AttemptEvent, frozen=True, kw_only=True):
    """The worker is about to be asked for. `timeout` is what the server will enforce, in seconds.

    `overtook` names the steps that came first in rank but need more than is free: the scheduler counts it, so that
    nobody is overtaken for ever.
    """

    name: ClassVar[str] = "attempt_launching"
    application_name: str
    timeout: float | None = None
    overtook: tuple[str, ...] = ()


class AttemptDeferred(AttemptEvent, frozen=True, kw_only=True):
    """The server had no worker to give, or could not be asked: the attempt did not begin, and the step waits on."""

    name: ClassVar[str] = "attempt_deferred"
    message: str


class AttemptRunning(AttemptEvent, frozen=True, kw_only=True):
    """The worker was seen in pg_stat_activity. A worker that is over in a few milliseconds is never seen there.

    `age` is for how many seconds it had lived then, by the server's clock: its timeout counts from its beginning.
    """

    name: ClassVar[str] = "attempt_running"
    worker: Worker
    age: float | None = None


class AttemptBlocked(AttemptEvent, frozen=True, kw_only=True):
    """The worker has been waiting for a lock since `waiting_since`, `seconds` before this event.

    `mode` and `lock` are pg_locks' mode and locktype, `relation` is the table or index, if the lock names one. Only
    waits of a second or more are recorded; each further one of the same attempt must last twice as long as the one
    before, up to a minute. Recorded again while the worker waits: other sessions hold the lock now.
    """

    name: ClassVar[str] = "attempt_blocked"
    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = ()
    waiting_since: float
    seconds: float


class AttemptUnblocked(AttemptEvent, frozen=True, kw_only=True):
    """The worker does not wait for that lock any longer: it got it, or it ended. It had waited for `seconds`."""

    name: ClassVar[str] = "attempt_unblocked"
    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = ()
    seconds: float


class AttemptCancelRequested(AttemptEvent, frozen=True, kw_only=True):
    """The worker is asked to stop. Its slot is free when it has gone, not now."""

    name: ClassVar[str] = "attempt_cancel_requested"
    reason: CancelReason


class AttemptDetachRequested(AttemptEvent, frozen=True, kw_only=True):
    """The worker is to be let go of, as soon as it has been seen on the server."""

    name: ClassVar[str] = "attempt_detach_requested"


class AttemptLost(AttemptEvent, frozen=True, kw_only=True):
    """The launcher session is gone; the worker is followed by its identity, and its outcome cannot be known."""

    name: ClassVar[str] = "attempt_lost"
    message: str


class AttemptUnstoppable(AttemptEvent, frozen=True, kw_only=True):
    """The worker was asked to stop again and again for `seconds`, and is still running: its SQL catches the cancel.

    The run starts nothing more, and does not wait for it. What the worker does is open, as for a killed runner.
    """

    name: ClassVar[str] = "attempt_unstoppable"
    worker: Worker
    seconds: float


class AttemptNotice(AttemptEvent, frozen=True, kw_only=True):
    """A notice of a worker, as far as the cap on their size allows."""

    name: ClassVar[str] = "attempt_notice"
    notice: Notice


class AttemptFinished(AttemptEvent, frozen=True, kw_only=True):
    """The worker has gone, or was detached.

    `started_at` and `finished_at` are the server's own clock; `deadline` is when the server ends a detached worker.
    `cancelled_by` is who asked through the server for it to be stopped. `warnings` counts the server's WARNINGs;
    `skipped` is the one by which a maintenance command said that it left an object out, although all of it committed.
    `leftovers` is what this attempt, and those before it, have left half done and is still there.
    """

    name: ClassVar[str] = "attempt_finished"
    outcome: Outcome
    error: ErrorDetails | None = None
    command_tag: str = written("")
    row_count: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    worker: Worker | None = None
    deadline: float | None = None
    notices_dropped: int = written(0)
    result: Rows | None = None
    cancelled_by: str | None = None
    warnings: int | None = None
    skipped: ErrorDetails | None = None
    leftovers: tuple[Leftover, ...] = ()


class StepRetrying(StepEvent, frozen=True, kw_only=True):
    """The attempt did not succeed and another one follows at `until`; the slot is free meanwhile.

    `error` is there if no worker was launched: an unmet precondition, or one that could not be evaluated.
    """

    name: ClassVar[str] = "step_retrying"
    next_attempt: int
    until: float
    error: ErrorDetails | None = None


class StepFinished(StepEvent, frozen=True, kw_only=True):
    """The step has its last state: succeeded, failed, timed_out, cancelled, detached, unknown or failed_allowed.

    `duration` is in seconds, from the first launch to the end of the last attempt, for each runner of the run, summed
    up; `rows` the last command's; `attempt` the number of the last attempt; `file` and `line` the place of the error in
    the plan's files, else that of the step. They are filled in as the event is recorded (`facts`).
    `because` says why a loop that succeeded was stopped before its own end.
    `committed`: its work is committed, and the step failed because its `expect`, `verify` or another check was not met.
    """

    name: ClassVar[str] = "step_finished"
    state: str
    error: ErrorDetails | None = None
    because: str | None = None
    committed: bool | None = None
    duration: float | None = None
    rows: int | None = None
    attempt: int | None = None
    file: str | None = None
    line: int | None = None
