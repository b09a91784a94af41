"""What PostgreSQL refuses of new tables and columns by their text alone, and what only running it shows.

It refuses types, lengths and names of columns, and clauses that conflict. Sources: parse_utilcmd.c, tablecmds.c and the
typmodin functions of PostgreSQL 18.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from runner.sql.command_objects import created_schema, is_temporary
from runner.sql.relations import Relation, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, contains, find, label, strings, subcommands, unwrap

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
_KEEPS = frozenset({"ONCOMMIT_NOOP", "ON_COMMIT_ACTION_UNDEFINED"})
#: Built-in types that have a collation.
_COLLATABLE = frozenset({"text", "varchar", "bpchar", "name"})
#: Frequent built-in types of columns that are not range types.
_NO_RANGES = frozenset(
    {*_COLLATABLE, "int2", "int4", "int8", "numeric", "float4", "float8", "bool", "uuid", "jsonb"}
    | {"date", "time", "timetz", "timestamp", "timestamptz", "interval", "bytea", "inet", "cidr", "oid"}
)
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"})


# --- what is refused --------------------------------------------------------------------------------------------------


def refused_tables(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield what the server refuses of new tables, their columns and their keys, each with its offset."""
    yield from ((f"the table has {what} twice", statement.start) for what in _repeated(statement))
    for name in _unknown_key_columns(statement):
        message = f"a key names the column {Relation(None, name)}, which the new table does not have"
        yield message, statement.start
    if _has_useless_on_commit(statement):
        yield "ON COMMIT is allowed only for temporary tables", statement.start
    yield from _refused_columns(statement)
    for relation in _outside_of_schema(statement):
        yield f"CREATE SCHEMA cannot create {relation}, which is in another schema", statement.start


def _has_useless_on_commit(statement: Statement) -> bool:
    """Return whether a table has ON COMMIT but is not temporary."""
    node = statement.node
    if statement.kind is _K.CREATE_TABLE:
        action = label(node, "oncommit")
    elif statement.kind is _K.CREATE_TABLE_AS:
        action = label(node.into, "on_commit")
    else:
        return False
    return action not in _KEEPS and not is_temporary(statement)


def _refused_columns(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield what the server refuses of new columns of CREATE TABLE and ALTER TABLE, each with its offset."""
    if statement.kind not in {_K.CREATE_TABLE, _K.CREATE_FOREIGN_TABLE, _K.ALTER_TABLE}:
        return
    node = statement.node
    if statement.kind is _K.CREATE_TABLE:
        schema = node.relation.schemaname
        temporary = node.relation.relpersistence == "t"
        if temporary and schema not in {"", "pg_temp"}:
            yield f"a temporary table cannot be in the schema {schema}", statement.start
    columns = list(find(node, "ColumnDef"))
    for column in columns:
        refused = _refused(column)
        if refused is not None:
            yield refused, statement.offset(column)
    types = {column.colname: _type(column) for column in columns if column.colname}
    for constraint in find(node, "Constraint"):
        if label(constraint, "contype") in _KEYS and not constraint.HasField("pktable"):
            yield from ((message, statement.start) for message in _refused_overlaps(constraint, types))
            for name in strings(constraint.keys):
                if types.get(name) in _UNORDERED:
                    yield f"the type {types[name]} of the column {name} has no order that a key needs", statement.start


def _refused_overlaps(key: Tree, types: Mapping[str, str]) -> Iterator[str]:
    """Yield why a key cannot be WITHOUT OVERLAPS; `types` are those of new columns, without their lengths."""
    names = strings(key.keys)
    if key.without_overlaps and len(names) == 1:
        yield "a key WITHOUT OVERLAPS needs another column before the range"
    elif key.without_overlaps and types.get(names[-1]) in _NO_RANGES:
        yield f"WITHOUT OVERLAPS needs a range, and the column {names[-1]} has the type {types[names[-1]]}"


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
    return _refused_type(column, named, kind)


def _refused_type(column: Tree, named: str, kind: str) -> str | None:
    if kind in _PSEUDO_TYPES:
        return f"{named} cannot have the type {kind}"
    if column.HasField("coll_clause") and kind in _NO_RANGES - _COLLATABLE:
        return f"{named} cannot have a collation: the type {kind} has none"
    limits = _LENGTHS.get(kind)
    lengths = [unwrap(one) for one in column.type_name.typmods]
    if limits is not None and lengths and lengths[0].DESCRIPTOR.name == "A_Const" and lengths[0].HasField("ival"):
        length = lengths[0].ival.ival
        if not limits[0] <= length <= limits[1]:
            return f"the length {length} of {named} must be from {limits[0]} to {limits[1]:,}"
    return None


def _repeated(statement: Statement) -> Iterator[str]:
    """Yield what a table has or gets twice and may have once: a column of one name, a primary key."""
    names: list[str] = []
    if statement.kind is _K.ALTER_TABLE:
        added = [(one, new) for subtype, one, new in subcommands(statement.node) if subtype == "AT_AddColumn"]
        names = [column.colname for one, column in added if not one.missing_ok]
    elif statement.kind is _K.CREATE_TABLE:
        names = [one.colname for one in map(unwrap, statement.node.table_elts) if one.DESCRIPTOR.name == "ColumnDef"]
        kinds = [label(constraint, "contype") for constraint in find(statement.node, "Constraint")]
        if kinds.count("CONSTR_PRIMARY") > 1:
            yield "a primary key"
    yield from (f"the column {Relation(None, name)}" for name, number in Counter(names).items() if number > 1)


def _unknown_key_columns(statement: Statement) -> Iterator[str]:
    """Yield the columns that a key or foreign key of a new table names, and that the table does not have."""
    node = statement.node
    if statement.kind is not _K.CREATE_TABLE or node.inh_relations or node.HasField("of_typename"):
        return
    elements = list(map(unwrap, node.table_elts))
    if any(element.DESCRIPTOR.name == "TableLikeClause" for element in elements):
        return
    known = {element.colname for element in elements if element.DESCRIPTOR.name == "ColumnDef"} | _SYSTEM_COLUMNS
    for element in elements:
        if element.DESCRIPTOR.name == "Constraint":
            named = (*strings(element.keys), *strings(element.including), *strings(element.fk_attrs))
            yield from (name for name in named if name not in known)


def system_columns(statement: Statement) -> Iterator[str]:
    """Yield the columns that a statement adds with the name of a system column."""
    if statement.kind in {_K.CREATE_TABLE, _K.ALTER_TABLE}:
        yield from (one.colname for one in find(statement.node, "ColumnDef") if one.colname in _SYSTEM_COLUMNS)
    elif statement.kind is _K.RENAME and label(statement.node, "rename_type") == "OBJECT_COLUMN":
        yield from {statement.node.newname} & _SYSTEM_COLUMNS


def _outside_of_schema(statement: Statement) -> Iterator[Relation]:
    """Yield the relations in CREATE SCHEMA that are in another schema than the one that it creates."""
    schema = created_schema(statement)
    for element in map(unwrap, statement.node.schema_elts) if schema is not None else ():
        for field in ("relation", "view", "sequence"):
            if field in element.DESCRIPTOR.fields_by_name and element.HasField(field):
                named = relation_of(getattr(element, field))
                if named.schema not in {None, schema}:
                    yield named


# --- what only running it shows ---------------------------------------------------------------------------------------

#: Parts of a new table that only the server can check; a key's columns are in the table itself.
_COMPUTED = frozenset(
    {
        *("CONSTR_DEFAULT", "CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_GENERATED", "CONSTR_EXCLUSION"),
        *("CONSTR_IDENTITY", "CONSTR_ATTR_NOT_ENFORCED", "CONSTR_ATTR_DEFERRABLE", "CONSTR_ATTR_DEFERRED"),
    }
)
#: Types that no column can have, in some versions or in all.
_PSEUDO_TYPES = frozenset(
    {
        *("unknown", "record", "cstring", "void", "trigger", "event_trigger", "any", "anyelement", "anyarray"),
        *("anyenum", "anyrange", "anycompatible", "internal", "language_handler", "fdw_handler", "pg_ddl_command"),
    }
)


def is_computed(statement: Statement) -> bool:
    """Return whether it is a CREATE TABLE with more than columns and keys: defaults, checks, parents, a bound …."""
    if statement.kind is not _K.CREATE_TABLE:
        return False
    node = statement.node
    if node.inh_relations or node.HasField("partspec") or node.HasField("of_typename"):
        return True
    if any(unwrap(element).DESCRIPTOR.name == "TableLikeClause" for element in node.table_elts):
        return True
    if contains(node, "CollateClause"):
        return True
    for column in find(node, "ColumnDef"):
        types = strings(column.type_name.names)
        if column.storage_name or column.compression or (types and types[-1] in _PSEUDO_TYPES):
            return True
    return any(label(constraint, "contype") in _COMPUTED for constraint in find(node, "Constraint"))


def computes(statement: Statement) -> bool:
    """Return whether an ALTER TABLE has a default that may not fit, or a key that refers to another table.

    A default fits for sure if it is a constant that every value of the column's type can be: a number of a number.
    """
    if statement.kind is not _K.ALTER_TABLE:
        return False
    constraints = find(statement.node, "Constraint")
    if any(label(one, "contype") in _COMPUTED - {"CONSTR_IDENTITY", "CONSTR_DEFAULT"} for one in constraints):
        return True
    for column in find(statement.node, "ColumnDef"):
        types = strings(column.type_name.names)
        for constraint in map(unwrap, column.constraints):
            if label(constraint, "contype") == "CONSTR_DEFAULT" and not _fits(unwrap(constraint.raw_expr), types):
                return True
    return any(
        subtype == "AT_ColumnDefault" and command.HasField("def") and not _fits(default, ())
        for subtype, command, default in subcommands(statement.node)
    )


_WHOLE = frozenset({"int4", "int8"})
_NUMBERS = _WHOLE | {"numeric", "float4", "float8", "text"}
_MAX_INT2 = 32_767


def _fits(node: Tree, types: tuple[str, ...]) -> bool:
    """Return whether a default is a constant that the type takes for sure; a text may be too long, or no date."""
    if node.DESCRIPTOR.name != "A_Const":
        return False
    kind = types[-1] if types else ""
    if node.isnull:
        return True
    if node.HasField("sval"):
        return kind == "text"
    if node.HasField("boolval"):
        return kind in {"bool", "text"}
    if node.HasField("ival"):
        return kind in _NUMBERS or (kind == "int2" and node.ival.ival <= _MAX_INT2)
    return kind in _NUMBERS - _WHOLE
