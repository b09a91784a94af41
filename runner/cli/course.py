"""The course of a run, as the command line conducts it: sinks, signals, the last line and the exit code.

`jobplan run` begins a run and `jobplan resume` goes on with one; from there on nothing differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

from runner.api import new_run
from runner.cli.connection import dsn_argument
from runner.cli.history import History
from runner.cli.looking import LOOK_EVERY, LOOK_SELDOM, Looker
from runner.cli.watching import Watching
from runner.clock import Clock
from runner.engine.events import Event
from runner.engine.loop import RunResult
from runner.engine.sink import Sink
from runner.engine.state import RunState
from runner.engine.takeover import Takeover
from runner.errors import RecordError
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.records.past import past_runs
from runner.reports.destinations import STDOUT
from runner.reports.kinds import open_report
from runner.reports.last_line import Afterlife, last_line

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
        return 128 + interrupted[0]
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
        afterlife=_EMBEDDED if course.embedded else _commands(course.given_dsn, course.run_id),
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


_EMBEDDED = Afterlife(instead="the embedded server is removed now, and with it what still runs")


def _commands(given: str | None, run_id: str) -> Afterlife:
    """Write the commands out in full."""
    where = dsn_argument(given)
    named = shlex.quote(run_id)
    return Afterlife(follow=f"jobplan attach {named}{where}", stop=f"jobplan cancel {named} --detached{where}")
