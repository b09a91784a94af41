"""Which relations a query reads, locks rows of, or writes: tables and views, not CTEs, aliases or functions."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runner.sql.nodes import Tree, children, unwrap
from runner.sql.parse import Statement, placeholder

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*")

Scope = frozenset[str]


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """The name of a relation as the SQL has it; without a schema, the search_path decides which one it is."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return ".".join(_shown(part) for part in (self.schema, self.name) if part is not None)

    @property
    def known(self) -> bool:
        """Whether no part of the name is a parameter without a value."""
        return placeholder(self.name) is None and (self.schema is None or placeholder(self.schema) is None)

    def may_be(self, other: Relation) -> bool:
        """Return whether both may name one relation: a schema that is not given may be any."""
        return self.name == other.name and (self.schema == other.schema or None in (self.schema, other.schema))


class Use(enum.Enum):
    """What a query does with a relation."""

    READ = "reads"
    LOCK_ROWS = "locks rows of"
    WRITE = "writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationUse:
    """A relation in a query, with the offset of its name in characters."""

    relation: Relation
    use: Use
    offset: int


def relation_of(range_var: Tree) -> Relation:
    """Return the relation that a RangeVar names."""
    return Relation(range_var.schemaname or None, range_var.relname)


def relation_named(parts: tuple[str, ...]) -> Relation:
    """Return the relation of a dotted name; a database before the schema can only be the current one."""
    return Relation(parts[-2] if len(parts) > 1 else None, parts[-1])


def query_relations(statement: Statement) -> tuple[RelationUse, ...]:
    """Return the relations that a statement's queries use, in the order of the text.

    Those of a SELECT, INSERT, UPDATE, DELETE or MERGE, and of the query inside EXPLAIN, CREATE TABLE AS and the like;
    not the table that a DDL command is about (`locks_taken` has that).
    """
    found = uses_in(statement.node, statement)
    return tuple(sorted(found, key=lambda use: use.offset))


def uses_in(node: Tree, statement: Statement) -> Iterator[RelationUse]:
    """Yield the uses in the queries that are in a node of `statement`, in no particular order."""
    stack = [_Todo(node=unwrap(node))]
    while stack:
        todo = stack.pop()
        kind = type(todo.node).__name__
        if kind in _LEAVES:
            continue
        if kind == "RangeVar":
            yield from _range_var(todo, statement)
            continue
        stack.extend(_BELOW.get(kind, _below_any)(todo))


class _Todo(NamedTuple):
    """A node to look at: the CTEs that are visible there, and what would happen to a relation that stands there.

    `locked` are the aliases that a FOR UPDATE OF names, `use` is None where a RangeVar is not part of a query. A named
    tuple, because there is one for each node of every query.
    """

    node: Tree
    ctes: Scope = frozenset()
    use: Use | None = None
    locked: Scope = frozenset()

    def below(self, node: Tree, *, use: Use | None = None, locked: Scope = frozenset()) -> _Todo:
        return _Todo(unwrap(node), self.ctes, use, locked)


def _range_var(todo: _Todo, statement: Statement) -> Iterator[RelationUse]:
    node = todo.node
    cte = not node.schemaname and node.relname in todo.ctes
    if todo.use is None or (cte and todo.use is not Use.WRITE):
        return
    named = (node.alias.aliasname or node.relname) in todo.locked
    use = Use.LOCK_ROWS if named else todo.use
    yield RelationUse(relation=relation_of(node), use=use, offset=statement.offset(node))


def _below_any(todo: _Todo) -> Iterable[_Todo]:
    ctes = todo.ctes
    return [_Todo(child, ctes) for _, child in children(todo.node)]


def _with(todo: _Todo) -> tuple[_Todo, list[_Todo]]:
    """Return the node with its own CTEs visible, and what those CTEs are made of."""
    if not todo.node.HasField("with_clause"):
        return todo, []
    clause = todo.node.with_clause
    ctes = [unwrap(cte) for cte in clause.ctes]
    names = frozenset(cte.ctename for cte in ctes)
    visible = todo.ctes | names if clause.recursive else todo.ctes
    queries = []
    for cte in ctes:
        queries.append(_Todo(node=unwrap(cte.ctequery), ctes=visible))
        visible |= {cte.ctename}
    return _Todo(node=todo.node, ctes=visible, use=todo.use, locked=todo.locked), queries


def _below_select(outer: _Todo) -> Iterator[_Todo]:
    todo, queries = _with(outer)
    yield from queries
    clauses = [unwrap(clause) for clause in todo.node.locking_clause]
    everything = outer.use is Use.LOCK_ROWS or any(not clause.locked_rels for clause in clauses)
    locked = frozenset(unwrap(rel).relname for clause in clauses for rel in clause.locked_rels)
    for field, child in children(todo.node):
        if field == "from_clause":
            yield todo.below(child, use=Use.LOCK_ROWS if everything else Use.READ, locked=locked)
        elif field not in {"with_clause", "locking_clause", "into_clause"}:
            yield todo.below(child)


def _below_write(outer: _Todo) -> Iterator[_Todo]:
    todo, queries = _with(outer)
    yield from queries
    for field, child in children(todo.node):
        if field in {"from_clause", "using_clause", "source_relation"}:
            yield todo.below(child, use=Use.READ)
        elif field != "with_clause":
            yield todo.below(child, use=Use.WRITE if field == "relation" else None)


def _below_from_item(todo: _Todo) -> Iterator[_Todo]:
    """Joins, samples and subqueries hand on what FOR UPDATE does to them; their conditions are queries of their own."""
    for field, child in children(todo.node):
        if field in {"larg", "rarg", "relation", "subquery"}:
            named = field == "subquery" and todo.node.alias.aliasname in todo.locked
            use = Use.LOCK_ROWS if named else todo.use
            yield todo.below(child, use=use, locked=frozenset() if field == "subquery" else todo.locked)
        else:
            yield todo.below(child)


def _nothing_below(_: _Todo) -> Iterator[_Todo]:
    yield from ()


#: What most expressions are made of, and no query can be in.
_LEAVES = frozenset({"A_Const", "Alias", "ColumnRef", "Integer", "ParamRef", "String", "TypeName"})

_BELOW: dict[str, Callable[[_Todo], Iterable[_Todo]]] = {
    "SelectStmt": _below_select,
    "InsertStmt": _below_write,
    "UpdateStmt": _below_write,
    "DeleteStmt": _below_write,
    "MergeStmt": _below_write,
    "JoinExpr": _below_from_item,
    "RangeTableSample": _below_from_item,
    "RangeSubselect": _below_from_item,
    "IntoClause": _nothing_below,
    "RefreshMatViewStmt": _nothing_below,
}


def _shown(part: str) -> str:
    parameter = placeholder(part)
    if parameter is not None:
        return f':"{parameter}"'
    if _PLAIN_NAME.fullmatch(part):
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'
