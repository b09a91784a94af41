"""What a statement does: whether it only reads, what it destroys, and whether all of it ends with the session.

Whether a statement only reads is a cautious guess, because a function can do anything. A view, an index or a function
can be created again from its definition, so dropping one is no loss; CASCADE is one, because the statement does not
name what it drops. Settings, advisory locks, temporary objects, prepared statements and cursors end with the worker's
session: a step that does nothing else does nothing for the steps after it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.builtin_functions import READER_PREFIXES, READERS, RUNS_SQL_PREFIXES, WRITER_PREFIXES, WRITERS
from runner.sql.command_objects import created_index, created_relations, dropped_relations, is_temporary, main_relation
from runner.sql.command_options import enabled, is_cascading
from runner.sql.function_calls import FunctionCall, function_call, functions_called
from runner.sql.relations import Relation, relation_of
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import ROW_CHANGING_NODES, contains, find, unwrap, walk
from runner.sql.transactions import is_session_only
from runner.structs import Struct

_K = StatementKind


class Effect(enum.Enum):
    """What is known of a statement's effect on data."""

    READS = "only reads"
    WRITES = "writes"
    UNKNOWN = "may write"


def effect(statement: Statement) -> Effect:
    """Return READS only if every called function is known to read only, WRITES only if a part certainly writes.

    Row locks (FOR UPDATE) count as writing, as they do in a read-only transaction.
    """
    node = statement.node
    match statement.kind:
        case _K.SHOW | _K.SET | _K.RESET | _K.SET_TRANSACTION:
            return Effect.READS
        case _K.EXPLAIN:
            return effect(statement.inner(node.query)) if enabled(statement, "analyze") else Effect.READS
        case _K.SELECT | _K.DECLARE_CURSOR:
            return _of_query(statement)
        case _K.COPY_TO:
            return _of_query(statement) if not node.filename else Effect.WRITES
        case _K.CALL | _K.DO | _K.EXECUTE | _K.FETCH | _K.MOVE | _K.PREPARE:
            return Effect.UNKNOWN
    return Effect.WRITES


_WRITING_NODES = frozenset({*ROW_CHANGING_NODES, "LockingClause", "IntoClause"})


def _of_query(statement: Statement) -> Effect:
    found = Effect.READS
    for node in walk(statement.node):
        name = node.DESCRIPTOR.name
        of_node = effect_of_call(function_call(statement, node)) if name == "FuncCall" else Effect.READS
        if name in _WRITING_NODES or of_node is Effect.WRITES:
            return Effect.WRITES
        if of_node is Effect.UNKNOWN:
            found = of_node
    return found


#: Commands that a read-only transaction refuses, besides CREATE, ALTER and DROP (ClassifyUtilityCommandAsReadOnly of
#: utility.c). It allows VACUUM, ANALYZE, REINDEX and CLUSTER.
_REFUSED = frozenset(
    {
        *(
            _K.TRUNCATE,
            _K.REFRESH_MATERIALIZED_VIEW,
            _K.SELECT_INTO,
            _K.COMMENT,
            _K.SECURITY_LABEL,
            _K.GRANT,
            _K.REVOKE,
        ),
        *(_K.GRANT_ROLE, _K.REASSIGN_OWNED),
    }
)
_REFUSED_VERBS = ("CREATE ", "ALTER ", "DROP")


def refused_read_only(statement: Statement) -> str | None:
    """Return in words what a read-only transaction certainly refuses in a statement; None if nothing is certain.

    Functions are not considered: many that write something are not refused.
    """
    kind = statement.kind
    if kind in _REFUSED or (kind.startswith(_REFUSED_VERBS) and kind is not _K.ALTER_SYSTEM):
        return str(kind)
    if kind not in QUERIES:
        return None
    for node in walk(statement.node):
        name = str(node.DESCRIPTOR.name)
        if name in ROW_CHANGING_NODES:
            return name.removesuffix("Stmt").upper()
        if name == "LockingClause":
            return "row locks (FOR UPDATE, FOR SHARE)"
    return None


def effect_of_call(call: FunctionCall) -> Effect:
    """Return what is known of one call by the function's name alone."""
    builtin = call.schema in {None, "pg_catalog"}
    if builtin and (call.name in WRITERS or call.name.startswith(WRITER_PREFIXES)):
        return Effect.WRITES
    if call.schema == "pg_catalog" and not call.name.startswith(RUNS_SQL_PREFIXES):
        return Effect.READS
    known = call.name in READERS or call.name.startswith(READER_PREFIXES)
    return Effect.READS if call.schema is None and known else Effect.UNKNOWN


class Loss(Struct, frozen=True, kw_only=True):
    """What is lost: `what` as a clause (`DROP TABLE removes audit`); the relation or schema, where it is one."""

    what: str
    relation: Relation | None = None
    schema: str | None = None


def losses(statement: Statement) -> Iterator[Loss]:
    """Yield what the statement destroys, in the order of the text."""
    kind = statement.kind
    cascading = is_cascading(statement)
    if kind is _K.TRUNCATE:
        for node in find(statement.node, "RangeVar"):
            yield _of_relation("TRUNCATE empties", relation_of(node), cascading=cascading)
    elif kind is _K.DROP_TABLE:
        for relation in dropped_relations(statement):
            yield _of_relation("DROP TABLE removes", relation, cascading=cascading)
    elif kind is _K.ALTER_TABLE:
        yield from _dropped_columns(statement)
    elif kind is _K.DROP_SCHEMA:
        yield from _schemas(statement) if cascading else ()
    elif kind in {_K.DROP_DATABASE, _K.DROP_OWNED}:
        yield Loss(what=f"{kind} removes tables with their data")
    elif kind.startswith("DROP") and cascading:
        yield from _cascades(statement)


def _of_relation(what: str, relation: Relation, *, cascading: bool) -> Loss:
    more = ", and CASCADE reaches all objects that depend on it" if cascading else ""
    return Loss(what=f"{what} `{relation}`{more}", relation=relation)


def _dropped_columns(statement: Statement) -> Iterator[Loss]:
    relation = main_relation(statement)
    for action in alter_actions(statement):
        if action.kind is AlterKind.DROP_COLUMN:
            yield Loss(what=f"DROP COLUMN removes `{action.name}` of `{relation}`", relation=relation)


def _schemas(statement: Statement) -> Iterator[Loss]:
    for node in statement.node.objects:
        schema = unwrap(node).sval
        yield Loss(what=f"DROP SCHEMA … CASCADE removes everything in `{Relation(None, schema)}`", schema=schema)


def _cascades(statement: Statement) -> Iterator[Loss]:
    relations = dropped_relations(statement)
    for relation in relations:
        yield Loss(what=f"CASCADE drops all objects that depend on `{relation}`", relation=relation)
    if not relations:
        yield Loss(what="CASCADE drops all dependent objects, too")


class SessionState(enum.Enum):
    """What a statement leaves in its session, in the words of a sentence that begins with the step."""

    SETTINGS = "changes settings"
    LOCK = "takes locks"
    TEMPORARY = "makes temporary objects"
    PREPARED = "prepares statements"
    CURSOR = "opens or reads cursors"
    OTHER = "changes its session"


_OF_KIND = {
    **dict.fromkeys((_K.SET, _K.RESET, _K.SET_TRANSACTION, _K.SET_CONSTRAINTS, _K.LOAD), SessionState.SETTINGS),
    **dict.fromkeys((_K.PREPARE, _K.DEALLOCATE), SessionState.PREPARED),
    **dict.fromkeys((_K.DECLARE_CURSOR, _K.FETCH, _K.MOVE, _K.CLOSE), SessionState.CURSOR),
    _K.LOCK: SessionState.LOCK,
}
_CREATES = frozenset({_K.CREATE_TABLE, _K.CREATE_TABLE_AS, _K.SELECT_INTO, _K.CREATE_VIEW, _K.CREATE_SEQUENCE})
_CHANGES_ROWS = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE})
_ADVISORY = ("pg_advisory_", "pg_try_advisory_")


def session_state(statements: Sequence[Statement]) -> SessionState | None:
    """Return what a text leaves in its session if it does nothing else but read; None if it does."""
    found: SessionState | None = None
    own: frozenset[Relation] = frozenset()
    for statement in statements:
        state = state_of(statement, own)
        if state is None and effect(statement) is not Effect.READS:
            return None
        if state is SessionState.TEMPORARY and statement.kind in _CREATES:
            own |= frozenset(created_relations(statement))
        found = found or state
    # A text that holds its locks for some time may do so on purpose.
    waits = any(call.name.startswith("pg_sleep") for each in statements for call in functions_called(each))
    return None if waits else found


def state_of(statement: Statement, own: frozenset[Relation] = frozenset()) -> SessionState | None:
    """Return what one statement leaves in its session; None if it does more. `own` are the text's temporary tables."""
    if is_session_only(statement):
        return _OF_KIND.get(statement.kind, SessionState.OTHER)
    if statement.kind is _K.SELECT:
        return _state_of_query(statement)
    if not _is_of_temporary(statement, own):
        return None
    calls = (effect_of_call(call) for call in functions_called(statement))
    return SessionState.TEMPORARY if all(found is Effect.READS for found in calls) else None


def _is_of_temporary(statement: Statement, own: frozenset[Relation]) -> bool:
    """Return whether the statement creates a temporary object, or changes one of the text's `own` temporary tables."""
    if statement.kind in _CREATES:
        return is_temporary(statement)
    if not own:
        return False
    index = created_index(statement)
    if index is not None:
        return index.table in own
    if statement.kind not in _CHANGES_ROWS or relation_of(statement.node.relation) not in own:
        return False
    writes = sum(node.DESCRIPTOR.name in ROW_CHANGING_NODES for node in walk(statement.node))
    return writes <= 1


def _state_of_query(statement: Statement) -> SessionState | None:
    """A query that takes advisory locks or sets settings by a function, and otherwise reads."""
    names = [call.name for call in functions_called(statement) if effect_of_call(call) is not Effect.READS]
    if contains(statement.node, *ROW_CHANGING_NODES, "LockingClause"):
        return None
    if names and all(name.startswith(_ADVISORY) for name in names):
        return SessionState.LOCK
    return SessionState.SETTINGS if names and set(names) == {"set_config"} else None
