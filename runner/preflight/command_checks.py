"""Checks of commands that cannot be explained, in a table, and how much of which command the catalog shows.

A command is also checked for the names in it besides relations: types, functions, roles, tablespaces, extensions,
languages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from runner.preflight import earlier_steps, maintenance_checks, object_checks, option_checks
from runner.preflight.catalog_state import CatalogView, Made, State, When
from runner.preflight.sql_units import StatementFinding, Unit
from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.catalog_changes import Sort
from runner.sql.catalog_needs import Mention, ObjectSort, defines, mentions, typed
from runner.sql.command_objects import adopted_indexes, created_relations
from runner.sql.command_options import has_check_option, has_elements, is_cascading, rebuilds_many
from runner.sql.new_tables import computes, is_computed
from runner.sql.placeholders import quote_identifier
from runner.sql.statements import Statement, StatementKind

#: The code for an object that does not exist, and the word for it.
_CODES: Mapping[ObjectSort, tuple[str, str]] = {
    ObjectSort.TYPE: ("JP603", "type"),
    ObjectSort.FUNCTION: ("JP603", "function"),
    ObjectSort.ROLE: ("JP621", "role"),
    ObjectSort.TABLESPACE: ("JP622", "tablespace"),
    ObjectSort.AVAILABLE_EXTENSION: ("JP623", "extension that could be installed"),
    ObjectSort.EXTENSION: ("JP623", "extension installed"),
    ObjectSort.LANGUAGE: ("JP623", "language"),
    ObjectSort.INDEX_METHOD: ("JP623", "index access method"),
    ObjectSort.TABLE_METHOD: ("JP623", "table access method"),
}
#: A tablespace that no relation of a user can be in, and the commands that put a relation into a tablespace.
_SHARED = "pg_global"
_PLACED = frozenset(
    {
        *(StatementKind.CREATE_TABLE, StatementKind.CREATE_TABLE_AS, StatementKind.CREATE_MATERIALIZED_VIEW),
        *(StatementKind.CREATE_INDEX, StatementKind.ALTER_TABLE, StatementKind.ALTER_INDEX),
        *(StatementKind.ALTER_MATERIALIZED_VIEW, StatementKind.REINDEX),
    }
)
#: Objects that a previous statement may have created.
_SORTS: Mapping[ObjectSort, Sort] = {
    ObjectSort.TYPE: Sort.TYPE,
    ObjectSort.FUNCTION: Sort.FUNCTION,
    ObjectSort.ROLE: Sort.ROLE,
}


def _check_mentioned(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield the names of objects that do not exist, or that the role may not use."""
    for one in mentions(unit.statement):
        facts, made = catalog.named(one.sort, one.name), _made(one, catalog)
        if made is not None and made.removes:
            yield unit.finding("JP604", f"the {_CODES[one.sort][1]} {one.name} is {made.words}", one.offset)
        elif facts is None:
            yield from _absent(unit, one, made, catalog)
        elif one.sort is ObjectSort.TABLESPACE and one.name.name == _SHARED and unit.statement.kind in _PLACED:
            message = f"the tablespace {_SHARED} takes only the catalogs that all databases share"
            yield unit.finding("JP606", message, one.offset)
        elif not facts.open and one.sort is ObjectSort.TYPE:
            yield from _closed_type(unit, one, catalog)
        elif not facts.open:
            role = quote_identifier(catalog.context.role)
            message = f'role "{catalog.context.role}" may not create objects in the tablespace {one.name}'
            hint = f"GRANT CREATE ON TABLESPACE {quote_identifier(one.name.name)} TO {role};"
            yield unit.finding("JP610", message, one.offset, hint=hint)


def _closed_type(unit: Unit, one: Mention, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield a type of a column, domain or routine that the role may not use; a cast needs no privilege."""
    if one.name in typed(unit.statement):
        message = f'role "{catalog.context.role}" has no USAGE on the type {one.name}'
        hint = f"GRANT USAGE ON TYPE {one.name} TO {quote_identifier(catalog.context.role)};"
        yield unit.finding("JP610", message, one.offset, hint=hint)


def _made(one: Mention, catalog: CatalogView) -> Made | None:
    sort = _SORTS.get(one.sort)
    return catalog.part(sort, one.name.name) if sort is not None else None


def _absent(unit: Unit, one: Mention, made: Made | None, catalog: CatalogView) -> Iterator[StatementFinding]:
    code, what = _CODES[one.sort]
    if made is not None and made.creates:
        if made.when is When.PERHAPS:
            message = f"{one.name} is {made.words}, which may run later"
            yield unit.finding("JP612", message, one.offset, hint=f"add `needs: [{made.step}]`")
        return
    # Every table has a type with its name, also the one that the statement creates.
    if one.sort is ObjectSort.TYPE and one.name in created_relations(unit.statement):
        return
    if one.sort is ObjectSort.TYPE and catalog.relation(one.name).state in {State.THERE, State.NEW, State.PERHAPS}:
        return
    yield unit.finding(code, f"there is no {what} {one.name}", one.offset)


_K = StatementKind


def check_command(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield what is wrong with a command, as far as the catalog shows it."""
    for check in CHECKS:
        yield from check(unit, catalog)


#: Every check of a command, the most basic first.
CHECKS: tuple[Callable[[Unit, CatalogView], Iterator[StatementFinding]], ...] = (
    object_checks.check_existence,
    object_checks.check_kind,
    object_checks.check_rights,
    object_checks.check_files,
    object_checks.check_parts,
    _check_mentioned,
    object_checks.check_dropped_schemas,
    object_checks.check_new_names,
    object_checks.check_partitioned,
    maintenance_checks.check_refreshing,
    object_checks.check_detaching,
    object_checks.check_dependents,
    maintenance_checks.check_leftovers,
    option_checks.check_versions,
    option_checks.check_parameters,
    option_checks.check_repeated,
    option_checks.check_subcommands,
    option_checks.check_types_of_tables,
    option_checks.check_partitioned_cluster,
    option_checks.check_replaced_kind,
    maintenance_checks.check_clustering,
    maintenance_checks.check_reindexing,
    option_checks.check_options,
    maintenance_checks.check_vacuum,
    maintenance_checks.check_dropped_indexes,
    maintenance_checks.check_catalogs,
    maintenance_checks.check_abilities,
    maintenance_checks.check_named_indexes,
    maintenance_checks.check_locking,
    object_checks.check_attached,
    earlier_steps.check_gone,
    earlier_steps.check_new_labels,
)

#: Commands for which the catalog decides everything; for those below it decides a part, for the rest nothing.
FULLY = frozenset(
    {
        *(_K.VACUUM, _K.ANALYZE, _K.REINDEX, _K.CLUSTER, _K.REFRESH_MATERIALIZED_VIEW, _K.TRUNCATE),
        *(_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW),
        *(_K.CREATE_VIEW, _K.SET, _K.RESET, _K.SHOW, _K.CHECKPOINT, _K.NOTIFY, _K.LOCK),
    }
)

PARTLY: Mapping[StatementKind, str] = {
    _K.CREATE_INDEX: "only building it shows whether rows are unique and expressions can be computed",
    _K.CREATE_TABLE: "only creating it shows whether its defaults and constraints fit their columns",
    _K.COPY_FROM: "the file is checked only when it is read",
    _K.COPY_TO: "the file is checked only when it is written",
}
#: What only running an ALTER TABLE shows; subcommands that are not here and do not read rows are fully checked.
_ALTERS: Mapping[AlterKind, str] = {
    AlterKind.SET_TYPE: "only running it shows whether rows and dependent objects fit the new type",
    AlterKind.DROP_COLUMN: "only running it shows what depends on the column",
    AlterKind.DROP_CONSTRAINT: "only running it shows what depends on the constraint",
    AlterKind.SET_EXPRESSION: "only running it shows whether the expression can be computed",
    AlterKind.INHERIT: "only running it shows whether the columns fit those of the parent",
    AlterKind.ATTACH_PARTITION: "only running it shows whether its columns and rows fit the partition",
    **dict.fromkeys(
        (AlterKind.SET_LOGGED, AlterKind.SET_UNLOGGED),
        "only running it shows whether the tables that its foreign keys connect allow it",
    ),
    AlterKind.OTHER: "only its syntax and the names in it were checked",
}


def left_open(statement: Statement) -> tuple[str, ...]:
    """Return what the catalog does not show about a command, as sentences."""
    kind = statement.kind
    if kind is _K.ALTER_TABLE:
        return _left_open_by_alter(statement)
    if has_check_option(statement) or rebuilds_many(statement):
        return (_UPDATABLE if kind is _K.CREATE_VIEW else _EXCLUSION,)
    if kind in {_K.CREATE_SCHEMA, _K.DROP_SCHEMA}:
        return _left_open_of_schema(statement)
    if kind in FULLY or (kind is _K.CREATE_TABLE and not is_computed(statement)):
        return ()
    if kind in PARTLY:
        return (PARTLY[kind],)
    return (_ALTERS[AlterKind.OTHER] if defines(statement) else _LITTLE,)


def _left_open_of_schema(statement: Statement) -> tuple[str, ...]:
    if statement.kind is _K.CREATE_SCHEMA:
        return (_ELEMENTS,) if has_elements(statement) else ()
    return () if is_cascading(statement) else ("only running it shows whether it is empty",)


def _left_open_by_alter(statement: Statement) -> tuple[str, ...]:
    found = [_ALTERS.get(action.kind, _ROWS if action.scans else "") for action in alter_actions(statement)]
    found += [_COMPUTES] if _ROWS not in found and computes(statement) else []
    found += [_ORDER] if adopted_indexes(statement) else []
    return tuple(dict.fromkeys(filter(None, found)))


_ELEMENTS = "only running it shows whether what it creates in the schema can be created"
_ORDER = "only running it shows whether the order and the operators of the index are those of a constraint"
_LITTLE = "only its syntax and the relations and roles in it were checked"
_COMPUTES = "only running it shows whether its expressions can be computed and its keys can be referenced"
_EXCLUSION = "only running it shows whether it skips an index of an exclusion constraint, and then fails"
_UPDATABLE = "only creating it shows whether it can be updated, which WITH CHECK OPTION needs"
_ROWS = "only running it shows whether its rows satisfy the new constraint"
NOT_CHECKABLE: Mapping[StatementKind, str] = {
    _K.DO: "the statements of a DO block are known only when it runs",
    _K.CALL: "the statements of a procedure are known only when it runs",
    _K.EXECUTE: "a prepared statement is known only in its session",
}
