"""`python -m benchmarks [--quick] [NAME…]`: run benchmarks, print a table, keep the numbers as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, table
from benchmarks.machine import facts

#: Each is a module of this package with `measure(bench) -> Iterator[Figure]`.
NAMES = (
    *(
        "throughput",
        "chain",
        "maintenance",
        "ledger",
        "psql_make",
        "idle",
        "snapshots",
        "scheduler",
        "startup",
        "validation",
    ),
    "report",
    "dry_run",
    "fleet",
    "backfill",
)
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the named benchmarks; exit code 0 means that they were measured, not that the figures are good."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds: rough numbers")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    about = facts()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, Bench(quick=options.quick, folder=Path(folder)) as bench:
        for name in options.names or NAMES:
            print(f"{name} …", file=sys.stderr)
            figures += importlib.import_module(f"benchmarks.{name}").measure(bench)
        about["server"] = bench.server_version
    about["quick"] = options.quick
    server = f", PostgreSQL {about['server']}" if about["server"] else ""
    print(f"\n{about['cores']} cores ({about['cpu']}), Python {about['python']}{server}")
    print(table(figures))
    print(f"kept in {_keep(about, figures)}", file=sys.stderr)


def _keep(about: dict[str, object], figures: list[Figure]) -> Path:
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{str(about['date']).replace(':', '')[:17]}.json"
    data = {"about": about, "figures": [figure.as_json() for figure in figures]}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
