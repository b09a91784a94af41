#!/usr/bin/env python3
"""Write a manual page for each command into the folder that is given."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click_man.core import write_man_pages

from runner import __version__
from runner.cli import cli


def with_commands(group: click.Group) -> click.Group:
    """Return the group with its commands in memory: `jobplan` imports a command when it is called."""
    context = click.Context(group)
    found = {name: command for name in group.list_commands(context) if (command := group.get_command(context, name))}
    return click.Group(
        group.name,
        commands={
            name: with_commands(command) if isinstance(command, click.Group) else command
            for name, command in found.items()
        },
        params=group.params,
        help=group.help,
    )


def write(folder: Path) -> None:
    """Write the pages, `jobplan.1` and one for each command."""
    folder.mkdir(parents=True, exist_ok=True)
    write_man_pages("jobplan", with_commands(cli), version=__version__, target_dir=str(folder))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
