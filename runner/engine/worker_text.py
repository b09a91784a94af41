"""The text that a worker executes: the plan's statements, and what is written between and around them.

A worker stops forever when its output queue is full and no session reads it (docs/pg_background.md#full-output-queue),
and some rows cannot be read at all because their type has no name in a column list (void). So rows that the plan does
not need stay in the worker: a statement that returns rows is followed by one that does not, and then the extension
sends only its command tag (docs/decisions/0002). Another such statement separates the statements of a text, so that
each sees the effects of the previous one (docs/decisions/0008).

Each text is parsed once and its traits are cached; the gateway reads them and parses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from runner.engine.ports import LaunchRequest
from runner.errors import JobplanError
from runner.identity import without_comment
from runner.sql.carried_rows import CarryForm, without_extension
from runner.sql.returned_rows import AsText, as_text, may_change_names, without_rewriting
from runner.sql.session_settings import assigned, settings_after
from runner.sql.statements import StatementKind, parse_statements, returns_rows
from runner.sql.transactions import may_come_second, row_may_come_first, waits_for_transactions
from runner.structs import Struct

#: Documents its purpose in pg_stat_activity. SET needs no privilege, takes no lock and returns no row.
MARKER = "SET LOCAL jobplan.rows TO 'discarded'"

#: Separates two statements of a text. The extension gives both the same command number, so that the later one does not
#: see the changes of the previous one (docs/pg_background.md#statements-do-not-see-each-other). SET ends the command.
NEXT = "SET LOCAL jobplan.statement TO 'next'"
_BETWEEN = f"\n;{NEXT}"

#: The statements that `ledger_row` puts in front of a step's text.
_COMMIT_ROW = re.compile(
    r"""\A(?:LOCK TABLE "(?:[^"]|"")*"\.carried IN ROW EXCLUSIVE MODE;\n)?"""
    r"""INSERT INTO "(?:[^"]|"")*"\.commits \(run, step, attempt, committed, proof\) """
    r"""VALUES \(.*?, true, '[0-9a-f]*'\);\n"""
    r"""SET LOCAL lock_timeout TO '[^']*';\n""",
    re.DOTALL,
)

#: Settings that change the meaning of names.
_NAMING = frozenset({"search_path", "role"})

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
    if request.carry is not None:
        return request.carry.columns
    form = _form(request.sql)[0] if request.as_text else None
    return form.columns if form is not None else ()


def is_rewritten(request: LaunchRequest) -> bool:
    """Return whether the last statement is rewritten so that all its columns are text."""
    return request.as_text or request.carry is not None


def can_be_text(sql: str) -> bool:
    """Return whether the last statement can be rewritten so that all its columns are text."""
    return _form(sql)[0] is not None


def must_be_text(sql: str) -> bool:
    """Return whether it must be: the statements before it may change how another session would describe it."""
    form, changes_names = _form(sql)
    return form is not None and changes_names


def own_tag(request: LaunchRequest, tag: str | None) -> str | None:
    """Return the command tag of the plan's last statement, even if it was rewritten."""
    form: CarryForm | AsText | None = request.carry or (_form(request.sql)[0] if request.as_text else None)
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
    text = _read(request.sql).set_apart
    change = _change(request, stores=bool(first))
    if change is not None:
        shift = len(text) - len(request.sql)
        at, behind = change.start + shift, change.end + shift
        text = f"{text[:at]}{change.before}{text[at:behind]}{change.after}"
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
    change = _change(request, stores=False)
    if change is not None and offset >= change.start:
        offset -= len(change.before)
        if not change.start <= offset <= change.end:
            return None
    return min(offset, len(request.sql)) + 1


class _Change(NamedTuple):
    """How the last statement is rewritten: what is inserted at two places of the plan's text."""

    start: int
    end: int
    before: str
    after: str


def _change(request: LaunchRequest, *, stores: bool) -> _Change | None:
    """Return how the last statement is rewritten. With `stores` its carried values are stored."""
    carry = request.carry
    if carry is not None:
        return _Change(carry.start, carry.end, carry.before, carry.after(stores=stores))
    form = _form(request.sql)[0] if request.as_text else None
    if form is None:
        return None
    read = _read(request.sql)
    return _Change(read.last_start, read.last_start + len(read.last), form.before, form.after)


def plan_text(launched: str) -> str:
    """Return the plan's text in a launched text, as far as the server has kept it."""
    text = without_extension(without_rewriting(_COMMIT_ROW.sub("", without_comment(launched))))
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
        takes_row=row_may_come_first(statements),
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


def _set_apart(sql: str, ends: Sequence[int]) -> str:
    """Insert `NEXT` after each of these places, on a separate line: a comment may end there."""
    pieces = [sql[start:end] for start, end in zip([0, *ends], [*ends, len(sql)], strict=True)]
    return _BETWEEN.join(pieces)


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
