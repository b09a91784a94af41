"""Reading what a worker has sent: its notices, and whatever rows stand between it and its end (extension note 4).

Reading consumes: the handle is free afterwards, also if the reading fails once it has begun.
"""

from __future__ import annotations

import json

from runner.gateway.base import LaunchRequest
from runner.gateway.output import NoticeCollector, discards_rows
from runner.gateway.session import Reply, Session
from runner.gateway.settings import description_settings

#: pid and cookie as the extension gave them, and the role that may ask about the worker.
Handle = tuple[str, str, str]


async def drain(session: Session, handle: Handle, notices: NoticeCollector, columns: str = "") -> tuple[Reply, float]:
    """Read everything until the worker has gone; return its command tags, and the server's time then.

    With `columns`, which are those of the rows that it sends, the number of rows takes the place of the tags. A reply
    with an error is the worker's own or the reading's (`output.is_workers_own`).
    """
    session.on_notice = notices
    try:
        reply, now = await session.run((f"drain_rows:{columns}" if columns else "drain", handle), ("now", ()))
    finally:
        session.on_notice = None
    return reply, float(now.rows[0][0] or 0.0) if now.rows else 0.0


async def row_columns(session: Session, request: LaunchRequest) -> str:
    """Return the column definition list of the rows that the worker sends, empty if it sends none.

    That is CALL of a procedure with OUT parameters, and SQL that the parser does not know; all other rows stay in the
    worker. Asked in the worker's own settings, and never for long: the worker may hold the locks that it takes.
    """
    if discards_rows(request.sql):
        return ""
    settings = description_settings(request, session.search_path)
    described = await session.describe(("settings", (settings,)), request.sql)
    if described.error is not None or not described.columns:
        return ""
    (reply,) = await session.run(("columns", (json.dumps([column.type for column in described.columns]),)))
    return (reply.rows[0][0] or "") if reply.rows else ""


async def is_free(session: Session) -> bool:
    """Say whether the session tracks no worker any longer."""
    (reply,) = await session.run(("load", ()))
    return bool(reply.rows) and reply.rows[0][0] == "0"
