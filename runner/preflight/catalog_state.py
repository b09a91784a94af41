"""The catalog as a step will find it: the server's catalog now, with the changes of previous steps of the plan.

A few queries read all objects that the statements name. For a name, the latest change before a statement counts,
whether it is certain or possible. The plan's graph decides whether a step runs before another one; without a path
between them they can run in any order. Alterations, whose effect is not simulated, are looked up by the relations and
names that a statement depends on.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from runner.gateway.catalog import FunctionFacts, NamedFacts, RelationFacts, SchemaFacts
from runner.gateway.inspection import Inspector
from runner.locks.relation_names import relation_in
from runner.plan.graph import ancestors, topological_order
from runner.plan.model import Plan
from runner.preflight.sql_units import MADE_UP, StatementContext, StatementContexts, Unit
from runner.preflight.uncertain_steps import after_a_failure, may_not_happen
from runner.sql.alter_table import alter_actions
from runner.sql.catalog_changes import Action, Change, Sort, changes
from runner.sql.catalog_needs import ObjectSort, mentions, needed
from runner.sql.command_objects import clustering_index, created_index, main_relation, named_indexes, reindexed_name
from runner.sql.definition_changes import Alteration, Aspect, alterations
from runner.sql.function_calls import functions_called
from runner.sql.relations import Relation, query_relations, regclass_constants
from runner.structs import Struct, replace


class When(enum.Enum):
    """When a change happens, relative to a step."""

    BEFORE = "before it"
    PERHAPS = "before or after it"
    #: The step has a condition, may fail without consequence, or has a list that is not known yet.
    IF = "before it, if it happens at all"


class Made(Struct, frozen=True, kw_only=True):
    """A change, the step that makes it, and when; `number` is the statement's in that step."""

    change: Change
    step: str
    number: int
    when: When = When.BEFORE

    @property
    def creates(self) -> bool:
        """Whether the object is there afterwards."""
        return self.change.action is Action.CREATE

    @property
    def removes(self) -> bool:
        """Whether it is certain that the object is not there any more: it is dropped, or has another name."""
        return self.change.action is Action.DROP and self.when is When.BEFORE

    @property
    def words(self) -> str:
        """Return what happens: `created by step x`."""
        return f"{self.change.action.value} by step `{self.step}`"


class Altered(Struct, frozen=True, kw_only=True):
    """An alteration and the step that makes it; `number` is the statement's in that step."""

    alteration: Alteration
    step: str
    number: int

    @property
    def words(self) -> str:
        """Return a clause: "step `x` changes the privileges of t before it"."""
        return f"step `{self.step}` {self.alteration.words} before it"


class Changes:
    """All changes of a plan. `note` them first, in any order, then query them."""

    def __init__(self, plan: Plan) -> None:
        steps = plan.all_steps
        self._uncertain = {step.id for step in steps if may_not_happen(step)} | after_a_failure(plan)
        self._needs = {step.id: tuple(need.step for need in step.needs) for step in steps}
        self._place = {name: number for number, name in enumerate(topological_order(self._needs))}
        self._final = {step.id for step in plan.finally_}
        self._before: dict[str, frozenset[str]] = {"": frozenset()}
        #: By sort and name: of a relation without its schema, of a column its own name.
        self._made: dict[tuple[Sort, str], list[Made]] = defaultdict(list)
        #: By the name of the relation, empty if none is altered.
        self._altered: dict[str, list[Altered]] = defaultdict(list)

    # --- what was noted -----------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Remove everything that was noted."""
        self._made.clear()
        self._altered.clear()

    def note(self, step: str, number: int, changes: Iterable[Change]) -> None:
        """Record what a statement of a step changes."""
        for change in changes:
            name = change.name or (change.relation.name if change.relation is not None else "")
            self._made[change.sort, name].append(Made(change=change, step=step, number=number))

    def note_alterations(self, step: str, number: int, alterations: Iterable[Alteration]) -> None:
        """Record what a statement of a step alters."""
        for one in alterations:
            name = one.relation.name if one.relation is not None else ""
            self._altered[name].append(Altered(alteration=one, step=step, number=number))

    @property
    def created_schemas(self) -> frozenset[str]:
        """The schemas that a step creates, or gives their name."""
        return frozenset(
            name
            for (sort, name), found in self._made.items()
            if sort is Sort.SCHEMA and any(made.creates for made in found)
        )

    # --- alterations --------------------------------------------------------------------------------------------------

    def altered(self, step: str, number: int, relations: Collection[Relation]) -> Iterator[Altered]:
        """Yield alterations that come, or may come, before a statement: of these relations, and of no relation."""
        for name in (*sorted({relation.name for relation in relations}), ""):
            for one in self._altered.get(name, ()):
                found = one.alteration.relation
                of_these = found is None or any(found.may_be(other) for other in relations)
                if of_these and self._comes_before(one, step, number):
                    yield one

    def altered_columns(self, step: str, number: int) -> Iterator[Altered]:
        """Yield alterations of columns of any relation that come, or may come, before a statement."""
        for one in (one for name, found in self._altered.items() if name for one in found):
            if one.alteration.aspect is Aspect.COLUMN and self._comes_before(one, step, number):
                yield one

    def surely(self, one: Altered, step: str, number: int) -> bool:
        """Return whether an alteration certainly comes before a statement."""
        return self._is_before(one, step, number) and (one.step == step or one.step not in self._uncertain)

    def steps_before(self, step: str) -> list[str]:
        """Return the steps that come, or may come, before a step, in an order in which they can run."""
        others = (name for name in self._place if name != step)
        return [name for name in others if self._precedes(name, step) or self._may_precede(name, step)]

    def makes_role(self, step: str, role: str | None) -> bool:
        """Return whether a statement may come before a step and create its role, or grant it."""
        of_roles = (
            one.alteration.aspect is Aspect.ROLE
            or (one.alteration.aspect is Aspect.PRIVILEGE and not one.alteration.name)
            for one in self.altered(step, 0, ())
        )
        return any(of_roles) or (role is not None and self.may_be_opaque(step, 0) is not None)

    # --- changes ------------------------------------------------------------------------------------------------------

    def may_be_opaque(self, step: str, number: int) -> Made | None:
        """Return a statement that certainly or possibly comes before another one and may have changed anything."""
        return self._last(self._made.get((Sort.ANYTHING, ""), ()), step, number)

    def dropped_perhaps(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return a statement before another one that drops the relation, if it runs, and if it runs before."""
        schema = self._made.get((Sort.SCHEMA, relation.schema or ""), ())
        found = [
            made
            for made in (*self._of_relation(relation), *schema)
            if made.change.action is Action.DROP and self._comes_before(made, step, number)
        ]
        return found[-1] if found else None

    def of_relation(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return the last change before a statement that creates or drops the relation, or its schema."""
        found = [made for made in self._of_relation(relation) if made.change.action is not Action.ALTER]
        if relation.schema is not None:  # IF NOT EXISTS keeps the contents of a schema, IF EXISTS does not
            schemas = self._made.get((Sort.SCHEMA, relation.schema), ())
            # CREATE SCHEMA can include the relation, which then counts: of two changes in one statement the last one.
            found[:0] = [made for made in schemas if made.change.action is Action.DROP or not made.change.guarded]
        return self._last(found, step, number)

    def _of_relation(self, relation: Relation, sort: Sort = Sort.RELATION) -> Iterator[Made]:
        found = ((made, made.change.relation) for made in self._made.get((sort, relation.name), ()))
        return (made for made, named in found if named is not None and named.may_be(relation))

    def implied(self, relation: Relation, step: str, number: int) -> Made | None:
        """Return the change that creates the table of an index or sequence with this name, such as orders_pkey."""
        words = relation.name.split("_")
        stems = ("_".join(words[:count]) for count in range(len(words) - 1, 0, -1))
        made = (made for stem in stems for made in self._made.get((Sort.RELATION, stem), ()))
        return self._last([one for one in made if one.creates and one.change.kind in {"r", "p"}], step, number)

    def of_schema(self, name: str, step: str, number: int) -> Made | None:
        """Return the last change before a statement that creates or drops the schema."""
        return self._last(self._made.get((Sort.SCHEMA, name), ()), step, number)

    def of_part(self, sort: Sort, name: str, step: str, number: int, relation: Relation | None) -> Made | None:
        """Return the last change before a statement that concerns a column, constraint, function or type."""
        found = [
            made
            for made in self._made.get((sort, name), ())
            if relation is None or made.change.relation is None or made.change.relation.name == relation.name
        ]
        return self._last(found, step, number)

    def has_unique_index(self, relation: Relation, step: str, number: int) -> bool:
        """Return whether a statement before creates a unique index on the relation."""
        return self._last(list(self._of_relation(relation, Sort.UNIQUE)), step, number) is not None

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
        made = next((made for made in found if self._may_be_before(made, step)), None)
        return None if made is None else replace(made, when=When.PERHAPS)

    # --- the order of steps -------------------------------------------------------------------------------------------

    def _comes_before(self, one: Made | Altered, step: str, number: int) -> bool:
        return self._is_before(one, step, number) or self._may_be_before(one, step)

    def _is_before(self, one: Made | Altered, step: str, number: int) -> bool:
        return one.number < number if one.step == step else self._precedes(one.step, step)

    def _may_be_before(self, one: Made | Altered, step: str) -> bool:
        return one.step != step and self._may_precede(one.step, step)

    def _precedes(self, other: str, step: str) -> bool:
        return (step in self._final and other not in self._final) or other in self._ancestors(step)

    def _may_precede(self, other: str, step: str) -> bool:
        if not step or (other in self._final and step not in self._final):
            return False
        return step not in self._ancestors(other)

    def _ancestors(self, step: str) -> frozenset[str]:
        if step not in self._before:
            self._before[step] = ancestors(self._needs, [step])
        return self._before[step]


class State(enum.Enum):
    """What a step finds under a name."""

    THERE = "there"
    MISSING = "missing"
    #: A previous step creates it: its definition is unknown.
    NEW = "created by an earlier step"
    #: Another step creates it, and may run later.
    PERHAPS = "created by a step that may come later"
    GONE = "dropped by an earlier step"
    #: A previous step executes SQL whose effect is unknown.
    UNKNOWN = "unknown"


class SeenRelation(Struct, frozen=True, kw_only=True):
    """A relation as a step finds it. `facts` only if it exists; `made` is the change that causes any other state."""

    state: State
    relation: Relation
    facts: RelationFacts | None = None
    made: Made | None = None
    why: str = ""

    @property
    def why_not(self) -> str:
        """Return why its definition is unknown."""
        if self.made is None:
            return self.why or "nothing is known"
        if self.made.change.sort is Sort.ANYTHING:
            return f"perhaps created by the SQL of step `{self.made.step}`"
        return self.made.words


class CatalogView:
    """The catalog as one statement sees it."""

    def __init__(self, unit: Unit, context: StatementContext, changes: Changes) -> None:
        self._changes = changes
        #: The surroundings of the statement, its step (empty for a precondition of the plan), and the settings to which
        #: the step gives a value that is known only when it runs.
        self.context, self.computed = context, unit.computed
        self.step = unit.step_id
        #: Conditions before the step see none of its changes, those after it see all.
        before = unit.key in {"on_retry", "if", "preconditions", "for_each.sql"}
        self._number = unit.number if unit.key == "sql" else -1 if before else 1_000_000

    def altered(self, relations: Collection[Relation]) -> Iterator[Altered]:
        """Yield what previous steps alter of these relations, and of objects that are not relations."""
        placed = {self.context.placed(relation) for relation in relations}
        return self._changes.altered(self.step, self._number, placed)

    def altered_columns(self) -> Iterator[Altered]:
        """Yield what previous steps alter of the columns of any relation."""
        return self._changes.altered_columns(self.step, self._number)

    def surely(self, one: Altered) -> bool:
        """Return whether an alteration certainly comes before the statement."""
        return self._changes.surely(one, self.step, self._number)

    def dropped(self, relation: Relation) -> Made | None:
        """Return the last change before the statement that creates or drops the relation."""
        return self._changes.of_relation(self.context.placed(relation), self.step, self._number)

    def dropped_perhaps(self, relation: Relation) -> Made | None:
        """Return an earlier statement that drops the relation, if it happens at all or in that order."""
        return self._changes.dropped_perhaps(self.context.placed(relation), self.step, self._number)

    def relation(self, relation: Relation) -> SeenRelation:
        """Return the relation that the statement finds under this name."""
        if MADE_UP in relation.name or MADE_UP in (relation.schema or ""):
            return SeenRelation(state=State.UNKNOWN, relation=relation, why="its name is an item of for_each")
        if relation.schema is None and "search_path" in self.computed:
            why = "the step sets search_path to a value that is known only when it runs"
            return SeenRelation(state=State.UNKNOWN, relation=relation, why=why)
        facts = self.context.relations.get(relation)
        placed = self._searched(relation) or self.context.placed(relation)
        if facts is not None and facts.relation != placed:
            facts = self.context.relations.get(placed)
        made = self._changes.of_relation(placed, self.step, self._number)
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
        return SeenRelation(state=state, relation=relation, facts=facts if state is State.THERE else None, made=made)

    def facts(self, relation: Relation | None) -> RelationFacts | None:
        """Return the facts of the relation that the statement finds; None if it does not exist, or without a name."""
        return self.relation(relation).facts if relation is not None else None

    def _searched(self, relation: Relation) -> Relation | None:
        """Return where search_path finds a name that previous steps create or drop in one of several schemas."""
        if relation.schema is not None or not self.step:
            return None
        schemas = self.path()
        for schema in schemas if len(schemas) > 1 else ():
            placed = Relation(schema, relation.name)
            made = self._changes.of_relation(placed, self.step, self._number)
            if made is None or made.when is not When.BEFORE:
                found = placed in self.context.relations
            elif made.change.sort is Sort.SCHEMA:  # what is in a schema that is renamed is not known
                found = made.creates and made.change.kind == "renamed"
            else:
                found = made.creates
            if found:
                return placed
        return None

    def path(self) -> tuple[str, ...]:
        """Return the schemas that search_path leads to, also those that previous steps create."""
        created = []
        for name in self._changes.created_schemas:
            made = self._changes.of_schema(name, self.step, self._number)
            if made is not None and made.creates:
                created.append(name)
        return self.context.path(created)

    def new_place(self, relation: Relation) -> Relation:
        """Return the relation with the schema where the statement creates it."""
        return relation if relation.schema is not None else Relation(next(iter(self.path()), None), relation.name)

    def _was_there(self, relation: Relation, made: Made) -> bool:
        """Return whether an object that a previous step creates may exist before, by IF NOT EXISTS or OR REPLACE."""
        return (made.change.guarded or made.when is When.IF) and not self._was_dropped(relation, made)

    def _was_dropped(self, relation: Relation, made: Made) -> bool:
        earlier = self._changes.of_relation(relation, made.step, made.number)
        return earlier is not None and earlier.removes

    def _unchanged(self, relation: Relation, facts: RelationFacts | None) -> SeenRelation:
        if facts is not None:
            return SeenRelation(state=State.THERE, relation=relation, facts=facts)
        implied = self._changes.implied(relation, self.step, self._number)
        if implied is not None and implied.when is When.BEFORE:
            return SeenRelation(state=State.NEW, relation=relation, made=implied)
        opaque = self._changes.may_be_opaque(self.step, self._number)
        state = State.MISSING if opaque is None else State.UNKNOWN
        return SeenRelation(state=state, relation=relation, made=opaque)

    def schema(self, name: str) -> tuple[SchemaFacts | None, Made | None]:
        """Return the catalog's facts about a schema, and the last change before the statement."""
        made = self._changes.of_schema(name, self.step, self._number)
        return self.context.known_schemas.get(name), made

    def part(self, sort: Sort, name: str, relation: Relation | None = None) -> Made | None:
        """Return the last change before the statement of a column, constraint, function or type."""
        return self._changes.of_part(sort, name, self.step, self._number, relation)

    def named(self, sort: ObjectSort, name: Relation) -> NamedFacts | None:
        """Return the catalog's facts about an object that is not a relation, None if it does not exist."""
        return self.context.named.get((sort, name))

    def opaque(self) -> Made | None:
        """Return a statement that comes, or may come, before and may have changed anything."""
        return self._changes.may_be_opaque(self.step, self._number)

    def indexes_made_on(self, relation: Relation) -> bool:
        """Return whether an earlier statement creates a unique index on the relation."""
        return self._changes.has_unique_index(relation, self.step, self._number)


async def survey(units: Sequence[Unit], contexts: StatementContexts, inspector: Inspector) -> None:
    """Add the catalog's facts about the objects that the statements name to their contexts."""
    by_context: dict[int, list[Unit]] = defaultdict(list)
    found: dict[int, StatementContext] = {}
    for unit in units:
        context = await contexts.of(unit)
        found[id(context)] = context
        by_context[id(context)].append(unit)
    own: dict[str, list[FunctionFacts]] = defaultdict(list)
    builtin: dict[str, list[FunctionFacts]] = defaultdict(list)
    names = {call.name for unit in units for call in functions_called(unit.statement)}
    for facts in await inspector.functions(sorted(names)):
        (builtin if facts.schema == "pg_catalog" else own)[facts.name].append(facts)
    changed = {one.relation.name for unit in units for one in changes(unit.statement) if one.relation is not None}
    for key, context in found.items():
        if context.error is not None:  # the role is unknown: there is nothing to query
            continue
        context.functions |= own
        context.builtin |= builtin
        await _of_context(by_context[key], context, inspector, changed)


async def _of_context(
    units: Sequence[Unit], context: StatementContext, inspector: Inspector, altered: Collection[str]
) -> None:
    statements = [unit.statement for unit in units]
    changed = [one for statement in statements for one in changes(statement)]
    made = {one.relation for one in changed if one.relation is not None}
    named = {relation for unit in units for relation in _relations(unit)}
    known = set(context.relations)
    await _fill(context, named | made, inspector)
    placed = {context.placed(relation) for relation in made} | {context.new_place(relation) for relation in made}
    for statement in statements:
        table, index = main_relation(statement), created_index(statement)
        indexes = {clustering_index(statement), *named_indexes(statement)} - {""}
        indexes |= {index.index.name} if index is not None and index.index is not None else set()
        placed |= {Relation(context.placed(table).schema, name) for name in indexes} if table is not None else set()
    own = context.path()
    if len(own) > 1:  # what is dropped from one schema, or created in it, uncovers or covers what another one has
        names = {relation.name for relation in named | made if relation.schema is None}
        placed |= {Relation(schema, name) for name in names.intersection(altered) for schema in own}
    await _fill(context, placed, inspector)
    fresh = [facts for name, facts in context.relations.items() if name not in known]
    await _fill(context, {other for facts in fresh for other in _others(facts)}, inspector)
    parents = [context.relations.get(facts.partition_of) for facts in fresh if facts.partition_of is not None]
    await _fill(context, {part for facts in parents if facts is not None for part in _default_part(facts)}, inspector)
    schemas = {one.schema for one in (*context.relations, *placed, *named) if one.schema}
    schemas |= {one.name for one in changed if one.name and one.relation is None}
    schemas |= set(filter(None, map(reindexed_name, statements)))
    context.known_schemas |= await inspector.schemas(sorted(schemas), context.role)
    await _measure(context, inspector)
    enums = {one.name for statement in statements for one in alterations(statement) if one.value}
    context.labels |= await inspector.labels(sorted(enums))
    mentioned = [one for each in statements for one in mentions(each) if (one.sort, one.name) not in context.named]
    context.named |= await inspector.mentioned(mentioned, context.schemas, context.role)


async def _fill(context: StatementContext, relations: set[Relation], inspector: Inspector) -> None:
    unknown = sorted(relations - context.relations.keys(), key=str)
    context.relations |= await inspector.relations(unknown, context.schemas, context.role)


async def _measure(context: StatementContext, inspector: Inspector) -> None:
    new = {facts.oid: facts for facts in context.relations.values() if facts.size is None}
    sizes = await inspector.sizes(list(new.values())) if new else {}
    for name, facts in context.relations.items():
        if facts.oid in sizes:
            context.relations[name] = replace(facts, size=sizes[facts.oid])


def _relations(unit: Unit) -> Iterator[Relation]:
    yield from (use.relation for use in query_relations(unit.statement))
    yield from (one.relation for one in needed(unit.statement))
    yield from (relation for relation, _ in regclass_constants(unit.statement))
    yield from (action.other for action in alter_actions(unit.statement) if action.other is not None)
    if unit.step is not None and unit.key == "sql":
        yield from filter(None, map(relation_in, unit.step.touches))


def _default_part(facts: RelationFacts) -> Iterator[Relation]:
    """Yield the DEFAULT partition of a partitioned table, if it has one."""
    return (relation for relation in facts.children if relation.name == facts.default_partition)


def _others(facts: RelationFacts) -> Iterable[Relation]:
    """Yield other relations that a lock on the relation reaches; the parent's facts have its partitions."""
    yield from (key.relation for key in (*facts.referenced_by, *facts.refers_to))
    yield from _default_part(facts)
    yield from facts.reads
    if facts.index_of is not None:
        yield facts.index_of.relation
    if facts.partition_of is not None:
        yield facts.partition_of
