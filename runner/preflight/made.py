"""What the plan's earlier steps make of the catalog, so that a step is judged by what it will find.

Changes are looked up by name, the latest one that surely or possibly comes before. Whether a step comes before another
one is the graph's word; where it says nothing the two may run in any order. Alterations, which cannot be followed, are
looked up by the relations and names that a statement depends on.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from runner.plan.graph import ancestors, topological_order
from runner.plan.model import Plan, Step
from runner.sql.alterations import Alteration, Aspect
from runner.sql.objects import Action, Change, Sort
from runner.sql.relations import Relation

#: The kind of a change that only adds what an extension brings.
EXTENSION = "extension"
#: The kind of a change that creates something of an unknown name, and alters and drops nothing.
CREATES = "creates"


class When(enum.Enum):
    """When a change happens, seen from a step."""

    BEFORE = "before it"
    PERHAPS = "before or after it"
    #: The step has a condition, may fail without consequence, or has a list that is not known yet.
    IF = "before it, if it happens at all"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """An alteration and the step that makes it; `number` is the statement's in that step."""

    alteration: Alteration
    step: str
    number: int

    @property
    def said(self) -> str:
        """Return a clause: "step `x` changes the privileges of t before it"."""
        return f"step `{self.step}` changes {self.alteration.what} before it"


_NOTHING = Alteration(aspect=Aspect.RELATION)
_ANY_ROLE = Alteration(aspect=Aspect.ROLE)


def may_not_happen(step: Step) -> bool:
    """Return whether the plan goes on without what the step does."""
    listed = step.for_each is not None and step.for_each.sql is not None
    return step.if_ is not None or bool(step.allow_failure) or listed


class Changes:
    """All changes of a plan. `note` them first, in any order, then ask."""

    def __init__(self, plan: Plan) -> None:
        steps = (*plan.steps, *plan.finally_)
        self._uncertain = {step.id for step in steps if may_not_happen(step)}
        self._needs = {step.id: tuple(need.step for need in step.needs) for step in steps}
        self._place = {name: number for number, name in enumerate(topological_order(self._needs))}
        self._final = {step.id for step in plan.finally_}
        self._relations: dict[str, list[Made]] = defaultdict(list)
        self._parts: dict[tuple[Sort, str], list[Made]] = defaultdict(list)
        self._schemas: dict[str, list[Made]] = defaultdict(list)
        self._anything: list[Made] = []
        self._before: dict[str, frozenset[str]] = {}
        self._altered_relations: dict[str, list[Altered]] = defaultdict(list)
        self._altered_others: list[Altered] = []

    def clear(self) -> None:
        """Forget everything that was noted."""
        for kept in (self._relations, self._parts, self._schemas, self._altered_relations):
            kept.clear()
        self._anything.clear()
        self._altered_others.clear()

    def note_alterations(self, step: str, number: int, alterations: Iterable[Alteration]) -> None:
        """Take note of what a statement of a step alters."""
        for alteration in alterations:
            altered = Altered(alteration=alteration, step=step, number=number)
            if alteration.relation is None:
                self._altered_others.append(altered)
            else:
                self._altered_relations[alteration.relation.name].append(altered)

    def altered(self, step: str, number: int, relations: Collection[Relation]) -> Iterator[Altered]:
        """Yield alterations that come, or may come, before a statement: of these relations, and of no relation."""
        for name in {relation.name for relation in relations}:
            for one in self._altered_relations.get(name, ()):
                found = one.alteration.relation
                if self._comes_before(one, step, number) and any(_is(found, other) for other in relations):
                    yield one
        yield from (one for one in self._altered_others if self._comes_before(one, step, number))

    def surely(self, one: Altered, step: str, number: int) -> bool:
        """Return whether an alteration certainly comes before a statement."""
        return self._is_before(one, step, number) and (one.step == step or one.step not in self._uncertain)

    def steps_before(self, step: str) -> list[str]:
        """Return the steps that come, or may come, before a step, in an order in which they can run."""
        names = sorted(self._place, key=self._place.__getitem__)
        found = (Altered(alteration=_NOTHING, step=name, number=0) for name in names if name != step)
        return [one.step for one in found if self._comes_before(one, step, 0)]

    def makes_role(self, step: str, number: int, role: str) -> Altered | None:
        """Return what comes, or may come, before a statement and creates the role or lets a session take it."""
        found = (one for one in self._altered_others if self._comes_before(one, step, number))
        for one in found:
            alteration = one.alteration
            if alteration.aspect is Aspect.ROLE or (alteration.aspect is Aspect.PRIVILEGE and not alteration.name):
                return one
        opaque = self.may_be_opaque(step, number)
        return Altered(alteration=_ANY_ROLE, step=opaque.step, number=opaque.number) if opaque and role else None

    def _comes_before(self, one: Altered, step: str, number: int) -> bool:
        return self._is_before(one, step, number) or self._may_be_before(one, step)

    def may_be_opaque(self, step: str, number: int) -> Made | None:
        """Return a statement that surely or possibly comes before another one and may have made anything at all."""
        return self._last(self._anything, step, number)

    def dropped_perhaps(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return a statement before another one that drops the relation, if it happens at all or in that order."""
        found = [
            made
            for made in (*self._relations.get(relation.name, ()), *self._schemas.get(relation.schema or "", ()))
            if made.change.action is Action.DROP
            and (made.change.relation is None or _is(made.change.relation, relation))
            and (self._is_before(made, step, number) or self._may_be_before(made, step))
        ]
        return found[-1] if found else None

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
            # CREATE SCHEMA can have the relation in it, and then that counts: of two at once the last one does.
            found[:0] = [made for made in schemas if made.change.action is Action.DROP or not made.change.guarded]
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

    def has_unique_index(self, relation: Relation, step: str, number: int) -> bool:
        """Return whether a statement before creates a unique index on the relation."""
        found = [
            made for made in self._parts.get((Sort.UNIQUE, relation.name), ()) if _is(made.change.relation, relation)
        ]
        return self._last(found, step, number) is not None

    def opaque(self, step: str, number: int) -> Made | None:
        """Return the last statement that surely comes before another one and may have made anything at all."""
        made = self._last(self._anything, step, number)
        return made if made is not None and made.when is not When.PERHAPS else None

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
        """Return the last change before a statement; a DROP that may not happen is not followed."""
        found = [
            made
            for made in everything
            if (made.step == step or not made.change.temporary)
            and not (made.step != step and made.step in self._uncertain and made.change.action is Action.DROP)
        ]
        sure = [made for made in found if self._is_before(made, step, number)]
        if sure:
            last = max(reversed(sure), key=lambda made: (self._place[made.step], made.number))
            uncertain = last.step != step and last.step in self._uncertain
            return replace(last, when=When.IF) if uncertain else last
        perhaps = (made for made in found if self._may_be_before(made, step))
        made = next(perhaps, None)
        return None if made is None else replace(made, when=When.PERHAPS)

    def _is_before(self, made: Made | Altered, step: str, number: int) -> bool:
        if made.step == step:
            return made.number < number
        if step in self._final and made.step not in self._final:
            return True
        return made.step in self._ancestors(step)

    def _may_be_before(self, made: Made | Altered, step: str) -> bool:
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
