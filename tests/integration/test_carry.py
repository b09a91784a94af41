"""Carried values on a real server: what an extended statement returns, and what its transaction stores."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psycopg
import pytest

from runner.engine.batches import ROWS
from runner.engine.events import Rows
from runner.engine.ports import LaunchRequest, StoredBatch, WorkerEnd
from runner.engine.worker_text import launched_text, plan_text
from runner.gateway.ledger import admin as ledger_admin
from runner.gateway.ledger import storage
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.postgres import PgGateway
from runner.identity import WorkerLabel, new_run_id, worker_name
from runner.sql.carried_rows import carry_form
from tests.integration.gateway_setups import GATE, HERE, ask, open_transaction, until, value

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL DEFAULT 0); INSERT INTO t SELECT generate_series(1, 20)"
BATCH = "WITH batch AS (UPDATE t SET v = v + 1 WHERE id <= 7 RETURNING id) SELECT max(id) AS last_id FROM batch"

ARCHIVE = (
    "WITH d AS (DELETE FROM t WHERE id < 4 RETURNING *), i AS (INSERT INTO t SELECT id + 1000 FROM d RETURNING 1) "
    "SELECT max(id) AS a, NULL AS b, '{\"x\": 1}'::jsonb AS c, true AS d FROM d"
)
FORGED = "INSERT INTO jobplan.carried (run, step, attempt, proof, rows, carried) VALUES (%s, 'fill', 2, 'x', 1, '{}')"


def request(run: str, sql: str, *names: str, attempt: int = 1, **keys: object) -> LaunchRequest:
    return LaunchRequest(
        sql=sql,
        application_name=worker_name(run, "fill"),
        timeout=60.0,
        rows=1,
        carry=carry_form(sql, names),
        label=WorkerLabel(run=run, plan="p", step="fill", attempt=attempt, on_finish="wait", timeout=60.0),
        **keys,  # type: ignore[arg-type]  # a test names what it needs
    )


async def end_of(gateway: PgGateway, asked: LaunchRequest) -> WorkerEnd:
    handle = await gateway.launch(asked)
    return await handle.wait_until_ended(
        on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=lambda _, __: None
    )


class Gateways:
    """A gateway of a run, opened and closed."""

    def __init__(self, dsn: str, *, ledger: bool = True, run: str | None = None) -> None:
        self.run = run or new_run_id(time.time())
        self.gateway = PgGateway(dsn, self.run, ledger_schema="jobplan" if ledger else None)

    async def __aenter__(self) -> PgGateway:
        await self.gateway.open()
        return self.gateway

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.close()


@pytest.mark.parametrize(
    ("sql", "names", "row", "tag"),
    [
        (BATCH, ("last_id",), ("7", "7"), "UPDATE"),
        (BATCH.replace("id <= 7", "id < 0"), ("last_id",), ("0", None), "UPDATE"),
        ("SELECT id AS last_id FROM t ORDER BY id LIMIT 5", ("last_id",), ("5", "5"), "SELECT"),
        ("SELECT id AS last_id FROM t ORDER BY id DESC LIMIT 5 -- why", ("last_id",), ("5", "16"), "SELECT"),
        ("SELECT id AS last_id FROM t WHERE false ORDER BY id", ("last_id",), ("0", None), "SELECT"),
        ("INSERT INTO t VALUES (99) RETURNING id AS last_id, v", ("v", "last_id"), ("1", "0", "99"), "INSERT"),
        (ARCHIVE, ("a", "b", "c", "d"),
         ("3", "3", None, '{"x": 1}', "t"), "DELETE"),
        ("CREATE TEMP TABLE w AS SELECT 1 AS i; SELECT max(i) AS last_id FROM w", ("last_id",), ("1", "1"), "SELECT"),
        ("SET LOCAL search_path TO nowhere, public; SELECT last.id AS last_id FROM t AS last ORDER BY 1", ("last_id",),
         ("20", "20"), "SELECT"),
        ("SELECT t.* FROM t ORDER BY id", ("id",), ("20", "20"), "SELECT"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT max(n) AS i FROM r",
         ("i",), ("1", "5"), "SELECT"),
        ("SELECT repeat('é', 10) AS last_id", ("last_id",), ("1", "é" * 10), "SELECT"),
        ("(SELECT id AS last_id FROM t) ORDER BY last_id FETCH FIRST 3 ROWS ONLY", ("last_id",), ("3", "3"), "SELECT"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ledger", [False, True])
async def test_the_last_row_and_the_number_of_rows_are_returned_and_stored(
    database: str, sql: str, names: tuple[str, ...], row: tuple[str | None, ...], tag: str, *, ledger: bool
) -> None:
    ask(database, TABLE)
    if ledger:
        LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database, ledger=ledger)
    async with setup as gateway:
        end = await end_of(gateway, request(setup.run, sql, *names))
        stored = await gateway.stored_batch("fill", 1)
    assert end.confirmed, end
    assert end.result == Rows(columns=(ROWS, *names), rows=(row,))
    assert end.command_tag == tag
    values: Mapping[str, str | None] = dict(zip(names, row[1:], strict=True))
    assert stored == (StoredBatch(rows=int(row[0] or 0), values=values) if ledger else None)


async def test_many_rows_are_counted_and_the_last_one_is_taken(database: str) -> None:
    ask(database, TABLE)
    setup = Gateways(database, ledger=False)
    async with setup as gateway:
        sql = "SELECT i AS last_id, repeat('x', 500) FROM generate_series(1, 30000) AS i ORDER BY i"
        end = await end_of(gateway, request(setup.run, sql, "last_id", output_buffer=1_024))
    assert end.result is not None
    assert end.result.rows == (("30000", "30000"),)


@pytest.mark.parametrize("ledger", [False, True])
@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("WITH b AS (SELECT 1 AS i) SELECT nope AS last_id FROM b", "nope"),
        ("SELECT 1; WITH b AS (UPDATE t SET x = 1 RETURNING id) SELECT max(id) AS last_id FROM b", "x = 1"),
        ("SELECT max(id) AS last_id FROM t WHERE nope > 1", "nope"),
    ],
)
async def test_an_error_has_its_place_in_the_plan(database: str, sql: str, place: str, *, ledger: bool) -> None:
    ask(database, TABLE)
    if ledger:
        LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database, ledger=ledger)
    async with setup as gateway:
        end = await end_of(gateway, request(setup.run, sql, "last_id"))
    assert end.error is not None
    assert end.error.sqlstate == "42703"
    assert end.error.position == sql.index(place) + 1


async def test_a_column_that_is_missing_fails_the_batch_before_it_commits(database: str) -> None:
    ask(database, TABLE)
    setup = Gateways(database, ledger=False)
    async with setup as gateway:
        sql = "WITH b AS (UPDATE t SET v = 9 RETURNING *) SELECT b.* FROM b ORDER BY id"
        end = await end_of(gateway, request(setup.run, sql, "last_id"))
    assert end.error is not None
    assert 'column "last_id" does not exist' in end.error.message
    assert value(database, "SELECT max(v) FROM t") == 0


async def test_the_text_in_pg_stat_activity_is_shown_as_the_plan_has_it(database: str) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database)
    sql = "WITH b AS (SELECT pg_sleep(60) IS NULL AS x) SELECT 1 AS last_id FROM b ORDER BY 1"
    shown = "SELECT query FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
    async with setup as gateway:
        handle = await gateway.launch(request(setup.run, sql, "last_id"))
        await until(lambda: ask(database, shown))
        text = value(database, shown)
        handle.cancel()
        end = await handle.wait_until_ended(
            on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=lambda _, __: None
        )
    assert "jobplan_store AS (INSERT INTO" in text
    assert plan_text(text) == sql
    assert end.error is not None


async def test_a_batch_whose_session_is_lost_has_committed_with_its_values(database: str) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database)
    sql = f"{GATE}; {BATCH}"
    async with setup as gateway:
        with open_transaction(database, GATE):
            handle = await gateway.launch(request(setup.run, sql, "last_id"))
            await until(lambda: ask(database, f"SELECT 1 FROM {HERE} AND backend_type = 'pg_background'"))
            ask(
                database,
                f"SELECT pg_terminate_backend(pid) FROM {HERE} AND application_name = %s AND backend_type = "
                "'client backend' AND query LIKE '%%pg_background%%'",
                f"jobplan:{setup.run}:runner",
            )
        end = await handle.wait_until_ended(
            on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=lambda _, __: None
        )
        stored = await gateway.stored_batch("fill", 1)
    assert end.confirmed
    assert stored == StoredBatch(rows=7, values={"last_id": "7"})


async def test_another_runner_of_the_run_reads_what_a_batch_has_stored_and_no_other_role_can_forge_it(
    database: str,
) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database)
    async with setup as gateway:
        await end_of(gateway, request(setup.run, BATCH, "last_id"))
        ask(database, FORGED, setup.run)
        assert await gateway.stored_batch("fill", 2) is None
        assert await gateway.stored_batch("fill", 1) == StoredBatch(rows=7, values={"last_id": "7"})
        assert await gateway.stored_batch("fill", 3) is None


async def test_a_batch_that_is_rolled_back_stores_nothing(database: str) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database)
    async with setup as gateway:
        sql = "SELECT max(id) AS last_id, 1 / (20 - max(id)) FROM t"
        end = await end_of(gateway, request(setup.run, sql, "last_id"))
    assert end.error is not None
    assert ask(database, "SELECT * FROM jobplan.carried") == []


async def test_a_role_without_the_right_to_store_runs_its_batch_without_it(database: str) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    ask(
        database,
        "DROP ROLE IF EXISTS carry_worker; CREATE ROLE carry_worker; GRANT SELECT, UPDATE ON t TO carry_worker; "
        "GRANT USAGE ON SCHEMA jobplan TO carry_worker; GRANT INSERT ON jobplan.commits TO carry_worker",
    )
    setup = Gateways(database)
    try:
        async with setup as gateway:
            end = await end_of(gateway, request(setup.run, BATCH, "last_id", role="carry_worker"))
            assert await gateway.stored_batch("fill", 1) is None
    finally:
        ask(database, "DROP OWNED BY carry_worker; DROP ROLE carry_worker")
    assert end.confirmed
    assert value(database, "SELECT count(*) FROM jobplan.commits WHERE committed") == 1


async def test_a_locked_table_of_values_does_not_fail_the_batch(database: str) -> None:
    ask(database, TABLE)
    LedgerAdmin(database, "jobplan").install("0")
    setup = Gateways(database)
    async with setup as gateway:
        with psycopg.connect(database) as locker:
            locker.execute("LOCK TABLE jobplan.carried IN ACCESS EXCLUSIVE MODE")
            end = await end_of(gateway, request(setup.run, BATCH, "last_id"))
    assert end.confirmed, end
    assert value(database, "SELECT sum(v) FROM t") == 7


async def test_a_ledger_of_version_2_is_used_and_stores_no_values(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(database, TABLE)
    for module in (ledger_admin, storage):
        monkeypatch.setattr(module, "VERSION", 2)
    steps = {number: name for number, name in ledger_admin.STEPS.items() if number <= 2}
    monkeypatch.setattr(ledger_admin, "STEPS", steps)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA jobplan")
    LedgerAdmin(database, "jobplan").install("0")
    monkeypatch.undo()
    setup = Gateways(database)
    async with setup as gateway:
        assert gateway.ledger_problem is None
        end = await end_of(gateway, request(setup.run, BATCH, "last_id"))
        assert await gateway.stored_batch("fill", 1) is None
    assert end.confirmed
    assert value(database, "SELECT count(*) FROM jobplan.commits WHERE committed") == 1
    admin = LedgerAdmin(database, "jobplan")
    assert admin.status().remedy == "jobplan ledger upgrade"
    assert admin.upgrade("1") == (2, 3)
    assert admin.purge(0.0) == 0


def test_the_launched_text_of_a_batch_is_extended_only_where_it_is_stored() -> None:
    asked = request("260101-abcdef", f"SELECT 1; {BATCH}", "last_id")
    text = launched_text(asked)
    assert "jobplan_store" not in text
    assert plan_text(text) == asked.sql
