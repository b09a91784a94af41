"""Details of a statement that decide its cost: ONLY, NOWAIT, TEMPORARY, WITH NO DATA, a domain's constraint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, find, label, strings, unwrap
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named, relation_of

_K = StatementKind

# Where the tree has the RangeVar that says TEMPORARY.
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
    """Return the schema that the statement creates; one that takes its owner's name is not known by name."""
    return statement.node.schemaname or None if statement.kind is _K.CREATE_SCHEMA else None


#: Parts of a new table that only the server can check; a key's columns are in the table itself.
_COMPUTED = frozenset(
    {"CONSTR_DEFAULT", "CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_GENERATED", "CONSTR_EXCLUSION", "CONSTR_IDENTITY"}
)


def is_computed(statement: Statement) -> bool:
    """Return whether it is a CREATE TABLE with more than columns and keys: defaults, checks, parents, a bound."""
    if statement.kind is not _K.CREATE_TABLE:
        return False
    node = statement.node
    if node.inh_relations or node.HasField("partspec") or node.HasField("of_typename"):
        return True
    if any(unwrap(element).DESCRIPTOR.name == "TableLikeClause" for element in node.table_elts):
        return True
    if next(find(node, "CollateClause"), None) is not None:
        return True
    return any(label(constraint, "contype") in _COMPUTED for constraint in find(node, "Constraint"))


def computes(statement: Statement) -> bool:
    """Return whether an ALTER TABLE has an expression that is no constant, or a key that refers to another table."""
    if statement.kind is not _K.ALTER_TABLE:
        return False
    for constraint in find(statement.node, "Constraint"):
        kind = label(constraint, "contype")
        constant = kind == "CONSTR_DEFAULT" and _is_constant(unwrap(constraint.raw_expr))
        if kind in _COMPUTED - {"CONSTR_IDENTITY"} and not constant:
            return True
    defaults = (
        command for command in map(unwrap, statement.node.cmds) if label(command, "subtype") == "AT_ColumnDefault"
    )
    given = (unwrap(getattr(command, "def")) for command in defaults if command.HasField("def"))
    return not all(map(_is_constant, given))


def _is_constant(node: Tree) -> bool:
    return node.DESCRIPTOR.name == "A_Const" or (node.DESCRIPTOR.name == "TypeCast" and _is_constant(unwrap(node.arg)))


def repeated_parts(statement: Statement) -> Iterator[str]:
    """Yield what a CREATE TABLE has twice and may have once: a column of one name, a primary key."""
    if statement.kind is not _K.CREATE_TABLE:
        return
    columns = [one for one in map(unwrap, statement.node.table_elts) if one.DESCRIPTOR.name == "ColumnDef"]
    counted = Counter(column.colname for column in columns)
    yield from (f"the column {Relation(None, name)}" for name, number in counted.items() if number > 1)
    kinds = [label(constraint, "contype") for constraint in find(statement.node, "Constraint")]
    if kinds.count("CONSTR_PRIMARY") > 1:
        yield "a primary key"


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
    """Return the relation that has another name for clients afterwards, and a clause that says what is renamed."""
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


def named_indexes(statement: Statement) -> tuple[str, ...]:
    """Return the indexes of its table that ALTER TABLE names: CLUSTER ON, REPLICA IDENTITY, ADD … USING INDEX."""
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return ()
    commands = list(map(unwrap, statement.node.cmds))
    clustered = [one.name for one in commands if label(one, "subtype") == "AT_ClusterOn"]
    identity = [unwrap(getattr(one, "def")) for one in commands if label(one, "subtype") == "AT_ReplicaIdentity"]
    found = [*clustered, *(one.name for one in identity if one.name)]
    return (*found, *(old for old, _ in adopted_indexes(statement)))
