"""What a worker's end says: its outcome, its error with every detail and place, its command tag or its rows.

Apart from how a worker is followed until then (`worker.py`), because the order counts here: the outcome is known before
anything is consumed, and a session that is lost while the rest is read takes nothing of it along.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from runner.engine.events import ErrorDetails
from runner.engine.limits import limited_error
from runner.errors import ServerLostError
from runner.gateway.base import LaunchRequest, WorkerEnd
from runner.gateway.draining import Handle, RowColumns, describe_rows, drain, is_free, read_rows, void_rows
from runner.gateway.output import discards_rows, is_workers_own, own_tag, plan_position, statement_tag
from runner.gateway.replies import Reply, Row
from runner.gateway.session import Session


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
    """Return what a worker that has ended says, and whether the session is free; the notices are fetched with it.

    `row` has the outcome, `drained` the output if that was read with it; `role` may ask about the worker, `first` comes
    before the plan's own text in its. `described` are the columns of its rows as they were before it was launched, for
    the case that they cannot be described any more.
    """
    handle = (row[0] or "", row[1] or "", role)
    _, _, _, row_count, tag, has_error, started, finished = row[:8]
    proven = finished is not None and bool(tag)
    error = result = None
    free = False
    if discards_rows(request):
        tag = row_count = None  # those of the marker
    with contextlib.suppress(ServerLostError):
        if has_error == "t":
            error = ErrorDetails(message="the worker failed, and its session was lost before it could say why")
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
            result = void_rows(columns, min(request.rows, int(row_count or 0)))
        elif request.rows and error is None:
            result, _ = read_rows(drained, columns)
        else:
            tag, row_count = statement_tag(request, drained.rows, tag, row_count)
    end = WorkerEnd(
        proven=proven and error is None,
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
    """Return what the output says of a worker whose end came with it; `first` as for `read_end`."""
    tag: str | None = None
    row_count: int | str | None = None
    result = None
    if request.rows:
        result, row_count = read_rows(reply, columns)
    elif not columns.definitions:
        tag, row_count = statement_tag(request, reply.rows, None, None)
    return WorkerEnd(
        proven=reply.error is None and bool(tag or columns.definitions),
        error=_placed(reply.error, reply, request, first),
        command_tag=tag or "",
        row_count=None if row_count is None else int(row_count),
        started_at=None if started is None else float(started),
        finished_at=finished,
        result=result,
    )


async def _read_error(session: Session, handle: Handle) -> ErrorDetails:
    (reply,) = await session.run(("error", handle))
    if reply.error is not None or not reply.rows:
        return reply.error or ErrorDetails(message="the worker failed, and the server has forgotten how")
    sqlstate, message, *rest = reply.rows[0]
    detail, hint, context, schema, table, column, constraint = rest
    found = ErrorDetails(
        message=message or "",
        sqlstate=sqlstate,
        detail=detail,
        hint=hint,
        context=context,
        schema=schema,
        table=table,
        column=column,
        constraint=constraint,
    )
    return limited_error(found)


def _placed(error: ErrorDetails | None, raised: Reply, request: LaunchRequest, first: str) -> ErrorDetails | None:
    """Add the place in the plan's text, which only the error has that comes with the worker's output."""
    if error is None or raised.error is None or raised.position is None or not is_workers_own(raised.error):
        return error
    return replace(error, position=plan_position(request, first, raised.position))
