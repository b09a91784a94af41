"""The query inside a command: that of CREATE [MATERIALIZED] VIEW, CREATE TABLE AS, and COPY (query) TO."""

from __future__ import annotations

from collections.abc import Sequence

from runner.sql.kinds import StatementKind
from runner.sql.parse import Statement
from runner.sql.tokens import ScanError, Token, TokenKind, tokenize

_K = StatementKind
_COMMENTS = frozenset({TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT})


def inner_query(statement: Statement, sql: str) -> tuple[int, str] | None:
    """Return the query's offset in the statement's own text `sql`, and the query; None if there is none to explain.

    The query of a recursive view names the view, and cannot be explained before the view exists.
    """
    try:
        tokens = [token for token in tokenize(sql) if token.kind not in _COMMENTS]
    except ScanError:
        return None
    match statement.kind:
        case _K.CREATE_VIEW if "recursive" not in {token.text.lower() for token in tokens[:4]}:
            return _of_view(tokens, sql)
        case _K.CREATE_TABLE_AS | _K.CREATE_MATERIALIZED_VIEW:
            found = _of_view(tokens, sql)
            return found if found is not None and found[1][:7].lower() != "execute" else None
        case _K.COPY_TO | _K.COPY_FROM if statement.node.HasField("query"):
            return _in_brackets(tokens, sql)
    return None


def _of_view(tokens: Sequence[Token], sql: str) -> tuple[int, str] | None:
    """It begins behind the first AS outside of brackets, and ends before WITH … CHECK OPTION or WITH … DATA."""
    depth = 0
    for number, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.kind is TokenKind.WORD and token.text.lower() == "as":
            rest = tokens[number + 1 :]
            end = rest[-1].end if rest else 0
            last = [one.text.lower() for one in rest[-4:]]
            if last[-2:] == ["check", "option"]:
                words = 4 if last[0] == "with" and last[1] in {"local", "cascaded"} else 3
                rest = rest[:-words]
                end = rest[-1].end if rest else 0
            elif last[-1:] == ["data"] and "with" in last[-3:-1]:
                rest = rest[: -2 if last[-2] == "with" else -3]
                end = rest[-1].end if rest else 0
            return (rest[0].start, sql[rest[0].start : end]) if rest else None
    return None


def _in_brackets(tokens: Sequence[Token], sql: str) -> tuple[int, str] | None:
    depth, begin = 0, -1
    for token in tokens:
        if token.text == "(" and depth == 0:
            begin = token.end
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == ")" and depth == 0 and begin >= 0:
            return begin, sql[begin : token.start]
    return None
