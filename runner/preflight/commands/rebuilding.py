"""What REFRESH … CONCURRENTLY needs, and what an interrupted rebuild has left behind."""

from __future__ import annotations

from collections.abc import Iterator

from runner.preflight.commands.existence import there
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.kinds import StatementKind
from runner.sql.options import is_concurrent

_K = StatementKind


def check_refreshing(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield why a materialized view cannot be refreshed CONCURRENTLY."""
    statement = unit.statement
    if statement.kind is not _K.REFRESH_MATERIALIZED_VIEW or not is_concurrent(statement):
        return
    for one, facts in there(unit, sight):
        if not facts.populated:
            message = f"{one.relation} has never been filled: the first REFRESH cannot be CONCURRENTLY"
            yield Finding(
                code="JP615", message=message, offset=one.offset, hint=f"REFRESH MATERIALIZED VIEW {one.relation};"
            )
        made = sight.indexes_made_on(one.relation)
        if facts.kind == "m" and not made and not any(index.whole for index in facts.indexes):
            message = f"{one.relation} has no unique index on columns alone, without WHERE"
            yield Finding(code="JP615", message=message, offset=one.offset)


def check_leftovers(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A rebuild that was interrupted has left its new index behind; the next one leaves another."""
    if unit.statement.kind is not _K.REINDEX or not is_concurrent(unit.statement):
        return
    for one, facts in there(unit, sight):
        left = [index.relation for index in facts.indexes if not index.valid and "_cc" in index.relation.name]
        if left:
            message = f"an interrupted rebuild has left the INVALID index {left[0]} on {one.relation}"
            yield Finding(code="JP514", message=message, offset=one.offset, hint=f"DROP INDEX CONCURRENTLY {left[0]};")
        if facts.index_of is not None and not facts.index_of.valid:
            message = f"{one.relation} is INVALID, left by an interrupted build; REINDEX makes it valid if it succeeds"
            yield Finding(code="JP514", message=message, offset=one.offset)
