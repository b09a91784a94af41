"""Rules about CONCURRENTLY: where it is missing, and what it takes to come to a good end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runner.durations import format_duration
from runner.errors import Severity
from runner.lint.created import Created
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, Subject
from runner.sql.details import leaves_out_data, leaves_out_partitions, main_relation
from runner.sql.facts import ReindexTarget, is_guarded, reindex_target
from runner.sql.kinds import StatementKind as Kind
from runner.sql.options import is_concurrent

#: Seconds. The least that a command which waits for other transactions must be allowed to wait for each of them.
SHORTEST_WAIT: Final = 60.0

_LONG = "alone in its step, with a `lock_timeout` of 1m or more"
#: What a command that builds CONCURRENTLY needs, so that no other rule objects.
_ALONE = "alone in its step, with a `verify` and a `lock_timeout` of 1m or more"
_WAITING = (Kind.CREATE_INDEX, Kind.DROP_INDEX, Kind.REINDEX, Kind.ALTER_TABLE)


def _called(place: Place) -> str:
    name = "DETACH PARTITION" if place.statement.kind is Kind.ALTER_TABLE else place.statement.kind
    return f"{name} CONCURRENTLY"


def _short_lock_timeout(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, *_WAITING):
        limit = place.step.step.lock_timeout
        if limit is not None and limit < SHORTEST_WAIT and is_concurrent(place.statement):
            message = f"{_called(place)} fails when one older transaction goes on for {format_duration(limit)}"
            hint = "set this step's `lock_timeout` to 1m or more; it waits without blocking reads or writes"
            yield place.finding(message, hint=hint)


def _may_keep_invalid(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.CREATE_INDEX):
        statement = place.statement
        if is_concurrent(statement) and is_guarded(statement) and place.step.step.verify is None:
            message = "an INVALID index of this name, left by a build that failed, would count as existing"
            yield place.finding(message, hint="verify with SELECT indisvalid FROM pg_index …")


def _not_verified(subject: Subject) -> Iterator[Finding]:
    # REINDEX may run again and does the same work, so an unknown outcome is no question.
    for place in statements(subject, Kind.CREATE_INDEX, Kind.ALTER_TABLE):
        statement = place.statement
        if place.step.step.verify is not None or is_guarded(statement) or not is_concurrent(statement):
            continue
        message = f"if the outcome of {_called(place)} is unknown, nothing tells whether it was completed"
        yield place.finding(message, hint="add a `verify` that asks the catalog, such as indisvalid in pg_index")


def _index_build(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for place in statements(subject, Kind.CREATE_INDEX):
        table = main_relation(place.statement)
        if table is None or is_concurrent(place.statement) or leaves_out_partitions(place.statement):
            continue
        # IF NOT EXISTS on a table that the plan creates IF NOT EXISTS: both are there already, or the table is new.
        as_the_table = is_guarded(place.statement) and created.is_own(table, place)
        if not as_the_table and not created.is_new(table, place):
            message = f"nobody can write to `{table}` until the index is built"
            hint = f"CREATE INDEX CONCURRENTLY, {_ALONE}; on a partitioned table, ON ONLY and then each partition"
            yield place.finding(message, hint=hint)


def _reindex(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for place in statements(subject, Kind.REINDEX):
        relation = main_relation(place.statement)
        if is_concurrent(place.statement) or reindex_target(place.statement) is ReindexTarget.SYSTEM:
            continue
        if relation is not None and (relation.schema == "pg_catalog" or created.is_new(relation, place)):
            continue
        what = f"`{relation}`" if relation is not None else "each index in turn"
        message = f"while REINDEX rebuilds {what}, nobody can write to the table, and hardly anybody can read it"
        yield place.finding(
            message, hint="REINDEX … CONCURRENTLY, alone in its step, with a `lock_timeout` of 1m or more"
        )


def _refresh(subject: Subject) -> Iterator[Finding]:
    created = Created(subject)
    for place in statements(subject, Kind.REFRESH_MATERIALIZED_VIEW):
        view = main_relation(place.statement)
        if view is None or is_concurrent(place.statement) or leaves_out_data(place.statement):
            continue
        if not created.is_new(view, place):
            message = f"nobody can read `{view}` until it is refreshed"
            yield place.finding(message, hint="REFRESH … CONCURRENTLY, which needs a unique index on the view")


_VERIFY = "\n  verify: SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('orders_customer_idx')"
_BUILD = "- id: build\n  sql: CREATE INDEX CONCURRENTLY orders_customer_idx ON orders (customer_id)"

RULES = (
    Rule(
        code="JP330",
        severity=Severity.WARNING,
        title="CONCURRENTLY with a short lock_timeout",
        why=(
            "CREATE INDEX, DROP INDEX, REINDEX and DETACH PARTITION wait, when they run CONCURRENTLY, for every "
            "transaction that uses the table, and builds also for every older snapshot in the database. Each wait is "
            "a lock wait that lock_timeout ends (55P03), and what it leaves is an INVALID index or a partition half "
            "detached. While it waits, reads and writes go on, so a short limit protects nobody. One minute is the "
            "least that jobplan accepts: the transactions of an application are over by then, and only a report, a "
            "dump or a forgotten session is older."
        ),
        wrong=f"{_BUILD}\n  lock_timeout: 5s{_VERIFY}",
        right=f"{_BUILD}\n  lock_timeout: 15m{_VERIFY}",
        check=_short_lock_timeout,
    ),
    Rule(
        code="JP331",
        severity=Severity.WARNING,
        title="CREATE INDEX CONCURRENTLY IF NOT EXISTS without verify",
        why=(
            "A build that fails or is cancelled leaves an INVALID index behind, which no query uses and which every "
            'write still has to maintain. IF NOT EXISTS looks at the name only: it says "already exists, skipping" '
            "and reports success, so the index is missing until somebody wonders why queries are slow. A `verify` "
            "that asks for `indisvalid` makes the step fail instead. Dropping the leftover first, with DROP INDEX "
            "CONCURRENTLY IF EXISTS, makes the plan mend itself."
        ),
        wrong=(
            "- id: build\n  sql: CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_customer_idx ON orders (customer_id)"
        ),
        right=(
            "- id: build\n"
            f"  sql: CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_customer_idx ON orders (customer_id){_VERIFY}"
        ),
        check=_may_keep_invalid,
    ),
    Rule(
        code="JP340",
        severity=Severity.WARNING,
        title="CONCURRENTLY without verify",
        why=(
            "CREATE INDEX and DETACH PARTITION commit on their way if they run CONCURRENTLY, so they can end half done "
            "and leave something behind: an INVALID index, a partition that is pending detach. When the connection or "
            "the server is lost, the outcome of a step is unknown, and `verify` is what settles it: without one the "
            "step counts as failed, although the index may be there, and the next attempt fails because it is. "
            "REINDEX CONCURRENTLY can run again."
        ),
        wrong=_BUILD,
        right=f"{_BUILD}{_VERIFY}",
        check=_not_verified,
    ),
    Rule(
        code="JP341",
        severity=Severity.WARNING,
        title="An index build that blocks writes",
        why=(
            "CREATE INDEX holds a SHARE lock on the table until the index is built: reads go on, every INSERT, UPDATE "
            "and DELETE waits. CONCURRENTLY reads the table twice and takes longer, but holds SHARE UPDATE EXCLUSIVE, "
            "which lets writes pass. It must be the only statement of its step, and is not possible on a partitioned "
            "table: create the index ON ONLY that table, build one on each partition, and attach them. Tables that "
            "the plan itself creates are exempt."
        ),
        wrong="- id: build\n  sql: CREATE INDEX orders_customer_idx ON orders (customer_id)\n  lock_timeout: 5s",
        right=f"{_BUILD}{_VERIFY}",
        check=_index_build,
    ),
    Rule(
        code="JP342",
        severity=Severity.WARNING,
        title="REINDEX without CONCURRENTLY",
        why=(
            "REINDEX holds a SHARE lock on the table, which stops writes, and ACCESS EXCLUSIVE on the index that it "
            "rebuilds. Planning a query opens every index of its table, so most reads wait too. REINDEX CONCURRENTLY "
            "(version 12 and later) builds a copy beside the old index and exchanges them. System catalogs cannot be "
            "rebuilt concurrently and are exempt."
        ),
        wrong="- id: rebuild\n  sql: REINDEX INDEX orders_customer_idx\n  lock_timeout: 5s",
        right="- id: rebuild\n  sql: REINDEX INDEX CONCURRENTLY orders_customer_idx",
        check=_reindex,
    ),
    Rule(
        code="JP343",
        severity=Severity.WARNING,
        title="REFRESH MATERIALIZED VIEW without CONCURRENTLY",
        why=(
            "REFRESH holds ACCESS EXCLUSIVE on the view while its query runs, so even reading the old rows waits. "
            "With CONCURRENTLY it holds EXCLUSIVE, which lets reads pass, and applies only the differences. That "
            "needs a unique index on plain columns, without WHERE, and a view that has been filled once."
        ),
        wrong="- id: refresh\n  sql: REFRESH MATERIALIZED VIEW sales_by_day\n  lock_timeout: 5s",
        right="- id: refresh\n  sql: REFRESH MATERIALIZED VIEW CONCURRENTLY sales_by_day\n  lock_timeout: 5s",
        check=_refresh,
    ),
)
