"""The project's own plans on databases with one fault each: it is found, and nothing else is an error."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.errors import Severity
from runner.structs import replace
from tests.integration.dry_runs import ROLE, dry_run, errors, reported, shipped
from tests.integration.gateway_setups import ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """SQL that seeds a fault in a database, the plan that meets it, and the code and words that report of it.

    Errors may be in `steps` alone, any of them if there are none. `meanwhile` is what another session has done and not
    ended; `{role}` and `{database}` stand for names.
    """

    id: str
    plan: str
    code: str
    says: str
    seed: tuple[str, ...] = ()
    steps: frozenset[str] = frozenset()
    warning: bool = False
    of_role: bool = False
    meanwhile: tuple[str, ...] = ()
    also: frozenset[str] = frozenset()
    params: tuple[tuple[str, str], ...] = ()


MAINTAIN = "GRANT pg_maintain TO {role}"
FAULTS = (
    Fault(
        id="missing table",
        plan="data-quality",
        code="JP601",
        says="shop.order_lines",
        seed=("DROP TABLE shop.order_lines",),
        steps=frozenset({"no_orphan_lines", "no_empty_orders"}),
    ),
    Fault(
        id="missing schema",
        plan="data-quality",
        code="JP601",
        says="there is no schema shop",
        seed=("DROP SCHEMA shop CASCADE",),
    ),
    Fault(
        id="missing table of another plan",
        plan="purge-history",
        code="JP601",
        says="pgbench_history",
        seed=("DROP TABLE pgbench_history",),
        steps=frozenset({"purge", "vacuum"}),
    ),
    Fault(
        id="renamed column",
        plan="data-quality",
        code="JP602",
        says="country",
        seed=("ALTER TABLE shop.customers RENAME country TO land",),
        steps=frozenset({"known_countries"}),
    ),
    Fault(
        id="column of another type",
        plan="purge-history",
        code="JP603",
        says="operator does not exist: text < timestamp",
        seed=("ALTER TABLE pgbench_history ALTER mtime TYPE text",),
        steps=frozenset({"purge"}),
    ),
    Fault(
        id="column that is there already with another type",
        plan="batched-backfill",
        code="JP606",
        says='column "tax" is of type date',
        seed=("ALTER TABLE shop.orders DROP COLUMN tax", "ALTER TABLE shop.orders ADD COLUMN tax date"),
        steps=frozenset({"fill"}),
    ),
    Fault(
        id="no right to read rows",
        plan="data-quality",
        code="JP610",
        says="order_lines",
        of_role=True,
        seed=("REVOKE ALL ON shop.order_lines FROM {role}",),
        steps=frozenset({"no_orphan_lines", "no_empty_orders"}),
    ),
    Fault(
        id="no right on the schema",
        plan="data-quality",
        code="JP610",
        says="permission denied for schema shop",
        of_role=True,
        seed=("REVOKE USAGE ON SCHEMA shop FROM {role}",),
    ),
    Fault(
        id="no right to maintain",
        plan="nightly-maintenance",
        code="JP610",
        says="MAINTAIN on shop.orders",
        of_role=True,
        seed=("GRANT CREATE ON SCHEMA shop TO {role}",),
        steps=frozenset({"vacuum"}),
    ),
    Fault(
        id="no right to create",
        plan="nightly-maintenance",
        code="JP610",
        says="may not create anything in the schema shop",
        of_role=True,
        seed=(MAINTAIN, "DROP TABLE shop.maintenance_log"),
        steps=frozenset({"log_table"}),
    ),
    Fault(
        id="not the owner",
        plan="batched-backfill",
        code="JP610",
        says="ownership on shop.orders",
        of_role=True,
        seed=(MAINTAIN,),
        steps=frozenset({"add_column", "validate_constraint", "not_null", "add_constraint"}),
    ),
    Fault(
        id="a view in the place of a table",
        plan="nightly-maintenance",
        code="JP607",
        says="shop.customers, which is a view",
        seed=(
            "ALTER TABLE shop.orders DROP CONSTRAINT orders_customer_id_fkey",
            "ALTER TABLE shop.customers RENAME TO people",
            "CREATE VIEW shop.customers AS SELECT * FROM shop.people",
        ),
        steps=frozenset({"vacuum"}),
    ),
    Fault(
        id="a table that is not partitioned",
        plan="partition-rotation",
        code="JP607",
        says="shop.events, which is a table",
        seed=("DROP TABLE shop.events", "CREATE TABLE shop.events (at timestamptz, kind text, payload jsonb)"),
        steps=frozenset({"create"}),
    ),
    Fault(
        id="INVALID leftover",
        plan="refresh-reports",
        code="JP614",
        says="shop.sales_by_day_key",
        seed=("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.sales_by_day_key'::regclass",),
        steps=frozenset({"views"}),
    ),
    Fault(
        id="view that was never filled",
        plan="refresh-reports",
        code="JP615",
        says="shop.sales_by_day has never been populated",
        seed=("REFRESH MATERIALIZED VIEW shop.sales_by_day WITH NO DATA",),
        steps=frozenset({"sales_by_day"}),
    ),
    Fault(
        id="DEFAULT partition",
        plan="partition-rotation",
        code="JP618",
        says="rest",
        seed=(
            "CREATE TABLE shop.rest PARTITION OF shop.events DEFAULT",
            "CREATE TABLE shop.events_20200101 PARTITION OF shop.events FOR VALUES FROM ('20200101') TO ('20200102')",
        ),
        steps=frozenset({"detach"}),
    ),
    Fault(
        id="requirement",
        plan="nightly-maintenance",
        code="JP520",
        says="run quickstart first",
        seed=("ALTER TABLE shop.orders RENAME TO sales",),
        also=frozenset({"JP601"}),
        steps=frozenset({"purge_lines", "purge_orders", "vacuum"}),
    ),
    Fault(
        id="no extension",
        plan="data-quality",
        code="JP503",
        says='not in database "',
        seed=("DROP EXTENSION pg_background",),
    ),
    Fault(
        id="no right to launch",
        plan="data-quality",
        code="JP504",
        says="may not use pg_background",
        of_role=True,
        seed=("REVOKE pgbackground_role FROM {role}",),
    ),
    Fault(
        id="read-only by default",
        plan="data-quality",
        code="JP507",
        says="(by user)",
        of_role=True,
        warning=True,
        seed=("ALTER ROLE {role} SET default_transaction_read_only = on",),
    ),
    Fault(
        id="too few connections",
        plan="data-quality",
        code="JP510",
        says="6 connections",
        of_role=True,
        seed=("ALTER ROLE {role} CONNECTION LIMIT 1",),
    ),
    Fault(
        id="long transaction",
        plan="rebuild-indexes",
        code="JP702",
        says="older snapshot",
        meanwhile=("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT pg_sleep(1.1)"),
        params=(("min_size", "0"), ("factor", "1")),
        warning=True,
    ),
    Fault(
        id="idle in a transaction",
        plan="batched-backfill",
        code="JP701",
        says="idle in transaction",
        meanwhile=("SELECT count(*) FROM shop.orders",),
        warning=True,
    ),
    Fault(
        id="locked table",
        plan="data-quality",
        code="JP620",
        says="lock timeout",
        meanwhile=("LOCK TABLE shop.customers",),
        warning=True,
    ),
    Fault(
        id="group that another run holds",
        plan="nightly-maintenance",
        code="JP521",
        says="holds the group shop-maintenance",
        meanwhile=("SELECT pg_advisory_lock(hashtextextended('jobplan:shop-maintenance', 0))",),
        warning=True,
    ),
)


#: Faults that not every version can have.
_NEWER = {
    "no right to maintain": pytest.mark.pg(">= 17", reason="the privilege MAINTAIN"),
    "no right to create": pytest.mark.pg(">= 17", reason="the role pg_maintain"),
    "not the owner": pytest.mark.pg(">= 17", reason="the role pg_maintain"),
}
_SEEDED = [
    pytest.param(fault, id=fault.id.replace(" ", "-"), marks=[_NEWER[fault.id]] if fault.id in _NEWER else [])
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", _SEEDED)
def test_a_fault_of_the_database_is_found_and_nothing_else(copy: str, reviewed: str, fault: Fault) -> None:
    names = {"role": ROLE, "database": conninfo_to_dict(copy)["dbname"]}
    for sql in fault.seed:
        ask(copy, sql.format(**names))
    plan = shipped(fault.plan, **dict(fault.params))
    with ExitStack() as stack:
        other = stack.enter_context(psycopg.connect(copy))
        for sql in fault.meanwhile:
            other.execute(sql.encode())
        result = dry_run(plan, reviewed if fault.of_role else copy)
        other.rollback()
    found = [problem for problem in reported(result, fault.code) if fault.says in f"{problem.message} {problem.hint}"]
    assert found, [str(problem) for problem in result.problems]
    assert (Severity.ERROR in {problem.severity for problem in found}) is not fault.warning
    wrong = [
        str(problem)
        for problem in errors(result)
        if problem.code not in {fault.code} | fault.also
        or (fault.steps and problem.step is not None and problem.step not in fault.steps)
    ]
    assert wrong == []


def test_too_few_workers_for_a_plan(shop: str) -> None:
    plan = shipped("data-quality")
    greedy = replace(plan, budget=replace(plan.budget, reserve=10_000))
    (problem,) = errors(dry_run(greedy, shop))
    assert problem.code == "JP508"
