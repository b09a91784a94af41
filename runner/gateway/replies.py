"""What a session's statements gave, read from libpq's results: rows of text, columns, or the error with its details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import pq

from runner.engine.events import ErrorDetails
from runner.engine.limits import limited_error

Row = tuple[str | None, ...]

_DIAG = pq.DiagnosticField


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a result: its name, the OID of its type, and its type modifier."""

    name: str
    type: int
    modifier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one statement gave: rows of text, or an error; `position` is its place in the statement, counted from 1."""

    rows: tuple[Row, ...] = ()
    columns: tuple[Column, ...] = ()
    error: ErrorDetails | None = None
    position: int | None = None


def first_error(replies: Sequence[Reply]) -> ErrorDetails | None:
    """Return the error that ended a transaction, if one did; the replies after it only repeat that it has ended."""
    return next((reply.error for reply in replies if reply.error is not None), None)


def last_or_error(replies: Sequence[Reply]) -> Reply:
    """Return the last reply of a transaction, or the error that kept it from coming."""
    return next((reply for reply in replies if reply.error is not None), replies[-1])


def columns_of(result: pq.abc.PGresult) -> tuple[Column, ...]:
    """Describe the columns of a result."""

    def column(number: int) -> Column:
        name = (result.fname(number) or b"").decode("utf-8", "replace")
        return Column(name=name, type=result.ftype(number), modifier=result.fmod(number))

    return tuple(column(number) for number in range(result.nfields))


def rows_of(result: pq.abc.PGresult) -> tuple[Row, ...]:
    """Read the rows of a result, whatever encoding errors are in them."""
    value, columns = result.get_value, range(result.nfields)
    return tuple(
        tuple([None if (data := value(row, column)) is None else data.decode("utf-8", "replace") for column in columns])
        for row in range(result.ntuples)
    )


def position_of(result: pq.abc.PGresult) -> int | None:
    """Say where in its statement an error is, in characters counted from 1, if the server says so."""
    data = result.error_field(_DIAG.STATEMENT_POSITION)
    return int(data) if data else None


def error_details(result: pq.abc.PGresult) -> ErrorDetails:
    """Return what the server says of an error, long texts cut."""

    def field(code: pq.DiagnosticField) -> str | None:
        data = result.error_field(code)
        return data.decode("utf-8", "replace") if data else None

    found = ErrorDetails(
        message=field(_DIAG.MESSAGE_PRIMARY) or one_line(result.error_message.decode("utf-8", "replace")),
        sqlstate=field(_DIAG.SQLSTATE),
        detail=field(_DIAG.MESSAGE_DETAIL),
        hint=field(_DIAG.MESSAGE_HINT),
        context=field(_DIAG.CONTEXT),
        schema=field(_DIAG.SCHEMA_NAME),
        table=field(_DIAG.TABLE_NAME),
        column=field(_DIAG.COLUMN_NAME),
        constraint=field(_DIAG.CONSTRAINT_NAME),
    )
    return limited_error(found)


def one_line(text: str) -> str:
    """Put a message of libpq's, which may have several lines, on one."""
    return " ".join(text.split())
