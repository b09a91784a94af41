"""One plan on one database, every night. A retry resumes the run; a task that is cleared begins a new one."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_jobplan.operators import JobplanOperator

PLANS = os.environ.get("JOBPLAN_EXAMPLE_PLANS", "/srv/app/plans")

with DAG(
    dag_id="jobplan_one_plan",
    schedule="17 1 * * *",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes the time zone of the DAG
    catchup=False,
    max_active_runs=1,
    tags=["jobplan"],
) as dag:
    JobplanOperator(
        task_id="nightly",
        plan=f"{PLANS}/nightly.yaml",
        postgres_conn_id="app_db",
        retries=3,
        retry_delay=timedelta(minutes=5),
        reports={"html": "/srv/reports/{run}.html"},
        report_url="https://reports.example.com/{run}.html",
    )
