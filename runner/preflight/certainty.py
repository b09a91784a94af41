"""What earlier steps alter of what a statement depends on: an error is reported only if nothing can have changed it.

The server answers for the catalog as it is now. If an earlier step alters something that the answer depends on, the
answer says nothing about the run: the statement is not checkable, and no error. The other way round, a statement that
is right now is only partly checked if an earlier step may break it.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.preflight.made import Altered
from runner.preflight.seen import Sight, State
from runner.preflight.texts import MADE_UP, Unit
from runner.sql.alter import alter_actions
from runner.sql.alterations import Alteration, Aspect
from runner.sql.columns import has_star, inserts_by_position, words
from runner.sql.kinds import StatementKind
from runner.sql.needs import needed
from runner.sql.relations import Relation, query_relations

_A = Aspect
_K = StatementKind

#: SQLSTATE or code of a finding → what it depends on; every other one depends on anything.
_DEPENDS: dict[str, frozenset[Aspect]] = {
    "42501": frozenset({_A.PRIVILEGE, _A.ROLE, _A.SETTING}),
    "JP610": frozenset({_A.PRIVILEGE, _A.ROLE, _A.SETTING}),
    "42P10": frozenset({_A.KEY, _A.CONSTRAINT, _A.COLUMN, _A.PARTITION, _A.INHERITANCE}),
    "42703": frozenset({_A.COLUMN, _A.TYPE, _A.FUNCTION, _A.INHERITANCE, _A.EXTENSION, _A.PARTITION}),
    "JP602": frozenset({_A.COLUMN, _A.CONSTRAINT, _A.KEY, _A.ATTACHED, _A.INHERITANCE, _A.PARTITION}),
    "42883": frozenset({_A.FUNCTION, _A.OPERATOR, _A.TYPE, _A.COLUMN, _A.EXTENSION, _A.OBJECT}),
    "42P01": frozenset({_A.EXTENSION}),
    "JP601": frozenset({_A.EXTENSION}),
    "3F000": frozenset({_A.EXTENSION}),
    "JP604": frozenset(),
    "JP605": frozenset({_A.COLUMN, _A.FUNCTION, _A.TYPE}),
    "JP608": frozenset({_A.CONSTRAINT, _A.KEY, _A.COLUMN, _A.ATTACHED, _A.OBJECT}),
    "JP609": frozenset({_A.CONSTRAINT, _A.KEY, _A.RELATION, _A.COLUMN, _A.PARTITION, _A.ATTACHED, _A.INHERITANCE}),
    "JP522": frozenset({_A.PRIVILEGE, _A.ROLE}),
    "JP523": frozenset({_A.EXTENSION}),
    "JP614": frozenset({_A.VALIDITY, _A.KEY}),
    "JP615": frozenset({_A.FILLING, _A.KEY}),
    "JP618": frozenset({_A.PARTITION}),
    "JP621": frozenset({_A.ROLE}),
}
#: How the messages of the scanner and the grammar begin.
_UNREAD = ("syntax error", "trailing junk", "invalid binary integer", "invalid octal integer", "invalid hexadecimal")
#: Aspects that matter only where the statement has the name in it.
_NAMED = frozenset({_A.FUNCTION, _A.OBJECT, _A.ATTACHED})
_EVERYTHING = frozenset(_A) - {_A.PRIVILEGE}


def is_syntax_error(sqlstate: str, message: str) -> bool:
    """Return whether the server could not read the text; in class 42601 are other errors too."""
    return sqlstate == "42601" and message.startswith(_UNREAD)


def doubt(unit: Unit, sight: Sight, reason: str, message: str = "") -> str | None:
    """Return why an error that the server or the catalog reports now is not certain, None if it is.

    `reason` is its SQLSTATE or the code of the finding.
    """
    if MADE_UP in message:
        return "it depends on the item of for_each, which is not known before the step runs"
    if reason == "JP607" or is_syntax_error(reason, message):
        return None
    computed = sight.computed & {"search_path", "role"}
    if computed:
        return f"the step gives {min(computed)} a value that is known only when it runs"
    found = _relevant(unit, sight, _DEPENDS.get(reason, _EVERYTHING), message)
    return found.said if found is not None else None


def breakable(unit: Unit, sight: Sight) -> Iterator[str]:
    """Yield what earlier steps alter so that a statement which is right now may fail when it runs."""
    relations = relations_of(unit, sight)
    if "role" in sight.computed:
        yield "the step takes a role that is known only when it runs"
    for one in sight.altered(relations):
        alteration = one.alteration
        if (alteration.removes or alteration.aspect is _A.COLUMN) and _may_break(alteration, one, unit, sight):
            yield f"{one.said}: what comes of it shows when it runs"
    for relation in relations:
        made = sight.dropped_perhaps(relation)
        if made is not None and sight.relation(relation).state is State.THERE:
            yield f"{relation} is {made.told}, if that step runs, and before it"


def _relevant(unit: Unit, sight: Sight, aspects: frozenset[Aspect], message: str) -> Altered | None:
    if not aspects:
        return None
    said = _Words(unit)
    for one in sight.altered(relations_of(unit, sight)):
        alteration = one.alteration
        if alteration.aspect not in aspects and alteration.aspect is not _A.SETTING:
            continue
        if alteration.aspect in _NAMED and alteration.name and not said.has(alteration):
            continue
        if alteration.aspect is _A.COLUMN and not _could_mend(alteration, message):
            continue
        if alteration.aspect is _A.SETTING and one.step == sight.step:
            continue
        if alteration.aspect is _A.KEY and "never been filled" in message:
            continue
        if alteration.aspect is _A.FILLING and "unique index" in message:
            continue
        if aspects == {_A.PARTITION} and not any(name in message for name in {alteration.name, alteration.old} - {""}):
            continue
        return one
    return None


def _could_mend(alteration: Alteration, message: str) -> bool:
    """A column that another name is missing beside has nothing to do with it."""
    missing = "does not exist" in message or " has no column " in message
    return not (missing and alteration.name and alteration.name not in message and "column" in message)


def _may_break(alteration: Alteration, one: Altered, unit: Unit, sight: Sight) -> bool:
    said, aspect = _Words(unit), alteration.aspect
    named = said.has(alteration)
    if aspect is _A.COLUMN:
        return _column_may_break(alteration, unit, named=named)
    if aspect in {_A.KEY, _A.CONSTRAINT}:
        return named or bool(said.words & {"conflict", "references", "group"})
    if aspect in {_A.PARTITION, _A.INHERITANCE}:
        return unit.statement.kind not in {_K.SELECT, _K.UPDATE, _K.DELETE, _K.VACUUM, _K.ANALYZE}
    if aspect is _A.ROLE:
        return named or alteration.name == sight.around.role
    always = {
        _A.PRIVILEGE: not sight.around.superuser,
        _A.SETTING: one.step != sight.step,
        **dict.fromkeys((_A.FILLING, _A.CLUSTERING, _A.RELATION, _A.OPERATOR), True),
    }
    return always.get(aspect, named)


def _column_may_break(alteration: Alteration, unit: Unit, *, named: bool) -> bool:
    """A column that is new matters to what takes all of them; one that is changed also to what names it."""
    if alteration.relation is None:  # whatever columns CASCADE drops
        return alteration.removes
    positional = inserts_by_position(unit.statement)
    star = has_star(unit.statement) and unit.statement.kind is not _K.SELECT
    return positional or star or (alteration.removes and named)


class _Words:
    """The words of a statement, read when the first question comes."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._words: frozenset[str] | None = None

    @property
    def words(self) -> frozenset[str]:
        """Return all names, keywords and string constants."""
        if self._words is None:
            self._words = words(self._unit.sql)
        return self._words

    def has(self, alteration: Alteration) -> bool:
        """Return whether the statement has a name of the alteration in it."""
        names = {alteration.name, alteration.old, alteration.value} - {""}
        return bool(names & self.words)


def relations_of(unit: Unit, sight: Sight) -> frozenset[Relation]:
    """Return the relations that a statement depends on: those that it names, and what is behind them."""
    statement = unit.statement
    named = {use.relation for use in query_relations(statement)}
    named |= {one.relation for one in needed(statement)}
    named |= {action.other for action in alter_actions(statement) if action.other is not None}
    found = set(named)
    for relation in named:
        facts = sight.around.relations.get(relation)
        if facts is None:
            continue
        found |= {facts.relation, *facts.reads, *facts.views, *facts.children}
        found |= {key.relation for key in (*facts.referenced_by, *facts.refers_to)}
        found |= {facts.partition_of} if facts.partition_of is not None else set()
        found |= {facts.index_of.relation} if facts.index_of is not None else set()
        found |= {index.relation for index in facts.indexes}
        found |= {one.relation for one in facts.dependents if one.relation is not None}
    return frozenset(found)
