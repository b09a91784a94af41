"""What must exist for a statement: relations of the right kind, privileges, types, functions, roles and other names.

EXPLAIN checks these in the statements that it accepts; for all others only the catalog shows before they run whether
the names exist. Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping

from runner.sql.builtin_functions import SERIAL_TYPES
from runner.sql.catalog_changes import Needed, Right, Sort, made
from runner.sql.facts import function_call
from runner.sql.lock_modes import Target
from runner.sql.relations import Relation, Use, query_relations, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, unwrap, walk
from runner.sql.table_locks import locks_taken
from runner.structs import Struct

_K = StatementKind

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
    found: dict[Relation, Needed] = {}
    for lock in locks_taken(statement):
        if lock.target is Target.RELATION and lock.relation not in new and lock.relation not in found:
            found[lock.relation] = Needed(
                relation=lock.relation,
                offset=lock.offset,
                right=right,
                kinds=kinds,
                missing_ok=bool(getattr(statement.node, "missing_ok", False)),
            )
    if statement.kind is _K.CREATE_TABLE:
        found.update(_of_new_table(statement))
    if statement.kind is _K.CREATE_SCHEMA:
        found = _outside_of_schema(statement, found)
    if statement.kind in {_K.ALTER_SEQUENCE, _K.CREATE_SEQUENCE}:
        node = statement.node  # SET LOGGED and OWNER TO have the tree of ALTER TABLE
        main = relation_of(node.sequence if "sequence" in node.DESCRIPTOR.fields_by_name else node.relation)
        found = {key: one if key == main else _plain_needs(one) for key, one in found.items()}
    if statement.kind is _K.ALTER_TABLE:
        # Other names in it may be objects of any kind: the server checks their privileges when it runs.
        main = relation_of(statement.node.relation)
        found = {key: one if key == main else _plain_needs(one) for key, one in found.items()}
    return tuple(found.values())


def _outside_of_schema(statement: Statement, found: dict[Relation, Needed]) -> dict[Relation, Needed]:
    """Leave out what CREATE SCHEMA makes itself, which its views name without the schema."""
    new = {change.relation.name for change in made(statement) if change.relation is not None}
    own = {None, statement.node.schemaname}
    return {key: one for key, one in found.items() if not (key.name in new and key.schema in own)}


def _plain_needs(one: Needed) -> Needed:
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


_MERGED = {"CMD_INSERT": "INSERT", "CMD_UPDATE": "UPDATE", "CMD_DELETE": "DELETE"}


class RowRight(Struct, frozen=True, kw_only=True):
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
            yield RowRight(relation=use.relation, privilege="SELECT", offset=use.offset)
        if use.use is Use.LOCK_ROWS:
            yield RowRight(relation=use.relation, privilege="UPDATE", offset=use.offset)


def _written(statement: Statement) -> Iterator[RowRight]:
    for node in walk(statement.node):
        for privilege in _needs(node):
            target = node.relation
            yield RowRight(relation=relation_of(target), privilege=privilege, offset=statement.offset(target))


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
            for clause in map(unwrap, node.merge_when_clauses):
                command = _MERGED.get(label(clause, "command_type"))
                if command is not None:
                    yield command


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
    ACCESS_METHOD = "access method"


class Mention(Struct, frozen=True, kw_only=True):
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
        found += [*_types(statement), *_functions(statement), *_languages(statement)]
    elif node.DESCRIPTOR.name == "DropStmt" and not node.missing_ok:
        found += _dropped(statement)
    return tuple(dict.fromkeys(found))


def type_names(statement: Statement) -> Iterator[tuple[Relation, int]]:
    """Yield the types that a statement names, but for those that the grammar makes of other words."""
    words = {unwrap(option.arg).location for option in _options(statement.node)}  # `off` reads as the name of a type
    for node in find(statement.node, "TypeName"):
        parts = strings(node.names)
        if node.location in words:
            continue
        if parts and not node.pct_type and not (len(parts) == 1 and parts[0] in SERIAL_TYPES):
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


def _types(statement: Statement) -> Iterator[Mention]:
    for name, offset in type_names(statement):
        yield Mention(sort=ObjectSort.TYPE, name=name, offset=offset)


def _options(node: Tree) -> Iterator[Tree]:
    """Yield the options whose value the parser reads as the name of a type."""
    for option in find(node, "DefElem"):
        if option.HasField("arg") and unwrap(option.arg).DESCRIPTOR.name == "TypeName":
            yield option


def _functions(statement: Statement) -> Iterator[Mention]:
    for node in find(statement.node, "FuncCall"):
        call = function_call(statement, node)
        yield Mention(sort=ObjectSort.FUNCTION, name=Relation(call.schema, call.name), offset=call.offset)
    if statement.node.DESCRIPTOR.name == "CreateTrigStmt":
        name = relation_named(strings(statement.node.funcname))
        yield Mention(sort=ObjectSort.FUNCTION, name=name, offset=statement.start)


def _roles(statement: Statement) -> Iterator[Mention]:
    node = statement.node
    if node.DESCRIPTOR.name == "DropRoleStmt" and node.missing_ok:
        return
    for spec in find(node, "RoleSpec"):
        if label(spec, "roletype") == "ROLESPEC_CSTRING":
            yield _plain(statement, ObjectSort.ROLE, spec.rolename, spec)
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
            names += _text(inner)
        for name in filter(None, names):
            yield _plain(statement, ObjectSort.TABLESPACE, name)


#: What the parser writes into CREATE INDEX without USING; it is always there.
_DEFAULT_INDEX_METHOD = "btree"


def _access_methods(statement: Statement) -> Iterator[Mention]:
    for inner in walk(statement.node):
        name = ""
        if "access_method" in inner.DESCRIPTOR.fields_by_name and inner.DESCRIPTOR.name != "DefElem":
            name = inner.access_method
        elif inner.DESCRIPTOR.name == "AlterTableCmd" and label(inner, "subtype") == "AT_SetAccessMethod":
            name = inner.name
        if name and name != _DEFAULT_INDEX_METHOD:
            yield _plain(statement, ObjectSort.ACCESS_METHOD, name)


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
            for name in _text(option):
                yield _plain(statement, ObjectSort.LANGUAGE, name)


def _dropped(statement: Statement) -> Iterator[Mention]:
    kind = label(statement.node, "remove_type")
    for dropped in map(unwrap, statement.node.objects):
        if kind in {"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"}:
            name = relation_named(strings(dropped.objname))
            yield Mention(sort=ObjectSort.FUNCTION, name=name, offset=statement.start)
        elif kind in {"OBJECT_TYPE", "OBJECT_DOMAIN"}:
            name = relation_named(strings(dropped.names))
            yield Mention(sort=ObjectSort.TYPE, name=name, offset=statement.offset(dropped))


def _plain(statement: Statement, sort: ObjectSort, name: str, node: Tree | None = None) -> Mention:
    offset = statement.start if node is None else statement.offset(node)
    return Mention(sort=sort, name=Relation(None, name), offset=offset)


def _text(option: Tree) -> Iterable[str]:
    value = unwrap(option.arg)
    return (value.sval,) if value.DESCRIPTOR.name == "String" else ()
