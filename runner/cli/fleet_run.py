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
    KINDS,
    checked_id,
    fleet_sinks,
    options_of,
    output_options,
    reporting_errors,
    resolve_targets,
    targets_option,
    where_option,
    write_fleet_reports,
)
from runner.cli.options import (
    Parameters,
    Selection,
    as_one,
    journal_option,
    ledger_schema,
    no_ledger_option,
    parameter_options,
    selection_options,
    trust_option,
)
from runner.cli.outputs import OutputOptions, Outputs, Reports, wanted_reports
from runner.cli.project_options import PlanPath, confirm, confirm_option, environment_options
from runner.clock import MonotonicClock
from runner.errors import RecordError, RunHeldError, UsageError
from runner.exit_codes import ExitCode, help_text
from runner.identity import new_run_id
from runner.structs import Struct, asdict, replace

if TYPE_CHECKING:
    from runner.cli.run_signals import RunSignals
    from runner.engine.events import Outcome
    from runner.engine.ports import Sink
    from runner.fleet.coordinator import FleetSink
    from runner.fleet.discovery import Resolved
    from runner.fleet.events import FleetEvent
    from runner.fleet.member import MemberOptions
    from runner.fleet.plans import FleetPlans
    from runner.fleet.records import FleetJournal
    from runner.fleet.rollout import FleetState, Member
    from runner.fleet.targets import Targets

#: Seconds between two looks at whether another process still executes the fleet run.
_WAIT = 1.0


class FleetOptions(Struct, frozen=True, kw_only=True):
    """The arguments and options of `jobplan fleet run` and `resume`; each has a part of them."""

    plan: Path | None
    targets_file: Path | None
    where: tuple[str, ...]
    fleet_id: str | None
    waves: tuple[str, ...] = ()
    or_resume: bool = False
    wait_for_runner: bool = False
    marks: tuple[str, ...] = ()
    allow_changed: bool = False
    parameters: Parameters
    selection: Selection = Selection()
    journal: Path
    no_ledger: bool = False
    require_ledger: bool = False
    trusted_roles: tuple[str, ...]
    outputs: OutputOptions

    def check(self) -> None:
        """UsageError if options contradict each other."""
        if self.require_ledger and self.no_ledger:
            raise UsageError("--require-ledger and --no-ledger exclude each other.")
        if self.or_resume and self.fleet_id is None:
            raise UsageError("--or-resume needs --fleet-id: it says which fleet run is meant.")
        if self.wait_for_runner and not self.or_resume:
            raise UsageError("--wait-for-runner needs --or-resume.")

    def files(self) -> tuple[Path, Path]:
        """Return the plan and the targets file. UsageError if one is missing, which only a resume allows."""
        if self.plan is None or self.targets_file is None:
            raise UsageError("PLAN and --targets belong together: they are for a machine without the record.")
        return self.plan, self.targets_file

    def plans(self) -> FleetPlans:
        """Return what reads the plan of each target."""
        from runner.fleet.plans import FleetPlans

        return FleetPlans(self.files()[0], **self.parameters.values(), **asdict(self.selection))


class _Ready(Struct, frozen=True, kw_only=True):
    """A fleet run that is ready to begin, or to be resumed, with its event `first`."""

    state: FleetState
    targets: Targets
    plans: FleetPlans
    record: FleetJournal
    members: MemberOptions
    first: FleetEvent


class _Wanted(Struct, frozen=True, kw_only=True):
    """What is written and sent besides the record."""

    outputs: Outputs
    reports: Reports
    journal: Path


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
@output_options
@as_one(FleetOptions)
def run_command(options: FleetOptions) -> int:
    """Run a plan on all targets of a targets file.

    Waves run one after the other. If more targets fail than the targets file allows, the command starts no further
    target; `jobplan fleet resume` continues with the targets that failed and those that were not started. With
    --fleet-id and --or-resume, the same command line does this, on any machine.
    """
    from runner.fleet.records import fleets_folder, has_begun, is_running
    from runner.fleet.targets import read_targets

    confirm()
    plan, targets_file = options.files()
    outputs = options.outputs.read(KINDS)
    with reporting_errors(outputs, plan.stem, options.fleet_id or ""):
        options.check()
        fleet_id = new_run_id(MonotonicClock().now()) if options.fleet_id is None else checked_id(options.fleet_id)
        targets = read_targets(targets_file)
        _check_waves(options.waves, targets)
        wanted = _wanted(outputs, options)
        recorded = fleets_folder(options.journal) / fleet_id
        if options.or_resume and (has_begun(recorded) or is_running(recorded)):
            return _when_free(
                lambda: _resume_recorded(options, fleet_id, wanted), fleet_id, wait=options.wait_for_runner
            )
        plans = options.plans()
        resolved = resolve_targets(targets, options.where)
        known: Mapping[str, str] = {}
        if options.or_resume and not options.no_ledger:
            known = _recorded_runs(resolved, fleet_id, options.trusted_roles)
        if options.waves and not any(members for wave, members in resolved.placed.waves if wave.name in options.waves):
            print_text("no target is in these waves: nothing to do.", err=True)
            return 0
        ready = _begin(options, fleet_id, resolved, plans, known)
        with ready.record:
            return _execute(ready, wanted)


def _wanted(outputs: Outputs, options: FleetOptions) -> _Wanted:
    inputs = (options.plan, options.targets_file, options.parameters.params_file)
    reports = wanted_reports(outputs.files, *inputs, kinds=KINDS)
    return _Wanted(outputs=outputs, reports=reports, journal=options.journal)


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


def _recorded_runs(resolved: Resolved, fleet_id: str, trusted_roles: tuple[str, ...]) -> Mapping[str, str]:
    """Return the runs of the fleet run that the ledgers of its targets have, by target."""
    from runner.fleet.discovery import recorded_runs

    known = asyncio.run(recorded_runs(resolved.targets, fleet_id, ledger_schema(), trusted_roles))
    if known:
        print_text(f"fleet run {fleet_id}: the ledgers have the runs of {len(known)} targets.", err=True)
    return known


def _begin(
    options: FleetOptions, fleet_id: str, resolved: Resolved, plans: FleetPlans, known: Mapping[str, str]
) -> _Ready:
    """Check the plan of every target, and begin the record; `known` are runs that the ledgers have, by target."""
    from runner import __version__
    from runner.fleet import events as ev
    from runner.fleet.member import MemberOptions
    from runner.fleet.records import FleetJournal, fleets_folder
    from runner.fleet.rollout import assign_runs, initial_state, keep_waves

    targets, parameters = resolved.targets, options.parameters
    ledger = None if options.no_ledger else ledger_schema()
    first = plans.check(targets.targets)
    state = initial_state(fleet_id, resolved.placed, targets.rollout, targets.clusters)
    keep_waves(state, options.waves)
    if known:
        assign_runs(state, known)
    started = ev.FleetStarted(
        at=MonotonicClock().now(),
        jobplan=__version__,
        plan=first.name,
        file=str(options.files()[0].absolute()),
        sources=plans.sources(first),
        targets=len(state.members),
        host=socket.gethostname(),
        os_pid=os.getpid(),
        where=options.where,
        waves=options.waves,
        params=parameters.given(),
        params_file=None if parameters.params_file is None else str(parameters.params_file.absolute()),
        select=options.selection.select,
        exclude=options.selection.exclude,
        ledger=ledger,
        require_ledger=options.require_ledger,
    )
    record = FleetJournal.create(fleets_folder(options.journal), fleet_id, targets)
    members = MemberOptions(
        runs=record.runs,
        ledger=ledger,
        trusted_roles=options.trusted_roles,
        require_ledger=options.require_ledger,
    )
    return _Ready(state=state, targets=targets, plans=plans, record=record, members=members, first=started)


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
@output_options
@as_one(FleetOptions)
def resume_command(options: FleetOptions) -> int:
    """Finish a fleet run: the plan does not run again on targets that succeeded.

    ID is the id of a fleet run, or `last`. On a machine without its record, also pass PLAN and --targets: the command
    then reads the runs from the ledgers of the targets.
    """
    confirm()
    outputs = options.outputs.read(KINDS)
    fleet_id = options.fleet_id or ""
    with reporting_errors(outputs, "" if options.plan is None else options.plan.stem, fleet_id):
        elsewhere = options.plan is not None or options.targets_file is not None
        if elsewhere:
            options.files()
        options.parameters.given()
        wanted = _wanted(outputs, options)
        if elsewhere:
            return _resume_elsewhere(options, fleet_id, wanted)
        if options.parameters != Parameters():
            raise UsageError("a resume takes its parameters from the record.")
        return _resume_recorded(options, fleet_id, wanted)


def _resume_recorded(options: FleetOptions, name: str, wanted: _Wanted) -> int:
    """Finish the fleet run of this id, or `last`, whose record is on this machine."""
    from runner import __version__
    from runner.fleet import events as ev
    from runner.fleet.member import MemberOptions
    from runner.fleet.plans import FleetPlans
    from runner.fleet.records import FleetJournal, find_fleet, fleets_folder, read_fleet

    root = fleets_folder(options.journal)
    fleet_id = find_fleet(root, name)
    with FleetJournal.reopen(root, fleet_id) as record:
        targets, state = read_fleet(root, fleet_id)
        began = state.started
        if began is None:
            raise RecordError(f"the fleet run {fleet_id} never began.", hint="Begin another one: jobplan fleet run.")
        values = Parameters(params_file=None if began.params_file is None else Path(began.params_file)).values()
        values["given"] = began.params
        plans = FleetPlans(Path(began.file), **values, select=began.select, exclude=began.exclude, assume_done=True)
        if plans.sources(plans.check(targets.targets)) != began.sources and not options.allow_changed:
            raise UsageError(
                f"the plan {began.file} has changed since fleet run {fleet_id} began.",
                hint="To continue with the plan as it is now: --allow-changed.",
            )
        check_selected(targets, options.where)
        resumed = ev.FleetResumed(
            at=MonotonicClock().now(),
            jobplan=__version__,
            host=socket.gethostname(),
            os_pid=os.getpid(),
            where=options.where,
        )
        members = MemberOptions(
            runs=record.runs,
            ledger=began.ledger,
            trusted_roles=options.trusted_roles,
            require_ledger=began.require_ledger,
            allow_changed=options.allow_changed,
            marks=_marks(options.marks, state),
        )
        ready = _Ready(state=state, targets=targets, plans=plans, record=record, members=members, first=resumed)
        return _execute(ready, wanted)


def check_selected(targets: Targets, where: Sequence[str]) -> None:
    """UsageError if --where selects none of the targets."""
    from runner.fleet.targets import parse_selectors, select

    if not select(targets.targets, parse_selectors(where)):
        raise UsageError(f"--where {' '.join(where)} selects none of {len(targets.targets)} targets.")


def _resume_elsewhere(options: FleetOptions, fleet_id: str, wanted: _Wanted) -> int:
    """Finish a fleet run whose record is on another machine: the ledgers of its targets have the runs."""
    from runner.fleet.targets import read_targets

    plans = options.plans()
    resolved = resolve_targets(read_targets(options.files()[1]), options.where)
    known = _recorded_runs(resolved, checked_id(fleet_id), options.trusted_roles)
    if not known:
        raise RecordError(
            f"no ledger of {len(resolved.targets.targets)} targets has a run of fleet run {fleet_id}.",
            hint="Check the id. Without ledgers, only the machine of the fleet run can resume it.",
        )
    ready = _begin(options, fleet_id, resolved, plans, known)
    with ready.record:
        marks = _marks(options.marks, ready.state)
        members = replace(ready.members, allow_changed=options.allow_changed, marks=marks)
        return _execute(replace(ready, members=members), wanted)


def _execute(ready: _Ready, wanted: _Wanted) -> int:
    from runner.cli.fleet_progress import progress
    from runner.cli.run_signals import RunSignals
    from runner.fleet.coordinator import FleetRun
    from runner.fleet.messages import summary_lines
    from runner.fleet.records import cancel_request

    state, record = ready.state, ready.record
    outside = fleet_sinks(wanted.outputs, state, record, ready.first)

    def sinks_of(member: Member) -> list[Sink]:
        return [sink for one in outside if (sink := one.member(member)) is not None]

    async def execute(signals: RunSignals, sink: FleetSink) -> int:
        run = FleetRun(
            state,
            ready.targets,
            ready.plans.of,
            record,
            ready.members,
            clock=MonotonicClock(),
            sinks=[sink, *outside],
            cancel_wanted=lambda: cancel_request(record.folder),
            sinks_of=sinks_of,
        )
        with signals.passed_to(run.interrupt):
            code = await run.execute(ready.first)
            signals.ignore()
            return code

    try:
        with RunSignals() as signals, progress() as shown:
            code = signals.in_loop(execute(signals, shown))
    finally:
        for one in outside:
            one.close()
    summary = summary_lines(state, journal=options_of(wanted.journal), width=terminal_width(sys.stderr))
    print_lines(summary, err=True)
    written, complete = write_fleet_reports(wanted.reports, state)
    print_lines([f"Record  {record.folder}", *(f"Report  {path}" for path in written)], err=True)
    return code if code or complete else ExitCode.FAILED


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
