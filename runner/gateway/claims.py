"""Which events in the ledger, or on their way to it, say that an attempt's worker has a commit row in its text.

Who takes a run up takes the absence of an announced row for proof that the attempt has not committed. So a worker that
was announced with a row must not run without one before that is taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What the event has in it that announces a worker whose text has a commit row; the SHA-256 of its proof follows.
COMMIT_ROW = '"commit_row":true'
_ANNOUNCED = re.compile(rf',{COMMIT_ROW},"proof":"[0-9a-f]+"')

#: An event as JSON, and its number.
Row = tuple[int, str]


class Claims:
    """See the module's docstring. Only the last attempt of a step is remembered: no other can be launched again."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[int, set[int]]] = {}

    def announce(self, step: str, attempt: int, row: Row, digest: str) -> Row:
        """Return the event as one that announces a commit row; `digest` is the SHA-256 of the row's proof."""
        seq, event = row
        claimed, seqs = self._claims.get(step, (attempt, set()))
        self._claims[step] = (attempt, {*seqs, seq} if claimed == attempt else {seq})
        return seq, f'{event[:-1]},{COMMIT_ROW},"proof":"{digest}"}}'

    def withdraw(self, step: str, attempt: int, rows: list[Row]) -> bool:
        """Take it back in those of `rows`, which nobody has written yet; false if others may have been written."""
        claimed, seqs = self._claims.get(step, (attempt, set()))
        if claimed != attempt or not seqs:
            return True
        for number, (seq, event) in enumerate(rows):
            if seq in seqs:
                rows[number] = (seq, _ANNOUNCED.sub("", event))
                seqs.discard(seq)
        return not seqs

    def withdrawn(self, step: str, seqs: Iterable[int]) -> None:
        """Note that these do not say it any longer in the ledger itself."""
        _, claimed = self._claims.get(step, (0, set()))
        claimed.difference_update(seqs)

    def forget(self, rows: Iterable[Row]) -> None:
        """Note that these events are thrown away."""
        gone = {seq for seq, event in rows if COMMIT_ROW in event}
        for _, seqs in self._claims.values() if gone else ():
            seqs.difference_update(gone)
