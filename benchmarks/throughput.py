"""Steps per second against the limit in the server: the whole of jobplan's own cost, with one slot and with many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.cores import apart
from benchmarks.cpu import server_cpu
from benchmarks.figures import Figure, at_least, ratios, take_turns
from benchmarks.in_server import Limit
from runner.reports.messages import Verbosity

_NAME = "throughput"
_SQL = "select 1"
_SLOTS = (1, 2, 4, 8, 16)
#: The share of the limit that is asked for once there is a second slot to work in while the runner thinks.
_SHARE = 0.85
#: Seconds after which the last sessions and workers have ended, and the postmaster's CPU time includes theirs.
_ENDING = 0.3


def measure(bench: Bench) -> Iterator[Figure]:
    """Run steps that do nothing, at several budgets, in turns with the loop in the server."""
    count = 400 if bench.quick else 1000
    for slots in _SLOTS:
        yield from _at(bench, slots, count, Verbosity.QUIET)
    yield from _at(bench, 4, count, Verbosity.NORMAL, ", progress")
    with apart(bench.server.pid) as separated:
        for slots in _SLOTS[1:] if separated else ():
            yield from _at(bench, slots, count, Verbosity.QUIET, ", on a core of its own")


def _at(bench: Bench, slots: int, count: int, verbosity: Verbosity, how: str = "") -> Iterator[Figure]:
    work = plans.same_steps(count - count % slots, _SQL, slots=slots)
    cpu: list[float] = []
    servers: dict[str, list[float]] = {"limit": [], "jobplan": []}

    def jobplan() -> float:
        cost = plans.run(work, bench.dsn, verbosity)
        cpu.append(cost.cpu / len(work.steps) * 1000)
        return cost.wall

    def watched(name: str, side: Callable[[], float]) -> float:
        before = server_cpu(bench.server.pid)
        taken = side()
        time.sleep(_ENDING)
        after = server_cpu(bench.server.pid)
        if before is not None and after is not None:
            servers[name].append((after - before) / len(work.steps) * 1000)
        return taken

    with Limit(bench.dsn, slots) as limit:
        jobplan()  # loads what a first run loads
        cpu.clear()
        sides: dict[str, Callable[[], float]] = {"limit": partial(limit.seconds, len(work.steps)), "jobplan": jobplan}
        taken = take_turns({name: partial(watched, name, side) for name, side in sides.items()}, bench.rounds(7))
    what = f"{slots} slot{'s' if slots > 1 else ''}{how}"
    rates = {name: [len(work.steps) / seconds for seconds in times] for name, times in taken.items()}
    share = at_least(_SHARE) if slots > 1 else None
    yield Figure.median(_NAME, f"{what}: share of the limit", ratios(rates["jobplan"], rates["limit"]), "", share)
    yield Figure.median(_NAME, f"{what}: jobplan", rates["jobplan"], "steps/s")
    yield Figure.median(_NAME, f"{what}: limit", rates["limit"], "steps/s")
    yield Figure.median(_NAME, f"{what}: the runner's CPU", cpu, "ms/step")
    if servers["limit"]:
        beside = [ours - least for ours, least in zip(servers["jobplan"], servers["limit"], strict=True)]
        yield Figure.median(_NAME, f"{what}: the server's CPU beside the limit's", beside, "ms/step")
