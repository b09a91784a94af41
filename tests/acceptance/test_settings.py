"""The settings of a project: which value counts, what a protected environment asks, and what bad files do."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import PATIENCE, Database, Jobplan, accept_signals, clean_environment, until
from tests.acceptance.fleets import started_fleet, targets_file

STEPS = "- {id: note, sql: \"CREATE TABLE IF NOT EXISTS noted (who text); INSERT INTO noted VALUES (:'who')\"}"


@pytest.fixture
def project(jobplan: Jobplan, db: Database) -> Callable[..., Path]:
    """Write jobplan.toml, with %DSN% for the database, and plans/note.yaml; return the plan."""

    def write(settings: str) -> Path:
        text = settings.replace("%DSN%", json.dumps(db.dsn))
        (jobplan.folder / "jobplan.toml").write_text(text, encoding="utf-8")
        (jobplan.folder / "plans").mkdir(exist_ok=True)
        return jobplan.plan(STEPS, file="plans/note.yaml", params="{who: {type: string, default: plan}}")

    return write


def noted(db: Database) -> list[str]:
    return sorted(db.column("SELECT who FROM noted"))


def test_each_source_of_a_parameter_overrides_the_next_one(
    jobplan: Jobplan, db: Database, project: Callable[..., Path]
) -> None:
    project('dsn = %DSN%\nplans = "plans"\n[params]\nwho = "top"\nunknown = 1\n[env.dev.params]\nwho = "section"\n')
    (jobplan.folder / "values.yaml").write_text("who: params-file\n", encoding="utf-8")
    (jobplan.folder / "values.env").write_text("JOBPLAN_PARAM_WHO=env-file\n", encoding="utf-8")
    more = [
        ([], {}),
        (["--env", "dev"], {}),
        ([], {"JOBPLAN_ENV": "dev"}),
        (["--env", "dev", "--env-file", "values.env"], {}),
        (["--env-file", "values.env", "--env", "dev"], {"JOBPLAN_PARAM_WHO": "variable"}),
        (["--env", "dev", "--params-file", "values.yaml"], {"JOBPLAN_PARAM_WHO": "variable"}),
        (["--env", "dev", "--params-file", "values.yaml", "--param", "who=option"], {}),
    ]
    for arguments, env in more:
        ran = jobplan("run", "note", *arguments, env=env)
        assert ran.code == 0, ran.err
    assert noted(db) == ["env-file", "option", "params-file", "section", "section", "top", "variable"]
    records = json.loads(jobplan("runs", "--format", "json").out)
    assert len(records) == len(more)


def test_each_source_of_the_server_overrides_the_next_one(
    jobplan: Jobplan, db: Database, project: Callable[..., Path]
) -> None:
    plan = project('dsn = "host=/top"\n[env.dev]\ndsn = "host=/section"\n[env.here]\ndsn = %DSN%\n[env.bare]\n')
    (jobplan.folder / "file.env").write_text("JOBPLAN_DSN=host=/env-file\n", encoding="utf-8")
    for arguments, env, where in (
        ([], {}, "/top"),
        (["--env", "bare"], {}, "/top"),
        (["--env", "dev"], {}, "/section"),
        (["--env", "dev", "--env-file", "file.env"], {}, "/env-file"),
        (["--env", "dev", "--env-file", "file.env"], {"JOBPLAN_DSN": "host=/variable"}, "/variable"),
        (["--env", "dev", "--dsn", "host=/option"], {"JOBPLAN_DSN": "host=/variable"}, "/option"),
    ):
        for command in (["run", plan], ["doctor"], ["status"], ["dry-run", plan], ["ledger", "status"]):
            ran = jobplan(*command, *arguments, env=env)
            assert ran.code == 4, (command, ran)
            assert f'socket "{where}/' in ran.err, (command, arguments, ran.err)
            overridden = where in ("/env-file", "/variable")
            assert ("used instead of the server of environment dev" in ran.err) == overridden, ran.err
    assert jobplan("run", plan, "--env", "here").code == 0
    assert noted(db) == ["plan"]


def test_settings_name_journal_and_reports_relative_to_their_file(
    jobplan: Jobplan, project: Callable[..., Path]
) -> None:
    project(
        'dsn = %DSN%\nplans = "plans"\njournal = "records/runs"\n'
        'reports = ["junit=out.xml"]\n[env.other]\njournal = "o"\n'
    )
    sub = Jobplan(jobplan.folder / "plans")
    ran = sub("run", "note")
    assert ran.code == 0, ran.err
    assert ran.labelled("Report") == ["../out.xml"]
    assert (jobplan.folder / "out.xml").exists()
    assert len(list((jobplan.folder / "records" / "runs").iterdir())) == 1
    for command in (jobplan, sub):
        assert len(json.loads(command("runs", "--format", "json").out)) == 1
        assert json.loads(command("runs", "--format", "json", "--env", "other").out) == []
    assert sub("run", "note", "--report", "markdown=own.md", "--journal", "mine").code == 0
    assert (sub.folder / "own.md").exists()
    assert len(list((sub.folder / "mine").iterdir())) == 1
    assert sub("run", "note.yaml", env={"JOBPLAN_JOURNAL": "variable"}).code == 0
    assert len(list((sub.folder / "variable").iterdir())) == 1
    sub.close()


def test_severities_and_the_folder_of_plans_count_for_validate_and_run(
    jobplan: Jobplan, db: Database, project: Callable[..., Path]
) -> None:
    project('dsn = %DSN%\nplans = "plans"\n[lint]\nindex-blocks-writes = "error"\nJP333 = "off"\n')
    db.run("CREATE TABLE t (v int)")
    jobplan.plan("- {id: a, sql: CREATE INDEX ON t (v)}", file="plans/index.yaml")
    found = jobplan("validate")
    assert found.code == 3, found
    assert "plans/index.yaml:6:" in found.out
    assert "error JP341" in found.out
    assert "JP333" not in found.out
    ran = jobplan("run", "index")
    assert ran.code == 3
    assert db.value("SELECT count(*) FROM pg_indexes WHERE tablename = 't'") == 0
    (jobplan.folder / "jobplan.toml").write_text('plans = "plans"\n[lint]\nJP341 = "off"\n', encoding="utf-8")
    found = jobplan("validate")
    assert (found.code, "JP341" in found.out, "JP333" in found.out) == (0, False, True)
    assert jobplan("validate", "index", "note").code == 0


PROTECTED = 'plans = "plans"\n[env.prod]\ndsn = %DSN%\nconfirm = true\n[env.dev]\ndsn = %DSN%\n'


def test_a_protected_environment_is_confirmed_without_a_terminal(
    jobplan: Jobplan, db: Database, project: Callable[..., Path]
) -> None:
    project(PROTECTED.replace("[env.dev]\ndsn = %DSN%\n", ""))
    db.run("CREATE TABLE noted (who text)")
    for arguments, env in (
        (["--env", "prod"], {}),
        ([], {"JOBPLAN_ENV": "prod"}),
        (["--env", "prod"], {"JOBPLAN_CONFIRM": "dev"}),
        (["--env", "prod"], {"JOBPLAN_CONFIRM": ""}),
        (["--dsn", db.dsn], {}),  # its server, without its name
        ([], {"JOBPLAN_DSN": db.dsn}),
    ):
        ran = jobplan("run", "note", *arguments, env=env)
        assert ran.code == 2, (arguments, ran)
        assert "environment prod is protected (jobplan.toml), and there is no terminal to ask" in ran.err
        assert "--yes, or JOBPLAN_CONFIRM=prod" in ran.err
    assert noted(db) == []
    for harmless in (["dry-run", "note"], ["run", "note", "--dry-run"], ["status"], ["doctor"], ["validate", "note"]):
        extra = [] if harmless[0] == "validate" else ["--env", "prod"]
        assert jobplan(*harmless, *extra).code == 0, harmless
    assert jobplan("run", "note", "--env", "prod", "--yes").code == 0
    assert jobplan("run", "note", "--env", "prod", env={"JOBPLAN_CONFIRM": "prod"}).code == 0
    assert jobplan("run", "note", "--embedded", "--env", "prod").code == 0
    assert noted(db) == ["plan", "plan"]


def test_resume_and_cancel_of_a_run_in_a_protected_environment_are_confirmed(
    jobplan: Jobplan, db: Database, project: Callable[..., Path]
) -> None:
    project(PROTECTED)
    plan = jobplan.plan("- {id: one, sql: SELECT * FROM missing}")
    assert jobplan("run", plan, "--env", "prod", "--yes", "--run-id", "r1").code == 1
    db.run("CREATE TABLE missing ()")
    for arguments in ([], ["--env", "prod"]):  # its record names the server
        refused = jobplan("resume", "r1", *arguments)
        assert refused.code == 2, refused.err
        assert "environment prod is protected" in refused.err
    resumed = jobplan("resume", "r1", "--env", "prod", "--yes")
    assert resumed.code == 0, resumed.err

    nap = jobplan.plan("- {id: nap, sql: SELECT pg_sleep(60)}", file="nap.yaml")
    started = jobplan.start("run", nap, "--env", "prod", "--yes", "--run-id", "r2")
    db.until_workers("nap")
    refused = jobplan("cancel", "r2")
    assert (refused.code, "environment prod is protected" in refused.err) == (2, True), refused.err
    assert started.alive
    assert jobplan("cancel", "r2", "--yes").code == 0
    assert started.ended().code == 1


def test_suggested_commands_name_the_environment(jobplan: Jobplan, db: Database, project: Callable[..., Path]) -> None:
    project(PROTECTED)
    (jobplan.folder / "my file").write_text("A=1\n", encoding="utf-8")
    plan = jobplan.plan("- {id: one, sql: SELECT 1/0}")
    ran = jobplan("run", plan, "--env", "dev", "--env-file", "my file", "--yes", "--run-id", "r1")
    assert ran.labelled("Resume") == ["jobplan resume r1 --env dev --env-file 'my file'"]
    ran = jobplan("run", plan, "--yes", "--run-id", "r2", env={"JOBPLAN_ENV": "dev"})
    assert ran.labelled("Resume") == ["jobplan resume r2"]
    assert db.value("SELECT 1") == 1


@pytest.fixture
def typed(jobplan: Jobplan) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run the command on a terminal, and type a line when it asks."""
    opened: list[int] = []

    def run(answer: str, *arguments: str | Path) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        opened.append(ours)
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *map(str, arguments)],
            cwd=jobplan.folder,
            env={**clean_environment(), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=accept_signals,  # noqa: PLW1509 - no thread of this process holds a lock that it could need
        )
        os.close(theirs)
        shown = b""

        def read() -> bool:
            nonlocal shown
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                return True
            return b"type its name" in shown

        until(read)
        if answer == "\x03":  # the terminal is not the one that controls the process
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, answer.encode())
        code = process.wait(PATIENCE)
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:
            pass
        return code, shown.decode()

    yield run
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize(("answer", "code"), [("prod\n", 0), ("yes\n", 2), ("\n", 2), ("\x04", 2), ("\x03", 130)])
def test_a_terminal_is_asked_for_the_name_of_the_environment(
    db: Database,
    project: Callable[..., Path],
    typed: Callable[..., tuple[int, str]],
    answer: str,
    code: int,
) -> None:
    plan = project(PROTECTED)
    db.run("CREATE TABLE noted (who text)")
    ended, shown = typed(answer, "run", plan, "--env", "prod")
    asked = re.search(r"Environment prod \((.*)\) is protected\. To continue, type its name: ", shown)
    assert asked is not None, shown
    assert conninfo_to_dict(asked[1])["dbname"] == conninfo_to_dict(db.dsn)["dbname"]
    assert ended == code, shown
    assert noted(db) == (["plan"] if code == 0 else [])


def test_a_fleet_has_environments_too(jobplan: Jobplan, project: Callable[..., Path], tmp_path: Path) -> None:
    project(
        'plans = "plans"\nreports = ["jsonl=x", "markdown=fleet.md"]\n'
        '[env.prod]\nconfirm = true\nparams = {who = "fleet"}\n'
    )
    with started_fleet(1, 2) as fleet:
        targets = targets_file(tmp_path, fleet.clusters(slots=[2]), fleet.discover(1))
        arguments: list[str | Path] = [
            "fleet",
            "run",
            "note",
            "--targets",
            targets,
            "--env",
            "prod",
            "--fleet-id",
            "f1",
        ]
        refused = jobplan(*arguments)
        assert (refused.code, "environment prod is protected" in refused.err) == (2, True)
        ran = jobplan(*arguments, "--yes")
        assert ran.code == 0, ran.err
        assert "succeeded" in (jobplan.folder / "fleet.md").read_text(encoding="utf-8")
        assert {row for rows in fleet.everywhere("SELECT who FROM noted").values() for row in rows} == {("fleet",)}
        for command in (["fleet", "resume", "f1"], ["fleet", "cancel", "f1"]):
            assert jobplan(*command, "--env", "prod").code == 2
            assert jobplan(*command, "--env", "prod", "--yes").code == 0


def test_a_password_comes_from_an_env_file_or_pgpass_and_never_from_the_settings(
    jobplan: Jobplan, db: Database, project: Callable[..., Path], small_server: str
) -> None:
    parts = conninfo_to_dict(small_server)
    password = str(parts.pop("password"))
    server = " ".join(f"{key}={value}" for key, value in parts.items())
    project(f'plans = "plans"\n[env.ci]\ndsn = "{server} password={password}"\n')
    refused = jobplan("doctor", "--env", "ci")
    assert refused.code == 2
    assert "jobplan.toml:3:7: error JP276" in refused.err
    assert "~/.pgpass" in refused.err
    assert password not in refused.err
    project(f'plans = "plans"\n[env.ci]\ndsn = "{server}"\n')
    assert jobplan("run", "note", "--env", "ci").code == 4
    (jobplan.folder / "ci.env").write_text(f"# secret\nexport PGPASSWORD='{password}'\n", encoding="utf-8")
    ran = jobplan("run", "note", "--env", "ci", "--env-file", "ci.env")
    assert ran.code == 0, ran.err
    record = next((jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")).read_text(encoding="utf-8")
    assert password not in ran.err + ran.out + record
    assert db.value("SELECT 1") == 1


def test_validate_knows_the_parameters_of_an_environment(jobplan: Jobplan, project: Callable[..., Path]) -> None:
    project('plans = "plans"\n[params]\nwho = "x"\ndays = "3"\n[env.wrong.params]\ndays = "three"\n')
    jobplan.plan(
        "- {id: a, sql: 'CREATE TABLE t (v int DEFAULT :days)'}", file="plans/b.yaml", params="{days: {type: integer}}"
    )
    assert jobplan("validate").code == 0
    found = jobplan("validate", "--env", "wrong")
    assert found.code != 0
    assert "the value of `days` from the project's settings is `three`, not a whole number" in found.out


def test_the_schema_of_settings_is_printed(jobplan: Jobplan) -> None:
    file = Path(__file__).parents[2] / "schemas" / "config-v1.schema.json"
    assert jobplan("schema", "--settings").out == file.read_text(encoding="utf-8")
    assert jobplan("schema", "--settings", "--targets").code == 2


def test_a_variable_names_the_settings_for_commands_elsewhere(
    jobplan: Jobplan, db: Database, project: Callable[..., Path], tmp_path: Path
) -> None:
    project('dsn = %DSN%\nplans = "plans"\nreports = ["junit=out.xml"]\n')
    (tmp_path / "home").mkdir()
    cron = Jobplan(tmp_path / "home")
    env = {"JOBPLAN_CONFIG": str(jobplan.folder / "jobplan.toml")}
    ran = cron("run", "note", "--run-id", "nightly-1", env=env)
    assert ran.code == 0, ran.err
    assert (jobplan.folder / "out.xml").exists()
    assert not list(cron.folder.iterdir())
    for command, environment in ((jobplan, {}), (cron, env)):
        listed = json.loads(command("runs", "--format", "json", env=environment).out)
        assert [one["run"] for one in listed] == ["nightly-1"]
    missing = cron("runs", env={"JOBPLAN_CONFIG": "missing.toml"})
    assert (missing.code, "missing.toml:1:1: error JP001" in missing.err) == (2, True), missing.err
    assert noted(db) == ["plan"]
    cron.close()


@pytest.mark.parametrize("arguments", [["runs"], ["status"], ["validate"], ["run", "x.yaml"], ["fleet", "show"]])
def test_a_wrong_settings_file_is_reported_by_every_command(jobplan: Jobplan, arguments: list[str]) -> None:
    (jobplan.folder / "jobplan.toml").write_text("jurnal = 'x'\nplans: y\n", encoding="utf-8")
    found = jobplan(*arguments)
    assert found.code == 2
    assert found.err.startswith("jobplan.toml:2:6: error JP275: ")
    assert found.err.splitlines()[-1] == "jobplan: the settings in jobplan.toml are not valid: 1 problem"
    assert jobplan("--help").code == jobplan(*arguments, "--help").code == jobplan("help").code == 0


def test_an_environment_that_does_not_exist_is_refused(jobplan: Jobplan) -> None:
    missing = jobplan("runs", "--env", "prod")
    assert (missing.code, "there is no jobplan.toml" in missing.err) == (2, True)
    (jobplan.folder / "jobplan.toml").write_text("[env.prod]\n", encoding="utf-8")
    assert "Did you mean `prod`?" in jobplan("runs", "--env", "prd").err
    assert jobplan("runs", "--env", "prod").code == 0
    assert jobplan("runs", "--env", "").code == 0


def test_a_line_with_a_password_is_not_repeated(jobplan: Jobplan, project: Callable[..., Path]) -> None:
    """With colours the line of a mistake is shown; other mistakes in the same file do not show it either."""
    project('plans = "plans"\n[env.ci]\ndsn = "host=db password=S3cr3tWord"\ntypo = "S3cr3tWord"\n')
    ran = jobplan("run", "note", "--env", "ci", env={"FORCE_COLOR": "1"})
    assert ran.code == 2
    assert "JP276" in ran.err
    assert "typo" in ran.err
    assert "S3cr3tWord" not in ran.err
    targets_file(
        jobplan.folder,
        "clusters: {c1: {connection: {host: db, password: S3cr3tWord, bogus: S3cr3tWord}, slots: 2}}\n",
        "targets: []\n",
    )
    (jobplan.folder / "jobplan.toml").unlink()
    ran = jobplan("fleet", "targets", "targets.yaml", env={"FORCE_COLOR": "1"})
    assert "JP272" in ran.err
    assert "S3cr3tWord" not in ran.err
