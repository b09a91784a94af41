"""What a statement creates, drops and renames in the catalog, with the columns and constraints that it names.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from runner.sql.definition_changes import object_name
from runner.sql.facts import (
    created_index,
    created_relations,
    created_schema,
    dropped_relations,
    is_guarded,
    is_temporary,
)
from runner.sql.plpgsql_bodies import only_creates
from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, label, strings, unwrap
from runner.sql.table_locks import is_opaque
from runner.structs import Struct

#: The kind of a change that only adds what an extension brings.
EXTENSION: Final = "extension"
#: The kind of a change that creates something of an unknown name, and alters and drops nothing.
CREATES: Final = "creates"


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


class Needed(Struct, frozen=True, kw_only=True):
    """A relation that must be there. `kinds` are letters of pg_class.relkind, none for any; `offset` is in characters.

    `missing_ok`: the statement has IF EXISTS.
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


class Change(Struct, frozen=True, kw_only=True):
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


class Part(Struct, frozen=True, kw_only=True):
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


def parts(statement: Statement) -> tuple[Part, ...]:
    """Return the columns and constraints that must exist, or must not exist yet."""
    reader = _READERS.get(statement.node.DESCRIPTOR.name)
    return tuple(reader(statement)) if reader is not None else ()


class Attached(Struct, frozen=True, kw_only=True):
    """A trigger, rule or policy of a table that must be there (`exists`), or must not be there yet."""

    relation: Relation
    sort: str
    name: str
    exists: bool


_DROPPED_ATTACHED = {"OBJECT_TRIGGER": "trigger", "OBJECT_RULE": "rule", "OBJECT_POLICY": "policy"}


def attached(statement: Statement) -> Iterator[Attached]:
    """Yield the triggers, rules and policies that a statement drops, switches, changes or creates."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "DropStmt" if not node.missing_ok and label(node, "remove_type") in _DROPPED_ATTACHED:
            sort = _DROPPED_ATTACHED[label(node, "remove_type")]
            for dropped in map(unwrap, node.objects):
                names = strings(dropped.items)
                yield Attached(relation=relation_named(names[:-1]), sort=sort, name=names[-1], exists=True)
        case "AlterTableStmt":
            for command in map(unwrap, node.cmds):
                subtype = label(command, "subtype")
                if (
                    command.name
                    and subtype.endswith(("Trig", "Rule"))
                    and subtype.startswith(("AT_Enable", "AT_Disable"))
                ):
                    sort = "rule" if subtype.endswith("Rule") else "trigger"
                    yield Attached(relation=relation_of(node.relation), sort=sort, name=command.name, exists=True)
        case "CreateTrigStmt" if not node.replace:
            yield Attached(relation=relation_of(node.relation), sort="trigger", name=node.trigname, exists=False)
        case "RuleStmt" if not node.replace:
            yield Attached(relation=relation_of(node.relation), sort="rule", name=node.rulename, exists=False)
        case "CreatePolicyStmt":
            yield Attached(relation=relation_of(node.table), sort="policy", name=node.policy_name, exists=False)
        case "AlterPolicyStmt":
            yield Attached(relation=relation_of(node.table), sort="policy", name=node.policy_name, exists=True)


def _indexed(statement: Statement) -> Iterator[Part]:
    node = statement.node
    for element in map(unwrap, (*node.index_params, *node.index_including_params)):
        if element.name:
            yield _column(statement, relation_of(node.relation), element.name)


def _copied(statement: Statement) -> Iterator[Part]:
    for name in strings(statement.node.attlist):
        yield _column(statement, relation_of(statement.node.relation), name)


def _vacuumed(statement: Statement) -> Iterator[Part]:
    for rel in map(unwrap, statement.node.rels):
        for name in strings(rel.va_cols):
            yield _column(statement, relation_of(rel.relation), name)


def _commented(statement: Statement) -> Iterator[Part]:
    if label(statement.node, "objtype") == "OBJECT_COLUMN":
        names = strings(unwrap(statement.node.object).items)
        if len(names) > 1:
            yield _column(statement, relation_named(names[:-1]), names[-1])


def _owner_of_sequence(statement: Statement) -> Iterator[Part]:
    for option in map(unwrap, statement.node.options):
        if option.defname == "owned_by":
            names = strings(unwrap(option.arg).items)
            if len(names) > 1:
                yield _column(statement, relation_named(names[:-1]), names[-1])


def _renamed_column(statement: Statement) -> Iterator[Part]:
    node = statement.node
    if label(node, "rename_type") != "OBJECT_COLUMN" or not node.HasField("relation") or node.missing_ok:
        return
    relation = relation_of(node.relation)
    yield _column(statement, relation, node.subname)
    yield Part(relation=relation, sort=Sort.COLUMN, name=node.newname, exists=False, offset=statement.start)


def _column(statement: Statement, relation: Relation, name: str) -> Part:
    return Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=statement.start)


#: Subcommands that the server performs before it adds columns, in any order of the text.
_FIRST = frozenset({"AT_DropColumn", "AT_DropConstraint", "AT_AlterColumnType"})


def _altered_parts(statement: Statement) -> Iterator[Part]:
    """The server drops first, then changes types, adds columns and constraints, and does the rest at last."""
    relation, offset = relation_of(statement.node.relation), statement.start
    commands = [(label(command, "subtype"), command) for command in map(unwrap, statement.node.cmds)]
    dropped = {command.name for subtype, command in commands if subtype in {"AT_DropColumn", "AT_DropConstraint"}}
    added = {_definition(command).colname for subtype, command in commands if subtype == "AT_AddColumn"}
    constraints = {_definition(command).conname for subtype, command in commands if subtype == "AT_AddConstraint"}
    for subtype, command in commands:
        if command.missing_ok:
            continue
        if subtype == "AT_AddColumn":
            name = _definition(command).colname
            if name not in dropped:
                yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=False, offset=offset)
        elif subtype in _OLD_COLUMN and command.name and (subtype in _FIRST or command.name not in added):
            yield Part(relation=relation, sort=Sort.COLUMN, name=command.name, exists=True, offset=offset)
        elif subtype in _OLD_CONSTRAINT:
            name = command.name or getattr(_definition(command), "conname", "")
            if name and (subtype in _FIRST or name not in constraints):
                yield Part(relation=relation, sort=Sort.CONSTRAINT, name=name, exists=True, offset=offset)
        elif subtype == "AT_AddConstraint":
            parts_of = _constraint_parts(_definition(command), relation, offset, added)
            yield from (part for part in parts_of if part.exists or part.name not in dropped)


def _definition(command: Tree) -> Tree:
    return unwrap(getattr(command, "def"))  # a keyword of Python


def _constraint_parts(constraint: Tree, relation: Relation, offset: int, added: set[str]) -> Iterator[Part]:
    if constraint.conname:
        yield Part(relation=relation, sort=Sort.CONSTRAINT, name=constraint.conname, exists=False, offset=offset)
    for name in (*strings(constraint.keys), *strings(constraint.fk_attrs)):
        if name not in added:
            yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=offset)


def added_columns(statement: Statement) -> frozenset[str]:
    """Return the columns that ALTER TABLE adds, also those that may be there already (IF NOT EXISTS)."""
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return frozenset()
    commands = (command for command in map(unwrap, statement.node.cmds) if label(command, "subtype") == "AT_AddColumn")
    return frozenset(unwrap(getattr(command, "def")).colname for command in commands)


_READERS: Mapping[str, Callable[[Statement], Iterator[Part]]] = {
    "AlterTableStmt": _altered_parts,
    "IndexStmt": _indexed,
    "CopyStmt": _copied,
    "VacuumStmt": _vacuumed,
    "CommentStmt": _commented,
    "RenameStmt": _renamed_column,
    "CreateSeqStmt": _owner_of_sequence,
    "AlterSeqStmt": _owner_of_sequence,
}


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
        kind_of_change = EXTENSION if imports or kind in _OPAQUE else CREATES if only_creates(statement) else ""
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
    yield from _made_types(statement)


def _made_types(statement: Statement) -> Iterator[Change]:
    node, offset = statement.node, statement.start
    names = _TYPES.get(node.DESCRIPTOR.name)
    if names is not None:
        held = getattr(node, names)
        relation = relation_of(held) if names == "typevar" else relation_named(strings(held))
        yield Change(action=Action.CREATE, sort=Sort.TYPE, relation=relation, offset=offset)
        if names == "typevar":  # a composite type is a relation
            yield Change(action=Action.CREATE, sort=Sort.RELATION, relation=relation, kind="c", offset=offset)
    if node.DESCRIPTOR.name == "DefineStmt":
        sort = _DEFINED.get(label(node, "kind"))
        shell = sort is Sort.TYPE and not node.definition  # a type that cannot be used before it is defined
        if sort is not None and not shell:
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
            for sort in (Sort.TYPE, Sort.RELATION):  # a composite type is a relation, and no other has its name
                yield Change(action=Action.DROP, sort=sort, relation=relation, guarded=guarded, offset=statement.start)
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
    given = [part for part in parts(statement) if not (part.sort is Sort.COLUMN and not part.exists)]
    dropped = _dropped_parts(statement)
    for part in given:  # whatever the order of the subcommands, what is dropped is dropped first
        if part.exists and part.name in dropped:
            yield Change(action=Action.DROP, sort=part.sort, relation=relation, name=part.name, offset=part.offset)
    for name in sorted(added_columns(statement)):
        yield Change(action=Action.CREATE, sort=Sort.COLUMN, relation=relation, name=name, offset=statement.start)
    for part in given:
        if not part.exists:
            yield Change(action=Action.CREATE, sort=part.sort, relation=relation, name=part.name, offset=part.offset)
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
    elif what in {
        "OBJECT_TABLE",
        "OBJECT_INDEX",
        "OBJECT_VIEW",
        "OBJECT_MATVIEW",
        "OBJECT_SEQUENCE",
        "OBJECT_FOREIGN_TABLE",
    }:
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
    types, functions = (
        {"OBJECT_TYPE", "OBJECT_DOMAIN"},
        {"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"},
    )
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
