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
from runner.sql.details import checked_domain, main_relation, never_waits
from runner.sql.facts import created_index, settings_changed
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
    proofs = _Proofs(subject)
    for place in statements(subject, Kind.ALTER_TABLE):
        table = main_relation(place.statement)
        if table is not None and not created.is_new(table, place):
            for action in alter_actions(place.statement):
                if action.other is not None and action.kind is AlterKind.ATTACH_PARTITION:
                    told = None if created.is_new(action.other, place) else _slow_attach(action.other, proofs)
                else:
                    told = _slow_check(action, table, proofs)
                if told is not None:
                    where = f" while it holds {action.lock} on `{table}`" if told[2] else ""
                    yield place.finding(f"{told[0]}{where}", hint=told[1], offset=action.offset)
        proofs.note(place)
    for place in statements(subject, Kind.OTHER):
        checked = checked_domain(place.statement)
        if checked is not None:
            message = (
                f"ALTER DOMAIN … {checked[1]} reads every table that has a column of `{checked[0]}`, and nobody can "
                "write to them meanwhile"
            )
            hint = "add the constraint NOT VALID, and ALTER DOMAIN … VALIDATE CONSTRAINT in the next step"
            yield place.finding(message, hint=hint)


class _Proofs:
    """What the plan has shown of its tables so far: columns that have no NULL, partitions with a checked bound."""

    def __init__(self, subject: Subject) -> None:
        self._pending: dict[tuple[str, str | None], tuple[str, ...]] = {}
        self._filled: defaultdict[str, set[tuple[Relation, str | None]]] = defaultdict(set)
        self._checked: defaultdict[str, set[Relation]] = defaultdict(set)
        self._indexes: dict[str, tuple[Relation, tuple[str, ...]]] = {}
        for place in statements(subject, Kind.CREATE_INDEX):
            made = created_index(place.statement)
            if made is not None and made.index is not None:
                self._indexes[made.index.name] = (made.table, made.columns)

    def note(self, place: Place) -> None:
        """Remember what an ALTER TABLE adds, validates or sets."""
        table = main_relation(place.statement)
        if table is None:
            return
        column: str | None = None
        for action in alter_actions(place.statement):
            if action.kind is AlterKind.ADD_COLUMN:
                column = action.name
            elif action.kind is AlterKind.SET_NOT_NULL:
                self._filled[table.name].add((table, action.name))
            elif action.kind is AlterKind.VALIDATE_CONSTRAINT:
                self._validated(table, action)
            elif action.kind is AlterKind.ADD_CONSTRAINT:
                if action.inline and action.constraint is Constraint.NOT_NULL:
                    self._filled[table.name].add((table, column))
                elif action.not_valid:
                    self._pending[table.name, action.name] = action.filled
                else:
                    self._filled[table.name].update((table, name) for name in action.filled)
                    if action.constraint is Constraint.CHECK:
                        self._checked[table.name].add(table)

    def _validated(self, table: Relation, action: AlterAction) -> None:
        self._checked[table.name].add(table)
        columns = self._pending.get((table.name, action.name))
        if columns is None:  # a constraint that is not the plan's: nothing is known of it
            self._filled[table.name].add((table, None))
        else:
            self._filled[table.name].update((table, name) for name in columns)

    def is_filled(self, table: Relation, column: str | None) -> bool:
        """Return whether the plan has proven that a column has no NULL, or may have."""
        known = self._filled.get(table.name, ())
        return any(other.may_be(table) and name in {column, None} for other, name in known)

    def is_checked(self, table: Relation) -> bool:
        """Return whether the plan has validated a CHECK of a table."""
        return any(other.may_be(table) for other in self._checked.get(table.name, ()))

    def columns_of(self, index: str | None) -> tuple[str, ...]:
        """Return the columns of an index that the plan creates, none of another one."""
        return self._indexes[index][1] if index in self._indexes else ()


_Told = tuple[str, str, bool]


def _slow_attach(partition: Relation, proofs: _Proofs) -> _Told | None:
    if proofs.is_checked(partition):
        return None
    hint = "add a CHECK like the partition's bound, NOT VALID, and validate it before: then nothing is read"
    return f"ATTACH PARTITION reads every row of `{partition}`, which nobody can use meanwhile", hint, False


def _slow_check(action: AlterAction, table: Relation, proofs: _Proofs) -> _Told | None:
    """Return what takes long, what to do instead, and whether the lock is worth naming."""
    if action.kind is AlterKind.SET_NOT_NULL and not proofs.is_filled(table, action.name):
        hint = "add CHECK (… IS NOT NULL) NOT VALID, validate it in the next step, then SET NOT NULL reads nothing"
        return f"SET NOT NULL reads every row for `{action.name}`", hint, True
    if action.kind is not AlterKind.ADD_CONSTRAINT:
        return None
    if action.constraint is Constraint.PRIMARY_KEY and action.using_index:
        open_ = [name for name in proofs.columns_of(action.index) if not proofs.is_filled(table, name)]
        if open_:
            hint = "prove it before, by a validated CHECK (… IS NOT NULL) and SET NOT NULL: then nothing is read"
            return f"PRIMARY KEY USING INDEX reads every row if `{open_[0]}` is not NOT NULL yet,", hint, True
        return None
    return _slow_constraint(action) if action.scans else None


def _slow_constraint(action: AlterAction) -> _Told | None:
    match action.constraint:
        case Constraint.CHECK | Constraint.FOREIGN_KEY | Constraint.NOT_NULL:
            hint = "add it NOT VALID, and VALIDATE CONSTRAINT in the next step"
            return f"the new {action.constraint} constraint reads every row", hint, True
        case Constraint.UNIQUE:
            hint = "CREATE UNIQUE INDEX CONCURRENTLY in a step with a `verify`, then ADD CONSTRAINT … USING INDEX"
            return "the new UNIQUE constraint builds an index", hint, True
        case Constraint.PRIMARY_KEY:
            hint = "SET NOT NULL behind a validated CHECK, a unique index CONCURRENTLY with `verify`, then USING INDEX"
            return "the new PRIMARY KEY constraint builds an index", hint, True
        case Constraint.EXCLUDE:
            hint = "no way lets others write: choose a quiet hour, and say so: `# jobplan: ignore=check-under-lock`"
            return "the new EXCLUDE constraint builds an index", hint, True
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
            "any version SET NOT NULL reads nothing where a validated CHECK of that column proves it. A unique "
            "constraint can take over an index that was built CONCURRENTLY; a primary key reads the table even so, "
            "unless its columns are NOT NULL. ATTACH PARTITION reads the new partition unless a validated CHECK proves "
            "its bound, and ALTER DOMAIN every table that uses the domain. For EXCLUDE there is no other way."
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
