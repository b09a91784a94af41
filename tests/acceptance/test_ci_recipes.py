"""docs/ci.md, run as it is written, as far as a test machine can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.acceptance.console import Database, clean_environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
CONTAINER = ROOT / ".ci" / "container"


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def recipe_commands() -> Iterator[str]:
    """Yield what the recipes tell runners to execute."""
    for text in blocks("yaml"):
        for found in _commands(yaml.safe_load(text)):
            yield from found.splitlines()


def _commands(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "run" and isinstance(item, str):
                yield item
            elif key == "script":
                yield from item
            else:
                yield from _commands(item)
    elif isinstance(value, list):
        for item in value:
            yield from _commands(item)


SHELL = [line for text in blocks("sh") for line in text.splitlines()]
#: What needs a package index, a container engine or another system's packages.
ELSEWHERE = ("pip install", "pipx install", "docker compose", "sudo apt-get")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A checkout's folder with the plans, and `jobplan` on the path."""
    shutil.copytree(ROOT / "plans", tmp_path / "plans")
    program = tmp_path / "bin" / "jobplan"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "textfile").mkdir()
    return tmp_path


def execute(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a runner does, with our `jobplan` first on the path."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    env = clean_environment({"PATH": path, "PYTHONPATH": str(ROOT), **environment})
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_page_has_what_it_promises() -> None:
    assert len(SHELL) >= 5
    assert len(list(recipe_commands())) >= 7
    assert {"check", "nightly"} == yaml.safe_load(blocks("yaml")[0])["jobs"].keys()


@pytest.mark.parametrize("command", sorted({*SHELL, *recipe_commands()}))
def test_a_command_of_the_page_does_what_it_says(command: str, workplace: Path, db: Database) -> None:
    if command.startswith(ELSEWHERE):
        assert command in PAGE  # said there not to have been tried
        return
    here = command.replace("/var/lib/node_exporter/textfile", str(workplace / "textfile"))
    here = re.sub(r"--dsn 'host=127[^']*'", '--dsn "$JOBPLAN_DSN"', here)
    if "--embedded" in here and _given_server():
        here = here.replace(" --embedded", "")
    done = execute(here, workplace, JOBPLAN_DSN=db.dsn)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"--report \w+=(\S+)", here):
        assert (workplace / path).stat().st_size > 0


def _given_server() -> bool:
    """Say whether the tests were given a server: an embedded one then would only cost time; others test it."""
    return any(word.startswith("--test-dsn") for word in sys.argv)


def test_the_container_makes_the_extension_for_every_new_database(db: Database) -> None:
    script = (CONTAINER / "create-extension.sql").read_text(encoding="utf-8")
    statements = [line for line in script.splitlines() if line and not line.startswith(("--", "\\"))]
    assert len(statements) == 2
    with psycopg.connect(db.dsn, autocommit=True) as connection:
        connection.execute("DROP EXTENSION pg_background")
        for statement in statements:
            connection.execute(statement)
    assert db.value("SELECT count(*) FROM pg_extension WHERE extname = 'pg_background'") == 1


def test_the_container_s_files_fit_together() -> None:
    compose = yaml.safe_load((CONTAINER / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["postgres"]
    assert (CONTAINER / service["build"] / "Dockerfile").is_file()
    dockerfile = (CONTAINER / "Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE):
        assert (CONTAINER / source).is_file()
    port = service["ports"][0].split(":")[1]
    assert f"port={port} " in PAGE
    assert f"password={service['environment']['POSTGRES_PASSWORD']} " in PAGE
