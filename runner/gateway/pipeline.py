"""Statements on their way to the server, in libpq's pipeline mode, and which result answers which of them.

Apart from the session (`session.py`), which has the socket and the event loop: here is only what libpq leaves to those
who use its pipeline. A statement is prepared when it is first run, in a transaction of its own in front; of a
preparation that has failed, the error is told where the statement's reply would have been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import pq

from runner.engine.events import ErrorDetails
from runner.gateway.replies import Reply, columns_of, error_details, position_of, rows_of

_TUPLES = pq.ExecStatus.TUPLES_OK
_SYNC = pq.ExecStatus.PIPELINE_SYNC
#: Whoever has locked the ledger's tables keeps statements on them from being parsed, too: that has the ledger's limits.
_LEDGER = "ledger_"
_LIMITS = "ledger_limits"
_ERRORS = frozenset({pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED})


@dataclass(slots=True)
class _Expected:
    """A Sync that is still to come, and what stands before it: a statement's preparation, or executions."""

    names: tuple[str, ...]
    preparation: bool = False
    columns: bool = False


class Pipeline:
    """See the module's docstring. `queries` gives the text of a named block; errors are psycopg's."""

    def __init__(self, libpq: pq.abc.PGconn, queries: Callable[[str], bytes]) -> None:
        self._libpq = libpq
        self._queries = queries
        self._prepared: set[str] = set()
        self._expected: deque[_Expected] = deque()
        self._replies: list[Reply] = []
        self._unprepared: ErrorDetails | None = None
        #: Whether the session was ended before anything of what was sent had run.
        self.turned_away = False
        libpq.nonblocking = 1
        libpq.enter_pipeline_mode()

    def prepare(self, name: str) -> None:
        """Prepare a named statement that is not prepared yet; before a transaction, because it ends with a Sync."""
        if name not in self._prepared:
            if name.startswith(_LEDGER) and name != _LIMITS:
                self.prepare(_LIMITS)
                self.execute(_LIMITS, ())
            self._libpq.send_prepare(name.encode(), self._queries(name))
            self._libpq.pipeline_sync()
            self._prepared.add(name)
            self._expected.append(_Expected((name,), preparation=True))

    def execute(self, name: str, parameters: Sequence[str]) -> None:
        """Run a named statement that was prepared."""
        self._libpq.send_query_prepared(name.encode(), [value.encode() for value in parameters])

    def query(self, sql: str) -> None:
        """Run a statement of the plan's."""
        self._libpq.send_query_params(sql.encode(), None)

    def describe(self, sql: str) -> None:
        """Have a statement of the plan's parsed and its columns described: two replies."""
        self._libpq.send_prepare(b"", sql.encode())
        self._libpq.send_describe_prepared(b"")

    def sync(self, *names: str, columns: bool = False) -> None:
        """End a transaction; `names` are those of the statements in it that had to be prepared."""
        self._libpq.pipeline_sync()
        self._expected.append(_Expected(names, columns=columns))

    def take(self) -> list[Reply] | None:
        """Take what has come; return the replies once everything that was sent has been answered."""
        while self._expected:
            if self._libpq.is_busy():
                return None
            result = self._libpq.get_result()
            if result is not None:
                self._take(result)
            elif self._libpq.status == pq.ConnStatus.BAD:
                return None
        replies, self._replies = self._replies, []
        return replies

    def _take(self, result: pq.abc.PGresult) -> None:
        status = result.status
        expected = self._expected[0]
        if status == _SYNC:
            self._expected.popleft()
        elif status in _ERRORS:
            self._take_error(expected, result)
        elif not expected.preparation:
            columns = columns_of(result) if expected.columns else ()
            rows = rows_of(result) if status == _TUPLES else ()
            self._replies.append(Reply(rows=rows, columns=columns))

    def _take_error(self, expected: _Expected, result: pq.abc.PGresult) -> None:
        if not self._replies and result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"FATAL":
            self.turned_away = True
        error = error_details(result)
        if expected.preparation:
            self._prepared.difference_update(expected.names)
            self._unprepared = error
        else:
            unprepared = not self._prepared.issuperset(expected.names)
            told = self._unprepared if unprepared and self._unprepared else error
            self._replies.append(Reply(error=told, position=position_of(result)))
