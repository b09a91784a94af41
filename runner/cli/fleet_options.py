"""Options of the fleet commands, and what they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.console import print_text
from runner.cli.options import Reports, journal_argument, wanted_reports
from runner.cli.project_options import environment_argument
from runner.errors import UsageError
from runner.identity import run_id_problem
from runner.reports.destinations import STDOUT

if TYPE_CHECKING:
    from runner.fleet.discovery import Resolved
    from runner.fleet.rollout import FleetState
    from runner.fleet.targets import Selector, Targets

#: The longest id of a fleet run: a member's has `-001` behind it.
_LONGEST = 31

targets_option = click.option(
    "--targets",
    "targets_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The targets file: clusters, databases, waves.",
)
where_option = click.option(
    "--where",
    "where",
    multiple=True,
    metavar="SELECTOR",
    help="Only targets that match: tier=gold, name=tenant_*, cluster!=c1; repeatable, all must match.",
)
report_option = click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="KIND=PATH",
    help="Write a report of KIND (html, junit, markdown, prometheus) to PATH; - is standard output; repeatable. With "
    "otlp or otlp=URL, run and resume send a trace to an OpenTelemetry collector.",
)
format_option = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)


def options_of(journal: Path) -> str:
    """Return the options that a suggested command needs to find this record."""
    return journal_argument(journal) + environment_argument()


def write_fleet_reports(reports: Reports, state: FleetState) -> list[str]:
    """Write the reports, say which could not be written, and return the paths of the others."""
    from runner.fleet.reports import write_reports

    problems = write_reports(reports, state)
    for problem in problems.values():
        print_text(f"jobplan: {problem}", err=True)
    return [str(path) for _, path in reports if path not in problems and path != STDOUT]


def wanted_fleet_reports(texts: tuple[str, ...], *inputs: Path | None) -> Reports:
    """Read --report. UsageError if one is not KIND=PATH, or would overwrite one of the inputs."""
    if not texts:
        return ()
    from runner.fleet.reports import KINDS

    return wanted_reports(texts, *inputs, kinds=KINDS)


def resolve_targets(targets: Targets, where: Sequence[str]) -> Resolved:
    """Return the targets that match the selectors, with those that queries find; warnings are printed."""
    from runner.fleet.discovery import resolve
    from runner.fleet.targets import parse_selectors

    selectors: tuple[Selector, ...] = parse_selectors(where)
    resolved = asyncio.run(resolve(targets, selectors))
    for warning in resolved.warnings:
        print_text(f"jobplan: {warning}{'' if warning.endswith(('.', '?', '!')) else '.'}", err=True)
    return resolved


def checked_id(fleet_id: str) -> str:
    """Return the id of a fleet run; UsageError if it cannot be one."""
    problem = run_id_problem(fleet_id)
    if problem is None and len(fleet_id) > _LONGEST:
        problem = f"an id of a fleet run has at most {_LONGEST} characters, because the ids of its runs are longer"
    if problem is not None:
        raise UsageError(f"--fleet-id {fleet_id!r}: {problem}.")
    return fleet_id
