"""The public interface: load a plan, run a plan. The command line uses the same parts."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner import __version__
from runner.clock import Clock, MonotonicClock
from runner.engine.batches import carries
from runner.engine.ports import SharedSlots, Sink
from runner.engine.previous_runs import PreviousRuns
from runner.gateway.ledger.sink import LedgerSink
from runner.gateway.postgres import PgGateway
from runner.identity import new_run_id
from runner.lint import read_plan
from runner.plan.model import Plan
from runner.plan.plan_json import sha256
from runner.run.loop import Run, RunResult
from runner.run.start import Ready, RunContext

__all__ = ["load_plan", "new_run", "run_plan"]

#: The default schema of the ledger.
LEDGER = "jobplan"


def load_plan(
    path: str | Path, *, params: Mapping[str, str] | None = None, params_file: str | Path | None = None
) -> Plan:
    """Return a plan that is ready to run.

    `params` are values of its parameters, as text; they override `params_file`. JOBPLAN_PARAM_<NAME> is not read: only
    the command line uses it. PlanError, with every problem that was found, if the plan is invalid.
    """
    return read_plan(path, given=params, params_file=params_file)


def run_plan(
    plan: Plan,
    *,
    dsn: str = "",
    sinks: Sequence[Sink] = (),
    ledger: str | None = LEDGER,
    trusted_roles: Sequence[str] = (),
) -> RunResult:
    """Run a plan to its end and return the result; `sinks` receive every event.

    `dsn` is a libpq connection string; libpq's environment variables supply what it lacks. `ledger` is the schema of
    the ledger, which is written if it exists and belongs to the session's role, a superuser or one of `trusted_roles`;
    None: no ledger. PreflightError if nothing could be started. Do not call it from a running event loop.
    """
    clock = MonotonicClock()

    async def execute() -> RunResult:
        ready = Ready(run_id=new_run_id(clock.now()), plan=plan)
        run = new_run(ready, dsn=dsn, clock=clock, sinks=sinks, ledger=ledger, trusted_roles=trusted_roles)
        return await run.execute()

    return asyncio.run(execute())


def new_run(
    ready: Ready,
    *,
    dsn: str,
    clock: Clock,
    sinks: Sequence[Sink],
    ledger: str | None = None,
    trusted_roles: Sequence[str] = (),
    previous_runs: PreviousRuns | None = None,
    require_ledger: bool = False,
    ledger_first: bool = False,
    usual: Mapping[str, float] | None = None,
    shared_slots: SharedSlots | None = None,
    target: str | None = None,
) -> Run:
    """Build a run on a real server; nothing happens before its `execute`. `sinks` include its journal.

    `ledger` is the schema of the ledger, None for no ledger; `trusted_roles` may own it besides the session's role and
    superusers. The previous runs of the plan that the ledger contains are added to `previous_runs`. `require_ledger`,
    `usual` and `shared_slots`: see `Run`. `ledger_first` and `target`: see `RunContext`; a plan with carried values
    always has `ledger_first`.
    """
    plan, run_id = ready.plan, ready.run_id
    # A batch whose launch is not in the ledger was never requested: so a runner can be killed in any moment.
    ledger_first = ledger_first or any(carries(step) for step in plan.all_steps)
    context = RunContext(
        run_id=run_id,
        jobplan=__version__,
        host=socket.gethostname(),
        os_pid=os.getpid(),
        sha256=sha256(plan),
        ledger_first=ledger_first,
        target=target,
    )
    gateway = PgGateway(
        dsn,
        run_id,
        ledger_schema=ledger,
        trusted_roles=trusted_roles,
        previous_runs=previous_runs,
        roles=() if ready.takeover is None else ready.takeover.roles,
        ledger_first=ledger_first,
    )
    return Run(
        ready,
        gateway=gateway,
        clock=clock,
        sinks=[*sinks, LedgerSink(gateway.ledger, run_id, ready.history)] if ledger is not None else sinks,
        context=context,
        require_ledger=require_ledger,
        usual=usual,
        shared_slots=shared_slots,
    )
