"""The table locks that a statement takes, as far as its text shows.

Sources: "Explicit Locking" and each command's page in the PostgreSQL documentation; integration tests compare
them with a server of version 18. What only the server knows is not here: partitions and children, tables of views and
foreign keys of existing tables, what CASCADE reaches, and what functions, DO, CALL and EXECUTE run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import LockMode, RelationLock, Target, strongest
from runner.sql.nodes import find, label, strings, unwrap
from runner.sql.options import enabled, is_concurrent
from runner.sql.parse import Statement
from runner.sql.relations import Relation
from runner.sql.takers import TAKERS

_M = LockMode
_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A lock on every table of a schema, or of the database if `schema` is None, one after the other or all at once."""

    mode: LockMode
    schema: str | None = None


def locks_taken(statement: Statement) -> tuple[RelationLock, ...]:
    """Return the locks on relations that the statement names, without those that another one of them covers."""
    taker = TAKERS.get(statement.kind)
    if taker is None:
        return ()
    modes: dict[tuple[Relation, Target], list[RelationLock]] = defaultdict(list)
    for lock in taker(statement):
        modes[lock.relation, lock.target].append(lock)
    kept = (lock for same in modes.values() for lock in _strongest_of(same))
    return tuple(sorted(kept, key=lambda lock: (lock.offset, lock.target.value)))


def sweeping_lock(statement: Statement) -> Sweep | None:
    """Return the lock of a command that visits all tables of a schema or database without naming them."""
    node = statement.node
    match statement.kind:
        case _K.VACUUM | _K.ANALYZE if not node.rels:
            return Sweep(mode=_M.ACCESS_EXCLUSIVE if enabled(statement, "full") else _M.SHARE_UPDATE_EXCLUSIVE)
        case _K.CLUSTER if not node.HasField("relation"):
            return Sweep(mode=_M.ACCESS_EXCLUSIVE)
        case _K.REINDEX if not node.HasField("relation"):
            mode = _M.SHARE_UPDATE_EXCLUSIVE if is_concurrent(statement) else _M.SHARE
            schema = label(node, "kind") == "REINDEX_OBJECT_SCHEMA"
            return Sweep(mode=mode, schema=node.name if schema else None)
        case _K.DROP_SCHEMA:
            name = strings(node.objects)[0] if len(node.objects) == 1 else None
            return Sweep(mode=_M.ACCESS_EXCLUSIVE, schema=name)
        case _K.MOVE_ALL | _K.DROP_OWNED | _K.REASSIGN_OWNED:
            return Sweep(mode=_M.ACCESS_EXCLUSIVE)
    return None


def is_opaque(statement: Statement) -> bool:
    """Return whether the statement runs SQL that its text does not show: DO, CALL, EXECUTE."""
    inner = statement.node
    if statement.kind is _K.EXPLAIN and enabled(statement, "analyze"):
        inner = unwrap(statement.node.query)
    return any(next(find(inner, name), None) is not None for name in ("DoStmt", "CallStmt", "ExecuteStmt"))


def _strongest_of(locks: list[RelationLock]) -> Iterator[RelationLock]:
    for mode in strongest(lock.mode for lock in locks):
        yield next(lock for lock in locks if lock.mode is mode)
