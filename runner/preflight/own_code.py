"""Which functions of the database's own a look at a statement would execute: planning evaluates, reading runs them.

EXPLAIN evaluates IMMUTABLE functions of constants, and STABLE ones for its estimates, in casts, operators, domains,
views, policies, defaults and constraints. What a function is marked says nothing of what it does. So a statement is
planned, and a condition or a list read, only if all that it could execute is PostgreSQL's own or an extension's.
"""

from __future__ import annotations

import json

from runner.gateway.inspection import Inspector
from runner.sql.tokens import ScanError, TokenKind, tokenize

#: Bytes of a name; PostgreSQL cuts the rest off.
_MAX_BYTES = 63
_OPERATOR_CHARACTERS = frozenset("+-*/<>=~!@#%^&|`?")
#: Operators that keywords stand for (IN, BETWEEN, LIKE, DISTINCT, USING …).
_IMPLIED = frozenset({"=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~"})


class OwnCode:
    """Asks the server, once for each text."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._known: dict[str, str | None] = {}

    async def of(self, sql: str) -> str | None:
        """Return which functions could be executed, in words; None if all are PostgreSQL's own or an extension's."""
        if sql not in self._known:
            self._known[sql] = await self._ask(sql)
        return self._known[sql]

    async def _ask(self, sql: str) -> str | None:
        words = words_of(sql)
        if words is None:
            return "functions that cannot be told from its text"
        names, operators = words
        reply = await self._inspector.reply("own_code", json.dumps(sorted(names)), json.dumps(sorted(operators)))
        if reply.error is not None:
            return f"functions that the catalogs did not tell ({reply.error.message})"
        return ", ".join(row[0] or "" for row in reply.rows) or None


def words_of(sql: str) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return every name and every operator in a text; None if it has names that are written with escapes."""
    try:
        tokens = tokenize(sql)
    except ScanError:
        return None
    names: set[str] = set()
    operators = set(_IMPLIED)
    for token in tokens:
        if token.text[:3].lower() == 'u&"':
            return None
        if token.kind is TokenKind.QUOTED_IDENTIFIER:
            names.add(_cut(token.text[1:-1].replace('""', '"')))
        elif token.kind is TokenKind.WORD:
            names.add(_cut(token.text.lower()))
            names.add(_cut(token.text))
        elif token.kind is TokenKind.OTHER and _OPERATOR_CHARACTERS.issuperset(token.text):
            operators.add("<>" if token.text == "!=" else token.text)
    return frozenset(names), frozenset(operators)


def _cut(name: str) -> str:
    return name.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore")
