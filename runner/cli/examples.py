"""The examples at the end of each command's `--help`, in one table; a test parses every one of them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import click

#: Examples by command; `fleet run` is the command `run` of the group `fleet`.
EXAMPLES: Final = MappingProxyType(
    {
        "init": ("jobplan init maintenance",),
        "validate": ("jobplan validate plans/", "jobplan validate plans/ --strict --report junit=plans.xml"),
        "dry-run": ("jobplan dry-run plans/nightly.yaml --dsn 'host=db1 dbname=app'",),
        "run": (
            "jobplan run plans/nightly.yaml --dsn 'host=db1 dbname=app' --param days=30",
            "jobplan run plans/nightly.yaml --or-resume --report html=run.html",
            "jobplan run nightly --env prod",
            "jobplan run plans/quickstart.yaml --embedded",
        ),
        "runs": ("jobplan runs", "jobplan runs --prune --older-than 30d --keep 20"),
        "show": (
            "jobplan show last",
            "jobplan show 260131-k7f3qz --step load --log",
            "jobplan show last --report html=run.html",
        ),
        "report": ("jobplan report --site public", "jobplan report --site public --dsn 'host=db1 dbname=app'"),
        "resume": ("jobplan resume last", "jobplan resume 260131-k7f3qz --mark load=succeeded"),
        "graph": (
            "jobplan graph plans/nightly.yaml --format mermaid",
            "jobplan graph plans/nightly.yaml --format dot > plan.dot",
        ),
        "status": ("jobplan status --dsn 'host=db1 dbname=app'", "jobplan status 260131-k7f3qz --watch"),
        "cancel": ("jobplan cancel 260131-k7f3qz", "jobplan cancel 260131-k7f3qz --step load"),
        "attach": ("jobplan attach 260131-k7f3qz",),
        "fleet cancel": ("jobplan fleet cancel 260131-k7f3qz",),
        "fleet dry-run": ("jobplan fleet dry-run plans/nightly.yaml --targets targets.yaml",),
        "fleet resume": ("jobplan fleet resume 260131-k7f3qz",),
        "fleet run": ("jobplan fleet run plans/nightly.yaml --targets targets.yaml",),
        "fleet show": ("jobplan fleet show 260131-k7f3qz",),
        "fleet status": ("jobplan fleet status 260131-k7f3qz",),
        "fleet targets": ("jobplan fleet targets targets.yaml",),
        "export kubernetes": ("jobplan export kubernetes plans/nightly.yaml",),
        "export argo": ("jobplan export argo plans/nightly.yaml",),
        "ledger install": ("jobplan ledger install --dsn 'host=db1 dbname=app'",),
        "ledger purge": ("jobplan ledger purge --older-than 90d",),
        "ledger remove": ("jobplan ledger remove --dsn 'host=db1 dbname=app'",),
        "ledger restore": ("jobplan ledger restore 260131-k7f3qz",),
        "ledger status": ("jobplan ledger status --dsn 'host=db1 dbname=app'",),
        "ledger upgrade": ("jobplan ledger upgrade --dsn 'host=db1 dbname=app'",),
        "doctor": ("jobplan doctor --dsn 'host=db1 dbname=app'",),
        "schema": ("jobplan schema > plan.schema.json",),
        "completion": ("jobplan completion bash",),
        "help": ("jobplan help run", "jobplan help fleet resume"),
        "server env": ('eval "$(jobplan server env)"',),
        "server psql": ("jobplan server psql -- -c 'SELECT 1'",),
        "server start": ("jobplan server start",),
        "server status": ("jobplan server status",),
        "server stop": ("jobplan server stop",),
    }
)


def add_examples(command: click.Command, name: str) -> None:
    """Add the examples to the help of a command, or of each command in a group."""
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            add_examples(one, f"{name} {inner}")
    elif name in EXAMPLES and not (command.epilog or "").startswith(_HEAD):
        lines = "\n".join((_HEAD, *(f"  {example}" for example in EXAMPLES[name])))
        command.epilog = f"{lines}\n\n{command.epilog}" if command.epilog else f"{lines}\n"


_HEAD: Final = "\b\nExamples:"
