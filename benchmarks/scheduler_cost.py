"""What the scheduler itself costs: CPU of decide and apply for each step of large plans, without any server.

    PYTHONPATH=. python benchmarks/scheduler_cost.py [STEPS]

The aim is less than 0.1 ms a step, and the same for ten times as many steps. "idle" is one more decide while
everything waits: what each wake-up of the loop costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from runner.engine import events as ev
from runner.engine.scheduler import Decision, decide
from runner.engine.simulate import AttemptScript, simulate
from runner.engine.state import RunState
from runner.errors import Position
from runner.plan.model import Budget, Need, OnFinish, OnRunnerExit, Plan, Retry, Sql, Step

_SQL = Sql(text="select 1", start=Position(file="", line=1, column=1))


_STEP = Step(id="s0", sql=_SQL, timeout=60.0, on_finish=OnFinish.WAIT, on_runner_exit=OnRunnerExit.CANCEL)


def _step(number: int, **keys: Any) -> Step:  # noqa: ANN401 - whichever keys of a step the shape needs
    return replace(_STEP, id=f"s{number}", **keys)


def _plan(steps: list[Step], slots: int = 8) -> Plan:
    return Plan(name="cost", budget=Budget(slots=slots, pools={"io": 2}), steps=tuple(steps))


def _one_pool(n: int) -> Plan:
    return _plan([_step(i, pools={"io": 1}) for i in range(n)])


def _all_ready(n: int) -> Plan:
    return _plan([_step(i) for i in range(n)], slots=32)


def _chain(n: int) -> Plan:
    return _plan([_step(i, needs=(Need(step=f"s{i - 1}"),) if i else ()) for i in range(n)])


def _fan(n: int) -> Plan:
    middle = [_step(i, needs=(Need(step="s0"),)) for i in range(1, n - 1)]
    last = _step(n - 1, needs=tuple(Need(step=step.id) for step in middle))
    return _plan([_step(0), *middle, last])


def _queue_timeouts(n: int) -> Plan:
    return _plan([_step(i, queue_timeout=1e9) for i in range(n)])


def _retries(n: int) -> Plan:
    return _plan([_step(i, retry=Retry(max_attempts=2, delay=1e6)) for i in range(n)])


def _own_locks(n: int) -> Plan:
    return _plan([_step(i, exclusive=frozenset({f"table{i}"})) for i in range(n)])


def _own_locks_one_pool(n: int) -> Plan:
    """Every step is of a kind of its own, and all of them lack the pool: the worst there is, so a tenth of the size."""
    return _plan([_step(i, exclusive=frozenset({f"table{i}"}), pools={"io": 1}) for i in range(n // 10)])


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


def _measure(plan: Plan) -> tuple[float, float, int]:
    """Return CPU seconds of the run, the longest CPU seconds of an idle decide, and the number of decides."""
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
    return time.process_time() - start, idle, decides


def main() -> None:
    """Print one line for each shape of plan."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"{count} steps; the simulator's own work is included")
    for name, shape in SHAPES.items():
        plan = shape(count)
        steps = len(plan.steps)
        seconds, idle, decides = _measure(plan)
        per_step = f"{seconds / steps * 1e6:7.1f} us a step"
        print(f"{name:26} {per_step}, {decides / steps:4.1f} decides a step, idle {idle * 1e6:5.0f} us")


if __name__ == "__main__":
    main()
