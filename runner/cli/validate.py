"""`jobplan validate`: check plans without a server."""

from __future__ import annotations

from pathlib import Path

import click

from runner.errors import Severity
from runner.plan import load_plan


@click.command()
@click.argument("plans", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about plans that are valid.")
def validate(plans: tuple[Path, ...], *, quiet: bool) -> int:
    """Check plans without a server: schema, names, budget, parameters in SQL.

    Every problem is reported at once, as file:line:column. The exit code is 3 if a plan is invalid.
    """
    invalid = 0
    for path in plans:
        loaded = load_plan(path)
        for problem in loaded.problems:
            click.echo(str(problem))
        if any(problem.severity is Severity.ERROR for problem in loaded.problems):
            invalid += 1
        elif not quiet and loaded.plan is not None:
            click.echo(f"{path}: valid, {len(loaded.plan.steps)} steps")
    return 3 if invalid else 0
