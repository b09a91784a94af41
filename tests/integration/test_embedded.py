"""The embedded server for real: it starts, keeps out of others' way, comes back, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from runner.embedded import EmbeddedServer, start_server
from runner.embedded.server_folders import sweep
from runner.embedded.watchdog import process_started
from runner.errors import EmbeddedServerError

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 60.0
_OWNER = """
import json, sys, time
from runner.embedded import start_server
server = start_server(progress=lambda line: None)
print(json.dumps([server.pid, str(server.folder)]), flush=True)
time.sleep(600)
"""
_COMMAND = "from runner.cli import main; main()"


def _quiet(_: str) -> None:
    """Take progress lines and say nothing."""


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {_PATIENCE} s"
        time.sleep(0.02)


def _ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def _watchdogs(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--folder={folder}".encode() in words and process_started(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def _environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), **changes}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with start_server(progress=_quiet) as started:
        yield started


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A short folder that the server's account can pass: pytest's own are long and, root's, closed to others."""
    with tempfile.TemporaryDirectory(prefix="jp-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def owner(server: EmbeddedServer) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """A command that has started a server: its process, its postmaster's, and the server's folder."""
    environment = _environment(JOBPLAN_PG_BIN=str(server.bin_dir))
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        assert readable, "the owner said nothing"
        pid, folder = json.loads(process.stdout.readline())
        yield process, pid, Path(folder)
        process.kill()


def test_it_is_what_was_promised(server: EmbeddedServer) -> None:
    settings = {
        "max_worker_processes": "64",
        "fsync": "off",
        "autovacuum": "on",
        "listen_addresses": "127.0.0.1",
        "server_encoding": "UTF8",
        "server_version": server.version,
        "data_directory": str(server.data_dir),
    }
    for name, value in settings.items():
        assert str(_ask(server.dsn, f"SELECT current_setting('{name}')")).split(" ")[0] == value
    assert _ask(server.dsn, "SELECT current_user || ' ' || current_database()") == "postgres postgres"
    assert _ask(server.dsn, "SELECT lower('ÄÖ')") == "äö"


def test_the_extension_is_there_and_works(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        launched = connection.execute("SELECT pid, cookie FROM pg_background_launch('SELECT 7', 0, 'x')").fetchone()
        assert launched is not None  # the pid may be wrong: docs/pg_background.md
        assert connection.execute("SELECT * FROM pg_background_result(%s, %s) AS (n int)", launched).fetchall() == [
            (7,)
        ]


def test_new_databases_have_the_extension(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE another")
        try:
            dsn = server.dsn.replace("/postgres?", "/another?")
            assert _ask(dsn, "SELECT extname FROM pg_extension WHERE extname LIKE 'pg_b%'") == "pg_background"
        finally:
            connection.execute("DROP DATABASE another WITH (FORCE)")


def test_what_comes_with_postgresql_is_found(server: EmbeddedServer) -> None:
    assert _ask(server.dsn, "SELECT count(*) > 0 FROM pg_timezone_abbrevs") is True
    assert _ask(server.dsn, "SELECT to_tsvector('english', 'running foxes')::text") == "'fox':2 'run':1"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN PERFORM 1; END $$")


@pytest.mark.parametrize("program", ["psql", "pgbench", "pg_dump", "pg_isready", "pg_config", "initdb"])
def test_the_programs_run(program: str, server: EmbeddedServer) -> None:
    done = subprocess.run([server.bin_dir / program, "--version"], capture_output=True, text=True, check=True)
    assert server.version in done.stdout


def test_tcp_needs_the_password(server: EmbeddedServer) -> None:
    assert _ask(server.tcp_dsn, "SELECT inet_server_addr()::text") == "127.0.0.1/32"
    scheme, _, rest = server.tcp_dsn.partition("postgres:")
    without = f"{scheme}postgres@{rest.partition('@')[2]}"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(without, password="", passfile="/dev/null")


def test_the_password_is_in_no_text_and_no_command_line(server: EmbeddedServer) -> None:
    password = server.tcp_dsn.split(":")[2].partition("@")[0]
    assert password not in repr(server)
    assert password not in server.dsn
    assert password not in server.log_file.read_text(encoding="utf-8")
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert password.encode() not in command.read_bytes()
        except OSError:
            continue


def test_the_socket_is_private(server: EmbeddedServer) -> None:
    assert (server.folder / "s").stat().st_mode & 0o777 == 0o700
    assert server.data_dir.stat().st_mode & 0o777 == 0o700


def test_two_at_once_do_not_disturb_each_other(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLAN_PG_BIN", str(server.bin_dir))
    with ThreadPoolExecutor(max_workers=2) as pool:
        first, second = pool.map(lambda _: start_server(progress=_quiet), range(2))
    try:
        assert len({server.dsn, first.dsn, second.dsn}) == 3
        assert len({server.pid, first.pid, second.pid}) == 3
        first.stop("immediate")
        assert not first.folder.exists()
        assert _ask(second.dsn, "SELECT 1") == 1
        assert _ask(server.dsn, "SELECT 1") == 1
    finally:
        first.stop()
        second.stop()
    with pytest.raises(EmbeddedServerError, match="is not running"):
        _ = second.pid


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_data_and_address(mode: str, server: EmbeddedServer) -> None:
    before, mark = server.pid, f"kept_{mode}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {mark} AS SELECT 1 AS a")
    server.restart("fast" if mode == "fast" else "immediate")
    assert server.pid != before
    assert _ask(server.dsn, f"SELECT a FROM {mark}") == 1
    assert _ask(server.tcp_dsn, "SELECT 1") == 1


def test_a_restart_after_a_crash_finds_no_lock_in_the_way(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept_crash AS SELECT 1 AS a")
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    _until(lambda: process_started(pid) is None, "the postmaster's crash")
    server.restart()
    assert server.pid != pid
    assert _ask(server.dsn, "SELECT a FROM kept_crash") == 1


def test_settings_reach_the_server(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLAN_PG_BIN", str(server.bin_dir))
    settings = {"max_worker_processes": "7", "application_name": "it's \\ me"}
    with start_server(progress=_quiet, settings=settings) as other:
        assert _ask(other.dsn, "SHOW max_worker_processes") == "7"
        assert _ask(other.dsn, "SELECT reset_val FROM pg_settings WHERE name = 'application_name'") == "it's \\ me"


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(
    server: EmbeddedServer, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBPLAN_PG_BIN", str(server.bin_dir))
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        start_server(progress=_quiet, settings={"no_such_setting": "1"})
    assert list(open_folder.glob("jobplan-pg-*")) == []


def test_data_that_are_not_ours_are_left_alone(server: EmbeddedServer, open_folder: Path) -> None:
    (open_folder / "data").mkdir()
    precious = open_folder / "data" / "PG_VERSION"
    precious.write_text("18\n", encoding="utf-8")
    with pytest.raises(EmbeddedServerError, match="neither empty nor the data directory of an embedded server"):
        start_server(progress=_quiet, data_dir=open_folder / "data")
    assert precious.exists()
    assert server.pid > 0


def test_data_with_a_place_of_their_own_are_used_again(
    server: EmbeddedServer, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBPLAN_PG_BIN", str(server.bin_dir))
    place = open_folder / "my data"
    with (
        start_server(progress=_quiet, data_dir=place) as first,
        psycopg.connect(first.dsn, autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
        with pytest.raises(EmbeddedServerError, match=r"already running on"):
            start_server(progress=_quiet, data_dir=place)
        assert _ask(first.dsn, "SELECT 1") == 1
    with start_server(progress=_quiet, data_dir=place) as second:
        assert _ask(second.dsn, "SELECT a FROM kept") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_a_command_that_is_killed(
    number: signal.Signals, owner: tuple[subprocess.Popen[bytes], int, Path]
) -> None:
    process, postmaster, folder = owner
    assert _watchdogs(folder)
    process.send_signal(number)
    process.wait(_PATIENCE)
    _until(lambda: process_started(postmaster) is None, "the end of the postmaster")
    _until(lambda: not folder.exists(), "the removal of the folder")
    _until(lambda: not _watchdogs(folder), "the end of the watchdog")


def test_the_terminals_interrupt_reaches_neither_server_nor_watchdog(
    owner: tuple[subprocess.Popen[bytes], int, Path],
) -> None:
    process, postmaster, folder = owner
    group = os.getpgid(process.pid)
    assert os.getpgid(postmaster) != group
    assert os.getsid(postmaster) != os.getsid(process.pid)
    for watchdog in _watchdogs(folder):
        assert os.getsid(watchdog) != os.getsid(process.pid)


def test_what_a_killed_watchdog_left_is_swept_at_the_next_start(
    owner: tuple[subprocess.Popen[bytes], int, Path], server: EmbeddedServer
) -> None:
    process, postmaster, folder = owner
    assert folder not in sweep()  # its owner lives
    for watchdog in _watchdogs(folder):
        os.kill(watchdog, signal.SIGKILL)
    assert folder not in sweep()  # and holds it by itself
    process.kill()
    process.wait(_PATIENCE)
    _until(
        lambda: folder in sweep() or not folder.exists(), "the sweep"
    )  # another test that starts a server sweeps, too
    assert not folder.exists()
    assert process_started(postmaster) is None
    assert _ask(server.dsn, "SELECT 1") == 1


def test_stopping_leaves_no_descriptor_and_no_child(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLAN_PG_BIN", str(server.bin_dir))
    gc.collect()  # what earlier tests have left open is closed now, not meanwhile
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a Path would be an object for each)
    with start_server(progress=_quiet) as other:
        folder = other.folder
    other.stop()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 (as above)
    _until(lambda: not _watchdogs(folder), "the end of the watchdog")


@pytest.fixture(scope="module")
def kept_cache() -> Iterator[Path]:
    """A cache for `jobplan server`, so that no running server of the user is touched."""
    with tempfile.TemporaryDirectory(prefix="jp test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def jobplan(server: EmbeddedServer, kept_cache: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    environment = _environment(JOBPLAN_PG_BIN=str(server.bin_dir), JOBPLAN_CACHE_DIR=str(kept_cache))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _COMMAND, "server", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    yield run
    run("stop", "--remove-data")


def test_it_is_started_shown_used_and_stopped(jobplan: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert jobplan("status").returncode == 3
    started = jobplan("start")
    assert started.returncode == 0, started.stderr
    again = jobplan("start", "--format", "json")
    assert again.returncode == 0
    assert "already running" in again.stderr
    shown = jobplan("status", "--format", "json")
    assert shown.returncode == 0
    state = json.loads(shown.stdout)
    assert state["pid"] == json.loads(again.stdout)["pid"]
    assert state["uptime_seconds"] >= 0
    assert state["dsn"] in started.stdout
    assert _ask(state["dsn"], "SELECT 1") == 1
    password = Path(state["passfile"]).read_text(encoding="utf-8").strip().rpartition(":")[2]
    for output in (started, again, shown):
        assert password not in output.stdout + output.stderr
    with psycopg.connect(state["tcp_dsn"], passfile=state["passfile"]) as connection:
        assert connection.info.host == "127.0.0.1"
    sweep()
    asked = jobplan("psql", "-XAtc", "SELECT current_database()")
    assert asked.stdout == "postgres\n"
    assert jobplan("psql", "template1", "-XAtc", "SELECT current_database()").stdout == "template1\n"
    assert jobplan("psql", "-c", "SELECT 1/0").returncode == 1
    assert jobplan("stop").returncode == 0
    assert process_started(state["pid"]) is None
    stopped = jobplan("status", "--format", "json")
    assert stopped.returncode == 3
    assert json.loads(stopped.stdout) == {"running": False}


def test_its_data_outlive_a_stop_and_a_crash(jobplan: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert jobplan("start").returncode == 0
    assert jobplan("psql", "-Xqc", "CREATE TABLE kept AS SELECT 42 AS a").returncode == 0
    jobplan("stop")
    jobplan("start")
    pid = json.loads(jobplan("status", "--format", "json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    _until(lambda: process_started(pid) is None, "the postmaster's crash")
    assert jobplan("status").returncode == 3
    assert jobplan("start").returncode == 0
    assert jobplan("psql", "-XAtc", "SELECT a FROM kept").stdout == "42\n"
    jobplan("stop", "--remove-data")
    jobplan("start")
    assert jobplan("psql", "-XAtc", "SELECT a FROM kept").returncode == 1


def test_psql_without_a_server_says_how_to_start_one(jobplan: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    refused = jobplan("psql")
    assert refused.returncode == 4
    assert "jobplan server start" in refused.stderr


def test_stopping_nothing_is_no_error(jobplan: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert jobplan("stop").returncode == 0
