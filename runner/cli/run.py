"""`jobplan run`: options → plan → gateway, reports and loop → exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from runner import __version__
from runner.cli.exits import EXIT_CODES
from runner.cli.parameters import ParameterSources, parameter_options, parameter_sources
from runner.clock import Clock, MonotonicClock
from runner.engine.loop import Run, RunContext, RunResult
from runner.engine.sink import Sink
from runner.errors import UsageError
from runner.gateway.pg import PgGateway
from runner.identity import new_run_id
from runner.plan import read_plan
from runner.plan.model import Plan
from runner.plan.resolved import sha256
from runner.reports.jsonl import JsonLines
from runner.reports.plain import Plain, Verbosity, last_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for."""

    plan: Path
    parameters: ParameterSources
    dsn: str
    slots: int | None
    reports: tuple[tuple[str, Path], ...]
    verbosity: Verbosity


@click.command(epilog=EXIT_CODES)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--dsn", metavar="CONNINFO", help="libpq connection; else JOBPLAN_DSN, else PGHOST, PGSERVICE and so on.")
@click.option("--embedded", is_flag=True, help="Run on a throwaway PostgreSQL that is removed afterwards.")
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Lower the plan's budget to N workers.")
@parameter_options
@click.option("--report", "reports", multiple=True, metavar="KIND=PATH", help="Write a report (jsonl); repeatable.")
@click.option("-v", "--verbose", is_flag=True, help="Show queueing, pids and each step's notices.")
@click.option("-q", "--quiet", is_flag=True, help="Show only failures and the last line.")
def run(
    plan: Path,
    dsn: str | None,
    *,
    embedded: bool,
    slots: int | None,
    params: tuple[str, ...],
    params_file: Path | None,
    reports: tuple[str, ...],
    verbose: bool,
    quiet: bool,
) -> int:
    """Run a plan.

    The first Ctrl-C or SIGTERM starts nothing more and looks after what runs, by each step's on_runner_exit; the second
    stops waiting for that.
    """
    if verbose and quiet:
        raise UsageError("--verbose and --quiet exclude each other.")
    if embedded and dsn is not None:
        raise UsageError("--embedded and --dsn exclude each other.")
    parameters = parameter_sources(params, params_file)
    chosen = Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL
    options = Options(
        plan=plan,
        parameters=parameters,
        dsn=dsn if dsn is not None else os.environ.get("JOBPLAN_DSN", ""),
        slots=slots,
        reports=tuple(_report(text) for text in reports),
        verbosity=chosen,
    )
    loaded = _load(options)
    with _server(options, embedded=embedded) as conninfo:
        return _execute(loaded, options, conninfo)


def _report(text: str) -> tuple[str, Path]:
    kind, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"--report {text!r} is not KIND=PATH.")
    if kind != "jsonl":
        raise UsageError(f"--report knows no kind {kind!r}; it knows jsonl.")
    return kind, Path(path)


def _load(options: Options) -> Plan:
    sources = options.parameters
    plan = read_plan(options.plan, given=sources.given, params_file=sources.file, environment=sources.environment)
    if options.slots is None or options.slots >= plan.budget.slots:
        return plan
    wide = [step.id for step in plan.steps if step.slots > options.slots]
    if wide:
        raise UsageError(f"--slots {options.slots} is less than step {wide[0]} takes.")
    return dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, slots=options.slots))


@contextlib.contextmanager
def _server(options: Options, *, embedded: bool) -> Iterator[str]:
    if not embedded:
        yield options.dsn
        return
    from runner.embedded import start_server

    with start_server(progress=lambda line: click.echo(line, err=True)) as server:
        yield server.dsn


def _execute(plan: Plan, options: Options, conninfo: str) -> int:
    clock = MonotonicClock()
    run_id = new_run_id(clock.now())
    context = RunContext(
        run_id=run_id, jobplan=__version__, host=socket.gethostname(), os_pid=os.getpid(), sha256=sha256(plan)
    )
    sinks: list[Sink] = [Plain(sys.stderr, run_id, options.verbosity)]
    sinks += [JsonLines(path, run_id) for _, path in options.reports]
    run_ = Run(plan, gateway=PgGateway(conninfo, run_id), clock=clock, sinks=sinks, context=context)
    result = asyncio.run(_with_signals(run_))
    _say_last(result, options, clock, run_id)
    if result.record_errors and result.exit_code == 0:
        return 1
    return result.exit_code


async def _with_signals(run_: Run) -> RunResult:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, run_.interrupt, int(number))
    return await run_.execute()


def _say_last(result: RunResult, options: Options, clock: Clock, run_id: str) -> None:
    for error in result.record_errors:
        click.echo(f"jobplan: {error}", err=True)
    started = result.state.started_at or clock.now()
    record = ", ".join(str(path) for _, path in options.reports) or None
    line = last_line(result.state, seconds=clock.now() - started, record=record, run_id=run_id)
    click.echo(line, err=True)
