"""A fleet run as task groups: one group for each wave, in it one task for each cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, TaskGroup, chain

from airflow_provider_jobplan.operators import JobplanFleetOperator
from runner.export.pod import used_waves
from runner.fleet.targets import read_targets


def fleet_waves(
    *,
    plan: str,
    targets: str,
    group_id: str = "fleet",
    gate: Callable[[str, str], BaseOperator] | None = None,
    **operator: Any,  # noqa: ANN401 - those of JobplanFleetOperator
) -> TaskGroup:
    """Return a group that runs the plan on the targets of a file, wave after wave.

    A wave begins when every cluster of the wave before has succeeded, and then the gate: `gate(finished, next)` gets
    the names of two waves and returns a task between them, such as one that waits for an approval, or one that looks at
    dashboards. Each task is a process for one cluster, because the limit on the workers of a server holds within one
    process. `max_failures` of the file counts within a task; `pause` does not apply here.

    The targets file is read when the DAG is parsed; its queries are executed when a task runs.
    """
    with TaskGroup(group_id=group_id) as whole:
        parts: list[TaskGroup | BaseOperator] = []
        before = ""
        for wave, clusters in used_waves(read_targets(Path(whole.dag.folder, targets))):
            if gate is not None and before:
                parts.append(gate(before, wave.name))
            parts.append(_wave(wave.name, clusters, plan=plan, targets=targets, operator=operator))
            before = wave.name
        chain(*parts)
    return whole


def _wave(name: str, clusters: Sequence[str], *, plan: str, targets: str, operator: dict[str, Any]) -> TaskGroup:
    with TaskGroup(group_id=name.replace(".", "_")) as group:  # a dot would separate groups
        JobplanFleetOperator.partial(
            task_id="clusters",
            plan=plan,
            targets=targets,
            wave=name,
            map_index_template="{{ task.cluster }}",
            **operator,
        ).expand(cluster=list(clusters))
    return group
