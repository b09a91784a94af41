"""Which run a try belongs to."""

from __future__ import annotations

import pytest

from airflow_provider_jobplan.run_ids import STATE_KEY, TargetNeededError, derived_id, run_id
from runner.identity import run_id_problem
from support import Store, Task, context

STORES = [pytest.param(False, id="below 3.3"), pytest.param(True, id="with the task's state")]


def of(target: str = "", *, generation: int = 0, task: str = "group.nightly", dag: str = "dag") -> str:
    """Return a derived id."""
    return derived_id(dag=dag, dag_run="manual__1", task=task, target=target, generation=generation)


@pytest.mark.parametrize("task", ["t", "a" * 250, "räume.auf", "-", "group.nested.step", "x_y-z", "Ω"])
def test_an_id_is_one_for_runs_and_for_fleets(task: str) -> None:
    made = of("c1/gold", task=task, generation=1234)
    assert run_id_problem(made) is None
    assert len(made) <= 31


def test_dag_run_task_target_and_generation_each_make_another_id() -> None:
    assert len({of(), of("a"), of("b"), of(generation=1), of(task="other"), of(dag="other")}) == 6
    assert of("a") == of("a")


@pytest.mark.parametrize("stored", STORES)
def test_all_tries_of_a_task_share_the_id(stored: bool) -> None:
    store = Store() if stored else None
    tries = [run_id(context(Task(try_number=number), store), "") for number in (1, 2, 3)]
    assert len(set(tries)) == 1


def test_the_id_is_stored_when_it_is_made() -> None:
    store = Store()
    made = run_id(context(Task(), store), "acme")
    assert store.values == {STATE_KEY: {"target": "acme", "generation": 3, "run": made}}


@pytest.mark.parametrize("stored", STORES)
@pytest.mark.parametrize("kept", [False, True])
def test_a_cleared_task_gets_another_id_whether_its_state_is_kept_or_not(stored: bool, kept: bool) -> None:
    store = Store() if stored else None
    before = run_id(context(Task(try_number=4), store), "")
    after = run_id(context(Task(try_number=5, max_tries=7), store if kept else Store() if stored else None), "")
    assert after != before
    assert after.endswith("-7")


def test_a_stored_id_stays_when_ids_are_derived_in_another_way() -> None:
    store = Store({STATE_KEY: {"target": "", "generation": 3, "run": "older-form"}})
    assert run_id(context(Task(try_number=2), store), "") == "older-form"


@pytest.mark.parametrize("stored", STORES)
def test_a_target_keeps_its_run_when_the_list_changes_its_order(stored: bool) -> None:
    stores = [Store(), Store(), Store()] if stored else [None, None, None]

    def tried(targets: list[str], number: int) -> dict[str, str]:
        return {
            target: run_id(context(Task(map_index=index, try_number=number), stores[index]), target)
            for index, target in enumerate(targets)
        }

    first = tried(["acme", "globex"], 1)
    assert len(set(first.values())) == 2
    assert tried(["globex", "acme"], 2) == first
    changed = tried(["initech", "globex", "acme"], 3)
    assert {name: run for name, run in changed.items() if name in first} == first
    assert changed["initech"] not in first.values()


def test_a_mapped_task_needs_the_name_of_its_target() -> None:
    with pytest.raises(TargetNeededError, match="map index moves"):
        run_id(context(Task(map_index=0)), "")


@pytest.mark.parametrize("damaged", ["run", 5, [], {"target": "acme"}, {"target": "acme", "generation": 3, "run": 5}])
def test_a_stored_value_of_another_form_is_replaced(damaged: object) -> None:
    store = Store({STATE_KEY: damaged})
    assert run_id_problem(run_id(context(Task(), store), "acme")) is None
    assert store.values[STATE_KEY]["target"] == "acme"
