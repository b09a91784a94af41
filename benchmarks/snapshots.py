"""How long jobplan's own sessions hold a snapshot: CREATE INDEX CONCURRENTLY waits for it, and VACUUM cleans less.

A process of its own looks at pg_stat_activity every 10 ms, so a snapshot may have been held for so much longer than
what is reported.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, below
from runner.plan.model import Plan

#: Milliseconds: a launch and the slice of 12 that is part of it.
LONGEST = 20.0

_NAME = "snapshots"
_ROOT = Path(__file__).resolve().parents[1]
_EVERY = 0.01
_AGES = """
SELECT extract(epoch FROM clock_timestamp() - xact_start) FROM pg_stat_activity
WHERE starts_with(application_name, 'jobplan:') AND application_name LIKE '%:runner' AND backend_xmin IS NOT NULL"""
_ROWS = 300_000
_TABLE = f"""
CREATE TABLE orders AS
SELECT i AS id, i % 1000 AS customer, md5(i::text) AS note FROM generate_series(1, {_ROWS}) AS i"""


class Watcher:
    """Watches jobplan's sessions from another process; what it has seen is there after the end of the context.

    `longest` is in seconds; `held` counts the looks at which a session had a snapshot.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.longest = 0.0
        self.looks = self.held = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.snapshots", self._dsn]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        if self._process.stdout is not None:
            self._process.stdout.readline()  # it is looking now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said, _ = self._process.communicate()
        found = json.loads(said)
        self.longest, self.looks, self.held = found["longest"], found["looks"], found["held"]


def measure(bench: Bench) -> Iterator[Figure]:
    """Run a plan of what maintenance does, with indexes built concurrently beside updates."""
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS orders")
        connection.execute(_TABLE.encode())
    with Watcher(bench.server.dsn) as watcher:
        cost = plans.run(_maintenance(), bench.dsn)
    yield _figure("mixed run with CONCURRENTLY: longest", watcher.longest, below(LONGEST))
    yield Figure(benchmark=_NAME, what="looks at the server", value=watcher.looks, unit="")
    yield Figure(benchmark=_NAME, what="the mixed run", value=cost.wall, unit="s")
    with Watcher(bench.server.dsn) as watcher:
        plans.run(_flood(), bench.dsn)
    yield _figure("messages beyond output_buffer for 2 s: longest", watcher.longest)


def _figure(what: str, seconds: float, target: Target | None = None) -> Figure:
    return Figure(benchmark=_NAME, what=what, value=seconds * 1000, unit="ms", target=target)


def _maintenance() -> Plan:
    update = "UPDATE orders SET note = upper(note) WHERE id % 10 = {}"
    steps = [
        plans.step("index_customer", "CREATE INDEX CONCURRENTLY orders_customer ON orders (customer)"),
        plans.step("sleep", "SELECT pg_sleep(4)"),
        *(plans.step(f"update_{number}", update.format(number)) for number in range(4)),
        plans.step("vacuum", "VACUUM orders", needs=["index_customer"]),
        plans.step("index_note", "CREATE INDEX CONCURRENTLY orders_note ON orders (note)", needs=["vacuum"]),
        plans.step("reindex", "REINDEX INDEX CONCURRENTLY orders_customer", needs=["index_note"]),
        *(plans.step(f"quick_{number}", "SELECT 1", needs=["vacuum"]) for number in range(100)),
        plans.step("analyze", "ANALYZE orders", needs=["reindex"]),
    ]
    return plans.plan(steps, slots=4)


def _flood() -> Plan:
    """Make a plan of a step whose messages have to be read while it runs: the one snapshot that may be held longer."""
    loud = """DO $$ BEGIN
  FOR i IN 1..1000 LOOP RAISE NOTICE '%', repeat('x', 200); END LOOP;
  PERFORM pg_sleep(2);
END $$"""
    return plans.plan([plans.step("loud", loud)], slots=1)


def _watch(dsn: str) -> None:
    """Look until the other end closes stdin, then say what was seen."""
    longest, looks, held = 0.0, 0, 0
    with psycopg.connect(dsn, autocommit=True, application_name="benchmark") as connection:
        print(flush=True)
        while not select.select([sys.stdin], [], [], _EVERY)[0]:
            ages = [float(age) for (age,) in connection.execute(_AGES)]
            longest = max(longest, *ages, 0.0)
            looks += 1
            held += bool(ages)
    print(json.dumps({"longest": longest, "looks": looks, "held": held}))


if __name__ == "__main__":
    _watch(sys.argv[1])
