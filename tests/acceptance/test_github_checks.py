"""`validate` and `dry-run` in a job of GitHub Actions or GitLab: annotations, step summary and report files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.acceptance.console import Database, Jobplan

HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait}\n"
GOOD = HEAD + "steps:\n  - {id: a, sql: CREATE TABLE t (n int)}\n  - {id: b, needs: [a], sql: ANALYZE t}\n"
BAD = HEAD + "steps:\n  - id: a\n    sql: SELEC 1\n"
MISSING = HEAD + "steps:\n  - id: a\n    sql: ANALYZE no_such_table\n"


class GitHub:
    """The surroundings of a step."""

    def __init__(self, folder: Path) -> None:
        self.summary = folder / "summary.md"
        self.environment = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(folder),
        }

    @property
    def text(self) -> str:
        return self.summary.read_text(encoding="utf-8")


@pytest.fixture
def github(jobplan: Jobplan) -> GitHub:
    return GitHub(jobplan.folder)


def written(jobplan: Jobplan, text: str, name: str = "plan.yaml") -> str:
    """Write a plan into the command's folder, and return its name there."""
    (jobplan.folder / name).write_text(text, encoding="utf-8")
    return name


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("::")]


def test_validate_annotates_and_summarises_by_itself(jobplan: Jobplan, github: GitHub) -> None:
    good, bad = written(jobplan, GOOD, "good.yaml"), written(jobplan, BAD, "bad.yaml")
    ran = jobplan("validate", good, bad, env=github.environment)
    assert ran.code == 3
    assert "good.yaml: valid, 2 steps" in ran.out
    assert commands(ran.out) == ['::error file=bad.yaml,line=7,col=10,title=JP300::syntax error at or near "SELEC"']
    assert github.text.startswith("### ❌ 1 of 2 plans invalid\n")
    assert github.text.count("```mermaid\nflowchart LR") == 1


def test_validate_outside_of_github_writes_neither(jobplan: Jobplan, github: GitHub) -> None:
    ran = jobplan("validate", written(jobplan, BAD), env={"GITHUB_STEP_SUMMARY": str(github.summary)})
    assert ran.code == 3
    assert commands(ran.out) == []
    assert not github.summary.exists()


def test_data_on_standard_output_stays_data(jobplan: Jobplan, github: GitHub) -> None:
    plan = written(jobplan, BAD)
    for arguments in (("--format", "json"), ("--report", "json=-")):
        ran = jobplan("validate", plan, *arguments, env=github.environment)
        assert [found["code"] for found in json.loads(ran.out)] == ["JP300"]
        assert len(commands(ran.err)) == 1


def test_the_github_format_has_no_annotation_twice(jobplan: Jobplan, github: GitHub) -> None:
    ran = jobplan("validate", written(jobplan, BAD), "--format", "github", env=github.environment)
    assert len(commands(ran.out + ran.err)) == 1
    assert github.text.startswith("### ❌ 1 of 1 plan invalid")


def test_a_plan_with_more_problems_than_github_shows(jobplan: Jobplan, github: GitHub) -> None:
    steps = "".join(f"  - {{id: s{number}, sql: SELEC {number}}}\n" for number in range(30))
    ran = jobplan("validate", written(jobplan, f"{HEAD}steps:\n{steps}"), env=github.environment)
    found = commands(ran.out)
    assert len(found) == 10
    assert "21 more errors have no annotation" in found[-1]
    assert github.text.count("| ❌ JP300 |") == 30


@pytest.mark.parametrize("name", ["::error::x.yaml", "##[error]x.yaml", " ::stop-commands::t.yaml"])
def test_the_name_of_a_file_is_no_command(jobplan: Jobplan, github: GitHub, name: str) -> None:
    written(jobplan, BAD, name)
    ran = jobplan("validate", ".", env=github.environment)
    assert ran.code == 3
    assert [line[:7] for line in commands(ran.out)] == ["::error"]
    assert not any(line.lstrip().startswith("::") for line in ran.out.splitlines() if "title=JP" not in line)
    assert "##[" not in ran.out.replace(commands(ran.out)[0], "")


def test_a_dry_run_annotates_and_summarises_by_itself(jobplan: Jobplan, github: GitHub, db: Database) -> None:
    ran = jobplan("dry-run", written(jobplan, MISSING), "--dsn", db.dsn, env=github.environment)
    assert ran.code == 3
    (line,) = commands(ran.out)
    assert line.startswith("::error file=plan.yaml,line=7,col=")
    assert "no_such_table" in line
    assert github.text.startswith("## Dry run of example\n")
    assert "```mermaid\nflowchart LR" in github.text


def test_a_run_draws_its_graph_with_the_ends_of_its_steps(jobplan: Jobplan, github: GitHub, db: Database) -> None:
    plan = written(
        jobplan,
        HEAD
        + "steps:\n  - {id: a, sql: SELECT 1}\n  - {id: b, sql: SELECT 1/0}\n  - {id: c, needs: [b], sql: SELECT 1}\n",
    )
    ran = jobplan("run", plan, "--dsn", db.dsn, env=github.environment)
    assert ran.code == 1
    for line in ("  class s1 succeeded\n", "  class s2 failed\n", "  class s3 skipped\n"):
        assert line in github.text


def test_a_run_with_more_failures_than_github_shows(jobplan: Jobplan, github: GitHub, db: Database) -> None:
    steps = "".join(f"  - {{id: s{number}, sql: SELECT 1/0}}\n" for number in range(13))
    ran = jobplan("run", written(jobplan, f"{HEAD}steps:\n{steps}"), "--dsn", db.dsn, env=github.environment)
    found = commands(ran.out)
    assert len(found) == 10
    assert "4 more errors have no annotation" in found[-1]


def test_report_files_of_validate_and_dry_run(jobplan: Jobplan, db: Database) -> None:
    plan = written(jobplan, MISSING)
    for command in (["validate", plan], ["dry-run", plan, "--dsn", db.dsn]):
        kinds = {
            "junit": "junit.xml",
            "codequality": "quality.json",
            "sarif": "s.sarif",
            "json": "j.json",
            "markdown": "m.md",
        }
        reports = [word for kind, file in kinds.items() for word in ("--report", f"{kind}={file}")]
        ran = jobplan(*command, *reports)
        failed = command[0] == "dry-run"
        assert ran.code == (3 if failed else 0)
        read = {kind: (jobplan.folder / file).read_text(encoding="utf-8") for kind, file in kinds.items()}
        root = ET.fromstring(read["junit"])  # noqa: S314 - our own output
        assert root.get("failures") == str(int(failed))
        assert {case.get("line") for case in root.iter("testcase")} >= {"1"}
        assert len(json.loads(read["codequality"])) == int(failed)
        assert json.loads(read["sarif"])["version"] == "2.1.0"
        assert isinstance(json.loads(read["json"]), dict if failed else list)
        assert read["markdown"].startswith("#")
        for file in kinds.values():
            (jobplan.folder / file).unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--report", "html=x"), "there is no kind 'html'; the kinds are junit, codequality, sarif, json, markdown"),
        (("--report", "junit"), "is not KIND=PATH"),
        (("--report", "junit=-", "--format", "json"), "exclude each other"),
        (("--report", "junit=a", "--report", "sarif=a"), "is another report"),
        (("--report", "junit=plan.yaml"), "which the plan or the command reads"),
    ],
)
def test_a_report_that_cannot_be_is_wrong_usage(jobplan: Jobplan, arguments: tuple[str, ...], words: str) -> None:
    ran = jobplan("validate", written(jobplan, GOOD), *arguments)
    assert ran.code == 2
    assert words in " ".join(ran.err.split())


def test_a_report_that_cannot_be_written_is_an_error(jobplan: Jobplan) -> None:
    ran = jobplan("validate", written(jobplan, GOOD), "--report", "junit=nowhere/junit.xml")
    assert ran.code == 4
    assert "the junit report nowhere/junit.xml cannot be written: No such file or directory" in ran.err
