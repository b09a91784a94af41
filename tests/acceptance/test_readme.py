"""README.md, typed as a new user types it: every command of its console blocks, in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.console import Database, clean_environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
]


def the_block_with(text: str) -> list[str]:
    """Return the commands of the one block that has `text` in it."""
    [found] = [block for block in BLOCKS if any(text in command for command in block)]
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A clone with its installed environment, in a home of its own; the kept server ends with the test."""
    for name in ("plans", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    program = tmp_path / ".venv/bin/jobplan"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text(f'PATH="{program.parent}:$PATH"\n', encoding="utf-8")
    yield tmp_path
    typed(["source .venv/bin/activate", "jobplan server stop || true"], tmp_path)


def typed(commands: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type commands into one shell, which stops at the first that fails."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": cache}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", "\n".join(commands)],
        cwd=folder,
        env=clean_environment({"PATH": os.environ["PATH"], **environment}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_make_target_of_the_page_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {found for block in BLOCKS for command in block for found in re.findall(r"^make (\w+)", command)}
    assert {"demo", "test", "check", "bench", "chaos"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_page_that_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 5
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_a_server_that_stays_as_the_page_shows_it(checkout: Path) -> None:
    done = typed(the_block_with("jobplan server start"), checkout)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stderr
    assert "100000" in done.stdout  # what psql counted


def test_a_server_of_ones_own_as_the_page_shows_it(checkout: Path, db: Database) -> None:
    commands = [
        re.sub(r"--dsn 'host=db1[^']*'", '--dsn "$TEST_DSN"', command) for command in the_block_with("jobplan doctor")
    ]
    done = typed(["source .venv/bin/activate", *commands], checkout, TEST_DSN=db.dsn)
    assert done.returncode == 0, done.stdout + done.stderr


def test_reports_and_records_as_the_page_shows_them(checkout: Path, db: Database) -> None:
    commands = [*the_block_with("--report junit"), *the_block_with("jobplan runs --prune")]
    here = [command.replace(" --embedded", "") for command in commands]  # another test has an embedded server
    assert here != commands
    done = typed(["source .venv/bin/activate", *here], checkout, JOBPLAN_DSN=db.dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flowchart LR" in done.stdout
    for report in ("run.html", "junit.xml"):
        assert (checkout / report).stat().st_size > 1000
