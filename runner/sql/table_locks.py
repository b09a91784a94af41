"""The table locks that a statement takes, as far as its text shows, and those that foreign keys add to it.

Sources: "Explicit Locking" and each command's page in the PostgreSQL documentation; integration tests compare them
with a server of version 18. What only the server knows is not here: partitions and children, tables of views, foreign
keys of existing tables, what CASCADE reaches, and what functions, DO, CALL and EXECUTE run.

A foreign key extends locks to the other table: to delete a parent's row the server queries the child, and the reverse
(CREATE TABLE in the documentation, ri_triggers.c).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from runner.sql.alter_table import alter_actions
from runner.sql.command_options import enabled, is_concurrent
from runner.sql.lock_modes import LockMode, LockTarget, RelationLock, strongest
from runner.sql.relations import Relation, Use, relation_named, relation_of, uses_in
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import Tree, contains, find, label, strings, subcommands, unwrap
from runner.structs import Struct

_M = LockMode
_K = StatementKind

Taker = Callable[[Statement], Iterator[RelationLock]]

_USE_MODES = {
    Use.READ: _M.ACCESS_SHARE,
    Use.LOCK_ROWS: _M.ROW_SHARE,
    Use.WRITE: _M.ROW_EXCLUSIVE,
}


def _lock(statement: Statement, node: Tree, mode: LockMode, target: LockTarget = LockTarget.RELATION) -> RelationLock:
    return RelationLock(relation=relation_of(node), mode=mode, offset=statement.offset(node), target=target)


def _named(statement: Statement, parts: tuple[str, ...], mode: LockMode) -> Iterator[RelationLock]:
    if parts:
        yield RelationLock(relation=relation_named(parts), mode=mode, offset=statement.start)


def _queries(statement: Statement, *nodes: Tree) -> Iterator[RelationLock]:
    for node in nodes or (statement.node,):
        for use in uses_in(node, statement):
            yield RelationLock(relation=use.relation, mode=_USE_MODES[use.use], offset=use.offset)


def _field(mode: LockMode, field: str = "relation") -> Taker:
    """Return what locks the relation or relations of a field, and its queries' relations."""

    def take(statement: Statement) -> Iterator[RelationLock]:
        value = getattr(statement.node, field)
        nodes: Iterable[Tree] = [value] if hasattr(value, "DESCRIPTOR") else map(unwrap, value)
        for node in nodes:
            if node.relname:
                yield _lock(statement, node, mode)
        yield from _queries(statement)

    return take


def _by_concurrency(concurrent: LockMode, plain: LockMode) -> Taker:
    """Return what locks the relation of a command, with one mode if it is CONCURRENTLY, and another one if not."""
    return lambda one: iter((_lock(one, one.node.relation, concurrent if is_concurrent(one) else plain),))


def _altered(statement: Statement) -> Iterator[RelationLock]:
    for action in alter_actions(statement):
        yield _lock(statement, statement.node.relation, action.lock)
        if action.other is not None and action.other_lock is not None:
            yield RelationLock(relation=action.other, mode=action.other_lock, offset=action.offset)


def _dropped(statement: Statement) -> Iterator[RelationLock]:
    mode = _M.SHARE_UPDATE_EXCLUSIVE if is_concurrent(statement) else _M.ACCESS_EXCLUSIVE
    for dropped in statement.node.objects:
        for lock in _named(statement, strings(unwrap(dropped).items), mode):
            yield lock
            if statement.kind is _K.DROP_INDEX:
                on_table = LockTarget.TABLE_OF_INDEX
                yield RelationLock(relation=lock.relation, mode=mode, offset=lock.offset, target=on_table)


def _dropped_from_table(statement: Statement) -> Iterator[RelationLock]:
    """`DROP TRIGGER x ON s.t` is the name s.t.x."""
    for dropped in statement.node.objects:
        yield from _named(statement, strings(unwrap(dropped).items)[:-1], _M.ACCESS_EXCLUSIVE)


_COMMENTED = frozenset(f"OBJECT_{kind}" for kind in ("TABLE", "VIEW", "MATVIEW", "INDEX", "SEQUENCE", "FOREIGN_TABLE"))
_OF_READERS = frozenset({"OBJECT_TABCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE"})
_PART_OF_TABLE = _OF_READERS | {"OBJECT_COLUMN"}


def _commented(statement: Statement) -> Iterator[RelationLock]:
    kind = label(statement.node, "objtype")
    if kind in _COMMENTED | _PART_OF_TABLE:
        parts = strings(unwrap(statement.node.object).items)
        mode = _M.ACCESS_SHARE if kind in _OF_READERS else _M.SHARE_UPDATE_EXCLUSIVE
        yield from _named(statement, parts[:-1] if kind in _PART_OF_TABLE else parts, mode)


def _renamed(statement: Statement) -> Iterator[RelationLock]:
    node = statement.node
    if node.HasField("relation"):
        index = statement.kind is _K.RENAME and label(node, "rename_type") == "OBJECT_INDEX"
        yield _lock(statement, node.relation, _M.SHARE_UPDATE_EXCLUSIVE if index else _M.ACCESS_EXCLUSIVE)


def _vacuumed(statement: Statement) -> Iterator[RelationLock]:
    full = statement.kind is _K.VACUUM and enabled(statement, "full")
    mode = _M.ACCESS_EXCLUSIVE if full else _M.SHARE_UPDATE_EXCLUSIVE
    for relation in statement.node.rels:
        yield _lock(statement, unwrap(relation).relation, mode)


def _reindexed(statement: Statement) -> Iterator[RelationLock]:
    node = statement.node
    if not node.HasField("relation"):
        return
    concurrent = is_concurrent(statement)
    on_table = _M.SHARE_UPDATE_EXCLUSIVE if concurrent else _M.SHARE
    on_index = _M.SHARE_UPDATE_EXCLUSIVE if concurrent else _M.ACCESS_EXCLUSIVE
    if label(node, "kind") == "REINDEX_OBJECT_INDEX":
        yield _lock(statement, node.relation, on_index)
        yield _lock(statement, node.relation, on_table, LockTarget.TABLE_OF_INDEX)
    else:
        yield _lock(statement, node.relation, on_table)
        yield _lock(statement, node.relation, on_index, LockTarget.INDEXES_OF_TABLE)


def _created_table(statement: Statement) -> Iterator[RelationLock]:
    node: Tree = getattr(statement.node, "base_stmt", statement.node)
    parent_mode = _M.ACCESS_EXCLUSIVE if node.HasField("partbound") else _M.SHARE_UPDATE_EXCLUSIVE
    for parent in map(unwrap, node.inh_relations):
        yield _lock(statement, parent, parent_mode)
    for like in find(node, "TableLikeClause"):
        yield _lock(statement, like.relation, _M.ACCESS_SHARE)
    own = relation_of(node.relation)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable") and relation_of(constraint.pktable) != own:
            yield _lock(statement, constraint.pktable, _M.SHARE_ROW_EXCLUSIVE)


def _created_schema(statement: Statement) -> Iterator[RelationLock]:
    for element in statement.node.schema_elts:
        inner = statement.inner(element)
        if inner.kind in TAKERS:
            yield from TAKERS[inner.kind](inner)


def _created_view(statement: Statement) -> Iterator[RelationLock]:
    yield from _queries(statement, statement.node.query)
    if statement.node.replace:
        yield _lock(statement, statement.node.view, _M.ACCESS_EXCLUSIVE)


def _created_trigger(statement: Statement) -> Iterator[RelationLock]:
    yield _lock(statement, statement.node.relation, _M.SHARE_ROW_EXCLUSIVE)
    if statement.node.HasField("constrrel"):
        yield _lock(statement, statement.node.constrrel, _M.ACCESS_SHARE)


def _sequence(statement: Statement) -> Iterator[RelationLock]:
    if statement.node.DESCRIPTOR.name == "AlterTableStmt":
        yield from _altered(statement)
        return
    if statement.kind is _K.ALTER_SEQUENCE:
        yield _lock(statement, statement.node.sequence, _M.SHARE_ROW_EXCLUSIVE)
    for option in map(unwrap, statement.node.options):
        owner = strings(unwrap(option.arg).items) if option.defname == "owned_by" else ()
        yield from _named(statement, owner[:-1], _M.ACCESS_SHARE)


def _granted(statement: Statement) -> Iterator[RelationLock]:
    if label(statement.node, "objtype") in {"OBJECT_TABLE", "OBJECT_SEQUENCE"}:
        for granted in map(unwrap, statement.node.objects):
            if granted.DESCRIPTOR.name == "RangeVar":
                yield _lock(statement, granted, _M.ACCESS_SHARE)


def _extended(statement: Statement) -> Iterator[RelationLock]:
    """`ALTER EXTENSION … ADD TABLE t`; ALTER EXTENSION … UPDATE names no object."""
    if statement.node.DESCRIPTOR.name == "AlterExtensionContentsStmt":
        yield from _commented(statement)


def _published(statement: Statement) -> Iterator[RelationLock]:
    tables = find(statement.node, "PublicationTable")
    return (_lock(statement, table.relation, _M.SHARE_UPDATE_EXCLUSIVE) for table in tables)


TAKERS: dict[StatementKind, Taker] = {
    **dict.fromkeys((*QUERIES, _K.SELECT_INTO, _K.EXPLAIN, _K.PREPARE, _K.DECLARE_CURSOR), _queries),
    **dict.fromkeys((_K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW, _K.CREATE_FUNCTION), _queries),
    _K.COPY_FROM: _field(_M.ROW_EXCLUSIVE),
    _K.COPY_TO: _field(_M.ACCESS_SHARE),
    _K.TRUNCATE: _field(_M.ACCESS_EXCLUSIVE, "relations"),
    _K.LOCK: lambda one: (_lock(one, node, LockMode(one.node.mode)) for node in map(unwrap, one.node.relations)),
    **dict.fromkeys((_K.VACUUM, _K.ANALYZE), _vacuumed),
    _K.CLUSTER: _field(_M.ACCESS_EXCLUSIVE),
    _K.REINDEX: _reindexed,
    _K.REFRESH_MATERIALIZED_VIEW: _by_concurrency(_M.EXCLUSIVE, _M.ACCESS_EXCLUSIVE),
    **dict.fromkeys((_K.CREATE_TABLE, _K.CREATE_FOREIGN_TABLE), _created_table),
    _K.CREATE_VIEW: _created_view,
    _K.CREATE_INDEX: _by_concurrency(_M.SHARE_UPDATE_EXCLUSIVE, _M.SHARE),
    _K.CREATE_STATISTICS: _field(_M.SHARE_UPDATE_EXCLUSIVE, "relations"),
    _K.CREATE_TRIGGER: _created_trigger,
    _K.CREATE_RULE: _field(_M.ACCESS_EXCLUSIVE),
    **dict.fromkeys((_K.CREATE_POLICY, _K.ALTER_POLICY), _field(_M.ACCESS_EXCLUSIVE, "table")),
    _K.CREATE_SCHEMA: _created_schema,
    **dict.fromkeys((_K.CREATE_SEQUENCE, _K.ALTER_SEQUENCE), _sequence),
    **dict.fromkeys((_K.ALTER_TABLE, _K.ALTER_INDEX, _K.ALTER_VIEW, _K.ALTER_MATERIALIZED_VIEW), _altered),
    **dict.fromkeys((_K.ALTER_FOREIGN_TABLE, _K.ALTER_TYPE), _altered),
    **dict.fromkeys((_K.RENAME, _K.SET_SCHEMA, _K.DEPENDS_ON_EXTENSION), _renamed),
    **dict.fromkeys((_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW), _dropped),
    **dict.fromkeys((_K.DROP_SEQUENCE, _K.DROP_FOREIGN_TABLE), _dropped),
    **dict.fromkeys((_K.DROP_TRIGGER, _K.DROP_RULE, _K.DROP_POLICY), _dropped_from_table),
    **dict.fromkeys((_K.COMMENT, _K.SECURITY_LABEL), _commented),
    **dict.fromkeys((_K.GRANT, _K.REVOKE), _granted),
    **dict.fromkeys((_K.CREATE_PUBLICATION, _K.ALTER_PUBLICATION), _published),
    _K.ALTER_EXTENSION: _extended,
}


class Sweep(Struct, frozen=True, kw_only=True):
    """A lock on every table of a schema, or of the database if `schema` is None, one after the other or all at once."""

    mode: LockMode
    schema: str | None = None


def locks_taken(statement: Statement) -> tuple[RelationLock, ...]:
    """Return the locks on relations that the statement names, without those that another one of them covers."""
    taker = TAKERS.get(statement.kind)
    if taker is None:
        return ()
    modes: dict[tuple[Relation, LockTarget], list[RelationLock]] = defaultdict(list)
    for lock in taker(statement):
        modes[lock.relation, lock.target].append(lock)
    kept = (lock for same in modes.values() for lock in _strongest_of(same))
    return tuple(sorted(kept, key=lambda lock: (lock.offset, lock.target.value)))


def sweeping_lock(statement: Statement) -> Sweep | None:
    """Return the lock of a command that visits all tables of a schema or database without naming them."""
    node = statement.node
    match statement.kind:
        case _K.VACUUM | _K.ANALYZE if not node.rels:
            return Sweep(mode=_M.ACCESS_EXCLUSIVE if enabled(statement, "full") else _M.SHARE_UPDATE_EXCLUSIVE)
        case _K.CLUSTER if not node.HasField("relation"):
            return Sweep(mode=_M.ACCESS_EXCLUSIVE)
        case _K.REINDEX if not node.HasField("relation"):
            mode = _M.SHARE_UPDATE_EXCLUSIVE if is_concurrent(statement) else _M.SHARE
            schema = label(node, "kind") == "REINDEX_OBJECT_SCHEMA"
            return Sweep(mode=mode, schema=node.name if schema else None)
        case _K.DROP_SCHEMA:
            name = strings(node.objects)[0] if len(node.objects) == 1 else None
            return Sweep(mode=_M.ACCESS_EXCLUSIVE, schema=name)
        case _K.MOVE_ALL | _K.DROP_OWNED | _K.REASSIGN_OWNED:
            return Sweep(mode=_M.ACCESS_EXCLUSIVE)
    return None


def is_opaque(statement: Statement) -> bool:
    """Return whether the statement runs SQL that its text does not show: DO, CALL, EXECUTE."""
    inner = statement.node
    if statement.kind is _K.EXPLAIN and enabled(statement, "analyze"):
        inner = unwrap(statement.node.query)
    return contains(inner, "DoStmt", "CallStmt", "ExecuteStmt")


def _strongest_of(locks: list[RelationLock]) -> Iterator[RelationLock]:
    for mode in strongest(lock.mode for lock in locks):
        yield next(lock for lock in locks if lock.mode is mode)


class ForeignKey(Struct, frozen=True, kw_only=True):
    """A foreign key: `columns` of `child` refer to `referenced` of `parent` (empty: to its primary key).

    `on_delete` and `on_update` are the locks on the child when a row of the parent is deleted or its key changes.
    """

    name: str
    child: Relation
    columns: tuple[str, ...]
    parent: Relation
    referenced: tuple[str, ...]
    on_delete: LockMode
    on_update: LockMode

    def __str__(self) -> str:
        return f"{self.child} → {self.parent}"


class RowChangeKind(enum.Enum):
    """What a statement does to rows."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


class RowChange(Struct, frozen=True, kw_only=True):
    """Rows of a relation that a statement may change; `columns` are those that an UPDATE sets."""

    relation: Relation
    change: RowChangeKind
    offset: int
    columns: frozenset[str] = frozenset()


def foreign_keys(statement: Statement) -> tuple[ForeignKey, ...]:
    """Return the foreign keys that CREATE TABLE or ALTER TABLE … ADD makes."""
    definitions: list[Tree] = []
    if statement.kind is _K.CREATE_TABLE:
        definitions = list(map(unwrap, statement.node.table_elts))
    elif statement.kind is _K.ALTER_TABLE:
        definitions = [definition for _, _, definition in subcommands(statement.node)]
    return tuple(key for one in definitions for key in _defined(one, relation_of(statement.node.relation)))


def row_changes(statement: Statement) -> tuple[RowChange, ...]:
    """Return the row changes of a statement that runs queries, those of its CTEs included; MERGE may do several."""
    node = statement.node
    if statement.kind is _K.COPY_FROM and node.HasField("relation"):
        return (_change(statement, node, RowChangeKind.INSERT),)
    runs = statement.kind in QUERIES or (statement.kind is _K.EXPLAIN and enabled(statement, "analyze"))
    return tuple(_changes(statement)) if runs else ()


def _defined(definition: Tree, child: Relation) -> Iterator[ForeignKey]:
    own: tuple[str, ...] = ()
    constraints = [definition] if definition.DESCRIPTOR.name == "Constraint" else []
    if definition.DESCRIPTOR.name == "ColumnDef":
        constraints, own = list(map(unwrap, definition.constraints)), (definition.colname,)
    for constraint in constraints:
        if constraint.HasField("pktable"):
            columns = own or strings(constraint.fk_attrs)
            yield ForeignKey(
                name=constraint.conname or "_".join((child.name, *columns, "fkey")),
                child=child,
                columns=columns,
                parent=relation_of(constraint.pktable),
                referenced=strings(constraint.pk_attrs),
                on_delete=_action(constraint.fk_del_action),
                on_update=_action(constraint.fk_upd_action),
            )


def _action(action: str) -> LockMode:
    """NO ACTION and RESTRICT only look for rows; CASCADE, SET NULL and SET DEFAULT change them."""
    return LockMode.ROW_SHARE if action in {"", "a", "r"} else LockMode.ROW_EXCLUSIVE


def _changes(statement: Statement) -> Iterator[RowChange]:
    for name, change in (("InsertStmt", RowChangeKind.INSERT), ("DeleteStmt", RowChangeKind.DELETE)):
        for node in find(statement.node, name):
            yield _change(statement, node, change)
            if node.DESCRIPTOR.name == "InsertStmt" and node.HasField("on_conflict_clause"):
                columns = _columns(node.on_conflict_clause.target_list)
                if columns:
                    yield _change(statement, node, RowChangeKind.UPDATE, columns)
    for node in find(statement.node, "UpdateStmt"):
        yield _change(statement, node, RowChangeKind.UPDATE, _columns(node.target_list))
    for node in find(statement.node, "MergeStmt"):
        for clause in map(unwrap, node.merge_when_clauses):
            command = label(clause, "command_type")
            if command in _MERGED:
                yield _change(statement, node, _MERGED[command], _columns(clause.target_list))


_MERGED = {"CMD_INSERT": RowChangeKind.INSERT, "CMD_UPDATE": RowChangeKind.UPDATE, "CMD_DELETE": RowChangeKind.DELETE}


def _columns(targets: Iterable[Tree]) -> frozenset[str]:
    return frozenset(unwrap(target).name for target in targets)


def _change(
    statement: Statement, node: Tree, change: RowChangeKind, columns: frozenset[str] = frozenset()
) -> RowChange:
    relation = node.relation
    return RowChange(relation=relation_of(relation), change=change, offset=statement.offset(relation), columns=columns)
