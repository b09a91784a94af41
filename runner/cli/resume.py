"""`jobplan resume`: read the record of a run, find the outcomes of its workers, and run the remaining steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_run
from runner.cli.options import (
    LedgerUse,
    as_one,
    chosen_dsn,
    dsn_of_run,
    dsn_option,
    journal_option,
    ledger_options,
    questions_command,
    written_out,
)
from runner.cli.outputs import OutputOptions, files_of_recorded, output_options, protect, read_again, wanted_reports
from runner.cli.project_options import confirm, confirm_option, environment_options
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
from runner.engine import events as ev
from runner.errors import JobplanError, OpenQuestionError, PlanError, RecordError, UsageError
from runner.exit_codes import for_error, help_text
from runner.plan.model import Plan
from runner.records.record import Record, read_record
from runner.run.resumption import begun, changed, plan_to_resume, resume_record
from runner.run.run_decision import Done
from runner.run.takeover import Orphans
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.reports.notify import Notifications


class ResumeOptions(Struct, frozen=True, kw_only=True):
    """The arguments and options of the command."""

    run: str
    dsn: str | None
    journal: Path
    orphans: str
    marks: tuple[str, ...]
    allow_changed: bool
    from_ledger: bool
    outputs: OutputOptions
    ledger: LedgerUse
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
@output_options
@ledger_options
@progress_options
@as_one(ResumeOptions)
def resume(options: ResumeOptions) -> int:
    """Finish a run: steps that succeeded do not run again.

    RUN is the id of a run, the beginning of one, or `last`. The plan and its parameters are those of the record. The
    command follows workers that still run. If the outcome of a worker is unknown, the ledger, the step's `verify`, or
    your --mark decides it.
    """
    run, journal, progress = options.run, options.journal, options.progress
    try:
        confirm(lambda: dsn_of_run(options.dsn, journal, run))
    except JobplanError as error:
        progress.report_error(error)
        return for_error(error)
    notifications: Notifications | None = None
    with unblocked_output():
        try:
            with RunSignals() as signals:
                try:
                    notifications = options.outputs.notifications()
                    return _resume(options, signals)
                except JobplanError as error:
                    signals.ignore()
                    progress.report_error(error)
                    plan = "" if notifications is None else _plan_name(journal, run)
                    return ended_early(notifications, progress, for_error(error), plan=plan, run=run)
        except RunInterruptedError as stop:
            return progress.interrupted(stop.number)


def _resume(options: ResumeOptions, signals: RunSignals) -> int:
    outputs, marks, ledger = options.outputs.read(), _marks(options.marks), options.ledger.schema
    server = chosen_dsn(options.dsn, general=False)
    run = _restored(options, server, ledger) if options.from_ledger else options.run
    record = read_record(options.journal, run, notices=False, own=True)
    plan = _plan(record, options)
    reports = wanted_reports(outputs.files)
    if reports:
        protect(reports, files_of_recorded(plan))
    with signals.postponed():  # until the journal, once it is open, is closed in any case
        orphans = Orphans(options.orphans)
        found = resume_record(record, plan, root=options.journal, orphans=orphans, marks=marks)
        if isinstance(found, Done):
            return _done(record.run_id, marks, options.progress)
        setup = RunSetup(
            conninfo=server or begun(record).connection or chosen_dsn(None),
            given_dsn=options.dsn,
            progress=options.progress,
            reports=reports,
            outputs=outputs,
            ledger=ledger,
            trusted_roles=options.ledger.trusted_roles,
        )
        try:
            return execute_run(found, setup, MonotonicClock(), signals)
        except OpenQuestionError as error:
            raise error.answered_by(_answer(options, record.run_id, error.questions, marks)) from error


def _plan_name(journal: Path, run: str) -> str:
    """Return the name of the plan of a run, for a message that it could not be resumed; empty without a record."""
    try:
        return read_record(journal, run, notices=False).plan.name
    except RecordError:
        return ""


def _done(run_id: str, marks: Mapping[str, ev.Outcome], progress: ProgressOptions) -> int:
    """Report that nothing of the run is left to do."""
    if marks:
        raise useless_mark(next(iter(marks)), run_id)
    progress.print(finished_line(run_id))
    return 0


def _answer(options: ResumeOptions, run_id: str, asked: Iterable[str], marks: Mapping[str, ev.Outcome]) -> str:
    """Return this command again, with a placeholder for the answer to each question."""
    flags = [("--allow-changed", options.allow_changed), ("--no-ledger", options.ledger.no_ledger)]
    more = [flag for flag, given in flags if given]
    more += [word for report in options.outputs.reports for word in ("--report", report)]
    given = [f"{step}={outcome}" for step, outcome in marks.items()]
    return questions_command(run_id, asked, journal=options.journal, dsn=options.dsn, more=more, given=given)


def _restored(options: ResumeOptions, server: str, ledger: str | None) -> str:
    """Write the journal from the ledger; return the run's id. RecordError if the journal exists and has more events."""
    from runner.gateway.ledger.admin import LedgerAdmin
    from runner.records.ledger_restore import restore_journal

    if ledger is None:
        raise UsageError("--from-ledger and --no-ledger exclude each other.")
    found = LedgerAdmin(server or chosen_dsn(None), ledger, options.ledger.trusted_roles).read(options.run)
    instead = written_out("resume", found.run_id, journal=options.journal, dsn=options.dsn)
    note = options.progress.print
    restore_journal(options.journal, found.run_id, found.plans, found.events, instead=instead, notify=note)
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
    begun(record)
    if not recorded.file or not Path(recorded.file).exists():
        if options.allow_changed:
            raise UsageError(f"--allow-changed: the plan file {recorded.file or '(the run had none)'} does not exist.")
        return recorded
    try:
        present = read_again(recorded)
    except PlanError as error:
        if options.allow_changed:
            raise
        invalid = [f"it is no longer valid: {problem}" for problem in error.problems[:5]]
        raise changed(recorded.file, record.run_id, invalid) from error
    return plan_to_resume(record, present, allow_changed=options.allow_changed, notify=options.progress.print)
