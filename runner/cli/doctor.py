"""`jobplan doctor`: check whether a server is ready for plans, and show how to fix it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click

from runner.cli.console import color_option, print_json_text, wants_color
from runner.cli.options import chosen_dsn, dsn_option, format_option, ledger_schema, trust_option
from runner.cli.project_options import environment_options
from runner.errors import ConnectionFailedError, ServerLostError
from runner.exit_codes import ExitCode
from runner.gateway.inspection import Inspector
from runner.gateway.server_facts import ServerFacts
from runner.preflight.doctor import Demand, Level, examine
from runner.reports.doctor_report import doctor_json, doctor_lines
from runner.reports.plan_problems import Style
from runner.structs import replace


@click.command()
@environment_options
@dsn_option
@trust_option
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many workers a run should have at the same time.",
)
@click.option(
    "--reserve", type=click.IntRange(min=0), default=0, show_default=True, help="How many workers must stay free."
)
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@format_option
@color_option
def doctor(
    dsn: str | None,
    *,
    trusted_roles: tuple[str, ...],
    slots: int,
    reserve: int,
    strict: bool,
    form: str,
    color: str,
) -> int:
    """Check whether a server is ready for plans.

    Each check shows what was found; a failed check also shows what is needed and how to fix it. The command changes
    nothing on the server. The exit code is 4 if plans cannot run, with --strict also for warnings.
    """
    facts = asyncio.run(look(chosen_dsn(dsn), ledger_schema(), trusted_roles))
    examined = examine(facts, Demand(slots=slots, reserve=reserve))
    if form == "json":
        print_json_text(doctor_json(examined, facts))
    else:
        for line in doctor_lines(examined, facts, Style(color=wants_color(color, sys.stdout))):
            click.echo(line, color=True)
    levels = {one.outcome.level for one in examined}
    return ExitCode.NOT_STARTED if Level.ERROR in levels or (strict and Level.WARNING in levels) else ExitCode.SUCCESS


async def look(conninfo: str, schema: str, trusted_roles: Sequence[str]) -> ServerFacts:
    """Return the facts about the server and its ledgers. ConnectionFailedError if it cannot be reached."""
    async with await Inspector.connect(conninfo, "jobplan doctor") as inspector:
        try:
            return replace(await inspector.facts(), ledgers=await inspector.ledgers(schema, trusted_roles))
        except ServerLostError as error:
            raise ConnectionFailedError(f"the connection to the server was lost: {error.message}") from error
