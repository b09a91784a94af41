"""The locks of each step of a plan, and which of them can conflict with those of other steps.

The rest of the plan shows the tables of indexes and the foreign keys that it creates; a step's `touches` names what its
opaque SQL locks.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from runner.locks.conflicts import Held, Kind, Lockable, LockTiming, kind_of, verdict
from runner.locks.relation_names import NamedRelation, Naming, naming_of, touched_by
from runner.locks.statement_locks import (
    ForeignKeys,
    TextLock,
    TextStatement,
    has_row_commands_only,
    hides_names,
    read_text,
    words_in,
)
from runner.plan.model import Value
from runner.plan.parsed_sql import StepSql, Subject
from runner.sql.command_objects import created_index
from runner.sql.lock_modes import LockMode, LockTarget, conflict
from runner.sql.statements import Template
from runner.sql.table_locks import foreign_keys, is_opaque
from runner.structs import Struct, replace

#: The mode of `touches`, which names none: that of a writer. Two steps that touch a table do not conflict.
TOUCHED = LockMode.ROW_EXCLUSIVE


class Locking(Struct, frozen=True, kw_only=True):
    """The locks of one step, in the order of its statements; `several`: it may have several instances."""

    sql: StepSql
    held: tuple[Held, ...]
    several: bool

    @property
    def id(self) -> str:
        """The step's id."""
        return self.sql.step.id


def read_locking(subject: Subject) -> tuple[Locking, ...]:
    """Return the locks of each step, in the plan's order."""
    reader = _LockReader(subject.plan.values)
    strong = {number: sql for number, sql in enumerate(subject.steps) if not _has_row_commands_only(sql)}
    for sql in strong.values():
        reader.note(sql)
    found = {number: reader.step(sql) for number, sql in strong.items()}
    wanted = reader.words(found.values())
    return completed([found.get(number) or reader.rows_only(sql, wanted) for number, sql in enumerate(subject.steps)])


def completed(steps: Iterable[Locking]) -> tuple[Locking, ...]:
    """Return the steps with the consequences of all locks together: which are upgrades, and which indexes are read.

    The locks of each step are in the order in which it takes them.
    """
    upgraded = tuple(_with_upgrades(step) for step in steps)
    rebuilt = {held.on for step in upgraded for held in step.held if _stops_readers(held)}
    return tuple(_with_indexes_read(step, rebuilt) for step in upgraded) if rebuilt else upgraded


def _has_row_commands_only(sql: StepSql) -> bool:
    return sql.template is None or has_row_commands_only(sql.template)


def _may_name(sql: StepSql, wanted: frozenset[str] | None) -> bool:
    """Return whether a step may use a relation with one of the words in its name; any relation if that is None."""
    if not wanted:
        return wanted is None
    text = sql.step.sql.text
    return bool(sql.step.touches) or hides_names(text) or not wanted.isdisjoint(words_in(text))


class _LockReader:
    """The facts about the whole plan while its steps are read."""

    def __init__(self, known: Mapping[str, Value]) -> None:
        self._known = known
        self._texts: dict[int, tuple[TextStatement, ...]] = {}
        self._tables: dict[Lockable, NamedRelation] = {}
        self._keys = ForeignKeys()

    def note(self, sql: StepSql) -> None:
        """Record the indexes and foreign keys that a step creates."""
        naming = naming_of(sql.step, self._known)
        for statement in self._text(sql.template):
            made = created_index(statement.parsed)
            if made is not None and made.index is not None:
                for index, table in zip(naming.read(made.index), naming.read(made.table), strict=False):
                    self._tables[index.on] = table
            for key in foreign_keys(statement.parsed):
                self._keys.add(key, naming)

    def words(self, strong: Iterable[Locking]) -> frozenset[str] | None:
        """Return words of which a relevant step with row commands only has at least one; None if all are relevant.

        Locks that block no writer, such as VACUUM's, are irrelevant for such a step.
        """
        names = [*self._keys.names()]
        for held in (held for step in strong for held in step.held if conflict(held.mode, LockMode.ROW_EXCLUSIVE)):
            if held.on.name is None:
                return None
            names.append(held.on.name)
        return words_in(" ".join(names))

    def rows_only(self, sql: StepSql, wanted: frozenset[str] | None) -> Locking:
        """Return the locks of a step that only reads and changes rows: none if no other step locks its relations."""
        return self.step(sql) if _may_name(sql, wanted) else Locking(sql=sql, held=(), several=False)

    def step(self, sql: StepSql) -> Locking:
        """Return the locks of a step."""
        naming = naming_of(sql.step, self._known)
        text = self._text(sql.template)
        held = list(_touched(sql, text, naming, self._known))
        for statement in text:
            held += self._own_locks(statement, naming)
            held += self._keys.spread(statement, naming)
        held.sort(key=lambda lock: lock.order)
        for_each = sql.step.for_each
        several = for_each is not None and (for_each.sql is not None or len(for_each.items) > 1)
        return Locking(sql=sql, held=tuple(held), several=several)

    def _text(self, template: Template | None) -> tuple[TextStatement, ...]:
        """Parse a text once, however many steps execute it."""
        if template is None:
            return ()
        known = self._texts.get(id(template))
        if known is None:
            known = self._texts[id(template)] = read_text(template)
        return known

    def _own_locks(self, statement: TextStatement, naming: Naming) -> Iterator[Held]:
        reading = naming if statement.settled else naming.unsettled()
        for lock in statement.locks:
            if lock.relation is None:
                everywhere = f"every table of the schema {lock.schema}" if lock.schema else "every table"
                yield held_lock(statement, lock, Lockable(lock.schema, None), everywhere)
                continue
            for named in reading.read(lock.relation):
                yield from self._on_target(statement, lock, named)

    def _on_target(self, statement: TextStatement, lock: TextLock, named: NamedRelation) -> Iterator[Held]:
        table = self._tables.get(named.on)
        match lock.target:
            case LockTarget.RELATION:
                yield held_lock(statement, lock, named.on, str(named.relation), named.item)
                if table is not None and lock.mode is LockMode.ACCESS_EXCLUSIVE:
                    one = held_lock(statement, lock, _indexes(table.on), f"the indexes of {table.relation}", named.item)
                    yield replace(one, nature=LockTiming.ONE_INDEX)
            case LockTarget.TABLE_OF_INDEX:
                if table is not None:
                    yield held_lock(statement, lock, table.on, str(table.relation), named.item)
            case LockTarget.INDEXES_OF_TABLE:
                yield held_lock(statement, lock, _indexes(named.on), f"the indexes of {named.relation}", named.item)


def held_lock(
    statement: TextStatement,
    lock: TextLock,
    on: Lockable,
    name: str,
    item: int | None = None,
    *,
    offset: int | None = None,
) -> Held:
    """Return the lock of a statement on a relation; `offset` replaces that of the lock in the statement's text."""
    place = lock.offset if offset is None else offset
    return statement.holds(on, lock.mode, name, place, item, order=lock.order, nature=statement.nature)


def _touched(
    sql: StepSql, text: tuple[TextStatement, ...], naming: Naming, known: Mapping[str, Value]
) -> Iterator[Held]:
    """Yield the locks of `touches`, as if the first opaque statement took them, or else the last one."""
    if not sql.step.touches or not text:
        return
    statement = next((statement for statement in text if is_opaque(statement.parsed)), text[-1])
    for relation in touched_by(sql.step, known):
        for named in naming.read(relation):
            held = statement.holds(named.on, TOUCHED, str(named.relation), statement.parsed.start)
            yield replace(held, what=f"`touches`, {statement.what}", planned=False)


def _with_upgrades(step: Locking) -> Locking:
    """Mark the locks that wait while their transaction has only weaker ones on the same relation."""
    if len(step.held) < 2:
        return step
    first: dict[tuple[Lockable, int | None], tuple[int, int]] = {}
    first_strong: dict[tuple[Lockable, int | None], tuple[int, int]] = {}
    for lock in step.held:
        first.setdefault((lock.on, lock.item), lock.order)
        if _is_strong(lock):
            first_strong.setdefault((lock.on, lock.item), lock.order)

    def upgrades(lock: Held) -> bool:
        target = lock.on, lock.item
        weak_before = first[target] < lock.order <= first_strong.get(target, lock.order)
        return weak_before and lock.nature is LockTiming.PLAIN

    return replace(
        step, held=tuple(replace(lock, nature=LockTiming.UPGRADE) if upgrades(lock) else lock for lock in step.held)
    )


def _is_strong(held: Held) -> bool:
    """Return whether a lock waits for a DROP INDEX CONCURRENTLY itself, and so does not make it wait."""
    return conflict(held.mode, LockMode.SHARE_UPDATE_EXCLUSIVE)


def _indexes(table: Lockable) -> Lockable:
    return table._replace(indexes=True)


def _stops_readers(held: Held) -> bool:
    return held.on.indexes and held.mode is LockMode.ACCESS_EXCLUSIVE


def _with_indexes_read(step: Locking, rebuilt: set[Lockable]) -> Locking:
    """Add the indexes that a query opens, if another step of the plan locks them."""
    opened = tuple(
        replace(lock, on=_indexes(lock.on), name=f"the indexes of {lock.name}")
        for lock in step.held
        if lock.planned and _indexes(lock.on) in rebuilt
    )
    return replace(step, held=tuple(sorted((*step.held, *opened), key=lambda lock: lock.order))) if opened else step


#: The locks of a step by relation.
Grip = Mapping[Lockable, Sequence[Held]]


def contended(steps: Sequence[Locking]) -> dict[int, Grip]:
    """Return the locks of each step by relation, without relations on which no two steps can conflict."""
    kinds: dict[Lockable, Counter[Kind]] = defaultdict(Counter)
    for step in steps:
        for on, kind in {(held.on, kind_of(held)) for held in step.held}:
            kinds[on][kind] += 2 if step.several else 1
    sweeps = {on: found for on, found in kinds.items() if on.sweeping}
    wanted = {on for on, found in kinds.items() if on.sweeping or _can_clash(found) or _is_swept(on, found, sweeps)}
    grips: dict[int, Grip] = {}
    for number, step in enumerate(steps):
        grip: dict[Lockable, list[Held]] = {}
        for held in step.held:
            if held.on in wanted:
                grip.setdefault(held.on, []).append(held)
        if grip:
            grips[number] = grip
    return grips


def _can_clash(found: Counter[Kind]) -> bool:
    kinds = list(found)
    return any(
        verdict(one, other) is not None and (one != other or found[one] > 1)
        for number, one in enumerate(kinds)
        for other in kinds[number:]
    )


def _is_swept(on: Lockable, found: Iterable[Kind], sweeps: Mapping[Lockable, Iterable[Kind]]) -> bool:
    return any(
        can_meet(on, sweep) and any(verdict(one, other) is not None for one in found for other in others)
        for sweep, others in sweeps.items()
    )


def can_meet(one: Lockable, other: Lockable) -> bool:
    """Return whether two locks can be on the same relation."""
    if one == other:
        return True
    if not (one.sweeping or other.sweeping) or one.indexes or other.indexes:
        return False
    same_schema = one.schema == other.schema
    return same_schema or (one.sweeping and one.schema is None) or (other.sweeping and other.schema is None)


class LookupHeading(enum.Enum):
    """The key, together with a relation or schema, under which previous steps are looked up."""

    ON = "locks of this relation"
    IN = "locks of relations in this schema"
    SWEEP = "locks of every table of this schema"
    ANY_SWEEP = "locks of every table of some schema"


_DATABASE = Lockable(None, None)

Heading = tuple[LookupHeading, Lockable]


def kept_under(on: Lockable, *, swept: bool) -> tuple[Heading, ...]:
    """Return the keys under which a lock is recorded; `swept`: a step locks every table of a schema or database."""
    if on.sweeping:
        return (LookupHeading.SWEEP, on), (LookupHeading.ANY_SWEEP, _DATABASE)
    if on.indexes or not swept:
        return ((LookupHeading.ON, on),)
    return (LookupHeading.ON, on), (LookupHeading.IN, Lockable(on.schema, None)), (LookupHeading.IN, _DATABASE)


def looked_up(on: Lockable, *, swept: bool) -> tuple[tuple[Lockable, Heading], ...]:
    """Return the keys of a lock's possible conflicts, each with the relation for which a conflict is reported."""
    if on.sweeping:
        sweeps = (LookupHeading.ANY_SWEEP, _DATABASE) if on == _DATABASE else (LookupHeading.SWEEP, _DATABASE)
        return (on, (LookupHeading.IN, on)), (on, (LookupHeading.SWEEP, on)), (on, sweeps)
    if on.indexes or not swept:
        return ((on, (LookupHeading.ON, on)),)
    schema = Lockable(on.schema, None)
    return (
        (on, (LookupHeading.ON, on)),
        (schema, (LookupHeading.SWEEP, schema)),
        (_DATABASE, (LookupHeading.SWEEP, _DATABASE)),
    )
