"""The output of a worker: rows, command tags, notices, and its end with every detail of an error.

A worker stops forever when its output queue is full and no session reads it (docs/pg_background.md#full-output-queue),
and some rows cannot be read at all because their type has no name in a column list (void). So rows that the plan does
not need stay in the worker: a statement that returns rows is followed by one that does not, and then the extension
sends only its command tag (docs/decisions/0002). Another such statement separates the statements of a text, so that
each sees the effects of the previous one (docs/decisions/0008).

Reading consumes: the handle is freed, even if the reading fails after it has begun. So the outcome is read before
anything is consumed, and the loss of the session during the rest does not lose it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from runner.engine.events import WARNING, ErrorDetails, Notice, Rows
from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.size_limits import limited_error
from runner.errors import JobplanError, ServerLostError
from runner.gateway.session import Reply, Row, Session
from runner.gateway.transaction_settings import description_settings
from runner.identity import without_comment
from runner.sql.returned_rows import AsText, as_text, may_change_names, without_rewriting
from runner.sql.session_settings import assigned, settings_after
from runner.sql.statements import Statement, StatementKind, parse_statements, returns_rows
from runner.sql.transactions import (
    is_session_only,
    may_come_second,
    may_have_to_stand_alone,
    must_stand_alone,
    waits_for_transactions,
)
from runner.structs import Struct, replace

#: Documents its purpose in pg_stat_activity. SET needs no privilege, takes no lock and returns no row.
MARKER = "SET LOCAL jobplan.rows TO 'discarded'"

#: Separates two statements of a text. The extension gives both the same command number, so that the later one does not
#: see the changes of the previous one (docs/pg_background.md#statements-do-not-see-each-other). SET ends the command.
NEXT = "SET LOCAL jobplan.statement TO 'next'"
_BETWEEN = f"\n;{NEXT}"

#: The statements that `ledger_row` puts in front of a step's text.
_COMMIT_ROW = re.compile(
    r"""\AINSERT INTO "(?:[^"]|"")*"\.commits \(run, step, attempt, committed, proof\) """
    r"""VALUES \(.*?, true, '[0-9a-f]*'\);\n"""
    r"""SET LOCAL lock_timeout TO '[^']*';\n""",
    re.DOTALL,
)

#: Settings that change the meaning of names.
_NAMING = frozenset({"search_path", "role"})
#: The limit for the notices of each attempt, in bytes.
NOTICE_CAP = 65_536


#: Statements that can send rows because of a rule, COPY, and CALL. The marker follows such a statement if it returns
#: rows.
_MAY_SEND_ROWS = frozenset(
    {
        StatementKind.INSERT,
        StatementKind.UPDATE,
        StatementKind.DELETE,
        StatementKind.MERGE,
        StatementKind.COPY_FROM,
        StatementKind.COPY_TO,
        StatementKind.CALL,
    }
)


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


def discards_rows(request: LaunchRequest) -> bool:
    """Return whether the rows of the last statement must stay in the worker: it returns some, and the plan needs none.

    Rows of CALL are sent: a procedure that commits must be the only statement
    (docs/pg_background.md#one-statement-or-one-transaction). SQL that the parser does not know is not changed.
    """
    return not request.rows and _read(request.sql).gives_rows


def sends_no_rows(request: LaunchRequest) -> bool:
    """Return whether the worker certainly sends command tags only."""
    return not request.rows and _read(request.sql).tags_only


def cannot_send_rows(request: LaunchRequest) -> bool:
    """Return whether no rule and no COPY can make the worker send more than command tags: reading them cannot fail."""
    return not request.rows and _read(request.sql).nothing_else


def waits_for_snapshots(sql: str) -> bool:
    """Return whether a statement waits for older snapshots of the database; True if the parser does not know it."""
    return _read(sql).waits_for_snapshots


def last_statement(sql: str) -> str:
    """Return the text of the last statement; the whole text if the parser does not know it."""
    return _read(sql).last


def row_columns_as_text(request: LaunchRequest) -> tuple[str, ...]:
    """Return the column names of a last statement that is rewritten; empty if it is not."""
    form = _form(request.sql)[0] if request.as_text else None
    return form.columns if form is not None else ()


def can_be_text(sql: str) -> bool:
    """Return whether the last statement can be rewritten so that all its columns are text."""
    return _form(sql)[0] is not None


def must_be_text(sql: str) -> bool:
    """Return whether it must be: the statements before it may change how another session would describe it."""
    form, changes_names = _form(sql)
    return form is not None and changes_names


def own_tag(request: LaunchRequest, tag: str | None) -> str | None:
    """Return the command tag of the plan's last statement, even if it was rewritten."""
    form = _form(request.sql)[0] if request.as_text else None
    return tag if form is None or not tag else form.tag


@lru_cache(maxsize=256)
def names_set(sql: str) -> Mapping[str, str]:
    """Return the constant search_path and role that the text sets before its last statement."""
    try:
        statements = parse_statements(sql)
    except JobplanError:
        return {}
    found: tuple[tuple[str, str], ...] = ()
    for statement in statements[:-1]:
        found = settings_after(found, assigned(statement))
    return {name: value for name, value in found if name in _NAMING}


def takes_commit_row(sql: str, *, read_committed: bool) -> bool:
    """Return whether a statement that writes a row can precede the text in the worker's transaction without effects.

    False where there is no such transaction, or may be none: statements that must stand alone, CALL and DO; and before
    statements that must come first. `read_committed` is whether that is the isolation level.

    """
    text = _read(sql)
    return text.takes_row and (read_committed or not text.locks)


def launched_text(request: LaunchRequest, first: str = "") -> str:
    """Return the text to launch: its label, the plan's text with separated statements, and the marker for rows.

    `first` are our statements before the plan's, in the same transaction, each with its semicolon.
    """
    read = _read(request.sql)
    text = read.set_apart
    form = _form(request.sql)[0] if request.as_text else None
    if form is not None:
        at = len(text) - len(request.sql) + read.last_start
        behind = at + len(read.last)
        text = f"{text[:at]}{form.before}{text[at:behind]}{form.after}"
    if first:
        text = f"{first}\n{text}"
    if discards_rows(request):
        text = f"{text}\n;{MARKER}"
    return text if request.label is None else f"{request.label.to_comment()} {text}"


def plan_position(request: LaunchRequest, first: str, position: int) -> int | None:
    """Return the position in the plan's text of a position in the launched text, from 1; None if it is in ours."""
    offset = position - 1
    offset -= len(request.label.to_comment()) + 1 if request.label is not None else 0
    offset -= len(first) + 1 if first else 0
    if offset < 0:
        return None
    read = _read(request.sql)
    between = len(_BETWEEN)
    for end in read.ends:
        if end <= offset < end + between:
            return None
        offset -= between if offset >= end else 0
    form = _form(request.sql)[0] if request.as_text else None
    if form is not None and offset >= read.last_start:
        offset -= len(form.before)
        if not read.last_start <= offset <= read.last_start + len(read.last):
            return None
    return min(offset, len(request.sql)) + 1


def plan_text(launched: str) -> str:
    """Return the plan's text in a launched text, as far as the server has kept it."""
    text = without_rewriting(_COMMIT_ROW.sub("", without_comment(launched)))
    return text.replace(f"\n;{NEXT}", "").replace(f"\n;{MARKER}", "")


class _Text(Struct, frozen=True, kw_only=True):
    """The traits of a step's SQL. `ends` are the ends of its statements except the last.

    `gives_rows`: its last statement returns rows that can stay in the worker. `tags_only`: no others are sent; CALL can
    return a row that only the server knows, and so can SQL that the parser does not know. `takes_row`: a commit row can
    come first; if it `locks`, only with the isolation level READ COMMITTED. `nothing_else`: neither a rule nor COPY can
    send more than tags. `waits_for_snapshots`: a statement waits for older snapshots of the database; also assumed if
    the parser does not know it. The last statement begins at `last_start`.
    """

    set_apart: str
    last: str
    ends: tuple[int, ...] = ()
    gives_rows: bool = False
    tags_only: bool = False
    takes_row: bool = False
    locks: bool = False
    nothing_else: bool = False
    waits_for_snapshots: bool = True
    last_start: int = 0


@lru_cache(maxsize=1024)
def _read(sql: str) -> _Text:
    try:
        statements = parse_statements(sql)
    except JobplanError:
        return _Text(set_apart=sql, last=sql)
    if not statements:
        return _Text(set_apart=sql, last=sql)
    last = statements[-1]
    ends = tuple(statement.end for statement in statements[:-1])
    return _Text(
        set_apart=_set_apart(sql, ends),
        last=sql[last.start : last.end],
        ends=ends,
        gives_rows=returns_rows(last),
        tags_only=last.kind is not StatementKind.CALL,
        takes_row=_takes_row(statements),
        locks=any(not may_come_second(statement, read_committed=False) for statement in statements),
        nothing_else=len(statements) == 1 and (returns_rows(last) or last.kind not in _MAY_SEND_ROWS),
        waits_for_snapshots=any(map(waits_for_transactions, statements)),
        last_start=last.start,
    )


@lru_cache(maxsize=256)
def _form(sql: str) -> tuple[AsText | None, bool]:
    """Return the last statement rewritten so that its rows are text, and whether those before it may change names.

    Separate from `_read`, because few steps read rows.
    """
    try:
        statements = parse_statements(sql)
    except JobplanError:
        return None, False
    return (as_text(statements[-1]), may_change_names(statements[:-1])) if statements else (None, False)


def _takes_row(statements: Sequence[Statement]) -> bool:
    first = statements[0]
    if len(statements) == 1 and (
        first.kind in (StatementKind.CALL, StatementKind.DO)
        or must_stand_alone(first) is not None
        or may_have_to_stand_alone(first) is not None
        or is_session_only(first)
    ):
        return False
    return all(may_come_second(statement, read_committed=True) for statement in statements)


def _set_apart(sql: str, ends: Sequence[int]) -> str:
    """Insert `NEXT` after each of these places, on a separate line: a comment may end there."""
    pieces = [sql[start:end] for start, end in zip([0, *ends], [*ends, len(sql)], strict=True)]
    return _BETWEEN.join(pieces)


def is_workers_own(error: ErrorDetails) -> bool:
    """Return whether an error during the reading of the output is the worker's: the extension marks those."""
    return "background worker, pid" in (error.context or "")


def statement_tag(
    request: LaunchRequest, tags: Sequence[Sequence[str | None]], tag: str | None, row_count: str | None
) -> tuple[str | None, str | None]:
    """Return the command tag and the row count of the plan's own last statement.

    `tags` are those of all statements as the extension returns them (`INSERT 0 5`); `tag` and `row_count` are those
    that it reports for the last one, which may be the marker.
    """
    own = tags[:-1] if discards_rows(request) else tags
    words = (own[-1][0] or "").split() if own else []
    name = " ".join(word for word in words if not word.isdigit())
    if not name:
        return tag, row_count
    return name, words[-1] if words[-1].isdigit() else row_count


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
        problem = f"column {name} is of type {pseudo_type}, which cannot be read from a worker; cast it, e.g. to text"
        return RowColumns(names=names, problem=problem)
    return RowColumns(names=names, definitions=definitions)


def void_rows(columns: RowColumns, count: int) -> Rows:
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
            result = void_rows(columns, min(request.rows, int(row_count or 0)))
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
        command_tag=tag or "",
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
    """Add the position in the plan's text, which only the error in the worker's output has."""
    if error is None or raised.error is None or raised.position is None or not is_workers_own(raised.error):
        return error
    return replace(error, position=plan_position(request, first, raised.position))
