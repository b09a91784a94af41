"""What the plan makes itself: rules about large tables and lost data mean none that is new, or the plan's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runner.lint.places import Place, statements
from runner.lint.rule import Subject
from runner.sql.details import created_schema, is_temporary
from runner.sql.facts import created_index, created_relations, is_guarded
from runner.sql.kinds import StatementKind as Kind
from runner.sql.parse import placeholder
from runner.sql.relations import Relation

_CREATES = (
    *(Kind.CREATE_TABLE, Kind.CREATE_FOREIGN_TABLE, Kind.CREATE_TABLE_AS, Kind.SELECT_INTO, Kind.CREATE_VIEW),
    *(Kind.CREATE_MATERIALIZED_VIEW, Kind.CREATE_SEQUENCE, Kind.CREATE_INDEX, Kind.CREATE_SCHEMA),
)

#: A step's number and an offset in its SQL: what is above what in the plan.
_Where = tuple[int, int]
_NEVER: _Where = (sys.maxsize, 0)


class Created:
    """The relations and schemas that the plan creates, each with the first place where it surely was not there before.

    A temporary table, and one that has an item of for_each in its name, is another one in every step.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._read = False
        self._relations: dict[tuple[int | None, str | None, str], _Where] = {}
        self._of_any_schema: dict[tuple[int | None, str], _Where] = {}
        self._schemas: dict[str, _Where] = {}

    def is_new(self, relation: Relation, place: Place) -> bool:
        """Return whether the plan has created the relation above `place`, where there was none before.

        What says IF NOT EXISTS or OR REPLACE may have been there, unless it is temporary.
        """
        return any(where < _where(place) for where in self._found(relation, place))

    def is_own(self, relation: Relation, place: Place) -> bool:
        """Return whether the plan creates the relation anywhere, be it again after it has dropped it."""
        return any(True for _ in self._found(relation, place))

    def schema_is_new(self, schema: str, place: Place) -> bool:
        """Return whether the plan has created the schema above `place`, where there was none before."""
        self._read_once()
        return self._schemas.get(schema, _NEVER) < _where(place)

    def _found(self, relation: Relation, place: Place) -> Iterator[_Where]:
        self._read_once()
        for step in (place.rank,) if self._is_item(relation) else (None, place.rank):
            if relation.schema is None:
                found = [self._of_any_schema.get((step, relation.name))]
            else:
                found = [self._relations.get((step, schema, relation.name)) for schema in (relation.schema, None)]
            yield from (where for where in found if where is not None)
        # What is in a schema that may have been there may be anybody's.
        schema = _NEVER if relation.schema is None else self._schemas.get(relation.schema, _NEVER)
        if schema != _NEVER:
            yield schema

    def _is_item(self, relation: Relation) -> bool:
        names = (placeholder(part) for part in (relation.schema, relation.name) if part is not None)
        return any(name is not None and name not in self._subject.plan.params for name in names)

    def _read_once(self) -> None:
        """Read the plan when the first question comes: most plans have nothing to ask about."""
        if not self._read:
            self._read = True
            for place in statements(self._subject, *_CREATES):
                self._note(place)

    def _note(self, place: Place) -> None:
        statement = place.statement
        temporary = is_temporary(statement)
        where = _where(place) if temporary or not is_guarded(statement) else _NEVER
        schema = created_schema(statement)
        if schema is not None:
            self._schemas[schema] = min(where, self._schemas.get(schema, _NEVER))
        index = created_index(statement)
        if index is not None and index.index is not None:
            self._add(index.index, where if self.is_new(index.table, place) else _NEVER, place, temporary=False)
        for relation in created_relations(statement):
            self._add(relation, where, place, temporary=temporary)

    def _add(self, relation: Relation, where: _Where, place: Place, *, temporary: bool) -> None:
        step = place.rank if temporary or self._is_item(relation) else None
        full, short = (step, relation.schema, relation.name), (step, relation.name)
        self._relations[full] = min(where, self._relations.get(full, _NEVER))
        self._of_any_schema[short] = min(where, self._of_any_schema.get(short, _NEVER))


def _where(place: Place) -> _Where:
    return (place.rank, place.statement.start)
