"""`jobplan export`: a plan as YAML for Kubernetes and for Argo Workflows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli.options import Parameters, duration
from runner.cli.project_options import PlanPath, chosen
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.export.pod import Export
    from runner.fleet.targets import Targets
    from runner.plan.model import Plan

_Command = Callable[..., Any]


@click.group()
def export() -> None:
    """Print a plan as YAML for Kubernetes or Argo Workflows.

    Review the YAML, check it in and apply it; jobplan itself does not connect to Kubernetes.
    """


def _options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.argument("plan", type=PlanPath()),
            click.option(
                "--targets",
                "targets_file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Targets file of a fleet: the objects have one pod for each of its clusters.",
            ),
            click.option("--name", metavar="NAME", help="Name of the objects. Default: the plan's name."),
            click.option("--namespace", metavar="NAME", help="Namespace of the objects. Default: that of kubectl."),
            click.option("--image", metavar="IMAGE", help="The image with jobplan. Default: jobplan:VERSION."),
            click.option(
                "--schedule",
                metavar="CRON",
                default="17 1 * * *",
                show_default=True,
                help="When the plan runs, in the syntax of cron.",
            ),
            click.option("--time-zone", metavar="ZONE", help="Time zone of the schedule. Default: the cluster's."),
            click.option("--once", is_flag=True, help="Print objects for one run, without a schedule."),
            click.option(
                "--secret",
                metavar="NAME",
                default="jobplan",
                show_default=True,
                help="Name of the Secret. It has the key pgpass, and pg_service.conf or dsn if they are needed.",
            ),
            click.option(
                "--dsn",
                metavar="CONNINFO",
                help="libpq connection string without a password. Default: the key dsn of the Secret.",
            ),
            click.option("--service-account", metavar="NAME", help="Service account of the pods."),
            click.option(
                "--plan-path",
                metavar="PATH",
                help="Path of the plan in the image. Default: the plan and its files are in a ConfigMap.",
            ),
            click.option("--targets-path", metavar="PATH", help="Path of the targets file in the image."),
            click.option(
                "--param", "params", multiple=True, metavar="NAME=VALUE", help="Value of a parameter; repeatable."
            ),
            click.option(
                "--no-ledger",
                is_flag=True,
                help="Without a ledger in the database: no retries, because they would not be safe.",
            ),
            click.option(
                "--retries",
                type=click.IntRange(min=0, max=100),
                default=3,
                show_default=True,
                metavar="N",
                help="Number of retries. Each one resumes the run.",
            ),
            click.option(
                "--deadline",
                metavar="DURATION",
                help="Time limit of one try. Default: computed from the plan's run_timeout.",
            ),
        )
    ):
        command = option(command)
    return command


@export.command("kubernetes", short_help="Print a CronJob or a Job.")
@_options
@click.option(
    "--max-failed-clusters",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --targets: end the job when more clusters fail. Default: let the others finish.",
)
def kubernetes_command(max_failed_clusters: int | None, **given: Any) -> None:  # noqa: ANN401 - click's values
    """Print a CronJob that runs a plan. With --targets, its Job has an index for each cluster."""
    from runner.export.kubernetes import LONGEST_FLEET_NAME, LONGEST_NAME, kubernetes_manifest

    if max_failed_clusters is not None and given["targets_file"] is None:
        raise UsageError("--max-failed-clusters needs --targets.")
    found = _export(longest=(LONGEST_NAME, LONGEST_FLEET_NAME), max_failed_clusters=max_failed_clusters, **given)
    click.echo(kubernetes_manifest(found), nl=False)


@export.command("argo", short_help="Print a CronWorkflow or a Workflow of Argo.")
@_options
@click.option(
    "--executor-service-account",
    metavar="NAME",
    default="argo-executor",
    show_default=True,
    help="Service account with which Argo's own container reports results.",
)
def argo_command(executor_service_account: str, **given: Any) -> None:  # noqa: ANN401 - click's values
    """Print a CronWorkflow that runs a plan. With --targets, it has a step for each wave."""
    from runner.export.argo import LONGEST_FLEET_NAME, LONGEST_NAME, argo_manifest

    found = _export(longest=(LONGEST_NAME, LONGEST_FLEET_NAME), executor_account=executor_service_account, **given)
    click.echo(argo_manifest(found), nl=False)


def _export(
    *,
    longest: tuple[int, int],
    plan: Path,
    targets_file: Path | None,
    name: str | None,
    image: str | None,
    schedule: str,
    plan_path: str | None,
    targets_path: str | None,
    params: tuple[str, ...],
    no_ledger: bool,
    dsn: str | None,
    deadline: str | None,
    **others: Any,  # noqa: ANN401 - fields of Export that need no check
) -> Export:
    from runner import __version__
    from runner.export import values
    from runner.export.pod import Export
    from runner.fleet.targets import read_targets
    from runner.lint import read_plan

    given = Parameters(params=params).given()
    loaded = read_plan(plan, given=given, severities=chosen().severities, require_values=False)
    targets = None if targets_file is None else read_targets(targets_file)
    if targets_path is not None and targets_file is None:
        raise UsageError("--targets-path needs --targets: the file names the clusters.")
    values.check_schedule(schedule)
    values.check_time_zone(others["time_zone"])
    values.check_image(image)
    for option in ("namespace", "secret", "service_account", "executor_account"):
        values.check_name(f"--{option.replace('executor', 'executor_service').replace('_', '-')}", others.get(option))
    values.check_path("--plan-path", plan_path)
    values.check_path("--targets-path", targets_path)
    most = longest[targets is not None]
    files: dict[str, str] = {}
    if plan_path is None:
        files |= _files(loaded, plan)
        plan_path = f"/etc/jobplan/{plan.name}"
    if targets_file is not None and targets_path is None:
        own = "targets.yaml" if plan.name != "targets.yaml" else "fleet-targets.yaml"
        targets_path = f"/etc/jobplan/{own}"
        files[own] = _text(targets_file)
    return Export(
        plan=loaded,
        plan_path=plan_path,
        targets=targets,
        targets_path=targets_path or "",
        files=files,
        name=_name(name, loaded.name, most),
        image=image or f"jobplan:{__version__}",
        schedule=schedule,
        dsn=_checked_dsn(dsn, targets),
        params=tuple(given.items()),
        ledger=not no_ledger,
        deadline=None if deadline is None else duration(f"--deadline {deadline!r}", deadline),
        **others,
    )


def _name(given: str | None, plan: str, longest: int) -> str:
    """Return the name of the objects: as given, else made of the plan's."""
    if given is None:
        words = re.sub(r"[^a-z0-9]+", "-", plan.lower()).strip("-")
        name = words if words[:1].isalpha() else f"plan-{words}"
        return name[:longest].strip("-")
    if len(given) > longest:
        raise UsageError(f"--name {given}: at most {longest} characters: the name and a number are the id of a run.")
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", given):
        raise UsageError(f"--name {given!r} is not of lower-case letters, digits and dashes.")
    return given


def _checked_dsn(dsn: str | None, targets: Targets | None) -> str | None:
    if dsn is None:
        return None
    if targets is not None:
        raise UsageError("--dsn and --targets exclude each other: the targets file has the connections.")
    from runner.export.values import check_dsn

    check_dsn(dsn)
    return dsn


def _files(loaded: Plan, plan: Path) -> dict[str, str]:
    """Return the texts of a plan's files by their path in its folder."""
    from runner.plan.plan_files import files_of

    root = os.path.realpath(plan.parent)
    names = {os.path.relpath(os.path.realpath(file), root) for file in files_of(loaded)} - {plan.name}
    return {plan.name: _text(plan), **{name: _text(Path(root, name)) for name in sorted(names)}}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
