"""What a run costs while nothing happens: the runner's CPU, what it asks of the server, and the snapshots it holds.

The CPU is taken in the middle of a run whose steps sleep: starting takes more of it than all the rest, and is never
quite the same. For what it asks, steps that sleep for long are set against the same that sleep for six seconds, so that
starting, connecting, the first looks and ending cancel out. Each is a `jobplan run` in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.bench import Bench
from benchmarks.cpu import own_cpu
from benchmarks.figures import Figure, below
from benchmarks.snapshots import LONGEST, Watcher

_NAME = "idle"
_ROOT = Path(__file__).resolve().parents[1]
_STEPS = 8
_LONG, _SHORT = 22.0, 6.0
#: Seconds after its beginning, and before its end, at which a run is at rest.
_SETTLED = 6.0
#: Percent of one core, statements for each second and step, percent of the looks at which a session has a snapshot:
#: the design's budgets.
_CPU, _STATEMENTS, _HELD = 1.0, 5.0, 5.0
#: How much more CPU the runner may take if it draws on a terminal.
_DRAWN = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What one run took: seconds of its process's CPU, its share of a core at rest, transactions on the server."""

    cpu: float
    at_rest: float | None
    transactions: int


def measure(bench: Bench) -> Iterator[Figure]:
    """Let steps sleep; one round, because it averages over its seconds."""
    with Watcher(bench.server.dsn) as watcher:
        short, long = (_run(bench, seconds) for seconds in (_SHORT, _LONG))
    drawn = _run(bench, _LONG, terminal=True)
    seconds = _LONG - _SHORT
    # each of jobplan's statements is a transaction of its own; the workers' own are the same in both runs
    statements = (long.transactions - short.transactions) / seconds / _STEPS
    if long.at_rest is not None:
        yield _figure(f"{_STEPS} sleeping steps: the runner's CPU", long.at_rest * 100, "% of a core", _CPU)
        if drawn.at_rest is not None:
            what = f"{_STEPS} sleeping steps: the runner's CPU with a live terminal"
            yield _figure(what, drawn.at_rest / long.at_rest, "times that without", _DRAWN)
    yield _figure(f"{_STEPS} sleeping steps: statements a second", statements, "for each step", _STATEMENTS)
    yield _figure(f"{_STEPS} sleeping steps: longest snapshot", watcher.longest * 1000, "ms", LONGEST)
    held = 100 * watcher.held / max(1, watcher.looks)
    yield _figure(f"{_STEPS} sleeping steps: looks at which a session has a snapshot", held, "%", _HELD)
    whole = long.cpu / _LONG * 100
    yield Figure(benchmark=_NAME, what=f"the same with start and end, {_LONG:g} s", value=whole, unit="% of a core")


def _figure(what: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(benchmark=_NAME, what=what, value=value, unit=unit, target=below(limit))


def _run(bench: Bench, seconds: float, *, terminal: bool = False) -> _Cost:
    path = bench.folder / f"sleep_{seconds:g}.yaml"
    path.write_text(_plan(seconds), encoding="utf-8")
    command = [sys.executable, "-m", "runner", "run", str(path), "--dsn", bench.dsn]
    before = _transactions(bench)
    with _output(terminal=terminal) as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(_ROOT), "TERM": "xterm-256color"},
            cwd=bench.folder,
            stdin=output,
            stdout=output,
            stderr=output,
        )
        at_rest = _at_rest(process.pid, seconds)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the run of {path} ended with {process.returncode}")
    return _Cost(cpu=usage.ru_utime + usage.ru_stime, at_rest=at_rest, transactions=_transactions(bench) - before)


@contextlib.contextmanager
def _output(*, terminal: bool) -> Iterator[int]:
    """Open the standard streams of a run: nothing, or a pseudo-terminal that is read."""
    if not terminal:
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            yield nothing
        finally:
            os.close(nothing)
        return
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=_read, args=(ours,))
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _read(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # EIO: no process has the terminal open any more
        while os.read(descriptor, 1 << 16):
            pass


def _at_rest(runner: int, seconds: float) -> float | None:
    """Return the share of a core that a run of so many seconds takes in its middle; None without one, or /proc."""
    middle = seconds - 2 * _SETTLED
    if middle <= 0:
        return None
    time.sleep(_SETTLED)
    before = own_cpu(runner)
    time.sleep(middle)
    after = own_cpu(runner)
    return None if before is None or after is None else (after - before) / middle


def _plan(seconds: float) -> str:
    steps = "".join(f"  - {{id: s{number}, sql: SELECT pg_sleep({seconds:g})}}\n" for number in range(_STEPS))
    head = f"version: 1\nname: sleep\nbudget: {{slots: {_STEPS}}}\ndefaults: {{timeout: 1m, on_finish: wait}}\nsteps:\n"
    return head + steps


def _transactions(bench: Bench) -> int:
    """Count the transactions in the plans' database; from another one, and once the sessions have reported theirs."""
    time.sleep(1.0)
    with psycopg.connect(bench.server.dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
            (psycopg.conninfo.conninfo_to_dict(bench.dsn)["dbname"],),
        ).fetchone()
    return int(row[0]) if row else 0
