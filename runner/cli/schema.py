"""`jobplan schema`: print the JSON Schema of plans."""

from __future__ import annotations

import click

from runner.plan.schema_check import PLAN, schema_text


@click.command()
@click.option("--targets", is_flag=True, help="The schema of targets files of jobplan fleet.")
@click.option("--settings", is_flag=True, help="The schema of jobplan.toml.")
def schema(*, targets: bool, settings: bool) -> None:
    """Print the JSON Schema (draft-07) of plans, for editors."""
    if targets and settings:
        raise click.UsageError("--targets and --settings exclude each other.")
    click.echo(schema_text("targets-v1" if targets else "config-v1" if settings else PLAN), nl=False)
