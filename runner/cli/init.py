"""`jobplan init`: a first plan, its schema for editors, and how to check plans in CI."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from runner.cli.first_plan import PLAN, README
from runner.errors import UsageError


@click.command()
@click.argument("folder", metavar="[DIR]", default="plans", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first plan into DIR (by default plans), with its schema for editors and a README with CI snippets.

    Nothing is asked, and nothing is overwritten: if one of the files is there already, none is written.
    """
    from runner.plan.schema import schema_text

    shown = folder.as_posix()
    files = {
        folder / "first.yaml": PLAN,
        folder / "plan-v1.schema.json": schema_text(),
        folder / "README.md": README.format(folder=shown),
    }
    there = [path.as_posix() for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{' and '.join(there)}: there already, so nothing was written.", hint="Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}.") from None
    for path in files:
        click.echo(f"wrote {path.as_posix()}")
    plan = shlex.quote((folder / "first.yaml").as_posix())
    click.echo(f"\nNext:\n  jobplan validate {plan}\n  jobplan run --embedded {plan}")
