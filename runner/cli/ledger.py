"""`jobplan ledger`: the record of runs in the database. Runs write it if it exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.console import print_json, print_text
from runner.cli.options import (
    chosen_dsn,
    dsn_option,
    journal_option,
    ledger_schema,
    schema_option,
    trust_option,
    written_out,
)
from runner.cli.project_options import environment_options
from runner.durations import parse_duration
from runner.errors import UsageError
from runner.exit_codes import ExitCode
from runner.structs import asdict

if TYPE_CHECKING:
    from runner.gateway.ledger.admin import LedgerAdmin, LedgerStatus


@click.group()
def ledger() -> None:
    """Keep a record of runs in the database.

    Runs write to the ledger if it exists and their role has the privileges: each attempt with its times, outcome and
    errors, for psql and dashboards; and one row in each step's own transaction. That row is evidence that the step
    committed, also if its runner or its connection was lost.
    """


@ledger.command()
@environment_options
@dsn_option
@schema_option
@trust_option
@click.option(
    "--grant", "grants", multiple=True, metavar="ROLE", help="Allow ROLE to read and write the ledger; repeatable."
)
def install(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], grants: tuple[str, ...]) -> None:
    """Create the ledger in its own schema.

    This needs the privilege CREATE on the database, or on the schema if it exists; it does not need a superuser. Roles
    of steps (`role:`) also need --grant; without it their steps run without a row in the ledger.
    """
    from runner import __version__

    admin = _admin(dsn, schema, trusted_roles)
    made = admin.install(__version__, grants)
    print_text(f"the ledger {'was created' if made else 'already exists'} in schema {ledger_schema(schema)}")
    for role in grants:
        print_text(f"role {role} can now read and write the ledger")


@ledger.command()
@environment_options
@dsn_option
@schema_option
@trust_option
def upgrade(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...]) -> None:
    """Upgrade the ledger to the version that this jobplan writes. Its contents stay."""
    from runner import __version__

    before, now = _admin(dsn, schema, trusted_roles).upgrade(__version__)
    print_text(
        f"the ledger {f'has version {now} already' if before == now else f'was upgraded from {before} to {now}'}"
    )


@ledger.command()
@environment_options
@dsn_option
@schema_option
@trust_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def status(
    context: click.Context, dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], form: str
) -> None:
    """Show whether a ledger exists, and how many runs it has.

    The exit code is 0 if this role and this jobplan can write to it, and 3 if not or if there is no ledger.
    """
    found = _admin(dsn, schema, trusted_roles).status()
    if form == "json":
        data = asdict(found) | {
            "installed": found.version is not None or not found.readable,
            "remedy": found.remedy,
        }
        print_json(data)
    else:
        print_text(_as_text(found))
    if found.remedy is not None or not found.writable:
        context.exit(ExitCode.NOT_THERE)


@ledger.command()
@click.argument("run", metavar="RUN")
@environment_options
@dsn_option
@schema_option
@trust_option
@journal_option
def restore(run: str, dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], journal: Path) -> None:
    """Write the journal of RUN from the ledger, to show or resume the run on a machine without its journal.

    RUN is the id of a run, the beginning of one, or `last`.
    """
    from runner.records.ledger_restore import restore_journal

    found = _admin(dsn, schema, trusted_roles).read(run)
    instead = written_out("resume", found.run_id, journal=journal, dsn=dsn)
    print_text(str(restore_journal(journal, found.run_id, found.plans, found.events, instead=instead)))


@ledger.command()
@environment_options
@dsn_option
@schema_option
@trust_option
@click.option("--older-than", required=True, metavar="DURATION", help="Runs that ended longer ago, such as 90d.")
def purge(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], older_than: str) -> None:
    """Delete old runs from the ledger, except those that are still running."""
    try:
        age = parse_duration(older_than, for_server=False)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}.") from error
    deleted = _admin(dsn, schema, trusted_roles).purge(age)
    print_text(f"{deleted} run{'' if deleted == 1 else 's'} deleted")


@ledger.command()
@environment_options
@dsn_option
@schema_option
@trust_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...], *, yes: bool) -> None:
    """Drop the ledger and its contents. Other objects in its schema stay.

    A run that is writing to the ledger continues without it.
    """
    admin = _admin(dsn, schema, trusted_roles)
    found = admin.status()
    if found.version is not None and not yes:
        click.confirm(f"Drop the ledger in schema {found.schema}, with {found.runs} runs?", abort=True, err=True)
    schema_dropped = admin.remove()
    print_text(
        f"the ledger was dropped{'' if schema_dropped else f'; schema {found.schema} stays: it has other objects'}"
    )


def _admin(dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...]) -> LedgerAdmin:
    from runner.gateway.ledger.admin import LedgerAdmin

    return LedgerAdmin(chosen_dsn(dsn), ledger_schema(schema), trusted_roles)


def _as_text(found: LedgerStatus) -> str:
    if not found.readable:
        return f"this role cannot read the ledger in schema {found.schema}; its owner can grant it: {found.remedy}"
    if found.version is None:
        return f"no ledger in schema {found.schema}; create it: jobplan ledger install"
    runs = f"{found.runs} ({found.unfinished} not ended)" if found.unfinished else f"{found.runs}"
    lines = [
        f"ledger:  schema {found.schema}, version {found.version}",
        f"runs:    {runs}, with {found.events} events, {found.bytes / 1_048_576:.1f} MiB",
    ]
    if found.first is not None:
        lines.append(f"started: {found.first} to {found.last}")
    if found.remedy is not None:
        lines.append(f"this jobplan cannot write to it: use {found.remedy}")
    elif found.standby:
        lines.append("this server is a standby: runs execute, and write the ledger, on its primary")
    elif not found.writable:
        lines.append("this role cannot write to it; grant it: jobplan ledger install --grant ROLE")
    return "\n".join(lines)
