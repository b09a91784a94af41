"""Operators that run a plan on one database, or on the databases of a targets file.

A retry resumes the run of the try before: steps that succeeded do not run again. A task that was cleared begins a new
run.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    timezone,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_jobplan.child import Child, Work, default_state_folder
from airflow_provider_jobplan.decisions import Decision, decide
from airflow_provider_jobplan.links import REPORT_KEY, ReportLink
from airflow_provider_jobplan.run_ids import TargetNeededError, run_id
from airflow_provider_jobplan.triggers import JobplanTrigger
from runner.errors import UsageError
from runner.exit_codes import MEANINGS

#: What a task returns, also if it failed: then XCom has it under this key only.
RESULT_KEY = "jobplan_result"
Context = Mapping[str, Any]


class JobplanBaseOperator(BaseOperator):
    """What both operators have in common.

    :param plan: the plan file, on the worker; with `deferrable`, on the triggerer. A relative path is one from the
        folder of the DAG's file.
    :param plan_params: values of the plan's parameters.
    :param select: run only these steps.
    :param exclude: do not run these steps.
    :param target: the name of what the task works on. Required if the task is mapped, and then different for each of
        its indices: retries find their run by it.
    :param require_ledger: refuse to begin without a ledger, because a retry on another machine would not be safe.
    :param state_folder: the folder of journals. Default: `jobplan` below AIRFLOW_HOME.
    :param reports: reports by kind, such as `{"html": "/srv/reports/{run}.html"}`.
    :param report_url: the address of the report for the button of the task; `{run}` is the id of the run.
    :param later: what follows if it is not the time for the run (exit codes 8 and 9): `reschedule` tries again after
        `reschedule_after`, without using up a try; `skip` skips the task.
    :param deferrable: run jobplan in the triggerer, and free the worker.
    :param arguments: further arguments of the command.
    :param jobplan: the program, if it is not the one in Airflow's own Python.
    """

    template_fields: Sequence[str] = (
        "plan",
        "plan_params",
        "select",
        "exclude",
        "target",
        "state_folder",
        "reports",
        "report_url",
        "arguments",
    )
    operator_extra_links = (ReportLink(),)
    ui_color: ClassVar[str] = "#dbe7f3"

    def __init__(
        self,
        *,
        plan: str,
        plan_params: Mapping[str, object] | None = None,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        target: str = "",
        require_ledger: bool = True,
        state_folder: str | None = None,
        reports: Mapping[str, str] | None = None,
        report_url: str | None = None,
        later: Literal["reschedule", "skip"] = "reschedule",
        reschedule_after: timedelta = timedelta(minutes=15),
        deferrable: bool = False,
        poll_seconds: float = 1.0,
        arguments: Sequence[str] = (),
        jobplan: str | None = None,
        **kwargs: Any,  # noqa: ANN401 - those of BaseOperator
    ) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.plan_params = plan_params
        self.select = select
        self.exclude = exclude
        self.target = target
        self.require_ledger = require_ledger
        self.state_folder = state_folder
        self.reports = reports
        self.report_url = report_url
        self.later = later
        self.reschedule_after = reschedule_after
        self.deferrable = deferrable
        self.poll_seconds = poll_seconds
        self.arguments = arguments
        self.jobplan = jobplan
        self._child: Child | None = None

    @abstractmethod
    def _work(self, run: str, folder: Path) -> Work:
        """Return what the child does for a run."""

    def _name(self) -> str:
        """Return the name of the target."""
        return self.target

    def _run_id(self, context: Context) -> str:
        return run_id(context, self._name())

    def _path(self, path: str) -> str:
        """Return the path of a file that belongs to the DAG."""
        dag = self.get_dag()
        return str(Path(dag.folder if dag is not None else ".", path).absolute())

    def _common_arguments(self, run: str, folder: Path) -> list[str]:
        """Return the options that both commands have."""
        words = ["--journal", str(folder / "runs"), *(["--require-ledger"] if self.require_ledger else [])]
        for name, value in (self.plan_params or {}).items():
            words += ["--param", f"{name}={_text(value)}"]
        for option, steps in (("--select", self.select), ("--exclude", self.exclude)):
            words += [word for step in steps for word in (option, step)]
        for kind, path in (self.reports or {}).items():
            words += ["--report", f"{kind}={Path(path.replace('{run}', run)).absolute()}"]
        return [*words, *self.arguments]

    def execute(self, context: Context) -> dict[str, Any]:
        """Run jobplan to its end, or defer until it has ended."""
        try:
            run = self._run_id(context)
        except TargetNeededError as error:
            raise AirflowFailException(str(error)) from error
        folder = Path(self.state_folder).absolute() if self.state_folder else default_state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = self._work(run, folder)
        self.log.info("run %s: jobplan %s", run or "(the last unfinished one, or a new one)", " ".join(work.arguments))
        if self.report_url and run:
            context["ti"].xcom_push(REPORT_KEY, self.report_url.replace("{run}", run))
        if self.deferrable:
            self.defer(
                trigger=JobplanTrigger(work=work.values(), poll_seconds=self.poll_seconds),
                method_name="execute_complete",
            )
        try:
            result = self._to_the_end(work)
        except UsageError as error:
            raise AirflowFailException(str(error)) from error
        return self.execute_complete(context, result)

    def _to_the_end(self, work: Work) -> dict[str, Any]:
        child = self._child = Child(work)
        self.log.info("jobplan has pid %s", child.pid)
        try:
            while child.report(self.log) is None:
                time.sleep(self.poll_seconds)
            result = child.result()
        except BaseException:
            child.stop()
            child.release()
            raise
        child.close()
        return result

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the result, or raise what its exit code means."""
        task, code = context["ti"], event["exit_code"]
        if self.report_url and event["run"]:
            task.xcom_push(REPORT_KEY, self.report_url.replace("{run}", event["run"]))
        decision = decide(code)
        if decision is not Decision.SUCCEED:
            task.xcom_push(RESULT_KEY, event)
            self._raise(decision, f"run {event['run']}: exit code {code}: {_meaning(code)}")
        return event

    def _raise(self, decision: Decision, message: str) -> NoReturn:
        if decision is Decision.FAIL:
            raise AirflowFailException(f"{message}. A retry cannot help.")
        if decision is Decision.RETRY:
            raise AirflowException(f"{message}. A retry resumes the run.")
        if self.later == "skip":
            raise AirflowSkipException(message)
        if not AIRFLOW_V_3_1_PLUS:  # it reschedules all but sensors at once
            raise AirflowException(f"{message}. A retry resumes the run.")
        self.log.warning("%s. It is tried again after %s.", message, self.reschedule_after)
        raise AirflowRescheduleException(timezone.utcnow() + self.reschedule_after)

    def on_kill(self) -> None:
        """Send jobplan SIGTERM, and return: Airflow does not wait for long. Its steps end as `on_runner_exit` says."""
        if self._child is not None:
            self._child.stop()


class JobplanOperator(JobplanBaseOperator):
    """Runs a plan on one database.

    :param postgres_conn_id: an Airflow connection of the type Postgres; its password does not become an argument or a
        variable of the environment.
    :param database: a database of that server, instead of the one of the connection.
    :param continue_last: take no id from the task: continue the last run of this plan that is not finished, as of the
        night before, or begin one.
    """

    template_fields: Sequence[str] = (*JobplanBaseOperator.template_fields, "postgres_conn_id", "database")

    def __init__(
        self,
        *,
        postgres_conn_id: str = "postgres_default",
        database: str | None = None,
        continue_last: bool = False,
        **kwargs: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self.database = database
        self.continue_last = continue_last

    def _run_id(self, context: Context) -> str:
        return "" if self.continue_last else super()._run_id(context)

    def _work(self, run: str, folder: Path) -> Work:
        words = ["run", self._path(self.plan), *(["--run-id", run] if run else []), "--or-resume", "--wait-for-runner"]
        return Work(
            arguments=[*words, "--log-format", "json", *self._common_arguments(run, folder)],
            show=["show", "--format", "json", "--journal", str(folder / "runs")],
            run=run,
            connection=self.postgres_conn_id,
            database=self.database,
            jobplan=self.jobplan,
            state_folder=str(folder),
        )


class JobplanFleetOperator(JobplanBaseOperator):
    """Runs a plan on the databases of a targets file, in one process: all of them, or those of a wave or a cluster.

    :param targets: the targets file, as `plan`.
    :param wave: only the targets of this wave.
    :param cluster: only the targets of this cluster. Map tasks over clusters, not over databases: the limit on the
        workers of a server holds within one process.
    :param where: only targets that match these selectors, such as `tier=gold`.
    :param password_conn_ids: Airflow connections whose passwords libpq gets, by host, port and user.
    """

    template_fields: Sequence[str] = (*JobplanBaseOperator.template_fields, "targets", "wave", "cluster", "where")

    def __init__(
        self,
        *,
        targets: str,
        wave: str | None = None,
        cluster: str | None = None,
        where: Sequence[str] = (),
        password_conn_ids: Sequence[str] = (),
        **kwargs: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**kwargs)
        self.targets = targets
        self.wave = wave
        self.cluster = cluster
        self.where = where
        self.password_conn_ids = password_conn_ids

    def _name(self) -> str:
        return self.target or "/".join(filter(None, (self.wave, self.cluster)))

    def _work(self, run: str, folder: Path) -> Work:
        where = [*self.where, *([f"cluster={self.cluster}"] if self.cluster else [])]
        return Work(
            arguments=[
                *("fleet", "run", self._path(self.plan), "--targets", self._path(self.targets), "--fleet-id", run),
                *("--or-resume", "--wait-for-runner"),
                *(["--wave", self.wave] if self.wave else []),
                *(word for one in where for word in ("--where", one)),
                *self._common_arguments(run, folder),
            ],
            show=["fleet", "show", "--format", "json", "--journal", str(folder / "runs")],
            run=run,
            passwords=list(self.password_conn_ids),
            jobplan=self.jobplan,
            state_folder=str(folder),
        )


def _text(value: object) -> str:
    """Return a parameter's value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(code: int) -> str:
    """Return what an exit code means."""
    for codes, meaning in MEANINGS:
        if str(code) in codes.split(", "):
            return meaning
    return "jobplan was killed" if code > 128 else "unknown"
