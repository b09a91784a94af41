"""`jobplan ledger`: the record of runs in the database. It is written by itself once it is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.console import say, say_json
from runner.cli.options import (
    chosen_dsn,
    dsn_option,
    journal_option,
    ledger_schema,
    schema_option,
    trust_option,
    written_out,
)
from runner.durations import parse_duration
from runner.errors import UsageError
from runner.exit_codes import ExitCode

if TYPE_CHECKING:
    from runner.gateway.ledger.admin import LedgerAdmin, LedgerStatus


@click.group()
def ledger() -> None:
    """Keep a record of runs in the database.

    Runs write to it once it is there and their role may: every attempt with its times, outcome and errors, for psql and
    dashboards; and one row in each step's own transaction, which proves what the step did whoever has died.
    """


@ledger.command()
@dsn_option
@schema_option
@trust_option
@click.option("--grant", "grants", multiple=True, metavar="ROLE", help="Let ROLE write to it and read it; repeatable.")
def install(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], grants: tuple[str, ...]) -> None:
    """Make the ledger, in a schema of its own.

    It takes the right to create a schema in the database, or to create in a schema that is there, and no superuser.
    Roles that steps take (`role:`) need --grant too, or their steps run without their row.
    """
    from runner import __version__

    admin = _admin(dsn, schema, trusted_roles)
    made = admin.install(__version__, grants)
    say(f"the ledger is {'in' if made else 'already in'} schema {ledger_schema(schema)}")
    for role in grants:
        say(f"{role} may write to it and read it")


@ledger.command()
@dsn_option
@schema_option
@trust_option
def upgrade(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...]) -> None:
    """Bring the ledger to the version that this jobplan writes; what is in it stays."""
    from runner import __version__

    before, now = _admin(dsn, schema, trusted_roles).upgrade(__version__)
    say(f"the ledger is of version {now}{' already' if before == now else f' now; it was {before}'}")


@ledger.command()
@dsn_option
@schema_option
@trust_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def status(
    context: click.Context, dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], form: str
) -> None:
    """Say whether there is a ledger, and how much is in it.

    Ends with 0 if runs can be written to it, and with 3 if there is none or this role or jobplan cannot write to it.
    """
    found = _admin(dsn, schema, trusted_roles).status()
    if form == "json":
        data = dataclasses.asdict(found) | {
            "installed": found.version is not None or not found.readable,
            "remedy": found.remedy,
        }
        say_json(data)
    else:
        say(_as_text(found))
    if found.remedy is not None or not found.writable:
        context.exit(ExitCode.NOT_THERE)


@ledger.command()
@click.argument("run", metavar="RUN")
@dsn_option
@schema_option
@trust_option
@journal_option
def restore(run: str, dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], journal: Path) -> None:
    """Write the journal of RUN anew from the ledger, to show or resume it where its journal is not.

    RUN is an id, its beginning, or `last`.
    """
    from runner.records.ledger_restore import restore_journal

    found = _admin(dsn, schema, trusted_roles).read(run)
    instead = written_out("resume", found.run_id, journal=journal, dsn=chosen_dsn(dsn))
    say(str(restore_journal(journal, found.run_id, found.plans, found.events, instead=instead)))


@ledger.command()
@dsn_option
@schema_option
@trust_option
@click.option("--older-than", required=True, metavar="DURATION", help="Runs that ended longer ago, such as 90d.")
def purge(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], older_than: str) -> None:
    """Delete old runs from the ledger. One that lives is kept, however old."""
    try:
        age = parse_duration(older_than, for_server=False)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}.") from error
    deleted = _admin(dsn, schema, trusted_roles).purge(age)
    say(f"{deleted} run{'' if deleted == 1 else 's'} deleted")


@ledger.command()
@dsn_option
@schema_option
@trust_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], *, yes: bool) -> None:
    """Drop the ledger with all that is in it; what somebody else has made in its schema stays.

    A run that is writing to it goes on without it.
    """
    admin = _admin(dsn, schema, trusted_roles)
    found = admin.status()
    if found.version is not None and not yes:
        click.confirm(f"Drop the ledger in schema {found.schema}, with {found.runs} runs?", abort=True, err=True)
    gone = admin.remove()
    say(f"the ledger is gone{'' if gone else f'; schema {found.schema} stays, because other things are in it'}")


def _admin(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...]) -> LedgerAdmin:
    from runner.gateway.ledger.admin import LedgerAdmin

    return LedgerAdmin(chosen_dsn(dsn), ledger_schema(schema), trusted_roles)


def _as_text(found: LedgerStatus) -> str:
    if not found.readable:
        return f"the ledger in schema {found.schema} is not for this role; its owner can let it in: {found.remedy}"
    if found.version is None:
        return f"no ledger in schema {found.schema}; make it: jobplan ledger install"
    runs = f"{found.runs} ({found.unfinished} without an end)" if found.unfinished else f"{found.runs}"
    lines = [
        f"ledger:  schema {found.schema}, version {found.version}",
        f"runs:    {runs}, with {found.events} events, {found.bytes / 1_048_576:.1f} MiB",
    ]
    if found.first is not None:
        lines.append(f"started: {found.first} to {found.last}")
    if found.remedy is not None:
        lines.append(f"not written by this jobplan: use {found.remedy}")
    elif found.standby:
        lines.append("this server is a standby: runs, and their ledger, are written on its primary")
    elif not found.writable:
        lines.append("this role may not write to it: jobplan ledger install --grant ROLE")
    return "\n".join(lines)
