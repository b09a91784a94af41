"""Options of the fleet commands, and what they mean: targets, reports, messages, a trace."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli.console import print_text
from runner.cli.options import journal_argument, option_group
from runner.cli.outputs import OutputOptions, Outputs, Reports, kinds_option, notify_options
from runner.cli.project_options import environment_argument
from runner.errors import UsageError
from runner.exit_codes import is_failure
from runner.identity import run_id_problem
from runner.phrases import ended
from runner.reports.destinations import STDOUT

if TYPE_CHECKING:
    from runner.fleet.discovery import Resolved
    from runner.fleet.events import FleetEvent
    from runner.fleet.notify import FleetNotifier
    from runner.fleet.otlp import FleetTrace
    from runner.fleet.records import FleetJournal
    from runner.fleet.rollout import FleetState
    from runner.fleet.targets import Targets
    from runner.reports.notify import Notifications

#: The longest id of a fleet run: a member's has `-001` behind it.
_LONGEST = 31
#: The kinds of report of a fleet run.
KINDS = ("html", "junit", "markdown", "prometheus")

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
report_option = kinds_option(
    KINDS, " With otlp or otlp=URL, run and resume send a trace to an OpenTelemetry collector."
)
#: Adds --report, --notify, --notify-blocked and --notify-each, as `outputs`.
output_options = option_group(
    "outputs",
    OutputOptions,
    report_option,
    *notify_options,
    click.option(
        "--notify-each",
        is_flag=True,
        help="With --notify: also send a message for each target that fails, when it ends.",
    ),
)


def options_of(journal: Path) -> str:
    """Return the options that a suggested command needs to find this record."""
    return journal_argument(journal) + environment_argument()


def write_fleet_reports(reports: Reports, state: FleetState, warn: Callable[[str], None]) -> tuple[list[str], bool]:
    """Write the reports; `warn` receives the reason if one could not be written.

    Returns the paths of the written reports that are files, and whether all reports could be written.
    """
    from runner.fleet.reports import write_reports

    problems = write_reports(reports, state)
    for problem in problems.values():
        warn(problem)
    return [str(path) for _, path in reports if path not in problems and path != STDOUT], not problems


def resolve_targets(
    targets: Targets,
    where: Sequence[str],
    warn: Callable[[str], None] | None = None,
    perform: Callable[[Coroutine[Any, Any, Resolved]], Resolved] = asyncio.run,
) -> Resolved:
    """Return the targets that match the selectors, including those that queries find.

    `warn` receives the warnings; without it, they are printed. `perform` runs a coroutine and returns its result.
    """
    from runner.fleet.discovery import resolve
    from runner.fleet.targets import parse_selectors

    resolved = perform(resolve(targets, parse_selectors(where)))
    for warning in resolved.warnings:
        (warn or print_warning)(warning)
    return resolved


def checked_id(fleet_id: str) -> str:
    """Return the id of a fleet run; UsageError if it cannot be one."""
    problem = run_id_problem(fleet_id)
    if problem is None and len(fleet_id) > _LONGEST:
        problem = f"an id of a fleet run has at most {_LONGEST} characters, because the ids of its runs are longer"
    if problem is not None:
        raise UsageError(f"--fleet-id {fleet_id!r}: {problem}.")
    return fleet_id


def ended_early(outputs: Outputs, code: int, *, plan: str, fleet_id: str, warn: Callable[[str], None]) -> None:
    """With --notify, send the message that an error ended the command before the fleet run had begun."""
    if outputs.notify is not None:
        _notifier(outputs, outputs.notify, plan, fleet_id, warn).ended_early(code)


def fleet_sinks(
    outputs: Outputs, state: FleetState, record: FleetJournal, first: FleetEvent, warn: Callable[[str], None]
) -> list[FleetNotifier | FleetTrace]:
    """Return what sends the messages and the trace of a fleet run that begins, or is resumed, with `first`."""
    from runner.fleet.events import FleetStarted
    from runner.fleet.records import failed_before

    began = first if isinstance(first, FleetStarted) else state.started
    plan = "" if began is None else began.plan
    sinks: list[FleetNotifier | FleetTrace] = []
    if outputs.notify is not None:
        if state.finished is not None:
            failed = is_failure(state.finished.exit_code)
        else:
            failed = failed_before(record.folder.parent, plan, state.fleet)
        sinks.append(_notifier(outputs, outputs.notify, plan, state.fleet, warn, failed_before=failed))
    exporter = outputs.span_exporter()
    if exporter is not None:
        from runner.fleet.otlp import FleetTrace

        sinks.append(FleetTrace(exporter, environment=dict(os.environ), warn=warn))
    return sinks


def _notifier(
    outputs: Outputs,
    wanted: Notifications,
    plan: str,
    fleet_id: str,
    warn: Callable[[str], None],
    *,
    failed_before: bool = False,
) -> FleetNotifier:
    from runner.fleet.notify import FleetNotifier
    from runner.reports.notify import Webhook

    return FleetNotifier(
        Webhook(wanted.url, warn),
        plan=plan,
        fleet=fleet_id,
        failed_before=failed_before,
        each=outputs.each,
        blocked_after=wanted.blocked_after,
    )


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    print_text(f"jobplan: {ended(text)}", err=True)
