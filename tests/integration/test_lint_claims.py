"""What the rules about statements claim, done by a real server in real workers, launched as a run launches them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from runner.engine.ports import WorkerEnd
from runner.lint import lint
from runner.plan.loading import load_plan
from tests.integration.gateway_setups import Follower, RealSetup, ask, run_one, run_plan, until, value

SETUP = """
    DROP SCHEMA IF EXISTS claims CASCADE;
    CREATE SCHEMA claims;
    CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, s varchar(10));
    INSERT INTO t SELECT n, n, n::text FROM generate_series(1, 100) AS n;
    CREATE INDEX t_v ON t (v);
    CREATE TABLE p (id int) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE MATERIALIZED VIEW m AS SELECT id FROM t;
    CREATE UNIQUE INDEX ON m (id);
    CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN DELETE FROM t WHERE id = 1; COMMIT; PERFORM 1 / 0; END';
    CREATE PROCEDURE gives(OUT x int) LANGUAGE plpgsql AS 'BEGIN x := 7; END';
"""
GATE = 4711
HOLD = f"SELECT pg_advisory_lock({GATE})"
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"


@pytest.fixture(scope="module")
def own_database(new_database: Callable[[], str]) -> str:
    """A database for this module, in which everything is in one schema."""
    dsn = new_database()
    ask(dsn, f'ALTER DATABASE "{value(dsn, "SELECT current_database()")}" SET search_path = claims, public')
    return dsn


@pytest.fixture
def small_things(own_database: str) -> str:
    """The same database, with a few small things in it."""
    ask(own_database, SETUP)
    return own_database


@pytest.fixture
async def setup(small_things: str) -> AsyncIterator[RealSetup]:
    """A gateway on that database."""
    made = RealSetup(small_things, "claims")
    await made.gateway.open()
    yield made
    made.end()
    await made.gateway.close()


@contextmanager
def transaction(dsn: str, *statements: str) -> Iterator[None]:
    """Keep a transaction open that has run the statements."""
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield
        connection.rollback()


def passes(dsn: str, sql: str) -> bool:
    """Say whether a statement gets its locks at once; it is rolled back."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL lock_timeout = '100ms'")
        try:
            connection.execute(sql.encode())
        except psycopg.errors.LockNotAvailable:
            return False
        finally:
            connection.rollback()
    return True


async def blocked(setup: RealSetup, worker: Follower) -> None:
    """Wait until the worker waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    await until(lambda: worker.task.done() or value(setup.dsn, query, worker.name) == 1)


async def while_held(setup: RealSetup, sql: str, *probes: str) -> list[bool]:
    """Say which probes pass while a step that has run `sql` is still in its transaction."""
    with transaction(setup.dsn, HOLD):
        worker = await Follower(setup, "holds", f"{sql};\n{HOLD}", timeout=60.0).running()
        await blocked(setup, worker)
        passed = [passes(setup.dsn, probe) for probe in probes]
    end = await worker.wait_until_ended()
    assert end.error is None, end.error
    return passed


def state(end: WorkerEnd) -> str | None:
    """Return the SQLSTATE of a worker's end, None if it succeeded."""
    assert end.confirmed is (end.error is None)
    return end.error.sqlstate if end.error is not None else None


READ, WRITE = "SELECT * FROM t WHERE id = 1", "UPDATE t SET s = s WHERE id = 1"


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        # JP310, JP311
        *((f"INSERT INTO t VALUES (0, 0); {word}", "0A000") for word in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s")),
        ("INSERT INTO t VALUES (0, 0); PREPARE TRANSACTION 'x'", "0A000"),
        ("LISTEN news", "0A000"),
        ("UNLISTEN news", None),
        ("NOTIFY news", None),
        # JP312
        ("COPY t FROM STDIN", "08003"),
        ("COPY t TO STDOUT", None),
        # JP313
        ("LOCK t", "25P01"),
        ("DECLARE c CURSOR FOR TABLE t", "25P01"),
        ("LOCK t; SELECT 1", None),
        ("DECLARE c CURSOR FOR TABLE t; FETCH 1 FROM c", None),
        # JP314
        ("DELETE FROM t WHERE id = $1", "42P02"),
        ("PREPARE q AS SELECT $1::int; EXECUTE q (1)", None),
        # JP320: also when the statement that returns rows comes first or last
        ("VACUUM t; SELECT 1", "25001"),
        ("SELECT 1; VACUUM t", "25001"),
        ("VACUUM t", None),
        ("CREATE INDEX CONCURRENTLY n ON t (v); VALUES (1)", "25001"),
        ("CREATE INDEX CONCURRENTLY n ON t (v)", None),
        ("REINDEX SCHEMA claims; SHOW work_mem", "25001"),
        ("REINDEX SCHEMA claims", None),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY; TABLE t", "25001"),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", None),
        ("DISCARD ALL; SELECT 1", "25001"),
        ("CLUSTER; SELECT 1", "25001"),
        # JP321
        ("DO $$ BEGIN COMMIT; END $$; SELECT 1", "2D000"),
        ("DO $$ BEGIN COMMIT; END $$", None),
        ("CALL commits(); SELECT 1", "2D000"),
        ("CALL gives(NULL); SELECT 1", None),
    ],
)
async def test_what_a_worker_refuses(setup: RealSetup, sql: str, sqlstate: str | None) -> None:
    assert state(await run_one(setup, sql)) == sqlstate
    assert value(setup.dsn, "SELECT count(*) FROM t WHERE id = 0") == 0


@pytest.mark.parametrize(
    ("sql", "tag", "rows"),
    [
        ("SELECT id FROM t WHERE id < 4", "SELECT", 3),
        ("TABLE p", "SELECT", 0),
        ("VALUES (1), (2)", "SELECT", 2),
        ("SELECT 1 FOR UPDATE -- the last line is a comment", "SELECT", 1),
        ("SELECT 1 AS one;", "SELECT", 1),
        ("SHOW work_mem", "SHOW", None),
        ("EXPLAIN SELECT 1", "EXPLAIN", None),
        ("EXPLAIN (ANALYZE) UPDATE t SET v = 0 WHERE id = 1", "EXPLAIN", None),
        ("PREPARE q AS SELECT id FROM t WHERE id < 4; EXECUTE q", "SELECT", 3),
        ("PREPARE q AS UPDATE t SET v = 0 WHERE id < 4; EXECUTE q", "UPDATE", 3),
        ("DECLARE c CURSOR FOR TABLE t; FETCH 5 FROM c", "FETCH", 5),
        ("INSERT INTO t VALUES (0, 0) RETURNING id", "INSERT", 1),
        ("WITH gone AS (DELETE FROM t WHERE id < 4 RETURNING *) SELECT id FROM gone", "SELECT", 3),
        ("LOCK t; SELECT 1", "SELECT", 1),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1", "SELECT", 1),
        ("CALL gives(NULL)", "CALL", 1),
    ],
)
async def test_statements_that_return_rows_are_not_disturbed_by_what_keeps_the_rows(
    setup: RealSetup, sql: str, tag: str, rows: int | None
) -> None:
    end = await run_one(setup, sql)
    assert state(end) is None
    assert (end.command_tag, end.row_count) == (tag, rows)


async def test_a_lock_alone_protects_nothing(setup: RealSetup) -> None:
    """JP313."""
    assert state(await run_one(setup, "LOCK t; LOCK p")) is None
    assert passes(setup.dsn, "LOCK t")


async def test_a_short_lock_timeout_leaves_an_invalid_index_that_counts_as_existing(setup: RealSetup) -> None:
    """JP330, JP331, JP360."""
    with transaction(setup.dsn, WRITE):
        end = await run_one(setup, "CREATE INDEX CONCURRENTLY n ON t (s)", lock_timeout=0.2)
    assert state(end) == "55P03"
    assert ask(setup.dsn, INVALID) == [("n",)]
    again = await run_one(setup, "CREATE INDEX CONCURRENTLY IF NOT EXISTS n ON t (s)", lock_timeout=60.0)
    assert state(again) is None
    assert [notice.message for notice in again.notices] == ['relation "n" already exists, skipping']
    assert ask(setup.dsn, INVALID) == [("n",)]
    assert state(await run_one(setup, "CREATE INDEX CONCURRENTLY n ON t (s)")) == "42P07"
    assert state(await run_one(setup, "DROP INDEX CONCURRENTLY IF EXISTS n")) is None


async def test_a_cancelled_build_leaves_an_invalid_index(setup: RealSetup) -> None:
    """JP340."""
    with transaction(setup.dsn, WRITE):
        worker = await Follower(setup, "build", "CREATE INDEX CONCURRENTLY n ON t (s)").running()
        await blocked(setup, worker)
        worker.handle.cancel()
        end = await worker.wait_until_ended()
    assert not end.confirmed
    assert ask(setup.dsn, INVALID) == [("n",)]


async def test_each_attempt_to_reindex_leaves_a_copy(setup: RealSetup) -> None:
    """JP340."""
    for _ in range(2):
        with transaction(setup.dsn, WRITE):
            end = await run_one(setup, "REINDEX INDEX CONCURRENTLY t_v", lock_timeout=0.2)
        assert state(end) == "55P03"
    assert ask(setup.dsn, INVALID) == [("t_v_ccnew",), ("t_v_ccnew1",)]


async def test_an_older_snapshot_anywhere_stops_a_build(setup: RealSetup) -> None:
    """JP330: the transaction has never touched the table."""
    with transaction(setup.dsn, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "TABLE p"):
        assert state(await run_one(setup, "CREATE INDEX CONCURRENTLY n ON t (s)", lock_timeout=0.2)) == "55P03"


async def test_a_half_detached_partition_cannot_be_detached_again(setup: RealSetup) -> None:
    """JP330, JP360."""
    detach = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
    with transaction(setup.dsn, "TABLE p"):
        assert state(await run_one(setup, detach, lock_timeout=0.2)) == "55P03"
    assert value(setup.dsn, "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p1'::regclass")
    assert state(await run_one(setup, detach)) == "55000"


async def test_what_waits_concurrently_lets_others_work(setup: RealSetup) -> None:
    """JP330: a long lock_timeout does no harm."""
    with transaction(setup.dsn, WRITE):
        worker = await Follower(setup, "build", "CREATE INDEX CONCURRENTLY n ON t (s)", lock_timeout=60.0).running()
        await blocked(setup, worker)
        assert passes(setup.dsn, READ)
        assert passes(setup.dsn, "UPDATE t SET v = 0 WHERE id = 2")
    assert state(await worker.wait_until_ended()) is None


async def test_a_statement_that_waits_for_a_lock_blocks_every_session_behind_it(setup: RealSetup) -> None:
    """JP333."""
    alter = "ALTER TABLE t ADD COLUMN w int"
    with transaction(setup.dsn, READ):
        worker = await Follower(setup, "alter", alter).running()
        await blocked(setup, worker)
        assert not passes(setup.dsn, READ)
        worker.handle.cancel()
        await worker.wait_until_ended()
        assert state(await run_one(setup, alter, step="bounded", lock_timeout=0.2)) == "55P03"
        assert passes(setup.dsn, READ)


@pytest.mark.parametrize(
    ("sql", "reads", "writes"),
    [
        # JP341, JP342
        ("CREATE INDEX n ON t (s)", True, False),
        ("REINDEX INDEX t_v", False, False),
        ("REINDEX TABLE t", False, False),
        # JP332: the two parts in one step, the second alone
        (
            "ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c",
            False,
            False,
        ),
        ("ALTER TABLE t VALIDATE CONSTRAINT made_before", True, True),
        # JP334
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)", False, False),
        ("ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES t", True, False),
        ("ALTER TABLE t ADD UNIQUE (v)", False, False),
        ("ALTER TABLE t ALTER s SET NOT NULL", False, False),
        # JP350, JP351
        ("ALTER TABLE t ALTER v TYPE bigint", False, False),
        ("CLUSTER t USING t_v", False, False),
        # JP352, JP355: rows are locked until the end of the step
        ("UPDATE t SET v = v", True, False),
        ("DO $$ BEGIN FOR i IN 1..9 LOOP UPDATE t SET v = 1 WHERE id = i; END LOOP; END $$", True, False),
    ],
)
async def test_statements_that_other_sessions_can_run_while_a_step_is_in_its_transaction(
    setup: RealSetup, sql: str, reads: bool, writes: bool
) -> None:
    ask(setup.dsn, "ALTER TABLE t ADD CONSTRAINT made_before CHECK (v > 0) NOT VALID")
    assert await while_held(setup, sql, READ, WRITE) == [reads, writes]


async def test_a_view_cannot_be_read_while_it_is_refreshed_unless_concurrently(setup: RealSetup) -> None:
    """JP343."""
    assert await while_held(setup, "REFRESH MATERIALIZED VIEW m", "TABLE m") == [False]
    assert await while_held(setup, "REFRESH MATERIALIZED VIEW CONCURRENTLY m", "TABLE m") == [True]


@pytest.mark.parametrize(
    ("sql", "again"),
    [
        ("ALTER TABLE t ALTER v TYPE bigint", True),
        ("ALTER TABLE t ALTER s TYPE text", False),
        ("ALTER TABLE t ALTER s TYPE varchar(20)", False),
        ("ALTER TABLE t ALTER s TYPE varchar(5)", True),
        ("ALTER TABLE t ADD COLUMN w timestamptz DEFAULT now()", False),
        ("ALTER TABLE t ADD COLUMN w uuid DEFAULT gen_random_uuid()", True),
        ("ALTER TABLE t ADD COLUMN w int GENERATED ALWAYS AS (v + 1) STORED", True),
        ("ALTER TABLE t SET UNLOGGED", True),
        ("VACUUM FULL t", True),
        ("VACUUM t", False),
        ("CLUSTER t USING t_v", True),
    ],
)
async def test_which_statements_write_a_table_again(setup: RealSetup, sql: str, again: bool) -> None:
    """JP350, JP351."""
    before = value(setup.dsn, "SELECT pg_relation_filenode('t')")
    assert state(await run_one(setup, sql)) is None
    assert (value(setup.dsn, "SELECT pg_relation_filenode('t')") != before) is again


async def test_a_validated_check_spares_set_not_null_its_reading(setup: RealSetup) -> None:
    """JP334: how often the transaction has read the whole table."""
    scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 't'::regclass"
    sql = f"ALTER TABLE t ALTER s SET NOT NULL; DO $$ BEGIN RAISE NOTICE '%', ({scans}); END $$"
    reads = await run_one(setup, sql)
    assert [notice.message for notice in reads.notices] == ["1"]
    ask(setup.dsn, "ALTER TABLE t ALTER s DROP NOT NULL, ADD CONSTRAINT filled CHECK (s IS NOT NULL)")
    spared = await run_one(setup, sql, step="spared")
    assert [notice.message for notice in spared.notices] == ["0"]


async def test_an_error_in_the_last_turn_of_a_loop_undoes_them_all_unless_it_commits(setup: RealSetup) -> None:
    """JP355."""
    loop = "DO $$ BEGIN FOR i IN 1..3 LOOP DELETE FROM t WHERE id = i; PERFORM 1 / (3 - i); {} END LOOP; END $$"
    left = "SELECT count(*) FROM t WHERE id <= 3"
    assert state(await run_one(setup, loop.format(""))) == "22012"
    assert value(setup.dsn, left) == 3
    assert state(await run_one(setup, loop.format("COMMIT;"), step="commits")) == "22012"
    assert value(setup.dsn, left) == 1


async def test_what_a_procedure_has_committed_stays_when_it_fails(setup: RealSetup) -> None:
    """JP360."""
    assert state(await run_one(setup, "CALL commits()")) == "22012"
    assert value(setup.dsn, "SELECT count(*) FROM t WHERE id = 1") == 0


async def test_what_fails_is_rolled_back_and_may_be_tried_again(setup: RealSetup) -> None:
    """JP360: why INSERT is not meant."""
    assert state(await run_one(setup, "INSERT INTO t VALUES (0, 0); SELECT 1 / 0")) == "22012"
    assert value(setup.dsn, "SELECT count(*) FROM t WHERE id = 0") == 0


@pytest.mark.parametrize(
    ("sql", "readable", "counted"),
    [
        ("DELETE FROM t WHERE id = 1 RETURNING id", True, True),
        ("EXPLAIN SELECT 1", True, False),
        ("CALL gives(NULL)", True, True),
        ("DELETE FROM t WHERE id = 1", False, True),
        ("SELECT id INTO u FROM t WHERE id = 1", False, True),
        ("VACUUM t", False, False),
        ("DO $$ BEGIN DELETE FROM t WHERE id = 1; END $$", False, False),
        ("CREATE TABLE u (id int)", False, False),
        ("PREPARE q AS SELECT 1; EXECUTE q", False, True),
        ("DECLARE c CURSOR FOR TABLE t; FETCH c", False, True),
    ],
)
async def test_which_results_can_be_read_or_counted(setup: RealSetup, sql: str, readable: bool, counted: bool) -> None:
    """JP361."""
    end = await run_one(setup, sql)
    assert state(end) is None
    assert bool(end.row_count) is counted
    ask(setup.dsn, "DROP TABLE IF EXISTS u; TRUNCATE t; INSERT INTO t VALUES (1, 1)")
    seen = await run_one(setup, sql, step="read", rows=1)
    assert seen.result is not None
    assert (len(seen.result.rows) == 1) is readable


async def test_statement_timeout_in_sql_does_nothing(setup: RealSetup) -> None:
    """JP371: the advisory lock is free, so the sleep is all that takes time."""
    assert state(await run_one(setup, "SET statement_timeout = '1ms'; SELECT pg_sleep(0.1)")) is None
    assert state(await run_one(setup, "SELECT pg_sleep(60)", step="limited", timeout=0.1)) == "57014"


async def test_a_setting_ends_with_its_step(setup: RealSetup) -> None:
    """JP373."""
    before = value(setup.dsn, "SHOW work_mem")
    assert state(await run_one(setup, "SET work_mem = '7MB'")) is None
    end = await run_one(setup, "SHOW work_mem", step="after", rows=1)
    assert end.result is not None
    assert end.result.rows == ((before,),)


async def test_until_no_rows_is_over_at_once_where_none_are_counted(small_things: str, tmp_path: Path) -> None:
    """JP362, and the rule that keeps such a plan from running."""
    file = tmp_path / "plan.yaml"
    file.write_text(
        """
version: 1
name: purge
budget: {slots: 1}
defaults: {timeout: 1m, on_finish: wait}
steps:
  - id: purge
    sql: DO $$ BEGIN DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT 10); END $$
    repeat: {until: no_rows, max_iterations: 100}
""",
        encoding="utf-8",
    )
    plan = load_plan(file).plan
    assert plan is not None
    assert [problem.code for problem in lint(plan)] == ["JP362"]
    result, _ = await run_plan(small_things, plan)
    assert result.exit_code == 0
    assert value(small_things, "SELECT count(*) FROM t") == 90
