"""The locks of a plan's steps on a real database: behind views, on partitions, by foreign keys, on an index's table.

The offline rules see the SQL text only; here the catalog adds the rest. The result are the same kind of locks, and the
same search finds steps that block each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from runner.errors import Problem
from runner.gateway.catalog import KeyFacts, RelationFacts
from runner.lint import RULES
from runner.lint.lock_conflict_rules import CODES_OF_OUTCOMES, findings_of
from runner.lint.suppressions import Sources, without_ignored
from runner.locks.conflicts import Held, Lockable, LockTiming
from runner.locks.contention import find_contention
from runner.locks.relation_names import relation_in
from runner.locks.statement_locks import TextLock, TextStatement, changes_in, read_text
from runner.locks.step_locks import TOUCHED, Locking, completed, held_lock
from runner.plan.model import Plan
from runner.plan.parsed_sql import StepSql, read_subject
from runner.plan.problem_collector import grouped
from runner.preflight.catalog_state import CatalogView
from runner.preflight.sql_units import Unit
from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.command_objects import main_relation
from runner.sql.command_options import is_cascading
from runner.sql.lock_modes import LockMode, LockTarget
from runner.sql.relations import Relation
from runner.sql.statements import StatementKind, Template
from runner.sql.table_locks import RowChangeKind, is_opaque
from runner.structs import Struct, replace

_K = StatementKind
_READS_AND_WRITES = frozenset({LockMode.ACCESS_SHARE, LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE})
#: Commands that name a partition, or only the parent, and do not lock other partitions.
_OF_ONE = frozenset({_K.CREATE_TABLE, _K.COMMENT, _K.GRANT, _K.REVOKE})


class RealLock(Struct, frozen=True, kw_only=True):
    """A lock on a real relation; `facts` if the relation exists, `direct` if the statement names it."""

    held: Held
    relation: Relation
    facts: RelationFacts | None = None
    direct: bool = True


#: The locks of each step by instance, in the order of the statements.
LocksOfSteps = dict[str, dict[str, list[RealLock]]]


def read_locks(units: Sequence[tuple[Unit, CatalogView]]) -> LocksOfSteps:
    """Return the locks of every step; `units` are its statements."""
    texts: dict[tuple[str, str], list[tuple[Unit, CatalogView]]] = defaultdict(list)
    for unit, catalog in units:
        if unit.step is not None and unit.key == "sql":
            texts[unit.step.id, unit.instance].append((unit, catalog))
    found: LocksOfSteps = defaultdict(dict)
    for (step, instance), text in texts.items():
        found[step][instance] = list(_of_text(text))
    return found


def _of_text(text: Sequence[tuple[Unit, CatalogView]]) -> Iterator[RealLock]:
    """Return the locks of all statements of a step: other sessions cannot see objects that it creates."""
    statements = tuple(unit.statement for unit, _ in text)
    read = read_text(Template(text=text[0][0].rendered.text, references=(), statements=statements))
    yield from _touched(read, *text[0])
    for statement, (unit, catalog) in zip(read, text, strict=True):
        for lock in statement.locks:
            yield from _of_lock(statement, lock, unit, catalog)
        yield from _over_keys(statement, unit, catalog)
        yield from _by_definition(statement, unit, catalog)


def _touched(read: Sequence[TextStatement], unit: Unit, catalog: CatalogView) -> Iterator[RealLock]:
    """Assign the relations of `touches` to the first opaque statement, else to the last one."""
    statement = next((one for one in read if is_opaque(one.parsed)), read[-1])
    for relation in filter(None, map(relation_in, unit.step.touches if unit.step is not None else ())):
        lock = TextLock(relation=relation, mode=TOUCHED, order=(statement.number, 0), offset=statement.parsed.start)
        touching = replace(statement, what=f"`touches`, {statement.what}", nature=LockTiming.PLAIN)
        yield from _of_lock(touching, lock, unit, catalog)


def _of_lock(statement: TextStatement, lock: TextLock, unit: Unit, catalog: CatalogView) -> Iterator[RealLock]:
    offset = unit.origin(lock.offset)
    if lock.relation is None:
        everywhere = f"every table of the schema {lock.schema}" if lock.schema else "every table"
        held = held_lock(statement, lock, Lockable(lock.schema, None), everywhere, offset=offset)
        yield RealLock(held=held, relation=Relation(lock.schema, ""))
        return
    facts = catalog.facts(lock.relation)
    real = facts.relation if facts is not None else catalog.context.placed(lock.relation)
    match lock.target:
        case LockTarget.RELATION:
            yield _real(statement, lock, real, offset, facts)
            if facts is not None:
                yield from _below(statement, lock, facts, offset, catalog)
        case LockTarget.TABLE_OF_INDEX:
            if facts is not None and facts.index_of is not None:
                table = facts.index_of.relation
                yield _real(statement, lock, table, offset, catalog.facts(table))
        case LockTarget.INDEXES_OF_TABLE:
            on = Lockable(real.schema, real.name, indexes=True)
            held = held_lock(statement, lock, on, f"the indexes of {real}", offset=offset)
            yield RealLock(held=held, relation=real, facts=facts)


def _below(
    statement: TextStatement, lock: TextLock, facts: RelationFacts, offset: int, catalog: CatalogView
) -> Iterator[RealLock]:
    """Yield related relations: a view's tables, partitions, a materialized view's tables, a parent."""
    if facts.kind == "v" and (lock.mode in _READS_AND_WRITES or statement.parsed.kind is _K.LOCK):
        for relation in facts.reads:
            yield _real(statement, lock, relation, offset, catalog.facts(relation), direct=False)
    if facts.kind == "m" and statement.parsed.kind is _K.REFRESH_MATERIALIZED_VIEW:
        for relation in facts.reads:
            reading = replace(lock, mode=LockMode.ACCESS_SHARE)
            yield _real(statement, reading, relation, offset, catalog.facts(relation), direct=False)
    if facts.kind in "pI" and statement.parsed.kind not in _OF_ONE and statement.nature is not LockTiming.DETACH:
        for relation in facts.children:
            yield _real(statement, lock, relation, offset, None, direct=False)
    if facts.partition_of is not None and statement.parsed.kind is _K.DROP_TABLE:
        parent = facts.partition_of
        yield _real(statement, lock, parent, offset, catalog.facts(parent), direct=False)


def _over_keys(statement: TextStatement, unit: Unit, catalog: CatalogView) -> Iterator[RealLock]:
    """Yield the other side of foreign keys, which the server reads when rows are added, deleted or change keys."""
    for change in changes_in(statement):
        facts = catalog.facts(change.relation)
        if facts is None:
            continue
        offset = unit.origin(change.offset)
        for key in facts.refers_to:
            if change.change is RowChangeKind.INSERT or not change.columns.isdisjoint(key.columns):
                yield _by_key(statement, key, LockMode.ROW_SHARE, offset, catalog)
        for key in facts.referenced_by:
            action = key.on_delete if change.change is RowChangeKind.DELETE else key.on_update
            moves = change.change is RowChangeKind.UPDATE and not change.columns.isdisjoint(key.columns)
            if change.change is RowChangeKind.DELETE or moves:
                mode = LockMode.ROW_SHARE if action in {"a", "r"} else LockMode.ROW_EXCLUSIVE
                yield _by_key(statement, key, mode, offset, catalog)
    if statement.parsed.kind not in {_K.TRUNCATE, _K.DROP_TABLE}:
        return
    for lock in statement.locks:
        facts = catalog.facts(lock.relation)
        if facts is None:
            continue
        offset = unit.origin(lock.offset)
        keys = facts.referenced_by if is_cascading(statement.parsed) else ()
        keys += facts.refers_to if statement.parsed.kind is _K.DROP_TABLE else ()
        for key in keys:
            yield _by_key(statement, key, LockMode.ACCESS_EXCLUSIVE, offset, catalog)


#: Subcommands that change which rows belong in the DEFAULT partition.
_MOVE_BOUNDS = frozenset({AlterKind.ATTACH_PARTITION, AlterKind.DETACH_PARTITION})


def _by_definition(statement: TextStatement, unit: Unit, catalog: CatalogView) -> Iterator[RealLock]:
    """Yield tables that change along with another one: a DEFAULT partition, and the other side of a dropped key."""
    parsed = statement.parsed
    actions = alter_actions(parsed) if parsed.kind is _K.ALTER_TABLE else ()
    for lock in statement.locks:
        facts = catalog.facts(lock.relation) if lock.relation is not None else None
        if facts is None:
            continue
        offset = unit.origin(lock.offset)
        yield from _default_partition(statement, lock, facts, offset, catalog)
        for action in actions:
            if action.kind is not AlterKind.DROP_CONSTRAINT or lock.relation != main_relation(parsed):
                continue
            keys = [key for key in facts.refers_to if key.constraint == action.name]
            keys += facts.referenced_by if is_cascading(parsed) and not keys else ()
            for key in keys:
                yield _by_key(statement, key, LockMode.ACCESS_EXCLUSIVE, offset, catalog)


def _default_partition(
    statement: TextStatement, lock: TextLock, facts: RelationFacts, offset: int, catalog: CatalogView
) -> Iterator[RealLock]:
    """Yield the DEFAULT partition of a table that gets or loses another partition: it may get or lose rows."""
    parsed = statement.parsed
    parent: RelationFacts | None = facts
    if parsed.kind is _K.DROP_TABLE:
        parent = catalog.facts(facts.partition_of) if facts.partition_of is not None else None
    elif parsed.kind is _K.ALTER_TABLE:
        moves = any(action.kind in _MOVE_BOUNDS for action in alter_actions(parsed))
        parent = facts if moves and lock.relation == main_relation(parsed) else None
    elif parsed.kind is not _K.CREATE_TABLE:
        parent = None
    default = parent.default_partition if parent is not None else None
    for relation in parent.children if parent is not None and default is not None else ():
        if relation.name == default and relation != facts.relation:
            exclusive = replace(lock, mode=LockMode.ACCESS_EXCLUSIVE)
            yield _real(statement, exclusive, relation, offset, catalog.facts(relation), direct=False)


def _by_key(statement: TextStatement, key: KeyFacts, mode: LockMode, offset: int, catalog: CatalogView) -> RealLock:
    relation = key.relation
    held = statement.holds(Lockable(relation.schema, relation.name), mode, str(relation), offset)
    facts = catalog.facts(relation)
    return RealLock(held=replace(held, via=key.constraint), relation=relation, facts=facts, direct=False)


def _real(
    statement: TextStatement,
    lock: TextLock,
    relation: Relation,
    offset: int,
    facts: RelationFacts | None,
    *,
    direct: bool = True,
) -> RealLock:
    held = held_lock(statement, lock, Lockable(relation.schema, relation.name), str(relation), offset=offset)
    return RealLock(held=held, relation=relation, facts=facts, direct=direct)


def conflict_problems(plan: Plan, locks: LocksOfSteps, sources: Sources) -> tuple[Problem, ...]:
    """Return the steps that can block each other on this database, except those that comments in the plan ignore.

    Relations that only one statement reaches, by a view or a key, are left out unless a step names them too.
    """
    subject = read_subject(plan)
    named = {lock.held.on for by_item in locks.values() for each in by_item.values() for lock in each if lock.direct}
    numbers: dict[str, int] = {}
    steps = completed(_locking(sql, locks.get(sql.step.id, {}), named, numbers) for sql in subject.steps)
    found = [
        finding.problem(CODES_OF_OUTCOMES[meeting.outcome])
        for meeting in find_contention(subject, steps)
        for finding in findings_of(meeting)
    ]
    codes = set(CODES_OF_OUTCOMES.values())
    kept = without_ignored(found, plan, sources, [rule.code for rule in RULES])
    return grouped(problem for problem in kept if problem.code in codes)


def _locking(
    sql: StepSql, instances: dict[str, list[RealLock]], named: set[Lockable], numbers: dict[str, int]
) -> Locking:
    """Give each lock the item that takes it, unless all items do."""
    items: dict[Held, set[int]] = defaultdict(set)
    for instance, locks in instances.items():
        # The steps of a chain have the same items.
        item = instance if sql.step.group is None else instance.rpartition(".")[0]
        number = numbers.setdefault(item, len(numbers))
        for lock in locks:
            if lock.direct or lock.held.on in named:
                items[lock.held].add(number)
    several = len(instances) > 1
    held = [
        replace(one, item=item)
        for one, takers in items.items()
        for item in ([None] if not several or len(takers) == len(instances) else sorted(takers))
    ]
    return Locking(sql=sql, held=tuple(sorted(held, key=lambda one: one.order)), several=several)
