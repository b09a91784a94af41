"""Analyze the bodies of DO, functions and procedures: loops that write, commits, and commands that cannot run there.

They are read with the scanner, which PL/pgSQL itself uses to find its keywords. libpg_query's PL/pgSQL parser is used
for the syntax only: it refuses bodies that name a type outside pg_catalog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from postgast import PgQueryError, parse_plpgsql

from runner.sql.relations import Relation, relation_named
from runner.sql.statements import SqlSyntaxError, Statement, StatementKind, parse_statements
from runner.sql.syntax_tree import Tree, strings, unwrap
from runner.sql.tokens import ScanError, Token, TokenKind, tokenize, without_comments
from runner.sql.transactions import must_stand_alone
from runner.structs import Struct, field

_COMMENTS = frozenset({TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT})
#: A command begins after each of these.
_BEFORE_COMMAND = frozenset({"", ";", "BEGIN", "THEN", "ELSE", "LOOP", ">>", "EXCEPTION"})
_WRITES = frozenset({"UPDATE", "DELETE", "MERGE"})
#: Conditions that catch the error of a cancel, 57014, by its name, its class or its code.
_CAUGHT = frozenset({"QUERY_CANCELED", "OPERATOR_INTERVENTION", "57014", "57000"})
#: Levels of RAISE that raise no error.
_HARMLESS_RAISES = frozenset({"DEBUG", "LOG", "INFO", "NOTICE", "WARNING"})
_LOOP = re.compile(r"\bloop\b", re.IGNORECASE)
_OPENING = re.compile(r"(?:as\s*)?\$\w*\$", re.IGNORECASE)
_WRITING_STRING = re.compile(r"[^A-Za-z]*(?:update|delete|merge)\b", re.IGNORECASE)


def writing_loop(statement: Statement, text: str) -> int | None:
    """Return the offset in `text` of a loop in a DO that updates or deletes and never commits, None if there is none.

    `text` is what the statement was parsed from. In a body without dollar quotes, only the start is known.
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
    """Return the offset in `text` of a handler in a loop that catches a cancel and continues, None if there is none.

    The extension turns a cancel, a timeout and a terminate into the same error, query_canceled, so such a loop
    cannot be stopped from outside. WHEN OTHERS does not catch that error.
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

    Commands are searched in the body and in its string constants; SQL that it executes from a variable, and functions
    that it calls by PERFORM or CALL, may do anything.
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


def ends_transaction_for_sure(statement: Statement) -> bool:
    """Return whether a DO or CREATE PROCEDURE in PL/pgSQL always reaches a COMMIT or ROLLBACK."""
    body = _body(statement)
    return body is not None and any(
        command.certain and command.name in _ENDS for command in _commands(_words(body.text))
    )


class BodyProblem(Struct, frozen=True, kw_only=True):
    """A command in a body that cannot run; `certain` if it fails whenever the statement runs."""

    message: str
    offset: int
    certain: bool


def body_syntax_error(statement: Statement, text: str) -> BodyProblem | None:
    """Return the syntax error in the body of a DO or a function in SQL or PL/pgSQL."""
    body = _body(statement)
    if body is None:
        return None
    if body.language == "sql":
        try:
            parse_statements(body.text)
        except SqlSyntaxError as error:
            found = _place(statement, body, text, error.offset)
            return BodyProblem(message=error.message, offset=found, certain=True) if error.refused else None
        return None
    if body.language != "plpgsql" or len(body.text) > _LONGEST_BODY:
        return None
    message = _plpgsql_error(without_comments(body.text))
    if message is None:
        return None
    near = re.search(r'at or near "(.+)"$', message, re.DOTALL)
    offset = body.text.find(near[1]) if near is not None and body.text.count(near[1]) == 1 else 0
    return BodyProblem(message=message, offset=_place(statement, body, text, offset), certain=True)


def refused_in_body(statement: Statement, text: str) -> Iterator[BodyProblem]:
    """Yield the commands of a body that no function can run: VACUUM, … CONCURRENTLY, a COMMIT that fails.

    Creating a function does not run its body, so nothing in it is certain.
    """
    body = _body(statement)
    if body is None or len(body.text) > _LONGEST_BODY:
        return
    if body.language == "sql":
        yield from _refused_in_sql(statement, body, text)
    if body.language != "plpgsql":
        return
    runs = statement.kind is StatementKind.DO
    words = _words(body.text)
    for command in _commands(words):
        reason = _refusal(command, words, body.text, procedure=runs or bool(statement.node.is_procedure))
        if reason is not None:
            offset = _place(statement, body, text, words[command.index].offset)
            yield BodyProblem(message=reason, offset=offset, certain=runs and command.certain)


def _refused_in_sql(statement: Statement, body: _Body, text: str) -> Iterator[BodyProblem]:
    try:
        parsed = parse_statements(body.text)
    except SqlSyntaxError:
        return
    for one in parsed:
        reason = must_stand_alone(one) if one.kind is not StatementKind.DO else None
        ends = one.kind is StatementKind.TRANSACTION
        if reason is not None or ends:
            what = one.kind.value if reason is None else reason.split(" cannot run")[0]
            message = f"{what} cannot be executed from a function (0A000)"
            yield BodyProblem(message=message, offset=_place(statement, body, text, one.start), certain=False)


class BodyCommand(Struct, frozen=True, kw_only=True):
    """A command of a body that parses as SQL of its own, and its offset in the text of the statement."""

    statement: Statement
    offset: int


def commands_in_body(statement: Statement, text: str, first_words: frozenset[str]) -> Iterator[BodyCommand]:
    """Yield the commands of a DO in PL/pgSQL that begin with one of these words, also those of EXECUTE 'constant'."""
    body = _body(statement) if statement.kind is StatementKind.DO else None
    if body is None or body.language != "plpgsql" or len(body.text) > _LONGEST_BODY:
        return
    words = _words(body.text)
    for index, word in enumerate(words):
        if not word.begins or word.name not in {"EXECUTE", *first_words}:
            continue
        end = next((later.offset for later in words[index:] if later.name == ";"), len(body.text))
        written = body.text[word.offset : end]
        if word.name == "EXECUTE":
            constant = _CONSTANT.fullmatch(written)
            written = constant[1].replace("''", "'") if constant is not None else ""
        try:
            found = parse_statements(written)
        except SqlSyntaxError:  # PL/pgSQL accepts more, such as INTO
            continue
        offset = _place(statement, body, text, word.offset)
        yield from (BodyCommand(statement=each, offset=offset) for each in found)


_CONSTANT = re.compile(r"EXECUTE\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)
_LONGEST_BODY = 200_000
_ENDS = frozenset({"COMMIT", "ROLLBACK"})
_MAY_STAND_ALONE = frozenset({"VACUUM", "CREATE", "DROP", "REINDEX", "CLUSTER", "ALTER", "DISCARD", "EXECUTE"})
#: Commands after which the rest may not be reached.
_LEAVES = frozenset({"RETURN", "EXIT", "CONTINUE", "RAISE"})
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


def _place(statement: Statement, body: _Body, text: str, offset: int) -> int:
    return _offset(statement.offset(body.node), text, offset)


def _refusal(command: _Command, words: Sequence[_Word], body: str, *, procedure: bool) -> str | None:
    """Return why a command in a body fails, None if it does not."""
    if command.name in _ENDS:
        if command.protected:
            return f"{command.name} in a block with an EXCEPTION clause cannot end the transaction (2D000)"
        return None if procedure else f"{command.name} in a function cannot end the transaction (2D000)"
    end = next((word.offset for word in words[command.index :] if word.name == ";"), len(body))
    piece = body[words[command.index].offset : end]
    if command.name == "EXECUTE":
        following = words[command.index + 1] if command.index + 1 < len(words) else None
        if following is None or not following.string:
            return None
        literal = body[following.offset :][: len(following.name)]
        piece = literal.strip("'").replace("''", "'")
    try:
        parsed = parse_statements(piece)
    except SqlSyntaxError:
        return None
    alone = (must_stand_alone(one) for one in parsed if one.kind is not StatementKind.DO)
    reason = next((one for one in alone if one is not None), None)
    return None if reason is None else f"{reason.split(' cannot run')[0]} cannot be executed from a function (25001)"


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


def _commands(words: Sequence[_Word]) -> tuple[_Command, ...]:
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
        elif word.begins and word.name in _LEAVES:
            left = left or not _raises_no_error(words, index)
        elif word.begins and word.name in _ENDS | _MAY_STAND_ALONE:
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


def _opened(word: _Word, header: str) -> _Frame | None:
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


def _raises_no_error(words: Sequence[_Word], index: int) -> bool:
    """Return whether a RAISE raises no error."""
    following = words[index + 1].name if index + 1 < len(words) else ""
    return words[index].name == "RAISE" and following in {"DEBUG", "LOG", "INFO", "NOTICE", "WARNING"}


class _Body(Struct, frozen=True, kw_only=True):
    """A body, its language in lower case, and the node that has its position."""

    text: str
    language: str
    node: Tree


def _body(statement: Statement) -> _Body | None:
    if statement.kind not in {StatementKind.DO, StatementKind.CREATE_FUNCTION}:
        return None
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


class _Word(Struct, frozen=True, kw_only=True):
    """A token in upper case; `begins`: it is at the start of a command."""

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
    """Return whether a handler leaves the loop or raises an error, as far as its commands show."""
    for at, word in enumerate(handler):
        if word.begins and word.name in {"EXIT", "RETURN"}:
            return True
        level = handler[at + 1].name if at + 1 < len(handler) else ";"
        if word.begins and word.name == "RAISE" and level not in _HARMLESS_RAISES:
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
