"""`jobplan status`: what runs on the server now."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_run
from runner.cli.console import print_json, print_lines, print_text, terminal_width
from runner.cli.options import (
    as_one,
    dsn_argument,
    dsn_of_run,
    dsn_option,
    format_option,
    journal_option,
    ledger_schema,
    trust_option,
)
from runner.cli.project_options import environment_options
from runner.structs import Struct, replace

if TYPE_CHECKING:
    from runner.engine.server_activity import Activity
    from runner.reports.status_report import RecordSummary

_HOME_AND_CLEAR = "\x1b[H\x1b[2J"


class StatusOptions(Struct, frozen=True, kw_only=True):
    """The arguments and options of the command."""

    run: str | None
    dsn: str | None
    journal: Path
    trusted_roles: tuple[str, ...]
    watch: bool
    every: float
    form: str


@click.command()
@click.argument("run", required=False, shell_complete=complete_run)
@dsn_option
@environment_options
@journal_option
@trust_option
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: seconds between two polls.",
)
@format_option
@as_one(StatusOptions)
def status(options: StatusOptions) -> int:
    """Show what runs on the server: runs, their runners and workers, and which sessions block which.

    RUN is the id of a run or the beginning of one. The information comes from the server, so the run can have been
    started on any machine. The output also has what the ledger, or a journal on this machine, has recorded. With
    --watch and --format json each poll is one line.
    """
    try:
        asyncio.run(_status(options, dsn_of_run(options.dsn, options.journal, options.run)))
    except KeyboardInterrupt:
        if not options.watch:
            raise
    return 0


async def _status(options: StatusOptions, dsn: str) -> None:
    from runner.cli.runs_on_server import find_live_run, recall_workers, recorded_runs
    from runner.gateway.observer import Observer

    ledger, journal, wanted = ledger_schema(), options.journal, options.run
    async with await Observer.connect(dsn, ledger=ledger, trusted_roles=options.trusted_roles) as observer:
        looked = await recall_workers(observer, await observer.look(), journal, wanted)
        run = None if wanted is None else find_live_run(looked, wanted, journal, dsn_argument(options.dsn)).run
        reported = None
        while True:
            looked = _only(looked, run)
            records = await recorded_runs(observer, looked, journal, ledger)
            if observer.ledger_ignored is not None and observer.ledger_ignored != reported:
                reported = observer.ledger_ignored
                print_text(f"jobplan: {reported}", err=True)
            _show(looked, options, records, run=run)
            if not options.watch or (run is not None and not looked.runs):
                return
            await asyncio.sleep(options.every)
            looked = await recall_workers(observer, await observer.look(), journal, wanted)


def _only(activity: Activity, run: str | None) -> Activity:
    """Keep one run, which may have ended in the meantime; None: keep all."""
    return replace(activity, runs=tuple(one for one in activity.runs if run in (None, one.run)))


def _show(activity: Activity, options: StatusOptions, records: Mapping[str, RecordSummary], *, run: str | None) -> None:
    from runner.reports.status_report import status_data, status_lines

    if options.form == "json":
        print_json(status_data(activity, records=records), indent=None if options.watch else 2)
        sys.stdout.flush()
        return
    width = terminal_width(sys.stdout)
    lines = list(status_lines(activity, width=width, records=records, run=run, where=dsn_argument(options.dsn)))
    if options.watch and width is not None:
        click.echo(_HOME_AND_CLEAR, nl=False)
    print_lines([*lines, ""] if options.watch and width is None else lines)
