"""A backfill in batches by `carry` and `adapt`, as users run it: killed, resumed, stopped; every row exactly once."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.acceptance.console import Database, Jobplan, Started, until
from tests.acceptance.test_json_output import checked

ROWS = 4_000
TABLE = (
    "CREATE TABLE item (id int PRIMARY KEY, filled int NOT NULL DEFAULT 0); "
    f"INSERT INTO item SELECT generate_series(1, {ROWS}); "
    "CREATE TABLE batch_log (first int, last int, batch int); "
    "CREATE TABLE hold AS SELECT 1 AS held; "
    "CREATE FUNCTION wait_while_held(from_id int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
    "WHILE from_id = 20 AND EXISTS (SELECT FROM hold) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$"
)
FILL = """
    - id: fill
      sql: |
        WITH batch AS (
          UPDATE item SET filled = filled + 1
          WHERE id IN (SELECT id FROM item WHERE id > :last_id ORDER BY id LIMIT :batch)
          RETURNING id
        ), noted AS (
          INSERT INTO batch_log SELECT min(id), max(id), :batch FROM batch HAVING count(*) > 0)
        SELECT max(id) AS last_id FROM batch
      repeat:
        carry: {last_id: {type: integer, start: 0}}
        until: no_rows
        adapt: {param: batch, target: 10s, min: 10, max: 40}
"""
#: As FILL, but the second batch waits as long as the table `hold` has a row.
SLOW = """
    - id: fill
      timeout: 5m
      sql: |
        SELECT wait_while_held(:last_id);
        WITH batch AS (
          UPDATE item SET filled = filled + 1
          WHERE id IN (SELECT id FROM item WHERE id > :last_id ORDER BY id LIMIT :batch)
          RETURNING id)
        SELECT max(id) AS last_id FROM batch
      repeat:
        carry: {last_id: {type: integer, start: 0}}
        until: no_rows
"""
TYPES = r"""
    - id: types
      sql: |
        SELECT :'text' || '''\é' AS text, upper(:'name')::name AS name, :number * 2 AS number, NOT :flag AS flag,
               :'age'::interval * 2 AS age, :'at'::timestamptz + interval '1 microsecond' AS at,
               to_regclass('"odd Name"') AS tab, (SELECT count(*) FROM :"tab") + :n AS n
      settings: {DateStyle: "German, DMY", TimeZone: Asia/Kolkata, IntervalStyle: sql_standard}
      repeat:
        until: SELECT :n >= 1 AND :'tab' = '"odd Name"' AND NOT :flag AND :number = 2
        max_iterations: 9
        carry:
          text: {type: string, start: 'O''Brien \'}
          name: {type: identifier, start: id}
          number: {type: number, start: 0.25}
          flag: {type: boolean, start: true}
          age: {type: duration, start: 1h30m}
          at: {type: timestamp, start: 2020-01-01T00:00:00Z}
          tab: {type: relation, start: one}
          n: {type: integer, start: -100}
"""
PARAMS = "{batch: {type: integer, default: 20}}"
ONCE = "SELECT count(*) FILTER (WHERE filled = 1) FROM item"
WRONG = "SELECT count(*) FROM item WHERE filled <> 1"


def journal(jobplan: Jobplan) -> list[dict[str, Any]]:
    """Read the journal of the only run, as far as it was written; empty before it begins."""
    found = list((jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl"))
    text = found[0].read_text(encoding="utf-8") if found else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def of(jobplan: Jobplan, name: str) -> list[dict[str, Any]]:
    """Return the events of this name in the journal."""
    return [one for one in journal(jobplan) if one["event"] == name]


@pytest.fixture
def item(db: Database) -> Database:
    """A database with a table to fill, with a column that counts how often each row was changed."""
    db.run(TABLE)
    return db


def kill_after(started: Started, db: Database, rows: int) -> None:
    """Kill the runner when so many rows are filled."""
    until(lambda: db.value(ONCE) >= rows or not started.alive, 60)
    started.send(signal.SIGKILL)
    started.ended()


def test_a_backfill_that_is_killed_again_and_again_changes_every_row_once(jobplan: Jobplan, item: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", item.dsn).code == 0
    started = jobplan.start("run", jobplan.plan(FILL, params=PARAMS), "--dsn", item.dsn)
    for _ in range(3):
        kill_after(started, item, item.value(ONCE) + 300)
        assert item.value("SELECT max(filled) FROM item") == 1
        started = jobplan.start("resume", "last")
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    (end,) = of(jobplan, "step_finished")
    assert end["rows"] == ROWS
    # the batches follow each other without a gap, and none overlaps another
    edges = sorted(tuple(map(int, one.split())) for one in item.column("SELECT first || ' ' || last FROM batch_log"))
    assert [first for first, _ in edges[1:]] == [last + 1 for _, last in edges[:-1]]
    assert (edges[0][0], edges[-1][1]) == (1, ROWS)
    # each resume keeps the size of the batches: after the second one all are as large as they may be
    assert {one["values"].get("batch") for one in of(jobplan, "attempt_launching")[2:]} == {40}


def test_without_a_ledger_an_unseen_batch_is_a_question_with_the_values_that_it_began_with(
    jobplan: Jobplan, item: Database
) -> None:
    started = jobplan.start("run", jobplan.plan(SLOW, params=PARAMS), "--dsn", item.dsn)
    until(lambda: item.value(ONCE) == 20 and item.workers() == ["fill"])
    started.send(signal.SIGKILL)
    started.ended()
    item.terminate("fill")
    item.until_workers()
    item.run("DELETE FROM hold")
    asked = jobplan("resume", "last")
    assert asked.code == 4
    assert "It was iteration 2, which began with last_id = 20." in asked.err
    ran = jobplan("resume", "last", "--mark", "fill=failed")
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0


def test_a_batch_that_runs_on_after_its_runner_was_killed_is_followed_and_counted(
    jobplan: Jobplan, item: Database
) -> None:
    assert jobplan("ledger", "install", "--dsn", item.dsn).code == 0
    started = jobplan.start("run", jobplan.plan(SLOW, params=PARAMS), "--dsn", item.dsn)
    until(lambda: item.value(ONCE) == 20 and item.workers() == ["fill"])
    started.send(signal.SIGKILL)
    started.ended()
    resumed = jobplan.start("resume", "last")
    until(lambda: len(of(jobplan, "run_resumed")) == 1)
    item.run("DELETE FROM hold")
    ran = resumed.ended()
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    (end,) = of(jobplan, "step_finished")
    assert end["rows"] == ROWS
    second = next(one for one in of(jobplan, "attempt_finished") if one["attempt"] == 2)
    assert (second["row_count"], second["carried"]) == (20, {"last_id": 40})


def test_a_backfill_that_failed_continues_where_it_failed(jobplan: Jobplan, item: Database) -> None:
    item.run("UPDATE item SET filled = 100 WHERE id = 1000; ALTER TABLE item ADD CHECK (filled < 101)")
    failed = jobplan("run", jobplan.plan(FILL, params=PARAMS), "--dsn", item.dsn)
    assert failed.code == 1
    assert 900 < item.value("SELECT max(last) FROM batch_log") < 1000
    item.run("UPDATE item SET filled = 0 WHERE id = 1000")
    ran = jobplan("resume", "last")
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    shown = json.loads(jobplan("show", "last", "--format", "json").out)
    (fill,) = shown["steps"]
    assert fill["rows_in_all"] == ROWS


def test_a_signal_stops_a_backfill_and_a_resume_continues_it(jobplan: Jobplan, item: Database) -> None:
    started = jobplan.start("run", jobplan.plan(FILL, params=PARAMS), "--dsn", item.dsn)
    until(lambda: item.value(ONCE) > 400)
    started.send(signal.SIGINT)
    stopped = started.ended()
    assert stopped.code == 130, stopped.err
    assert 400 < item.value(ONCE) < ROWS
    ran = jobplan("resume", "last")
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0


def test_a_condition_that_becomes_false_stops_a_backfill_and_its_step_has_succeeded(
    jobplan: Jobplan, item: Database
) -> None:
    step = FILL + "      if: SELECT :last_id < 500\n"
    plan = jobplan.plan(step + "    - {id: after, needs: [fill], sql: SELECT 1}\n", params=PARAMS)
    ran = jobplan("run", plan, "--dsn", item.dsn)
    assert ran.code == 0, ran.err
    assert "if is false: stopped after" in ran.err
    assert 500 <= item.value(ONCE) < 600
    assert journal(jobplan)[-1]["steps"] == {"fill": "succeeded", "after": "succeeded"}


def test_a_batch_is_halved_after_a_lock_timeout_and_the_change_is_recorded(jobplan: Jobplan, item: Database) -> None:
    keys = "      lock_timeout: 100ms\n      retry: {max_attempts: 500, delay: 50ms, on: [lock_not_available]}\n"
    plan = jobplan.plan(FILL + keys, params=PARAMS)
    with item.elsewhere("locker") as locker:
        locker.execute("SELECT * FROM item WHERE id = 65 FOR UPDATE")
        started = jobplan.start("run", plan, "--dsn", item.dsn)
        until(lambda: any(one["because"] == "lock_timeout" for one in of(jobplan, "step_adapted")))
        locker.rollback()
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    smaller = [one for one in of(jobplan, "step_adapted") if one["because"] == "lock_timeout"]
    assert all(one["value"] == max(10, -(-one["before"] // 2)) for one in smaller)


def test_carried_values_of_every_type_come_back_as_they_were(jobplan: Jobplan, db: Database) -> None:
    db.run('CREATE TABLE "odd Name" (i int); CREATE TABLE one AS SELECT 1 AS i')
    db.run('INSERT INTO "odd Name" SELECT 1 FROM generate_series(1, 50)')
    ran = jobplan("run", jobplan.plan(TYPES), "--dsn", db.dsn)
    assert ran.code == 0, ran.err
    last = of(jobplan, "attempt_finished")[-1]["carried"]
    assert last["text"] == "O'Brien \\" + "'\\é" * 3
    assert (last["name"], last["number"], last["flag"], last["n"]) == ("ID", "2.00", False, 1)
    assert (last["age"], last["at"]) == ("12:00:00", "01.01.2020 05:30:00.000003 IST")


def test_a_value_that_is_not_of_its_type_fails_the_step_and_names_it(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        """
        - id: wrong
          sql: SELECT 'x' || :n AS n
          repeat: {until: no_rows, carry: {n: {type: integer, start: 0}}}
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 1
    assert "its carried value n is 'x0', which is not of type integer" in ran.err


def test_a_procedure_carries_its_out_parameters(jobplan: Jobplan, item: Database) -> None:
    item.run(
        "CREATE PROCEDURE fill(INOUT last_id int) LANGUAGE plpgsql AS $$ DECLARE first int := last_id; BEGIN "
        "UPDATE item SET filled = filled + 1 WHERE id > first AND id <= first + 1500; "
        "last_id := nullif(least(first + 1500, 4000), first); COMMIT; END $$"
    )
    plan = jobplan.plan(
        """
        - id: fill
          idempotent: true
          sql: CALL fill(:last_id)
          repeat: {until: no_rows, carry: {last_id: {type: integer, start: 0}}}
        """
    )
    ran = jobplan("run", plan, "--dsn", item.dsn)
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    carried = [one["carried"]["last_id"] for one in of(jobplan, "attempt_finished") if "carried" in one]
    assert carried == [1500, 3000, 4000]


def test_each_instance_carries_values_of_its_own(jobplan: Jobplan, item: Database) -> None:
    plan = jobplan.plan(
        """
        - id: fill
          for_each: {items: [0, 1], as: part}
          sql: |
            WITH batch AS (
              UPDATE item SET filled = filled + 1
              WHERE id IN (SELECT id FROM item WHERE id > :last_id AND id % 2 = :part ORDER BY id LIMIT 300)
              RETURNING id)
            SELECT max(id) AS last_id FROM batch
          repeat: {until: no_rows, carry: {last_id: {type: integer, start: 0}}}
        """
    )
    ran = jobplan("run", plan, "--dsn", item.dsn)
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    ends = {one["step"]: one["rows"] for one in of(jobplan, "step_finished") if "[" in one["step"]}
    assert ends == {"fill[0]": 2000, "fill[1]": 2000}


def test_a_dry_run_checks_the_first_batch_and_says_what_is_unknown(jobplan: Jobplan, item: Database) -> None:
    found = jobplan("dry-run", jobplan.plan(FILL, params=PARAMS), "--dsn", item.dsn)
    assert found.code == 0, found.out
    words = " ".join(found.out.split())
    assert "fill: begins with last_id = 0; the number of iterations is unknown; batch is 20 at first" in words
    wrong = jobplan(
        "dry-run", jobplan.plan(FILL.replace("WHERE id > ", "WHERE nope > "), params=PARAMS), "--dsn", item.dsn
    )
    assert wrong.code == 3
    assert "nope" in wrong.out


def test_a_hold_halves_the_next_batch_once(jobplan: Jobplan, item: Database) -> None:
    item.run("CREATE TABLE switch AS SELECT false AS on")
    slow = FILL.replace("SELECT max(id) AS", "SELECT (SELECT 1 FROM pg_sleep(0.02)), max(id) AS")
    plan = jobplan.plan(
        slow,
        params=PARAMS,
        holds='[{name: switch, while: SELECT "on" FROM switch, every: 100ms, release_after: 100ms}]',
    )
    started = jobplan.start("run", plan, "--dsn", item.dsn)
    until(lambda: item.value(ONCE) > 100)
    item.run('UPDATE switch SET "on" = true')
    until(lambda: bool(of(jobplan, "hold_began")) and item.workers() == [])
    item.run('UPDATE switch SET "on" = false')
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert item.value(WRONG) == 0
    (halved,) = [one for one in of(jobplan, "step_adapted") if one["because"] == "hold"]
    assert (halved["before"], halved["value"]) == (40, 20)


def test_status_says_how_much_is_left_at_most(jobplan: Jobplan, item: Database) -> None:
    item.run("VACUUM (ANALYZE) item")
    slow = SLOW.replace("SELECT max(id) AS", "SELECT (SELECT 1 FROM pg_sleep(1.2)), max(id) AS")
    started = jobplan.start("run", jobplan.plan(slow, params=PARAMS), "--dsn", item.dsn)
    until(lambda: item.value(ONCE) == 20 and item.workers() == ["fill"])
    (estimated,) = of(jobplan, "step_rows_estimated")
    assert (estimated["table"], estimated["rows"]) == ("item", ROWS)
    shown = " ".join(jobplan("status", "--dsn", item.dsn).out.split())
    assert "fill: iteration 2, at most " in shown
    assert " left, UPDATE 20 of about 4,000" in shown
    as_json = jobplan("status", estimated["run"], "--dsn", item.dsn, "--format", "json")
    (run,) = checked("status", as_json)["runs"]
    assert len(run["record"]["loops"]) == 1
    started.send(signal.SIGINT)
    assert started.ended().code == 130
    (fill,) = checked("show", jobplan("show", "last", "--format", "json"))["steps"]
    assert (fill["table"], fill["table_rows"]) == ("item", ROWS)
