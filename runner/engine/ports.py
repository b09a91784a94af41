"""The protocols that a run needs: a gateway to the server, sinks for events, and the scheduler's commands.

The gateway is `runner.gateway.postgres`; its double for tests is `tests/fake_gateway.py`, and the same contract suite
runs against both. Sinks are the journal, the ledger, reports and the terminal. Commands are the scheduler's orders; the
run loop performs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from runner.engine.events import (
    Blocked,
    CancelReason,
    CheckPhase,
    ErrorDetails,
    Event,
    Identity,
    LockWait,
    Notice,
    Place,
    Rows,
    Worker,
)
from runner.engine.leftovers import UnfinishedObject
from runner.engine.server_activity import LiveWorker
from runner.engine.state import RunState
from runner.engine.yielding import WatchedWorkers
from runner.identity import Claim, WorkerLabel
from runner.plan.model import Hold
from runner.sql.carried_rows import CarryForm
from runner.structs import Struct, field


class ServerInfo(Struct, frozen=True, kw_only=True):
    """The server's description, for the run and for its reports.

    `connection` is a connection string for the same server, without a password. `system_identifier` is the cluster's,
    None if this role may not read it. `ledger` is the schema of the ledger, if one is written. Before `open` has
    checked the server, `extension_version` and `extension_schema` are empty if the extension is missing.
    """

    version: str
    version_number: int
    extension_version: str
    extension_schema: str
    database: str
    user: str
    max_worker_processes: int
    connection: str = ""
    system_identifier: str | None = None
    #: Distinguishes the run's database and server from others; None if unknown.
    place: Place | None = None
    ledger: str | None = None
    standby: bool = False


#: Receives the server's description before the gateway checks it, and may raise to refuse the server.
RequirementsCheck = Callable[[ServerInfo], Awaitable[None]]


class LaunchRequest(Struct, frozen=True, kw_only=True):
    """One attempt of one step, ready to be sent. Times are in seconds, None means no limit; sizes are in bytes.

    `reserve` is the number of the server's worker slots that must stay free after the launch. A `detachable` worker is
    detached when its output queue is full; the output of any other worker is read while it runs. `rows` is the number
    of rows of the last statement's result to read; with 0 they stay in the worker. `label` is written in front of the
    SQL. `as_text`: the last statement is rewritten so that all its columns have the type text. `carry`: it is extended
    so that it returns the values for the next iteration.
    """

    sql: str
    application_name: str
    timeout: float | None = None
    lock_timeout: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    role: str | None = None
    search_path: str | None = None
    output_buffer: int = 65_536
    reserve: int = 0
    detachable: bool = False
    rows: int = 0
    label: WorkerLabel | None = None
    as_text: bool = False
    #: The worker may only be launched from the first to before the second time of the server's clock.
    launch_between: tuple[float, float] | None = None
    carry: CarryForm | None = None


class Query(Struct, frozen=True, kw_only=True):
    """A condition or a list of items: one statement, run READ ONLY, with limits of its own in seconds.

    `before_launch`: the step already holds its slots, so a launcher session is free for the query.
    """

    sql: str
    role: str | None = None
    search_path: str | None = None
    timeout: float = 30.0
    lock_timeout: float = 5.0
    before_launch: bool = False


class QueryResult(Struct, frozen=True, kw_only=True):
    """The result of a query in PostgreSQL's text format, or its error. `boolean`: one column, of type boolean."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    boolean: bool = False
    error: ErrorDetails | None = None

    def truth(self, name: str = "the condition") -> bool | str:
        """Return whether the condition is true, or why the result cannot be used. NULL and no row count as false.

        `name` is the condition's name in that reason.
        """
        if self.error is not None:
            return self.error.message
        if not self.boolean:
            return f"{name} must return one boolean, but returns {', '.join(self.columns) or 'no columns'}"
        if len(self.rows) > 1:
            return f"{name} must return one row, but returns {len(self.rows):,}"
        return bool(self.rows) and self.rows[0][0] == "t"


class StoredBatch(Struct, frozen=True, kw_only=True):
    """What the transaction of an iteration has stored: the number of its rows, and the carried values as texts."""

    rows: int
    values: Mapping[str, str | None]


class GroupHolder(Struct, frozen=True, kw_only=True):
    """The session that holds a concurrency group: its run, host, and start (as the server writes it), role and pid."""

    run: str
    host: str
    since: str
    role: str = ""
    pid: int = 0

    def __str__(self) -> str:
        """Describe it in a sentence."""
        session = f" (role {self.role}, pid {self.pid})" if self.role else ""
        return f"from {self.host}, since {self.since}{session}"


class RemainingWorker(Struct, frozen=True, kw_only=True):
    """A worker on the server that a previous runner of this run launched, or may have launched.

    `claim` is the content of the label in its query text, None without a label. `readable`: this role can see the query
    text. `age` is the seconds since backend_start, by the server's clock.
    """

    worker: Worker
    claim: Claim | None = None
    readable: bool = True
    age: float | None = None


class RemainingBackends(Struct, frozen=True, kw_only=True):
    """What a previous runner of this run has left on the server: its workers, and the number of its own sessions.

    As long as such a session exists, it may still launch a worker. `unseen` counts workers that are not visible to this
    role, so that their run is unknown. `starting` counts workers without a name and query text yet: each may belong to
    the run. `foreign` describes sessions and workers of other roles that use the run's name; they do not belong to the
    run.
    """

    workers: tuple[RemainingWorker, ...] = ()
    sessions: int = 0
    unseen: int = 0
    starting: int = 0
    foreign: tuple[str, ...] = ()


class RecordedRun(Struct, frozen=True, kw_only=True):
    """What the ledger or the journal of a run contains that a runner must know when it takes the run over.

    `launched` are the attempts whose launch is recorded; `takeovers` maps the time of each takeover, as it was written,
    to the host of that runner.
    """

    launched: frozenset[tuple[str, int]] = frozenset()
    takeovers: Mapping[str, str] = field(default_factory=dict)
    #: Whether it contains the start of the run.
    begun: bool = False
    #: In a journal: the launches that the ledger contains if their worker was requested. The value is the takeover of
    #: the runner that announced them; an empty text is the start of the run.
    ledger_first: Mapping[tuple[str, int], str] = field(default_factory=dict)


class CancelRequest(Struct, frozen=True, kw_only=True):
    """A request of the user `by`, through the server, to cancel the run, or one step of it.

    `key` is unique for each request, which may be sent twice; the answer quotes it.
    """

    run: str
    step: str | None
    by: str
    key: str


class WorkerEnd(Struct, frozen=True, kw_only=True):
    """The evidence about a worker that has ended or was detached.

    Exactly one of five is set: `detached`; `lost` (there is no evidence of what it did); `rolled_back` (its end was not
    observed, but it certainly did not commit); `error`; or `confirmed`, the evidence of success
    (docs/pg_background.md#completed-is-not-success). If none is set, the worker has ended and the extension reports no
    error, which is not success. `unobserved`: it is lost, and its end was not observed, so it may still be running.
    `reason` explains a missing outcome; `cancelled_by` is the user who requested, through
    the server, to stop the worker. Times are the server's, in seconds since the epoch.
    """

    worker: Worker | None = None
    detached: bool = False
    lost: bool = False
    unobserved: bool = False
    rolled_back: bool = False
    reason: str = ""
    confirmed: bool = False
    error: ErrorDetails | None = None
    command_tag: str = ""
    row_count: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    notices: tuple[Notice, ...] = ()
    notices_dropped: int = 0
    #: The number of WARNINGs, including those that were dropped.
    warnings: int = 0
    result: Rows | None = None
    cancelled_by: str | None = None


#: Receives a worker that is still running, and the seconds since it was first requested to stop.
OnUnstoppable = Callable[[Worker, float], None]


#: Receives the sessions outside the run that wait for each worker, and returns the seconds until the next poll.
OnBlocked = Callable[[Mapping[Identity, Sequence[Blocked]]], float]


class WorkerHandle(Protocol):
    """One worker that was launched, from launch to end."""

    @property
    def worker(self) -> Worker | None:
        """The worker's identity, as soon as it was seen on the server."""
        ...

    @property
    def age(self) -> float | None:
        """The worker's age in seconds, by the server's clock, when it was first seen; None if unknown."""
        ...

    def cancel(self) -> None:
        """Request the worker to stop; `wait_until_ended` returns when it has stopped. Further calls have no effect."""
        ...

    def detach(self) -> None:
        """Detach the worker as soon as it was seen on the server; `wait_until_ended` then returns."""
        ...

    async def wait_until_ended(
        self,
        *,
        on_seen: Callable[[Worker], None],
        on_lost: Callable[[str], None],
        on_unstoppable: OnUnstoppable,
    ) -> WorkerEnd:
        """Wait until the worker has ended or was detached. Call it once.

        `on_seen` is called when the worker was found in pg_stat_activity; that never happens for a worker that ends
        within milliseconds. `on_lost` is called when its launcher session is lost, so that the worker is observed by
        its identity only. `on_unstoppable` is called once if the worker is still running long after it was asked to
        stop. ServerLostError if the server cannot be reached again.
        """
        ...


class Gateway(Protocol):
    """The operations on the server that a run needs."""

    async def open(self, first: RequirementsCheck | None = None) -> ServerInfo:
        """Connect, let `first` check the server, and verify that the server can run plans.

        ConnectionFailedError or PreflightError, with a hint, if it cannot.
        """
        ...

    async def measure_clock(self, now: Callable[[], float]) -> float:
        """Return by how many seconds the server's clock is ahead of the run's clock `now`, and keep measuring it.

        ServerLostError if the server cannot be reached.
        """
        ...

    @property
    def clock_ahead(self) -> float | None:
        """The last measurement of `measure_clock`; None before it."""
        ...

    async def launch(self, request: LaunchRequest) -> WorkerHandle:
        """Request a worker.

        CapacityError if the server has no worker free now, OutsideLaunchTimeError outside `launch_between`. If the
        server refuses the launch for any other reason, the handle's end has the error. ServerLostError if the server
        cannot be reached; then no worker was requested.
        """
        ...

    async def hold_run(self) -> GroupHolder | None:
        """Lock the run for this runner; return the holder if another living runner has it."""
        ...

    async def remaining_backends(self, known: Collection[Worker] = ()) -> RemainingBackends:
        """Find what a previous runner of this run has left; `known` are the workers that it recorded.

        ServerLostError if the server cannot be reached.
        """
        ...

    async def committed(self, step: str, attempt: int) -> bool | None:
        """Return whether an attempt whose worker has ended committed; None without a ledger that can say.

        ServerLostError if the server cannot be reached.
        """
        ...

    async def stored_batch(self, step: str, attempt: int) -> StoredBatch | None:
        """Return what the transaction of a committed iteration has stored; None if it stored nothing, or if unknown.

        ServerLostError if the server cannot be reached.
        """
        ...

    async def write_ledger(self) -> None:
        """Write the events so far to the ledger, if that is possible soon."""
        ...

    def launch_without_ledger(self) -> None:
        """From now on, also request workers whose launch is not in the ledger."""
        ...

    async def ledger_record(self) -> RecordedRun | None:
        """Return the ledger's record of this run, and continue that record; None without a readable one.

        ServerLostError if the server cannot be reached.
        """
        ...

    def adopt(self, worker: Worker, *, step: str, awaited: bool = True) -> WorkerHandle:
        """Wait for a previous runner's worker; if it is not `awaited`, it counts as detached when it ends."""
        ...

    async def hold_group(self, group: str) -> GroupHolder | None:
        """Lock a concurrency group for this run; return the holder if another living run has it."""
        ...

    @property
    def group_lost(self) -> bool:
        """Whether another run locked the group while the connection was lost."""
        ...

    @property
    def taken_over_by(self) -> str | None:
        """The host and start of the runner that has taken this run over while the connection was lost; None without
        one."""
        ...

    def take_cancel(self, *, of_run: bool) -> CancelRequest | None:
        """Return a request to cancel the run, or else one step of it, once; the caller must `answer` it."""
        ...

    def answer(self, request: CancelRequest, *, steps: int | None) -> None:
        """Report to the user how many unfinished steps the request cancels; None: the run has no such step."""
        ...

    @property
    def ledger_problem(self) -> str | None:
        """Why the ledger is not written, or no longer; None if it is written or was not requested."""
        ...

    @property
    def ledger_ignored(self) -> bool:
        """Whether a ledger exists that is not written because an untrusted role owns it."""
        ...

    async def query(self, query: Query) -> QueryResult:
        """Execute a read-only statement of the plan. ServerLostError if the server cannot be reached."""
        ...

    async def measure(self, hold: Hold, query: Query) -> QueryResult:
        """Measure a hold once, on a session that no step uses; `query` has its limits, and the SQL of `while`.

        GatewayError if the server cannot be queried now: a measurement does not wait for the server.
        """
        ...

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Call `seen` after each poll of the run's workers, with the workers that wait for a lock."""
        ...

    def watch_blocking(self, workers: Callable[[], WatchedWorkers], seen: OnBlocked) -> None:
        """Poll which sessions outside the run `workers` block; call it before `open`.

        Nothing is polled while there are no such workers. `seen` is called with the result of each poll.
        """
        ...

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return the present activity of the run's workers, as far as visible to this role. GatewayError if that
        fails."""
        ...

    async def unfinished_objects(self, *, in_progress: bool = False) -> tuple[UnfinishedObject, ...]:
        """Return INVALID indexes and half detached partitions of the database that no session is working on.

        `in_progress`: also those that a session is working on. GatewayError if the server cannot be queried now.
        """
        ...

    async def close(self) -> None:
        """Close every session. Running workers continue: call it when no worker is awaited any more."""
        ...


class SharedSlots(Protocol):
    """A limit on workers that several runs share, besides the budget of each. The calls of one run."""

    def left(self) -> int:
        """Return how many workers the run may request now besides those that it has."""
        ...

    def use(self, workers: int) -> None:
        """Note how many workers the run has, launched or requested."""
        ...

    def wait(self, *, waiting: bool) -> None:
        """Note whether a step of the run waits for a worker of these; such a run is woken when it is its turn."""
        ...

    def on_turn(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the run that waits may request a worker."""
        ...


class Command(Struct, frozen=True, kw_only=True):
    """Base of all commands; they concern one attempt of one step."""

    step: str
    attempt: int

    def facts(self, now: float) -> dict[str, Any]:
        """Return what each event of its attempt has."""
        return {"at": now, "step": self.step, "attempt": self.attempt}


class Launch(Command, frozen=True, kw_only=True):
    """Ask the server for a worker. `timeout` is seconds, None for no limit; it already respects run_timeout."""

    timeout: float | None
    overtook: tuple[str, ...] = ()


class Cancel(Command, frozen=True, kw_only=True):
    """Request the worker to stop."""

    reason: CancelReason


class Detach(Command, frozen=True, kw_only=True):
    """Detach the worker: it keeps its locks and its timeout, and commits."""


class Evaluate(Command, frozen=True, kw_only=True):
    """Evaluate the step's conditions of this phase on a read-only session.

    Before a launch the step holds its slots during the evaluation; in the other phases it holds none.
    """

    phase: CheckPhase
    overtook: tuple[str, ...] = ()


class Sink(Protocol):
    """A consumer of a run's events: the journal, the ledger, a report or the terminal.

    A subclass needs `handle` only: the other methods do nothing.
    """

    def handle(self, event: Event, state: RunState) -> None:
        """Process one event; `state` is the state after it.

        RecordError if it cannot be recorded: the sink then receives nothing more. JournalLostError if the run must not
        launch anything without this record.
        """
        ...

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Make the handled events durable: called before commands are performed, after a tick, and at the end.

        A sink that waits for a disk returns an awaitable, so that the event loop continues meanwhile. It is awaited
        before the next flush; events may be handled before that. Raises the errors of `handle`, here or when it is
        awaited.
        """
        return None

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - others use them
        """Do periodic work: called about once a second while a worker runs. Raises the errors of `handle`."""
        return

    def close(self) -> None:
        """Finish; no call follows. RecordError if the end cannot be recorded."""
        return
