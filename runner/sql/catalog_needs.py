"""What must exist for a statement: relations of the right kind, privileges, types, functions, roles and other names.

EXPLAIN checks these in the statements that it accepts; for all others only the catalog shows before they run whether
the names exist. Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping

from runner.sql.builtin_functions import SERIAL_TYPES
from runner.sql.catalog_changes import OF_FUNCTIONS, OF_TYPES, Sort, made
from runner.sql.function_calls import functions_called
from runner.sql.lock_modes import LockTarget
from runner.sql.relations import Relation, Use, query_relations, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, option_value, strings, unwrap, walk
from runner.sql.table_locks import locks_taken
from runner.structs import Struct

_K = StatementKind


class Right(enum.Enum):
    """The privilege that a role needs on a relation."""

    NONE = "no privilege"
    OWN = "ownership"
    MAINTAIN = "ownership or MAINTAIN"
    GRANT = "ownership or a grant option"
    TRUNCATE = "TRUNCATE"
    SELECT = "SELECT"
    INSERT = "INSERT"
    TRIGGER = "TRIGGER"
    REFERENCES = "REFERENCES"


class Needed(Struct, frozen=True):
    """A relation that must be there. `kinds` are letters of pg_class.relkind, none for any; `offset` is in characters.

    `missing_ok`: the statement has IF EXISTS.
    """

    relation: Relation
    offset: int
    right: Right = Right.NONE
    kinds: str = ""
    missing_ok: bool = False


#: The privilege that a command needs, and the letters of the kinds of relation that it works on.
_RIGHTS: Mapping[StatementKind, tuple[Right, str]] = {
    **dict.fromkeys((_K.DROP_TRIGGER, _K.DROP_RULE, _K.DROP_POLICY, _K.ALTER_TABLE), (Right.OWN, "")),
    **dict.fromkeys((_K.ALTER_INDEX, _K.RENAME, _K.SET_SCHEMA, _K.COMMENT), (Right.OWN, "")),
    **dict.fromkeys((_K.CREATE_POLICY, _K.ALTER_POLICY), (Right.OWN, "rp")),
    **dict.fromkeys((_K.ALTER_VIEW, _K.DROP_VIEW), (Right.OWN, "v")),
    **dict.fromkeys((_K.ALTER_MATERIALIZED_VIEW, _K.DROP_MATERIALIZED_VIEW), (Right.OWN, "m")),
    **dict.fromkeys((_K.ALTER_SEQUENCE, _K.DROP_SEQUENCE), (Right.OWN, "S")),
    **dict.fromkeys((_K.ALTER_FOREIGN_TABLE, _K.DROP_FOREIGN_TABLE), (Right.OWN, "f")),
    _K.VACUUM: (Right.MAINTAIN, "rpmt"),
    _K.ANALYZE: (Right.MAINTAIN, "rpmf"),
    _K.CLUSTER: (Right.MAINTAIN, "rpm"),
    _K.REFRESH_MATERIALIZED_VIEW: (Right.MAINTAIN, "m"),
    _K.TRUNCATE: (Right.TRUNCATE, "rpf"),
    _K.CREATE_INDEX: (Right.OWN, "rpm"),
    _K.CREATE_STATISTICS: (Right.OWN, "rpmf"),
    _K.CREATE_TRIGGER: (Right.TRIGGER, "rpvf"),
    _K.CREATE_RULE: (Right.OWN, "rpv"),
    _K.DROP_TABLE: (Right.OWN, "rp"),
    _K.DROP_INDEX: (Right.OWN, "iI"),
    _K.COPY_FROM: (Right.INSERT, "rpvf"),
    _K.COPY_TO: (Right.SELECT, "rmf"),
    _K.GRANT: (Right.GRANT, ""),
    _K.LOCK: (Right.NONE, "rpv"),
}


def needed(statement: Statement) -> tuple[Needed, ...]:
    """Return the relations that must exist for the statement, each once, in the order of the text."""
    right, kinds = _RIGHTS.get(statement.kind, (Right.NONE, ""))
    if statement.kind is _K.REINDEX:
        index = label(statement.node, "kind") == "REINDEX_OBJECT_INDEX"
        right, kinds = Right.MAINTAIN, "iI" if index else "rpmt"
    new = {change.relation for change in made(statement) if change.sort is Sort.RELATION}
    missing_ok = bool(getattr(statement.node, "missing_ok", False))
    found: dict[Relation, Needed] = {}
    for lock in locks_taken(statement):
        if lock.target is LockTarget.RELATION and lock.relation not in new:
            found.setdefault(lock.relation, Needed(lock.relation, lock.offset, right, kinds, missing_ok))
    if statement.kind is _K.CREATE_TABLE:
        found.update(_of_new_table(statement))
    if statement.kind is _K.CREATE_SCHEMA:
        found = _outside_of_schema(statement, found)
    if statement.kind in {_K.ALTER_SEQUENCE, _K.CREATE_SEQUENCE, _K.ALTER_TABLE}:
        # Other names in it may be objects of any kind: the server checks their privileges when it runs. SET LOGGED and
        # OWNER TO of a sequence have the tree of ALTER TABLE.
        node = statement.node
        main = relation_of(node.relation if node.DESCRIPTOR.name == "AlterTableStmt" else node.sequence)
        found = {key: one if key == main else Needed(one.relation, one.offset) for key, one in found.items()}
    return tuple(found.values())


def _outside_of_schema(statement: Statement, found: dict[Relation, Needed]) -> dict[Relation, Needed]:
    """Leave out what CREATE SCHEMA makes itself, which its views name without the schema."""
    new = {change.relation.name for change in made(statement) if change.relation is not None}
    own = {None, statement.node.schemaname}
    return {key: one for key, one in found.items() if not (key.name in new and key.schema in own)}


def _of_new_table(statement: Statement) -> Iterator[tuple[Relation, Needed]]:
    """A partition's parent must be partitioned, a parent owned, a referenced table usable as one."""
    node = statement.node
    kinds = "p" if node.HasField("partbound") else "rf"
    for parent in map(unwrap, node.inh_relations):
        relation = relation_of(parent)
        yield relation, Needed(relation, statement.offset(parent), Right.OWN, kinds)
    own = relation_of(node.relation)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable") and relation_of(constraint.pktable) != own:
            relation = relation_of(constraint.pktable)
            yield relation, Needed(relation, statement.offset(constraint.pktable), Right.REFERENCES, "rp")


_MERGED = frozenset({"CMD_INSERT", "CMD_UPDATE", "CMD_DELETE"})


class RowRight(Struct, frozen=True):
    """A privilege that a query needs on a relation or on those of its columns that it names."""

    relation: Relation
    privilege: str
    offset: int


def row_rights(statement: Statement) -> tuple[RowRight, ...]:
    """Return the privileges that a query needs, each once."""
    found = [*_read(statement), *_written(statement)]
    return tuple({(one.relation, one.privilege): one for one in reversed(found)}.values())[::-1]


def _read(statement: Statement) -> Iterator[RowRight]:
    for use in query_relations(statement):
        if use.use is not Use.WRITE:
            yield RowRight(use.relation, "SELECT", use.offset)
        if use.use is Use.LOCK_ROWS:
            yield RowRight(use.relation, "UPDATE", use.offset)


def _written(statement: Statement) -> Iterator[RowRight]:
    for node in walk(statement.node):
        for privilege in _needs(node):
            yield RowRight(relation_of(node.relation), privilege, statement.offset(node.relation))


def _needs(node: Tree) -> Iterator[str]:
    match node.DESCRIPTOR.name:
        case "InsertStmt":
            yield "INSERT"
            if node.HasField("on_conflict_clause") and label(node.on_conflict_clause, "action") == "ONCONFLICT_UPDATE":
                yield "UPDATE"
        case "UpdateStmt" | "DeleteStmt":
            yield "UPDATE" if node.DESCRIPTOR.name == "UpdateStmt" else "DELETE"
            if node.HasField("where_clause"):
                yield "SELECT"
        case "MergeStmt":
            yield "SELECT"
            commands = (label(unwrap(clause), "command_type") for clause in node.merge_when_clauses)
            yield from (command.removeprefix("CMD_") for command in commands if command in _MERGED)


class ObjectSort(enum.Enum):
    """The kind of object that a name refers to."""

    TYPE = "type"
    FUNCTION = "function"
    ROLE = "role"
    TABLESPACE = "tablespace"
    #: An extension that can be installed, and one that is installed.
    AVAILABLE_EXTENSION = "available extension"
    EXTENSION = "extension"
    LANGUAGE = "language"
    INDEX_METHOD = "index access method"
    TABLE_METHOD = "table access method"


class Mention(Struct, frozen=True):
    """A name in a statement; only types and functions have a schema. `offset` counts characters."""

    sort: ObjectSort
    name: Relation
    offset: int


#: Statements whose types and functions must exist when they run. Others, such as DROP, may name missing ones.
_DEFINITIONS = frozenset(
    {
        *("CreateStmt", "CreateForeignTableStmt", "AlterTableStmt", "IndexStmt", "CreateStatsStmt"),
        *("CreateDomainStmt", "CompositeTypeStmt", "CreatePolicyStmt", "AlterPolicyStmt", "CreateTrigStmt"),
        *("CreateFunctionStmt", "CommentStmt", "GrantStmt"),
    }
)
_TABLESPACE_FIELDS = ("tablespacename", "table_space", "indexspace")


def defines(statement: Statement) -> bool:
    """Return whether the types and functions that the statement names are among its mentions."""
    return statement.node.DESCRIPTOR.name in _DEFINITIONS


def mentions(statement: Statement) -> tuple[Mention, ...]:
    """Return what the statement names beside relations, each once, in the order of the tree."""
    node = statement.node
    found = [*_roles(statement), *_tablespaces(statement), *_extensions(statement), *_access_methods(statement)]
    if defines(statement):
        found += [Mention(ObjectSort.TYPE, name, offset) for name, offset in type_names(statement)]
        found += [*_functions(statement), *_languages(statement)]
    elif node.DESCRIPTOR.name == "DropStmt" and not node.missing_ok:
        found += _dropped(statement)
    return tuple(dict.fromkeys(found))


def type_names(statement: Statement) -> Iterator[tuple[Relation, int]]:
    """Yield the types that a statement names, but for those that the grammar makes of other words."""
    options = (unwrap(option.arg) for option in find(statement.node, "DefElem") if option.HasField("arg"))
    words = {value.location for value in options if value.DESCRIPTOR.name == "TypeName"}  # `off` reads as a type
    for node in find(statement.node, "TypeName"):
        parts = strings(node.names)
        serial = len(parts) == 1 and parts[0] in SERIAL_TYPES
        if node.location not in words and parts and not node.pct_type and not serial:
            yield relation_named(parts), statement.offset(node)


def typed(statement: Statement) -> frozenset[Relation]:
    """Return the types that columns, domains, parameters and results get: the role needs USAGE on them."""
    nodes = [column.type_name for column in find(statement.node, "ColumnDef")]
    nodes += [parameter.arg_type for parameter in find(statement.node, "FunctionParameter")]
    if statement.kind is _K.CREATE_FUNCTION:
        nodes.append(statement.node.return_type)
    elif statement.node.DESCRIPTOR.name == "CreateDomainStmt":
        nodes.append(statement.node.type_name)
    return frozenset(relation_named(strings(node.names)) for node in nodes if node.names)


def _functions(statement: Statement) -> Iterator[Mention]:
    for call in functions_called(statement):
        yield Mention(ObjectSort.FUNCTION, Relation(call.schema, call.name), call.offset)
    if statement.node.DESCRIPTOR.name == "CreateTrigStmt":
        yield Mention(ObjectSort.FUNCTION, relation_named(strings(statement.node.funcname)), statement.start)


def _roles(statement: Statement) -> Iterator[Mention]:
    node = statement.node
    if node.DESCRIPTOR.name == "DropRoleStmt" and node.missing_ok:
        return
    for spec in find(node, "RoleSpec"):
        if label(spec, "roletype") == "ROLESPEC_CSTRING":
            yield Mention(ObjectSort.ROLE, Relation(None, spec.rolename), statement.offset(spec))
    if node.DESCRIPTOR.name == "GrantRoleStmt":
        for granted in map(unwrap, node.granted_roles):
            yield _plain(statement, ObjectSort.ROLE, granted.priv_name)


def _tablespaces(statement: Statement) -> Iterator[Mention]:
    node = statement.node
    if node.DESCRIPTOR.name in {"CreateTableSpaceStmt", "DropTableSpaceStmt", "AlterTableSpaceOptionsStmt"}:
        return
    for inner in walk(node):
        fields = inner.DESCRIPTOR.fields_by_name
        names = [getattr(inner, field) for field in _TABLESPACE_FIELDS if field in fields]
        if inner.DESCRIPTOR.name == "IntoClause":
            names.append(inner.table_space_name)
        elif inner.DESCRIPTOR.name == "AlterTableCmd" and label(inner, "subtype") == "AT_SetTableSpace":
            names.append(inner.name)
        elif inner.DESCRIPTOR.name == "DefElem" and inner.defname == "tablespace":
            names.append(option_value(inner) or "")
        for name in filter(None, names):
            yield _plain(statement, ObjectSort.TABLESPACE, name)


#: What the parser writes into CREATE INDEX without USING; it is always there.
_DEFAULT_INDEX_METHOD = "btree"
_OF_INDEXES = frozenset({"IndexStmt", "Constraint"})


def _access_methods(statement: Statement) -> Iterator[Mention]:
    for inner in walk(statement.node):
        name = ""
        sort = ObjectSort.INDEX_METHOD if inner.DESCRIPTOR.name in _OF_INDEXES else ObjectSort.TABLE_METHOD
        if "access_method" in inner.DESCRIPTOR.fields_by_name and inner.DESCRIPTOR.name != "DefElem":
            name = inner.access_method
        elif inner.DESCRIPTOR.name == "AlterTableCmd" and label(inner, "subtype") == "AT_SetAccessMethod":
            name = inner.name
        if name and not (sort is ObjectSort.INDEX_METHOD and name == _DEFAULT_INDEX_METHOD):
            yield _plain(statement, sort, name)


def _extensions(statement: Statement) -> Iterator[Mention]:
    match statement.node.DESCRIPTOR.name:
        case "CreateExtensionStmt":
            yield _plain(statement, ObjectSort.AVAILABLE_EXTENSION, statement.node.extname)
        case "AlterExtensionStmt" | "AlterExtensionContentsStmt":
            yield _plain(statement, ObjectSort.EXTENSION, statement.node.extname)
        case "DropStmt" if label(statement.node, "remove_type") == "OBJECT_EXTENSION" and not statement.node.missing_ok:
            for name in statement.node.objects:
                yield _plain(statement, ObjectSort.EXTENSION, unwrap(name).sval)


def _languages(statement: Statement) -> Iterator[Mention]:
    for option in map(unwrap, getattr(statement.node, "options", ())):
        if option.DESCRIPTOR.name == "DefElem" and option.defname == "language":
            yield _plain(statement, ObjectSort.LANGUAGE, option_value(option) or "")


def _dropped(statement: Statement) -> Iterator[Mention]:
    kind = label(statement.node, "remove_type")
    for dropped in map(unwrap, statement.node.objects):
        if kind in OF_FUNCTIONS:
            yield Mention(ObjectSort.FUNCTION, relation_named(strings(dropped.objname)), statement.start)
        elif kind in OF_TYPES:
            yield Mention(ObjectSort.TYPE, relation_named(strings(dropped.names)), statement.offset(dropped))


def _plain(statement: Statement, sort: ObjectSort, name: str) -> Mention:
    return Mention(sort, Relation(None, name), statement.start)
