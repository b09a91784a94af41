"""The limit that the runner is measured against: the same workers, launched by a loop that never leaves the server."""

from __future__ import annotations

import threading
import time
from typing import Self

import psycopg

#: One worker after the other: launch it, wait until it has ended, discard its handle. Each is its own transaction.
_LOOP = """
DO $loop$
DECLARE h pg_background_handle;
BEGIN
  FOR i IN 1..{count} LOOP
    h := pg_background_launch('{sql}', 0, '');
    WHILE NOT pg_background_wait(h.pid, h.cookie, 250) LOOP NULL; END LOOP;
    PERFORM pg_background_detach(h.pid, h.cookie);
    COMMIT;
  END LOOP;
END $loop$"""


class Limit:
    """Sessions that are connected and warm, and what their workers run; use as a context manager."""

    def __init__(self, dsn: str, sessions: int, sql: str = "select 1") -> None:
        self._sql = sql
        self._connections = [psycopg.connect(dsn, autocommit=True) for _ in range(sessions)]
        self._loop(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def seconds(self, count: int) -> float:
        """Run `count` workers, shared among the sessions, and return the seconds that it took."""
        start = time.perf_counter()
        self._loop(count // len(self._connections))
        return time.perf_counter() - start

    def _loop(self, count: int) -> None:
        failed: list[BaseException] = []

        def work(connection: psycopg.Connection[tuple[object, ...]]) -> None:
            try:
                connection.execute(_LOOP.format(count=count, sql=self._sql).encode())
            except psycopg.Error as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(connection,)) for connection in self._connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
