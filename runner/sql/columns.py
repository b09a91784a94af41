"""The columns that a query names, and whether a name can be of one relation only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, find, label, strings, unwrap, walk
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of
from runner.sql.tokens import ScanError, TokenKind, tokenize

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnUse:
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
    relations = _relations(node)
    plain = not any(next(find(node, name), None) is not None for name in _OTHER_SOURCES)
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
    for inner in walk(node):
        name = inner.DESCRIPTOR.name
        if name == "InsertStmt":
            columns = inner.cols
        elif name == "UpdateStmt":
            columns = inner.target_list
        else:
            continue
        relation = relation_of(inner.relation)
        for column in map(unwrap, columns):
            if column.name:
                yield ColumnUse(relation=relation, name=column.name, offset=statement.offset(column), alone=False)


def _relations(node: Tree) -> list[tuple[str, Relation]]:
    """Return the relations of all levels of a query, with the names by which columns are qualified."""
    return [(found.alias.aliasname or found.relname, relation_of(found)) for found in find(node, "RangeVar")]


def has_star(statement: Statement) -> bool:
    """Return whether a query takes all columns of something: `*`, `t.*`."""
    return next(find(statement.node, "A_Star"), None) is not None


def inserts_by_position(statement: Statement) -> bool:
    """Return whether it is an INSERT without a list of columns."""
    return statement.kind is _K.INSERT and not statement.node.cols


def conflict_columns(statement: Statement) -> tuple[frozenset[str], str] | None:
    """Return the columns of ON CONFLICT (…) and the constraint of ON CONFLICT ON CONSTRAINT, None without either.

    An expression or a predicate gives no columns: only the server knows which index it means.
    """
    if statement.kind is not _K.INSERT or not statement.node.HasField("on_conflict_clause"):
        return None
    clause = statement.node.on_conflict_clause
    if not clause.HasField("infer"):
        return None
    infer = clause.infer
    if infer.conname:
        return frozenset(), infer.conname
    elements = [unwrap(element) for element in infer.index_elems]
    if infer.HasField("where_clause") or not all(element.name for element in elements):
        return None
    return frozenset(element.name for element in elements), ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultConstant:
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
            if constraint.HasField("raw_expr") and kind:
                for value in _constant(constraint.raw_expr):
                    yield DefaultConstant(value=value, offset=statement.offset(constraint), type=kind[-1])
    if node.DESCRIPTOR.name == "AlterTableStmt":
        for command in map(unwrap, node.cmds):
            if label(command, "subtype") == "AT_ColumnDefault":
                for value in _constant(getattr(command, "def")):
                    relation = relation_of(node.relation)
                    yield DefaultConstant(value=value, offset=statement.start, relation=relation, column=command.name)


def _constant(wrapped: Tree) -> Iterator[str]:
    node = unwrap(wrapped)
    if node.DESCRIPTOR.name == "TypeCast":
        node = unwrap(node.arg)
    if node.DESCRIPTOR.name == "A_Const" and node.HasField("sval"):
        yield node.sval.sval


_SEQUENCE_FUNCTIONS = frozenset({"nextval", "setval", "currval"})
_PLAIN_NAME = re.compile(r"(?:([a-z_][a-z0-9_]*)\.)?([a-z_][a-z0-9_]*)")


def regclass_constants(statement: Statement) -> Iterator[tuple[Relation, int]]:
    """Yield the relations that a query names as text: `nextval('s')`, `'t'::regclass`. Quoted names are left out."""
    node = statement.node
    found = [call.args[0] for call in find(node, "FuncCall") if _is_sequence_call(call)]
    found += [cast.arg for cast in find(node, "TypeCast") if strings(cast.type_name.names)[-1:] == ("regclass",)]
    for wrapped in found:
        for text in _constant(wrapped):
            match = _PLAIN_NAME.fullmatch(text)
            if match is not None:
                yield Relation(match[1], match[2]), statement.start


def _is_sequence_call(call: Tree) -> bool:
    return bool(call.args) and strings(call.funcname)[-1] in _SEQUENCE_FUNCTIONS


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
            found.add(token.text[1:-1].replace('""', '"'))
        elif token.kind is TokenKind.STRING:
            text = token.text.strip("'").replace("''", "'")
            found |= {text, *text.replace('"', "").split(".")}
    return frozenset(found)
