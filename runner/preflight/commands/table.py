"""Every check of a command, in a table, and how much of which command the catalog tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from runner.preflight.commands.dependents import check_dependents
from runner.preflight.commands.existence import (
    check_attached,
    check_dropped_schemas,
    check_existence,
    check_kind,
    check_parts,
)
from runner.preflight.commands.followed import check_gone, check_new_labels
from runner.preflight.commands.maintenance import (
    check_abilities,
    check_clustering,
    check_index_parts,
    check_locking,
    check_named_indexes,
    check_reindexing,
    check_vacuum_options,
)
from runner.preflight.commands.mentioned import check_mentioned
from runner.preflight.commands.names import check_new_names
from runner.preflight.commands.options import (
    check_parameters,
    check_partitioned_cluster,
    check_repeated,
    check_replaced_kind,
    check_subcommands,
    check_versions,
)
from runner.preflight.commands.partitions import check_detaching, check_partitioned
from runner.preflight.commands.rebuilding import check_leftovers, check_refreshing
from runner.preflight.commands.rights import check_files, check_rights
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.alter import AlterKind, alter_actions
from runner.sql.details import computes, is_computed
from runner.sql.facts import is_cascading
from runner.sql.kinds import StatementKind
from runner.sql.mentions import defines
from runner.sql.nodes import label
from runner.sql.parse import Statement

_K = StatementKind


def check_command(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what is wrong with a command, as far as the catalog tells."""
    for check in CHECKS:
        yield from check(unit, sight)


#: Every check of a command, the most basic first.
CHECKS: tuple[Callable[[Unit, Sight], Iterator[Finding]], ...] = (
    check_existence,
    check_kind,
    check_rights,
    check_files,
    check_parts,
    check_mentioned,
    check_dropped_schemas,
    check_new_names,
    check_partitioned,
    check_refreshing,
    check_detaching,
    check_dependents,
    check_leftovers,
    check_versions,
    check_parameters,
    check_repeated,
    check_subcommands,
    check_partitioned_cluster,
    check_replaced_kind,
    check_clustering,
    check_reindexing,
    check_vacuum_options,
    check_index_parts,
    check_abilities,
    check_named_indexes,
    check_locking,
    check_attached,
    check_gone,
    check_new_labels,
)

#: Commands of which the catalog says all that matters; of others it says a part, and of the rest nothing.
FULLY = frozenset(
    {
        *(_K.VACUUM, _K.ANALYZE, _K.REINDEX, _K.CLUSTER, _K.REFRESH_MATERIALIZED_VIEW, _K.TRUNCATE),
        *(_K.DROP_TABLE, _K.DROP_INDEX, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.CREATE_SCHEMA),
        *(_K.CREATE_VIEW, _K.SET, _K.RESET, _K.SHOW, _K.CHECKPOINT, _K.NOTIFY, _K.LOCK),
    }
)

PARTLY: Mapping[StatementKind, str] = {
    _K.CREATE_INDEX: "whether rows are unique and expressions can be computed shows when it is built",
    _K.CREATE_TABLE: "whether its defaults and constraints fit their columns shows when it is created",
    _K.COPY_FROM: "the file is looked at when it is read",
    _K.COPY_TO: "the file is looked at when it is written",
}
#: What only running an ALTER TABLE tells; of subcommands that are not here, and do not read the rows, all is known.
_ALTERS: Mapping[AlterKind, str] = {
    AlterKind.SET_TYPE: "whether its rows and what depends on it fit the new type shows when it runs",
    AlterKind.DROP_COLUMN: "what depends on the column shows when it runs",
    AlterKind.DROP_CONSTRAINT: "what depends on the constraint shows when it runs",
    AlterKind.SET_EXPRESSION: "whether the expression can be computed shows when it runs",
    AlterKind.INHERIT: "whether the columns fit those of the parent shows when it runs",
    AlterKind.ATTACH_PARTITION: "whether its columns and rows fit the partition shows when it runs",
    AlterKind.OTHER: "its syntax and what it names were checked, no more",
}


def left_open(statement: Statement) -> tuple[str, ...]:
    """Return what the catalog does not tell of a command, as sentences."""
    kind = statement.kind
    if kind is _K.ALTER_TABLE:
        return _left_open_by_alter(statement)
    if kind is _K.CREATE_VIEW and label(statement.node, "with_check_option") != "NO_CHECK_OPTION":
        return (_UPDATABLE,)
    if kind is _K.DROP_SCHEMA and not is_cascading(statement):
        return ("whether it is empty shows when it runs",)
    if kind in FULLY or kind is _K.DROP_SCHEMA or (kind is _K.CREATE_TABLE and not is_computed(statement)):
        return ()
    if kind in PARTLY:
        return (PARTLY[kind],)
    return (_ALTERS[AlterKind.OTHER] if defines(statement) else _LITTLE,)


def _left_open_by_alter(statement: Statement) -> tuple[str, ...]:
    found = [_ALTERS.get(action.kind, _ROWS if action.scans else "") for action in alter_actions(statement)]
    found += [_COMPUTES] if _ROWS not in found and computes(statement) else []
    return tuple(dict.fromkeys(filter(None, found)))


_LITTLE = "its syntax and the relations and roles that it names were checked, no more"
_COMPUTES = "whether its expressions can be computed, and its keys be referred to, shows when it runs"
_UPDATABLE = "whether it can be updated, as WITH CHECK OPTION wants, shows when it is created"
_ROWS = "whether its rows keep to the new constraint shows when it runs"
NOT_CHECKABLE: Mapping[StatementKind, str] = {
    _K.DO: "what a DO block runs is known only while it runs",
    _K.CALL: "what a procedure runs is known only while it runs",
    _K.EXECUTE: "a prepared statement is known only in its session",
}
