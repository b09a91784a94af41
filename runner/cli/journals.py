"""Where the journals are, for every command that writes or reads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runner.records.folder import DEFAULT_ROOT


def journal_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --journal, as `journal: Path`; JOBPLAN_JOURNAL comes after it.

    Whether it may be read is for who reads it to say: that is no wrong usage, and who only asks the server needs none.
    """
    return click.option(
        "--journal",
        type=click.Path(path_type=Path, readable=False),
        envvar="JOBPLAN_JOURNAL",
        default=DEFAULT_ROOT,
        show_default=True,
        metavar="DIR",
        help="The folder of the runs' journals; else JOBPLAN_JOURNAL.",
    )(command)
