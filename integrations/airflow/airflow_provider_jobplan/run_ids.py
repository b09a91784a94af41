"""The id of the run of a task: the same for all tries of a task, another one after the task was cleared.

It is derived from DAG, DAG run, task, the name of the target, and the clear generation. The index of a mapped task is
not in it: it moves when the list changes. Airflow does not count clears. `max_tries` serves: a retry leaves it as it
is, and a clear sets it to the tries so far plus the retries of the task. (A clear of a task that is running only makes
Airflow try it again, so that try resumes its run.)

From Airflow 3.3 the id is stored in the task's state before the run begins. So the tries of a task share it also if a
new version of this package derives ids in another way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

#: The key of the task's state.
STATE_KEY: Final = "jobplan_run"
#: The longest part of an id that names the task.
_WORDS: Final = 12
_DIGITS: Final = 12


class TargetNeededError(ValueError):
    """A mapped task does not say which target it is for."""


def derived_id(*, dag: str, dag_run: str, task: str, target: str, generation: int) -> str:
    """Return an id of at most 31 characters, which is short enough for a fleet run, too."""
    digest = hashlib.sha256(json.dumps([dag, dag_run, task, target]).encode()).hexdigest()[:_DIGITS]
    words = re.sub(r"[^A-Za-z0-9]+", "-", task.rpartition(".")[2]).strip("-")[:_WORDS].strip("-") or "task"
    return f"{words}-{digest}-{generation}"


def run_id(context: Mapping[str, Any], target: str) -> str:
    """Return the id of the run, stored if Airflow can store it. TargetNeededError if the task is mapped without one."""
    task = context["ti"]
    if task.map_index >= 0 and not target:
        raise TargetNeededError(
            "a mapped task needs `target`, the name of what it works on: the map index moves when the list changes"
        )
    about = {"target": target, "generation": task.max_tries}
    state = context.get("task_state_store")
    if state is not None:
        stored = state.get(STATE_KEY)
        # the state of a mapped task is that of its index, so it may be another target's
        if isinstance(stored, dict) and stored.items() >= about.items() and isinstance(stored.get("run"), str):
            return str(stored["run"])
    made = derived_id(dag=task.dag_id, dag_run=task.run_id, task=task.task_id, **about)
    if state is not None:
        state.set(STATE_KEY, {**about, "run": made})
    return made
