"""What CLUSTER, REINDEX, VACUUM, REFRESH and similar commands refuse before they read a row.

Conflicting options, catalogs, other databases, and what an interrupted rebuild has left behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runner.preflight.catalog_state import CatalogView, State
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
from runner.sql.command_options import enabled, is_cascading, is_concurrent, is_guarded, options
from runner.sql.placeholders import quote_identifier
from runner.sql.relations import Relation
from runner.sql.statements import StatementKind
from runner.sql.table_locks import locks_taken

_K = StatementKind
#: Relations with smaller OIDs are system catalogs, or TOAST tables and indexes of such (FirstUnpinnedObjectId).
_FIRST_OF_USERS = 12_000
#: Kilobytes that BUFFER_USAGE_LIMIT accepts, besides 0.
_BUFFERS = (128, 16_777_216)
_UNITS = {"b": 1 / 1024, "kb": 1, "mb": 1024, "gb": 1024**2, "tb": 1024**3, "": 1}


def _refused(message: str, offset: int, hint: str | None = None) -> StatementFinding:
    return StatementFinding(code="JP606", message=message, offset=offset, hint=hint)


def check_clustering(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """CLUSTER needs an index of its table that it can use, or one that it has used before."""
    statement = unit.statement
    table = main_relation(statement) if statement.kind is _K.CLUSTER else None
    facts = sight.relation(table).facts if table is not None else None
    if table is None or facts is None:
        return
    name = clustering_index(statement)
    if not name:
        if facts.clustered is None:
            hint = f"CLUSTER {table} USING index;"
            yield _refused(f"{table} has never been clustered, and no index is named", statement.start, hint)
        return
    index = sight.relation(Relation(facts.relation.schema, name))
    if index.state is State.GONE and index.made is not None:
        message = f"the index {Relation(None, name)} is {index.made.words}"
        yield StatementFinding(code="JP604", message=message, offset=statement.start)
    elif index.state is State.MISSING:
        message = f"there is no index {Relation(None, name)} in the schema of {table}"
        yield StatementFinding(code="JP601", message=message, offset=statement.start)
    elif index.facts is not None:
        of = index.facts.index_of
        if of is None or of.relation != facts.relation:
            yield _refused(f"{Relation(None, name)} is not an index of {table}", statement.start)
        elif not of.clusterable:
            yield _refused(f"CLUSTER cannot use the index {Relation(None, name)} ({of.method})", statement.start)
        elif not of.valid:
            yield _refused(f"the index {Relation(None, name)} is INVALID", statement.start)


def check_named_indexes(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """CLUSTER ON, REPLICA IDENTITY USING INDEX and ADD CONSTRAINT USING INDEX need an index of the table."""
    table = main_relation(unit.statement)
    facts = sight.relation(table).facts if table is not None else None
    made_here = added_keys(unit.statement)
    for name in named_indexes(unit.statement) if facts is not None else ():
        if table is None or facts is None or name in made_here or None in made_here:
            continue
        index = sight.relation(Relation(facts.relation.schema, name))
        if index.state is State.GONE and index.made is not None:
            message = f"the index {Relation(None, name)} is {index.made.words}"
            yield StatementFinding(code="JP604", message=message, offset=unit.statement.start)
        elif index.state is State.MISSING:
            message = f"there is no index {Relation(None, name)} of {table}"
            yield StatementFinding(code="JP601", message=message, offset=unit.statement.start)
    adopted = {action.index for action in alter_actions(unit.statement) if action.using_index}
    for index_facts in facts.indexes if facts is not None else ():
        if index_facts.relation.name in adopted and not (index_facts.unique and index_facts.plain):
            message = (
                f"the index {index_facts.relation} is not unique, or not on columns alone, and cannot be a constraint"
            )
            yield StatementFinding(code="JP606", message=message, offset=unit.statement.start)


def check_reindexing(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """REINDEX SYSTEM and DATABASE accept only the current database; catalogs cannot be rebuilt CONCURRENTLY."""
    statement = unit.statement
    target = reindex_target(statement)
    if target is None:
        return
    name, concurrent = reindexed_name(statement), is_concurrent(statement)
    if target in {ReindexTarget.DATABASE, ReindexTarget.SYSTEM}:
        if name and name != sight.around.database:
            message = f"REINDEX works on the current database, {Relation(None, sight.around.database)}"
            yield _refused(message, statement.start, "connect to the other database")
        if concurrent and target is ReindexTarget.SYSTEM:
            yield _refused("system catalogs cannot be rebuilt CONCURRENTLY", statement.start)
        may = sight.around.abilities & {"superuser", "owns_database", "pg_maintain"}
        if not may and sight.around.abilities_known:
            yield _denied(f"{statement.kind} {target.name}", "the owner of the database", sight, statement.start)
    elif target is ReindexTarget.SCHEMA:
        if concurrent and name == "pg_catalog":
            message = "system catalogs cannot be rebuilt CONCURRENTLY: REINDEX would skip all of them with a WARNING"
            severity = skip_severity(unit)
            yield StatementFinding(code="JP607", message=message, offset=statement.start, severity=severity)
        yield from _schema(unit, sight, name)
    elif concurrent:
        yield from _exclusion(unit, sight)
        for one, facts in there(unit, sight):
            if facts.oid < _FIRST_OF_USERS:
                yield _refused("system catalogs cannot be rebuilt CONCURRENTLY", one.offset)


def _exclusion(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """REINDEX CONCURRENTLY refuses the index of an exclusion constraint, and skips it among those of a table."""
    for one, facts in there(unit, sight):
        own = facts.index_of
        if own is not None and own.excludes:
            message = f"{one.relation} belongs to an exclusion constraint, and cannot be rebuilt CONCURRENTLY"
            yield _refused(message, one.offset, f"REINDEX INDEX {one.relation};")
        left = [index.relation for index in facts.indexes if index.excludes]
        if left:
            message = f"REINDEX CONCURRENTLY would skip {left[0]}, of an exclusion constraint, with a WARNING"
            severity = skip_severity(unit)
            yield StatementFinding(code="JP607", message=message, offset=one.offset, severity=severity)


def _schema(unit: Unit, sight: CatalogView, name: str) -> Iterator[StatementFinding]:
    facts, made = sight.schema(name)
    if made is not None:
        return
    if facts is None:
        yield StatementFinding(
            code="JP601", message=f"there is no schema {Relation(None, name)}", offset=unit.statement.start
        )
    elif not facts.owned and "pg_maintain" not in sight.around.abilities:
        yield _denied("REINDEX SCHEMA", "the owner of the schema", sight, unit.statement.start)


def _denied(what: str, needed: str, sight: CatalogView, offset: int) -> StatementFinding:
    message = f'role "{sight.around.role}" may not run {what}: it is not {needed}'
    return StatementFinding(code="JP610", message=message, offset=offset)


def check_abilities(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """Commands that need a privilege which is not on a relation: CHECKPOINT, CREATE SCHEMA, DATABASE and ROLE."""
    if not sight.around.abilities_known:
        return
    abilities, role = sight.around.abilities, quote_identifier(sight.around.role)
    statement = unit.statement
    wanted, hint = {
        _K.CHECKPOINT: (
            {"superuser", "pg_checkpoint"},
            f"GRANT pg_checkpoint TO {role};" if sight.around.version >= 150_000 else None,
        ),
        _K.CREATE_SCHEMA: (
            {"superuser", "creates_schemas"},
            f"GRANT CREATE ON DATABASE {quote_identifier(sight.around.database)} TO {role};",
        ),
        _K.CREATE_DATABASE: ({"superuser", "creates_databases"}, f"ALTER ROLE {role} CREATEDB;"),
        _K.CREATE_ROLE: ({"superuser", "creates_roles"}, f"ALTER ROLE {role} CREATEROLE;"),
    }.get(statement.kind, (set(), None))
    new = created_schema(statement) if statement.kind is _K.CREATE_SCHEMA else None
    if new is not None and new.startswith("pg_"):
        yield _refused(f"the name {new} is reserved for the system: it begins with pg_", statement.start)
    if wanted and not wanted & abilities:
        schema = created_schema(statement) if is_guarded(statement) else None
        if schema is not None and sight.schema(schema)[0] is not None:
            return
        message = f'role "{sight.around.role}" may not run {statement.kind}'
        yield StatementFinding(code="JP610", message=message, offset=statement.start, hint=hint)


#: One of these privileges allows every mode of LOCK, but for ACCESS SHARE before version 16.
_STRONG = frozenset({"UPDATE", "DELETE", "TRUNCATE", "MAINTAIN"})


def _lock_rights(mode: str, version: int) -> frozenset[str]:
    """Return the privileges of which one is needed for a mode of LOCK (LockTableAclCheck of lockcmds.c)."""
    if version < 160_000:
        return {"ACCESS_SHARE": frozenset({"SELECT"}), "ROW_EXCLUSIVE": _STRONG | {"INSERT"}}.get(mode, _STRONG)
    more = {"ACCESS_SHARE": {"SELECT", "INSERT"}, "ROW_SHARE": {"INSERT"}, "ROW_EXCLUSIVE": {"INSERT"}}
    return _STRONG | more.get(mode, set())


def check_locking(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """LOCK needs a privilege that depends on its mode."""
    if unit.statement.kind is not _K.LOCK:
        return
    modes = {lock.relation: lock.mode for lock in locks_taken(unit.statement)}
    for one, facts in there(unit, sight):
        mode = modes.get(one.relation)
        wanted = _lock_rights(mode.name if mode is not None else "", sight.around.version)
        if not (facts.owned or wanted & facts.privileges):
            message = f'role "{sight.around.role}" has no privilege on {one.relation} that lets it take this lock'
            hint = f"GRANT UPDATE ON {facts.relation} TO {quote_identifier(sight.around.role)};"
            yield StatementFinding(code="JP610", message=message, offset=one.offset, hint=hint)


def check_vacuum_options(unit: Unit, _: CatalogView) -> Iterator[StatementFinding]:
    """Options of VACUUM and ANALYZE that exclude each other, and values that they do not accept."""
    statement = unit.statement
    if statement.kind not in {_K.VACUUM, _K.ANALYZE}:
        return
    given = options(statement)
    tables = vacuumed(statement)
    full = enabled(statement, "full")
    analyze = statement.kind is _K.ANALYZE or enabled(statement, "analyze")
    columns = any(one.columns for one in tables)
    clashes = (
        (full and _number(given.get("parallel")) > 0, "VACUUM FULL cannot work in parallel"),
        (full and enabled(statement, "disable_page_skipping"), "FULL and DISABLE_PAGE_SKIPPING exclude each other"),
        (
            full and "buffer_usage_limit" in given and not analyze,
            "BUFFER_USAGE_LIMIT has no effect on VACUUM FULL, and is refused",
        ),
        ("parallel" in given and given["parallel"] is None, "PARALLEL needs a number"),
        (not 0 <= _number(given.get("parallel")) <= 1_024, "PARALLEL takes 0 to 1024 workers"),
        (columns and not analyze, "columns can be named for ANALYZE only: VACUUM (ANALYZE) t (column)"),
        (enabled(statement, "only_database_stats") and bool(tables), "ONLY_DATABASE_STATS takes no table"),
        (
            enabled(statement, "only_database_stats") and bool(given.keys() - {"only_database_stats", "verbose"}),
            "ONLY_DATABASE_STATS excludes other options",
        ),
        ("process_toast" in given and full and not enabled(statement, "process_toast"), "FULL needs PROCESS_TOAST"),
        (not _is_cleanup(given.get("index_cleanup", "auto")), "INDEX_CLEANUP takes AUTO, ON or OFF"),
        (not _is_limit(given.get("buffer_usage_limit", "0")), "BUFFER_USAGE_LIMIT takes 0, or 128 kB to 16 GB"),
    )
    for clash, message in clashes:
        if clash:
            yield _refused(message, statement.start)


#: Values of an option that is on or off, and the options of VACUUM and ANALYZE that are.
_BOOLEANS = frozenset({"on", "off", "true", "false", "1", "0"})
_OFF = frozenset({"off", "false", "no", "0"})
_SWITCHES = frozenset(
    {
        *("full", "freeze", "verbose", "analyze", "disable_page_skipping", "skip_locked", "process_main"),
        *("process_toast", "truncate", "skip_database_stats", "only_database_stats"),
    }
)


def check_switches(unit: Unit, _: CatalogView) -> Iterator[StatementFinding]:
    """Options that are on or off take no other word."""
    if unit.statement.kind in {_K.VACUUM, _K.ANALYZE}:
        for name, value in options(unit.statement).items():
            if name in _SWITCHES and value is not None and value.lower() not in _BOOLEANS:
                yield _refused(f"{name.upper()} takes a boolean, not {value}", unit.statement.start)


#: Options of EXPLAIN that are on or off, those that need ANALYZE, and the words that two options take.
_OF_EXPLAIN = frozenset(
    {"analyze", "verbose", "costs", "settings", "generic_plan", "buffers", "wal", "timing", "summary", "memory"}
)
_OF_ANALYZE = ("timing", "wal")
_WORDS_OF_EXPLAIN = {"format": {"text", "xml", "json", "yaml"}, "serialize": {"none", "off", "text", "binary"}}


def check_explain(unit: Unit) -> Iterator[StatementFinding]:
    """Yield options of EXPLAIN that contradict each other, and values that they do not take."""
    statement = unit.statement
    given = options(statement) if statement.kind is _K.EXPLAIN else {}
    for name, value in given.items():
        words = _WORDS_OF_EXPLAIN.get(name, _BOOLEANS if name in _OF_EXPLAIN else None)
        if words is not None and value is not None and value.lower() not in words:
            yield _refused(f"the option {name.upper()} of EXPLAIN does not take {value}", statement.start)
    analyzes = enabled(statement, "analyze")
    for name in _OF_ANALYZE:
        if not analyzes and name in given and enabled(statement, name):
            yield _refused(f"the option {name.upper()} of EXPLAIN requires ANALYZE", statement.start)
    if not analyzes and "serialize" in given and (given["serialize"] or "text").lower() not in {"none", "off"}:
        yield _refused("the option SERIALIZE of EXPLAIN requires ANALYZE", statement.start)
    if analyzes and enabled(statement, "generic_plan"):
        yield _refused("EXPLAIN takes one of ANALYZE and GENERIC_PLAN", statement.start)


def check_whole_database(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """VACUUM and ANALYZE without a table skip, with a WARNING each, what the role may not maintain: shared catalogs."""
    statement = unit.statement
    whole = statement.kind in {_K.VACUUM, _K.ANALYZE} and not vacuumed(statement)
    may = sight.around.abilities & {"superuser", "pg_maintain"}
    if whole and not enabled(statement, "only_database_stats") and sight.around.abilities_known and not may:
        message = f'role "{sight.around.role}" may not maintain every catalog: {statement.kind} would skip some of them'
        severity = skip_severity(unit)
        yield StatementFinding(
            code="JP610", message=f"{message} with a WARNING", offset=statement.start, severity=severity
        )


def check_repeated_columns(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """ANALYZE names a column once; ONLY leaves nothing of a partitioned table."""
    statement = unit.statement
    for relation, columns, inherits in vacuumed(statement):
        twice = [name for name, number in Counter(columns).items() if number > 1]
        if twice:
            yield _refused(f"the column {Relation(None, twice[0])} of {relation} is named twice", statement.start)
        facts = sight.relation(relation).facts
        if statement.kind is _K.VACUUM and not inherits and facts is not None and facts.kind == "p":
            message = f"VACUUM ONLY does nothing with {relation}, which is a partitioned table, but a WARNING"
            severity = skip_severity(unit)
            yield StatementFinding(code="JP607", message=message, offset=statement.start, severity=severity)


def check_concurrent_drop(unit: Unit, _: CatalogView) -> Iterator[StatementFinding]:
    """DROP INDEX CONCURRENTLY takes one index, and no CASCADE."""
    statement = unit.statement
    if statement.kind is not _K.DROP_INDEX or not is_concurrent(statement):
        return
    if len(dropped_relations(statement)) > 1:
        hint = "write a step for each index"
        yield _refused("DROP INDEX CONCURRENTLY drops one index at a time", statement.start, hint)
    if is_cascading(statement):
        yield _refused("DROP INDEX CONCURRENTLY does not take CASCADE", statement.start)


#: Commands that change the definition of a relation, or all of its rows, and that catalogs refuse.
_OF_DEFINITIONS = frozenset(
    {
        *(_K.TRUNCATE, _K.DROP_TABLE, _K.DROP_VIEW, _K.DROP_INDEX, _K.ALTER_TABLE, _K.ALTER_INDEX, _K.CREATE_INDEX),
        *(_K.RENAME, _K.SET_SCHEMA),
    }
)


def check_catalogs(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """A superuser, too, changes no definition of a catalog; TRUNCATE ONLY takes no partitioned table."""
    allowed = dict(sight.around.settings).get("allow_system_table_mods", "off").lower() not in _OFF
    if unit.statement.kind not in _OF_DEFINITIONS or allowed:
        return
    alone = only_truncated(unit.statement)
    for one, facts in there(unit, sight):
        if facts.oid < _FIRST_OF_USERS:
            message = f"{one.relation} is a system catalog, which {unit.statement.kind} does not work on"
            yield StatementFinding(code="JP607", message=message, offset=one.offset)
        elif facts.kind == "p" and one.relation in alone:
            hint = "leave out ONLY, or name the partitions"
            message = f"TRUNCATE ONLY does not work on {one.relation}, which is a partitioned table"
            yield StatementFinding(code="JP607", message=message, offset=one.offset, hint=hint)


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError:
        return -1


def _is_cleanup(text: str | None) -> bool:
    return text is None or text.lower() in {"auto", *_BOOLEANS}


def _is_limit(text: str | None) -> bool:
    digits = (text or "").strip().rstrip("BkKMGTmgtb ")
    unit = (text or "").strip()[len(digits) :].strip().lower()
    if not digits.isdigit() or unit not in _UNITS:
        return False
    size = int(digits) * _UNITS[unit]
    return size == 0 or _BUFFERS[0] <= size <= _BUFFERS[1]


def check_index_parts(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """An index of a partition can be dropped only with the index of the partitioned table."""
    if unit.statement.kind is not _K.DROP_INDEX:
        return
    together = {sight.around.placed(relation).name for relation in dropped_relations(unit.statement)}
    for one, facts in there(unit, sight):
        part_of = facts.index_of.part_of if facts.index_of is not None else None
        if part_of is not None and part_of not in together:
            message = (
                f"{one.relation} is a part of the index {Relation(None, part_of)}, and cannot be dropped by itself"
            )
            yield StatementFinding(code="JP609", message=message, offset=one.offset, hint=f"DROP INDEX {part_of};")


def check_refreshing(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """Yield why a materialized view cannot be refreshed CONCURRENTLY."""
    statement = unit.statement
    if statement.kind is not _K.REFRESH_MATERIALIZED_VIEW or not is_concurrent(statement):
        return
    for one, facts in there(unit, sight):
        if not facts.populated:
            message = f"{one.relation} has never been populated: the first REFRESH cannot be CONCURRENTLY"
            yield StatementFinding(
                code="JP615", message=message, offset=one.offset, hint=f"REFRESH MATERIALIZED VIEW {one.relation};"
            )
        made = sight.indexes_made_on(one.relation)
        if facts.kind == "m" and not made and not any(index.whole for index in facts.indexes):
            message = f"{one.relation} has no unique index on columns alone, without WHERE"
            yield StatementFinding(code="JP615", message=message, offset=one.offset)


def check_leftovers(unit: Unit, sight: CatalogView) -> Iterator[StatementFinding]:
    """Yield INVALID indexes that interrupted rebuilds left behind."""
    if unit.statement.kind is not _K.REINDEX or not is_concurrent(unit.statement):
        return
    for one, facts in there(unit, sight):
        left = [index.relation for index in facts.indexes if not index.valid and "_cc" in index.relation.name]
        if left:
            message = f"an interrupted rebuild has left the INVALID index {left[0]} on {one.relation}"
            yield StatementFinding(
                code="JP514", message=message, offset=one.offset, hint=f"DROP INDEX CONCURRENTLY {left[0]};"
            )
        if facts.index_of is not None and not facts.index_of.valid:
            message = f"{one.relation} is INVALID, left by an interrupted build; REINDEX makes it valid if it succeeds"
            yield StatementFinding(code="JP514", message=message, offset=one.offset)
