"""From a plan's SQL to the locks of each step: those of its text, and what the rest of the plan tells about them.

The rest of the plan tells the tables of indexes and the foreign keys that it creates; a step tells with `touches` what
its opaque SQL locks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from runner.lint.locking.foreign import ForeignKeys
from runner.lint.locking.held import Held, Lockable, Nature
from runner.lint.locking.names import Named, Naming, naming_of, touched_by
from runner.lint.locking.texts import TextLock, TextStatement, hides_names, is_gentle, read_text, words_in
from runner.lint.rule import StepSql, Subject
from runner.plan.model import Value
from runner.sql.facts import created_index
from runner.sql.foreign import foreign_keys
from runner.sql.lockmodes import LockMode, Target, conflict
from runner.sql.locks import is_opaque
from runner.sql.parse import Template

#: What `touches` stands for, which names no mode: that of a writer. Two steps that touch a table get along.
TOUCHED = LockMode.ROW_EXCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Locking:
    """The locks of one step, in the order of its statements. `several` says that it may have several instances."""

    sql: StepSql
    held: tuple[Held, ...]
    several: bool

    @property
    def id(self) -> str:
        """The step's id."""
        return self.sql.step.id


def read_locking(subject: Subject) -> tuple[Locking, ...]:
    """Return the locks of each step, in the plan's order."""
    reader = _Reader(subject.plan.values)
    strong = {number: sql for number, sql in enumerate(subject.steps) if not _is_gentle(sql)}
    for sql in strong.values():
        reader.note(sql)
    found = {number: reader.step(sql) for number, sql in strong.items()}
    wanted = reader.words(found.values())
    return completed([found.get(number) or reader.gentle(sql, wanted) for number, sql in enumerate(subject.steps)])


def completed(steps: Iterable[Locking]) -> tuple[Locking, ...]:
    """Return the steps with what follows from all locks together: which ones are upgrades, and which indexes are read.

    The locks of each step are in the order in which it takes them.
    """
    upgraded = tuple(_with_upgrades(step) for step in steps)
    rebuilt = {held.on for step in upgraded for held in step.held if _stops_readers(held)}
    return tuple(_with_indexes_read(step, rebuilt) for step in upgraded) if rebuilt else upgraded


def _is_gentle(sql: StepSql) -> bool:
    return sql.template is None or is_gentle(sql.template)


def _may_name(sql: StepSql, wanted: frozenset[str] | None) -> bool:
    """Return whether a step may use a relation with one of the words in its name; any relation if that is None."""
    if not wanted:
        return wanted is None
    text = sql.step.sql.text
    return bool(sql.step.touches) or hides_names(text) or not wanted.isdisjoint(words_in(text))


class _Reader:
    """What is known of the whole plan while its steps are read."""

    def __init__(self, known: Mapping[str, Value]) -> None:
        self._known = known
        self._texts: dict[int, tuple[TextStatement, ...]] = {}
        self._tables: dict[Lockable, Named] = {}
        self._keys = ForeignKeys()

    def note(self, sql: StepSql) -> None:
        """Remember the indexes and foreign keys that a step creates."""
        naming = naming_of(sql.step, self._known)
        for statement in self._text(sql.template):
            made = created_index(statement.parsed)
            if made is not None and made.index is not None:
                for index, table in zip(naming.read(made.index), naming.read(made.table), strict=False):
                    self._tables[index.on] = table
            for key in foreign_keys(statement.parsed):
                self._keys.add(key, naming)

    def words(self, strong: Iterable[Locking]) -> frozenset[str] | None:
        """Return words of which gentle steps that matter have one at least; None if all of them matter.

        What keeps no writer out, as VACUUM does, is nothing to a gentle step.
        """
        names = [*self._keys.names()]
        for held in (held for step in strong for held in step.held if conflict(held.mode, LockMode.ROW_EXCLUSIVE)):
            if held.on.name is None:
                return None
            names.append(held.on.name)
        return words_in(" ".join(names))

    def gentle(self, sql: StepSql, wanted: frozenset[str] | None) -> Locking:
        """Return the locks of a step that only reads and changes rows: none if nobody wants its relations otherwise."""
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
        """Read a text once, however many steps run it."""
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
                yield _held(statement, lock, Lockable(lock.schema, None), everywhere)
                continue
            for named in reading.read(lock.relation):
                yield from self._on_target(statement, lock, named)

    def _on_target(self, statement: TextStatement, lock: TextLock, named: Named) -> Iterator[Held]:
        table = self._tables.get(named.on)
        match lock.target:
            case Target.RELATION:
                yield _held(statement, lock, named.on, str(named.relation), named.item)
                if table is not None and lock.mode is LockMode.ACCESS_EXCLUSIVE:
                    one = _held(statement, lock, _indexes(table.on), f"the indexes of {table.relation}", named.item)
                    yield replace(one, nature=Nature.ONE_INDEX)
            case Target.TABLE_OF_INDEX:
                if table is not None:
                    yield _held(statement, lock, table.on, str(table.relation), named.item)
            case Target.INDEXES_OF_TABLE:
                yield _held(statement, lock, _indexes(named.on), f"the indexes of {named.relation}", named.item)


def _held(statement: TextStatement, lock: TextLock, on: Lockable, name: str, item: int | None = None) -> Held:
    return Held(
        on=on,
        mode=lock.mode,
        nature=statement.nature,
        order=lock.order,
        what=statement.what,
        name=name,
        offset=lock.offset,
        item=item,
        planned=statement.planned,
    )


def _touched(
    sql: StepSql, text: tuple[TextStatement, ...], naming: Naming, known: Mapping[str, Value]
) -> Iterator[Held]:
    """Yield the locks that `touches` tells of, as if the first opaque statement took them, or else the last one."""
    if not sql.step.touches or not text:
        return
    statement = next((statement for statement in text if is_opaque(statement.parsed)), text[-1])
    for relation in touched_by(sql.step, known):
        for named in naming.read(relation):
            yield Held(
                on=named.on,
                mode=TOUCHED,
                nature=Nature.PLAIN,
                order=(statement.number, 0),
                what=f"`touches`, {statement.what}",
                name=str(named.relation),
                offset=statement.parsed.start,
            )


def _with_upgrades(step: Locking) -> Locking:
    """Mark the locks that wait while their transaction has a weaker one on the same relation."""
    if len(step.held) < 2:
        return step
    seen: dict[tuple[Lockable, int | None], _Earlier] = defaultdict(_Earlier)
    held: list[Held] = []
    for lock in step.held:
        earlier = seen[lock.on, lock.item]
        earlier.go_on_to(lock)
        upgrades = lock.nature is Nature.PLAIN and earlier.weak
        held.append(replace(lock, nature=Nature.UPGRADE) if upgrades else lock)
    return replace(step, held=tuple(held))


class _Earlier:
    """What is known of the locks before one on the same relation; those of the same order are not before it."""

    def __init__(self) -> None:
        self._order: tuple[int, int] | None = None
        self._strong_now = False
        self._strong_before = False
        self.weak = False

    def go_on_to(self, lock: Held) -> None:
        """Make `weak` say whether weak locks, and none but them, come before this one."""
        if self._order is not None and self._order < lock.order:
            self._strong_before = self._strong_before or self._strong_now
            self._strong_now = False
            self.weak = not self._strong_before
        self._order = lock.order
        self._strong_now = self._strong_now or _is_strong(lock)


def _is_strong(held: Held) -> bool:
    """Say whether a lock had to wait for a DROP INDEX CONCURRENTLY itself, and so is no reason to wait for it."""
    return conflict(held.mode, LockMode.SHARE_UPDATE_EXCLUSIVE)


def _indexes(table: Lockable) -> Lockable:
    return table._replace(indexes=True)


def _stops_readers(held: Held) -> bool:
    return held.on.indexes and held.mode is LockMode.ACCESS_EXCLUSIVE


def _with_indexes_read(step: Locking, rebuilt: set[Lockable]) -> Locking:
    """Add that a query opens the indexes of its tables, where a step of the plan keeps it from that."""
    opened = tuple(
        replace(lock, on=_indexes(lock.on), name=f"the indexes of {lock.name}")
        for lock in step.held
        if lock.planned and _indexes(lock.on) in rebuilt
    )
    return replace(step, held=tuple(sorted((*step.held, *opened), key=lambda lock: lock.order))) if opened else step
