"""A whole Airflow (scheduler, API server, triggerer) against a real server: what is killed, cleared, and marked.

One Airflow serves all tests here, because it takes half a minute to start.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.embedded import EmbeddedServer
from support import PLAN, Database, closed_window, effect, new_database, next_number, wait_until, waits

pytestmark = pytest.mark.standalone
#: Seconds for what an Airflow on a busy machine does.
PATIENCE = 180.0
NAMES = ("crashed", "cleared", "marked", "deferred", "restarted", "closed", "mapped")
DAGS = """\
import os
from datetime import datetime, timedelta
from airflow.sdk import DAG, task
from airflow_provider_jobplan.operators import JobplanOperator

def dag(name):
    return DAG(name, schedule=None, start_date=datetime(2026, 1, 1), catchup=False, is_paused_upon_creation=False)

RETRY = {"retries": 2, "retry_delay": timedelta(seconds=1), "poll_seconds": 0.2}
RETRY["report_url"] = "https://reports.example.com/{run}.html"
SLOW = {**RETRY, "retry_delay": timedelta(seconds=10)}
FOLDER = os.path.dirname(__file__)
for name in ("crashed", "cleared", "marked", "closed"):
    with dag(name):
        JobplanOperator(task_id="work", plan=f"{name}.yaml", postgres_conn_id=name, **RETRY)
for name in ("deferred", "restarted"):
    with dag(name):
        JobplanOperator(task_id="work", plan=f"{name}.yaml", postgres_conn_id=name, **{**RETRY, "deferrable": True})
with dag("mapped"):
    # the list changes its order between two tries, as one from a query can
    names = ["globex", "acme"] if os.path.exists(f"{FOLDER}/turned") else ["acme", "globex"]
    JobplanOperator.partial(task_id="work", plan="mapped.yaml", **SLOW).expand_kwargs(
        [{"postgres_conn_id": one, "target": one} for one in names]
    )
"""


class Airflow:
    """A running Airflow, and its API."""

    def __init__(self, home: Path, port: int, environment: dict[str, str]) -> None:
        self.home = home
        self._environment = environment
        self._processes = [self._start("standalone")]
        self._port = port
        self._token = ""

    def _send(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
        return json.loads(text)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the API, and return the answer."""
        if not self._token:
            self._token = self._send("GET", "/auth/token")["access_token"]
        return self._send(method, f"/api/v2/{path}", body)

    def trigger(self, dag: str) -> str:
        """Begin a DAG run, and return its id."""
        return str(self.ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def tasks(self, dag: str) -> list[tuple[str | None, int]]:
        """Return state and number of tries of the tasks of the DAG, as the database has them."""
        with sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60) as connection:
            found = connection.execute(
                "SELECT state, try_number FROM task_instance WHERE dag_id = ? ORDER BY map_index", (dag,)
            )
            return list(found.fetchall())

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{command}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "airflow", command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Return whether it knows the DAGs. AssertionError, with its log, if it has ended."""
        text = (self.home / "standalone.log").read_text(errors="replace")
        assert self._processes[0].poll() is None, text[-5000:]
        assert "Exception in thread" not in text, text[-5000:]
        try:
            found = self.ask("GET", "dags?limit=100")
        except OSError:
            return False
        return {one["dag_id"] for one in found["dags"]} >= set(NAMES)

    def restart_triggerer(self) -> None:
        """End the triggerer as a service manager does, and start another one."""
        group = self._processes[0].pid
        old = [pid for pid, words in processes() if b"triggerer" in b" ".join(words) and os.getpgid(pid) == group]
        assert old
        for pid in old:
            with contextlib.suppress(ProcessLookupError):  # one ends when the other does
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not any(pid in old for pid, _ in processes()), patience=PATIENCE)
        self._processes.append(self._start("triggerer"))

    def end(self) -> None:
        """End all processes: those of each are one group."""
        for process in self._processes:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(5)

    def wait_for(self, dag: str, *states: str) -> None:
        """Wait until every task of the DAG has one of these states."""
        wait_until(lambda: (found := self.tasks(dag)) and all(state in states for state, _ in found), patience=PATIENCE)


def processes() -> Iterator[tuple[int, list[bytes]]]:
    """Yield the processes of this machine: id and command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                os.getpgid(int(folder.name))
                if words != [b""]:  # one that has ended
                    yield int(folder.name), words


def runner_of(database: Database) -> int:
    """Return the process id of the jobplan that works on a database, which its connection string names."""
    name = database.connection["schema"]
    for pid, words in processes():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            if b"--or-resume" in words and f"dbname='{name}'".encode() in variables:
                return pid
    pytest.fail(f"no jobplan works on {name}")


def parent_of(pid: int) -> int:
    """Return the process that started it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def databases(server: EmbeddedServer) -> dict[str, Database]:
    """A database for each DAG, and two for the mapped one."""
    names = (*(one for one in NAMES if one != "mapped"), "acme", "globex")
    return {name: new_database(server, f"{name}_{os.getpid()}_{next_number()}") for name in names}


@pytest.fixture(scope="module")
def airflow(databases: dict[str, Database], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Start Airflow, and end it with all its processes."""
    home = tmp_path_factory.mktemp("airflow")
    dags = home / "dags"
    dags.mkdir()
    (dags / "jobplan.py").write_text(DAGS, encoding="utf-8")
    later = "  - {id: b, sql: INSERT INTO later VALUES (1), needs: [a]}\n"
    steps = {
        "crashed": effect("a") + waits("b", needs="a") + waits("c", needs="a") + effect("d", needs="b, c"),
        "cleared": effect("a"),
        "marked": waits("a") + waits("b"),
        "deferred": waits("a") + effect("b", needs="a"),
        "restarted": waits("a") + effect("b", needs="a"),
        "closed": effect("a"),
        "mapped": effect("a") + later,
    }
    for name, text in steps.items():
        more = closed_window() if name == "closed" else ""
        (dags / f"{name}.yaml").write_text(PLAN.format(steps=text, more=more), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # standalone starts `airflow`
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(one.connection) for name, one in databases.items()},
    }
    started = Airflow(home, port, environment)
    try:
        wait_until(started.is_ready, patience=PATIENCE)
        yield started
    finally:
        started.end()
        if wanted := os.environ.get("JOBPLAN_AIRFLOW_LOG"):
            shutil.copyfile(home / "standalone.log", wanted)


def test_a_killed_task_and_a_killed_runner_are_finished_by_the_retry(
    airflow: Airflow, databases: dict[str, Database]
) -> None:
    """Both are killed with SIGKILL while two of four steps run; every step's effect is there exactly once."""
    database = databases["crashed"]
    airflow.trigger("crashed")
    wait_until(lambda: database.workers() == 2, patience=PATIENCE)
    runner = runner_of(database)
    task = parent_of(runner)
    os.kill(task, signal.SIGKILL)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: airflow.tasks("crashed")[0][1] == 2, patience=PATIENCE)
    database.run("INSERT INTO gate VALUES (true)")
    airflow.wait_for("crashed", "success", "failed")
    assert airflow.tasks("crashed") == [("success", 2)]
    assert database.steps() == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert len(database.runs()) == 1


def test_a_cleared_task_begins_a_new_run(airflow: Airflow, databases: dict[str, Database]) -> None:
    database = databases["cleared"]
    run = airflow.trigger("cleared")
    airflow.wait_for("cleared", "success")
    body = {"dry_run": False, "dag_run_id": run, "task_ids": ["work"], "only_failed": False, "reset_dag_runs": True}
    airflow.ask("POST", "dags/cleared/clearTaskInstances", body)
    wait_until(lambda: airflow.tasks("cleared") == [("success", 2)], patience=PATIENCE)
    assert database.steps() == {"a": 2}
    first, second = database.runs()
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
    assert int(first.rpartition("-")[2]) < int(second.rpartition("-")[2])
    value = airflow.ask("GET", f"dags/cleared/dagRuns/{run}/taskInstances/work/xcomEntries/return_value")["value"]
    found = json.loads(value) if isinstance(value, str) else value
    assert found == {"run": second, "exit_code": 0, "steps": {"a": "succeeded"}}
    links = airflow.ask("GET", f"dags/cleared/dagRuns/{run}/taskInstances/work/links")["extra_links"]
    assert links == {"jobplan report": f"https://reports.example.com/{second}.html"}


@pytest.mark.parametrize("name", ["marked", "deferred"])
def test_a_task_that_a_user_marks_as_failed_stops_the_workers_of_the_server(
    name: str, airflow: Airflow, databases: dict[str, Database]
) -> None:
    database = databases[name]
    run = airflow.trigger(name)
    wait_until(database.workers, patience=PATIENCE)
    assert airflow.tasks(name)[0][0] == ("deferred" if name == "deferred" else "running")
    airflow.ask("PATCH", f"dags/{name}/dagRuns/{run}/taskInstances/work", {"new_state": "failed"})
    wait_until(lambda: database.workers() == 0, patience=PATIENCE)
    assert airflow.tasks(name) == [("failed", 1)]
    assert database.steps() == {}


def test_a_restart_of_the_triggerer_does_not_end_a_run(airflow: Airflow, databases: dict[str, Database]) -> None:
    database = databases["restarted"]
    airflow.trigger("restarted")
    wait_until(database.workers, patience=PATIENCE)
    assert airflow.tasks("restarted") == [("deferred", 1)]
    airflow.restart_triggerer()
    assert database.workers() == 1
    database.run("INSERT INTO gate VALUES (true)")
    airflow.wait_for("restarted", "success", "failed")
    assert airflow.tasks("restarted") == [("success", 1)]
    assert database.steps() == {"a": 1, "b": 1}
    assert len(database.runs()) == 1


def test_a_closed_window_leaves_the_task_for_later(airflow: Airflow, databases: dict[str, Database]) -> None:
    airflow.trigger("closed")
    airflow.wait_for("closed", "up_for_reschedule")
    assert airflow.tasks("closed") == [("up_for_reschedule", 1)]
    assert databases["closed"].steps() == {}


def test_a_mapped_list_that_changes_its_order_gives_no_target_the_run_of_another(
    airflow: Airflow, databases: dict[str, Database]
) -> None:
    """Both targets fail in their second step; before the retry, the DAG has them in the other order."""
    both = {name: databases[name] for name in ("acme", "globex")}
    airflow.trigger("mapped")
    airflow.wait_for("mapped", "up_for_retry")
    (airflow.home / "dags" / "turned").touch()
    for one in both.values():
        one.run("CREATE TABLE later (x int)")
    airflow.wait_for("mapped", "success", "failed")
    assert airflow.tasks("mapped") == [("success", 2), ("success", 2)]
    for one in both.values():
        assert one.steps() == {"a": 1}
        assert one.run("SELECT count(*) FROM later") == [(1,)]
        assert len(one.runs()) == 1
