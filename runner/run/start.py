"""How a run begins, or goes on: what is recorded of it, and that it has one runner."""

from __future__ import annotations

from dataclasses import dataclass

from runner.engine import events as ev
from runner.engine.ports import Gateway, ServerInfo
from runner.engine.server_activity import end_sessions
from runner.errors import GroupHeldError
from runner.plan.model import Plan
from runner.run.takeover import Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run is told about itself."""

    run_id: str
    jobplan: str
    host: str
    os_pid: int
    sha256: str


def started(
    plan: Plan,
    context: RunContext,
    info: ServerInfo,
    *,
    left_out: frozenset[str],
    ledger_problem: str | None,
    at: float,
) -> ev.RunStarted:
    """Return the event of a run that begins on this server. The steps `left_out` were not selected."""
    return ev.RunStarted(
        at=at,
        jobplan=context.jobplan,
        plan=plan.name,
        file=plan.file,
        sha256=context.sha256,
        host=context.host,
        os_pid=context.os_pid,
        server=info.version,
        extension=info.extension_version,
        database=info.database,
        user=info.user,
        slots=plan.budget.slots,
        steps=len(plan.steps) + len(plan.finally_),
        connection=info.connection,
        system_identifier=info.system_identifier,
        place=info.place,
        ledger=info.ledger,
        ledger_problem=ledger_problem,
        left_out=tuple(sorted(left_out)),
    )


def resumed(
    plan: Plan, context: RunContext, found: Findings, *, items: tuple[ev.Expansion, ...], info: ServerInfo, at: float
) -> ev.RunResumed:
    """Return the event of a run that is resumed with this plan and these items; `found` says what its workers did."""
    return ev.RunResumed(
        at=at,
        jobplan=context.jobplan,
        file=plan.file,
        sha256=context.sha256,
        host=context.host,
        os_pid=context.os_pid,
        slots=plan.budget.slots,
        steps=len(plan.steps) + len(plan.finally_),
        settled=found.settled,
        adopted=found.adopted,
        user=info.user,
        place=info.place,
        foreign=found.foreign,
        expansions=items,
    )


async def hold_run(gateway: Gateway, run_id: str) -> None:
    """Be the only runner of this run. GroupHeldError if another one is."""
    holder = await gateway.hold_run()
    if holder is not None:
        raise GroupHeldError(
            f"run {run_id} is under way: its runner is connected {holder}.",
            hint="Follow it with jobplan attach, or stop it with jobplan cancel. "
            f"If its machine is gone, and the server has not noticed: {end_sessions(run_id)}",
        )


def taken_up(run_id: str, where: str) -> GroupHeldError:
    """Return the end of a runner that has lost its run to another one."""
    return GroupHeldError(
        f"another runner has taken run {run_id} up, {where}, while this one had no connection. This one stops, and "
        "leaves its workers to that one.",
        hint="Follow it with jobplan attach, or stop it with jobplan cancel.",
    )
