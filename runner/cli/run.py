"""`jobplan run`: read the options and the plan, set up the run, execute it, and return the exit code."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

from runner.cli.options import (
    Continuing,
    LedgerUse,
    Parameters,
    ParameterValues,
    Selection,
    as_one,
    chosen_dsn,
    continuing_options,
    dsn_option,
    journal_option,
    ledger_options,
    parameter_options,
    questions_command,
    selection_options,
    server,
)
from runner.cli.outputs import OutputOptions, output_options, protect, wanted_reports
from runner.cli.project_options import PlanPath, confirm, confirm_option, environment_options
from runner.cli.run_execution import (
    ProgressOptions,
    RunSetup,
    ended_early,
    execute_run,
    finished_line,
    progress_options,
)
from runner.cli.run_signals import RunInterruptedError, RunSignals
from runner.cli.unblocked_output import unblocked_output
from runner.clock import MonotonicClock
from runner.errors import JobplanError, OpenQuestionError, RunHeldError, UsageError
from runner.exit_codes import ExitCode, for_error, help_text
from runner.identity import new_run_id
from runner.lint import read_plan
from runner.plan.groups import written_steps
from runner.plan.model import Plan
from runner.plan.plan_files import files_of
from runner.reports.messages import Verbosity
from runner.run.run_decision import Done, RunRequest, again, begin
from runner.run.start import Ready
from runner.structs import Struct, replace


class RunOptions(Struct, frozen=True, kw_only=True):
    """The arguments and options of the command."""

    plan: Path
    dsn: str | None
    embedded: bool
    slots: int | None
    dry_run: bool
    parameters: Parameters
    selection: Selection
    continuing: Continuing
    outputs: OutputOptions
    journal: Path
    ledger: LedgerUse
    progress: ProgressOptions

    def setup(self) -> RunSetup:
        """Return how the run is executed. UsageError if an option is wrong, or if some contradict each other."""
        if self.embedded and self.dsn is not None:
            raise UsageError("--embedded and --dsn exclude each other.")
        outputs, continuing = self.outputs.read(), self.continuing
        setup = RunSetup(
            conninfo="" if self.embedded else chosen_dsn(self.dsn),
            given_dsn=self.dsn,
            embedded=self.embedded,
            progress=self.progress,
            reports=wanted_reports(outputs.files, self.plan, self.parameters.params_file),
            outputs=outputs,
            ledger=self.ledger.schema,
            trusted_roles=self.ledger.trusted_roles,
            require_ledger=continuing.require_ledger,
            ledger_first=continuing.or_resume or continuing.require_ledger,
        )
        continuing.check(embedded=self.embedded, dry_run=self.dry_run, ledger=setup.ledger)
        return setup


@click.command(epilog=help_text())
@click.argument("plan", type=PlanPath())
@dsn_option
@click.option("--embedded", is_flag=True, help="Run on a temporary PostgreSQL server that is removed afterwards.")
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit the run to N workers at the same time, if the plan's budget is higher.",
)
@click.option("--dry-run", is_flag=True, help="Only show what the plan would do on the server; see jobplan dry-run.")
@parameter_options
@selection_options
@continuing_options
@output_options
@environment_options
@confirm_option
@journal_option
@ledger_options
@progress_options
@as_one(RunOptions)
def run(options: RunOptions) -> int:
    """Run a plan.

    With --or-resume the same command line, entered again, finishes the run that it started: steps that succeeded do not
    run again. If only a user can decide an outcome, the exit code is 7.

    After the first Ctrl-C, SIGTERM or SIGHUP no further steps start, and running steps end as on_runner_exit
    specifies. After the second one, jobplan does not wait for them any longer.
    """
    setup = options.setup()
    values = options.parameters.values()
    try:
        if options.dry_run:  # its output is the result: a pager may read it slowly
            return _dry_run(options, values, setup)
        if not options.embedded:
            confirm(lambda: setup.conninfo)
        with unblocked_output():
            return _begin(options, values, setup)
    except JobplanError as error:
        options.progress.report_error(error)
        return for_error(error)


def _begin(options: RunOptions, values: ParameterValues, setup: RunSetup) -> int:
    """Run the plan, or report why that is impossible, until a signal ends it."""
    try:
        with RunSignals() as signals:
            try:
                plan = _load(read_plan(options.plan, **values), options)
                protect(setup.reports, files_of(plan))
                left_out = options.selection.left_out(plan)
                with _server(setup) as conninfo:
                    return _run(plan, left_out, options, replace(setup, conninfo=conninfo), signals)
            except JobplanError as error:
                signals.ignore()
                options.progress.report_error(error)
                return _notified(for_error(error), options, setup)
    except RunInterruptedError as stop:
        return options.progress.interrupted(stop.number)


def _notified(code: int, options: RunOptions, setup: RunSetup) -> int:
    run = options.continuing.run_id or ""
    return ended_early(setup.outputs.notify, setup.progress, code, plan=options.plan.stem, run=run)


def _dry_run(options: RunOptions, values: ParameterValues, setup: RunSetup) -> int:
    from runner.cli.dry_run import read_to_look, report
    from runner.preflight.dry_run import DryRunOptions
    from runner.preflight.step_durations import recorded

    readable = read_to_look(options.plan, values)
    plan = _load(readable.plan, options)
    dry_run_options = DryRunOptions(
        left_out=options.selection.left_out(plan),
        durations=recorded(options.journal, plan.name),
        trusted_roles=setup.trusted_roles,
        found=readable.found,
        well_formed=readable.well_formed,
    )
    with _server(setup) as conninfo:
        return report(plan, conninfo, dry_run_options, quiet=options.progress.verbosity is Verbosity.QUIET)


def _load(plan: Plan, options: RunOptions) -> Plan:
    """Return the plan with as many slots as --slots allows."""
    if options.slots is None or options.slots >= plan.budget.slots:
        return plan
    wide = [step.id for step in written_steps(plan) if step.slots > options.slots]
    if wide:
        raise UsageError(f"--slots {options.slots} is less than the slots of step {wide[0]}.")
    return replace(plan, budget=replace(plan.budget, slots=options.slots))


def _server(setup: RunSetup) -> contextlib.AbstractContextManager[str]:
    return server(lambda: setup.conninfo, embedded=setup.embedded, progress=setup.progress.print)


def _run(plan: Plan, left_out: frozenset[str], options: RunOptions, setup: RunSetup, signals: RunSignals) -> int:
    continuing = options.continuing
    request = RunRequest(
        plan=plan,
        conninfo=setup.conninfo,
        left_out=left_out,
        run_id=continuing.run_id,
        journal=options.journal,
        ledger=setup.ledger,
        trusted_roles=setup.trusted_roles,
        or_resume=continuing.or_resume,
        allow_changed=continuing.allow_changed,
        wait=continuing.wait_for_runner,
    )
    clock = MonotonicClock()
    reported = False
    while True:
        ready: Ready | None = None
        try:
            with signals.postponed():  # until the journal, once it is open, is closed in any case
                found = _prepared(request, clock.now(), setup.progress, signals)
                if isinstance(found, Done):
                    return _done(found, setup.progress)
                ready = found
                return execute_run(ready, setup, clock, signals)
        except OpenQuestionError as error:
            if ready is None or not continuing.or_resume:
                raise
            setup.progress.report_error(error.answered_by(_answer(ready, error, options, setup)))
            signals.ignore()
            # the same command, typed again, cannot help: a person has to answer
            return _notified(ExitCode.UNKNOWN, options, setup)
        except JobplanError as error:
            request, pause = again(request, error, None if ready is None else ready.run_id)
            if isinstance(error, RunHeldError) and not reported:
                _report_wait(error, setup.progress)
                reported = True
        time.sleep(pause)


def _prepared(request: RunRequest, now: float, progress: ProgressOptions, signals: RunSignals) -> Ready | Done:
    """As `resumption.prepare`; a run that only begins does not load what reads records."""
    if request.run_id is None and not request.or_resume:
        return begin(request, new_run_id(now))
    from runner.run.resumption import prepare

    return signals.until(prepare(request, now, progress.print))


def _report_wait(error: JobplanError, progress: ProgressOptions) -> None:
    progress.print(f"{error.message} jobplan is waiting for the end of its runner.", event="waiting")


def _done(found: Done, progress: ProgressOptions) -> int:
    """Report that nothing of the run is left to do."""
    counts = {str(state): number for state, number in found.state.counts().items()}
    line = finished_line(found.run_id)
    progress.print(line, event="summary", run=found.run_id, exit_code=0, resumed=False, counts=counts, duration=0.0)
    return 0


def _answer(ready: Ready, error: OpenQuestionError, options: RunOptions, setup: RunSetup) -> str:
    """Return the command that answers the questions."""
    flags = [("--allow-changed", options.continuing.allow_changed), ("--no-ledger", setup.ledger is None)]
    more = [flag for flag, given in flags if given]
    return questions_command(ready.run_id, error.questions, journal=options.journal, dsn=options.dsn, more=more)
