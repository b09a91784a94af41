"""The beginning of a run, or of a resumed run: the event that records it, and the lock of its runner."""

from __future__ import annotations

from runner.engine import events as ev
from runner.engine.ports import Gateway, ServerInfo
from runner.engine.server_activity import end_sessions
from runner.errors import GroupHeldError
from runner.plan.model import Plan
from runner.run.takeover import Findings
from runner.structs import Struct


class RunContext(Struct, frozen=True, kw_only=True):
    """The facts of this runner that are recorded with the run."""

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
    """Return the event of a run that is resumed with this plan and these items; `found` has its workers' outcomes."""
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
    """Lock the run for this runner. GroupHeldError if another runner has it."""
    holder = await gateway.hold_run()
    if holder is not None:
        raise GroupHeldError(
            f"run {run_id} is already running: its runner is connected {holder}.",
            hint="Follow it with jobplan attach, or stop it with jobplan cancel. "
            f"If its machine was lost and the server has not noticed it yet: {end_sessions(run_id)}",
        )


def run_taken_over(run_id: str, where: str) -> GroupHeldError:
    """Return the error of a runner whose run was taken over by another one."""
    return GroupHeldError(
        f"another runner took run {run_id} over, {where}, while this one had no connection. This runner stops; the "
        "other one waits for the workers.",
        hint="Follow it with jobplan attach, or stop it with jobplan cancel.",
    )
