"""Rules about locks that everybody else has to wait for, and about how long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from runner.errors import Cause, Severity
from runner.lint.created import Created
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, StepSql, Subject
from runner.sql.alter import AlterAction, AlterKind, Constraint, alter_actions
from runner.sql.details import main_relation, never_waits
from runner.sql.facts import settings_changed
from runner.sql.kinds import StatementKind as Kind
from runner.sql.lockmodes import LockMode, RelationLock, conflict
from runner.sql.locks import locks_taken, sweeping_lock
from runner.sql.options import is_concurrent
from runner.sql.relations import Relation
from runner.sql.rollback import outlives_rollback

# The bulk of most plans; none of them takes a lock that a writer would wait for.
_GENTLE = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.ANALYZE, Kind.DO, Kind.CALL})


def _unbounded_wait(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for rank, step in enumerate(subject.steps):
        if step.step.lock_timeout is None:
            found = _first_strong(rank, step, created)
            if found is not None:
                yield found


def _first_strong(rank: int, step: StepSql, created: Created) -> Finding | None:
    for statement in step.statements:
        if statement.kind in _GENTLE:
            continue
        place = Place(rank=rank, step=step, statement=statement)
        if _bounds_wait(place):
            return None
        what = None if never_waits(statement) else _strong_lock(place, created)
        if what is not None:
            message = f"{statement.kind} takes {what}: as long as it waits, so does everybody behind it"
            part = f"{statement.kind} in `{step.step.id}`"
            if is_concurrent(statement):  # what waits for old transactions needs longer, and cannot simply be repeated
                return place.finding(message, hint="set `lock_timeout` to 1m or more")
            if any(outlives_rollback(each) for each in step.statements):
                return place.finding(message, hint="set `lock_timeout`, such as 5s")
            hint = "set `lock_timeout`, such as 5s, and `retry` on lock_not_available"
            cause = Cause(key="lock_timeout", part=part, hint=f"{hint}, in each step or in `defaults`")
            return place.finding(message, hint=hint, cause=cause)
    return None


def _bounds_wait(place: Place) -> bool:
    if "lock_timeout" not in place.lower_text:
        return False
    return any(change.name == "lock_timeout" for change in settings_changed(place.statement))


def _strong_lock(place: Place, created: Created) -> str | None:
    """Return the first lock that stops writers, as a clause, on something that others may use."""
    sweep = sweeping_lock(place.statement)
    if sweep is not None and _stops_writers(sweep.mode):
        if sweep.schema is None:
            return f"{sweep.mode} locks on one table after the other"
        if not created.schema_is_new(sweep.schema, place):
            return f"{sweep.mode} locks on what is in `{Relation(None, sweep.schema)}`"
    taken = (lock for lock in locks_taken(place.statement) if _stops_writers(lock.mode))
    found = next((lock for lock in taken if not created.is_new(lock.relation, place)), None)
    return _told(found) if found is not None else None


def _stops_writers(mode: LockMode) -> bool:
    return conflict(mode, LockMode.ROW_EXCLUSIVE)


def _told(lock: RelationLock) -> str:
    article = "an" if lock.mode in {LockMode.ACCESS_EXCLUSIVE, LockMode.EXCLUSIVE} else "a"
    return f"{article} {lock.mode} lock on `{lock.relation}`"


def _validated_at_once(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for _, places in groupby(statements(subject, Kind.ALTER_TABLE), key=attrgetter("rank")):
        pending: defaultdict[tuple[str, str | None], list[Relation]] = defaultdict(list)
        for place in places:
            table = main_relation(place.statement)
            if table is None or created.is_new(table, place):
                continue
            for action in alter_actions(place.statement):
                if action.kind is AlterKind.ADD_CONSTRAINT and action.not_valid:
                    pending[table.name, action.name].append(table)
                elif action.kind is AlterKind.VALIDATE_CONSTRAINT and _is_pending(table, action.name, pending):
                    message = f"`{action.name}` is validated under the lock of the ALTER TABLE that added it"
                    yield place.finding(message, hint="VALIDATE CONSTRAINT belongs into a step of its own")


def _is_pending(
    table: Relation, name: str | None, pending: Mapping[tuple[str, str | None], Sequence[Relation]]
) -> bool:
    """Return whether the constraint was added above; one that was added without a name may be any."""
    found = (other for added in (name, None) for other in pending.get((table.name, added), ()))
    return any(table.may_be(other) for other in found)


def _checked_at_once(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    validated = _validated_tables(subject)
    for place in statements(subject, Kind.ALTER_TABLE):
        table = main_relation(place.statement)
        if table is None or created.is_new(table, place):
            continue
        proven = any(other.may_be(table) for other in validated.get(table.name, ()))
        for action in alter_actions(place.statement):
            told = _slow_check(action, proven=proven)
            if told is not None:
                message = f"{told[0]} while it holds {action.lock} on `{table}`"
                yield place.finding(message, hint=told[1], offset=action.offset)


def _validated_tables(subject: Subject) -> Mapping[str, set[Relation]]:
    found: defaultdict[str, set[Relation]] = defaultdict(set)
    for place in statements(subject, Kind.ALTER_TABLE):
        table = main_relation(place.statement)
        kinds = {action.kind for action in alter_actions(place.statement)}
        if table is not None and AlterKind.VALIDATE_CONSTRAINT in kinds:
            found[table.name].add(table)
    return found


def _slow_check(action: AlterAction, *, proven: bool) -> tuple[str, str] | None:
    """Return what takes long and what to do instead; `proven` says that the plan validates a CHECK of the table."""
    if action.kind is AlterKind.SET_NOT_NULL and not proven:
        hint = "add CHECK (… IS NOT NULL) NOT VALID, validate it in the next step, then SET NOT NULL reads nothing"
        return f"SET NOT NULL reads every row for `{action.name}`", hint
    if action.kind is not AlterKind.ADD_CONSTRAINT or not action.scans:
        return None
    match action.constraint:
        case Constraint.CHECK | Constraint.FOREIGN_KEY | Constraint.NOT_NULL:
            hint = "add it NOT VALID, and VALIDATE CONSTRAINT in the next step"
            return f"the new {action.constraint} constraint reads every row", hint
        case Constraint.UNIQUE | Constraint.PRIMARY_KEY:
            hint = "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX"
            return f"the new {action.constraint} constraint builds an index", hint
    return None


_ADD = "ALTER TABLE orders ADD CONSTRAINT total_ck CHECK (total >= 0) NOT VALID"
_VALIDATE = "ALTER TABLE orders VALIDATE CONSTRAINT total_ck"

RULES = (
    Rule(
        code="JP332",
        severity=Severity.WARNING,
        title="NOT VALID and VALIDATE in one step",
        why=(
            "Adding a constraint NOT VALID takes its strong lock for a moment, and VALIDATE CONSTRAINT then reads the "
            "table under SHARE UPDATE EXCLUSIVE, which lets everybody else work. Locks are kept until the transaction "
            "ends, and a step is one transaction: in the same step the table is read under the first lock, ACCESS "
            "EXCLUSIVE or for a foreign key SHARE ROW EXCLUSIVE, and the two-part form has gained nothing."
        ),
        wrong=f"- id: add_check\n  lock_timeout: 5s\n  sql: |\n    {_ADD};\n    {_VALIDATE}",
        right=(
            f"- id: add_check\n  lock_timeout: 5s\n  sql: {_ADD}\n- id: validate_check\n  needs: [add_check]\n"
            f"  sql: {_VALIDATE}"
        ),
        check=_validated_at_once,
    ),
    Rule(
        code="JP333",
        severity=Severity.WARNING,
        title="A strong lock without lock_timeout",
        why=(
            "A statement that waits for a lock stands in a queue, and whoever asks for a conflicting lock later "
            "stands behind it. So an ALTER TABLE that waits for one long report stops every query on the table, "
            "although it has not begun. With `lock_timeout` it gives up (55P03), the queue dissolves, and a `retry` "
            "tries again. Meant are the modes that stop writers, SHARE and above; tables that the plan creates are "
            "exempt."
        ),
        wrong="- id: add_column\n  sql: ALTER TABLE orders ADD COLUMN note text",
        right=(
            "- id: add_column\n  sql: ALTER TABLE orders ADD COLUMN note text\n  lock_timeout: 5s\n"
            "  retry: {max_attempts: 10, delay: 30s, on: [lock_not_available]}"
        ),
        check=_unbounded_wait,
    ),
    Rule(
        code="JP334",
        severity=Severity.WARNING,
        title="A constraint that is checked while the table is locked",
        why=(
            "ADD CONSTRAINT and SET NOT NULL read the whole table, and UNIQUE or PRIMARY KEY build an index, under "
            "ACCESS EXCLUSIVE (a foreign key under SHARE ROW EXCLUSIVE, on both tables). CHECK and FOREIGN KEY can be "
            "added NOT VALID and validated in a later step under a weak lock; NOT NULL too from version 18 on, and in "
            "any version SET NOT NULL reads nothing where a validated CHECK proves it. A unique constraint can take "
            "over an index that was built CONCURRENTLY."
        ),
        wrong=(
            "- id: add_check\n  lock_timeout: 5s\n  sql: ALTER TABLE orders ADD CONSTRAINT total_ck CHECK (total >= 0)"
        ),
        right=(
            f"- id: add_check\n  lock_timeout: 5s\n  sql: {_ADD}\n- id: validate_check\n  needs: [add_check]\n"
            f"  sql: {_VALIDATE}"
        ),
        check=_checked_at_once,
    ),
)
