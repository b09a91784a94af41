"""The locks that a SQL text takes, statement by statement, before names are resolved and items have values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runner.lint.locking.held import Nature
from runner.sql.alter import AlterKind, alter_actions
from runner.sql.details import is_temporary
from runner.sql.facts import created_index, created_relations, is_guarded, settings_changed
from runner.sql.foreign import RowChange, row_changes
from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import LockMode, Target
from runner.sql.locks import locks_taken, sweeping_lock
from runner.sql.options import enabled, is_concurrent
from runner.sql.parse import Statement, Template
from runner.sql.relations import Relation

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLock:
    """A lock as the text has it; without a relation it is on every table of `schema`, or of the database.

    `order` is the statement's number in the text, and the lock's number within it.
    """

    relation: Relation | None
    mode: LockMode
    order: tuple[int, int]
    offset: int
    target: Target = Target.RELATION
    schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStatement:
    """A statement with its locks; `what` names it in messages.

    `own` are relations that the text has created above it, `settled` is false after a SET search_path.
    """

    parsed: Statement
    number: int
    what: str
    nature: Nature
    own: frozenset[Relation]
    settled: bool
    locks: tuple[TextLock, ...]

    @property
    def planned(self) -> bool:
        """Whether the planner opens the relations of the statement, and so their indexes too."""
        return self.parsed.kind in _PLANNED

    def is_own(self, relation: Relation) -> bool:
        """Return whether the text has created the relation itself, so that no other session sees it."""
        return any(relation.may_be(own) for own in self.own)


def read_text(template: Template) -> tuple[TextStatement, ...]:
    """Return the statements of a text with their locks, without those on what only this text can see."""
    return tuple(_statements(template))


def is_gentle(template: Template) -> bool:
    """Return whether no statement of a text can exclude a statement of the same kinds in another step."""
    return all(statement.kind in _GENTLE for statement in template.statements)


def words_in(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case: a relation can only be in a text with all the words of its name."""
    return frozenset(_WORD.findall(text.lower()))


def hides_names(text: str) -> bool:
    """Return whether names may be in a text that are not among its words: by parameters, or escaped."""
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
        if moves and any(change.name in {"search_path", "all"} for change in settings_changed(parsed)):
            settled = False


def _is_private(relation: Relation | None, own: frozenset[Relation]) -> bool:
    return relation is not None and any(relation.may_be(made) for made in own)


def _made(statement: Statement, own: frozenset[Relation]) -> frozenset[Relation]:
    """Return what is surely new after a statement: not if it may have been there before, unless it is temporary."""
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
#: Commands that read or change rows and lock their relations as every reader or writer does, or lock none.
_GENTLE = frozenset(
    [
        *(_K.SELECT, _K.SELECT_INTO, _K.CREATE_TABLE_AS, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE),
        *(_K.COPY_FROM, _K.COPY_TO, _K.EXPLAIN, _K.DO, _K.CALL, _K.SET, _K.RESET, _K.SHOW, _K.NOTIFY),
    ]
)
_PLANNED = frozenset({_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS})
#: Commands that lock the relations that they name one after the other, in the order of the text.
_ONE_BY_ONE = frozenset({_K.TRUNCATE, _K.LOCK, _K.DROP_TABLE})
#: Commands that lock every table of a schema or database; others of that kind lock some that only the server knows.
_SWEEPING = frozenset({_K.VACUUM, _K.ANALYZE, _K.REINDEX, _K.DROP_SCHEMA})


def _nature(statement: Statement) -> Nature:
    match statement.kind:
        case _K.VACUUM if not enabled(statement, "full") and not enabled(statement, "analyze"):
            return Nature.VACUUM
        case _K.CREATE_INDEX | _K.REINDEX if is_concurrent(statement):
            return Nature.BUILD
        case _K.DROP_INDEX if is_concurrent(statement):
            return Nature.DROP
        case _K.ALTER_TABLE if is_concurrent(statement):
            return Nature.DETACH
    return Nature.PLAIN


def _what(statement: Statement) -> str:
    """Name a command as far as its lock depends on it: `VACUUM (ANALYZE)`, `ALTER TABLE … ADD COLUMN`."""
    match statement.kind:
        case _K.VACUUM:
            chosen = [option.upper() for option in ("full", "analyze") if enabled(statement, option)]
            return f"VACUUM ({', '.join(chosen)})" if chosen else "VACUUM"
        case _K.ALTER_TABLE:
            kinds = (action.kind for action in alter_actions(statement))
            told = next((kind for kind in kinds if kind is not AlterKind.OTHER), None)
            return f"ALTER TABLE … {told}" if told else "ALTER TABLE"
        case _K.CREATE_INDEX | _K.DROP_INDEX | _K.REINDEX | _K.REFRESH_MATERIALIZED_VIEW if is_concurrent(statement):
            return f"{statement.kind} CONCURRENTLY"
    return str(statement.kind)
