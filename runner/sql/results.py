"""What a statement gives back: rows, a number of rows, or neither."""

from __future__ import annotations

from runner.sql.kinds import StatementKind
from runner.sql.parse import Statement, returns_rows

_K = StatementKind

_COUNT = frozenset(
    {
        *(_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.COPY_FROM, _K.COPY_TO),
        *(_K.FETCH, _K.MOVE, _K.EXECUTE, _K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW, _K.CALL),
    }
)


def may_return_rows(statement: Statement) -> bool:
    """Return whether the statement can give rows; CALL does if the procedure has OUT parameters."""
    return statement.kind is _K.CALL or returns_rows(statement)


def may_count_rows(statement: Statement) -> bool:
    """Return whether the server can say how many rows it was: its command tag has a number, or there are rows."""
    return statement.kind in _COUNT or returns_rows(statement)
