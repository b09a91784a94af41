"""Exit codes, mapped once, and how an error is told to a person."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterable

import click

from runner.cli.console import say, wants_color
from runner.errors import (
    ConnectionFailedError,
    GroupHeldError,
    JobplanError,
    ParameterError,
    PlanError,
    PreflightError,
    Problem,
    RecordError,
    RequirementsUnmetError,
    RunSkippedError,
    ServerLostError,
    UnstoppableError,
    UsageError,
)

_CODES: tuple[tuple[type[JobplanError], int], ...] = (
    (UsageError, 2),
    (ParameterError, 2),
    (PlanError, 3),
    (RunSkippedError, 0),
    (RequirementsUnmetError, 9),
    (PreflightError, 4),
    (GroupHeldError, 6),
    (RecordError, 4),
    (ServerLostError, 7),
    (UnstoppableError, 7),
)

#: The table that `jobplan run --help` prints.
EXIT_CODES = """\b
Exit codes:
  0         every step succeeded, was skipped, allowed to fail, or detached; or `requires` is not met and says
            otherwise: skip
  1         a step failed, timed out or was cancelled; or the journal or a report broke off
  2         wrong usage: an option, or a parameter's value that is wrong or missing
  3         the plan is invalid
  4         nothing was started: no connection, the server is not ready, or no journal can be kept
  5         run_timeout ended the run
  6         another run holds the concurrency group, or has taken it while this one had no connection
  7         an outcome is unknown, or a worker runs on that should not
  9         nothing was started: the server does not meet the plan's `requires`
  70        a bug in jobplan
  129, 130  interrupted by SIGHUP, by Ctrl-C
  142, 143  interrupted by SIGALRM, by SIGTERM
"""


def exit_code_of(error: JobplanError) -> int:
    """Return the exit code for an error that ended the command; 70 for one that has no business doing so."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 70)


def report_error(error: JobplanError) -> None:
    """Say what is wrong, where, and what to do; a plan's problems as `jobplan validate` tells them."""
    if isinstance(error, PlanError):
        _report_problems(error.problems)
    say(f"jobplan: {error_sentence(error)}", err=True)


def error_sentence(error: JobplanError) -> str:
    """Return what is wrong and what to do about it."""
    if not isinstance(error, ConnectionFailedError):
        return str(error)
    stop = "" if error.message.endswith((".", "?")) else "."
    return f"{error.message}{stop} {error.hint or _remedy(error)}{_embedded_server() if error.unnamed else ''}"


def _embedded_server() -> str:
    """Mention the user's embedded server, if it runs: without a connection string it is not asked."""
    from runner.embedded.kept_server import find_kept

    try:
        running = find_kept()
    except (JobplanError, OSError):
        return ""
    if running is None:
        return ""
    return f' Your embedded server is running: eval "$(jobplan server env)", or --dsn {shlex.quote(running.dsn)}'


def _report_problems(problems: Iterable[Problem]) -> None:
    from runner.lint.suppressions import Sources
    from runner.reports.plan_problems import Style, problem_lines

    colored = wants_color("auto", sys.stderr)
    style = Style(color=colored, excerpt=colored or sys.stderr.isatty())
    lines = Sources().lines
    for problem in problems:
        for line in problem_lines(problem, lines, style):
            click.echo(line, err=True, color=True)


def _remedy(error: ConnectionFailedError) -> str:
    from runner.gateway.connecting import remedy_for

    return remedy_for(error.message)


def report_bug(error: Exception) -> None:
    """Show the traceback, and ask for a report."""
    say("".join(traceback.format_exception(error)).rstrip(), err=True)
    click.echo(
        "jobplan: this is a bug in jobplan. Please report it with the lines above and, if you can, the plan.", err=True
    )
