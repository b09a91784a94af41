"""What a failed attempt leaves behind: the statements that a rollback does not take back.

A worker's text is one transaction, so a failed text has no effect and can be run again. These are the exceptions.
"""

from __future__ import annotations

from runner.sql.details import main_relation
from runner.sql.facts import functions_called
from runner.sql.kinds import StatementKind
from runner.sql.options import is_concurrent
from runner.sql.parse import Statement
from runner.sql.transactions import must_stand_alone

_K = StatementKind

_COPY = frozenset({_K.COPY_FROM, _K.COPY_TO})
_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS})

#: Functions that act outside the transaction: in another session, in a file.
_OUTSIDE = frozenset(
    {
        *("dblink_exec", "dblink_send_query", "lo_export", "pg_file_write", "pg_file_unlink", "pg_file_rename"),
        *("pg_background_launch", "pg_background_submit"),
    }
)


def outlives_rollback(statement: Statement) -> str | None:
    """Return what a failed attempt leaves behind that changes the effect of a second one, None if nothing.

    CALL counts, because only the server knows whether the procedure commits.
    """
    kind = statement.kind
    if kind is _K.CREATE_INDEX and is_concurrent(statement):
        return "a failed CREATE INDEX CONCURRENTLY leaves an INVALID index that has the name"
    if kind is _K.ALTER_TABLE and is_concurrent(statement):
        return f"a failed DETACH … CONCURRENTLY leaves the partition of `{main_relation(statement)}` half detached"
    if kind is _K.CALL or (kind is _K.DO and must_stand_alone(statement) is not None):
        return f"what the {'procedure' if kind is _K.CALL else 'DO block'} committed before it failed stays"
    if kind in _COPY and statement.node.is_program:
        return f"{kind} PROGRAM has run its program, whatever becomes of the transaction"
    called = functions_called(statement) if kind in _QUERIES else ()
    outside = next((call.name for call in called if call.name in _OUTSIDE), None)
    return f"what {outside}() does is outside of the transaction" if outside is not None else None
