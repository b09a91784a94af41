"""`jobplan runs`: the records that are there, and getting rid of old ones."""

from __future__ import annotations

import time
from pathlib import Path

import click

from runner.cli.console import say, say_json, say_lines
from runner.cli.options import journal_option
from runner.durations import parse_duration
from runner.errors import UsageError


@click.command()
@journal_option
@click.option("--prune", is_flag=True, help="Remove old records: say which with --older-than, --keep, or both.")
@click.option("--older-than", metavar="DURATION", help="With --prune: runs that ended longer ago, such as 30d.")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="With --prune: all but the latest N runs.")
@click.option("--force", is_flag=True, help="With --prune: also runs that have no end. Nobody can resume them then.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def runs(journal: Path, *, prune: bool, older_than: str | None, keep: int | None, force: bool, form: str) -> int:
    """List the runs that were recorded here, the latest first.

    With --prune, records are removed instead, and listed. A run stays while it is under way or its workers may live.
    """
    from runner.records.summaries import list_records
    from runner.reports.run_records import run_lines, runs_json

    if prune:
        return _prune(journal, older_than, keep, force=force, form=form)
    if older_than is not None or keep is not None or force:
        raise UsageError("--older-than, --keep and --force belong to --prune.")
    found = list_records(journal)
    if form == "json":
        say_json(runs_json(found))
        return 0
    if not found:
        say(f"no runs in {journal}", err=True)
    say_lines(run_lines(found))
    return 0


def _prune(root: Path, older_than: str | None, keep: int | None, *, force: bool, form: str) -> int:
    from runner.records.pruning import prune
    from runner.reports.run_records import run_lines, runs_json

    if older_than is None and keep is None:
        raise UsageError("Which runs? Say --older-than 30d, --keep 20, or both.")
    try:
        age = 0.0 if older_than is None else parse_duration(older_than, for_server=False)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}.") from error
    pruned = prune(root, now=time.time(), older_than=age, keep=keep or 0, force=force)
    say_lines((f"kept {kept.run.run_id}: {kept.why}" for kept in pruned.kept), err=True)
    if form == "json":
        say_json(runs_json(pruned.removed))
        return 0
    say_lines(run_lines(pruned.removed))
    say(f"{len(pruned.removed)} removed", err=True)
    return 0
