"""Options and subcommands that this server, or this kind of relation, does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runner.gateway.catalog import RelationFacts
from runner.preflight.catalog_state import CatalogView, State
from runner.preflight.object_checks import KINDS, there
from runner.preflight.sql_units import StatementFinding, Unit
from runner.sql.alter_table import AlterKind, Constraint, alter_actions
from runner.sql.command_objects import created_relations, main_relation, replaced_view
from runner.sql.command_options import is_partitioned, leaves_out_children, refused_options
from runner.sql.new_tables import refused_tables, system_columns
from runner.sql.relations import Relation, databases
from runner.sql.statements import StatementKind
from runner.sql.storage_parameters import (
    given_parameters,
    index_method,
    refused_of_columns,
    refused_of_keys,
    refused_parameter,
    table_method,
    values_in_reset,
)
from runner.sql.version_needs import unmet_needs

_K = StatementKind


def check_versions(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield options, privileges, settings and clauses that the server's version does not have."""
    for need in unmet_needs(unit.statement, catalog.context.version // 10_000):
        if need.since is not None:
            yield unit.finding(
                "JP624", f"{need.reason}; this server is {catalog.context.version // 10_000}", need.offset
            )
        else:
            yield unit.finding("JP606", f"no version of PostgreSQL has {need.what}", need.offset)


def check_options(unit: Unit, _: CatalogView) -> Iterator[StatementFinding]:
    """Yield options of VACUUM, ANALYZE and EXPLAIN that the server refuses."""
    return (unit.finding("JP606", message) for message in refused_options(unit.statement))


def check_parameters(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield storage parameters that are unknown for this kind of relation, or out of range."""
    for name in values_in_reset(unit.statement):
        yield unit.finding("JP606", f"RESET takes the name of a parameter alone, and {name} has a value")
    for message, offset in (*refused_of_columns(unit.statement), *refused_of_keys(unit.statement)):
        yield unit.finding("JP606", message, offset)
    given = given_parameters(unit.statement)
    if not given:
        return
    kind, method = _kind_of(unit, catalog)
    for one in given:
        refused = refused_parameter(one, kind, method)
        if refused is not None:
            yield unit.finding("JP606", refused, one.offset)


def _kind_of(unit: Unit, catalog: CatalogView) -> tuple[str, str]:
    """Return the letter of the relation whose parameters are set, empty if it is not known, and an index's method."""
    statement = unit.statement
    match statement.kind:
        case _K.CREATE_TABLE | _K.CREATE_TABLE_AS | _K.CREATE_MATERIALIZED_VIEW:
            if table_method(statement) not in {"", "heap"}:
                return "", ""
            return ("p" if is_partitioned(statement) else "r"), ""  # a materialized view has those of a table
        case _K.CREATE_VIEW:
            return "v", ""
        case _K.CREATE_INDEX:
            return "i", index_method(statement)
    facts = catalog.facts(main_relation(statement))
    if facts is None:
        return "", ""
    return ("i" if facts.kind == "I" else facts.kind), facts.index_of.method if facts.index_of is not None else ""


#: Subcommands that change columns or constraints, and are not for views, materialized views, indexes and sequences.
_OF_TABLES = frozenset(
    {
        *(AlterKind.ADD_COLUMN, AlterKind.DROP_COLUMN, AlterKind.SET_TYPE, AlterKind.SET_NOT_NULL),
        *(AlterKind.ADD_CONSTRAINT, AlterKind.VALIDATE_CONSTRAINT, AlterKind.DROP_CONSTRAINT),
        *(AlterKind.INHERIT, AlterKind.NO_INHERIT, AlterKind.SET_EXPRESSION),
        *(AlterKind.DETACH_PARTITION, AlterKind.DETACH_PARTITION_CONCURRENTLY),
    }
)
_TYPED = frozenset({AlterKind.ADD_COLUMN, AlterKind.SET_TYPE})
#: Subcommands that ALTER TABLE ONLY refuses for a table that has children, or partitions.
_WITH_CHILDREN = frozenset({AlterKind.ADD_COLUMN})
_WITH_PARTITIONS = frozenset({AlterKind.ADD_COLUMN, AlterKind.DROP_COLUMN})
_NOT_TABLES = frozenset("vmSiI")
#: Subcommands that a table OF a type refuses: the type defines its columns.
_OF_THE_TYPE = frozenset({AlterKind.ADD_COLUMN, AlterKind.DROP_COLUMN, AlterKind.SET_TYPE, AlterKind.INHERIT})


def check_subcommands(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield subcommands of ALTER TABLE that the relation's kind, or a partitioned table of this version, refuses."""
    statement = unit.statement
    table = main_relation(statement)
    facts = catalog.facts(table)
    if table is None or facts is None:
        return
    for action in alter_actions(statement):
        if facts.kind in _NOT_TABLES and action.kind in _OF_TABLES:
            message = f"{action.kind.value} does not work on {table}, which is {KINDS[facts.kind]}"
            yield unit.finding("JP607", message, action.offset)
        if action.kind is AlterKind.ADD_COLUMN and facts.partition_of is not None:
            message = f"ADD COLUMN does not work on {table}, which is a partition of {facts.partition_of}"
            hint = f"add the column to {facts.partition_of}: its partitions get it too"
            yield unit.finding("JP607", message, action.offset, hint=hint)
        if action.kind is AlterKind.NO_INHERIT and action.other is not None:
            parent = catalog.facts(action.other)
            if parent is not None and facts.relation not in parent.children:
                yield unit.finding("JP606", f"{action.other} is no parent of {table}", action.offset)
        alone = facts.children and leaves_out_children(statement)
        if alone and action.kind in (_WITH_PARTITIONS if facts.kind == "p" else _WITH_CHILDREN):
            message = f"{action.kind.value} of {table} alone does not work: it has children"
            yield unit.finding("JP606", message, action.offset, hint="leave out ONLY: its children change with it")
        if facts.kind != "p":
            continue
        if action.kind in {AlterKind.SET_LOGGED, AlterKind.SET_UNLOGGED} and catalog.context.version >= 180_000:
            message = f"{action.kind.value} does not work on {table}, which is {KINDS[facts.kind]}"
            yield unit.finding("JP607", message, action.offset, hint="set it on each partition")
        foreign = action.constraint is Constraint.FOREIGN_KEY and action.not_valid
        if foreign and catalog.context.version < 180_000:
            hint = "add the key to each partition NOT VALID and validate it there, then add it to the partitioned table"
            yield _partitioned("ADD FOREIGN KEY … NOT VALID", 18, table, action.offset, hint)
        elif action.kind is AlterKind.SET_ACCESS_METHOD and catalog.context.version < 170_000:
            yield _partitioned("SET ACCESS METHOD", 17, table, action.offset)


def check_types_of_tables(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield subcommands that a table OF a type or a partitioned table refuses, and columns of the table's own type."""
    table = main_relation(unit.statement)
    facts = catalog.facts(table)
    for action in alter_actions(unit.statement):
        if facts is None:
            return
        if facts.typed and action.kind in _OF_THE_TYPE:
            message = f"{action.kind.value} does not work on {table}: a type defines its columns"
            yield unit.finding("JP606", message, action.offset, hint="change the type, with CASCADE")
        if action.kind in _TYPED and action.type is not None and catalog.context.placed(action.type) == facts.relation:
            yield unit.finding("JP606", f"a column of {table} cannot have the type {table}", action.offset)
        if action.kind is AlterKind.CLUSTER_ON and facts.kind == "p":
            message = f"no index of {table} can be marked for CLUSTER: it is {KINDS[facts.kind]}"
            yield unit.finding("JP607", message, action.offset, hint="mark the index of each partition")


def check_repeated(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield what a new table has twice or cannot have, what its keys name and it has not, and other databases."""
    for message, offset in refused_tables(unit.statement):
        yield unit.finding("JP606", message, offset)
    for name in system_columns(unit.statement):
        yield unit.finding("JP608", f"the name {name} is one of the system's columns, which every table has")
    for name, relation, offset in databases(unit.statement):
        missing = catalog.relation(relation).state is State.MISSING and relation not in created_relations(
            unit.statement
        )
        if name != catalog.context.database and not missing:  # what is missing is reported so
            message = f"the name refers to the database {name}, and PostgreSQL cannot reach another database"
            yield unit.finding("JP606", message, offset)


def result_columns(names: tuple[str, ...], given: tuple[str, ...]) -> str | None:
    """Return why a relation cannot have the columns of a query, `given` new names; None if it can."""
    if len(given) > len(names):
        return f"{len(given)} column names are given, and the query has {len(names)} columns"
    counted = Counter((*given, *names[len(given) :]))
    twice = [str(Relation(None, name)) for name, number in counted.items() if number > 1]
    return f"the column {', '.join(twice)} comes more than once: give it a name of its own" if twice else None


def check_partitioned_cluster(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """CLUSTER works on partitioned tables from version 15 on."""
    if unit.statement.kind is _K.CLUSTER and catalog.context.version < 150_000:
        for one, facts in there(unit, catalog):
            if facts.kind == "p":
                yield _partitioned("CLUSTER", 15, one.relation, one.offset)


def _partitioned(what: str, since: int, table: Relation, offset: int, hint: str | None = None) -> StatementFinding:
    message = f"{what} works on a partitioned table, such as {table}, from PostgreSQL {since} on"
    return StatementFinding("JP611", message, offset, hint=hint)


def view_there(unit: Unit, catalog: CatalogView) -> RelationFacts | None:
    """Return the view that CREATE OR REPLACE VIEW replaces, None if there is none yet."""
    view = replaced_view(unit.statement)
    return catalog.facts(catalog.new_place(view)) if view is not None else None


def check_replaced_kind(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """CREATE OR REPLACE VIEW replaces views alone."""
    facts = view_there(unit, catalog)
    if facts is not None and facts.kind != "v":
        message = f"{facts.relation} is {KINDS.get(facts.kind, 'no view')}, not a view that could be replaced"
        yield unit.finding("JP607", message)


def view_columns(facts: RelationFacts, names: tuple[str, ...], oids: tuple[int, ...]) -> str | None:
    """Return why a view cannot be replaced by a query with these columns, None if it can: it may only get more."""
    old = tuple(facts.types)
    if len(names) < len(old):
        return f"the query leaves out columns of the view {facts.relation}: {', '.join(old[len(names) :])}"
    for place, name in enumerate(old):
        if names[place] != name:
            return f"the query calls the column {name} of the view {facts.relation} {names[place]}"
        if oids[place] != facts.oids[place]:
            return f"the query gives the column {name} of the view {facts.relation} another type"
    return None
