"""The snippets of docs/engines.md: each one that can run here is run, or checked by the program that reads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.errors import PreflightError
from runner.exit_codes import RETRIES, Retry
from tests.acceptance.console import Database, Jobplan

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
PLAN = "- {id: work, sql: INSERT INTO done VALUES (1)}"


def snippets(kind: str) -> list[str]:
    """Return the code blocks whose first line names this kind."""
    return re.findall(rf"```\w+\n# {kind}\n(.*?)```", PAGE, re.DOTALL)


def helpful(meaning: Retry) -> set[int]:
    """Return the exit codes of which a retry has this meaning."""
    return {code for code, one in RETRIES.items() if one is meaning}


@pytest.mark.parametrize("line", snippets("cron"))
def test_a_line_of_cron_begins_a_run_and_finishes_it(line: str, db: Database, jobplan: Jobplan) -> None:
    db.run("CREATE TABLE done (x int)")
    fields = line.split(maxsplit=6)
    assert all(re.fullmatch(r"[\d,*]+", one) for one in fields[:5])
    command = fields[6].strip().replace("\\%", "%")
    command = command.replace("/srv/app", str(jobplan.folder)).replace("--dsn service=app", "")
    jobplan.plan(PLAN)
    script = command.replace("plans/nightly.yaml", "plan.yaml").replace("jobplan run", '"$PYTHON" -m runner run')
    env = {**os.environ, "PYTHON": sys.executable, "JOBPLAN_DSN": db.dsn}
    for _ in range(2):
        ran = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert db.value("SELECT count(*) FROM done") == (1 if "--run-id" in script else 2)


def units() -> dict[str, str]:
    """Return the unit files by name."""
    return dict(re.findall(r"```ini\n# systemd (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    found = units()
    assert sorted(found) == ["jobplan-nightly.service", "jobplan-nightly.timer"]

    def problems(**changed: str) -> str:
        for name, text in {**found, **changed}.items():
            here = text.replace("/usr/local/bin/jobplan", "/bin/true").replace("User=maint", "User=root")
            (tmp_path / name).write_text(here, encoding="utf-8")
        command = ["systemd-analyze", "verify", "--recursive-errors=no", *(str(tmp_path / name) for name in found)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [line for line in ran.stderr.splitlines() if "jobplan-nightly" in line]
        return "\n".join(ours)

    assert problems() == ""
    service = found["jobplan-nightly.service"]
    assert problems(**{"jobplan-nightly.service": service.replace("KillMode=mixed", "KillMode=gently")})
    assert problems(**{"jobplan-nightly.timer": found["jobplan-nightly.timer"].replace("01:17", "25:17")})


def test_the_engines_know_the_exit_codes() -> None:
    (prevented,) = re.findall(r"^RestartPreventExitStatus=(.*)$", units()["jobplan-nightly.service"], re.MULTILINE)
    assert set(map(int, prevented.split())) == helpful(Retry.CANNOT_HELP) | helpful(Retry.LATER)
    (job,) = (yaml.safe_load(text) for text in snippets("gitlab"))
    assert set(job["nightly"]["retry"]["exit_codes"]) == helpful(Retry.HELPS)


async def test_the_function_for_engines_resumes_and_knows_what_cannot_help(
    db: Database, jobplan: Jobplan, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = snippets("python")
    names: dict[str, Any] = {}
    exec(compile(text, "engines.md", "exec"), names)  # noqa: S102 - the documentation's own code
    monkeypatch.chdir(jobplan.folder)
    jobplan.plan(f"{PLAN}\n- {{id: next, needs: [work], sql: SELECT 1 FROM wanted}}")
    db.run("CREATE TABLE done (x int)")
    with pytest.raises(PreflightError):  # without a ledger a retry would not be safe
        await names["maintain"]("task-1", db.dsn)
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    with pytest.raises(RuntimeError, match="exit code 1"):
        await names["maintain"]("task-1", db.dsn)
    db.run("CREATE TABLE wanted ()")
    await names["maintain"]("task-1", db.dsn)
    await names["maintain"]("task-1", db.dsn)
    assert db.value("SELECT count(*) FROM done") == 1
    jobplan.plan("- {id: other, sql: SELECT 1}")
    with pytest.raises(names["CannotHelp"]):
        await names["maintain"]("task-1", db.dsn)
