"""`jobplan fleet run` and `jobplan fleet resume`: begin a fleet run, and continue one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.cli.completion import complete_fleet
from runner.cli.fleet_options import (
    KINDS,
    checked_id,
    ended_early,
    fleet_sinks,
    options_of,
    output_options,
    resolve_targets,
    targets_option,
    where_option,
    write_fleet_reports,
)
from runner.cli.options import (
    LedgerUse,
    Parameters,
    Selection,
    as_one,
    journal_option,
    ledger_options,
    parameter_options,
    selection_options,
    trust_option,
)
from runner.cli.outputs import OutputOptions, Outputs, Reports, wanted_reports
from runner.cli.project_options import PlanPath, chosen, confirm, confirm_option, environment_options
from runner.cli.run_execution import ProgressOptions, format_only_option
from runner.cli.run_signals import RunInterruptedError, RunSignals
from runner.cli.unblocked_output import unblocked_output
from runner.clock import MonotonicClock
from runner.errors import JobplanError, RecordError, RunHeldError, UsageError
from runner.exit_codes import ExitCode, for_error, help_text
from runner.identity import new_run_id
from runner.phrases import counted
from runner.structs import Struct, asdict

if TYPE_CHECKING:
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

_T = TypeVar("_T")

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
    ledger: LedgerUse
    require_ledger: bool = False
    outputs: OutputOptions
    progress: ProgressOptions

    @classmethod
    def of_resume(cls, *, trusted_roles: tuple[str, ...], **given: Any) -> FleetOptions:  # noqa: ANN401 - click's values
        """Return the options of a resume. It writes to the ledger if the fleet run did so from its beginning."""
        return cls(ledger=LedgerUse(no_ledger=False, trusted_roles=trusted_roles), **given)

    def check(self) -> None:
        """UsageError if options contradict each other."""
        if self.require_ledger and self.ledger.no_ledger:
            raise UsageError("--require-ledger and --no-ledger exclude each other.")
        if self.or_resume and self.fleet_id is None:
            raise UsageError("--or-resume needs --fleet-id, the id of the fleet run.")
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
@ledger_options
@click.option(
    "--require-ledger", is_flag=True, help="Targets without a ledger fail. A retry is safe only with a ledger."
)
@output_options
@format_only_option
@as_one(FleetOptions)
def run_command(options: FleetOptions) -> int:
    """Run a plan on all targets of a targets file.

    Waves run one after the other. If more targets fail than the targets file allows, the command starts no further
    target; `jobplan fleet resume` continues with the targets that failed and those that were not started. With
    --fleet-id and --or-resume, the same command line does this, on any machine.
    """
    return _perform(options, _FleetCommand.run)


@click.command("resume", epilog=help_text(), short_help="Finish a fleet run.")
@click.argument("fleet_id", metavar="ID", shell_complete=complete_fleet)
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
@format_only_option
@as_one(FleetOptions.of_resume)
def resume_command(options: FleetOptions) -> int:
    """Finish a fleet run: the plan does not run again on targets that succeeded.

    ID is the id of a fleet run, or `last`. On a machine without its record, also pass PLAN and --targets: the command
    then reads the runs from the ledgers of the targets.
    """
    return _perform(options, _FleetCommand.resume)


def _perform(options: FleetOptions, work: Callable[[_FleetCommand], int]) -> int:
    """Carry out one of the commands. Report an error, or a signal that came before anything was started."""
    progress = options.progress
    outputs: Outputs | None = None
    try:
        confirm()
    except JobplanError as error:
        progress.report_error(error)
        return for_error(error)
    with unblocked_output():
        try:
            with RunSignals() as signals:
                try:
                    outputs = options.outputs.read(KINDS)
                    return work(_FleetCommand(options, outputs, signals))
                except JobplanError as error:
                    signals.ignore()
                    progress.report_error(error)
                    code = for_error(error)
                    if outputs is not None:
                        plan = "" if options.plan is None else options.plan.stem
                        ended_early(outputs, code, plan=plan, fleet_id=options.fleet_id or "", warn=progress.warn)
                    return code
        except RunInterruptedError as stop:
            return progress.interrupted(stop.number)


class _FleetCommand:
    """One execution of `jobplan fleet run` or `resume`."""

    def __init__(self, options: FleetOptions, outputs: Outputs, signals: RunSignals) -> None:
        self._options = options
        self._outputs = outputs
        self._signals = signals
        self._progress = options.progress
        self._reports: Reports = ()

    def run(self) -> int:
        """Begin a fleet run; with --or-resume, finish the one that the record or the ledgers have."""
        from runner.fleet.records import fleets_folder, has_begun, is_running
        from runner.fleet.targets import read_targets

        options = self._options
        targets_file = options.files()[1]
        options.check()
        fleet_id = new_run_id(MonotonicClock().now()) if options.fleet_id is None else checked_id(options.fleet_id)
        targets = read_targets(targets_file)
        _check_waves(options.waves, targets)
        self._reports = self._wanted_reports()
        recorded = fleets_folder(options.journal) / fleet_id
        if options.or_resume and (has_begun(recorded) or is_running(recorded)):
            return self._when_free(fleet_id)
        plans = options.plans()
        resolved = self._resolved(targets)
        known: Mapping[str, str] = {}
        if options.or_resume and not options.ledger.no_ledger:
            known = self._recorded_runs(resolved, fleet_id)
        if options.waves and not any(members for wave, members in resolved.placed.waves if wave.name in options.waves):
            self._progress.print("no target is in these waves: nothing to do.")
            return 0
        ready = self._begin(fleet_id, resolved, plans, known)
        with ready.record:
            return self._execute(ready)

    def resume(self) -> int:
        """Finish a fleet run."""
        options = self._options
        fleet_id = options.fleet_id or ""
        elsewhere = options.plan is not None or options.targets_file is not None
        if elsewhere:
            options.files()
        options.parameters.given()
        self._reports = self._wanted_reports()
        if elsewhere:
            return self._resume_elsewhere(fleet_id)
        if options.parameters != Parameters():
            raise UsageError("a resume takes its parameters from the record.")
        return self._resume_recorded(fleet_id)

    def _wanted_reports(self) -> Reports:
        options = self._options
        inputs = (options.plan, options.targets_file, options.parameters.params_file)
        return wanted_reports(self._outputs.files, *inputs, kinds=KINDS)

    def _when_free(self, fleet_id: str) -> int:
        """Resume the fleet run; with --wait-for-runner, first wait until no other process executes it."""
        reported = False
        while True:
            try:
                return self._resume_recorded(fleet_id)
            except RunHeldError:
                if not self._options.wait_for_runner:
                    raise
            if not reported:
                text = f"fleet run {fleet_id}: another process executes it; jobplan is waiting for its end."
                self._progress.print(text, event="waiting")
                reported = True
            time.sleep(_WAIT)

    def _resolved(self, targets: Targets) -> Resolved:
        return resolve_targets(targets, self._options.where, self._progress.warn, self._await)

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of work before anything was started. RunInterruptedError if a signal ends it."""
        return self._signals.until(work)

    def _recorded_runs(self, resolved: Resolved, fleet_id: str) -> Mapping[str, str]:
        """Return the runs of the fleet run that the ledgers of its targets have, by target."""
        from runner.fleet.discovery import recorded_runs

        ledger = self._options.ledger
        known = self._await(recorded_runs(resolved.targets, fleet_id, ledger.schema, ledger.trusted_roles))
        if known:
            text = f"fleet run {fleet_id}: the ledgers have the runs of {counted(len(known), 'target')}."
            self._progress.print(text)
        return known

    def _begin(self, fleet_id: str, resolved: Resolved, plans: FleetPlans, known: Mapping[str, str]) -> _Ready:
        """Check the plan of every target, and begin the record; `known` are runs that the ledgers have, by target."""
        from runner import __version__
        from runner.fleet import events as ev
        from runner.fleet.records import FleetJournal, fleets_folder
        from runner.fleet.rollout import assign_runs, initial_state, keep_waves

        options, targets = self._options, resolved.targets
        ledger = options.ledger.schema
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
            params=plans.values(),
            select=options.selection.select,
            exclude=options.selection.exclude,
            ledger=ledger,
            require_ledger=options.require_ledger,
        )
        record = FleetJournal.create(fleets_folder(options.journal), fleet_id, targets)
        members = self._members(record, ledger, require_ledger=options.require_ledger, state=state)
        return _Ready(state=state, targets=targets, plans=plans, record=record, members=members, first=started)

    def _members(
        self, record: FleetJournal, ledger: str | None, *, require_ledger: bool, state: FleetState
    ) -> MemberOptions:
        from runner.fleet.member import MemberOptions

        return MemberOptions(
            runs=record.runs,
            ledger=ledger,
            trusted_roles=self._options.ledger.trusted_roles,
            require_ledger=require_ledger,
            allow_changed=self._options.allow_changed,
            marks=_marks(self._options.marks, state),
        )

    def _resume_recorded(self, name: str) -> int:
        """Finish the fleet run with this id, or the `last` one, whose record is on this machine."""
        from runner import __version__
        from runner.fleet import events as ev
        from runner.fleet.plans import FleetPlans
        from runner.fleet.records import FleetJournal, find_fleet, fleets_folder, read_fleet

        options = self._options
        root = fleets_folder(options.journal)
        fleet_id = find_fleet(root, name)
        with FleetJournal.reopen(root, fleet_id) as record:
            targets, state = read_fleet(root, fleet_id)
            began = state.started
            if began is None:
                raise RecordError(f"fleet run {fleet_id} never began.", hint="Begin another one: jobplan fleet run.")
            plans = FleetPlans.of_recorded(began, chosen().severities)
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
            members = self._members(record, began.ledger, require_ledger=began.require_ledger, state=state)
            ready = _Ready(state=state, targets=targets, plans=plans, record=record, members=members, first=resumed)
            return self._execute(ready)

    def _resume_elsewhere(self, fleet_id: str) -> int:
        """Finish a fleet run whose record is on another machine: the ledgers of its targets have the runs."""
        from runner.fleet.targets import read_targets

        plans = self._options.plans()
        resolved = self._resolved(read_targets(self._options.files()[1]))
        known = self._recorded_runs(resolved, checked_id(fleet_id))
        if not known:
            count = counted(len(resolved.targets.targets), "target")
            raise RecordError(
                f"no ledger of {count} has a run of fleet run {fleet_id}.",
                hint="Check the id. Without ledgers, only the machine of the fleet run can resume it.",
            )
        ready = self._begin(fleet_id, resolved, plans, known)
        with ready.record:
            return self._execute(ready)

    def _execute(self, ready: _Ready) -> int:
        from runner.cli.fleet_progress import progress
        from runner.fleet.coordinator import FleetRun
        from runner.fleet.records import cancel_request

        state, record = ready.state, ready.record
        outside = fleet_sinks(self._outputs, state, record, ready.first, self._progress.warn)

        def sinks_of(member: Member) -> list[Sink]:
            return [sink for one in outside if (sink := one.member(member)) is not None]

        async def execute(sink: FleetSink) -> int:
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
            with self._signals.passed_to(run.interrupt):
                code = await run.execute(ready.first)
                self._signals.ignore()
                return code

        try:
            with progress(json=self._progress.json) as shown:
                code = self._signals.in_loop(execute(shown))
        finally:
            for one in outside:
                one.close()
        return self._report_end(ready, code)

    def _report_end(self, ready: _Ready, code: int) -> int:
        """Write the reports, and print the end of the fleet run. Return its exit code."""
        from runner.fleet.events import FleetResumed
        from runner.fleet.messages import FleetEnd

        written, complete = write_fleet_reports(self._reports, ready.state, self._progress.warn)
        end = FleetEnd(
            state=ready.state,
            options=options_of(self._options.journal),
            record=str(ready.record.folder),
            reports=tuple(written),
        )
        code = code if code or complete else ExitCode.FAILED
        self._progress.print_end(
            end,
            event="summary",
            fleet=ready.state.fleet,
            exit_code=code,
            resumed=isinstance(ready.first, FleetResumed),
            counts={str(state): number for state, number in ready.state.counts().items()},
            duration=round(ready.state.seconds, 3),
        )
        return code


def _check_waves(names: Sequence[str], targets: Targets) -> None:
    """UsageError if --wave names a wave that the targets file does not have."""
    known = [wave.name for wave in targets.rollout.waves]
    for name in names:
        if name not in known:
            raise UsageError(f"--wave {name}: the targets file has the waves {', '.join(known)}.")


def check_selected(targets: Targets, where: Sequence[str]) -> None:
    """UsageError if --where selects none of the targets."""
    from runner.fleet.targets import parse_selectors, select

    if not select(targets.targets, parse_selectors(where)):
        raise UsageError(f"--where {' '.join(where)} selects none of {len(targets.targets):,} targets.")


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
