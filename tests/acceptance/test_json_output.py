"""What each command writes with `--format json`, against schemas/output-v1.schema.json: every field is described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from runner.cli import cli
from runner.cli.schema import output_schema
from tests.acceptance.console import Database, Jobplan, Ran, until
from tests.acceptance.fleets import Fleet, started_fleet, targets_file

ROOT = Path(__file__).parents[2]
WHOLE = json.loads((ROOT / "schemas" / "output-v1.schema.json").read_text(encoding="utf-8"))

STEPS = """
- {id: a, sql: CREATE TABLE t (n int)}
- {id: items, needs: [a], for_each: {items: [1, 2], as: n}, sql: "INSERT INTO t VALUES (:n)"}
- {id: warned, needs: [a], sql: "DO $$ BEGIN RAISE WARNING 'careful'; END $$"}
- id: batches
  needs: [items]
  sql: DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 1)
  repeat: {until: no_rows, max_iterations: 5}
- {id: wrong, sql: SELECT 1/0 AS x, expect: {value: 1}}
- {id: never, needs: [wrong], sql: SELECT 1, expect: {value: 1}}
"""
SLEEPS = "- {id: sleeps, sql: SELECT pg_sleep(60), timeout: 2m, on_finish: detach}\n"


def strict(value: Any) -> Any:
    """Return a schema that refuses each field that is not described."""
    if isinstance(value, dict):
        found = {key: strict(item) for key, item in value.items()}
        if "properties" in found and "additionalProperties" not in found:
            found["additionalProperties"] = False
        return found
    return [strict(item) for item in value] if isinstance(value, list) else value


def checked(command: str, ran: Ran | str, *codes: int) -> Any:
    """Parse the output of a command, and compare it with the schema that `jobplan schema --output` prints."""
    if isinstance(ran, Ran):
        assert ran.code in (codes or (0,)), ran.err
    value = json.loads(ran if isinstance(ran, str) else ran.out)
    schema = output_schema(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(
        strict(schema), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)
    return value


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, *names, name)
    else:
        yield "-".join(names), command


def test_each_command_that_writes_json_calls_it_format_json_and_has_a_schema() -> None:
    with_json = set()
    for name, command in commands(cli):
        for option in command.params:
            choices = getattr(option.type, "choices", ())
            if isinstance(option, click.Option) and "json" in choices:
                assert "--format" in option.opts, name
                with_json.add(name)
    described = {name for name, one in WHOLE["$defs"].items() if "--format json" in one.get("description", "")}
    assert described == with_json - {"resume", "server-start", "fleet-resume"}
    for name in with_json:
        assert output_schema(name)["title"].endswith("--format json, version 1")


def test_the_names_of_before_are_still_accepted(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: a, sql: CREATE TABLE t (n int)}\n")
    for option in ("--format", "--log-format"):
        ran = jobplan("run", plan, "--dsn", db.dsn, option, "json")
        assert json.loads(ran.err.splitlines()[-1])["event"] == "summary"
        db.run("DROP TABLE t")


def test_plans(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(STEPS)
    bad = jobplan.plan("- {id: a, sql: SELEC}\n- {id: b, needs: [x], sql: VACUUM}\n", file="bad.yaml")
    assert checked("validate", jobplan("validate", "plan.yaml", "--format", "json")) == []
    assert len(checked("validate", jobplan("validate", bad, "--format", "json"), 3)) == 2
    graph = checked("graph", jobplan("graph", plan, "--format", "json"))
    assert {"step": "wrong", "on": "success"} in graph["steps"][-1]["needs"]
    assert [step["items"] for step in graph["steps"][:2]] == [None, 2]
    held = jobplan.plan(
        "- {id: a, sql: ANALYZE no_table, if: SELECT true}\n- {id: b, sql: TRUNCATE locked}\n",
        file="held.yaml",
        window="{timezone: UTC, from: '00:00', to: '23:59', outside: wait}",
        holds="[{name: busy, while: SELECT false}]",
    )
    db.run("CREATE TABLE locked (n int)")
    arguments = ("--dsn", db.dsn, "--what-if", "slots=1..3", "--assume", "a=1m", "--format", "json")
    assert checked("dry-run", jobplan("dry-run", plan, *arguments), 3)["schedule"]["what_if"]
    found = checked("dry-run", jobplan("dry-run", held, *arguments), 3)
    assert found["window"] is not None
    assert found["holds"]
    assert found["findings"]
    checked("doctor", jobplan("doctor", "--dsn", db.dsn, "--format", "json"))


def test_a_run_its_log_and_its_record(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan("run", jobplan.plan(STEPS), "--dsn", db.dsn, "--format", "json", "-v")
    assert ran.code == 1
    schema = output_schema("run")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    jsonschema.Draft202012Validator(strict(schema)).validate(lines[-1])
    assert lines[-1]["failures"][0]["step"] == "wrong"
    record = checked("show", jobplan("show", "last", "--format", "json"))
    assert {step["state"] for step in record["steps"]} >= {"succeeded", "failed", "skipped"}
    assert checked("runs", jobplan("runs", "--format", "json"))[0]["exit_code"] == 1
    assert len(checked("runs", jobplan("runs", "--prune", "--keep", "0", "--force", "--format", "json"))) == 1
    assert checked("runs", jobplan("runs", "--format", "json")) == []


def test_workers_that_run(jobplan: Jobplan, db: Database) -> None:
    jobplan("run", jobplan.plan(SLEEPS), "--dsn", db.dsn)
    found = checked("status", jobplan("status", "--dsn", db.dsn, "--format", "json"))
    (run,) = [one for one in found["runs"] if one["database"] == found["database"]]
    assert [worker["step"] for worker in run["workers"]] == ["sleeps"]
    done = checked("cancel", jobplan("cancel", run["run"], "--dsn", db.dsn, "--detached", "--format", "json"))
    assert [worker["step"] for worker in done["stopped"]] == ["sleeps"]


def test_a_worker_that_is_followed(jobplan: Jobplan, db: Database) -> None:
    jobplan("run", jobplan.plan(SLEEPS), "--dsn", db.dsn)
    record = checked("show", jobplan("show", "last", "--format", "json"))
    started = jobplan.start("attach", record["run"], "--dsn", db.dsn, "--format", "json")
    assert "sleeps" in started.read_line()
    db.terminate("sleeps")
    found = checked("attach", started.ended(), 0, 1, 7)
    assert [worker["step"] for worker in found["gone"]] == ["sleeps"]


def test_a_step_that_waits_for_a_lock(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE busy (n int)")
    other = db.elsewhere()
    other.execute("SELECT count(*) FROM busy")
    started = jobplan.start("run", jobplan.plan("- {id: waits, sql: TRUNCATE busy}\n"), "--dsn", db.dsn)
    db.until_workers("waits")
    until(lambda: db.column("SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'busy'::regclass") != [])
    found = checked("status", jobplan("status", "--dsn", db.dsn, "--format", "json"))
    (run,) = [one for one in found["runs"] if one["database"] == found["database"]]
    assert [session["application_name"] for session in run["workers"][0]["blocked_by"]] == ["elsewhere"]
    assert run["record"]["source"] == "journal"
    until(lambda: '"attempt_blocked"' in next((jobplan.folder / ".jobplan/runs").glob("*/events.jsonl")).read_text())
    other.rollback()
    assert started.ended().code == 0
    record = checked("show", jobplan("show", "last", "--format", "json"))
    (wait,) = record["steps"][0]["lock_waits"]
    assert wait["relation"].endswith("busy")


def test_ledgers_and_servers(jobplan: Jobplan, db: Database, tmp_path: Path) -> None:
    status = ("ledger", "status", "--dsn", db.dsn, "--format", "json")
    assert checked("ledger-status", jobplan(*status), 3)["installed"] is False
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    assert checked("ledger-status", jobplan(*status))["remedy"] is None
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    assert checked("server-status", jobplan("server", "status", "--format", "json", env=home), 3) == {"running": False}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with started_fleet(1, 2) as found:
        yield found


def test_fleets(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=[2]), fleet.discover(1))
    listed = checked("fleet-targets", jobplan("fleet", "targets", targets, "--format", "json"))
    assert len(listed) == 2
    plan = jobplan.plan("- {id: wrong, sql: ANALYZE no_table}\n")
    looked = jobplan("fleet", "dry-run", plan, "--targets", targets, "--format", "json")
    assert checked("fleet-dry-run", looked, 3)["findings"]
    jobplan("fleet", "run", plan, "--targets", targets)
    shown = checked("fleet-show", jobplan("fleet", "show", "--format", "json"), 0, 1)
    assert shown["counts"]["failed"] == 2 or shown["groups"]
    status = checked("fleet-status", jobplan("fleet", "status", "--format", "json"))
    assert status["running"] is False


def fleet_lines(err: str) -> list[dict[str, Any]]:
    """Parse the lines of a fleet run, and compare each with the schema."""
    schema = output_schema("fleet-run")
    assert schema == output_schema("fleet resume")
    lines = [json.loads(line) for line in err.splitlines()]
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    return lines


def test_a_fleet_run_its_resume_and_its_end(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=[2]), fleet.discover(1))
    plan = jobplan.plan("- {id: wrong, sql: ANALYZE no_table}\n")
    arguments = ("--targets", targets, "--format", "json", "--report", "markdown=r.md")
    ran = jobplan("fleet", "run", plan, *arguments)
    assert (ran.code, ran.out) == (1, "")
    lines = fleet_lines(ran.err)
    record = next((jobplan.folder / ".jobplan/fleets").glob("*/fleet.jsonl")).read_text(encoding="utf-8")
    shown = [{key: value for key, value in line.items() if key not in ("level", "message")} for line in lines[:-1]]
    assert shown == [json.loads(line) for line in record.splitlines()]
    assert {line["level"] for line in lines if line["event"] == "member_finished"} == {"error"}
    end = lines[-1]
    jsonschema.Draft202012Validator(strict(output_schema("fleet-run"))).validate(end)
    assert (end["event"], end["exit_code"], end["resumed"], end["counts"]) == ("summary", 1, False, {"failed": 2})
    assert end["groups"][0]["targets"] == ["c1-t00", "c1-t01"]
    assert end["reports"] == ["r.md"]
    assert end["resume"] == f"jobplan fleet resume {end['fleet']}"
    resumed = fleet_lines(jobplan("fleet", "resume", "last", "--format", "json").err)
    assert resumed[0]["event"] == "fleet_resumed"
    assert resumed[-1]["resumed"] is True


def test_a_fleet_run_that_cannot_begin_says_so_as_json(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=[2]), fleet.discover(1))
    (problem, error) = fleet_lines(
        jobplan("fleet", "run", jobplan.plan("- {id: a, sql: SELEC}\n"), "--targets", targets, "--format", "json").err
    )
    assert (problem["event"], problem["line"], error["event"]) == ("problem", 6, "error")
    (error,) = fleet_lines(jobplan("fleet", "resume", "nothing", "--format", "json").err)
    assert error["level"] == "error"
    unreached = "clusters: {c1: {connection: {host: 127.0.0.1, port: 1}, slots: 1}}\n"
    other = targets_file(jobplan.folder, unreached, "targets: [{cluster: c1, database: d}]\n", file="other.yaml")
    plan = jobplan.plan("- {id: a, sql: SELECT 1}\n")
    warning = fleet_lines(jobplan("fleet", "run", plan, "--targets", other, "--format", "json").err)[0]
    assert (warning["level"], warning["event"]) == ("warning", "warning")


def test_a_fleet_run_that_is_cancelled(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=[2]), fleet.discover(1))
    plan = jobplan.plan("- {id: sleeps, sql: SELECT pg_sleep(60), timeout: 2m}\n")
    started = jobplan.start("fleet", "run", plan, "--targets", targets)
    record = jobplan.folder / ".jobplan/fleets"
    until(lambda: sum(b"attempt_running" in one.read_bytes() for one in record.glob("*/runs/*/events.jsonl")) == 2)
    done = checked("fleet-cancel", jobplan("fleet", "cancel", "--format", "json"))
    assert (done["running"], done["clusters"]) == (True, [])
    assert started.ended().code == 1
    done = checked("fleet-cancel", jobplan("fleet", "cancel", "--format", "json"))
    assert (done["running"], [one["runs"] for one in done["clusters"]]) == (False, [[]])
