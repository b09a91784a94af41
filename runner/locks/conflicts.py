"""A lock of a step, the result of two such locks, and whether two transactions can deadlock."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from runner.sql.lock_modes import LockMode, conflict
from runner.structs import Struct


class Lockable(NamedTuple):
    """The target of a lock: a relation, all indexes of a table together, or every table of a schema (`name` is None).

    Without schema and name it is every table of the database.
    """

    schema: str | None
    name: str | None
    indexes: bool = False

    @property
    def sweeping(self) -> bool:
        """Whether it stands for all tables, which are locked one after the other."""
        return self.name is None


class LockTiming(enum.IntEnum):
    """The behaviour of a command while its lock waits, or while others wait for it."""

    #: Holds its locks until the end of the transaction.
    PLAIN = 0
    #: Waits while its transaction already holds a weaker lock on the table.
    UPGRADE = 1
    #: Has no snapshot while it waits.
    VACUUM = 2
    #: Waits for every transaction with an older snapshot.
    BUILD = 3
    #: Waits for every transaction with any lock on the table.
    DROP = 4
    #: Leaves the partition half detached when it fails.
    DETACH = 5
    #: Locks one index of the table.
    ONE_INDEX = 6


class Held(Struct, frozen=True, kw_only=True):
    """A lock that a step takes. `order` is the statement's number in the step, and the lock's number within it.

    `what` names the command, `name` the relation as written in the SQL, `offset` its position in the step's SQL; `via`
    is the foreign key that leads to it. `item` is the number of the for_each item with this lock, None for all items.
    """

    on: Lockable
    mode: LockMode
    nature: LockTiming
    order: tuple[int, int]
    what: str
    name: str
    offset: int
    via: str = ""
    item: int | None = None
    planned: bool = False


class ConflictResult(enum.IntEnum):
    """The result of two steps with conflicting locks."""

    WAIT = 1
    FAIL = 2


#: The properties that decide a verdict.
Kind = tuple[LockMode, LockTiming]


@lru_cache(maxsize=4096)
def verdict(one: Kind, other: Kind) -> ConflictResult | None:
    """Return the result of two locks on one target; None if they do not conflict.

    The behaviour of the commands was measured with PostgreSQL 18 (docs/pg_background.md#what-concurrently-leaves-behind
    has a summary):

    - CREATE INDEX and REINDEX CONCURRENTLY wait for older snapshots while they hold their lock; a session that waits
      for that lock has such a snapshot, so the two deadlock. Only a VACUUM without ANALYZE waits without a snapshot.
    - DROP INDEX CONCURRENTLY waits for sessions with a lock on the table: a deadlock with a session that waits and
      holds one.
    - DETACH PARTITION CONCURRENTLY fails at the same time as another one on the same table, and can fail because of a
      command that changes the table's columns meanwhile.
    """
    (mode, nature), (other_mode, other_nature) = one, other
    natures = {nature, other_nature}
    if not conflict(mode, other_mode) or natures == {LockTiming.ONE_INDEX}:
        return None
    if LockTiming.BUILD in natures:
        return ConflictResult.WAIT if LockTiming.VACUUM in natures else ConflictResult.FAIL
    if natures in ({LockTiming.DROP, LockTiming.UPGRADE}, {LockTiming.DETACH}):
        return ConflictResult.FAIL
    beside_detach = {mode for mode, mine in ((other_mode, nature), (mode, other_nature)) if mine is LockTiming.DETACH}
    return ConflictResult.FAIL if LockMode.ACCESS_EXCLUSIVE in beside_detach else ConflictResult.WAIT


def kind_of(held: Held) -> Kind:
    """Return the properties of a lock that decide a verdict."""
    return held.mode, held.nature


#: The limit of compared locks of a step, and of its items: more than real steps have.
_MAX_LOCKS = 32
_MAX_ITEMS = 4


class Deadlock(Struct, frozen=True, kw_only=True):
    """Two steps in a deadlock: what each holds, and what each wants that the other one holds."""

    has: Held
    wants: Held
    other_has: Held
    other_wants: Held


def find_deadlock(one: Sequence[Held], other: Sequence[Held], *, instances: bool = False) -> Deadlock | None:
    """Return a possible deadlock of two steps, or of two instances of one; the first in the order of the first step.

    Each takes its locks in order and keeps them. A statement's locks count as taken at once, unless the command takes
    them one by one. There is no deadlock if the held locks themselves conflict: a lock that both take first, for
    instance, serialises them.
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
    """Compare what each step holds and wants, at each point of the one with each point of the other.

    Locks are bits here, in their step's order: the conflicts of a lock are bits of the other step's locks.
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
    """The locks of one step: what each conflicts with, what is held before it, and what that conflicts with."""

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
