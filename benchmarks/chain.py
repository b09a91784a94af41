"""Latency: steps that each need the one before, so that one runs at a time, against the same in the server."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, ratios, take_turns
from benchmarks.in_server import Limit

_NAME = "chain"
_STEPS = 200


def measure(bench: Bench) -> Iterator[Figure]:
    """Run a chain at a budget of four slots, of which it can only use one."""
    work = plans.chain(_STEPS, "select 1", slots=4)
    with Limit(bench.dsn, 1) as limit:
        plans.run(work, bench.dsn)
        sides = {"limit": lambda: limit.seconds(_STEPS), "jobplan": lambda: plans.run(work, bench.dsn).wall}
        taken = take_turns(sides, bench.rounds(7))
    per_step = {name: [seconds / _STEPS * 1000 for seconds in times] for name, times in taken.items()}
    yield Figure.median(_NAME, "jobplan", per_step["jobplan"], "ms/step")
    yield Figure.median(_NAME, "in the server", per_step["limit"], "ms/step")
    yield Figure.median(_NAME, "times as long as in the server", ratios(per_step["jobplan"], per_step["limit"]), "")
