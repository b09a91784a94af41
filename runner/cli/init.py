"""`jobplan init`: write a first plan, its schema for editors, and a README about checks in CI.

The texts are the files in `first_plan`; in the README, `{shell}` is the folder of the plans in a command.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from importlib.resources import files
from pathlib import Path

import click

from runner.cli.console import print_lines
from runner.errors import UsageError


@click.command()
@click.argument("folder", metavar="[DIR]", default="plans", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first plan into DIR (default: plans), with its schema for editors and a README with CI snippets.

    The command asks no questions and overwrites nothing: if one of the files exists, it writes none.
    """
    from runner.plan.schema_check import schema_text

    _check_name(folder)
    texts = {
        folder / "first.yaml": _text("first.yaml"),
        folder / "plan-v1.schema.json": schema_text(),
        folder / "README.md": _readme(folder),
    }
    there = [path.as_posix() for path in texts if os.path.lexists(path)]
    if there:
        raise UsageError(f"{' and '.join(there)}: already exists, so nothing was written.", hint="Name another folder.")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for path in written:  # or a second try would find them
            path.unlink(missing_ok=True)
        raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}.") from None
    plan = f"{_in_shell(folder)}/first.yaml"
    print_lines([*(f"wrote {path.as_posix()}" for path in texts), "", "Next:"])
    print_lines([f"  jobplan validate {plan}", f"  jobplan run --embedded {plan}"])


def _check_name(folder: Path) -> None:
    """UsageError if the README cannot contain the name: it has characters that are not valid or cannot be printed."""
    if not folder.as_posix().isprintable():
        raise UsageError(
            f"the name of the folder {folder.as_posix()!r} has characters that cannot be printed.",
            hint="Name another folder.",
        )


def _readme(folder: Path) -> str:
    """Return the README. The name of the folder is quoted in its commands and YAML where that is necessary."""
    shell = _in_shell(folder)
    found = {
        "{shell}": shell,
        "{validate}": _in_yaml(f"jobplan validate --strict {shell}/*.yaml"),
        "{pattern}": _in_yaml(rf"^{re.escape(folder.as_posix())}/.*\.yaml$"),
    }
    text = _text("README.md")
    for name, value in found.items():
        text = text.replace(name, value)
    return text


def _in_shell(folder: Path) -> str:
    """Return the folder, quoted for a shell; with `./` if it begins with a dash, which would begin an option."""
    path = folder.as_posix()
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _in_yaml(text: str) -> str:
    """Return a text as a YAML scalar, in quotes if some of its characters have a meaning in YAML."""
    return json.dumps(text, ensure_ascii=False) if re.search(r": |:$| #|^[-?:,\[\]{}#&*!|>'\"%@`]", text) else text


def _text(name: str) -> str:
    return files("runner.cli").joinpath("first_plan", name).read_text(encoding="utf-8")
