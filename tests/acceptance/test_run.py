"""`jobplan run`: what a person types, what they read, and what is then true in the database."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.acceptance.console import Database, Jobplan

ROOT = Path(__file__).parents[2]
PLANS = ROOT / "plans"
EVENTS_SCHEMA = json.loads((ROOT / "schemas" / "events-v1.schema.json").read_text(encoding="utf-8"))


def test_the_quickstart_runs_and_prints_how_to_follow_and_cancel_running_workers(
    jobplan: Jobplan, db: Database
) -> None:
    ran = jobplan("run", PLANS / "quickstart.yaml", "--dsn", db.dsn, "--param", "orders=1000")
    assert (ran.code, ran.out) == (0, "")
    assert "fill_orders: started (timeout 2m00s)" in ran.lines
    assert any(re.fullmatch(r"fill_orders: succeeded in \S+ \(INSERT 1000\)", line) for line in ran.lines)
    assert any(
        re.match(r"warm_cache: detached after \S+ \(pid \d+ since .*, ends by .*Z\)", line) for line in ran.lines
    )
    summary = re.fullmatch(r"run (\S+): 11 succeeded, 1 detached in \S+", ran.last_line)
    assert summary is not None, ran.last_line
    run_id = summary[1]
    (follow,), (stop,) = ran.labelled("Follow"), ran.labelled("Cancel")
    assert (ran.labelled("Record"), ran.labelled("Resume")) == ([f".jobplan/runs/{run_id}"], [])
    dsn = conninfo_to_dict(db.dsn)
    assert shlex.split(follow)[:4] == ["jobplan", "attach", run_id, "--dsn"]
    assert conninfo_to_dict(shlex.split(follow)[4]) == dsn
    assert shlex.split(stop)[:4] == ["jobplan", "cancel", run_id, "--dsn"]
    assert conninfo_to_dict(shlex.split(stop)[4]) == dsn
    assert shlex.split(stop)[5:] == ["--detached"]
    assert db.workers() == ["warm_cache"]
    assert jobplan(*shlex.split(stop)[1:]).code == 0
    assert db.workers() == []
    assert f"no run '{run_id}' is active on the server" in jobplan(*shlex.split(follow)[1:]).err
    assert db.value("SELECT count(*) FROM shop.order_lines") == 2000


def test_the_commands_of_the_last_line_hold_no_password(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: nap, sql: SELECT pg_sleep(20), on_finish: detach}")
    dsn = make_conninfo(db.dsn, password="hunter2")  # noqa: S106 - a password to look for
    ran = jobplan("run", plan, "--dsn", dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0
    assert ran.labelled("Cancel")[0].startswith("jobplan cancel ")
    assert "hunter2" not in ran.err + (jobplan.folder / "events.jsonl").read_text(encoding="utf-8")
    started = jobplan.events()[0]
    with psycopg.connect(started["connection"]) as connection:
        row = connection.execute(
            "SELECT current_database(), system_identifier::text FROM pg_control_system()"
        ).fetchone()
    assert row == (db.value("SELECT current_database()"), started["system_identifier"])


def test_the_server_can_come_from_the_environment(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: nap, sql: SELECT pg_sleep(20), on_finish: detach}")
    parts = {name: str(value) for name, value in conninfo_to_dict(db.dsn).items()}
    assert jobplan("run", plan, env={"JOBPLAN_DSN": db.dsn}).code == 0
    db.terminate("nap")
    libpq = {"PGHOST": parts["host"], "PGPORT": parts["port"], "PGUSER": parts["user"], "PGDATABASE": parts["dbname"]}
    ran = jobplan("run", plan, env=libpq)
    assert ran.code == 0
    (stop,) = ran.labelled("Cancel")
    assert "--dsn" not in stop
    assert jobplan(*shlex.split(stop)[1:], env=libpq).code == 0
    assert db.workers() == []


def test_every_line_of_the_report_keeps_to_the_schema(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("""
        - {id: talk, sql: "DO $$ BEGIN RAISE NOTICE 'hello'; END $$"}
        - {id: count, sql: SELECT 1 AS one, capture: {rows: 1}}
        - {id: fail, sql: SELECT 1/0, retry: {max_attempts: 2, delay: 10ms}}
        - {id: upstream, needs: [fail], sql: SELECT 1}
        - {id: each, for_each: {items: [a, b]}, sql: "SELECT :'item'"}
        - {id: conditional, if: SELECT false, sql: SELECT 1}
        - {id: away, sql: SELECT pg_sleep(20), on_finish: detach}
        """)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    events = jobplan.events()
    validator = jsonschema.Draft7Validator(EVENTS_SCHEMA)
    for event in events:
        validator.validate(event)
    assert ran.code == 1
    assert (events[0]["event"], events[0]["plan"], events[0]["steps"]) == ("run_started", "trial", 7)
    assert events[-1] == {
        "event": "run_finished",
        "at": events[-1]["at"],
        "run": events[0]["run"],
        "exit_code": 1,
        "steps": {
            "talk": "succeeded",
            "count": "succeeded",
            "fail": "failed",
            "upstream": "skipped",
            "each": "succeeded",
            "each[a]": "succeeded",
            "each[b]": "succeeded",
            "conditional": "skipped",
            "away": "detached",
        },
    }
    assert [event["notice"]["message"] for event in events if event["event"] == "attempt_notice"] == ["hello"]
    assert ran.labelled("Record") == [f".jobplan/runs/{events[0]['run']}"]
    assert ran.labelled("Report") == ["events.jsonl"]
    assert len(ran.labelled("Follow")) == 1


def test_quiet_says_less_and_verbose_more(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("""
        - {id: talk, sql: "DO $$ BEGIN RAISE NOTICE 'half way'; PERFORM pg_sleep(0.3); END $$"}
        - {id: later, sql: SELECT 1}
        - {id: wrong, needs: [later], sql: SELECT 1/0}
        """)
    quiet = jobplan("run", plan, "--dsn", db.dsn, "-q", "--slots", "1")
    assert quiet.code == 1
    assert len([line for line in quiet.err.splitlines() if line[2:3] == ":"]) == 1, quiet.err
    assert re.fullmatch(r"wrong: failed in \S+: division by zero \(SQLSTATE 22012\)", quiet.lines[0])
    assert quiet.last_line.startswith("run ")
    normal = jobplan("run", plan, "--dsn", db.dsn, "--slots", "1")
    assert not any("NOTICE" in line or "pid" in line or "queued" in line for line in normal.lines)
    verbose = jobplan("run", plan, "--dsn", db.dsn, "-v", "--slots", "1")
    assert "talk: NOTICE: half way" in verbose.lines
    assert any(re.fullmatch(r"talk: running \(pid \d+\)", line) for line in verbose.lines)
    assert any(": queued (" in line for line in verbose.lines)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ((), "from the plan"),
        (("environment",), "from the environment"),
        (("environment", "file"), "from the file"),
        (("environment", "file", "option"), "from the option"),
    ],
)
def test_parameters_come_from_the_strongest_source(
    jobplan: Jobplan, db: Database, sources: tuple[str, ...], expected: str
) -> None:
    plan = jobplan.plan(
        "- {id: tell, sql: \"CREATE TABLE told AS SELECT :'word' AS word\"}",
        params="{word: {type: string, default: from the plan}}",
    )
    (jobplan.folder / "values.yaml").write_text("word: from the file\n", encoding="utf-8")
    arguments = ["--params-file", "values.yaml"] if "file" in sources else []
    arguments += ["--param", "word=from the option"] if "option" in sources else []
    environment = {"JOBPLAN_PARAM_WORD": "from the environment"} if "environment" in sources else {}
    assert jobplan("run", plan, "--dsn", db.dsn, *arguments, env=environment).code == 0
    assert db.value("SELECT word FROM told") == expected


def test_slots_lower_the_budget_and_never_raise_it(jobplan: Jobplan, db: Database) -> None:
    steps = "".join(f"- {{id: nap{number}, sql: SELECT pg_sleep(0.2)}}\n" for number in range(4))
    plan = jobplan.plan(steps, budget="{slots: 2}")
    for given, expected in (("1", 1), ("3", 2)):
        ran = jobplan("run", plan, "--dsn", db.dsn, "--slots", given, "--report", "jsonl=events.jsonl")
        assert ran.code == 0
        at_once = most = 0
        for event in jobplan.events():
            at_once += {"attempt_launching": 1, "attempt_finished": -1}.get(event["event"], 0)
            most = max(most, at_once)
        assert most == expected
    wide = jobplan.plan("- {id: wide, sql: SELECT 1, slots: 2}")
    ran = jobplan("run", wide, "--dsn", db.dsn, "--slots", "1")
    assert ran.code == 2
    assert "wide" in ran.err


CHAIN = """
    - {id: first, sql: INSERT INTO done VALUES ('first'), tags: [begin]}
    - {id: second, needs: [first], sql: INSERT INTO done VALUES ('second')}
    - {id: third, needs: [second], sql: INSERT INTO done VALUES ('third'), tags: [end]}
    - {id: apart, sql: INSERT INTO done VALUES ('apart')}
    """


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        (["--select", "+second"], ["first", "second"]),
        (["--select", "apart"], ["apart"]),
        (["-s", "ap*", "-s", "tag:begin"], ["apart", "first"]),
        (["--exclude", "second+"], ["apart", "first"]),
        (["--select", "tag:end", "--assume-done"], ["third"]),
        (["--select", "second+", "--exclude", "third", "--assume-done"], ["second"]),
    ],
)
def test_only_what_is_selected_runs(jobplan: Jobplan, db: Database, arguments: list[str], done: list[str]) -> None:
    db.run("CREATE TABLE done (step text)")
    assert jobplan("run", jobplan.plan(CHAIN), "--dsn", db.dsn, *arguments).code == 0
    assert db.column("SELECT step FROM done ORDER BY 1") == done


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--select", "second"], "--assume-done"),
        (["--select", "nothing_like_it"], "nothing_like_it"),
        (["--exclude", "*"], "no step"),
        (["--select", "tag:none"], "tag:none"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(
    jobplan: Jobplan, db: Database, arguments: list[str], says: str
) -> None:
    db.run("CREATE TABLE done (step text)")
    ran = jobplan("run", jobplan.plan(CHAIN), "--dsn", db.dsn, *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert db.column("SELECT step FROM done") == []


def test_paths_may_hold_any_letters(jobplan: Jobplan, db: Database) -> None:
    folder = jobplan.folder / "Pläne für 日本 'x'"
    folder.mkdir()
    (folder / "übung.sql").write_text("CREATE TABLE \"größe\" AS SELECT 'naïve ✓' AS wort", encoding="utf-8")
    plan = jobplan.plan("- {id: step, sql_file: übung.sql}", file=f"{folder.name}/wöchentlich.yaml")
    for environment in ({}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}):
        db.run('DROP TABLE IF EXISTS "größe"')
        ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=ereignisse ✓.jsonl", env=environment)
        assert ran.code == 0, ran.err
        assert jobplan.events("ereignisse ✓.jsonl")[0]["file"] == str(plan)
        assert db.value('SELECT wort FROM "größe"') == "naïve ✓"
