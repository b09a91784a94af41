"""Against what a team would write by hand: a Makefile with one psql for each step, run by `make -j`."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, ratios, take_turns

_NAME = "psql_make"
_SLOTS = 4
_SQL = "select 1"
_FASTER = 5.0


def measure(bench: Bench) -> Iterator[Figure]:
    """Run the same steps both ways, each from connecting to closing."""
    count = 100 if bench.quick else 300
    work = plans.same_steps(count, _SQL, slots=_SLOTS)
    makefile = _write(bench.folder / "Makefile", count, bench.server.bin_dir / "psql")
    plans.run(work, bench.dsn)
    sides: dict[str, Callable[[], float]] = {
        "make": partial(_make, makefile, bench.dsn),
        "jobplan": lambda: plans.run(work, bench.dsn).wall,
    }
    taken = take_turns(sides, bench.rounds(5))
    rates = {name: [count / seconds for seconds in times] for name, times in taken.items()}
    faster = ratios(rates["jobplan"], rates["make"])
    yield Figure.median(_NAME, f"times as fast as make -j{_SLOTS} and psql", faster, "", at_least(_FASTER))
    yield Figure.median(_NAME, "jobplan", rates["jobplan"], "steps/s")
    yield Figure.median(_NAME, f"make -j{_SLOTS} and psql", rates["make"], "steps/s")


def _write(path: Path, count: int, psql: Path) -> Path:
    """Write a Makefile with `count` targets that need nothing; psql is the server's own, not Debian's wrapper."""
    names = " ".join(f"s{number}" for number in range(count))
    recipe = f"@'{psql}' -X -q -At -d \"$$DSN\" -c '{_SQL}' >/dev/null"
    path.write_text(f"STEPS = {names}\n.PHONY: all $(STEPS)\nall: $(STEPS)\n$(STEPS):\n\t{recipe}\n", encoding="utf-8")
    return path


def _make(makefile: Path, dsn: str) -> float:
    start = time.perf_counter()
    command = ["make", "-s", f"-j{_SLOTS}", "-f", str(makefile), "all"]
    subprocess.run(command, env=os.environ | {"DSN": dsn}, check=True)
    return time.perf_counter() - start
