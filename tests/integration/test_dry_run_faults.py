"""A dry run on databases that are right, and on databases with faults: each is found, and nothing else is an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.errors import Severity
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.replies import Reply
from runner.gateway.session import Session
from runner.preflight.dry_run_result import Coverage
from tests.integration.dry_runs import PLANS, ROLE, codes, dry_run, errors, shipped, written
from tests.integration.gateway_setups import ask


@pytest.mark.parametrize("name", sorted(path.stem for path in PLANS.glob("*.yaml")))
def test_nothing_is_wrong_where_nothing_is_wrong(shop: str, name: str) -> None:
    result = dry_run(shipped(name), shop)
    assert errors(result) == []
    assert not result.refused
    assert result.count(Coverage.CHECKED) > 0


@pytest.mark.parametrize("name", ["quickstart", "partition-rotation"])
def test_nothing_is_wrong_where_nothing_is_yet(database: str, name: str) -> None:
    assert errors(dry_run(shipped(name), database)) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault: SQL that seeds it, the plan that meets it (a shipped one or steps), and the code that reports it."""

    id: str
    code: str
    seed: tuple[str, ...] = ()
    plan: str = ""
    steps: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    says: str = ""
    warning: bool = False
    #: Other codes that the same fault rightly has.
    also: frozenset[str] = frozenset()
    of_role: bool = False


PARTITION = (
    "CREATE TABLE shop.events_20200101 PARTITION OF shop.events FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
)
INVALID = (
    "CREATE INDEX {0} ON shop.orders (total)",
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.{0}'::regclass",
)
LEFT_BEHIND = tuple(sql.format("orders_total_idx") for sql in INVALID)
REBUILT = tuple(sql.format("orders_pkey_ccnew") for sql in INVALID)
WRITES = (
    "CREATE FUNCTION shop.noted() RETURNS int LANGUAGE plpgsql STABLE AS"
    " $$ BEGIN INSERT INTO shop.maintenance_log VALUES ('x', 'y', now()); RETURN 1; END $$"
)

FAULTS = (
    Fault(id="missing table", code="JP601", seed=("DROP TABLE shop.order_lines",), plan="data-quality"),
    Fault(
        id="missing schema",
        code="JP601",
        seed=("DROP SCHEMA shop CASCADE",),
        plan="data-quality",
        says="no schema shop",
    ),
    Fault(
        id="wrong column",
        code="JP602",
        seed=("ALTER TABLE shop.customers RENAME country TO land",),
        plan="data-quality",
        says="country",
    ),
    Fault(id="unknown function", code="JP603", steps="- {id: a, sql: SELECT shop.tidy_up(1)}", says="tidy_up"),
    Fault(
        id="dropped before",
        code="JP604",
        steps="""
        - {id: a, sql: DROP VIEW shop.gone}
        - {id: b, needs: [a], sql: SELECT * FROM shop.gone}
        """,
        seed=("CREATE VIEW shop.gone AS SELECT 1 AS one",),
        says="step `a`",
    ),
    Fault(id="no boolean", code="JP605", steps="- {id: a, if: SELECT count(*) FROM shop.orders, sql: SELECT 1}"),
    Fault(id="wrong type", code="JP606", steps="- {id: a, sql: SELECT id FROM shop.orders WHERE id = 'seven'}"),
    Fault(id="wrong kind", code="JP607", steps="- {id: a, sql: REFRESH MATERIALIZED VIEW shop.orders}"),
    Fault(id="name taken", code="JP608", steps="- {id: a, sql: CREATE TABLE shop.orders (id int)}", says="a table"),
    Fault(
        id="referenced",
        code="JP609",
        steps="- {id: a, sql: TRUNCATE shop.customers}  # jobplan: ignore=JP353 it is a test",
        says="foreign key",
    ),
    Fault(
        id="no privilege on rows",
        code="JP610",
        plan="data-quality",
        of_role=True,
        says="order_lines",
        seed=(f"REVOKE ALL ON shop.order_lines FROM {ROLE}",),
    ),
    Fault(
        id="no MAINTAIN",
        code="JP610",
        steps="- {id: a, sql: VACUUM shop.orders}",
        of_role=True,
        says="ownership or MAINTAIN",
    ),
    Fault(
        id="partitioned REINDEX",
        code="JP611",
        steps="- {id: a, sql: REINDEX TABLE shop.events; ANALYZE shop.events}",
        says="step of its own",
    ),
    Fault(
        id="build on a partitioned table",
        code="JP611",
        steps="- {id: a, sql: CREATE INDEX CONCURRENTLY events_at ON shop.events (at)}",
    ),
    Fault(
        id="nothing orders it",
        code="JP612",
        steps="""
        - {id: a, sql: CREATE TABLE shop.later (n int)}
        - {id: b, sql: ANALYZE shop.later}
        """,
        says="needs: [a]",
        warning=True,
    ),
    Fault(
        id="STABLE and writes",
        code="JP613",
        seed=(WRITES, "ALTER EXTENSION pg_background ADD FUNCTION shop.noted()"),
        steps="- {id: a, sql: SELECT 1 FROM shop.orders WHERE id = shop.noted()}",
        warning=True,
        says="noted()",
    ),
    Fault(
        id="INVALID leftover of a build",
        code="JP614",
        seed=LEFT_BEHIND,
        steps="- {id: a, sql: CREATE INDEX CONCURRENTLY orders_total_idx ON shop.orders (total)}",
        also=frozenset({"JP514"}),
    ),
    Fault(
        id="INVALID leftover of a rebuild",
        code="JP514",
        seed=REBUILT,
        steps="- {id: a, sql: REINDEX TABLE CONCURRENTLY shop.orders}",
        warning=True,
        says="orders_pkey_ccnew",
    ),
    Fault(
        id="no unique index",
        code="JP615",
        seed=("DROP INDEX shop.sales_by_day_key",),
        steps="- {id: a, sql: REFRESH MATERIALIZED VIEW CONCURRENTLY shop.sales_by_day}",
    ),
    Fault(
        id="never filled",
        code="JP615",
        seed=("REFRESH MATERIALIZED VIEW shop.sales_by_day WITH NO DATA",),
        steps="- {id: a, sql: REFRESH MATERIALIZED VIEW CONCURRENTLY shop.sales_by_day}",
        says="never been populated",
    ),
    Fault(
        id="DEFAULT partition",
        code="JP618",
        seed=("CREATE TABLE shop.rest PARTITION OF shop.events DEFAULT", PARTITION),
        plan="partition-rotation",
        says="rest",
    ),
    Fault(
        id="list of for_each",
        code="JP602",
        steps="- {id: a, for_each: {sql: SELECT nam FROM shop.customers, as: c}, sql: \"SELECT :'c'\"}",
        says="nam",
    ),
    Fault(
        id="columns without names",
        code="JP619",
        steps='- {id: a, for_each: {sql: "SELECT 1, 2", as: c}, sql: "SELECT :\'c\'"}',
        says="its columns need unique names",
    ),
    Fault(id="role", code="JP522", steps="- {id: a, sql: SELECT 1, role: nobody_of_that_name}"),
    Fault(id="setting", code="JP523", steps="- {id: a, sql: SELECT 1, settings: {work_mem: plenty}}"),
    Fault(
        id="server version",
        code="JP520",
        steps="- {id: a, sql: SELECT 1}",
        keys=(("requires", "{server_version: '>=99'}"),),
    ),
    Fault(
        id="precondition",
        code="JP520",
        steps="- {id: a, sql: SELECT 1}",
        keys=(
            ("requires", "{preconditions: [{sql: SELECT count(*) = 0 FROM shop.orders, message: there are orders}]}"),
        ),
        says="there are orders",
    ),
    Fault(
        id="too few workers",
        code="JP508",
        steps="- {id: a, sql: SELECT 1}",
        keys=(("budget", "{slots: 1, reserve: 999}"),),
    ),
    Fault(
        id="no right to launch",
        code="JP504",
        steps="- {id: a, sql: SELECT 1}",
        of_role=True,
        seed=(f"REVOKE pgbackground_role FROM {ROLE}",),
    ),
    Fault(
        id="read-only by default",
        code="JP507",
        steps="- {id: a, sql: SELECT 1}",
        of_role=True,
        warning=True,
        seed=(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on",),
    ),
)


#: Faults that not every version can have.
_NEWER = {
    "no MAINTAIN": pytest.mark.pg(">= 17", reason="the privilege MAINTAIN"),
}
_SEEDED = [
    pytest.param(fault, id=fault.id.replace(" ", "-"), marks=[_NEWER[fault.id]] if fault.id in _NEWER else [])
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", _SEEDED)
def test_a_fault_is_found_and_nothing_else(copy: str, reviewed: str, tmp_path: Path, fault: Fault) -> None:
    for sql in fault.seed:
        ask(copy, sql)
    plan = shipped(fault.plan) if fault.plan else written(tmp_path, fault.steps, **dict(fault.keys))
    result = dry_run(plan, reviewed if fault.of_role else copy)
    found = [problem for problem in result.problems if problem.code == fault.code]
    assert any(fault.says in str(problem) for problem in found), [str(problem) for problem in result.problems]
    assert {problem.severity for problem in found} == {Severity.WARNING if fault.warning else Severity.ERROR}
    assert codes(errors(result)) <= {fault.code} | fault.also, [str(problem) for problem in errors(result)]


def test_the_server_is_asked_once_for_each_statement(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long that takes is measured by `python -m benchmarks dry_run`."""
    lines = (
        f"- {{id: s{n}, {f'needs: [s{n - 1}], ' if n % 10 else ''}verify: SELECT count(*) > 0 FROM shop.orders,"
        f" sql: UPDATE shop.orders SET total = 1 WHERE id = {n}}}"
        for n in range(200)
    )
    plan = written(tmp_path, "\n".join(lines))
    trips: list[object] = []
    exchange = Session._exchange

    async def counted(session: Session, send: Callable[[], None], answer_within: float | None = None) -> list[Reply]:
        trips.append(send)
        return await exchange(session, send, answer_within)

    monkeypatch.setattr(Session, "_exchange", counted)
    result = dry_run(plan, shop)
    assert result.count(Coverage.CHECKED) == len(result.statements) == 400
    assert len(trips) < 400 + 50


def test_a_run_that_holds_the_group_is_named(copy: str, tmp_path: Path) -> None:
    plan = written(tmp_path, "- {id: a, sql: SELECT 1}", concurrency="{group: nightly}")
    with psycopg.connect(copy, application_name="jobplan:260101-abcdef:runner") as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('jobplan:nightly', 0))")
        (problem,) = [one for one in dry_run(plan, copy).problems if one.code == "JP521"]
    assert "run 260101-abcdef holds the group nightly" in problem.message
    assert "JP521" not in codes(list(dry_run(plan, copy).problems))


def test_what_a_function_may_have_created_is_no_error(copy: str, tmp_path: Path) -> None:
    ask(copy, "CREATE FUNCTION shop.make() RETURNS void LANGUAGE plpgsql AS 'BEGIN CREATE TABLE shop.made (); END'")
    steps = """
    - {id: a, sql: SELECT shop.make()}
    - {id: b, needs: [a], sql: ANALYZE shop.made}
    """
    result = dry_run(written(tmp_path, steps), copy)
    assert errors(result) == []
    assert "JP617" in codes(list(result.problems))


def test_the_ledger_reports_how_long_steps_take(copy: str, tmp_path: Path) -> None:
    LedgerAdmin(copy, "records").install("0")
    ask(
        copy,
        "INSERT INTO records.runs (run, plan, sha256, jobplan, host, os_pid, started_at)"
        " VALUES ('r', 'trial', '', '', '', 1, now())",
    )
    event = "INSERT INTO records.events SELECT 'r', %s, now() + {0}, '{1}', 'a', {2}, jsonb_build_object({3})"
    for n, minutes in enumerate((0, 1, 5)):  # three iterations, of a minute each
        began = event.format(f"interval '{minutes} min'", "attempt_launching", n + 1, "")
        took = f"'outcome', 'succeeded', 'started_at', now(), 'finished_at', now() + interval '{60 + n} s'"
        ask(copy, began, 2 * n)
        ask(copy, event.format(f"interval '{minutes + 1} min'", "attempt_finished", n + 1, took), 2 * n + 1)
    ask(copy, event.format("interval '6 min'", "step_finished", "NULL", "'state', 'succeeded'"), 99)
    repeat = "repeat: {until: no_rows, max_iterations: 9}"
    steps = f"- {{id: a, sql: DELETE FROM shop.orders WHERE id < 0, timeout: TIMEOUT, {repeat}}}"
    result = dry_run(written(tmp_path, steps.replace("TIMEOUT", "2m")), copy)
    assert result.schedule is not None
    assert round(result.schedule.makespan) == 360
    assert not result.schedule.nothing_known
    assert "JP801" not in codes(list(result.problems)), "a timeout is that of one iteration"
    late = dry_run(written(tmp_path, steps.replace("TIMEOUT", "1m")), copy)
    assert "JP801" in codes(list(late.problems))


def test_a_disk_that_is_too_small(copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(copy, "CREATE TABLE shop.large AS SELECT n, repeat('x', 500) AS word FROM generate_series(1, 5000) AS n")
    ask(copy, "ANALYZE shop.large")
    plan = written(tmp_path, "- {id: a, sql: VACUUM FULL shop.large}\n- {id: b, needs: [a], sql: VACUUM shop.large}")
    monkeypatch.setattr("runner.preflight.disk_space.Disks.free", lambda *_: 1_000_000)
    (problem,) = [one for one in dry_run(plan, copy).problems if one.code == "JP616"]
    assert problem.step == "a"
    monkeypatch.setattr("runner.preflight.disk_space.Disks.free", lambda *_: None)
    assert "JP616" not in codes(list(dry_run(plan, copy).problems))


def test_a_position_survives_parameters(copy: str, tmp_path: Path) -> None:
    steps = "- {id: a, sql: \"SELECT :'word', :n, totel FROM shop.orders\"}"
    params = "{word: {type: string, default: a much longer value}, n: {type: integer, default: 123456789}}"
    (problem,) = errors(dry_run(written(tmp_path, steps, params=params), copy))
    line = (tmp_path / "plan.yaml").read_text(encoding="utf-8").splitlines()[problem.position.line - 1]
    assert line[problem.position.column - 1 :].startswith("totel")


def test_an_untrusted_function_is_not_run_by_explaining(copy: str, tmp_path: Path) -> None:
    ask(
        copy,
        "CREATE FUNCTION shop.untrusted() RETURNS int STABLE LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'",
    )
    steps = "- {id: a, sql: SELECT id FROM shop.orders WHERE id = shop.untrusted()}"
    result = dry_run(written(tmp_path, steps), copy)
    (report,) = result.statements
    assert report.coverage is Coverage.PARTLY
    assert "untrusted()" in report.why[0]
    assert report.cost is None
    assert errors(result) == []


RELATED = """
    CREATE TABLE shop.parent (id int PRIMARY KEY);
    CREATE TABLE shop.child (id int CONSTRAINT of_parent REFERENCES shop.parent);
    CREATE VIEW shop.cheap AS SELECT id FROM shop.parent
"""


@pytest.mark.parametrize(
    "steps",
    [
        """
        - {id: a, sql: DROP VIEW shop.cheap; ALTER TABLE shop.child DROP CONSTRAINT of_parent}
        - {id: b, needs: [a], sql: TRUNCATE shop.parent}  # jobplan: ignore=JP353 it is a test
        - {id: c, needs: [b], sql: DROP TABLE shop.parent}  # jobplan: ignore=JP353 it is a test
        """,
        "- {id: a, sql: CREATE TEMP TABLE t AS SELECT 1 AS one; SELECT one FROM t}",
        "- {id: a, sql: ALTER TABLE shop.orders RENAME TO sales}\n- {id: b, needs: [a], sql: ANALYZE shop.sales}",
        "- {id: a, sql: CREATE TABLE shop.n (id int PRIMARY KEY); REINDEX INDEX shop.n_pkey}",
        "- {id: a, sql: DROP SCHEMA IF EXISTS nowhere}",
        "- {id: a, sql: DROP TABLE IF EXISTS shop.nowhere}",
    ],
    ids=["dropped-before", "temporary", "renamed", "its-own-index", "schema-if-exists", "table-if-exists"],
)
def test_what_earlier_statements_change_is_no_error(copy: str, tmp_path: Path, steps: str) -> None:
    ask(copy, RELATED)
    assert errors(dry_run(written(tmp_path, steps), copy)) == []


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ("- {id: a, sql: DROP TABLE shop.parent}  # jobplan: ignore=JP353 it is a test", "JP609"),
        (
            "- {id: a, sql: CREATE TEMP TABLE t AS SELECT 1 AS one}\n- {id: b, needs: [a], sql: SELECT one FROM t}",
            "JP601",
        ),
        (
            "- {id: a, sql: ALTER TABLE shop.orders RENAME TO sales}\n- {id: b, needs: [a], sql: ANALYZE shop.orders}",
            "JP604",
        ),
        ("- {id: a, sql: DROP SCHEMA nowhere}", "JP601"),
    ],
)
def test_what_is_not_changed_in_time_is_an_error(copy: str, tmp_path: Path, steps: str, code: str) -> None:
    ask(copy, RELATED)
    assert codes(errors(dry_run(written(tmp_path, steps), copy))) == {code}


def test_the_owner_of_the_database_may_vacuum(copy: str, reviewed: str, tmp_path: Path) -> None:
    ask(copy, f"ALTER DATABASE {conninfo_to_dict(copy)['dbname']} OWNER TO {ROLE}")
    plan = written(tmp_path, "- {id: a, sql: VACUUM shop.orders}\n- {id: b, needs: [a], sql: ANALYZE shop.orders}")
    assert errors(dry_run(plan, reviewed)) == []
    ask(copy, f"ALTER DATABASE {conninfo_to_dict(copy)['dbname']} OWNER TO CURRENT_USER")
