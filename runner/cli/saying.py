"""How a command prints: what a server or a plan says must not act on the terminal that it is shown on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from runner.reports.visible import visible, visible_json, visible_lines


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
