"""A second pair of eyes: a process that looks at pg_stat_activity all the time and notes which workers it sees.

`python -m tests.chaos.sampler CONNINFO FILE` writes one line whenever the workers are others than before. It knows
nothing of plans; who reads the file holds it against the limits of each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psycopg

from runner.identity import worker_name
from tests.chaos.evidence import Sample, item_key

#: Seconds between two looks, and before the next try where there is no server.
_EVERY = 0.02
_AWAY = 0.1
#: Looks for which a worker that has just begun may have no name of its own yet.
_NAMELESS = 25
#: The names of workers by the label in their text: a step may have changed its application_name.
WORKERS = """
SELECT coalesce('jobplan:' || (l.label ->> 'run') || ':' || (l.label ->> 'step'), a.application_name)
FROM pg_stat_activity AS a,
     LATERAL (SELECT substring(a.query FROM '^/[*] jobplan ([{][^*]*[}]) [*]/')::json AS label) AS l
WHERE a.backend_type = 'pg_background' ORDER BY 1
"""


def watch(conninfo: str, path: Path) -> None:
    """Look until the process is ended, or who has started it is lost; a server that is away is waited for."""
    parent = os.getppid()
    with path.open("w", encoding="utf-8", buffering=1) as file:
        look, last = 0, None
        while os.getppid() == parent:
            try:
                with psycopg.connect(conninfo, autocommit=True, application_name="chaos:sampler") as connection:
                    while os.getppid() == parent:
                        look += 1
                        names = [name for (name,) in connection.execute(WORKERS).fetchall()]
                        if names != last:
                            file.write(json.dumps({"look": look, "workers": names}) + "\n")
                            last = names
                        time.sleep(_EVERY)
            except psycopg.Error:
                time.sleep(_AWAY)


def key_of(name: str, run_id: str, keys: Iterable[str]) -> str:
    """Return the key in a worker's name: a long one is cut there, and a worker that begins shows no label yet."""
    cut = {worker_name(run_id, key): key for key in keys}
    return cut.get(name, name.removeprefix(f"jobplan:{run_id}:"))


def samples_of(lines: Iterable[str], run_id: str, keys: Sequence[str] = ()) -> list[Sample]:
    """Read what was seen of one run with these keys, from the lines of `watch`."""
    prefix = f"jobplan:{run_id}:"
    changes: list[tuple[int, tuple[str, ...]]] = []
    look = 0
    for line in lines:
        if not line.endswith("}\n"):
            break  # it is just being written
        record = json.loads(line)
        look = record["look"]
        names = (name for name in record["workers"] if name.startswith(prefix))
        workers = tuple(item_key(key_of(name, run_id, keys)) for name in names)
        if not changes or changes[-1][1] != workers:
            changes.append((look, workers))
    ends = [*(begun for begun, _ in changes[1:]), look + 1]
    return [Sample(workers=workers, seen=end - begun) for (begun, workers), end in zip(changes, ends, strict=False)]


def taken_of(lines: Iterable[str]) -> list[tuple[int, int]]:
    """Return how many workers of all runs the server had, and in how many looks in a row, from the lines of `watch`."""
    changes: list[tuple[int, int]] = []
    for line in lines:
        if not line.endswith("}\n"):
            break
        record = json.loads(line)
        if not changes or changes[-1][0] != len(record["workers"]):
            changes.append((len(record["workers"]), record["look"]))
    following = [look for _, look in changes[1:]]
    return [(count, end - begun) for (count, begun), end in zip(changes, following, strict=False)]


def strangers_of(lines: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return the names of workers, from the lines of `watch`, by which they could not be found.

    Those are names that begin with none of the known prefixes, for longer than it takes a worker to get its name.
    """
    found: set[str] = set()
    since: dict[str, int] = {}
    for line in lines:
        if not line.endswith("}\n"):
            break
        record = json.loads(line)
        found |= {name for name, look in since.items() if record["look"] - look >= _NAMELESS}
        odd = {name for name in record["workers"] if not name.startswith(tuple(known))}
        since = {name: since.get(name, record["look"]) for name in odd}
    return sorted(found)


if __name__ == "__main__":
    watch(sys.argv[1], Path(sys.argv[2]))
