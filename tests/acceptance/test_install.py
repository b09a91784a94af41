"""What `pip install .` gives: a command that works outside the checkout, with its schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner import __version__
from runner.codes import CODES
from tests.acceptance.console import clean_environment

ROOT = Path(__file__).parents[2]

PLAN = """
version: 1
name: first
budget: {slots: 1}
steps:
  - {id: one, sql: CREATE TABLE one AS SELECT 1 AS n, timeout: 10s, on_finish: wait}
"""


class Elsewhere:
    """An empty environment with nothing but jobplan in it, and a folder that knows nothing of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        self.run(sys.executable, "-m", "venv", str(folder / "venv"))
        self.run(str(self._bin / "pip"), "install", "--quiet", "--disable-pip-version-check", str(ROOT))

    def jobplan(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        return self.run(str(self._bin / "jobplan"), *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that has to succeed."""
        environment = {**clean_environment(), "PYTHONPATH": "", "PYTHONWARNINGS": ""}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done


@pytest.mark.slow
def test_the_installed_command_works_outside_the_checkout(tmp_path: Path) -> None:
    elsewhere = Elsewhere(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    assert elsewhere.jobplan("--version").stdout == f"jobplan {__version__}\n"
    schema = (ROOT / "schemas" / "plan-v1.schema.json").read_text(encoding="utf-8")
    assert json.loads(elsewhere.jobplan("schema").stdout) == json.loads(schema)
    explained = elsewhere.jobplan("validate", "--explain", "index-blocks-writes").stdout
    assert explained.startswith("JP341 (warning): An index build that blocks writes\n\nCREATE INDEX holds a SHARE lock")
    assert explained.endswith("    - id: step  # jobplan: ignore=index-blocks-writes the reason\n")
    assert len(list(tmp_path.glob("venv/lib/*/site-packages/runner/rules/JP*.md"))) == len(CODES)
    assert "plan.yaml: valid, 1 step" in elsewhere.jobplan("validate", "plan.yaml").stdout
    ran = elsewhere.jobplan("run", "plan.yaml", "--embedded", "--report", "jsonl=events.jsonl")
    assert ": 1 succeeded in " in ran.stderr
    assert '"event": "run_finished"' in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
