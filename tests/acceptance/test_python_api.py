"""docs/python-api.md: its programs run as they are written, and a type checker accepts them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import runner
from tests.acceptance.console import Database, clean_environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
EXAMPLE, RESUMING = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CALL = "\nimport sys\nsys.exit(main(*sys.argv[1:4]))\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the plans and the programs of the page."""
    shutil.copytree(ROOT / "plans", tmp_path / "plans")
    (tmp_path / "example.py").write_text(EXAMPLE, encoding="utf-8")
    (tmp_path / "resuming.py").write_text(RESUMING + CALL, encoding="utf-8")
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment({"PYTHONPATH": str(ROOT)})
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_example_runs_a_plan(folder: Path, db: Database) -> None:
    ran = python(folder, "example.py", "plans/quickstart.yaml", db.dsn, "1000")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^fill_orders: succeeded in \d+\.\d s$", ran.stdout, re.MULTILINE)
    assert re.search(r"^run \d{6}-\w{6}: exit code 0, failed: none$", ran.stdout, re.MULTILINE)
    assert db.value("SELECT count(*) FROM shop.orders") == 1000
    assert ran.stderr == ""


def test_the_example_reports_what_is_wrong(folder: Path, db: Database) -> None:
    (folder / "bad.yaml").write_text("version: 1\n", encoding="utf-8")
    invalid = python(folder, "example.py", "bad.yaml", db.dsn, "1")
    assert invalid.returncode == 3
    assert "bad.yaml:1:1: error" in invalid.stdout
    nowhere = python(folder, "example.py", "plans/quickstart.yaml", "host=/nonexistent", "1000")
    assert nowhere.returncode == 4
    assert "/nonexistent" in nowhere.stdout


def test_the_same_call_finishes_a_run_and_then_does_nothing(folder: Path, db: Database) -> None:
    plan = folder / "plan.yaml"
    plan.write_text(
        "version: 1\nname: trial\nbudget: {slots: 1}\ndefaults: {timeout: 20s, on_finish: wait}\n"
        "steps:\n  - {id: once, sql: CREATE TABLE once (n int)}\n"
        "  - {id: later, needs: [once], sql: INSERT INTO missing VALUES (1)}\n",
        encoding="utf-8",
    )
    ends = []
    for statement in ("SELECT 1", "CREATE TABLE missing (n int)", "SELECT 1"):
        db.run(statement)
        ran = python(folder, "resuming.py", "plan.yaml", db.dsn, "etl-1")
        ends.append((ran.returncode, ran.stdout.strip()))
    assert ends == [
        (1, "run etl-1 was begun: exit code 1"),
        (0, "run etl-1 was resumed: exit code 0"),
        (0, "run etl-1 was done: exit code 0"),
    ]
    assert db.value("SELECT count(*) FROM missing") == 1


def test_every_public_name_is_on_the_page() -> None:
    for name in runner.__all__:
        assert getattr(runner, name) is not None
        assert name in PAGE or name == "__version__", name


@pytest.mark.slow
def test_a_type_checker_accepts_the_programs(folder: Path) -> None:
    (ini,) = re.findall(r"^```ini\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "mypy.ini").write_text(f"[mypy]\n{ini}", encoding="utf-8")
    ran = python(folder, "-m", "mypy", "--strict", "example.py", "resuming.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
