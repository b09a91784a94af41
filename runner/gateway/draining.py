"""Reading what a worker has sent: its notices, and whatever rows stand between it and its end
(pg_background.md#full-output-queue).

Reading consumes: the handle is free afterwards, also if the reading fails once it has begun.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from runner.engine.events import Rows
from runner.gateway.base import LaunchRequest
from runner.gateway.output import discards_rows, last_statement, names_set, row_columns_as_text
from runner.gateway.replies import Reply
from runner.gateway.session import Session
from runner.gateway.settings import description_settings

#: pid and cookie as the extension gave them, and the role that may ask about the worker.
Handle = tuple[str, str, str]
#: The OID of pg_catalog.void.
_VOID = 2278


@dataclass(frozen=True, slots=True, kw_only=True)
class RowColumns:
    """The columns of the rows that a worker sends: their names, and a column definition list with exact types.

    No definitions: it sends no rows, or `problem` says why they cannot be read. Rows of nothing but `void` cannot be
    read either, but there is nothing to read in them.
    """

    names: tuple[str, ...] = ()
    definitions: str = ""
    void: bool = False
    problem: str | None = None


async def drain(
    session: Session, handle: Handle, columns: RowColumns | None = None, *, rows: int = 0, patience: float | None = None
) -> tuple[Reply, float]:
    """Read everything until the worker has gone; return its command tags, and the server's time then.

    With `columns`, which are those of the rows that it sends, the number of rows takes the place of the tags; with
    `rows` so many of them come before it, in one row each. A reply with an error is the worker's own or the reading's
    (`output.is_workers_own`).
    """
    definitions = columns.definitions if columns is not None else ""
    statement: tuple[str, Sequence[str]] = ("drain", handle)
    if definitions:
        statement = (
            (f"read_rows:{definitions}", (*handle, str(rows))) if rows else (f"drain_rows:{definitions}", handle)
        )
    reply, now = await session.run(statement, ("now", ()), patience=patience)
    return reply, float(now.rows[0][0] or 0.0) if now.rows else 0.0


async def describe_rows(session: Session, request: LaunchRequest) -> RowColumns:
    """Return the columns of the rows that the worker sends.

    It sends those that are wanted, those of CALL of a procedure with OUT parameters, and those of SQL that the parser
    does not know; all others stay in the worker. Asked in the worker's own settings, and never for long: the worker may
    hold the locks that it takes.
    """
    if discards_rows(request) or request.as_text:
        as_text = row_columns_as_text(request)
        texts = ", ".join(f"c{number} pg_catalog.text" for number, _ in enumerate(as_text))
        return RowColumns(names=as_text, definitions=texts)
    settings = description_settings(request, session.search_path, names_set(request.sql))
    described = await session.describe(("settings", (settings,)), last_statement(request.sql))
    if described.error is not None:
        return RowColumns(problem=described.error.message)
    if not described.columns:
        return RowColumns()
    names = tuple(column.name for column in described.columns)
    if all(column.type == _VOID for column in described.columns):
        return RowColumns(names=names, void=True)
    (reply,) = await session.run(("columns", (json.dumps([column.type for column in described.columns]),)))
    definitions, place, pseudo_type = reply.rows[0] if reply.rows else (None, None, None)
    if definitions is None:
        name = names[int(place) - 1] if place is not None else names[0]
        problem = f"column {name} is of type {pseudo_type}, which cannot be read from a worker; cast it, say to text"
        return RowColumns(names=names, problem=problem)
    return RowColumns(names=names, definitions=definitions)


def void_rows(columns: RowColumns, count: int) -> Rows:
    """Return rows of `void`, which PostgreSQL writes as an empty string."""
    return Rows(columns=columns.names, rows=(("",) * len(columns.names),) * count)


def read_rows(reply: Reply, columns: RowColumns) -> tuple[Rows, int | None]:
    """Return the rows that `drain` read, and how many there were altogether if that is known."""
    problem = columns.problem or (reply.error.message if reply.error is not None else None)
    if problem is not None:
        return Rows(columns=columns.names, problem=problem), None
    if not columns.definitions:
        return Rows(), None
    total = int(reply.rows[0][-1] or 0) if reply.rows else 0
    cut = sum(int(row[-2] or 0) for row in reply.rows)
    return Rows(columns=columns.names, rows=tuple(row[:-2] for row in reply.rows), cut=cut or None), total


async def handles(session: Session) -> tuple[int, int]:
    """Return how many workers the session tracks, and how many it has ever launched."""
    (reply,) = await session.run(("load", ()))
    active, launched = reply.rows[0] if reply.rows else (None, None)
    return int(active or 0), int(launched or 0)


async def is_free(session: Session) -> bool:
    """Say whether the session tracks no worker any longer."""
    return (await handles(session))[0] == 0
