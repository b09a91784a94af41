"""Slots as lanes of a chart: which attempt held which.

The scheduler only counts slots; a picture needs them apart. Whoever is launched takes the lowest lanes that are free,
side by side where there is room.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from typing import TypeVar

_K = TypeVar("_K", bound=Hashable)


def assign_lanes(spans: Iterable[tuple[float, float, int, _K]]) -> dict[_K, tuple[int, ...]]:
    """Return the lanes, from 0, of each span (begin, end, how many lanes, key); at its end a span gives them back."""
    taken: set[int] = set()
    ends: list[tuple[float, tuple[int, ...]]] = []
    lanes: dict[_K, tuple[int, ...]] = {}
    for begin, end, width, key in sorted(spans, key=lambda span: span[0]):
        while ends and ends[0][0] <= begin:
            taken.difference_update(heapq.heappop(ends)[1])
        lanes[key] = _free(taken, width)
        taken.update(lanes[key])
        heapq.heappush(ends, (end, lanes[key]))
    return lanes


def _free(taken: set[int], width: int) -> tuple[int, ...]:
    """Return neighbours below the highest lane in use if there are any, else the lowest lanes, wherever they are."""
    ceiling = max(taken, default=-1) + 1
    free = [lane for lane in range(ceiling + width) if lane not in taken]
    for first in range(len(free) - width + 1):
        if free[first + width - 1] - free[first] == width - 1 and free[first + width - 1] < ceiling:
            return tuple(free[first : first + width])
    return tuple(free[:width])
