"""What the plan makes itself: rules about large tables and lost data mean none that is new, or the plan's own."""

from __future__ import annotations

from collections import defaultdict
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


class Created:
    """The relations and schemas that the plan creates."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._read = False
        self._relations: defaultdict[str, list[tuple[Relation, _Where, bool]]] = defaultdict(list)
        self._schemas: dict[str, tuple[_Where, bool]] = {}

    def is_new(self, relation: Relation, place: Place) -> bool:
        """Return whether the plan has created the relation above `place`, where there was none before.

        What says IF NOT EXISTS or OR REPLACE may have been there, unless it is temporary.
        """
        here = _where(place)
        return any(where < here and new for where, new in self._found(relation, place))

    def is_own(self, relation: Relation, place: Place) -> bool:
        """Return whether the plan creates the relation anywhere, be it again after it has dropped it."""
        return any(True for _ in self._found(relation, place))

    def schema_is_new(self, schema: str, place: Place) -> bool:
        """Return whether the plan has created the schema above `place`, where there was none before."""
        self._read_once()
        found = self._schemas.get(schema)
        return found is not None and found[1] and found[0] < _where(place)

    def schema_is_own(self, schema: str) -> bool:
        """Return whether the plan creates the schema anywhere."""
        self._read_once()
        return schema in self._schemas

    def _read_once(self) -> None:
        """Read the plan when the first question comes: most plans have nothing to ask about."""
        if not self._read:
            self._read = True
            for place in statements(self._subject, *_CREATES):
                self._note(place)

    def _found(self, relation: Relation, place: Place) -> Iterator[tuple[_Where, bool]]:
        self._read_once()
        of_item = self._is_item(relation)
        for created, where, new in self._relations.get(relation.name, ()):
            if created.may_be(relation) and (not of_item or where[0] == place.rank):
                yield where, new
        if relation.schema is not None and relation.schema in self._schemas:
            where, new = self._schemas[relation.schema]
            if new:  # what is in a schema that may have been there may be anybody's
                yield where, new

    def _is_item(self, relation: Relation) -> bool:
        """Return whether an item of for_each is in the name: in two steps it may be two things."""
        names = (placeholder(part) for part in (relation.schema, relation.name) if part is not None)
        return any(name is not None and name not in self._subject.plan.params for name in names)

    def _note(self, place: Place) -> None:
        statement = place.statement
        where = _where(place)
        new = not is_guarded(statement) or is_temporary(statement)
        schema = created_schema(statement)
        if schema is not None:
            self._schemas.setdefault(schema, (where, new))
        index = created_index(statement)
        if index is not None and index.index is not None:
            self._relations[index.index.name].append((index.index, where, self.is_new(index.table, place)))
        for relation in created_relations(statement):
            self._relations[relation.name].append((relation, where, new))


def _where(place: Place) -> _Where:
    return (place.rank, place.statement.start)
