"""Plans made in code, and a run of one as the command line would do it, within this process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.clock import MonotonicClock
from runner.engine.ports import Sink
from runner.errors import Position
from runner.gateway.ledger.sink import LedgerSink
from runner.gateway.postgres import PgGateway
from runner.identity import new_run_id
from runner.plan.model import Budget, Need, OnFinish, OnRunnerExit, Plan, Sql, Step
from runner.records.journal import Journal
from runner.reports.messages import Verbosity
from runner.reports.progress import Plain
from runner.run.loop import Run
from runner.run.start import Ready, RunContext

_START = Position(file="benchmark", line=1, column=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run took, in seconds: by the clock on the wall, and of this process's CPU."""

    wall: float
    cpu: float


def step(step_id: str, sql: str, needs: Sequence[str] = (), **keys: Any) -> Step:  # noqa: ANN401 - Step's own fields
    """Make a step as a plan with `timeout: 1m` and `on_finish: wait` would have it."""
    return Step(
        id=step_id,
        sql=Sql(text=sql, start=_START),
        timeout=60.0,
        on_finish=OnFinish.WAIT,
        on_runner_exit=OnRunnerExit.CANCEL,
        needs=tuple(Need(step=name) for name in needs),
        **keys,
    )


def plan(steps: Iterable[Step], *, slots: int) -> Plan:
    """Make a plan of these steps."""
    return Plan(name="benchmark", budget=Budget(slots=slots), steps=tuple(steps))


def same_steps(count: int, sql: str, *, slots: int) -> Plan:
    """Make a plan of `count` steps that need nothing and do the same."""
    return plan((step(f"s{number}", sql) for number in range(count)), slots=slots)


def chain(count: int, sql: str, *, slots: int) -> Plan:
    """Make a plan of `count` steps, each of which needs the one before."""
    steps = (step(f"s{number}", sql, needs=[f"s{number - 1}"] if number else ()) for number in range(count))
    return plan(steps, slots=slots)


def run(
    plan_: Plan,
    dsn: str,
    verbosity: Verbosity = Verbosity.QUIET,
    *,
    ledger: str | None = None,
    journal: Path | None = None,
) -> Cost:
    """Run a plan from connecting to closing; progress is written and thrown away. RuntimeError unless all succeeds.

    `ledger` is the schema of the ledger that is written, `journal` the folder of journals, None for none.
    """
    clock = MonotonicClock()
    run_id = new_run_id(clock.now())
    context = RunContext(run_id=run_id, jobplan="0", host="localhost", os_pid=os.getpid(), sha256="")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        gateway = PgGateway(dsn, run_id, ledger_schema=ledger)
        sinks: list[Sink] = [Plain(nowhere, run_id, verbosity)]
        if journal is not None:
            sinks.append(Journal.create(journal, run_id, plan_))
        if ledger is not None:
            sinks.append(LedgerSink(gateway.ledger, run_id))
        run_ = Run(Ready(run_id=run_id, plan=plan_), gateway=gateway, clock=clock, sinks=sinks, context=context)
        wall, cpu = time.perf_counter(), time.process_time()
        result = asyncio.run(run_.execute())
        cost = Cost(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    if result.exit_code or result.record_errors or gateway.ledger_problem is not None:
        raise RuntimeError(f"the run ended with {result.exit_code}: {result.state.counts()} {result.record_errors}")
    return cost
