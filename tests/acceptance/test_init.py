"""`jobplan init`: what a newcomer gets validates without a warning, runs on an empty database, replaces nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("name", ["a b;c", "it's: # [odd]", "-x", "häuser/жобы", "$(x) `y`", "a.b+c"])
def test_commands_and_snippets_quote_the_name_of_the_folder(tmp_path: Path, name: str) -> None:
    done = jobplan("init", "--", name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / name / "README.md").read_text()
    snippets = [yaml.safe_load(snippet) for snippet in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    commands = [snippets[0]["jobs"]["plans"]["steps"][-1]["run"], snippets[1]["plans"]["script"][-1]]
    commands += [line.strip() for line in done.stdout.splitlines() if line.startswith("  jobplan validate")]
    program = f"{shlex.quote(sys.executable)} -m runner"
    for command in commands:
        script = command.replace("jobplan", program, 1)
        ran = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "first.yaml: valid" in ran.stdout
    assert re.match(snippets[2]["repos"][0]["hooks"][0]["files"], f"{name}/first.yaml")


@pytest.mark.parametrize("name", [b"x\xff", b"esc\x1b[31m", b"new\nline", b"a" * 300, b"rtl\xe2\x80\xae"])
def test_an_impossible_name_is_refused_and_nothing_is_written(tmp_path: Path, name: bytes) -> None:
    done = jobplan("init", os.fsdecode(name), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_second_try_is_possible_after_a_full_disk(tmp_path: Path) -> None:
    """The limit on the size of a file is less than that of the schema."""
    script = f"ulimit -f 8; exec {shlex.quote(sys.executable)} -B -m runner init"
    limited = ["sh", "-c", f"trap '' XFSZ; {script}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(limited, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert jobplan("init", cwd=tmp_path).returncode == 0


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
