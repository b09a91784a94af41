"""The privileges that a query needs on the relations that it names, where the planner is not asked.

Sources: the privileges that the pages of SELECT, INSERT, UPDATE, DELETE and MERGE in the PostgreSQL documentation name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.nodes import Tree, label, unwrap, walk
from runner.sql.parse import Statement
from runner.sql.relations import Relation, Use, query_relations, relation_of

_MERGED = {"CMD_INSERT": "INSERT", "CMD_UPDATE": "UPDATE", "CMD_DELETE": "DELETE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRight:
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
