"""Whether two transactions that take several locks can each end up waiting for the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.lint.locking.held import Held, kind_of, verdict

#: How many locks of a step, and how many of its items, are compared: more than a person's step has.
_MAX_LOCKS = 32
_MAX_ITEMS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlock:
    """Two steps in a deadlock: what each has, and what each wants that the other one has."""

    has: Held
    wants: Held
    other_has: Held
    other_wants: Held


def find_deadlock(one: Sequence[Held], other: Sequence[Held], *, instances: bool = False) -> Deadlock | None:
    """Return a deadlock that two steps, or two instances of one, can come to; the first in the order of the first.

    Each takes its locks in their order and keeps them. A statement's locks count as taken at once, unless the command
    takes them one by one. There is no deadlock where what both have by then could not be had at the same time: a lock
    that both take first, for instance, keeps them apart.
    """
    shared = {held.on for held in one} & {held.on for held in other}
    mine = [held for held in one if held.on in shared]
    its = [held for held in other if held.on in shared]
    for item in _items(mine):
        for other_item in _items(its):
            if not (instances and item is not None and item == other_item):
                found = _find(_of_item(mine, item), _of_item(its, other_item))
                if found is not None:
                    return found
    return None


def _items(locks: Sequence[Held]) -> list[int | None]:
    items: dict[int | None, None] = dict.fromkeys(held.item for held in locks if held.item is not None)
    return list(items)[:_MAX_ITEMS] or [None]


def _of_item(locks: Sequence[Held], item: int | None) -> list[Held]:
    return [held for held in locks if held.item in {None, item}][:_MAX_LOCKS]


def _find(one: Sequence[Held], other: Sequence[Held]) -> Deadlock | None:
    """Compare what each step has and wants, at each point of the one with each point of the other.

    Locks are bits here, counted in their step's order: what a lock excludes are bits of the other step's locks.
    """
    mine, its = _Side(one, other), _Side(other, one)
    for number, wants in enumerate(one):
        for other_number, other_wants in enumerate(other):
            has, other_has = mine.has[number], its.has[other_number]
            blocks, blocked = mine.excludes[number] & other_has, its.excludes[other_number] & has
            if blocks and blocked and not mine.keeps_out[number] & other_has:
                return Deadlock(
                    has=one[_lowest(blocked)],
                    wants=wants,
                    other_has=other[_lowest(blocks)],
                    other_wants=other_wants,
                )
    return None


class _Side:
    """The locks of one step, each by its number: what it excludes, what is held by then, and what that excludes."""

    def __init__(self, locks: Sequence[Held], others: Sequence[Held]) -> None:
        self.excludes = [_mask(_clash(held, other) for other in others) for held in locks]
        self.has = [_mask(held.order < wants.order for held in locks) for wants in locks]
        self.keeps_out = [self._excluded(has) for has in self.has]

    def _excluded(self, has: int) -> int:
        found = 0
        for number, excluded in enumerate(self.excludes):
            if has >> number & 1:
                found |= excluded
        return found


def _mask(flags: Iterable[bool]) -> int:
    return sum(1 << number for number, flag in enumerate(flags) if flag)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _clash(one: Held, other: Held) -> bool:
    return one.on == other.on and verdict(kind_of(one), kind_of(other)) is not None
