"""Facts about statements for the rules: filters, guards, settings, functions, effects outside the database."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, find, label, strings, unwrap, walk
from runner.sql.options import enabled
from runner.sql.parse import Statement
from runner.sql.relations import Relation, RelationUse, Use, relation_named, relation_of

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """A function that a statement calls by name; `schema` is None if the search_path decides."""

    schema: str | None
    name: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A setting that a statement changes by SET, RESET or set_config; RESET ALL has the name `all`."""

    name: str
    local: bool
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSymbol:
    """A `$1`, which has no value in a worker."""

    number: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedIndex:
    """An index, its table and its plain columns; `index` is None if PostgreSQL chooses the name."""

    index: Relation | None
    table: Relation
    columns: tuple[str, ...] = ()


class ReindexTarget(enum.Enum):
    """What a REINDEX rebuilds."""

    INDEX = "REINDEX_OBJECT_INDEX"
    TABLE = "REINDEX_OBJECT_TABLE"
    SCHEMA = "REINDEX_OBJECT_SCHEMA"
    SYSTEM = "REINDEX_OBJECT_SYSTEM"
    DATABASE = "REINDEX_OBJECT_DATABASE"


_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE})
_CHANGES_ROWS = frozenset({"UpdateStmt", "DeleteStmt"})


def unfiltered_writes(statement: Statement) -> tuple[RelationUse, ...]:
    """Return the tables that an UPDATE or DELETE without WHERE changes, those in CTEs and under EXPLAIN included."""
    own = statement.node
    if statement.kind in _QUERIES and not _has_cte(statement):
        # PostgreSQL takes no other one, but in a CTE at the top.
        found: Iterable[Tree] = (own,) if statement.kind in {_K.UPDATE, _K.DELETE} else ()
    else:
        found = (node for node in walk(own) if node.DESCRIPTOR.name in _CHANGES_ROWS)
    return tuple(
        RelationUse(relation=relation_of(node.relation), use=Use.WRITE, offset=statement.offset(node.relation))
        for node in found
        if not node.HasField("where_clause")
    )


def _has_cte(statement: Statement) -> bool:
    node = statement.node
    if node.HasField("with_clause"):
        return True
    rows = unwrap(node.select_stmt) if statement.kind is _K.INSERT and node.HasField("select_stmt") else None
    return rows is not None and bool(rows.HasField("with_clause"))


def is_guarded(statement: Statement) -> bool:
    """Return whether it has IF EXISTS, IF NOT EXISTS or OR REPLACE, so that running it again does not fail."""
    node = statement.node
    return any(bool(getattr(node, field, False)) for field in ("missing_ok", "if_not_exists", "replace"))


def is_cascading(statement: Statement) -> bool:
    """Return whether it has CASCADE, also in a subcommand of ALTER TABLE."""
    nodes = [statement.node, *map(unwrap, getattr(statement.node, "cmds", ()))]
    return any(
        label(node, "behavior") == "DROP_CASCADE" for node in nodes if "behavior" in node.DESCRIPTOR.fields_by_name
    )


def parameter_symbols(statement: Statement) -> tuple[ParameterSymbol, ...]:
    """Return every `$n`, except where one is meant: in PREPARE, a function's body and EXPLAIN (GENERIC_PLAN)."""
    if statement.kind in {_K.PREPARE, _K.CREATE_FUNCTION}:
        return ()
    if statement.kind is _K.EXPLAIN and enabled(statement, "generic_plan"):
        return ()
    found = find(statement.node, "ParamRef")
    return tuple(ParameterSymbol(number=node.number, offset=statement.offset(node)) for node in found)


def functions_called(statement: Statement) -> tuple[FunctionCall, ...]:
    """Return the functions that are called by name, procedures included; not operators, nor what a DO body calls."""
    return tuple(function_call(statement, node) for node in find(statement.node, "FuncCall"))


def function_call(statement: Statement, node: Tree) -> FunctionCall:
    """Return the call that a FuncCall node of the statement is."""
    parts = strings(node.funcname)
    return FunctionCall(
        schema=parts[-2] if len(parts) > 1 else None,
        name=parts[-1],
        offset=statement.offset(node),
    )


def settings_changed(statement: Statement) -> tuple[SettingChange, ...]:
    """Return what SET, RESET and `set_config('name', …)` change; not ALTER SYSTEM, ROLE or DATABASE."""
    node = statement.node
    if statement.kind in {_K.SET, _K.RESET}:
        return (SettingChange(name=node.name or "all", local=node.is_local, offset=statement.start),)
    return tuple(
        SettingChange(name=name, local=False, offset=statement.offset(call))
        for call in find(node, "FuncCall")
        if strings(call.funcname)[-1] == "set_config"
        for name in _first_constant(call)
    )


def reindex_target(statement: Statement) -> ReindexTarget | None:
    """Return what a REINDEX rebuilds, None for another statement."""
    return ReindexTarget(label(statement.node, "kind")) if statement.kind is _K.REINDEX else None


def created_index(statement: Statement) -> CreatedIndex | None:
    """Return the index that CREATE INDEX makes, None for another statement."""
    if statement.kind is not _K.CREATE_INDEX:
        return None
    table = relation_of(statement.node.relation)
    name = statement.node.idxname
    columns = tuple(element.name for element in map(unwrap, statement.node.index_params) if element.name)
    return CreatedIndex(index=Relation(table.schema, name) if name else None, table=table, columns=columns)


def created_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, views and sequences that the statement creates by name."""
    path = _CREATES.get(statement.kind)
    return (relation_of(reduce(getattr, path, statement.node)),) if path else ()


# Where the tree has the name of what is created.
_CREATES: Mapping[StatementKind, tuple[str, ...]] = {
    _K.CREATE_TABLE: ("relation",),
    _K.CREATE_FOREIGN_TABLE: ("base_stmt", "relation"),
    _K.CREATE_TABLE_AS: ("into", "rel"),
    _K.CREATE_MATERIALIZED_VIEW: ("into", "rel"),
    _K.SELECT_INTO: ("into_clause", "rel"),
    _K.CREATE_VIEW: ("view",),
    _K.CREATE_SEQUENCE: ("sequence",),
}

_DROPS_RELATION = frozenset(
    {_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_SEQUENCE, _K.DROP_FOREIGN_TABLE}
)


def dropped_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, indexes, views and sequences that the statement drops by name."""
    if statement.kind not in _DROPS_RELATION:
        return ()
    return tuple(relation_named(strings(unwrap(dropped).items)) for dropped in statement.node.objects)


_SERVER_WIDE = frozenset(
    {
        *(_K.ALTER_SYSTEM, _K.CHECKPOINT, _K.CREATE_ROLE, _K.ALTER_ROLE, _K.DROP_ROLE, _K.GRANT_ROLE),
        *(_K.CREATE_DATABASE, _K.ALTER_DATABASE, _K.DROP_DATABASE),
        *(_K.CREATE_TABLESPACE, _K.ALTER_TABLESPACE, _K.DROP_TABLESPACE),
    }
)
_SHARED_OBJECTS = frozenset({"OBJECT_DATABASE", "OBJECT_ROLE", "OBJECT_TABLESPACE", "OBJECT_PARAMETER_ACL"})
_SERVER_WIDE_FUNCTIONS = frozenset(
    {
        *("pg_reload_conf", "pg_rotate_logfile", "pg_promote", "pg_switch_wal", "pg_create_restore_point"),
        *("pg_terminate_backend", "pg_cancel_backend", "pg_backup_start", "pg_backup_stop"),
        *("pg_wal_replay_pause", "pg_wal_replay_resume", "pg_create_physical_replication_slot"),
        *("pg_create_logical_replication_slot", "pg_drop_replication_slot"),
    }
)


def server_wide(statement: Statement) -> str | None:
    """Return the command or function by which the statement reaches beyond its database, None if it does not."""
    if statement.kind in _SERVER_WIDE:
        return str(statement.kind)
    for field in ("objtype", "rename_type", "object_type"):
        fields = statement.node.DESCRIPTOR.fields_by_name
        if field in fields and label(statement.node, field) in _SHARED_OBJECTS:
            return str(statement.kind)
    called = (call.name for call in functions_called(statement))
    return next((f"{name}()" for name in called if name in _SERVER_WIDE_FUNCTIONS), None)


def _first_constant(call: Tree) -> Iterator[str]:
    for argument in list(call.args)[:1]:
        constant = unwrap(argument)
        if constant.DESCRIPTOR.name == "A_Const" and constant.HasField("sval"):
            yield constant.sval.sval
