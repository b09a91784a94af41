"""What lives on a server now, as data: runs, their runners' sessions and their workers, who waits for whom.

Everything here was read from the server alone, so it holds for runs whose runner was killed, or runs elsewhere. Times
are seconds since the epoch on the server's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.engine.events import Worker
from runner.errors import UsageError
from runner.identity import WorkerLabel, runner_name, step_of, worker_name
from runner.sql.params import quote_literal

#: Seconds from which on the silence of a runner's sessions is worth telling.
SILENT_FROM = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A session at the other end of a lock that is waited for.

    `lock` is what is waited for (`ShareLock on orders`). `seconds` is how long its transaction has been open; None and
    empty texts: this role may not see it, or it is a prepared transaction, whose pid is 0.
    """

    pid: int
    name: str = ""
    user: str = ""
    state: str = ""
    query: str = ""
    lock: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one of the server's pg_stat_progress_ views says; `total` 0: it says no total."""

    command: str
    phase: str
    relation: str = ""
    done: int = 0
    total: int = 0
    unit: str = "blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What a step has told of its own progress, with pg_background_report_progress; only its launcher can read it."""

    percent: int
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveWorker:
    """A worker on the server. Without `visible` this role sees its name and pid only."""

    worker: Worker
    run: str
    database: str
    user: str
    visible: bool = True
    label: WorkerLabel | None = None
    started_at: float | None = None
    state: str = ""
    wait: str = ""
    query: str = ""
    progress: Progress | None = None
    reported: Reported | None = None
    blocked_by: tuple[Other, ...] = ()
    blocks: tuple[Other, ...] = ()

    @property
    def step(self) -> str:
        """The step's id: from the label, else what is left of it in the name."""
        return self.label.step if self.label is not None else step_of(self.worker.application_name)

    @property
    def detached(self) -> bool:
        """Say whether its step may go on without the run; not known is no."""
        return self.label is not None and self.label.on_finish == "detach"

    @property
    def deadline(self) -> float | None:
        """The moment at which the server ends it; None: it does not, or nobody knows."""
        if self.label is None or self.label.timeout is None or self.started_at is None:
            return None
        return self.started_at + self.label.timeout

    def is_of(self, step: str) -> bool:
        """Say whether it works for this step, or for an instance of it."""
        name = self.worker.application_name
        return name == worker_name(self.run, step) or self.step == step or self.step.startswith(f"{step}[")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSession:
    """A session that a run's runner has; `host` is empty where it came through a socket.

    `heard_at` is when the server last heard of the runner there; None: this role may not see it.
    """

    pid: int
    host: str = ""
    started_at: float | None = None
    heard_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """What is left of a run on the server."""

    run: str
    database: str
    runner: tuple[RunnerSession, ...] = ()
    workers: tuple[LiveWorker, ...] = ()

    @property
    def plan(self) -> str:
        """The plan's name, if a worker tells it."""
        return next((worker.label.plan for worker in self.workers if worker.label is not None), "")

    @property
    def alive(self) -> bool:
        """Say whether its runner has a session on the server."""
        return bool(self.runner)

    def silence(self, now: float) -> float | None:
        """Return for how many seconds its runner has been silent; None if it is not, or nobody can say.

        A living runner looks at its workers every second, so this one is held up, or its machine has gone and the
        server has not noticed.
        """
        if not self.runner or any(session.heard_at is None for session in self.runner):
            return None
        seconds = now - max(session.heard_at or 0.0 for session in self.runner)
        return seconds if seconds >= SILENT_FROM else None

    @property
    def orphans(self) -> tuple[LiveWorker, ...]:
        """The workers that somebody ought to wait for, and nobody does."""
        return () if self.alive else tuple(worker for worker in self.workers if not worker.detached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """One look at a server. `sees_all`: this role may see the texts of everybody's workers.

    On a `standby` nothing runs, and what its primary runs is not seen.
    """

    at: float
    version: str
    database: str
    user: str
    sees_all: bool
    runs: tuple[LiveRun, ...] = ()
    standby: bool = False


#: Why nothing is seen on a standby.
ON_A_STANDBY = "This server is a standby, and runs live on its primary (target_session_attrs=primary in --dsn)."


def end_sessions(run: str) -> str:
    """Return the SQL that ends what the server still has of a runner whose machine is gone."""
    name = quote_literal(runner_name(run)).lstrip()
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {name};"  # noqa: S608 - a literal


def find_run(runs: Sequence[LiveRun], wanted: str, *, otherwise: str = "Nothing of jobplan lives there.") -> LiveRun:
    """Return the run whose id is `wanted` or begins with it.

    UsageError, naming the runs that are there, if it is none or more than one; `otherwise` is what it says if none is
    there.
    """
    found = [run for run in runs if run.run == wanted] or [run for run in runs if run.run.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(run.run for run in (found or runs))
    if found:
        raise UsageError(f"{wanted!r} begins more than one run that lives on the server: {there}.")
    hint = f"There are: {there}." if runs else otherwise
    raise UsageError(f"no run {wanted!r} lives on the server.", hint=hint)
