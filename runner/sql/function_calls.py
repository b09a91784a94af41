"""The functions that a statement calls by name, the `$1` in it, and what in it acts on the whole server."""

from __future__ import annotations

from collections.abc import Iterator

from runner.sql.builtin_functions import SERVER_WIDE
from runner.sql.command_options import enabled
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings
from runner.structs import Struct

_K = StatementKind


class FunctionCall(Struct, frozen=True, kw_only=True):
    """A function that a statement calls by name; `schema` is None if the search_path decides."""

    schema: str | None
    name: str
    offset: int


def functions_called(statement: Statement) -> tuple[FunctionCall, ...]:
    """Return the functions that are called by name, procedures included; not operators, nor what a DO body calls."""
    return tuple(function_call(statement, node) for node in find(statement.node, "FuncCall"))


def function_call(statement: Statement, node: Tree) -> FunctionCall:
    """Return the call that a FuncCall node of the statement is."""
    *schema, name = strings(node.funcname)
    return FunctionCall(schema=schema[-1] if schema else None, name=name, offset=statement.offset(node))


def parameter_symbols(statement: Statement) -> Iterator[tuple[int, int]]:
    """Yield the number and the offset of every `$n`, which has no value in a worker.

    Not where one is meant: in PREPARE, a function's body and EXPLAIN (GENERIC_PLAN).
    """
    generic = statement.kind is _K.EXPLAIN and enabled(statement, "generic_plan")
    if statement.kind not in {_K.PREPARE, _K.CREATE_FUNCTION} and not generic:
        yield from ((node.number, statement.offset(node)) for node in find(statement.node, "ParamRef"))


#: Commands about the whole server: roles, databases, tablespaces and its settings.
SERVER_WIDE_COMMANDS = frozenset(
    {
        *(_K.ALTER_SYSTEM, _K.CHECKPOINT, _K.CREATE_ROLE, _K.ALTER_ROLE, _K.DROP_ROLE, _K.GRANT_ROLE),
        *(_K.CREATE_DATABASE, _K.ALTER_DATABASE, _K.DROP_DATABASE),
        *(_K.CREATE_TABLESPACE, _K.ALTER_TABLESPACE, _K.DROP_TABLESPACE),
    }
)
_SHARED_OBJECTS = frozenset({"OBJECT_DATABASE", "OBJECT_ROLE", "OBJECT_TABLESPACE", "OBJECT_PARAMETER_ACL"})


def server_wide(statement: Statement) -> str | None:
    """Return the command or function by which the statement reaches beyond its database, None if it does not."""
    known = statement.node.DESCRIPTOR.fields_by_name
    types = (label(statement.node, field) for field in ("objtype", "rename_type", "object_type") if field in known)
    if statement.kind in SERVER_WIDE_COMMANDS or not _SHARED_OBJECTS.isdisjoint(types):
        return str(statement.kind)
    return next((f"{call.name}()" for call in functions_called(statement) if call.name in SERVER_WIDE), None)
