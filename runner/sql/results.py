"""What a statement returns that a plan can check: rows, a number of rows, or neither."""

from __future__ import annotations

from collections.abc import Sequence

from runner.sql.astext import as_text
from runner.sql.details import is_temporary
from runner.sql.facts import created_relations
from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, strings, unwrap
from runner.sql.parse import Statement, returns_rows
from runner.sql.relations import Relation, query_relations

_K = StatementKind

# Their command tags end in a number.
_COUNT = frozenset(
    {
        *(_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.COPY_FROM, _K.COPY_TO),
        *(_K.FETCH, _K.MOVE, _K.EXECUTE, _K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW),
        *(_K.REFRESH_MATERIALIZED_VIEW, _K.CALL),
    }
)
_RETURNING = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE})
_OF_SESSION = frozenset({_K.EXECUTE, _K.FETCH})


def rows_out_of_reach(statement: Statement) -> str | None:
    """Return why the rows of the statement cannot be read, None if they can, or if it has none.

    The columns must be known before the worker starts, and those of a prepared statement or a cursor are known only in
    the session that has it.
    """
    if statement.kind in _OF_SESSION:
        return f"the columns of {statement.kind} are known only while the worker runs"
    return None


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
    name = "this statement" if statement.kind is _K.OTHER else str(statement.kind)
    if statement.kind is _K.CALL or returns_rows(statement):
        return rows_out_of_reach(statement)
    return f"{name} returns none without RETURNING" if statement.kind in _RETURNING else f"{name} returns none"


def no_row_count(statement: Statement) -> str | None:
    """Return why the number of affected rows is unknown, None if the server reports it."""
    if statement.kind in _COUNT:
        return None
    name = "this statement" if statement.kind is _K.OTHER else str(statement.kind)
    return f"{name} reports none"


def names_already_quoted(statement: Statement) -> dict[str, bool]:
    """Return the columns of a query by name, and whether each is a name that has its quotes and its schema already.

    So are the text of a regclass, what quote_ident and format('%I') give, and names joined by a dot.
    """
    targets = statement.node.target_list if statement.kind is StatementKind.SELECT else ()
    found = (unwrap(target) for target in targets)
    return {target.name or _own_name(target.val): _is_quoted(target.val) for target in found}


def _own_name(value: Tree) -> str:
    node = unwrap(value)
    match node.DESCRIPTOR.name:
        case "TypeCast":
            inner = _own_name(node.arg)
            return inner or strings(node.type_name.names)[-1]
        case "ColumnRef":
            return next((part.sval for part in map(unwrap, reversed(node.fields)) if hasattr(part, "sval")), "")
        case "FuncCall":
            return strings(node.funcname)[-1]
    return ""


def _is_quoted(value: Tree) -> bool:
    node = unwrap(value)
    match node.DESCRIPTOR.name:
        case "TypeCast":
            return strings(node.type_name.names)[-1] == "regclass" or _is_quoted(node.arg)
        case "FuncCall":
            name = strings(node.funcname)[-1]
            formats = name == "format" and "%I" in _text(node.args[0]) if node.args else False
            return name == "quote_ident" or formats
        case "A_Expr" if strings(node.name) == ("||",):
            return (
                _text(node.lexpr) == "." or _text(node.rexpr) == "." or _is_quoted(node.lexpr) or _is_quoted(node.rexpr)
            )
    return False


def _text(value: Tree) -> str:
    node = unwrap(value)
    return str(node.sval.sval) if node.DESCRIPTOR.name == "A_Const" else ""
