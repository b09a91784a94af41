"""Many trials: lanes with servers of their own or shared ones, what has been done before, and the counts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from runner.embedded import EmbeddedServer, start_server
from runner.embedded.debian_packages import SUITE_VARIABLE
from runner.errors import EmbeddedServerError
from tests.chaos.attack import ROOT, Lane
from tests.chaos.circumstances import MAX_WORKERS
from tests.chaos.disk import small_disk
from tests.chaos.sampler import strangers_of
from tests.chaos.trial import Trial
from tests.fetched import fetch_package, host_suite

#: Lanes on the server that is shared, and lanes with a server of their own that may be restarted and crashed.
_SHARED_LANES = 2
_OWN_LANES = 2
#: The share of trials that have a fault which strikes the whole server.
_SERVER_WIDE = 0.3
#: The oid of the first database of a campaign.
_FIRST_OID = 100_001
#: The witness wants to know when a transaction has committed.
_SETTINGS = {"track_commit_timestamp": "on", "max_parallel_workers": "0"}
_SMALL = {**_SETTINGS, "max_connections": "24", "max_worker_processes": str(MAX_WORKERS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done: how many trials, from which seed, for how long at most (seconds), and where evidence goes."""

    runs: int
    seed: int
    seconds: float | None
    folder: Path


def find_faketime(report: Callable[[str], None]) -> Path | None:
    """Return the library that lets a process's wall clock jump; None, and why, where there is none for this machine.

    It has to be made for the C library of the Python that runs the command, so it is this machine's own release's.
    """
    suite = host_suite()
    if suite is None:
        report("no clock jumps: this machine is no Debian, whose libfaketime would fit")
        return None
    try:
        root, _ = fetch_package("libfaketime", {**os.environ, SUITE_VARIABLE: suite})
        return next(root.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
    except EmbeddedServerError as error:
        report(f"no clock jumps: {error}")
        return None


def is_server_wide(seed: int, number: int) -> bool:
    """Say whether a trial needs a server for itself."""
    return Random(f"{seed}/{number}/lane").random() < _SERVER_WIDE


class Campaign:
    """Carries out an order. What an earlier one of the same seed has done in the same folder is not done again."""

    def __init__(self, order: Order, report: Callable[[str], None]) -> None:
        self._order = order
        self._report = report
        self._results = order.folder / "results.jsonl"
        self._lock = threading.Lock()
        self.verdicts: list[dict[str, Any]] = []
        self._end = time.monotonic() + order.seconds if order.seconds else None
        self._oids = itertools.count(_FIRST_OID)
        self._shared: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._own: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._faketime = find_faketime(report)

    def carry_out(self) -> list[dict[str, Any]]:
        """Do all trials that are not done yet, and return every verdict."""
        self._order.folder.mkdir(parents=True, exist_ok=True)
        if self._results.exists():
            self.verdicts = [json.loads(line) for line in self._results.read_text(encoding="utf-8").splitlines()]
        done = {verdict["number"] for verdict in self.verdicts}
        for number in range(self._order.runs):
            if number not in done:
                wide = is_server_wide(self._order.seed, number)
                (self._own if wide else self._shared).put(number)
        with contextlib.ExitStack() as stack:
            self._second = stack.enter_context(start_server(progress=self._report, settings=_SETTINGS))
            lanes = [(lane, self._shared) for lane in stack.enter_context(self._lanes("shared", _SHARED_LANES))]
            for each in range(_OWN_LANES):
                (own,) = stack.enter_context(self._lanes(f"own-{each}", 1))
                lanes.append((own, self._own))
            threads = [threading.Thread(target=self._drive, args=lane) for lane in lanes]
            real = all(lane.disk.real for lane, _ in lanes)
            self._report(f"a full disk is {'a tmpfs without room' if real else 'a limit on the size of files'}")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return sorted(self.verdicts, key=lambda verdict: int(verdict["number"]))

    @contextlib.contextmanager
    def _lanes(self, name: str, count: int) -> Iterator[Sequence[Lane]]:
        """Start a server with lanes on it, and a sampler that reports, at the end, workers without a run."""
        server_wide = name != "shared"
        samples = self._order.folder / f"samples-{name}.jsonl"
        samples.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                start_server(progress=self._report, settings=_SMALL if server_wide else _SETTINGS)
            )
            stack.enter_context(_watched(server, samples))
            lanes = []
            for number in range(count):
                database, oid = f"lane_{name}_{number}".replace("-", "_"), next(self._oids)
                disk = stack.enter_context(small_disk(self._order.folder / f"disk-{name}-{number}"))
                lanes.append(
                    Lane(
                        server=server,
                        conninfo=_new_database(server, database, oid),
                        second=_new_database(self._second, database, oid),
                        neighbour=_new_database(server, f"neighbour{number}", next(self._oids)),
                        disk=disk,
                        samples=samples,
                        server_wide=server_wide,
                        faketime=self._faketime,
                    )
                )
            yield lanes
        with samples.open(encoding="utf-8") as lines:
            for stranger in strangers_of(lines, ("jobplan:", "chaos:")):
                self.verdicts.append({"number": -1, "violations": [f"stranger: a worker called {stranger!r}"]})

    def _drive(self, lane: Lane, numbers: queue.SimpleQueue[int]) -> None:
        while self._end is None or time.monotonic() < self._end:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            try:
                verdict = asdict(Trial(number, self._order.seed, lane, self._order.folder / f"trial-{number}")())
            except Exception:  # noqa: BLE001 - an error of the suite's own is a result, and the other trials continue
                verdict = {"number": number, "violations": [f"suite: {traceback.format_exc()}"]}
            self._keep(verdict)

    def _keep(self, verdict: dict[str, Any]) -> None:
        with self._lock:
            self.verdicts.append(verdict)
            with self._results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(verdict) + "\n")
            for violation in verdict["violations"]:
                self._report(f"trial {verdict['number']}: {violation}")
            if len(self.verdicts) % 50 == 0:
                self._report(f"{len(self.verdicts)} of {self._order.runs} trials")


@contextlib.contextmanager
def _watched(server: EmbeddedServer, samples: Path) -> Iterator[None]:
    samples.touch()
    command = [sys.executable, "-m", "tests.chaos.sampler", server.dsn, str(samples)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _new_database(server: EmbeddedServer, name: str, oid: int) -> str:
    """Make a database with the ledger in it, which half of the trials use, and return the connection to it.

    A second cluster can have a database of the same name and oid, as a copy has. PostgreSQL 14 chooses the oid itself.
    """
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        chosen = f" OID = {oid}" if connection.info.server_version >= 150000 else ""
        connection.execute(f"CREATE DATABASE {name}{chosen}".encode())
    conninfo = make_conninfo(server.dsn, dbname=name)
    command = [sys.executable, "-m", "runner", "ledger", "install", "--dsn", conninfo]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return conninfo


def summary(order: Order, verdicts: Sequence[dict[str, Any]]) -> str:
    """Return the counts: of trials, faults by kind, ends of commands, attempts and steps, and violations."""
    known: list[dict[str, Any]] = [verdict for verdict in verdicts if "codes" in verdict]

    def counts(name: str) -> str:
        counter = Counter(str(each) for verdict in known for each in verdict.get(name, ()))
        return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"

    bad = [verdict for verdict in verdicts if verdict["violations"]]
    finished = sum(verdict["number"] >= 0 for verdict in verdicts)  # a stranger's verdict belongs to no trial
    commands = sum(len(verdict["codes"]) for verdict in known)
    with_ledger, alone = (sum(verdict[name] for verdict in known) for name in ("ledger", "server_wide"))
    lines = [
        f"seed {order.seed}: {finished} of {order.runs} trials finished{_why_not_all(order, finished)}",
        f"trials: {with_ledger} with the ledger, {alone} on a server of their own",
        f"commands: {commands}",
        f"faults: {counts('faults')}",
        f"circumstances: {counts('circumstances')}",
        f"exit codes: {counts('codes')}",
        f"attempts: {counts('outcomes')}",
        f"steps: {counts('states')}",
        f"questions answered: {sum(verdict['marks'] for verdict in known)}",
        f"violations: {_violations(finished, bad)}",
    ]
    if bad:
        lines.append(f"evidence: {order.folder}")
    return "\n".join(lines)


def _why_not_all(order: Order, finished: int) -> str:
    if finished >= order.runs or order.seconds is None:
        return ""
    return f" (the limit of {order.seconds / 60:g} minutes was reached; the same command finishes the others)"


def _violations(finished: int, bad: Sequence[dict[str, Any]]) -> str:
    count = sum(len(verdict["violations"]) for verdict in bad)
    if not count:
        return f"none in {finished} trials" if finished else "unknown, because no trial was finished"
    where = ", ".join(str(verdict["number"]) if verdict["number"] >= 0 else "the sampler" for verdict in bad)
    return f"{count} in {len(bad)} of {finished} trials ({where})"
