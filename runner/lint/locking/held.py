"""A lock that a step holds, and what becomes of two steps whose locks meet."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from runner.sql.lockmodes import LockMode, conflict


class Lockable(NamedTuple):
    """What a lock is on: a relation, all indexes of a table together, or every table of a schema (`name` is None).

    Without schema and name it is every table of the database.
    """

    schema: str | None
    name: str | None
    indexes: bool = False

    @property
    def sweeping(self) -> bool:
        """Whether it is all tables, one after the other."""
        return self.name is None


class Nature(enum.IntEnum):
    """What makes a difference when a lock has to wait, or is waited for."""

    #: Holds its locks to the end of the transaction.
    PLAIN = 0
    #: Waits while its transaction has a weaker lock on the table already.
    UPGRADE = 1
    #: Has no snapshot while it waits.
    VACUUM = 2
    #: Waits for every transaction that has an older snapshot.
    BUILD = 3
    #: Waits for every transaction that has any lock on the table.
    DROP = 4
    #: Leaves the partition half detached when it fails.
    DETACH = 5
    #: Locks one index of the table.
    ONE_INDEX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lock that a step takes. `order` is the statement's number in the step, and the lock's number within it.

    `what` names the command, `name` the relation as the SQL has it, `offset` its place in the step's SQL; `via` is the
    foreign key that leads there. `item` is the number of the for_each item that has this lock, None for all of them.
    """

    on: Lockable
    mode: LockMode
    nature: Nature
    order: tuple[int, int]
    what: str
    name: str
    offset: int
    via: str = ""
    item: int | None = None
    planned: bool = False


class Verdict(enum.IntEnum):
    """What becomes of two steps whose locks meet, the harmless first."""

    WAIT = 1
    FAIL = 2


#: What decides a verdict.
Kind = tuple[LockMode, Nature]


@lru_cache(maxsize=4096)
def verdict(one: Kind, other: Kind) -> Verdict | None:
    """Say what two locks on one place do to each other, None if they get along.

    What the two natures do was measured on a server of version 18 (pg_background.md#what-concurrently-leaves-behind
    has the short form):

    - CREATE INDEX and REINDEX CONCURRENTLY wait for older snapshots while they hold their lock; who queues behind it
      has such a snapshot, so the two end in a deadlock. Only a VACUUM without ANALYZE queues without one.
    - DROP INDEX CONCURRENTLY waits for who holds a lock on the table: a deadlock with who queues and holds one.
    - DETACH PARTITION CONCURRENTLY fails beside another one of the same table, and can be made to fail by what changes
      the table's columns in the meantime.
    """
    (mode, nature), (other_mode, other_nature) = one, other
    natures = {nature, other_nature}
    if not conflict(mode, other_mode) or natures == {Nature.ONE_INDEX}:
        return None
    if Nature.BUILD in natures:
        return Verdict.WAIT if Nature.VACUUM in natures else Verdict.FAIL
    if natures in ({Nature.DROP, Nature.UPGRADE}, {Nature.DETACH}):
        return Verdict.FAIL
    beside_detach = {mode for mode, mine in ((other_mode, nature), (mode, other_nature)) if mine is Nature.DETACH}
    return Verdict.FAIL if LockMode.ACCESS_EXCLUSIVE in beside_detach else Verdict.WAIT


def kind_of(held: Held) -> Kind:
    """Return what decides what a lock does to another one."""
    return held.mode, held.nature
