"""What CLUSTER, REINDEX, VACUUM, REFRESH and similar commands refuse before they read a row.

Conflicting options, catalogs, other databases, and what an interrupted rebuild has left behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runner.preflight.catalog_state import CatalogView, SeenRelation, State
from runner.preflight.object_checks import skip_severity, there
from runner.preflight.sql_units import StatementFinding, Unit
from runner.sql.alter_table import alter_actions
from runner.sql.command_objects import (
    ReindexTarget,
    added_keys,
    clustering_index,
    created_schema,
    dropped_relations,
    main_relation,
    named_indexes,
    only_truncated,
    reindex_target,
    reindexed_name,
    vacuumed,
)
from runner.sql.command_options import enabled, is_cascading, is_concurrent, is_guarded
from runner.sql.placeholders import quote_identifier
from runner.sql.relations import Relation
from runner.sql.statements import StatementKind
from runner.sql.table_locks import locks_taken

_K = StatementKind
#: Relations with smaller OIDs are system catalogs, or TOAST tables and indexes of such (FirstUnpinnedObjectId).
_FIRST_OF_USERS = 12_000


def check_clustering(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """CLUSTER needs an index of its table that it can use, or one that it has used before."""
    statement = unit.statement
    table = main_relation(statement) if statement.kind is _K.CLUSTER else None
    facts = catalog.facts(table)
    if table is None or facts is None:
        return
    name = clustering_index(statement)
    if not name:
        if facts.clustered is None:
            hint = f"CLUSTER {table} USING index;"
            yield unit.finding("JP606", f"{table} has never been clustered, and no index is named", hint=hint)
        return
    index = catalog.relation(Relation(facts.relation.schema, name))
    yield from _absent_index(unit, index, name, f"in the schema of {table}")
    if index.facts is not None:
        of = index.facts.index_of
        if of is None or of.relation != facts.relation:
            yield unit.finding("JP606", f"{Relation(None, name)} is not an index of {table}")
        elif not of.clusterable:
            yield unit.finding("JP606", f"CLUSTER cannot use the index {Relation(None, name)} ({of.method})")
        elif not of.valid:
            yield unit.finding("JP606", f"the index {Relation(None, name)} is INVALID")


def _absent_index(unit: Unit, index: SeenRelation, name: str, where: str) -> Iterator[StatementFinding]:
    if index.state is State.GONE and index.made is not None:
        yield unit.finding("JP604", f"the index {Relation(None, name)} is {index.made.words}")
    elif index.state is State.MISSING:
        yield unit.finding("JP601", f"there is no index {Relation(None, name)} {where}")


def check_named_indexes(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """CLUSTER ON, REPLICA IDENTITY USING INDEX and ADD CONSTRAINT USING INDEX need an index of the table."""
    table = main_relation(unit.statement)
    facts = catalog.facts(table)
    made_here = added_keys(unit.statement)
    for name in named_indexes(unit.statement) if facts is not None else ():
        if table is None or facts is None or name in made_here or None in made_here:
            continue
        index = catalog.relation(Relation(facts.relation.schema, name))
        yield from _absent_index(unit, index, name, f"of {table}")
    adopted = {action.index for action in alter_actions(unit.statement)} - {None}
    for index_facts in facts.indexes if facts is not None else ():
        if index_facts.relation.name in adopted and not (index_facts.unique and index_facts.plain):
            message = (
                f"the index {index_facts.relation} is not unique, or not on columns alone, and cannot be a constraint"
            )
            yield unit.finding("JP606", message)


def check_reindexing(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """REINDEX SYSTEM and DATABASE accept only the current database; catalogs cannot be rebuilt CONCURRENTLY."""
    statement = unit.statement
    target = reindex_target(statement)
    if target is None:
        return
    name, concurrent = reindexed_name(statement), is_concurrent(statement)
    if target in {ReindexTarget.DATABASE, ReindexTarget.SYSTEM}:
        if name and name != catalog.context.database:
            message = f"REINDEX works on the current database, {Relation(None, catalog.context.database)}"
            yield unit.finding("JP606", message, hint="connect to the other database")
        if concurrent and target is ReindexTarget.SYSTEM:
            yield unit.finding("JP606", "system catalogs cannot be rebuilt CONCURRENTLY")
        may = catalog.context.abilities & {"superuser", "owns_database", "pg_maintain"}
        if not may:
            yield unit.finding(
                "JP610", _denied(f"{statement.kind} {target.name}", "the owner of the database", catalog)
            )
    elif target is ReindexTarget.SCHEMA:
        if concurrent and name == "pg_catalog":
            message = "system catalogs cannot be rebuilt CONCURRENTLY: REINDEX would skip all of them with a WARNING"
            yield unit.finding("JP607", message, severity=skip_severity(unit))
        yield from _schema(unit, catalog, name)
    elif concurrent:
        yield from _exclusion(unit, catalog)
        for one, facts in there(unit, catalog):
            if facts.oid < _FIRST_OF_USERS:
                yield unit.finding("JP606", "system catalogs cannot be rebuilt CONCURRENTLY", one.offset)


def _exclusion(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """REINDEX CONCURRENTLY refuses the index of an exclusion constraint, and skips it among those of a table."""
    for one, facts in there(unit, catalog):
        own = facts.index_of
        if own is not None and own.excludes:
            message = f"{one.relation} belongs to an exclusion constraint, and cannot be rebuilt CONCURRENTLY"
            yield unit.finding("JP606", message, one.offset, hint=f"REINDEX INDEX {one.relation};")
        left = [index.relation for index in facts.indexes if index.excludes]
        if left:
            message = f"REINDEX CONCURRENTLY would skip {left[0]}, of an exclusion constraint, with a WARNING"
            yield unit.finding("JP607", message, one.offset, severity=skip_severity(unit))


def _schema(unit: Unit, catalog: CatalogView, name: str) -> Iterator[StatementFinding]:
    facts, made = catalog.schema(name)
    if made is None and facts is None:
        yield unit.finding("JP601", f"there is no schema {Relation(None, name)}")
    elif made is None and facts is not None and not facts.owned and "pg_maintain" not in catalog.context.abilities:
        yield unit.finding("JP610", _denied("REINDEX SCHEMA", "the owner of the schema", catalog))


def _denied(what: str, needed: str, catalog: CatalogView) -> str:
    return f'role "{catalog.context.role}" may not run {what}: it is not {needed}'


def check_abilities(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Commands that need a privilege which is not on a relation: CHECKPOINT, CREATE SCHEMA, DATABASE and ROLE."""
    abilities, role = catalog.context.abilities, quote_identifier(catalog.context.role)
    statement = unit.statement
    wanted, hint = {
        _K.CHECKPOINT: (
            {"superuser", "pg_checkpoint"},
            f"GRANT pg_checkpoint TO {role};" if catalog.context.version >= 150_000 else None,
        ),
        _K.CREATE_SCHEMA: (
            {"superuser", "creates_schemas"},
            f"GRANT CREATE ON DATABASE {quote_identifier(catalog.context.database)} TO {role};",
        ),
        _K.CREATE_DATABASE: ({"superuser", "creates_databases"}, f"ALTER ROLE {role} CREATEDB;"),
        _K.CREATE_ROLE: ({"superuser", "creates_roles"}, f"ALTER ROLE {role} CREATEROLE;"),
    }.get(statement.kind, (set(), None))
    new = created_schema(statement) if statement.kind is _K.CREATE_SCHEMA else None
    if new is not None and new.startswith("pg_"):
        yield unit.finding("JP606", f"the name {new} is reserved for the system: it begins with pg_")
    if wanted and not wanted & abilities:
        schema = created_schema(statement) if is_guarded(statement) else None
        if schema is not None and catalog.schema(schema)[0] is not None:
            return
        yield unit.finding("JP610", f'role "{catalog.context.role}" may not run {statement.kind}', hint=hint)


#: One of these privileges allows every mode of LOCK, but for ACCESS SHARE before version 16.
_STRONG = frozenset({"UPDATE", "DELETE", "TRUNCATE", "MAINTAIN"})


def _lock_rights(mode: str, version: int) -> frozenset[str]:
    """Return the privileges of which one is needed for a mode of LOCK (LockTableAclCheck of lockcmds.c)."""
    if version < 160_000:
        return {"ACCESS_SHARE": frozenset({"SELECT"}), "ROW_EXCLUSIVE": _STRONG | {"INSERT"}}.get(mode, _STRONG)
    more = {"ACCESS_SHARE": {"SELECT", "INSERT"}, "ROW_SHARE": {"INSERT"}, "ROW_EXCLUSIVE": {"INSERT"}}
    return _STRONG | more.get(mode, set())


def check_locking(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """LOCK needs a privilege that depends on its mode."""
    if unit.statement.kind is not _K.LOCK:
        return
    modes = {lock.relation: lock.mode for lock in locks_taken(unit.statement)}
    for one, facts in there(unit, catalog):
        mode = modes.get(one.relation)
        wanted = _lock_rights(mode.name if mode is not None else "", catalog.context.version)
        if not (facts.owned or wanted & facts.privileges):
            message = f'role "{catalog.context.role}" has no privilege on {one.relation} that lets it take this lock'
            hint = f"GRANT UPDATE ON {facts.relation} TO {quote_identifier(catalog.context.role)};"
            yield unit.finding("JP610", message, one.offset, hint=hint)


def check_vacuum(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """VACUUM and ANALYZE name a column once, and skip some tables with a WARNING.

    Without a table they skip what the role may not maintain, such as shared catalogs; ONLY leaves nothing of a
    partitioned table.
    """
    statement = unit.statement
    if statement.kind not in {_K.VACUUM, _K.ANALYZE}:
        return
    may = catalog.context.abilities & {"superuser", "pg_maintain"}
    if not (vacuumed(statement) or enabled(statement, "only_database_stats") or may):
        message = (
            f'role "{catalog.context.role}" may not maintain every catalog: {statement.kind} would skip some of them'
        )
        yield unit.finding("JP610", f"{message} with a WARNING", severity=skip_severity(unit))
    for relation, columns, inherits in vacuumed(statement):
        twice = [name for name, number in Counter(columns).items() if number > 1]
        if twice:
            yield unit.finding("JP606", f"the column {Relation(None, twice[0])} of {relation} is named twice")
        facts = catalog.facts(relation)
        if statement.kind is _K.VACUUM and not inherits and facts is not None and facts.kind == "p":
            message = f"VACUUM ONLY does nothing for the partitioned table {relation}: the server only sends a WARNING"
            yield unit.finding("JP607", message, severity=skip_severity(unit))


def check_dropped_indexes(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """DROP INDEX CONCURRENTLY takes one index, and no CASCADE; an index of a partition is dropped with the parent's."""
    statement = unit.statement
    if statement.kind is not _K.DROP_INDEX:
        return
    dropped = dropped_relations(statement)
    if is_concurrent(statement) and len(dropped) > 1:
        hint = "write a step for each index"
        yield unit.finding("JP606", "DROP INDEX CONCURRENTLY drops one index at a time", hint=hint)
    if is_concurrent(statement) and is_cascading(statement):
        yield unit.finding("JP606", "DROP INDEX CONCURRENTLY does not take CASCADE")
    together = {catalog.context.placed(relation).name for relation in dropped}
    for one, facts in there(unit, catalog):
        part = facts.index_of.part_of if facts.index_of is not None else None
        if part is not None and part not in together:
            message = f"{one.relation} is a part of the index {Relation(None, part)}, and cannot be dropped by itself"
            yield unit.finding("JP609", message, one.offset, hint=f"DROP INDEX {part};")


#: Commands that change the definition of a relation, or all of its rows, and that catalogs refuse.
_OF_DEFINITIONS = frozenset(
    {
        *(_K.TRUNCATE, _K.DROP_TABLE, _K.DROP_VIEW, _K.DROP_INDEX, _K.ALTER_TABLE, _K.ALTER_INDEX, _K.CREATE_INDEX),
        *(_K.RENAME, _K.SET_SCHEMA),
    }
)


def check_catalogs(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Not even a superuser may change the definition of a catalog; TRUNCATE ONLY refuses a partitioned table."""
    allowed = catalog.context.is_on("allow_system_table_mods", default=False)
    if unit.statement.kind not in _OF_DEFINITIONS or allowed:
        return
    alone = only_truncated(unit.statement)
    for one, facts in there(unit, catalog):
        if facts.oid < _FIRST_OF_USERS:
            message = f"{one.relation} is a system catalog, which {unit.statement.kind} does not work on"
            yield unit.finding("JP607", message, one.offset)
        elif facts.kind == "p" and one.relation in alone:
            hint = "leave out ONLY, or name the partitions"
            message = f"TRUNCATE ONLY does not work on {one.relation}, which is a partitioned table"
            yield unit.finding("JP607", message, one.offset, hint=hint)


def check_refreshing(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield why a materialized view cannot be refreshed CONCURRENTLY."""
    statement = unit.statement
    if statement.kind is not _K.REFRESH_MATERIALIZED_VIEW or not is_concurrent(statement):
        return
    for one, facts in there(unit, catalog):
        if not facts.populated:
            message = f"{one.relation} has never been populated: the first REFRESH cannot be CONCURRENTLY"
            yield unit.finding("JP615", message, one.offset, hint=f"REFRESH MATERIALIZED VIEW {one.relation};")
        made = catalog.indexes_made_on(one.relation)
        if facts.kind == "m" and not made and not any(index.whole for index in facts.indexes):
            message = f"{one.relation} has no unique index on columns alone, without WHERE"
            yield unit.finding("JP615", message, one.offset)


def check_leftovers(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield INVALID indexes that interrupted rebuilds left behind."""
    if unit.statement.kind is not _K.REINDEX or not is_concurrent(unit.statement):
        return
    for one, facts in there(unit, catalog):
        left = [index.relation for index in facts.indexes if not index.valid and "_cc" in index.relation.name]
        if left:
            message = f"an interrupted rebuild has left the INVALID index {left[0]} on {one.relation}"
            yield unit.finding("JP514", message, one.offset, hint=f"DROP INDEX CONCURRENTLY {left[0]};")
        if facts.index_of is not None and not facts.index_of.valid:
            message = f"{one.relation} is INVALID, left by an interrupted build; REINDEX makes it valid if it succeeds"
            yield unit.finding("JP514", message, one.offset)
