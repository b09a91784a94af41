"""`jobplan help`: the same as --help, for people who type it as a command."""

from __future__ import annotations

import click


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_command(context: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of a command, such as `jobplan help run` or `jobplan help fleet resume`."""
    parent = context.find_root()
    found: click.Command = parent.command
    for name in command:
        if not isinstance(found, click.Group):
            parent.fail(f"{parent.command_path} has no commands.")
        resolved, one, _ = found.resolve_command(parent, [name])
        if one is None:
            parent.fail(f"No such command {name!r}.")
        found, parent = one, click.Context(one, parent=parent, info_name=resolved, **one.context_settings)
    click.echo(found.get_help(parent))
