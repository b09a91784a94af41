"""Which rows a statement writes: every row of a table for lack of a condition, those in its text, that of a cursor."""

from __future__ import annotations

from collections.abc import Iterable

from runner.sql.relations import Relation, relation_of
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import Tree, contains, label, unwrap, walk
from runner.structs import Struct

_K = StatementKind
_CHANGE_ROWS = frozenset({_K.UPDATE, _K.DELETE, _K.MERGE})
_CHANGING_NODES = frozenset({"UpdateStmt", "DeleteStmt", "MergeStmt"})
_NO_WHERE = "it has no WHERE"
_NO_JOIN = "its ON names no column, and its WHEN has no condition"


class UnfilteredWrite(Struct):
    """A table of which a statement changes every row; `why` says what is missing, as a clause about the statement."""

    relation: Relation
    offset: int
    why: str

    @property
    def hint(self) -> str:
        """Return what to write if every row is meant."""
        return f"write {'WHERE true' if self.why == _NO_WHERE else 'WHEN … AND true'} if that is intended"


def unfiltered_writes(statement: Statement) -> tuple[UnfilteredWrite, ...]:
    """Return the tables of which UPDATE, DELETE or MERGE changes every row, those in CTEs and under EXPLAIN included.

    What CREATE puts into a function or a rule changes nothing yet.
    """
    own = statement.node
    if statement.kind in {_K.CREATE_FUNCTION, _K.CREATE_RULE}:
        found: Iterable[Tree] = ()
    elif statement.kind in QUERIES and not _has_cte(statement):
        # PostgreSQL takes no other one, but in a CTE at the top.
        found = (own,) if statement.kind in _CHANGE_ROWS else ()
    else:
        found = (node for node in walk(own) if node.DESCRIPTOR.name in _CHANGING_NODES)
    return tuple(
        UnfilteredWrite(
            relation=relation_of(node.relation),
            offset=statement.offset(node.relation),
            why=_NO_JOIN if node.DESCRIPTOR.name == "MergeStmt" else _NO_WHERE,
        )
        for node in found
        if _is_unfiltered(node)
    )


def _is_unfiltered(node: Tree) -> bool:
    if node.DESCRIPTOR.name != "MergeStmt":
        return not node.HasField("where_clause")
    joins = _constant(node.join_condition)
    if joins is None:
        return False
    wanted = "MERGE_WHEN_MATCHED" if joins else "MERGE_WHEN_NOT_MATCHED_BY_SOURCE"
    for clause in map(unwrap, node.merge_when_clauses):
        if label(clause, "match_kind") == wanted and not clause.HasField("condition"):
            return label(clause, "command_type") in {"CMD_UPDATE", "CMD_DELETE"}
    return False


def _constant(condition: Tree) -> bool | None:
    """Return what a condition without columns says, as far as its text shows; None if it depends on rows."""
    node = unwrap(condition)
    if contains(node, "ColumnRef", "SubLink", "FuncCall"):
        return None
    return bool(node.boolval.boolval) if node.DESCRIPTOR.name == "A_Const" else True  # such as 1 = 1


def _has_cte(statement: Statement) -> bool:
    node = statement.node
    rows = [unwrap(node.select_stmt)] if statement.kind is _K.INSERT and node.HasField("select_stmt") else []
    return any(bool(each.HasField("with_clause")) for each in (node, *rows))


def holds_its_rows(statement: Statement) -> bool:
    """Return whether it is an INSERT with the rows in its text: VALUES or DEFAULT VALUES, no query."""
    if statement.kind is not _K.INSERT:
        return False
    return not statement.node.HasField("select_stmt") or bool(unwrap(statement.node.select_stmt).values_lists)


def cursor_of_row(statement: Statement) -> str | None:
    """Return the cursor whose row an UPDATE or DELETE changes (WHERE CURRENT OF), None if there is none."""
    if statement.kind not in {_K.UPDATE, _K.DELETE}:
        return None
    condition = unwrap(statement.node.where_clause)
    return str(condition.cursor_name) if condition.DESCRIPTOR.name == "CurrentOfExpr" else None
