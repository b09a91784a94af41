"""Facts about one statement: options, filters, guards, settings, functions, and the details that decide its cost.

Options are those in parentheses or as bare words: `VACUUM (FULL)`, `REINDEX … CONCURRENTLY`. Details are ONLY, NOWAIT,
TEMPORARY, WITH NO DATA, a domain's constraint and the like.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

from runner.sql.builtin_functions import SERVER_WIDE
from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, unwrap, walk
from runner.structs import Struct

_K = StatementKind

# The field of the tree with the RangeVar that marks TEMPORARY.
_PERSISTENCE = {
    _K.CREATE_TABLE: ("relation",),
    _K.CREATE_TABLE_AS: ("into", "rel"),
    _K.SELECT_INTO: ("into_clause", "rel"),
    _K.CREATE_SEQUENCE: ("sequence",),
    _K.CREATE_VIEW: ("view",),
}
_HAVE_RELATION = frozenset(
    {
        *(_K.ALTER_TABLE, _K.ALTER_INDEX, _K.ALTER_VIEW, _K.ALTER_MATERIALIZED_VIEW, _K.ALTER_FOREIGN_TABLE),
        *(_K.CREATE_INDEX, _K.CLUSTER, _K.REINDEX, _K.REFRESH_MATERIALIZED_VIEW, _K.COPY_FROM),
    }
)


def main_relation(statement: Statement) -> Relation | None:
    """Return the relation that an ALTER, CREATE INDEX, CLUSTER, REINDEX, REFRESH or COPY FROM changes."""
    if statement.kind not in _HAVE_RELATION or not statement.node.HasField("relation"):
        return None
    return relation_of(statement.node.relation)


def vacuumed_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables that VACUUM or ANALYZE names; none means all of the database."""
    if statement.kind not in {_K.VACUUM, _K.ANALYZE}:
        return ()
    return tuple(relation_of(unwrap(item).relation) for item in statement.node.rels)


def is_temporary(statement: Statement) -> bool:
    """Return whether what the statement creates ends with its session, as a worker's does with its text."""
    node = statement.node
    for name in _PERSISTENCE.get(statement.kind, ()):
        node = getattr(node, name)
    return statement.kind in _PERSISTENCE and (node.relpersistence == "t" or node.schemaname == "pg_temp")


def created_schema(statement: Statement) -> str | None:
    """Return the schema that the statement creates; None if it gets its owner's name."""
    return statement.node.schemaname or None if statement.kind is _K.CREATE_SCHEMA else None


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
    if next(find(node, "CollateClause"), None) is not None:
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
    for constraint in find(statement.node, "Constraint"):
        if label(constraint, "contype") in _COMPUTED - {"CONSTR_IDENTITY", "CONSTR_DEFAULT"}:
            return True
    for column in find(statement.node, "ColumnDef"):
        types = strings(column.type_name.names)
        for constraint in map(unwrap, column.constraints):
            if label(constraint, "contype") == "CONSTR_DEFAULT" and not _fits(unwrap(constraint.raw_expr), types):
                return True
    defaults = (
        command for command in map(unwrap, statement.node.cmds) if label(command, "subtype") == "AT_ColumnDefault"
    )
    given = (unwrap(getattr(command, "def")) for command in defaults if command.HasField("def"))
    return not all(_fits(one, ()) for one in given)


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


def repeated_parts(statement: Statement) -> Iterator[str]:
    """Yield what a table has or gets twice and may have once: a column of one name, a primary key."""
    if statement.kind is _K.ALTER_TABLE:
        added = [one for one in map(unwrap, statement.node.cmds) if label(one, "subtype") == "AT_AddColumn"]
        names = Counter(unwrap(getattr(one, "def")).colname for one in added if not one.missing_ok)
        yield from (f"the column {Relation(None, name)}" for name, number in names.items() if number > 1)
    if statement.kind is not _K.CREATE_TABLE:
        return
    columns = [one for one in map(unwrap, statement.node.table_elts) if one.DESCRIPTOR.name == "ColumnDef"]
    counted = Counter(column.colname for column in columns)
    yield from (f"the column {Relation(None, name)}" for name, number in counted.items() if number > 1)
    kinds = [label(constraint, "contype") for constraint in find(statement.node, "Constraint")]
    if kinds.count("CONSTR_PRIMARY") > 1:
        yield "a primary key"


def unknown_key_columns(statement: Statement) -> Iterator[str]:
    """Yield the columns that a key or foreign key of a new table names, and that the table does not have."""
    node = statement.node
    if statement.kind is not _K.CREATE_TABLE or node.inh_relations or node.HasField("of_typename"):
        return
    elements = list(map(unwrap, node.table_elts))
    if any(element.DESCRIPTOR.name == "TableLikeClause" for element in elements):
        return
    known = {element.colname for element in elements if element.DESCRIPTOR.name == "ColumnDef"}
    for element in elements:
        if element.DESCRIPTOR.name == "Constraint":
            named = (*strings(element.keys), *strings(element.including), *strings(element.fk_attrs))
            yield from (name for name in named if name not in known and name not in _SYSTEM_COLUMNS)


_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"})


def system_columns(statement: Statement) -> Iterator[str]:
    """Yield the columns that a statement adds with the name of a system column."""
    if statement.kind in {_K.CREATE_TABLE, _K.ALTER_TABLE}:
        yield from (one.colname for one in find(statement.node, "ColumnDef") if one.colname in _SYSTEM_COLUMNS)
    elif statement.kind is _K.RENAME and label(statement.node, "rename_type") == "OBJECT_COLUMN":
        yield from {statement.node.newname} & _SYSTEM_COLUMNS


def strangers(statement: Statement) -> Iterator[Relation]:
    """Yield the relations in CREATE SCHEMA that are in another schema than the one that it creates."""
    schema = created_schema(statement)
    for element in map(unwrap, statement.node.schema_elts) if schema is not None else ():
        for field in ("relation", "view", "sequence"):
            if field in element.DESCRIPTOR.fields_by_name and element.HasField(field):
                named = relation_of(getattr(element, field))
                if named.schema not in {None, schema}:
                    yield named


def role_for_file(statement: Statement) -> str | None:
    """Return PostgreSQL's role that may use the file or program of a COPY, None without one."""
    if statement.kind not in {_K.COPY_FROM, _K.COPY_TO} or not statement.node.filename:
        return None
    if statement.node.is_program:
        return "pg_execute_server_program"
    return "pg_read_server_files" if statement.kind is _K.COPY_FROM else "pg_write_server_files"


def leaves_out_partitions(statement: Statement) -> bool:
    """Return whether it is `CREATE INDEX … ON ONLY`, which on a partitioned table builds nothing."""
    return statement.kind is _K.CREATE_INDEX and not statement.node.relation.inh


def never_waits(statement: Statement) -> bool:
    """Return whether it is `LOCK … NOWAIT`."""
    return statement.kind is _K.LOCK and bool(statement.node.nowait)


def leaves_out_data(statement: Statement) -> bool:
    """Return whether it is `REFRESH MATERIALIZED VIEW … WITH NO DATA`."""
    return statement.kind is _K.REFRESH_MATERIALIZED_VIEW and bool(statement.node.skip_data)


def holds_its_rows(statement: Statement) -> bool:
    """Return whether it is an INSERT with the rows in its text: VALUES or DEFAULT VALUES, no query."""
    if statement.kind is not _K.INSERT:
        return False
    if not statement.node.HasField("select_stmt"):
        return True
    return bool(unwrap(statement.node.select_stmt).values_lists)


def moved_tablespace(statement: Statement) -> str | None:
    """Return the tablespace whose tables or views `ALTER … ALL IN TABLESPACE` moves, None for other statements."""
    return str(statement.node.orig_tablespacename) if statement.kind is _K.MOVE_ALL else None


def checked_domain(statement: Statement) -> tuple[Relation, str] | None:
    """Return the domain and the clause, if ALTER DOMAIN checks every row of every table that uses it."""
    node = statement.node
    if node.DESCRIPTOR.name != "AlterDomainStmt":
        return None
    domain = relation_named(strings(node.type_name))
    if node.subtype == "O":
        return domain, "SET NOT NULL"
    if node.subtype == "C" and not unwrap(getattr(node, "def")).skip_validation:
        return domain, "ADD CONSTRAINT"
    return None


def constrained_domain(statement: Statement) -> Relation | None:
    """Return the domain that the statement creates with a constraint, or gives one; None for other statements."""
    node = statement.node
    if node.DESCRIPTOR.name == "CreateDomainStmt":
        kinds = {label(unwrap(constraint), "contype") for constraint in node.constraints}
        return relation_named(strings(node.domainname)) if kinds & {"CONSTR_CHECK", "CONSTR_NOTNULL"} else None
    if node.DESCRIPTOR.name == "AlterDomainStmt" and node.subtype in {"C", "O"}:
        return relation_named(strings(node.type_name))
    return None


def renamed(statement: Statement) -> tuple[Relation, str] | None:
    """Return the relation whose name, or column name, changes for clients, and a clause that describes the change."""
    node = statement.node
    if statement.kind is _K.SET_SCHEMA and label(node, "object_type") in _KNOWN_TO_CLIENTS:
        relation = relation_of(node.relation)
        return relation, f"`{relation}` moves to another schema"
    if statement.kind is not _K.RENAME:
        return None
    what = label(node, "rename_type")
    if what == "OBJECT_COLUMN":
        relation = relation_of(node.relation)
        return relation, f"the column `{node.subname}` of `{relation}` gets another name"
    if what in _KNOWN_TO_CLIENTS:
        relation = relation_of(node.relation)
        return relation, f"`{relation}` gets another name"
    return None


_KNOWN_TO_CLIENTS = frozenset(
    {"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE"}
)


def steady_function(statement: Statement) -> str | None:
    """Return the name of the function that the statement creates as IMMUTABLE or STABLE."""
    if statement.kind is not _K.CREATE_FUNCTION:
        return None
    options = {option.defname: option for option in map(unwrap, statement.node.options)}
    given = options.get("volatility")
    if given is None or unwrap(given.arg).sval == "volatile":
        return None
    return strings(statement.node.funcname)[-1]


def clustering_index(statement: Statement) -> str:
    """Return the index that CLUSTER names, empty if it names none."""
    name: str = statement.node.indexname if statement.kind is _K.CLUSTER else ""
    return name


def reindexed_name(statement: Statement) -> str:
    """Return the schema or database that REINDEX names, empty if it names a table or index, or nothing."""
    name: str = statement.node.name if statement.kind is _K.REINDEX else ""
    return name


def vacuums_columns(statement: Statement) -> bool:
    """Return whether VACUUM or ANALYZE names columns."""
    named = statement.kind in {_K.VACUUM, _K.ANALYZE}
    return named and any(unwrap(item).va_cols for item in statement.node.rels)


def vacuumed(statement: Statement) -> Iterator[tuple[Relation, tuple[str, ...], bool]]:
    """Yield the tables that VACUUM or ANALYZE names, with their columns, and whether their children are included."""
    if statement.kind in {StatementKind.VACUUM, StatementKind.ANALYZE}:
        for named in map(unwrap, statement.node.rels):
            if named.HasField("relation"):
                yield relation_of(named.relation), strings(named.va_cols), bool(named.relation.inh)


def only_truncated(statement: Statement) -> frozenset[Relation]:
    """Return the tables that TRUNCATE names with ONLY."""
    named = map(unwrap, statement.node.relations) if statement.kind is StatementKind.TRUNCATE else ()
    return frozenset(relation_of(one) for one in named if not one.inh)


def replaced_view(statement: Statement) -> Relation | None:
    """Return the view of CREATE OR REPLACE VIEW, None for another statement."""
    replaces = statement.kind is _K.CREATE_VIEW and statement.node.replace
    return relation_of(statement.node.view) if replaces else None


def view_aliases(statement: Statement) -> tuple[str, ...]:
    """Return the names that CREATE VIEW or CREATE … AS gives its columns, as far as it names them."""
    if statement.kind in {_K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW}:
        return strings(statement.node.into.col_names)
    return strings(statement.node.aliases) if statement.kind is _K.CREATE_VIEW else ()


def is_partitioned(statement: Statement) -> bool:
    """Return whether it is CREATE TABLE … PARTITION BY."""
    return statement.kind is _K.CREATE_TABLE and bool(statement.node.HasField("partspec"))


def adopted_indexes(statement: Statement) -> tuple[tuple[str, str], ...]:
    """Return the indexes that ADD CONSTRAINT … USING INDEX takes, with the names that they have from then on."""
    if statement.kind is not _K.ALTER_TABLE:
        return ()
    added = (one for one in map(unwrap, statement.node.cmds) if label(one, "subtype") == "AT_AddConstraint")
    constraints = [unwrap(getattr(one, "def")) for one in added]
    return tuple((one.indexname, one.conname or one.indexname) for one in constraints if one.indexname)


def added_keys(statement: Statement) -> frozenset[str | None]:
    """Return the keys for which ALTER TABLE builds an index, by name; None for one without a name."""
    if statement.kind is not _K.ALTER_TABLE:
        return frozenset()
    kinds = {"CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"}
    found = (one for one in find(statement.node, "Constraint") if label(one, "contype") in kinds and not one.indexname)
    return frozenset(one.conname or None for one in found)


def named_indexes(statement: Statement) -> tuple[str, ...]:
    """Return the indexes of its table that ALTER TABLE names: CLUSTER ON, REPLICA IDENTITY, ADD … USING INDEX."""
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return ()
    commands = list(map(unwrap, statement.node.cmds))
    clustered = [one.name for one in commands if label(one, "subtype") == "AT_ClusterOn"]
    identity = [unwrap(getattr(one, "def")) for one in commands if label(one, "subtype") == "AT_ReplicaIdentity"]
    found = [*clustered, *(one.name for one in identity if one.name)]
    return (*found, *(old for old, _ in adopted_indexes(statement)))


_FALSE = frozenset({"false", "off", "0"})

_LISTS = {
    StatementKind.VACUUM: "options",
    StatementKind.ANALYZE: "options",
    StatementKind.EXPLAIN: "options",
    StatementKind.COPY_FROM: "options",
    StatementKind.COPY_TO: "options",
    StatementKind.CREATE_SUBSCRIPTION: "options",
    StatementKind.ALTER_SUBSCRIPTION: "options",
    StatementKind.ALTER_DATABASE: "options",
    StatementKind.CLUSTER: "params",
    StatementKind.REINDEX: "params",
}


def options(statement: Statement) -> Mapping[str, str | None]:
    """Return the options of a command with the text of their values, None where there is none: `{"full": None}`.

    Commands that have no such list have no options here.
    """
    given = getattr(statement.node, _LISTS.get(statement.kind, ""), ())
    return {option.defname: _text(option) for option in map(unwrap, given)}


def enabled(statement: Statement, option: str, *, default: bool = False) -> bool:
    """Return whether a boolean option is on; an option without a value is, one that is not given is `default`."""
    given = options(statement)
    if option not in given:
        return default
    return (given[option] or "true").lower() not in _FALSE


def is_concurrent(statement: Statement) -> bool:
    """Return whether the command has CONCURRENTLY, in any of its forms."""
    if statement.kind is StatementKind.REINDEX:
        return enabled(statement, "concurrently")
    if statement.kind is StatementKind.ALTER_TABLE:
        commands = (getattr(unwrap(command), "def") for command in statement.node.cmds)
        return any(bool(getattr(unwrap(command), "concurrent", False)) for command in commands)
    return bool(getattr(statement.node, "concurrent", False))


def _text(option: Tree) -> str | None:
    if not option.HasField("arg"):
        return None
    value = unwrap(option.arg)
    if value.DESCRIPTOR.name == "Boolean":
        return "true" if value.boolval else "false"
    if value.DESCRIPTOR.name == "TypeName":  # an unquoted word in some of the lists
        return strings(value.names)[-1]
    field = {"String": "sval", "Integer": "ival", "Float": "fval"}.get(value.DESCRIPTOR.name)
    return str(getattr(value, field)) if field else ""


class FunctionCall(Struct, frozen=True, kw_only=True):
    """A function that a statement calls by name; `schema` is None if the search_path decides."""

    schema: str | None
    name: str
    offset: int


class SettingChange(Struct, frozen=True, kw_only=True):
    """A setting that a statement changes by SET, RESET or set_config; RESET ALL has the name `all`."""

    name: str
    local: bool
    offset: int


class ParameterSymbol(Struct, frozen=True, kw_only=True):
    """A `$1`, which has no value in a worker."""

    number: int
    offset: int


class CreatedIndex(Struct, frozen=True, kw_only=True):
    """An index, its table and its plain columns; `index` is None if PostgreSQL chooses the name."""

    index: Relation | None
    table: Relation
    columns: tuple[str, ...] = ()


class ReindexTarget(enum.Enum):
    """What a REINDEX rebuilds."""

    INDEX = "REINDEX_OBJECT_INDEX"
    TABLE = "REINDEX_OBJECT_TABLE"
    SCHEMA = "REINDEX_OBJECT_SCHEMA"
    SYSTEM = "REINDEX_OBJECT_SYSTEM"
    DATABASE = "REINDEX_OBJECT_DATABASE"


_QUERIES = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE})
_CHANGE_ROWS = frozenset({_K.UPDATE, _K.DELETE, _K.MERGE})
_CHANGES_ROWS = frozenset({"UpdateStmt", "DeleteStmt", "MergeStmt"})
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
    elif statement.kind in _QUERIES and not _has_cte(statement):
        # PostgreSQL takes no other one, but in a CTE at the top.
        found = (own,) if statement.kind in _CHANGE_ROWS else ()
    else:
        found = (node for node in walk(own) if node.DESCRIPTOR.name in _CHANGES_ROWS)
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
    for item in node.merge_when_clauses:
        clause = unwrap(item)
        if label(clause, "match_kind") == wanted and not clause.HasField("condition"):
            return label(clause, "command_type") in {"CMD_UPDATE", "CMD_DELETE"}
    return False


def _constant(condition: Tree) -> bool | None:
    """Return what a condition without columns says, as far as its text shows; None if it depends on rows."""
    node = unwrap(condition)
    if any(one.DESCRIPTOR.name in {"ColumnRef", "SubLink", "FuncCall"} for one in walk(node)):
        return None
    if node.DESCRIPTOR.name == "A_Const":
        return bool(node.boolval.boolval)
    return True  # such as 1 = 1


def _has_cte(statement: Statement) -> bool:
    node = statement.node
    if node.HasField("with_clause"):
        return True
    rows = unwrap(node.select_stmt) if statement.kind is _K.INSERT and node.HasField("select_stmt") else None
    return rows is not None and bool(rows.HasField("with_clause"))


def cursor_of_row(statement: Statement) -> str | None:
    """Return the cursor whose row an UPDATE or DELETE changes (WHERE CURRENT OF), None if there is none."""
    node = statement.node
    if statement.kind not in {_K.UPDATE, _K.DELETE} or not node.HasField("where_clause"):
        return None
    condition = unwrap(node.where_clause)
    return str(condition.cursor_name) if condition.DESCRIPTOR.name == "CurrentOfExpr" else None


def is_guarded(statement: Statement) -> bool:
    """Return whether it has IF EXISTS, IF NOT EXISTS or OR REPLACE, so that running it again does not fail."""
    node = statement.node
    return any(bool(getattr(node, field, False)) for field in ("missing_ok", "if_not_exists", "replace"))


def is_cascading(statement: Statement) -> bool:
    """Return whether it has CASCADE, also in a subcommand of ALTER TABLE."""
    nodes = [statement.node, *map(unwrap, getattr(statement.node, "cmds", ()))]
    return any(
        label(node, "behavior") == "DROP_CASCADE" for node in nodes if "behavior" in node.DESCRIPTOR.fields_by_name
    )


def parameter_symbols(statement: Statement) -> tuple[ParameterSymbol, ...]:
    """Return every `$n`, except where one is meant: in PREPARE, a function's body and EXPLAIN (GENERIC_PLAN)."""
    if statement.kind in {_K.PREPARE, _K.CREATE_FUNCTION}:
        return ()
    if statement.kind is _K.EXPLAIN and enabled(statement, "generic_plan"):
        return ()
    found = find(statement.node, "ParamRef")
    return tuple(ParameterSymbol(number=node.number, offset=statement.offset(node)) for node in found)


def functions_called(statement: Statement) -> tuple[FunctionCall, ...]:
    """Return the functions that are called by name, procedures included; not operators, nor what a DO body calls."""
    return tuple(function_call(statement, node) for node in find(statement.node, "FuncCall"))


def function_call(statement: Statement, node: Tree) -> FunctionCall:
    """Return the call that a FuncCall node of the statement is."""
    parts = strings(node.funcname)
    return FunctionCall(
        schema=parts[-2] if len(parts) > 1 else None,
        name=parts[-1],
        offset=statement.offset(node),
    )


def settings_changed(statement: Statement) -> tuple[SettingChange, ...]:
    """Return what SET, RESET and `set_config('name', …)` change; not ALTER SYSTEM, ROLE or DATABASE."""
    node = statement.node
    if statement.kind in {_K.SET, _K.RESET}:
        return (SettingChange(name=node.name or "all", local=node.is_local, offset=statement.start),)
    return tuple(
        SettingChange(name=name, local=False, offset=statement.offset(call))
        for call in find(node, "FuncCall")
        if strings(call.funcname)[-1] == "set_config"
        for name in _first_constant(call)
    )


def reindex_target(statement: Statement) -> ReindexTarget | None:
    """Return what a REINDEX rebuilds, None for another statement."""
    return ReindexTarget(label(statement.node, "kind")) if statement.kind is _K.REINDEX else None


def created_index(statement: Statement) -> CreatedIndex | None:
    """Return the index that CREATE INDEX makes, None for another statement."""
    if statement.kind is not _K.CREATE_INDEX:
        return None
    table = relation_of(statement.node.relation)
    name = statement.node.idxname
    columns = tuple(element.name for element in map(unwrap, statement.node.index_params) if element.name)
    return CreatedIndex(index=Relation(table.schema, name) if name else None, table=table, columns=columns)


def created_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, views and sequences that the statement creates by name."""
    path = _CREATES.get(statement.kind)
    return (relation_of(reduce(getattr, path, statement.node)),) if path else ()


# Where the tree has the name of what is created.
_CREATES: Mapping[StatementKind, tuple[str, ...]] = {
    _K.CREATE_TABLE: ("relation",),
    _K.CREATE_FOREIGN_TABLE: ("base_stmt", "relation"),
    _K.CREATE_TABLE_AS: ("into", "rel"),
    _K.CREATE_MATERIALIZED_VIEW: ("into", "rel"),
    _K.SELECT_INTO: ("into_clause", "rel"),
    _K.CREATE_VIEW: ("view",),
    _K.CREATE_SEQUENCE: ("sequence",),
}

_DROPS_RELATION = frozenset(
    {_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_SEQUENCE, _K.DROP_FOREIGN_TABLE}
)


def dropped_relations(statement: Statement) -> tuple[Relation, ...]:
    """Return the tables, indexes, views and sequences that the statement drops by name."""
    if statement.kind not in _DROPS_RELATION:
        return ()
    return tuple(relation_named(strings(unwrap(dropped).items)) for dropped in statement.node.objects)


_SERVER_WIDE = frozenset(
    {
        *(_K.ALTER_SYSTEM, _K.CHECKPOINT, _K.CREATE_ROLE, _K.ALTER_ROLE, _K.DROP_ROLE, _K.GRANT_ROLE),
        *(_K.CREATE_DATABASE, _K.ALTER_DATABASE, _K.DROP_DATABASE),
        *(_K.CREATE_TABLESPACE, _K.ALTER_TABLESPACE, _K.DROP_TABLESPACE),
    }
)
_SHARED_OBJECTS = frozenset({"OBJECT_DATABASE", "OBJECT_ROLE", "OBJECT_TABLESPACE", "OBJECT_PARAMETER_ACL"})


def server_wide(statement: Statement) -> str | None:
    """Return the command or function by which the statement reaches beyond its database, None if it does not."""
    if statement.kind in _SERVER_WIDE:
        return str(statement.kind)
    for field in ("objtype", "rename_type", "object_type"):
        fields = statement.node.DESCRIPTOR.fields_by_name
        if field in fields and label(statement.node, field) in _SHARED_OBJECTS:
            return str(statement.kind)
    called = (call.name for call in functions_called(statement))
    return next((f"{name}()" for name in called if name in SERVER_WIDE), None)


def _first_constant(call: Tree) -> Iterator[str]:
    for argument in list(call.args)[:1]:
        constant = unwrap(argument)
        if constant.DESCRIPTOR.name == "A_Const" and constant.HasField("sval"):
            yield constant.sval.sval
