"""What a statement demands of the catalog, and what it changes there: for checks that ask a server's catalog.

Sources: each command's page in the PostgreSQL documentation, for who may run it and on what kind of relation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.sql.details import created_schema, is_temporary
from runner.sql.facts import created_index, created_relations, dropped_relations, is_cascading, is_guarded
from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import Target
from runner.sql.locks import is_opaque, locks_taken
from runner.sql.nodes import Tree, find, label, strings, unwrap
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named, relation_of

_K = StatementKind


class Right(enum.Enum):
    """What somebody must be allowed to do with a relation."""

    NONE = "no privilege"
    OWN = "ownership"
    MAINTAIN = "ownership or MAINTAIN"
    TRUNCATE = "TRUNCATE"
    SELECT = "SELECT"
    INSERT = "INSERT"
    TRIGGER = "TRIGGER"
    REFERENCES = "REFERENCES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A relation that must be there. `kinds` are letters of pg_class.relkind, none for any; `offset` is in characters.

    With `missing_ok` the statement says IF EXISTS.
    """

    relation: Relation
    offset: int
    right: Right = Right.NONE
    kinds: str = ""
    missing_ok: bool = False


class Action(enum.Enum):
    """What happens to an object."""

    CREATE = "created"
    DROP = "dropped"
    ALTER = "changed"


class Sort(enum.Enum):
    """What sort of object it is, as far as names clash or not."""

    RELATION = "relation"
    SCHEMA = "schema"
    COLUMN = "column"
    FUNCTION = "function"
    TYPE = "type"
    CONSTRAINT = "constraint"
    #: A unique index on columns, without WHERE; its `name` and relation are the table's.
    UNIQUE = "unique index"
    #: Nobody can tell: DO, CALL, an extension's script.
    ANYTHING = "anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the catalog. A schema has no `relation`; a column or constraint has a relation and a `name`.

    `guarded` says IF NOT EXISTS, IF EXISTS or OR REPLACE; `kind` is the letter of pg_class.relkind of what is created.
    """

    action: Action
    sort: Sort
    relation: Relation | None = None
    name: str = ""
    guarded: bool = False
    kind: str = ""
    offset: int = 0
    #: It ends with the step's session.
    temporary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A column or constraint of a relation that must be there (`exists`) or must not be there yet."""

    relation: Relation
    sort: Sort
    name: str
    exists: bool
    offset: int


_RIGHTS: Mapping[StatementKind, tuple[Right, str]] = {
    _K.VACUUM: (Right.MAINTAIN, "rpmt"),
    _K.ANALYZE: (Right.MAINTAIN, "rpmf"),
    _K.CLUSTER: (Right.MAINTAIN, "rpm"),
    _K.REFRESH_MATERIALIZED_VIEW: (Right.MAINTAIN, "m"),
    _K.TRUNCATE: (Right.TRUNCATE, "rpf"),
    _K.CREATE_INDEX: (Right.OWN, "rpm"),
    _K.CREATE_STATISTICS: (Right.OWN, "rpmf"),
    _K.CREATE_TRIGGER: (Right.TRIGGER, "rpvf"),
    _K.CREATE_RULE: (Right.OWN, "rpv"),
    _K.CREATE_POLICY: (Right.OWN, "rp"),
    _K.ALTER_POLICY: (Right.OWN, "rp"),
    _K.DROP_TRIGGER: (Right.OWN, ""),
    _K.DROP_RULE: (Right.OWN, ""),
    _K.DROP_POLICY: (Right.OWN, ""),
    _K.ALTER_TABLE: (Right.OWN, ""),
    _K.ALTER_INDEX: (Right.OWN, ""),
    _K.ALTER_VIEW: (Right.OWN, "v"),
    _K.ALTER_MATERIALIZED_VIEW: (Right.OWN, "m"),
    _K.ALTER_SEQUENCE: (Right.OWN, "S"),
    _K.ALTER_FOREIGN_TABLE: (Right.OWN, "f"),
    _K.RENAME: (Right.OWN, ""),
    _K.SET_SCHEMA: (Right.OWN, ""),
    _K.COMMENT: (Right.OWN, ""),
    _K.DROP_TABLE: (Right.OWN, "rp"),
    _K.DROP_INDEX: (Right.OWN, "iI"),
    _K.DROP_VIEW: (Right.OWN, "v"),
    _K.DROP_MATERIALIZED_VIEW: (Right.OWN, "m"),
    _K.DROP_SEQUENCE: (Right.OWN, "S"),
    _K.DROP_FOREIGN_TABLE: (Right.OWN, "f"),
    _K.COPY_FROM: (Right.INSERT, "rpvf"),
    _K.COPY_TO: (Right.SELECT, ""),
    _K.CREATE_VIEW: (Right.SELECT, ""),
    _K.LOCK: (Right.NONE, "rpv"),
}


def needed(statement: Statement) -> tuple[Needed, ...]:
    """Return the relations that must be there for the statement, each once, in the order of the text."""
    right, kinds = _RIGHTS.get(statement.kind, (Right.NONE, ""))
    if statement.kind is _K.REINDEX:
        index = label(statement.node, "kind") == "REINDEX_OBJECT_INDEX"
        right, kinds = Right.MAINTAIN, "iI" if index else "rpmt"
    made = {change.relation for change in _made(statement) if change.sort is Sort.RELATION}
    found: dict[Relation, Needed] = {}
    for lock in locks_taken(statement):
        if lock.target is Target.RELATION and lock.relation not in made and lock.relation not in found:
            found[lock.relation] = Needed(
                relation=lock.relation,
                offset=lock.offset,
                right=right,
                kinds=kinds,
                missing_ok=bool(getattr(statement.node, "missing_ok", False)),
            )
    if statement.kind is _K.CREATE_TABLE:
        found.update(_of_new_table(statement))
    if statement.kind is _K.ALTER_TABLE:
        # What else it names may be of any kind, and is owned or referred to: the server says more when it runs.
        main = relation_of(statement.node.relation)
        found = {key: one if key == main else _plain(one) for key, one in found.items()}
    return tuple(found.values())


def _plain(one: Needed) -> Needed:
    return Needed(relation=one.relation, offset=one.offset)


def _of_new_table(statement: Statement) -> Iterator[tuple[Relation, Needed]]:
    """A partition's parent must be partitioned, a parent owned, a referenced table usable as one."""
    node = statement.node
    kinds = "p" if node.HasField("partbound") else "rf"
    for parent in map(unwrap, node.inh_relations):
        relation = relation_of(parent)
        yield relation, Needed(relation=relation, offset=statement.offset(parent), right=Right.OWN, kinds=kinds)
    own = relation_of(node.relation)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable") and relation_of(constraint.pktable) != own:
            relation = relation_of(constraint.pktable)
            offset = statement.offset(constraint.pktable)
            yield relation, Needed(relation=relation, offset=offset, right=Right.REFERENCES, kinds="rp")


_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.VACUUM, _K.ANALYZE, _K.REINDEX})


def changes(statement: Statement) -> tuple[Change, ...]:
    """Return what the statement changes in the catalog, as far as its text tells."""
    kind = statement.kind
    if kind in _QUERIES:  # most statements of most plans; they change nothing, and need not be searched
        return ()
    # What can be prepared changes nothing in the catalog.
    if (kind is not _K.EXECUTE and is_opaque(statement)) or kind in {_K.CREATE_EXTENSION, _K.ALTER_EXTENSION}:
        return (Change(action=Action.CREATE, sort=Sort.ANYTHING, offset=statement.start),)
    return (*_made(statement), *_unmade(statement), *_altered(statement), *_renamed(statement))


_RELKINDS: Mapping[StatementKind, str] = {
    _K.CREATE_TABLE: "r",
    _K.CREATE_FOREIGN_TABLE: "f",
    _K.CREATE_TABLE_AS: "r",
    _K.SELECT_INTO: "r",
    _K.CREATE_MATERIALIZED_VIEW: "m",
    _K.CREATE_VIEW: "v",
    _K.CREATE_SEQUENCE: "S",
}
#: Statements that make types, and where the tree has their names.
_TYPES: Mapping[str, str] = {
    "CompositeTypeStmt": "typevar",
    "CreateEnumStmt": "type_name",
    "CreateRangeStmt": "type_name",
    "CreateDomainStmt": "domainname",
    "DefineStmt": "defnames",
}


def _made(statement: Statement) -> Iterator[Change]:
    node, guarded = statement.node, is_guarded(statement)
    offset = statement.start
    kind = _RELKINDS.get(statement.kind, "")
    if statement.kind is _K.CREATE_TABLE and node.HasField("partspec"):
        kind = "p"
    for relation in created_relations(statement):
        yield Change(
            action=Action.CREATE,
            sort=Sort.RELATION,
            relation=relation,
            guarded=guarded,
            kind=kind,
            offset=offset,
            temporary=is_temporary(statement),
        )
    index = created_index(statement)
    if index is not None and index.index is not None:
        yield Change(
            action=Action.CREATE, sort=Sort.RELATION, relation=index.index, guarded=guarded, kind="i", offset=offset
        )
        if node.unique and not node.HasField("where_clause"):
            table = index.table
            yield Change(action=Action.CREATE, sort=Sort.UNIQUE, relation=table, name=table.name, offset=offset)
    schema = created_schema(statement)
    if schema is not None:
        yield Change(action=Action.CREATE, sort=Sort.SCHEMA, name=schema, guarded=guarded, offset=offset)
    if statement.kind is _K.CREATE_FUNCTION:
        name = relation_named(strings(node.funcname))
        yield Change(action=Action.CREATE, sort=Sort.FUNCTION, relation=name, guarded=guarded, offset=offset)
    names = _TYPES.get(node.DESCRIPTOR.name)
    if names is not None:
        held = getattr(node, names)
        relation = relation_of(held) if names == "typevar" else relation_named(strings(held))
        yield Change(action=Action.CREATE, sort=Sort.TYPE, relation=relation, offset=offset)


def _unmade(statement: Statement) -> Iterator[Change]:
    guarded = is_guarded(statement)
    for relation in dropped_relations(statement):
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, guarded=guarded, offset=statement.start)
    if statement.kind is _K.DROP_SCHEMA:
        for node in statement.node.objects:
            yield Change(
                action=Action.DROP,
                sort=Sort.SCHEMA,
                name=unwrap(node).sval,
                guarded=guarded,
                offset=statement.start,
            )


def drops_what_is_in_it(statement: Statement) -> bool:
    """Return whether it is a DROP SCHEMA that takes what is in the schema with it."""
    return statement.kind is _K.DROP_SCHEMA and is_cascading(statement)


def _altered(statement: Statement) -> Iterator[Change]:
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return
    relation = relation_of(statement.node.relation)
    for name in sorted(added_columns(statement)):
        yield Change(action=Action.CREATE, sort=Sort.COLUMN, relation=relation, name=name, offset=statement.start)
    for part in parts(statement):
        if part.sort is Sort.COLUMN and not part.exists:
            continue
        if part.exists and part.name not in _dropped_parts(statement):
            continue
        action = Action.DROP if part.exists else Action.CREATE
        yield Change(action=action, sort=part.sort, relation=relation, name=part.name, offset=part.offset)
    yield Change(action=Action.ALTER, sort=Sort.RELATION, relation=relation, offset=statement.start)


def _dropped_parts(statement: Statement) -> frozenset[str]:
    commands = map(unwrap, statement.node.cmds)
    return frozenset(
        command.name for command in commands if label(command, "subtype") in {"AT_DropColumn", "AT_DropConstraint"}
    )


def _renamed(statement: Statement) -> Iterator[Change]:
    node, offset = statement.node, statement.start
    if statement.kind not in {_K.RENAME, _K.SET_SCHEMA} or not node.HasField("relation"):
        return
    relation = relation_of(node.relation)
    if statement.kind is _K.SET_SCHEMA:
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, offset=offset)
        moved = Relation(node.newschema, relation.name)
        yield Change(action=Action.CREATE, sort=Sort.RELATION, relation=moved, offset=offset)
        return
    what = label(node, "rename_type")
    if what in {"OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"}:
        sort = Sort.COLUMN if what == "OBJECT_COLUMN" else Sort.CONSTRAINT
        yield Change(action=Action.DROP, sort=sort, relation=relation, name=node.subname, offset=offset)
        yield Change(action=Action.CREATE, sort=sort, relation=relation, name=node.newname, offset=offset)
    elif what in {"OBJECT_TABLE", "OBJECT_INDEX", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE"}:
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, offset=offset)
        renamed = Relation(relation.schema, node.newname)
        yield Change(action=Action.CREATE, sort=Sort.RELATION, relation=renamed, offset=offset)


#: Subcommands of ALTER TABLE about a column or constraint that must be there.
_OLD_COLUMN = frozenset(
    {
        *("AT_DropColumn", "AT_AlterColumnType", "AT_SetNotNull", "AT_DropNotNull", "AT_ColumnDefault"),
        *("AT_SetStatistics", "AT_SetStorage", "AT_SetExpression", "AT_DropExpression", "AT_AddIdentity"),
        *("AT_SetIdentity", "AT_DropIdentity", "AT_SetCompression", "AT_SetOptions", "AT_ResetOptions"),
    }
)
_OLD_CONSTRAINT = frozenset({"AT_ValidateConstraint", "AT_DropConstraint", "AT_AlterConstraint"})


def parts(statement: Statement) -> tuple[Part, ...]:
    """Return the columns and constraints that must be there, or must not be there yet."""
    if statement.node.DESCRIPTOR.name == "AlterTableStmt":
        return tuple(_altered_parts(statement))
    if statement.kind is _K.CREATE_INDEX:
        node = statement.node
        elements = map(unwrap, (*node.index_params, *node.index_including_params))
        names = [element.name for element in elements if element.name]
        return tuple(_column(statement, relation_of(node.relation), name) for name in names)
    if statement.kind in {_K.ANALYZE, _K.VACUUM}:
        return tuple(
            _column(statement, relation_of(rel.relation), name)
            for rel in map(unwrap, statement.node.rels)
            for name in strings(rel.va_cols)
        )
    return ()


def _column(statement: Statement, relation: Relation, name: str) -> Part:
    return Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=statement.start)


def _altered_parts(statement: Statement) -> Iterator[Part]:
    relation, offset = relation_of(statement.node.relation), statement.start
    added: set[str] = set()
    for command in map(unwrap, statement.node.cmds):
        subtype = label(command, "subtype")
        if command.missing_ok:
            if subtype == "AT_AddColumn":
                added.add(unwrap(getattr(command, "def")).colname)
            continue
        if subtype == "AT_AddColumn":
            name = unwrap(getattr(command, "def")).colname
            added.add(name)
            yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=False, offset=offset)
        elif subtype in _OLD_COLUMN and command.name and command.name not in added:
            yield Part(relation=relation, sort=Sort.COLUMN, name=command.name, exists=True, offset=offset)
        elif subtype in _OLD_CONSTRAINT:
            yield Part(relation=relation, sort=Sort.CONSTRAINT, name=command.name, exists=True, offset=offset)
        elif subtype == "AT_AddConstraint":
            yield from _constraint_parts(unwrap(getattr(command, "def")), relation, offset, added)


def _constraint_parts(constraint: Tree, relation: Relation, offset: int, added: set[str]) -> Iterator[Part]:
    if constraint.conname:
        yield Part(relation=relation, sort=Sort.CONSTRAINT, name=constraint.conname, exists=False, offset=offset)
    for name in (*strings(constraint.keys), *strings(constraint.fk_attrs)):
        if name not in added:
            yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=offset)


def truncates_dependents(statement: Statement) -> bool:
    """Return whether it is TRUNCATE … CASCADE."""
    return statement.kind is _K.TRUNCATE and is_cascading(statement)


def added_columns(statement: Statement) -> frozenset[str]:
    """Return the columns that ALTER TABLE adds, also those that may be there already (IF NOT EXISTS)."""
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return frozenset()
    commands = (command for command in map(unwrap, statement.node.cmds) if label(command, "subtype") == "AT_AddColumn")
    return frozenset(unwrap(getattr(command, "def")).colname for command in commands)
