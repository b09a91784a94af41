"""The protocols that a run needs: a gateway to the server, sinks for events, history, and the scheduler's commands.

The real gateway is in `runner.gateway.postgres`, its double in `runner.gateway.fake`; the same contract suite runs
against both. Sinks are the journal, the ledger, reports and the terminal. Commands are what the scheduler wants done;
the loop performs them. What is known of previous runs of a plan is data, wherever it was recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runner.engine.events import (
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
from runner.engine.leftovers import HalfDone
from runner.engine.server_activity import LiveWorker
from runner.engine.state import RunState
from runner.identity import Claim, WorkerLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a run needs to know, and a report to say, about the server.

    `connection` leads there again, without a password; `system_identifier` is the cluster's, if this role may know it;
    `ledger` is the schema of the ledger, if one is written. Before the server is found ready, `extension_version` and
    `extension_schema` may be empty: there is no extension.
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
    #: What tells the run's database and server from others, if it is known.
    place: Place | None = None
    ledger: str | None = None
    standby: bool = False


#: Is given the server as it is found, before it is judged whether it is ready, and may refuse it.
FirstLook = Callable[[ServerInfo], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One attempt of one step, ready to be sent. Times are seconds, None means no limit; sizes are bytes.

    `reserve` is the number of the server's worker slots that must stay free after the launch. A `detachable` worker is
    let go of when its output queue is full; any other one has its output drained. `rows` is how many rows of the last
    statement's result are wanted; without any they stay in the worker. `label` is written in front of the SQL.
    `as_text`: the last statement is rewritten so that all its columns are text.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A condition or a list of items: one statement, run READ ONLY, with limits of its own in seconds.

    `before_launch` says that a step holds its slots for it, so that a launcher session is free.
    """

    sql: str
    role: str | None = None
    search_path: str | None = None
    timeout: float = 30.0
    lock_timeout: float = 5.0
    before_launch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """What a query gave, as PostgreSQL writes it, or the error; `boolean`: it has one column, of type boolean."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    boolean: bool = False
    error: ErrorDetails | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHolder:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftWorker:
    """A worker on the server that is, or may be, one that an earlier runner of the run has launched.

    `claim` is what its text says that it is, None if that is no label; `readable` is whether it has a text at all.
    `age` is for how many seconds it has lived, by the server's clock.
    """

    worker: Worker
    claim: Claim | None = None
    readable: bool = True
    age: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """What an earlier runner of this run has left on the server: its workers, and how many sessions of its own.

    While there are such sessions, one of them may still be about to launch a worker. `unseen` counts workers that are
    not visible to this role: nothing can be said of them. `starting` counts workers that have no name and no text yet,
    so that any of them may be the run's. `foreign` names sessions and workers of other roles that have the run's name,
    and are none of it.
    """

    workers: tuple[LeftWorker, ...] = ()
    sessions: int = 0
    unseen: int = 0
    starting: int = 0
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chronicle:
    """What a record knows of a run that must not be missed when it is taken up.

    `launched` are attempts whose worker was asked for; `takeovers` are the moments, as they are written, at which
    another runner took the run up, each with its host.
    """

    launched: frozenset[tuple[str, int]] = frozenset()
    takeovers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancel:
    """Somebody, `by`, asks through the server for the run to be stopped; `key` is what the answer refers to."""

    by: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCancel:
    """Somebody, `by`, asks through the server for a step to be stopped; `key` is what the answer refers to."""

    step: str
    by: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """What is known of a worker that has gone or was let go of.

    Exactly one of five: `detached`; `lost` (nobody can say what it did); `rolled_back` (nobody saw its end, but it is
    certain that it has not committed); `error`; or `proven`, which is the evidence of success
    (pg_background.md#completed-is-not-success). None
    of them: the worker has gone and the extension knows no error, which is not success. `reason` says why nobody can
    say; `cancelled_by` who asked through the server for the worker's end. Times are the server's, in seconds since the
    epoch.
    """

    worker: Worker | None = None
    detached: bool = False
    lost: bool = False
    rolled_back: bool = False
    reason: str = ""
    proven: bool = False
    error: ErrorDetails | None = None
    command_tag: str = ""
    row_count: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    notices: tuple[Notice, ...] = ()
    notices_dropped: int = 0
    #: WARNINGs, those that were dropped included.
    warnings: int = 0
    result: Rows | None = None
    cancelled_by: str | None = None


#: Is given a worker that is still running, and for how many seconds it has been asked to stop.
Unstoppable = Callable[[Worker, float], None]


def ignored(_worker: Worker, _seconds: float) -> None:
    """Wait on."""


class WorkerHandle(Protocol):
    """One worker that was launched, from launch to end."""

    @property
    def worker(self) -> Worker | None:
        """Who it is, once it has been seen on the server."""
        ...

    @property
    def age(self) -> float | None:
        """For how many seconds the worker had lived, by the server's clock, when it was first seen; None: not known."""
        ...

    def cancel(self) -> None:
        """Have the worker asked to stop; `ended` tells when it has gone. Repeated calls change nothing."""
        ...

    def detach(self) -> None:
        """Let go of the worker as soon as it has been seen on the server; `ended` then returns."""
        ...

    async def ended(
        self, *, seen: Callable[[Worker], None], lost: Callable[[str], None], unstoppable: Unstoppable = ignored
    ) -> WorkerEnd:
        """Wait until the worker has gone or was let go of. Call it once.

        `seen` is called when the worker was found in pg_stat_activity, which for a worker that ends within
        milliseconds never happens; `lost` when its launcher session is gone and it is followed by identity only;
        `unstoppable` once when the worker has been asked to stop for long, and is still running.
        ServerLostError if the server cannot be reached again.
        """
        ...


class Gateway(Protocol):
    """Everything a run asks of a server."""

    async def open(self, first: FirstLook | None = None) -> ServerInfo:
        """Connect, let `first` judge the server, and check that the server can run plans.

        ConnectionFailedError or PreflightError, with what to do, if it cannot.
        """
        ...

    async def launch(self, request: LaunchRequest) -> WorkerHandle:
        """Ask for a worker.

        CapacityError if the server has none to give now. A launch that the server refuses for any other reason gives
        a handle whose end carries the error. ServerLostError if the server cannot be reached; no worker was asked for.
        """
        ...

    async def hold_run(self) -> GroupHolder | None:
        """Be the only runner of this run; who else is, if somebody is. A dead runner is none."""
        ...

    async def left_behind(self, known: Collection[Worker] = ()) -> LeftBehind:
        """Find what an earlier runner of this run has left; `known` are workers that it has seen.

        ServerLostError if the server cannot be reached.
        """
        ...

    async def committed(self, step: str, attempt: int) -> bool | None:
        """Say whether an attempt whose worker has gone has committed; None if no ledger tells.

        ServerLostError if the server cannot be reached.
        """
        ...

    async def chronicle(self) -> Chronicle | None:
        """Return what the ledger knows of this run, and let it go on from there; None if there is none that tells.

        ServerLostError if the server cannot be reached.
        """
        ...

    def adopt(self, worker: Worker, *, step: str, awaited: bool = True) -> WorkerHandle:
        """Follow an earlier runner's worker of a step to its end; unless it is `awaited` it counts as detached then."""
        ...

    async def hold_group(self, group: str) -> GroupHolder | None:
        """Take a concurrency group for this run; who holds it, if somebody else does. A dead runner holds none."""
        ...

    @property
    def group_lost(self) -> bool:
        """Say whether another run took the group while the connection was lost."""
        ...

    @property
    def taken_up(self) -> str | None:
        """Say where and since when another runner has this run, if it was taken up while the connection was lost."""
        ...

    def take_cancel(self) -> RunCancel | None:
        """Return a request for the run to be stopped; each is told once, and wants an answer."""
        ...

    def take_step_cancel(self) -> StepCancel | None:
        """Return a request for one step to be stopped; each is told once, and wants an answer."""
        ...

    def answer(self, request: RunCancel | StepCancel, *, steps: int | None) -> None:
        """Have who asks told how many steps that concerns which are not over; None: the run has no such step."""
        ...

    @property
    def ledger_problem(self) -> str | None:
        """Say why the ledger is not written, or not any longer; None if it is, or was never wanted."""
        ...

    @property
    def ledger_ignored(self) -> bool:
        """Say whether there is a ledger that is not written because it belongs to a role that is not trusted."""
        ...

    async def query(self, query: Query) -> QueryResult:
        """Run a statement of the plan's that only reads. ServerLostError if the server cannot be reached."""
        ...

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Have `seen` called after each regular look at the run's workers, with those that wait for a lock."""
        ...

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return what the run's workers do now, as far as this role may see. GatewayError if nobody can look now."""
        ...

    async def half_done(self) -> tuple[HalfDone, ...]:
        """Return the INVALID indexes and half detached partitions of the database that nobody works on.

        GatewayError if nobody can look now.
        """
        ...

    async def close(self) -> None:
        """Close every session. Workers go on: call it when none is left that matters."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Base of all commands; they concern one attempt of one step."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Command):
    """Ask the server for a worker. `timeout` is seconds, None for no limit; it already respects run_timeout."""

    timeout: float | None
    overtook: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Command):
    """Ask the worker to stop."""

    reason: CancelReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach(Command):
    """Let go of the worker: it keeps its locks and its timeout, and commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Command):
    """Evaluate the step's conditions of this phase on a read-only session.

    Before a launch the step holds its slots meanwhile; in the other phases it takes none.
    """

    phase: CheckPhase
    overtook: tuple[str, ...] = ()


class Sink(Protocol):
    """Something that wants to know what happens in a run."""

    def handle(self, event: Event, state: RunState) -> None:
        """Take one event; `state` is as it is after it.

        RecordError if it cannot be kept: the sink is then given nothing more. JournalLostError if the run must not
        launch anything without it.
        """
        ...

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Make durable what was handled: called before any order is carried out, after a tick, and at the end.

        A sink that has to wait for a disk returns what waits, and the event loop goes on meanwhile. It is awaited
        before the next flush; events may be handled before that. Errors as above, from here or from what waits.
        """
        ...

    def tick(self, now: float, state: RunState) -> None:
        """Be given the time, about once a second, while something runs. Errors as above."""
        ...

    def close(self) -> None:
        """Finish; nothing comes after it. RecordError if the end cannot be kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An earlier run of the plan: for each step that was launched, its seconds and its last state.

    `started_at` is in seconds since the epoch. The seconds are those that `StepTimes` gives.
    """

    run: str
    started_at: float
    steps: Mapping[str, tuple[float, str]]


class StepTimes:
    """How long steps took, from the lines of a journal in their order; in a run's state that is `StepRecord.took`.

    For each runner of a run, a step takes from its first launch to the end of its last attempt; these are summed up.
    The time between two runners does not count, nor an attempt without a recorded end. An attempt that one runner has
    launched and another one has seen end counts for the first one.
    """

    def __init__(self) -> None:
        self._runner = 0
        #: The attempt under way of each step: which runner launched it, and when.
        self._launched: dict[str, tuple[int, float]] = {}
        #: The first launch, and the last end, for each step and runner.
        self._began: dict[tuple[str, int], float] = {}
        self._ended: dict[str, dict[int, float]] = {}

    def take(self, event: str, step: str, at: float) -> float | None:
        """Take a line; if it ends an attempt, return how long that took."""
        if event == "run_resumed":
            self._runner += 1
        elif event == "attempt_launching":
            self._launched[step] = (self._runner, at)
            self._began.setdefault((step, self._runner), at)
        elif event == "attempt_deferred" and self._runner not in self._ended.get(step, {}):
            self._began.pop((step, self._runner), None)
        elif event == "attempt_finished" and step in self._launched:
            runner, launched = self._launched[step]
            self._ended.setdefault(step, {})[runner] = at
            return max(0.0, at - launched)
        return None

    def seconds(self, step: str, until: float = 0.0) -> float | None:
        """Return how long a step took; None: no attempt of it has ended.

        `until` is when the step itself ended, after its checks, if the runner of its last attempt has seen that.
        """
        ended = self._ended.get(step)
        if ended is None:
            return None
        lasts = ((runner, max(at, until) if runner == self._runner else at) for runner, at in ended.items())
        return sum(max(0.0, last - self._began.get((step, runner), last)) for runner, last in lasts)
