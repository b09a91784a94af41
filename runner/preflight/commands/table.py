"""Every check of a command, in a table, and how much of which command the catalog tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from runner.preflight.commands.dependents import check_dependents
from runner.preflight.commands.existence import check_dropped_schemas, check_existence, check_kind, check_parts
from runner.preflight.commands.mentioned import check_mentioned
from runner.preflight.commands.names import check_new_names
from runner.preflight.commands.partitions import check_detaching, check_partitioned
from runner.preflight.commands.rebuilding import check_leftovers, check_refreshing
from runner.preflight.commands.rights import check_rights
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.kinds import StatementKind

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
    check_parts,
    check_mentioned,
    check_dropped_schemas,
    check_new_names,
    check_partitioned,
    check_refreshing,
    check_detaching,
    check_dependents,
    check_leftovers,
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
    _K.ALTER_TABLE: "whether rows keep to a new constraint or type shows when it runs",
    _K.CREATE_TABLE: "whether its defaults and constraints fit their columns shows when it is created",
    _K.COPY_FROM: "the file is looked at when it is read",
    _K.COPY_TO: "the file is looked at when it is written",
}
NOT_CHECKABLE: Mapping[StatementKind, str] = {
    _K.DO: "what a DO block runs is known only while it runs",
    _K.CALL: "what a procedure runs is known only while it runs",
    _K.EXECUTE: "a prepared statement is known only in its session",
}
