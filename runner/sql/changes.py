"""What a statement changes in the catalog, as far as its text shows.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.alterations import object_name
from runner.sql.bodies import only_creates
from runner.sql.details import created_schema, is_temporary
from runner.sql.facts import created_index, created_relations, dropped_relations, is_guarded
from runner.sql.kinds import StatementKind
from runner.sql.locks import is_opaque
from runner.sql.nodes import Tree, label, strings, unwrap
from runner.sql.objects import Action, Change, Sort
from runner.sql.parse import Statement
from runner.sql.parts import added_columns, parts
from runner.sql.relations import Relation, relation_named, relation_of

_K = StatementKind

_OPAQUE = frozenset({_K.CREATE_EXTENSION, _K.ALTER_EXTENSION})
_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.VACUUM, _K.ANALYZE, _K.REINDEX})


def changes(statement: Statement) -> tuple[Change, ...]:
    """Return what the statement changes in the catalog, as far as its text shows."""
    kind = statement.kind
    if kind in _QUERIES:  # most statements of most plans; they change nothing, and need not be searched
        return ()
    # A statement that can be prepared changes nothing in the catalog.
    imports = statement.node.DESCRIPTOR.name == "ImportForeignSchemaStmt"
    if (kind is not _K.EXECUTE and is_opaque(statement)) or kind in _OPAQUE or imports:
        kind_of_change = "extension" if imports or kind in _OPAQUE else "creates" if only_creates(statement) else ""
        return (Change(action=Action.CREATE, sort=Sort.ANYTHING, kind=kind_of_change, offset=statement.start),)
    return (*made(statement), *_unmade(statement), *_altered(statement), *_renamed(statement))


_RELKINDS: Mapping[StatementKind, str] = {
    _K.CREATE_TABLE: "r",
    _K.CREATE_FOREIGN_TABLE: "f",
    _K.CREATE_TABLE_AS: "r",
    _K.SELECT_INTO: "r",
    _K.CREATE_MATERIALIZED_VIEW: "m",
    _K.CREATE_VIEW: "v",
    _K.CREATE_SEQUENCE: "S",
}
#: Statements that create types, and the fields of the tree with their names.
_TYPES: Mapping[str, str] = {
    "CompositeTypeStmt": "typevar",
    "CreateEnumStmt": "type_name",
    "CreateRangeStmt": "type_name",
    "CreateDomainStmt": "domainname",
}
#: What CREATE AGGREGATE, TYPE and the like create; of operators and collations only the kind is tracked.
_DEFINED: Mapping[str, Sort] = {"OBJECT_TYPE": Sort.TYPE, "OBJECT_AGGREGATE": Sort.FUNCTION}
#: Fields with names of relations, in the elements of CREATE SCHEMA.
_ELEMENTS: Mapping[str, tuple[str, str]] = {
    "CreateStmt": ("relation", "r"),
    "ViewStmt": ("view", "v"),
    "CreateSeqStmt": ("sequence", "S"),
}


def made(statement: Statement) -> Iterator[Change]:
    """Yield what the statement creates by name."""
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
    if statement.kind is _K.CREATE_SCHEMA:
        yield from _elements(statement, schema)
    if statement.kind is _K.CREATE_FUNCTION:
        name = relation_named(strings(node.funcname))
        yield Change(action=Action.CREATE, sort=Sort.FUNCTION, relation=name, guarded=guarded, offset=offset)
    if statement.kind is _K.CREATE_ROLE:
        yield Change(action=Action.CREATE, sort=Sort.ROLE, name=node.role, offset=offset)
    names = _TYPES.get(node.DESCRIPTOR.name)
    if names is not None:
        held = getattr(node, names)
        relation = relation_of(held) if names == "typevar" else relation_named(strings(held))
        yield Change(action=Action.CREATE, sort=Sort.TYPE, relation=relation, offset=offset)
    if node.DESCRIPTOR.name == "DefineStmt":
        sort = _DEFINED.get(label(node, "kind"))
        if sort is not None:
            yield Change(
                action=Action.CREATE, sort=sort, relation=relation_named(strings(node.defnames)), offset=offset
            )


def _elements(statement: Statement, schema: str | None) -> Iterator[Change]:
    """Yield the relations that CREATE SCHEMA makes in the schema."""
    for element in map(unwrap, statement.node.schema_elts):
        field, kind = _ELEMENTS.get(element.DESCRIPTOR.name, ("", ""))
        if field:
            named = relation_of(getattr(element, field))
            relation = Relation(named.schema or schema, named.name)
            yield Change(action=Action.CREATE, sort=Sort.RELATION, relation=relation, kind=kind, offset=statement.start)


def _unmade(statement: Statement) -> Iterator[Change]:
    guarded = is_guarded(statement)
    for relation in dropped_relations(statement):
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, guarded=guarded, offset=statement.start)
    if statement.kind is _K.DROP_ROLE:
        for role in map(unwrap, statement.node.roles):
            yield Change(
                action=Action.DROP, sort=Sort.ROLE, name=role.rolename, guarded=guarded, offset=statement.start
            )
    if statement.kind is _K.DROP_OTHER and label(statement.node, "remove_type") in {"OBJECT_TYPE", "OBJECT_DOMAIN"}:
        for dropped in map(unwrap, statement.node.objects):
            relation = relation_named(strings(dropped.names))
            yield Change(action=Action.DROP, sort=Sort.TYPE, relation=relation, guarded=guarded, offset=statement.start)
    if statement.kind is _K.DROP_SCHEMA:
        for node in statement.node.objects:
            yield Change(
                action=Action.DROP,
                sort=Sort.SCHEMA,
                name=unwrap(node).sval,
                guarded=guarded,
                offset=statement.start,
            )


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
    if statement.kind not in {_K.RENAME, _K.SET_SCHEMA}:
        return
    if not node.HasField("relation"):
        yield from _renamed_object(statement)
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
        yield Change(action=Action.DROP, sort=sort, relation=relation, name=node.subname, kind="renamed", offset=offset)
        yield Change(action=Action.CREATE, sort=sort, relation=relation, name=node.newname, offset=offset)
    elif what in {"OBJECT_TABLE", "OBJECT_INDEX", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE"}:
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, kind="renamed", offset=offset)
        renamed = Relation(relation.schema, node.newname)
        yield Change(action=Action.CREATE, sort=Sort.RELATION, relation=renamed, offset=offset)


def _renamed_object(statement: Statement) -> Iterator[Change]:
    """Yield the old and the new name of a schema, role, type or function."""
    node, offset = statement.node, statement.start
    what = label(node, "rename_type" if statement.kind is _K.RENAME else "object_type")
    if what in {"OBJECT_SCHEMA", "OBJECT_ROLE"}:
        sort = Sort.SCHEMA if what == "OBJECT_SCHEMA" else Sort.ROLE
        yield Change(action=Action.DROP, sort=sort, name=node.subname, offset=offset)
        yield Change(action=Action.CREATE, sort=sort, name=node.newname, kind="renamed", offset=offset)
        return
    types, functions = {"OBJECT_TYPE", "OBJECT_DOMAIN"}, {"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_AGGREGATE"}
    if what not in types | functions:
        return
    old = object_name(unwrap(node.object))
    new = Relation(None, node.newname) if statement.kind is _K.RENAME else Relation(node.newschema, old)
    sort = Sort.TYPE if what in types else Sort.FUNCTION
    yield Change(action=Action.CREATE, sort=sort, relation=new, offset=offset)
    if sort is Sort.TYPE and statement.kind is _K.RENAME:
        yield Change(action=Action.DROP, sort=sort, relation=_object_relation(unwrap(node.object)), offset=offset)


def _object_relation(node: Tree) -> Relation:
    names = node.names if node.DESCRIPTOR.name == "TypeName" else node.items
    return relation_named(strings(names))
