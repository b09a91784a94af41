"""`jobplan attach`: follow a run's workers, also detached and orphaned ones, until they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_run
from runner.cli.console import print_json, print_lines, print_text
from runner.cli.options import (
    dsn_argument,
    dsn_of_run,
    dsn_option,
    format_option,
    journal_option,
    ledger_schema,
    trust_option,
)
from runner.cli.project_options import environment_options
from runner.clock import rfc3339
from runner.structs import replace

if TYPE_CHECKING:
    from runner.engine.events import Leftover
    from runner.engine.server_activity import Activity, LiveRun
    from runner.reports.attach_report import AttachedRun
    from runner.reports.status_report import RecordSummary

#: Seconds between two polls.
_EVERY = 1.0


@click.command()
@click.argument("run", shell_complete=complete_run)
@dsn_option
@environment_options
@journal_option
@trust_option
@format_option
def attach(run: str, dsn: str | None, *, journal: Path, trusted_roles: tuple[str, ...], form: str) -> None:
    """Follow a run's workers until they end, also detached and orphaned workers.

    RUN is the id of a run, the beginning of one, or `last`. The command changes nothing: Ctrl-C ends the command, not
    the workers. The server does not store the outcome of a worker: the runner reports it, and the record of the run has
    it. The command prints when each worker ends, the outcome in the record, and what the workers left half done.
    """
    from runner.reports.attach_report import attach_data, attach_lines

    where = dsn_argument(dsn)
    follower, leftovers, record, at = asyncio.run(
        _attach(run, dsn_of_run(dsn, journal, run), journal, where, trusted_roles)
    )
    if form == "json":
        print_json(attach_data(follower.run, follower.ended, leftovers, record, now=at))
    else:
        print_lines(attach_lines(follower.run, follower.ended, leftovers, record, where=where))


async def _attach(
    wanted: str, dsn: str, journal: Path, where: str, trusted_roles: tuple[str, ...]
) -> tuple[AttachedRun, tuple[Leftover, ...], RecordSummary | None, float]:
    from runner.cli.runs_on_server import find_live_run, observing, recorded_runs
    from runner.reports.attach_report import AttachedRun

    def find(activity: Activity) -> LiveRun:
        return find_live_run(activity, wanted, journal, where)

    ledger = ledger_schema()
    async with observing(dsn, wanted, journal, find, ledger=ledger, trusted_roles=trusted_roles) as found:
        observer, activity, run = found
        follower = AttachedRun(run)
        relations: set[str] = set()
        while _report(follower, activity):
            pids = [w.worker.pid for live in activity.runs if live.run == run.run for w in live.workers]
            relations |= await observer.locked(pids) if pids else frozenset()
            await asyncio.sleep(_EVERY)
            activity = await observer.look()
        last = replace(activity, database=run.database or activity.database, runs=(follower.run,))
        record = (await recorded_runs(observer, last, journal, ledger)).get(run.run)
        if observer.ledger_ignored is not None:
            print_text(f"jobplan: {observer.ledger_ignored}", err=True)
        leftovers = await observer.leftovers(relations, [one.worker for one in follower.ended])
    return follower, leftovers, record, activity.at


def _report(follower: AttachedRun, activity: Activity) -> bool:
    lines, more = follower.follow(activity)
    print_lines((f"{rfc3339(activity.at)[11:19]}Z {line}" for line in lines), err=True)
    return more
