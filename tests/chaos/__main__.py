"""`python -m tests.chaos`: random plans on real servers under faults of every kind, judged by what they left behind.

The same seed gives the same plans and the same faults; only the moment at which a fault strikes depends on the machine.
Called again with the same seed and folder, it continues where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.chaos.campaign import Campaign, Order, summary


def main() -> int:
    """Carry out what the command line asks for; return 1 if there was a violation."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--runs", type=int, default=1000, help="trials (1000)")
    parser.add_argument("--seed", type=int, default=1, help="what everything is drawn from (1)")
    parser.add_argument("--minutes", type=float, default=None, help="begin no trial after this long")
    parser.add_argument("--folder", type=Path, default=None, help="where results and evidence go (.chaos/seed-N)")
    given = parser.parse_args()
    order = Order(
        runs=given.runs,
        seed=given.seed,
        seconds=given.minutes * 60 if given.minutes else None,
        folder=(given.folder or Path(".chaos") / f"seed-{given.seed}").absolute(),
    )
    begun = time.monotonic()
    verdicts = Campaign(order, lambda line: print(line, flush=True)).carry_out()
    print(summary(order, verdicts))
    print(f"{time.monotonic() - begun:.0f} s")
    return int(any(verdict["violations"] for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
