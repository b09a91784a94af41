"""What the bodies of DO, functions and procedures do: loops that write, commits, and commands that cannot run there.

libpg_query's parser for PL/pgSQL is used for the syntax only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from postgast import PgQueryError, parse_plpgsql

from runner.sql.comments import without_comments
from runner.sql.relations import Relation, relation_named
from runner.sql.routine_bodies import ENDS, Body, Word, body_of, plpgsql_body
from runner.sql.statements import SqlSyntaxError, Statement, StatementKind, parse_statements
from runner.sql.syntax_tree import strings
from runner.sql.transactions import must_stand_alone
from runner.structs import Struct, field

_K = StatementKind
_WRITES = frozenset({"UPDATE", "DELETE", "MERGE"})
#: Conditions that catch the error of a cancel, 57014, by its name, its class or its code.
_CAUGHT = frozenset({"QUERY_CANCELED", "OPERATOR_INTERVENTION", "57014", "57000"})
#: Levels of RAISE that raise no error.
_HARMLESS_RAISES = frozenset({"DEBUG", "LOG", "INFO", "NOTICE", "WARNING"})
_LOOP = re.compile(r"\bloop\b", re.IGNORECASE)
_WRITING_STRING = re.compile(r"[^A-Za-z]*(?:update|delete|merge)\b", re.IGNORECASE)
_LONGEST_BODY = 200_000


# --- loops ------------------------------------------------------------------------------------------------------------


def writing_loop(statement: Statement, text: str) -> int | None:
    """Return the offset in `text` of a loop in a DO that updates or deletes and never commits, None if there is none.

    `text` is what the statement was parsed from. In a body without dollar quotes, only the start is known.
    """
    body = _body_with_loop(statement, text) if statement.kind is _K.DO else None
    if body is None or body.commands & ENDS:
        return None
    loop = _writing_loop(body.words)
    return None if loop is None else body.place(statement, text, loop)


def catching_loop(statement: Statement, text: str) -> int | None:
    """Return the offset in `text` of a handler in a loop that catches a cancel and continues, None if there is none.

    The extension turns a cancel, a timeout and a terminate into the same error, query_canceled, so such a loop
    cannot be stopped from outside. WHEN OTHERS does not catch that error.
    """
    body = _body_with_loop(statement, text)
    handler = _catching_handler(body.words) if body is not None else None
    return None if body is None or handler is None else body.place(statement, text, handler)


def _body_with_loop(statement: Statement, text: str) -> Body | None:
    """Return a body in PL/pgSQL that may have a loop; a search for the word is faster than reading the body."""
    has_body = statement.kind in {_K.DO, _K.CREATE_FUNCTION}
    return plpgsql_body(statement) if has_body and _LOOP.search(text, statement.start, statement.end) else None


def _writing_loop(words: Sequence[Word]) -> int | None:
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


def _is_write(words: Sequence[Word], index: int) -> bool:
    name = words[index].name
    if name == "EXECUTE":
        near = words[index + 1 : index + 4]
        return any(word.string and _WRITING_STRING.match(word.name) is not None for word in near)
    if name == "WITH":
        names = [word.name for word in words[index + 1 :]]
        names = ["", *names[: names.index(";") if ";" in names else None]]
        return any(word in _WRITES and before in {"(", ")"} for before, word in pairwise(names))
    return name in _WRITES


def _catching_handler(words: Sequence[Word]) -> int | None:
    """Return where a handler in a loop begins that catches a cancel and neither leaves the loop nor raises an error."""
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


def _handler(words: Sequence[Word]) -> tuple[list[str], Sequence[Word]]:
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


def _leaves(handler: Sequence[Word]) -> bool:
    """Return whether a handler leaves the loop or raises an error, as far as its commands show."""
    return any(
        word.begins and (word.name in {"EXIT", "RETURN"} or _raises_error(handler, at))
        for at, word in enumerate(handler)
    )


def _raises_error(words: Sequence[Word], index: int) -> bool:
    """Return whether a word is a RAISE that raises an error."""
    level = words[index + 1].name if index + 1 < len(words) else ""
    return words[index].name == "RAISE" and level not in _HARMLESS_RAISES


# --- transactions and definitions -------------------------------------------------------------------------------------


def committing_procedure(statement: Statement) -> Relation | None:
    """Return the name of a procedure in PL/pgSQL that ends transactions, if the statement creates one."""
    creates = statement.kind is _K.CREATE_FUNCTION and statement.node.is_procedure
    body = plpgsql_body(statement) if creates else None
    return relation_named(strings(statement.node.funcname)) if body is not None and body.commands & ENDS else None


def called_procedure(statement: Statement) -> Relation | None:
    """Return the name of the procedure that a CALL calls."""
    return relation_named(strings(statement.node.funccall.funcname)) if statement.kind is _K.CALL else None


def ends_transaction_for_sure(statement: Statement) -> bool:
    """Return whether a DO or CREATE PROCEDURE in PL/pgSQL always reaches a COMMIT or ROLLBACK."""
    body = body_of(statement)
    return body is not None and any(one.certain and one.name in ENDS for one in _commands(body.words))


_LETTERS = re.compile(r"[A-Z_]+")
_ALTERING = frozenset(
    {
        *("ALTER", "DROP", "GRANT", "REVOKE", "REFRESH", "REINDEX", "CLUSTER", "REASSIGN", "SET_CONFIG", "SET"),
        *("RESET", "CALL", "PERFORM", "IMPORT", "TRUNCATE", "RENAME", "DISCARD", "COMMENT", "REPLACE"),
    }
)


def only_creates(statement: Statement) -> bool:
    """Return whether a DO in PL/pgSQL can create things and change rows, but alters, drops and grants nothing.

    Commands are searched in the body and in its string constants; SQL that it executes from a variable, and functions
    that it calls by PERFORM or CALL, may do anything.
    """
    body = plpgsql_body(statement) if statement.kind is _K.DO else None
    words = body.words if body is not None else ()
    for index, word in enumerate(words):
        names = set(_LETTERS.findall(word.name)) if word.string else {word.name}
        executed = words[index + 1] if word.name == "EXECUTE" and index + 1 < len(words) else None
        known = executed is not None and (executed.string or executed.name == "FORMAT")
        if names & _ALTERING or (word.name == "EXECUTE" and not known):
            return False
    return bool(words)


# --- commands ---------------------------------------------------------------------------------------------------------


class BodyProblem(Struct, frozen=True, kw_only=True):
    """A command in a body that cannot run; `certain` if it fails whenever the statement runs."""

    message: str
    offset: int
    certain: bool


def body_syntax_error(statement: Statement, text: str) -> BodyProblem | None:
    """Return the syntax error in the body of a DO or a function in SQL or PL/pgSQL."""
    body = body_of(statement)
    if body is not None and body.language == "sql":
        try:
            parse_statements(body.text)
        except SqlSyntaxError as error:
            place = body.place(statement, text, error.offset)
            return BodyProblem(message=error.message, offset=place, certain=True) if error.refused else None
    if body is None or body.language != "plpgsql" or len(body.text) > _LONGEST_BODY:
        return None
    message = _plpgsql_error(without_comments(body.text))
    if message is None:
        return None
    near = re.search(r'at or near "(.+)"$', message, re.DOTALL)
    offset = body.text.find(near[1]) if near is not None and body.text.count(near[1]) == 1 else 0
    return BodyProblem(message=message, offset=body.place(statement, text, offset), certain=True)


_TAG = "$jobplan_body$"


def _plpgsql_error(body: str) -> str | None:
    """Return the error of PL/pgSQL's grammar; other errors, about names and types, may be limits of the parser."""
    if _TAG in body:
        return None
    for head in ("DO LANGUAGE plpgsql", "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS"):
        try:
            parse_plpgsql(f"{head} {_TAG}{body}{_TAG}")
        except PgQueryError as error:
            message = " ".join(str(error.message).split())
            if message.startswith("syntax error"):
                return message
        except ValueError:  # for some bodies its output is not valid JSON
            return None
        else:
            return None
    return None


def refused_in_body(statement: Statement, text: str) -> Iterator[BodyProblem]:
    """Yield the commands of a body that no function can run: VACUUM, … CONCURRENTLY, a COMMIT that fails.

    Creating a function does not run its body, so nothing in it is certain.
    """
    body = body_of(statement)
    if body is None or len(body.text) > _LONGEST_BODY:
        return
    if body.language == "sql":
        yield from _refused_in_sql(statement, body, text)
    if body.language != "plpgsql":
        return
    runs = statement.kind is _K.DO
    words = body.words
    for command in _commands(words):
        reason = _refusal(command, words, body.text, procedure=runs or bool(statement.node.is_procedure))
        if reason is not None:
            offset = body.place(statement, text, words[command.index].offset)
            yield BodyProblem(message=reason, offset=offset, certain=runs and command.certain)


def _refused_in_sql(statement: Statement, body: Body, text: str) -> Iterator[BodyProblem]:
    for one in _parsed(body.text):
        what = str(one.kind) if one.kind is _K.TRANSACTION else _alone(one)
        if what is not None:
            message = f"{what} cannot be executed from a function (0A000)"
            yield BodyProblem(message=message, offset=body.place(statement, text, one.start), certain=False)


def _parsed(text: str) -> tuple[Statement, ...]:
    """Return the statements of a part of a body, none if it is not SQL: PL/pgSQL accepts more, such as INTO."""
    try:
        return parse_statements(text)
    except SqlSyntaxError:
        return ()


def _alone(statement: Statement) -> str | None:
    """Return the command if it must stand alone; a DO may end transactions where it does not run in a function."""
    reason = must_stand_alone(statement) if statement.kind is not _K.DO else None
    return None if reason is None else reason.split(" cannot run")[0]


class BodyCommand(Struct, frozen=True, kw_only=True):
    """A command of a body that parses as SQL of its own, and its offset in the text of the statement."""

    statement: Statement
    offset: int


def commands_in_body(statement: Statement, text: str, first_words: frozenset[str]) -> Iterator[BodyCommand]:
    """Yield the commands of a DO in PL/pgSQL that begin with one of these words, also those of EXECUTE 'constant'."""
    body = plpgsql_body(statement) if statement.kind is _K.DO else None
    if body is None or len(body.text) > _LONGEST_BODY:
        return
    words = body.words
    for index, word in enumerate(words):
        if not word.begins or word.name not in {"EXECUTE", *first_words}:
            continue
        written = _command_text(words, index, body.text)
        if word.name == "EXECUTE":
            constant = _CONSTANT.fullmatch(written)
            written = constant[1].replace("''", "'") if constant is not None else ""
        offset = body.place(statement, text, word.offset)
        yield from (BodyCommand(statement=each, offset=offset) for each in _parsed(written))


_CONSTANT = re.compile(r"EXECUTE\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)


def _command_text(words: Sequence[Word], index: int, body: str) -> str:
    """Return the text from a word to the end of its command."""
    end = next((word.offset for word in words[index:] if word.name == ";"), len(body))
    return body[words[index].offset : end]


def _refusal(command: _Command, words: Sequence[Word], body: str, *, procedure: bool) -> str | None:
    """Return why a command in a body fails, None if it does not."""
    if command.name in ENDS:
        if command.protected:
            return f"{command.name} in a block with an EXCEPTION clause cannot end the transaction (2D000)"
        return None if procedure else f"{command.name} in a function cannot end the transaction (2D000)"
    piece = _command_text(words, command.index, body)
    if command.name == "EXECUTE":
        following = words[command.index + 1] if command.index + 1 < len(words) else None
        if following is None or not following.string:
            return None
        piece = body[following.offset :][: len(following.name)].strip("'").replace("''", "'")
    reason = next(filter(None, map(_alone, _parsed(piece))), None)
    return None if reason is None else f"{reason} cannot be executed from a function (25001)"


_MAY_STAND_ALONE = frozenset({"VACUUM", "CREATE", "DROP", "REINDEX", "CLUSTER", "ALTER", "DISCARD", "EXECUTE"})
#: Commands after which the rest may not be reached, besides a RAISE of an error.
_LEAVES = frozenset({"RETURN", "EXIT", "CONTINUE"})


class _Frame(Struct):
    """A construct that is open: `conditional` if what is in it may not be reached, `handles` in an EXCEPTION clause."""

    kind: str
    conditional: bool = False
    handles: bool = False
    commands: list[int] = field(default_factory=list)


class _Command(Struct, frozen=True, kw_only=True):
    """A command of a body, as the number of its first word; `protected` in a block that has an EXCEPTION clause."""

    name: str
    index: int
    certain: bool
    protected: bool


def _commands(words: Sequence[Word]) -> tuple[_Command, ...]:
    """Return the commands that end transactions or may have to stand alone, in the order of the body."""
    stack: list[_Frame] = []
    found: dict[int, bool] = {}
    protected: set[int] = set()
    header, left = "", False
    for index, word in enumerate(words):
        before = words[index - 1].name if index else ""
        header = word.name if word.begins else header
        opened = None if before == "END" else _opened(word, header)
        if word.name == "END":
            _close(stack, words[index + 1].name if index + 1 < len(words) else "", protected)
        elif opened is not None:
            stack.append(opened)
        elif word.begins and word.name == "EXCEPTION" and stack and stack[-1].kind == "BEGIN":
            stack[-1].conditional = stack[-1].handles = True
        elif word.begins and (word.name in _LEAVES or _raises_error(words, index)):
            left = True
        elif word.begins and word.name in ENDS | _MAY_STAND_ALONE:
            found[index] = not left and not any(frame.conditional for frame in stack)
            for frame in stack:
                if not frame.handles:
                    frame.commands.append(index)
    return tuple(
        _Command(
            name=words[index].name,
            index=index,
            certain=certain and index not in protected,  # a handler may catch the error
            protected=index in protected,
        )
        for index, certain in found.items()
    )


def _opened(word: Word, header: str) -> _Frame | None:
    """Return the construct that a word opens; `header` is the first word of its command."""
    if word.begins and word.name == "BEGIN":
        return _Frame("BEGIN")
    if (word.begins and word.name == "IF") or word.name == "CASE":
        return _Frame(word.name, conditional=True)
    if word.name == "LOOP":
        return _Frame("LOOP", conditional=header in {"FOR", "WHILE", "FOREACH"})
    return None


def _close(stack: list[_Frame], following: str, protected: set[int]) -> None:
    """End the construct that an END closes."""
    kind = following if following in {"IF", "LOOP", "CASE"} else None
    while stack:
        frame = stack.pop()
        if frame.handles:
            protected.update(frame.commands)
        if kind is None or frame.kind == kind:
            return
