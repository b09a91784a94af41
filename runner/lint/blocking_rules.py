"""Rules about locks that block other sessions, and about CONCURRENTLY, which avoids them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from runner.durations import format_duration
from runner.errors import Cause
from runner.lint.rule import (
    Created,
    Finding,
    Rule,
    StatementPlace,
    blocking_lock,
    blocks_writers,
    created_in,
    on_existing,
    statements,
)
from runner.plan.parsed_sql import StepSql, Subject
from runner.sql.alter_table import AlterAction, AlterKind, Constraint, alter_actions
from runner.sql.bounds import CheckConditions, PartitionBound, added_checks, attached_bound, together
from runner.sql.command_objects import ReindexTarget, checked_domain, created_index, main_relation, reindex_target
from runner.sql.command_options import is_concurrent, is_guarded, leaves_out_data, leaves_out_partitions, never_waits
from runner.sql.lock_modes import LockMode
from runner.sql.relations import Relation
from runner.sql.session_settings import settings_changed
from runner.sql.statements import StatementKind as Kind
from runner.sql.table_locks import sweeping_lock
from runner.sql.transactions import outlives_rollback

# Most statements of plans; none of them acquires a lock that blocks writers.
_GENTLE = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.ANALYZE, Kind.DO, Kind.CALL})


def _unbounded_wait(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for step in subject.steps:
        if step.step.lock_timeout is None:
            found = _first_strong(step, created)
            if found is not None:
                yield found


def _first_strong(step: StepSql, created: Created) -> Finding | None:
    for statement in step.statements:
        if statement.kind in _GENTLE:
            continue
        place = StatementPlace(step, statement)
        if _bounds_wait(place):
            return None
        what = None if never_waits(statement) else _strong_lock(place, created)
        if what is not None:
            message = f"{statement.kind} takes {what}: while it waits, it blocks all sessions that queue after it"
            part = f"{statement.kind} in `{step.step.id}`"
            # A command that waits for old transactions needs longer, and cannot simply be repeated.
            if is_concurrent(statement):
                return place.finding(message, hint="set `lock_timeout` to 1m or more")
            if any(outlives_rollback(each) for each in step.statements):
                return place.finding(message, hint="set `lock_timeout`, such as 5s")
            hint = "set `lock_timeout`, such as 5s, and `retry` on lock_not_available"
            cause = Cause(key="lock_timeout", part=part, hint=f"{hint}, in each step or in `defaults`")
            return place.finding(message, hint=hint, cause=cause)
    return None


def _bounds_wait(place: StatementPlace) -> bool:
    names = settings_changed(place.statement) if "lock_timeout" in place.lower_text else ()
    return any(name == "lock_timeout" for name, _ in names)


def _strong_lock(place: StatementPlace, created: Created) -> str | None:
    """Return the first lock that blocks writers, as a clause, on a relation that other sessions may use."""
    sweep = sweeping_lock(place.statement)
    if sweep is not None and blocks_writers(sweep.mode):
        if sweep.schema is None:
            return f"{sweep.mode} locks on one table after the other"
        if not created.schema_is_new(sweep.schema, place):
            return f"{sweep.mode} locks on the tables in `{Relation(None, sweep.schema)}`"
    lock = blocking_lock(place, created)
    if lock is None:
        return None
    article = "an" if lock.mode in {LockMode.ACCESS_EXCLUSIVE, LockMode.EXCLUSIVE} else "a"
    return f"{article} {lock.mode} lock on `{lock.relation}`"


def _validated_at_once(subject: Subject) -> Iterator[Finding]:
    for _, found in groupby(on_existing(subject, Kind.ALTER_TABLE), key=lambda found: found[0].step.rank):
        pending: defaultdict[tuple[str, str | None], list[Relation]] = defaultdict(list)
        for place, table in found:
            for action in alter_actions(place.statement):
                if action.kind is AlterKind.ADD_CONSTRAINT and action.not_valid:
                    pending[table.name, action.name].append(table)
                elif action.kind is AlterKind.VALIDATE_CONSTRAINT and _is_pending(table, action.name, pending):
                    message = f"`{action.name}` is validated under the lock of the ALTER TABLE that added it"
                    yield place.finding(message, hint="put VALIDATE CONSTRAINT into a separate step")


def _is_pending(
    table: Relation, name: str | None, pending: Mapping[tuple[str, str | None], Sequence[Relation]]
) -> bool:
    """Return whether the constraint was added before; a constraint that was added without a name may be any."""
    found = (other for added in (name, None) for other in pending.get((table.name, added), ()))
    return any(table.may_be(other) for other in found)


def _checked_at_once(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    proofs = _Proofs(subject)
    for place in statements(subject, Kind.ALTER_TABLE):
        table = main_relation(place.statement)
        if table is not None and not created.is_new(table, place):
            for action in alter_actions(place.statement):
                if action.other is not None and action.kind is AlterKind.ATTACH_PARTITION:
                    new = created.is_new(action.other, place)
                    slow = None if new else _slow_attach(action.other, attached_bound(place.statement), proofs)
                else:
                    slow = _slow_check(action, table, proofs)
                if slow is not None:
                    where = f" while it holds {action.lock} on `{table}`" if slow[2] else ""
                    yield place.finding(f"{slow[0]}{where}", hint=slow[1], offset=action.offset)
        proofs.note(place)
    for place in statements(subject, Kind.OTHER):
        checked = checked_domain(place.statement)
        if checked is not None:
            message = (
                f"ALTER DOMAIN … {checked[1]} reads every table that has a column of `{checked[0]}`, and blocks "
                "writes to them"
            )
            hint = "add the constraint NOT VALID, and ALTER DOMAIN … VALIDATE CONSTRAINT in the next step"
            yield place.finding(message, hint=hint)


class _Proofs:
    """What previous statements of the plan have verified: columns without NULL, partitions with a checked bound."""

    def __init__(self, subject: Subject) -> None:
        self._pending: dict[tuple[str, str | None], tuple[str, ...]] = {}
        self._filled: defaultdict[str, set[tuple[Relation, str | None]]] = defaultdict(set)
        self._checks: dict[tuple[str, str | None], CheckConditions] = {}
        self._checked: defaultdict[str, list[tuple[Relation, CheckConditions]]] = defaultdict(list)
        self._indexes: dict[str, tuple[Relation, tuple[str, ...]]] = {}
        for place in statements(subject, Kind.CREATE_INDEX):
            made = created_index(place.statement)
            if made is not None and made.index is not None:
                self._indexes[made.index.name] = (made.table, made.columns)

    def note(self, place: StatementPlace) -> None:
        """Record what an ALTER TABLE adds, validates or sets."""
        table = main_relation(place.statement)
        if table is None:
            return
        column: str | None = None
        checks = dict(added_checks(place.statement))
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
                    self._checks[table.name, action.name] = checks.get(action.name, _ANY_CHECK)
                else:
                    self._filled[table.name].update((table, name) for name in action.filled)
                    if action.constraint is Constraint.CHECK:
                        self._checked[table.name].append((table, checks.get(action.name, _ANY_CHECK)))

    def _validated(self, table: Relation, action: AlterAction) -> None:
        self._checked[table.name].append((table, self._checks.get((table.name, action.name), _ANY_CHECK)))
        columns = self._pending.get((table.name, action.name))
        if columns is None:  # the plan does not add this constraint: its columns are unknown
            self._filled[table.name].add((table, None))
        else:
            self._filled[table.name].update((table, name) for name in columns)

    def is_filled(self, table: Relation, column: str | None) -> bool:
        """Return whether the plan has verified, or may have verified, that a column has no NULL."""
        known = self._filled.get(table.name, ())
        return any(other.may_be(table) and name in {column, None} for other, name in known)

    def is_within(self, table: Relation, bound: PartitionBound | None) -> bool:
        """Return whether the plan has validated CHECKs of a table that together keep its rows within a bound."""
        checks = [check for other, check in self._checked.get(table.name, ()) if other.may_be(table)]
        if not checks or bound is None:
            return bool(checks)
        return together(checks).keeps_within(bound)

    def columns_of(self, index: str | None) -> tuple[str, ...]:
        """Return the columns of an index that the plan creates, none of another one."""
        return self._indexes[index][1] if index in self._indexes else ()


_Slow = tuple[str, str, bool]
#: A CHECK that is unknown, because the plan does not add it.
_ANY_CHECK = CheckConditions(understood=False)


def _slow_attach(partition: Relation, bound: PartitionBound | None, proofs: _Proofs) -> _Slow | None:
    if proofs.is_within(partition, bound):
        return None
    hint = "first add a CHECK like the partition's bound, NOT VALID, and validate it: then no rows are read"
    return f"ATTACH PARTITION reads every row of `{partition}`, and blocks all access to it", hint, False


def _slow_check(action: AlterAction, table: Relation, proofs: _Proofs) -> _Slow | None:
    """Return what takes long, what to do instead, and whether to name the lock."""
    if action.kind is AlterKind.SET_NOT_NULL and not proofs.is_filled(table, action.name):
        hint = "add CHECK (… IS NOT NULL) NOT VALID, validate it in the next step, then SET NOT NULL reads no rows"
        return f"SET NOT NULL reads every row for `{action.name}`", hint, True
    if action.kind is not AlterKind.ADD_CONSTRAINT:
        return None
    if action.constraint is Constraint.PRIMARY_KEY and action.index is not None:
        open_ = [name for name in proofs.columns_of(action.index) if not proofs.is_filled(table, name)]
        if open_:
            hint = "first add a validated CHECK (… IS NOT NULL) and SET NOT NULL: then no rows are read"
            return f"PRIMARY KEY USING INDEX reads every row if `{open_[0]}` is not NOT NULL yet,", hint, True
        return None
    return _slow_constraint(action) if action.scans else None


def _slow_constraint(action: AlterAction) -> _Slow | None:
    match action.constraint:
        case Constraint.CHECK | Constraint.FOREIGN_KEY | Constraint.NOT_NULL:
            hint = "add it NOT VALID, and VALIDATE CONSTRAINT in the next step"
            return f"the new {action.constraint} constraint reads every row", hint, True
        case Constraint.UNIQUE:
            hint = "CREATE UNIQUE INDEX CONCURRENTLY in a step with a `verify`, then ADD CONSTRAINT … USING INDEX"
            return "the new UNIQUE constraint builds an index", hint, True
        case Constraint.PRIMARY_KEY:
            hint = "SET NOT NULL after a validated CHECK, a unique index CONCURRENTLY with `verify`, then USING INDEX"
            return "the new PRIMARY KEY constraint builds an index", hint, True
        case Constraint.EXCLUDE:
            hint = "it always blocks writes: run it when the load is low, and add `# jobplan: ignore=check-under-lock`"
            return "the new EXCLUDE constraint builds an index", hint, True
    return None


#: Seconds. The shortest `lock_timeout` for a command that waits for other transactions.
SHORTEST_WAIT: Final = 60.0

#: What a CONCURRENTLY build needs, so that no other rule has a finding.
_ALONE = "alone in its step, with a `verify` and a `lock_timeout` of 1m or more"
_WAITING = (Kind.CREATE_INDEX, Kind.DROP_INDEX, Kind.REINDEX, Kind.ALTER_TABLE)


def _called(place: StatementPlace) -> str:
    name = "DETACH PARTITION" if place.statement.kind is Kind.ALTER_TABLE else place.statement.kind
    return f"{name} CONCURRENTLY"


def _short_lock_timeout(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, *_WAITING):
        limit = place.step.step.lock_timeout
        if limit is not None and limit < SHORTEST_WAIT and is_concurrent(place.statement):
            message = f"{_called(place)} fails if an older transaction runs for another {format_duration(limit)}"
            hint = "set this step's `lock_timeout` to 1m or more; it waits without blocking reads or writes"
            yield place.finding(message, hint=hint)


def _may_keep_invalid(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.CREATE_INDEX):
        statement = place.statement
        if is_concurrent(statement) and is_guarded(statement) and place.step.step.verify is None:
            message = "an INVALID index of this name, left behind by a failed build, would count as existing"
            yield place.finding(message, hint="verify with SELECT indisvalid FROM pg_index …")


def _not_verified(subject: Subject) -> Iterator[Finding]:
    # REINDEX is idempotent, so an unknown outcome needs no decision.
    for place in statements(subject, Kind.CREATE_INDEX, Kind.ALTER_TABLE):
        statement = place.statement
        if place.step.step.verify is not None or is_guarded(statement) or not is_concurrent(statement):
            continue
        message = f"if the outcome of {_called(place)} is unknown, there is no evidence whether it was completed"
        yield place.finding(message, hint="add a `verify` that queries the catalog, such as indisvalid in pg_index")


def _index_build(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject, Kind.CREATE_INDEX):
        table = main_relation(place.statement)
        if table is None or is_concurrent(place.statement) or leaves_out_partitions(place.statement):
            continue
        # IF NOT EXISTS on a table that the plan creates IF NOT EXISTS: both exist already, or the table is new.
        as_the_table = is_guarded(place.statement) and created.is_own(table, place)
        if not as_the_table and not created.is_new(table, place):
            message = f"CREATE INDEX blocks writes to `{table}` until the index is built"
            hint = f"CREATE INDEX CONCURRENTLY, {_ALONE}; on a partitioned table, ON ONLY and then each partition"
            yield place.finding(message, hint=hint)


def _reindex(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject, Kind.REINDEX):
        relation = main_relation(place.statement)
        if is_concurrent(place.statement) or reindex_target(place.statement) is ReindexTarget.SYSTEM:
            continue
        if relation is not None and (relation.schema == "pg_catalog" or created.is_new(relation, place)):
            continue
        what = f"`{relation}`" if relation is not None else "each index in turn"
        message = f"while REINDEX rebuilds {what}, it blocks writes to the table and most reads"
        yield place.finding(
            message, hint="REINDEX … CONCURRENTLY, alone in its step, with a `lock_timeout` of 1m or more"
        )


def _refresh(subject: Subject) -> Iterator[Finding]:
    for place, view in on_existing(subject, Kind.REFRESH_MATERIALIZED_VIEW):
        if not is_concurrent(place.statement) and not leaves_out_data(place.statement):
            message = f"REFRESH blocks reads of `{view}` until it is refreshed"
            yield place.finding(message, hint="REFRESH … CONCURRENTLY, which needs a unique index on the view")


RULES = (
    Rule(code="JP330", check=_short_lock_timeout),
    Rule(code="JP331", check=_may_keep_invalid),
    Rule(code="JP332", check=_validated_at_once),
    Rule(code="JP333", check=_unbounded_wait),
    Rule(code="JP334", check=_checked_at_once),
    Rule(code="JP340", check=_not_verified),
    Rule(code="JP341", check=_index_build),
    Rule(code="JP342", check=_reindex),
    Rule(code="JP343", check=_refresh),
)
