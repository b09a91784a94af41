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
from typing import TYPE_CHECKING, Any

import click

from runner.cli.console import (
    color_option,
    error_sentence,
    print_lines,
    print_text,
    report_error,
    terminal_width,
    wants_color,
)
from runner.cli.options import option_group, written_out
from runner.cli.outputs import Outputs, Reports, to_stdout
from runner.cli.run_signals import RunSignals
from runner.clock import Clock
from runner.engine.events import Event, RunFinished, RunStarted
from runner.engine.ports import Sink
from runner.engine.previous_runs import PreviousRun, PreviousRuns
from runner.engine.state import RunState, StepState
from runner.errors import JobplanError, PlanError, RecordError, RunSkippedError, UsageError
from runner.exit_codes import for_signal, is_failure
from runner.phrases import ended
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
    from runner.fleet.messages import FleetEnd
    from runner.reports.notify import Notifications, Notifier


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


class ProgressOptions(Struct, frozen=True, kw_only=True):
    """The values of the progress options."""

    verbosity: Verbosity
    json: bool
    color: str

    @classmethod
    def of(cls, *, log_format: str, verbose: bool = False, quiet: bool = False, color: str = "auto") -> ProgressOptions:
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

    def print_end(self, end: RunEnd | FleetEnd, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Print the end of a run: as text several lines, as JSON one object."""
        if self.json:
            self.print(end.summary, **fields, **end.fields())
            return
        with contextlib.suppress(OSError):
            print_lines(end.lines(terminal_width(sys.stderr)), err=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.print(f"jobplan: {ended(text)}", level="warning", event="warning")

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


_format_option = click.option(
    "--format",
    "--log-format",
    "log_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of progress; json: one object for each line, with stable names.",
)
#: Adds --format, as `progress`, to a command that has none of the other options for progress.
format_only_option = option_group("progress", ProgressOptions.of, _format_option)
#: Adds --verbose, --quiet, --format, which is also called --log-format, and --color, as `progress`.
progress_options = option_group(
    "progress",
    ProgressOptions.of,
    click.option("-v", "--verbose", is_flag=True, help="Also print queueing, pids and the notices of each step."),
    click.option("-q", "--quiet", is_flag=True, help="Print only failures and the end of the run."),
    _format_option,
    color_option,
)


class RunSetup(Struct, frozen=True, kw_only=True):
    """How a run is executed; `ledger` is the schema of the ledger, None for no ledger."""

    conninfo: str
    #: The value of --dsn: suggested commands repeat it, but not the environment.
    given_dsn: str | None
    progress: ProgressOptions
    reports: Reports
    outputs: Outputs
    ledger: str | None
    trusted_roles: tuple[str, ...]
    embedded: bool = False
    require_ledger: bool = False
    ledger_first: bool = False


def finished_line(run_id: str) -> str:
    """Return the message for a run that has ended."""
    return f"run {run_id} is finished: nothing is left to do."


def execute_run(ready: Ready, setup: RunSetup, clock: Clock, signals: RunSignals) -> int:
    """Run to the end, close the journal, and return the exit code."""
    if ready.journal is None:
        raise ValueError("the command line keeps a journal of every run")
    try:
        with signals.raised():
            return _Execution(ready, ready.journal, setup, clock).execute(signals)
    finally:
        with contextlib.suppress(RecordError):  # the run has reported it already
            ready.journal.close()


class _Execution:
    """A run that is ready, from its sinks to its exit code."""

    def __init__(self, ready: Ready, journal: Journal, setup: RunSetup, clock: Clock) -> None:
        self._ready = ready
        self._journal = journal
        self._setup = setup
        self._clock = clock
        #: Whether the output uses previous runs.
        self._compares = setup.progress.live or any(kind == "html" for kind, _ in setup.reports)
        #: The journals of all runs, and when this one began.
        self._root = journal.folder.parent
        self._begun = next((event.at for event in ready.history), clock.now())
        runs = previous_runs(self._root, ready.plan.name, self._begun) if self._compares else ()
        self._previous = PreviousRuns(ready.plan.name, before=self._begun, runs=runs)

    def execute(self, signals: RunSignals) -> int:
        """Run to the end, and return the exit code."""
        ready, setup, clock = self._ready, self._setup, self._clock
        resume = "" if setup.embedded else written_out("resume", ready.run_id, journal=self._root)
        reports = [open_report(kind, path, ready.run_id, self._previous, resume=resume) for kind, path in setup.reports]
        if ready.previous_state is not None:
            for event, report in itertools.product(ready.history, reports):
                report.handle(event, ready.previous_state)
        poll = WorkerPoll(self._previous)
        progress = setup.progress.sinks(ready.run_id, poll, ready.history, stdout=not to_stdout(setup.reports))
        sinks: list[Sink] = [self._journal, *progress, *reports, *self._notifiers(), *self._traces()]
        run = new_run(
            ready,
            dsn=setup.conninfo,
            clock=clock,
            sinks=sinks,
            require_ledger=setup.require_ledger,
            ledger_first=setup.ledger_first,
            ledger=setup.ledger,
            trusted_roles=setup.trusted_roles,
            previous_runs=self._previous if self._compares else None,
            usual=self._usual_for_fit(signals),
        )

        def ends(number: int) -> bool:
            run.interrupt(number)
            return not run.under_way  # still connecting, or waiting for the concurrency group: no worker runs

        async def execute() -> RunResult:
            try:
                async with poll.running(run, ready.run_id, every=POLL_LIVE if setup.progress.live else POLL_PLAIN):
                    return await run.execute()
            finally:
                if run.under_way:
                    signals.ignore()  # they do not change the exit code of a run that has ended

        began = clock.now()
        result = signals.until(execute(), ends)
        self._keep_previous()
        written = [str(report.path) for report in reports if not report.broken and report.path != STDOUT]
        self._report_end(result, clock.now() - (result.state.started_at or began), written)
        return 1 if result.record_errors and result.exit_code == 0 else result.exit_code

    def _keep_previous(self) -> None:
        """Store what the ledger added, for later reports."""
        if self._previous.added:
            with contextlib.suppress(OSError):  # a later report then has fewer runs
                write_previous_runs(self._journal.folder, self._previous.runs)

    def _report_end(self, result: RunResult, seconds: float, reports: Sequence[str]) -> None:
        """Print what is not recorded, and the end of the run; `seconds` are those of this process."""
        progress = self._setup.progress
        for error in result.record_errors:
            progress.print(f"jobplan: {error}", level="error", event="error")
        if result.ledger_problem is not None:
            progress.print(f"jobplan: {result.ledger_problem}", level="warning", event="warning")
        end = run_end(
            result.state,
            run_id=self._ready.run_id,
            exit_code=result.exit_code,
            seconds=seconds,
            record=f"{self._journal.folder}{' (incomplete)' if self._journal.lost else ''}",
            reports=reports,
            commands=self._next_commands(in_ledger=result.in_ledger),
        )
        progress.print_end(
            end,
            event="summary",
            run=self._ready.run_id,
            exit_code=result.exit_code,
            resumed=self._ready.previous_state is not None,
            counts={str(state): number for state, number in result.state.counts().items()},
            duration=round(result.state.took_before + seconds, 3),
        )

    def _usual_for_fit(self, signals: RunSignals) -> Mapping[str, float]:
        """Return the usual durations of the plan's steps, if it has `fit`."""
        window = self._ready.plan.window
        if window is None or window.fit is Fit.OFF:
            return {}
        from runner.preflight.step_durations import read_usual_durations

        return signals.until(
            read_usual_durations(
                self._ready.plan,
                self._setup.conninfo,
                journals=self._root,
                ledger=self._setup.ledger is not None,
                trusted_roles=self._setup.trusted_roles,
            )
        )

    def _traces(self) -> list[Sink]:
        """Return the sink that sends a trace, if one is wanted."""
        exporter = self._setup.outputs.span_exporter()
        if exporter is None:
            return []
        from runner.reports.otlp import Trace

        ready, warn = self._ready, self._setup.progress.warn
        return [Trace(exporter, ready.run_id, environment=dict(os.environ), warn=warn, history=ready.history)]

    def _notifiers(self) -> list[Sink]:
        """Return the sink that sends messages, if they are wanted."""
        wanted, history, plan = self._setup.outputs.notify, self._ready.history, self._ready.plan.name
        if wanted is None:
            return []
        ends = [event.exit_code for event in history if isinstance(event, RunFinished)]
        return [
            notifier(
                wanted,
                self._setup.progress.warn,
                plan=plan,
                run=self._ready.run_id,
                database=next((event.database for event in history if isinstance(event, RunStarted)), ""),
                failed=is_failure(ends[-1]) if ends else failed_before(self._root, plan, self._begun),
                resumed=bool(ends),
            )
        ]

    def _next_commands(self, *, in_ledger: bool) -> NextCommands:
        """Return the commands in full. A run whose journal was removed can be resumed from the ledger alone."""
        if self._setup.embedded:
            return NextCommands(note="the embedded server is removed now, which ends the workers that still run")
        run, dsn = self._ready.run_id, self._setup.given_dsn
        more = ["--no-ledger"] if self._setup.ledger is None else []
        gone = self._journal.gone
        if gone and in_ledger:
            more = ["--from-ledger"]
        return NextCommands(
            follow=written_out("attach", run, dsn=dsn),
            cancel=written_out("cancel", run, dsn=dsn, more=["--detached"]),
            resume="" if gone and not in_ledger else written_out("resume", run, dsn=dsn, journal=self._root, more=more),
        )


def ended_early(wanted: Notifications | None, progress: ProgressOptions, code: int, *, plan: str, run: str) -> int:
    """Send the message that an error ended the command, if one is wanted, and return the exit code."""
    if wanted is not None:
        notifier(wanted, progress.warn, plan=plan, run=run).ended_early(code)
    return code


def notifier(
    wanted: Notifications,
    warn: Callable[[str], None],
    *,
    plan: str,
    run: str,
    database: str = "",
    failed: bool = False,
    resumed: bool = False,
) -> Notifier:
    """Return what sends the messages of a run; `warn` gets what could not be sent."""
    from runner.reports.notify import Notifier, Webhook

    return Notifier(
        Webhook(wanted.url, warn),
        plan=plan,
        run=run,
        database=database,
        failed_before=failed,
        resumed=resumed,
        blocked_after=wanted.blocked_after,
    )
