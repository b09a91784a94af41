"""Execute a run for `jobplan run` and `jobplan resume`: sinks, signals, progress, the last lines and the exit code.

The run's workers are polled for the progress output. For estimates and for the HTML report, previous runs come from the
journals on this machine and from the ledger, if there is one. What the ledger adds is stored beside the run's journal,
so that `jobplan show --report` has the same history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.cli.console import color_option, print_text, terminal_width, wants_color
from runner.cli.error_reports import error_sentence, report_error
from runner.cli.options import written_out
from runner.cli.run_signals import RunInterruptedError, RunSignals
from runner.clock import Clock
from runner.engine.events import Event, RunFinished, RunStarted
from runner.engine.ports import PreviousRun, PreviousRuns, Sink
from runner.engine.state import RunState, StepState
from runner.errors import JobplanError, PlanError, RecordError, RunSkippedError, UsageError
from runner.exit_codes import for_signal, is_failure
from runner.plan.model import Fit
from runner.records.journal import Journal
from runner.records.summaries import failed_before, previous_runs, write_previous_runs
from runner.reports.destinations import STDOUT
from runner.reports.json_lines import JsonLog, json_line, log_line
from runner.reports.messages import Verbosity
from runner.reports.progress import Plain
from runner.reports.report_kinds import open_report
from runner.reports.run_end import NextCommands, RunEnd, run_end
from runner.reports.worker_activity import WorkerView, estimate, forwards, worker_views
from runner.run.api import new_run
from runner.run.loop import Run, RunResult
from runner.run.start import Ready
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.reports.notify import Notifications, Notifier


def _keep(history: PreviousRuns, folder: Path) -> None:
    """Store what the ledger added, for later reports."""
    if history.added:
        with contextlib.suppress(OSError):  # a later report then has fewer runs
            write_previous_runs(folder, history.runs)


def _usual(runs: Sequence[PreviousRun]) -> Mapping[str, float]:
    from statistics import median

    samples: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for step, (seconds, state) in run.steps.items():
            if state == StepState.SUCCEEDED:
                samples[step].append(seconds)
    return {step: median(found) for step, found in samples.items()}


#: Seconds between two polls for the live terminal, and for the heartbeat of plain progress.
POLL_LIVE = 1.0
POLL_PLAIN = 15.0


class WorkerPoll:
    """The last observation of the workers, by step, and the estimate from the durations of previous runs."""

    def __init__(self, history: PreviousRuns) -> None:
        self._seen: Mapping[str, WorkerView] = {}
        self._history = history
        self._known: Sequence[PreviousRun] = ()
        self._usual: Mapping[str, float] = {}

    def estimate(self, state: RunState, now: float) -> float | None:
        """Return the estimated seconds until the end; None if it is unknown."""
        if self._known is not self._history.runs:
            self._known, self._usual = self._history.runs, _usual(self._history.runs)
        usual = self._usual
        return estimate(state, now, usual.get) if usual else None

    def seen(self) -> Mapping[str, WorkerView]:
        """Return the last observation; empty if the server could not be queried."""
        return self._seen

    @contextlib.asynccontextmanager
    async def running(self, run: Run, run_id: str, *, every: float) -> AsyncIterator[None]:
        """Poll the run's workers in the background, once in `every` seconds."""
        task = asyncio.create_task(self._poll(run, run_id, every))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _poll(self, run: Run, run_id: str, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            active = tuple(run.state.active)
            try:
                seen = worker_views(run_id, await run.look(), active) if active else {}
                self._seen = forwards(self._seen, seen)
            except JobplanError:
                self._seen = {}  # the connection is lost: the last observation is no longer true


_F = TypeVar("_F", bound=Callable[..., Any])


def progress_options(function: _F) -> _F:
    """Add --verbose, --quiet, --format, which is also called --log-format, and --color."""
    function = color_option(function)
    function = click.option(
        "--format",
        "--log-format",
        "log_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Format of progress; json: one object for each line, with stable names.",
    )(function)
    function = click.option("-q", "--quiet", is_flag=True, help="Print only failures and the end of the run.")(function)
    return click.option(
        "-v", "--verbose", is_flag=True, help="Also print queueing, pids and the notices of each step."
    )(function)


class ProgressOptions(Struct, frozen=True, kw_only=True):
    """The values of the progress options."""

    verbosity: Verbosity
    json: bool
    color: str

    @classmethod
    def of(cls, *, verbose: bool, quiet: bool, log_format: str, color: str) -> ProgressOptions:
        """Read the options. UsageError if they contradict each other."""
        if verbose and quiet:
            raise UsageError("--verbose and --quiet exclude each other.")
        verbosity = Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL
        return cls(verbosity=verbosity, json=log_format == "json", color=color)

    def sinks(self, run_id: str, poll: WorkerPoll, history: Sequence[Event] = (), *, stdout: bool = True) -> list[Sink]:
        """Return the sinks for progress on standard error and, in GitHub Actions, for annotations.

        `history` are the events so far, if the run is resumed. Without `stdout` annotations go to standard error, which
        GitHub reads too, because a report goes to standard output.
        """
        progress = self._progress_sink(run_id, poll)
        if "GITHUB_ACTIONS" not in os.environ:  # what a run does not need is not imported
            return [progress]
        from runner.reports import github

        annotated = github.from_environment(os.environ, sys.stdout if stdout else sys.stderr, run_id, history)
        return [progress] if annotated is None else [progress, annotated]

    @property
    def live(self) -> bool:
        """Return whether to use the live terminal: if standard error is one and no other format was chosen."""
        drawable = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
        return drawable and not self.json and self.verbosity is Verbosity.NORMAL

    def _progress_sink(self, run_id: str, poll: WorkerPoll) -> Sink:
        if self.json:
            return JsonLog(sys.stderr, run_id, self.verbosity, poll.seen)
        if not self.live:
            return Plain(sys.stderr, run_id, self.verbosity, poll.seen)
        from runner.reports.live import Live

        return Live(
            sys.stderr, run_id, color=wants_color(self.color, sys.stderr), look=poll.seen, estimate=poll.estimate
        )

    def print(self, text: str, *, level: str = "info", event: str = "message", **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Print a message on standard error; the exit code does not depend on whether it is read."""
        with contextlib.suppress(OSError):
            if self.json:
                sys.stderr.write(json_line(log_line(time.time(), level, event, text, **fields)))
                sys.stderr.flush()
            else:
                print_text(text, err=True)

    def print_end(self, end: RunEnd, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Print the end of a run: as text several lines, as JSON one object."""
        if self.json:
            self.print(end.summary, **fields, **end.fields())
        width = terminal_width(sys.stderr)
        for line in () if self.json else end.lines(width):
            self.print(line)

    def interrupted(self, number: int) -> int:
        """Report a signal that came before anything was started, and return the exit code."""
        self.print("jobplan: interrupted; nothing was started.", level="warning", event="interrupted")
        return for_signal(number)

    def report_error(self, error: JobplanError) -> None:
        """Print why nothing was run; as JSON, with one line for each problem of the plan."""
        if not self.json:
            report_error(error)
            return
        for problem in error.problems if isinstance(error, PlanError) else ():
            place = problem.position
            where = {"file": place.file, "line": place.line, "column": place.column, "code": problem.code}
            self.print(problem.message, level=str(problem.severity), event="problem", **where)
        skipped = isinstance(error, RunSkippedError)
        self.print(error_sentence(error), level="info" if skipped else "error", event="skipped" if skipped else "error")


class TraceOptions(Struct, frozen=True, kw_only=True):
    """Whether a trace is wanted although the environment names no collector, and the collector, if one is named."""

    wanted: bool = False
    collector: str | None = None


class RunSetup(Struct, frozen=True, kw_only=True):
    """All that a run needs to start or to resume; `ledger` is the schema of the ledger, None for no ledger."""

    ready: Ready
    conninfo: str
    #: The value of --dsn: suggested commands repeat it, but not the environment.
    given_dsn: str | None
    progress: ProgressOptions
    reports: tuple[tuple[str, Path], ...] = ()
    notify: Notifications | None = None
    trace: TraceOptions = TraceOptions()
    embedded: bool = False
    ledger: str | None = None
    trusted_roles: tuple[str, ...] = ()
    require_ledger: bool = False
    ledger_first: bool = False

    @property
    def journal(self) -> Journal:
        """The journal of the run, which the command line always keeps."""
        if self.ready.journal is None:
            raise ValueError("the command line keeps a journal of every run")
        return self.ready.journal


def finished_line(run_id: str) -> str:
    """Return the message for a run that has ended."""
    return f"run {run_id} is finished: nothing is left to do."


def execute_run(setup: RunSetup, clock: Clock, signals: RunSignals) -> int:
    """Run to the end, close the journal, and return the exit code."""
    try:
        with signals.raised():
            return _execute_run(setup, clock, signals)
    finally:
        with contextlib.suppress(RecordError):  # the run has reported it already
            setup.journal.close()


def _execute_run(setup: RunSetup, clock: Clock, signals: RunSignals) -> int:
    history = _history(setup, clock.now())
    again = "" if setup.embedded else written_out("resume", setup.ready.run_id, journal=setup.journal.folder.parent)
    reports = [open_report(kind, path, setup.ready.run_id, history, resume=again) for kind, path in setup.reports]
    if setup.ready.previous_state is not None:
        for event, report in itertools.product(setup.ready.history, reports):
            report.handle(event, setup.ready.previous_state)
    poll = WorkerPoll(history)
    progress = setup.progress.sinks(
        setup.ready.run_id, poll, setup.ready.history, stdout=all(path != STDOUT for _, path in setup.reports)
    )
    sinks: list[Sink] = [setup.journal, *progress, *reports, *_notifiers(setup, clock.now()), *_traces(setup)]
    interrupted: list[int] = []

    async def execute() -> RunResult:
        usual = await _usual_for_fit(setup)
        run = new_run(
            setup.ready,
            dsn=setup.conninfo,
            clock=clock,
            sinks=sinks,
            require_ledger=setup.require_ledger,
            ledger_first=setup.ledger_first,
            ledger=setup.ledger,
            trusted_roles=setup.trusted_roles,
            previous_runs=history if _wants_history(setup) else None,
            usual=usual,
        )
        task = asyncio.current_task()

        def interrupt(number: int) -> None:
            run.interrupt(number)
            if not run.under_way and task is not None:
                interrupted.append(number)
                task.cancel()  # still connecting, or waiting for the concurrency group: no worker runs

        try:
            with signals.passed_to(interrupt):
                async with poll.running(
                    run, setup.ready.run_id, every=POLL_LIVE if setup.progress.live else POLL_PLAIN
                ):
                    return await run.execute()
        finally:
            if run.under_way:
                signals.ignore()  # they do not change the exit code of a run that has ended

    began = clock.now()
    try:
        result = signals.in_loop(execute())
    except asyncio.CancelledError:
        if not interrupted:
            raise
        raise RunInterruptedError(interrupted[0]) from None
    _keep(history, setup.journal.folder)
    for error in result.record_errors:
        setup.progress.print(f"jobplan: {error}", level="error", event="error")
    if result.ledger_problem is not None:
        setup.progress.print(f"jobplan: {result.ledger_problem}", level="warning", event="warning")
    end = run_end(
        result.state,
        run_id=setup.ready.run_id,
        exit_code=result.exit_code,
        seconds=clock.now() - (result.state.started_at or began),
        record=f"{setup.journal.folder}{' (incomplete)' if setup.journal.lost else ''}",
        reports=[str(report.path) for report in reports if not report.broken and report.path != STDOUT],
        commands=_embedded_commands() if setup.embedded else _commands(setup),
    )
    setup.progress.print_end(
        end,
        event="summary",
        run=setup.ready.run_id,
        exit_code=result.exit_code,
        resumed=setup.ready.previous_state is not None,
        counts={str(state): number for state, number in result.state.counts().items()},
        duration=round(result.state.took_before + clock.now() - (result.state.started_at or began), 3),
    )
    if result.record_errors and result.exit_code == 0:
        return 1
    return result.exit_code


async def _usual_for_fit(setup: RunSetup) -> Mapping[str, float]:
    """Return the usual durations of the plan's steps, if it has `fit`."""
    window = setup.ready.plan.window
    if window is None or window.fit is Fit.OFF:
        return {}
    from runner.run.usual_durations import usual_durations

    return await usual_durations(
        setup.ready.plan,
        setup.conninfo,
        journals=setup.journal.folder.parent,
        ledger=setup.ledger is not None,
        trusted_roles=setup.trusted_roles,
    )


def _traces(setup: RunSetup) -> list[Sink]:
    """Return the sink that sends a trace, if --report or the environment asks for one."""
    if not setup.trace.wanted and not wants_trace(os.environ):
        return []
    try:
        from runner.reports.otlp import Trace, span_exporter
    except ImportError:  # the environment is for other programs, too
        return []

    def warn(text: str) -> None:
        setup.progress.print(f"jobplan: {text}.", level="warning", event="warning")

    exporter = span_exporter(setup.trace.collector)
    return [Trace(exporter, setup.ready.run_id, environment=dict(os.environ), warn=warn, history=setup.ready.history)]


def wants_trace(environment: Mapping[str, str]) -> bool:
    """Return whether the environment names a collector for traces, and does not disable them."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    other = environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    named = any(environment.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT"))
    return named and not disabled and not other


def _notifiers(setup: RunSetup, now: float) -> list[Sink]:
    if setup.notify is None:
        return []
    begun = next((event.at for event in setup.ready.history), now)
    ends = [event.exit_code for event in setup.ready.history if isinstance(event, RunFinished)]
    failed = is_failure(ends[-1]) if ends else failed_before(setup.journal.folder.parent, setup.ready.plan.name, begun)
    return [
        notifier(
            setup.notify,
            setup.progress,
            plan=setup.ready.plan.name,
            run=setup.ready.run_id,
            database=next((event.database for event in setup.ready.history if isinstance(event, RunStarted)), ""),
            failed=failed,
            resumed=bool(ends),
        )
    ]


def notifier(
    wanted: Notifications,
    progress: ProgressOptions,
    *,
    plan: str,
    run: str = "",
    database: str = "",
    failed: bool = False,
    resumed: bool = False,
) -> Notifier:
    """Return what sends the messages of a run; it reports what it could not send as a warning."""
    from runner.reports.notify import Notifier, Webhook

    def warn(text: str) -> None:
        progress.print(f"jobplan: {text}.", level="warning", event="warning")

    webhook = Webhook(wanted.url, warn)
    return Notifier(
        webhook,
        plan=plan,
        run=run,
        database=database,
        failed_before=failed,
        resumed=resumed,
        blocked_after=wanted.blocked_after,
    )


def _wants_history(setup: RunSetup) -> bool:
    return setup.progress.live or any(kind == "html" for kind, _ in setup.reports)


def _history(setup: RunSetup, now: float) -> PreviousRuns:
    """Read the journals of previous runs, if the output uses them."""
    folder, begun = setup.journal.folder, next((event.at for event in setup.ready.history), now)
    runs = previous_runs(folder.parent, setup.ready.plan.name, begun) if _wants_history(setup) else ()
    return PreviousRuns(setup.ready.plan.name, before=begun, runs=runs)


def _embedded_commands() -> NextCommands:
    return NextCommands(note="the embedded server is removed now, which ends the workers that still run")


def _commands(setup: RunSetup) -> NextCommands:
    """Return the commands in full."""
    run, dsn = setup.ready.run_id, setup.given_dsn
    more = ["--no-ledger"] if setup.ledger is None else []
    return NextCommands(
        follow=written_out("attach", run, dsn=dsn),
        cancel=written_out("cancel", run, dsn=dsn, more=["--detached"]),
        resume=written_out("resume", run, dsn=dsn, journal=setup.journal.folder.parent, more=more),
    )
