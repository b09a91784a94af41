"""What the plan's earlier steps make of the catalog, so that a step is judged by what it will find.

Changes are looked up by name, the latest one that surely or possibly comes before. Whether a step comes before another
one is the graph's word; where it says nothing the two may run in any order.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.plan.graph import ancestors, topological_order
from runner.plan.model import Plan
from runner.sql.objects import Action, Change, Sort
from runner.sql.relations import Relation


class When(enum.Enum):
    """When a change happens, seen from a step."""

    BEFORE = "before it"
    PERHAPS = "before or after it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A change, the step that makes it, and when; `number` is the statement's in that step."""

    change: Change
    step: str
    number: int
    when: When = When.BEFORE

    @property
    def told(self) -> str:
        """Say what happens: `created by step x`."""
        return f"{self.change.action.value} by step `{self.step}`"


class Changes:
    """All changes of a plan. `note` them first, in any order, then ask."""

    def __init__(self, plan: Plan) -> None:
        steps = (*plan.steps, *plan.finally_)
        self._needs = {step.id: tuple(need.step for need in step.needs) for step in steps}
        self._place = {name: number for number, name in enumerate(topological_order(self._needs))}
        self._final = {step.id for step in plan.finally_}
        self._relations: dict[str, list[Made]] = defaultdict(list)
        self._parts: dict[tuple[Sort, str], list[Made]] = defaultdict(list)
        self._schemas: dict[str, list[Made]] = defaultdict(list)
        self._anything: list[Made] = []
        self._before: dict[str, frozenset[str]] = {}

    def note(self, step: str, number: int, changes: Iterable[Change]) -> None:
        """Take note of what a statement of a step changes."""
        for change in changes:
            made = Made(change=change, step=step, number=number)
            if change.sort is Sort.RELATION and change.relation is not None:
                self._relations[change.relation.name].append(made)
            elif change.sort is Sort.SCHEMA:
                self._schemas[change.name].append(made)
            elif change.sort is Sort.ANYTHING:
                self._anything.append(made)
            else:
                name = change.name or (change.relation.name if change.relation is not None else "")
                self._parts[change.sort, name].append(made)

    def of_relation(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return the last change before a statement that creates or drops the relation, or its schema."""
        found = [
            made
            for made in self._relations.get(relation.name, ())
            if made.change.action is not Action.ALTER and _is(made.change.relation, relation)
        ]
        if relation.schema is not None:  # IF NOT EXISTS leaves what is in a schema alone, IF EXISTS does not
            schemas = self._schemas.get(relation.schema, ())
            found += (made for made in schemas if made.change.action is Action.DROP or not made.change.guarded)
        return self._last(found, step, number)

    def implied(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return who creates the table that an index or sequence of this name comes with, such as orders_pkey."""
        return self._last(self._implied(relation), step, number)

    def of_schema(self, name: str, step: str, number: int) -> Made | None:
        """Return the last change before a statement that creates or drops the schema."""
        return self._last(self._schemas.get(name, ()), step, number)

    def of_part(self, sort: Sort, name: str, step: str, number: int, relation: Relation | None = None) -> Made | None:
        """Return the last change before a statement that concerns a column, constraint, function or type."""
        found = [
            made
            for made in self._parts.get((sort, name), ())
            if relation is None or made.change.relation is None or made.change.relation.name == relation.name
        ]
        return self._last(found, step, number)

    def altered(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return the last change before a statement that alters the relation."""
        found = [made for made in self._relations.get(relation.name, ()) if _is(made.change.relation, relation)]
        return self._last(found, step, number)

    def has_unique_index(self, relation: Relation, step: str, number: int) -> bool:
        """Return whether a statement before creates a unique index on the relation."""
        found = [
            made for made in self._parts.get((Sort.UNIQUE, relation.name), ()) if _is(made.change.relation, relation)
        ]
        return self._last(found, step, number) is not None

    def opaque(self, step: str, number: int) -> Made | None:
        """Return the last statement that surely comes before another one and may have made anything at all."""
        made = self._last(self._anything, step, number)
        return made if made is not None and made.when is When.BEFORE else None

    def _implied(self, relation: Relation) -> list[Made]:
        stem = relation.name
        found: list[Made] = []
        while "_" in stem:
            stem = stem.rpartition("_")[0]
            found += (
                made
                for made in self._relations.get(stem, ())
                if made.change.action is Action.CREATE and made.change.kind in {"r", "p"}
            )
        return found

    def _last(self, everything: Sequence[Made], step: str, number: int) -> Made | None:
        found = [made for made in everything if made.step == step or not made.change.temporary]
        sure = [made for made in found if self._is_before(made, step, number)]
        if sure:
            return max(reversed(sure), key=lambda made: (self._place[made.step], made.number))
        perhaps = (made for made in found if self._may_be_before(made, step))
        made = next(perhaps, None)
        if made is None:
            return None
        return Made(change=made.change, step=made.step, number=made.number, when=When.PERHAPS)

    def _is_before(self, made: Made, step: str, number: int) -> bool:
        if made.step == step:
            return made.number < number
        if step in self._final and made.step not in self._final:
            return True
        return made.step in self._ancestors(step)

    def _may_be_before(self, made: Made, step: str) -> bool:
        if made.step == step or (made.step in self._final and step not in self._final):
            return False
        return step not in self._ancestors(made.step)

    def _ancestors(self, step: str) -> frozenset[str]:
        known = self._before.get(step)
        if known is None:
            known = self._before[step] = ancestors(self._needs, [step])
        return known


def _is(one: Relation | None, other: Relation) -> bool:
    return one is not None and one.may_be(other)
