"""`jobplan schema`: print the JSON Schema of plans, of targets files, and of what commands write as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from runner.errors import UsageError
from runner.plan.schema_check import PLAN, schema_text


@click.command()
@click.option("--targets", is_flag=True, help="The schema of targets files of jobplan fleet.")
@click.option("--settings", is_flag=True, help="The schema of jobplan.toml.")
@click.option("--events", is_flag=True, help="The schema of the lines of --report jsonl.")
@click.option(
    "--output",
    metavar="COMMAND",
    help="The schema of what COMMAND writes with --format json, such as status or fleet-show.",
)
def schema(*, targets: bool, settings: bool, events: bool, output: str | None) -> None:
    """Print the JSON Schema (draft-07) of plans, for editors."""
    if targets + settings + events + (output is not None) > 1:
        raise UsageError("--targets, --settings, --events and --output exclude each other.")
    if output is not None:
        click.echo(json.dumps(output_schema(output), indent=2, ensure_ascii=False))
        return
    chosen = {"targets-v1": targets, "config-v1": settings, "events-v1": events}
    click.echo(schema_text(next((name for name, wanted in chosen.items() if wanted), PLAN)), nl=False)


#: Commands that write the same as another one.
_SAME = {"resume": "run", "fleet-resume": "fleet-run", "server-start": "server-status"}


def output_schema(command: str) -> dict[str, Any]:
    """Return the schema of what a command writes with `--format json`; it contains all that it refers to.

    UsageError if there is no such command, or if it writes no JSON.
    """
    whole = json.loads(schema_text("output-v1"))
    definitions = whole["$defs"]
    name = command.strip().replace(" ", "-")
    name = _SAME.get(name, name)
    if name not in _commands(definitions):
        raise UsageError(
            f"--output {command!r}: no command of this name writes JSON.",
            hint=f"They are {', '.join(sorted([*_commands(definitions), *_SAME]))}.",
        )
    needed = _referred(name, definitions)
    found = {"$schema": whole["$schema"], "title": f"jobplan {name} --format json, version 1", **definitions[name]}
    return found | ({"$defs": {one: definitions[one] for one in definitions if one in needed}} if needed else {})


def _commands(definitions: dict[str, Any]) -> list[str]:
    return [name for name, one in definitions.items() if "--format json" in one.get("description", "")]


def _referred(name: str, definitions: dict[str, Any]) -> set[str]:
    """Return the names of the definitions that one refers to, also through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        text = json.dumps(definitions[waiting.pop()])
        fresh = {one for one in definitions if f'"#/$defs/{one}"' in text} - found
        found |= fresh
        waiting += fresh
    return found
