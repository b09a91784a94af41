"""SQL that catches every cancel: the run names its worker, exits with 7, and the record still knows it."""

from __future__ import annotations

import pytest

from tests.acceptance.console import Database, Jobplan, until

CATCHES = """
    - id: stubborn
      sql: |
        DO $$ BEGIN
          WHILE NOT EXISTS (SELECT FROM switch) LOOP
            BEGIN
              PERFORM pg_sleep(0.2);
            EXCEPTION WHEN query_canceled THEN NULL;
            END;
          END LOOP;
        END $$
      timeout: 2s
    - {id: later, needs: [stubborn], sql: CREATE TABLE later ()}
    """


@pytest.mark.slow
def test_sql_that_catches_query_canceled_ends_the_run_with_7_and_the_pid(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE switch (off int)")
    plan = jobplan.plan(CATCHES)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("stubborn")
    pid = db.pid("stubborn")
    try:
        ran = started.ended()
        assert ran.code == 7, ran.err
        assert f"stubborn: cannot be stopped: its worker (pid {pid}) still runs" in ran.err
        assert jobplan.happened("attempt_unstoppable")
        assert db.workers() == ["stubborn"]
    finally:
        db.run("INSERT INTO switch VALUES (1)")
    until(lambda: db.workers() == [])
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 'later'") == 0
