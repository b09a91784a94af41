"""The settings that a statement makes for those after it: SET, RESET, SET ROLE, and set_config with constants.

Sources: the pages of SET, RESET and SET ROLE in the PostgreSQL documentation.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, find, label, strings, unwrap
from runner.sql.params import quote_identifier
from runner.sql.parse import Statement
from runner.sql.session import LISTS

_K = StatementKind

#: The name that stands for every setting but the role.
ALL = "all"


def assigned(statement: Statement) -> tuple[tuple[str, str | None], ...]:
    """Return names and values in the order in which they are set; None restores the value from before the text.

    RESET ALL has the name ALL. Settings with a value that only the server can compute are left out.
    """
    node = statement.node
    match statement.kind:
        case _K.SET | _K.RESET if node.DESCRIPTOR.name == "VariableSetStmt":
            return tuple(_set(node))
        case _K.SELECT:
            return tuple(_by_function(node))
    return ()


def settings_after(
    before: tuple[tuple[str, str], ...], assignments: tuple[tuple[str, str | None], ...]
) -> tuple[tuple[str, str], ...]:
    """Return the settings after these assignments, by name, if those before were `before`."""
    found: dict[str, str] = dict(before)
    for name, value in assignments:
        if name == ALL:
            found = {kept: found[kept] for kept in found if kept == "role"}
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return tuple(found.items())


def computed_after(before: frozenset[str], statement: Statement) -> frozenset[str]:
    """Return the settings whose value is known only when the text runs, after this statement.

    These are settings that `set_config` gives the value of an expression, in a query of any kind. If the name itself is
    an expression, it may be any, and all that names depend on counts.
    """
    plain = statement.kind is _K.SELECT
    known = {name for name, _ in assigned(statement)}
    if ALL in known:
        return before & {"role"}
    found: set[str] = set()
    for call in find(statement.node, "FuncCall") if statement.kind in _WITH_CALLS else ():
        if strings(call.funcname)[-1] == "set_config":
            name, value = [*map(_constant, list(call.args)[:2]), None, None][:2]
            if name is None:
                found |= _NAMING
            elif value is None or not plain:
                found.add(name.lower())
    return before - known | found


#: On these it depends what a name in a statement means.
_NAMING = frozenset({"search_path", "role"})
_WITH_CALLS = frozenset({_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS})


def _set(node: Tree) -> Iterator[tuple[str, str | None]]:
    name = node.name.lower()
    match label(node, "kind"):
        case "VAR_SET_VALUE":
            values = [_constant(argument) for argument in node.args]
            if values and None not in values:
                shown = [value for value in values if value is not None]
                yield name, ", ".join(map(quote_identifier, shown) if name in LISTS else shown)
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            yield name, None
        case "VAR_RESET_ALL":
            yield ALL, None


def _by_function(node: Tree) -> Iterator[tuple[str, str | None]]:
    for call in find(node, "FuncCall"):
        if strings(call.funcname) in {("set_config",), ("pg_catalog", "set_config")}:
            name, value = [*map(_constant, list(call.args)[:2]), None, None][:2]
            if name is not None and value is not None:
                yield name.lower(), value


def _constant(wrapped: Tree) -> str | None:
    """Return the text of a constant, None for anything else."""
    node = unwrap(wrapped)
    if node.DESCRIPTOR.name != "A_Const" or node.isnull:
        return None
    if node.HasField("sval"):
        text: str = node.sval.sval
        return text
    if node.HasField("boolval"):
        return "on" if node.boolval.boolval else "off"
    return next((str(getattr(getattr(node, field), field)) for field in ("ival", "fval") if node.HasField(field)), None)
