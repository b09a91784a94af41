"""What the ledger costs a run whose steps do nothing: the worst there is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, ratios, take_turns
from runner.gateway.ledger.admin import LedgerAdmin

_NAME = "ledger"
_SCHEMA = "jobplan_benchmark"
_SLOTS = (1, 4)
_SHARE = 0.85


def measure(bench: Bench) -> Iterator[Figure]:
    """Run 500 steps with and without a ledger, in turns; both have their journal, as every run has."""
    admin = LedgerAdmin(bench.dsn, _SCHEMA)
    admin.install("0")
    try:
        for slots in _SLOTS:
            with tempfile.TemporaryDirectory() as journals:
                yield from _at(bench, slots, Path(journals))
    finally:
        admin.remove()


def _at(bench: Bench, slots: int, journals: Path) -> Iterator[Figure]:
    work = plans.same_steps(500, "select 1", slots=slots)
    plans.run(work, bench.dsn, ledger=_SCHEMA, journal=journals)  # loads what a first run loads
    sides = {
        "with": lambda: plans.run(work, bench.dsn, ledger=_SCHEMA, journal=journals).wall,
        "without": lambda: plans.run(work, bench.dsn, journal=journals).wall,
    }
    taken = take_turns(sides, bench.rounds(9))
    what = f"{slots} slot{'s' if slots > 1 else ''}"
    rates = {name: [len(work.steps) / seconds for seconds in times] for name, times in taken.items()}
    share = ratios(rates["with"], rates["without"])
    yield Figure.median(_NAME, f"{what}: share of the same without", share, "", at_least(_SHARE))
    yield Figure.median(_NAME, f"{what}: with the ledger", rates["with"], "steps/s")
    yield Figure.median(_NAME, f"{what}: without", rates["without"], "steps/s")
