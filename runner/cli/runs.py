"""`jobplan runs`: list records, and remove old ones."""

from __future__ import annotations

import time
from pathlib import Path

import click

from runner.cli.console import print_json, print_lines, print_text
from runner.cli.options import duration, format_option, journal_option
from runner.cli.project_options import environment_options
from runner.errors import UsageError


@click.command()
@environment_options
@journal_option
@click.option("--prune", is_flag=True, help="Remove old records: select them with --older-than, --keep, or both.")
@click.option(
    "--older-than", metavar="DURATION", help="With --prune: runs that ended longer ago than this, such as 30d."
)
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="With --prune: all runs except the latest N.")
@click.option(
    "--force", is_flag=True, help="With --prune: also runs that have not ended. They cannot be resumed after that."
)
@format_option
def runs(journal: Path, *, prune: bool, older_than: str | None, keep: int | None, force: bool, form: str) -> int:
    """List the runs in the journal folder, the latest first.

    With --prune, the command removes old records and lists them. It keeps runs that are still running or whose
    workers may still run.
    """
    from runner.records.summaries import list_records
    from runner.reports.run_records import run_lines, runs_json

    if prune:
        return _prune(journal, older_than, keep, force=force, form=form)
    if older_than is not None or keep is not None or force:
        raise UsageError("--older-than, --keep and --force belong to --prune.")
    found = list_records(journal)
    if form == "json":
        print_json(runs_json(found))
        return 0
    if not found:
        print_text(f"no runs in {journal}", err=True)
    print_lines(run_lines(found))
    return 0


def _prune(root: Path, older_than: str | None, keep: int | None, *, force: bool, form: str) -> int:
    from runner.records.pruning import prune
    from runner.reports.run_records import run_lines, runs_json

    if older_than is None and keep is None:
        raise UsageError("Select the runs to remove: --older-than 30d, --keep 20, or both.")
    age = 0.0 if older_than is None else duration("--older-than", older_than, for_server=False)
    pruned = prune(root, now=time.time(), older_than=age, keep=keep or 0, force=force)
    print_lines((f"kept {kept.run.run_id}: {kept.why}" for kept in pruned.kept), err=True)
    if form == "json":
        print_json(runs_json(pruned.removed))
        return 0
    print_lines(run_lines(pruned.removed))
    print_text(f"{len(pruned.removed)} removed", err=True)
    return 0
