"""`jobplan resume`: read the record of a run, find the outcomes of its workers, and run the remaining steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_run
from runner.cli.options import (
    chosen_dsn,
    dsn_of_run,
    dsn_option,
    files_of_recorded,
    journal_option,
    ledger_schema,
    no_ledger_option,
    notify_options,
    protect,
    questions_command,
    report_option,
    trust_option,
    wanted_notifications,
    wanted_reports,
    wanted_trace,
    written_out,
)
from runner.cli.project_options import chosen_reports, chosen_severities, confirm, confirm_option, environment_options
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
from runner.engine import events as ev
from runner.errors import JobplanError, OpenQuestionError, PlanError, RecordError, UsageError
from runner.exit_codes import for_error, help_text
from runner.lint import read_plan
from runner.plan.model import Plan
from runner.records.record import Record, read_record
from runner.run.continuation import Done
from runner.run.resumption import begun, changed, plan_to_resume, resume_record
from runner.run.takeover import Orphans
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.reports.notify import Notifications


class ResumeOptions(Struct, frozen=True, kw_only=True):
    """The options of the command line."""

    run: str
    dsn: str
    #: The value of --dsn: suggested commands repeat it, but not the environment.
    given_dsn: str | None
    journal: Path
    orphans: Orphans
    marks: Mapping[str, ev.Outcome]
    allow_changed: bool
    #: The values of --report that name files, or those of the project's settings.
    reports: tuple[str, ...]
    #: All values of --report, which a suggested command repeats.
    given_reports: tuple[str, ...]
    notify: Notifications | None
    trace: TraceOptions
    ledger: str | None
    trusted_roles: tuple[str, ...]
    from_ledger: bool
    progress: ProgressOptions


@click.command(epilog=help_text())
@click.argument("run", shell_complete=complete_run)
@dsn_option
@environment_options
@confirm_option
@journal_option
@click.option(
    "--orphans",
    type=click.Choice([str(choice) for choice in Orphans]),
    default=str(Orphans.WAIT),
    show_default=True,
    help="Workers that still run although their runner has ended: wait for them, or cancel them first.",
)
@click.option(
    "--mark",
    "marks",
    multiple=True,
    metavar="STEP=succeeded|failed",
    help="Give the outcome of a step's worker if it is unknown (failed: the step runs again); repeatable.",
)
@click.option("--allow-changed", is_flag=True, help="Resume with the plan file as it is now, although it has changed.")
@click.option(
    "--from-ledger",
    is_flag=True,
    help="Read the record from the ledger: for a journal that is on another machine or lost.",
)
@report_option
@notify_options
@no_ledger_option
@trust_option
@progress_options
def resume(
    run: str,
    dsn: str | None,
    *,
    journal: Path,
    orphans: str,
    marks: tuple[str, ...],
    allow_changed: bool,
    from_ledger: bool,
    reports: tuple[str, ...],
    notify: str | None,
    notify_blocked: str | None,
    no_ledger: bool,
    trusted_roles: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    log_format: str,
    color: str,
) -> int:
    """Finish a run: steps that succeeded do not run again.

    RUN is the id of a run, the beginning of one, or `last`. The plan and its parameters are those of the record. The
    command follows workers that still run. If the outcome of a worker is unknown, the ledger, the step's `verify`, or
    your --mark decides it.
    """
    progress = ProgressOptions.of(verbose=verbose, quiet=quiet, log_format=log_format, color=color)
    try:
        confirm(lambda: dsn_of_run(dsn, journal, run))
    except JobplanError as error:
        progress.report_error(error)
        return for_error(error)
    notifications: Notifications | None = None
    with unblocked_output():
        try:
            with RunSignals() as signals:
                try:
                    notifications = wanted_notifications(notify, notify_blocked)
                    traced, collector, files = wanted_trace(chosen_reports(reports))
                    options = ResumeOptions(
                        run=run,
                        dsn=chosen_dsn(dsn, general=False),
                        given_dsn=dsn,
                        journal=journal,
                        orphans=Orphans(orphans),
                        marks=_marks(marks),
                        allow_changed=allow_changed,
                        reports=files,
                        given_reports=reports,
                        notify=notifications,
                        trace=TraceOptions(wanted=traced, collector=collector),
                        ledger=None if no_ledger else ledger_schema(),
                        trusted_roles=trusted_roles,
                        from_ledger=from_ledger,
                        progress=progress,
                    )
                    return _resume(options, signals)
                except JobplanError as error:
                    signals.ignore()
                    progress.report_error(error)
                    code = for_error(error)
                    if notifications is not None:
                        notifier(notifications, progress, plan=_plan_name(journal, run), run=run).ended_early(code)
                    return code
        except RunInterruptedError as stop:
            return progress.interrupted(stop.number)


def _resume(options: ResumeOptions, signals: RunSignals) -> int:
    run = _restored(options) if options.from_ledger else options.run
    record = read_record(options.journal, run, notices=False, own=True)
    plan = _plan(record, options)
    destinations = wanted_reports(options.reports)
    if destinations:
        protect(destinations, files_of_recorded(plan))
    with signals.postponed():  # until the journal, once it is open, is closed in any case
        found = resume_record(record, plan, root=options.journal, orphans=options.orphans, marks=options.marks)
        if isinstance(found, Done):
            return _done(record.run_id, options)
        dsn = options.dsn or begun(record).connection or chosen_dsn(None)
        setup = RunSetup(
            ready=found,
            conninfo=dsn,
            given_dsn=options.given_dsn,
            progress=options.progress,
            reports=destinations,
            notify=options.notify,
            trace=options.trace,
            ledger=options.ledger,
            trusted_roles=options.trusted_roles,
        )
        try:
            return execute_run(setup, MonotonicClock(), signals)
        except OpenQuestionError as error:
            raise error.answered_by(_answer(options, record.run_id, error.questions)) from error


def _plan_name(journal: Path, run: str) -> str:
    """Return the name of the plan of a run, for a message that it could not be resumed; empty without a record."""
    try:
        return read_record(journal, run, notices=False).plan.name
    except RecordError:
        return ""


def _done(run_id: str, options: ResumeOptions) -> int:
    """Report that nothing of the run is left to do."""
    if options.marks:
        raise useless_mark(next(iter(options.marks)), run_id)
    options.progress.print(finished_line(run_id))
    return 0


def _answer(options: ResumeOptions, run_id: str, asked: Iterable[str]) -> str:
    """Return this command again, with a placeholder for the answer to each question."""
    flags = [("--allow-changed", options.allow_changed), ("--no-ledger", options.ledger is None)]
    more = [flag for flag, given in flags if given]
    more += [word for report in options.given_reports for word in ("--report", report)]
    given = [f"{step}={outcome}" for step, outcome in options.marks.items()]
    return questions_command(run_id, asked, journal=options.journal, dsn=options.given_dsn, more=more, given=given)


def _restored(options: ResumeOptions) -> str:
    """Write the journal from the ledger; return the run's id. RecordError if the journal exists and has more events."""
    from runner.gateway.ledger.admin import LedgerAdmin
    from runner.records.ledger_restore import restore_journal

    if options.ledger is None:
        raise UsageError("--from-ledger and --no-ledger exclude each other.")
    found = LedgerAdmin(options.dsn or chosen_dsn(None), options.ledger, options.trusted_roles).read(options.run)
    instead = written_out("resume", found.run_id, journal=options.journal, dsn=options.given_dsn)
    restore_journal(options.journal, found.run_id, found.plans, found.events, instead=instead)
    return found.run_id


def useless_mark(step: str, run_id: str) -> UsageError:
    """Return the error for a mark on a run that has ended: the mark would have no effect."""
    return UsageError(f"--mark {step}: run {run_id} is finished, so the mark has no effect.")


def _marks(texts: tuple[str, ...]) -> dict[str, ev.Outcome]:
    marks: dict[str, ev.Outcome] = {}
    for text in texts:
        step, equals, outcome = text.rpartition("=")
        if not equals or not step or outcome not in (ev.Outcome.SUCCEEDED, ev.Outcome.FAILED):
            raise UsageError(f"--mark {text!r} is neither STEP=succeeded nor STEP=failed.")
        if marks.setdefault(step, ev.Outcome(outcome)) != outcome:
            raise UsageError(f"--mark {step}: give either succeeded or failed, not both.")
    return marks


def _plan(record: Record, options: ResumeOptions) -> Plan:
    """Return the plan to resume with: the recorded one, or the file if it has changed and that is allowed."""
    recorded = record.plan
    path = Path(recorded.file)
    begun(record)
    if not recorded.file or not path.exists():
        if options.allow_changed:
            raise UsageError(f"--allow-changed: the plan file {recorded.file or '(the run had none)'} does not exist.")
        return recorded
    try:
        present = read_plan(
            path,
            given={name: _text(value) for name, value in recorded.values.items()},
            severities=chosen_severities(),
        )
    except PlanError as error:
        if options.allow_changed:
            raise
        invalid = [f"it is no longer valid: {problem}" for problem in error.problems[:5]]
        raise changed(recorded.file, record.run_id, invalid) from error
    return plan_to_resume(record, present, allow_changed=options.allow_changed, notify=options.progress.print)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
