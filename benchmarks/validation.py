"""What `jobplan validate` takes from the shell: seconds and peak memory, and whether both grow no faster than the plan.

A process of its own for each, because start-up is part of what a person waits for.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, below

_NAME = "validation"
_ROOT = Path(__file__).resolve().parents[1]
_SIZES = (100, 1_000, 10_000)
_SECONDS: dict[int, Target] = {100: below(0.4), 10_000: below(3.0)}
_MEGABYTES: dict[int, Target] = {10_000: below(300.0)}
#: Ten times the steps may take a little more than ten times as long: memory is slower the more of it there is.
_GROWTH = 12.0

_HEAD = """\
version: 1
name: generated
budget: {slots: 8, reserve: 2, pools: {io: 2}}
params:
  days: {type: integer, default: 90}
  schema: {type: identifier, default: public}
defaults: {timeout: 10m, lock_timeout: 5s, on_finish: wait}
steps:
"""
#: Four steps that a maintenance plan may have, over and over: each group works on a table of its own.
_GROUP = """\
  - id: purge_{n}
    description: Delete the rows of table {n} that are past their retention period.
    sql: |
      DELETE FROM :"schema".events_{n} WHERE id IN (
        SELECT id FROM :"schema".events_{n} WHERE at < now() - make_interval(days => :days) LIMIT 10000)
    retry: {{max_attempts: 3, delay: 1s, on: [deadlock_detected]}}
    idempotent: true
  - id: fill_{n}
    needs: [purge_{n}]
    sql: UPDATE orders_{n} SET total = net + tax WHERE total IS NULL AND created_at > '2020-01-01'::date
  - id: vacuum_{n}
    needs: [purge_{n}]
    sql: VACUUM (ANALYZE) events_{n}
    pools: [io]
  - id: report_{n}
    needs: [fill_{n}, vacuum_{n}]
    sql: |
      INSERT INTO report (day, orders)
      SELECT date_trunc('day', o.created_at), count(*) FROM orders_{n} o JOIN customers c ON c.id = o.customer
      WHERE c.active GROUP BY 1 ON CONFLICT (day) DO UPDATE SET orders = excluded.orders
    tags: [nightly]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What one process took: seconds on the clock, seconds of CPU, and megabytes at the peak."""

    wall: float
    cpu: float
    memory: float


def write_plan(path: Path, steps: int) -> None:
    """Write a plan with this many steps, to the next multiple of four."""
    path.write_text(_HEAD + "".join(_GROUP.format(n=number) for number in range((steps + 3) // 4)), encoding="utf-8")


def shell_environment() -> dict[str, str]:
    """Return the environment of a command: this tree, and modules stay compiled as in an installed package."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PYTHONPATH": str(_ROOT)}


def measure(bench: Bench) -> Iterator[Figure]:
    """Validate plans of several sizes; no server is needed."""
    plans = {steps: bench.folder / f"{steps}.yaml" for steps in _SIZES}
    for steps, path in plans.items():
        write_plan(path, steps)
    costs: dict[int, list[_Cost]] = {steps: [] for steps in _SIZES}
    _validate(plans[_SIZES[0]])  # what is compiled is kept
    for _ in range(bench.rounds(7)):
        for steps, path in plans.items():
            costs[steps].append(_validate(path))
    for steps, taken in costs.items():
        what = f"{steps:,} steps"
        walls = [cost.wall for cost in taken]
        memory = [cost.memory for cost in taken]
        yield Figure.median(_NAME, f"{what}: from the shell", walls, "s", _SECONDS.get(steps))
        yield Figure.median(_NAME, f"{what}: CPU", [cost.cpu for cost in taken], "s")
        yield Figure.median(_NAME, f"{what}: peak memory", memory, "MB", _MEGABYTES.get(steps))
    grown = [big.cpu / small.cpu for small, big in zip(costs[1_000], costs[10_000], strict=True)]
    yield Figure.median(_NAME, "CPU of 10,000 steps to that of 1,000", grown, "", below(_GROWTH))


def _validate(path: Path) -> _Cost:
    """Validate a plan in a process of its own. RuntimeError if it has an error."""
    command = [sys.executable, "-m", "runner", "validate", str(path)]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=shell_environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{path} does not validate: exit code {process.returncode}")
    return _Cost(wall=wall, cpu=usage.ru_utime + usage.ru_stime, memory=_megabytes(usage))


def _megabytes(usage: resource.struct_rusage) -> float:
    """Return the peak of a process's memory; Linux counts kilobytes, macOS bytes."""
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)
