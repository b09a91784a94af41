"""Rules about the transaction of a step: statements that a worker refuses, that must be alone, or that do not mix."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

from runner.errors import Cause, Severity
from runner.lint.rule import Created, Finding, Rule, StatementPlace, blocking_lock, created_in, statements
from runner.plan.parsed_sql import StepSql, Subject
from runner.sql.catalog_changes import Sort, made
from runner.sql.function_calls import parameter_symbols
from runner.sql.plpgsql_bodies import (
    called_procedure,
    commands_in_body,
    committing_procedure,
    ends_transaction_for_sure,
)
from runner.sql.relations import Relation
from runner.sql.statement_effects import SessionState, session_state, state_of
from runner.sql.statements import Statement
from runner.sql.statements import StatementKind as Kind
from runner.sql.table_locks import row_changes
from runner.sql.transactions import (
    AddedValue,
    added_value,
    cannot_stand_alone,
    must_stand_alone,
    refused_by_worker,
    value_used,
    without_effect,
)
from runner.sql.unfiltered_writes import holds_its_rows, unfiltered_writes

_SYMBOL = re.compile(r"\$[0-9]")
# Statements that do not use a lock or a cursor before them.
_IDLE = frozenset(
    {
        *(Kind.LOCK, Kind.DECLARE_CURSOR, Kind.CLOSE, Kind.SET, Kind.RESET, Kind.SET_TRANSACTION),
        *(Kind.SET_CONSTRAINTS, Kind.DEALLOCATE, Kind.DISCARD),
    }
)


def _transaction_control(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.TRANSACTION):
        word = place.own_text.split(maxsplit=1)[0].upper()
        message = f"a worker refuses {word}: the whole text of a step is one transaction already"
        yield place.finding(
            message, hint="leave it out; put statements that must commit separately into separate steps"
        )


def _listening(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.LISTEN, Kind.UNLISTEN):
        if place.statement.kind is Kind.LISTEN:
            yield place.finding("a worker refuses LISTEN: it has no client to notify", hint="NOTIFY works")
        else:
            message = "UNLISTEN does nothing: the session of a worker is new, and it cannot LISTEN"
            yield place.finding(message, hint="leave it out", severity=Severity.WARNING)


def _client_copy(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.COPY_FROM, Kind.COPY_TO):
        refused = refused_by_worker(place.statement)
        reason = refused or without_effect(place.statement)
        if reason is not None:
            # Reading every row without output can be intended: it finds damaged pages.
            severity = Severity.WARNING if refused is None else None
            hint = "name a file or a PROGRAM of the server, or use psql"
            if place.statement.kind is Kind.COPY_FROM:
                hint = (
                    "write few rows as INSERT … VALUES; name a file or a PROGRAM of the server; or load them with psql"
                )
            yield place.finding(reason, hint=hint, severity=severity)


def _useless_lock(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        yield from reversed(list(_at_the_end(step)))


def _at_the_end(step: StepSql) -> Iterator[Finding]:
    lone = len(step.statements) == 1
    for statement in reversed(step.statements):
        advisory = not lone and _is_useless_advisory(step, statement)
        if statement.kind not in _IDLE and not advisory:
            return
        place = StatementPlace(step, statement)
        severity = Severity.ERROR if lone and cannot_stand_alone(statement) is not None else None
        if statement.kind is Kind.LOCK or advisory:
            message = "no statement runs under this lock: it is released when the SQL of the step ends"
            hint = "write the statements that need the lock after it, in the same step"
            yield place.finding(message, hint=hint, severity=severity)
        elif statement.kind is Kind.DECLARE_CURSOR:
            message = "no statement reads this cursor: it is closed when the SQL of the step ends"
            hint = "FETCH from it in the same step, or write the query itself"
            yield place.finding(message, hint=hint, severity=severity)


def _is_useless_advisory(step: StepSql, statement: Statement) -> bool:
    """Return whether a query only acquires advisory locks, among other statements: alone, another rule reports it."""
    looked_at = step.step.expect is not None or step.step.capture_rows > 0
    locks = statement.kind is Kind.SELECT and state_of(statement) is SessionState.LOCK
    return locks and not looked_at and session_state(step.statements) is None


def _numbered_parameters(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        if not _SYMBOL.search(place.own_text):
            continue
        for number, offset in parameter_symbols(place.statement):
            hint = "declare it in `params` and write :'name', or bare :name for a number"
            yield place.finding(f"${number} has no value", hint=hint, offset=offset)


WORKER_RULES = (
    Rule(code="JP310", check=_transaction_control),
    Rule(code="JP311", check=_listening),
    Rule(code="JP312", check=_client_copy),
    Rule(code="JP313", check=_useless_lock),
    Rule(code="JP314", check=_numbered_parameters),
)


def _among_others(subject: Subject, *kinds: Kind) -> Iterator[StatementPlace]:
    return (place for place in statements(subject, *kinds) if len(place.step.statements) > 1)


def _alone(subject: Subject) -> Iterator[Finding]:
    for place in _among_others(subject):
        reason = None if place.statement.kind is Kind.DO else must_stand_alone(place.statement)
        if reason is not None:
            count = len(place.step.statements)
            message = f"{reason}, and the {count} statements of this step are one"
            hint = "put it into a separate step, and connect the steps with `needs`"
            cause = Cause(key=place.step.step.id, part=f"{place.statement.kind} after it", hint=hint)
            yield place.finding(message, hint=hint, cause=cause)


def _commits_in_company(subject: Subject) -> Iterator[Finding]:
    places = list(_among_others(subject, Kind.DO, Kind.CALL))
    if not places:
        return
    committing: defaultdict[str, set[Relation]] = defaultdict(set)
    certainly: set[Relation] = set()
    for place in statements(subject, Kind.CREATE_FUNCTION):
        procedure = committing_procedure(place.statement)
        if procedure is not None:
            committing[procedure.name].add(procedure)
            if ends_transaction_for_sure(place.statement):
                certainly.add(procedure)
    for place in places:
        statement = place.statement
        called = called_procedure(statement)
        if must_stand_alone(statement) is not None:
            message = "the DO block ends a transaction that it shares with the other statements of the step"
            certain = ends_transaction_for_sure(statement)
        elif called is not None and any(called.may_be(one) for one in committing.get(called.name, ())):
            message = f"`{called}` ends a transaction that it shares with the other statements of the step"
            certain = called in certainly
        else:
            continue
        if not certain:
            message = f"{message} if it reaches its COMMIT or ROLLBACK"
        hint = "put it into a separate step, and connect the steps with `needs`"
        yield place.finding(message, hint=hint, severity=None if certain else Severity.WARNING)


ALONE_RULES = (
    Rule(code="JP320", check=_alone),
    Rule(code="JP321", check=_commits_in_company),
)


_DDL = (Kind.ALTER_TABLE, Kind.CREATE_TRIGGER, Kind.DROP_TRIGGER, Kind.RENAME, Kind.CREATE_RULE, Kind.CREATE_INDEX)
_FILLS = frozenset({Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.COPY_FROM, Kind.SELECT, Kind.DO})
_WRITING_WORDS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})


def _new_enum_value(subject: Subject) -> Iterator[Finding]:
    for rank in dict.fromkeys(place.step.rank for place in statements(subject, Kind.ALTER_TYPE)):
        step = subject.steps[rank]
        own: list[Relation] = []
        added: list[AddedValue] = []
        for statement in step.statements:
            own += (one.relation for one in made(statement) if one.sort is Sort.TYPE and one.relation is not None)
            place = StatementPlace(step, statement)
            for value in added:
                use = value_used(value, statement)
                if use is not None:
                    severity = Severity.ERROR if use.certain and not value.guarded else None
                    message = (
                        f"'{value.label}' is a new value of the type `{value.type}`, and cannot be used before the "
                        "transaction that adds it has committed (55P04)"
                    )
                    hint = "add the value in a separate step, and use it in a step that needs that step"
                    yield place.finding(message, hint=hint, offset=use.offset, severity=severity)
            new = added_value(statement)
            if new is not None and not any(new.type.may_be(one) for one in own):
                added.append(new)


def _held_through_backfill(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for _, places in groupby(statements(subject, *_DDL), key=attrgetter("step.rank")):
        first = next(((place, lock) for place in places if (lock := blocking_lock(place, created)) is not None), None)
        if first is None:
            continue
        place, lock = first
        for statement in place.step.statements:
            if statement.start <= place.statement.start or statement.kind not in _FILLS:
                continue
            filling = StatementPlace(place.step, statement)
            if not _is_long(filling, lock.relation, created):
                continue
            message = (
                f"the {lock.mode} lock on `{lock.relation}` that {place.statement.kind} takes is held until this "
                f"{statement.kind} has ended, because a step is one transaction"
            )
            hint = "put the two statements into two steps, connected by `needs`; `repeat` fills a table in batches"
            yield filling.finding(message, hint=hint)
            break


def _is_long(place: StatementPlace, locked: Relation, created: Created) -> bool:
    """Return whether a statement may change many rows: of the locked table, or of another one without a condition."""
    found = [place.statement]
    if place.statement.kind is Kind.DO:
        found = [each.statement for each in commands_in_body(place.statement, place.text, _WRITING_WORDS)]
    return any(_changes_much(statement, place, locked, created) for statement in found)


def _changes_much(statement: Statement, place: StatementPlace, locked: Relation, created: Created) -> bool:
    if statement.kind in {Kind.INSERT, Kind.COPY_FROM}:
        return not holds_its_rows(statement)
    changed = [change.relation for change in row_changes(statement)]
    if any(relation.may_be(locked) for relation in changed):
        return True
    return any(not created.is_new(use.relation, place) for use in unfiltered_writes(statement))


RULES = (
    *WORKER_RULES,
    *ALONE_RULES,
    Rule(code="JP322", check=_new_enum_value),
    Rule(code="JP335", check=_held_through_backfill),
)
