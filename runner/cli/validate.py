"""`jobplan validate`: check plans without a server."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.completion import complete_code
from runner.cli.console import color_option, echo_line, print_json_text, print_text, wants_color
from runner.cli.outputs import check_report_option, to_stdout, wanted_check_reports
from runner.cli.project_options import PlanPath, chosen, environment_options
from runner.errors import UsageError
from runner.exit_codes import ExitCode
from runner.plan.plan_files import find_plans
from runner.reports.plan_problems import Lines, PlanVerdict, Style, distinct, legend, problem_lines, role_note, summary

if TYPE_CHECKING:
    from runner.plan.model import Plan
    from runner.reference.rule_pages import Explanation

_FORMATS = ("text", "json", "github", "sarif")


@click.command()
@environment_options
@click.argument("plans", nargs=-1, metavar="[PLAN...]", type=PlanPath())
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option(
    "--explain", metavar="CODE", shell_complete=complete_code, help="Explain a code, with a wrong and a right example."
)
@check_report_option
@click.option("-q", "--quiet", is_flag=True, help="With text: print only the problems.")
@color_option
def validate(
    plans: tuple[Path, ...],
    *,
    strict: bool,
    format_: str,
    explain: str | None,
    reports: tuple[str, ...],
    quiet: bool,
    color: str,
) -> int:
    """Check plans without a server: schema, names, budget, SQL, and what the SQL would do to the database.

    PLAN is a file or a folder. Without PLAN, the command checks the folder that `plans` in jobplan.toml names. In a
    folder and its subfolders, it checks files *.yaml and *.yml that have the keys of a plan; it leaves out hidden
    files, included files and other YAML files. The command reports every problem of every plan, with file, line and
    column. The exit code is 3 if a plan has an error, with --strict also for warnings. A comment `# jobplan:
    ignore=CODE` beside a step suppresses a rule. In GitHub Actions, the command also writes annotations and a step
    summary.
    """
    style = _style(color)
    if explain is not None:
        if plans:
            raise UsageError("--explain takes a code and no plans.")
        _explain(explain, style)
        return 0
    plans = plans or tuple(filter(None, (chosen().plans,)))
    if not plans:
        raise UsageError(
            "No plan was given. Name at least one file or folder.", hint="Try: jobplan validate plans/*.yaml"
        )
    if Path("-") in plans:
        raise UsageError(
            "A plan cannot be read from standard input.", hint="Name a file: included files are relative to it."
        )
    wanted = wanted_check_reports(reports, format_, *plans)
    shown = format_ == "text" and not to_stdout(wanted)
    empty: list[Path] = []
    verdicts = _verdicts(_in_folders(plans, empty, show=shown and not quiet), style, show=shown, quiet=quiet)
    if format_ != "text":
        _write(verdicts, format_)
    for kind, path in wanted:
        from runner.reports.report_kinds import write_report

        write_report(kind, path, _report(kind, verdicts, strict=strict))
    _show_in_github(verdicts, strict=strict, annotated=format_ == "github", stdout=shown)
    failed = any(verdict.errors or (strict and verdict.warnings) for verdict in verdicts)
    if empty and not failed:
        raise _no_plan_in(empty)
    if empty:
        print_text(f"jobplan: {_no_plan_in(empty)}", err=True)
    return ExitCode.INVALID_PLAN if failed else ExitCode.SUCCESS


def _no_plan_in(folders: list[Path]) -> UsageError:
    named = ", ".join(map(str, folders))
    return UsageError(f"there are no plans in the folder {named}.", hint="Name the files, or another folder.")


def _in_folders(plans: Iterable[Path], empty: list[Path], *, show: bool) -> Iterator[Path]:
    """Yield the plans: files as they were named, and those found in folders; `empty` is given folders without any."""
    for path in plans:
        if not os.path.isdir(path):  # noqa: PTH112 - no error for a name that is too long, or in a folder without access
            yield path
            continue
        found = find_plans(path)
        if show:
            for file, why in found.left_out:
                print_text(f"{file}: left out: {why}", err=True)
        if not found.plans:
            empty.append(path)
        yield from found.plans


def _style(color: str) -> Style:
    colored = wants_color(color, sys.stdout)
    return Style(color=colored, excerpt=colored or sys.stdout.isatty())


def _verdicts(plans: Iterable[Path], style: Style, *, show: bool, quiet: bool) -> list[PlanVerdict]:
    from runner.lint import Sources, check_plan

    verdicts = []
    codes: set[str] = set()
    drafts: list[Plan | None] = []
    sources = Sources()
    settings = chosen()
    gc.disable()  # a process of its own, that ends soon: nothing is won by looking through a million objects
    gc.freeze()  # nor, when it ends, through all that was imported
    paths = list(dict.fromkeys(plans))
    for path in paths:
        loaded = check_plan(path, defaults=settings.params, severities=settings.severities, sources=sources)
        steps = None if loaded.plan is None else len(loaded.plan.all_steps)
        verdict = PlanVerdict(file=str(path), steps=steps, problems=loaded.problems, plan=loaded.plan or loaded.draft)
        verdicts.append(verdict)
        codes.update(problem.code for problem in verdict.problems)
        drafts.append(loaded.draft)
        if show:
            notes = (legend(codes), role_note(drafts)) if path == paths[-1] else ()
            for line in _shown(verdict, sources.lines, style, notes, quiet=quiet):
                echo_line(line)
    return verdicts


def _shown(
    verdict: PlanVerdict, lines: Lines, style: Style, notes: Iterable[str | None], *, quiet: bool
) -> Iterator[str]:
    """Yield what is printed of one plan; after the last one, `notes` about all plans precede the verdict."""
    for problem in verdict.problems:
        yield from problem_lines(problem, lines, style)
    if not quiet:
        yield from filter(None, notes)
        yield summary(verdict)


def _write(verdicts: list[PlanVerdict], format_: str) -> None:
    if format_ != "github":
        print_json_text(_report(format_, verdicts, strict=False))
        return
    from runner.reports.workflow_commands import annotate

    annotate(distinct(verdicts), print_json_text, os.environ.get("GITHUB_WORKSPACE", ""))


def _report(kind: str, verdicts: list[PlanVerdict], *, strict: bool) -> str:
    """Return a report about all plans."""
    from runner.reports import check_reports, plan_problems

    if kind == "json":
        return plan_problems.json_text(distinct(verdicts))
    if kind == "markdown":
        return check_reports.verdicts_markdown(verdicts, strict=strict)
    return check_reports.findings_text(kind, verdicts, strict=strict)


def _show_in_github(verdicts: list[PlanVerdict], *, strict: bool, annotated: bool, stdout: bool) -> None:
    """Write annotations and a summary, if this is a job of GitHub Actions; without `stdout` on standard error."""
    if "GITHUB_ACTIONS" not in os.environ:
        return
    from runner.reports.check_reports import show_in_github, validated_words, verdicts_markdown

    show_in_github(
        os.environ,
        sys.stdout if stdout else sys.stderr,
        () if annotated else distinct(verdicts),
        summary=lambda: verdicts_markdown(verdicts, strict=strict),
        short=validated_words(verdicts, strict=strict),
    )


def _explain(code: str, style: Style) -> None:
    from runner.reference.rule_pages import explain

    for line in _explained(explain(code), style):
        click.echo(line, color=True)


def _explained(page: Explanation, style: Style) -> Iterator[str]:
    yield f"{style.bold(page.code.code)} ({page.code.severity}): {page.code.title}"
    yield ""
    for line in page.why.splitlines():
        yield click.wrap_text(line, width=100, subsequent_indent="  " if line.startswith("- ") else "")
    yield f"\n{style.bold('Slug')}: {page.code.slug}"
    for word, example in (("Wrong", page.wrong), ("Right", page.right)):
        yield f"\n{style.bold(word)}:"
        yield from (f"    {line}".rstrip() for line in example.splitlines())
    yield f"\n{style.bold('What to do')}:"
    yield click.wrap_text(page.remedy, width=100, initial_indent="    ", subsequent_indent="    ")
    if page.suppression:
        yield f"\n{style.bold('How to suppress it')}:"
        yield f"    {page.suppression}"
