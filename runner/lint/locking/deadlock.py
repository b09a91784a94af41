"""Whether two transactions that take several locks can each end up waiting for the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.lint.locking.held import Held, kind_of, verdict

#: How many locks of a step, and how many of its items, are compared: more than a person's step has.
_MAX_LOCKS = 24
_MAX_ITEMS = 8


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
    for wants, has in _waits(one):
        for other_wants, other_has in _waits(other):
            blocks = _first_clash(other_has, wants)
            blocked = _first_clash(has, other_wants)
            if blocks and blocked and not any(_clash(held, its) for held in has for its in other_has):
                return Deadlock(has=blocked, wants=wants, other_has=blocks, other_wants=other_wants)
    return None


def _waits(locks: Sequence[Held]) -> Iterator[tuple[Held, list[Held]]]:
    """Yield each lock that is asked for while others are held, with these."""
    for wants in locks:
        has = [held for held in locks if held.order < wants.order]
        if has:
            yield wants, has


def _first_clash(locks: Sequence[Held], wanted: Held) -> Held | None:
    return next((held for held in locks if _clash(held, wanted)), None)


def _clash(one: Held, other: Held) -> bool:
    return one.on == other.on and verdict(kind_of(one), kind_of(other)) is not None
