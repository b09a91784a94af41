"""How commands print: with colour where wanted, and with control characters of plans and servers escaped."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, TypeVar

import click

from runner.reports.terminal_text import visible, visible_json, visible_lines


def print_text(text: str, *, err: bool = False) -> None:
    """Print text of one or several lines, on standard output or standard error, with control characters escaped."""
    click.echo(_inert(visible_lines(text)), err=err)


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print each line as exactly one line, with control characters escaped."""
    for line in lines:
        click.echo(_inert(visible(line)), err=err)


def echo_line(line: str) -> None:
    """Print a line whose control characters are escaped already, except those of its colours."""
    click.echo(_inert(line), color=True)


_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def _inert(text: str) -> str:
    r"""In GitHub Actions, return text in which no line is a workflow command: they begin with `::`, or `\x3a:` then."""
    return _COMMAND.sub(r"\1\\x3a", text) if "GITHUB_ACTIONS" in os.environ else text


def print_json(value: Any, *, indent: int | None = 2) -> None:  # noqa: ANN401 - any JSON value
    """Print a value as JSON."""
    print_json_text(json.dumps(value, ensure_ascii=False, indent=indent))


def print_json_text(text: str) -> None:
    """Print JSON text, with escapes for characters that the output's encoding lacks."""
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
        help="When to colour the output; auto: in a terminal. NO_COLOR and FORCE_COLOR change auto.",
    )(function)


def terminal_width(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream leads to; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wants_color(choice: str, stream: TextIO) -> bool:
    """Return whether to colour the output to a stream: the option, else NO_COLOR, else FORCE_COLOR, else a terminal.

    Source: no-color.org and force-color.org, by which a variable counts if it is not empty.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
