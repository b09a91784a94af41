"""What a statement gives back that a plan can look at: rows, a number of rows, or neither."""

from __future__ import annotations

from runner.sql.kinds import StatementKind
from runner.sql.parse import Statement, returns_rows

_K = StatementKind

# Their command tags end in a number.
_COUNT = frozenset(
    {
        *(_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.COPY_FROM, _K.COPY_TO),
        *(_K.FETCH, _K.MOVE, _K.EXECUTE, _K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW),
        *(_K.REFRESH_MATERIALIZED_VIEW, _K.CALL),
    }
)
_RETURNING = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE})
_OF_SESSION = frozenset({_K.EXECUTE, _K.FETCH})


def rows_out_of_reach(statement: Statement) -> str | None:
    """Say why the rows of the statement cannot be read, None if they can, or if it has none.

    The columns must be known before the worker starts, and those of a prepared statement or a cursor are known only in
    the session that has it.
    """
    if statement.kind in _OF_SESSION:
        return f"the columns of {statement.kind} are known only while the worker runs"
    return None


def no_rows_to_read(statement: Statement) -> str | None:
    """Say why there is no row to look at, None if there may be one; CALL may give one."""
    name = "this statement" if statement.kind is _K.OTHER else str(statement.kind)
    if statement.kind is _K.CALL or returns_rows(statement):
        return rows_out_of_reach(statement)
    return f"{name} returns none without RETURNING" if statement.kind in _RETURNING else f"{name} returns none"


def no_row_count(statement: Statement) -> str | None:
    """Say why nobody knows how many rows the statement was about, None if the server says so."""
    if statement.kind in _COUNT:
        return None
    name = "this statement" if statement.kind is _K.OTHER else str(statement.kind)
    return f"{name} reports none"
