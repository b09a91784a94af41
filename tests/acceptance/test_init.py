"""`jobplan init`: what a newcomer gets validates without a warning, runs on an empty database, replaces nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def jobplan(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_first_plan_validates_and_runs_on_an_empty_database(tmp_path: Path, database: str) -> None:
    done = jobplan("init", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "jobplan run --embedded plans/first.yaml" in done.stdout
    checked = jobplan("validate", "--strict", "plans/first.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "plans/first.yaml: valid, 5 steps\n")
    for _ in range(2):  # and again, on what the first run left
        ran = jobplan("run", "--dsn", database, "plans/first.yaml", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert "5 succeeded" in ran.stderr


def test_an_editor_finds_the_schema(tmp_path: Path) -> None:
    jobplan("init", "db/jobs", cwd=tmp_path)
    folder = tmp_path / "db" / "jobs"
    modeline = (folder / "first.yaml").read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", modeline)
    assert found is not None
    schema = json.loads((folder / found[1]).read_text())
    assert schema == json.loads((ROOT / "schemas" / "plan-v1.schema.json").read_text())


def test_the_snippets_for_ci_are_yaml_about_the_folder(tmp_path: Path) -> None:
    jobplan("init", "jobs", cwd=tmp_path)
    text = (tmp_path / "jobs" / "README.md").read_text()
    snippets = [yaml.safe_load(snippet) for snippet in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(snippets) == 3
    assert snippets[0]["jobs"]["plans"]["steps"][-1]["run"] == "jobplan validate --strict jobs/*.yaml"
    assert snippets[1]["plans"]["script"][-1] == "jobplan validate --strict jobs/*.yaml"
    assert re.match(snippets[2]["repos"][0]["hooks"][0]["files"], "jobs/first.yaml")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    readme = tmp_path / "plans" / "README.md"
    readme.parent.mkdir()
    readme.write_text("mine")
    done = jobplan("init", cwd=tmp_path)
    assert done.returncode == 2
    assert "plans/README.md: already exists, so nothing was written." in done.stderr
    assert [path.name for path in readme.parent.iterdir()] == ["README.md"]
    assert readme.read_text() == "mine"


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file")
    done = jobplan("init", cwd=tmp_path)
    assert done.returncode == 2
    assert "plans" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_pre_commit_hook_names_plans(tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "jobplan"
    plans = sorted((ROOT / "plans").glob("*.yaml"))
    assert all(re.search(hook["files"], str(path.relative_to(ROOT))) for path in plans)
    arguments = hook["entry"].split()[1:]
    done = jobplan(*arguments, *(str(path) for path in plans), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
