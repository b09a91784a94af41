"""`jobplan run`: options → plan → gateway, reports and loop → exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import click

from runner.api import new_run
from runner.cli.connection import chosen_dsn, dsn_option
from runner.cli.exits import EXIT_CODES, exit_code_of
from runner.cli.journals import journal_option
from runner.cli.parameters import ParameterValues, parameter_options, parameter_values
from runner.cli.reporting import report_option, wanted_reports
from runner.cli.selection import Selection, selection_options
from runner.cli.watching import Watching, watching_options
from runner.clock import Clock, MonotonicClock
from runner.engine.loop import RunResult
from runner.engine.sink import Sink
from runner.errors import JobplanError, RecordError, UsageError
from runner.gateway.conninfo import without_password
from runner.identity import new_run_id
from runner.lint import read_plan
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.reports.kinds import open_report
from runner.reports.plain import Afterlife, last_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for."""

    plan: Path
    parameters: ParameterValues
    dsn: str
    #: The connection that was typed: later commands need it again; the environment is still there for them.
    given_dsn: str | None
    slots: int | None
    selection: Selection
    reports: tuple[tuple[str, Path], ...]
    watching: Watching
    journal: Path


@click.command(epilog=EXIT_CODES)
@click.argument("plan", type=click.Path(path_type=Path))
@dsn_option
@click.option("--embedded", is_flag=True, help="Run on a throwaway PostgreSQL that is removed afterwards.")
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Lower the plan's budget to N workers.")
@click.option("--dry-run", is_flag=True, help="Only say what the plan would do on the server; see jobplan dry-run.")
@parameter_options
@selection_options
@report_option
@journal_option
@watching_options
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
    verbose: bool,
    quiet: bool,
    log_format: str,
) -> int:
    """Run a plan.

    The first Ctrl-C or SIGTERM starts nothing more and looks after what runs, by each step's on_runner_exit; the second
    stops waiting for that.
    """
    watching = Watching.of(verbose=verbose, quiet=quiet, log_format=log_format)
    if embedded and dsn is not None:
        raise UsageError("--embedded and --dsn exclude each other.")
    options = Options(
        plan=plan,
        parameters=parameter_values(params, params_file),
        given_dsn=dsn,
        dsn=chosen_dsn(dsn),
        slots=slots,
        selection=Selection(select=select, exclude=exclude, assume_done=assume_done),
        reports=wanted_reports(reports, plan),
        watching=watching,
        journal=journal,
    )
    try:
        loaded = _load(options)
        left_out = options.selection.left_out(loaded)
        with _server(options, embedded=embedded) as conninfo:
            if dry_run:
                from runner.cli.dry_run import tell
                from runner.preflight.dryrun import Wishes
                from runner.preflight.durations import recorded

                return tell(loaded, conninfo, Wishes(left_out=left_out, durations=recorded(journal, loaded.name)))
            return _execute(loaded, left_out, options, conninfo, embedded=embedded)
    except JobplanError as error:
        watching.tell_error(error)
        return exit_code_of(error)


def _load(options: Options) -> Plan:
    plan = read_plan(options.plan, **options.parameters)
    if options.slots is None or options.slots >= plan.budget.slots:
        return plan
    wide = [step.id for step in (*plan.steps, *plan.finally_) if step.slots > options.slots]
    if wide:
        raise UsageError(f"--slots {options.slots} is less than step {wide[0]} takes.")
    return dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, slots=options.slots))


@contextlib.contextmanager
def _server(options: Options, *, embedded: bool) -> Iterator[str]:
    if not embedded:
        yield options.dsn
        return
    from runner.embedded import start_server

    with start_server(progress=options.watching.say) as server:
        yield server.dsn


def _execute(plan: Plan, left_out: frozenset[str], options: Options, conninfo: str, *, embedded: bool) -> int:
    clock = MonotonicClock()
    run_id = new_run_id(clock.now())
    with _journal(options.journal, run_id, plan) as journal:
        return _run(
            plan, left_out, options, conninfo=conninfo, clock=clock, run_id=run_id, journal=journal, embedded=embedded
        )


@contextlib.contextmanager
def _journal(root: Path, run_id: str, plan: Plan) -> Iterator[Journal]:
    journal = Journal.create(root, run_id, plan)
    try:
        yield journal
    finally:
        with contextlib.suppress(RecordError):  # the run has said so already
            journal.close()


def _run(
    plan: Plan,
    left_out: frozenset[str],
    options: Options,
    *,
    conninfo: str,
    clock: Clock,
    run_id: str,
    journal: Journal,
    embedded: bool,
) -> int:
    reports = [open_report(kind, path, run_id) for kind, path in options.reports]
    interrupted: list[int] = []
    sinks: list[Sink] = [journal, *options.watching.sinks(run_id), *reports]

    async def execute() -> RunResult:
        started = new_run(plan, dsn=conninfo, run_id=run_id, clock=clock, sinks=sinks, left_out=left_out)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt(number: int) -> None:
            started.interrupt(number)
            if started.state.started_at is None and task is not None:
                interrupted.append(number)
                task.cancel()  # still connecting, or waiting for the concurrency group: there is nothing to look after

        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt, int(number))
        return await started.execute()

    try:
        result = asyncio.run(execute())
    except asyncio.CancelledError:
        options.watching.say("jobplan: interrupted; nothing was started.", level="warning", event="interrupted")
        return 128 + interrupted[0]
    for error in result.record_errors:
        options.watching.say(f"jobplan: {error}", level="error", event="error")
    kept = f"{journal.folder}{' (it breaks off)' if journal.lost else ''}"
    record = ", ".join([kept, *(str(report.path) for report in reports if not report.broken)])
    line = _last_line(result, options, clock, run_id, record=record, embedded=embedded)
    options.watching.say(line, event="summary", run=run_id, exit_code=result.exit_code)
    if result.record_errors and result.exit_code == 0:
        return 1
    return result.exit_code


def _last_line(result: RunResult, options: Options, clock: Clock, run_id: str, *, record: str, embedded: bool) -> str:
    started = result.state.started_at or clock.now()
    return last_line(
        result.state,
        run_id=run_id,
        seconds=clock.now() - started,
        record=record or None,
        afterlife=_EMBEDDED if embedded else _commands(options.given_dsn, run_id),
    )


_EMBEDDED = Afterlife(instead="the embedded server is removed now, and with it what still runs")


def _commands(given: str | None, run_id: str) -> Afterlife:
    """Write the commands out in full, without a password: who types them has it, or is asked where libpq looks."""
    target = without_password(given) if given else ""
    where = f" --dsn {shlex.quote(target)}" if target else ""
    return Afterlife(
        follow=f"jobplan attach {run_id}{where}",
        stop=f"jobplan cancel {run_id} --detached{where}",
    )
