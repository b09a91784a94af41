"""Statements and their kinds: SQL text is parsed with PostgreSQL's own grammar, before or after its parameters have
values.

A text with parameters is parsed by letting each reference stand for a value of its own length, so that every offset in
the statements is an offset in the text as it was written. The kinds are as detailed as the rules need.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from runner.errors import JobplanError
from runner.sql.comments import has_comments, without_comments
from runner.sql.placeholders import SETS_APART, Form, Reference, Scalar, bare_text, plain_text, references
from runner.sql.qualified_names import QualifiedName
from runner.sql.syntax_tree import Tree, TreeError, label, parse_tree, replace_names, unwrap
from runner.sql.tokens import ScanError, character_offsets, readable
from runner.structs import Struct


class StatementKind(enum.StrEnum):
    """The SQL commands that something in jobplan treats differently; every other one is OTHER."""

    #: The hash of the text, to which a member is equal; Enum's own hash is slower, and kinds are often dict keys.
    __hash__ = str.__hash__

    SELECT = "SELECT"
    SELECT_INTO = "SELECT INTO"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    MERGE = "MERGE"
    COPY_FROM = "COPY FROM"
    COPY_TO = "COPY TO"
    CALL = "CALL"
    DO = "DO"
    EXPLAIN = "EXPLAIN"
    PREPARE = "PREPARE"
    EXECUTE = "EXECUTE"
    DEALLOCATE = "DEALLOCATE"
    DECLARE_CURSOR = "DECLARE CURSOR"
    FETCH = "FETCH"
    MOVE = "MOVE"
    CLOSE = "CLOSE"
    TRUNCATE = "TRUNCATE"
    LOCK = "LOCK"
    VACUUM = "VACUUM"
    ANALYZE = "ANALYZE"
    CLUSTER = "CLUSTER"
    REINDEX = "REINDEX"
    REFRESH_MATERIALIZED_VIEW = "REFRESH MATERIALIZED VIEW"
    CREATE_TABLE = "CREATE TABLE"
    CREATE_TABLE_AS = "CREATE TABLE AS"
    CREATE_FOREIGN_TABLE = "CREATE FOREIGN TABLE"
    CREATE_VIEW = "CREATE VIEW"
    CREATE_MATERIALIZED_VIEW = "CREATE MATERIALIZED VIEW"
    CREATE_INDEX = "CREATE INDEX"
    CREATE_SEQUENCE = "CREATE SEQUENCE"
    CREATE_STATISTICS = "CREATE STATISTICS"
    CREATE_TRIGGER = "CREATE TRIGGER"
    CREATE_RULE = "CREATE RULE"
    CREATE_POLICY = "CREATE POLICY"
    ALTER_POLICY = "ALTER POLICY"
    CREATE_SCHEMA = "CREATE SCHEMA"
    CREATE_FUNCTION = "CREATE FUNCTION"
    CREATE_EXTENSION = "CREATE EXTENSION"
    ALTER_EXTENSION = "ALTER EXTENSION"
    CREATE_PUBLICATION = "CREATE PUBLICATION"
    ALTER_PUBLICATION = "ALTER PUBLICATION"
    CREATE_SUBSCRIPTION = "CREATE SUBSCRIPTION"
    ALTER_SUBSCRIPTION = "ALTER SUBSCRIPTION"
    DROP_SUBSCRIPTION = "DROP SUBSCRIPTION"
    ALTER_TABLE = "ALTER TABLE"
    ALTER_INDEX = "ALTER INDEX"
    ALTER_VIEW = "ALTER VIEW"
    ALTER_MATERIALIZED_VIEW = "ALTER MATERIALIZED VIEW"
    ALTER_SEQUENCE = "ALTER SEQUENCE"
    ALTER_FOREIGN_TABLE = "ALTER FOREIGN TABLE"
    ALTER_TYPE = "ALTER TYPE"
    RENAME = "ALTER … RENAME"
    SET_SCHEMA = "ALTER … SET SCHEMA"
    SET_OWNER = "ALTER … OWNER TO"
    DEPENDS_ON_EXTENSION = "ALTER … DEPENDS ON EXTENSION"
    MOVE_ALL = "ALTER … ALL IN TABLESPACE"
    DROP_TABLE = "DROP TABLE"
    DROP_INDEX = "DROP INDEX"
    DROP_VIEW = "DROP VIEW"
    DROP_MATERIALIZED_VIEW = "DROP MATERIALIZED VIEW"
    DROP_SEQUENCE = "DROP SEQUENCE"
    DROP_FOREIGN_TABLE = "DROP FOREIGN TABLE"
    DROP_SCHEMA = "DROP SCHEMA"
    DROP_TRIGGER = "DROP TRIGGER"
    DROP_RULE = "DROP RULE"
    DROP_POLICY = "DROP POLICY"
    DROP_OTHER = "DROP"
    DROP_OWNED = "DROP OWNED"
    REASSIGN_OWNED = "REASSIGN OWNED"
    COMMENT = "COMMENT"
    SECURITY_LABEL = "SECURITY LABEL"
    GRANT = "GRANT"
    REVOKE = "REVOKE"
    ALTER_DEFAULT_PRIVILEGES = "ALTER DEFAULT PRIVILEGES"
    CREATE_ROLE = "CREATE ROLE"
    ALTER_ROLE = "ALTER ROLE"
    DROP_ROLE = "DROP ROLE"
    GRANT_ROLE = "GRANT ROLE"
    CREATE_DATABASE = "CREATE DATABASE"
    ALTER_DATABASE = "ALTER DATABASE"
    DROP_DATABASE = "DROP DATABASE"
    CREATE_TABLESPACE = "CREATE TABLESPACE"
    ALTER_TABLESPACE = "ALTER TABLESPACE"
    DROP_TABLESPACE = "DROP TABLESPACE"
    ALTER_SYSTEM = "ALTER SYSTEM"
    CHECKPOINT = "CHECKPOINT"
    LOAD = "LOAD"
    DISCARD = "DISCARD"
    SET = "SET"
    RESET = "RESET"
    SHOW = "SHOW"
    SET_TRANSACTION = "SET TRANSACTION"
    SET_CONSTRAINTS = "SET CONSTRAINTS"
    TRANSACTION = "transaction control"
    LISTEN = "LISTEN"
    UNLISTEN = "UNLISTEN"
    NOTIFY = "NOTIFY"
    OTHER = "other"


_K = StatementKind
#: Statements that change rows, and those that the planner can plan.
ROW_CHANGES: Final = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE})
QUERIES: Final = ROW_CHANGES | {_K.SELECT}

#: The parser's fields for statements: most are called like the kind, as `insert_stmt` is.
_BY_NODE: Mapping[str, StatementKind] = {
    **{f"{kind.name.lower()}_stmt": kind for kind in StatementKind},
    "close_portal_stmt": _K.CLOSE,
    "refresh_mat_view_stmt": _K.REFRESH_MATERIALIZED_VIEW,
    "create_stmt": _K.CREATE_TABLE,
    "view_stmt": _K.CREATE_VIEW,
    "index_stmt": _K.CREATE_INDEX,
    "create_seq_stmt": _K.CREATE_SEQUENCE,
    "alter_seq_stmt": _K.ALTER_SEQUENCE,
    "create_stats_stmt": _K.CREATE_STATISTICS,
    "create_trig_stmt": _K.CREATE_TRIGGER,
    "rule_stmt": _K.CREATE_RULE,
    "alter_extension_contents_stmt": _K.ALTER_EXTENSION,
    "alter_enum_stmt": _K.ALTER_TYPE,
    "alter_object_schema_stmt": _K.SET_SCHEMA,
    "alter_owner_stmt": _K.SET_OWNER,
    "alter_object_depends_stmt": _K.DEPENDS_ON_EXTENSION,
    "alter_table_move_all_stmt": _K.MOVE_ALL,
    "sec_label_stmt": _K.SECURITY_LABEL,
    "alter_role_set_stmt": _K.ALTER_ROLE,
    "createdb_stmt": _K.CREATE_DATABASE,
    "alter_database_set_stmt": _K.ALTER_DATABASE,
    "alter_database_refresh_coll_stmt": _K.ALTER_DATABASE,
    "dropdb_stmt": _K.DROP_DATABASE,
    "create_table_space_stmt": _K.CREATE_TABLESPACE,
    "alter_table_space_options_stmt": _K.ALTER_TABLESPACE,
    "drop_table_space_stmt": _K.DROP_TABLESPACE,
    "check_point_stmt": _K.CHECKPOINT,
    "variable_show_stmt": _K.SHOW,
    "constraints_set_stmt": _K.SET_CONSTRAINTS,
}
_SET: Mapping[str, StatementKind] = {
    "VAR_SET_MULTI": _K.SET_TRANSACTION,
    "VAR_RESET": _K.RESET,
    "VAR_RESET_ALL": _K.RESET,
}


def _with_object(verb: str, object_type: str, other: StatementKind) -> StatementKind:
    """Return the kind for an object of the parser's type (`OBJECT_TABLE`), `other` if it has none of its own."""
    name = object_type.removeprefix("OBJECT_").replace("MATVIEW", "MATERIALIZED_VIEW")
    return StatementKind.__members__.get(f"{verb}_{name}", other)


def _create_as(node: Tree) -> StatementKind:
    return _K.CREATE_MATERIALIZED_VIEW if label(node, "objtype") == "OBJECT_MATVIEW" else _K.CREATE_TABLE_AS


_BY_CONTENT: Mapping[str, Callable[[Tree], StatementKind]] = {
    "select_stmt": lambda node: _K.SELECT_INTO if node.HasField("into_clause") else _K.SELECT,
    "copy_stmt": lambda node: _K.COPY_FROM if node.is_from else _K.COPY_TO,
    "fetch_stmt": lambda node: _K.MOVE if node.ismove else _K.FETCH,
    "vacuum_stmt": lambda node: _K.VACUUM if node.is_vacuumcmd else _K.ANALYZE,
    "create_table_as_stmt": _create_as,
    "alter_table_stmt": lambda node: _with_object("ALTER", label(node, "objtype"), _K.OTHER),
    "drop_stmt": lambda node: _with_object("DROP", label(node, "remove_type"), _K.DROP_OTHER),
    "variable_set_stmt": lambda node: _SET.get(label(node, "kind"), _K.SET),
    "grant_stmt": lambda node: _K.GRANT if node.is_grant else _K.REVOKE,
}


def kind_of(wrapped: Tree) -> StatementKind:
    """Return the kind of a statement, given as the parser wraps it."""
    field = wrapped.WhichOneof("node")
    by_content = _BY_CONTENT.get(field)
    return by_content(unwrap(wrapped)) if by_content else _BY_NODE.get(field, _K.OTHER)


#: The version of PostgreSQL whose grammar the parser has.
GRAMMAR = 18
#: The first character of the name of a parameter without a value. A noncharacter, which no real name has.
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

    def inner(self, node: Tree) -> Statement:
        """Return a statement that is a part of this one, such as that of EXPLAIN, with the place of this one."""
        return Statement(kind=kind_of(node), start=self.start, end=self.end, node=unwrap(node), at=self.at)


class Template(Struct, frozen=True, kw_only=True):
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
    if statement.kind in {_K.SELECT, _K.SHOW, _K.EXPLAIN, _K.EXECUTE, _K.FETCH}:
        return True
    return statement.kind in ROW_CHANGES and bool(node.HasField("returning_clause"))


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
