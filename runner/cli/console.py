"""How a command prints: when output is coloured, and no control character of a plan or a server has an effect."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, TypeVar

import click

from runner.reports.terminal_text import visible, visible_json, visible_lines


def say(text: str, *, err: bool = False) -> None:
    """Print text of one or several lines, on standard error if wanted; what acts on a terminal is written out."""
    click.echo(visible_lines(text), err=err)


def say_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines, each of which stays one line, whatever it quotes."""
    for line in lines:
        click.echo(visible(line), err=err)


def say_json(value: Any, *, indent: int | None = 2) -> None:  # noqa: ANN401 - whatever JSON can say
    """Print a value as JSON."""
    say_json_text(json.dumps(value, ensure_ascii=False, indent=indent))


def say_json_text(text: str) -> None:
    """Print what is JSON already, with escapes for what the output's encoding lacks."""
    written = visible_json(text)
    try:
        written.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        written = _NOT_ASCII.sub(lambda found: json.dumps(found.group())[1:-1], written)
    click.echo(written)


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


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
