"""Airflow provider for jobplan: operators that run plans, whose retries resume the run that they began."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return what Airflow asks a provider: its name, its modules, and the classes of its links."""
    return {
        "package-name": "airflow-provider-jobplan",
        "name": "jobplan",
        "description": "Runs jobplan plans on PostgreSQL, and resumes them on a retry.",
        "versions": [__version__],
        "integrations": [{"integration-name": "jobplan", "external-doc-url": "", "tags": ["software"]}],
        "hooks": [{"integration-name": "jobplan", "python-modules": ["airflow_provider_jobplan.hook"]}],
        "operators": [{"integration-name": "jobplan", "python-modules": ["airflow_provider_jobplan.operators"]}],
        "triggers": [{"integration-name": "jobplan", "python-modules": ["airflow_provider_jobplan.triggers"]}],
        "extra-links": ["airflow_provider_jobplan.links.ReportLink"],
    }
