"""One plan over a fleet: waves one after the other, in each a task for each cluster, and a gate between two waves."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseOperator

from airflow_provider_jobplan.waves import fleet_waves

PLANS = os.environ.get("JOBPLAN_EXAMPLE_PLANS", "/srv/app/plans")


def approved(finished: str, following: str) -> BaseOperator:
    """Wait until a person approves the next wave."""
    return ApprovalOperator(
        task_id=f"approve_{following}",
        subject=f"Wave {finished} has succeeded. Begin wave {following}?",
        response_timeout=timedelta(days=1),
    )


with DAG(
    dag_id="jobplan_fleet_waves",
    schedule=None,
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes the time zone of the DAG
    catchup=False,
    max_active_runs=1,
    tags=["jobplan"],
) as dag:
    fleet_waves(
        plan=f"{PLANS}/tenants.yaml",
        targets=f"{PLANS}/targets.yaml",
        gate=approved,
        retries=3,
        retry_delay=timedelta(minutes=5),
        password_conn_ids=["cluster_c1", "cluster_c2"],
        deferrable=True,
    )
