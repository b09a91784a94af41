"""`jobplan completion`: print the script by which a shell completes commands, options, run ids, step ids and codes."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

#: Runs that are offered, the latest ones.
_RUNS = 50


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, run ids, step ids and codes in SHELL.

    Load it where your shell starts: eval "$(jobplan completion bash)" in ~/.bashrc, the same with zsh in ~/.zshrc, or
    jobplan completion fish > ~/.config/fish/completions/jobplan.fish.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(kind(click.Group(), {}, "jobplan", "_JOBPLAN_COMPLETE").source())


def complete_run(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recorded runs whose id begins like this, the latest first, and `last`."""
    from runner.errors import JobplanError
    from runner.records.summaries import list_records

    try:
        found = list_records(_journal(ctx))[:_RUNS]
    except JobplanError:
        return []
    items = [CompletionItem(run.run_id, help=run.plan) for run in found]
    items += [CompletionItem("last", help="the latest run")] if items else []
    return [item for item in items if item.value.startswith(incomplete)]


def complete_step(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the steps of the run on the command line; without one, those of the latest run."""
    from runner.errors import JobplanError
    from runner.records.record import read_record

    try:
        record = read_record(_journal(ctx), ctx.params.get("run") or "last", notices=False)
    except JobplanError:
        return []
    steps = record.state.records.items()
    return [CompletionItem(key, help=str(step.state)) for key, step in steps if key.startswith(incomplete)]


def complete_fleet(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recorded fleet runs whose id begins like this, the latest first, and `last`."""
    from runner.errors import JobplanError
    from runner.fleet.records import fleets, fleets_folder

    try:
        found = fleets(fleets_folder(_journal(ctx)))
    except JobplanError:
        return []
    items = [CompletionItem(name) for name in found[: -_RUNS - 1 : -1]]
    items += [CompletionItem("last", help="the latest fleet run")] if items else []
    return [item for item in items if item.value.startswith(incomplete)]


def complete_code(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the codes of problems that begin like this."""
    from runner.codes import CODES

    return [CompletionItem(code) for code in CODES if code.startswith(incomplete.upper())]


def _journal(ctx: click.Context) -> Path:
    from runner.cli.project_options import chosen_journal

    return Path(ctx.params.get("journal") or chosen_journal())
