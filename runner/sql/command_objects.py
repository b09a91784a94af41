"""The objects that a command is about, by name: what it creates, drops, changes, vacuums, clusters and rebuilds."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import find, label, strings, subcommands, unwrap
from runner.structs import Struct

_K = StatementKind


# --- created, changed and dropped -------------------------------------------------------------------------------------

_HAVE_RELATION = frozenset(
    {
        *(_K.ALTER_TABLE, _K.ALTER_INDEX, _K.ALTER_VIEW, _K.ALTER_MATERIALIZED_VIEW, _K.ALTER_FOREIGN_TABLE),
        *(_K.CREATE_INDEX, _K.CLUSTER, _K.REINDEX, _K.REFRESH_MATERIALIZED_VIEW, _K.COPY_FROM),
    }
)


def main_relation(statement: Statement) -> Relation | None:
    """Return the relation that an ALTER, CREATE INDEX, CLUSTER, REINDEX, REFRESH or COPY FROM changes."""
    if statement.kind not in _HAVE_RELATION or not statement.node.HasField("relation"):
        return None
    return relation_of(statement.node.relation)


#: Where the tree has the name of what is created.
_CREATES: Mapping[StatementKind, tuple[str, ...]] = {
    _K.CREATE_TABLE: ("relation",),
    _K.CREATE_FOREIGN_TABLE: ("base_stmt", "relation"),
    _K.CREATE_TABLE_AS: ("into", "rel"),
    _K.CREATE_MATERIALIZED_VIEW: ("into", "rel"),
    _K.SELECT_INTO: ("into_clause", "rel"),
    _K.CREATE_VIEW: ("view",),
    _K.CREATE_SEQUENCE: ("sequence",),
}


def created_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, views and sequences that the statement creates by name."""
    path = _CREATES.get(statement.kind)
    return (relation_of(reduce(getattr, path, statement.node)),) if path else ()


def is_temporary(statement: Statement) -> bool:
    """Return whether what the statement creates ends with its session, as a worker's does with its text."""
    path = _CREATES.get(statement.kind)
    created = reduce(getattr, path, statement.node) if path else None
    return created is not None and (created.relpersistence == "t" or created.schemaname == "pg_temp")


def created_schema(statement: Statement) -> str | None:
    """Return the schema that the statement creates; None if it gets its owner's name."""
    return statement.node.schemaname or None if statement.kind is _K.CREATE_SCHEMA else None


def replaced_view(statement: Statement) -> Relation | None:
    """Return the view of CREATE OR REPLACE VIEW, None for another statement."""
    replaces = statement.kind is _K.CREATE_VIEW and statement.node.replace
    return relation_of(statement.node.view) if replaces else None


def view_aliases(statement: Statement) -> tuple[str, ...]:
    """Return the names that CREATE VIEW or CREATE … AS gives its columns, as far as it names them."""
    if statement.kind in {_K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW}:
        return strings(statement.node.into.col_names)
    return strings(statement.node.aliases) if statement.kind is _K.CREATE_VIEW else ()


_DROPS_RELATION = frozenset(
    {_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_SEQUENCE, _K.DROP_FOREIGN_TABLE}
)


def dropped_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, indexes, views and sequences that the statement drops by name."""
    dropped = map(unwrap, statement.node.objects) if statement.kind in _DROPS_RELATION else ()
    return tuple(relation_named(strings(each.items)) for each in dropped)


def only_truncated(statement: Statement) -> frozenset[Relation]:
    """Return the tables that TRUNCATE names with ONLY."""
    named = map(unwrap, statement.node.relations) if statement.kind is _K.TRUNCATE else ()
    return frozenset(relation_of(one) for one in named if not one.inh)


_KNOWN_TO_CLIENTS = frozenset(
    {"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE"}
)


class NewName(NamedTuple):
    """What a relation is called before and after; `guarded` with IF EXISTS."""

    old: Relation
    new: Relation
    is_index: bool
    guarded: bool


def new_name(statement: Statement) -> NewName | None:
    """Return the names of the relation that ALTER … RENAME TO or SET SCHEMA concerns, None for anything else."""
    node = statement.node
    if statement.kind not in {_K.RENAME, _K.SET_SCHEMA}:
        return None
    moves = statement.kind is _K.SET_SCHEMA
    what, old = label(node, "object_type" if moves else "rename_type"), relation_of(node.relation)
    if what not in _KNOWN_TO_CLIENTS | {"OBJECT_INDEX"}:
        return None
    new = Relation(node.newschema, old.name) if moves else Relation(old.schema, node.newname)
    return NewName(old, new, what == "OBJECT_INDEX", bool(node.missing_ok))


def renamed(statement: Statement) -> tuple[Relation, str] | None:
    """Return the relation whose name, or column name, changes for clients, and a clause that describes the change."""
    node = statement.node
    if statement.kind is _K.RENAME and label(node, "rename_type") == "OBJECT_COLUMN":
        relation = relation_of(node.relation)
        return relation, f"the column `{node.subname}` of `{relation}` gets another name"
    found = new_name(statement)
    if found is None or found.is_index:
        return None
    moves = statement.kind is _K.SET_SCHEMA
    return found.old, f"`{found.old}` moves to another schema" if moves else f"`{found.old}` gets another name"


def moved_tablespace(statement: Statement) -> str | None:
    """Return the tablespace whose tables or views `ALTER … ALL IN TABLESPACE` moves, None for other statements."""
    return str(statement.node.orig_tablespacename) if statement.kind is _K.MOVE_ALL else None


# --- indexes ----------------------------------------------------------------------------------------------------------


class CreatedIndex(Struct, frozen=True, kw_only=True):
    """An index, its table and its plain columns; `index` is None if PostgreSQL chooses the name."""

    index: Relation | None
    table: Relation
    columns: tuple[str, ...] = ()


def created_index(statement: Statement) -> CreatedIndex | None:
    """Return the index that CREATE INDEX makes, None for another statement."""
    if statement.kind is not _K.CREATE_INDEX:
        return None
    table = relation_of(statement.node.relation)
    name = statement.node.idxname
    columns = tuple(element.name for element in map(unwrap, statement.node.index_params) if element.name)
    return CreatedIndex(index=Relation(table.schema, name) if name else None, table=table, columns=columns)


def adopted_indexes(statement: Statement) -> tuple[tuple[str, str], ...]:
    """Return the indexes that ADD CONSTRAINT … USING INDEX takes, with the names that they have from then on."""
    commands = subcommands(statement.node) if statement.kind is _K.ALTER_TABLE else ()
    added = (new for subtype, _, new in commands if subtype == "AT_AddConstraint" and new.indexname)
    return tuple((one.indexname, one.conname or one.indexname) for one in added)


def added_keys(statement: Statement) -> frozenset[str | None]:
    """Return the keys for which ALTER TABLE builds an index, by name; None for one without a name."""
    kinds = {"CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"}
    constraints = find(statement.node, "Constraint") if statement.kind is _K.ALTER_TABLE else ()
    return frozenset(one.conname or None for one in constraints if label(one, "contype") in kinds and not one.indexname)


def named_indexes(statement: Statement) -> tuple[str, ...]:
    """Return the indexes of its table that ALTER TABLE names: CLUSTER ON, REPLICA IDENTITY, ADD … USING INDEX."""
    commands = list(subcommands(statement.node))
    clustered = [command.name for subtype, command, _ in commands if subtype == "AT_ClusterOn"]
    identity = [new.name for subtype, _, new in commands if subtype == "AT_ReplicaIdentity" and new.name]
    return (*clustered, *identity, *(old for old, _ in adopted_indexes(statement)))


def clustering_index(statement: Statement) -> str:
    """Return the index that CLUSTER names, empty if it names none."""
    return str(statement.node.indexname) if statement.kind is _K.CLUSTER else ""


class ReindexTarget(enum.Enum):
    """What a REINDEX rebuilds."""

    INDEX = "REINDEX_OBJECT_INDEX"
    TABLE = "REINDEX_OBJECT_TABLE"
    SCHEMA = "REINDEX_OBJECT_SCHEMA"
    SYSTEM = "REINDEX_OBJECT_SYSTEM"
    DATABASE = "REINDEX_OBJECT_DATABASE"


def reindex_target(statement: Statement) -> ReindexTarget | None:
    """Return what a REINDEX rebuilds, None for another statement."""
    return ReindexTarget(label(statement.node, "kind")) if statement.kind is _K.REINDEX else None


def reindexed_name(statement: Statement) -> str:
    """Return the schema or database that REINDEX names, empty if it names a table or index, or nothing."""
    return str(statement.node.name) if statement.kind is _K.REINDEX else ""


class Vacuumed(NamedTuple):
    """A table that VACUUM or ANALYZE names, with the columns that it names; `inherits`: with its children."""

    relation: Relation
    columns: tuple[str, ...]
    inherits: bool


def vacuumed(statement: Statement) -> tuple[Vacuumed, ...]:
    """Return the tables that VACUUM or ANALYZE names; none means all of the database."""
    named = map(unwrap, statement.node.rels) if statement.kind in {_K.VACUUM, _K.ANALYZE} else ()
    return tuple(Vacuumed(relation_of(one.relation), strings(one.va_cols), bool(one.relation.inh)) for one in named)


# --- domains and functions --------------------------------------------------------------------------------------------


def checked_domain(statement: Statement) -> tuple[Relation, str] | None:
    """Return the domain and the clause, if ALTER DOMAIN checks every row of every table that uses it."""
    node = statement.node
    if node.DESCRIPTOR.name != "AlterDomainStmt":
        return None
    domain = relation_named(strings(node.type_name))
    if node.subtype == "O":
        return domain, "SET NOT NULL"
    if node.subtype == "C" and not unwrap(getattr(node, "def")).skip_validation:
        return domain, "ADD CONSTRAINT"
    return None


def constrained_domain(statement: Statement) -> Relation | None:
    """Return the domain that the statement creates with a constraint, or gives one; None for other statements."""
    node = statement.node
    if node.DESCRIPTOR.name == "CreateDomainStmt":
        kinds = {label(unwrap(constraint), "contype") for constraint in node.constraints}
        return relation_named(strings(node.domainname)) if kinds & {"CONSTR_CHECK", "CONSTR_NOTNULL"} else None
    if node.DESCRIPTOR.name == "AlterDomainStmt" and node.subtype in {"C", "O"}:
        return relation_named(strings(node.type_name))
    return None


def steady_function(statement: Statement) -> str | None:
    """Return the name of the function that the statement creates as IMMUTABLE or STABLE."""
    given = map(unwrap, statement.node.options) if statement.kind is _K.CREATE_FUNCTION else ()
    volatility = next((unwrap(option.arg).sval for option in given if option.defname == "volatility"), "volatile")
    return strings(statement.node.funcname)[-1] if volatility != "volatile" else None
