"""The type of a rule, and what rules share: findings with their positions, and the objects that a plan creates.

A rule is one function in a table: it reads a whole plan whose SQL has been parsed once, and yields findings.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from runner.codes import new_problem
from runner.errors import Cause, Position, Problem, Severity
from runner.plan.model import NeedOn
from runner.plan.parsed_sql import StepSql, Subject
from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.command_objects import (
    created_index,
    created_relations,
    created_schema,
    is_temporary,
    main_relation,
    new_name,
)
from runner.sql.command_options import is_guarded
from runner.sql.lock_modes import LockMode, RelationLock, conflict
from runner.sql.relations import Relation, query_relations
from runner.sql.statements import Statement, placeholder
from runner.sql.statements import StatementKind as Kind
from runner.sql.table_locks import locks_taken
from runner.structs import Struct

#: A step's number and an offset in its SQL: the order in the plan.
_Where = tuple[int, int]


class Finding(Struct, frozen=True, kw_only=True):
    """One violation of a rule.

    `severity` overrides that of the code; findings with the same `cause` are reported once.
    """

    position: Position
    message: str
    hint: str | None = None
    step: str | None = None
    severity: Severity | None = None
    cause: Cause | None = None

    def problem(self, code: str) -> Problem:
        """Return the finding as a problem with a code."""
        return new_problem(
            code,
            self.message,
            self.position,
            hint=self.hint,
            step=self.step,
            severity=self.severity,
            cause=self.cause,
        )


class Rule(Struct, frozen=True, kw_only=True):
    """A row of the table: the code, and the function that finds its problems in a plan.

    Severity and title are in `runner.codes`, the explanation is in `docs/rules`. An `optional` rule finds nothing
    unless a comment of the plan enables it.
    """

    code: str
    check: Callable[[Subject], Iterable[Finding]]
    optional: bool = False


class StatementPlace(Struct, frozen=True):
    """A statement of a step."""

    step: StepSql
    statement: Statement

    @property
    def order(self) -> _Where:
        """Its place in the order of the plan: the number of its step, and where it begins in the step's SQL."""
        return self.step.rank, self.statement.start

    @property
    def text(self) -> str:
        """The whole SQL text that the statement is part of."""
        return self.step.step.sql.text

    @property
    def own_text(self) -> str:
        """The statement's own text."""
        return self.text[self.statement.start : self.statement.end]

    @property
    def lower_text(self) -> str:
        """The statement's own text in lower case, for fast tests before its tree is walked."""
        return self.own_text.lower()

    def finding(
        self,
        message: str,
        *,
        hint: str | None = None,
        offset: int | None = None,
        severity: Severity | None = None,
        cause: Cause | None = None,
    ) -> Finding:
        """Return a finding at the character at `offset` of the step's SQL, or where the statement begins."""
        position = self.step.position(self.statement.start if offset is None else offset)
        return Finding(
            position=position, message=message, hint=hint, step=self.step.step.id, severity=severity, cause=cause
        )


#: All statements, and those of each kind.
_Places = tuple[list[StatementPlace], dict[Kind, list[StatementPlace]]]


def statements(subject: Subject, *kinds: Kind) -> Iterator[StatementPlace]:
    """Yield every statement of the plan's steps, or those of some kinds only, in the order of the plan."""
    places, by_kind = subject.once("places", _places)
    if not kinds:
        return iter(places)
    return heapq.merge(*(by_kind[kind] for kind in kinds if kind in by_kind), key=attrgetter("order"))


def _places(subject: Subject) -> _Places:
    """Find the statements once for all rules: most look for kinds that few steps of a large plan have."""
    places = [StatementPlace(step, statement) for step in subject.steps for statement in step.statements]
    by_kind: dict[Kind, list[StatementPlace]] = {}
    for place in places:
        by_kind.setdefault(place.statement.kind, []).append(place)
    return places, by_kind


def on_existing(subject: Subject, *kinds: Kind) -> Iterator[tuple[StatementPlace, Relation]]:
    """Yield the statements that change a relation which the plan has not created before, each with the relation."""
    created = created_in(subject)
    for place in statements(subject, *kinds):
        relation = main_relation(place.statement)
        if relation is not None and not created.is_new(relation, place):
            yield place, relation


def step_finding(step: StepSql, message: str, *, hint: str | None, cause: Cause | None = None) -> Finding:
    """Return a finding about a step as a whole, or about one of its keys: its position is the start of the step."""
    return Finding(position=step.step.position, message=message, hint=hint, step=step.step.id, cause=cause)


_CREATES = (
    *(Kind.CREATE_TABLE, Kind.CREATE_FOREIGN_TABLE, Kind.CREATE_TABLE_AS, Kind.SELECT_INTO, Kind.CREATE_VIEW),
    *(Kind.CREATE_MATERIALIZED_VIEW, Kind.CREATE_SEQUENCE, Kind.CREATE_INDEX, Kind.CREATE_SCHEMA),
)
#: What may give an object of others a name, a schema or a parent that the plan created.
_TAKES_OVER = (Kind.RENAME, Kind.SET_SCHEMA, Kind.ALTER_TABLE)
_JOINS = frozenset({AlterKind.ATTACH_PARTITION, AlterKind.INHERIT, AlterKind.ADD_CONSTRAINT})

_NEVER: _Where = (sys.maxsize, 0)
#: The step, by its number, or the group that an object belongs to; None if the whole plan sees it.
_Owner = int | str | None


class Created:
    """The relations and schemas that the plan creates, each with the first place where it is certainly new.

    A temporary table is a different one in every step, and so is one with an item of for_each in its name, except in
    the steps of one chain. An object of a step that may be left out, or may fail, is new for that step only. An object
    is not new any more once one that existed before has taken over its name, or has become its partition or child.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._relations: dict[tuple[_Owner, str | None, str], _Where] = {}
        self._of_any_schema: dict[tuple[_Owner, str], _Where] = {}
        self._schemas: dict[str, _Where] = {}
        #: Names of relations, schemas and views, and from where on they stand for what existed before.
        self._taken_over: dict[str, _Where] = {}
        self._schemas_entered: dict[str, _Where] = {}
        self._views_of_others: dict[str, _Where] = {}
        self._read = False

    def _read_once(self) -> None:
        """Read the plan on first use: most plans need it never."""
        if not self._read:
            self._read = True
            for place in statements(self._subject, *_CREATES, *_TAKES_OVER):
                if place.statement.kind in _TAKES_OVER:
                    self._note_taken_over(place)
                else:
                    self._note(place)

    def is_new(self, relation: Relation, place: StatementPlace) -> bool:
        """Return whether the plan creates the relation before `place`, and it did not exist before the plan.

        With IF NOT EXISTS or OR REPLACE it may have existed, unless it is temporary.
        """
        new = any(where < place.order for where in self._found(relation, place))
        return new and self._taken_over.get(relation.name, _NEVER) >= place.order

    def shows_others(self, relation: Relation, place: StatementPlace) -> bool:
        """Return whether the plan creates the relation before `place` as a view of one that is not new."""
        self._read_once()
        return self._views_of_others.get(relation.name, _NEVER) < place.order

    def is_own(self, relation: Relation, place: StatementPlace) -> bool:
        """Return whether the plan creates the relation anywhere, also again after a DROP."""
        return any(True for _ in self._found(relation, place))

    def schema_is_new(self, schema: str, place: StatementPlace) -> bool:
        """Return whether the plan creates the schema before `place`, and it did not exist before the plan."""
        self._read_once()
        entered = self._schemas_entered.get(schema, _NEVER) < place.order
        return self._schemas.get(schema, _NEVER) < place.order and not entered

    def _found(self, relation: Relation, place: StatementPlace) -> Iterator[_Where]:
        self._read_once()
        for step in (place.step.rank, place.step.step.group if self._is_item(relation, place) else None):
            if relation.schema is None:
                found = [self._of_any_schema.get((step, relation.name))]
            else:
                found = [self._relations.get((step, schema, relation.name)) for schema in (relation.schema, None)]
            yield from (where for where in found if where is not None)
        # A schema that may have existed before can have relations of other users.
        schema = _NEVER if relation.schema is None else self._schemas.get(relation.schema, _NEVER)
        if schema != _NEVER:
            yield schema

    def _is_item(self, relation: Relation, place: StatementPlace) -> bool:
        names = {placeholder(part) for part in (relation.schema, relation.name) if part is not None} - {None}
        bound = {bound.param.name for bound in place.step.step.bound}
        return bool(names - (self._subject.plan.params.keys() - bound))

    def _note_taken_over(self, place: StatementPlace) -> None:
        """Note names and parents that objects of others get, and the new names of the plan's own objects."""
        found = new_name(place.statement)
        if place.statement.kind is Kind.ALTER_TABLE:
            self._note_members(place)
        elif found is not None and not found.is_index:
            moves = place.statement.kind is Kind.SET_SCHEMA
            if self.is_new(found.old, place):
                self._add(found.new, place.order, place, temporary=False)
            else:
                _begin(self._taken_over, found.new.name, place)
            if moves and found.new.schema is not None and not self.is_new(found.old, place):
                _begin(self._schemas_entered, found.new.schema, place)

    def _note_members(self, place: StatementPlace) -> None:
        """A table that existed before becomes a partition or a child, or refers to a new table by a key."""
        table = main_relation(place.statement)
        for action in alter_actions(place.statement):
            if table is None or action.other is None or action.kind not in _JOINS:
                continue
            attaches = action.kind is AlterKind.ATTACH_PARTITION
            parent, child = (table, action.other) if attaches else (action.other, table)
            if not self.is_new(child, place):
                _begin(self._taken_over, parent.name, place)

    def _note(self, place: StatementPlace) -> None:
        statement = place.statement
        temporary = is_temporary(statement)
        where = place.order if temporary or not is_guarded(statement) else _NEVER
        schema = created_schema(statement)
        if schema is not None:
            sure = _NEVER if _is_unsure(place) else where
            self._schemas[schema] = min(sure, self._schemas.get(schema, _NEVER))
        index = created_index(statement)
        if index is not None and index.index is not None:
            self._add(index.index, where if self.is_new(index.table, place) else _NEVER, place, temporary=False)
        for relation in created_relations(statement):
            self._add(relation, where, place, temporary=temporary)
            if statement.kind is Kind.CREATE_VIEW and not all(
                self.is_new(use.relation, place) and not self.shows_others(use.relation, place)
                for use in query_relations(statement)
            ):
                _begin(self._views_of_others, relation.name, place)

    def _add(self, relation: Relation, where: _Where, place: StatementPlace, *, temporary: bool) -> None:
        step: _Owner = place.step.rank if temporary or _is_unsure(place) else None
        if step is None and self._is_item(relation, place):
            step = place.step.step.group or place.step.rank
        full, short = (step, relation.schema, relation.name), (step, relation.name)
        self._relations[full] = min(where, self._relations.get(full, _NEVER))
        self._of_any_schema[short] = min(where, self._of_any_schema.get(short, _NEVER))


def _begin(noted: dict[str, _Where], name: str, place: StatementPlace) -> None:
    noted[name] = min(place.order, noted.get(name, _NEVER))


def _is_unsure(place: StatementPlace) -> bool:
    """Return whether the plan continues if the step's CREATE is left out, or refused because the name is taken."""
    step = place.step.step
    after_failure = any(need.on is NeedOn.FAILURE for need in step.needs)
    return step.allow_failure is not None or step.if_ is not None or after_failure


def created_in(subject: Subject) -> Created:
    """Return what the plan creates."""
    return subject.once("created", Created)


def blocks_writers(mode: LockMode) -> bool:
    """Return whether other sessions cannot write to a relation with a lock of this mode."""
    return conflict(mode, LockMode.ROW_EXCLUSIVE)


def blocking_lock(place: StatementPlace, created: Created) -> RelationLock | None:
    """Return the first lock of a statement that blocks writers, on a relation that other sessions may use."""
    taken = (lock for lock in locks_taken(place.statement) if blocks_writers(lock.mode))
    return next((lock for lock in taken if not created.is_new(lock.relation, place)), None)
