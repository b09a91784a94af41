"""The result of `jobplan cancel`, for users and for programs. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import Leftover
from runner.engine.server_activity import LiveRun, LiveWorker, end_sessions
from runner.reports.messages import leftover_lines, leftovers_data
from runner.reports.status_report import UNSTOPPABLE, worker_data
from runner.sql.placeholders import quote_identifier
from runner.structs import Struct


class Cancelled(Struct, frozen=True, kw_only=True):
    """The result of a cancel: workers with the seconds until they ended, None for those that still run."""

    run: LiveRun
    by: str
    at: float
    asked: Sequence[tuple[LiveWorker, float | None]]
    left: Sequence[LiveWorker]
    runner_alive: bool
    refused: str | None
    user: str
    leftovers: Sequence[Leftover]
    #: The step to cancel, None for the run; and how many of its instances have not ended, as the runner reports.
    step: str | None = None
    concerned: int | None = None
    #: The options with which a command reaches the same server.
    where: str = ""
    #: Whether the runner has acknowledged the request.
    answered: bool = False
    #: False: the runner is alive and accepts no request from this role.
    request_accepted: bool = True

    @property
    def unanswered(self) -> bool:
        """Return whether a runner is alive that did not acknowledge the request, and so may start more workers."""
        return self.runner_alive and self.request_accepted and not self.answered

    @property
    def still(self) -> list[LiveWorker]:
        """The workers that still run."""
        return [worker for worker, seconds in self.asked if seconds is None]


def cancel_lines(done: Cancelled) -> Iterator[str]:
    """Yield the lines: which workers ended, which still run, and what is left behind."""
    for worker, seconds in done.asked:
        name = f"{worker.step} (pid {worker.worker.pid})"
        yield f"{name}: STILL RUNNING" if seconds is None else f"{name}: ended after {format_duration(seconds)}"
    if not done.asked:
        yield f"{f'run {done.run.run}' if done.step is None else done.step} has no worker to cancel"
    yield from _runner_lines(done)
    for worker in done.left:
        yield _left_words(worker)
    if any(worker.detached or (worker.label is None and not worker.foreign) for worker in done.left):
        yield f"  cancel them too: jobplan cancel {shlex.quote(done.run.run)} --detached{done.where}"
    if not done.request_accepted:
        yield "its runner is alive and continues: it accepts no request from a role that may not cancel its workers"
    if done.still:
        yield from _still_lines(done)
    if (done.still and done.refused is not None) or not done.request_accepted:
        rights = "pg_signal_backend, pg_read_all_stats"
        yield f"  a superuser can grant the privileges: GRANT {rights} TO {quote_identifier(done.user)};"
        yield "  (only a superuser can cancel workers of a superuser)"
    yield from leftover_lines(done.leftovers)


def _runner_lines(done: Cancelled) -> Iterator[str]:
    if not done.runner_alive:
        if done.run.alive:
            yield (
                "its runner has ended the run"
                if done.answered
                else "its runner ended in the meantime without an answer"
            )
    elif not done.request_accepted:
        return
    elif not done.answered:
        what = "start more workers" if done.step is None else "start the step again"
        see = f"jobplan status {shlex.quote(done.run.run)}{done.where}"
        yield f"its runner is alive and did not answer: it may {what}; check with: {see}"
        yield f"  if its machine is lost, terminate its sessions, then cancel again: {end_sessions(done.run.run)}"
    elif done.step is None:
        yield "its runner received the request: it starts only finally steps, and reports who cancelled"
    elif done.concerned or done.asked:
        yield "its runner received the request: it does not start the step again, continues, and reports who cancelled"
    else:
        yield "its runner is alive and reports that the step has ended"


def _left_words(worker: LiveWorker) -> str:
    name = worker.worker.application_name
    if worker.foreign:
        return (
            f"pid {worker.worker.pid} ({name}): of role {worker.user}, which is not a role of this run: not cancelled"
        )
    if worker.label is None and worker.visible:
        return (
            f"pid {worker.worker.pid} ({name}): neither its SQL nor a record shows whether its step is a detach step: "
            "not cancelled (check track_activities and track_activity_query_size on the server)"
        )
    if worker.label is not None and worker.label.in_finally and not worker.detached:
        return f"{worker.step} (pid {worker.worker.pid}): a finally step, not cancelled"
    limit = f", ends by {rfc3339(worker.deadline)[:19]}Z" if worker.deadline is not None else ", no timeout"
    return f"{worker.step} (pid {worker.worker.pid}): a detach step, not cancelled{limit}"


def _still_lines(done: Cancelled) -> Iterator[str]:
    if done.refused is None:
        command = f"jobplan status {shlex.quote(done.run.run)}{done.where}"
        caught = [worker for worker in done.still if worker.catches_cancel]
        yield from (f"{worker.step} (pid {worker.worker.pid}): {UNSTOPPABLE}" for worker in caught)
        if len(caught) < len(done.still):
            yield f"a worker ends when it next checks for interrupts; see what it does: {command}"
        return
    yield f"not allowed: {done.refused}"


def cancel_data(done: Cancelled) -> dict[str, Any]:
    """Return the result as JSON values."""
    return {
        "run": done.run.run,
        "by": done.by,
        "runner_alive": done.runner_alive,
        "runner_heeds": done.runner_alive and done.request_accepted,
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
        "leftovers": leftovers_data(done.leftovers),
    }
