"""A run as the command line conducts it: sinks, signals, progress, the last line and the exit code.

`jobplan run` begins a run and `jobplan resume` resumes one; from there on nothing differs. While a user watches, the
run's workers are looked at again and again. Journals are on this machine; the ledger, if there is one, also has the
runs of others. What came from there is kept beside the run's journal, so that a report that is made later has the same
history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shlex
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import click

from runner.cli.console import color_option, say, wants_color
from runner.cli.error_reports import error_sentence, report_error
from runner.cli.options import dsn_argument
from runner.clock import Clock
from runner.engine.events import Event
from runner.engine.ports import PreviousRun, Sink
from runner.engine.state import RunState, StepState
from runner.errors import JobplanError, PlanError, RecordError, RunSkippedError, UsageError
from runner.exit_codes import for_signal
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.records.summaries import keep_past, latest, past_runs
from runner.reports import github
from runner.reports.destinations import STDOUT
from runner.reports.json_lines import JsonLog, json_line, log_line
from runner.reports.messages import RemainingWorkers, Verbosity, last_line
from runner.reports.progress import Plain
from runner.reports.report_kinds import open_report
from runner.reports.worker_activity import WorkerView, estimate, forwards, worker_views
from runner.run.api import new_run
from runner.run.loop import Run, RunResult
from runner.run.takeover import Takeover


class History:
    """The earlier runs, the oldest first. `folder` is the run's own, `before` when it began."""

    def __init__(self, runs: Sequence[PreviousRun], folder: Path, before: float) -> None:
        self.runs = tuple(runs)
        self.usual = _usual(self.runs)
        self._folder = folder
        self._before = before
        self._learned = False

    def add(self, runs: Sequence[PreviousRun]) -> None:
        """Take what the ledger knows; of a run that has a journal too, that counts."""
        known = {run.run for run in self.runs}
        others = [run for run in runs if run.run not in known and run.started_at < self._before]
        if not others:
            return
        self.runs = latest([*others, *self.runs])
        self.usual = _usual(self.runs)
        self._learned = True

    def keep(self) -> None:
        """Write down what a later report could not know by itself."""
        if self._learned:
            with contextlib.suppress(OSError):  # it knows less then, and nothing else is lost
                keep_past(self._folder, self.runs)


def _usual(runs: Sequence[PreviousRun]) -> Mapping[str, float]:
    samples: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for step, (seconds, state) in run.steps.items():
            if state == StepState.SUCCEEDED:
                samples[step].append(seconds)
    return {step: median(found) for step, found in samples.items()}


#: Seconds between two looks for a terminal that is drawn on, and for the heartbeat of who only writes lines.
LOOK_EVERY = 1.0
LOOK_SELDOM = 15.0


class Looker:
    """What was seen last, by step, and what that means beside how long steps took in past runs."""

    def __init__(self, history: History) -> None:
        self._seen: Mapping[str, WorkerView] = {}
        self._history = history

    def estimate(self, state: RunState, now: float) -> float | None:
        """Return the seconds that are left, if past runs tell."""
        usual = self._history.usual
        return estimate(state, now, usual.get) if usual else None

    def seen(self) -> Mapping[str, WorkerView]:
        """Return what was seen last; nothing if nobody could look."""
        return self._seen

    @contextlib.asynccontextmanager
    async def looking(self, run: Run, run_id: str, *, every: float) -> AsyncIterator[None]:
        """Look at the run's workers for as long as it goes on, once in so many seconds."""
        task = asyncio.create_task(self._keep_looking(run, run_id, every))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_looking(self, run: Run, run_id: str, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            active = tuple(run.state.active)
            try:
                seen = worker_views(run_id, await run.look(), active) if active else {}
                self._seen = forwards(self._seen, seen)
            except JobplanError:
                self._seen = {}  # the connection is lost: what was seen then is not so any more


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


#: Signals that end a run in an orderly way: Ctrl-C, kill and systemd, a terminal that is closed, `alarm` of a wrapper.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
#: Signals that would end the process at once, without a look at its workers, and that mean nothing to a run.
_MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A run that is ready to begin, or to go on; `ledger` is the schema of the ledger, None for no ledger.

    To go on, `history` is what has happened, `earlier` the state that follows from it, and `takeover` says how.
    """

    plan: Plan
    run_id: str
    conninfo: str
    #: The connection that was typed: later commands need it again; the environment is still there for them.
    given_dsn: str | None
    journal: Journal
    watching: Watching
    reports: tuple[tuple[str, Path], ...] = ()
    left_out: frozenset[str] = frozenset()
    embedded: bool = False
    ledger: str | None = None
    trusted_roles: tuple[str, ...] = ()
    history: tuple[Event, ...] = ()
    earlier: RunState | None = None
    takeover: Takeover | None = None


def conduct(course: Course, clock: Clock) -> int:
    """Run to the end, close the journal, and return the exit code."""
    try:
        return _conduct(course, clock)
    finally:
        with contextlib.suppress(RecordError):  # the run has said so already
            course.journal.close()


def _conduct(course: Course, clock: Clock) -> int:
    history = _history(course, clock.now())
    reports = [open_report(kind, path, course.run_id, lambda: history.runs) for kind, path in course.reports]
    if course.earlier is not None:
        for event, report in itertools.product(course.history, reports):
            report.handle(event, course.earlier)
    looker = Looker(history)
    watching = course.watching.sinks(
        course.run_id, looker, course.history, stdout=all(path != STDOUT for _, path in course.reports)
    )
    sinks: list[Sink] = [course.journal, *watching, *reports]
    interrupted: list[int] = []

    signals = _signals_that_end()

    async def execute() -> RunResult:
        run = new_run(
            course.plan,
            dsn=course.conninfo,
            run_id=course.run_id,
            clock=clock,
            sinks=sinks,
            left_out=course.left_out,
            history=course.history,
            earlier=course.earlier,
            takeover=course.takeover,
            ledger=course.ledger,
            trusted_roles=course.trusted_roles,
            past=history.add if _wants_history(course) else None,
        )
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt(number: int) -> None:
            run.interrupt(number)
            if not run.under_way and task is not None:
                interrupted.append(number)
                task.cancel()  # still connecting, or waiting for the concurrency group: there is nothing to look after

        for number in signals:
            loop.add_signal_handler(number, interrupt, int(number))
        for number in _MEANINGLESS:
            signal.signal(number, signal.SIG_IGN)
        # Whoever leans on Ctrl-C fills what wakes the loop; one byte in it wakes as well as thousands.
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
        try:
            async with looker.looking(run, course.run_id, every=LOOK_EVERY if course.watching.live else LOOK_SELDOM):
                return await run.execute()
        finally:
            _ignore_signals(loop, signals)

    began = clock.now()
    try:
        result = asyncio.run(execute())
    except asyncio.CancelledError:
        course.watching.say("jobplan: interrupted; nothing was started.", level="warning", event="interrupted")
        return for_signal(interrupted[0])
    history.keep()
    for error in result.record_errors:
        course.watching.say(f"jobplan: {error}", level="error", event="error")
    if result.ledger_problem is not None:
        course.watching.say(f"jobplan: {result.ledger_problem}", level="warning", event="warning")
    kept = f"{course.journal.folder}{' (it breaks off)' if course.journal.lost else ''}"
    written = (str(report.path) for report in reports if not report.broken and report.path != STDOUT)
    line = last_line(
        result.state,
        run_id=course.run_id,
        seconds=clock.now() - (result.state.started_at or began),
        record=", ".join([kept, *written]),
        remaining=_EMBEDDED if course.embedded else _commands(course.given_dsn, course.run_id),
    )
    course.watching.say(
        line,
        event="summary",
        run=course.run_id,
        exit_code=result.exit_code,
        counts={str(state): number for state, number in result.state.counts().items()},
        duration=round(result.state.took_before + clock.now() - (result.state.started_at or began), 3),
    )
    if result.record_errors and result.exit_code == 0:
        return 1
    return result.exit_code


def _signals_that_end() -> tuple[signal.Signals, ...]:
    """Return the signals that end the run. Under nohup SIGHUP is ignored, and stays so."""
    return tuple(number for number in _ENDING if number != signal.SIGHUP or not _is_ignored(number))


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _ignore_signals(loop: asyncio.AbstractEventLoop, signals: tuple[signal.Signals, ...]) -> None:
    """Let the run's own exit code stand, whatever comes while there is nothing left but to tell it.

    The loop would go on writing signals to a pipe that it closes before it lets go of them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _wants_history(course: Course) -> bool:
    return course.watching.live or any(kind == "html" for kind, _ in course.reports)


def _history(course: Course, now: float) -> History:
    """Read the journals of earlier runs, if anybody is shown what they say."""
    folder, begun = course.journal.folder, next((event.at for event in course.history), now)
    runs = past_runs(folder.parent, course.plan.name, begun) if _wants_history(course) else ()
    return History(runs, folder, begun)


_EMBEDDED = RemainingWorkers(note="the embedded server is removed now, which ends the workers that still run")


def _commands(given: str | None, run_id: str) -> RemainingWorkers:
    """Return the commands in full."""
    where = dsn_argument(given)
    named = shlex.quote(run_id)
    return RemainingWorkers(follow=f"jobplan attach {named}{where}", cancel=f"jobplan cancel {named} --detached{where}")
