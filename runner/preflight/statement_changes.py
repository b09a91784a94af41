"""What a statement changes, with resolved relations and with dependent objects.

The text says `DROP INDEX i` and `DROP TABLE t CASCADE`; the catalog says of which table the index is, and which views
are dropped with the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from runner.gateway.catalog import RelationFacts
from runner.preflight.sql_units import StatementContext, Unit
from runner.sql.catalog_changes import Action, Change, Sort, changes
from runner.sql.command_objects import adopted_indexes, created_index
from runner.sql.command_options import is_cascading
from runner.sql.definition_changes import Alteration, Aspect, alterations
from runner.sql.relations import Relation
from runner.sql.statements import Statement, StatementKind
from runner.structs import replace

_K = StatementKind
_PLACED = frozenset({Sort.RELATION, Sort.COLUMN, Sort.CONSTRAINT, Sort.UNIQUE})
_READS = frozenset(
    {
        *(_K.SELECT, _K.SHOW, _K.SET, _K.RESET, _K.ANALYZE, _K.VACUUM, _K.CHECKPOINT, _K.REINDEX, _K.CLUSTER),
        *(_K.LOCK, _K.NOTIFY, _K.COMMENT, _K.COPY_TO, _K.SET_TRANSACTION, _K.SET_CONSTRAINTS),
    }
)


def only_reads(statement: Statement) -> bool:
    """Return whether the statement is of a kind that adds or changes no rows and no objects."""
    return statement.kind in _READS


class Consequences:
    """The changes and alterations of one statement in its context."""

    def __init__(self, unit: Unit, context: StatementContext, schemas: Collection[str] = ()) -> None:
        """`schemas` are those that the plan creates."""
        self._schemas = schemas
        self._unit = unit
        self._around = context
        self._fixed = "search_path" not in unit.computed and context.error is None

    def _facts(self, relation: Relation | None) -> RelationFacts | None:
        return self._around.relations.get(relation) if relation is not None else None

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return what is created and dropped by name."""
        found = tuple(self._placed(change) for change in changes(self._unit.statement))
        if self._unit.statement.kind is _K.RENAME and len(found) == 2:
            old, new = found
            if new.sort is Sort.RELATION and new.relation is not None and old.relation is not None:
                found = (old, replace(new, relation=Relation(old.relation.schema, new.relation.name)))
        return (*found, *self._along(found))

    @property
    def alterations(self) -> tuple[Alteration, ...]:
        """Return what is altered, and what is dropped along with other objects."""
        placed = (self._placed_alteration(one) for one in alterations(self._unit.statement))
        found = [one for one in placed if not self._is_guarded_away(one)]
        for change in changes(self._unit.statement):
            if change.action is Action.DROP and change.sort is Sort.RELATION and change.relation is not None:
                found += self._of_dropped(change.relation)
        found += self._of_child_columns(found)
        if self._unit.statement.kind is _K.DROP_INDEX:
            found = [one for one in found if one.relation is not None or one.aspect is not Aspect.KEY] or found
        return tuple(found)

    def _of_child_columns(self, found: list[Alteration]) -> list[Alteration]:
        """Return the alterations of the children's columns along with the parent's."""
        of_columns = [one for one in found if one.aspect in {Aspect.COLUMN, Aspect.CONSTRAINT}]
        known = [(one, facts) for one in of_columns if (facts := self._facts(one.relation)) is not None]
        return [replace(one, relation=child) for one, facts in known for child in facts.children]

    def _is_guarded_away(self, one: Alteration) -> bool:
        """Return whether IF NOT EXISTS makes it do nothing, because the column or index exists."""
        facts = self._facts(one.relation) if one.guarded else None
        if facts is None:
            return False
        return one.name in (facts.columns if one.aspect is Aspect.COLUMN else {x.relation.name for x in facts.indexes})

    def _placed(self, change: Change) -> Change:
        if change.relation is None or change.temporary or change.sort not in _PLACED or not self._fixed:
            return change
        index = created_index(self._unit.statement)
        if index is not None and change.kind == "i":
            schema = self._around.placed(index.table).schema
            return replace(change, relation=Relation(schema, change.relation.name))
        if change.action is Action.CREATE and change.sort is Sort.RELATION:
            return replace(change, relation=self._around.new_place(change.relation, self._schemas))
        return replace(change, relation=self._around.placed(change.relation))

    def _placed_alteration(self, one: Alteration) -> Alteration:
        if one.relation is None or not self._fixed:
            return one
        return replace(one, relation=self._around.placed(one.relation))

    def _along(self, found: tuple[Change, ...]) -> Iterator[Change]:
        """Yield what is dropped or moved with a column or table, and the views and foreign keys that CASCADE drops."""
        yield from self._indexes_gone(found)
        yield from self._parts_of_tables(found)
        yield from self._indexes_of_constraints(found)
        yield from self._of_children(found)
        if not is_cascading(self._unit.statement):
            return
        dropped = [one for one in found if one.action is Action.DROP and one.sort is Sort.RELATION]
        seen = {one.relation for one in dropped}
        stack = list(seen)
        while stack:
            relation = stack.pop()
            facts = self._facts(relation)
            if facts is None:
                continue
            for view in facts.views:
                if view not in seen:
                    seen.add(view)
                    stack.append(view)
                    yield Change(Action.DROP, Sort.RELATION, view, offset=dropped[0].offset)
            for key in facts.referenced_by:
                yield Change(
                    Action.DROP,
                    Sort.CONSTRAINT,
                    key.relation,
                    name=key.constraint,
                    offset=dropped[0].offset,
                )

    def _parts_of_tables(self, found: tuple[Change, ...]) -> Iterator[Change]:
        """Yield the indexes and sequences that are dropped with their table, or moved with it (SET SCHEMA)."""
        for one in found:
            gone = one.action is Action.DROP and one.sort is Sort.RELATION and one.kind != "renamed"
            facts = self._facts(one.relation) if gone else None
            if facts is None:
                continue
            falls = facts.kind == "p" or is_cascading(self._unit.statement)
            yield from self._children_of(one, facts) if falls and self._unit.statement.kind is _K.DROP_TABLE else ()
            moved = [other.relation for other in found if other.action is Action.CREATE and other.sort is one.sort]
            own = [(index.relation, "i") for index in facts.indexes] + [(each, "S") for each in facts.sequences]
            for relation, kind in own:
                yield replace(one, relation=relation)
                for new in filter(None, moved):
                    there = Relation(new.schema, relation.name)
                    yield Change(Action.CREATE, Sort.RELATION, there, kind=kind, offset=one.offset)

    def _children_of(self, one: Change, facts: RelationFacts) -> Iterator[Change]:
        """Yield the partitions that are dropped with their table, and the children that CASCADE drops."""
        for child in facts.children:
            yield replace(one, relation=child)
            below = self._around.relations.get(child)
            for index in below.indexes if below is not None else ():
                yield replace(one, relation=index.relation)

    def _indexes_of_constraints(self, found: tuple[Change, ...]) -> Iterator[Change]:
        """Yield the index that is dropped or renamed with its constraint, and the constraint that is with its index."""
        renamed = self._unit.statement.kind is _K.RENAME and len(found) == 2
        for one in found:
            facts = self._facts(one.relation)
            if facts is None or one.action is not Action.DROP:
                continue
            if one.sort is Sort.CONSTRAINT:
                indexes = [index.relation for index in facts.indexes if index.relation.name == one.name]
                for index in indexes:
                    yield replace(one, sort=Sort.RELATION, relation=index, name="")
                    if renamed:
                        new = Relation(index.schema, found[1].name)
                        yield Change(Action.CREATE, Sort.RELATION, new, kind="i", offset=one.offset)
            elif facts.index_of is not None and facts.index_of.constraint is not None:
                table = facts.index_of.relation
                yield replace(one, sort=Sort.CONSTRAINT, relation=table, name=facts.index_of.constraint)
                if renamed and found[1].relation is not None:
                    new_name = found[1].relation.name
                    yield replace(found[1], sort=Sort.CONSTRAINT, relation=table, name=new_name)

    def _of_children(self, found: tuple[Change, ...]) -> Iterator[Change]:
        """Yield the columns that are added, dropped or renamed in children along with their parent."""
        for one in found:
            facts = self._facts(one.relation)
            if facts is None or one.sort is not Sort.COLUMN:
                continue
            dropped = one.action is Action.DROP and one.kind != "renamed"
            if dropped and facts.kind != "p":  # a child keeps a column that it has declared itself
                continue
            yield from (replace(one, relation=child) for child in facts.children)

    def _indexes_gone(self, found: tuple[Change, ...]) -> Iterator[Change]:
        for one in found:
            facts = self._facts(one.relation)
            if facts is None or one.sort is not Sort.COLUMN or one.action is not Action.DROP or one.kind == "renamed":
                continue
            for index in facts.indexes:
                if one.name in index.columns:
                    yield Change(Action.DROP, Sort.RELATION, index.relation, offset=one.offset)
        for old, new in adopted_indexes(self._unit.statement):
            schema = found[0].relation.schema if found and found[0].relation is not None else None
            if old != new:
                yield Change(Action.DROP, Sort.RELATION, Relation(schema, old), kind="renamed")
                yield Change(Action.CREATE, Sort.RELATION, Relation(schema, new), kind="i")

    def _of_dropped(self, relation: Relation) -> Iterator[Alteration]:
        facts = self._around.relations.get(relation)
        if facts is None:
            return
        if facts.index_of is not None:
            yield Alteration(Aspect.KEY, facts.index_of.relation, removes=True, old=relation.name)
            yield Alteration(Aspect.CLUSTERING, facts.index_of.relation, removes=True)
        if facts.partition_of is not None:
            yield Alteration(Aspect.PARTITION, facts.partition_of, removes=True, old=relation.name)
