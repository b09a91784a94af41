"""DAGs: waves of a fleet, the examples, what Airflow finds of the provider, and one DAG from beginning to end."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers_manager import ProvidersManager
from airflow.sdk import DAG, BaseOperator

from airflow_provider_jobplan import get_provider_info
from airflow_provider_jobplan.operators import JobplanFleetOperator, JobplanOperator
from airflow_provider_jobplan.waves import fleet_waves
from support import Database, effect

TARGETS = """\
version: 1
name: tenants
clusters:
  c1: {connection: {host: db1}, slots: 4}
  c2: {connection: {host: db2}, slots: 4}
targets:
  - {name: acme, cluster: c1, database: acme, labels: {canary: true}}
  - {name: globex, cluster: c1, database: globex}
  - {name: initech, cluster: c2, database: initech}
rollout:
  waves:
    - {name: canary.1, where: [canary=true]}
    - {name: rest}
"""


@pytest.fixture
def targets(tmp_path: Path) -> str:
    """Write a targets file with two waves on two clusters."""
    path = tmp_path / "targets.yaml"
    path.write_text(TARGETS, encoding="utf-8")
    return str(path)


def clusters_of(task: Any) -> list[str]:
    """Return what a mapped task is mapped over."""
    return list(task.expand_input.value["cluster"])


def test_waves_follow_each_other_and_are_mapped_over_clusters(targets: str) -> None:
    with DAG("fleet") as dag:
        fleet_waves(plan="plan.yaml", targets=targets, retries=3)
    canary, rest = dag.get_task("fleet.canary_1.clusters"), dag.get_task("fleet.rest.clusters")
    assert canary.operator_class is rest.operator_class is JobplanFleetOperator
    assert (clusters_of(canary), clusters_of(rest)) == (["c1"], ["c1", "c2"])
    assert (canary.partial_kwargs["wave"], rest.partial_kwargs["wave"]) == ("canary.1", "rest")
    assert rest.upstream_task_ids == {"fleet.canary_1.clusters"}


def test_relative_paths_are_from_the_folder_of_the_dag(targets: str) -> None:
    with DAG("fleet") as dag:
        dag.fileloc = str(Path(targets).with_name("dag.py"))
        fleet_waves(plan="plan.yaml", targets="targets.yaml")
        one = JobplanOperator(task_id="one", plan="plans/plan.yaml")
    assert clusters_of(dag.get_task("fleet.rest.clusters")) == ["c1", "c2"]
    assert one._work("r1", Path("/state")).arguments[1] == str(Path(targets).with_name("plans") / "plan.yaml")


def test_a_gate_is_between_two_waves(targets: str) -> None:
    asked: list[tuple[str, str]] = []

    def gate(finished: str, following: str) -> BaseOperator:
        asked.append((finished, following))
        return EmptyOperator(task_id="gate")

    with DAG("fleet") as dag:
        fleet_waves(plan="plan.yaml", targets=targets, gate=gate)
    assert asked == [("canary.1", "rest")]
    assert dag.get_task("fleet.gate").upstream_task_ids == {"fleet.canary_1.clusters"}
    assert dag.get_task("fleet.rest.clusters").upstream_task_ids == {"fleet.gate"}


@pytest.mark.parametrize("name", ["jobplan_one_plan", "jobplan_fleet_waves", "jobplan_nightly_window"])
def test_an_example_is_a_dag(name: str, targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLAN_EXAMPLE_PLANS", str(Path(targets).parent))
    module = importlib.import_module(f"airflow_provider_jobplan.example_dags.{name}")
    (dag,) = [value for value in vars(module).values() if isinstance(value, DAG)]
    assert dag.dag_id == name
    dag.check_cycle()
    assert any("jobplan" in task.task_type.lower() for task in dag.tasks)


def test_the_snippets_of_the_documentation_are_dags(targets: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "airflow.md").read_text(encoding="utf-8")
    snippets = [part.split("```")[0] for part in page.split("```python\n# airflow\n")[1:]]
    assert len(snippets) == 2
    with DAG("around") as around:
        for text in snippets:
            exec(compile(text.replace("/srv/app/plans/targets.yaml", targets), "airflow.md", "exec"), {})  # noqa: S102 - text of this repository
    assert "fleet.rest.clusters" in around.task_ids


def test_airflow_finds_the_provider() -> None:
    manager = ProvidersManager()
    assert manager.providers["airflow-provider-jobplan"].version == get_provider_info()["versions"][0]
    assert "airflow_provider_jobplan.links.ReportLink" in manager.extra_links_class_names


@pytest.fixture
def airflow_database(tmp_path: Path) -> dict[str, str]:
    """The environment of an Airflow of this test's own."""
    home = tmp_path / "airflow"
    home.mkdir()
    values = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "1",
    }
    environment = {**os.environ, **values}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return environment


DAG_FILE = """\
from datetime import datetime
from airflow.sdk import DAG, task
from airflow_provider_jobplan.operators import JobplanOperator

with DAG("whole", schedule=None, start_date=datetime(2026, 1, 1), catchup=False) as dag:
    one = JobplanOperator(
        task_id="one", plan={plan!r}, postgres_conn_id="app_db", plan_params={{"day": "{{{{ dag_run.run_id }}}}"}},
        report_url="https://reports.example.com/{{run}}.html", deferrable={deferrable},
    )

    @task
    def after(result):
        print("RESULT", __import__("json").dumps(result))

    after(one.output)

if __name__ == "__main__":
    run = dag.test(run_conf={{}})
    print("STATE", run.state)
"""


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_dag_from_its_beginning_to_its_end(
    deferrable: bool, database: Database, plan: Callable[..., str], airflow_database: dict[str, str], tmp_path: Path
) -> None:
    step = "  - {id: a, sql: \"INSERT INTO witness VALUES (:'day')\"}\n"
    path = plan(step, effect("b", needs="a"), more="params: {day: {type: string}}")
    folder = tmp_path / "dags"
    folder.mkdir()
    file = folder / "whole.py"
    file.write_text(DAG_FILE.format(plan=path, deferrable=deferrable), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)], env=airflow_database, capture_output=True, text=True, check=False, timeout=120
    )
    assert "STATE success" in done.stdout, done.stdout + done.stderr
    (line,) = [one for one in done.stdout.splitlines() if "RESULT {" in one]
    result = json.loads(line[line.index("{") : line.rindex("}") + 1])
    assert result == {"run": database.runs()[0], "exit_code": 0, "steps": {"a": "succeeded", "b": "succeeded"}}
    steps = database.steps()
    assert steps.pop("b") == 1
    ((day, times),) = steps.items()
    assert day.startswith("manual__")
    assert times == 1
