"""The progress of real maintenance commands, as the live terminal shows it: forwards within a phase, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from runner.gateway.postgres import PgGateway
from runner.identity import new_run_id
from runner.reports.worker_activity import WorkerView, forwards, worker_views
from runner.run.loop import Run
from tests.builders import new_run, plan, step

#: What was seen: phase and share, in order.
Seen = list[tuple[str, float | None]]


async def watched(run: Run, run_id: str, every: float = 0.02) -> Seen:
    """Run a plan of a step `slow`, and look at its worker all the time, as the live terminal does."""
    seen: Seen = []

    async def look() -> None:
        before: dict[str, WorkerView] = {}
        while True:
            workers = await run.look() if run.state.started_at is not None else ()
            before = forwards(before, worker_views(run_id, workers, ["slow"]))
            if "slow" in before and before["slow"].doing:
                seen.append((before["slow"].doing, before["slow"].share))
            await asyncio.sleep(every)

    looking = asyncio.create_task(look())
    try:
        result = await run.execute()
    finally:
        looking.cancel()
        (end,) = await asyncio.gather(looking, return_exceptions=True)
    assert result.exit_code == 0, [record.last for record in result.state.records.values()]
    assert isinstance(end, asyncio.CancelledError)
    return seen


def by_phase(seen: Seen) -> dict[str, list[float]]:
    """Return the shares by phase, and hold them to never going backwards while a phase lasts."""
    reported = [(phase, done) for phase, done in seen if done is not None]
    for (phase, before), (next_phase, after) in pairwise(reported):
        assert phase != next_phase or after >= before, seen
    phases: dict[str, list[float]] = {}
    for phase, done in reported:
        phases.setdefault(phase.partition(": ")[2], []).append(done)
    return phases


#: Makes an index take a few seconds to build, however fast the machine is.
SLOWLY = """CREATE FUNCTION slowly(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF n % 2001 = 0 THEN PERFORM pg_sleep(0.05); END IF;
  RETURN n;
END $$"""


#: In the server's own folder, from which it may read, and in which it runs programs.
FILE = f"jobplan-test-{new_run_id(0.0)}.copy"


@pytest.fixture
def big_table(database: str) -> Iterator[str]:
    """A database with a table that takes a while, half of whose rows are dead."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (n int, filler text) WITH (autovacuum_enabled = off)")
        connection.execute("INSERT INTO big SELECT n, repeat('x', 100) FROM generate_series(1, 400000) AS n")
        connection.execute("DELETE FROM big WHERE n % 2 = 0")
        connection.execute(SLOWLY)
    yield database
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"COPY (SELECT) TO PROGRAM 'cat; rm -f {FILE}'".encode())


async def shares_of(dsn: str, sql: str, **keys: Any) -> dict[str, list[float]]:
    """Run the SQL in a worker, and return the shares that were seen, by phase."""
    run_id = new_run_id(0.0)
    a_plan = plan(step("slow", sql, timeout=120.0, **keys))
    run, _ = new_run(a_plan, PgGateway(dsn, run_id), run_id=run_id)
    return by_phase(await watched(run, run_id))


def assert_moved(shares: list[float]) -> None:
    assert min(shares) < 0.15, shares
    assert max(shares) > 0.85, shares
    assert len(set(shares)) >= 6, shares


def is_seen(shares: list[float]) -> bool:
    """Return whether a phase was seen from its beginning to its end."""
    return bool(shares) and min(shares) < 0.15 and max(shares) > 0.85 and len(set(shares)) >= 6


#: Slow by the server's own means.
THROTTLED = {"vacuum_cost_delay": "10ms", "vacuum_cost_limit": "250"}


@pytest.mark.parametrize(
    ("sql", "phase", "settings"),
    [
        ("VACUUM big", "scanning heap", THROTTLED),
        ("ANALYZE big", "acquiring sample rows", {**THROTTLED, "vacuum_cost_limit": "100"}),
        ("CREATE INDEX CONCURRENTLY ON big (slowly(n))", "building index: scanning table", {}),
        ("CLUSTER big USING by_a_bit", "seq scanning heap", {"enable_indexscan": "off", "maintenance_work_mem": "1MB"}),
        ("COPY checked FROM '{file}'", "file", {}),
    ],
)
async def test_progress_moves_from_its_beginning_to_its_end_and_never_backwards(
    big_table: str, sql: str, phase: str, settings: dict[str, str]
) -> None:
    shares = await shares_of(big_table, sql.replace("{file}", prepared(big_table, sql)), settings=settings)
    assert_moved(shares[phase])


async def test_an_index_build_at_its_first_block_is_not_at_its_end(database: str) -> None:
    """PostgreSQL reports all blocks as done until the second one is scanned."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE big AS SELECT n, repeat('x', 100) FROM generate_series(1, 2000) AS n")
        connection.execute(SLOWLY.replace("n % 2001 = 0", "n = 1").replace("0.05", "1"))
    run_id = new_run_id(0.0)
    a_plan = plan(step("slow", "CREATE INDEX ON big (slowly(n))", timeout=60.0))
    run, _ = new_run(a_plan, PgGateway(database, run_id), run_id=run_id)
    shares = [share for phase, share in await watched(run, run_id) if phase.endswith("building index: scanning table")]
    assert shares
    assert 1.0 not in shares


def prepared(dsn: str, sql: str) -> str:
    """Make what a command needs; return the file that the server reads from, if it is one that does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if sql.startswith("CLUSTER"):
            # The sort of CLUSTER asks for the key at each comparison, and begins to compare when its memory is full.
            connection.execute(SLOWLY.replace("slowly", "a_bit").replace("0.05", "0.001"))
            connection.execute("CREATE INDEX by_a_bit ON big (a_bit(n))")
        if not sql.startswith("COPY"):
            return ""
        connection.execute("CREATE TABLE checked (n int CHECK (slowly(n) = n), filler text)")
        ((folder,),) = connection.execute("SHOW data_directory").fetchall()
        connection.execute(f"COPY big TO '{folder}/{FILE}'".encode())
    return f"{folder}/{FILE}"


async def test_each_later_phase_begins_again(big_table: str) -> None:
    """Dead rows in a table with an index: it is scanned, then its indexes are vacuumed, then the heap."""
    shares: dict[str, list[float]] = {}
    with psycopg.connect(big_table, autocommit=True) as connection:
        connection.execute("CREATE INDEX ON big (n)")
        for rest, limit in enumerate(("200", "100", "50", "25")):  # slower until a busy machine sees every part of it
            shares = await shares_of(big_table, "VACUUM big", settings={**THROTTLED, "vacuum_cost_limit": limit})
            if all(is_seen(shares.get(phase, [])) for phase in ("scanning heap", "vacuuming heap")):
                break
            connection.execute("DELETE FROM big WHERE n %% 8 = %s", [2 * rest + 1])
    assert_moved(shares["scanning heap"])
    assert_moved(shares["vacuuming heap"])


async def test_a_step_reports_its_own_progress(database: str) -> None:
    schema = "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = $1"
    with psycopg.connect(database, cursor_factory=psycopg.RawCursor) as connection:
        ((found,),) = connection.execute(schema, ["pg_background"]).fetchall()
    text = f"""DO $$ BEGIN
      FOR i IN 0..10 LOOP
        PERFORM {found}.pg_background_report_progress(i * 10, 'copying');
        PERFORM pg_sleep(0.4);
      END LOOP;
    END $$"""
    run_id = new_run_id(0.0)
    run, _ = new_run(plan(step("slow", text)), PgGateway(database, run_id), run_id=run_id)
    seen = await watched(run, run_id)
    shares = [share for doing, share in seen if doing == "copying"]
    assert shares == sorted(shares, key=lambda share: share or 0.0)
    assert len(set(shares)) >= 6
    assert shares[0] in (0.0, 0.1)
    assert shares[-1] == 1.0
