"""What the ledger has of a run from before its present runner, against what that runner has heard of.

A runner that was killed has told its journal more than the ledger, and a ledger may have been out of reach for a while:
then a journal has what the ledger lacks. Or another runner has taken the run up meanwhile: then the ledger has heard
of what this one has not.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from runner.gateway.replies import Row

#: What tells an event of a run from others: when it happened (RFC 3339), its name, its step and its attempt. Several
#: notices of one moment are told apart by their order only.
EventKey = tuple[str, str, str | None, int | None]
#: An event's number in the ledger, and what it is.
Known = tuple[int, EventKey]

_TAKEN_UP = "run_resumed"


class EarlierRecord:
    """See the module's docstring. `known` is what the ledger has, in order."""

    def __init__(self, known: Sequence[Known] = ()) -> None:
        self._known = known
        #: When the run was taken up, as far as this runner has heard, its own doing included.
        self._takeovers: set[str | None] = set()
        self._hear(key for _, key in known)

    def missing(self, told: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
        """Yield what a journal has `told` and the ledger lacks, as `missing`; once, because it is no longer missing."""
        self._hear(told)
        known, self._known = self._known, ()
        return missing(known, told)

    def goes_on(self, event: str) -> None:
        """Hear of an event of this runner's own, as JSON."""
        data = json.loads(event)
        if data["event"] == _TAKEN_UP:
            self._takeovers.add(data["at"])

    def taken_up_since(self, takeovers: Iterable[Row]) -> str | None:
        """Say where and when the run was taken up of which nobody has told: `takeovers` has moment and host of each."""
        later = [(at, host) for at, host in takeovers if at not in self._takeovers]
        return f"on {later[-1][1]}, at {later[-1][0]}" if later else None

    def _hear(self, told: Iterable[EventKey]) -> None:
        self._takeovers.update(at for at, event, _, _ in told if event == _TAKEN_UP)


def missing(known: Sequence[Known], told: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
    """Yield, of each event in `told` that is not `known`, its place there and a number that keeps the order.

    Both are in order. An event that came in between, where no numbers are free, is left out; so is what came last, if
    the ledger has other events after the last that both have: then it is not known which of them came first.
    """
    places: dict[EventKey, deque[int]] = defaultdict(deque)
    for seq, key in known:
        places[key].append(seq)
    before = 0
    waiting: list[int] = []
    for place, key in enumerate(told):
        if not places[key]:
            waiting.append(place)
            continue
        seq = places[key].popleft()
        if len(waiting) < seq - before:
            yield from zip(waiting, range(before + 1, seq), strict=False)
        waiting.clear()
        before = seq
    if before == (known[-1][0] if known else 0):
        yield from zip(waiting, range(before + 1, before + 1 + len(waiting)), strict=True)
