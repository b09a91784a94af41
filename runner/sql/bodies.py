"""What the PL/pgSQL bodies of DO and CREATE PROCEDURE tell: loops that write, and procedures that commit.

Read with the scanner, like PL/pgSQL itself finds its keywords; libpg_query's PL/pgSQL parser refuses bodies that name a
type outside pg_catalog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, strings, unwrap
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named
from runner.sql.tokens import ScanError, Token, TokenKind, tokenize

_COMMENTS = frozenset({TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT})
#: After these a command begins.
_BEFORE_COMMAND = frozenset({"", ";", "BEGIN", "THEN", "ELSE", "LOOP", ">>"})
_WRITES = frozenset({"UPDATE", "DELETE", "MERGE"})
#: Conditions that catch what a cancel raises, 57014, by its name, its class or its code.
_CAUGHT = frozenset({"QUERY_CANCELED", "OPERATOR_INTERVENTION", "57014", "57000"})
#: Levels of RAISE that raise no error.
_TELLS = frozenset({"DEBUG", "LOG", "INFO", "NOTICE", "WARNING"})
_LOOP = re.compile(r"\bloop\b", re.IGNORECASE)
_OPENING = re.compile(r"(?:as\s*)?\$\w*\$", re.IGNORECASE)
_WRITING_STRING = re.compile(r"[^A-Za-z]*(?:update|delete|merge)\b", re.IGNORECASE)


def writing_loop(statement: Statement, text: str) -> int | None:
    """Return the offset in `text` of a loop in a DO that updates or deletes and never commits, None if there is none.

    `text` is what the statement was parsed from. A body that is not quoted with dollars only has a beginning.
    """
    if statement.kind is not StatementKind.DO or not _LOOP.search(text, statement.start, statement.end):
        return None
    body = _body(statement)
    if body is None or body.language != "plpgsql":
        return None
    words = _words(body.text)
    if any(word.begins and word.name in {"COMMIT", "ROLLBACK"} for word in words):
        return None
    loop = _writing_loop(words)
    return None if loop is None else _offset(statement.offset(body.node), text, loop)


def catching_loop(statement: Statement, text: str) -> int | None:
    """Return the offset in `text` of a handler in a loop that catches a cancel and goes on, None if there is none.

    The extension turns a cancel, a timeout and a terminate into the same error, query_canceled, so that nothing ends
    such a loop but itself. WHEN OTHERS does not catch that error.
    """
    creates = statement.kind is StatementKind.CREATE_FUNCTION
    if not (creates or statement.kind is StatementKind.DO) or not _LOOP.search(text, statement.start, statement.end):
        return None
    body = _body(statement)
    if body is None or body.language != "plpgsql":
        return None
    handler = _catching_handler(_words(body.text))
    return None if handler is None else _offset(statement.offset(body.node), text, handler)


def committing_procedure(statement: Statement) -> Relation | None:
    """Return the name of a procedure in PL/pgSQL that ends transactions, if the statement creates one."""
    node = statement.node
    if statement.kind is not StatementKind.CREATE_FUNCTION or not node.is_procedure:
        return None
    body = _body(statement)
    if body is None or body.language != "plpgsql":
        return None
    commits = any(word.begins and word.name in {"COMMIT", "ROLLBACK"} for word in _words(body.text))
    return relation_named(strings(node.funcname)) if commits else None


def called_procedure(statement: Statement) -> Relation | None:
    """Return the name of the procedure that a CALL calls."""
    if statement.kind is not StatementKind.CALL:
        return None
    return relation_named(strings(statement.node.funccall.funcname))


def only_creates(statement: Statement) -> bool:
    """Return whether a DO in PL/pgSQL can create things and change rows, but alters, drops and grants nothing.

    Its commands are looked for in the body and in its string constants; what it executes from a variable, and the
    functions that it calls by PERFORM or CALL, may do anything.
    """
    body = _body(statement) if statement.kind is StatementKind.DO else None
    if body is None or body.language != "plpgsql":
        return False
    read = _words(body.text)
    for index, word in enumerate(read):
        names = set(_LETTERS.findall(word.name)) if word.string else {word.name}
        if names & _ALTERING:
            return False
        following = read[index + 1] if index + 1 < len(read) else None
        if word.name == "EXECUTE" and not (following is not None and (following.string or following.name == "FORMAT")):
            return False
    return bool(read)


_LETTERS = re.compile(r"[A-Z_]+")
_ALTERING = frozenset(
    {
        *(
            "ALTER",
            "DROP",
            "GRANT",
            "REVOKE",
            "REFRESH",
            "REINDEX",
            "CLUSTER",
            "REASSIGN",
            "SET_CONFIG",
            "SET",
            "RESET",
        ),
        *("CALL", "PERFORM", "IMPORT", "TRUNCATE", "RENAME", "DISCARD", "COMMENT", "REPLACE"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """A body, its language in lower case, and the node that has its place."""

    text: str
    language: str
    node: Tree


def _body(statement: Statement) -> _Body | None:
    fields = statement.node.DESCRIPTOR.fields_by_name
    options = {
        node.defname: node for node in map(unwrap, getattr(statement.node, "args" if "args" in fields else "options"))
    }
    if "as" not in options:
        return None
    written = unwrap(options["as"].arg)
    text = unwrap(written.items[0]).sval if written.DESCRIPTOR.name == "List" else written.sval
    language = unwrap(options["language"].arg).sval.lower() if "language" in options else "plpgsql"
    return _Body(text=text, language=language, node=options["as"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """A token in upper case; `begins` says that it stands where a command begins."""

    name: str
    offset: int
    begins: bool
    string: bool


def _words(body: str) -> tuple[_Word, ...]:
    try:
        tokens = [token for token in tokenize(body) if token.kind not in _COMMENTS]
    except ScanError:
        return ()
    return tuple(_read_words(tokens))


def _read_words(tokens: list[Token]) -> Iterator[_Word]:
    before = ""
    for token in tokens:
        name = token.text.upper()
        string = token.kind is TokenKind.STRING
        yield _Word(name=name, offset=token.start, begins=before in _BEFORE_COMMAND, string=string)
        before = name


def _writing_loop(words: tuple[_Word, ...]) -> int | None:
    """Return where the outermost loop begins in which something is updated or deleted."""
    depth, outermost, before = 0, 0, ""
    for index, word in enumerate(words):
        if word.name == "LOOP" and before == "END":
            depth -= 1
        elif word.name == "LOOP":
            outermost = outermost if depth else word.offset
            depth += 1
        elif depth > 0 and word.begins and _is_write(words, index):
            return outermost
        before = word.name
    return None


def _catching_handler(words: tuple[_Word, ...]) -> int | None:
    """Return where a handler begins in a loop that catches a cancel and neither leaves the loop nor raises an error."""
    depth, before = 0, ""
    for index, word in enumerate(words):
        if word.name == "LOOP":
            depth += -1 if before == "END" else 1
        elif word.name == "WHEN" and depth > 0 and before in {"EXCEPTION", ";"}:
            conditions, handler = _handler(words[index + 1 :])
            if not _CAUGHT.isdisjoint(conditions) and not _leaves(handler):
                return word.offset
        before = word.name
    return None


def _handler(words: tuple[_Word, ...]) -> tuple[list[str], tuple[_Word, ...]]:
    """Return the conditions of a handler, whose WHEN came before, and what it does."""
    then = next((at for at, word in enumerate(words) if word.name == "THEN"), len(words))
    conditions = [word.name.strip("'").strip('"') for word in words[:then]]
    depth, rest = 0, words[then + 1 :]
    for at, word in enumerate(rest):
        if depth == 0 and word.begins and word.name in {"WHEN", "END"}:
            return conditions, rest[:at]
        opens = (word.begins and word.name in {"BEGIN", "IF", "CASE"}) or word.name == "LOOP"
        ends = at > 0 and rest[at - 1].name == "END"
        if word.name == "END" and word.begins:
            depth -= 1
        elif opens and not ends:
            depth += 1
    return conditions, rest


def _leaves(handler: tuple[_Word, ...]) -> bool:
    """Say whether a handler leaves the loop or raises an error, as far as its commands tell."""
    for at, word in enumerate(handler):
        if word.begins and word.name in {"EXIT", "RETURN"}:
            return True
        level = handler[at + 1].name if at + 1 < len(handler) else ";"
        if word.begins and word.name == "RAISE" and level not in _TELLS:
            return True
    return False


def _is_write(words: tuple[_Word, ...], index: int) -> bool:
    name = words[index].name
    if name == "EXECUTE":
        near = words[index + 1 : index + 4]
        return any(word.string and _WRITING_STRING.match(word.name) is not None for word in near)
    if name == "WITH":
        rest = words[index + 1 :]
        end = next((at for at, word in enumerate(rest) if word.name == ";"), len(rest))
        inner = zip(("", *(word.name for word in rest[:end])), (word.name for word in rest[:end]), strict=False)
        return any(word in _WRITES and previous in {"(", ")"} for previous, word in inner)
    return name in _WRITES


def _offset(start: int, text: str, offset: int) -> int:
    opening = _OPENING.match(text, start)
    return opening.end() + offset if opening else start
