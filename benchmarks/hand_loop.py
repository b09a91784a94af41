"""What a DBA would write by hand: SQL statements, each in a worker of pg_background, so many at a time.

A process of its own, like every side of the `maintenance` benchmark: `python -m benchmarks.hand_loop DSN SESSIONS`,
with one statement for each line of stdin. Each session launches a worker, waits for it a millisecond in the server, and
then sleeps here for a twentieth of the time that the worker has taken so far. It has no timeouts, no record and no
dependencies.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque

import psycopg

_LEAST, _MOST, _SHARE = 0.003, 0.25, 0.05


def main() -> None:
    """Run what stdin has; the exit code is 1 if anything has failed."""
    dsn, sessions = sys.argv[1], int(sys.argv[2])
    statements = deque(line for line in sys.stdin.read().splitlines() if line)
    failed: list[str] = []
    threads = [threading.Thread(target=_work, args=(dsn, statements, failed)) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in failed:
        print(one, file=sys.stderr)
    sys.exit(bool(failed))


def _work(dsn: str, statements: deque[str], failed: list[str]) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection:
        while True:
            try:
                sql = statements.popleft()
            except IndexError:
                return
            if not _run(connection, sql):
                failed.append(sql)


def _run(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> bool:
    """Run one statement in a worker; say whether it has succeeded."""
    start = time.perf_counter()
    handle = connection.execute("SELECT pid, cookie FROM pg_background_launch(%s, 0, '')", (sql,)).fetchone()
    while True:
        row = connection.execute("SELECT pg_background_wait(%s, %s, 1)", handle).fetchone()
        if row is not None and row[0]:
            break
        time.sleep(min(_MOST, max(_LEAST, _SHARE * (time.perf_counter() - start))))
    query = "SELECT command_tag <> '' AND NOT has_error FROM pg_background_result_info(%s, %s)"
    end = connection.execute(query, handle).fetchone()
    connection.execute("SELECT pg_background_detach(%s, %s)", handle)
    return end is not None and bool(end[0])


if __name__ == "__main__":
    main()
