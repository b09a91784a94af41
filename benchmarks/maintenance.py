"""Whole tables, one step each, against the tools that a DBA has for that: reindexdb, vacuumdb, and a loop by hand.

All sides are processes and take turns, so each one's start counts. What jobplan adds to the tools is a worker for each
table, a record, a timeout that survives the client. On small tables the start of the worker's process is most of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.bench import Bench
from benchmarks.figures import Figure, below, ratios, take_turns
from benchmarks.validation import shell_environment

_NAME = "maintenance"
_SLOTS = (1, 2, 4)
_SMALLEST, _LARGEST = 2_000, 38_000
#: Large tables, their rows, and how often an index's expression hashes: a second or more for each table.
_LARGE, _ROWS, _HASHES = 8, 60_000, 100
#: Milliseconds for which a VACUUM of a large table sleeps at each of its stops, as it does beside an application.
_VACUUM_DELAY = 30
#: How many times as long as the other side jobplan may take.
_REINDEX, _VACUUM, _IN_CHUNK, _BY_HAND, _OF_LARGE = 1.5, 2.2, 1.4, 1.1, 1.05
#: How many small tables one worker gets, in one of the comparisons.
_CHUNK = 10

#: What takes turns, by name: each gives its seconds.
_Sides = dict[str, Callable[[], float]]

_SMALL_TABLE = """
CREATE TABLE small_{n} AS SELECT i AS id, md5(i::text) AS note FROM generate_series(1, {rows}) AS i;
CREATE INDEX small_{n}_id ON small_{n} (id);
CREATE INDEX small_{n}_note ON small_{n} (note)"""
_SLOW = f"""
CREATE OR REPLACE FUNCTION public.slow(i int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE hash text := i::text;
BEGIN
  FOR k IN 1..{_HASHES} LOOP hash := md5(hash); END LOOP;
  RETURN hash;
END $$"""
_LARGE_TABLE = """
CREATE TABLE large_{n} AS SELECT i AS id, repeat(md5(i::text), 12) AS note FROM generate_series(1, {rows}) AS i;
CREATE INDEX large_{n}_slow ON large_{n} (public.slow(id))"""

#: Largest first, as vacuumdb sorts them.
_IN_CHUNKS = f"""\
  - id: vacuum
    for_each: {{{{items: [{{items}}], as: t, chunk: {_CHUNK}}}}}
    sql: VACUUM (ANALYZE) :"t"
"""


def measure(bench: Bench) -> Iterator[Figure]:
    """Reindex and vacuum tables of two sizes; what is measured changes nothing that the next round would see."""
    small = [f"small_{n}" for n in range(60 if bench.quick else 200)]
    large = [f"large_{n}" for n in range(4 if bench.quick else _LARGE)]
    _create(bench, len(small), len(large))
    for slots in _SLOTS:
        ours = _Plan(bench, f"reindex_small_{slots}", slots, [f"REINDEX TABLE CONCURRENTLY {name}" for name in small])
        sides: _Sides = {
            "tool": partial(_tool, bench, "reindexdb", ["--concurrently"], slots, small),
            "jobplan": ours.seconds,
        }
        what = f"REINDEX CONCURRENTLY of {len(small)} small tables, {slots} slot{'s' if slots > 1 else ''}"
        yield from _against(bench, what, sides, {"tool": ("reindexdb", _REINDEX)})
    statements = [f"VACUUM (ANALYZE) {name}" for name in small]
    ours = _Plan(bench, "vacuum_small", 4, statements)
    sides = {
        "tool": partial(_tool, bench, "vacuumdb", ["--analyze"], 4, small),
        "loop": partial(_loop, bench, 4, statements),
        "jobplan": ours.seconds,
    }
    what = f"VACUUM (ANALYZE) of {len(small)} small tables, 4 slots"
    yield from _against(bench, what, sides, {"tool": ("vacuumdb", _VACUUM), "loop": ("a loop by hand", _BY_HAND)})
    ours = _Plan(bench, "vacuum_chunks", 4, [_IN_CHUNKS.format(items=", ".join(reversed(small)))], written=True)
    vacuumdb = partial(_tool, bench, "vacuumdb", ["--analyze"], 4, small)
    what = f"VACUUM (ANALYZE) of {len(small)} small tables in chunks of {_CHUNK}, 4 slots"
    yield from _against(bench, what, {"tool": vacuumdb, "jobplan": ours.seconds}, {"tool": ("vacuumdb", _IN_CHUNK)})
    ours = _Plan(bench, "reindex_large", 2, [f"REINDEX TABLE CONCURRENTLY {name}" for name in large])
    sides = {"tool": partial(_tool, bench, "reindexdb", ["--concurrently"], 2, large), "jobplan": ours.seconds}
    what = f"REINDEX CONCURRENTLY of {len(large)} large tables, 2 slots"
    yield from _against(bench, what, sides, {"tool": ("reindexdb", _OF_LARGE)})
    settings = f"{{vacuum_cost_delay: {_VACUUM_DELAY}ms, vacuum_cost_limit: '200'}}"
    statements = [f"VACUUM (ANALYZE, DISABLE_PAGE_SKIPPING) {name}" for name in large]
    ours = _Plan(bench, "vacuum_large", 2, statements, settings=settings)
    options = f"-c vacuum_cost_delay={_VACUUM_DELAY}ms -c vacuum_cost_limit=200"
    vacuumdb = partial(_tool, bench, "vacuumdb", ["--analyze", "--disable-page-skipping"], 2, large, settings=options)
    what = f"VACUUM (ANALYZE) of {len(large)} large tables, 2 slots"
    yield from _against(bench, what, {"tool": vacuumdb, "jobplan": ours.seconds}, {"tool": ("vacuumdb", _OF_LARGE)})


def _create(bench: Bench, small: int, large: int) -> None:
    """Create the tables, two at a time."""
    rows = [_SMALLEST + (_LARGEST - _SMALLEST) * n // max(1, small - 1) for n in range(small)]
    texts = [_SMALL_TABLE.format(n=n, rows=count) for n, count in enumerate(rows)]
    texts += [_LARGE_TABLE.format(n=n, rows=_ROWS) for n in range(large)]
    names = [f"{kind}_{n}" for kind, count in (("small", small), ("large", large)) for n in range(count)]
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_background")
        connection.execute(_SLOW.encode())

    def create(text: str, name: str) -> None:
        with psycopg.connect(bench.dsn, autocommit=True) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {name}".encode())
            connection.execute(text.encode())
            connection.execute(f"VACUUM (ANALYZE) {name}".encode())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(create, texts, names))


def _against(bench: Bench, what: str, sides: _Sides, targets: dict[str, tuple[str, float]]) -> Iterator[Figure]:
    """Have the sides take turns; a ratio with its target for each of the others, and what each side took."""
    for side in sides.values():
        side()  # what is read from disk, and compiled, is there from now on
    taken = take_turns(sides, bench.rounds(5))
    for name, (called, limit) in targets.items():
        yield Figure.median(_NAME, f"{what}: times {called}", ratios(taken["jobplan"], taken[name]), "", below(limit))
    yield Figure.median(_NAME, f"{what}: jobplan", taken["jobplan"], "s")
    for name, (called, _) in targets.items():
        yield Figure.median(_NAME, f"{what}: {called}", taken[name], "s")


class _Plan:
    """A plan with one step for each statement, or with steps that are `written` as YAML, and a `jobplan run` of it."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        slots: int,
        statements: Sequence[str],
        *,
        settings: str | None = None,
        written: bool = False,
    ) -> None:
        keys = "" if settings is None else f", settings: {settings}"
        made = [f'  - {{id: s{n}, sql: "{sql}"{keys}}}' for n, sql in enumerate(statements)]
        steps = statements if written else made
        head = (
            f"version: 1\nname: {name}\nbudget: {{slots: {slots}}}\ndefaults: {{timeout: 10m, on_finish: wait}}\nsteps:"
        )
        self._path = bench.folder / f"{name}.yaml"
        self._path.write_text("\n".join([head, *steps, ""]), encoding="utf-8")
        self._bench = bench

    def seconds(self) -> float:
        """Return what one run takes from the shell. RuntimeError unless all succeeds."""
        journal = self._bench.folder / "runs"
        command = [sys.executable, "-m", "runner", "run", str(self._path), "--dsn", self._bench.dsn]
        return _time([*command, "--journal", str(journal)], shell_environment())


def _tool(
    bench: Bench, program: str, options: Sequence[str], jobs: int, tables: Sequence[str], *, settings: str = ""
) -> float:
    """Return what a program of PostgreSQL takes for these tables."""
    given = conninfo_to_dict(bench.dsn)
    variables = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname", "PGPASSWORD": "password"}
    environment = {name: str(given[key]) for name, key in variables.items() if given.get(key) is not None}
    names = [word for table in tables for word in ("--table", table)]
    command = [str(Path(bench.server.bin_dir) / program), *options, f"--jobs={jobs}", *names]
    return _time(command, {**os.environ, **environment, "PGOPTIONS": settings})


def _loop(bench: Bench, sessions: int, statements: Sequence[str]) -> float:
    """Return what the loop by hand takes."""
    command = [sys.executable, "-m", "benchmarks.hand_loop", bench.dsn, str(sessions)]
    return _time(command, shell_environment(), stdin="\n".join(statements))


def _time(command: Sequence[str], environment: dict[str, str], stdin: str = "") -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds
