"""A backfill in keyset batches (`carry`, `adapt`), against a loop in psql and against batches without a key.

psql's loop has one session, one statement for each batch, and a file of as many statements as there are batches: the
best that can be written by hand. It has batches of the size on which jobplan settles. Both change every row of a table
once, and take turns. The third side looks for the next unfinished rows (`IS NULL LIMIT`) in each batch, and reads those
that are finished again and again. Of this side the first and the last batches are compared, and of jobplan's the rows
per second in the middle and at the end.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.validation import shell_environment

_NAME = "backfill"
_ROWS, _QUICK_ROWS = 5_000_000, 2_000_000
_TARGET = "1s"
#: The side without a key has small batches, as such loops have, and a part of the rows: it would take an hour.
_SMALL, _PART = 5_000, 5
#: How many times as many rows per second as the loop jobplan must change; and its last batches as those in the middle.
_LEAST, _STEADY = 0.95, 0.9
_PLAN = """\
version: 1
name: backfill
budget: {{slots: 1}}
params: {{batch: {{type: integer, default: 5000}}}}
defaults: {{timeout: 10m, on_finish: wait}}
steps:
  - id: fill
    sql: |
      {batch}
    repeat:
      carry: {{last_id: {{type: integer, start: 0}}}}
      until: no_rows
      adapt: {{param: batch, target: {target}, min: 100, max: 1000000}}
"""
_BATCH = (
    "WITH batch AS (UPDATE item SET v = id % 7 WHERE id > {last} AND id <= (SELECT max(id) FROM (SELECT id FROM item "
    "WHERE id > {last} ORDER BY id LIMIT {size}) AS next) RETURNING id) SELECT max(id) AS last_id FROM batch"
)
_WITHOUT_KEY = "UPDATE item SET v = id % 7 WHERE id IN (SELECT id FROM item WHERE v IS NULL LIMIT {size})"


def measure(bench: Bench) -> Iterator[Figure]:
    """Change every row of a fresh table with each side; the sides take turns."""
    rows = _QUICK_ROWS if bench.quick else _ROWS
    plan = bench.folder / "backfill.yaml"
    plan.write_text(_PLAN.format(batch=_BATCH.format(last=":last_id", size=":batch"), target=_TARGET), encoding="utf-8")
    size = 0
    ratios, alone, settled, ours, loops, steady = [], [], [], [], [], []
    for _ in range(bench.rounds(3)):
        _fresh(bench, rows)
        run = _ours(bench, plan)
        size = run.size
        ours.append(rows / run.seconds)
        steady.append(run.at_the_end)
        _fresh(bench, rows)
        loops.append(rows / _psql(bench, [_BATCH.format(last=":last_id", size=size) + " \\gset"], rows // size + 2))
        ratios.append(ours[-1] / loops[-1])
        alone.append(rows / run.of_step / loops[-1])
        settled.append(run.settled / loops[-1])
    yield Figure.median(_NAME, f"{rows:,} rows by carry and adapt", ours, "rows/s")
    yield Figure.median(_NAME, f"the same by a psql loop, batches of {size:,}", loops, "rows/s")
    yield Figure.median(_NAME, "jobplan against the psql loop", ratios, "times as fast", at_least(_LEAST))
    yield Figure.median(_NAME, "the same without the start of jobplan", alone, "times as fast")
    yield Figure.median(_NAME, "batches of that size, with the time between them", settled, "times as fast")
    yield Figure.median(_NAME, "jobplan: last batches against the middle", steady, "times as fast", at_least(_STEADY))
    rows = rows // _PART
    _fresh(bench, rows)
    first, last = _first_and_last(bench, rows)
    slower = f"IS NULL LIMIT, batches of {_SMALL:,} of {rows:,} rows: the last ones against the first"
    yield Figure(benchmark=_NAME, what=slower, value=last / first, unit="times as long")


def _fresh(bench: Bench, rows: int) -> None:
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS item")
        connection.execute("CREATE TABLE item (id bigint PRIMARY KEY, v int, note text) WITH (fillfactor = 50)")
        connection.execute(
            "INSERT INTO item SELECT i, NULL, md5(i::text) FROM generate_series(1, %s::bigint) AS i", [rows]
        )
        connection.execute("VACUUM (ANALYZE) item")
        connection.execute("CHECKPOINT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ours:
    """A run from the shell and its step alone, in seconds; the usual size of its batches, and their speed at the end.

    The speed is that of the last third of the batches, as a multiple of that in the second third. `settled`: the rows
    per second of the batches of the usual size, with the time between them.
    """

    seconds: float
    of_step: float
    size: int
    settled: float
    at_the_end: float


def _ours(bench: Bench, plan: Path) -> _Ours:
    journal = bench.folder / "runs"
    command = [sys.executable, "-m", "runner", "run", str(plan), "--dsn", bench.dsn, "--journal", str(journal)]
    start = time.perf_counter()
    subprocess.run(command, env=shell_environment(), check=True, capture_output=True)
    seconds = time.perf_counter() - start
    latest = max(journal.glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    events = [json.loads(line) for line in latest.read_text(encoding="utf-8").splitlines()]
    _check(bench)
    launches = [event for event in events if event["event"] == "attempt_launching"]
    sizes = [event["values"]["batch"] for event in launches[len(launches) // 2 :] if "batch" in event["values"]]
    (end,) = (event for event in events if event["event"] == "step_finished")
    speeds = [speed for event in events if (speed := _rows_per_second(event)) is not None]
    third = len(speeds) // 3
    return _Ours(
        seconds=seconds,
        of_step=_moment(end["at"]) - _moment(launches[0]["at"]),
        size=statistics.median_low(sizes),
        settled=_settled(events, statistics.median_low(sizes)),
        at_the_end=statistics.median(speeds[2 * third : -1]) / statistics.median(speeds[third : 2 * third]),
    )


def _settled(events: list[dict[str, Any]], size: int) -> float:
    """Return the rows per second from the launch of the first full batch to the end of the last one."""
    launched: dict[int, float] = {}
    rows, end = 0, 0.0
    for event in events:
        if event["event"] == "attempt_launching" and event["values"].get("batch", 0) >= 0.9 * size:
            launched[event["attempt"]] = _moment(event["at"])
        if event["event"] == "attempt_finished" and event.get("row_count", 0) >= 0.9 * size:
            rows += event["row_count"]
            end = _moment(event["at"])
    return rows / (end - min(launched.values()))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _rows_per_second(event: Mapping[str, Any]) -> float | None:
    """Return the speed of a batch that has ended, by the server's clock."""
    if event["event"] != "attempt_finished" or not event.get("row_count"):
        return None
    return float(event["row_count"]) / max(_moment(event["finished_at"]) - _moment(event["started_at"]), 0.001)


def _psql(bench: Bench, batch: list[str], batches: int) -> float:
    """Return the seconds of a psql with so many batches; a batch that returns NULL has no rows left."""
    given = conninfo_to_dict(bench.dsn)
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname", "PGPASSWORD": "password"}
    environment = {name: str(given[key]) for name, key in names.items() if given.get(key) is not None}
    text = "\\set last_id 0\n" + "\n".join(batch * batches) + "\n"
    command = [str(Path(bench.server.bin_dir) / "psql"), "-qX"]
    start = time.perf_counter()
    subprocess.run(command, input=text, text=True, env={**os.environ, **environment}, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    _check(bench)
    return seconds


def _check(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as connection:
        left = connection.execute("SELECT count(*) FROM item WHERE v IS NULL").fetchone()
    if left != (0,):
        raise RuntimeError(f"{left} rows were not changed")


def _first_and_last(bench: Bench, rows: int) -> tuple[float, float]:
    """Return the seconds of the first batches, and of the last ones, that look for unfinished rows; medians of five."""
    took: list[float] = []
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        for _ in range(rows // _SMALL):
            start = time.perf_counter()
            connection.execute(_WITHOUT_KEY.format(size=_SMALL).encode())
            took.append(time.perf_counter() - start)
    return statistics.median(took[:5]), statistics.median(took[-5:])
