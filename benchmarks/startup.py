"""How long a command takes to start: `--help`, `validate` of a plan of 100 steps, `run` of a plan of one step."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Figure, below, ratios, take_turns
from benchmarks.validation import shell_environment, write_plan

_NAME = "startup"
_STEPS = 100
#: Milliseconds.
_HELP, _VALIDATE = 150.0, 400.0
_ONE_STEP = """\
version: 1
name: startup
budget: {slots: 1}
steps:
  - {id: only, sql: SELECT 1, timeout: 1m, on_finish: wait}
"""


def measure(bench: Bench) -> Iterator[Figure]:
    """Start the commands in turns with a bare Python."""
    plan = bench.folder / "startup.yaml"
    write_plan(plan, _STEPS)
    one = bench.folder / "one.yaml"
    one.write_text(_ONE_STEP, encoding="utf-8")
    run = ("run", str(one), "--dsn", bench.dsn, "--journal", str(bench.folder / "startup-runs"), "--no-ledger")
    sides = {
        "python": partial(_milliseconds, "-c", "pass"),
        "help": partial(_milliseconds, "-m", "runner", "--help"),
        "validate": partial(_milliseconds, "-m", "runner", "validate", str(plan)),
        "run": partial(_milliseconds, "-m", "runner", *run),
    }
    for side in sides.values():
        side()  # what is on disk is read, and what is compiled is kept
    taken = take_turns(sides, bench.rounds(10))
    yield Figure.median(_NAME, "python -c pass", taken["python"], "ms")
    yield Figure.median(_NAME, "jobplan --help", taken["help"], "ms", below(_HELP))
    yield Figure.median(_NAME, f"jobplan validate, {_STEPS} steps", taken["validate"], "ms", below(_VALIDATE))
    yield Figure.median(_NAME, "jobplan run, one step", taken["run"], "ms")
    yield Figure.median(_NAME, "--help: times a bare Python", ratios(taken["help"], taken["python"]), "")
    yield Figure.median(_NAME, "validate: times a bare Python", ratios(taken["validate"], taken["python"]), "")
    yield Figure.median(_NAME, "run: times a bare Python", ratios(taken["run"], taken["python"]), "")


def _milliseconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=shell_environment(), capture_output=True, check=True)
    return (time.perf_counter() - start) * 1000
