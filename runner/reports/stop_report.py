"""What `jobplan cancel` has done, for people and for programs. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import Leftover
from runner.engine.server_activity import LiveRun, LiveWorker, end_sessions
from runner.reports.messages import leftover_lines
from runner.reports.server_status import UNSTOPPABLE, worker_data
from runner.sql.placeholders import quote_identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """What came of a cancel: workers with the seconds that they took to go, None for those that are still there.

    `leftovers` are pairs: what is left behind, and the SQL that repairs it, one of which is enough.
    """

    run: LiveRun
    by: str
    at: float
    asked: Sequence[tuple[LiveWorker, float | None]]
    left: Sequence[LiveWorker]
    runner_alive: bool
    refused: str | None
    user: str
    leftovers: Sequence[tuple[str, tuple[str, ...]]]
    #: The step that was meant, if not the run; and how many of it the runner says that are not over.
    step: str | None = None
    concerned: int | None = None
    #: What a command needs behind it to reach the same server.
    where: str = ""
    #: Whether the runner has said that it has heard.
    answered: bool = False
    #: False: the runner lives, and takes no request from this role.
    heeded: bool = True

    @property
    def unanswered(self) -> bool:
        """Say whether a runner lives of which nobody knows whether it has heard, and so whether it starts more."""
        return self.runner_alive and self.heeded and not self.answered

    @property
    def still(self) -> list[LiveWorker]:
        """The workers that have not gone."""
        return [worker for worker, seconds in self.asked if seconds is None]


def cancel_lines(done: Cancelled) -> Iterator[str]:
    """Yield the lines that say what was done, what still runs, and what is left behind."""
    for worker, seconds in done.asked:
        who = f"{worker.step} (pid {worker.worker.pid})"
        yield f"{who}: STILL RUNNING" if seconds is None else f"{who}: gone after {format_duration(seconds)}"
    if not done.asked:
        yield f"{f'run {done.run.run}' if done.step is None else done.step} has no worker to stop"
    yield from _runner_lines(done)
    for worker in done.left:
        yield _left_words(worker)
    if any(worker.detached or (worker.label is None and not worker.foreign) for worker in done.left):
        yield f"  stop them too: jobplan cancel {shlex.quote(done.run.run)} --detached{done.where}"
    if not done.heeded:
        yield "its runner is alive and goes on: it takes no request from a role that may not stop its workers"
    if done.still:
        yield from _still_lines(done)
    if (done.still and done.refused is not None) or not done.heeded:
        rights = "pg_signal_backend, pg_read_all_stats"
        yield f"  a superuser can allow it: GRANT {rights} TO {quote_identifier(done.user)};"
        yield "  (workers of a superuser are for superusers only)"
    yield from leftover_lines(Leftover(what=what, repair=repairs) for what, repairs in done.leftovers)


def _runner_lines(done: Cancelled) -> Iterator[str]:
    if not done.runner_alive:
        if done.run.alive:
            yield "its runner has ended the run" if done.answered else "its runner has gone meanwhile"
    elif not done.heeded:
        return
    elif not done.answered:
        what = "start more" if done.step is None else "begin the step again"
        see = f"jobplan status {shlex.quote(done.run.run)}{done.where}"
        yield f"its runner is alive and has not answered: it may {what}; see {see}"
        yield f"  if its machine is gone, end its sessions, then cancel again: {end_sessions(done.run.run)}"
    elif done.step is None:
        yield "its runner is alive and was told: it starts nothing more but finally steps, and reports by whom"
    elif done.concerned or done.asked:
        yield "its runner is alive and was told: it does not begin the step again, goes on, and reports by whom"
    else:
        yield "its runner is alive, and says that the step is over"


def _left_words(worker: LiveWorker) -> str:
    name = worker.worker.application_name
    if worker.foreign:
        return f"pid {worker.worker.pid} ({name}): of role {worker.user}, which is none of this run's: left alone"
    if worker.label is None and worker.visible:
        return (
            f"pid {worker.worker.pid} ({name}): neither its text nor a record says whether its step is a detach step: "
            "left alone (track_activities and track_activity_query_size decide what the server shows)"
        )
    if worker.label is not None and worker.label.in_finally and not worker.detached:
        return f"{worker.step} (pid {worker.worker.pid}): a finally step, left alone"
    limit = f", ends by {rfc3339(worker.deadline)[:19]}Z" if worker.deadline is not None else ", no timeout"
    return f"{worker.step} (pid {worker.worker.pid}): a detach step, left alone{limit}"


def _still_lines(done: Cancelled) -> Iterator[str]:
    if done.refused is None:
        command = f"jobplan status {shlex.quote(done.run.run)}{done.where}"
        caught = [worker for worker in done.still if worker.catches_cancel]
        yield from (f"{worker.step} (pid {worker.worker.pid}): {UNSTOPPABLE}" for worker in caught)
        if len(caught) < len(done.still):
            yield f"it stops when it next looks for a signal; see what it is at: {command}"
        return
    yield f"not allowed: {done.refused}"


def cancel_data(done: Cancelled) -> dict[str, Any]:
    """Return it as JSON values."""
    return {
        "run": done.run.run,
        "by": done.by,
        "runner_alive": done.runner_alive,
        "runner_heeds": done.runner_alive and done.heeded,
        "runner_answered": done.answered,
        "step": done.step,
        "steps_not_over": done.concerned,
        "stopped": [
            {**worker_data(worker, done.at), "gone_after_seconds": round(seconds, 3)}
            for worker, seconds in done.asked
            if seconds is not None
        ],
        "still_running": [worker_data(worker, done.at) for worker in done.still],
        "left_alone": [worker_data(worker, done.at) for worker in done.left],
        "refused": done.refused,
        "leftovers": [{"what": what, "repair": list(repairs)} for what, repairs in done.leftovers],
    }
