"""The activity of jobplan on a server, as data: runs, sessions of their runners, workers, and lock waits.

It is read from the server, so it includes runs whose runner was killed or is on another machine. Names and labels there
are claims; if a record has a worker's pid and backend_start (`KnownWorkers`), the record is used. Times are seconds
since the epoch by the server's clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from runner.engine.events import Worker
from runner.engine.state import HOLDING, RunState, StepState
from runner.errors import UsageError
from runner.identity import Claim, WorkerLabel, has_name_of, is_of_step, runner_name, step_of, written_key
from runner.sql.placeholders import quote_literal
from runner.structs import Struct, field

#: SQL that catches the error of a cancel, a timeout or a terminate in a worker (57014), and SQL with a loop.
_CATCHES = re.compile(
    r"\bwhen\b[\w\s']*?(?:query_canceled|operator_intervention|sqlstate\s*'570(?:14|00)')", re.IGNORECASE
)
_LOOP = re.compile(r"\bloop\b", re.IGNORECASE)
#: The silence of a runner's sessions is reported from this number of seconds.
SILENT_AFTER = 10.0


class Other(Struct, frozen=True, kw_only=True):
    """A session that blocks a lock, or waits for one.

    `lock` is the lock that is waited for (`ShareLock on orders`). `seconds` is the age of its transaction. None and
    empty texts: not visible to this role, or a prepared transaction, whose pid is 0.
    """

    pid: int
    name: str = ""
    user: str = ""
    state: str = ""
    query: str = ""
    lock: str = ""
    seconds: float | None = None


class Progress(Struct, frozen=True, kw_only=True):
    """A row of one of the server's pg_stat_progress_ views; `total` 0: the view has no total."""

    command: str
    phase: str
    relation: str = ""
    done: int = 0
    total: int = 0
    unit: str = "blocks"


class ReportedProgress(Struct, frozen=True, kw_only=True):
    """The progress that a step reported with pg_background_report_progress; only its launcher session can read it."""

    percent: int
    message: str = ""


class KnownWorkers(Struct, frozen=True, kw_only=True):
    """The facts that records have about workers: labels by identity, labels of possibly running workers, roles by run.

    A worker that no record has by its identity is found by its name, if its query text has no label.
    """

    by_identity: Mapping[Worker, WorkerLabel] = field(default_factory=dict)
    under_way: tuple[WorkerLabel, ...] = ()
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str, state: RunState, roles: Iterable[str] = ()) -> KnownWorkers:
        """Return the facts of one run's record."""
        by_identity: dict[Worker, WorkerLabel] = {}
        under_way: list[WorkerLabel] = []
        for record in state.records.values():
            label = WorkerLabel(
                run=run,
                plan=state.plan.name,
                step=record.key,
                attempt=record.attempt,
                on_finish=str(record.step.on_finish),
                timeout=record.timeout,
                in_finally=record.in_finally,
                purpose="on_retry" if record.preparing else "",
            )
            if record.worker is not None:
                by_identity[record.worker] = label
            if record.state in HOLDING or record.state is StepState.DETACHED:
                under_way.append(label)
        known = frozenset(role for role in roles if role)
        return cls(by_identity=by_identity, under_way=tuple(under_way), roles={run: known} if known else {})

    def __or__(self, other: KnownWorkers) -> KnownWorkers:
        """Return the union of both."""
        roles = {run: self.roles.get(run, frozenset()) | other.roles.get(run, frozenset()) for run in self.roles}
        return KnownWorkers(
            by_identity={**self.by_identity, **other.by_identity},
            under_way=(*self.under_way, *(label for label in other.under_way if label not in self.under_way)),
            roles={**other.roles, **roles},
        )

    def label_of(self, worker: Worker, text: str) -> WorkerLabel | None:
        """Return the label of a worker with this query text, if known: the record's, else the one in the text."""
        known = self.by_identity.get(worker)
        label = known or WorkerLabel.from_query(text)
        claim = Claim.from_query(text)
        if label is not None or (text and claim is None):
            return label
        name = worker.application_name
        found = [
            one
            for one in self.under_way
            if (
                has_name_of(name, one.run, one.step)
                if claim is None or claim.step is None
                else claim.run == one.run and is_of_step(claim.step, one.step)
            )
        ]
        return found[0] if len(found) == 1 else None


class LiveWorker(Struct, frozen=True, kw_only=True):
    """A worker on the server. Without `visible` this role sees its name and pid only.

    `label` is the record's, else the one in the worker's query text. `foreign`: its role is none of the run's, so its
    name and label are not trusted.
    """

    worker: Worker
    run: str
    database: str
    user: str
    visible: bool = True
    foreign: bool = False
    label: WorkerLabel | None = None
    started_at: float | None = None
    state: str = ""
    wait: str = ""
    query: str = ""
    progress: Progress | None = None
    reported: ReportedProgress | None = None
    blocked_by: tuple[Other, ...] = ()
    blocks: tuple[Other, ...] = ()

    @property
    def step(self) -> str:
        """The step's id: from the label, else the part of it in the name."""
        return self.label.step if self.label is not None else step_of(self.worker.application_name)

    @property
    def detached(self) -> bool:
        """Whether its step may continue without the run; False if unknown."""
        return self.label is not None and self.label.on_finish == "detach"

    @property
    def deadline(self) -> float | None:
        """The time at which the server ends it; None without a timeout or if unknown."""
        if self.label is None or self.label.timeout is None or self.started_at is None:
            return None
        return self.started_at + self.label.timeout

    def is_worker_of(self, run: str, step: str) -> bool:
        """Return whether it claims to work for exactly this step: its label overrides its name."""
        if self.label is not None:
            return self.label.run == run and is_of_step(self.label.step, step)
        return has_name_of(self.worker.application_name, run, step)

    @property
    def catches_cancel(self) -> bool:
        """Whether its query text, as far as visible, catches a cancel in a loop: then nothing may be able to end it."""
        return _LOOP.search(self.query) is not None and _CATCHES.search(self.query) is not None

    def is_of(self, step: str) -> bool:
        """Return whether it works for this step, for an instance of it, or for a step of its chain."""
        parts = (f"{step}[", f"{step}.")
        return (
            self.is_worker_of(self.run, step)
            or step in (self.step, written_key(self.step))
            or self.step.startswith(parts)
        )


class RunnerSession(Struct, frozen=True, kw_only=True):
    """A session of a run's runner; `host` is empty for a Unix socket.

    `last_active_at` is the time of the runner's last request in this session; None: not visible to this role.
    """

    pid: int
    host: str = ""
    started_at: float | None = None
    last_active_at: float | None = None
    user: str = ""


class LiveRun(Struct, frozen=True, kw_only=True):
    """The sessions and workers of one run on the server."""

    run: str
    database: str
    runner: tuple[RunnerSession, ...] = ()
    workers: tuple[LiveWorker, ...] = ()

    @property
    def plan(self) -> str:
        """The plan's name, if a worker's label has it."""
        return next((worker.label.plan for worker in self.workers if worker.label is not None), "")

    @property
    def alive(self) -> bool:
        """Whether its runner has a session on the server."""
        return bool(self.runner)

    def silence(self, now: float) -> float | None:
        """Return for how many seconds its runner has been silent; None if it is not silent or that is unknown.

        A running runner polls its workers every second. A silent one is suspended, or its machine was lost and the
        server has not noticed it yet.
        """
        if not self.runner or any(session.last_active_at is None for session in self.runner):
            return None
        seconds = now - max(session.last_active_at or 0.0 for session in self.runner)
        return seconds if seconds >= SILENT_AFTER else None

    @property
    def orphans(self) -> tuple[LiveWorker, ...]:
        """The workers without a runner that a runner should wait for."""
        return () if self.alive else tuple(one for one in self.workers if not one.detached and not one.foreign)


class Activity(Struct, frozen=True, kw_only=True):
    """One poll of a server. `sees_all`: this role may see the query texts of all workers.

    A `standby` executes nothing, and the activity of its primary is not visible there.
    """

    at: float
    version: str
    database: str
    user: str
    sees_all: bool
    runs: tuple[LiveRun, ...] = ()
    standby: bool = False
    #: The number of pg_background workers without a run's label that no record has.
    others: int = 0


#: Why a standby shows no activity.
ON_A_STANDBY = "This server is a standby: runs execute on its primary (target_session_attrs=primary in --dsn)."


def end_sessions(run: str) -> str:
    """Return the SQL that ends the sessions of a runner whose machine was lost."""
    name = quote_literal(runner_name(run)).lstrip()
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {name};"  # noqa: S608 - a literal


def find_run(
    runs: Sequence[LiveRun], wanted: str, *, otherwise: str = "No jobplan session is active there."
) -> LiveRun:
    """Return the run whose id is `wanted` or begins with it.

    UsageError, with the list of runs, if no run or more than one matches; `otherwise` is the hint without any runs.
    """
    found = [run for run in runs if run.run == wanted] or [run for run in runs if run.run.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(run.run for run in (found or runs))
    if found:
        raise UsageError(f"{wanted!r} is the beginning of more than one run on the server: {there}.")
    hint = f"There are: {there}." if runs else otherwise
    raise UsageError(f"no run {wanted!r} is active on the server.", hint=hint)
