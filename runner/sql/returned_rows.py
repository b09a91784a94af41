"""What a statement returns: rows, a number of rows, or neither, and how its rows are read as text.

The extension returns the rows of a worker only if the caller names their types exactly. These are found by having the
server parse the statement in another session. That fails for objects that only the worker's session knows: a temporary
table, a search_path that the step sets, a table that it has just renamed. The last statement is then rewritten: text
is the type of every column, and each value is written by its type's own output function, as it would be otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner.sql.command_objects import created_relations, is_temporary
from runner.sql.relations import Relation, query_relations
from runner.sql.statement_effects import Effect, effect
from runner.sql.statements import QUERIES, ROW_CHANGES, Statement, StatementKind, returns_rows
from runner.sql.syntax_tree import ROW_CHANGING_NODES, Tree, find, label, string_constant, strings, unwrap
from runner.structs import Struct

_K = StatementKind

_NAME = "jobplan_rows"
_VALUE = "CASE WHEN pg_catalog.num_nulls({0}) OPERATOR(pg_catalog.=) 1 THEN NULL ELSE pg_catalog.format('%s', {0}) END"
_SHOWN = re.compile(
    rf"WITH {_NAME} \([c\d, ]+\) AS MATERIALIZED \(\n|\n\) SELECT CASE WHEN pg_catalog\.num_nulls\(c1\).*"
)


class AsText(Struct, frozen=True, kw_only=True):
    """What comes before and after the statement, the names of its columns, and its own command tag."""

    before: str
    after: str
    columns: tuple[str, ...]
    tag: str


def as_text(statement: Statement) -> AsText | None:
    """Return how to write a statement so that its rows are text; None if that is not possible.

    A `*` hides the number of columns, and data-modifying WITH is only allowed at the top of a statement.
    """
    names = column_names(statement)
    writes = (node for name in ROW_CHANGING_NODES for node in find(statement.node, name))
    if names is None or any(node is not statement.node for node in writes):
        return None
    aliases = [f"c{number}" for number in range(1, len(names) + 1)]
    values = ", ".join(map(text_of, aliases))
    return AsText(
        before=f"WITH {_NAME} ({', '.join(aliases)}) AS MATERIALIZED (\n",
        after=f"\n) SELECT {values} FROM {_NAME}",  # noqa: S608 - our own names and numbers
        columns=tuple(names),
        tag=str(statement.kind),
    )


def without_rewriting(text: str) -> str:
    """Return a text without what `as_text` added around its last statement, as far as the server kept it."""
    return _SHOWN.sub("", text)


def may_change_names(statements: Sequence[Statement]) -> bool:
    """Return whether these statements may change the meaning of a later one: its tables, its columns, their types."""
    return any(
        one.kind in {_K.SET, _K.RESET} or (one.kind not in ROW_CHANGES and effect(one) is not Effect.READS)
        for one in statements
    )


def text_of(column: str) -> str:
    """Return the SQL of a column's value as text, by its type's own output function; NULL stays NULL."""
    return _VALUE.format(column)


def column_names(statement: Statement) -> list[str] | None:
    """Return the names of the columns that a statement returns; None if it returns none, or if a `*` hides them."""
    node = statement.node
    if statement.kind is _K.SELECT:
        return _of_select(node)
    if statement.kind in ROW_CHANGES and node.HasField("returning_clause"):
        return _named(node.returning_clause.exprs)
    return None


def _of_select(node: Tree) -> list[str] | None:
    while label(node, "op") != "SETOP_NONE":
        node = unwrap(node.larg)
    if node.values_lists:
        return [f"column{number}" for number, _ in enumerate(unwrap(node.values_lists[0]).items, start=1)]
    return _named(node.target_list)


def _named(targets: Sequence[Tree]) -> list[str] | None:
    nodes = [unwrap(target) for target in targets]
    if not nodes or any(_is_star(unwrap(node.val)) for node in nodes):
        return None
    return [node.name or _figured(unwrap(node.val)) or "?column?" for node in nodes]


def _is_star(value: Tree) -> bool:
    return any(unwrap(part).DESCRIPTOR.name == "A_Star" for part in _parts(value))


def _parts(value: Tree) -> Iterator[Tree]:
    fields = {"ColumnRef": "fields", "A_Indirection": "indirection"}
    yield from getattr(value, fields.get(value.DESCRIPTOR.name, ""), ())


_CONSTANT_NAMES = {
    "A_ArrayExpr": "array",
    "RowExpr": "row",
    "CoalesceExpr": "coalesce",
    "GroupingFunc": "grouping",
    "XmlSerialize": "xmlserialize",
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonObjectAgg": "json_objectagg",
    "JsonArrayAgg": "json_arrayagg",
}


def _figured(value: Tree) -> str:
    """Return the name that PostgreSQL gives to a column without one; empty where it gives none.

    Source: FigureColname in src/backend/parser/parse_target.c.
    """
    kind = value.DESCRIPTOR.name
    match kind:
        case "ColumnRef" | "A_Indirection":
            last = [unwrap(part).sval for part in _parts(value) if unwrap(part).DESCRIPTOR.name == "String"]
            name = last[-1] if last else _figured(unwrap(value.arg)) if kind == "A_Indirection" else ""
        case "FuncCall":
            name = strings(value.funcname)[-1]
        case "TypeCast":
            name = _figured(unwrap(value.arg)) or strings(value.type_name.names)[-1]
        case "CollateClause":
            name = _figured(unwrap(value.arg))
        case "CaseExpr":
            name = (_figured(unwrap(value.defresult)) if value.HasField("defresult") else "") or "case"
        case "MinMaxExpr":
            name = "greatest" if label(value, "op") == "IS_GREATEST" else "least"
        case "A_Expr":
            name = "nullif" if label(value, "kind") == "AEXPR_NULLIF" else ""
        case "SQLValueFunction":
            name = label(value, "op").removeprefix("SVFOP_").removesuffix("_N").lower()
        case "XmlExpr":
            name = label(value, "op").removeprefix("IS_").lower()
        case "SubLink":
            name = _of_sublink(value)
        case _:
            name = _CONSTANT_NAMES.get(kind, "")
    return name


def _of_sublink(value: Tree) -> str:
    match label(value, "sub_link_type"):
        case "EXISTS_SUBLINK":
            return "exists"
        case "ARRAY_SUBLINK":
            return "array"
        case "EXPR_SUBLINK":
            return (_of_select(unwrap(value.subselect)) or [""])[0]
    return ""


# Their command tags end in a number.
_COUNT = QUERIES | {
    *(_K.SELECT_INTO, _K.COPY_FROM, _K.COPY_TO, _K.FETCH, _K.MOVE, _K.EXECUTE, _K.CALL, _K.CREATE_TABLE_AS),
    *(_K.CREATE_MATERIALIZED_VIEW, _K.REFRESH_MATERIALIZED_VIEW),
}


def rows_out_of_reach(statement: Statement) -> str | None:
    """Return why the rows of the statement cannot be read, None if they can, or if it has none.

    The columns must be known before the worker starts, and those of a prepared statement or a cursor are known only in
    the session that has it.
    """
    if statement.kind in {_K.EXECUTE, _K.FETCH}:
        return f"the columns of {statement.kind} are known only while the worker runs"
    return "the query has no columns" if _has_no_columns(statement) else None


def _has_no_columns(statement: Statement) -> bool:
    """Return whether it is a SELECT without a list of columns, as in EXISTS (SELECT FROM t)."""
    node = statement.node
    if statement.kind is not _K.SELECT:
        return False
    while label(node, "op") != "SETOP_NONE":
        node = unwrap(node.larg)
    return not (node.values_lists or node.target_list)


def columns_out_of_reach(statements: Sequence[Statement]) -> str | None:
    """Return why the columns of the last statement are known only while the worker runs, None if they may be known.

    Another session cannot parse it, because it reads a temporary table that the text creates, and it does not name its
    columns, so that it cannot be rewritten to give text.
    """
    last = statements[-1]
    if not returns_rows(last) or as_text(last) is not None:
        return None
    made = temporary_relations(statements[:-1])
    found = next((use.relation for use in query_relations(last) if any(use.relation.may_be(one) for one in made)), None)
    if found is None:
        return None
    return f"the columns of the temporary table {found} are known only while the worker runs"


def temporary_relations(statements: Sequence[Statement]) -> frozenset[Relation]:
    """Return the temporary tables, views and sequences that the statements create by name."""
    return frozenset(relation for one in statements if is_temporary(one) for relation in created_relations(one))


def no_rows_to_read(statement: Statement) -> str | None:
    """Return why there is no row to check, None if there may be one; CALL may return one."""
    if statement.kind is _K.CALL or returns_rows(statement):
        return rows_out_of_reach(statement)
    return f"{_name(statement)} returns none{' without RETURNING' if statement.kind in ROW_CHANGES else ''}"


def no_row_count(statement: Statement) -> str | None:
    """Return why the number of affected rows is unknown, None if the server reports it."""
    return None if statement.kind in _COUNT else f"{_name(statement)} reports none"


def _name(statement: Statement) -> str:
    return "this statement" if statement.kind is _K.OTHER else str(statement.kind)


def names_already_quoted(statement: Statement) -> dict[str, bool]:
    """Return the columns of a query by name, and whether each is a name that has its quotes and its schema already.

    So are the text of a regclass, what quote_ident and format('%I') give, and names joined by a dot.
    """
    targets = statement.node.target_list if statement.kind is StatementKind.SELECT else ()
    found = (unwrap(target) for target in targets)
    return {target.name or _figured(unwrap(target.val)): _is_quoted(target.val) for target in found}


def _is_quoted(value: Tree) -> bool:
    node = unwrap(value)
    match node.DESCRIPTOR.name:
        case "TypeCast":
            return strings(node.type_name.names)[-1] == "regclass" or _is_quoted(node.arg)
        case "FuncCall":
            name = strings(node.funcname)[-1]
            format_ = string_constant(node.args[0]) if name == "format" and node.args else None
            return name == "quote_ident" or "%I" in (format_ or "")
        case "A_Expr" if strings(node.name) == ("||",):
            return any(string_constant(side) == "." or _is_quoted(side) for side in (node.lexpr, node.rexpr))
    return False
