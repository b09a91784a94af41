"""`jobplan run`: read the options and the plan, set up the run, execute it, and return the exit code."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import (
    Continuing,
    ParameterValues,
    Selection,
    chosen_dsn,
    continuing_options,
    dsn_option,
    journal_option,
    ledger_schema,
    no_ledger_option,
    notify_options,
    parameter_options,
    parameter_values,
    protect,
    questions_command,
    report_option,
    selection_options,
    trust_option,
    wanted_notifications,
    wanted_reports,
    wanted_trace,
)
from runner.cli.project_options import PlanPath, chosen_reports, confirm, confirm_option, environment_options
from runner.cli.run_control import (
    ProgressOptions,
    RunSetup,
    TraceOptions,
    execute_run,
    finished_line,
    notifier,
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
from runner.run.continuation import Done, Wish, again, begin
from runner.run.start import Ready
from runner.structs import Struct, replace

if TYPE_CHECKING:
    from runner.reports.notify import Notifications


class RunOptions(Struct, frozen=True, kw_only=True):
    """The options of the command line."""

    plan: Path
    parameters: ParameterValues
    dsn: str
    #: The value of --dsn: suggested commands repeat it, but not the environment.
    given_dsn: str | None
    slots: int | None
    selection: Selection
    reports: tuple[tuple[str, Path], ...]
    notify: Notifications | None
    trace: TraceOptions
    progress: ProgressOptions
    journal: Path
    ledger: str | None
    trusted_roles: tuple[str, ...]
    continuing: Continuing


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
@report_option
@notify_options
@environment_options
@confirm_option
@journal_option
@no_ledger_option
@trust_option
@progress_options
def run(
    plan: Path,
    dsn: str | None,
    *,
    embedded: bool,
    slots: int | None,
    dry_run: bool,
    params: tuple[str, ...],
    params_file: Path | None,
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    assume_done: bool,
    run_id: str | None,
    or_resume: bool,
    wait_for_runner: bool,
    allow_changed: bool,
    require_ledger: bool,
    reports: tuple[str, ...],
    notify: str | None,
    notify_blocked: str | None,
    journal: Path,
    no_ledger: bool,
    trusted_roles: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    log_format: str,
    color: str,
) -> int:
    """Run a plan.

    With --or-resume the same command line, entered again, finishes the run that it started: steps that succeeded do not
    run again. If only a user can decide an outcome, the exit code is 7.

    After the first Ctrl-C, SIGTERM or SIGHUP no further steps start, and running steps end as their on_runner_exit
    says; the second one ends the wait for them.
    """
    progress = ProgressOptions.of(verbose=verbose, quiet=quiet, log_format=log_format, color=color)
    if embedded and dsn is not None:
        raise UsageError("--embedded and --dsn exclude each other.")
    traced, collector, reports = wanted_trace(chosen_reports(reports))
    options = RunOptions(
        plan=plan,
        parameters=parameter_values(params, params_file),
        given_dsn=dsn,
        dsn="" if embedded else chosen_dsn(dsn),
        slots=slots,
        selection=Selection(select=select, exclude=exclude, assume_done=assume_done),
        reports=wanted_reports(reports, plan, params_file),
        notify=wanted_notifications(notify, notify_blocked),
        trace=TraceOptions(wanted=traced, collector=collector),
        progress=progress,
        journal=journal,
        ledger=None if no_ledger else ledger_schema(),
        trusted_roles=trusted_roles,
        continuing=Continuing(
            run_id=run_id,
            or_resume=or_resume,
            wait_for_runner=wait_for_runner,
            allow_changed=allow_changed,
            require_ledger=require_ledger,
        ),
    )
    options.continuing.check(embedded=embedded, dry_run=dry_run, ledger=options.ledger)
    try:
        if dry_run:  # its output is the result: a pager may read it slowly
            return _dry_run(options, embedded=embedded)
        if not embedded:
            confirm(lambda: options.dsn)
        with unblocked_output():
            return _begin(options, embedded=embedded)
    except JobplanError as error:
        progress.report_error(error)
        return for_error(error)


def _begin(options: RunOptions, *, embedded: bool) -> int:
    """Run the plan, or report why that is impossible, until a signal ends it."""
    try:
        with RunSignals() as signals:
            try:
                plan = _load(read_plan(options.plan, **options.parameters), options)
                protect(options.reports, files_of(plan))
                left_out = options.selection.left_out(plan)
                with _server(options, embedded=embedded) as conninfo:
                    return _run(plan, left_out, options, conninfo, signals, embedded=embedded)
            except JobplanError as error:
                signals.ignore()
                options.progress.report_error(error)
                return _notified(for_error(error), options)
    except RunInterruptedError as stop:
        return options.progress.interrupted(stop.number)


def _notified(code: int, options: RunOptions) -> int:
    """Send the message that an error ended the command, if one is wanted, and return the exit code."""
    if options.notify is not None:
        name, run = options.plan.stem, options.continuing.run_id or ""
        notifier(options.notify, options.progress, plan=name, run=run).ended_early(code)
    return code


def _dry_run(options: RunOptions, *, embedded: bool) -> int:
    from runner.cli.dry_run import read_to_look, report
    from runner.preflight.dry_run import Wishes
    from runner.preflight.step_durations import recorded

    readable = read_to_look(options.plan, options.parameters)
    plan = _load(readable.plan, options)
    wishes = Wishes(
        left_out=options.selection.left_out(plan),
        durations=recorded(options.journal, plan.name),
        trusted_roles=options.trusted_roles,
        found=readable.found,
        well_formed=readable.well_formed,
    )
    with _server(options, embedded=embedded) as conninfo:
        return report(plan, conninfo, wishes, quiet=options.progress.verbosity is Verbosity.QUIET)


def _load(plan: Plan, options: RunOptions) -> Plan:
    """Return the plan with as many slots as --slots allows."""
    if options.slots is None or options.slots >= plan.budget.slots:
        return plan
    wide = [step.id for step in written_steps(plan) if step.slots > options.slots]
    if wide:
        raise UsageError(f"--slots {options.slots} is less than the slots of step {wide[0]}.")
    return replace(plan, budget=replace(plan.budget, slots=options.slots))


@contextlib.contextmanager
def _server(options: RunOptions, *, embedded: bool) -> Iterator[str]:
    if not embedded:
        yield options.dsn
        return
    from runner.embedded import start_server

    with start_server(progress=options.progress.print) as server:
        yield server.dsn


def _run(
    plan: Plan,
    left_out: frozenset[str],
    options: RunOptions,
    conninfo: str,
    signals: RunSignals,
    *,
    embedded: bool,
) -> int:
    continuing = options.continuing
    wish = Wish(
        plan=plan,
        conninfo=conninfo,
        left_out=left_out,
        run_id=continuing.run_id,
        journal=options.journal,
        ledger=options.ledger,
        trusted_roles=options.trusted_roles,
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
                found = _prepared(wish, clock.now(), options.progress, signals)
                if isinstance(found, Done):
                    return _done(found, options)
                ready = found
                return execute_run(_course(found, options, conninfo, embedded=embedded), clock, signals)
        except OpenQuestionError as error:
            if ready is None or not continuing.or_resume:
                raise
            options.progress.report_error(error.answered_by(_answer(ready, error, options)))
            signals.ignore()
            # the same command, typed again, cannot help: a person has to answer
            return _notified(ExitCode.UNKNOWN, options)
        except JobplanError as error:
            wish, pause = again(wish, error, None if ready is None else ready.run_id)
            if isinstance(error, RunHeldError) and not reported:
                _report_wait(error, options)
                reported = True
        time.sleep(pause)


def _prepared(wish: Wish, now: float, progress: ProgressOptions, signals: RunSignals) -> Ready | Done:
    """As `resumption.prepare`; a run that only begins does not load what reads records."""
    if wish.run_id is None and not wish.or_resume:
        return begin(wish, new_run_id(now))
    from runner.run.resumption import prepare

    return signals.until(prepare(wish, now, progress.print))


def _course(ready: Ready, options: RunOptions, conninfo: str, *, embedded: bool) -> RunSetup:
    return RunSetup(
        ready=ready,
        conninfo=conninfo,
        given_dsn=options.given_dsn,
        progress=options.progress,
        reports=options.reports,
        notify=options.notify,
        trace=options.trace,
        embedded=embedded,
        ledger=options.ledger,
        trusted_roles=options.trusted_roles,
        require_ledger=options.continuing.require_ledger,
        ledger_first=options.continuing.or_resume or options.continuing.require_ledger,
    )


def _report_wait(error: JobplanError, options: RunOptions) -> None:
    options.progress.print(f"{error.message} jobplan is waiting for the end of its runner.", event="waiting")


def _done(found: Done, options: RunOptions) -> int:
    """Report that nothing of the run is left to do."""
    counts = {str(state): number for state, number in found.state.counts().items()}
    line = finished_line(found.run_id)
    options.progress.print(
        line, event="summary", run=found.run_id, exit_code=0, resumed=False, counts=counts, duration=0.0
    )
    return 0


def _answer(ready: Ready, error: OpenQuestionError, options: RunOptions) -> str:
    """Return the command that answers the questions."""
    flags = [("--allow-changed", options.continuing.allow_changed), ("--no-ledger", options.ledger is None)]
    more = [flag for flag, given in flags if given]
    return questions_command(ready.run_id, error.questions, journal=options.journal, dsn=options.given_dsn, more=more)
