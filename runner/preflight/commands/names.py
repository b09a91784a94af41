"""A name that a command creates is free, and its schema there and open."""

from __future__ import annotations

from collections.abc import Iterator

from runner.preflight.commands.existence import KINDS
from runner.preflight.finding import Finding
from runner.preflight.made import When
from runner.preflight.seen import Seen, Sight, State
from runner.preflight.texts import Unit
from runner.sql.changes import changes
from runner.sql.details import created_schema
from runner.sql.facts import created_index, is_guarded
from runner.sql.objects import Action, Sort
from runner.sql.params import quote_identifier
from runner.sql.relations import Relation


def check_new_names(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A name that is created must be free, and its schema there and open."""
    creates_schema = created_schema(unit.statement) is not None  # what it has in it is new with it
    for change in changes(unit.statement):
        if change.action is not Action.CREATE:
            continue
        if change.sort is Sort.SCHEMA:
            facts, made = sight.schema(change.name)
            there = facts is not None if made is None else made.change.action is Action.CREATE
            unsure = made is not None and made.when is not When.BEFORE
            if there and not change.guarded and not unsure:
                message = f"there is a schema {Relation(None, change.name)} already"
                yield Finding(code="JP608", message=message, offset=change.offset)
        elif change.sort is Sort.RELATION and change.relation is not None and not (creates_schema or change.temporary):
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
        what = KINDS.get(seen.facts.kind, "something") if seen.facts is not None else seen.why_not
        yield Finding(code="JP608", message=f"the name {relation} is taken: {what}", offset=offset)
    yield from _open_schema(relation, sight, offset) if seen.facts is None and made_index is None else ()


def _is_made(relation: Relation, seen: Seen) -> bool:
    sure = seen.made is not None and seen.state is State.NEW and seen.made.when is When.BEFORE
    made = seen.made.change.relation if sure and seen.made is not None else None
    return made is not None and made.name == relation.name


def _open_schema(relation: Relation, sight: Sight, offset: int) -> Iterator[Finding]:
    if relation.schema is None:
        if sight.around.error is None and "search_path" not in sight.computed:
            yield Finding(code="JP601", message="search_path has no schema that anything is created in", offset=offset)
        return
    facts, made = sight.schema(relation.schema)
    if made is not None:
        if made.change.action is Action.DROP and made.when is When.BEFORE:
            message = f"the schema {Relation(None, relation.schema)} is {made.told}"
            yield Finding(code="JP604", message=message, offset=offset)
        return
    if facts is None:
        yield Finding(code="JP601", message=f"there is no schema {Relation(None, relation.schema)}", offset=offset)
    elif not facts.create:
        role = quote_identifier(sight.around.role)
        message = f'role "{sight.around.role}" may not create anything in the schema {facts.name}'
        hint = f"GRANT CREATE ON SCHEMA {quote_identifier(facts.name)} TO {role};"
        yield Finding(code="JP610", message=message, offset=offset, hint=hint)


def is_guarded_away(unit: Unit, sight: Sight) -> bool:
    """Return whether IF EXISTS or IF NOT EXISTS makes the statement do nothing, as things stand."""
    if not is_guarded(unit.statement):
        return False
    made = [change.relation for change in changes(unit.statement) if change.action is Action.CREATE and change.relation]
    return bool(made) and all(sight.relation(relation).state is State.THERE for relation in made)
