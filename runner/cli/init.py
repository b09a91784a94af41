"""`jobplan init`: write a first plan, its schema for editors, and a README about checks in CI.

The texts are the files in `first_plan`; `{folder}` in the README stands for the folder of the plans.
"""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

from runner.errors import UsageError


@click.command()
@click.argument("folder", metavar="[DIR]", default="plans", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first plan into DIR (default: plans), with its schema for editors and a README with CI snippets.

    The command asks no questions and overwrites nothing: if one of the files exists, it writes none.
    """
    from runner.plan.schema_check import schema_text

    texts = {
        folder / "first.yaml": _text("first.yaml"),
        folder / "plan-v1.schema.json": schema_text(),
        folder / "README.md": _text("README.md").replace("{folder}", folder.as_posix()),
    }
    there = [path.as_posix() for path in texts if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{' and '.join(there)}: already exists, so nothing was written.", hint="Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}.") from None
    for path in texts:
        click.echo(f"wrote {path.as_posix()}")
    plan = shlex.quote((folder / "first.yaml").as_posix())
    click.echo(f"\nNext:\n  jobplan validate {plan}\n  jobplan run --embedded {plan}")


def _text(name: str) -> str:
    return files("runner.cli").joinpath("first_plan", name).read_text(encoding="utf-8")
