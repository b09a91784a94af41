"""What a person waits for before anything happens: `--help`, and `validate` of a plan of 100 steps."""

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


def measure(bench: Bench) -> Iterator[Figure]:
    """Start the commands in turns with a bare Python."""
    plan = bench.folder / "startup.yaml"
    write_plan(plan, _STEPS)
    sides = {
        "python": partial(_milliseconds, "-c", "pass"),
        "help": partial(_milliseconds, "-m", "runner", "--help"),
        "validate": partial(_milliseconds, "-m", "runner", "validate", str(plan)),
    }
    for side in sides.values():
        side()  # what is on disk is read, and what is compiled is kept
    taken = take_turns(sides, bench.rounds(10))
    yield Figure.median(_NAME, "python -c pass", taken["python"], "ms")
    yield Figure.median(_NAME, "jobplan --help", taken["help"], "ms", below(_HELP))
    yield Figure.median(_NAME, f"jobplan validate, {_STEPS} steps", taken["validate"], "ms", below(_VALIDATE))
    yield Figure.median(_NAME, "--help: times a bare Python", ratios(taken["help"], taken["python"]), "")
    yield Figure.median(_NAME, "validate: times a bare Python", ratios(taken["validate"], taken["python"]), "")


def _milliseconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=shell_environment(), stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000
