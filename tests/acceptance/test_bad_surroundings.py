"""Input and surroundings that once ended in a traceback, and promises about secrets and roles."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan, clean_environment

NOT_UTF8 = os.fsdecode(b"host=/nowhere dbname=\xff")
ONE = "- {id: one, sql: SELECT 1}"


def test_a_connection_string_that_is_not_utf_8_is_wrong_usage(jobplan: Jobplan) -> None:
    plan = jobplan.plan(ONE)
    for command in (("run", plan), ("status",), ("doctor",), ("dry-run", plan), ("ledger", "status")):
        ran = jobplan(*command, "--dsn", NOT_UTF8)
        assert (ran.code, ran.err) == (2, "jobplan: --dsn is not UTF-8: libpq takes no other connection string.\n")
    ran = jobplan("run", plan, env={"JOBPLAN_DSN": NOT_UTF8})
    assert ran.code == 2
    assert "JOBPLAN_DSN is not UTF-8" in ran.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_whose_encoding_lacks_a_character_gets_escapes(jobplan: Jobplan, encoding: str) -> None:
    plan = jobplan.plan('- {id: one, sql: SELECT 1, description: "Жук 😀"}', name="trial", description='"Жук"')
    env = {"PYTHONIOENCODING": f"{encoding}:strict"}
    for command in (("validate", plan), ("validate", plan, "--format", "json"), ("graph", plan), ("schema",)):
        ran = jobplan(*command, env=env)
        assert ran.code == 0, ran.err
        assert "Traceback" not in ran.err


def test_a_working_directory_that_was_deleted_is_named(jobplan: Jobplan) -> None:
    plan = jobplan.plan(ONE).resolve()
    gone = jobplan.folder / "gone"
    for command in (["validate", str(plan)], ["run", str(plan), "--dsn", "host=/nowhere"], ["runs"], ["init"]):
        gone.mkdir()
        script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m runner {' '.join(command)}"
        ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=clean_environment(), check=False)
        assert ran.returncode in (0, 2, 4), ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["plan.json", "events.jsonl", "events.head", "plan-0123456789abcdef.json"])
def test_a_record_of_a_hundred_thousand_brackets_is_damaged(jobplan: Jobplan, db: Database, name: str) -> None:
    assert jobplan("run", jobplan.plan("- {id: one, sql: SELECT 1/0}"), "--dsn", db.dsn).code == 1
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    path = folder / name
    path.write_text("[" * 100_000 + "\n", encoding="ascii")
    path.chmod(0o600)
    if name == "plan.json":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "plan.sha256").write_text(f"{digest}  plan.json\n", encoding="ascii")
    for command in (("show", "last"), ("resume", folder.name), ("runs",), ("status", "--dsn", db.dsn)):
        ran = jobplan(*command)
        assert ran.code in (0, 1, 4), (command, ran.err)
        assert "Traceback" not in ran.err


def test_a_ledger_without_a_version_is_damaged_and_does_not_stop_a_run(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    db.run("DELETE FROM jobplan.meta")
    ran = jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "-v")
    assert ran.code == 0
    assert "no ledger: the one in schema jobplan has no version: its table meta is empty" in ran.lines
    for command in (("status",), ("install",), ("upgrade",), ("purge", "--older-than", "0s")):
        refused = jobplan("ledger", *command, "--dsn", db.dsn)
        assert refused.code == 4, refused.err
        assert "its table meta is empty" in refused.err


def test_a_secret_parameter_is_refused_with_the_way_that_works(jobplan: Jobplan) -> None:
    plan = jobplan.plan("""- {id: one, sql: "SELECT :'pw'"}""", params="{pw: {type: secret}}")
    ran = jobplan("validate", plan)
    assert ran.code == 3
    assert "no parameter is secret: a worker's SQL is in pg_stat_activity" in ran.out + ran.err
    assert "a user mapping" in ran.out + ran.err


def test_sql_of_a_step_can_reset_its_role_as_the_manual_says(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP ROLE IF EXISTS restricted")
    db.run("CREATE ROLE restricted")
    db.run("CREATE TABLE seen (who text)")
    plan = jobplan.plan('- {id: one, role: restricted, sql: "RESET ROLE; INSERT INTO seen SELECT current_user"}')
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    assert db.column("SELECT who FROM seen") == [db.value("SELECT session_user")]
    db.run("DROP ROLE restricted")


def test_the_page_on_security_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "security.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py"))
    named = {word for word in page.replace("`", " ").split() if word.startswith("test_")}
    named = {word.rstrip(".,;):") for word in named}
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in tests] == []
