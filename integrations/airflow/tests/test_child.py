"""jobplan as a child process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_jobplan.child import Child, Work
from support import Database, effect, wait_until, waits


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start jobplan run, and leave no process behind."""
    made: list[Child] = []

    def begin(plan: str, run: str = "r1") -> Child:
        runs = str(tmp_path / "runs")
        arguments = ["run", plan, "--run-id", run, "--or-resume", "--log-format", "json", "--journal", runs]
        show = ["show", "--format", "json", "--journal", runs]
        child = Child(Work(arguments=arguments, show=show, run=run, connection="app_db", state_folder=str(tmp_path)))
        made.append(child)
        return child

    yield begin
    for child in made:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            wait_until(lambda child=child: child.poll() is not None)
        child.close()


def ended(child: Child) -> int:
    """Wait for the end, and return the exit code."""
    wait_until(lambda: child.poll() is not None)
    code = child.poll()
    assert code is not None
    return code


def test_the_password_is_no_argument_and_no_variable(
    database: Database, plan: Callable[..., str], start: Callable[..., Child]
) -> None:
    child = start(plan(waits("a")))
    wait_until(database.workers)
    process = Path(f"/proc/{child.pid}")
    password = str(database.connection["password"]).encode()
    for name in ("cmdline", "environ"):
        content = (process / name).read_bytes()
        assert b"AIRFLOW_CONN_APP_DB" not in content  # it has the password in other words
        assert password not in content
    assert b"PGPASSFILE=" in (process / "environ").read_bytes()
    database.run("INSERT INTO gate VALUES (true)")
    assert ended(child) == 0


def test_the_child_has_its_own_session_and_no_input(
    database: Database, plan: Callable[..., str], start: Callable[..., Child]
) -> None:
    child = start(plan(waits("a")))
    wait_until(database.workers)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    assert Path(f"/proc/{child.pid}/fd/0").readlink() == Path("/dev/null")
    database.run("INSERT INTO gate VALUES (true)")
    assert ended(child) == 0


def test_lines_have_their_level_and_the_result_has_the_steps(
    database: Database, plan: Callable[..., str], start: Callable[..., Child]
) -> None:
    child = start(plan(effect("a"), "  - {id: b, sql: SELECT 1/0, needs: [a]}\n"))
    assert ended(child) == 1
    lines = list(child.messages())
    assert any("division by zero" in text for _, text in lines)
    assert {"INFO": 20, "ERROR": 40}.items() <= {"INFO": min(lines)[0], "ERROR": max(lines)[0]}.items()
    assert child.result() == {"run": "r1", "exit_code": 1, "steps": {"a": "succeeded", "b": "failed"}}
    assert list(child.messages()) == []


def test_a_second_stop_sends_no_second_signal(
    database: Database, plan: Callable[..., str], start: Callable[..., Child]
) -> None:
    child = start(plan(waits("a")))
    wait_until(database.workers)
    child.stop()
    child.stop()
    assert ended(child) == 143
    wait_until(lambda: database.workers() == 0)
    text = "\n".join(text for _, text in child.messages())
    assert text.count("interrupted") >= 1
    assert child.result()["steps"] == {"a": "cancelled"}


def test_a_child_whose_starter_has_released_it_runs_to_its_end(
    database: Database, plan: Callable[..., str], start: Callable[..., Child]
) -> None:
    child = start(plan(waits("a"), effect("b", needs="a")))
    wait_until(database.workers)
    child.release()
    database.run("INSERT INTO gate VALUES (true)")
    wait_until(lambda: child.poll() == 0)
    assert database.steps() == {"a": 1, "b": 1}


def test_a_program_that_does_not_exist_leaves_no_password_file(database: Database, tmp_path: Path) -> None:
    work = Work(arguments=[], show=[], connection="app_db", state_folder=str(tmp_path), jobplan="/nowhere/jobplan")
    with pytest.raises(FileNotFoundError):
        Child(work)
    assert list((tmp_path / "passwords").iterdir()) == []
    assert database.runs() == []
