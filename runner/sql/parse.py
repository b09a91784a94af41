"""SQL text to statements, with PostgreSQL's own grammar, before or after its parameters have values.

A text with parameters is parsed by letting each reference stand for a value of its own length, so that every offset
in the statements is an offset in the text as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from runner.errors import JobplanError
from runner.sql.comments import has_comments, without_comments
from runner.sql.kinds import StatementKind, kind_of
from runner.sql.nodes import Tree, TreeError, parse_tree, replace_names, unwrap
from runner.sql.params import SETS_APART, Form, Reference, Scalar, bare_text, plain_text, references
from runner.sql.qualified import QualifiedName
from runner.sql.tokens import ScanError, character_offsets, readable

#: The version of PostgreSQL whose grammar the parser has.
GRAMMAR = 18
#: Begins a name that stands for a parameter without a value. A noncharacter, which no real name has.
PLACEHOLDER = "\ufdd0"

#: Values that are quoted by quotes alone.
_SIMPLE = re.compile(r"[A-Za-z0-9_]{1,63}")


class SqlSyntaxError(JobplanError):
    """PostgreSQL's grammar refuses the text; `offset` counts characters from 0.

    `refused` is false for a text that is only too long or too deep to be read: a server may well accept it.
    """

    def __init__(self, message: str, offset: int, *, hint: str | None = None, refused: bool = True) -> None:
        super().__init__(" ".join(message.split()), hint=hint)  # it may quote a piece of the text, with its line breaks
        self.offset = offset
        self.refused = refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a text: `start` and `end` count characters from 0 in it, `end` is past the last one.

    `node` and `at` are for runner.sql only: the parser's tree, and what turns its byte offsets into characters.
    """

    kind: StatementKind
    start: int
    end: int
    node: Tree = field(repr=False, compare=False)
    at: Callable[[int], int] = field(repr=False, compare=False)

    def offset(self, node: Tree) -> int:
        """Return where a node of this statement stands; the statement's start if the parser does not return it."""
        return self.at(node.location) if node.location > 0 else self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A text with parameters, parsed before all of them have values; all offsets are those of `text`."""

    text: str
    references: tuple[Reference, ...]
    statements: tuple[Statement, ...]


def parse_statements(text: str) -> tuple[Statement, ...]:
    """Return the statements of `text`, none for white space and comments; SqlSyntaxError if PostgreSQL refuses it."""
    return _statements(text, text)


def _statements(text: str, written: str) -> tuple[Statement, ...]:
    """Parse `text`; `written` is as long, and has the parameters in it for which values stand in `text`."""
    try:
        read, tree = _read(readable(text))
    except ScanError as error:
        raise SqlSyntaxError(error.message, error.offset) from None
    except TreeError as error:
        raise _syntax_error(text, error) from None
    at = character_offsets(read)
    return tuple(_statement(written, raw, at) for raw in tree.stmts)


def _read(text: str) -> tuple[str, Tree]:
    """Return the text as it was parsed, with or without its comments, and its tree."""
    try:
        return text, parse_tree(text)
    except TreeError as error:
        if not error.refused or not has_comments(text):
            raise
    bare = without_comments(text)
    return bare, parse_tree(bare)


def parse_template(text: str, known: Mapping[str, Scalar] | None = None) -> Template:
    """Return the statements of a text with parameters.

    Identifiers and strings whose value is in `known` have that value in the statements, the others stay placeholders
    that `placeholder` recognizes; a bare one is 0, also if its value is longer than the reference. TemplateError as
    `references` and `render` raise it, SqlSyntaxError as `parse_statements` does.
    """
    found = references(text)
    if not found:
        return Template(text=text, references=(), statements=_statements(text, text))
    values = {name: value for name, value in (known or {}).items() if value is not None}
    parts: list[str] = []
    marked: set[str] = set()
    done = 0
    for reference in found:
        stand_in = _stand_in(text, reference, values)
        if PLACEHOLDER in stand_in:
            marked.add(reference.name)
        parts += (text[done : reference.start], stand_in)
        done = reference.end
    statements = _statements("".join(parts) + text[done:], text)
    names = {name: plain_text(values[name]) for name in marked & values.keys()}
    if names:
        for statement in statements:
            replace_names(statement.node, PLACEHOLDER, names)
    return Template(text=text, references=found, statements=statements)


def placeholder(name: str) -> str | None:
    """Return the parameter for which a name in a statement stands, None if it is an ordinary name."""
    return name.removeprefix(PLACEHOLDER) if name.startswith(PLACEHOLDER) else None


def returns_rows(statement: Statement) -> bool:
    """Return whether a statement is of a kind that returns rows.

    True for EXECUTE, which may; false for CALL, whose row of OUT parameters only the server knows of.
    """
    node = statement.node
    match statement.kind:
        case StatementKind.SELECT | StatementKind.SHOW | StatementKind.EXPLAIN:
            return True
        case StatementKind.EXECUTE | StatementKind.FETCH:
            return True
        case StatementKind.INSERT | StatementKind.UPDATE | StatementKind.DELETE | StatementKind.MERGE:
            return bool(node.HasField("returning_clause"))
    return False


def _statement(text: str, raw: Tree, at: Callable[[int], int]) -> Statement:
    wrapped, begin, length = raw.stmt, raw.stmt_location, raw.stmt_len
    start = at(begin)
    end = at(begin + length) if length else len(text)
    end = start + len(text[start:end].rstrip())
    return Statement(kind=kind_of(wrapped), start=start, end=end, node=unwrap(wrapped), at=at)


def _stand_in(text: str, reference: Reference, values: Mapping[str, str | float | Decimal]) -> str:
    """Return as many characters as the reference has: a number, or `'…'` or `"…"` with a mark for its colon."""
    length = reference.end - reference.start
    if reference.form is Form.BARE:
        value = " " + bare_text(values.get(reference.name, 0))
        return (value if len(value) <= length else " 0").ljust(length)
    before = text[reference.start - 1 : reference.start]
    quote = reference.form.value
    apart = not before or before in SETS_APART or before == "."
    known = values.get(reference.name)
    if (
        apart
        and isinstance(known, str)
        and not isinstance(known, QualifiedName)
        and len(known) + 2 <= length
        and _SIMPLE.fullmatch(known)
    ):
        return f"{quote}{known}{quote}".ljust(length)  # mostly there is room, and no need to look for the mark later
    # Next to `E` or `"` a space must stay between the two, and there is no room for a mark. No valid SQL has that.
    start = f"{quote}{PLACEHOLDER}" if apart else f" {quote}"
    return f"{start}{reference.name}{quote}"


def _syntax_error(text: str, error: TreeError) -> SqlSyntaxError:
    offset = min(max(error.cursor - 1, 0), len(text))
    return SqlSyntaxError(error.message.replace(PLACEHOLDER, ""), offset, refused=error.refused)
