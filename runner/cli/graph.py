"""`jobplan graph`: the steps of a plan and their dependencies as text."""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli.options import Selection, selection_options
from runner.cli.project_options import PlanPath, chosen_severities

_FORMS = ("text", "json", "mermaid", "dot")


@click.command()
@click.argument("plan", type=PlanPath())
@click.option("--format", "format_", type=click.Choice(_FORMS), default="text", show_default=True)
@selection_options
def graph(
    plan: Path,
    *,
    format_: str,
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    assume_done: bool,
) -> None:
    """Print the dependency graph of a plan: as a tree, JSON, Mermaid for Markdown, or DOT for Graphviz."""
    from runner.lint import read_plan
    from runner.reports.plan_graph import FORMS, plan_graph

    loaded = read_plan(plan, severities=chosen_severities(), require_values=False)
    left_out = Selection(select=select, exclude=exclude, assume_done=assume_done).left_out(loaded)
    click.echo(FORMS[format_](plan_graph(loaded, left_out)), nl=False)
