"""Commands that cannot be explained, checked by the catalog: what must be there, of the right kind, and allowed.

One function a check, in a table; each yields findings about one statement and what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from runner.gateway.catalog import KeyFacts, RelationFacts
from runner.preflight.finding import Finding
from runner.preflight.seen import Seen, Sight, State
from runner.preflight.texts import Unit
from runner.sql.alter import AlterKind, alter_actions
from runner.sql.details import leaves_out_partitions, main_relation
from runner.sql.facts import created_index, is_cascading, is_guarded
from runner.sql.kinds import StatementKind
from runner.sql.objects import Action, Needed, Right, Sort, changes, needed, parts
from runner.sql.options import is_concurrent
from runner.sql.params import quote_identifier
from runner.sql.relations import Relation

_K = StatementKind

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
_PARTITIONED = frozenset("pI")


def check_utility(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what is wrong with a command, as far as the catalog tells."""
    for check in CHECKS:
        yield from check(unit, sight)


def blocking(unit: Unit, sight: Sight) -> tuple[Seen, ...]:
    """Return the relations of which nothing is known, because other steps of the plan create them."""
    seen = (sight.relation(one.relation) for one in needed(unit.statement))
    return tuple(one for one in seen if one.state in {State.NEW, State.PERHAPS, State.UNKNOWN})


def _there(unit: Unit, sight: Sight) -> Iterator[tuple[Needed, RelationFacts]]:
    for one in needed(unit.statement):
        seen = sight.relation(one.relation)
        if seen.facts is not None:
            yield one, seen.facts


def absent(relation: Relation, offset: int, seen: Seen, sight: Sight, *, missing_ok: bool = False) -> Iterator[Finding]:
    """Yield what is to be said of a relation that is not there."""
    if seen.state is State.PERHAPS and seen.made is not None:
        hint = f"add `needs: [{seen.made.step}]`"
        message = f"{relation} is created by step `{seen.made.step}`, which need not come first"
        yield Finding(code="JP612", message=message, offset=offset, hint=hint)
    elif missing_ok:
        return
    elif seen.state is State.GONE and seen.made is not None:
        message = f"{relation} is dropped by step `{seen.made.step}`"
        yield Finding(code="JP604", message=message, offset=offset)
    elif seen.state is State.UNKNOWN and seen.made is not None:
        message = f"there is no {relation}; step `{seen.made.step}` may create it"
        yield Finding(code="JP617", message=message, offset=offset)
    elif seen.state is State.MISSING:
        yield _missing(relation, offset, sight)


def _missing(relation: Relation, offset: int, sight: Sight) -> Finding:
    if relation.schema is not None and sight.schema(relation.schema)[0] is None:
        made = sight.schema(relation.schema)[1]
        if made is None:
            return Finding(code="JP601", message=f"there is no schema {Relation(None, relation.schema)}", offset=offset)
    searched = ", ".join(name for name in sight.around.schemas if name != "pg_catalog")
    where = "" if relation.schema is not None else f" in the schemas that are searched ({searched or 'none'})"
    return Finding(code="JP601", message=f"there is no relation {relation}{where}", offset=offset)


def _existence(unit: Unit, sight: Sight) -> Iterator[Finding]:
    for one in needed(unit.statement):
        seen = sight.relation(one.relation)
        yield from absent(one.relation, one.offset, seen, sight, missing_ok=one.missing_ok)


def _kind(unit: Unit, sight: Sight) -> Iterator[Finding]:
    for one, facts in _there(unit, sight):
        if one.kinds and facts.kind not in one.kinds:
            what = KINDS.get(facts.kind, "something else")
            message = f"{unit.statement.kind} does not work on {one.relation}, which is {what}"
            yield Finding(code="JP607", message=message, offset=one.offset)


def _privileges(unit: Unit, sight: Sight) -> Iterator[Finding]:
    role = sight.around.role
    for one, facts in _there(unit, sight):
        if not facts.reached:
            message = f'role "{role}" may not use the schema {facts.relation.schema}'
            hint = f"GRANT USAGE ON SCHEMA {quote_identifier(facts.relation.schema or '')} TO {quote_identifier(role)};"
            yield Finding(code="JP610", message=message, offset=one.offset, hint=hint)
        elif not _may(one.right, facts, unit):
            message = f'role "{role}" has no {one.right.value} on {one.relation}, which belongs to "{facts.owner}"'
            yield Finding(code="JP610", message=message, offset=one.offset, hint=_grant(one.right, facts, role))


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
        case _:
            return facts.owned or right.value in facts.privileges


def _grant(right: Right, facts: RelationFacts, role: str) -> str:
    if right is Right.OWN:
        return f"run the step as the owner (`role: {facts.owner}`)"
    on = facts.index_of.relation if facts.index_of is not None else facts.relation
    name = f"{quote_identifier(on.schema or '')}.{quote_identifier(on.name)}"
    return f"GRANT {right.name} ON {name} TO {quote_identifier(role)};"


def _parts(unit: Unit, sight: Sight) -> Iterator[Finding]:
    for part in parts(unit.statement):
        seen = sight.relation(part.relation)
        if seen.facts is None:
            continue
        names = seen.facts.columns if part.sort is Sort.COLUMN else seen.facts.constraints
        made = sight.part(part.sort, part.name, part.relation)
        there = part.name in names if made is None else made.change.action is Action.CREATE
        if part.exists and not there:
            message = f"{part.relation} has no {part.sort.value} {Relation(None, part.name)}"
            yield Finding(code="JP602", message=message, offset=part.offset)
        elif not part.exists and there:
            by = f" ({made.told})" if made is not None else ""
            message = f"{part.relation} has a {part.sort.value} {Relation(None, part.name)} already{by}"
            yield Finding(code="JP608", message=message, offset=part.offset)


def _schemas(unit: Unit, sight: Sight) -> Iterator[Finding]:
    for change in changes(unit.statement):
        if change.sort is Sort.SCHEMA and change.action is Action.DROP and not change.guarded:
            facts, made = sight.schema(change.name)
            if made is None and facts is None:
                message = f"there is no schema {Relation(None, change.name)}"
                yield Finding(code="JP601", message=message, offset=change.offset)


def _names(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A name that is created must be free, and its schema there and open."""
    for change in changes(unit.statement):
        if change.action is not Action.CREATE:
            continue
        if change.sort is Sort.SCHEMA:
            facts, made = sight.schema(change.name)
            there = facts is not None if made is None else made.change.action is Action.CREATE
            if there and not change.guarded:
                message = f"there is a schema {Relation(None, change.name)} already"
                yield Finding(code="JP608", message=message, offset=change.offset)
        elif change.sort is Sort.RELATION and change.relation is not None:
            yield from _new_name(unit, sight, change.relation, guarded=change.guarded, offset=change.offset)


def _new_name(unit: Unit, sight: Sight, relation: Relation, *, guarded: bool, offset: int) -> Iterator[Finding]:
    made_index = created_index(unit.statement)
    if made_index is not None and relation.schema is None:  # an index is where its table is
        relation = Relation(sight.around.placed(made_index.table).schema, relation.name)
    relation = relation if relation.schema is not None else sight.around.placed(relation)
    seen = sight.relation(relation)
    if seen.facts is not None and seen.facts.index_of is not None and not seen.facts.index_of.valid:
        hint = f"DROP INDEX CONCURRENTLY {relation};"
        message = f"an interrupted build has left the INVALID index {relation}"
        yield Finding(code="JP614", message=message, offset=offset, hint=hint)
    elif not guarded and (seen.facts is not None or _is_made(relation, seen)):
        what = KINDS.get(seen.facts.kind, "something") if seen.facts is not None else seen.why
        yield Finding(code="JP608", message=f"the name {relation} is taken: {what}", offset=offset)
    yield from _open_schema(relation, sight, offset) if seen.facts is None and made_index is None else ()


def _is_made(relation: Relation, seen: Seen) -> bool:
    made = seen.made.change.relation if seen.made is not None and seen.state is State.NEW else None
    return made is not None and made.name == relation.name


def _open_schema(relation: Relation, sight: Sight, offset: int) -> Iterator[Finding]:
    if relation.schema is None:
        return
    facts, made = sight.schema(relation.schema)
    if made is not None:
        return
    if facts is None:
        yield Finding(code="JP601", message=f"there is no schema {Relation(None, relation.schema)}", offset=offset)
    elif not facts.create:
        role = quote_identifier(sight.around.role)
        message = f'role "{sight.around.role}" may not create anything in the schema {facts.name}'
        hint = f"GRANT CREATE ON SCHEMA {quote_identifier(facts.name)} TO {role};"
        yield Finding(code="JP610", message=message, offset=offset, hint=hint)


def _partitioned(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """REINDEX and CLUSTER of a partitioned table want a text of their own; CONCURRENTLY cannot build or drop there."""
    statement = unit.statement
    for one, facts in _there(unit, sight):
        if facts.kind not in _PARTITIONED:
            continue
        what = KINDS[facts.kind]
        if statement.kind in {_K.REINDEX, _K.CLUSTER} and not unit.alone:
            message = f"{statement.kind} of {one.relation}, which is {what}, cannot share a step with other statements"
            hint = "it runs in a transaction for each partition; give it a step of its own"
            yield Finding(code="JP611", message=message, offset=one.offset, hint=hint)
        elif is_concurrent(statement) and statement.kind in {_K.CREATE_INDEX, _K.DROP_INDEX}:
            if statement.kind is _K.CREATE_INDEX and leaves_out_partitions(statement):
                continue
            message = f"{statement.kind} CONCURRENTLY does not work on {one.relation}, which is {what}"
            hint = "build it on each partition, then CREATE INDEX … ON ONLY the parent and attach them"
            yield Finding(code="JP611", message=message, offset=one.offset, hint=hint)


def _refreshing(unit: Unit, sight: Sight) -> Iterator[Finding]:
    statement = unit.statement
    if statement.kind is not _K.REFRESH_MATERIALIZED_VIEW or not is_concurrent(statement):
        return
    for one, facts in _there(unit, sight):
        if not facts.populated:
            message = f"{one.relation} has never been filled: the first REFRESH cannot be CONCURRENTLY"
            yield Finding(
                code="JP615", message=message, offset=one.offset, hint=f"REFRESH MATERIALIZED VIEW {one.relation};"
            )
        made = sight.indexes_made_on(one.relation)
        if facts.kind == "m" and not made and not any(index.whole for index in facts.indexes):
            message = f"{one.relation} has no unique index on columns alone, without WHERE"
            yield Finding(code="JP615", message=message, offset=one.offset)


def _detaching(unit: Unit, sight: Sight) -> Iterator[Finding]:
    table = main_relation(unit.statement)
    for action in alter_actions(unit.statement):
        detaches = action.kind in {AlterKind.DETACH_PARTITION, AlterKind.DETACH_PARTITION_CONCURRENTLY}
        if table is None or action.other is None or not detaches:
            continue
        parent, part = sight.relation(table).facts, sight.relation(action.other).facts
        if parent is None or part is None:
            continue
        if part.partition_of != parent.relation:
            message = f"{action.other} is no partition of {table}"
            yield Finding(code="JP606", message=message, offset=action.offset)
        if action.kind is not AlterKind.DETACH_PARTITION_CONCURRENTLY:
            continue
        if parent.default_partition is not None:
            message = f"{table} has the DEFAULT partition {parent.default_partition}"
            yield Finding(code="JP618", message=message, offset=action.offset, hint="detach without CONCURRENTLY")
        if part.detach_pending:
            hint = f"ALTER TABLE {table} DETACH PARTITION {action.other} FINALIZE;"
            message = f"{action.other} is half detached from {table} by an earlier attempt"
            yield Finding(code="JP618", message=message, offset=action.offset, hint=hint)


def _dependents(unit: Unit, sight: Sight) -> Iterator[Finding]:
    statement = unit.statement
    if statement.kind not in {_K.TRUNCATE, _K.DROP_TABLE, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_INDEX}:
        return
    together = {facts.relation for _, facts in _there(unit, sight)}
    for one, facts in _there(unit, sight):
        if facts.index_of is not None and facts.index_of.constraint is not None:
            message = (
                f"{one.relation} belongs to the constraint {facts.index_of.constraint} of {facts.index_of.relation}"
            )
            yield Finding(code="JP609", message=message, offset=one.offset)
        if is_cascading(statement):
            continue
        others = (key for key in facts.referenced_by if key.relation not in together)
        keys = [key for key in others if _stays(key.relation, sight) and not _is_dropped(key, sight)]
        for key in keys:
            message = f"{key.relation} refers to {one.relation} by its foreign key {key.constraint}"
            yield Finding(code="JP609", message=message, offset=one.offset)
        left = () if statement.kind is _K.TRUNCATE else facts.views
        views = [str(view) for view in left if view not in together and _stays(view, sight)]
        if views:
            message = f"{', '.join(views)} depend{'s' if len(views) == 1 else ''} on {one.relation}"
            yield Finding(code="JP609", message=message, offset=one.offset)


def _stays(relation: Relation, sight: Sight) -> bool:
    return sight.relation(relation).state in {State.THERE, State.MISSING}


def _is_dropped(key: KeyFacts, sight: Sight) -> bool:
    made = sight.part(Sort.CONSTRAINT, key.constraint, key.relation)
    return made is not None and made.change.action is Action.DROP


def _leftovers(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A rebuild that was interrupted has left its new index behind; the next one leaves another."""
    if unit.statement.kind is not _K.REINDEX or not is_concurrent(unit.statement):
        return
    for one, facts in _there(unit, sight):
        left = [index.relation for index in facts.indexes if not index.valid and "_cc" in index.relation.name]
        if left:
            message = f"an interrupted rebuild has left the INVALID index {left[0]} on {one.relation}"
            yield Finding(code="JP514", message=message, offset=one.offset, hint=f"DROP INDEX CONCURRENTLY {left[0]};")
        if facts.index_of is not None and not facts.index_of.valid:
            message = f"{one.relation} is INVALID, left by an interrupted build; REINDEX makes it valid if it succeeds"
            yield Finding(code="JP514", message=message, offset=one.offset)


#: Every check of a command, the most basic first.
CHECKS: tuple[Callable[[Unit, Sight], Iterator[Finding]], ...] = (
    _existence,
    _kind,
    _privileges,
    _parts,
    _schemas,
    _names,
    _partitioned,
    _refreshing,
    _detaching,
    _dependents,
    _leftovers,
)

#: Commands of which the catalog says all that matters; of others it says a part, and of the rest nothing.
FULLY = frozenset(
    {
        *(_K.VACUUM, _K.ANALYZE, _K.REINDEX, _K.CLUSTER, _K.REFRESH_MATERIALIZED_VIEW, _K.TRUNCATE),
        *(_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.CREATE_SCHEMA),
    }
)
PARTLY: Mapping[StatementKind, str] = {
    _K.CREATE_INDEX: "whether rows are unique and expressions can be computed shows when it is built",
    _K.ALTER_TABLE: "whether rows keep to a new constraint or type shows when it runs",
    _K.CREATE_TABLE: "types, defaults and constraints are checked when it is created",
    _K.CREATE_VIEW: "the view's own query is checked when it is created",
    _K.COPY_FROM: "the file is looked at when it is read",
    _K.COPY_TO: "the file is looked at when it is written",
}
NOT_CHECKABLE: Mapping[StatementKind, str] = {
    _K.DO: "what a DO block runs is known only while it runs",
    _K.CALL: "what a procedure runs is known only while it runs",
    _K.EXECUTE: "a prepared statement is known only in its session",
}


def is_guarded_away(unit: Unit, sight: Sight) -> bool:
    """Return whether IF EXISTS or IF NOT EXISTS makes the statement do nothing, as things stand."""
    if not is_guarded(unit.statement):
        return False
    made = [change.relation for change in changes(unit.statement) if change.action is Action.CREATE and change.relation]
    return bool(made) and all(sight.relation(relation).state is State.THERE for relation in made)
