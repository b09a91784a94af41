"""The operators with a real server: what a task does, and what its retry does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
    timezone,
)

from airflow_provider_jobplan.links import REPORT_KEY
from airflow_provider_jobplan.operators import RESULT_KEY, JobplanFleetOperator, JobplanOperator
from runner.embedded import EmbeddedServer
from support import Database, Store, Task, closed_window, context, effect, new_database, next_number, wait_until, waits


@pytest.fixture
def operator(tmp_path: Path) -> Callable[..., JobplanOperator]:
    """Make an operator for the test's own database."""

    def make(plan: str, **more: Any) -> JobplanOperator:
        given = {"task_id": "nightly", "postgres_conn_id": "app_db", "poll_seconds": 0.05, **more}
        return JobplanOperator(plan=plan, state_folder=str(tmp_path / "state"), **given)

    return make


def test_the_task_returns_run_exit_code_and_steps(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    found = operator(plan(effect("a"), effect("b", needs="a"))).execute(context(Task()))
    assert found == {"run": database.runs()[0], "exit_code": 0, "steps": {"a": "succeeded", "b": "succeeded"}}
    assert database.steps() == {"a": 1, "b": 1}


@pytest.mark.parametrize("stored", [False, True])
def test_a_retry_resumes_the_run_of_the_try_before(
    stored: bool, database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    """The second step fails until its table exists; the first one must not run again."""
    store = Store() if stored else None
    path = plan(effect("a"), "  - {id: b, sql: INSERT INTO later VALUES (1), needs: [a]}\n")
    task = Task()
    with pytest.raises(AirflowException, match=r"exit code 1.*A retry resumes") as raised:
        operator(path).execute(context(task, store))
    assert not isinstance(raised.value, AirflowFailException)
    assert task.xcoms[RESULT_KEY]["steps"] == {"a": "succeeded", "b": "failed"}
    database.run("CREATE TABLE later (x int)")
    found = operator(path).execute(context(Task(try_number=2), store))
    assert found["steps"] == {"a": "succeeded", "b": "succeeded"}
    assert database.steps() == {"a": 1}
    assert database.runs() == [found["run"]]


@pytest.mark.parametrize("stored", [False, True])
def test_a_cleared_task_begins_a_new_run(
    stored: bool, database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    path = plan(effect("a"))
    first = operator(path).execute(context(Task(max_tries=3), Store() if stored else None))
    again = operator(path).execute(context(Task(max_tries=4, try_number=2), Store() if stored else None))
    assert first["run"] != again["run"]
    assert database.runs() == [first["run"], again["run"]]
    assert database.steps() == {"a": 2}


def test_a_mapped_list_that_changes_its_order_resumes_the_run_of_each_target(
    server: EmbeddedServer,
    plan: Callable[..., str],
    operator: Callable[..., JobplanOperator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both targets fail at their second step; the retry has them in another order, and with a new one before them."""
    databases = {
        name: new_database(server, f"{name}_{os.getpid()}_{next_number()}") for name in ("acme", "globex", "initech")
    }
    for name, made in databases.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(made.connection))
    path = plan(effect("a"), "  - {id: b, sql: INSERT INTO later VALUES (1), needs: [a]}\n")
    stores = [Store(), Store(), Store()]

    def execute(name: str, index: int, number: int) -> dict[str, Any]:
        task = operator(path, postgres_conn_id=name, target=name)
        return task.execute(context(Task(map_index=index, try_number=number), stores[index]))

    for index, name in enumerate(("acme", "globex")):
        with pytest.raises(AirflowException):
            execute(name, index, 1)
    for made in databases.values():
        made.run("CREATE TABLE later (x int)")
    for index, name in enumerate(("initech", "globex", "acme")):
        found = execute(name, index, 2)
        assert databases[name].runs() == [found["run"]]
        assert databases[name].steps() == {"a": 1}
        assert databases[name].run("SELECT count(*) FROM later") == [(1,)]


def test_a_mapped_task_without_a_target_fails_without_a_retry(
    plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    with pytest.raises(AirflowFailException, match="needs `target`"):
        operator(plan(effect("a"))).execute(context(Task(map_index=2)))


def test_on_kill_returns_at_once_and_stops_the_workers_of_the_server(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    task = operator(plan(waits("a"), waits("b")))
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            task.execute(context(Task()))
        except AirflowException as error:
            raised.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until(lambda: database.workers() == 2)
    task.on_kill()
    task.on_kill()
    wait_until(lambda: database.workers() == 0)
    thread.join()
    assert re.search(r"exit code 143.*A retry resumes", str(raised[0]))
    assert database.steps() == {}


def test_a_task_that_is_interrupted_stops_the_workers_of_the_server(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    """Ctrl-C in `airflow dags test`: the child has a session of its own, so the terminal does not reach it."""

    def interrupt() -> None:
        wait_until(database.workers)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        operator(plan(waits("a"))).execute(context(Task()))
    thread.join()
    wait_until(lambda: database.workers() == 0)
    assert database.steps() == {}


@pytest.mark.parametrize(
    ("text", "code"),
    [("version: 1\nsteps: 5\n", 3), ("version: 1\nname: a\nparams: {day: {type: integer}}\nsteps: []\n", 3)],
)
def test_what_a_retry_cannot_help_is_not_tried_again(
    text: str, code: int, database: Database, tmp_path: Path, operator: Callable[..., JobplanOperator]
) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(AirflowFailException, match=f"exit code {code}.*A retry cannot help"):
        operator(str(tmp_path / "plan.yaml")).execute(context(Task()))
    assert database.runs() == []


def test_other_parameters_in_a_retry_are_refused(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    path = plan("  - {id: a, sql: SELECT 1/:n}\n", more="params: {n: {type: integer}}")
    with pytest.raises(AirflowException, match="exit code 1"):
        operator(path, plan_params={"n": 0}).execute(context(Task()))
    with pytest.raises(AirflowFailException, match="exit code 2"):
        operator(path, plan_params={"n": 1}).execute(context(Task(try_number=2)))
    assert len(database.runs()) == 1


def test_without_a_ledger_nothing_begins_unless_the_task_allows_it(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    database.run("DROP SCHEMA jobplan CASCADE")
    path = plan(effect("a"))
    with pytest.raises(AirflowException, match="exit code 4"):
        operator(path).execute(context(Task()))
    assert database.steps() == {}
    assert operator(path, require_ledger=False).execute(context(Task()))["exit_code"] == 0
    assert database.steps() == {"a": 1}


def test_a_closed_window_reschedules_the_task(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    path = plan(effect("a"), more=closed_window())
    with pytest.raises(AirflowRescheduleException) as raised:
        operator(path, reschedule_after=timedelta(minutes=7)).execute(context(Task()))
    wait = raised.value.reschedule_date - timezone.utcnow()
    assert timedelta(minutes=5) < wait <= timedelta(minutes=7)
    assert database.steps() == {}


def test_a_closed_window_skips_a_task_that_asks_for_it(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    with pytest.raises(AirflowSkipException, match="exit code 8"):
        operator(plan(effect("a"), more=closed_window()), later="skip").execute(context(Task()))
    assert database.steps() == {}


def test_an_unmet_requirement_reschedules_the_task(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    with pytest.raises(AirflowRescheduleException):
        operator(plan(effect("a"), more="requires: {server_version: '>=99'}")).execute(context(Task()))
    assert database.steps() == {}


def test_a_retry_waits_for_a_runner_that_has_outlived_its_task(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    """The task is killed, its runner is not: the retry waits, and nothing is executed twice."""
    path = plan(waits("a"), effect("b", needs="a"))
    first, second = operator(path), operator(path)
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda one=one, number=number: results.append(one.execute(context(Task(try_number=number))))
        )
        for number, one in enumerate((first, second), 1)
    ]
    threads[0].start()
    wait_until(database.workers)
    threads[1].start()
    wait_until(lambda: second._child is not None)
    database.run("INSERT INTO gate VALUES (true)")
    for thread in threads:
        thread.join()
    assert [one["exit_code"] for one in results] == [0, 0]
    assert database.steps() == {"a": 1, "b": 1}
    assert len(database.runs()) == 1


def test_the_nightly_window_continues_the_run_of_the_night_before(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    """The run is interrupted in the first night; another DAG run, with another id, continues it."""
    path = plan(effect("a"), waits("b", needs="a"))
    task = operator(path, continue_last=True)
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            task.execute(context(Task(run_id="scheduled__1")))
        except AirflowException as error:
            raised.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until(database.workers)
    task.on_kill()
    thread.join()
    database.run("INSERT INTO gate VALUES (true)")
    found = operator(path, continue_last=True).execute(context(Task(run_id="scheduled__2")))
    assert found["steps"] == {"a": "succeeded", "b": "succeeded"}
    assert database.steps() == {"a": 1, "b": 1}
    assert database.runs() == [found["run"]]
    assert f"run {found['run']}" in str(raised[0])


def test_the_report_is_written_and_the_button_has_its_address(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator], tmp_path: Path
) -> None:
    task = Task()
    found = operator(
        plan(effect("a")),
        reports={"html": str(tmp_path / "{run}.html")},
        report_url="https://reports.example.com/{run}.html",
    ).execute(context(task))
    assert task.xcoms[REPORT_KEY] == f"https://reports.example.com/{found['run']}.html"
    assert "<html" in (tmp_path / f"{found['run']}.html").read_text(encoding="utf-8")
    assert database.steps() == {"a": 1}


def test_values_reach_the_plan_as_they_are(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    more = "params: {n: {type: integer}, yes: {type: boolean}, name: {type: string}}"
    step = "  - id: a\n    sql: INSERT INTO witness SELECT concat(:n + 1, :yes, :'name')\n"
    odd = "a=b 'c' \"d\" $(e) ü"
    operator(plan(step, more=more), plan_params={"n": 41, "yes": True, "name": odd}).execute(context(Task()))
    assert database.steps() == {f"42t{odd}": 1}


def test_selected_steps_only(
    database: Database, plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    path = plan(effect("a"), effect("b"), effect("c"))
    found = operator(path, select=["a", "b"], exclude=["b"]).execute(context(Task()))
    assert found["exit_code"] == 0
    assert database.steps() == {"a": 1}


def test_a_connection_that_cannot_be_used_fails_without_a_retry(
    plan: Callable[..., str], operator: Callable[..., JobplanOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_APP_DB", "mysql://db1/app")
    with pytest.raises(AirflowFailException, match="of type mysql"):
        operator(plan(effect("a"))).execute(context(Task()))


def test_a_deferrable_task_stores_its_run_before_it_defers(
    plan: Callable[..., str], operator: Callable[..., JobplanOperator]
) -> None:
    store = Store()
    with pytest.raises(TaskDeferred) as deferred:
        operator(plan(effect("a")), deferrable=True).execute(context(Task(), store))
    (state,) = store.values.values()
    path, values = deferred.value.trigger.serialize()
    assert path == "airflow_provider_jobplan.triggers.JobplanTrigger"
    assert values["work"]["run"] == state["run"]
    assert json.loads(json.dumps(values)) == values


TARGETS = """\
version: 1
name: tenants
clusters:
  c1: {{connection: {{host: {host}, port: {port}, user: {user}}}, slots: 2}}
targets:
  - {{name: acme, cluster: c1, database: {acme}, labels: {{tier: gold}}}}
  - {{name: globex, cluster: c1, database: {globex}}}
rollout:
  waves:
    - {{name: gold, where: [tier=gold]}}
    - {{name: rest}}
"""


@pytest.fixture
def fleet(server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Database]:
    """Two tenants of one cluster, a targets file beside the plan, and the connection `cluster_c1` with the password."""
    made = {
        name: new_database(server, f"{name}_{tmp_path.name[-8:]}_{os.getpid()}".lower().replace("-", "_"))
        for name in ("acme", "globex")
    }
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER_C1", json.dumps(made["acme"].connection))
    parts = made["acme"].connection
    names = {name: one.connection["schema"] for name, one in made.items()}
    text = TARGETS.format(host=parts["host"], port=parts["port"], user=parts["login"], **names)
    (tmp_path / "targets.yaml").write_text(text, encoding="utf-8")
    return made


def fleet_operator(plan: str, **more: Any) -> JobplanFleetOperator:
    """Make an operator for the fleet."""
    folder = Path(plan).parent
    given = {"task_id": "tenants", "password_conn_ids": ["cluster_c1"], "poll_seconds": 0.05, **more}
    return JobplanFleetOperator(
        plan=plan, targets=str(folder / "targets.yaml"), state_folder=str(folder / "state"), **given
    )


def test_a_fleet_returns_the_states_of_its_targets(fleet: dict[str, Database], plan: Callable[..., str]) -> None:
    found = fleet_operator(plan(effect("a"))).execute(context(Task()))
    assert found["exit_code"] == 0
    assert found["targets"] == {"acme": "succeeded", "globex": "succeeded"}
    assert [one.steps() for one in fleet.values()] == [{"a": 1}, {"a": 1}]


def test_a_retry_of_a_fleet_leaves_alone_what_succeeded(fleet: dict[str, Database], plan: Callable[..., str]) -> None:
    path = plan(effect("a"), "  - {id: b, sql: INSERT INTO later VALUES (1), needs: [a]}\n")
    fleet["acme"].run("CREATE TABLE later (x int)")
    task = Task()
    with pytest.raises(AirflowException, match="exit code 1"):
        fleet_operator(path).execute(context(task))
    assert task.xcoms[RESULT_KEY]["targets"] == {"globex": "failed", "acme": "succeeded"}
    fleet["globex"].run("CREATE TABLE later (x int)")
    found = fleet_operator(path).execute(context(Task(try_number=2)))
    assert found["targets"] == {"acme": "succeeded", "globex": "succeeded"}
    for one in fleet.values():
        assert one.steps() == {"a": 1}
        assert one.run("SELECT count(*) FROM later") == [(1,)]


def test_a_wave_of_a_cluster_is_a_fleet_run_of_its_own(fleet: dict[str, Database], plan: Callable[..., str]) -> None:
    path = plan(effect("a"))
    gold = fleet_operator(path, wave="gold", cluster="c1").execute(context(Task(map_index=0)))
    assert (fleet["acme"].steps(), fleet["globex"].steps()) == ({"a": 1}, {})
    rest = fleet_operator(path, wave="rest", cluster="c1").execute(context(Task(map_index=0)))
    assert (fleet["acme"].steps(), fleet["globex"].steps()) == ({"a": 1}, {"a": 1})
    assert gold["run"] != rest["run"]


def test_a_retry_waits_for_a_fleet_runner_that_has_outlived_its_task(
    fleet: dict[str, Database], plan: Callable[..., str]
) -> None:
    path = plan(waits("a"), effect("b", needs="a"))
    operators = [fleet_operator(path), fleet_operator(path)]
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda one=one, number=number: results.append(one.execute(context(Task(try_number=number))))
        )
        for number, one in enumerate(operators, 1)
    ]
    threads[0].start()
    wait_until(fleet["acme"].workers)  # the first wave
    threads[1].start()
    wait_until(lambda: operators[1]._child is not None)
    for one in fleet.values():
        one.run("INSERT INTO gate VALUES (true)")
    for thread in threads:
        thread.join()
    assert [one["exit_code"] for one in results] == [0, 0]
    assert [one.steps() for one in fleet.values()] == [{"a": 1, "b": 1}] * 2


def test_on_kill_stops_the_workers_of_a_fleet(fleet: dict[str, Database], plan: Callable[..., str]) -> None:
    task = fleet_operator(plan(waits("a")))
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            task.execute(context(Task()))
        except AirflowException as error:
            raised.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until(fleet["acme"].workers)  # the first wave
    task.on_kill()
    wait_until(lambda: not any(one.workers() for one in fleet.values()))
    thread.join()
    assert "exit code 143" in str(raised[0])
