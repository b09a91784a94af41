"""Foreign keys that a statement creates, and row changes for which PostgreSQL checks the other table of one.

A foreign key extends locks to the other table: to delete a parent's row the server queries the child, and the reverse.
Sources: CREATE TABLE in the PostgreSQL documentation, ri_triggers.c; a test compares the modes with a server.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import LockMode
from runner.sql.nodes import Tree, find, label, strings, unwrap
from runner.sql.options import enabled
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
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


class Change(enum.Enum):
    """What a statement does to rows."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """Rows of a relation that a statement may change; `columns` are those that an UPDATE sets."""

    relation: Relation
    change: Change
    offset: int
    columns: frozenset[str] = frozenset()


def foreign_keys(statement: Statement) -> tuple[ForeignKey, ...]:
    """Return the foreign keys that CREATE TABLE or ALTER TABLE … ADD makes."""
    node = statement.node
    match statement.kind:
        case _K.CREATE_TABLE:
            definitions = list(map(unwrap, node.table_elts))
        case _K.ALTER_TABLE:
            definitions = [unwrap(getattr(unwrap(command), "def")) for command in node.cmds]
        case _:
            return ()
    child = relation_of(node.relation)
    return tuple(key for definition in definitions for key in _defined(definition, child))


def row_changes(statement: Statement) -> tuple[RowChange, ...]:
    """Return the row changes of a statement that runs queries, those of its CTEs included; MERGE may do several."""
    node = statement.node
    match statement.kind:
        case _K.COPY_FROM if node.HasField("relation"):
            offset = statement.offset(node.relation)
            return (RowChange(relation=relation_of(node.relation), change=Change.INSERT, offset=offset),)
        case _K.SELECT | _K.INSERT | _K.UPDATE | _K.DELETE | _K.MERGE:
            return tuple(_changes(statement))
        case _K.EXPLAIN if enabled(statement, "analyze"):
            return tuple(_changes(statement))
    return ()


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
    for name, change in (("InsertStmt", Change.INSERT), ("DeleteStmt", Change.DELETE)):
        for node in find(statement.node, name):
            yield _change(statement, node, change)
            if node.DESCRIPTOR.name == "InsertStmt" and node.HasField("on_conflict_clause"):
                columns = _columns(node.on_conflict_clause.target_list)
                if columns:
                    yield _change(statement, node, Change.UPDATE, columns)
    for node in find(statement.node, "UpdateStmt"):
        yield _change(statement, node, Change.UPDATE, _columns(node.target_list))
    for node in find(statement.node, "MergeStmt"):
        for clause in map(unwrap, node.merge_when_clauses):
            command = label(clause, "command_type")
            if command in _MERGED:
                yield _change(statement, node, _MERGED[command], _columns(clause.target_list))


_MERGED = {"CMD_INSERT": Change.INSERT, "CMD_UPDATE": Change.UPDATE, "CMD_DELETE": Change.DELETE}


def _columns(targets: Iterable[Tree]) -> frozenset[str]:
    return frozenset(unwrap(target).name for target in targets)


def _change(statement: Statement, node: Tree, change: Change, columns: frozenset[str] = frozenset()) -> RowChange:
    relation = node.relation
    return RowChange(relation=relation_of(relation), change=change, offset=statement.offset(relation), columns=columns)
