"""`jobplan report`: static pages of all recorded runs, from the journals of this machine and from a ledger."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from runner.cli.console import error_sentence, print_text
from runner.cli.options import chosen_dsn, dsn_option, journal_option, ledger_schema, schema_option, trust_option
from runner.cli.project_options import environment_options
from runner.engine.previous_runs import PastRun
from runner.errors import JobplanError

#: Most runs that are read from a ledger: the latest.
_MOST = 1_000


@click.command()
@click.option(
    "--site",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write index.html and a page for each plan into DIR. Files of the same names are replaced.",
)
@journal_option
@environment_options
@dsn_option
@schema_option
@trust_option
def report(folder: Path, *, journal: Path, dsn: str | None, schema: str | None, trusted_roles: tuple[str, ...]) -> int:
    """Write static pages of all recorded runs: how each plan and target ended last, trends of each step, and failures.

    The command reads the journals in the journal folder, the fleet runs beside it, and, with --dsn, the ledger in that
    database. If only the environment names the database and its ledger cannot be read, the command prints a note and
    continues. A browser can open the pages from the disk; they load no other files. Damaged journals are listed.
    """
    from runner import __version__
    from runner.phrases import counted
    from runner.reports.site import INDEX, site_pages, write_site

    gc.disable()  # the process ends soon, so that a collection would cost time and gain nothing
    sources = [f"journals in {journal.absolute()}"]
    runs = [*_of_journals(journal)]
    server = chosen_dsn(dsn, general=False)
    if server or dsn is not None:
        try:
            runs += _of_ledger(server, ledger_schema(schema), trusted_roles)
            sources.append(f"the ledger in schema {ledger_schema(schema)}")
        except JobplanError as error:
            if dsn is not None:
                raise
            print_text(f"jobplan: the ledger is left out: {error_sentence(error)}", err=True)
    pages = site_pages(runs, sources=sources, now=time.time(), jobplan=__version__)
    write_site(folder, pages)
    found = {run.run for run in runs}
    damaged = {run.run for run in runs if run.standing == "unreadable"}
    note = f", {len(damaged):,} of them damaged" if damaged else ""
    print_text(f"{folder / INDEX}: {counted(len(found), 'run')} of {counted(len(pages) - 1, 'plan')}{note}")
    return 0


def _of_ledger(server: str, schema: str, trusted_roles: tuple[str, ...]) -> Sequence[PastRun]:
    from runner.gateway.ledger.admin import LedgerAdmin

    return LedgerAdmin(server, schema, trusted_roles).recorded_runs(_MOST)


def _of_journals(journal: Path) -> Iterator[PastRun]:
    """Yield the runs of the journal folder, and of the members of fleet runs beside it."""
    from runner.fleet.records import RUNS, fleets, fleets_folder
    from runner.records.summaries import recorded_runs

    yield from recorded_runs(journal)
    for fleet in fleets(fleets_folder(journal)):
        yield from recorded_runs(fleets_folder(journal) / fleet / RUNS)
