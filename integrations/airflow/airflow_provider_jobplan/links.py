"""The button of a task that opens the report of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

#: The XCom with the address of the report.
REPORT_KEY = "jobplan_report"


class ReportLink(BaseOperatorLink):
    """Opens `report_url`, if the task has one."""

    name = "jobplan report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ANN401, ARG002 - Airflow's signature
        """Return the address, empty if there is none."""
        return str(XCom.get_value(ti_key=ti_key, key=REPORT_KEY) or "")
