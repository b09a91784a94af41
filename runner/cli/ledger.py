"""`jobplan ledger`: the record of runs in the database. Runs write it if it exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from runner.cli.console import print_json, print_text
from runner.cli.options import (
    chosen_dsn,
    dsn_option,
    duration,
    format_option,
    journal_option,
    ledger_schema,
    option_group,
    schema_option,
    trust_option,
    written_out,
)
from runner.cli.project_options import environment_options
from runner.exit_codes import ExitCode
from runner.phrases import counted
from runner.structs import Struct, asdict

if TYPE_CHECKING:
    from runner.gateway.ledger.admin import LedgerAdmin, LedgerStatus

_F = TypeVar("_F", bound=Callable[..., object])


class LedgerPlace(Struct, frozen=True, kw_only=True):
    """Which ledger is meant: the values of --dsn, --schema and --trust-ledger-role."""

    dsn: str | None
    schema: str | None
    trusted_roles: tuple[str, ...]

    def admin(self) -> LedgerAdmin:
        """Return what administers it. UsageError if an option is wrong."""
        from runner.gateway.ledger.admin import LedgerAdmin

        return LedgerAdmin(chosen_dsn(self.dsn), ledger_schema(self.schema), self.trusted_roles)


def _place_options(command: _F) -> _F:
    """Add --env, --env-file, and what a LedgerPlace consists of, as `place`."""
    return environment_options(option_group("place", LedgerPlace, dsn_option, schema_option, trust_option)(command))


@click.group()
def ledger() -> None:
    """Keep a record of runs in the database.

    Runs write to the ledger if it exists and their role has the privileges: each attempt with its times, outcome and
    errors, for psql and dashboards; and one row in each step's own transaction. That row is evidence that the step
    committed, also if its runner or its connection was lost.
    """


@ledger.command()
@_place_options
@click.option(
    "--grant", "grants", multiple=True, metavar="ROLE", help="Allow ROLE to read and write the ledger; repeatable."
)
def install(place: LedgerPlace, grants: tuple[str, ...]) -> None:
    """Create the ledger in its own schema.

    This needs the privilege CREATE on the database, or on the schema if it exists; it does not need a superuser. Roles
    of steps (`role:`) also need --grant; without it their steps run without a row in the ledger.
    """
    from runner import __version__

    made = place.admin().install(__version__, grants)
    print_text(f"the ledger {'was created' if made else 'already exists'} in schema {ledger_schema(place.schema)}")
    for role in grants:
        print_text(f"role {role} can now read and write the ledger")


@ledger.command()
@_place_options
def upgrade(place: LedgerPlace) -> None:
    """Upgrade the ledger to the version that this jobplan writes. Its contents stay."""
    from runner import __version__

    before, now = place.admin().upgrade(__version__)
    print_text(
        f"the ledger {f'has version {now} already' if before == now else f'was upgraded from {before} to {now}'}"
    )


@ledger.command()
@_place_options
@format_option
@click.pass_context
def status(context: click.Context, place: LedgerPlace, form: str) -> None:
    """Show whether a ledger exists, and how many runs it has.

    The exit code is 0 if this role and this jobplan can write to it, and 3 if not or if there is no ledger.
    """
    found = place.admin().status()
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
@_place_options
@journal_option
def restore(run: str, place: LedgerPlace, journal: Path) -> None:
    """Write the journal of RUN from the ledger, to show or resume the run on a machine without its journal.

    RUN is the id of a run, the beginning of one, or `last`.
    """
    from runner.records.ledger_restore import restore_journal

    found = place.admin().read(run)
    instead = written_out("resume", found.run_id, journal=journal, dsn=place.dsn)
    folder = restore_journal(journal, found.run_id, found.plans, found.events, instead=instead, notify=_print_note)
    print_text(str(folder))


def _print_note(text: str) -> None:
    print_text(f"jobplan: {text}", err=True)


@ledger.command()
@_place_options
@click.option("--older-than", required=True, metavar="DURATION", help="Runs that ended longer ago, such as 90d.")
def purge(place: LedgerPlace, older_than: str) -> None:
    """Delete old runs from the ledger, except those that are still running."""
    age = duration("--older-than", older_than, for_server=False)
    deleted = place.admin().purge(age)
    print_text(f"{counted(deleted, 'run')} deleted")


@ledger.command()
@_place_options
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(place: LedgerPlace, *, yes: bool) -> None:
    """Drop the ledger and its contents. Other objects in its schema stay.

    A run that is writing to the ledger continues without it.
    """
    admin = place.admin()
    found = admin.status()
    if found.version is not None and not yes:
        click.confirm(f"Drop the ledger in schema {found.schema}, with {found.runs} runs?", abort=True, err=True)
    schema_dropped = admin.remove()
    print_text(
        f"the ledger was dropped{'' if schema_dropped else f'; schema {found.schema} stays: it has other objects'}"
    )


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
