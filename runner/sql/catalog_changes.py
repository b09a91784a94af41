"""What a statement creates, drops and renames in the catalog, with the columns and constraints that it names.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from typing import Final

from runner.sql.command_objects import created_relations, created_schema, dropped_relations, is_temporary, vacuumed
from runner.sql.command_options import is_guarded, is_partitioned
from runner.sql.definition_changes import object_name
from runner.sql.plpgsql_bodies import only_creates
from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import Tree, label, strings, subcommands, unwrap
from runner.sql.table_locks import is_opaque
from runner.structs import Struct

#: The kind of a change that only adds what an extension brings.
EXTENSION: Final = "extension"
#: The kind of a change that creates something of an unknown name, and alters and drops nothing.
CREATES: Final = "creates"


class Action(enum.Enum):
    """What happens to an object."""

    CREATE = "created"
    DROP = "dropped"
    ALTER = "changed"


class Sort(enum.Enum):
    """The kind of object, as far as it matters for conflicts of names."""

    RELATION = "relation"
    SCHEMA = "schema"
    COLUMN = "column"
    FUNCTION = "function"
    TYPE = "type"
    CONSTRAINT = "constraint"
    ROLE = "role"
    #: A unique index on columns, without WHERE; its `name` and relation are the table's.
    UNIQUE = "unique index"
    #: Unknown: DO, CALL, an extension's script.
    ANYTHING = "anything"


class Change(Struct, frozen=True):
    """A change of the catalog. A schema or role has no `relation`; a column or constraint has a relation and a `name`.

    `guarded`: with IF NOT EXISTS, IF EXISTS or OR REPLACE; `kind` is the letter of pg_class.relkind of what is created,
    `renamed` for what has another name from then on, `extension` for what an extension's script creates,
    `creates` for a DO that alters and drops nothing.
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


class NeededPart(Struct, frozen=True):
    """A column or constraint of a relation that must be there (`exists`) or must not be there yet."""

    relation: Relation
    sort: Sort
    name: str
    exists: bool
    offset: int


_K = StatementKind

#: Subcommands of ALTER TABLE about a column or constraint that must be there.
_OLD_COLUMN = frozenset(
    {
        *("AT_DropColumn", "AT_AlterColumnType", "AT_SetNotNull", "AT_DropNotNull", "AT_ColumnDefault"),
        *("AT_SetStatistics", "AT_SetStorage", "AT_SetExpression", "AT_DropExpression", "AT_AddIdentity"),
        *("AT_SetIdentity", "AT_DropIdentity", "AT_SetCompression", "AT_SetOptions", "AT_ResetOptions"),
    }
)
_OLD_CONSTRAINT = frozenset({"AT_ValidateConstraint", "AT_DropConstraint", "AT_AlterConstraint"})


class Attached(Struct, frozen=True):
    """A trigger, rule or policy of a table that must be there (`exists`), or must not be there yet."""

    relation: Relation
    sort: str
    name: str
    exists: bool


_DROPPED_ATTACHED = {"OBJECT_TRIGGER": "trigger", "OBJECT_RULE": "rule", "OBJECT_POLICY": "policy"}
_SWITCHED = re.compile(r"AT_(?:Enable|Disable).*(Trig|Rule)")


def attached(statement: Statement) -> Iterator[Attached]:
    """Yield the triggers, rules and policies that a statement drops, switches, changes or creates."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "DropStmt" if not node.missing_ok and label(node, "remove_type") in _DROPPED_ATTACHED:
            for dropped in map(unwrap, node.objects):
                *table, name = strings(dropped.items)
                sort = _DROPPED_ATTACHED[label(node, "remove_type")]
                yield Attached(relation_named(tuple(table)), sort, name, exists=True)
        case "AlterTableStmt":
            for subtype, command, _ in subcommands(node):
                switched = _SWITCHED.fullmatch(subtype)
                if command.name and switched is not None:
                    sort = "rule" if switched[1] == "Rule" else "trigger"
                    yield Attached(relation_of(node.relation), sort, command.name, exists=True)
        case "CreateTrigStmt" if not node.replace:
            yield Attached(relation_of(node.relation), "trigger", node.trigname, exists=False)
        case "RuleStmt" if not node.replace:
            yield Attached(relation_of(node.relation), "rule", node.rulename, exists=False)
        case "CreatePolicyStmt" | "AlterPolicyStmt":
            exists = node.DESCRIPTOR.name == "AlterPolicyStmt"
            yield Attached(relation_of(node.table), "policy", node.policy_name, exists=exists)


def parts(statement: Statement) -> tuple[NeededPart, ...]:
    """Return the columns and constraints that must exist, or must not exist yet."""
    node, offset = statement.node, statement.start
    if node.DESCRIPTOR.name == "AlterTableStmt":
        return tuple(_altered_parts(statement))
    if node.DESCRIPTOR.name == "RenameStmt":
        if label(node, "rename_type") != "OBJECT_COLUMN" or not node.HasField("relation") or node.missing_ok:
            return ()
        relation, names = relation_of(node.relation), (node.subname, node.newname)
        return tuple(NeededPart(relation, Sort.COLUMN, name, exists=name == names[0], offset=offset) for name in names)
    return tuple(NeededPart(of, Sort.COLUMN, name, exists=True, offset=offset) for of, name in _columns(statement))


def _columns(statement: Statement) -> Iterator[tuple[Relation, str]]:
    """Yield the columns that a statement names, with their relations."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "IndexStmt":
            elements = map(unwrap, (*node.index_params, *node.index_including_params))
            yield from ((relation_of(node.relation), element.name) for element in elements if element.name)
        case "CopyStmt":
            yield from ((relation_of(node.relation), name) for name in strings(node.attlist))
        case "VacuumStmt":
            yield from ((one.relation, name) for one in vacuumed(statement) for name in one.columns)
        case "CommentStmt" if label(node, "objtype") == "OBJECT_COLUMN":
            yield from _qualified(unwrap(node.object))
        case "CreateSeqStmt" | "AlterSeqStmt":
            for option in map(unwrap, node.options):
                yield from _qualified(unwrap(option.arg)) if option.defname == "owned_by" else ()


def _qualified(names: Tree) -> Iterator[tuple[Relation, str]]:
    """Yield the column that a list of names stands for, nothing for one name alone (OWNED BY NONE)."""
    *table, name = strings(names.items)
    if table:
        yield relation_named(tuple(table)), name


#: Subcommands that the server performs before it adds columns, in any order of the text.
_FIRST = frozenset({"AT_DropColumn", "AT_DropConstraint", "AT_AlterColumnType"})


def _altered_parts(statement: Statement) -> Iterator[NeededPart]:
    """The server drops first, then changes types, adds columns and constraints, and does the rest at last."""
    relation, offset = relation_of(statement.node.relation), statement.start
    dropped, added = _dropped_parts(statement), added_columns(statement)
    commands = list(subcommands(statement.node))
    constraints = {new.conname for subtype, _, new in commands if subtype == "AT_AddConstraint"}
    for subtype, command, definition in commands:
        if command.missing_ok:
            continue
        if subtype == "AT_AddColumn":
            if definition.colname not in dropped:
                yield NeededPart(relation, Sort.COLUMN, definition.colname, exists=False, offset=offset)
        elif subtype in _OLD_COLUMN and command.name and (subtype in _FIRST or command.name not in added):
            yield NeededPart(relation, Sort.COLUMN, command.name, exists=True, offset=offset)
        elif subtype in _OLD_CONSTRAINT:
            name = command.name or getattr(definition, "conname", "")
            if name and (subtype in _FIRST or name not in constraints):
                yield NeededPart(relation, Sort.CONSTRAINT, name, exists=True, offset=offset)
        elif subtype == "AT_AddConstraint":
            if definition.conname and definition.conname not in dropped:
                yield NeededPart(relation, Sort.CONSTRAINT, definition.conname, exists=False, offset=offset)
            named = (*strings(definition.keys), *strings(definition.fk_attrs))
            old = (name for name in named if name not in added)
            yield from (NeededPart(relation, Sort.COLUMN, name, exists=True, offset=offset) for name in old)


def added_columns(statement: Statement) -> frozenset[str]:
    """Return the columns that ALTER TABLE adds, also those that may be there already (IF NOT EXISTS)."""
    return frozenset(new.colname for subtype, _, new in subcommands(statement.node) if subtype == "AT_AddColumn")


def _dropped_parts(statement: Statement) -> frozenset[str]:
    drops = {"AT_DropColumn", "AT_DropConstraint"}
    return frozenset(command.name for subtype, command, _ in subcommands(statement.node) if subtype in drops)


_OPAQUE = frozenset({_K.CREATE_EXTENSION, _K.ALTER_EXTENSION})
_CHANGE_NOTHING = QUERIES | {_K.VACUUM, _K.ANALYZE, _K.REINDEX}


def changes(statement: Statement) -> tuple[Change, ...]:
    """Return what the statement changes in the catalog, as far as its text shows."""
    kind = statement.kind
    if kind in _CHANGE_NOTHING:  # most statements of most plans; they change nothing, and need not be searched
        return ()
    # A statement that can be prepared changes nothing in the catalog.
    imports = statement.node.DESCRIPTOR.name == "ImportForeignSchemaStmt"
    if (kind is not _K.EXECUTE and is_opaque(statement)) or kind in _OPAQUE or imports:
        kind_of_change = EXTENSION if imports or kind in _OPAQUE else CREATES if only_creates(statement) else ""
        return (Change(Action.CREATE, Sort.ANYTHING, kind=kind_of_change, offset=statement.start),)
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
    node, guarded, offset = statement.node, is_guarded(statement), statement.start
    kind = "p" if is_partitioned(statement) else _RELKINDS.get(statement.kind, "")
    for relation in created_relations(statement):
        temporary = is_temporary(statement)
        yield Change(Action.CREATE, Sort.RELATION, relation, "", guarded, kind, offset, temporary)
    match node.DESCRIPTOR.name:
        case "IndexStmt" if node.idxname:
            table = relation_of(node.relation)
            index = Relation(table.schema, node.idxname)
            yield Change(Action.CREATE, Sort.RELATION, index, guarded=guarded, kind="i", offset=offset)
            if node.unique and not node.HasField("where_clause"):
                yield Change(Action.CREATE, Sort.UNIQUE, table, table.name, offset=offset)
        case "CreateSchemaStmt":
            schema = created_schema(statement)
            if schema is not None:
                yield Change(Action.CREATE, Sort.SCHEMA, name=schema, guarded=guarded, offset=offset)
            yield from _elements(statement, schema)
        case "CreateFunctionStmt":
            name = relation_named(strings(node.funcname))
            yield Change(Action.CREATE, Sort.FUNCTION, name, guarded=guarded, offset=offset)
        case "CreateRoleStmt":
            yield Change(Action.CREATE, Sort.ROLE, name=node.role, offset=offset)
    yield from _made_types(statement)


def _made_types(statement: Statement) -> Iterator[Change]:
    node, offset = statement.node, statement.start
    match node.DESCRIPTOR.name:
        case "CompositeTypeStmt":  # a composite type is a relation
            for sort, kind in ((Sort.TYPE, ""), (Sort.RELATION, "c")):
                yield Change(Action.CREATE, sort, relation_of(node.typevar), kind=kind, offset=offset)
        case "CreateEnumStmt" | "CreateRangeStmt":
            yield Change(Action.CREATE, Sort.TYPE, relation_named(strings(node.type_name)), offset=offset)
        case "CreateDomainStmt":
            yield Change(Action.CREATE, Sort.TYPE, relation_named(strings(node.domainname)), offset=offset)
        case "DefineStmt":
            defined = _DEFINED.get(label(node, "kind"))
            shell = defined is Sort.TYPE and not node.definition  # a type that cannot be used before it is defined
            if defined is not None and not shell:
                yield Change(Action.CREATE, defined, relation_named(strings(node.defnames)), offset=offset)


def _elements(statement: Statement, schema: str | None) -> Iterator[Change]:
    """Yield the relations that CREATE SCHEMA makes in the schema."""
    for element in map(unwrap, statement.node.schema_elts):
        field, kind = _ELEMENTS.get(element.DESCRIPTOR.name, ("", ""))
        if field:
            named = relation_of(getattr(element, field))
            relation = Relation(named.schema or schema, named.name)
            yield Change(Action.CREATE, Sort.RELATION, relation, kind=kind, offset=statement.start)


def _unmade(statement: Statement) -> Iterator[Change]:
    node, guarded, offset = statement.node, is_guarded(statement), statement.start
    for relation in dropped_relations(statement):
        yield Change(Action.DROP, Sort.RELATION, relation, guarded=guarded, offset=offset)
    if statement.kind is _K.DROP_ROLE:
        for role in map(unwrap, node.roles):
            yield Change(Action.DROP, Sort.ROLE, name=role.rolename, guarded=guarded, offset=offset)
    elif statement.kind is _K.DROP_OTHER and label(node, "remove_type") in OF_TYPES:
        for dropped in map(unwrap, node.objects):
            for sort in (Sort.TYPE, Sort.RELATION):  # a composite type is a relation, and no other has its name
                name = relation_named(strings(dropped.names))
                yield Change(Action.DROP, sort, name, guarded=guarded, offset=offset)
    elif statement.kind is _K.DROP_SCHEMA:
        for schema in strings(node.objects):
            yield Change(Action.DROP, Sort.SCHEMA, name=schema, guarded=guarded, offset=offset)


#: The parser's sorts of objects that are types, and those that are functions.
OF_TYPES = frozenset({"OBJECT_TYPE", "OBJECT_DOMAIN"})
OF_FUNCTIONS = frozenset({"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"})
_OF_RELATIONS = frozenset(
    {
        *("OBJECT_TABLE", "OBJECT_INDEX", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE"),
        "OBJECT_FOREIGN_TABLE",
    }
)


def _altered(statement: Statement) -> Iterator[Change]:
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return
    relation, offset = relation_of(statement.node.relation), statement.start
    given = [part for part in parts(statement) if not (part.sort is Sort.COLUMN and not part.exists)]
    dropped = _dropped_parts(statement)
    for part in given:  # whatever the order of the subcommands, what is dropped is dropped first
        if part.exists and part.name in dropped:
            yield Change(Action.DROP, part.sort, relation, part.name, offset=offset)
    for name in sorted(added_columns(statement)):
        yield Change(Action.CREATE, Sort.COLUMN, relation, name, offset=offset)
    for part in given:
        if not part.exists:
            yield Change(Action.CREATE, part.sort, relation, part.name, offset=offset)
    yield Change(Action.ALTER, Sort.RELATION, relation, offset=offset)


def _renamed(statement: Statement) -> Iterator[Change]:
    node, offset = statement.node, statement.start
    if statement.kind not in {_K.RENAME, _K.SET_SCHEMA}:
        return
    if not node.HasField("relation"):
        yield from _renamed_object(statement)
        return
    relation = relation_of(node.relation)
    what = label(node, "rename_type") if statement.kind is _K.RENAME else ""
    if statement.kind is _K.SET_SCHEMA:
        yield Change(Action.DROP, Sort.RELATION, relation, offset=offset)
        yield Change(Action.CREATE, Sort.RELATION, Relation(node.newschema, relation.name), offset=offset)
    elif what in {"OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"}:
        sort = Sort.COLUMN if what == "OBJECT_COLUMN" else Sort.CONSTRAINT
        yield Change(Action.DROP, sort, relation, node.subname, kind="renamed", offset=offset)
        yield Change(Action.CREATE, sort, relation, node.newname, offset=offset)
    elif what in _OF_RELATIONS:
        yield Change(Action.DROP, Sort.RELATION, relation, kind="renamed", offset=offset)
        yield Change(Action.CREATE, Sort.RELATION, Relation(relation.schema, node.newname), offset=offset)


def _renamed_object(statement: Statement) -> Iterator[Change]:
    """Yield the old and the new name of a schema, role, type or function."""
    node, offset = statement.node, statement.start
    renames = statement.kind is _K.RENAME
    what = label(node, "rename_type" if renames else "object_type")
    if what in {"OBJECT_SCHEMA", "OBJECT_ROLE"}:
        sort = Sort.SCHEMA if what == "OBJECT_SCHEMA" else Sort.ROLE
        yield Change(Action.DROP, sort, name=node.subname, offset=offset)
        yield Change(Action.CREATE, sort, name=node.newname, kind="renamed", offset=offset)
    elif what in OF_TYPES | OF_FUNCTIONS:
        old = unwrap(node.object)
        new = Relation(None, node.newname) if renames else Relation(node.newschema, object_name(old))
        yield Change(Action.CREATE, Sort.TYPE if what in OF_TYPES else Sort.FUNCTION, new, offset=offset)
        if what in OF_TYPES and renames:
            names = strings(old.names if old.DESCRIPTOR.name == "TypeName" else old.items)
            yield Change(Action.DROP, Sort.TYPE, relation_named(names), offset=offset)
