"""Events: everything that happens in a run, as frozen values.

A run's state is the fold of its events only, so an event has all data that its state change needs. `at` is seconds
since the epoch on the run's clock. `schemas/events-v1.schema.json` describes the JSON form, with one object per line.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from runner.structs import Recorded, RecordedEvent, written

#: The severity of the server's messages that are counted and shown; it is the same in every language.
WARNING = "WARNING"


class Outcome(enum.StrEnum):
    """The outcome of one attempt, that is of one worker. `unknown`: it has ended, without evidence of what it did."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DETACHED = "detached"
    UNKNOWN = "unknown"


class SkipReason(enum.StrEnum):
    """Why a step did not run."""

    CONDITION = "condition"
    UPSTREAM = "upstream"
    NOT_SELECTED = "not_selected"
    DRAINED = "drained"
    #: It is left over, because the plan's window closed, or closes too soon: a resume runs it.
    WINDOW = "window"


class CancelReason(enum.StrEnum):
    """Why jobplan requested a worker to stop."""

    INTERRUPT = "interrupt"
    ON_FAILURE = "on_failure"
    RUN_TIMEOUT = "run_timeout"
    TIMEOUT = "timeout"
    OUTPUT = "output"
    CANCEL = "cancel"
    YIELDED = "yielded"
    WINDOW = "window"


class FailureReason(enum.StrEnum):
    """Why a step or an attempt failed although its SQL has no error: a hold lasted too long, or it blocked others."""

    HELD = "held"
    YIELDED = "yielded"


class AdaptReason(enum.StrEnum):
    """Why the parameter of a repeated step was changed: the time of a batch, or what ended one."""

    DURATION = "duration"
    LOCK_TIMEOUT = "lock_timeout"
    DEADLOCK = "deadlock"
    TIMEOUT = "timeout"
    HOLD = "hold"


class CheckPhase(enum.StrEnum):
    """What a step's SQL conditions decide: its items, whether it starts, or whether its result is accepted."""

    ITEMS = "items"
    BEFORE = "before"
    AFTER = "after"


class Verdict(enum.StrEnum):
    """The result of conditions: continue, skip the step, it failed, once more; or an error in their evaluation."""

    PROCEED = "proceed"
    SKIP = "skip"
    FAIL = "fail"
    AGAIN = "again"
    ERROR = "error"


class Worker(Recorded, frozen=True, kw_only=True):
    """The identity of a worker: its pid and backend_start, in the run's database on the run's server.

    Both must match before it may be signalled (docs/pg_background.md#handles-are-session-local). `application_name` is
    its name when it was seen: a claim, which a step can change, and not part of the identity.
    """

    pid: int
    backend_start: str
    application_name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worker) and (self.pid, self.backend_start) == (other.pid, other.backend_start)

    def __hash__(self) -> int:
        return hash((self.pid, self.backend_start))


#: A worker in the monitor's results: its pid and backend_start.
Identity = tuple[int, str]


class ErrorDetails(Recorded, frozen=True, kw_only=True):
    """A PostgreSQL error as the server sent it, or an error of jobplan, which has no SQLSTATE.

    `position` is the character, from 1, in the step's SQL after its values were inserted.
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
    """A message that a worker sent.

    `routine` is the server's function that sent it: unlike the message, it is the same in every language.
    """

    severity: str
    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    routine: str | None = None


class Leftover(Recorded, frozen=True, kw_only=True):
    """An object that a failed statement left behind, and SQL that repairs it: one of `repair` is enough."""

    what: str
    repair: tuple[str, ...] = written(())


class Blocker(Recorded, frozen=True, kw_only=True):
    """A session that holds the lock that a worker waits for, or waits for it before the worker.

    `seconds` is the age of its transaction. A prepared transaction has the pid 0. Empty texts and None: not visible to
    this role.
    """

    pid: int
    name: str = written("")
    user: str = written("")
    state: str = written("")
    seconds: float | None = None


class LockWait(Recorded, frozen=True, kw_only=True):
    """The lock that a worker waits for now, with the fields of `AttemptBlocked`; `seconds` is the wait so far."""

    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = written(())
    seconds: float = written(0.0)


class Blocked(Recorded, frozen=True, kw_only=True):
    """A session outside the run that waits for a lock because of a worker: the lock, and for how many seconds.

    `query` is the first word of its statement. Empty texts: not visible to this role.
    """

    pid: int
    name: str = written("")
    user: str = written("")
    mode: str = written("")
    lock: str = written("")
    relation: str | None = None
    query: str = written("")
    seconds: float = written(0.0)


class Rows(Recorded, frozen=True, kw_only=True):
    """Rows of a result in PostgreSQL's text format; `problem` says why wanted rows are missing.

    `cut` is the number of bytes of their values that were left out, if any.
    """

    columns: tuple[str, ...] = written(())
    rows: tuple[tuple[str | None, ...], ...] = written(())
    problem: str | None = None
    cut: int | None = None


class Event(RecordedEvent, frozen=True, kw_only=True):
    """Base of all events."""


class Place(Recorded, frozen=True, kw_only=True):
    """The location of a session: its database, and the server process by its start time.

    `started`, and `seen` (the present time), are by the server's clock, in the format of backend_start. `timeline` and
    `flushed`, a WAL position, are None on a standby; `system_identifier` is None if the role may not execute
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
    """The run begins; nothing was launched yet. `sha256` is that of the resolved plan.

    `connection` is a connection string for the server, without a password; `system_identifier` and `place` identify the
    server. `ledger` is the schema of the written ledger, `ledger_problem` why none is written although it was
    requested.
    """

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
    #: Each launch is in the ledger before the worker is requested, until `ledger_lost`.
    ledger_first: bool = False
    #: The name of the run's database in a fleet.
    target: str | None = None


def beginning(events: Iterable[Event]) -> RunStarted | None:
    """Return the event of a run's beginning; None if it never began."""
    return next((event for event in events if isinstance(event, RunStarted)), None)


class Item(Recorded, frozen=True, kw_only=True):
    """One item of a for_each: the key of its instance, and its values by the names in SQL.

    A chunk has the `items` that one worker gets, in this order, and no values of its own.
    """

    key: str
    values: Mapping[str, str | int | float | bool | None]
    items: tuple[Item, ...] = ()


class Expansion(Recorded, frozen=True, kw_only=True):
    """The items of a step when the run is resumed."""

    step: str
    items: tuple[Item, ...]


class Settled(Recorded, frozen=True, kw_only=True):
    """The outcome of an attempt that had no evidence before the run was taken over, and where it comes from.

    `by` is `ledger`, `verify`, `idempotent`, `repeat` (an iteration is done, others follow), or the user who stated it.
    `rows` and `carried` are what that iteration returned, if its transaction has stored them.
    """

    step: str
    outcome: Outcome
    by: str
    rows: int | None = None
    carried: Mapping[str, str | int | float | bool | None] | None = None


class Adopted(Recorded, frozen=True, kw_only=True):
    """An attempt of a previous runner whose worker is running; `age` is its seconds, by the server's clock."""

    step: str
    attempt: int
    worker: Worker
    age: float | None = None


class RunResumed(Event, frozen=True, kw_only=True):
    """Another runner takes the run over, with the plan of this `sha256`.

    Successful steps are kept, and so are those that succeeded according to `settled`; `adopted` workers, including
    detached ones, keep their slots and are followed; all other steps begin again. `user` is the role that resumes the
    run; `foreign` are sessions and workers of other roles with the run's name, which are ignored. `expansions` are the
    items of steps that had items already: an item that existed before keeps its key.
    """

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
    ledger_first: bool = False


class RunInterrupted(Event, frozen=True, kw_only=True):
    """Ctrl-C, SIGTERM, SIGHUP or SIGALRM arrived; nothing more is launched. `signal` is its number."""

    signal: int


class RunCancelled(Event, frozen=True, kw_only=True):
    """A user requested through the server to cancel the run (`jobplan cancel`); nothing more is launched."""

    by: str


class RunTimedOut(Event, frozen=True, kw_only=True):
    """run_timeout has passed."""


class RunDraining(Event, frozen=True, kw_only=True):
    """A step failed, and because of on_failure nothing more is launched."""

    step: str


class RecordLost(Event, frozen=True, kw_only=True):
    """The journal can no longer be written (the disk is full): nothing more is launched, not even `finally`."""

    message: str


class GroupWaiting(Event, frozen=True, kw_only=True):
    """Another run holds the concurrency group; this one waits until it ends."""

    message: str


class GroupLost(Event, frozen=True, kw_only=True):
    """The connection was lost, and another run has locked the concurrency group: nothing more is launched."""


class LedgerLost(Event, frozen=True, kw_only=True):
    """The ledger can no longer be written; the run continues without it."""

    message: str


class ServerClock(Event, frozen=True, kw_only=True):
    """The server's clock was measured: it is `ahead` seconds ahead of the run's clock. A window uses it.

    It is measured at the beginning, and recorded again after a change.
    """

    ahead: float


class UsualDurations(Event, frozen=True, kw_only=True):
    """The usual durations of steps in previous runs, in seconds, which must fit into the rest of the window."""

    seconds: Mapping[str, float]


class WindowWaiting(Event, frozen=True, kw_only=True):
    """The plan's window is closed; steps wait until it opens. Both times are by the server's clock."""

    opens_at: float
    closes_at: float


class WindowOpened(Event, frozen=True, kw_only=True):
    """The plan's window is open; steps may start until it closes. Both times are by the server's clock."""

    opens_at: float
    closes_at: float


class WindowClosed(Event, frozen=True, kw_only=True):
    """The plan's window has closed: nothing more is launched, apart from steps that ignore it, and `finally`."""

    closes_at: float


class CapacityShort(Event, frozen=True, kw_only=True):
    """The server has no worker free (53000, 53400, the reserve, or no connection); steps keep waiting."""

    message: str


class CapacityRestored(Event, frozen=True, kw_only=True):
    """The server gives workers again."""


class HoldEvent(Event, frozen=True, kw_only=True):
    """Base of the events of one hold. `value` is what was measured, in words."""

    hold: str
    value: str


class HoldMeasured(HoldEvent, frozen=True, kw_only=True):
    """The first measurement of a runner found that the hold is not on: steps may start."""


class HoldBegan(HoldEvent, frozen=True, kw_only=True):
    """The hold is on since `since`: no step that it concerns starts. With `error` its query failed, which counts as on.

    It is recorded again while the hold is on, at growing intervals, if the value has changed. `server_lost`: the server
    could not be reached for a minute, so the steps that wait for the hold fail.
    """

    since: float
    error: ErrorDetails | None = None
    server_lost: bool = False


class HoldEnded(HoldEvent, frozen=True, kw_only=True):
    """The hold is released: its condition was false for `release_after`. It was on for `seconds`."""

    seconds: float


class RunFinished(Event, frozen=True, kw_only=True):
    """The run has ended. `steps` has the last state of every step.

    `duration` is the sum of its runners' seconds if the run was resumed, without the time between two runners. `split`
    are the chunks whose items are among the steps.
    """

    exit_code: int
    steps: Mapping[str, str]
    duration: float | None = None
    split: tuple[str, ...] = ()


class StepEvent(Event, frozen=True, kw_only=True):
    """Base of the events of one step."""

    step: str


class StepReady(StepEvent, frozen=True, kw_only=True):
    """All needs of the step are met; it starts as soon as a slot is free."""


class StepQueued(StepEvent, frozen=True, kw_only=True):
    """The step is ready and has to wait; `reason` says for what."""

    reason: str


class StepSkipped(StepEvent, frozen=True, kw_only=True):
    """The step will not run. `because` names the step or the policy."""

    reason: SkipReason
    because: str = written("")


class StepQueueTimedOut(StepEvent, frozen=True, kw_only=True):
    """queue_timeout has passed and the step still has no slot: it fails."""

    waited: float


class StepHoldTimedOut(StepEvent, frozen=True, kw_only=True):
    """The step still waits for a hold that is on for longer than its at_most, or whose server is lost: it fails.

    It had waited `waited` seconds.
    """

    hold: str
    waited: float


class StepCancelRequested(StepEvent, frozen=True, kw_only=True):
    """A user requested through the server to cancel the step (`jobplan cancel --step`): it does not start again."""

    by: str


class StepChecking(StepEvent, frozen=True, kw_only=True):
    """The step's SQL conditions are being evaluated, or the query that gives its items.

    Before a launch the step holds its slots from here on; `overtook` is as in AttemptLaunching.
    """

    phase: CheckPhase
    overtook: tuple[str, ...] = ()


class StepChecked(StepEvent, frozen=True, kw_only=True):
    """The result of the conditions; `error` explains every verdict except PROCEED."""

    phase: CheckPhase
    verdict: Verdict
    error: ErrorDetails | None = None


class StepExpanded(StepEvent, frozen=True, kw_only=True):
    """The items of a for_each are fixed; each becomes an instance of the step."""

    items: tuple[Item, ...] = ()


class StepSplit(StepEvent, frozen=True, kw_only=True):
    """A chunk did not succeed: each of its items becomes an instance, which starts at `until`."""

    items: tuple[Item, ...]
    until: float


class StepRepeating(StepEvent, frozen=True, kw_only=True):
    """An iteration of a repeat has ended and another one follows at `until`; the slot is free meanwhile."""

    next_iteration: int
    until: float


class StepAdapted(StepEvent, frozen=True, kw_only=True):
    """The next batch of a repeat uses another value for the parameter that `adapt` names.

    `seconds` is how long the last batch took, if that is the reason.
    """

    param: str
    before: int
    value: int
    because: AdaptReason
    seconds: float | None = None


class StepRowsEstimated(StepEvent, frozen=True, kw_only=True):
    """The table that a repeat changes has about so many rows before its first iteration, by the server's statistics."""

    table: str
    rows: int


class AttemptEvent(StepEvent, frozen=True, kw_only=True):
    """Base of the events of one attempt, counted from 1."""

    attempt: int


class AttemptPreparing(AttemptEvent, frozen=True, kw_only=True):
    """A worker is about to be requested that prepares this attempt; the step's own worker follows if it succeeds.

    It executes `on_retry`, or removes what a previous attempt left behind. `timeout` is that of each such worker.
    """

    application_name: str
    timeout: float | None = None
    overtook: tuple[str, ...] = ()


class AttemptLaunching(AttemptEvent, frozen=True, kw_only=True):
    """The worker is about to be requested. `timeout` is the limit that the server enforces, in seconds.

    `overtook` names the steps that precede it in rank but need more than is free, or are items of a `for_each` that a
    step of the plan goes before: the scheduler counts this, so that no step is overtaken without limit. `values` are
    the carried values and the adapted parameter of a repeat.
    """

    application_name: str
    timeout: float | None = None
    overtook: tuple[str, ...] = ()
    values: Mapping[str, str | int | float | bool | None] | None = None


class AttemptDeferred(AttemptEvent, frozen=True, kw_only=True):
    """The server had no worker free, or could not be reached: the attempt did not begin, and the step waits.

    `outside_window`: by the server's clock, read just before the launch, the plan's window was not open.
    """

    message: str
    outside_window: bool = False


class AttemptRunning(AttemptEvent, frozen=True, kw_only=True):
    """The worker was seen in pg_stat_activity. A worker that ends within a few milliseconds is never seen there.

    `age` is its age in seconds then, by the server's clock: its timeout counts from its start.
    """

    worker: Worker
    age: float | None = None


class AttemptBlocked(AttemptEvent, frozen=True, kw_only=True):
    """The worker has been waiting for a lock since `waiting_since`, `seconds` before this event.

    `mode` and `lock` are pg_locks' mode and locktype, `relation` is the table or index, if the lock has one. Only waits
    of a second or more are recorded; each further one of the same attempt must last twice as long as the previous one,
    up to a minute. It is recorded again during a wait if other sessions hold the lock.
    """

    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = ()
    waiting_since: float
    seconds: float


class AttemptUnblocked(AttemptEvent, frozen=True, kw_only=True):
    """The worker no longer waits for that lock: it got it, or it ended. It had waited for `seconds`."""

    mode: str
    lock: str
    relation: str | None = None
    by: tuple[Blocker, ...] = ()
    seconds: float


class AttemptBlocking(AttemptEvent, frozen=True, kw_only=True):
    """The worker has blocked sessions outside the run for its step's yield_after, since `since`: the run cancels it.

    `others` are the sessions that it blocks now.
    """

    others: tuple[Blocked, ...] = written(())
    since: float
    seconds: float


class AttemptCancelRequested(AttemptEvent, frozen=True, kw_only=True):
    """The worker is requested to stop. Its slot becomes free when the worker has ended."""

    reason: CancelReason


class AttemptDetachRequested(AttemptEvent, frozen=True, kw_only=True):
    """The worker is to be detached, as soon as it was seen on the server."""


class AttemptLost(AttemptEvent, frozen=True, kw_only=True):
    """The launcher session is lost; the worker is observed by its identity, and its outcome is unknown."""

    message: str


class AttemptUnstoppable(AttemptEvent, frozen=True, kw_only=True):
    """The worker was requested to stop repeatedly for `seconds`, and is still running: its SQL catches the cancel.

    The run starts nothing more, and does not wait for it. The worker's outcome is open, as after a killed runner.
    """

    worker: Worker
    seconds: float


class AttemptNotice(AttemptEvent, frozen=True, kw_only=True):
    """A notice of a worker, within the limit of their size."""

    notice: Notice


class UnfinishedNoted(AttemptEvent, frozen=True, kw_only=True):
    """The objects of the database that were unfinished before this attempt of a step with `leftovers: drop`.

    Each is its OID and its name. What is unfinished afterwards, and not among them, the attempt has left behind.
    """

    unfinished: tuple[str, ...] = ()


class AttemptRemoving(AttemptEvent, frozen=True, kw_only=True):
    """The attempt's own worker has ended with this outcome, and workers are about to remove what it left behind."""

    outcome: Outcome
    error: ErrorDetails | None = None
    leftovers: tuple[Leftover, ...] = ()


class AttemptFinished(AttemptEvent, frozen=True, kw_only=True):
    """The worker has ended, or was detached.

    `started_at` and `finished_at` are by the server's clock; `deadline` is when the server ends a detached worker.
    `cancelled_by` is the user who requested, through the server, to stop it. `warnings` counts the server's WARNINGs;
    `skipped` is the WARNING by which a maintenance command reported a skipped object although it committed. `leftovers`
    are the objects that this attempt and previous ones have left behind and that still exist; `removed` are those that
    were removed (`leftovers: drop`). `unobserved`: the server could not be queried any more, so the worker may still be
    running. `reason` is `yielded` if it was cancelled because it blocked other sessions. `carried` are the
    values for the next iteration, absent without rows; `uncarried` says why a committed iteration has no usable values.
    """

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
    unobserved: bool = False
    removed: tuple[Leftover, ...] = ()
    reason: FailureReason | None = None
    carried: Mapping[str, str | int | float | bool | None] | None = None
    uncarried: ErrorDetails | None = None


class StepRetrying(StepEvent, frozen=True, kw_only=True):
    """The attempt did not succeed and another one follows at `until`; the slot is free meanwhile.

    `error` is set if no worker was launched: an unmet precondition, or an error in its evaluation.
    """

    next_attempt: int
    until: float
    error: ErrorDetails | None = None


class StepFinished(StepEvent, frozen=True, kw_only=True):
    """The step has its last state: succeeded, failed, timed_out, cancelled, detached, unknown or failed_allowed.

    `duration` is in seconds: for each runner of the run, from the first launch to the end of the last attempt, in
    total; `rows` is that of the last command; `attempt` is the number of the last attempt; `file` and `line` are the
    place of the error in the plan's files, else that of the step. They are set when the event is recorded. `because`
    says why a successful loop was stopped early. `committed`: its work is committed, and the step failed because its
    `expect`, `verify` or another check was not met. `reason`: it failed because it was held too long, or yielded.
    """

    state: str
    error: ErrorDetails | None = None
    because: str | None = None
    reason: FailureReason | None = None
    committed: bool | None = None
    duration: float | None = None
    rows: int | None = None
    attempt: int | None = None
    file: str | None = None
    line: int | None = None
