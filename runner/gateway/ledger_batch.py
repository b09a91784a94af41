"""What is written to the ledger at one time: a few statements, one transaction, and what its failure means.

Apart from the queue (`ledger.py`), which knows what is to be written and when: here is how. A batch may travel with a
launch as well as on the monitor session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runner.engine.events import ErrorDetails
from runner.gateway.claims import Row
from runner.gateway.session import Statement

#: Events of one statement.
BATCH_SIZE = 2_000

#: What no repetition mends: the ledger, or the right to it, is gone, or the server has become read-only.
GONE = frozenset({"42P01", "42703", "42883", "3F000", "42501", "25006", "0A000", "42704"})
#: What `ledger_same` raises when the tables are no longer those that were found, and what that means.
REPLACED = "42704"
WAS_REPLACED = "its tables are no longer those that were found when the run began"
#: The server's encoding lacks a character, or JSON has one that no text of PostgreSQL may hold; see `ledger_text`.
UNSUITABLE = frozenset({"22P05", "22P02", "22021"})


def begin(schema: str, tables: str) -> tuple[Statement, ...]:
    """Return how a transaction on the ledger begins that must neither be READ ONLY nor hold up the run.

    `tables` are the OIDs of the ledger's tables as JSON; the transaction fails if other tables have their names now.
    """
    return ("ledger_begin", ()), ("ledger_limits", ()), ("ledger_same", (schema, tables))


class Taker(Protocol):
    """Who has the events of a batch until it is known what became of them."""

    def keep(self, rows: list[Row], error: ErrorDetails | None) -> None:
        """Take events back that were not, or perhaps not, written; `error` is what the server said, if known."""
        ...

    def let_go(self, rows: list[Row]) -> None:
        """Hear that events are written."""
        ...


class Batch:
    """Events that somebody takes along, and what writes them. Call `written` or `failed` when that is over."""

    def __init__(
        self, run_id: str, rows: list[Row], *also: Statement, first: Sequence[Statement], taker: Taker
    ) -> None:
        self._rows = rows
        self._taker = taker
        parts = (rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE))
        events = (("ledger_events", (run_id, _json_array(part))) for part in parts)
        #: One transaction: the events, and what goes with them.
        self.statements: tuple[Statement, ...] = (*first, *events, *also, ("commit", ()))

    def written(self) -> None:
        """Tell that the server has committed it."""
        self._taker.let_go(self._rows)

    def failed(self, error: ErrorDetails | None) -> None:
        """Keep the events for another time; `error` is what the server said, None if nobody knows."""
        self._taker.keep(self._rows, error)


def _json_array(rows: Sequence[Row]) -> str:
    return "[" + ",".join(f"[{seq},{event}]" for seq, event in rows) + "]"
