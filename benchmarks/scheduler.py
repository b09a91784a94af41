"""What the scheduler itself costs: CPU of deciding and applying for each step of large plans, without any server.

The simulator's own work is included. An idle decision is one that finds everything waiting: what each wake-up of the
loop costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, below
from runner.engine import events as ev
from runner.engine.scheduler import Decision, decide
from runner.engine.simulation import AttemptScript, simulate
from runner.engine.state import RunState
from runner.plan.model import Budget, Plan, RetryPolicy, Step

_NAME = "scheduler"
#: Microseconds for each step.
_PER_STEP = below(100.0)


def _step(number: int, **keys: Any) -> Step:  # noqa: ANN401 - the fields of Step that the shape needs
    return plans.step(f"s{number}", "select 1", **keys)


def _plan(steps: list[Step], slots: int = 8) -> Plan:
    return Plan(name="cost", budget=Budget(slots=slots, pools={"io": 2}), steps=tuple(steps))


def _one_pool(n: int) -> Plan:
    return _plan([_step(i, pools={"io": 1}) for i in range(n)])


def _all_ready(n: int) -> Plan:
    return _plan([_step(i) for i in range(n)], slots=32)


def _chain(n: int) -> Plan:
    return _plan([_step(i, needs=[f"s{i - 1}"] if i else []) for i in range(n)])


def _fan(n: int) -> Plan:
    middle = [_step(i, needs=["s0"]) for i in range(1, n - 1)]
    last = _step(n - 1, needs=[step.id for step in middle])
    return _plan([_step(0), *middle, last])


def _queue_timeouts(n: int) -> Plan:
    return _plan([_step(i, queue_timeout=1e9) for i in range(n)])


def _retries(n: int) -> Plan:
    return _plan([_step(i, retry=RetryPolicy(max_attempts=2, delay=1e6)) for i in range(n)])


def _own_locks(n: int) -> Plan:
    return _plan([_step(i, exclusive=frozenset({f"table{i}"})) for i in range(n)])


def _own_locks_one_pool(n: int) -> Plan:
    """Every step is of a kind of its own, and all of them lack the pool."""
    return _plan([_step(i, exclusive=frozenset({f"table{i}"}), pools={"io": 1}) for i in range(n)])


def _mixed_widths(n: int) -> Plan:
    return _plan([_step(i, slots=1 + i % 5, priority=i % 3) for i in range(n)])


SHAPES: dict[str, Callable[[int], Plan]] = {
    "all in one full pool": _one_pool,
    "all ready, 32 slots": _all_ready,
    "chain": _chain,
    "fan-out and fan-in": _fan,
    "mixed widths": _mixed_widths,
    "queue timeouts": _queue_timeouts,
    "all retried": _retries,
    "an exclusive name each": _own_locks,
    "the same in a full pool": _own_locks_one_pool,
}


def measure(bench: Bench) -> Iterator[Figure]:
    """Simulate each shape of plan in two sizes; no server is needed."""
    count = 1_000 if bench.quick else 10_000
    growths, idles = [], []
    for name, shape in SHAPES.items():
        small, _ = _cost(shape(count // 10))
        large, idle = _cost(shape(count))
        growths.append(large / small)
        idles.append(idle)
        yield Figure(benchmark=_NAME, what=f"{count:,} steps, {name}", value=large, unit="us/step", target=_PER_STEP)
    growth = "the same against a tenth of the steps: at worst times"
    yield Figure(benchmark=_NAME, what=growth, value=max(growths), unit="", samples=tuple(growths))
    yield Figure(benchmark=_NAME, what="longest idle decision", value=max(idles), unit="us", samples=tuple(idles))


def _cost(plan: Plan) -> tuple[float, float]:
    """Return microseconds of CPU: of the run for each step, and of the longest idle decision."""
    decides, idle = 0, 0.0

    def script(step: Step, attempt: int) -> AttemptScript:
        again = step.retry.max_attempts > attempt
        return AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED if again else ev.Outcome.SUCCEEDED)

    def watch(state: RunState, what: ev.Event | Decision) -> None:
        nonlocal decides, idle
        if isinstance(what, Decision):
            decides += 1
            if what.wake_at is not None and decides % 100 == 0:
                start = time.process_time()
                decide(state, 0.0)
                idle = max(idle, time.process_time() - start)

    start = time.process_time()
    simulate(plan, durations=script, watch=watch)
    return (time.process_time() - start) / len(plan.steps) * 1e6, idle * 1e6
