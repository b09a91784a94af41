"""Rules about what the statements of one step do to each other, because they are one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

from runner.errors import Severity
from runner.lint.created import Created
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, Subject
from runner.sql.details import holds_its_rows
from runner.sql.enums import AddedValue, added_value, created_types, value_used
from runner.sql.facts import unfiltered_writes
from runner.sql.foreign import row_changes
from runner.sql.kinds import StatementKind as Kind
from runner.sql.lockmodes import LockMode, RelationLock, conflict
from runner.sql.locks import locks_taken
from runner.sql.relations import Relation

_DDL = (Kind.ALTER_TABLE, Kind.CREATE_TRIGGER, Kind.DROP_TRIGGER, Kind.RENAME, Kind.CREATE_RULE, Kind.CREATE_INDEX)
_FILLS = frozenset({Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.COPY_FROM})


def _new_enum_value(subject: Subject) -> Iterator[Finding]:
    for rank, _ in groupby(statements(subject, Kind.ALTER_TYPE), key=attrgetter("rank")):
        step = subject.steps[rank]
        own: set[Relation] = set()
        added: list[AddedValue] = []
        for statement in step.statements:
            own.update(created_types(statement))
            place = Place(rank=rank, step=step, statement=statement)
            for value in added:
                use = value_used(value, statement)
                if use is not None:
                    severity = Severity.ERROR if use.certain and not value.guarded else None
                    message = (
                        f"'{value.label}' is a new value of the type `{value.type}`, and cannot be used before the "
                        "transaction that adds it has committed (55P04)"
                    )
                    hint = "add the value in a step of its own, and use it in a step that needs that one"
                    yield place.finding(message, hint=hint, offset=use.offset, severity=severity)
            new = added_value(statement)
            if new is not None and not any(new.type.may_be(one) for one in own):
                added.append(new)


def _held_through_backfill(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for rank, places in groupby(statements(subject, *_DDL), key=attrgetter("rank")):
        first = next(((place, lock) for place in places if (lock := _strong(place, created)) is not None), None)
        if first is None:
            continue
        place, lock = first
        for statement in place.step.statements:
            if statement.start <= place.statement.start or statement.kind not in _FILLS:
                continue
            filling = Place(rank=rank, step=place.step, statement=statement)
            if not _is_long(filling, lock.relation, created):
                continue
            message = (
                f"the {lock.mode} lock on `{lock.relation}` that {place.statement.kind} takes is held until this "
                f"{statement.kind} has ended, because a step is one transaction"
            )
            hint = "make the two statements two steps, connected by `needs`; `repeat` fills a table in batches"
            yield filling.finding(message, hint=hint)
            break


def _strong(place: Place, created: Created) -> RelationLock | None:
    """Return the first lock that keeps readers or writers out, on something that others may use."""
    taken = (lock for lock in locks_taken(place.statement) if conflict(lock.mode, LockMode.ROW_EXCLUSIVE))
    return next((lock for lock in taken if not created.is_new(lock.relation, place)), None)


def _is_long(place: Place, locked: Relation, created: Created) -> bool:
    """Return whether a statement may change many rows: of the locked table, or of another one without a condition."""
    statement = place.statement
    if statement.kind in {Kind.INSERT, Kind.COPY_FROM}:
        return not holds_its_rows(statement)
    changed = [change.relation for change in row_changes(statement)]
    if any(relation.may_be(locked) for relation in changed):
        return True
    return any(not created.is_new(use.relation, place) for use in unfiltered_writes(statement))


_ADD = "ALTER TABLE orders ADD COLUMN region text"
_FILL = "UPDATE orders SET region = 'unknown' WHERE region IS NULL"

RULES = (
    Rule(
        code="JP322",
        severity=Severity.WARNING,
        title="A new enum value that is used at once",
        why=(
            "ALTER TYPE … ADD VALUE can share a transaction with other statements, but the new value can be used only "
            "when that transaction has committed (55P04), and a step is one transaction. A value of a type that the "
            "step itself creates can be used. A constant like the new value counts as its use; with a cast to the type "
            "it is certain, and an error."
        ),
        wrong=(
            "- id: add_state\n  sql: |\n    ALTER TYPE order_state ADD VALUE 'lost';\n"
            "    UPDATE orders SET state = 'lost' WHERE shipped_at < '2020-01-01'"
        ),
        right=(
            "- id: add_state\n  sql: ALTER TYPE order_state ADD VALUE 'lost'\n"
            "- id: mark_lost\n  needs: [add_state]\n"
            "  sql: UPDATE orders SET state = 'lost' WHERE shipped_at < '2020-01-01'"
        ),
        check=_new_enum_value,
    ),
    Rule(
        code="JP335",
        severity=Severity.WARNING,
        title="A strong lock that is held while rows are written",
        why=(
            "Locks are kept until the transaction ends, and a step is one transaction. ALTER TABLE takes ACCESS "
            "EXCLUSIVE for a moment; with an UPDATE of many rows behind it in the same step, everybody waits until "
            "that has ended. In two steps the lock is short, and the rows can be filled in batches beside the "
            "application. A LOCK TABLE in the text is taken for what is meant, and tables that the plan creates are "
            "exempt."
        ),
        wrong=f"- id: add_region\n  lock_timeout: 5s\n  sql: |\n    {_ADD};\n    {_FILL}",
        right=(
            f"- id: add_region\n  lock_timeout: 5s\n  sql: {_ADD}\n"
            f"- id: fill_region\n  needs: [add_region]\n  sql: {_FILL}"
        ),
        check=_held_through_backfill,
    ),
)
