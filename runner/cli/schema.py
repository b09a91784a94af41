"""`jobplan schema`: print the JSON Schema of plans."""

from __future__ import annotations

import click

from runner.plan.schema_check import schema_text


@click.command()
@click.option("--targets", is_flag=True, help="The schema of targets files of jobplan fleet.")
def schema(*, targets: bool) -> None:
    """Print the JSON Schema (draft-07) of plans, for editors."""
    click.echo(schema_text("targets-v1") if targets else schema_text(), nl=False)
