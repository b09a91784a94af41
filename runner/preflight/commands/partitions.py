"""What commands do differently on partitioned tables, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from runner.preflight.commands.existence import KINDS, there
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.alter import AlterKind, alter_actions
from runner.sql.details import leaves_out_partitions, main_relation
from runner.sql.kinds import StatementKind
from runner.sql.options import is_concurrent

_K = StatementKind

_PARTITIONED = frozenset("pI")


def check_partitioned(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """REINDEX and CLUSTER of a partitioned table want a text of their own; CONCURRENTLY cannot build or drop there."""
    statement = unit.statement
    for one, facts in there(unit, sight):
        if facts.kind not in _PARTITIONED:
            continue
        what = KINDS[facts.kind]
        if statement.kind in {_K.REINDEX, _K.CLUSTER} and not unit.alone:
            message = f"{statement.kind} of {one.relation}, which is {what}, cannot share a step with other statements"
            hint = "it runs in a transaction for each partition; give it a step of its own"
            yield Finding(code="JP611", message=message, offset=one.offset, hint=hint)
        elif is_concurrent(statement) and statement.kind in {_K.CREATE_INDEX, _K.DROP_INDEX}:
            if statement.kind is _K.CREATE_INDEX and leaves_out_partitions(statement):
                continue
            message = f"{statement.kind} CONCURRENTLY does not work on {one.relation}, which is {what}"
            hint = "build it on each partition, then CREATE INDEX … ON ONLY the parent and attach them"
            yield Finding(code="JP611", message=message, offset=one.offset, hint=hint)


def check_detaching(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what stands against DETACH PARTITION."""
    table = main_relation(unit.statement)
    for action in alter_actions(unit.statement):
        detaches = action.kind in {AlterKind.DETACH_PARTITION, AlterKind.DETACH_PARTITION_CONCURRENTLY}
        if table is None or action.other is None or not detaches:
            continue
        parent, part = sight.relation(table).facts, sight.relation(action.other).facts
        if parent is None or part is None:
            continue
        if part.partition_of != parent.relation:
            message = f"{action.other} is no partition of {table}"
            yield Finding(code="JP606", message=message, offset=action.offset)
        if action.kind is not AlterKind.DETACH_PARTITION_CONCURRENTLY:
            continue
        if parent.default_partition is not None:
            message = f"{table} has the DEFAULT partition {parent.default_partition}"
            yield Finding(code="JP618", message=message, offset=action.offset, hint="detach without CONCURRENTLY")
        if part.detach_pending:
            hint = f"ALTER TABLE {table} DETACH PARTITION {action.other} FINALIZE;"
            message = f"{action.other} is half detached from {table} by an earlier attempt"
            yield Finding(code="JP618", message=message, offset=action.offset, hint=hint)
