"""Which events of a run the ledger lacks, by what a journal has, and which numbers it has room for them under.

A runner that was killed has told its journal more than the ledger; and a ledger may have been out of reach for a while.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

#: What tells an event of a run from others: when it happened (RFC 3339), its name, its step and its attempt.
EventKey = tuple[str, str, str | None, int | None]
#: An event's number in the ledger, and what it is.
Known = tuple[int, EventKey]


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
