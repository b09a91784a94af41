"""Where the journals are, for every command that writes or reads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runner.records.folder import DEFAULT_ROOT


def journal_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --journal, as `journal: Path`; JOBPLAN_JOURNAL comes after it."""
    return click.option(
        "--journal",
        type=click.Path(path_type=Path),
        envvar="JOBPLAN_JOURNAL",
        default=DEFAULT_ROOT,
        show_default=True,
        metavar="DIR",
        help="The folder of the runs' journals; else JOBPLAN_JOURNAL.",
    )(command)
