"""Which lock each command takes on the relations that it names: one row of `TAKERS` for each kind of statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from runner.sql.alter import alter_actions
from runner.sql.kinds import StatementKind, kind_of
from runner.sql.lockmodes import LockMode, RelationLock, Target
from runner.sql.nodes import Tree, find, label, strings, unwrap
from runner.sql.options import enabled, is_concurrent
from runner.sql.parse import Statement
from runner.sql.relations import Use, relation_named, relation_of, uses_in

_M = LockMode
_K = StatementKind

Taker = Callable[[Statement], Iterator[RelationLock]]

_USE_MODES = {
    Use.READ: _M.ACCESS_SHARE,
    Use.LOCK_ROWS: _M.ROW_SHARE,
    Use.WRITE: _M.ROW_EXCLUSIVE,
}


def _lock(statement: Statement, node: Tree, mode: LockMode, target: Target = Target.RELATION) -> RelationLock:
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
                on_table = Target.TABLE_OF_INDEX
                yield RelationLock(relation=lock.relation, mode=mode, offset=lock.offset, target=on_table)


def _dropped_from_table(statement: Statement) -> Iterator[RelationLock]:
    """`DROP TRIGGER x ON s.t` is the name s.t.x."""
    for dropped in statement.node.objects:
        yield from _named(statement, strings(unwrap(dropped).items)[:-1], _M.ACCESS_EXCLUSIVE)


_COMMENTED = frozenset(f"OBJECT_{kind}" for kind in ("TABLE", "VIEW", "MATVIEW", "INDEX", "SEQUENCE", "FOREIGN_TABLE"))
_PART_OF_TABLE = frozenset({"OBJECT_TABCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE"})


def _commented(statement: Statement) -> Iterator[RelationLock]:
    kind = label(statement.node, "objtype")
    if kind in _COMMENTED:
        yield from _named(statement, strings(unwrap(statement.node.object).items), _M.SHARE_UPDATE_EXCLUSIVE)
    elif kind == "OBJECT_COLUMN":
        yield from _named(statement, strings(unwrap(statement.node.object).items)[:-1], _M.SHARE_UPDATE_EXCLUSIVE)
    elif kind in _PART_OF_TABLE:
        yield from _named(statement, strings(unwrap(statement.node.object).items)[:-1], _M.ACCESS_SHARE)


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
        yield _lock(statement, node.relation, on_table, Target.TABLE_OF_INDEX)
    else:
        yield _lock(statement, node.relation, on_table)
        yield _lock(statement, node.relation, on_index, Target.INDEXES_OF_TABLE)


def _created_table(statement: Statement) -> Iterator[RelationLock]:
    yield from _table_definition(statement, statement.node)


def _table_definition(statement: Statement, outer: Tree) -> Iterator[RelationLock]:
    node = outer.base_stmt if outer.DESCRIPTOR.name == "CreateForeignTableStmt" else outer
    parent_mode = _M.ACCESS_EXCLUSIVE if node.HasField("partbound") else _M.SHARE_UPDATE_EXCLUSIVE
    for parent in map(unwrap, node.inh_relations):
        yield _lock(statement, parent, parent_mode)
    for like in find(node, "TableLikeClause"):
        yield _lock(statement, like.relation, _M.ACCESS_SHARE)
    own = relation_of(node.relation)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable") and relation_of(constraint.pktable) != own:
            yield _lock(statement, constraint.pktable, _M.SHARE_ROW_EXCLUSIVE)


def _none(_: Statement) -> Iterator[RelationLock]:
    yield from ()


def _created_schema(statement: Statement) -> Iterator[RelationLock]:
    for element in statement.node.schema_elts:
        inner = Statement(
            kind=kind_of(element),
            start=statement.start,
            end=statement.end,
            node=unwrap(element),
            at=statement.at,
        )
        yield from TAKERS.get(inner.kind, _none)(inner)


def _created_view(statement: Statement) -> Iterator[RelationLock]:
    yield from _queries(statement, statement.node.query)
    if statement.node.replace:
        yield _lock(statement, statement.node.view, _M.ACCESS_EXCLUSIVE)


def _created_index(statement: Statement) -> Iterator[RelationLock]:
    mode = _M.SHARE_UPDATE_EXCLUSIVE if is_concurrent(statement) else _M.SHARE
    yield _lock(statement, statement.node.relation, mode)


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


def _refreshed(statement: Statement) -> Iterator[RelationLock]:
    mode = _M.EXCLUSIVE if is_concurrent(statement) else _M.ACCESS_EXCLUSIVE
    yield _lock(statement, statement.node.relation, mode)


def _locked(statement: Statement) -> Iterator[RelationLock]:
    for relation in map(unwrap, statement.node.relations):
        yield _lock(statement, relation, LockMode(statement.node.mode))


def _granted(statement: Statement) -> Iterator[RelationLock]:
    if label(statement.node, "objtype") in {"OBJECT_TABLE", "OBJECT_SEQUENCE"}:
        for granted in map(unwrap, statement.node.objects):
            if granted.DESCRIPTOR.name == "RangeVar":
                yield _lock(statement, granted, _M.ACCESS_SHARE)


def _published(statement: Statement) -> Iterator[RelationLock]:
    for table in find(statement.node, "PublicationTable"):
        yield _lock(statement, table.relation, _M.SHARE_UPDATE_EXCLUSIVE)


def _extended(statement: Statement) -> Iterator[RelationLock]:
    """`ALTER EXTENSION … ADD TABLE t`; ALTER EXTENSION … UPDATE names no object."""
    if statement.node.DESCRIPTOR.name == "AlterExtensionContentsStmt":
        yield from _commented(statement)


TAKERS: dict[StatementKind, Taker] = {
    **dict.fromkeys((_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE), _queries),
    **dict.fromkeys((_K.EXPLAIN, _K.PREPARE, _K.DECLARE_CURSOR, _K.CREATE_TABLE_AS), _queries),
    **dict.fromkeys((_K.CREATE_MATERIALIZED_VIEW, _K.CREATE_FUNCTION), _queries),
    _K.COPY_FROM: _field(_M.ROW_EXCLUSIVE),
    _K.COPY_TO: _field(_M.ACCESS_SHARE),
    _K.TRUNCATE: _field(_M.ACCESS_EXCLUSIVE, "relations"),
    _K.LOCK: _locked,
    _K.VACUUM: _vacuumed,
    _K.ANALYZE: _vacuumed,
    _K.CLUSTER: _field(_M.ACCESS_EXCLUSIVE),
    _K.REINDEX: _reindexed,
    _K.REFRESH_MATERIALIZED_VIEW: _refreshed,
    _K.CREATE_TABLE: _created_table,
    _K.CREATE_FOREIGN_TABLE: _created_table,
    _K.CREATE_VIEW: _created_view,
    _K.CREATE_INDEX: _created_index,
    _K.CREATE_STATISTICS: _field(_M.SHARE_UPDATE_EXCLUSIVE, "relations"),
    _K.CREATE_TRIGGER: _created_trigger,
    _K.CREATE_RULE: _field(_M.ACCESS_EXCLUSIVE),
    _K.CREATE_POLICY: _field(_M.ACCESS_EXCLUSIVE, "table"),
    _K.ALTER_POLICY: _field(_M.ACCESS_EXCLUSIVE, "table"),
    _K.CREATE_SCHEMA: _created_schema,
    _K.CREATE_SEQUENCE: _sequence,
    _K.ALTER_SEQUENCE: _sequence,
    **dict.fromkeys((_K.ALTER_TABLE, _K.ALTER_INDEX, _K.ALTER_VIEW, _K.ALTER_MATERIALIZED_VIEW), _altered),
    **dict.fromkeys((_K.ALTER_FOREIGN_TABLE, _K.ALTER_TYPE), _altered),
    **dict.fromkeys((_K.RENAME, _K.SET_SCHEMA, _K.DEPENDS_ON_EXTENSION), _renamed),
    **dict.fromkeys((_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW), _dropped),
    **dict.fromkeys((_K.DROP_SEQUENCE, _K.DROP_FOREIGN_TABLE), _dropped),
    **dict.fromkeys((_K.DROP_TRIGGER, _K.DROP_RULE, _K.DROP_POLICY), _dropped_from_table),
    _K.COMMENT: _commented,
    _K.SECURITY_LABEL: _commented,
    _K.GRANT: _granted,
    _K.REVOKE: _granted,
    _K.CREATE_PUBLICATION: _published,
    _K.ALTER_PUBLICATION: _published,
    _K.ALTER_EXTENSION: _extended,
}
