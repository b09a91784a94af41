"""Checks that the objects that a command names exist, are of the right kind and accessible, and new names are free.

They also check dependent objects, partitions, and the privileges of the step's role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.errors import Severity
from runner.gateway.catalog import DependentFacts, KeyFacts, RelationFacts
from runner.phrases import few
from runner.preflight.catalog_state import CatalogView, SeenRelation, State, When
from runner.preflight.sql_units import StatementFinding, Unit
from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.catalog_changes import EXTENSION, Action, Sort, attached, changes, parts
from runner.sql.catalog_needs import Needed, Right, needed
from runner.sql.command_objects import created_index, created_schema, main_relation, new_name
from runner.sql.command_options import is_cascading, is_concurrent, is_guarded, leaves_out_partitions, role_for_file
from runner.sql.definition_changes import Aspect
from runner.sql.placeholders import quote_identifier
from runner.sql.relations import Relation
from runner.sql.statements import StatementKind

#: Letters of pg_class.relkind.
KINDS: Mapping[str, str] = {
    "r": "a table",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "I": "a partitioned index",
    "S": "a sequence",
    "t": "a TOAST table",
    "c": "a composite type",
}


def there(unit: Unit, catalog: CatalogView) -> Iterator[tuple[Needed, RelationFacts]]:
    """Yield existing relations that the statement needs."""
    for one in needed(unit.statement):
        seen = catalog.relation(one.relation)
        if seen.facts is not None:
            yield one, seen.facts


def absent(
    relation: Relation, offset: int, seen: SeenRelation, catalog: CatalogView, *, missing_ok: bool = False
) -> Iterator[StatementFinding]:
    """Yield the finding for a relation that does not exist."""
    if seen.state is State.PERHAPS and seen.made is not None:
        hint = f"add `needs: [{seen.made.step}]`"
        message = f"{relation} is created by step `{seen.made.step}`, which may run later"
        yield StatementFinding("JP612", message, offset, hint=hint)
    elif missing_ok:
        return
    elif seen.state is State.GONE and seen.made is not None:
        yield StatementFinding("JP604", f"{relation} is dropped by step `{seen.made.step}`", offset)
    elif seen.state is State.UNKNOWN and seen.made is not None and seen.made.change.kind != EXTENSION:
        yield StatementFinding("JP617", f"there is no {relation}; step `{seen.made.step}` may create it", offset)
    elif seen.state is State.MISSING:
        yield _missing(relation, offset, catalog)


def _missing(relation: Relation, offset: int, catalog: CatalogView) -> StatementFinding:
    if relation.schema is not None and catalog.schema(relation.schema) == (None, None):
        return StatementFinding("JP601", f"there is no schema {Relation(None, relation.schema)}", offset)
    searched = ", ".join(name for name in catalog.context.schemas if name != "pg_catalog")
    where = "" if relation.schema is not None else f" in the schemas of search_path ({searched or 'none'})"
    return StatementFinding("JP601", f"there is no relation {relation}{where}", offset)


def check_existence(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield relations that do not exist when the statement runs."""
    for one in needed(unit.statement):
        seen = catalog.relation(one.relation)
        yield from absent(one.relation, one.offset, seen, catalog, missing_ok=one.missing_ok)


def of_wrappers(unit: Unit, catalog: CatalogView) -> Iterator[str]:
    """Yield why not all is known of a foreign table: its wrapper decides what it can do."""
    if unit.statement.kind in {StatementKind.TRUNCATE, StatementKind.ANALYZE, StatementKind.COPY_FROM}:
        for one, facts in there(unit, catalog):
            if facts.kind == "f":
                yield f"whether the foreign-data wrapper of {one.relation} can do this shows when it runs"


def check_kind(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield relations of a kind that the command does not work on."""
    for one, facts in there(unit, catalog):
        if one.kinds and facts.kind not in one.kinds:
            what = KINDS.get(facts.kind, "something else")
            message = f"{unit.statement.kind} does not work on {one.relation}, which is {what}"
            skips = unit.statement.kind in {StatementKind.VACUUM, StatementKind.ANALYZE}
            message += f": {unit.statement.kind} would skip it with a WARNING" if skips else ""
            yield unit.finding("JP607", message, one.offset, severity=skip_severity(unit) if skips else None)


def skip_severity(unit: Unit) -> Severity | None:
    """Return the severity if a maintenance command skips an object: its step fails, unless that is allowed."""
    step = unit.step
    judged = step is not None and step.expect is not None and step.expect.judges_warnings
    allowed = step is not None and step.allow_failure is not None
    return Severity.WARNING if judged or allowed else None


def check_parts(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield columns and constraints that do not exist, or exist already."""
    for part in parts(unit.statement):
        seen = catalog.relation(part.relation)
        if seen.facts is None:
            continue
        names = seen.facts.columns if part.sort is Sort.COLUMN else seen.facts.constraints
        if part.sort is Sort.CONSTRAINT and not part.exists and part.name in seen.facts.inherited:
            continue  # it merges with the parent's
        made = catalog.part(part.sort, part.name, part.relation)
        there = part.name in names if made is None else made.creates
        if part.exists and not there:
            message = f"{part.relation} has no {part.sort.value} {Relation(None, part.name)}"
            yield unit.finding("JP602", message, part.offset)
        elif not part.exists and there:
            by = f" ({made.words})" if made is not None else ""
            message = f"{part.relation} has a {part.sort.value} {Relation(None, part.name)} already{by}"
            yield unit.finding("JP608", message, part.offset)


def check_attached(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield triggers, rules and policies that do not exist, or exist already."""
    for one in attached(unit.statement):
        facts = catalog.facts(one.relation)
        if facts is None:
            continue
        there_now = (one.sort, one.name) in facts.attached
        if one.exists and not there_now:
            yield unit.finding("JP602", f"{one.relation} has no {one.sort} {Relation(None, one.name)}")
        elif not one.exists and there_now:
            yield unit.finding("JP608", f"{one.relation} has a {one.sort} {Relation(None, one.name)} already")


def check_dropped_schemas(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield schemas to drop that do not exist, or belong to another role."""
    for change in changes(unit.statement):
        if change.sort is not Sort.SCHEMA or change.action is not Action.DROP:
            continue
        facts, made = catalog.schema(change.name)
        if made is not None and made.removes and not change.guarded:
            yield unit.finding("JP604", f"the schema {Relation(None, change.name)} is {made.words}", change.offset)
        elif made is None and facts is None and not change.guarded:
            yield unit.finding("JP601", f"there is no schema {Relation(None, change.name)}", change.offset)
        elif made is None and facts is not None and not facts.owned:
            message = f'role "{catalog.context.role}" does not own the schema {Relation(None, change.name)}'
            yield unit.finding("JP610", message, change.offset)


_K = StatementKind


def check_dependents(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield objects that depend on a dropped or truncated object and are not dropped with it."""
    statement = unit.statement
    if statement.kind not in {_K.TRUNCATE, _K.DROP_TABLE, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_INDEX}:
        return
    together = {facts.relation for _, facts in there(unit, catalog)}
    for one, facts in there(unit, catalog):
        if facts.index_of is not None and facts.index_of.constraint is not None:
            message = (
                f"{one.relation} belongs to the constraint {facts.index_of.constraint} of {facts.index_of.relation}"
            )
            yield unit.finding("JP609", message, one.offset)
        if is_cascading(statement):
            continue
        others = (key for key in facts.referenced_by if key.relation not in together)
        keys = [key for key in others if _stays(key.relation, catalog) and not _is_dropped(key, catalog)]
        for key in keys:
            message = f"{key.relation} refers to {one.relation} by its foreign key {key.constraint}"
            yield unit.finding("JP609", message, one.offset)
        left = () if statement.kind is _K.TRUNCATE else facts.views
        views = [str(view) for view in left if view not in together and _stays(view, catalog)]
        if views:
            message = f"{', '.join(views)} depend{'s' if len(views) == 1 else ''} on {one.relation}"
            yield unit.finding("JP609", message, one.offset)
        others_left = () if statement.kind is _K.TRUNCATE else facts.dependents
        stay = [each.what for each in others_left if each.relation not in together and _remains(each, catalog)]
        if stay:
            message = f"{', '.join(stay)} depend{'s' if len(stay) == 1 else ''} on {one.relation}"
            yield unit.finding("JP609", message, one.offset)


def _remains(one: DependentFacts, catalog: CatalogView) -> bool:
    """Return whether it still exists after previous steps."""
    altered = [each.alteration for each in catalog.altered([] if one.relation is None else [one.relation])]
    if one.function is not None:
        made = catalog.part(Sort.FUNCTION, one.function)
        dropped = made is not None and made.change.action is Action.DROP
        removed = any(each.aspect is Aspect.FUNCTION and one.function in {each.name, each.old, ""} for each in altered)
        return not (dropped or removed)
    if one.relation is None or not _stays(one.relation, catalog):
        return False
    return not any(each.aspect is Aspect.ATTACHED and each.removes for each in altered)


def _stays(relation: Relation, catalog: CatalogView) -> bool:
    seen = catalog.relation(relation)
    renamed = seen.state is State.GONE and seen.made is not None and seen.made.change.kind == "renamed"
    return renamed or seen.state in {State.THERE, State.MISSING}


def _is_dropped(key: KeyFacts, catalog: CatalogView) -> bool:
    made = catalog.part(Sort.CONSTRAINT, key.constraint, key.relation)
    return made is not None and made.change.action is Action.DROP


_PARTITIONED = frozenset("pI")


def check_partitioned(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """REINDEX and CLUSTER of a partitioned table need a separate step; CONCURRENTLY cannot build or drop there."""
    statement = unit.statement
    for one, facts in there(unit, catalog):
        if facts.kind not in _PARTITIONED:
            continue
        what = KINDS[facts.kind]
        if statement.kind in {_K.REINDEX, _K.CLUSTER} and not unit.alone:
            message = f"{statement.kind} of {one.relation}, which is {what}, cannot share a step with other statements"
            hint = "it runs in a transaction for each partition; give it a step of its own"
            yield unit.finding("JP611", message, one.offset, hint=hint)
        elif is_concurrent(statement) and statement.kind in {_K.CREATE_INDEX, _K.DROP_INDEX}:
            if statement.kind is _K.CREATE_INDEX and leaves_out_partitions(statement):
                continue
            message = f"{statement.kind} CONCURRENTLY does not work on {one.relation}, which is {what}"
            hint = "build it on each partition, then CREATE INDEX … ON ONLY the parent and attach them"
            yield unit.finding("JP611", message, one.offset, hint=hint)


_DETACHES = frozenset(
    {AlterKind.DETACH_PARTITION, AlterKind.DETACH_PARTITION_CONCURRENTLY, AlterKind.DETACH_PARTITION_FINALIZE}
)


def check_detaching(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield why DETACH PARTITION would fail."""
    table = main_relation(unit.statement)
    for action in alter_actions(unit.statement):
        detaches = action.kind in _DETACHES
        if table is None or action.other is None or not detaches:
            continue
        parent, part = catalog.facts(table), catalog.facts(action.other)
        if parent is None or part is None:
            continue
        if part.partition_of != parent.relation:
            yield unit.finding("JP606", f"{action.other} is no partition of {table}", action.offset)
        elif action.kind is AlterKind.DETACH_PARTITION_FINALIZE and not part.detach_pending:
            message = f"FINALIZE completes an interrupted DETACH … CONCURRENTLY of {action.other}, and there is none"
            hint = f"ALTER TABLE {table} DETACH PARTITION {action.other};"
            yield unit.finding("JP618", message, action.offset, hint=hint)
        if action.kind is not AlterKind.DETACH_PARTITION_CONCURRENTLY:
            continue
        if parent.default_partition is not None:
            message = f"{table} has the DEFAULT partition {parent.default_partition}"
            yield unit.finding("JP618", message, action.offset, hint="detach without CONCURRENTLY")
        if part.detach_pending:
            hint = f"ALTER TABLE {table} DETACH PARTITION {action.other} FINALIZE;"
            message = f"{action.other} is only half detached from {table}, by a previous attempt"
            yield unit.finding("JP618", message, action.offset, hint=hint)


def check_new_names(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """A name that is created must be free, and its schema must exist and allow it."""
    creates_schema = created_schema(unit.statement) is not None  # its contents are new too
    if _does_nothing(unit, catalog):
        return
    for change in changes(unit.statement):
        if change.action is not Action.CREATE:
            continue
        if change.sort is Sort.SCHEMA:
            facts, made = catalog.schema(change.name)
            there = facts is not None if made is None else made.creates
            unsure = made is not None and made.when is not When.BEFORE
            if there and not change.guarded and not unsure:
                yield unit.finding("JP608", f"there is a schema {Relation(None, change.name)} already", change.offset)
        elif change.sort is Sort.RELATION and change.relation is not None and not (creates_schema or change.temporary):
            yield from _new_name(unit, catalog, change.relation, guarded=change.guarded, offset=change.offset)


def _does_nothing(unit: Unit, catalog: CatalogView) -> bool:
    """Return whether ALTER … RENAME or SET SCHEMA does nothing: IF EXISTS of a missing object, or the same schema."""
    named = new_name(unit.statement)
    if named is None:
        return False
    old = catalog.relation(named.old)
    moves = unit.statement.kind is _K.SET_SCHEMA
    if moves and old.facts is not None and old.facts.relation.schema == named.new.schema:
        return True
    return named.guarded and old.state in {State.MISSING, State.GONE}


def _new_name(
    unit: Unit, catalog: CatalogView, relation: Relation, *, guarded: bool, offset: int
) -> Iterator[StatementFinding]:
    made_index = created_index(unit.statement)
    if made_index is not None and relation.schema is None:  # an index is where its table is
        relation = Relation(catalog.context.placed(made_index.table).schema, relation.name)
    relation = catalog.new_place(relation)
    seen = catalog.relation(relation)
    if seen.facts is not None and seen.facts.index_of is not None and not seen.facts.index_of.valid:
        hint = f"DROP INDEX CONCURRENTLY {relation};"
        yield unit.finding("JP614", f"an interrupted build has left the INVALID index {relation}", offset, hint=hint)
    elif not guarded and (seen.facts is not None or _is_made(relation, seen)):
        what = KINDS.get(seen.facts.kind, "something") if seen.facts is not None else seen.why_not
        yield unit.finding("JP608", f"the name {relation} is taken: {what}", offset)
    if seen.facts is None and made_index is None:
        yield from _open_schema(relation, catalog, offset, moved=unit.statement.kind is _K.SET_SCHEMA)


def _is_made(relation: Relation, seen: SeenRelation) -> bool:
    made = seen.made
    if made is None or seen.state is not State.NEW or made.when is not When.BEFORE or made.change.temporary:
        return False
    return made.change.relation is not None and made.change.relation.name == relation.name


def _open_schema(relation: Relation, catalog: CatalogView, offset: int, *, moved: bool) -> Iterator[StatementFinding]:
    """Yield why nothing can be created in a schema. Only SET SCHEMA (`moved`) can bring something into pg_catalog."""
    if relation.schema is None:
        if catalog.context.error is None and "search_path" not in catalog.computed:
            yield StatementFinding("JP601", "search_path has no schema in which objects could be created", offset)
        return
    if relation.schema.startswith("pg_temp"):  # every session may create one
        return
    allowed = catalog.context.is_on("allow_system_table_mods", default=False)
    if relation.schema in ({"pg_toast"} if moved else {"pg_catalog", "pg_toast"}) and not allowed:
        yield StatementFinding("JP610", f"no role may create {relation}: the schema is the system's", offset)
        return
    facts, made = catalog.schema(relation.schema)
    if made is not None:
        if made.removes:
            yield StatementFinding("JP604", f"the schema {Relation(None, relation.schema)} is {made.words}", offset)
        return
    if facts is None:
        yield StatementFinding("JP601", f"there is no schema {Relation(None, relation.schema)}", offset)
    elif not facts.create:
        role = quote_identifier(catalog.context.role)
        message = f'role "{catalog.context.role}" may not create anything in the schema {facts.name}'
        hint = f"GRANT CREATE ON SCHEMA {quote_identifier(facts.name)} TO {role};"
        yield StatementFinding("JP610", message, offset, hint=hint)


def is_guarded_away(unit: Unit, catalog: CatalogView) -> bool:
    """Return whether IF EXISTS or IF NOT EXISTS makes the statement do nothing now."""
    if not is_guarded(unit.statement):
        return False
    made = [change.relation for change in changes(unit.statement) if change.action is Action.CREATE and change.relation]
    return bool(made) and all(catalog.relation(catalog.new_place(relation)).state is State.THERE for relation in made)


#: Commands that skip objects without privilege, and succeed.
_SKIPS = frozenset({_K.VACUUM, _K.ANALYZE})
#: The version from which on MAINTAIN can be granted.
_MAINTAIN = 170_000
#: How many objects a finding names.
_NAMED = 3


def check_rights(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield missing privileges of the role."""
    role = catalog.context.role
    for one, facts in there(unit, catalog):
        if not facts.reached:
            message = f'role "{role}" may not use the schema {facts.relation.schema}'
            hint = f"GRANT USAGE ON SCHEMA {quote_identifier(facts.relation.schema or '')} TO {quote_identifier(role)};"
            yield unit.finding("JP610", message, one.offset, hint=hint)
        elif not _may(one.right, facts, unit):
            right = _right(one.right, catalog)
            message = f'role "{role}" has no {right.value} on {one.relation}, which belongs to "{facts.owner}"'
            if unit.statement.kind in _SKIPS:
                message += f": {unit.statement.kind} would skip it with a WARNING"
            # With any privilege of its own the role gets a WARNING: nothing was granted.
            some = one.right is Right.GRANT and bool(facts.privileges or facts.on_columns)
            severity = Severity.WARNING if some else None
            yield unit.finding("JP610", message, one.offset, hint=_grant(right, facts, role), severity=severity)
        elif unit.statement.kind in _SKIPS and facts.kind == "p" and facts.unmaintained and not facts.of_database:
            yield _partitions(unit, facts, one.offset, role)


def check_files(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield a COPY whose file or program the role may not use."""
    wanted = role_for_file(unit.statement)
    if wanted is not None and wanted not in catalog.context.outside:
        role = catalog.context.role
        message = f'role "{role}" may not use files and programs of the server: it is not a member of {wanted}'
        yield unit.finding("JP610", message, hint=f"GRANT {wanted} TO {quote_identifier(role)};")


def _right(right: Right, catalog: CatalogView) -> Right:
    """MAINTAIN is a privilege since version 17."""
    return Right.OWN if right is Right.MAINTAIN and catalog.context.version < _MAINTAIN else right


def _partitions(unit: Unit, facts: RelationFacts, offset: int, role: str) -> StatementFinding:
    names = few([str(one) for one in facts.unmaintained], _NAMED)
    message = (
        f'role "{role}" may not maintain {len(facts.unmaintained)} of the partitions of {facts.relation}: '
        f"{unit.statement.kind} would skip {names} with a WARNING"
    )
    return unit.finding("JP610", message, offset, severity=skip_severity(unit))


def _may(right: Right, facts: RelationFacts, unit: Unit) -> bool:
    match right:
        case Right.NONE:
            return True
        case Right.OWN:
            return facts.owned or (unit.statement.kind.startswith("DROP") and facts.drops)
        case Right.MAINTAIN:
            index = facts.index_of
            table = index is not None and (index.owned or index.maintained)
            vacuums = unit.statement.kind in {_K.VACUUM, _K.ANALYZE} and facts.of_database
            return facts.owned or table or vacuums or "MAINTAIN" in facts.privileges
        case Right.GRANT:
            return facts.owned or facts.grants
        case _:
            return facts.owned or right.value in facts.privileges


def _grant(right: Right, facts: RelationFacts, role: str) -> str:
    if right in {Right.OWN, Right.GRANT}:
        return f"run the step as the owner (`role: {facts.owner}`)"
    on = facts.index_of.relation if facts.index_of is not None else facts.relation
    name = f"{quote_identifier(on.schema or '')}.{quote_identifier(on.name)}"
    return f"GRANT {right.name} ON {name} TO {quote_identifier(role)};"
