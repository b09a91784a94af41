"""Asks the catalog for everything that statements name, in few questions for all of them together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from runner.gateway.catalog import FunctionFacts, RelationFacts
from runner.gateway.inspection import Inspector
from runner.lint.locking.names import relation_in
from runner.preflight.surroundings import Rooms, Surroundings
from runner.preflight.texts import Unit
from runner.sql.alter import alter_actions
from runner.sql.alterations import alterations
from runner.sql.changes import changes
from runner.sql.columns import regclass_constants
from runner.sql.details import clustering_index, main_relation, named_indexes, reindexed_name
from runner.sql.facts import created_index, functions_called
from runner.sql.mentions import mentions
from runner.sql.needs import needed
from runner.sql.relations import Relation, query_relations


async def survey(units: Sequence[Unit], rooms: Rooms, inspector: Inspector) -> None:
    """Fill the statements' surroundings with what the catalog says of what they name."""
    by_room: dict[int, list[Unit]] = defaultdict(list)
    found: dict[int, Surroundings] = {}
    for unit in units:
        room = await rooms.of(unit)
        found[id(room)] = room
        by_room[id(room)].append(unit)
    own: dict[str, list[FunctionFacts]] = defaultdict(list)
    builtin: dict[str, list[FunctionFacts]] = defaultdict(list)
    names = {call.name for unit in units for call in functions_called(unit.statement)}
    for facts in await inspector.functions(sorted(names)):
        (builtin if facts.schema == "pg_catalog" else own)[facts.name].append(facts)
    for key, room in found.items():
        if room.error is not None:  # as which role nobody knows: nothing is to be asked
            continue
        room.functions |= own
        room.builtin |= builtin
        await _of_room(by_room[key], room, inspector)


async def _of_room(units: Sequence[Unit], room: Surroundings, inspector: Inspector) -> None:
    changed = [one for unit in units for one in changes(unit.statement)]
    made = {one.relation for one in changed if one.relation is not None}
    named = {relation for unit in units for relation in _relations(unit)}
    known = set(room.relations)
    await _fill(room, named | made, inspector)
    placed = {room.placed(relation) for relation in made}
    indexes = (index for index in (created_index(unit.statement) for unit in units) if index is not None)
    placed |= {Relation(room.placed(one.table).schema, one.index.name) for one in indexes if one.index is not None}
    clustered = ((main_relation(unit.statement), clustering_index(unit.statement)) for unit in units)
    placed |= {Relation(room.placed(table).schema, index) for table, index in clustered if table is not None and index}
    placed |= {
        Relation(room.placed(table).schema, index)
        for unit in units
        for index in named_indexes(unit.statement)
        if (table := main_relation(unit.statement)) is not None
    }
    await _fill(room, placed, inspector)
    fresh = [facts for name, facts in room.relations.items() if name not in known]
    await _fill(room, {other for facts in fresh for other in _others(facts)}, inspector)
    schemas = {one.schema for one in (*room.relations, *placed, *named) if one.schema}
    schemas |= {one.name for one in changed if one.name and one.relation is None}
    schemas |= {name for name in (reindexed_name(unit.statement) for unit in units) if name}
    room.known_schemas |= await inspector.schemas(sorted(schemas), room.role)
    await _measure(room, inspector)
    enums = {one.name for unit in units for one in alterations(unit.statement) if one.value}
    room.labels |= await inspector.labels(sorted(enums))
    mentioned = [one for unit in units for one in mentions(unit.statement) if (one.sort, one.name) not in room.named]
    room.named |= await inspector.mentioned(mentioned, room.schemas, room.role)


async def _fill(room: Surroundings, relations: set[Relation], inspector: Inspector) -> None:
    unknown = sorted(relations - room.relations.keys(), key=str)
    room.relations |= await inspector.relations(unknown, room.schemas, room.role)


async def _measure(room: Surroundings, inspector: Inspector) -> None:
    new = {facts.oid: facts for facts in room.relations.values() if facts.size is None}
    sizes = await inspector.sizes(list(new.values())) if new else {}
    for name, facts in room.relations.items():
        if facts.oid in sizes:
            room.relations[name] = replace(facts, size=sizes[facts.oid])


def _relations(unit: Unit) -> Iterator[Relation]:
    yield from (use.relation for use in query_relations(unit.statement))
    yield from (one.relation for one in needed(unit.statement))
    yield from (relation for relation, _ in regclass_constants(unit.statement))
    yield from (action.other for action in alter_actions(unit.statement) if action.other is not None)
    if unit.step is not None and unit.key == "sql":
        yield from filter(None, map(relation_in, unit.step.touches))


def _others(facts: RelationFacts) -> Iterable[Relation]:
    """What a lock on the relation reaches too; of partitions, of which there may be many, the parent's facts tell."""
    yield from (key.relation for key in (*facts.referenced_by, *facts.refers_to))
    yield from facts.reads
    if facts.index_of is not None:
        yield facts.index_of.relation
    if facts.partition_of is not None:
        yield facts.partition_of
