"""The option --color, and when output is coloured without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def color_option(function: _F) -> _F:
    """Add --color."""
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Colour the output; auto: in a terminal, unless NO_COLOR is set, or FORCE_COLOR is.",
    )(function)


def wants_color(choice: str, stream: TextIO) -> bool:
    """Say whether to colour what goes to a stream: by the option, else NO_COLOR, else FORCE_COLOR, else a terminal.

    Source: no-color.org and force-color.org, by which a variable counts when it is not empty.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
