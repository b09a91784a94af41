"""The console blocks of docs/ and of the README, typed in a project that has what their pages assume.

test_readme.py types the README's other blocks, and test_ci_recipes.py those of docs/ci.md.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import Database, Jobplan
from tests.acceptance.test_ci_recipes import execute

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in (ROOT / "docs").glob("*.md") if "```console" in path.read_text("utf-8"))]
#: What needs a package index, a cluster of Kubernetes, or an hour.
ELSEWHERE = ("pip ", "kubectl ", "make ", "python -m benchmarks")
#: Those that pages grant something to.
ROLES = ("etl", "reporting")
#: What a page shows of a file that it begins with.
SETTINGS = """
plans = "plans"
[env.prod]
service = "shop-prod"
confirm = true
"""


def typed_lines(page: Path) -> list[str]:
    """Return the commands of a page's console blocks, in order."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    if page == README:
        blocks = [block for block in blocks if "--env " in block]
    return [found for block in blocks for found in re.findall(r"^ *\$ (.*)", block, re.MULTILINE)]


@pytest.fixture
def project(tmp_path: Path, jobplan: Jobplan, db: Database) -> Iterator[dict[str, str]]:
    """A home with the project ~/shop, three services for one database, and a run that only the ledger has."""
    shop = tmp_path / "shop"
    shutil.copytree(ROOT / "plans", shop / "plans")
    (shop / ".git").mkdir()
    (shop / "jobplan.toml").write_text(SETTINGS, encoding="utf-8")
    (shop / "ci.env").write_text("PGAPPNAME=ci\n", encoding="utf-8")
    nightly = jobplan.plan("- {id: note, sql: SELECT 1}", name="nightly")
    shutil.copy(nightly, shop / "plans" / "nightly.yaml")
    (shop / "plans" / "nightly").mkdir()
    shutil.copy(nightly, shop / "plans" / "nightly" / "vacuum.yaml")
    database = conninfo_to_dict(db.dsn)
    keys = "".join(f"{key}={value}\n" for key, value in database.items())
    services = tmp_path / "services"
    services.write_text("".join(f"[{name}]\n{keys}" for name in ("shop", "app", "shop-prod")), encoding="utf-8")
    program = tmp_path / "bin" / "jobplan"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    for role in ROLES:
        db.run(f"DROP ROLE IF EXISTS {role}")
        db.run(f"CREATE ROLE {role}")
    yield {"HOME": str(tmp_path), "PGSERVICEFILE": str(services), "JOBPLAN_DSN": db.dsn}
    for role in ROLES:
        db.run(f"DROP OWNED BY {role} CASCADE")
        db.run(f"DROP ROLE {role}")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_command_of_a_page_does_what_it_says(
    page: Path, tmp_path: Path, jobplan: Jobplan, project: dict[str, str], db: Database
) -> None:
    lines = [line for line in typed_lines(page) if not line.startswith(ELSEWHERE)]
    assert lines or page.name in ("airflow.md", "benchmarks.md", "chaos.md")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    for run_id in re.findall(r"ledger restore (\S+)", " ".join(lines)):
        assert jobplan("run", jobplan.plan("- {id: a, sql: SELECT 1}"), "--dsn", db.dsn, "--run-id", run_id).code == 0
    shell = {"JOBPLAN_CONFIRM": "prod"} if any("--env prod" in line for line in lines) else {}
    for line in lines:
        here = re.sub(r"--dsn 'host=db1[^']*'", '--dsn "$JOBPLAN_DSN"', line)
        done = execute(f"cd shop; {here}", tmp_path, **project, **shell)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
