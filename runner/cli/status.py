"""`jobplan status`: what lives on the server now, from the server alone."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.connection import dsn_of_run, dsn_option
from runner.cli.journals import journal_option
from runner.cli.ledger_options import ledger_schema
from runner.cli.saying import say_json, say_lines

if TYPE_CHECKING:
    from runner.engine.activity import Activity
    from runner.reports.status import RecordSummary

_HOME_AND_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@click.argument("run", required=False)
@dsn_option
@journal_option
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, metavar="SECONDS", help="With --watch."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(run: str | None, dsn: str | None, *, journal: Path, watch: bool, every: float, form: str) -> int:
    """Say what lives on the server: runs, their runners and workers, and who waits for whom.

    RUN is a run's id or how it begins. Everything is read from the server, so it does not matter where the run was
    started; what a journal on this machine, or the ledger, knows is told too. With --watch and --format json each look
    is one line.
    """
    try:
        dsn = dsn_of_run(dsn, journal, run)
        asyncio.run(_status(run, dsn, journal=journal, every=every if watch else None, form=form))
    except KeyboardInterrupt:
        if not watch:
            raise
    return 0


async def _status(wanted: str | None, dsn: str, *, journal: Path, every: float | None, form: str) -> None:
    from runner.cli.enriching import recorded_runs
    from runner.gateway.activity import Observer

    ledger = ledger_schema()
    observer = await Observer.connect(dsn, ledger=ledger)
    try:
        looked = _narrowed(await observer.look(), wanted)
        _show(looked, form, await recorded_runs(observer, looked, journal, ledger), again=every is not None)
        while every is not None and (wanted is None or looked.runs):
            await asyncio.sleep(every)
            looked = _only(await observer.look(), looked.runs[0].run if wanted is not None else None)
            _show(looked, form, await recorded_runs(observer, looked, journal, ledger), again=True)
    finally:
        await observer.close()


def _narrowed(activity: Activity, wanted: str | None) -> Activity:
    from runner.engine.activity import find_run

    return activity if wanted is None else dataclasses.replace(activity, runs=(find_run(activity.runs, wanted),))


def _only(activity: Activity, run: str | None) -> Activity:
    """Keep one run, which may have gone meanwhile; None: keep all."""
    return dataclasses.replace(activity, runs=tuple(one for one in activity.runs if run in (None, one.run)))


def _show(activity: Activity, form: str, records: Mapping[str, RecordSummary], *, again: bool) -> None:
    from runner.reports.status import status_data, status_lines

    if form == "json":
        say_json(status_data(activity, records=records), indent=None if again else 2)
        sys.stdout.flush()
        return
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 80
    lines = list(status_lines(activity, width=width, records=records))
    if again and terminal:
        click.echo(_HOME_AND_CLEAR, nl=False)
    say_lines([*lines, ""] if again and not terminal else lines)
