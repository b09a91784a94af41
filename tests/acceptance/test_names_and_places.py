"""Folders of plans, misspelt commands, annotations from any folder, and connections that fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan

ONE = "- {id: one, sql: SELECT 1}"
WRONG = "- {id: one, sql: SELEC 1}"


def write(jobplan: Jobplan, name: str, text: str) -> None:
    path = jobplan.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def repository(jobplan: Jobplan) -> Jobplan:
    """A folder as a repository has it: plans, what they include, and the YAML of other programs."""
    for folder in ("plans/sub", "plans/.hidden"):
        (jobplan.folder / folder).mkdir(parents=True)
    jobplan.plan(ONE, file="plans/b.yaml")
    jobplan.plan(ONE, file="plans/a.yml")
    jobplan.plan(ONE, file="plans/sub/c.yaml", include="[more.yaml]")
    write(jobplan, "plans/sub/more.yaml", "steps:\n  - {id: two, sql: SELECT 2}\n")
    jobplan.plan(WRONG, file="plans/.hidden/x.yaml")
    jobplan.plan(WRONG, file="plans/.draft.yaml")
    write(jobplan, "plans/azure-pipelines.yml", "name: ci\ntrigger: [main]\nsteps:\n  - script: make\n")
    write(jobplan, "plans/compose.yaml", 'version: "3"\nservices: {}\n')
    write(jobplan, "plans/.gitlab-ci.yml", "job: {script: [make]}\n")
    write(jobplan, "plans/targets.yaml", "version: 1\ntargets: []\n")
    write(jobplan, "plans/notes.txt", "steps:\n")
    return jobplan


def test_a_folder_stands_for_its_plans(repository: Jobplan) -> None:
    ran = repository("validate", "plans")
    assert ran.code == 0, ran.out + ran.err
    named = [line.partition(":")[0] for line in ran.out.splitlines() if ": valid" in line]
    assert named == ["plans/a.yml", "plans/b.yaml", "plans/sub/c.yaml"]
    for name in ("azure-pipelines.yml", "compose.yaml", "targets.yaml", "sub/more.yaml"):
        assert f"plans/{name}: left out" in ran.err
    assert "hidden" not in ran.err
    assert repository("validate", "plans", "-q").err == ""


def test_a_folder_with_a_plan_that_cannot_be_read(repository: Jobplan) -> None:
    write(repository, "plans/broken.yaml", "version: 1\nname: x\nsteps: [\n")
    ran = repository("validate", "plans", "--format", "json")
    assert ran.code == 3
    errors = [problem["file"] for problem in json.loads(ran.out) if problem["severity"] == "error"]
    assert set(errors) == {"plans/broken.yaml"}


def test_a_folder_and_a_file_in_it_are_one_check(repository: Jobplan) -> None:
    ran = repository("validate", "plans/b.yaml", "plans", "plans")
    assert ran.out.count("plans/b.yaml: valid") == 1


def test_a_folder_without_plans_is_wrong_usage(jobplan: Jobplan) -> None:
    (jobplan.folder / "empty").mkdir()
    ran = jobplan("validate", "empty")
    assert (ran.code, "there are no plans in the folder empty" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["valdiate"], "validate"),
        (["Run"], "run"),
        (["dryrun"], "dry-run"),
        (["statsu"], "status"),
        (["server", "strat"], "start"),
        (["ledger", "instal"], "install"),
        (["run", "--prams", "a=1"], "--param"),
        (["validate", "--strickt"], "--strict"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(jobplan: Jobplan, arguments: list[str], guess: str) -> None:
    ran = jobplan(*arguments)
    assert ran.code == 2
    assert "Did you mean" in ran.err
    assert f"'{guess}'" in ran.err or guess in ran.err.partition("Did you mean")[2]


def test_what_is_nothing_like_a_command_gets_none(jobplan: Jobplan) -> None:
    ran = jobplan("xyzzy")
    assert (ran.code, "Did you mean" in ran.err) == (2, False)


def annotation_files(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line.startswith(("::error", "::warning"))]
    return {found for line in lines for found in re.findall(r"file=([^,:]*)", line)}


@pytest.mark.parametrize("workspace", [True, False])
@pytest.mark.parametrize("inside", ["", "plans/sub", "../elsewhere"])
def test_annotations_are_relative_to_the_repository_from_any_folder(
    jobplan: Jobplan, db: Database, inside: str, workspace: bool
) -> None:
    root = jobplan.folder / "work"
    (root / "plans" / "sub").mkdir(parents=True)
    (jobplan.folder / "elsewhere").mkdir()
    (root / ".git").mkdir()
    env = {"GITHUB_ACTIONS": "true", **({"GITHUB_WORKSPACE": str(root)} if workspace else {})}
    top = Jobplan(root)
    top.plan("- {id: one, sql: SELECT 1 / 0}", file="plans/bad.yaml")
    top.plan(WRONG, file="plans/wrong.yaml")
    there = Jobplan(root / inside)
    plans = Path("../work/plans") if inside.startswith("..") else Path(*[".."] * len(Path(inside).parts), "plans")
    try:
        for command in (("validate", plans / "wrong.yaml", "--format", "github"),):
            assert annotation_files(there(*command, env=env).out) == {"plans/wrong.yaml"}
        ran = there("run", plans / "bad.yaml", "--dsn", db.dsn, env=env)
        assert (ran.code, annotation_files(ran.out)) == (1, {"plans/bad.yaml"})
        again = there("resume", "last", "--dsn", db.dsn, env=env)
        assert (again.code, annotation_files(again.out)) == (1, {"plans/bad.yaml"})
        dry = there("dry-run", plans / "bad.yaml", "--dsn", make_conninfo(db.dsn), "--format", "github", env=env)
        assert annotation_files(dry.out) <= {"plans/bad.yaml"}
    finally:
        there.close()
        top.close()


@pytest.mark.parametrize("command", ["run", "dry-run", "doctor", "status", "ledger"])
def test_every_command_that_connects_has_the_remedy(jobplan: Jobplan, db: Database, command: str) -> None:
    plan = jobplan.plan(ONE)
    words = {"run": ("run", plan), "dry-run": ("dry-run", plan), "ledger": ("ledger", "status")}.get(
        command, (command,)
    )
    gone = make_conninfo(db.dsn, dbname="not_there", password="S3cr3t")  # noqa: S106 - a password to look for
    for dsn, says in (
        (gone, "psql -l"),
        (make_conninfo(db.dsn, user="nobody_here"), "user="),
        ("host=127.0.0.1 port=1 dbname=x", "No server listens there"),
        ("host=nowhere.invalid dbname=x", "DNS"),
        ("password=my S3cr3t", "connection string"),
        ("postgresql://a:my@S3cr3t@nowhere.invalid/d", "DNS"),
    ):
        ran = jobplan(*words, "--dsn", dsn)
        assert ran.code == 4, (dsn, ran.err)
        assert says in ran.err, ran.err
        assert "S3cr3t" not in ran.out + ran.err
