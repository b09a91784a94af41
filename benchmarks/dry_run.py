"""What `jobplan dry-run` takes from the shell, for a plan of 200 steps on a server of its own.

Against the same plan with a tenth of the steps: what there is for each step must not grow with the plan.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.bench import Bench
from benchmarks.figures import Figure, below, take_turns
from benchmarks.validation import shell_environment

_NAME = "dry_run"
_SIZES = (20, 200)
#: Seconds that a person waits, for 200 steps of one statement and of two statements each.
_ALONE_LIMIT, _LIMIT = 2.0, 5.0
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS dry_orders (id int PRIMARY KEY, total numeric, at timestamptz);
    CREATE INDEX IF NOT EXISTS dry_orders_at ON dry_orders (at);
    CREATE EXTENSION IF NOT EXISTS pg_background
"""
_HEAD = """\
version: 1
name: looked-at
budget: {slots: 4}
defaults: {timeout: 10m, lock_timeout: 5s, on_finish: wait}
steps:
"""
_VERIFY = "verify: SELECT count(*) > 0 FROM dry_orders, "
_STEP = "  - {{id: s{n}, {keys}sql: UPDATE dry_orders SET total = 1 WHERE id = {n}}}\n"


def measure(bench: Bench) -> Iterator[Figure]:
    """Look at plans of two sizes."""
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute(_SCHEMA)
    plans = {str(steps): _write(bench.folder / f"dry_{steps}.yaml", steps, _VERIFY) for steps in _SIZES}
    plans["alone"] = _write(bench.folder / "dry_alone.yaml", _SIZES[1])
    for path in plans.values():
        _look(path, bench.dsn)  # what is compiled or cached stays so
    taken = take_turns({name: partial(_look, path, bench.dsn) for name, path in plans.items()}, bench.rounds(5))
    small, large = (taken[str(steps)] for steps in _SIZES)
    alone = f"{_SIZES[1]} steps of one statement: from the shell"
    yield Figure.median(_NAME, alone, taken["alone"], "s", below(_ALONE_LIMIT))
    yield Figure.median(_NAME, f"{_SIZES[0]} steps: from the shell", small, "s")
    yield Figure.median(_NAME, f"{_SIZES[1]} steps: from the shell", large, "s", below(_LIMIT))
    each = [(more - less) / (_SIZES[1] - _SIZES[0]) * 1000 for less, more in zip(small, large, strict=True)]
    yield Figure.median(_NAME, "for each further step of two statements", each, "ms")


def _write(path: Path, steps: int, keys: str = "") -> Path:
    lines = (_STEP.format(n=n, keys=keys + (f"needs: [s{n - 1}], " if n % 10 else "")) for n in range(steps))
    path.write_text(_HEAD + "".join(lines), encoding="utf-8")
    return path


def _look(path: Path, dsn: str) -> float:
    """Return the seconds of one dry run. RuntimeError if it finds an error."""
    command = [sys.executable, "-m", "runner", "dry-run", str(path), "--dsn", dsn]
    start = time.perf_counter()
    done = subprocess.run(command, env=shell_environment(), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{path} would not run: exit code {done.returncode}")
    return time.perf_counter() - start
