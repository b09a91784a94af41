"""`jobplan graph`: the steps of a plan and their dependencies as text."""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli.options import Selection, selection_options
from runner.cli.project_options import PlanPath, chosen

_FORMS = ("text", "json", "mermaid", "dot")


@click.command()
@click.argument("plan", type=PlanPath())
@click.option("--format", "format_", type=click.Choice(_FORMS), default="text", show_default=True)
@selection_options
def graph(plan: Path, *, format_: str, selection: Selection) -> None:
    """Print the dependency graph of a plan: as a tree, JSON, Mermaid for Markdown, or DOT for Graphviz."""
    from runner.lint import read_plan
    from runner.reports.plan_graph import FORMS, plan_graph

    loaded = read_plan(plan, severities=chosen().severities, require_values=False)
    click.echo(FORMS[format_](plan_graph(loaded, selection.left_out(loaded))), nl=False)
