"""What a simulated server does: how an attempt goes, what a condition says, and the events that tell of it.

Apart from `simulate`, so that a script can be written without knowing how a run is simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runner.engine import events as ev
from runner.engine.items import queried_items
from runner.engine.state import StepRecord
from runner.plan.model import Plan, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptScript:
    """What one attempt will do. Times are seconds.

    `launch` passes before the server gives a worker or refuses one; the worker then takes `duration`, unless its
    timeout ends it before, or a cancel does, which it heeds after `cancel_latency`. With `seen` false it is over
    before anybody has seen it run. With `skip` the step's condition turns out to be false instead. A success gives
    `row_count` rows, of which `result` shows some.
    """

    duration: float
    outcome: ev.Outcome = ev.Outcome.SUCCEEDED
    sqlstate: str | None = None
    launch: float = 0.0
    cancel_latency: float = 0.0
    seen: bool = True
    skip: bool = False
    heeds_timeout: bool = True
    row_count: int | None = 0
    result: ev.Rows | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckScript:
    """What the conditions of one phase will say, `duration` seconds after they were asked.

    Items are the `rows` of a query, unless the verdict is ERROR.
    """

    duration: float = 0.0
    verdict: ev.Verdict = ev.Verdict.PROCEED
    rows: ev.Rows = field(default_factory=ev.Rows)


#: Script an attempt of a step by its number; the step of an instance has the instance's id.
Attempts = Callable[[Step, int], AttemptScript]
#: Script the evaluation of a phase after a number of attempts, 0 before the first.
Checks = Callable[[Step, ev.CheckPhase, int], CheckScript]


def all_hold(_: Step, __: ev.CheckPhase, ___: int) -> CheckScript:
    """Say that conditions hold and that queries give no items: there is no server to ask."""
    return CheckScript()


def checked(record: StepRecord, phase: ev.CheckPhase, script: CheckScript, at: float) -> ev.StepEvent:
    """Return the event that an evaluation ends with."""
    if phase is ev.CheckPhase.ITEMS and script.verdict is not ev.Verdict.ERROR:
        items = queried_items(record.step, script.rows.columns, script.rows.rows)
        return ev.StepExpanded(at=at, step=record.key, items=items)
    wrong = script.verdict in (ev.Verdict.FAIL, ev.Verdict.ERROR)
    error = ev.ErrorDetails(message=f"scripted {phase} {script.verdict}") if wrong else None
    return ev.StepChecked(at=at, step=record.key, phase=phase, verdict=script.verdict, error=error)


def finished(record: StepRecord, outcome: ev.Outcome, script: AttemptScript, at: float) -> ev.AttemptFinished:
    """Return the event that an attempt ends with."""
    failed, succeeded = outcome is ev.Outcome.FAILED, outcome is ev.Outcome.SUCCEEDED
    return ev.AttemptFinished(
        at=at,
        step=record.key,
        attempt=record.attempt,
        outcome=outcome,
        error=ev.ErrorDetails(message="scripted", sqlstate=script.sqlstate) if failed else None,
        row_count=script.row_count if succeeded else None,
        result=script.result if succeeded else None,
    )


def run_started(plan: Plan, at: float) -> ev.RunStarted:
    """Return the event that a simulated run begins with."""
    return ev.RunStarted(
        at=at,
        jobplan="",
        plan=plan.name,
        file=plan.file,
        sha256="",
        host="",
        os_pid=0,
        server="",
        extension="",
        database="",
        user="",
        slots=plan.budget.slots,
        steps=len(plan.steps) + len(plan.finally_),
    )
