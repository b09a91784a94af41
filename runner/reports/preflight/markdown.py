"""A dry run as Markdown, for the discussion of a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Problem, Severity
from runner.preflight.result import Coverage, DryRun, StatementReport
from runner.reports.preflight.gantt import schedule_lines
from runner.reports.preflight.text import lock_sentence, summary
from runner.reports.problems import Style
from runner.reports.visible import visible

_MARKS = {Coverage.CHECKED: "✅", Coverage.PARTLY: "🟡", Coverage.NOT: "⚪"}


def dry_run_markdown(result: DryRun) -> Iterator[str]:
    """Yield the lines: what is found, then a folded table of statements."""
    yield f"## Dry run of {_plain(result.plan)}"
    yield ""
    yield _plain(summary(result))
    if result.problems:
        yield ""
        yield "| | where | what | step |"
        yield "|---|---|---|---|"
        yield from map(_problem, result.problems)
    yield ""
    yield "<details><summary>Statements</summary>"
    yield ""
    yield "| | step | statement | remarks |"
    yield "|---|---|---|---|"
    yield from map(_statement, result.statements)
    yield ""
    yield "</details>"
    if result.locks:
        yield ""
        yield "<details><summary>Locks that keep others out</summary>"
        yield ""
        yield "| step | lock |"
        yield "|---|---|"
        yield from (f"| {_plain(one.step)} | {_plain(lock_sentence(one))} |" for one in result.locks)
        yield ""
        yield "</details>"
    if result.schedule is not None and result.schedule.bars:
        yield ""
        yield "<details><summary>Schedule</summary>"
        yield ""
        yield "```text"
        yield from schedule_lines(result.schedule, Style())
        yield "```"
        yield ""
        yield "</details>"


def _problem(problem: Problem) -> str:
    mark = "❌" if problem.severity is Severity.ERROR else "⚠️"
    place = f"`{problem.position}`" if problem.position.file else ""
    hint = f"<br>{_plain(problem.hint)}" if problem.hint else ""
    return f"| {mark} {problem.code} | {place} | {_plain(problem.message)}{hint} | {_plain(problem.step or '')} |"


def _statement(one: StatementReport) -> str:
    key = "" if one.key == "sql" else f" ({one.key})"
    estimate = (f"cost {one.cost:,.0f}, {one.rows:,} rows",) if one.cost is not None and one.rows is not None else ()
    codes = (", ".join(one.codes),) if one.codes else ()
    remarks = "<br>".join(map(_plain, (*codes, *one.why, *one.notes, *estimate)))
    code = f"<code>{_plain(one.text)}</code>" if one.text else ""
    return f"| {_MARKS[one.coverage]} {one.coverage.value} | {_plain(one.instance)}{key} | {code} | {remarks} |"


def _plain(text: str) -> str:
    """Nothing in a plan or a server's words becomes markup, a mention or a new column."""
    escaped = (
        visible(" ".join(text.split()))
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "&#124;")
        .replace("`", "&#96;")
    )
    return escaped.replace("@", "&#64;").replace("*", "&#42;").replace("_", "&#95;")
