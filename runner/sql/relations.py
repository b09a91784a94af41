"""The relations and columns that a query uses: tables and views that it reads, locks rows of, or writes.

CTEs, aliases and functions are no relations. A command such as CREATE VIEW, CREATE TABLE AS or COPY (query) TO holds a
query, which is analyzed in the same way.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from runner.sql.qualified_names import in_double_quotes, without_double_quotes
from runner.sql.statements import Statement, StatementKind, placeholder
from runner.sql.syntax_tree import (
    Tree,
    children,
    contains,
    find,
    label,
    string_constant,
    strings,
    subcommands,
    unwrap,
    walk,
)
from runner.sql.tokens import COMMENTS, ScanError, Token, TokenKind, tokenize
from runner.structs import Struct

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*")

Scope = frozenset[str]


class Relation(Struct, frozen=True, order=True):
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


class RelationUse(Struct, frozen=True, kw_only=True):
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


#: What most expressions are made of, and no query can be in.
_LEAVES = frozenset({"A_Const", "Alias", "ColumnRef", "Integer", "ParamRef", "String", "TypeName"}) | {
    *("IntoClause", "RefreshMatViewStmt"),  # they name a relation that no query uses
}

_BELOW: dict[str, Callable[[_Todo], Iterable[_Todo]]] = {
    "SelectStmt": _below_select,
    "InsertStmt": _below_write,
    "UpdateStmt": _below_write,
    "DeleteStmt": _below_write,
    "MergeStmt": _below_write,
    "JoinExpr": _below_from_item,
    "RangeTableSample": _below_from_item,
    "RangeSubselect": _below_from_item,
}


def _shown(part: str) -> str:
    parameter = placeholder(part)
    if parameter is not None:
        return f':"{parameter}"'
    if _PLAIN_NAME.fullmatch(part):
        return part
    return in_double_quotes(part)


_K = StatementKind


class ColumnUse(Struct, frozen=True, kw_only=True):
    """A column that a query takes from this relation; `alone`: only the query's relations can have the name."""

    relation: Relation
    name: str
    offset: int
    alone: bool


def column_uses(statement: Statement) -> Iterator[ColumnUse]:
    """Yield the columns of a query by the relations that they can be of.

    The target columns of INSERT and UPDATE, and qualified names, are of one relation. Of a name without a qualifier
    every relation of the query is yielded with `alone`, if the query has nothing but relations that could have it.
    """
    node = statement.node
    yield from _targets(node, statement)
    relations = [(one.alias.aliasname or one.relname, relation_of(one)) for one in find(node, "RangeVar")]
    plain = not contains(node, *_OTHER_SOURCES)
    outputs = {target.name for target in find(node, "ResTarget") if target.name}
    for reference in find(node, "ColumnRef"):
        fields = [unwrap(field) for field in reference.fields]
        names = [field.sval for field in fields if field.DESCRIPTOR.name == "String"]
        if len(names) != len(fields):
            continue
        offset = statement.offset(reference)
        if len(names) == 2:
            found = {relation for alias, relation in relations if alias == names[0]}
            for relation in found if len(found) == 1 else ():
                yield ColumnUse(relation=relation, name=names[1], offset=offset, alone=False)
        elif len(names) == 1 and plain and names[0] not in outputs:
            for _, relation in relations:
                yield ColumnUse(relation=relation, name=names[0], offset=offset, alone=True)


#: Nodes in FROM that have columns and are not relations.
_OTHER_SOURCES = ("RangeSubselect", "RangeFunction", "CommonTableExpr", "RangeTableFunc", "JsonTable", "SubLink")


def _targets(node: Tree, statement: Statement) -> Iterator[ColumnUse]:
    fields = {"InsertStmt": "cols", "UpdateStmt": "target_list"}
    for inner in walk(node):
        for column in map(unwrap, getattr(inner, fields.get(inner.DESCRIPTOR.name, ""), ())):
            if column.name:
                relation, offset = relation_of(inner.relation), statement.offset(column)
                yield ColumnUse(relation=relation, name=column.name, offset=offset, alone=False)


def databases(statement: Statement) -> Iterator[tuple[str, Relation, int]]:
    """Yield the databases that relations are named with (`db.schema.table`), each with the relation and its offset."""
    for node in find(statement.node, "RangeVar"):
        if node.catalogname:
            yield node.catalogname, relation_of(node), statement.offset(node)
    if statement.node.DESCRIPTOR.name == "DropStmt" and label(statement.node, "remove_type") in _THREE_PARTS:
        names = (strings(unwrap(dropped).items) for dropped in statement.node.objects)
        yield from ((parts[0], relation_named(parts), statement.start) for parts in names if len(parts) == 3)


_THREE_PARTS = frozenset({"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_INDEX", "OBJECT_MATVIEW", "OBJECT_SEQUENCE"})


def has_star(statement: Statement) -> bool:
    """Return whether a query takes all columns of something: `*`, `t.*`."""
    return contains(statement.node, "A_Star")


def selects_fields(statement: Statement) -> bool:
    """Return whether it names fields of rows that are values: `(c).x`, `SET c.x = 1`, columns of a function in FROM."""
    node = statement.node
    indirect = (one.indirection for name in ("A_Indirection", "ResTarget") for one in find(node, name))
    of_rows = (unwrap(item).DESCRIPTOR.name == "String" for each in indirect for item in each)
    return contains(node, "RangeFunction") or any(of_rows)


def inserts_by_position(statement: Statement) -> bool:
    """Return whether it is an INSERT without a list of columns."""
    return statement.kind is _K.INSERT and not statement.node.cols


def conflict_columns(statement: Statement) -> tuple[frozenset[str], str] | None:
    """Return the columns of ON CONFLICT (…) and the constraint of ON CONFLICT ON CONSTRAINT, None without either.

    An expression or a predicate gives no columns: only the server knows which index it means.
    """
    if statement.kind is not _K.INSERT or not statement.node.on_conflict_clause.HasField("infer"):
        return None
    infer = statement.node.on_conflict_clause.infer
    if infer.conname:
        return frozenset(), infer.conname
    elements = [unwrap(element) for element in infer.index_elems]
    if infer.HasField("where_clause") or not all(element.name for element in elements):
        return None
    return frozenset(element.name for element in elements), ""


class DefaultConstant(Struct, frozen=True, kw_only=True):
    """A string constant that is the default of a column: of a new one of the type `type`, or of `column`."""

    value: str
    offset: int
    type: str = ""
    relation: Relation | None = None
    column: str = ""


def default_constants(statement: Statement) -> Iterator[DefaultConstant]:
    """Yield the string constants that CREATE TABLE and ALTER TABLE make the defaults of columns."""
    node = statement.node
    for column in find(node, "ColumnDef"):
        kind = strings(column.type_name.names)
        for constraint in map(unwrap, column.constraints):
            value = _constant(constraint.raw_expr)
            if value is not None and kind:
                yield DefaultConstant(value=value, offset=statement.offset(constraint), type=kind[-1])
    for subtype, command, default in subcommands(node):
        value = _constant(default)
        if value is not None and subtype == "AT_ColumnDefault":
            relation = relation_of(node.relation)
            yield DefaultConstant(value=value, offset=statement.start, relation=relation, column=command.name)


def _constant(wrapped: Tree) -> str | None:
    """Return the value of a string constant, also of one that is cast."""
    node = unwrap(wrapped)
    return string_constant(node.arg if node.DESCRIPTOR.name == "TypeCast" else node)


_SEQUENCE_FUNCTIONS = frozenset({"nextval", "setval", "currval"})
_PLAIN_WORD = re.compile(r"(?:([a-z_][a-z0-9_]*)\.)?([a-z_][a-z0-9_]*)")


def regclass_constants(statement: Statement) -> Iterator[tuple[Relation, int]]:
    """Yield the relations that a query names as text: `nextval('s')`, `'t'::regclass`. Quoted names are left out."""
    node = statement.node
    calls = (call for call in find(node, "FuncCall") if strings(call.funcname)[-1] in _SEQUENCE_FUNCTIONS)
    found = [call.args[0] for call in calls if call.args]
    found += [cast.arg for cast in find(node, "TypeCast") if strings(cast.type_name.names)[-1:] == ("regclass",)]
    for match in map(_PLAIN_WORD.fullmatch, filter(None, map(_constant, found))):
        if match is not None:
            yield Relation(match[1], match[2]), statement.start


@lru_cache(maxsize=256)
def words(sql: str) -> frozenset[str]:
    """Return the names, keywords and string constants of a text, names as PostgreSQL folds them."""
    try:
        tokens = list(tokenize(sql))
    except ScanError:
        return frozenset()
    found = set()
    for token in tokens:
        if token.kind is TokenKind.WORD:
            found.add(token.text.lower())
        elif token.kind is TokenKind.QUOTED_IDENTIFIER:
            found.add(without_double_quotes(token.text))
        elif token.kind is TokenKind.STRING:
            text = token.text.strip("'").replace("''", "'")
            found |= {text, *text.replace('"', "").split(".")}
    return frozenset(found)


def inner_query(statement: Statement, sql: str) -> tuple[int, str] | None:
    """Return the query's offset in the statement's own text `sql`, and the query; None if there is none to explain.

    The query of a recursive view names the view, and cannot be explained before the view exists.
    """
    try:
        tokens = [token for token in tokenize(sql) if token.kind not in COMMENTS]
    except ScanError:
        return None
    match statement.kind:
        case _K.CREATE_VIEW if "recursive" not in {token.text.lower() for token in tokens[:4]}:
            return _of_view(tokens, sql)
        case _K.CREATE_TABLE_AS | _K.CREATE_MATERIALIZED_VIEW:
            found = _of_view(tokens, sql)
            return found if found is not None and found[1][:7].lower() != "execute" else None
        case _K.COPY_TO | _K.COPY_FROM if statement.node.HasField("query"):
            return _in_brackets(tokens, sql)
    return None


def _of_view(tokens: Sequence[Token], sql: str) -> tuple[int, str] | None:
    """It begins behind the first AS outside of brackets, and ends before WITH … CHECK OPTION or WITH … DATA."""
    depth = 0
    for number, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.kind is TokenKind.WORD and token.text.lower() == "as":
            rest = tokens[number + 1 :]
            last = [one.text.lower() for one in rest[-4:]]
            if last[-2:] == ["check", "option"]:
                rest = rest[: -4 if last[0] == "with" and last[1] in {"local", "cascaded"} else -3]
            elif last[-1:] == ["data"] and "with" in last[-3:-1]:
                rest = rest[: -2 if last[-2] == "with" else -3]
            return (rest[0].start, sql[rest[0].start : rest[-1].end]) if rest else None
    return None


def _in_brackets(tokens: Sequence[Token], sql: str) -> tuple[int, str] | None:
    depth, begin = 0, -1
    for token in tokens:
        if token.text == "(" and depth == 0:
            begin = token.end
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == ")" and depth == 0 and begin >= 0:
            return begin, sql[begin : token.start]
    return None
