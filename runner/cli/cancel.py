"""`jobplan cancel`: cancel a run's workers, from any machine that can connect to the server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_run, complete_step
from runner.cli.console import print_json, print_lines
from runner.cli.options import (
    as_one,
    dsn_argument,
    dsn_of_run,
    dsn_option,
    duration,
    format_option,
    journal_option,
    ledger_schema,
)
from runner.cli.project_options import confirm, confirm_option, environment_options
from runner.errors import UsageError
from runner.exit_codes import ExitCode
from runner.identity import this_user
from runner.structs import Struct, replace

if TYPE_CHECKING:
    from runner.engine.server_activity import Activity, LiveRun
    from runner.reports.cancel_report import Cancelled

#: A notification has at most 8,000 bytes, and a character has up to 12.
_LONGEST_STEP = 500
#: Characters of an id such as 260131-k7f3qz that mean one run: its date, the hyphen, and one more.
_LEAST_OF_AN_ID = len("260131-k")


class CancelOptions(Struct, frozen=True, kw_only=True):
    """The arguments and options of the command."""

    run: str
    step: str | None
    detached: bool
    timeout: str
    dsn: str | None
    journal: Path
    form: str


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--step",
    metavar="ID",
    shell_complete=complete_step,
    help="Cancel only this step (and its instances), also if it is a detach step or has not started.",
)
@click.option("--detached", is_flag=True, help="Also cancel the workers of detach steps.")
@click.option(
    "--timeout", default="1m", show_default=True, metavar="DURATION", help="How long to wait until the workers end."
)
@dsn_option
@environment_options
@confirm_option
@journal_option
@format_option
@as_one(CancelOptions)
def cancel(options: CancelOptions) -> int:
    """Cancel a run's workers, wait until they end, and report what they left behind.

    RUN is the id of a run, the beginning of an id (its date and at least one more character), or `last`. Workers of
    detach steps continue unless --detached or --step names them. The runner, if it is alive, starts no further steps
    and reports who cancelled the run. The exit code is 7 if a worker still runs after --timeout, or if the runner does
    not accept or does not answer the request.
    """
    from runner.cli.runs_on_server import find_live_run
    from runner.reports.cancel_report import cancel_data, cancel_lines

    run, journal = options.run, options.journal
    seconds = duration("--timeout", options.timeout)
    where = dsn_argument(options.dsn)

    def find(activity: Activity) -> LiveRun:
        found = find_live_run(activity, run, journal, where)
        if run != "last" or found.run.startswith(run):  # else it is the run that was recorded last
            check_meant(found.run, run)
        return found

    server = dsn_of_run(options.dsn, journal, run)
    confirm(lambda: server)
    done = replace(asyncio.run(_cancel(options, server, find, seconds)), where=where)
    if options.form == "json":
        print_json(cancel_data(done))
    else:
        print_lines(cancel_lines(done))
    return ExitCode.UNKNOWN if done.still or done.unanswered or not done.request_accepted else 0


async def _cancel(
    options: CancelOptions, server: str, find: Callable[[Activity], LiveRun], patience: float
) -> Cancelled:
    from runner.cli.runs_on_server import observing
    from runner.engine.ports import CancelRequest
    from runner.gateway.observer import Stopper
    from runner.reports.cancel_report import Cancelled

    step, ledger = options.step, ledger_schema()
    async with observing(server, options.run, options.journal, find, ledger=ledger) as (observer, activity, run):
        _check_step(run, step)
        request = CancelRequest(run=run.run, step=step, by=this_user(), key=secrets.token_hex(8))
        stopper = Stopper(observer=observer, run=run, request=request, detached=options.detached)
        stopped = await stopper.stop(patience)
        if step is not None and stopped.answer is not None and stopped.answer.steps is None and not stopped.asked:
            raise UsageError(f"run {run.run} has no step {step!r}.", hint=_workers_there(run))
    return Cancelled(
        run=run,
        by=request.by,
        step=step,
        concerned=stopped.answer.steps if stopped.answer is not None else None,
        answered=stopped.answer is not None,
        at=activity.at,
        asked=[(worker, stopped.seconds.get(worker.worker)) for worker in stopped.asked],
        left=stopped.left,
        runner_alive=stopped.runner_alive,
        request_accepted=stopped.request_accepted,
        refused=stopped.refused,
        user=activity.user,
        leftovers=stopped.leftovers,
    )


def check_meant(run: str, wanted: str) -> None:
    """UsageError if the id is so short that it matches every run of a day, a month or a year."""
    if run != wanted and len(wanted) < _LEAST_OF_AN_ID:
        raise UsageError(
            f"{wanted!r} is too short to select a run to cancel: it matches all runs of a period.",
            hint="Write the date of the run and at least one character of the rest: "
            f"{run[:_LEAST_OF_AN_ID]} selects run {run}.",
        )


def _check_step(run: LiveRun, step: str | None) -> None:
    if step is None:
        return
    if len(step) > _LONGEST_STEP:
        raise UsageError(
            f"--step: an id of more than {_LONGEST_STEP} characters does not fit into the request to the runner.",
            hint="Give the step without its [item]: that selects all of its instances.",
        )
    if not run.alive and not any(worker.is_of(step) for worker in run.workers):
        raise UsageError(f"no worker of step {step!r} runs in run {run.run}.", hint=_workers_there(run))


def _workers_there(run: LiveRun) -> str:
    steps = ", ".join(sorted(worker.step for worker in run.workers))
    return f"Steps with workers: {steps}." if steps else "The run has no workers now."
