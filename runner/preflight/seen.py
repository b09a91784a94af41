"""What a step will find of a relation: what the catalog says, as earlier steps of the plan have left it."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from runner.gateway.catalog import NamedFacts, RelationFacts, SchemaFacts
from runner.preflight.made import Altered, Changes, Made, When
from runner.preflight.surroundings import Surroundings
from runner.preflight.texts import MADE_UP, Unit
from runner.sql.mentions import Named
from runner.sql.objects import Action, Sort
from runner.sql.relations import Relation


class State(enum.Enum):
    """What a step finds under a name."""

    THERE = "there"
    MISSING = "missing"
    #: An earlier step creates it: nothing is known of it yet.
    NEW = "created by an earlier step"
    #: Another step creates it, and nothing says that it comes first.
    PERHAPS = "created by a step that may come later"
    GONE = "dropped by an earlier step"
    #: An earlier step runs SQL that nobody can see into.
    UNKNOWN = "nobody can tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A relation as a step finds it. `facts` only if it is there; `made` says who is to blame for any other state."""

    state: State
    relation: Relation
    facts: RelationFacts | None = None
    made: Made | None = None
    why: str = ""

    @property
    def why_not(self) -> str:
        """Say why nothing is known of it."""
        if self.made is None:
            return self.why or "nothing is known"
        if self.made.change.sort is Sort.ANYTHING:
            return f"perhaps created by what step `{self.made.step}` runs"
        return self.made.told


class Sight:
    """What one statement sees."""

    def __init__(self, unit: Unit, around: Surroundings, changes: Changes) -> None:
        self._around = around
        self._changes = changes
        self._step = unit.step.id if unit.step is not None else ""
        #: Conditions before the step see nothing of it, those after it all of it.
        before = unit.key in {"if", "preconditions", "for_each.sql"}
        self._number = unit.number if unit.key == "sql" else -1 if before else 1_000_000
        self._computed = unit.computed

    @property
    def step(self) -> str:
        """Return the step of the statement, empty for a precondition of the plan."""
        return self._step

    @property
    def computed(self) -> frozenset[str]:
        """Return the settings to which the step gives a value that is known only when it runs."""
        return self._computed

    def altered(self, relations: Collection[Relation]) -> Iterator[Altered]:
        """Yield what earlier steps alter of these relations, and beside relations."""
        if self._step:
            placed = {self._around.placed(relation) for relation in relations}
            yield from self._changes.altered(self._step, self._number, placed)

    def surely(self, one: Altered) -> bool:
        """Return whether an alteration certainly comes before the statement."""
        return self._changes.surely(one, self._step, self._number)

    def dropped(self, relation: Relation) -> Made | None:
        """Return the last change before the statement that creates or drops the relation."""
        return self._changes.of_relation(self._around.placed(relation), self._step, self._number)

    def dropped_perhaps(self, relation: Relation) -> Made | None:
        """Return an earlier statement that drops the relation, if it happens at all or in that order."""
        if not self._step:
            return None
        return self._changes.dropped_perhaps(self._around.placed(relation), self._step, self._number)

    @property
    def around(self) -> Surroundings:
        """Return the surroundings."""
        return self._around

    def relation(self, relation: Relation) -> Seen:
        """Return what the statement finds under this name."""
        if MADE_UP in relation.name or MADE_UP in (relation.schema or ""):
            return Seen(state=State.UNKNOWN, relation=relation, why="its name is an item of for_each")
        if relation.schema is None and "search_path" in self._computed:
            why = "the step gives search_path a value that is known only when it runs"
            return Seen(state=State.UNKNOWN, relation=relation, why=why)
        facts = self._around.relations.get(relation)
        placed = self._around.placed(relation)
        made = self._changes.of_relation(placed, self._step, self._number) if self._step else None
        if made is None or (made.when is When.PERHAPS and made.change.action is Action.DROP):
            return self._unchanged(relation, facts)
        if made.when is When.PERHAPS:
            state = State.THERE if facts is not None else State.PERHAPS
        elif made.change.action is Action.DROP:
            state = State.GONE
        elif made.change.sort is Sort.SCHEMA:
            moved = made.change.kind == "renamed" or made.when is When.IF
            state = State.NEW if moved else State.MISSING
        elif facts is not None and self._was_there(placed, made):
            state = State.THERE
        else:
            state = State.NEW
        return Seen(state=state, relation=relation, facts=facts if state is State.THERE else None, made=made)

    def _was_there(self, relation: Relation, made: Made) -> bool:
        """Return whether what an earlier step creates was there before: IF NOT EXISTS, OR REPLACE, or a condition."""
        return (made.change.guarded or made.when is When.IF) and not self._was_dropped(relation, made)

    def _was_dropped(self, relation: Relation, made: Made) -> bool:
        earlier = self._changes.of_relation(relation, made.step, made.number)
        return earlier is not None and earlier.when is When.BEFORE and earlier.change.action is Action.DROP

    def _unchanged(self, relation: Relation, facts: RelationFacts | None) -> Seen:
        if facts is not None:
            return Seen(state=State.THERE, relation=relation, facts=facts)
        if not self._step:
            return Seen(state=State.MISSING, relation=relation)
        implied = self._changes.implied(relation, self._step, self._number)
        if implied is not None and implied.when is When.BEFORE:
            return Seen(state=State.NEW, relation=relation, made=implied)
        opaque = self._changes.may_be_opaque(self._step, self._number)
        state = State.MISSING if opaque is None else State.UNKNOWN
        return Seen(state=state, relation=relation, made=opaque)

    def schema(self, name: str) -> tuple[SchemaFacts | None, Made | None]:
        """Return what the catalog says of a schema, and the last change before the statement."""
        made = self._changes.of_schema(name, self._step, self._number) if self._step else None
        return self._around.known_schemas.get(name), made

    def part(self, sort: Sort, name: str, relation: Relation | None = None) -> Made | None:
        """Return the last change before the statement of a column, constraint, function or type."""
        return self._changes.of_part(sort, name, self._step, self._number, relation) if self._step else None

    def named(self, sort: Named, name: Relation) -> NamedFacts | None:
        """Return what the catalog says of something that is no relation, None if it is not there."""
        return self._around.named.get((sort, name))

    def opaque(self) -> Made | None:
        """Return a statement that comes, or may come, before and may have made anything."""
        return self._changes.may_be_opaque(self._step, self._number) if self._step else None

    def indexes_made_on(self, relation: Relation) -> bool:
        """Return whether an earlier statement creates a unique index on the relation."""
        return bool(self._step) and self._changes.has_unique_index(relation, self._step, self._number)
