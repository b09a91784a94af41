"""Which functions of the database's own a look at a statement would execute: planning evaluates, reading runs them.

EXPLAIN evaluates IMMUTABLE functions of constants, and STABLE ones for its estimates, in casts, operators, domains,
views, policies, defaults and constraints. What a function is marked says nothing of what it does. So a statement is
planned, and a condition or a list read, only if all that it could execute is PostgreSQL's own or an extension's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from runner.gateway.inspection import Inspector
from runner.sql.tokens import ScanError, TokenKind, tokenize

#: Bytes of a name; PostgreSQL cuts the rest off.
_MAX_BYTES = 63
#: Functions that a report names.
_NAMED = 3
_OPERATOR_CHARACTERS = frozenset("+-*/<>=~!@#%^&|`?")
#: Operators that keywords stand for (IN, BETWEEN, LIKE, DISTINCT, USING …).
_IMPLIED = frozenset({"=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~"})


class OwnCode:
    """Asks the server which words lead to functions: all words of a plan at once, a word that is new then by itself."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._words: set[str] = set()
        self._reached: dict[str, list[str]] = {}

    async def learn(self, texts: Iterable[str]) -> None:
        """Ask for the words of all texts in one question. If the server refuses it, each text has its own."""
        words = [found for found in map(words_of, dict.fromkeys(texts)) if found is not None]
        await self._ask(frozenset().union(*(one[0] for one in words)), frozenset().union(*(one[1] for one in words)))

    async def of(self, sql: str) -> str | None:
        """Return which functions could be executed, in words; None if all are PostgreSQL's own or an extension's."""
        words = words_of(sql)
        if words is None:
            return "functions that cannot be told from its text"
        error = await self._ask(*words)
        if error is not None:
            return f"functions that the catalogs did not tell ({error})"
        found = {function for word in ("", *words[0], *words[1]) for function in self._reached.get(word, ())}
        return ", ".join(sorted(found)[:_NAMED]) or None

    async def _ask(self, names: frozenset[str], operators: frozenset[str]) -> str | None:
        """Ask for the words that are not known yet. Return why the server did not answer, if it did not."""
        if self._words.issuperset(names | operators):
            return None
        new = [json.dumps(sorted(words - self._words)) for words in (names, operators)]
        reply = await self._inspector.reply("own_code", *new)
        if reply.error is not None:
            return reply.error.message
        self._words |= names | operators
        for row in reply.rows:
            self._reached.setdefault(row[0] or "", []).append(row[1] or "")
        return None


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
