"""The locks that foreign keys spread to the other table, for those that the plan itself creates.

Each case was measured: what a session has in pg_locks after the statement. A row change locks the other side only if
there is such a row, an UPDATE only if it sets a column of the key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from runner.lint.locking.held import Held, Lockable, Nature
from runner.lint.locking.names import Named, Naming
from runner.lint.locking.texts import TextStatement, changes_in
from runner.sql.alter import AlterAction, AlterKind, alter_actions
from runner.sql.facts import dropped_relations, is_cascading
from runner.sql.foreign import Change, ForeignKey, RowChange
from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import LockMode
from runner.sql.locks import locks_taken
from runner.sql.relations import Relation

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A foreign key between two tables that are known."""

    key: ForeignKey
    child: Lockable
    parent: Lockable


class ForeignKeys:
    """The foreign keys of a plan, and what they add to a step's locks."""

    def __init__(self) -> None:
        self._of_child: dict[Lockable, list[_Link]] = defaultdict(list)
        self._of_parent: dict[Lockable, list[_Link]] = defaultdict(list)

    def add(self, key: ForeignKey, naming: Naming) -> None:
        """Remember a foreign key as a step's statement makes it."""
        for child in naming.read(key.child):
            for parent in naming.read(key.parent):
                other_item = None not in (child.item, parent.item) and child.item != parent.item
                if child.on != parent.on and not other_item:
                    link = _Link(key=key, child=child.on, parent=parent.on)
                    self._of_child[child.on].append(link)
                    self._of_parent[parent.on].append(link)

    def names(self) -> Iterator[str]:
        """Yield the names of the tables that have a foreign key on one side or the other."""
        yield from (on.name for on in (*self._of_child, *self._of_parent) if on.name is not None)

    def spread(self, statement: TextStatement, naming: Naming) -> Iterator[Held]:
        """Yield the locks that a statement takes on the other side of foreign keys."""
        if not self._of_child:
            return
        reading = naming if statement.settled else naming.unsettled()
        for change in changes_in(statement):
            for named in reading.read(change.relation):
                yield from self._by_change(statement, change, named)
        for relation in _altered(statement):
            for named in reading.read(relation):
                yield from self._by_command(statement, named)

    def _by_change(self, statement: TextStatement, change: RowChange, named: Named) -> Iterator[Held]:
        held_by = partial(_held, statement, item=named.item, offset=change.offset)
        for link in self._of_child.get(named.on, ()):
            if change.change is Change.INSERT or not change.columns.isdisjoint(link.key.columns):
                yield held_by(link, link.parent, LockMode.ROW_SHARE)
        for link in self._of_parent.get(named.on, ()):
            if change.change is Change.DELETE:
                yield held_by(link, link.child, link.key.on_delete)
            elif change.change is Change.UPDATE and not change.columns.isdisjoint(link.key.referenced):
                yield held_by(link, link.child, link.key.on_update)

    def _by_command(self, statement: TextStatement, named: Named) -> Iterator[Held]:
        held_by = partial(_held, statement, item=named.item, offset=statement.parsed.start)
        dropped = statement.parsed.kind is _K.DROP_TABLE
        if (dropped or statement.parsed.kind is _K.TRUNCATE) and is_cascading(statement.parsed):
            for link in self._of_parent.get(named.on, ()):
                yield held_by(link, link.child, LockMode.ACCESS_EXCLUSIVE)
        for link in self._of_child.get(named.on, ()):
            if dropped:
                yield held_by(link, link.parent, LockMode.ACCESS_EXCLUSIVE)
            for action in alter_actions(statement.parsed):
                mode = _on_parent(action, link.key)
                if mode is not None:
                    yield held_by(link, link.parent, mode)


def _altered(statement: TextStatement) -> tuple[Relation, ...]:
    """Return the tables of a command that may change a foreign key, or what is in its table."""
    found: tuple[Relation, ...] = ()
    match statement.parsed.kind:
        case _K.DROP_TABLE:
            found = dropped_relations(statement.parsed)
        case _K.TRUNCATE | _K.ALTER_TABLE:
            found = tuple(dict.fromkeys(lock.relation for lock in locks_taken(statement.parsed)))
    return tuple(relation for relation in found if not statement.is_own(relation))


def _on_parent(action: AlterAction, key: ForeignKey) -> LockMode | None:
    """Return the lock on the parent of a subcommand that is about the foreign key."""
    about_key = action.name == key.name
    if action.kind is AlterKind.VALIDATE_CONSTRAINT and about_key:
        return LockMode.ROW_SHARE
    drops_column = action.kind is AlterKind.DROP_COLUMN and action.name in key.columns
    if drops_column or (action.kind is AlterKind.DROP_CONSTRAINT and about_key):
        return LockMode.ACCESS_EXCLUSIVE
    return None


def _held(
    statement: TextStatement,
    link: _Link,
    on: Lockable,
    mode: LockMode,
    *,
    item: int | None,
    offset: int,
) -> Held:
    return Held(
        on=on,
        mode=mode,
        nature=Nature.PLAIN,
        order=(statement.number, 0),
        what=statement.what,
        name=str(link.key.child if on == link.child else link.key.parent),
        offset=offset,
        via=str(link.key),
        item=item,
        planned=mode in {LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE},  # the server asks by queries of its own
    )
