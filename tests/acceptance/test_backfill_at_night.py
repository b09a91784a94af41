"""A backfill that is left alone for two nights: killed twice, held twice, stopped by its window, and finished.

The test has 50,000 rows, in batches that take as long as a pause for each row says. By hand it is larger, without the
pause, and prints what it measured:

    JOBPLAN_TEST_ROWS=5000000 pytest -n 0 -s tests/acceptance/test_backfill_at_night.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, Started, until

ROWS = int(os.environ.get("JOBPLAN_TEST_ROWS", "50000"))
IS_LARGE = ROWS > 500_000
#: Seconds that a batch should take, and the pause for each of its rows, which a small table needs to last for a while.
TARGET = 1.0 if IS_LARGE else 0.3
PACE = 0.0 if IS_LARGE else 0.0003
#: Seconds after which a stage of the backfill has failed.
LONG = 500.0 if IS_LARGE else 60.0
#: How long the window of the first night stays open after the second kill; longer if the runner starts too slowly.
OPEN_FOR = (4.0, 8.0, 16.0) if IS_LARGE else (5.0, 10.0, 20.0)
#: Looks of the second process during which nothing may begin.
LOOKS = 50
TABLES = f"""
    CREATE TABLE item (id bigint PRIMARY KEY, filled int NOT NULL DEFAULT 0, word text) WITH (fillfactor = 50);
    INSERT INTO item SELECT n, 0, md5(n::text) FROM generate_series(1, {ROWS}) AS n;
    CREATE TABLE switch AS SELECT false AS held;
    CREATE TABLE batch_log (first bigint, last bigint, size int, worker_began timestamptz)
"""
STEPS = f"""
    - id: fill
      sql: |
        SELECT pg_sleep(:batch * {PACE});
        WITH batch AS (
          UPDATE item SET filled = filled + 1
          WHERE id > :last_id AND id <= (
            SELECT max(id) FROM (SELECT id FROM item WHERE id > :last_id ORDER BY id LIMIT :batch) AS next)
          RETURNING id
        ), noted AS (
          INSERT INTO batch_log
          SELECT min(id), max(id), count(*), (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
          FROM batch HAVING count(*) > 0)
        SELECT max(id) AS last_id FROM batch
      timeout: 5m
      repeat:
        carry: {{last_id: {{type: integer, start: 0}}}}
        until: no_rows
        adapt: {{param: batch, target: {TARGET}s, min: 10, max: 1000000}}
"""
HOLDS = "[{name: switch, while: SELECT held FROM switch, every: 200ms, release_after: 300ms}]"
#: Seconds by which a worker begins after the close at most that was requested before it.
LATE = 2.0
DONE = "SELECT coalesce(max(last), 0) FROM batch_log"
#: The time, and the workers with their start and their attempt, as the server shows them.
WORKERS = """
    SELECT extract(epoch FROM clock_timestamp())::float8,
      coalesce(json_agg(json_build_array(extract(epoch FROM backend_start)::float8,
        (substring(query FROM '^/[*] jobplan ([{][^*]*[}]) [*]/')::json ->> 'attempt')::int))
        FILTER (WHERE backend_type = 'pg_background'), '[]')
    FROM pg_stat_activity WHERE datname = current_database()
"""


def look_on(dsn: str, path: str) -> None:
    """Write what the server shows, many times a second, until the process is ended. This is the second process."""
    parent = os.getppid()
    with Path(path).open("w", encoding="utf-8", buffering=1) as file, psycopg.connect(dsn, autocommit=True) as server:
        while os.getppid() == parent:
            ((at, workers),) = server.execute(WORKERS).fetchall()
            file.write(json.dumps({"at": at, "workers": workers}) + "\n")
            time.sleep(0.01)


@dataclass
class Looks:
    """What the second process has seen, and the spans of time in which nothing may have begun."""

    path: Path
    quiet: list[tuple[float, float]] = field(default_factory=list)

    def all(self) -> list[dict[str, Any]]:
        """Read every look so far."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def watch_quiet(self, db: Database) -> None:
        """Wait while the second process looks many times; nothing may begin meanwhile."""
        begin, seen = now(db), len(self.all())
        until(lambda: len(self.all()) >= seen + LOOKS, LONG)
        self.quiet.append((begin, now(db)))

    def workers(self) -> dict[float, int | None]:
        """Return the attempt of each worker by its start; None if its text was never seen."""
        found: dict[float, int | None] = {}
        for began, attempt in itertools.chain.from_iterable(look["workers"] for look in self.all()):
            found[began] = attempt if attempt is not None else found.get(began)
        return found


@contextlib.contextmanager
def second_process(dsn: str, path: Path) -> Iterator[Looks]:
    """Have another process look at the server."""
    process = multiprocessing.get_context("spawn").Process(target=look_on, args=(dsn, str(path)), daemon=True)
    process.start()
    try:
        looks = Looks(path)
        until(lambda: bool(looks.all()), 60)
        yield looks
        assert process.is_alive()
    finally:
        process.kill()
        process.join()


def now(db: Database) -> float:
    """Return the time by the server's clock."""
    return float(db.value("SELECT extract(epoch FROM clock_timestamp())"))


def events(jobplan: Jobplan) -> list[dict[str, Any]]:
    """Read the journal, as far as it was written."""
    path = jobplan.folder / ".jobplan" / "runs" / "night" / "events.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def begin_or_resume(jobplan: Jobplan, db: Database, closes_in: float) -> tuple[Started, float]:
    """Start the one command of both nights, with a window that closes in so many seconds; return when that is."""
    begin, close = (datetime.fromtimestamp(now(db) + seconds, UTC) for seconds in (-3600, closes_in))
    close = close.replace(microsecond=0) + timedelta(seconds=1)
    plan = jobplan.plan(
        STEPS,
        params="{batch: {type: integer, default: 50}}",
        holds=HOLDS,
        window=f'{{timezone: UTC, from: "{begin:%H:%M:%S}", to: "{close:%H:%M:%S}"}}',
    )
    command = ("run", plan, "--dsn", db.dsn, "--run-id", "night", "--or-resume", "--allow-changed", "--require-ledger")
    return jobplan.start(*command), close.timestamp()


def hold_for_a_while(jobplan: Jobplan, db: Database, looks: Looks) -> None:
    """Switch the hold on, wait until the run has noticed and its batch has ended, and off again after a while."""

    def count(name: str) -> int:
        return sum(event["event"] == name for event in events(jobplan))

    began, ended = count("hold_began"), count("hold_ended")
    db.run("UPDATE switch SET held = true")
    until(lambda: count("hold_began") > began, LONG)
    until(lambda: db.workers() == [], LONG)
    looks.watch_quiet(db)
    db.run("UPDATE switch SET held = false")
    until(lambda: count("hold_ended") > ended, LONG)


def kill_at(started: Started, db: Database, rows: float) -> None:
    """Kill the runner when so many rows are done."""
    until(lambda: db.value(DONE) >= rows or not started.alive, LONG)
    started.send(signal.SIGKILL)
    assert started.ended().code == -signal.SIGKILL


def until_closed(jobplan: Jobplan, db: Database, looks: Looks) -> float:
    """Resume the run with a window that closes while it works; return when it has closed."""
    for seconds in OPEN_FOR:
        before = db.value(DONE)
        started, closes = begin_or_resume(jobplan, db, seconds)
        stopped = started.ended(LONG)
        assert stopped.code == 8, stopped.err
        assert now(db) >= closes
        looks.watch_quiet(db)
        if db.value(DONE) > before:  # else the runner began too late
            assert "not finished: the window closed" in stopped.err
            return closes
    raise AssertionError("nothing was done while the window was open")


@pytest.mark.slow
def test_a_backfill_is_killed_held_and_stopped_by_its_window_and_changes_every_row_once(
    jobplan: Jobplan, db: Database, tmp_path: Path
) -> None:
    db.run(TABLES)
    db.run("VACUUM (ANALYZE) item")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    with second_process(db.dsn, tmp_path / "looks.jsonl") as looks:
        begun = now(db)
        started, _ = begin_or_resume(jobplan, db, 3600)
        until(lambda: db.value(DONE) >= ROWS * 0.05, LONG)
        hold_for_a_while(jobplan, db, looks)
        kill_at(started, db, ROWS * 0.15)
        started, _ = begin_or_resume(jobplan, db, 3600)
        kill_at(started, db, ROWS * 0.3)
        closes = until_closed(jobplan, db, looks)
        assert ROWS * 0.3 <= db.value(DONE) < ROWS
        next_night = now(db)
        started, _ = begin_or_resume(jobplan, db, 3600)
        until(lambda: db.value(DONE) >= ROWS * 0.8, LONG)
        hold_for_a_while(jobplan, db, looks)
        ran = started.ended(LONG)
        ended = now(db)
        assert ran.code == 0, ran.err

    check_rows(db)
    journal = events(jobplan)
    check_events(journal)
    check_workers(db, journal, looks, closes=closes, next_night=next_night)
    check_batches(journal)
    if IS_LARGE:
        print_numbers(journal, ended - begun)


def check_rows(db: Database) -> None:
    """Each row was changed once, and each batch begins after the one before it."""
    assert db.value("SELECT count(*) FROM item WHERE filled <> 1") == 0
    assert db.value("SELECT sum(size) FROM batch_log") == ROWS
    gaps = (
        "SELECT count(*) FROM (SELECT first - lag(last, 1, 0::bigint) OVER (ORDER BY first) AS d FROM batch_log) AS x"
    )
    assert db.value(f"{gaps} WHERE d <> 1") == 0


def check_events(journal: list[dict[str, Any]]) -> None:
    """Nothing is launched while held, before the first measurement, or between the close and the next opening."""
    assert sum(event["event"] == "run_resumed" for event in journal) >= 3
    assert sum(event["event"] == "window_closed" for event in journal) >= 1
    assert sum(event["event"] == "hold_ended" for event in journal) >= 2
    may_start = {"hold": False, "window": False}
    for event in journal:
        match event["event"]:
            case "run_started" | "run_resumed":
                may_start = {"hold": False, "window": False}
            case "hold_measured" | "hold_ended":
                may_start["hold"] = True
            case "hold_began":
                may_start["hold"] = False
            case "window_opened":
                may_start["window"] = True
            case "window_closed":
                may_start["window"] = False
            case "attempt_launching":
                assert all(may_start.values()), event


def check_workers(
    db: Database, journal: list[dict[str, Any]], looks: Looks, *, closes: float, next_night: float
) -> None:
    """No worker began in a quiet span, by the server's clock: as the second process, and as the batches, saw it."""
    noted = db.column("SELECT extract(epoch FROM worker_began)::float8 FROM batch_log")
    seen = looks.workers()
    assert len(looks.quiet) >= 3
    for begin, end in (*looks.quiet, (closes + LATE, next_night)):
        assert [began for began in (*noted, *seen) if begin <= began <= end] == []
    # what the second process saw are workers that the journal announced, and it has seen most of them
    announced = {event["attempt"] for event in journal if event["event"] == "attempt_launching"}
    attempts = {attempt for attempt in seen.values() if attempt is not None}
    assert attempts <= announced
    assert len(attempts) > len(announced) / 2


def batches_of(journal: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return the rows of each batch, and what it took by the server's clock, as far as a runner has seen that."""
    ends = [event for event in journal if event["event"] == "attempt_finished" and event.get("row_count")]
    return [(end["row_count"], _seconds(end)) for end in ends if end.get("started_at") and end.get("finished_at")]


def _seconds(end: dict[str, Any]) -> float:
    start, finish = (datetime.fromisoformat(end[name]) for name in ("started_at", "finished_at"))
    return max((finish - start).total_seconds(), 0.001)


def check_batches(journal: list[dict[str, Any]]) -> None:
    """Batches settle near the target, however fast the machine is; the batch after a hold is half as large."""
    changes = [event for event in journal if event["event"] == "step_adapted"]
    assert {"duration", "hold"} <= {change["because"] for change in changes}
    assert all(change["before"] / 2 <= change["value"] <= change["before"] * 2 for change in changes)
    took = [seconds for _, seconds in batches_of(journal)]
    settled = statistics.median(took[len(took) // 2 : -1])
    assert TARGET / 2 <= settled <= TARGET * 2, took


def print_numbers(journal: list[dict[str, Any]], seconds: float) -> None:
    """Print what was measured."""
    batches = batches_of(journal)
    half, third = len(batches) // 2, len(batches) // 3
    sizes = [rows for rows, _ in batches]
    took = [second for _, second in batches[half:-1]]
    speed = [rows / second for rows, second in batches]
    lines = [
        f"{ROWS:,} rows in {len(batches)} batches and {seconds:.0f} s, with kills, holds and the closed window",
        f"rows of a batch: {min(sizes):,} to {max(sizes):,}, median {statistics.median(sizes):,.0f}",
        f"seconds of a batch in the last half: {quartiles(took)}; target {TARGET}",
        f"rows per second in a batch, second third: {quartiles(speed[third : 2 * third])}",
        f"rows per second in a batch, last third: {quartiles(speed[2 * third : -1])}",
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def quartiles(numbers: list[float]) -> str:
    """Return the quartiles of these numbers, the median in the middle."""
    return " / ".join(f"{number:,.2f}" for number in statistics.quantiles(numbers, n=4))
