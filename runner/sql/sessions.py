"""Statements whose whole effect ends with their session: a worker's session ends with the text of its step.

Settings, advisory locks, temporary objects, prepared statements, cursors: a step that does nothing else does nothing
for the steps after it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from runner.sql.details import is_temporary
from runner.sql.effects import Effect, effect, effect_of_call
from runner.sql.facts import created_index, created_relations, functions_called
from runner.sql.kinds import StatementKind
from runner.sql.nodes import walk
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of
from runner.sql.transactions import is_session_only

_K = StatementKind


class SessionState(enum.Enum):
    """What a statement leaves in its session, in the words of a sentence that begins with the step."""

    SETTINGS = "changes settings"
    LOCK = "takes locks"
    TEMPORARY = "makes temporary objects"
    PREPARED = "prepares statements"
    CURSOR = "opens or reads cursors"
    OTHER = "changes its session"


_OF_KIND = {
    **dict.fromkeys((_K.SET, _K.RESET, _K.SET_TRANSACTION, _K.SET_CONSTRAINTS, _K.LOAD), SessionState.SETTINGS),
    **dict.fromkeys((_K.PREPARE, _K.DEALLOCATE), SessionState.PREPARED),
    **dict.fromkeys((_K.DECLARE_CURSOR, _K.FETCH, _K.MOVE, _K.CLOSE), SessionState.CURSOR),
    _K.LOCK: SessionState.LOCK,
}
_CREATES = frozenset({_K.CREATE_TABLE, _K.CREATE_TABLE_AS, _K.SELECT_INTO, _K.CREATE_VIEW, _K.CREATE_SEQUENCE})
_CHANGES_ROWS = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE})
_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_ADVISORY = ("pg_advisory_", "pg_try_advisory_")


def session_state(statements: Sequence[Statement]) -> SessionState | None:
    """Return what a text leaves in its session if it does nothing else but read; None if it does."""
    found: SessionState | None = None
    own: frozenset[Relation] = frozenset()
    for statement in statements:
        state = state_of(statement, own)
        if state is None and effect(statement) is not Effect.READS:
            return None
        if state is SessionState.TEMPORARY and statement.kind in _CREATES:
            own |= frozenset(created_relations(statement))
        found = found or state
    return None if _waits(statements) else found


def state_of(statement: Statement, own: frozenset[Relation] = frozenset()) -> SessionState | None:
    """Return what one statement leaves in its session; None if it does more. `own` are the text's temporary tables."""
    if is_session_only(statement):
        return _OF_KIND.get(statement.kind, SessionState.OTHER)
    if statement.kind is _K.SELECT:
        return _of_query(statement)
    if not _is_of_temporary(statement, own):
        return None
    calls = (effect_of_call(call) for call in functions_called(statement))
    return SessionState.TEMPORARY if all(found is Effect.READS for found in calls) else None


def _is_of_temporary(statement: Statement, own: frozenset[Relation]) -> bool:
    """Say whether the statement creates something temporary, or changes one of the text's `own` temporary tables."""
    if statement.kind in _CREATES:
        return is_temporary(statement)
    if not own:
        return False
    index = created_index(statement)
    if index is not None:
        return index.table in own
    if statement.kind not in _CHANGES_ROWS or relation_of(statement.node.relation) not in own:
        return False
    writes = sum(node.DESCRIPTOR.name in _WRITES for node in walk(statement.node))
    return writes <= 1


def _of_query(statement: Statement) -> SessionState | None:
    """A query that takes advisory locks or sets settings by a function, and otherwise reads."""
    names = [call.name for call in functions_called(statement) if effect_of_call(call) is not Effect.READS]
    if any(node.DESCRIPTOR.name in {*_WRITES, "LockingClause"} for node in walk(statement.node)):
        return None
    if names and all(name.startswith(_ADVISORY) for name in names):
        return SessionState.LOCK
    return SessionState.SETTINGS if names and set(names) == {"set_config"} else None


def _waits(statements: Sequence[Statement]) -> bool:
    """Say whether a text holds what it has for some time, which may be its purpose."""
    return any(call.name.startswith("pg_sleep") for each in statements for call in functions_called(each))
