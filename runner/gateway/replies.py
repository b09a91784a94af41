"""The replies of the server to a statement: rows of text, columns, or an error with its details.

`read_row` makes a Struct of a row, by the types of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, get_type_hints

from psycopg import pq

from runner.engine.events import ErrorDetails
from runner.engine.ports import QueryResult
from runner.engine.size_limits import limited_error
from runner.structs import Struct

Row = tuple[str | None, ...]

_DIAG = pq.DiagnosticField
#: The fields of `ErrorDetails` after the message, in order.
_ERROR_FIELDS = (
    *(_DIAG.SQLSTATE, _DIAG.MESSAGE_DETAIL, _DIAG.MESSAGE_HINT, _DIAG.CONTEXT),
    *(_DIAG.SCHEMA_NAME, _DIAG.TABLE_NAME, _DIAG.COLUMN_NAME, _DIAG.CONSTRAINT_NAME),
)


class Column(Struct, frozen=True, kw_only=True):
    """A column of a result: its name, and the OID of its type."""

    name: str
    type: int


class Reply(Struct, frozen=True, kw_only=True):
    """The result of one statement: rows of text, or an error; `position` is its place in the statement, from 1."""

    rows: tuple[Row, ...] = ()
    columns: tuple[Column, ...] = ()
    error: ErrorDetails | None = None
    position: int | None = None


#: The OID of pg_catalog.bool.
_BOOLEAN = 16


def is_boolean(columns: Sequence[Column]) -> bool:
    """Return whether a result has one column, which is a boolean."""
    return len(columns) == 1 and columns[0].type == _BOOLEAN


def query_result(reply: Reply) -> QueryResult:
    """Return the reply to a query of the plan."""
    names = tuple(column.name for column in reply.columns)
    return QueryResult(columns=names, rows=reply.rows, boolean=is_boolean(reply.columns), error=reply.error)


def first_error(replies: Sequence[Reply]) -> ErrorDetails | None:
    """Return the error that ended a transaction, if one did; the replies after it only say that it was aborted."""
    return next((reply.error for reply in replies if reply.error is not None), None)


def last_or_error(replies: Sequence[Reply]) -> Reply:
    """Return the last reply of a transaction, or the error that prevented it."""
    return next((reply for reply in replies if reply.error is not None), replies[-1])


def columns_of(result: pq.abc.PGresult) -> tuple[Column, ...]:
    """Describe the columns of a result."""

    def column(number: int) -> Column:
        name = (result.fname(number) or b"").decode("utf-8", "replace")
        return Column(name=name, type=result.ftype(number))

    return tuple(column(number) for number in range(result.nfields))


def rows_of(result: pq.abc.PGresult) -> tuple[Row, ...]:
    """Return the rows of a result; invalid UTF-8 is replaced."""
    value, columns = result.get_value, range(result.nfields)
    return tuple(
        tuple([None if (data := value(row, column)) is None else data.decode("utf-8", "replace") for column in columns])
        for row in range(result.ntuples)
    )


_Kind = TypeVar("_Kind", bound=Struct)
#: How the text of a value is read, by the type of its field. For a field that cannot be None, NULL is empty.
_READ: Mapping[Any, Callable[[str | None], Any]] = {
    str: lambda text: text or "",
    int: lambda text: int(text or 0),
    float: lambda text: float(text or 0.0),
    bool: lambda text: text == "t",
    str | None: lambda text: text,
    int | None: lambda text: None if text is None else int(text),
    float | None: lambda text: None if text is None else float(text),
}


def read_row(kind: type[_Kind], row: Sequence[str | None], **given: object) -> _Kind:
    """Return a row as a Struct, whose first fields are the row's columns in order; `given` are other fields of it."""
    fields = ((name, type_) for name, type_ in _types_of(kind) if name not in given)
    return kind(**given, **{name: _READ[type_](text) for text, (name, type_) in zip(row, fields, strict=False)})


@cache
def _types_of(kind: type[Struct]) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a Struct in order, each with its type."""
    types = get_type_hints(kind)
    return tuple((name, types[name]) for name in kind.__struct_fields__)


def position_of(result: pq.abc.PGresult) -> int | None:
    """Return the place of an error in its statement, in characters from 1; None if the server sent none."""
    data = result.error_field(_DIAG.STATEMENT_POSITION)
    return int(data) if data else None


def error_details(result: pq.abc.PGresult) -> ErrorDetails:
    """Return the fields of a server error, long texts cut."""

    def field(code: pq.DiagnosticField) -> str | None:
        data = result.error_field(code)
        return data.decode("utf-8", "replace") if data else None

    message = field(_DIAG.MESSAGE_PRIMARY) or one_line(result.error_message.decode("utf-8", "replace"))
    return limited_error(read_row(ErrorDetails, (message, *map(field, _ERROR_FIELDS))))


def one_line(text: str) -> str:
    """Join the lines of a libpq message."""
    return " ".join(text.split())
