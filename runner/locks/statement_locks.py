"""The locks that a SQL text takes, statement by statement, with those that the plan's own foreign keys add.

Names are not resolved here, and items have no values yet. Each case of a foreign key was measured: what a session has
in pg_locks after the statement. A row change locks the other side only if there is such a row, an UPDATE only if it
sets a column of the key.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from runner.locks.conflicts import Held, Lockable, LockTiming
from runner.locks.relation_names import NamedRelation, Naming
from runner.sql.alter_table import AlterAction, AlterKind, alter_actions
from runner.sql.command_objects import created_index, created_relations, dropped_relations, is_temporary
from runner.sql.command_options import enabled, is_cascading, is_concurrent, is_guarded
from runner.sql.lock_modes import LockMode, LockTarget
from runner.sql.relations import Relation
from runner.sql.session_settings import settings_changed
from runner.sql.statements import Statement, StatementKind, Template
from runner.sql.table_locks import ForeignKey, RowChange, RowChangeKind, locks_taken, row_changes, sweeping_lock
from runner.structs import Struct, replace

_K = StatementKind


class TextLock(Struct, frozen=True, kw_only=True):
    """A lock as the text has it; without a relation it is on every table of `schema`, or of the database.

    `order` is the statement's number in the text, and the lock's number within it.
    """

    relation: Relation | None
    mode: LockMode
    order: tuple[int, int]
    offset: int
    target: LockTarget = LockTarget.RELATION
    schema: str | None = None


class TextStatement(Struct, frozen=True, kw_only=True):
    """A statement with its locks; `what` names it in messages.

    `own` are relations that the text has created above it, `settled` is false after a SET search_path.
    """

    parsed: Statement
    number: int
    what: str
    nature: LockTiming
    own: frozenset[Relation]
    settled: bool
    locks: tuple[TextLock, ...]

    @property
    def planned(self) -> bool:
        """Whether the planner opens the relations of the statement, and so their indexes too."""
        return self.parsed.kind in _PLANNED

    def holds(
        self,
        on: Lockable,
        mode: LockMode,
        name: str,
        offset: int,
        item: int | None = None,
        *,
        order: tuple[int, int] | None = None,
        nature: LockTiming = LockTiming.PLAIN,
    ) -> Held:
        """Return a lock that the statement takes; without an `order`, when it begins."""
        return Held(
            on=on,
            mode=mode,
            nature=nature,
            order=(self.number, 0) if order is None else order,
            what=self.what,
            name=name,
            offset=offset,
            item=item,
            planned=self.planned,
        )

    def is_own(self, relation: Relation) -> bool:
        """Return whether the text has created the relation itself, so that no other session sees it."""
        return any(relation.may_be(own) for own in self.own)


def read_text(template: Template) -> tuple[TextStatement, ...]:
    """Return the statements of a text with their locks, without locks on relations that only this text can see."""
    return tuple(_statements(template))


def has_row_commands_only(template: Template) -> bool:
    """Return whether a text only reads and changes rows: it excludes no text that does the same in another step."""
    return all(statement.kind in _ROW_COMMANDS for statement in template.statements)


def words_in(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case: a relation can only be in a text with all the words of its name."""
    return frozenset(_WORD.findall(text.lower()))


def hides_names(text: str) -> bool:
    """Return whether a text may contain names that are not among its words: by parameters, or escaped."""
    return ':"' in text or "\\" in text


def changes_in(statement: TextStatement) -> tuple[RowChange, ...]:
    """Return the row changes of a statement, without those of relations that only its text can see."""
    return tuple(change for change in row_changes(statement.parsed) if not statement.is_own(change.relation))


def _statements(template: Template) -> Iterator[TextStatement]:
    moves = "search_path" in template.text.lower()
    own: frozenset[Relation] = frozenset()
    settled = True
    for number, parsed in enumerate(template.statements):
        locks = tuple(lock for lock in _locks(parsed, number) if not _is_private(lock.relation, own))
        yield TextStatement(
            parsed=parsed,
            number=number,
            what=_what(parsed),
            nature=_nature(parsed),
            own=own,
            settled=settled,
            locks=locks,
        )
        own |= _made(parsed, own)
        if moves and any(name in {"search_path", "all"} for name, _ in settings_changed(parsed)):
            settled = False


def _is_private(relation: Relation | None, own: frozenset[Relation]) -> bool:
    return relation is not None and any(relation.may_be(made) for made in own)


def _made(statement: Statement, own: frozenset[Relation]) -> frozenset[Relation]:
    """Return what is certainly new after a statement: not what may have existed, unless it is temporary."""
    index = created_index(statement)
    if index is not None and index.index is not None:
        return frozenset({index.index}) if _is_private(index.table, own) else frozenset()
    made = frozenset(created_relations(statement))
    return made if made and (is_temporary(statement) or not is_guarded(statement)) else frozenset()


def _locks(statement: Statement, number: int) -> Iterator[TextLock]:
    one_by_one = statement.kind in _ONE_BY_ONE
    for place, lock in enumerate(locks_taken(statement)):
        yield TextLock(
            relation=lock.relation,
            mode=lock.mode,
            order=(number, place if one_by_one else 0),
            offset=lock.offset,
            target=lock.target,
        )
    sweep = sweeping_lock(statement) if statement.kind in _SWEEPING else None
    if sweep is not None:
        order, offset = (number, 0), statement.start
        yield TextLock(relation=None, mode=sweep.mode, order=order, offset=offset, schema=sweep.schema)


_WORD = re.compile(r"\w+")
#: Commands that read or change rows, with the same locks as all readers or writers, or without any.
_ROW_COMMANDS = frozenset(
    [
        *(_K.SELECT, _K.SELECT_INTO, _K.CREATE_TABLE_AS, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE),
        *(_K.COPY_FROM, _K.COPY_TO, _K.EXPLAIN, _K.DO, _K.CALL, _K.SET, _K.RESET, _K.SHOW, _K.NOTIFY),
    ]
)
_PLANNED = frozenset({_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS})
#: Commands that lock the relations that they name one by one, in the order of the text.
_ONE_BY_ONE = frozenset({_K.TRUNCATE, _K.LOCK, _K.DROP_TABLE})
#: Commands that lock every table of a schema or database; others of that kind lock some that only the server knows.
_SWEEPING = frozenset({_K.VACUUM, _K.ANALYZE, _K.REINDEX, _K.DROP_SCHEMA})


def _nature(statement: Statement) -> LockTiming:
    match statement.kind:
        case _K.VACUUM if not enabled(statement, "full") and not enabled(statement, "analyze"):
            return LockTiming.VACUUM
        case _K.CREATE_INDEX | _K.REINDEX if is_concurrent(statement):
            return LockTiming.BUILD
        case _K.DROP_INDEX if is_concurrent(statement):
            return LockTiming.DROP
        case _K.ALTER_TABLE if is_concurrent(statement):
            return LockTiming.DETACH
    return LockTiming.PLAIN


def _what(statement: Statement) -> str:
    """Name a command as far as its lock depends on it: `VACUUM (ANALYZE)`, `ALTER TABLE … ADD COLUMN`."""
    match statement.kind:
        case _K.VACUUM:
            chosen = [option.upper() for option in ("full", "analyze") if enabled(statement, option)]
            return f"VACUUM ({', '.join(chosen)})" if chosen else "VACUUM"
        case _K.ALTER_TABLE:
            kinds = (action.kind for action in alter_actions(statement))
            shown = next((kind for kind in kinds if kind is not AlterKind.OTHER), None)
            return f"ALTER TABLE … {shown}" if shown else "ALTER TABLE"
        case _K.CREATE_INDEX | _K.DROP_INDEX | _K.REINDEX | _K.REFRESH_MATERIALIZED_VIEW if is_concurrent(statement):
            return f"{statement.kind} CONCURRENTLY"
    return str(statement.kind)


class _Link(Struct, frozen=True, kw_only=True):
    """A foreign key between two known tables."""

    key: ForeignKey
    child: Lockable
    parent: Lockable


class ForeignKeys:
    """The foreign keys of a plan, and the locks that they add to a step's."""

    def __init__(self) -> None:
        self._of_child: dict[Lockable, list[_Link]] = defaultdict(list)
        self._of_parent: dict[Lockable, list[_Link]] = defaultdict(list)

    def add(self, key: ForeignKey, naming: Naming) -> None:
        """Record a foreign key that a step's statement creates."""
        for child in naming.read(key.child):
            for parent in naming.read(key.parent):
                other_item = None not in (child.item, parent.item) and child.item != parent.item
                if child.on != parent.on and not other_item:
                    link = _Link(key=key, child=child.on, parent=parent.on)
                    self._of_child[child.on].append(link)
                    self._of_parent[parent.on].append(link)

    def names(self) -> Iterator[str]:
        """Yield the names of the tables with a foreign key, on either side."""
        yield from (on.name for on in (*self._of_child, *self._of_parent) if on.name is not None)

    def spread(self, statement: TextStatement, naming: Naming) -> Iterator[Held]:
        """Yield the locks that a statement takes on the other tables of foreign keys."""
        if not self._of_child:
            return
        reading = naming if statement.settled else naming.unsettled()
        for change in changes_in(statement):
            for named in reading.read(change.relation):
                yield from self._by_change(statement, change, named)
        for relation in _altered(statement):
            for named in reading.read(relation):
                yield from self._by_command(statement, named)

    def _by_change(self, statement: TextStatement, change: RowChange, named: NamedRelation) -> Iterator[Held]:
        held_by = partial(_held, statement, item=named.item, offset=change.offset)
        for link in self._of_child.get(named.on, ()):
            if change.change is RowChangeKind.INSERT or not change.columns.isdisjoint(link.key.columns):
                yield held_by(link, link.parent, LockMode.ROW_SHARE)
        for link in self._of_parent.get(named.on, ()):
            if change.change is RowChangeKind.DELETE:
                yield held_by(link, link.child, link.key.on_delete)
            elif change.change is RowChangeKind.UPDATE and not change.columns.isdisjoint(link.key.referenced):
                yield held_by(link, link.child, link.key.on_update)

    def _by_command(self, statement: TextStatement, named: NamedRelation) -> Iterator[Held]:
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
    """Return the tables of a command that may change a foreign key, or the rows of its table."""
    found: tuple[Relation, ...] = ()
    match statement.parsed.kind:
        case _K.DROP_TABLE:
            found = dropped_relations(statement.parsed)
        case _K.TRUNCATE | _K.ALTER_TABLE:
            found = tuple(dict.fromkeys(lock.relation for lock in locks_taken(statement.parsed)))
    return tuple(relation for relation in found if not statement.is_own(relation))


def _on_parent(action: AlterAction, key: ForeignKey) -> LockMode | None:
    """Return the lock on the parent table by a subcommand that concerns the foreign key."""
    about_key = action.name == key.name
    if action.kind is AlterKind.VALIDATE_CONSTRAINT and about_key:
        return LockMode.ROW_SHARE
    drops_column = action.kind is AlterKind.DROP_COLUMN and action.name in key.columns
    if drops_column or (action.kind is AlterKind.DROP_CONSTRAINT and about_key):
        return LockMode.ACCESS_EXCLUSIVE
    return None


def _held(
    statement: TextStatement, link: _Link, on: Lockable, mode: LockMode, *, item: int | None, offset: int
) -> Held:
    name = str(link.key.child if on == link.child else link.key.parent)
    # The server checks with queries of its own.
    planned = mode in {LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE}
    return replace(statement.holds(on, mode, name, offset, item), via=str(link.key), planned=planned)
