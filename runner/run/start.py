"""The beginning of a run, or of a resumed run: the event that records it, and the lock of its runner."""

from __future__ import annotations

import shlex
from typing import Any

from runner.clock import Clock
from runner.engine import events as ev
from runner.engine.ports import Gateway, ServerInfo
from runner.engine.server_activity import end_sessions
from runner.engine.state import RunState
from runner.errors import GroupHeldError, PreflightError, RunExistsError, RunHeldError
from runner.identity import run_of
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.run.takeover import Findings, Takeover, without_runner
from runner.structs import Struct


class Ready(Struct, frozen=True, kw_only=True):
    """A run that is ready to begin, or to be resumed; its `journal` is open. The steps `left_out` were not selected.

    `chosen`: the caller chose the id, so that a run with this id may exist. To resume it, `history` are the events so
    far, `previous_state` is the state after them, and `takeover` says how.
    """

    run_id: str
    plan: Plan
    journal: Journal | None = None
    left_out: frozenset[str] = frozenset()
    chosen: bool = False
    history: tuple[ev.Event, ...] = ()
    previous_state: RunState | None = None
    takeover: Takeover | None = None


class RunContext(Struct, frozen=True, kw_only=True):
    """The facts of this runner that are recorded with the run."""

    run_id: str
    jobplan: str
    host: str
    os_pid: int
    sha256: str
    #: If there is a ledger, no worker is requested before its launch is in it.
    ledger_first: bool = False
    #: The name of the database in a fleet.
    target: str | None = None


def started(
    ready: Ready, context: RunContext, info: ServerInfo, *, ledger_problem: str | None, at: float
) -> ev.RunStarted:
    """Return the event of a run that begins on this server."""
    return ev.RunStarted(
        **_runner(ready.plan, context, info, at),
        plan=ready.plan.name,
        server=info.version,
        extension=info.extension_version,
        database=info.database,
        connection=info.connection,
        system_identifier=info.system_identifier,
        ledger=info.ledger,
        ledger_problem=ledger_problem,
        left_out=tuple(sorted(ready.left_out)),
        target=context.target,
    )


def resumed(
    plan: Plan,
    context: RunContext,
    found: Findings,
    *,
    items: tuple[ev.Expansion, ...],
    info: ServerInfo,
    at: float,
) -> ev.RunResumed:
    """Return the event of a run that is resumed with this plan and these items; `found` has its workers' outcomes."""
    return ev.RunResumed(
        **_runner(plan, context, info, at),
        settled=found.settled,
        adopted=found.adopted,
        foreign=found.foreign,
        expansions=items,
    )


def _runner(plan: Plan, context: RunContext, info: ServerInfo, at: float) -> dict[str, Any]:
    """Return what both events record: the runner, its plan, its role, and the place of the run."""
    return {
        "at": at,
        "jobplan": context.jobplan,
        "file": plan.file,
        "sha256": context.sha256,
        "host": context.host,
        "os_pid": context.os_pid,
        "slots": plan.budget.slots,
        "steps": len(plan.all_steps),
        "user": info.user,
        "place": info.place,
        "ledger_first": context.ledger_first and info.ledger is not None,
    }


async def hold_run(gateway: Gateway, run_id: str) -> None:
    """Lock the run for this runner. RunHeldError if another runner has it."""
    holder = await gateway.hold_run()
    if holder is not None:
        raise RunHeldError(
            f"run {run_id} is already running: its runner is connected {holder}.",
            run_id=run_id,
            hint="Follow it with jobplan attach, or stop it with jobplan cancel. "
            f"If its machine was lost and the server has not noticed it yet: {end_sessions(run_id)}",
        )


async def check_unused(gateway: Gateway, run_id: str, clock: Clock) -> None:
    """Check, as the only runner of a run whose id the caller has chosen, that no run with that id has begun before.

    RunExistsError if the ledger has one; RunHeldError if workers of one still run, whose record is somewhere else.
    """
    known = await gateway.ledger_record()
    if known is not None and known.begun:
        raise exists_in_ledger(run_id)
    left = await without_runner(gateway, run_id, (), clock)
    alive = [one for one in left.workers if one.claim is not None or run_of(one.worker.application_name) == run_id]
    if alive:
        pids = ", ".join(str(one.worker.pid) for one in alive)
        raise RunHeldError(
            f"workers of a run {run_id} still run (pid {pids}), and neither this journal nor a ledger has its record.",
            run_id=run_id,
            hint=f"Resume it where its journal is, wait for their end with jobplan attach {shlex.quote(run_id)}, or "
            f"stop them with jobplan cancel {shlex.quote(run_id)}.",
        )


def exists_in_ledger(run_id: str) -> RunExistsError:
    """Return the refusal to begin a run with the id of one that the ledger has."""
    return RunExistsError(
        f"the ledger has a run {run_id} already.",
        hint=f"To finish it: jobplan resume {shlex.quote(run_id)} --from-ledger, or jobplan run PLAN --run-id "
        f"{shlex.quote(run_id)} --or-resume. Else choose another id.",
    )


def check_ledger(info: ServerInfo, problem: str | None) -> None:
    """PreflightError if the run would not be recorded in a ledger; `problem` says why, if that is known."""
    if info.ledger is None:
        raise PreflightError(
            f"nothing was started: --require-ledger: no ledger can be used: {problem or 'none was wanted'}.",
            hint="To make one: jobplan ledger install. Without one, a retry may run a step twice.",
        )


def run_taken_over(run_id: str, where: str) -> GroupHeldError:
    """Return the error of a runner whose run was taken over by another one."""
    return GroupHeldError(
        f"another runner took run {run_id} over, {where}, while this one had no connection. This runner stops; the "
        "other one waits for the workers.",
        hint="Follow it with jobplan attach, or stop it with jobplan cancel.",
    )
