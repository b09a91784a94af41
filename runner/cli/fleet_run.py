"""`jobplan fleet run` and `jobplan fleet resume`: begin a fleet run, and continue one."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.console import print_lines, print_text, terminal_width
from runner.cli.fleet_options import (
    checked_id,
    options_of,
    report_option,
    resolve_targets,
    targets_option,
    wanted_fleet_reports,
    where_option,
    write_fleet_reports,
)
from runner.cli.fleet_output import FleetOutput, fleet_output, notify_each_option
from runner.cli.options import (
    ParameterValues,
    Reports,
    journal_option,
    ledger_schema,
    no_ledger_option,
    notify_options,
    parameter_options,
    parameter_values,
    selection_options,
    trust_option,
)
from runner.cli.project_options import PlanPath, confirm, confirm_option, environment_options
from runner.clock import MonotonicClock
from runner.errors import RecordError, RunHeldError, UsageError
from runner.exit_codes import ExitCode, help_text
from runner.identity import new_run_id
from runner.reports.destinations import STDOUT
from runner.structs import Struct, replace

if TYPE_CHECKING:
    from runner.cli.run_signals import RunSignals
    from runner.engine.events import Outcome
    from runner.engine.ports import Sink
    from runner.fleet.coordinator import FleetSink
    from runner.fleet.discovery import Resolved
    from runner.fleet.events import FleetEvent
    from runner.fleet.plans import FleetPlans
    from runner.fleet.records import FleetJournal
    from runner.fleet.rollout import FleetState, Member
    from runner.fleet.targets import Targets

#: Seconds between two looks at whether another process still executes the fleet run.
_WAIT = 1.0


@click.command("run", epilog=help_text(), short_help="Run a plan on all targets.")
@click.argument("plan", type=PlanPath())
@targets_option
@where_option
@click.option(
    "--wave",
    "waves",
    multiple=True,
    metavar="NAME",
    help="Only the targets of this wave; repeatable. If it has no targets, the command does nothing.",
)
@click.option("--fleet-id", metavar="ID", help="Id of the fleet run. Default: a new id.")
@click.option(
    "--or-resume",
    is_flag=True,
    help="With --fleet-id: finish the fleet run if its record is on this machine, or if the ledgers of its targets "
    "have its runs.",
)
@click.option(
    "--wait-for-runner",
    is_flag=True,
    help="With --or-resume: if another process on this machine executes the fleet run, wait until it ends.",
)
@parameter_options
@selection_options
@environment_options
@confirm_option
@journal_option
@no_ledger_option
@click.option(
    "--require-ledger", is_flag=True, help="Targets without a ledger fail. A retry is safe only with a ledger."
)
@trust_option
@report_option
@notify_options
@notify_each_option
def run_command(
    plan: Path,
    targets_file: Path,
    where: tuple[str, ...],
    *,
    waves: tuple[str, ...],
    fleet_id: str | None,
    or_resume: bool,
    wait_for_runner: bool,
    params: tuple[str, ...],
    params_file: Path | None,
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    assume_done: bool,
    journal: Path,
    no_ledger: bool,
    require_ledger: bool,
    trusted_roles: tuple[str, ...],
    reports: tuple[str, ...],
    notify: str | None,
    notify_blocked: str | None,
    notify_each: bool,
) -> int:
    """Run a plan on all targets of a targets file.

    Waves run one after the other. If more targets fail than the targets file allows, the command starts no further
    target; `jobplan fleet resume` continues with the targets that failed and those that were not started. With
    --fleet-id and --or-resume, the same command line does this, on any machine.
    """
    from runner.fleet.plans import FleetPlans
    from runner.fleet.records import fleets_folder, has_begun, is_running
    from runner.fleet.rollout import assign_runs
    from runner.fleet.targets import read_targets

    confirm()
    output = fleet_output(reports, notify, notify_blocked, each=notify_each)
    with output.reporting_errors(plan.stem, fleet_id or ""):
        if require_ledger and no_ledger:
            raise UsageError("--require-ledger and --no-ledger exclude each other.")
        if or_resume and fleet_id is None:
            raise UsageError("--or-resume needs --fleet-id: it says which fleet run is meant.")
        if wait_for_runner and not or_resume:
            raise UsageError("--wait-for-runner needs --or-resume.")
        fleet_id = checked_id(fleet_id) if fleet_id is not None else new_run_id(MonotonicClock().now())
        targets = read_targets(targets_file)
        _check_waves(waves, targets)
        wanted = wanted_fleet_reports(output.files, plan, targets_file, params_file)
        recorded = fleets_folder(journal) / fleet_id
        if or_resume and (has_begun(recorded) or is_running(recorded)):

            def resume() -> int:
                return _resume_recorded(
                    fleet_id,
                    where,
                    marks=(),
                    allow_changed=False,
                    trusted_roles=trusted_roles,
                    wanted=wanted,
                    output=output,
                    journal=journal,
                )

            return _when_free(resume, fleet_id, wait=wait_for_runner)
        values = parameter_values(params, params_file)
        plans = FleetPlans(plan, **values, select=select, exclude=exclude, assume_done=assume_done)
        resolved = resolve_targets(targets, where)
        ledger = None if no_ledger else ledger_schema()
        known = _recorded_runs(resolved, fleet_id, ledger, trusted_roles) if or_resume and ledger is not None else {}
        if waves and not any(members for wave, members in resolved.placed.waves if wave.name in waves):
            print_text("no target is in these waves: nothing to do.", err=True)
            return 0
        begun = _begin(
            fleet_id,
            resolved,
            plans,
            plan,
            values,
            where=where,
            waves=waves,
            ledger=ledger,
            require_ledger=require_ledger,
            journal=journal,
            select=select,
            exclude=exclude,
        )
        options = _Options(
            ledger=ledger,
            trusted_roles=trusted_roles,
            require_ledger=require_ledger,
            reports=wanted,
            output=output,
        )
        with begun.record:
            if known:
                assign_runs(begun.state, known)
            return _execute(
                begun.state, resolved.targets, plans, begun.record, options, first=begun.started, journal=journal
            )


def _when_free(resume: Callable[[], int], fleet_id: str, *, wait: bool) -> int:
    """Resume the fleet run, with `wait` once no other process executes it."""
    reported = False
    while True:
        try:
            return resume()
        except RunHeldError:
            if not wait:
                raise
        if not reported:
            print_text(f"fleet run {fleet_id}: another process executes it; jobplan is waiting for its end.", err=True)
            reported = True
        time.sleep(_WAIT)


def _check_waves(names: Sequence[str], targets: Targets) -> None:
    """UsageError if --wave names a wave that the targets file does not have."""
    known = [wave.name for wave in targets.rollout.waves]
    for name in names:
        if name not in known:
            raise UsageError(f"--wave {name}: the targets file has the waves {', '.join(known)}.")


def _recorded_runs(
    resolved: Resolved, fleet_id: str, ledger: str | None, trusted_roles: tuple[str, ...]
) -> Mapping[str, str]:
    """Return the runs of the fleet run that the ledgers of its targets have, by target."""
    from runner.fleet.discovery import recorded_runs

    known = asyncio.run(recorded_runs(resolved.targets, fleet_id, ledger, trusted_roles))
    if known:
        print_text(f"fleet run {fleet_id}: the ledgers have the runs of {len(known)} targets.", err=True)
    return known


class _Begun(Struct, frozen=True, kw_only=True):
    """A fleet run that is ready to begin."""

    state: FleetState
    record: FleetJournal
    started: FleetEvent


def _begin(
    fleet_id: str,
    resolved: Resolved,
    plans: FleetPlans,
    plan: Path,
    values: ParameterValues,
    *,
    where: tuple[str, ...],
    waves: tuple[str, ...] = (),
    ledger: str | None,
    require_ledger: bool = False,
    journal: Path,
    select: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> _Begun:
    """Check the plan of every target, and begin the record."""
    from runner import __version__
    from runner.fleet import events as ev
    from runner.fleet.records import FleetJournal, fleets_folder
    from runner.fleet.rollout import initial_state, keep_waves

    targets = resolved.targets
    first = plans.check(targets.targets)
    state = initial_state(fleet_id, resolved.placed, targets.rollout, targets.clusters)
    keep_waves(state, waves)
    started = ev.FleetStarted(
        at=MonotonicClock().now(),
        jobplan=__version__,
        plan=first.name,
        file=str(plan.absolute()),
        sources=plans.sources(first),
        targets=len(state.members),
        host=socket.gethostname(),
        os_pid=os.getpid(),
        where=where,
        waves=waves,
        params=dict(values["given"]),
        params_file=None if values["params_file"] is None else str(values["params_file"].absolute()),
        select=select,
        exclude=exclude,
        ledger=ledger,
        require_ledger=require_ledger,
    )
    return _Begun(state=state, record=FleetJournal.create(fleets_folder(journal), fleet_id, targets), started=started)


@click.command("resume", epilog=help_text(), short_help="Finish a fleet run.")
@click.argument("fleet_id", metavar="ID")
@click.argument("plan", type=PlanPath(), required=False)
@click.option(
    "--targets",
    "targets_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Without a record on this machine: the targets file, whose ledgers have the runs.",
)
@where_option
@click.option(
    "--mark",
    "marks",
    multiple=True,
    metavar="TARGET:STEP=OUTCOME",
    help="Give the outcome of a step's worker if it is unknown: succeeded or failed; repeatable.",
)
@click.option("--allow-changed", is_flag=True, help="Resume with the plan file as it is now, although it has changed.")
@parameter_options
@environment_options
@confirm_option
@journal_option
@trust_option
@report_option
@notify_options
@notify_each_option
def resume_command(
    fleet_id: str,
    plan: Path | None,
    targets_file: Path | None,
    where: tuple[str, ...],
    *,
    marks: tuple[str, ...],
    allow_changed: bool,
    params: tuple[str, ...],
    params_file: Path | None,
    journal: Path,
    trusted_roles: tuple[str, ...],
    reports: tuple[str, ...],
    notify: str | None,
    notify_blocked: str | None,
    notify_each: bool,
) -> int:
    """Finish a fleet run: the plan does not run again on targets that succeeded.

    ID is the id of a fleet run, or `last`. On a machine without its record, also pass PLAN and --targets: the command
    then reads the runs from the ledgers of the targets.
    """
    confirm()
    output = fleet_output(reports, notify, notify_blocked, each=notify_each)
    with output.reporting_errors("" if plan is None else plan.stem, fleet_id):
        if (plan is None) != (targets_file is None):
            raise UsageError("PLAN and --targets belong together: they are for a machine without the record.")
        values = parameter_values(params, params_file)
        wanted = wanted_fleet_reports(output.files, plan, targets_file, params_file)
        if plan is not None and targets_file is not None:
            options = _Options(
                ledger=ledger_schema(),
                trusted_roles=trusted_roles,
                allow_changed=allow_changed,
                reports=wanted,
                output=output,
            )
            return _resume_elsewhere(
                fleet_id, plan, targets_file, where, values=values, options=options, marks=marks, journal=journal
            )
        if params or params_file is not None:
            raise UsageError("a resume takes its parameters from the record.")
        return _resume_recorded(
            fleet_id,
            where,
            marks=marks,
            allow_changed=allow_changed,
            trusted_roles=trusted_roles,
            wanted=wanted,
            output=output,
            journal=journal,
        )


def _resume_recorded(
    fleet_id: str,
    where: tuple[str, ...],
    *,
    marks: tuple[str, ...],
    allow_changed: bool,
    trusted_roles: tuple[str, ...],
    wanted: Reports,
    output: FleetOutput,
    journal: Path,
) -> int:
    """Finish a fleet run whose record is on this machine."""
    from runner import __version__
    from runner.fleet import events as ev
    from runner.fleet.plans import FleetPlans
    from runner.fleet.records import FleetJournal, find_fleet, fleets_folder, read_fleet

    root = fleets_folder(journal)
    fleet_id = find_fleet(root, fleet_id)
    with FleetJournal.reopen(root, fleet_id) as record:
        targets, state = read_fleet(root, fleet_id)
        began = state.started
        if began is None:
            raise RecordError(f"the fleet run {fleet_id} never began.", hint="Begin another one: jobplan fleet run.")
        values = parameter_values((), None if began.params_file is None else Path(began.params_file))
        values["given"] = began.params
        plans = FleetPlans(Path(began.file), **values, select=began.select, exclude=began.exclude, assume_done=True)
        if plans.sources(plans.check(targets.targets)) != began.sources and not allow_changed:
            raise UsageError(
                f"the plan {began.file} has changed since fleet run {fleet_id} began.",
                hint="To continue with the plan as it is now: --allow-changed.",
            )
        check_selected(targets, where)
        resumed = ev.FleetResumed(
            at=MonotonicClock().now(), jobplan=__version__, host=socket.gethostname(), os_pid=os.getpid(), where=where
        )
        options = _Options(
            ledger=began.ledger,
            require_ledger=began.require_ledger,
            trusted_roles=trusted_roles,
            allow_changed=allow_changed,
            marks=_marks(marks, state),
            reports=wanted,
            output=output,
        )
        return _execute(state, targets, plans, record, options, first=resumed, journal=journal)


def check_selected(targets: Targets, where: Sequence[str]) -> None:
    """UsageError if --where selects none of the targets."""
    from runner.fleet.targets import parse_selectors, select

    if not select(targets.targets, parse_selectors(where)):
        raise UsageError(f"--where {' '.join(where)} selects none of {len(targets.targets)} targets.")


def _resume_elsewhere(
    fleet_id: str,
    plan: Path,
    targets_file: Path,
    where: tuple[str, ...],
    *,
    values: ParameterValues,
    options: _Options,
    marks: tuple[str, ...],
    journal: Path,
) -> int:
    """Finish a fleet run whose record is on another machine: the ledgers of its targets have the runs."""
    from runner.fleet.plans import FleetPlans
    from runner.fleet.rollout import assign_runs
    from runner.fleet.targets import read_targets

    plans = FleetPlans(plan, **values)
    resolved = resolve_targets(read_targets(targets_file), where)
    known = _recorded_runs(resolved, checked_id(fleet_id), options.ledger, options.trusted_roles)
    if not known:
        raise RecordError(
            f"no ledger of {len(resolved.targets.targets)} targets has a run of fleet run {fleet_id}.",
            hint="Check the id. Without ledgers, only the machine of the fleet run can resume it.",
        )
    begun = _begin(fleet_id, resolved, plans, plan, values, where=where, ledger=options.ledger, journal=journal)
    with begun.record:
        assign_runs(begun.state, known)
        options = replace(options, marks=_marks(marks, begun.state))
        return _execute(
            begun.state, resolved.targets, plans, begun.record, options, first=begun.started, journal=journal
        )


class _Options(Struct, frozen=True, kw_only=True):
    """What `run` and `resume` of a fleet differ in."""

    ledger: str | None
    trusted_roles: tuple[str, ...] = ()
    require_ledger: bool = False
    allow_changed: bool = False
    marks: Mapping[str, Mapping[str, Outcome]] = {}
    reports: Reports = ()
    output: FleetOutput | None = None


def _execute(
    state: FleetState,
    targets: Targets,
    plans: FleetPlans,
    record: FleetJournal,
    options: _Options,
    *,
    first: FleetEvent,
    journal: Path,
) -> int:
    from runner.cli.fleet_progress import progress
    from runner.cli.run_signals import RunSignals
    from runner.fleet.coordinator import FleetRun
    from runner.fleet.member import MemberOptions
    from runner.fleet.messages import summary_lines
    from runner.fleet.records import cancel_request

    members = MemberOptions(
        runs=record.runs,
        ledger=options.ledger,
        trusted_roles=options.trusted_roles,
        require_ledger=options.require_ledger,
        allow_changed=options.allow_changed,
        marks=options.marks,
    )

    outside = () if options.output is None else options.output.sinks(state, record, first)

    def sinks_of(member: Member) -> list[Sink]:
        return [sink for one in outside if (sink := one.member(member)) is not None]

    async def execute(signals: RunSignals, sink: FleetSink) -> int:
        run = FleetRun(
            state,
            targets,
            plans.of,
            record,
            members,
            clock=MonotonicClock(),
            sinks=[sink, *outside],
            cancel_wanted=lambda: cancel_request(record.folder),
            sinks_of=sinks_of,
        )
        with signals.passed_to(run.interrupt):
            code = await run.execute(first)
            signals.ignore()
            return code

    try:
        with RunSignals() as signals, progress() as shown:
            code = signals.in_loop(execute(signals, shown))
    finally:
        for one in outside:
            one.close()
    print_lines(summary_lines(state, journal=options_of(journal), width=terminal_width(sys.stderr)), err=True)
    written = write_fleet_reports(options.reports, state)
    print_lines([f"Record  {record.folder}", *(f"Report  {path}" for path in written)], err=True)
    return code if code or len(written) == sum(path != STDOUT for _, path in options.reports) else ExitCode.FAILED


def _marks(texts: Sequence[str], state: FleetState) -> Mapping[str, Mapping[str, Outcome]]:
    """Read --mark TARGET:STEP=OUTCOME. UsageError if one is not of that form, or names no target."""
    from runner.engine.events import Outcome

    found: dict[str, dict[str, Outcome]] = {}
    for text in texts:
        name, outcome = text.rpartition("=")[::2]
        target = next((one for one in sorted(state.members, key=len, reverse=True) if name.startswith(f"{one}:")), None)
        if target is None or outcome not in (Outcome.SUCCEEDED, Outcome.FAILED):
            raise UsageError(f"--mark {text!r} is not TARGET:STEP=succeeded or TARGET:STEP=failed.")
        found.setdefault(target, {})[name.removeprefix(f"{target}:")] = Outcome(outcome)
    return found
