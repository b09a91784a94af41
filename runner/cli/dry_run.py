"""`jobplan dry-run`: show what a plan would do on a server, without executing it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from runner import __version__
from runner.cli.console import color_option, echo_line, print_json_text, print_text, wants_color
from runner.cli.options import (
    Parameters,
    ParameterValues,
    Selection,
    chosen_dsn,
    dsn_option,
    duration,
    journal_option,
    parameter_options,
    selection_options,
    server,
    trust_option,
)
from runner.cli.outputs import Reports, check_report_option, to_stdout, wanted_check_reports
from runner.cli.project_options import PlanPath, environment_options
from runner.errors import ConnectionFailedError, ParameterError, Problem, ServerLostError, UsageError
from runner.exit_codes import ExitCode
from runner.gateway.inspection import Inspector
from runner.identity import written_key
from runner.lint import Sources, check_plan, invalid_plan
from runner.plan.groups import written_steps
from runner.plan.model import Plan
from runner.preflight.dry_run import DryRunOptions, dry_run, readable_draft
from runner.preflight.dry_run_result import DryRun
from runner.preflight.step_durations import Duration, KnownDurations, recorded
from runner.reference.rule_pages import explanations
from runner.reports.check_reports import findings_text, show_in_github
from runner.reports.dry_run_report import dry_run_json, dry_run_lines, dry_run_markdown, summary
from runner.reports.plan_graph import drawing
from runner.reports.plan_problems import PlanVerdict, Style, plain_markdown, role_note, sarif_text
from runner.reports.report_kinds import write_report
from runner.reports.workflow_commands import github_lines
from runner.structs import Struct

_WHAT_IF = re.compile(r"slots=([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", re.ASCII)
_MAX_SLOTS = 256
#: Columns of a report that does not go to a terminal: as wide as a CI job's log.
_PIPED_WIDTH = 120
_NARROWEST = 64
FORMATS = ("text", "json", "github", "sarif", "markdown")


@click.command("dry-run")
@click.argument("plan", type=PlanPath())
@dsn_option
@click.option("--embedded", is_flag=True, help="Use a temporary PostgreSQL server that is removed afterwards.")
@parameter_options
@selection_options
@click.option(
    "--assume",
    "assumed",
    multiple=True,
    metavar="STEP=DURATION",
    help="Assume how long a step takes, such as vacuum=10m; repeatable.",
)
@environment_options
@journal_option
@trust_option
@click.option(
    "--what-if", metavar="slots=A..B", help="Show the makespan with other numbers of slots, such as slots=1..16."
)
@click.option(
    "--no-explain",
    is_flag=True,
    help="Do not run EXPLAIN. EXPLAIN can execute functions that are marked STABLE or IMMUTABLE.",
)
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True)
@check_report_option
@color_option
def dry_run_command(
    plan: Path,
    dsn: str | None,
    *,
    embedded: bool,
    parameters: Parameters,
    selection: Selection,
    assumed: tuple[str, ...],
    journal: Path,
    trusted_roles: tuple[str, ...],
    what_if: str | None,
    no_explain: bool,
    strict: bool,
    format_: str,
    reports: tuple[str, ...],
    color: str,
) -> int:
    """Show what a plan would do on a server, without executing it.

    Each statement is marked as checked, partly checked or not checkable, with the reason. A dry run that finds no
    problem does not guarantee success. The exit code is 0; 3 if a step would fail (with --strict also for warnings); 4
    if the run would not start; 9 if the server does not meet the plan's `requires` (0 with `otherwise: skip`). In
    GitHub Actions the command also writes annotations and a step summary.
    """
    if embedded and dsn is not None:
        raise UsageError("--embedded and --dsn exclude each other.")
    wanted = wanted_check_reports(reports, format_, plan, parameters.params_file)
    readable = read_to_look(plan, parameters.values())
    loaded = readable.plan
    options = DryRunOptions(
        explain=not no_explain,
        left_out=selection.left_out(loaded),
        assumed=_assumed(assumed, loaded),
        durations=recorded(journal, loaded.name),
        what_if=_slots(what_if),
        trusted_roles=trusted_roles,
        found=readable.found,
        well_formed=readable.well_formed,
    )
    with server(lambda: chosen_dsn(dsn), embedded=embedded, progress=_progress) as conninfo:
        return report(loaded, conninfo, options, strict=strict, format_=format_, color=color, reports=wanted)


def _progress(text: str) -> None:
    print_text(text, err=True)


class Readable(Struct, frozen=True, kw_only=True):
    """A plan for a dry run, and the problems found offline; `well_formed` is False if its structure has errors."""

    plan: Plan
    found: tuple[Problem, ...]
    well_formed: bool


def read_to_look(path: Path, values: ParameterValues) -> Readable:
    """Return a plan for a dry run, with its offline findings, also if it is not valid.

    PlanError only if no part of it can be read; ParameterError if only the values of its parameters are wrong.
    """
    loaded = check_plan(path, require_values=True, **values)
    if loaded.plan is None and isinstance(error := invalid_plan(path, loaded), ParameterError):
        raise error
    if loaded.unjudged is not None:
        return Readable(plan=loaded.unjudged, found=loaded.problems, well_formed=True)
    if loaded.draft is None or not (loaded.draft.steps or loaded.draft.finally_):
        raise invalid_plan(path, loaded)
    return Readable(plan=readable_draft(loaded.draft), found=loaded.problems, well_formed=False)


def _assumed(texts: tuple[str, ...], plan: Plan) -> KnownDurations:
    """Read --assume. UsageError if one is not STEP=DURATION or names no step."""
    steps = {step.id for step in written_steps(plan)}
    known = {}
    for text in texts:
        step, _, written = text.rpartition("=")
        if written_key(step) not in steps:
            raise UsageError(f"--assume {text!r} is not STEP=DURATION with a step of the plan.")
        seconds = duration(f"--assume {text!r}", written)
        known[step] = Duration(p50=seconds, p95=seconds)
    return KnownDurations(known)


def _slots(text: str | None) -> tuple[int, ...]:
    """Read --what-if. UsageError if it is not slots=A..B."""
    if text is None:
        return ()
    match = _WHAT_IF.fullmatch(text)
    first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
    if not 1 <= first <= last <= _MAX_SLOTS:
        raise UsageError(f"--what-if {text!r} is not slots=A..B, such as slots=1..16.")
    return tuple(range(first, last + 1))


def report(
    plan: Plan,
    conninfo: str,
    options: DryRunOptions,
    *,
    strict: bool = False,
    format_: str = "text",
    color: str = "auto",
    quiet: bool = False,
    reports: Reports = (),
) -> int:
    """Check the plan on a server, print the report, write those that are wanted, and return the exit code."""
    result = asyncio.run(look(plan, conninfo, options))
    if not to_stdout(reports):
        show(result, format_, color, note=None if quiet else role_note([plan]))
    for kind, path in reports:
        write_report(kind, path, _report(kind, plan, result, strict=strict))
    if "GITHUB_ACTIONS" in os.environ:
        _show_in_github(plan, result, options.left_out, format_, stdout=format_ == "text" and not to_stdout(reports))
    return exit_code(result, strict=strict)


def _report(kind: str, plan: Plan, result: DryRun, *, strict: bool) -> str:
    """Return a report for a CI system."""
    if kind not in ("codequality", "junit"):
        return "\n".join(_data(result, kind)) + "\n"
    verdict = PlanVerdict(file=result.file, steps=None, problems=result.problems, plan=plan)
    return findings_text(kind, [verdict], strict=strict)


def _show_in_github(plan: Plan, result: DryRun, left_out: frozenset[str], format_: str, *, stdout: bool) -> None:
    """Write annotations and a summary with the graph; without `stdout` annotations go to standard error."""

    def markdown() -> str:
        return "\n".join([*dry_run_markdown(result), "", drawing(plan, title="Graph", left_out=left_out)])

    show_in_github(
        os.environ,
        sys.stdout if stdout else sys.stderr,
        () if format_ == "github" else result.problems,
        summary=markdown,
        short=plain_markdown(summary(result)),
    )


async def look(plan: Plan, conninfo: str, options: DryRunOptions) -> DryRun:
    """Check the plan on a server. ConnectionFailedError if it cannot be reached."""
    async with await Inspector.connect(conninfo, "jobplan dry-run") as inspector:
        try:
            return await dry_run(plan, inspector, options)
        except ServerLostError as error:
            raise ConnectionFailedError(f"the connection to the server was lost: {error.message}") from error


def show(result: DryRun, format_: str, color: str, *, note: str | None = None) -> None:
    """Print the report; as text with the note."""
    if format_ != "text":
        for line in _data(result, format_):
            print_json_text(line)
        return
    colored = wants_color(color, sys.stdout)
    width = max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _PIPED_WIDTH
    # 14 columns are for the dots at both ends of an excerpt and for what stands before it.
    style = Style(color=colored, excerpt=colored or sys.stdout.isatty(), width=width - 14)
    for line in dry_run_lines(result, Sources().lines, style, width=width, note=note):
        echo_line(line)


def _data(result: DryRun, format_: str) -> Iterable[str]:
    match format_:
        case "json":
            return (dry_run_json(result),)
        case "github":
            return github_lines(result.problems, os.environ.get("GITHUB_WORKSPACE", ""))
        case "markdown":
            return dry_run_markdown(result)
    return (sarif_text(result.problems, explanations(), __version__),)


def exit_code(result: DryRun, *, strict: bool) -> int:
    """Return 9 if `requires` is not met (0 if a run would be skipped then), 4 if a run would start nothing else.

    3 if a step would fail, else 0; with `strict` warnings count.
    """
    if result.unmet:
        return ExitCode.SUCCESS if result.skipped else ExitCode.REQUIREMENT_UNMET
    if result.refused:
        return ExitCode.NOT_STARTED
    return ExitCode.INVALID_PLAN if result.errors or (strict and result.warnings) else ExitCode.SUCCESS
