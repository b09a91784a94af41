"""The progress of real maintenance commands, as the live terminal shows it: forwards within a phase, to its end."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import psycopg
import pytest

from runner.engine.loop import Run
from runner.gateway.pg import PgGateway
from runner.identity import new_run_id
from runner.reports.sights import Sight, forwards, sights
from tests.builders import new_run, plan, step

#: What was seen: phase and share, in order.
Seen = list[tuple[str, float | None]]


async def watched(run: Run, run_id: str, every: float = 0.02) -> Seen:
    """Run a plan of a step `slow`, and look at its worker all the time, as the live terminal does."""
    seen: Seen = []

    async def look() -> None:
        before: dict[str, Sight] = {}
        while True:
            workers = await run.look() if run.state.started_at is not None else ()
            before = forwards(before, sights(run_id, workers, ["slow"]))
            if "slow" in before and before["slow"].doing:
                seen.append((before["slow"].doing, before["slow"].share))
            await asyncio.sleep(every)

    looking = asyncio.create_task(look())
    try:
        result = await run.execute()
    finally:
        looking.cancel()
        (end,) = await asyncio.gather(looking, return_exceptions=True)
    assert result.exit_code == 0
    assert isinstance(end, asyncio.CancelledError)
    return seen


def by_phase(seen: Seen) -> dict[str, list[float]]:
    """Return the shares by phase, and hold them to never going backwards while a phase lasts."""
    told = [(phase, done) for phase, done in seen if done is not None]
    for (phase, before), (next_phase, after) in pairwise(told):
        assert phase != next_phase or after >= before, seen
    phases: dict[str, list[float]] = {}
    for phase, done in told:
        phases.setdefault(phase.partition(": ")[2], []).append(done)
    return phases


#: Makes an index take a few seconds to build, however fast the machine is.
SLOWLY = """CREATE FUNCTION slowly(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF n % 2001 = 0 THEN PERFORM pg_sleep(0.05); END IF;
  RETURN n;
END $$"""


@pytest.fixture
def big_table(database: str) -> str:
    """A database with a table that takes a while, half of whose rows are dead."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (n int, filler text) WITH (autovacuum_enabled = off)")
        connection.execute("INSERT INTO big SELECT n, repeat('x', 100) FROM generate_series(1, 400000) AS n")
        connection.execute("DELETE FROM big WHERE n % 2 = 0")
        connection.execute(SLOWLY)
    return database


@pytest.mark.parametrize(
    ("sql", "phase", "slowly"),
    [
        ("VACUUM big", "scanning heap", {"vacuum_cost_delay": "10ms", "vacuum_cost_limit": "1000"}),
        ("ANALYZE big", "acquiring sample rows", {"vacuum_cost_delay": "10ms", "vacuum_cost_limit": "100"}),
        ("CREATE INDEX CONCURRENTLY ON big (slowly(n))", "building index: scanning table", {}),
    ],
)
async def test_progress_moves_from_its_beginning_to_its_end_and_never_backwards(
    big_table: str, sql: str, phase: str, slowly: dict[str, str]
) -> None:
    a_plan = plan(step("slow", sql, settings=slowly, timeout=120.0))
    run_id = new_run_id(0.0)
    run, _ = new_run(a_plan, PgGateway(big_table, run_id), run_id=run_id)
    shares = by_phase(await watched(run, run_id))[phase]
    assert min(shares) < 0.3
    assert max(shares) > 0.7
    assert len(set(shares)) >= 4
