"""Whether a statement only reads: a cautious guess, because a function can do anything."""

from __future__ import annotations

import enum

from runner.sql.facts import FunctionCall, function_call
from runner.sql.functions import READER_PREFIXES, READERS, RUNS_SQL_PREFIXES, WRITER_PREFIXES, WRITERS
from runner.sql.kinds import StatementKind, kind_of
from runner.sql.nodes import unwrap, walk
from runner.sql.options import enabled
from runner.sql.parse import Statement

_K = StatementKind


class Effect(enum.Enum):
    """What is known of a statement's effect on data."""

    READS = "only reads"
    WRITES = "writes"
    UNKNOWN = "may write"


def effect(statement: Statement) -> Effect:
    """Return READS only if every called function is known to read only, WRITES only if a part certainly writes.

    Row locks (FOR UPDATE) count as writing, as they do in a read-only transaction.
    """
    node = statement.node
    match statement.kind:
        case _K.SHOW | _K.SET | _K.RESET | _K.SET_TRANSACTION:
            return Effect.READS
        case _K.EXPLAIN:
            return _explained(statement) if enabled(statement, "analyze") else Effect.READS
        case _K.SELECT | _K.DECLARE_CURSOR:
            return _of_query(statement)
        case _K.COPY_TO:
            return _of_query(statement) if not node.filename else Effect.WRITES
        case _K.CALL | _K.DO | _K.EXECUTE | _K.FETCH | _K.MOVE | _K.PREPARE:
            return Effect.UNKNOWN
    return Effect.WRITES


_WRITING_NODES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "LockingClause", "IntoClause"})


def _explained(statement: Statement) -> Effect:
    inner = Statement(
        kind=kind_of(statement.node.query),
        start=statement.start,
        end=statement.end,
        node=unwrap(statement.node.query),
        at=statement.at,
    )
    return effect(inner)


def _of_query(statement: Statement) -> Effect:
    found = Effect.READS
    for node in walk(statement.node):
        name = node.DESCRIPTOR.name
        of_node = effect_of_call(function_call(statement, node)) if name == "FuncCall" else Effect.READS
        if name in _WRITING_NODES or of_node is Effect.WRITES:
            return Effect.WRITES
        if of_node is Effect.UNKNOWN:
            found = of_node
    return found


def effect_of_call(call: FunctionCall) -> Effect:
    """Return what is known of one call by the function's name alone."""
    builtin = call.schema in {None, "pg_catalog"}
    if builtin and (call.name in WRITERS or call.name.startswith(WRITER_PREFIXES)):
        return Effect.WRITES
    if call.schema == "pg_catalog" and not call.name.startswith(RUNS_SQL_PREFIXES):
        return Effect.READS
    known = call.name in READERS or call.name.startswith(READER_PREFIXES)
    return Effect.READS if call.schema is None and known else Effect.UNKNOWN
