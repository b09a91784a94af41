"""`jobplan run`: options → plan → a run's setup → exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from runner.cli.options import (
    ParameterValues,
    Selection,
    chosen_dsn,
    dsn_option,
    files_of,
    journal_option,
    ledger_schema,
    no_ledger_option,
    parameter_options,
    parameter_values,
    protect,
    report_option,
    selection_options,
    trust_option,
    wanted_reports,
)
from runner.cli.run_control import ProgressOptions, RunSetup, execute_run, progress_options
from runner.cli.unblocked_output import unblocked_output
from runner.clock import MonotonicClock
from runner.errors import JobplanError, UsageError
from runner.exit_codes import for_error, help_text
from runner.identity import new_run_id
from runner.lint import read_plan
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.structs import Struct, replace


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
    progress: ProgressOptions
    journal: Path
    ledger: str | None
    trusted_roles: tuple[str, ...]


@click.command(epilog=help_text())
@click.argument("plan", type=click.Path(path_type=Path))
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
@report_option
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
    reports: tuple[str, ...],
    journal: Path,
    no_ledger: bool,
    trusted_roles: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    log_format: str,
    color: str,
) -> int:
    """Run a plan.

    After the first Ctrl-C, SIGTERM or SIGHUP no further steps start, and running steps end as their on_runner_exit
    says; the second one ends the wait for them.
    """
    progress = ProgressOptions.of(verbose=verbose, quiet=quiet, log_format=log_format, color=color)
    if embedded and dsn is not None:
        raise UsageError("--embedded and --dsn exclude each other.")
    options = RunOptions(
        plan=plan,
        parameters=parameter_values(params, params_file),
        given_dsn=dsn,
        dsn=chosen_dsn(dsn),
        slots=slots,
        selection=Selection(select=select, exclude=exclude, assume_done=assume_done),
        reports=wanted_reports(reports, plan, params_file),
        progress=progress,
        journal=journal,
        ledger=None if no_ledger else ledger_schema(),
        trusted_roles=trusted_roles,
    )
    with contextlib.ExitStack() as output:
        if not dry_run:  # the output of a dry run is its result, and a pager may read it slowly
            output.enter_context(unblocked_output())
        try:
            if dry_run:
                return _dry_run(options, embedded=embedded)
            loaded = _load(read_plan(options.plan, **options.parameters), options)
            protect(options.reports, files_of(loaded))
            left_out = options.selection.left_out(loaded)
            with _server(options, embedded=embedded) as conninfo:
                return _run(loaded, left_out, options, conninfo, embedded=embedded)
        except JobplanError as error:
            progress.report_error(error)
            return for_error(error)


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
        return report(plan, conninfo, wishes)


def _load(plan: Plan, options: RunOptions) -> Plan:
    """Return the plan with as many slots as --slots allows."""
    if options.slots is None or options.slots >= plan.budget.slots:
        return plan
    wide = [step.id for step in (*plan.steps, *plan.finally_) if step.slots > options.slots]
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


def _run(plan: Plan, left_out: frozenset[str], options: RunOptions, conninfo: str, *, embedded: bool) -> int:
    clock = MonotonicClock()
    run_id = new_run_id(clock.now())
    setup = RunSetup(
        plan=plan,
        run_id=run_id,
        conninfo=conninfo,
        given_dsn=options.given_dsn,
        journal=Journal.create(options.journal, run_id, plan),
        progress=options.progress,
        reports=options.reports,
        left_out=left_out,
        embedded=embedded,
        ledger=options.ledger,
        trusted_roles=options.trusted_roles,
    )
    return execute_run(setup, clock)
