"""The output of a worker: rows, command tags, notices, and its end with every detail of an error.

Reading consumes: the handle is freed, even if the reading fails after it has begun. So the outcome is read before
anything is consumed, and the loss of the session during the rest does not lose it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from runner.engine.events import WARNING, ErrorDetails, Notice, Rows
from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.size_limits import limited_error
from runner.engine.worker_text import (
    discards_rows,
    is_rewritten,
    last_statement,
    names_set,
    own_tag,
    plan_position,
    row_columns_as_text,
    statement_tag,
)
from runner.errors import ServerLostError
from runner.gateway.replies import Reply, Row, read_row
from runner.gateway.session import Session
from runner.gateway.transaction_settings import description_settings
from runner.structs import Struct, replace

#: The limit for the notices of each attempt, in bytes.
NOTICE_CAP = 65_536


class NoticeCollector:
    """Keeps notices up to `NOTICE_CAP` bytes, and WARNINGs up to the same limit, and counts the rest.

    So the output of VERBOSE or RAISE NOTICE does not displace WARNINGs.
    """

    def __init__(self) -> None:
        self.kept: list[Notice] = []
        self.dropped = 0
        self.warnings = 0
        self._bytes = {True: 0, False: 0}

    def __call__(self, notice: Notice) -> None:
        """Add one notice."""
        warns = notice.severity == WARNING
        self.warnings += warns
        texts = (notice.message, notice.detail or "", notice.hint or "")
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if self._bytes[warns] + size > NOTICE_CAP:
            self.dropped += 1
            return
        self._bytes[warns] += size
        self.kept.append(notice)


def is_workers_own(error: ErrorDetails) -> bool:
    """Return whether an error during the reading of the output is the worker's: the extension marks those."""
    return "background worker, pid" in (error.context or "")


#: pid and cookie as the extension returned them, and the role that may query the worker.
Handle = tuple[str, str, str]
#: The OID of pg_catalog.void.
_VOID = 2278


class RowColumns(Struct, frozen=True, kw_only=True):
    """The columns of a worker's rows: their names, and a column definition list with exact types.

    Without definitions it sends no rows, or `problem` says why they cannot be read. Rows with only `void` columns
    cannot be read either, but they have no content.
    """

    names: tuple[str, ...] = ()
    definitions: str = ""
    void: bool = False
    problem: str | None = None


async def drain(
    session: Session,
    handle: Handle,
    columns: RowColumns | None = None,
    *,
    rows: int = 0,
    answer_within: float | None = None,
) -> tuple[Reply, float]:
    """Read the output until the worker has ended; return its command tags, and the server's time then.

    With `columns`, the columns of the rows that it sends, the number of rows is returned instead of the tags; with
    `rows`, that many rows are returned, too. An error in the reply is the worker's or one of the reading
    (`is_workers_own`).
    """
    definitions = columns.definitions if columns is not None else ""
    statement: tuple[str, Sequence[str]] = ("drain", handle)
    if definitions:
        statement = (
            (f"read_rows:{definitions}", (*handle, str(rows))) if rows else (f"drain_rows:{definitions}", handle)
        )
    reply, now = await session.run(statement, ("now", ()), answer_within=answer_within)
    return reply, float(now.rows[0][0] or 0.0) if now.rows else 0.0


async def describe_rows(session: Session, request: LaunchRequest) -> RowColumns:
    """Return the columns of the rows that the worker sends.

    It sends the wanted rows, the row of CALL of a procedure with OUT parameters, and those of SQL that the parser does
    not know; all others stay in the worker. The query uses the worker's settings and a short lock_timeout, because the
    worker may hold the locks that it needs.
    """
    if discards_rows(request) or is_rewritten(request):
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
        problem = f"column {name} is of type {pseudo_type}, which cannot be read from a worker; cast it, e.g. to text"
        return RowColumns(names=names, problem=problem)
    return RowColumns(names=names, definitions=definitions)


def _void_rows(columns: RowColumns, count: int) -> Rows:
    """Return rows of `void`, which PostgreSQL writes as an empty string."""
    return Rows(columns=columns.names, rows=(("",) * len(columns.names),) * count)


def read_rows(reply: Reply, columns: RowColumns) -> tuple[Rows, int | None]:
    """Return the rows that `drain` read, and their total number if known."""
    problem = columns.problem or (reply.error.message if reply.error is not None else None)
    if problem is not None:
        return Rows(columns=columns.names, problem=problem), None
    if not columns.definitions:
        return Rows(), None
    total = int(reply.rows[0][-1] or 0) if reply.rows else 0
    cut = sum(int(row[-2] or 0) for row in reply.rows)
    return Rows(columns=columns.names, rows=tuple(row[:-2] for row in reply.rows), cut=cut or None), total


async def handles(session: Session) -> tuple[int, int]:
    """Return the number of workers that the session tracks, and the number that it has launched in total."""
    (reply,) = await session.run(("load", ()))
    active, launched = reply.rows[0] if reply.rows else (None, None)
    return int(active or 0), int(launched or 0)


async def is_free(session: Session) -> bool:
    """Return whether the session tracks no worker any more."""
    return (await handles(session))[0] == 0


async def read_end(
    session: Session,
    request: LaunchRequest,
    row: Row,
    drained: Reply | None,
    *,
    role: str,
    first: str,
    described: RowColumns,
) -> tuple[WorkerEnd, bool]:
    """Return the result of a worker that has ended, and whether the session is free; fetches the notices, too.

    `row` has the outcome, `drained` the output if it was read with it; `role` may query the worker, `first` precedes
    the plan's text. `described` are the columns of its rows before the launch, in case they cannot be described any
    more.
    """
    handle = (row[0] or "", row[1] or "", role)
    _, _, _, row_count, tag, has_error, started, finished = row[:8]
    confirmed = finished is not None and bool(tag)
    error = result = None
    free = False
    if discards_rows(request):
        tag = row_count = None  # those of the marker
    with contextlib.suppress(ServerLostError):
        if has_error == "t":
            error = ErrorDetails(message="the worker failed, and its session was lost before the error could be read")
            error = await _read_error(session, handle)
        columns = RowColumns()
        if request.rows and error is None:
            columns = await describe_rows(session, request)
            columns = described if columns.problem is not None and described.problem is None else columns
        drained = drained or (await drain(session, handle, columns, rows=request.rows))[0]
        free = drained.error is None or await is_free(session)
        if drained.error is not None and error is None and is_workers_own(drained.error):
            error = drained.error
        error = _placed(error, drained, request, first)
        if columns.void:
            result = _void_rows(columns, min(request.rows, int(row_count or 0)))
        elif request.rows and error is None:
            result, _ = read_rows(drained, columns)
        else:
            tag, row_count = statement_tag(request, drained.rows, tag, row_count)
    end = WorkerEnd(
        confirmed=confirmed and error is None,
        error=error,
        command_tag=own_tag(request, tag) or "",
        row_count=None if row_count is None else int(row_count),
        started_at=None if started is None else float(started),
        finished_at=None if finished is None else float(finished),
        result=result,
    )
    return end, free


def end_by_output(
    reply: Reply, columns: RowColumns, request: LaunchRequest, *, first: str, started: str | None, finished: float
) -> WorkerEnd:
    """Return the result of a worker whose end came with its output; `first` as for `read_end`."""
    tag: str | None = None
    row_count: int | str | None = None
    result = None
    if request.rows:
        result, row_count = read_rows(reply, columns)
    elif not columns.definitions:
        tag, row_count = statement_tag(request, reply.rows, None, None)
    return WorkerEnd(
        confirmed=reply.error is None and bool(tag or columns.definitions),
        error=_placed(reply.error, reply, request, first),
        command_tag=tag or ("" if request.carry is None else request.carry.tag),
        row_count=None if row_count is None else int(row_count),
        started_at=None if started is None else float(started),
        finished_at=finished,
        result=result,
    )


async def _read_error(session: Session, handle: Handle) -> ErrorDetails:
    (reply,) = await session.run(("error", handle))
    if reply.error is not None or not reply.rows:
        return reply.error or ErrorDetails(message="the worker failed, and the server no longer has its error")
    sqlstate, message, *rest = reply.rows[0]
    return limited_error(read_row(ErrorDetails, (message, sqlstate, *rest)))


def _placed(error: ErrorDetails | None, raised: Reply, request: LaunchRequest, first: str) -> ErrorDetails | None:
    """Add the position in the plan's text, which only the error in the worker's output has."""
    if error is None or raised.error is None or raised.position is None or not is_workers_own(raised.error):
        return error
    return replace(error, position=plan_position(request, first, raised.position))
