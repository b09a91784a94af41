"""What PostgreSQL refuses of new columns and tables by their text alone: types, lengths, and clauses that conflict.

Sources: parse_utilcmd.c, tablecmds.c and the typmodin functions of PostgreSQL 18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, unwrap

_K = StatementKind
#: The types that an identity column can have.
_IDENTITY_TYPES = frozenset({"int2", "int4", "int8"})
#: Type → the least and the greatest length.
_LENGTHS: Mapping[str, tuple[int, int]] = {
    "varchar": (1, 10_485_760),
    "bpchar": (1, 10_485_760),
    "bit": (1, 83_886_080),
    "varbit": (1, 83_886_080),
    "numeric": (1, 1_000),
}
#: Types of PostgreSQL itself that have no order, so that no primary key or UNIQUE constraint can have them.
_UNORDERED = frozenset(
    {
        *("json", "jsonpath", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"),
        *("xid", "cid", "aclitem", "refcursor"),
    }
)
_KEYS = frozenset({"CONSTR_PRIMARY", "CONSTR_UNIQUE"})
_PRIMARY = frozenset({"CONSTR_PRIMARY", "CONSTR_NOTNULL", "CONSTR_IDENTITY"})


def refused_columns(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield what the server refuses of new columns of CREATE TABLE and ALTER TABLE, each with its offset."""
    if statement.kind not in {_K.CREATE_TABLE, _K.CREATE_FOREIGN_TABLE, _K.ALTER_TABLE}:
        return
    node = statement.node
    if statement.kind is _K.CREATE_TABLE:
        schema = node.relation.schemaname
        if node.relation.relpersistence == "t" and schema not in {"", "pg_temp"}:
            yield f"a temporary table cannot be in the schema {schema}", statement.start
    columns = list(find(node, "ColumnDef"))
    for column in columns:
        refused = _refused(column)
        if refused is not None:
            yield refused, statement.offset(column)
    types = {column.colname: _type(column) for column in columns if column.colname}
    for constraint in find(node, "Constraint"):
        if label(constraint, "contype") in _KEYS and not constraint.HasField("pktable"):
            for name in strings(constraint.keys):
                if types.get(name) in _UNORDERED:
                    yield f"the type {types[name]} of the column {name} has no order that a key needs", statement.start


def _type(column: Tree) -> str:
    """Return the type of a column without its length, empty for an array or a type that is not of PostgreSQL."""
    names = strings(column.type_name.names)
    plain = len(names) == 1 or (len(names) == 2 and names[0] == "pg_catalog")
    return names[-1] if plain and not column.type_name.array_bounds else ""


def _refused(column: Tree) -> str | None:
    """Return why a column cannot be as it is written, None if the text shows no reason."""
    kinds = {label(constraint, "contype") for constraint in map(unwrap, column.constraints)}
    named, kind = f"the column {column.colname}".rstrip(), _type(column)
    if column.type_name.setof:
        return f"{named} cannot be a set (SETOF)"
    if "CONSTR_NULL" in kinds and kinds & _PRIMARY:
        return f"{named} is declared NULL and NOT NULL"
    if "CONSTR_IDENTITY" in kinds and kind not in _IDENTITY_TYPES:
        return f"{named} is an identity column, whose type must be smallint, integer or bigint"
    if kinds & _KEYS and kind in _UNORDERED:
        return f"the type {kind} of {named} has no order that a key needs"
    limits = _LENGTHS.get(kind)
    lengths = [unwrap(one) for one in column.type_name.typmods]
    if limits is not None and lengths and lengths[0].DESCRIPTOR.name == "A_Const" and lengths[0].HasField("ival"):
        length = lengths[0].ival.ival
        if not limits[0] <= length <= limits[1]:
            return f"the length {length} of {named} must be from {limits[0]} to {limits[1]:,}"
    return None
