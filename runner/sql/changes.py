"""What a statement changes in the catalog, as far as its text tells.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.details import created_schema, is_temporary
from runner.sql.facts import created_index, created_relations, dropped_relations, is_guarded
from runner.sql.kinds import StatementKind
from runner.sql.locks import is_opaque
from runner.sql.nodes import label, strings, unwrap
from runner.sql.objects import Action, Change, Sort
from runner.sql.parse import Statement
from runner.sql.parts import added_columns, parts
from runner.sql.relations import Relation, relation_named, relation_of

_K = StatementKind

_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.VACUUM, _K.ANALYZE, _K.REINDEX})


def changes(statement: Statement) -> tuple[Change, ...]:
    """Return what the statement changes in the catalog, as far as its text tells."""
    kind = statement.kind
    if kind in _QUERIES:  # most statements of most plans; they change nothing, and need not be searched
        return ()
    # What can be prepared changes nothing in the catalog.
    if (kind is not _K.EXECUTE and is_opaque(statement)) or kind in {_K.CREATE_EXTENSION, _K.ALTER_EXTENSION}:
        return (Change(action=Action.CREATE, sort=Sort.ANYTHING, offset=statement.start),)
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
#: Statements that make types, and where the tree has their names.
_TYPES: Mapping[str, str] = {
    "CompositeTypeStmt": "typevar",
    "CreateEnumStmt": "type_name",
    "CreateRangeStmt": "type_name",
    "CreateDomainStmt": "domainname",
    "DefineStmt": "defnames",
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


def _unmade(statement: Statement) -> Iterator[Change]:
    guarded = is_guarded(statement)
    for relation in dropped_relations(statement):
        yield Change(action=Action.DROP, sort=Sort.RELATION, relation=relation, guarded=guarded, offset=statement.start)
    if statement.kind is _K.DROP_ROLE:
        for role in map(unwrap, statement.node.roles):
            yield Change(
                action=Action.DROP, sort=Sort.ROLE, name=role.rolename, guarded=guarded, offset=statement.start
            )
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
