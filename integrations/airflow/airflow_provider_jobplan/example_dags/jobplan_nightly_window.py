"""A plan with a window: what is left over when the window closes (exit code 8) is finished in the next night.

The task takes no id: with `continue_last` it continues the run of the night before if that is not finished, as `jobplan
run --or-resume` does. Tonight's task ends as skipped then, and tomorrow's continues.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_jobplan.operators import JobplanOperator

PLANS = os.environ.get("JOBPLAN_EXAMPLE_PLANS", "/srv/app/plans")

with DAG(
    dag_id="jobplan_nightly_window",
    schedule="1 22 * * *",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes the time zone of the DAG
    catchup=False,
    max_active_runs=1,
    tags=["jobplan"],
) as dag:
    JobplanOperator(
        task_id="nightly_window",
        plan=f"{PLANS}/nightly-window.yaml",
        postgres_conn_id="app_db",
        continue_last=True,
        later="skip",
        retries=2,
        retry_delay=timedelta(minutes=10),
        deferrable=True,
    )
