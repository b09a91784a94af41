"""`jobplan schema`: print the JSON Schema of plans."""

from __future__ import annotations

import click

from runner.plan.schema_check import schema_text


@click.command()
def schema() -> None:
    """Print the JSON Schema (draft-07) of plans, for editors."""
    click.echo(schema_text(), nl=False)
