"""The body of a DO, a function or a procedure: its text, its language, and the words that it consists of.

It is read with the scanner, which PL/pgSQL itself uses to find its keywords. libpg_query's parser for PL/pgSQL refuses
bodies that name a type outside pg_catalog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, unwrap
from runner.sql.tokens import COMMENTS, ScanError, TokenKind, tokenize
from runner.structs import Struct

#: A command begins after each of these.
_BEFORE_COMMAND = frozenset({"", ";", "BEGIN", "THEN", "ELSE", "LOOP", ">>", "EXCEPTION"})
_OPENING = re.compile(r"(?:as\s*)?\$\w*\$", re.IGNORECASE)
#: Commands that end a transaction.
ENDS = frozenset({"COMMIT", "ROLLBACK"})


class Word(Struct, frozen=True, kw_only=True):
    """A token in upper case; `begins`: it is at the start of a command."""

    name: str
    offset: int
    begins: bool
    string: bool


class Body(Struct, frozen=True, kw_only=True):
    """A body, its language in lower case, and the node that has its position."""

    text: str
    language: str
    node: Tree

    @property
    def words(self) -> tuple[Word, ...]:
        """Return the words of the body, none if it cannot be scanned."""
        try:
            return tuple(_words(self.text))
        except ScanError:
            return ()

    @property
    def commands(self) -> frozenset[str]:
        """Return the first words of the commands in the body."""
        return frozenset(word.name for word in self.words if word.begins)

    def place(self, statement: Statement, text: str, offset: int) -> int:
        """Return where an offset in the body is in `text`, which the statement was parsed from.

        In a body without dollar quotes, only the start is known.
        """
        start = statement.offset(self.node)
        opening = _OPENING.match(text, start)
        return opening.end() + offset if opening else start


def body_of(statement: Statement) -> Body | None:
    """Return the body of a DO or CREATE FUNCTION or PROCEDURE, None for another statement."""
    if statement.kind is StatementKind.DO:
        given = statement.node.args
    elif statement.kind is StatementKind.CREATE_FUNCTION:
        given = statement.node.options
    else:
        return None
    options = {option.defname: option for option in map(unwrap, given)}
    if "as" not in options:
        return None
    written = unwrap(options["as"].arg)
    text = unwrap(written.items[0]).sval if written.DESCRIPTOR.name == "List" else written.sval
    language = unwrap(options["language"].arg).sval.lower() if "language" in options else "plpgsql"
    return Body(text=text, language=language, node=options["as"])


def plpgsql_body(statement: Statement) -> Body | None:
    """Return the body of a statement if it is in PL/pgSQL."""
    body = body_of(statement)
    return body if body is not None and body.language == "plpgsql" else None


def _words(text: str) -> Iterator[Word]:
    before = ""
    for token in tokenize(text):
        if token.kind not in COMMENTS:
            name = token.text.upper()
            string = token.kind is TokenKind.STRING
            yield Word(name=name, offset=token.start, begins=before in _BEFORE_COMMAND, string=string)
            before = name
