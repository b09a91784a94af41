"""`jobplan server` beside another PostgreSQL: data keep their programs. And how a shell learns of the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from runner.embedded import EmbeddedServer, start_server
from runner.embedded.installations import find_major
from tests.acceptance.console import clean_environment

Command = Callable[..., subprocess.CompletedProcess[str]]


def pretend(bin_dir: Path, version: str) -> Path:
    """Make programs that only answer as PostgreSQL's of a version with the extension would."""
    share = bin_dir.parent / "share"
    (share / "extension").mkdir(parents=True)
    (share / "extension" / "pg_background.control").write_text("default_version = '2.0'\n", encoding="utf-8")
    bin_dir.mkdir(parents=True)
    answers = {"postgres": f"postgres (PostgreSQL) {version}"}
    for name in ("postgres", "initdb", "pg_ctl", "psql"):
        (bin_dir / name).write_text(f"#!/bin/sh\necho '{answers.get(name, '')}'\n", encoding="utf-8")
    config = f'#!/bin/sh\ncase "$1" in --bindir) echo "{bin_dir}";; *) echo "{share}";; esac\n'
    (bin_dir / "pg_config").write_text(config, encoding="utf-8")
    for program in bin_dir.iterdir():
        program.chmod(0o755)
    return bin_dir


def test_programs_of_another_major_version_are_passed_over(tmp_path: Path) -> None:
    pretend(tmp_path / "usr/lib/postgresql/19/bin", "19.1")
    old = pretend(tmp_path / "usr/lib/postgresql/17/bin", "17.2")
    mine = pretend(tmp_path / "mine/bin", "17.9")
    environment = {"PATH": ""}
    for first, found in ((None, old), (mine, mine), (tmp_path / "gone", old)):
        installation = find_major(17, first, environment, tmp_path)
        assert installation is not None
        assert installation.bin_dir == found
    assert find_major(16, mine, environment, tmp_path) is None


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server, for its programs."""
    with start_server(progress=print) as started:
        yield started


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """A cache in which only the first server is prepared by initdb; each test stops its server and removes its data."""
    with tempfile.TemporaryDirectory(prefix="jp-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def jobplan(cache: Path) -> Iterator[Command]:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        more = {"JOBPLAN_CACHE_DIR": str(cache), "JOBPLAN_DEBIAN_MIRROR": "http://127.0.0.1:1/debian", **environment}
        command = [sys.executable, "-m", "runner", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(more))

    yield run
    run("server", "stop", "--remove-data")


def value(text: str) -> object:
    return json.loads(text)["dsn"]


def test_a_postgresql_that_was_installed_later_changes_nothing(
    jobplan: Command, server: EmbeddedServer, tmp_path: Path, cache: Path
) -> None:
    first = jobplan("server", "start", "--format", "json", JOBPLAN_PG_BIN=str(server.bin_dir))
    assert first.returncode == 0, first.stderr
    with psycopg.connect(str(value(first.stdout)), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS a")
    assert jobplan("server", "stop").returncode == 0
    newer = pretend(tmp_path / "newer" / "bin", "99.1")
    path = f"{newer}{os.pathsep}{os.environ['PATH']}"
    again = jobplan("server", "start", "--format", "json", PATH=path)
    assert again.returncode == 0, again.stderr
    with psycopg.connect(str(value(again.stdout))) as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (42,)
    assert jobplan("server", "stop").returncode == 0
    named = jobplan("server", "start", JOBPLAN_PG_BIN=str(newer))
    assert (named.returncode, "and this is 99.1" in named.stderr) == (4, True)
    # neither the programs nor others of their version are there any more
    version = (cache / "server" / "data" / "PG_VERSION").read_text(encoding="utf-8").strip()
    (cache / "server" / "data" / "PG_VERSION").write_text("15\n", encoding="utf-8")
    gone = jobplan("server", "start", PATH=path)
    assert gone.returncode == 4
    assert "are those of PostgreSQL 15" in gone.stderr
    assert "jobplan server stop --remove-data" in gone.stderr
    (cache / "server" / "data" / "PG_VERSION").write_text(f"{version}\n", encoding="utf-8")
    assert jobplan("server", "start", PATH=path).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "sh", "dash", "zsh"])
def test_a_shell_learns_of_the_server(jobplan: Command, server: EmbeddedServer, cache: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    nothing = jobplan("server", "env")
    assert (nothing.returncode, nothing.stdout) == (4, "")
    assert "jobplan server start" in nothing.stderr
    assert jobplan("server", "start", JOBPLAN_PG_BIN=str(server.bin_dir)).returncode == 0
    python = f"'{sys.executable}' -m runner"
    for quoted in ('"', ""):
        line = (
            f"set -eu; eval {quoted}$({python} server env){quoted}; "
            f'test -n "$JOBPLAN_DSN"; echo "$PGDATABASE ${{PGSERVICE-none}}"; {python} doctor'
        )
        environment = clean_environment({"JOBPLAN_CACHE_DIR": str(cache), "PGSERVICE": "elsewhere"})
        done = subprocess.run([shell, "-c", line], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "postgres none"


def test_a_command_without_a_connection_mentions_the_running_server(
    jobplan: Command, server: EmbeddedServer, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: x\nbudget: {slots: 1}\ndefaults: {timeout: 5s, on_finish: wait}\n"
        "steps: [{id: a, sql: SELECT 1}]\n",
        encoding="utf-8",
    )
    journal = ("--journal", str(tmp_path / "runs"))
    before = jobplan("run", str(plan), *journal)
    assert before.returncode == 4
    assert "embedded server is running" not in before.stderr
    assert jobplan("server", "start", JOBPLAN_PG_BIN=str(server.bin_dir)).returncode == 0
    for command in (("run", str(plan), *journal), ("dry-run", str(plan)), ("status",)):
        ran = jobplan(*command)
        assert ran.returncode == 4
        assert 'Your embedded server is running: eval "$(jobplan server env)"' in ran.stderr, ran.stderr
        assert "--dsn 'postgresql://" in ran.stderr
    elsewhere = jobplan("status", "--dsn", "host=127.0.0.1 port=1")
    assert "embedded server is running" not in elsewhere.stderr
