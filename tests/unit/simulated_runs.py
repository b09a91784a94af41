"""Small plans, runs of them on a simulated server, and their ends: helpers of the table tests of the scheduler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from runner.engine import events as ev
from runner.engine.simulation import AttemptScript, CheckScript, Simulation, simulate
from runner.errors import Position
from runner.plan.model import Budget, Need, OnFinish, OnRunnerExit, Plan, Sql, Step
from runner.structs import replace
from tests.invariants import validate

SQL = Sql(text="select 1", start=Position(file="", line=1, column=1))
#: What a group has instead of SQL.
NOWHERE_SQL = Sql(text="", start=SQL.start)
STEP = Step(id="a", sql=SQL, timeout=60.0, on_finish=OnFinish.WAIT, on_runner_exit=OnRunnerExit.CANCEL)
IDLE: Mapping[str, Any] = {"on_finish": OnFinish.DETACH, "on_runner_exit": OnRunnerExit.DETACH}

#: The results of a step's checks, one after the other; the last one is used again.
Verdicts = Sequence[ev.Verdict | CheckScript]


def step(key: str, *needs: str | Need, **keys: Any) -> Step:
    """Return a step of the table's usual kind, but for `keys`."""
    found = tuple(need if isinstance(need, Need) else Need(step=need) for need in needs)
    return replace(STEP, id=key, needs=found, **keys)


def plan(*steps: Step, slots: int = 4, pools: Mapping[str, int] | None = None, **keys: Any) -> Plan:
    """Return a plan of these steps."""
    return Plan(name="table", budget=Budget(slots=slots, pools=pools or {}), steps=steps, **keys)


def simulated(
    a_plan: Plan,
    scripts: Mapping[str, Sequence[AttemptScript]] | None = None,
    verdicts: Mapping[str, Verdicts] | None = None,
    **keys: Any,
) -> Simulation:
    """Run the plan; the last script of a step is used again, and a step without one takes a second and succeeds."""
    asked: dict[str, int] = defaultdict(int)

    def attempt(of: Step, number: int) -> AttemptScript:
        known = (scripts or {}).get(of.id, [AttemptScript(duration=1.0)])
        return known[min(number, len(known)) - 1]

    def check(of: Step, _: ev.CheckPhase, __: int) -> CheckScript:
        known = (verdicts or {}).get(of.id, [ev.Verdict.PROCEED])
        asked[of.id] += 1
        said = known[min(asked[of.id], len(known)) - 1]
        return said if isinstance(said, CheckScript) else CheckScript(verdict=said)

    keys = {"watch": lambda state, _: validate(state), **keys}
    return simulate(a_plan, durations=attempt, checks=check, **keys)


def script(outcome: ev.Outcome, sqlstate: str | None = None, **keys: Any) -> AttemptScript:
    """Return a script of a second, but for `keys`."""
    return AttemptScript(**{"duration": 1.0, "outcome": outcome, "sqlstate": sqlstate, **keys})


def item_rows(*items: str | None, **keys: Any) -> CheckScript:
    """Return a query of items with one column."""
    return CheckScript(rows=ev.Rows(columns=("c",), rows=tuple((item,) for item in items)), **keys)


def ends(run: Simulation) -> dict[str, str]:
    """Return the last state of every step and instance."""
    return {key: str(record.state) for key, record in run.state.records.items()}


def code(run: Simulation) -> int:
    """Return the run's exit code."""
    last = run.events[-1]
    assert isinstance(last, ev.RunFinished)
    return last.exit_code


def launches(run: Simulation, key: str) -> list[float]:
    """Return when the step's attempts were launched."""
    return [event.at for event in run.events if isinstance(event, ev.AttemptLaunching) and event.step == key]


def message(run: Simulation, key: str) -> str | None:
    """Return the message of the step's last end."""
    ended = [event for event in run.events if isinstance(event, ev.StepFinished) and event.step == key]
    error = ended[-1].error if ended else None
    return error.message if error else None
