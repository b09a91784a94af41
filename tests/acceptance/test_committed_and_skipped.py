"""What a step has committed, skipped or left behind is reported as that, and nothing that committed is repeated."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, until

WORDS = "committed, but its check failed"
REPORTS = ("markdown=run.md", "junit=run.xml", "html=run.html", "jsonl=events.jsonl")


def _run(jobplan: Jobplan, db: Database, steps: str, *more: str) -> Any:
    reports = [word for report in REPORTS for word in ("--report", report)]
    return jobplan("run", jobplan.plan(steps), "--dsn", db.dsn, "--journal", "runs", *reports, *more)


def _shown(jobplan: Jobplan) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(jobplan("show", "last", "--journal", "runs", "--format", "json").out)
    return shown


#: Texts that commit ten rows into a table of their own, and checks of them that are not met.
COMMITTED = {
    "returned": ("{insert} RETURNING 41", "expect: {value: 42}"),
    "then_select": ("{insert}; SELECT 41", "expect: {value: 42}"),
    "verified": ("{insert}; SELECT 41", "verify: SELECT false"),
    "no_rows": ("{insert}; SELECT 1 WHERE false", "expect: {rows: 1}"),
    "cte": ("WITH w AS ({insert} RETURNING 1) SELECT count(*) FROM w", "expect: {value: 11}"),
    "set_config": ("{insert}; SELECT set_config('x.y', '1', true)", "expect: {value: 2}"),
    "do_block": ("DO $$ BEGIN {insert}; END $$", "expect: {sql: SELECT false}"),
    "volatile": ("SELECT pay()", "expect: {value: 42}"),
    "warned": ("{insert}; SELECT 1", "expect: {warnings: 1}"),
    "iterated": ("{insert}", "{expect: {rows: 9}, repeat: {until: no_rows, max_iterations: 3}}"),
    "unreadable": (
        "{insert}; DO $$ BEGIN CREATE TEMP TABLE made AS SELECT 1 AS one; END $$; SELECT * FROM made",
        "expect: {value: 1}",
    ),
}


_PAYS = "INSERT INTO volatile SELECT generate_series(1, 10); SELECT 1"


def _committing(key: str, sql: str, check: str) -> str:
    text = sql.format(insert=f"INSERT INTO {key} SELECT i FROM generate_series(1, 10) AS i")
    checks = check.removeprefix("{").removesuffix("}") if check.startswith("{") else check
    keys = checks.replace(", repeat:", "\n  repeat:")
    return f"- id: {key}\n  sql: |\n    {text}\n  {keys}\n  retry: {{max_attempts: 3, delay: 10ms}}\n"


@pytest.mark.parametrize("ledger", [False, True])
def test_a_step_that_committed_is_not_repeated_for_its_check(jobplan: Jobplan, db: Database, *, ledger: bool) -> None:
    for key in COMMITTED:
        db.run(f"CREATE TABLE {key} (id int)")
    db.run(f"CREATE FUNCTION pay() RETURNS int LANGUAGE sql AS $$ {_PAYS} $$")
    if ledger:
        assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    ran = _run(jobplan, db, "".join(_committing(key, *texts) for key, texts in COMMITTED.items()))
    assert ran.code == 1, ran.err
    finished = {event["step"]: event for event in jobplan.events() if event["event"] == "step_finished"}
    shown = {step["step"]: step for step in _shown(jobplan)["steps"]}
    for key in COMMITTED:
        assert db.value(f"SELECT count(*) FROM {key}") == 10
        assert re.search(rf"{key}: failed in [^:]+: {WORDS}: ", ran.err)
        assert (finished[key]["state"], finished[key]["committed"]) == ("failed", True)
        assert (shown[key]["state"], shown[key]["committed"]) == ("failed", True)
    # once in the table, and once more for the first ten under what went wrong
    assert jobplan("show", "last", "--journal", "runs").out.count(WORDS) == len(COMMITTED) + min(len(COMMITTED), 10)
    for report in ("run.md", "run.xml", "run.html"):
        assert (jobplan.folder / report).read_text(encoding="utf-8").count(WORDS) >= len(COMMITTED)
    again = jobplan("resume", "last", "--dsn", db.dsn, "--journal", "runs")
    assert again.code == 4
    assert again.err.count(WORDS) == len(COMMITTED)
    for key in COMMITTED:
        assert db.value(f"SELECT count(*) FROM {key}") == 10


def test_a_person_or_idempotent_lets_a_committed_step_run_again(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE bonus (id int)")
    sql = "- {id: pay, sql: INSERT INTO bonus VALUES (1) RETURNING 41, expect: {value: 42}}"
    assert _run(jobplan, db, sql).code == 1
    assert jobplan("resume", "last", "--dsn", db.dsn, "--journal", "runs", "--mark", "pay=failed").code == 1
    assert db.value("SELECT count(*) FROM bonus") == 2
    assert jobplan("resume", "last", "--dsn", db.dsn, "--journal", "runs", "--mark", "pay=succeeded").code == 0
    assert _run(jobplan, db, sql.replace("expect:", "idempotent: true, expect:")).code == 1
    assert jobplan("resume", "last", "--dsn", db.dsn, "--journal", "runs").code == 1
    assert db.value("SELECT count(*) FROM bonus") == 4


def test_a_check_that_only_reads_is_made_again(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE bonus (id int)")
    ran = _run(jobplan, db, "- {id: look, sql: SELECT count(*) FROM bonus, expect: {value: 1}}")
    assert ran.code == 1
    assert re.search(r"look: failed in \S+: expected 1, got 0", ran.err)
    assert not any("committed" in event for event in jobplan.events())
    assert _shown(jobplan)["steps"][0]["committed"] is False
    db.run("INSERT INTO bonus VALUES (1)")
    assert jobplan("resume", "last", "--dsn", db.dsn, "--journal", "runs").code == 0


def test_warnings_are_shown_and_counted(jobplan: Jobplan, db: Database) -> None:
    ran = _run(
        jobplan,
        db,
        """
        - id: warn
          sql: "DO $$ BEGIN RAISE NOTICE 'quiet'; RAISE WARNING 'mind the gap' USING HINT = 'jump'; END $$"
        """,
    )
    assert ran.code == 0
    assert "warn: WARNING: mind the gap jump" in ran.lines
    assert "quiet" not in ran.err
    assert "1 warning from the server" in ran.last_line
    assert _shown(jobplan)["warnings"] == 1
    assert _shown(jobplan)["steps"][0]["warning_texts"] == ["mind the gap jump"]
    assert "WARNING: mind the gap jump" in jobplan("show", "last", "--journal", "runs").out
    for report in ("run.md", "run.xml", "run.html"):
        assert "mind the gap" in (jobplan.folder / report).read_text(encoding="utf-8")
    logged = _run(jobplan, db, "- {id: w, sql: \"DO $$ BEGIN RAISE WARNING 'x'; END $$\"}", "--log-format", "json")
    lines = [json.loads(line) for line in logged.err.splitlines()]
    assert [line["level"] for line in lines if line["event"] == "attempt_notice"] == ["warning"]


def test_a_flood_of_warnings_is_cut_short_and_counted(jobplan: Jobplan, db: Database) -> None:
    loop = "FOR i IN 1..5000 LOOP RAISE INFO 'filler %', repeat('x', 100); RAISE WARNING 'w%', i; END LOOP"
    ran = _run(jobplan, db, f'- {{id: many, sql: "DO $$ BEGIN {loop}; END $$"}}')
    assert ran.code == 0
    assert ran.err.count("many: WARNING: ") == 11
    assert "5,000 warnings from the server" in ran.last_line


def test_expect_warnings_judges_the_number(jobplan: Jobplan, db: Database) -> None:
    ran = _run(
        jobplan,
        db,
        """
        - {id: none, sql: "DO $$ BEGIN RAISE WARNING 'x'; END $$", expect: {warnings: 0}}
        - {id: some, sql: "DO $$ BEGIN RAISE WARNING 'x'; END $$", expect: {warnings: {max: 2}}}
        - {id: exact, sql: "DO $$ BEGIN RAISE WARNING 'x'; END $$", expect: {warnings: 1}}
        """,
    )
    assert f"{WORDS}: expected 0 warnings, got 1" in ran.err
    assert jobplan.events()[-1]["steps"] == {"none": "failed", "some": "succeeded", "exact": "succeeded"}


@pytest.mark.pg(">= 17", reason="the wording of permission denied to vacuum")
def test_a_maintenance_command_that_skipped_its_object_failed(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE audit (id int PRIMARY KEY)")
    db.run("DROP ROLE IF EXISTS jobplan_maint")
    db.run("CREATE ROLE jobplan_maint LOGIN")
    db.run("GRANT pgbackground_role TO jobplan_maint")
    db.run("CREATE TABLE mine (id int)")
    db.run("ALTER TABLE mine OWNER TO jobplan_maint")
    plan = jobplan.plan(
        """
        - {id: vacuum, sql: VACUUM audit}
        - {id: both, sql: "VACUUM (ANALYZE) mine, audit", needs: [{step: vacuum, on: done}]}
        - {id: analyze, sql: ANALYZE audit}
        - {id: mixed, sql: "INSERT INTO mine VALUES (1); ANALYZE audit", retry: {max_attempts: 3, delay: 10ms}}
        - {id: allowed, sql: ANALYZE audit, allow_failure: true, needs: [{step: analyze, on: done}]}
        - {id: counted, sql: ANALYZE audit, expect: {warnings: {max: 1}}, needs: [allowed]}
        """
    )
    dsn = make_conninfo(db.dsn, user="jobplan_maint")
    ran = jobplan("run", plan, "--dsn", dsn, "--journal", "runs", "--report", "jsonl=events.jsonl")
    assert jobplan.events()[-1]["steps"] == {
        "vacuum": "failed",
        "both": "failed",
        "analyze": "failed",
        "mixed": "failed",
        "allowed": "failed_allowed",
        "counted": "succeeded",
    }
    assert re.search(r'vacuum: failed in \S+: permission denied to vacuum "audit", skipping it', ran.err)
    assert re.search(rf"mixed: failed in \S+: {WORDS}: permission denied to analyze", ran.err)
    committed = {
        event["step"]: event.get("committed") for event in jobplan.events() if event["event"] == "step_finished"
    }
    assert [key for key, value in committed.items() if value] == ["mixed"]
    resumed = jobplan("resume", "last", "--dsn", dsn, "--journal", "runs")
    assert resumed.code == 4
    assert db.value("SELECT count(*) FROM mine") == 1
    db.run("DROP OWNED BY jobplan_maint CASCADE")
    db.run("DROP ROLE jobplan_maint")


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM (SKIP_LOCKED) audit",
        "ANALYZE (SKIP_LOCKED) audit",
        "VACUUM (FULL, SKIP_LOCKED) audit",
        "VACUUM pg_locks",
        "ANALYZE pg_locks",
        "REINDEX SCHEMA CONCURRENTLY pg_catalog",
        "REINDEX TABLE CONCURRENTLY broken",
        "DO $$ BEGIN ANALYZE pg_locks; END $$",
    ],
)
def test_whatever_skips_its_object_failed(jobplan: Jobplan, db: Database, sql: str) -> None:
    db.run("CREATE TABLE audit (id int)")
    db.run("CREATE TABLE broken (id int)")
    db.run("INSERT INTO broken VALUES (1), (1)")
    with pytest.raises(Exception, match="duplicated"):
        db.run("CREATE UNIQUE INDEX CONCURRENTLY broken_id ON broken (id)")
    with db.elsewhere("holder") as holder:
        holder.execute("LOCK TABLE audit")
        ran = _run(jobplan, db, f'- {{id: skips, sql: "{sql}"}}')
    assert ran.code == 1
    assert "skipping" in ran.err
    (finished,) = [event for event in jobplan.events() if event["event"] == "step_finished"]
    assert finished["state"] == "failed"


def test_what_may_skip_says_so_and_is_tried_again(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE audit (id int)")
    with db.elsewhere("holder") as holder:
        holder.execute("LOCK TABLE audit")
        ran = _run(
            jobplan,
            db,
            """
            - {id: may, sql: VACUUM (SKIP_LOCKED) audit, allow_failure: [lock_not_available]}
            - {id: any, sql: VACUUM (SKIP_LOCKED) audit, expect: {warnings: {min: 0}}}
            - {id: again, sql: VACUUM (SKIP_LOCKED) audit, retry: {max_attempts: 2, delay: 10ms}}
            """,
        )
    steps = jobplan.events()[-1]["steps"]
    assert steps == {"may": "failed_allowed", "any": "succeeded", "again": "failed"}
    assert ran.err.count("again: started") == 2


def test_a_failed_build_lists_what_it_leaves_and_how_to_repair_it(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    db.run("INSERT INTO t VALUES (1), (1)")
    db.run("CREATE TABLE other (id int)")
    db.run("INSERT INTO other VALUES (1), (1)")
    with pytest.raises(Exception, match="duplicated"):
        db.run("CREATE UNIQUE INDEX CONCURRENTLY before_the_run ON t (id)")
    ran = _run(
        jobplan,
        db,
        """
        - id: build
          sql: CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)
          verify: SELECT true
        - id: fine
          sql: CREATE INDEX CONCURRENTLY other_id ON other (id)
          verify: SELECT true
        """,
    )
    assert "build: left behind: index public.t_id of public.t is INVALID" in ran.err
    assert "build:   REINDEX INDEX CONCURRENTLY public.t_id;" in ran.err
    assert "before_the_run" not in ran.err
    assert "fine: left" not in ran.err
    shown = jobplan("show", "last", "--journal", "runs").out
    assert "left behind: index public.t_id of public.t is INVALID" in shown
    assert "DROP INDEX CONCURRENTLY public.t_id;" in shown
    build, fine = _shown(jobplan)["steps"]
    assert build["leftovers"] == [
        {
            "what": "index public.t_id of public.t is INVALID",
            "repair": ["REINDEX INDEX CONCURRENTLY public.t_id;", "DROP INDEX CONCURRENTLY public.t_id;"],
        }
    ]
    assert fine["leftovers"] == []
    for report in ("run.md", "run.xml", "run.html"):
        assert "index public.t_id of public.t is INVALID" in (jobplan.folder / report).read_text(encoding="utf-8")


def test_a_retry_says_what_is_there_also_after_it_succeeded(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE orders (id int, at int)")
    db.run("CREATE INDEX orders_at ON orders (at)")
    steps = """
        - id: re
          sql: REINDEX INDEX CONCURRENTLY orders_at
          lock_timeout: 300ms # jobplan: ignore=JP330 short on purpose
          retry: {max_attempts: 20, delay: 300ms}
        """
    with db.elsewhere("reader") as reader:
        reader.execute("SELECT * FROM orders")
        started = jobplan.start(
            "run", jobplan.plan(steps), "--dsn", db.dsn, "--journal", "runs", "--report", "jsonl=events.jsonl"
        )
        until(lambda: jobplan.happened("step_retrying"))
    ran = started.ended()
    assert ran.code == 0, ran.err
    assert re.search(r"re: next attempt in \S+ after: .*; left behind so far: index public.orders_at_cc", ran.err)
    assert re.search(r"re: left behind: index public.orders_at_cc(new|old) of public.orders is ", ran.err)
    assert re.search(r"re:   DROP INDEX CONCURRENTLY public.orders_at_cc(new|old);", ran.err)


def test_a_half_detached_partition_is_left_behind(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE p (at int) PARTITION BY RANGE (at)")
    db.run("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)")
    with db.elsewhere("reader") as reader:
        reader.execute("SELECT * FROM p")
        ran = _run(
            jobplan,
            db,
            "- {id: detach, sql: ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY, timeout: 700ms}",
        )
    assert ran.code == 1
    assert "detach: left behind: public.p1 is only half detached from public.p" in ran.err
    assert "DETACH PARTITION public.p1 FINALIZE;" in ran.err


def test_a_repeat_reports_the_sum_of_its_iterations(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE bt (id int)")
    db.run("INSERT INTO bt SELECT generate_series(1, 2000)")
    ran = _run(
        jobplan,
        db,
        """
        - id: purge
          sql: DELETE FROM bt WHERE id IN (SELECT id FROM bt WHERE id % 2 = 0 LIMIT 300)
          repeat: {until: no_rows, max_iterations: 50}
        """,
    )
    assert ran.code == 0
    assert re.search(r"purge: succeeded in \S+ \(5 iterations, DELETE 1,000 in total(, \S+ rows/s)?\)", ran.err)
    assert ran.err.count("purge: started") == 1
    assert "5 iterations, DELETE 1,000 in total" in jobplan("show", "last", "--journal", "runs").out
    (step,) = _shown(jobplan)["steps"]
    assert (step["rows_in_all"], step["iterations"]) == (1000, 5)
    for report in ("run.md", "run.xml", "run.html"):
        assert "5 iterations, DELETE 1,000 in total" in (jobplan.folder / report).read_text(encoding="utf-8")


def test_an_index_whose_drop_was_interrupted_is_left_behind(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    db.run("CREATE INDEX t_id ON t (id)")
    with db.elsewhere("reader") as reader:
        reader.execute("SELECT * FROM t")
        ran = _run(jobplan, db, "- {id: remove, sql: DROP INDEX CONCURRENTLY t_id, timeout: 700ms}")
    assert ran.code == 1
    assert db.value("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 't_id'::regclass")
    assert "remove: left behind: index public.t_id of public.t is INVALID" in ran.err
    assert "remove:   DROP INDEX CONCURRENTLY public.t_id;" in ran.err
    assert "REINDEX" not in ran.err


@pytest.mark.slow
def test_a_worker_that_a_resumption_follows_lists_what_it_leaves(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (id int)")
    steps = """
        - {id: build, sql: CREATE INDEX CONCURRENTLY t_id ON t (id), timeout: 25s, on_runner_exit: detach,
           verify: SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_id')}
        """
    with db.elsewhere("writer") as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        started = jobplan.start("run", jobplan.plan(steps), "--dsn", db.dsn, "--journal", "runs")
        db.until_workers("build")
        until(lambda: db.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1)
        started.send(signal.SIGKILL)
        started.ended()
        resumed = jobplan.start("resume", "last", "--journal", "runs")
        assert resumed.ended().code == 1
    (build,) = _shown(jobplan)["steps"]
    assert build["attempts"] == 1
    assert [left["what"] for left in build["leftovers"]] == ["index public.t_id of public.t is INVALID"]


def test_a_warning_follows_the_line_that_its_step_has_started(jobplan: Jobplan, db: Database) -> None:
    steps = """
        - id: warns
          sql: DO $$ BEGIN RAISE WARNING 'look'; RAISE WARNING 'again'; END $$
        - id: loop
          sql: INSERT INTO t VALUES (1), (2)
          repeat: {until: SELECT false, max_iterations: 3}
        """
    db.run("CREATE TABLE t (id int)")
    ran = _run(jobplan, db, steps)
    reported = [line.partition(" (")[0] for line in ran.lines if line.startswith("warns:")]
    assert reported[:3] == ["warns: started", "warns: WARNING: look", "warns: WARNING: again"]
    assert ran.err.count("warns: started") == 1
    shown = jobplan("show", "last", "--journal", "runs").out
    assert "3 iterations, INSERT 6 in total; not done after max_iterations (3)" in shown
