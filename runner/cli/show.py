"""`jobplan show`: the record of one run."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click

from runner.cli.completion import complete_run, complete_step
from runner.cli.console import print_json, print_lines, terminal_width
from runner.cli.options import format_option, journal_option, written_out
from runner.cli.outputs import files_of_recorded, protect, report_option, to_stdout, wanted_reports
from runner.cli.project_options import environment_options
from runner.errors import UsageError


@click.command()
@click.argument("run", shell_complete=complete_run)
@environment_options
@journal_option
@report_option
@click.option(
    "--step", metavar="ID", shell_complete=complete_step, help="Show only this step and its instances; see --log."
)
@click.option("--log", is_flag=True, help="Print what happened, event by event, with the notices of the server.")
@format_option
def show(run: str, *, journal: Path, reports: tuple[str, ...], step: str | None, log: bool, form: str) -> int:
    """Show the record of a run. RUN is the id of a run, the beginning of one, or `last`.

    The command reads only the journal, so it shows the state at the last event in it. With `--report KIND=-` it prints
    the report instead.
    """
    wanted = wanted_reports(reports)
    if log and form == "json":
        raise UsageError("--log is text.", hint="--report jsonl=- prints the events as JSON.")
    if wanted and (log or step is not None):
        raise UsageError("--report and --step or --log exclude each other.")
    gc.disable()  # the process ends soon, so that a collection would cost time and gain nothing
    from runner.records.record import read_record
    from runner.records.run_folders import is_locked
    from runner.records.summaries import kept_previous_runs, previous_runs
    from runner.reports.report_kinds import report_text, write_report
    from runner.reports.run_records import chosen_steps, log_lines, record_json, record_lines, step_lines

    record = read_record(journal, run, notices=bool(wanted) or log)
    locked = is_locked(record.folder)
    if wanted:
        protect(wanted, files_of_recorded(record.plan))
    started = record.started
    past = kept_previous_runs(record.folder) if wanted else ()
    if past is None:
        past = previous_runs(journal, record.plan.name, started.at) if started is not None else ()
    again = written_out("resume", record.run_id, journal=journal)
    for kind, path in wanted:
        write_report(kind, path, report_text(kind, record.plan, record.run_id, record.events, past, resume=again))
    if to_stdout(wanted):
        return 0  # standard output has only the report
    width = terminal_width(sys.stdout)
    chosen = None if step is None else chosen_steps(record, step)
    if log:
        print_lines(log_lines(record, chosen))
    elif form == "json":
        found = record_json(record, locked=locked)
        kept = [one for one in found["steps"] if chosen is None or one["step"] in chosen]
        print_json({**found, "steps": kept})
    elif chosen is not None:
        print_lines(step_lines(record, chosen, width=width))
    else:
        print_lines(record_lines(record, locked=locked, resume=again, width=width))
    return 0
