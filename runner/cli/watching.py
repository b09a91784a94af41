"""How a run is watched while it goes on: the options, and the sinks that they and the environment ask for."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from runner.cli.color import color_option, wants_color
from runner.cli.exits import error_sentence, report_error
from runner.cli.looking import Looker
from runner.cli.saying import say
from runner.engine.events import Event
from runner.engine.sink import Sink
from runner.errors import JobplanError, PlanError, RunSkippedError, UsageError
from runner.reports import github
from runner.reports.log import JsonLog, json_line, log_line
from runner.reports.plain import Plain, Verbosity

_F = TypeVar("_F", bound=Callable[..., Any])


def watching_options(function: _F) -> _F:
    """Add --verbose, --quiet, --log-format and --color."""
    function = color_option(function)
    function = click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How progress is written; json: one object a line, with stable names.",
    )(function)
    function = click.option("-q", "--quiet", is_flag=True, help="Show only failures and the last line.")(function)
    return click.option("-v", "--verbose", is_flag=True, help="Show queueing, pids and each step's notices.")(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What the options said."""

    verbosity: Verbosity
    json: bool
    color: str

    @classmethod
    def of(cls, *, verbose: bool, quiet: bool, log_format: str, color: str) -> Watching:
        """Read the options. UsageError if they contradict each other."""
        if verbose and quiet:
            raise UsageError("--verbose and --quiet exclude each other.")
        verbosity = Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL
        return cls(verbosity=verbosity, json=log_format == "json", color=color)

    def sinks(self, run_id: str, looker: Looker, history: Sequence[Event] = (), *, stdout: bool = True) -> list[Sink]:
        """Return what tells of a run on standard error, and what GitHub Actions shows by itself.

        `history` is what has happened before, if the run is resumed. Not `stdout`: a report goes there, and annotations
        to standard error, where GitHub reads them too.
        """
        told = self._telling(run_id, looker)
        annotated = github.from_environment(os.environ, sys.stdout if stdout else sys.stderr, run_id, history)
        return [told] if annotated is None else [told, annotated]

    @property
    def live(self) -> bool:
        """Say whether to draw: on a terminal that can be drawn on, unless something else was asked for."""
        drawable = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
        return drawable and not self.json and self.verbosity is Verbosity.NORMAL

    def _telling(self, run_id: str, looker: Looker) -> Sink:
        if self.json:
            return JsonLog(sys.stderr, run_id, self.verbosity, looker.seen)
        if not self.live:
            return Plain(sys.stderr, run_id, self.verbosity, looker.seen)
        from runner.reports.live import Live

        return Live(
            sys.stderr, run_id, color=wants_color(self.color, sys.stderr), look=looker.seen, estimate=looker.estimate
        )

    def say(self, text: str, *, level: str = "info", event: str = "message", **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Tell the person, if they are still there: the run has its exit code, whoever reads."""
        with contextlib.suppress(OSError):
            if self.json:
                sys.stderr.write(json_line(log_line(time.time(), level, event, text, **fields)))
                sys.stderr.flush()
            else:
                say(text, err=True)

    def tell_error(self, error: JobplanError) -> None:
        """Say why nothing was run: in JSON, each problem of a plan in a line of its own."""
        if not self.json:
            report_error(error)
            return
        for problem in error.problems if isinstance(error, PlanError) else ():
            place = problem.position
            where = {"file": place.file, "line": place.line, "column": place.column, "code": problem.code}
            self.say(problem.message, level=str(problem.severity), event="problem", **where)
        skipped = isinstance(error, RunSkippedError)
        self.say(error_sentence(error), level="info" if skipped else "error", event="skipped" if skipped else "error")
