"""action.yml: its scripts run as GitHub runs them, the comment goes to a server that behaves as GitHub's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.console import Database, clean_environment

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
STEPS = ACTION["runs"]["steps"]
HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 20s, on_finish: wait}\n"


class GitHub:
    """The API for comments of one pull request, with what was asked."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.login = "github-actions[bot]"
        self.refusals: list[int] = []
        github = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/user":
                    known = github.login != "github-actions[bot]"
                    self._answer(200 if known else 403, {"login": github.login})
                    return
                page = int(re.search(r"page=(\d+)$", self.path)[1])  # type: ignore[index] # the client writes it
                self._answer(200, github.comments[(page - 1) * 100 : page * 100])

            def do_POST(self) -> None:
                self._keep({"id": len(github.comments) + 1, "user": {"login": github.login}}, new=True)

            def do_PATCH(self) -> None:
                number = int(self.path.rpartition("/")[2])
                self._keep(next(one for one in github.comments if one["id"] == number), new=False)

            def _keep(self, comment: dict[str, Any], *, new: bool) -> None:
                text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
                if github.refusals:
                    self._answer(github.refusals.pop(0), {"message": "no"})
                    return
                comment |= {"body": text, "html_url": f"http://example.invalid/{comment['id']}"}
                if new:
                    github.comments.append(comment)
                self._answer(201 if new else 200, comment)

            def _answer(self, status: int, value: object) -> None:
                github.asked.append(f"{self.command} {self.path}")
                github.tokens.add(self.headers["Authorization"])
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, login: str, body: str) -> None:
        self.comments.append({"id": len(self.comments) + 1, "user": {"login": login}, "body": body})


@pytest.fixture
def github() -> Iterator[GitHub]:
    api = GitHub()
    thread = threading.Thread(target=api.server.serve_forever)
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


class Job:
    """A job of GitHub Actions with the checkout in its folder and jobplan installed as the action installs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "plans", folder / "plans")
        self.temp = folder / "temp"
        for name in ("path", "bin"):
            (self.temp / "jobplan" / name).mkdir(parents=True)
        self._script(self.temp / "jobplan/path/jobplan", f'exec {sys.executable} -m runner "$@"')
        self._script(self.temp / "jobplan/bin/python", f'exec {sys.executable} "$@"')
        self.output = folder / "output"

    def _script(self, path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o755)

    def step(self, name: str, inputs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the step with this name, with what GitHub puts into its environment."""
        (step,) = [one for one in STEPS if one.get("name") == name]
        values = {key: str(one.get("default", "")) for key, one in ACTION["inputs"].items()} | inputs
        places = {"github.action_path": str(ROOT), "steps.python.outputs.python-path": sys.executable}
        places |= {f"inputs.{key}": value for key, value in values.items()}
        env = {
            key: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: places[found[1]], value)
            for key, value in step["env"].items()
        }
        given = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_WORKSPACE": str(self.folder),
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env=clean_environment(given | env | environment),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def use(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        return self.step("Use the plan", {key.replace("_", "-"): value for key, value in inputs.items()})

    def comment(self, github: GitHub, *, event: object = None, **inputs: str) -> subprocess.CompletedProcess[str]:
        file = self.folder / "event.json"
        about = {"pull_request": {"number": 7, "head": {"sha": "0123456789abcdef"}}} if event is None else event
        file.write_text(json.dumps(about), encoding="utf-8")
        return self.step(
            "Comment on the pull request",
            {"token": "t0ken", **inputs},
            GITHUB_API_URL=github.url,
            GITHUB_EVENT_PATH=str(file),
            GITHUB_REPOSITORY="owner/name",
        )

    @property
    def outputs(self) -> dict[str, str]:
        lines = self.output.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def reports(self) -> set[str]:
        return {path.name for path in (self.folder / "jobplan-reports").iterdir()}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_run_with_its_outputs_reports_and_summary(job: Job, db: Database) -> None:
    ran = job.use(plan="plans/quickstart.yaml", dsn=db.dsn, params="orders=1000\n")
    assert ran.returncode == 0, ran.stderr
    assert job.reports() == {"report.html", "report.md", "junit.xml", "events.jsonl"}
    assert job.outputs["exit-code"] == "0"
    assert f"run {job.outputs['run-id']}: " in ran.stderr
    assert job.outputs["reports"] == "jobplan-reports"
    assert (job.folder / "summary.md").read_text(encoding="utf-8").startswith("### ✅ `quickstart` succeeded")
    assert db.value("SELECT count(*) FROM shop.orders") == 1000


def test_a_failure_has_its_exit_code_and_annotations(job: Job, db: Database) -> None:
    (job.folder / "bad.yaml").write_text(f"{HEAD}steps:\n  - {{id: a, sql: ANALYZE no_table}}\n", encoding="utf-8")
    for command, code in (("validate", 0), ("dry-run", 3), ("run", 1)):
        job.output.unlink(missing_ok=True)
        ran = job.use(plan="bad.yaml", command=command, dsn=db.dsn if command != "validate" else "")
        assert ran.returncode == code, ran.stderr
        assert job.outputs["exit-code"] == str(code)
        assert ("::error " in ran.stdout) is bool(code)
        assert {"report.md", "junit.xml"} <= job.reports()
        assert bool(job.outputs["run-id"]) is (command == "run")


def test_arguments_with_spaces_and_shell_characters_stay_arguments(job: Job, db: Database) -> None:
    (job.folder / "my plans").mkdir()
    (job.folder / "my plans" / "$(touch hacked).yaml").write_text(
        f"{HEAD}params: {{note: {{type: string}}}}\nsteps:\n"
        "  - id: a\n    sql: CREATE TABLE kept AS SELECT :'note' AS note\n",
        encoding="utf-8",
    )
    text = 'a b; touch hacked; $(touch hacked) "*"'
    ran = job.use(plan="my plans/$(touch hacked).yaml", dsn=db.dsn, params=f"note={text}", args="--format\njson")
    assert ran.returncode == 0, ran.stderr
    assert db.value("SELECT note FROM kept") == text
    assert not (job.folder / "hacked").exists()
    assert json.loads(ran.stderr.splitlines()[-1])["event"] == "summary"


def test_an_unknown_command_is_refused(job: Job) -> None:
    ran = job.use(plan="plans/quickstart.yaml", command="server stop")
    assert ran.returncode == 2
    assert "::error title=jobplan::The input command is not" in ran.stdout


def test_a_comment_is_written_once_and_then_updated(job: Job, github: GitHub, db: Database) -> None:
    inputs = {"plan": "plans/quickstart.yaml", "command": "dry-run"}
    for _ in range(2):
        assert job.use(**inputs, dsn=db.dsn).returncode == 0
        said = job.comment(github, **inputs)
        assert (said.returncode, said.stdout) == (0, "comment: http://example.invalid/1\n")
    (comment,) = github.comments
    lines = comment["body"].splitlines()
    assert lines[1] == "## Dry run of quickstart"
    assert lines[-1] == "<sub>jobplan at commit 0123456789ab</sub>"
    assert [line.split(" ")[0] for line in github.asked if "GET" not in line] == ["POST", "PATCH"]
    assert github.tokens == {"Bearer t0ken"}


def test_each_plan_and_command_has_its_comment(job: Job, github: GitHub) -> None:
    for command in ("validate", "dry-run"):
        for plan in ("plans/quickstart.yaml", "plans/other.yaml"):
            (job.folder / "jobplan-reports").mkdir(exist_ok=True)
            (job.folder / "jobplan-reports/report.md").write_text("text", encoding="utf-8")
            job.comment(github, plan=plan, command=command)
    assert len({comment["body"].splitlines()[0] for comment in github.comments}) == 4


def report(job: Job, text: str) -> dict[str, str]:
    (job.folder / "jobplan-reports").mkdir(exist_ok=True)
    (job.folder / "jobplan-reports/report.md").write_text(text, encoding="utf-8")
    return {"plan": "a.yaml", "command": "dry-run"}


def test_a_comment_of_another_user_with_the_mark_is_left_alone(job: Job, github: GitHub) -> None:
    inputs = report(job, "text")
    job.comment(github, **inputs)
    first = github.comments.pop()["body"].splitlines()[0]
    github.add("stranger", f"{first}\nforged")
    for _ in range(120):
        github.add("somebody", "talk")
    job.comment(github, **inputs)
    job.comment(github, **inputs)
    assert github.comments[0]["body"].endswith("forged")
    assert [comment["user"]["login"] for comment in github.comments[121:]] == ["github-actions[bot]"]


def test_a_token_of_a_person_updates_the_comment_of_that_person(job: Job, github: GitHub) -> None:
    inputs = report(job, "text")
    github.login = "maintainer"
    job.comment(github, **inputs)
    job.comment(github, **inputs)
    assert [comment["user"]["login"] for comment in github.comments] == ["maintainer"]


def test_a_long_report_is_shortened(job: Job, github: GitHub) -> None:
    job.comment(github, **report(job, "é" * 70_000))
    assert len(github.comments[0]["body"]) <= 65_536
    assert "…\n\n<sub>" in github.comments[0]["body"]


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_a_comment_that_is_refused_is_a_warning(job: Job, github: GitHub, status: int) -> None:
    github.refusals = [status]
    said = job.comment(github, **report(job, "text"))
    assert said.returncode == 0
    assert said.stdout.startswith("::warning title=jobplan::The comment was not written (POST /repos/owner/name/")
    assert f"HTTP {status}" in said.stdout
    assert "t0ken" not in said.stdout + said.stderr


def test_a_fault_of_the_server_is_tried_again(job: Job, github: GitHub) -> None:
    github.refusals = [502]
    assert job.comment(github, **report(job, "text")).stdout == "comment: http://example.invalid/1\n"


@pytest.mark.parametrize("event", [{}, {"pull_request": None}, {"push": 1}, []])
def test_a_job_that_is_about_no_pull_request_has_no_comment(job: Job, github: GitHub, event: object) -> None:
    said = job.comment(github, event=event, **report(job, "text"))
    assert (said.returncode, said.stdout) == (0, "no comment: this job is not about a pull request\n")
    assert github.asked == []


def test_without_a_report_there_is_no_comment(job: Job, github: GitHub) -> None:
    said = job.comment(github, plan="a.yaml", command="dry-run")
    assert (said.returncode, said.stdout) == (0, "no comment: there is no report\n")


def test_the_action_knows_the_inputs_that_it_uses_and_the_page_describes_them() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == ACTION["inputs"].keys()
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert rows == ACTION["inputs"].keys() | ACTION["outputs"].keys()
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for step in steps_of(yaml.safe_load(block)):
            if str(step.get("uses", "")).startswith("OWNER/jobplan@"):
                assert step.get("with", {}).keys() <= ACTION["inputs"].keys()


def steps_of(value: Any) -> Iterator[dict[str, Any]]:
    for job in value.get("jobs", {}).values():
        yield from job["steps"]


def test_each_step_of_the_action_names_its_shell_and_pins_what_it_uses() -> None:
    for step in STEPS:
        assert "uses" in step or step["shell"] == "bash"
        assert "@" in step.get("uses", "@")


@pytest.mark.slow
def test_the_action_installs_jobplan_from_its_own_source(job: Job) -> None:
    shutil.rmtree(job.temp)
    job.temp.mkdir()
    path = job.folder / "path"
    done = job.step("Install jobplan", {}, GITHUB_PATH=str(path), PYTHONPATH="", PYTHONWARNINGS="")
    assert done.returncode == 0, done.stderr
    program = Path(path.read_text(encoding="utf-8").strip()) / "jobplan"
    shown = subprocess.run([program, "--version"], cwd=job.folder, capture_output=True, text=True, check=True)
    assert shown.stdout == f"jobplan {job.outputs['version']}\n"
    assert [one.name for one in program.parent.iterdir()] == ["jobplan"]
