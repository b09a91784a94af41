"""What holds for a whole trial, other than faults, which strike at a moment: the path to the server, and who is beside.

A path can be a tunnel, or a connection string that leads to a second cluster as well. Other runs can keep the same
reserve. Between commands, the items of the plan can be reordered and the end of the journal can be cut off.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.attack import Attack, Ended, Lane
from tests.chaos.plans import companion

#: What a reserve leaves of the workers of a small server, which has MAX_WORKERS.
MAX_WORKERS = 14
_LEFT = (1, 2, 3)
#: Workers of the server's own: the launcher of logical replication.
_OWN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Which of these a trial has. `reserve`: how many workers every run on the server leaves free; 0 for no reserve."""

    tunnel: bool
    second: bool
    reserve: int
    reorder: bool
    cut: bool

    @classmethod
    def drawn(cls, random: Random, *, server_wide: bool) -> Self:
        """Draw them. A reserve needs a server of the trial's own: other runs would take what it keeps."""
        path = random.random()
        return cls(
            tunnel=path < 0.2,
            second=0.2 <= path < 0.4,
            reserve=MAX_WORKERS - _OWN - random.choice(_LEFT) if server_wide and random.random() < 0.5 else 0,
            reorder=random.random() < 0.3,
            cut=random.random() < 0.3,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those that the trial has, for the counts."""
        given = {
            "through_tunnel": self.tunnel,
            "second_cluster": self.second,
            "same_reserve": bool(self.reserve),
            "items_reordered": self.reorder,
        }
        return tuple(name for name, is_so in given.items() if is_so)

    def most(self, connection: psycopg.Connection[Any]) -> int:
        """Return how many workers of the extension the server may have while the reserve is kept."""
        row = connection.execute("SELECT current_setting('max_worker_processes')::int").fetchone()
        assert row is not None
        return int(row[0]) - _OWN - self.reserve


class Companion:
    """Other runs with the same reserve, in the same database and in another one of the server, one after the other."""

    def __init__(self, lane: Lane, folder: Path, reserve: int, random: Random) -> None:
        self._lane = lane
        self._folder = folder
        self._reserve = reserve
        self._random = Random(random.random())
        self._stopped = threading.Event()
        #: How each ended, by its name.
        self.ended: list[tuple[str, Ended]] = []

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Run them, while the block is carried out, if there is a reserve."""
        if not self._reserve:
            yield
            return
        path = self._folder / "companion.yaml"
        path.write_text(companion("companion", self._reserve), encoding="utf-8")
        thread = threading.Thread(target=self._run, args=(path,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self, plan: Path) -> None:
        for number in itertools.count():
            name = f"companion-{number}"
            attack = Attack(self._lane, self._folder, name, run_id=str, others=lambda _: ())
            conninfo = self._random.choice((self._lane.conninfo, self._lane.neighbour))
            home = self._folder / "companions"
            arguments: list[str | Path] = ["run", plan, "--dsn", conninfo, "--journal", home, "--no-ledger"]
            self.ended.append((name, attack.carry_out(arguments, [], int, self._random)))
            if self._stopped.is_set():
                return


def both(first: str, second: str, *, balanced: bool) -> str:
    """Return a connection string that leads to two clusters, in this order or in any."""
    parts = [conninfo_to_dict(conninfo) for conninfo in (first, second)]
    hosts, ports = (",".join(str(part[name]) for part in parts) for name in ("host", "port"))
    return make_conninfo(first, host=hosts, port=ports, load_balance_hosts="random" if balanced else "disable")


def cut(journal: bytes, random: Random) -> bytes:
    """Return the beginning of a journal: up to the end of a line, or into the middle of one."""
    lines = journal.splitlines(keepends=True)
    kept = random.randrange(len(lines))
    middle = random.randrange(1, len(lines[kept])) if random.random() < 0.5 else 0
    return b"".join(lines[:kept]) + lines[kept][:middle]
