"""PostgreSQL's table-level lock modes and which of them exclude each other.

Source: "Explicit Locking", table 13.2 of the PostgreSQL documentation; the integration tests compare it with a server.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from runner.sql.relations import Relation
from runner.structs import Struct


class LockMode(enum.IntEnum):
    """A table-level lock mode, numbered as PostgreSQL numbers them.

    A higher number is not simply stronger: SHARE allows SHARE, SHARE UPDATE EXCLUSIVE does not. Ask `conflict`.
    """

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    def __str__(self) -> str:
        return self.name.replace("_", " ")

    @property
    def pg_name(self) -> str:
        """The name in pg_locks: `ShareUpdateExclusiveLock`."""
        return self.name.title().replace("_", "") + "Lock"


_M = LockMode

CONFLICTS: Mapping[LockMode, frozenset[LockMode]] = {
    _M.ACCESS_SHARE: frozenset({_M.ACCESS_EXCLUSIVE}),
    _M.ROW_SHARE: frozenset({_M.EXCLUSIVE, _M.ACCESS_EXCLUSIVE}),
    _M.ROW_EXCLUSIVE: frozenset({_M.SHARE, _M.SHARE_ROW_EXCLUSIVE, _M.EXCLUSIVE, _M.ACCESS_EXCLUSIVE}),
    _M.SHARE_UPDATE_EXCLUSIVE: frozenset(
        {_M.SHARE_UPDATE_EXCLUSIVE, _M.SHARE, _M.SHARE_ROW_EXCLUSIVE, _M.EXCLUSIVE, _M.ACCESS_EXCLUSIVE}
    ),
    _M.SHARE: frozenset(
        {_M.ROW_EXCLUSIVE, _M.SHARE_UPDATE_EXCLUSIVE, _M.SHARE_ROW_EXCLUSIVE, _M.EXCLUSIVE, _M.ACCESS_EXCLUSIVE}
    ),
    _M.SHARE_ROW_EXCLUSIVE: frozenset(_M) - {_M.ACCESS_SHARE, _M.ROW_SHARE},
    _M.EXCLUSIVE: frozenset(_M) - {_M.ACCESS_SHARE},
    _M.ACCESS_EXCLUSIVE: frozenset(_M),
}


def conflict(one: LockMode, other: LockMode) -> bool:
    """Return whether two transactions cannot hold these locks on one table at the same time."""
    return other in CONFLICTS[one]


def strongest(modes: Iterable[LockMode]) -> tuple[LockMode, ...]:
    """Return the modes that matter: without those that block nothing which another one of them does not block too."""
    distinct = sorted(set(modes))
    return tuple(mode for mode in distinct if not any(CONFLICTS[mode] < CONFLICTS[other] for other in distinct))


class LockTarget(enum.Enum):
    """What a lock is on, seen from the relation that the SQL names."""

    RELATION = "the relation"
    TABLE_OF_INDEX = "the table of the index"
    INDEXES_OF_TABLE = "the indexes of the table"


class RelationLock(Struct, frozen=True, kw_only=True):
    """A lock that a statement takes; `offset` is where the relation is named, in characters.

    A lock on INDEXES_OF_TABLE in ACCESS EXCLUSIVE stops nearly every query on the table too: the planner opens each
    index. Hence plain REINDEX blocks reads, although it holds only SHARE on the table.
    """

    relation: Relation
    mode: LockMode
    offset: int
    target: LockTarget = LockTarget.RELATION
