"""Print an error that ended a command: its message, its problems, and what to do."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterable

import click

from runner.cli.console import print_text, wants_color
from runner.errors import ConnectionFailedError, JobplanError, PlanError, Problem


def report_error(error: JobplanError) -> None:
    """Print what is wrong, where, and what to do; a plan's problems as `jobplan validate` prints them."""
    if isinstance(error, PlanError):
        _report_problems(error.problems)
    print_text(f"jobplan: {error_sentence(error)}", err=True)


def error_sentence(error: JobplanError) -> str:
    """Return what is wrong and what to do about it."""
    if not isinstance(error, ConnectionFailedError):
        return str(error)
    stop = "" if error.message.endswith((".", "?")) else "."
    return f"{error.message}{stop} {error.hint or _remedy(error)}{_embedded_server() if error.unnamed else ''}"


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


#: Codes of secrets in a file: its lines are not repeated in a terminal or a log.
_OF_SECRETS = frozenset({"JP272", "JP276"})


def _report_problems(problems: Iterable[Problem]) -> None:
    from runner.lint.suppressions import Sources
    from runner.reports.plan_problems import Style, problem_lines

    found = tuple(problems)
    secret = frozenset(problem.position.file for problem in found if problem.code in _OF_SECRETS)
    colored = wants_color("auto", sys.stderr)
    style = Style(color=colored, excerpt=colored or sys.stderr.isatty(), secret=secret)
    lines = Sources().lines
    for problem in found:
        for line in problem_lines(problem, lines, style):
            click.echo(line, err=True, color=True)


def _remedy(error: ConnectionFailedError) -> str:
    from runner.gateway.connecting import remedy_for

    return remedy_for(error.message)


def report_bug(error: Exception) -> None:
    """Show the traceback, and ask for a report."""
    print_text("".join(traceback.format_exception(error)).rstrip(), err=True)
    click.echo(
        "jobplan: this is a bug in jobplan. Please report it with the lines above and, if you can, the plan.", err=True
    )
