"""Plans made by hand, and runs of them whose every event is kept: for tests of what comes after the YAML."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from runner.clock import Clock, MonotonicClock
from runner.engine import events as ev
from runner.engine.ports import Gateway, Sink
from runner.engine.state import RunState
from runner.errors import Position
from runner.identity import WorkerLabel, new_run_id
from runner.plan.model import Budget, Need, OnFinish, OnRunnerExit, Plan, Sql, Step
from runner.run.loop import Run, RunResult
from runner.run.start import Ready, RunContext
from tests.invariants import validate

NOWHERE = Position(file="", line=1, column=1)

AnyEvent = TypeVar("AnyEvent", bound=ev.Event)


def sql(text: str) -> Sql:
    """Return SQL that stands in no file."""
    return Sql(text=text, start=NOWHERE)


def step(key: str, text: str, **keys: Any) -> Step:
    """Return a step that waits, has a minute, and is cancelled when the runner goes; `needs` may be ids.

    `detach=True` makes it one that is not awaited.
    """
    detach = keys.pop("detach", False)
    keys["needs"] = tuple(Need(step=need) if isinstance(need, str) else need for need in keys.get("needs", ()))
    keys.setdefault("timeout", 60.0)
    keys.setdefault("on_finish", OnFinish.DETACH if detach else OnFinish.WAIT)
    keys.setdefault("on_runner_exit", OnRunnerExit.DETACH if detach else OnRunnerExit.CANCEL)
    return Step(id=key, sql=sql(text), **keys)


def plan(*steps: Step, slots: int = 4, reserve: int = 0, **keys: Any) -> Plan:
    """Return a plan of these steps."""
    return Plan(name="test", budget=Budget(slots=slots, reserve=reserve), steps=steps, **keys)


def looked_label(run: str, key: str, **keys: Any) -> WorkerLabel:
    """Return the label of a worker of plan `nightly`, with five minutes."""
    fields: dict[str, Any] = {"plan": "nightly", "attempt": 1, "on_finish": "wait", "timeout": 300.0}
    return WorkerLabel(run=run, step=key, **{**fields, **keys})


class Recorder:
    """A sink that keeps every event, and checks the state after each."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.ticks = 0
        self.flushes = 0
        self.closed = False

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Keep the event."""
        self.events.append(event)
        if len(state.records) < 100:
            validate(state)

    def flush(self) -> None:
        """Count."""
        self.flushes += 1

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Count."""
        self.ticks += 1

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def of(self, kind: type[AnyEvent], key: str | None = None) -> list[AnyEvent]:
        """Return the events of a kind, in order; `key` narrows to one step."""
        return [event for event in self.events if isinstance(event, kind) and (key is None or _key(event) == key)]

    def ends(self, key: str) -> list[ev.AttemptFinished]:
        """Return how the attempts of a step ended."""
        return self.of(ev.AttemptFinished, key)

    def end(self, key: str) -> ev.AttemptFinished:
        """Return how the only attempt of a step ended."""
        (end,) = self.ends(key)
        return end

    def outcomes(self) -> dict[str, ev.Outcome]:
        """Return the last outcome of each step that had an attempt."""
        return {event.step: event.outcome for event in self.of(ev.AttemptFinished)}

    def notices(self, key: str) -> list[ev.Notice]:
        """Return the notices of a step."""
        return [event.notice for event in self.of(ev.AttemptNotice, key)]


def _key(event: ev.Event) -> str | None:
    return event.step if isinstance(event, ev.StepEvent) else None


def new_run(
    of: Plan, gateway: Gateway, *sinks: Sink, run_id: str = "", clock: Clock | None = None, **keys: Any
) -> tuple[Run, Recorder]:
    """Return a run that is ready to be executed, and what keeps its events; `keys` are those of `Ready` and `Run`."""
    recorder = Recorder()
    run_id = run_id or new_run_id(time.time())
    ready = Ready(run_id=run_id, plan=of, **{key: keys.pop(key) for key in Ready.__struct_fields__ if key in keys})
    context = RunContext(run_id=run_id, jobplan="0", host="test", os_pid=1, sha256="0" * 64)
    run = Run(
        ready, gateway=gateway, clock=clock or MonotonicClock(), sinks=[recorder, *sinks], context=context, **keys
    )
    return run, recorder


async def execute(
    of: Plan, gateway: Gateway, *sinks: Sink, run_id: str = "", **keys: Any
) -> tuple[RunResult, Recorder]:
    """Run the plan to its end."""
    run, recorder = new_run(of, gateway, *sinks, run_id=run_id, **keys)
    return await run.execute(), recorder


def counted(prefix: str, number: int) -> Iterator[str]:
    """Yield `number` step ids."""
    return (f"{prefix}{index}" for index in range(number))


def pauses() -> Iterator[float]:
    """Yield the seconds between two looks at something that must happen: a look can cost more than the wait."""
    pause = 0.01
    while True:
        yield pause
        pause = min(0.1, pause * 1.5)
