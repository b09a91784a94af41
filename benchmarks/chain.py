"""Latency: steps that each need the one before, so that one runs at a time, against the same in the server."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, below, ratios, take_turns
from benchmarks.in_server import Limit

_NAME = "chain"
#: What a step sleeps, in milliseconds, and how many of them follow each other.
_CHAINS = ((0, 200), (10, 50), (100, 15), (400, 6))
#: What an edge may add: milliseconds up to a step of `_FAST` milliseconds, a share of the step's time above.
_FAST, _EDGE, _SHARE = 20, 2.0, 0.05


def measure(bench: Bench) -> Iterator[Figure]:
    """Run chains at a budget of four slots, of which they can only use one."""
    for milliseconds, steps in _CHAINS:
        sql = f"select pg_sleep({milliseconds / 1000})" if milliseconds else "select 1"
        yield from _chain(bench, sql, milliseconds, steps)


def _chain(bench: Bench, sql: str, milliseconds: int, steps: int) -> Iterator[Figure]:
    work = plans.chain(steps, sql, slots=4)
    with Limit(bench.dsn, 1, sql) as limit:
        plans.run(work, bench.dsn)
        sides = {"limit": lambda: limit.seconds(steps), "jobplan": lambda: plans.run(work, bench.dsn).wall}
        taken = take_turns(sides, bench.rounds(7))
    ours, least = ([seconds / steps * 1000 for seconds in taken[name]] for name in ("jobplan", "limit"))
    edges = [mine - other for mine, other in zip(ours, least, strict=True)]
    target = _EDGE if milliseconds < _FAST else _SHARE * milliseconds
    yield Figure.median(_NAME, f"{sql}: an edge over the same in the server", edges, "ms", below(target))
    yield Figure.median(_NAME, f"{sql}: jobplan", ours, "ms/step")
    yield Figure.median(_NAME, f"{sql}: in the server", least, "ms/step")
    yield Figure.median(_NAME, f"{sql}: times as long as in the server", ratios(ours, least), "")
