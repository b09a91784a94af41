"""`jobplan fleet`: one plan over many databases. `fleet_run` has the commands that run it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_fleet
from runner.cli.console import print_json, print_lines, print_text, terminal_width
from runner.cli.fleet_options import (
    KINDS,
    checked_id,
    options_of,
    print_warning,
    report_option,
    resolve_targets,
    targets_option,
    where_option,
    write_fleet_reports,
)
from runner.cli.fleet_run import check_selected, resume_command, run_command
from runner.cli.options import (
    Parameters,
    Selection,
    format_option,
    journal_option,
    ledger_schema,
    parameter_options,
    selection_options,
    trust_option,
)
from runner.cli.outputs import wanted_reports
from runner.cli.project_options import PlanPath, confirm, confirm_option, environment_options
from runner.exit_codes import ExitCode
from runner.identity import this_user
from runner.phrases import counted
from runner.reports.terminal_text import columns, visible
from runner.structs import asdict, to_values

if TYPE_CHECKING:
    from runner.fleet.targets import Target, Targets


@click.group()
def fleet() -> None:
    """Run one plan over many databases: in waves, with a limit on the workers of each server.

    Each database has an ordinary run. `jobplan status`, `attach`, `cancel` and the ledger of the database show it with
    its id.
    """


fleet.add_command(run_command)
fleet.add_command(resume_command)


@fleet.command("targets", short_help="List the targets by wave.")
@click.argument("targets_file", type=click.Path(path_type=Path), metavar="FILE")
@where_option
@format_option
def targets_command(targets_file: Path, where: tuple[str, ...], form: str) -> int:
    """List the targets of a targets file by wave, including those that its discovery queries find."""
    from runner.fleet.targets import read_targets

    resolved = resolve_targets(read_targets(targets_file), where)
    if form == "json":
        print_json(
            [{"wave": wave.name, **to_values(target)} for wave, members in resolved.placed.waves for target in members]
        )
        return 0
    for wave, members in resolved.placed.waves:
        if not members:
            continue
        print_text(f"wave {wave.name}: {len(members)}")
        width = max(columns(visible(target.name)) for target in members)
        for target in members:
            labels = " ".join(f"{key}={value}" for key, value in sorted(target.labels.items()))
            print_lines([f"  {_padded(target.name, width)}  {target.cluster}/{target.database}  {labels}".rstrip()])
    return 0


@fleet.command("dry-run", short_help="Show what a plan would do on every target.")
@click.argument("plan", type=PlanPath())
@targets_option
@where_option
@parameter_options
@selection_options
@trust_option
@environment_options
@click.option("--no-explain", is_flag=True, help="Do not run EXPLAIN: faster, with fewer details.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@format_option
def dry_run_command(
    plan: Path,
    targets_file: Path,
    where: tuple[str, ...],
    *,
    parameters: Parameters,
    selection: Selection,
    trusted_roles: tuple[str, ...],
    no_explain: bool,
    strict: bool,
    form: str,
) -> int:
    """Show what a plan would do on every target, and the relations of the plan that differ between targets."""
    from runner.fleet.dry_run import look, result_data, result_lines
    from runner.fleet.plans import FleetPlans
    from runner.fleet.targets import read_targets

    targets = read_targets(targets_file)
    plans = FleetPlans(plan, **parameters.values(), **asdict(selection))
    resolved = resolve_targets(targets, where)
    plans.check(resolved.targets.targets)
    result = asyncio.run(look(resolved, plans, explain=not no_explain, trusted_roles=trusted_roles))
    if form == "json":
        print_json(result_data(result))
    else:
        print_lines(result_lines(result))
    return result.exit_code(strict=strict)


@fleet.command("show", short_help="Show the record of a fleet run.")
@click.argument("fleet_id", metavar="ID", default="last", shell_complete=complete_fleet)
@where_option
@environment_options
@journal_option
@report_option
@format_option
def show_command(fleet_id: str, where: tuple[str, ...], *, journal: Path, reports: tuple[str, ...], form: str) -> int:
    """Show the record of a fleet run: what failed, and each target. The exit code is that of the fleet run."""
    from runner.fleet.messages import member_words, summary_lines
    from runner.fleet.records import find_fleet, fleets_folder, read_fleet
    from runner.fleet.reports import report_data
    from runner.fleet.rollout import keep_targets

    root = fleets_folder(journal)
    targets, state = read_fleet(root, find_fleet(root, fleet_id))
    keep_targets(state, _chosen(targets, where))
    code = ExitCode.UNKNOWN if state.finished is None else state.finished.exit_code
    wanted = wanted_reports(reports, kinds=KINDS)
    if wanted:
        _, complete = write_fleet_reports(wanted, state, print_warning)
        return code if complete else ExitCode.FAILED
    if form == "json":
        print_json(report_data(state, code))
        return code
    width = max((columns(visible(name)) for name in state.members), default=0)
    for wave in state.waves:
        print_text(f"wave {wave.name}")
        for member in state.of_wave(wave.name):
            took = "" if member.last is None else f"  {member.last.seconds:.1f} s"
            print_lines([f"  {_padded(member.target.name, width)}  {member_words(member.state)}{took}  {member.run}"])
    print_lines(summary_lines(state, journal=options_of(journal), width=terminal_width(sys.stdout)))
    return code


_servers_option = click.option(
    "--targets",
    "targets_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask the servers of this targets file, from any machine. Default: the record on this machine.",
)


@fleet.command("status", short_help="Show the progress of a fleet run, and its runs on each cluster.")
@click.argument("fleet_id", metavar="ID", default="last", shell_complete=complete_fleet)
@_servers_option
@where_option
@environment_options
@journal_option
@format_option
def status_command(
    fleet_id: str, *, targets_file: Path | None, where: tuple[str, ...], journal: Path, form: str
) -> int:
    """Show the progress of a fleet run, and its runs on each cluster.

    With --targets, the command reads the state from the servers, and works on any machine. Otherwise it needs the
    record of the fleet run.
    """
    from runner.fleet.live_members import member_lines, members_data, members_on_servers
    from runner.fleet.messages import count_words
    from runner.fleet.records import is_running, read_fleet
    from runner.fleet.rollout import keep_targets

    fleet_id, targets, recorded = _meant(fleet_id, targets_file, where, journal)
    chosen = _chosen(targets, where)
    known: dict[str, object] = {}
    if recorded is not None:
        _, state = read_fleet(recorded.parent, fleet_id)
        keep_targets(state, chosen)
        running, counts = is_running(recorded), state.counts()
        known = {"running": running, "counts": {str(one): number for one, number in counts.items()}}
        if form == "text":
            process = "runs" if running else "has no process"
            print_text(f"fleet run {fleet_id} {process}: {count_words(counts)}")
    found = asyncio.run(members_on_servers(targets, fleet_id, chosen=chosen, ledger=ledger_schema()))
    if form == "json":
        print_json({"fleet": fleet_id, **known, "clusters": members_data(found)})
    else:
        print_lines(member_lines(found))
    return ExitCode.NOT_STARTED if any(one.problem for one in found) else 0


@fleet.command("cancel", short_help="Cancel a fleet run, or a part of it.")
@click.argument("fleet_id", metavar="ID", default="last", shell_complete=complete_fleet)
@_servers_option
@where_option
@environment_options
@confirm_option
@journal_option
@format_option
def cancel_command(
    fleet_id: str, *, targets_file: Path | None, where: tuple[str, ...], journal: Path, form: str
) -> int:
    """Cancel a fleet run: start no further targets, and cancel the running steps.

    With --where, the command cancels only the targets that match; the others continue. With --targets, it finds the
    running targets on the servers, and works on any machine. The exit code is 7 if workers still run.
    """
    from runner.fleet.live_members import ClusterMembers, cancel_on_servers, member_lines, members_data
    from runner.fleet.records import is_running, request_cancel

    confirm()
    fleet_id, targets, recorded = _meant(fleet_id, targets_file, where, journal)
    chosen = _chosen(targets, where)
    part = "" if chosen is None else f" {counted(len(chosen), 'target')}"
    by = this_user()
    left: tuple[ClusterMembers, ...] = ()
    running = recorded is not None and is_running(recorded)
    if recorded is not None and running:
        request_cancel(recorded, by, where)
    else:
        left = asyncio.run(cancel_on_servers(targets, fleet_id, by, chosen=chosen, ledger=ledger_schema()))
    still = any(one.runs or one.problem for one in left)
    if form == "json":
        print_json({"fleet": fleet_id, "by": by, "running": running, "clusters": members_data(left)})
    elif running:
        print_text(f"fleet run {fleet_id}: its process received the request to cancel{part}; it reports the end.")
    elif still:
        print_lines(member_lines(left))
    else:
        print_text(f"fleet run {fleet_id}: no run is active on {part.strip() or 'any target'}.")
    return ExitCode.UNKNOWN if still else 0


def _padded(name: str, width: int) -> str:
    """Return a name as it is printed, padded to `width` columns."""
    shown = visible(name)
    return shown + " " * (width - columns(shown))


def _chosen(targets: Targets, where: tuple[str, ...]) -> tuple[Target, ...] | None:
    """Return the targets that --where selects, None without it. UsageError if it selects none."""
    if not where:
        return None
    from runner.fleet.targets import parse_selectors, select

    check_selected(targets, where)
    return tuple(select(targets.targets, parse_selectors(where)))


def _meant(
    fleet_id: str, targets_file: Path | None, where: tuple[str, ...], journal: Path
) -> tuple[str, Targets, Path | None]:
    """Return the id, the targets and the record of a fleet run; no record if a targets file is given.

    With --where the targets of a file are those that its queries find, too.
    """
    from runner.fleet.records import find_fleet, fleets_folder, read_fleet
    from runner.fleet.targets import read_targets

    if targets_file is not None:
        targets = read_targets(targets_file)
        return checked_id(fleet_id), resolve_targets(targets, ()).targets if where else targets, None
    root = fleets_folder(journal)
    fleet_id = find_fleet(root, fleet_id)
    targets, _ = read_fleet(root, fleet_id)
    return fleet_id, targets, root / fleet_id
