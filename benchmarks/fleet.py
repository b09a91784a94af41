"""A fleet against what a DBA would type: a plan on many databases of two clusters, and psql under `xargs -P`.

Both have the same budget: as many statements at a time on each cluster. The ideal schedule is the sum of the steps'
time divided by the slots. What a waiting target costs is measured with two fleet runs that differ only in the number
of targets that wait for a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.bench import Bench
from benchmarks.figures import Figure, below, ratios, take_turns
from runner.clock import MonotonicClock
from runner.embedded import EmbeddedServer, start_server
from runner.fleet import events as ev
from runner.fleet.coordinator import FleetRun
from runner.fleet.discovery import resolve
from runner.fleet.member import MemberOptions
from runner.fleet.plans import FleetPlans
from runner.fleet.records import FleetJournal
from runner.fleet.rollout import initial_state
from runner.fleet.targets import read_targets

_NAME = "fleet"
_CLUSTERS = 2
#: Slots of each cluster, steps of each target, and the seconds of a step.
_SLOTS, _STEPS, _STEP = 4, 20, 0.05
_SETTINGS = {"autovacuum": "off", "max_connections": "300", "max_worker_processes": "64"}
#: Targets that wait, in the measurement of their cost, and the seconds for which they do.
_WAITING, _WAIT = 60, 12.0


def measure(bench: Bench) -> Iterator[Figure]:
    """Run both sides in turns, then the cost of targets that wait."""
    databases = 20 if bench.quick else 100
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(start_server(progress=lambda line: print(line, file=sys.stderr), settings=_SETTINGS))
            for _ in range(_CLUSTERS)
        ]
        for server in servers:
            _make_databases(server, databases)
        yield from _against_xargs(bench, servers, databases)
        yield from _waiting(bench, servers, min(databases, _WAITING))


def _make_databases(server: EmbeddedServer, count: int) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE tenant_template")
        with psycopg.connect(make_conninfo(server.dsn, dbname="tenant_template"), autocommit=True) as template:
            template.execute("CREATE EXTENSION IF NOT EXISTS pg_background")
        for number in range(count):
            name = sql.Identifier(f"tenant_{number:03}")
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE tenant_template").format(name))


def _against_xargs(bench: Bench, servers: Sequence[EmbeddedServer], databases: int) -> Iterator[Figure]:
    targets = _targets(bench.folder / "targets.yaml", servers, databases)
    plan = _plan(bench.folder / "fleet.yaml", [_STEP] * _STEPS)
    cpu: list[float] = []
    sides: dict[str, Callable[[], float]] = {
        "xargs": partial(_xargs, bench.folder, servers, databases),
        "jobplan": lambda: _fleet(bench.folder, plan, targets, cpu)[0],
    }
    taken = take_turns(sides, bench.rounds(3))
    ideal = databases * _STEPS * _STEP / _SLOTS
    what = f"{databases * _CLUSTERS} databases x {_STEPS} steps of {_STEP * 1000:g} ms on {_CLUSTERS} clusters"
    wall = taken["jobplan"]
    yield Figure.median(_NAME, f"{what}: times the ideal schedule", [one / ideal for one in wall], "", below(1.15))
    yield Figure.median(_NAME, f"{what}: times xargs and psql", ratios(wall, taken["xargs"]), "", below(1.0))
    yield Figure.median(_NAME, f"{what}: jobplan", wall, "s")
    yield Figure.median(_NAME, f"{what}: xargs and psql", taken["xargs"], "s")
    yield Figure.median(_NAME, f"{what}: jobplan's CPU", [one * 100 for one in cpu], "% of a core")


def _waiting(bench: Bench, servers: Sequence[EmbeddedServer], waiting: int) -> Iterator[Figure]:
    """Let one target hold the only slot of each cluster while others wait for it."""
    plan = _plan(bench.folder / "wait.yaml", [_WAIT])
    cost: dict[int, tuple[float, float]] = {}
    for count in (1, waiting):
        targets = _targets(bench.folder / f"wait-{count}.yaml", servers, count, slots=1, stop=True)
        cpu: list[float] = []
        _, memory = _fleet(bench.folder, plan, targets, cpu, seconds=_WAIT * 0.75)
        cost[count] = (cpu[-1] * 100, memory)
    more = (waiting - 1) * _CLUSTERS
    least, most = cost[1], cost[waiting]
    yield Figure.median(
        _NAME, "each waiting target: CPU", [max(0.0, most[0] - least[0]) / more], "% of a core", below(0.15)
    )
    yield Figure.median(_NAME, "each waiting target: memory", [(most[1] - least[1]) / more], "MB", below(0.3))
    yield Figure.median(_NAME, "event loop with waiting targets: lag p99", [_lag(bench.folder, servers, waiting)], "ms")


def _plan(path: Path, steps: Sequence[float]) -> Path:
    lines = "".join(f'  - {{id: s{number}, sql: "SELECT pg_sleep({each})"}}\n' for number, each in enumerate(steps))
    head = "version: 1\nname: fleet\nbudget: {slots: 2}\ndefaults: {timeout: 60s, on_finish: wait}\nsteps:\n"
    path.write_text(head + lines, encoding="utf-8")
    return path


def _targets(
    path: Path, servers: Sequence[EmbeddedServer], databases: int, *, slots: int = _SLOTS, stop: bool = False
) -> Path:
    clusters, targets = "", ""
    for number, server in enumerate(servers):
        parts = conninfo_to_dict(server.dsn)
        where = f"{{host: {parts['host']}, port: {parts['port']}, user: {parts['user']}}}"
        clusters += f"  c{number}: {{connection: {where}, slots: {slots}}}\n"
        for one in range(databases):
            targets += f"  - {{cluster: c{number}, database: tenant_{one:03}, name: c{number}-{one:03}}}\n"
    parallel = len(servers) * databases if stop else 24
    path.write_text(
        f"version: 1\nname: bench\nclusters:\n{clusters}targets:\n{targets}rollout: {{parallel: {parallel}}}\n",
        encoding="utf-8",
    )
    return path


def _fleet(
    folder: Path, plan: Path, targets: Path, cpu: list[float], *, seconds: float | None = None
) -> tuple[float, float]:
    """Run the fleet; return its wall seconds and its peak memory in MB. It is interrupted after `seconds`."""
    command = [sys.executable, "-m", "runner", "fleet", "run", str(plan), "--targets", str(targets), "--no-ledger"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    memory = 0.0
    if seconds is not None:
        time.sleep(seconds)
        memory = _peak(process.pid)
        process.kill()
    code = process.wait()
    wall = time.perf_counter() - start
    if seconds is None and code != 0:
        raise RuntimeError(f"the fleet run ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cpu.append(used / wall)
    return wall, memory


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _xargs(folder: Path, servers: Sequence[EmbeddedServer], databases: int) -> float:
    """Run each database's steps one after the other, as many databases at a time as there are slots."""
    script = "".join(f"SELECT pg_sleep({_STEP});\n" for _ in range(_STEPS))
    (folder / "steps.sql").write_text(script, encoding="utf-8")
    start = time.perf_counter()
    loops = []
    for server in servers:
        names = "\n".join(f"tenant_{number:03}" for number in range(databases))
        psql = [str(server.bin_dir / "psql"), "-X", "-q", "-At", "-f", "steps.sql", "-d", "{}"]
        parts = conninfo_to_dict(server.dsn)
        where = {"PGHOST": str(parts["host"]), "PGPORT": str(parts["port"]), "PGUSER": str(parts["user"])}
        loop = subprocess.Popen(
            ["xargs", "-P", str(_SLOTS), "-I", "{}", *psql],
            cwd=folder,
            env=os.environ | where,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        if loop.stdin is None:
            raise RuntimeError("xargs takes no names")
        loop.stdin.write(names)
        loop.stdin.close()
        loops.append(loop)
    for loop in loops:
        if loop.wait() != 0:
            raise RuntimeError("psql failed")
    return time.perf_counter() - start


def _lag(folder: Path, servers: Sequence[EmbeddedServer], waiting: int) -> float:
    """Return the 99th percentile of the event loop's lag, in milliseconds, while targets wait in this process."""
    targets = read_targets(_targets(folder / "lag.yaml", servers, waiting, slots=1, stop=True))
    plans = FleetPlans(_plan(folder / "lag-plan.yaml", [_WAIT / 2]), given={})
    lags: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append((time.perf_counter() - before - 0.01) * 1000)

    async def play() -> None:
        resolved = await resolve(targets)
        clock = MonotonicClock()
        state = initial_state("lag", resolved.placed, targets.rollout, targets.clusters)
        with FleetJournal.create(folder / "fleets", "lag", resolved.targets) as journal:
            options = MemberOptions(runs=journal.runs, ledger=None)
            run = FleetRun(state, resolved.targets, plans.of, journal, options, clock=clock)
            first = ev.FleetStarted(
                at=clock.now(), jobplan="", plan="lag", file="", sources="", targets=0, host="", os_pid=0
            )
            task = asyncio.create_task(run.execute(first))
            await asyncio.sleep(_WAIT / 4)  # every member has begun, and waits
            watching = asyncio.create_task(watch())
            await asyncio.sleep(_WAIT / 4)
            watching.cancel()
            run.interrupt(2)
            await task

    asyncio.run(play())
    return sorted(lags)[int(len(lags) * 0.99)]
