"""A gateway without a server: virtual workers for tests of the parts that use the protocol.

It understands a few forms of SQL (see `read_script`) and fulfils the same contract as the real gateway; one suite tests
both.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

from runner.engine.events import WARNING, ErrorDetails, Identity, LockWait, Notice, Rows, Worker
from runner.engine.leftovers import UnfinishedObject
from runner.engine.ports import (
    CancelRequest,
    GroupHolder,
    LaunchRequest,
    OnBlocked,
    OnUnstoppable,
    Query,
    QueryResult,
    RecordedRun,
    RemainingBackends,
    RemainingWorker,
    RequirementsCheck,
    ServerInfo,
    StoredBatch,
    WorkerEnd,
)
from runner.engine.server_activity import LiveWorker
from runner.engine.yielding import WatchedWorkers
from runner.errors import CapacityError, GatewayError, JobplanError, OutsideLaunchTimeError
from runner.identity import Claim
from runner.plan.model import Hold
from runner.structs import Struct, replace

_SLEEP = re.compile(r"pg_sleep\(([0-9.]+)\)", re.IGNORECASE)
_RAISE = re.compile(r"raise\s+(\w+)\s+'([^']*)'(?:\s+using\s+([^;]*))?", re.IGNORECASE)
_OPTION = re.compile(r"(\w+)\s*=\s*'([^']*)'")
_TAG = re.compile(r"\s*(\w+)")
#: The options of RAISE in PL/pgSQL, and the fields of an error that they set.
_FIELDS = {"errcode": "sqlstate", "detail": "detail", "hint": "hint", "schema": "schema", "table": "table"}
_FIELDS |= {"column": "column", "constraint": "constraint"}
_CANCELED = "57014"


class Script(Struct, frozen=True, kw_only=True):
    """A worker's behaviour: it runs for `seconds` (None: until it is stopped), then succeeds unless it has an error.

    `stops_on_cancel` is False for a worker that ignores cancel requests; `unstoppable`: it has ignored them for long.
    `loses_session`: its launcher session is lost at once. `crash` is raised while it is followed, like a bug.
    """

    seconds: float | None = 0.0
    error: ErrorDetails | None = None
    notices: tuple[Notice, ...] = ()
    command_tag: str = "SELECT"
    row_count: int | None = 1
    seen: bool = True
    stops_on_cancel: bool = True
    unstoppable: bool = False
    loses_session: bool = False
    crash: Exception | None = None
    result: Rows | None = None


def read_script(sql: str) -> Script:
    """Return the behaviour of the SQL, as far as this gateway understands it.

    `pg_sleep(x)`, `1/0`, and in a DO block `RAISE level 'message' USING detail = '…'`, with EXCEPTION as the last one.
    All other SQL succeeds at once; its tag is the first word, and SELECT returns one row.
    """
    tag = _TAG.match(sql)
    name = tag.group(1).upper() if tag else ""
    script = Script(
        seconds=sum(float(match.group(1)) for match in _SLEEP.finditer(sql)),
        command_tag=name,
        row_count=1 if name == "SELECT" else 0,
    )
    if "1/0" in sql.replace(" ", ""):
        return replace(script, error=ErrorDetails(message="division by zero", sqlstate="22012"))
    notices: list[Notice] = []
    for level, message, options in _RAISE.findall(sql):
        if level.upper() == "EXCEPTION":
            return replace(script, error=_raised(message, options), notices=tuple(notices))
        notices.append(Notice(severity=level.upper(), message=message))
    return replace(script, notices=tuple(notices))


def _raised(message: str, options: str) -> ErrorDetails:
    given = {_FIELDS[name.lower()]: value for name, value in _OPTION.findall(options) if name.lower() in _FIELDS}
    return ErrorDetails(message=message, **{"sqlstate": "P0001", **given})


class FakeGateway:
    """See the module's docstring.

    `capacity` is the number of workers that the server has; it may change during a run. `scripts` has the behaviour of
    certain SQL texts, `answers` the results of certain queries; `refuses` is raised when the gateway is opened.
    """

    def __init__(
        self,
        *,
        capacity: int = 64,
        scripts: Mapping[str, Script] | None = None,
        answers: Mapping[str, QueryResult] | None = None,
        refuses: JobplanError | None = None,
        held_by: GroupHolder | None = None,
        ledger: bool = False,
    ) -> None:
        self.capacity = capacity
        #: The holder of every concurrency group; a test may change it, and set that a held group was lost.
        self.held_by = held_by
        self.run_held_by: GroupHolder | None = None
        #: The ledger's commit rows: whether an attempt of a step has committed.
        self.commits: dict[tuple[str, int], bool] = {}
        #: What the transactions of iterations have stored.
        self.batches: dict[tuple[str, int], StoredBatch] = {}
        self.recorded: RecordedRun | None = None
        #: Sessions of a previous runner: the number that each poll finds.
        self.sessions_left: list[int] = []
        self.group_lost = False
        self.taken_over_by: str | None = None
        #: The user who requests to cancel the run; returned once.
        self.cancel_request: str | None = None
        self.step_cancels: list[CancelRequest] = []
        #: The answers, and the step of each; None: the run.
        self.answers: list[tuple[str | None, int | None]] = []
        #: Why no ledger is written; `ledger`: there is one, and every virtual worker writes its commit row.
        self.ledger_problem: str | None = None
        self.ledger_ignored = False
        self.ledger = ledger
        self.launched: list[LaunchRequest] = []
        self.left_unfinished: list[UnfinishedObject] = []
        self.alive: dict[str, FakeWorker] = {}
        self.most_alive = 0
        self.closed = False
        #: Polls the blocked sessions of virtual workers once, as a test reports them.
        self.see_blocked: OnBlocked = lambda _: 0.0
        self.watches_blocking = False
        #: The results of measurements by hold, the last one for all later ones; and how often each was measured.
        self.measurements: dict[str, list[QueryResult | GatewayError]] = {}
        self.measured: Counter[str] = Counter()
        #: By how many seconds the server's clock is ahead; a test may change it during a run.
        self.ahead = 0.0
        self.clock_ahead: float | None = None
        self._now: Callable[[], float] = time.time
        self.see_locks: Callable[[Mapping[Identity, LockWait]], None] = lambda _: None
        self.scripts = scripts or {}
        self._answers = answers or {}
        self._refuses = refuses

    async def open(self, first: RequirementsCheck | None = None) -> ServerInfo:
        """Return a server's description."""
        info = self._info()
        if first is not None:
            await first(info)
        if self._refuses is not None:
            raise self._refuses
        return info

    def _info(self) -> ServerInfo:
        return ServerInfo(
            version="18.0 (fake)",
            version_number=180_000,
            extension_version="2.0",
            extension_schema="public",
            database="fake",
            user="fake",
            max_worker_processes=self.capacity,
            connection="host=fake",
            system_identifier="7",
            ledger="jobplan" if self.ledger and self.ledger_problem is None else None,
        )

    def watch_locks(self, seen: Callable[[Mapping[Identity, LockWait]], None]) -> None:
        """Keep the function by which a test reports lock waits of virtual workers."""
        self.see_locks = seen

    async def measure_clock(self, now: Callable[[], float]) -> float:
        """Return by how many seconds a test has set the server's clock ahead."""
        await asyncio.sleep(0)
        self._now = now
        self.clock_ahead = self.ahead
        return self.ahead

    async def launch(self, request: LaunchRequest) -> FakeWorker:
        """Start a virtual worker."""
        await asyncio.sleep(0)
        if request.launch_between is not None:
            first, last = request.launch_between
            if not first <= self._now() + self.ahead < last:
                raise OutsideLaunchTimeError("the virtual server's clock is outside the launch time")
        if len(self.alive) + request.reserve >= self.capacity:
            raise CapacityError(f"{len(self.alive)} of {self.capacity} workers are taken, reserve {request.reserve}")
        self.launched.append(request)
        script = self.scripts.get(request.sql) or read_script(request.sql)
        refusal = next(_bad_settings(request.settings), None)
        worker = FakeWorker(self, request, script, pid=len(self.launched), refusal=refusal)
        if refusal is None:
            self.alive[request.application_name] = worker
            self.most_alive = max(self.most_alive, len(self.alive))
        return worker

    async def hold_run(self) -> GroupHolder | None:
        """Return the other runner of this run; None without one."""
        await asyncio.sleep(0)
        return self.run_held_by

    async def remaining_backends(self, known: Collection[Worker] = ()) -> RemainingBackends:  # noqa: ARG002 - it sees them all
        """Return the running virtual workers."""
        await asyncio.sleep(0)
        sessions = self.sessions_left.pop(0) if self.sessions_left else 0
        return RemainingBackends(workers=tuple(worker.left for worker in self.alive.values()), sessions=sessions)

    async def committed(self, step: str, attempt: int) -> bool | None:
        """Return the ledger's evidence."""
        await asyncio.sleep(0)
        return self.commits.get((step, attempt))

    async def stored_batch(self, step: str, attempt: int) -> StoredBatch | None:
        """Return what a test has stored."""
        await asyncio.sleep(0)
        return self.batches.get((step, attempt))

    async def write_ledger(self) -> None:
        """Do nothing: this gateway has no ledger to write to."""

    def launch_without_ledger(self) -> None:
        """Do nothing: no launch waits for a ledger here."""

    async def ledger_record(self) -> RecordedRun | None:
        """Return the ledger's record of the run."""
        await asyncio.sleep(0)
        return self.recorded

    def adopt(self, worker: Worker, *, step: str, awaited: bool = True) -> FakeWorker:  # noqa: ARG002 - see `alive`
        """Follow a virtual worker of a previous runner."""
        left = next(one for one in self.alive.values() if one.identity == worker)
        left.worker = worker
        left.awaited = awaited
        left.orphaned = True
        return left

    async def hold_group(self, group: str) -> GroupHolder | None:  # noqa: ARG002 - they are all held by the same run
        """Return the holder of the group; None: this run."""
        await asyncio.sleep(0)
        return self.held_by

    def take_cancel(self, *, of_run: bool) -> CancelRequest | None:
        """Return each request once."""
        if not of_run:
            return self.step_cancels.pop(0) if self.step_cancels else None
        by, self.cancel_request = self.cancel_request, None
        return None if by is None else CancelRequest(run="", step=None, by=by, key="run")

    def answer(self, request: CancelRequest, *, steps: int | None) -> None:
        """Record the answer."""
        self.answers.append((request.step, steps))

    async def look(self) -> tuple[LiveWorker, ...]:
        """Return nothing: no test reads the activity of this gateway."""
        await asyncio.sleep(0)
        return ()

    async def unfinished_objects(self, *, in_progress: bool = False) -> tuple[UnfinishedObject, ...]:  # noqa: ARG002 - no session is working on them
        """Return the objects that a test has left behind."""
        await asyncio.sleep(0)
        return tuple(self.left_unfinished)

    async def query(self, query: Query) -> QueryResult:
        """Return the prepared result, or a constant boolean."""
        await asyncio.sleep(0)
        if query.sql in self._answers:
            return self._answers[query.sql]
        error = read_script(query.sql).error
        value = "t" if "true" in query.sql.lower() else "f"
        return QueryResult(error=error) if error else QueryResult(columns=("?column?",), rows=((value,),), boolean=True)

    async def measure(self, hold: Hold, query: Query) -> QueryResult:
        """Return the next prepared result; without one the constant boolean of `while`, or a hold that is not on."""
        await asyncio.sleep(0)
        self.measured[hold.name] += 1
        prepared = self.measurements.get(hold.name)
        if prepared:
            result = prepared.pop(0) if len(prepared) > 1 else prepared[0]
            if isinstance(result, GatewayError):
                raise result
            return result
        if hold.while_ is not None:
            return await self.query(query)
        return QueryResult(columns=("measured", "name", "hidden"), rows=((None, None, "f"),))

    def watch_blocking(self, workers: Callable[[], WatchedWorkers], seen: OnBlocked) -> None:  # noqa: ARG002 - as above
        """Keep the function by which a test reports blocked sessions."""
        self.watches_blocking = True
        self.see_blocked = seen

    async def close(self) -> None:
        """Record it; virtual workers continue."""
        self.closed = True

    def inherit(self, other: FakeGateway) -> None:
        """Have the virtual workers that another gateway launched: a second runner on the same server."""
        self.alive = other.alive
        for worker in self.alive.values():
            worker.gateway = self


def _bad_settings(settings: Mapping[str, str]) -> Iterator[ErrorDetails]:
    for name, value in settings.items():
        if name.endswith("_mem") and not value[:1].isdigit():
            yield ErrorDetails(message=f'invalid value for parameter "{name}": "{value}"', sqlstate="22023")


class FakeWorker:
    """A virtual worker; see `ports.WorkerHandle`. It runs from its launch on, also if no task follows it."""

    def __init__(
        self, gateway: FakeGateway, request: LaunchRequest, script: Script, *, pid: int, refusal: ErrorDetails | None
    ) -> None:
        self.worker: Worker | None = None
        self.awaited = True
        self.orphaned = False
        self.gateway = gateway
        self._request = request
        self._script = script
        self._pid = pid
        self._refusal = refusal
        self._lost = script.loses_session
        self._detach = False
        self._news = asyncio.Event()
        self._started = time.time()
        self._finished: float | None = None
        self._stopped = False
        self._ignores = False
        self._timer: asyncio.TimerHandle | None = None
        limits = [limit for limit in (script.seconds, request.timeout) if limit is not None]
        if limits:
            self._timer = asyncio.get_running_loop().call_later(min(limits), self._timer_ends)

    @property
    def identity(self) -> Worker:
        """The worker's identity, also before it was seen."""
        name = self._request.application_name
        return Worker(pid=self._pid, backend_start=str(self._started), application_name=name)

    @property
    def left(self) -> RemainingWorker:
        """The worker as a later runner sees it."""
        label, age = self._request.label, time.time() - self._started
        claim = None
        if label is not None:
            claim = Claim(run=label.run, step=label.step, attempt=label.attempt, purpose=label.purpose)
        return RemainingWorker(worker=self.identity, claim=claim, readable=label is not None, age=age)

    @property
    def age(self) -> float | None:
        """The worker's age in seconds; always unknown here."""
        return None

    def cancel(self) -> None:
        """Stop the worker at once, if its script allows that."""
        if self._script.stops_on_cancel:
            self.end(stopped=True)
        elif self._script.unstoppable:
            self._ignores = True
            self._news.set()

    def detach(self) -> None:
        """Detach the worker."""
        self._detach = True
        self._news.set()

    def lose_session(self) -> None:
        """Simulate the loss of the launcher session."""
        self._lost = True
        self._news.set()

    async def wait_until_ended(
        self,
        *,
        on_seen: Callable[[Worker], None],
        on_lost: Callable[[str], None],
        on_unstoppable: OnUnstoppable,
    ) -> WorkerEnd:
        """Follow the virtual worker to its end."""
        await asyncio.sleep(0)
        if self._refusal is not None:
            return WorkerEnd(error=self._refusal)
        if self._script.crash is not None:
            raise self._script.crash
        reported = False
        while self._finished is None:
            self._see(on_seen)
            if self._ignores and self.worker is not None:
                self._ignores = False
                on_unstoppable(self.worker, 30.0)
            if self._lost and not reported:
                reported = True
                on_lost("the virtual launcher session is lost")
            if self._detach and self.worker is not None:
                return WorkerEnd(worker=self.worker, detached=True)
            await self._news.wait()
            self._news.clear()
        if self.orphaned:
            reason = "the virtual runner has ended"
            return WorkerEnd(worker=self.worker, detached=not self.awaited, lost=self.awaited, reason=reason)
        if self._lost:
            return self._outcome_of_lost(self._finished)
        return self._outcome(self._finished)

    def _outcome_of_lost(self, finished: float) -> WorkerEnd:
        """Return the evidence of the ledger, which only says whether it has committed."""
        reason = "the virtual launcher session is lost"
        if not self.gateway.ledger:
            return WorkerEnd(worker=self.worker, lost=True, reason=reason)
        confirmed = self._outcome(finished).confirmed
        return WorkerEnd(worker=self.worker, confirmed=confirmed, rolled_back=not confirmed, reason=reason)

    def _see(self, seen: Callable[[Worker], None]) -> None:
        if self.worker is None and self._script.seen:
            self.worker = self.identity
            seen(self.worker)

    def _timer_ends(self) -> None:
        timeout = self._request.timeout
        took = self._script.seconds
        self.end(stopped=timeout is not None and (took is None or took > timeout))

    def end(self, *, stopped: bool = False) -> None:
        """End at once; `stopped`: by a cancel or the timeout."""
        if self._finished is not None or self._refusal is not None:
            return
        self._stopped = stopped
        self._finished = time.time()
        if self._timer is not None:
            self._timer.cancel()
        self.gateway.alive.pop(self._request.application_name, None)
        self._news.set()

    def _outcome(self, finished: float) -> WorkerEnd:
        script = self._script
        error = script.error
        if self._stopped:
            error = ErrorDetails(message="canceling statement", sqlstate=_CANCELED)
        return WorkerEnd(
            worker=self.worker,
            confirmed=error is None,
            error=error,
            command_tag="" if error else script.command_tag,
            row_count=None if error else script.row_count,
            result=None if error else script.result,
            started_at=self._started,
            finished_at=finished,
            notices=script.notices,
            warnings=sum(notice.severity == WARNING for notice in script.notices),
        )
