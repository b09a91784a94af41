"""How commands print their results, and the error that ended a command.

Output has colour where it is wanted, and control characters of plans and servers are escaped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TextIO, TypeVar

import click

from runner.errors import ConnectionFailedError, JobplanError, PlanError, Problem, SettingsError, TargetsError
from runner.reports.terminal_text import visible, visible_json, visible_lines, without_commands
from runner.secret_words import may_have_secret


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


def _inert(text: str) -> str:
    r"""In GitHub Actions, return text in which no line is a workflow command: they begin with `::`, or `\x3a:` then."""
    return without_commands(text) if "GITHUB_ACTIONS" in os.environ else text


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


def report_error(error: JobplanError) -> None:
    """Print what is wrong, where, and what to do; a plan's problems as `jobplan validate` prints them."""
    if isinstance(error, PlanError):
        _report_problems(error.problems, checked_in=isinstance(error, SettingsError | TargetsError))
    print_text(f"jobplan: {error_sentence(error)}", err=True)


def error_sentence(error: JobplanError) -> str:
    """Return what is wrong and what to do about it."""
    if not isinstance(error, ConnectionFailedError):
        return str(error)
    from runner.gateway.connecting import remedy_for

    stop = "" if error.message.endswith((".", "?")) else "."
    return (
        f"{error.message}{stop} {error.hint or remedy_for(error.message)}{_embedded_server() if error.unnamed else ''}"
    )


def _embedded_server() -> str:
    """Mention the user's embedded server, if it runs: a command without a connection string does not use it."""
    from runner.embedded.kept_server import find_kept

    try:
        running = find_kept()
    except (JobplanError, OSError):
        return ""
    if running is None:
        return ""
    return f' Your embedded server is running: eval "$(jobplan server env)", or --dsn {shlex.quote(running.dsn)}'


def _report_problems(problems: Iterable[Problem], *, checked_in: bool) -> None:
    """Print problems. If a file that is `checked_in` may contain a secret, none of its lines is printed."""
    from runner.lint.suppressions import Sources
    from runner.reports.plan_problems import Style, problem_lines

    found = tuple(problems)
    lines = Sources().lines
    files = {problem.position.file for problem in found} if checked_in else set()
    secret = frozenset(file for file in files if any(map(may_have_secret, lines(file))))
    colored = wants_color("auto", sys.stderr)
    style = Style(color=colored, excerpt=colored or sys.stderr.isatty(), secret=secret)
    for problem in found:
        for line in problem_lines(problem, lines, style):
            click.echo(line, err=True, color=True)


def report_bug(error: Exception) -> None:
    """Show the traceback, and ask for a report."""
    print_text("".join(traceback.format_exception(error)).rstrip(), err=True)
    click.echo(
        "jobplan: this is a bug in jobplan. Please report it with the lines above and, if you can, the plan.", err=True
    )
