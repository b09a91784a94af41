"""`jobplan run` where nothing can be started: one line that says what is wrong and what to do, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from psycopg.conninfo import make_conninfo

import runner.cli
from tests.acceptance.console import Database, Jobplan, Ran, clean_environment

ONE = "- {id: one, sql: SELECT 1}"


def refused(ran: Ran, code: int, *says: str) -> None:
    """Hold a command to one line on stderr, with these words in it."""
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.startswith("jobplan: ")
    assert ran.err.count("\n") == 1, ran.err
    for words in says:
        assert words in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--report", "pdf=x"], "jsonl"),
        (["--report", "jsonl"], "KIND=PATH"),
        (["--report", "jsonl="], "KIND=PATH"),
        (["--report", "jsonl=plan.yaml"], "overwrite plan.yaml"),
        (["--report", "jsonl=x", "--report", "jsonl=./x"], "overwrite x"),
        (["--param", "word"], "NAME=VALUE"),
        (["--param", "=x"], "NAME=VALUE"),
        (["--param", "a=1", "--param", "a=2"], "twice"),
        (["-v", "-q"], "--quiet"),
        (["--embedded", "--dsn", "host=x"], "--embedded"),
    ],
)
def test_wrong_usage(jobplan: Jobplan, arguments: list[str], says: str) -> None:
    plan = jobplan.plan(ONE)
    refused(jobplan("run", plan, *arguments), 2, says)
    assert plan.read_text(encoding="utf-8").startswith("version: 1")


@pytest.mark.parametrize("arguments", [["run"], ["run", "--slots", "0", "plan.yaml"], ["run", "--nope"], ["nope"]])
def test_what_the_command_line_does_not_know(jobplan: Jobplan, arguments: list[str]) -> None:
    ran = jobplan(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "--help" in ran.err


@pytest.mark.parametrize("path", [".", "missing.yaml", "/dev/null", "\udcff.yaml"])
def test_a_path_that_is_no_plan(jobplan: Jobplan, path: str) -> None:
    ran = jobplan("run", path)
    assert (ran.code, ran.out) == (3, "")
    assert "is not a valid plan" in ran.last_line
    assert "Traceback" not in ran.err


def test_an_invalid_plan_gives_every_problem(jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1, neds: [two]}\n- {id: Two, sql: SELEC 1}\n")
    ran = jobplan("run", plan)
    assert ran.code == 3
    problems = ran.err.splitlines()[:-1]
    assert len(problems) >= 3
    assert all(line.startswith(f"{plan}:") and ": error JP" in line for line in problems)


def test_a_required_parameter_is_asked_for(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE, params="{word: {type: string}}")
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 2
    assert "word" in ran.err
    assert "--param" in ran.err


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("host=127.0.0.1 port=1 dbname=x", "Connection refused"),
        ("host=/nowhere dbname=x", "/nowhere"),
        ("nonsense", "connection string"),
        ("service=no_such_service", "no_such_service"),
    ],
)
def test_no_server(jobplan: Jobplan, dsn: str, says: str) -> None:
    refused(jobplan("run", jobplan.plan(ONE), "--dsn", dsn), 4, says, "--dsn")


def test_a_wrong_password_is_not_repeated(jobplan: Jobplan, small_server: str) -> None:
    dsn = make_conninfo(small_server, password="hunter2")  # noqa: S106 - a password to look for
    ran = jobplan("run", jobplan.plan(ONE), "--dsn", dsn)
    refused(ran, 4, "password authentication failed")
    assert "hunter2" not in ran.err


def test_a_database_or_a_role_that_does_not_exist(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE)
    refused(jobplan("run", plan, "--dsn", make_conninfo(db.dsn, dbname="not_there")), 4, "not_there")
    refused(jobplan("run", plan, "--dsn", make_conninfo(db.dsn, user="not_there")), 4, "not_there")


def test_a_database_without_the_extension(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP EXTENSION pg_background")
    refused(jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn), 4, "CREATE EXTENSION pg_background")


def test_a_role_without_the_privilege_and_then_with_it(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP ROLE IF EXISTS jobplan_plain")
    db.run("CREATE ROLE jobplan_plain LOGIN")
    try:
        dsn = make_conninfo(db.dsn, user="jobplan_plain")
        refused(jobplan("run", jobplan.plan(ONE), "--dsn", dsn), 4, "GRANT pgbackground_role TO")
        db.run("GRANT pgbackground_role TO jobplan_plain")
        assert jobplan("run", jobplan.plan(ONE), "--dsn", dsn).code == 0
    finally:
        db.run("DROP ROLE jobplan_plain")


def test_what_the_plan_requires_of_the_server(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(
        ONE,
        requires="{database: [somewhere_else], preconditions: [{sql: SELECT false, message: it is not the hour}]}",
    )
    refused(jobplan("run", plan, "--dsn", db.dsn), 9, "somewhere_else", "it is not the hour")


@pytest.mark.parametrize(("path", "says"), [("missing/events.jsonl", "No such file"), (".", "Is a directory")])
def test_a_report_that_cannot_be_opened(jobplan: Jobplan, db: Database, path: str, says: str) -> None:
    db.run("CREATE TABLE t ()")
    ran = jobplan("run", jobplan.plan("- {id: drop, sql: DROP TABLE t}"), "--dsn", db.dsn, "--report", f"jsonl={path}")
    refused(ran, 4, path, says)
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 't'") == 1


def test_a_disk_that_fills_under_the_report_is_said_and_costs_the_exit_code(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan(
        "run", jobplan.plan("- {id: make, sql: CREATE TABLE t ()}"), "--dsn", db.dsn, "--report", "jsonl=/dev/full"
    )
    assert ran.code == 1
    assert "jobplan: the report /dev/full cannot be written: No space left on device" in ran.err.splitlines()
    assert ran.labelled("Report") == []
    assert "1 succeeded" in ran.last_line
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 't'") == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&- <&-", "2>&1 | true", "2> >(true)"])
def test_without_a_reader_the_run_continues_and_its_exit_code_is_true(
    jobplan: Jobplan, db: Database, redirection: str
) -> None:
    db.run("CREATE TABLE done (step text)")
    plan = jobplan.plan("""
        - {id: first, sql: "INSERT INTO done SELECT 'first' FROM pg_sleep(0.3)"}
        - {id: second, needs: [first], sql: INSERT INTO done VALUES ('second')}
        """)
    command = f"set -o pipefail; '{sys.executable}' -m runner run '{plan}' --dsn '{db.dsn}' {redirection}"
    done = subprocess.run(["bash", "-c", command], cwd=jobplan.folder, env=clean_environment(), timeout=60, check=False)
    assert done.returncode == 0
    assert db.column("SELECT step FROM done ORDER BY 1") == ["first", "second"]


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_no_bug(arguments: list[str]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "jobplan: the output cannot be written: No space left on device\n"


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(click.Group, "main", stumble)
    with pytest.raises(SystemExit) as stopped:
        runner.cli.main(["run", "plan.yaml"])
    assert stopped.value.code == 70
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "nobody thought of this" in shown
    assert shown.splitlines()[-1].startswith("jobplan: this is a bug in jobplan. Please report it")


def test_a_role_that_may_not_know_the_cluster_does_without(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP ROLE IF EXISTS jobplan_plain")
    db.run("CREATE ROLE jobplan_plain LOGIN IN ROLE pgbackground_role")
    db.run("REVOKE EXECUTE ON FUNCTION pg_control_system FROM public")
    try:
        dsn = make_conninfo(db.dsn, user="jobplan_plain")
        assert jobplan("run", jobplan.plan(ONE), "--dsn", dsn, "--report", "jsonl=events.jsonl").code == 0
        assert "system_identifier" not in jobplan.events()[0]
    finally:
        db.run("GRANT EXECUTE ON FUNCTION pg_control_system TO public")
        db.run("DROP ROLE jobplan_plain")


@pytest.mark.parametrize("command", ["run", "dry-run"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "the parameter `days` has no default, and no value was given"),
        (["--param", "days=ninety"], "`ninety`, not a whole number"),
        (["--param", "days=1", "--param", "dasy=2"], "did you mean `days`?"),
    ],
)
def test_a_value_of_a_parameter_that_is_missing_or_wrong_is_wrong_usage(
    jobplan: Jobplan, command: str, given: list[str], says: str
) -> None:
    plan = jobplan.plan("- {id: a, sql: 'DELETE FROM t WHERE d < :days'}", params="{days: {type: integer}}")
    ran = jobplan(command, plan, *given)
    assert ran.code == 2
    assert says in ran.err
    assert "cannot run with these parameters: 1 problem" in ran.err


def test_a_plan_that_is_invalid_besides_is_an_invalid_plan(jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: a, sql: 'SELECT :day'}", params="{days: {type: integer}}")
    assert jobplan("run", plan).code == 3
